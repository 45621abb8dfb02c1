use rowlock_tests::postgres::*;

#[path = "counter.rs"]
mod counter;
#[path = "spawn.rs"]
mod spawn;
