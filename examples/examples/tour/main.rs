//! What read-then-write code written by hand loses when several tasks run it at once, and what the generated methods
//! do in its place.
//!
//! ```text
//! cargo run --example tour                              SQLite, in a temporary file
//! DATABASE_URL=postgres://… cargo run --example tour    PostgreSQL, in a schema of its own, dropped at the end
//! ```
//!
//! `models.rs` has the structs, as you would write them. `operations/` has each operation twice: by hand, and with
//! the generated method. `examples/race.rs` makes the tasks meet; nothing here depends on timing.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod models;
mod postgres;
mod sqlite;
mod table;

use std::process::ExitCode;

use rowlock_examples::Pool;

use crate::models::TABLES;
use crate::table::Table;

#[tokio::main]
async fn main() -> ExitCode {
    rowlock_examples::run("tour", TABLES, async |database, pool| {
        let mut table = Table::begin(database);
        match pool {
            Pool::Postgres(pool) => postgres::operations::run(pool, &mut table).await?,
            Pool::Sqlite(pool) => sqlite::operations::run(pool, &mut table).await?,
        }
        table.end();
        Ok(table.is_convincing())
    })
    .await
}
