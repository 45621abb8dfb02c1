//! Every file of tests that SQLite can show.

use rowlock_tests::sqlite::*;

#[path = "check.rs"]
mod check;

#[path = "stored.rs"]
mod stored;
#[path = "stored_sqlite.rs"]
mod stored_sqlite;

#[path = "dropped_rows.rs"]
mod dropped_rows;

#[path = "begin_sqlite.rs"]
mod begin_sqlite;

#[path = "first_errors.rs"]
mod first_errors;

#[path = "flatten.rs"]
mod flatten;

#[path = "guarded.rs"]
mod guarded;

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
#[path = "many_new.rs"]
mod many_new;

#[path = "insert.rs"]
mod insert;

#[path = "types.rs"]
mod types;
#[path = "types_sqlite.rs"]
mod types_sqlite;

/// The types that the tests of types need.
const TYPES: &str = "";

#[path = "keys.rs"]
mod keys;
#[path = "keys_generated.rs"]
mod keys_generated;
#[path = "keys_partial.rs"]
mod keys_partial;

#[path = "edit_at.rs"]
mod edit_at;

#[path = "outcomes_sqlite.rs"]
mod outcomes_sqlite;

#[path = "missing_index_sqlite.rs"]
mod missing_index_sqlite;
