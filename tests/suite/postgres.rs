//! Every file of tests that PostgreSQL can show.

use rowlock_tests::postgres::*;

#[path = "advisory.rs"]
mod advisory;
#[path = "advisory_pooler.rs"]
mod advisory_pooler;
#[path = "advisory_postgres.rs"]
mod advisory_postgres;
#[path = "bad_rows.rs"]
mod bad_rows;
#[path = "contention.rs"]
mod contention;
#[path = "counter.rs"]
mod counter;
#[path = "counter_batch.rs"]
mod counter_batch;
#[path = "counter_cancel.rs"]
mod counter_cancel;
#[path = "counter_locks.rs"]
mod counter_locks;
#[path = "counter_wire.rs"]
mod counter_wire;
#[path = "default_isolation.rs"]
mod default_isolation;
#[path = "failures.rs"]
mod failures;
#[path = "faults.rs"]
mod faults;
#[path = "faults_postgres.rs"]
mod faults_postgres;
#[path = "fence.rs"]
mod fence;
#[path = "find_or_create.rs"]
mod find_or_create;
#[path = "find_or_create_postgres.rs"]
mod find_or_create_postgres;
#[path = "histories.rs"]
mod histories;
#[path = "histories_postgres.rs"]
mod histories_postgres;
#[path = "idempotent.rs"]
mod idempotent;
#[path = "idempotent_postgres.rs"]
mod idempotent_postgres;
#[path = "key_types_postgres.rs"]
mod key_types_postgres;
#[path = "lock_keys.rs"]
mod lock_keys;
#[path = "lock_order_postgres.rs"]
mod lock_order_postgres;
#[path = "lockable.rs"]
mod lockable;
#[path = "lockable_postgres.rs"]
mod lockable_postgres;
#[path = "postgres_only.rs"]
mod postgres_only;
#[path = "queue.rs"]
mod queue;
#[path = "queue_columns.rs"]
mod queue_columns;
#[path = "queue_finish.rs"]
mod queue_finish;
#[path = "queue_postgres.rs"]
mod queue_postgres;
#[path = "round_trips.rs"]
mod round_trips;
#[path = "savepoints.rs"]
mod savepoints;
#[path = "schema_changes.rs"]
mod schema_changes;
#[path = "signatures.rs"]
mod signatures;
#[path = "signatures_postgres.rs"]
mod signatures_postgres;
#[path = "spawn.rs"]
mod spawn;
#[path = "stale_statements.rs"]
mod stale_statements;
#[path = "transaction.rs"]
mod transaction;
#[path = "transaction_postgres.rs"]
mod transaction_postgres;
#[path = "tx.rs"]
mod tx;
#[path = "tx_executor.rs"]
mod tx_executor;
#[path = "tx_model.rs"]
mod tx_model;
#[path = "versioned.rs"]
mod versioned;
#[path = "what_changed.rs"]
mod what_changed;
#[path = "worker.rs"]
mod worker;
#[path = "worker_model/mod.rs"]
mod worker_model;
#[path = "worker_postgres.rs"]
mod worker_postgres;
#[path = "written.rs"]
mod written;
