//! Every file of tests that PostgreSQL can show.

use rowlock_tests::postgres::*;

#[path = "check.rs"]
mod check;

#[path = "stored.rs"]
mod stored;
#[path = "stored_postgres.rs"]
mod stored_postgres;

#[path = "dropped_rows.rs"]
mod dropped_rows;

#[path = "first_errors.rs"]
mod first_errors;
#[path = "first_errors_postgres.rs"]
mod first_errors_postgres;

#[path = "flatten.rs"]
mod flatten;

#[path = "guarded.rs"]
mod guarded;

#[path = "counter_keys_postgres.rs"]
mod counter_keys_postgres;

#[path = "snapshot_postgres.rs"]
mod snapshot_postgres;

#[path = "locks_postgres.rs"]
mod locks_postgres;

#[path = "lock_where.rs"]
mod lock_where;

#[path = "on_update.rs"]
mod on_update;

#[path = "only_if.rs"]
mod only_if;

#[path = "upsert.rs"]
mod upsert;

#[path = "upsert_if.rs"]
mod upsert_if;

#[path = "many.rs"]
mod many;
#[path = "many_at_once_postgres.rs"]
mod many_at_once_postgres;
#[path = "many_new.rs"]
mod many_new;
#[path = "many_new_postgres.rs"]
mod many_new_postgres;
#[path = "many_postgres.rs"]
mod many_postgres;

#[path = "insert.rs"]
mod insert;

#[path = "types.rs"]
mod types;
#[path = "types_postgres.rs"]
mod types_postgres;

/// The types that the tests of types need.
const TYPES: &str = "CREATE TYPE mood AS ENUM ('good', 'so_so'); CREATE DOMAIN address AS text CHECK (VALUE LIKE '%@%');";

#[path = "xmin.rs"]
mod xmin;

#[path = "keys.rs"]
mod keys;
#[path = "keys_generated.rs"]
mod keys_generated;
#[path = "keys_partial.rs"]
mod keys_partial;

#[path = "keys_postgres.rs"]
mod keys_postgres;

#[path = "edit_at.rs"]
mod edit_at;

#[path = "by_hand_postgres.rs"]
mod by_hand_postgres;
