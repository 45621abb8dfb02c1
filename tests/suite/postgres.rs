use rowlock_tests::postgres::*;

#[path = "failures.rs"]
mod failures;
#[path = "find_or_create.rs"]
mod find_or_create;
#[path = "postgres_only.rs"]
mod postgres_only;
#[path = "spawn.rs"]
mod spawn;
#[path = "transaction.rs"]
mod transaction;
#[path = "transaction_postgres.rs"]
mod transaction_postgres;
#[path = "versioned.rs"]
mod versioned;
