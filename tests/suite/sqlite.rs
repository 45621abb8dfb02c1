use rowlock_tests::sqlite::*;

#[path = "counter.rs"]
mod counter;
#[path = "spawn.rs"]
mod spawn;
