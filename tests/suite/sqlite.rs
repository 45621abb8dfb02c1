use rowlock_tests::sqlite::*;

#[path = "spawn.rs"]
mod spawn;
#[path = "versioned.rs"]
mod versioned;
