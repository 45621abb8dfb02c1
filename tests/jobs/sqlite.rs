//! Every file of tests that SQLite can show.

use rowlock_tests::sqlite::*;

#[path = "finish_sqlite.rs"]
mod finish_sqlite;

#[path = "periodic.rs"]
mod periodic;

#[path = "queue_cancel.rs"]
mod queue_cancel;
#[path = "queue_conditions.rs"]
mod queue_conditions;
#[path = "queue_enqueue.rs"]
mod queue_enqueue;
#[path = "queue_life.rs"]
mod queue_life;
#[path = "queue_pause.rs"]
mod queue_pause;
#[path = "queue_per.rs"]
mod queue_per;
#[path = "queue_shapes.rs"]
mod queue_shapes;
#[path = "queue_states.rs"]
mod queue_states;

#[path = "worker_batch.rs"]
mod worker_batch;
#[path = "worker_hooks.rs"]
mod worker_hooks;
#[path = "worker_set.rs"]
mod worker_set;
