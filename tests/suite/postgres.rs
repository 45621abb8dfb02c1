use rowlock_tests::postgres::*;

#[path = "spawn.rs"]
mod spawn;
#[path = "versioned.rs"]
mod versioned;
