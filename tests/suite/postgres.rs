use rowlock_tests::postgres::*;

#[path = "counter.rs"]
mod counter;
#[path = "counter_batch.rs"]
mod counter_batch;
#[path = "spawn.rs"]
mod spawn;
