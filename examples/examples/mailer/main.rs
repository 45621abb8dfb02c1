//! Ten thousand mails, four worker processes, and one of them is killed on the way.
//!
//! ```text
//! cargo run --example mailer                              SQLite, in a temporary file
//! DATABASE_URL=postgres://… cargo run --example mailer    PostgreSQL, in a schema of its own, dropped at the end
//! ```
//!
//! Several tasks enqueue the mails, with one INSERT for many rows. The program starts itself again as workers, which are processes of
//! their own: they take mails out of the table and hand them to a mail server, which notes down what it gets. After a third of
//! the mails one of the workers is killed with `kill -9`.
//!
//! - **by hand** a worker selects rows that are ready, marks them as running, sends, and marks them as done. Several
//!   workers select the same rows. What the killed one had marked stays marked for ever.
//! - **Queue**: `claim` gives a row to one worker for as long as its lease says. A worker that lives renews its leases; the rows of the
//!   killed one come back when theirs have ended. Some mails are refused at first and are tried again. Some are
//!   refused whenever they come, and end up among the dead letters.
//!
//! A mail is sent at least once. Twice only if a worker dies after the sending and before it has written that down, which nobody
//! can know afterwards; such a row says so, `last_error = 'the lease ended'`, and the program counts whether all of them do.
//!
//! On a terminal it shows meanwhile how the queue stands, by `Email::stats`, the rates and the workers:
//!
//! ```text
//!     Queue ███████████████░░░░░░░░░░░░░░░░░ 4,921 of 10,000  ▁▁▂▃▅▅▅▆▆▇▇█▇█▇▇▇▇▆▆▆▆▇ 1,141/s
//!     queue 4,716 ready (4,702 due, the oldest for 3.3 s), 306 running (84 overdue), 57 dead
//!  worker 1 ████████████████████████████████ 1,338 259/s
//!  worker 2 ███████████████████████████████░ 1,327 238/s
//!  worker 3 ████████████████████████████████ 1,340 264/s
//!  worker 4 █████████████████████████▌░░░░░░ 1,079, killed with -9
//! ```
//!
//! `model.rs` has the struct and the tables, `worker.rs` what a worker does, `office.rs` enqueues and waits, `crew.rs` starts and kills
//! processes, `view.rs` draws, `books.rs` counts at the end.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod books;
mod crew;
mod model;
mod postgres;
mod sqlite;
mod view;

use std::env;
use std::process::ExitCode;

use rowlock_examples::Pool;

use crate::books::Books;
use crate::model::TABLES;

/// Tasks that enqueue.
const PRODUCERS: usize = 4;
/// Processes that send.
const WORKERS: usize = 4;

/// How the workers share the mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With SELECT and UPDATE.
    ByHand,
    /// With `#[derive(Queue)]`.
    Queue,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::ByHand => "by hand",
            Self::Queue => "Queue",
        }
    }

    /// By hand most are sent several times, so there are fewer.
    fn mails(self) -> usize {
        match self {
            Self::ByHand => 1_000,
            Self::Queue => 10_000,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [role, way, number] = &arguments[..]
        && role == "worker"
    {
        return match work(way, number).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("worker {number}: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    rowlock_examples::run("mailer", TABLES, async |database, pool| {
        println!(
            "{PRODUCERS} tasks enqueue mails, {WORKERS} processes send them, one of which is killed on the way. All is on {database}.\n"
        );
        Books::print_head();
        let mut right = false;
        for way in [Way::ByHand, Way::Queue] {
            let books = match pool {
                Pool::Postgres(pool) => postgres::office::run(pool, way).await?,
                Pool::Sqlite(pool) => sqlite::office::run(pool, way).await?,
            };
            books.print();
            // By hand it is there to be wrong.
            if way == Way::Queue {
                books.explain();
                right = books.are_right();
            }
        }
        let verdict = match right {
            true => "nothing was lost, and nothing was sent twice but for an ended lease",
            false => "mails were lost or sent twice, which is a bug",
        };
        println!("\nVerdict: {verdict}.");
        Ok(right)
    })
    .await
}

/// What the process does if it is a worker.
async fn work(way: &str, number: &str) -> anyhow::Result<()> {
    let way = match way {
        "by hand" => Way::ByHand,
        _ => Way::Queue,
    };
    let whereabouts = env::var(crew::WHERE)?;
    let number = number.parse()?;
    match env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => {
            let pool = postgres::connect(&url, &whereabouts).await?;
            postgres::worker::work(&pool, way, number).await
        }
        _ => {
            let pool = sqlite::connect(&whereabouts).await?;
            sqlite::worker::work(&pool, way, number).await
        }
    }
}
