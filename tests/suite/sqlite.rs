use rowlock_tests::sqlite::*;

#[path = "spawn.rs"]
mod spawn;
