use rowlock_tests::sqlite::*;

#[path = "failures.rs"]
mod failures;
#[path = "find_or_create.rs"]
mod find_or_create;
#[path = "spawn.rs"]
mod spawn;
#[path = "transaction.rs"]
mod transaction;
#[path = "versioned.rs"]
mod versioned;
