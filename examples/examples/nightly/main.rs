//! One report per night, and five processes that all want to write it.
//!
//! ```text
//! cargo run --example nightly                              SQLite, in a temporary file
//! DATABASE_URL=postgres://… cargo run --example nightly    PostgreSQL, in a schema of its own, dropped at the end
//! ```
//!
//! The program starts itself again as workers, each a process with a connection of its own. In the night, each of them does the
//! same: looks whether there is a report, and writes one if not. There is no unique index that could stop a second one.
//!
//! - **by hand**: all look before the first one writes, so all write.
//! - **`try_run`**: one has the lock; the others are told so at once and go home.
//! - **later**: a worker that comes afterwards gets the lock, looks, and finds the report.
//! - **killed**: the one that has the lock is killed (`kill -9`) in the middle of its work. Nothing of that is in the database,
//!   the lock is free, and the one that waits for it with `run` writes the report.
//!
//! Here something outside decides when it is night. If the program itself is to do that, at three o'clock and once for all processes, it is a
//! `rowlock::queue::Periodic`.
//!
//! The workers are told when to look and when to write, so that the result is no accident.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod crew;
mod worker;

use std::env;
use std::process::ExitCode;

use rowlock_examples::Pool;

use crate::crew::{Crew, Outcome};

const TABLES: &str = "CREATE TABLE reports (night text NOT NULL, worker bigint NOT NULL)";

const WORKERS: usize = 5;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [role, way, night, number] = &arguments[..]
        && role == "worker"
    {
        return match worker::run(way, night, number).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("worker {number}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    rowlock_examples::run("nightly", TABLES, async |database, pool| {
        let crew = Crew::new(pool).await?;
        println!("One report per night, {WORKERS} processes that want to write it, on {database}.\n");
        println!(
            "{:<10}  {:<10}  {:>7}  {:>5}  {:>13}  {:>13}  {:>6}  {:>7}",
            "night", "way", "workers", "wrote", "somebody else", "found it done", "killed", "reports"
        );
        let mut right = true;
        for (night, way, outcome) in [
            ("Monday", "by hand", crew.by_hand("Monday").await?),
            ("Tuesday", "try_run", crew.tries("Tuesday").await?),
            ("Tuesday", "later", crew.later("Tuesday").await?),
            ("Wednesday", "try_run", crew.tries("Wednesday").await?),
            ("Thursday", "killed", crew.killed("Thursday").await?),
        ] {
            let reports = reports(pool, night).await?;
            let Outcome { workers, wrote, somebody_else, done, killed } = outcome;
            println!(
                "{night:<10}  {way:<10}  {workers:>7}  {wrote:>5}  {somebody_else:>13}  {done:>13}  {killed:>6}  {reports:>7}"
            );
            // By hand it is there to be wrong.
            right &= way == "by hand" || outcome.is_right(way) && reports == 1;
        }
        let verdict = if right {
            "with the lock, every night has one report"
        } else {
            "a night has more or less than one report, which is a bug"
        };
        println!("\nVerdict: {verdict}.");
        Ok(right)
    })
    .await
}

async fn reports(pool: &Pool, night: &str) -> sqlx::Result<i64> {
    let sql = "SELECT count(*) FROM reports WHERE night = $1";
    match pool {
        Pool::Postgres(pool) => sqlx::query_scalar(sql).bind(night).fetch_one(pool).await,
        Pool::Sqlite(pool) => sqlx::query_scalar(sql).bind(night).fetch_one(pool).await,
    }
}
