//! Work outside of a transaction: `start`, and how it ends.

use super::error::{AttemptError, StartError};
use super::{
    ATTEMPTS, Asked, FIRST_WAIT, Idempotent, IdempotentSql, LONGEST_WAIT, ask, finish,
    lacks_unique_index,
};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::error::{DatabaseError, Operation, WriteFailure};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::model::acquire;
use crate::db::source::{Opened, Source};
use crate::db::statement::Statement;
use crate::job::fingerprint::{Digest, RequestError};
use sqlx::Pool;
use std::future::Future;
use std::time::Duration;

/// What [`start`](derive@crate::Idempotent) found.
#[must_use = "`Busy` means that nothing is to be done"]
pub enum Started<'k, T: Idempotent> {
    /// The key is this caller's until the lease ends.
    Running(Running<'k, T>),
    /// It was done before. This is its outcome.
    Replayed(T::Outcome),
    /// Another attempt holds the key.
    Busy,
}

// Not derived: that would ask for a ledger that is `Debug`.
impl<T: Idempotent<Outcome: std::fmt::Debug>> std::fmt::Debug for Started<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running(running) => f.debug_tuple("Running").field(running).finish(),
            Self::Replayed(outcome) => f.debug_tuple("Replayed").field(outcome).finish(),
            Self::Busy => f.write_str("Busy"),
        }
    }
}

/// Claims the key for as long as the lease runs.
///
/// On a pool: in a transaction of the caller nobody would see the lease before its end.
pub fn start<'k, DB: Backend, T: IdempotentSql<DB>>(
    pool: &Pool<DB>,
    key: T::Key<'k>,
    digest: Result<Digest, RequestError>,
    lease: Duration,
) -> impl Future<Output = Result<Started<'k, T>, StartError>> + Send + use<'k, DB, T> {
    let pool = pool.clone();
    T::observed::<DB, _>("start", async move {
        let at = || T::operation("start", &key);
        let digest = digest.map_err(|error| StartError::Request(at(), error))?;
        let mut opened = acquire(&pool, &at).await.map_err(StartError::Database)?;
        let mut connection = opened.link();
        let mut tried = 0;
        let asked = loop {
            tried += 1;
            match ask::<DB, T>(&key, &digest, lease, &mut connection).await {
                // In a strict default isolation the loser of a race is told so instead of what the winner did.
                Err(error)
                    if tried < ATTEMPTS
                        && matches!(Fault::of(&error), Fault::Serialization | Fault::Deadlock) =>
                {
                    tokio::time::sleep(full_jitter(tried, FIRST_WAIT, LONGEST_WAIT)).await;
                }
                asked => break asked,
            }
        };
        match asked {
            Ok(Asked::Mine(fence)) => Ok(Started::Running(Running { key, fence })),
            Ok(Asked::Finished(outcome)) => Ok(Started::Replayed(outcome)),
            Ok(Asked::Busy) => Ok(Started::Busy),
            Ok(Asked::Mismatch) => Err(StartError::Mismatch(at())),
            Ok(Asked::OtherFingerprint) => Err(StartError::OtherFingerprint(at())),
            Ok(Asked::KeyTaken) => Err(StartError::KeyTaken(at())),
            Err(error) if lacks_unique_index::<DB, T>(&error, &mut connection).await => {
                Err(StartError::MissingUniqueIndex(at(), T::KEY_COLUMNS))
            }
            Err(error) => {
                let error = DatabaseError::new(at(), error);
                match error.fault() {
                    // SQLite's one writer is somebody else.
                    Fault::Busy => Ok(Started::Busy),
                    fault if fault.may_have_committed() => {
                        Err(StartError::Unknown(error.of_unknown_outcome()))
                    }
                    _ => Err(StartError::Database(error)),
                }
            }
        }
    })
}

/// An attempt that holds its key until the lease ends.
///
/// If it is dropped, or its process dies, the key is free for another attempt once the lease has run out.
#[must_use = "finish the attempt, or release it"]
pub struct Running<'k, T: Idempotent> {
    key: T::Key<'k>,
    fence: Fence,
}

