//! Every file of tests that SQLite can show.

use rowlock_tests::sqlite::*;

#[path = "guarded.rs"]
mod guarded;

#[path = "only_if.rs"]
mod only_if;

#[path = "upsert.rs"]
mod upsert;

#[path = "insert.rs"]
mod insert;
