//! Every file of tests that SQLite can show.

use rowlock_tests::sqlite::*;

#[path = "advisory.rs"]
mod advisory;
#[path = "advisory_sqlite.rs"]
mod advisory_sqlite;
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
#[path = "counter_sqlite.rs"]
mod counter_sqlite;
#[path = "failures.rs"]
mod failures;
#[path = "faults.rs"]
mod faults;
#[path = "faults_sqlite.rs"]
mod faults_sqlite;
#[path = "fence.rs"]
mod fence;
#[path = "find_or_create.rs"]
mod find_or_create;
#[path = "histories.rs"]
mod histories;
#[path = "idempotent.rs"]
mod idempotent;
#[path = "idempotent_sqlite.rs"]
mod idempotent_sqlite;
#[path = "ignore_sqlite.rs"]
mod ignore_sqlite;
#[path = "lock_keys.rs"]
mod lock_keys;
#[path = "lockable.rs"]
mod lockable;
#[path = "lockable_sqlite.rs"]
mod lockable_sqlite;
#[path = "many_rows_sqlite.rs"]
mod many_rows_sqlite;
#[path = "queue.rs"]
mod queue;
#[path = "queue_columns.rs"]
mod queue_columns;
#[path = "queue_finish.rs"]
mod queue_finish;
#[path = "queue_sqlite.rs"]
mod queue_sqlite;
#[path = "raise_fail_sqlite.rs"]
mod raise_fail_sqlite;
#[path = "savepoints.rs"]
mod savepoints;
#[path = "savepoints_sqlite.rs"]
mod savepoints_sqlite;
#[path = "schema_changes.rs"]
mod schema_changes;
#[path = "signatures.rs"]
mod signatures;
#[path = "spawn.rs"]
mod spawn;
#[path = "transaction.rs"]
mod transaction;
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
#[path = "worker_sqlite.rs"]
mod worker_sqlite;
#[path = "written.rs"]
mod written;
