//! Every file of tests that PostgreSQL can show.

use rowlock_tests::postgres::*;

#[path = "periodic.rs"]
mod periodic;
#[path = "periodic_postgres.rs"]
mod periodic_postgres;

#[path = "queue_cancel.rs"]
mod queue_cancel;
#[path = "queue_cancel_postgres.rs"]
mod queue_cancel_postgres;
#[path = "queue_conditions.rs"]
mod queue_conditions;
#[path = "queue_enqueue.rs"]
mod queue_enqueue;
#[path = "queue_enqueue_postgres.rs"]
mod queue_enqueue_postgres;
#[path = "queue_life.rs"]
mod queue_life;
#[path = "queue_life_postgres.rs"]
mod queue_life_postgres;
#[path = "queue_pause.rs"]
mod queue_pause;
#[path = "queue_per.rs"]
mod queue_per;
#[path = "queue_per_postgres.rs"]
mod queue_per_postgres;
#[path = "queue_shapes.rs"]
#[macro_use]
mod queue_shapes;
#[path = "queue_shapes_postgres.rs"]
mod queue_shapes_postgres;
#[path = "queue_states.rs"]
mod queue_states;

#[path = "worker_batch.rs"]
mod worker_batch;
#[path = "worker_hooks.rs"]
mod worker_hooks;
#[path = "worker_set.rs"]
mod worker_set;