impl<T: Idempotent> std::fmt::Debug for Running<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({}, fence {})", self.at("start"), self.fence)
    }
}

impl<T: Idempotent> Running<'_, T> {
    /// Tells this attempt from all others of its key: it is higher than that of every attempt before, also of one whose row was
    /// purged since, as far as the clock of the database goes forward. Other rows can check it, in a `#[rowlock(fence)]` of their
    /// own.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    fn at(&self, method: &'static str) -> Operation {
        T::operation(method, &self.key)
    }

    /// Stores the outcome, if the key is still this attempt's.
    ///
    /// With `&mut *tx` of [`rowlock::transaction`](crate::transaction) or of sqlx it commits together with what else the
    /// transaction wrote; if it fails, return the error, so that all of it is rolled back. A final failure is an outcome too:
    /// let it be a `Result` or an enum.
    ///
    /// One statement, `UPDATE … WHERE key = … AND fence = … AND finished_at IS NULL`. Cancel safety: if the future is
    /// dropped, it was executed completely or not at all.
    ///
    /// # Errors
    ///
    /// `TakenOver` when the lease ended and another attempt began, or the attempt was finished before; nothing was written
    /// then. `Serialization`, `Unknown`, `Database`.
    pub fn finish<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
        outcome: &T::Outcome,
    ) -> impl Future<Output = Result<(), AttemptError>> + Send
    where
        T: IdempotentSql<DB>,
    {
        T::observed::<DB, _>("finish", async move {
            let at = || self.at("finish");
            let mut opened = acquire(db, &at).await.map_err(AttemptError::Database)?;
            let mut connection = opened.link();
            let in_transaction = in_transaction::<DB>(&connection);
            let done = finish::<DB, T>(&self.key, self.fence, outcome, &mut connection).await;
            checked(done, &at, in_transaction)
        })
    }

    /// Gives the key up, so that the next attempt can start at once: for a failure that another attempt may not meet.
    ///
    /// One statement. Cancel safety and errors: those of [`finish`](Self::finish).
    pub fn release<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<(), AttemptError>> + Send
    where
        T: IdempotentSql<DB>,
    {
        T::observed::<DB, _>("release", async move {
            let at = || self.at("release");
            let mut statement = Statement::<DB>::literal(T::RELEASE);
            T::bind_key(&self.key, &mut statement);
            statement.bind_i64(self.fence.get());
            run_checked(db, statement, &at).await
        })
    }

    /// Begins a new lease from now, by the clock of the database, if the key is still this attempt's.
    ///
    /// One statement. Cancel safety and errors: those of [`finish`](Self::finish).
    pub fn extend<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
        lease: Duration,
    ) -> impl Future<Output = Result<(), AttemptError>> + Send
    where
        T: IdempotentSql<DB>,
    {
        T::observed::<DB, _>("extend", async move {
            let mut statement = Statement::<DB>::literal(T::EXTEND);
            T::bind_key(&self.key, &mut statement);
            statement.bind_i64(self.fence.get());
            statement.bind_seconds(lease);
            run_checked(db, statement, &|| self.at("extend")).await
        })
    }
}

async fn run_checked<'c, DB: Backend>(
    db: impl Source<'c, DB>,
    statement: Statement<DB>,
    at: &(dyn Fn() -> Operation + Sync),
) -> Result<(), AttemptError> {
    let mut opened = acquire(db, at).await.map_err(AttemptError::Database)?;
    let mut connection = opened.link();
    let in_transaction = in_transaction::<DB>(&connection);
    let affected = statement.execute(&mut connection).await;
    checked(affected.map(|rows| rows == 1), at, in_transaction)
}

fn checked(
    done: Result<bool, sqlx::Error>,
    at: &dyn Fn() -> Operation,
    in_transaction: bool,
) -> Result<(), AttemptError> {
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(AttemptError::TakenOver(at())),
        Err(error) => Err(WriteFailure::new(at(), error, in_transaction).into()),
    }
}
