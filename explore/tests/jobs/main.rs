//! rowlock's jobs, locks and transactions in all schedules, and with every single fault at every request; beside each the
//! form by hand, in which the explorer finds the race that it is known for.
//!
//! `cargo test -p rowlock-explore --test jobs -- --nocapture` prints what was covered. With `ROWLOCK_PREEMPTIONS=1` two actors also
//! change places once in the schedules with faults, which takes some ten times as long.

mod advisory;
mod idempotent;
mod per;
mod periodic;
mod queue;
mod session;
mod stopped;
mod transaction;
mod unique;

use std::env;
use std::fmt::Debug;
use std::time::Duration;

use rowlock::DatabaseError;
use rowlock::Fault as Kind;
use rowlock::idempotent::{AttemptError, OnceError, StartError};
use rowlock::lock::AdvisoryLockError;
use rowlock::queue::{ClaimError, FinishError};
use rowlock::tx::TransactionError;
use rowlock_explore::{Actor, Coverage, Explorer, Failure, Fault, Verdict};
use rowlock_tests::postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row};

/// Everything that can break a connection or a call.
const FAULTS: [Fault; 6] = [
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::CutInAnswer,
    Fault::Terminated,
    Fault::DroppedBefore,
    Fault::DroppedAfter,
];
const LEASE: Duration = Duration::from_secs(60);
/// All leases have ended.
const LATER: Fault = Fault::Clock(Duration::from_secs(61));

/// How often two actors change places in a schedule that has a fault besides, but where one waits for the other.
fn preemptions() -> usize {
    env::var("ROWLOCK_PREEMPTIONS").map_or(0, |most| most.parse().expect("a number"))
}

/// What a caller knows of its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is there.
    Done,
    /// It is not.
    Not,
    /// It is there or not.
    Unknown,
}

impl End {
    /// Of a call that may have been dropped, which tells as little as a lost answer.
    fn of<T, E: Tells>(result: Option<Result<T, E>>) -> Self {
        match result {
            Some(Ok(_)) => Self::Done,
            Some(Err(error)) if !error.is_unknown() => Self::Not,
            _ => Self::Unknown,
        }
    }
}

/// An error that says whether the write may have happened all the same.
trait Tells {
    fn is_unknown(&self) -> bool;
}

impl Tells for ClaimError {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

impl Tells for FinishError {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

impl Tells for StartError {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

impl Tells for AttemptError {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

impl<E> Tells for TransactionError<E> {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::CommitUnknown(_))
    }
}

impl<E> Tells for OnceError<E> {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Transaction(TransactionError::CommitUnknown(_)))
    }
}

impl<E> Tells for AdvisoryLockError<E> {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Transaction(TransactionError::CommitUnknown(_)))
    }
}

impl Tells for DatabaseError {
    fn is_unknown(&self) -> bool {
        self.fault().may_have_committed()
    }
}

/// Errors of sqlx say it of single statements.
impl Tells for sqlx::Error {
    fn is_unknown(&self) -> bool {
        Kind::of(self).may_have_committed()
    }
}

/// Whether so many effects are what the callers were told: each that was acknowledged, and of the others at most those whose
/// answer was lost.
fn adds_up(effects: usize, ends: impl IntoIterator<Item = End>) -> Result<(), String> {
    let (mut least, mut most) = (0, 0);
    for end in ends {
        least += usize::from(end == End::Done);
        most += usize::from(end != End::Not);
    }
    if (least..=most).contains(&effects) {
        return Ok(());
    }
    Err(format!(
        "{effects} effects, of which {least} were acknowledged and at most {most} can be there"
    ))
}

/// A pool of one connection: what is left open on it meets whatever comes next.
fn pool(actor: &Actor) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(actor.url())
        .expect("the explorer's URL is one of PostgreSQL")
}

/// Whether the pool goes on after whatever happened: it gives a connection that is in no transaction.
async fn goes_on(pool: &PgPool) -> bool {
    asks(pool, "SELECT now() = statement_timestamp()").await
}

/// The same, and the connection has no advisory lock.
async fn goes_on_unlocked(pool: &PgPool) -> bool {
    asks(pool, "SELECT now() = statement_timestamp() AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())").await
}

async fn asks(pool: &PgPool, sql: &'static str) -> bool {
    for _ in 0..2 {
        // The first time it can be what is broken. Not prepared: one message, and so one time.
        if let Ok(row) = sqlx::raw_sql(sql).fetch_one(pool).await {
            return row.get(0);
        }
    }
    false
}

async fn explorer<T: Debug + Send + Sync + 'static>(schema: &str, setup: &str) -> Explorer<T> {
    Explorer::new(postgres::fresh_url().await)
        .schema(schema)
        .setup(setup)
        .max_time(Duration::from_secs(300))
}

#[track_caller]
fn passed(subject: &str, verdict: Verdict) -> Coverage {
    let coverage = verdict.assert_passed();
    println!("{subject} | {coverage}");
    coverage
}

#[track_caller]
fn failed(subject: &str, verdict: Verdict) -> Failure {
    let failure = verdict.assert_failed();
    println!(
        "{subject}, by hand | {}: {} | {}",
        failure.anomaly(),
        failure.why,
        failure.coverage
    );
    failure
}
