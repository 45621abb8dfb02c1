//! What read-then-write code written by hand loses when several tasks run it at once, and what the generated methods
//! do in its place.
//!
//! ```text
//! cargo run --example tour                              SQLite, in a temporary file
//! DATABASE_URL=postgres://… cargo run --example tour    PostgreSQL, in a schema of its own, dropped at the end
//! ```
//!
//! `models.rs` has the structs, as you would write them. `operations.rs` has each operation twice: by hand, and with
//! the generated method. `race.rs` makes the tasks meet; nothing here depends on timing.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod models;
mod postgres;
mod race;
mod sqlite;
mod table;

use std::env;
use std::future::Future;
use std::process::ExitCode;

use anyhow::bail;

use crate::table::Table;

#[tokio::main]
async fn main() -> ExitCode {
    let url = env::var("DATABASE_URL").unwrap_or_default();
    let tour = async {
        match url.split_once("://") {
            None if url.is_empty() => on_sqlite().await,
            Some(("postgres" | "postgresql", _)) => on_postgres(&url).await,
            // The URL itself is not printed: it can contain a password.
            _ => bail!("DATABASE_URL does not begin with postgres://"),
        }
    };
    match tour.await {
        Ok(table) if table.is_convincing() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tour: {}.", explain(&error));
            if !url.is_empty() {
                eprintln!("Without DATABASE_URL the tour runs on SQLite and needs no server.");
            }
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes. Some errors of sqlx have their cause in their own text already.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

async fn on_sqlite() -> anyhow::Result<Table> {
    let database = sqlite::Database::open().await?;
    let mut table = Table::begin(&database.name);
    unless_interrupted(sqlite::operations::run(&database.pool, &mut table)).await?;
    table.end();
    Ok(table)
}

async fn on_postgres(url: &str) -> anyhow::Result<Table> {
    let database = postgres::Database::open(url).await?;
    let mut table = Table::begin(&database.name);
    let outcome = unless_interrupted(postgres::operations::run(&database.pool, &mut table)).await;
    // The schema goes in any case; what went wrong before is the error to report.
    let dropped = database.drop_schema().await;
    outcome.and(dropped)?;
    table.end();
    Ok(table)
}

/// Ctrl-C ends the tour, but not before it has cleaned up.
async fn unless_interrupted(tour: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        outcome = tour => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}
