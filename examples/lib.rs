//! What the small programs in `examples/` share: the database they run on, and races between tasks.

pub mod guide;
pub mod postgres;
pub mod race;
pub mod sqlite;

use std::env;
use std::process::ExitCode;

use anyhow::bail;

// The code in the guide and in the README is compiled and run.
#[cfg(doctest)]
#[path = "../runtime/src/_guide.rs"]
mod pages;

/// The README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The database that a program was started for.
#[derive(Debug)]
pub enum Pool {
    /// `DATABASE_URL=postgres://…`
    Postgres(sqlx::PgPool),
    /// No `DATABASE_URL`.
    Sqlite(sqlx::SqlitePool),
}

/// Opens the database that `DATABASE_URL` names, creates the tables, does the work, and cleans up: also after an error or
/// Ctrl-C. `work` receives the database's name and says whether all was as it should be.
///
/// In `tables`, `{id}` stands for the type of a key that the database makes up, `{timestamp}` for a point in time.
pub async fn run(
    program: &str,
    tables: &str,
    work: impl AsyncFnOnce(&str, &Pool) -> anyhow::Result<bool>,
) -> ExitCode {
    let url = env::var("DATABASE_URL").unwrap_or_default();
    let outcome = async {
        match url.split_once("://") {
            None if url.is_empty() => {
                let database = sqlite::Database::open(program, tables).await?;
                let pool = Pool::Sqlite(database.pool.clone());
                unless_interrupted(work(&database.name, &pool)).await
            }
            Some(("postgres" | "postgresql", _)) => {
                let database = postgres::Database::open(&url, program, tables).await?;
                let pool = Pool::Postgres(database.pool.clone());
                let outcome = unless_interrupted(work(&database.name, &pool)).await;
                // The schema goes in any case; what went wrong before is the error to report.
                let dropped = database.drop_schema().await;
                outcome.and_then(|right| dropped.map(|()| right))
            }
            // The URL itself is not printed: it can contain a password.
            _ => bail!("DATABASE_URL does not begin with postgres://"),
        }
    };
    match outcome.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{program}: {}.", explain(&error));
            if !url.is_empty() {
                eprintln!("Without DATABASE_URL the {program} runs on SQLite and needs no server.");
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

/// Ctrl-C ends the work, but not before the caller has cleaned up.
async fn unless_interrupted(
    work: impl Future<Output = anyhow::Result<bool>>,
) -> anyhow::Result<bool> {
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}
