use rowlock_tests::sqlite::*;

#[path = "contention.rs"]
mod contention;
#[path = "counter.rs"]
mod counter;
#[path = "counter_batch.rs"]
mod counter_batch;
#[path = "counter_cancel.rs"]
mod counter_cancel;
#[path = "counter_sqlite.rs"]
mod counter_sqlite;
#[path = "spawn.rs"]
mod spawn;
