//! Five write paths as public services have them, on tables as they have them: the form that loses, and rowlock's.
//!
//! ```text
//! cargo run --example adopt                               SQLite, in a temporary file
//! DATABASE_URL=postgres://… cargo run --example adopt     PostgreSQL, in a schema of its own, dropped at the end
//! ```
//!
//! Each path is called by eight tasks at once, twenty times. By hand, all tasks have read before the first one writes: what
//! happens on a bad day happens each time. `docs/adopting.md` leads through the paths.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod postgres;
mod sqlite;

use std::process::ExitCode;

use rowlock_examples::Pool;

/// Tables that were there before rowlock: no version, no lease, nothing to migrate.
const TABLES: &str = "
    CREATE TABLE device_codes (id bigint PRIMARY KEY, status text NOT NULL, exchanged_at bigint);
    CREATE TABLE sessions (id {id}, device_code bigint NOT NULL);
    CREATE TABLE refresh_tokens (id bigint PRIMARY KEY, consumed_at bigint);
    CREATE TABLE branches (id {id}, consumed bigint NOT NULL);
    CREATE TABLE registration_tokens (id bigint PRIMARY KEY, usage_limit integer, times_used integer NOT NULL, last_used_at bigint);
    CREATE TABLE keywords (id {id}, slug text NOT NULL UNIQUE, name text NOT NULL);
    CREATE TABLE requests (user_id bigint, key text, fingerprint text NOT NULL, response text, fence bigint NOT NULL,
        leased_until {timestamp}, finished_at {timestamp}, PRIMARY KEY (user_id, key));
    CREATE TABLE mails (id {id}, issue text NOT NULL);
";

/// How many tasks make each call at once.
pub const TASKS: usize = 8;
/// How often.
pub const ROUNDS: usize = 20;

/// What became of one path.
#[derive(Debug)]
pub struct Report {
    /// What the services call it.
    pub path: &'static str,
    /// What is counted.
    pub what: &'static str,
    /// How many of it are right.
    pub right: usize,
    /// How many there were by hand.
    pub by_hand: usize,
    /// How many there were with rowlock.
    pub rowlock: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    rowlock_examples::run("adopt", TABLES, async |database, pool| {
        let reports = match pool {
            Pool::Postgres(pool) => postgres::paths::all(pool).await?,
            Pool::Sqlite(pool) => sqlite::paths::all(pool).await?,
        };
        println!("{database}, {TASKS} tasks, {ROUNDS} rounds\n");
        println!(
            "{:<24}{:<28}{:>7}{:>9}{:>9}",
            "path", "", "right", "by hand", "rowlock"
        );
        for report in &reports {
            let Report {
                path,
                what,
                right,
                by_hand,
                rowlock,
            } = report;
            println!("{path:<24}{what:<28}{right:>7}{by_hand:>9}{rowlock:>9}");
        }
        Ok(reports.iter().all(|report| report.rowlock == report.right))
    })
    .await
}
