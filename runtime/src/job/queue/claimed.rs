//! A row that is claimed, and how its claim ends.

use super::batch::{Batch, Fate, Locks, complete, look};
use super::error::{FinishError, Unfinished};
use super::state::QueueState;
use super::{FIRST_BACKOFF, LONGEST_BACKOFF, LONGEST_ERROR, Queue, QueueSql, unwritten};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::error::{DatabaseError, Operation, WriteFailure};
use crate::db::fault::Fault;
use crate::db::model::acquire;
use crate::db::source::{Link, Opened, Source};
use crate::tx::InTransaction;
use std::fmt::Display;
use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The values of a column in many rows.
pub fn each<T, V: Clone>(rows: &[&T], value: impl Fn(&T) -> &V) -> Vec<V> {
    rows.iter().map(|row| value(row).clone()).collect()
}

/// What the row became after [`Claimed::retry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// It is due again after this time.
    Later(Duration),
    /// [`QueueState::Dead`]: that was its last attempt, or the database does not let it be ready again, because a newer row stands for the same job,
    /// say.
    Dead,
}

/// The ceiling of the random wait before the next attempt: it doubles from the first to the longest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: FIRST_BACKOFF,
            longest: LONGEST_BACKOFF,
        }
    }
}

impl Backoff {
    pub(crate) fn after(self, attempts: i64) -> Duration {
        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        full_jitter(attempts, self.first, self.longest)
    }
}

/// A row that belongs to this claim until its lease ends. Dereferences to the row.
///
/// Finish it with [`complete`](Self::complete), [`retry`](Self::retry), [`fail`](Self::fail), [`snooze`](Self::snooze) or [`release`](Self::release).
/// Each consumes the claim and writes only if it still holds. If you drop the claim instead, the row comes back after its lease.
///
/// Every claim of a row has a greater fence than the one before, which tells a lost claim from the current one. So a queue gives work at least once;
/// what the transaction of [`complete_in`](Self::complete_in) writes happens once.
#[must_use = "a claimed row that is not finished comes back when its lease has ended"]
pub struct Claimed<T> {
    pub(super) row: T,
    pub(super) backoff: Backoff,
    pub(super) waited: Duration,
    pub(super) completed: AtomicBool,
}

impl<T> Deref for Claimed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.row
    }
}

impl<T: Queue> std::fmt::Debug for Claimed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Claimed({}, attempt {})",
            at("claim", &self.row),
            self.row.attempts()
        )
    }
}

pub(crate) fn at<T: Queue>(method: &'static str, row: &T) -> Operation {
    T::operation(method, &row.key())
}

/// What becomes of a row that is not done.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) state: QueueState,
    /// When it is due again; `None`: when it was due.
    pub(crate) delay: Option<Duration>,
    /// The attempt does not count.
    pub(crate) refund: bool,
    pub(crate) error: Option<String>,
}

impl Change {
    pub(crate) fn later(delay: Duration, error: String) -> Self {
        Self {
            state: QueueState::Ready,
            delay: Some(delay),
            refund: false,
            error: Some(error),
        }
    }

    pub(crate) fn dead(error: String) -> Self {
        Self {
            state: QueueState::Dead,
            delay: None,
            refund: false,
            error: Some(error),
        }
    }

    pub(crate) fn back(delay: Option<Duration>) -> Self {
        Self {
            state: QueueState::Ready,
            delay,
            refund: true,
            error: None,
        }
    }

    /// What becomes instead of a row that the database does not let be ready again: it is dead, like in a rescue.
    pub(crate) fn instead(&self, error: &sqlx::Error) -> Option<Self> {
        let after = self.error.as_deref().unwrap_or("unfinished");
        let dead = || {
            Self::dead(stored(&format_args!(
                "{after}; the row could not be ready again: {error}"
            )))
        };
        (self.state == QueueState::Ready).then(dead)
    }

    /// How many attempts the row has had, if this is the one of that number.
    pub(super) fn attempts(&self, this: i64) -> i64 {
        this - i64::from(self.refund)
    }

    fn retried(&self) -> Retried {
        match self.delay {
            Some(delay) if self.state == QueueState::Ready => Retried::Later(delay),
            _ => Retried::Dead,
        }
    }
}

/// The text of an error as it is stored: without NUL, which PostgreSQL's texts cannot have, and of bounded length.
pub(crate) fn stored(error: &impl Display) -> String {
    // The alternate form of `anyhow::Error` is the whole chain.
    let mut text = format!("{error:#}").replace('\0', "\u{fffd}");
    if text.len() > LONGEST_ERROR {
        let end = (0..=LONGEST_ERROR)
            .rev()
            .find(|index| text.is_char_boundary(*index))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl<T: Queue> Claimed<T> {
    /// How long the row had been due when it was claimed, by the database's clock.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> i64 {
        self.row.attempts()
    }

    /// How many attempts a job has, as `#[rowlock(attempts(max = 5))]` says; defaults to 20.
    pub fn max_attempts(&self) -> i64 {
        T::MAX_ATTEMPTS
    }

    /// Whether the job is [`QueueState::Dead`] if this attempt fails.
    pub fn is_last_attempt(&self) -> bool {
        self.attempt() >= self.max_attempts()
    }

    /// Whether `complete_in` has written the row; its transaction may have been rolled back after it.
    pub(crate) fn was_completed(&self) -> bool {
        self.completed.load(Ordering::Relaxed)
    }

    pub(crate) fn retry_change(&self, delay: Option<Duration>, error: String) -> Change {
        if self.is_last_attempt() {
            return Change::dead(error);
        }
        let delay = delay.unwrap_or_else(|| self.backoff.after(self.row.attempts()));
        Change::later(delay, error)
    }

    /// The work is done: the row becomes [`QueueState::Done`].
    ///
    /// One statement, `UPDATE … SET state = 'done' WHERE key = … AND fence = … AND state = 'running'`, and one SELECT if it wrote nothing. With `&mut
    /// *tx` it commits with the rest of the transaction; see also [`complete_in`](Self::complete_in). It succeeds even after the lease, as long as
    /// nobody has taken the row back. Cancel safety: if you drop the future, it takes effect completely or not at all.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if another claim has the row, or it was finished, cancelled or deleted; `Ignored` if the claim holds, and a trigger, a row
    /// security policy or ON CONFLICT IGNORE dropped the write. Nothing was written then. `Written` if a trigger of SQLite failed after the
    /// write with RAISE(FAIL), which keeps it. `Serialization`, `Unknown`, `Database`.
    pub fn complete<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        T::observed::<DB, _>("complete", async move {
            let at = || at("complete", &self.row);
            let mut opened = acquire(db, &at).await.map_err(FinishError::Database)?;
            let mut connection = opened.link();
            let in_transaction = in_transaction::<DB>(&connection);
            complete_one("complete", &self.row, in_transaction, &mut connection).await
        })
    }

    /// The same in a transaction: the completion and everything else the transaction writes commit together, so the effect of the job happens once,
    /// however often the job runs.
    ///
    /// It takes the claim by reference, because a retried transaction runs its closure again. If it fails, return the error, so that the transaction
    /// rolls back. A worker's handler then returns [`JobOutcome::Completed`](crate::queue::JobOutcome::Completed).
    ///
    /// `tx`: see [`InTransaction`]. The statement, the cancel safety and the errors are those of [`complete`](Self::complete), and
    /// `NotInTransaction` of a connection that is in none.
    pub fn complete_in<'t, DB: Backend>(
        &self,
        tx: impl InTransaction<'t, Database = DB>,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        T::observed::<DB, _>("complete_in", async move {
            let (at, mut link) = (|| at("complete_in", &self.row), tx.link());
            match link.is_in_transaction().await {
                Ok(true) => {
                    complete_one("complete_in", &self.row, true, &mut link).await?;
                    self.completed.store(true, Ordering::Relaxed);
                    Ok(())
                }
                Ok(false) => Err(FinishError::NotInTransaction(at())),
                Err(error) => Err(FinishError::Database(DatabaseError::new(at(), error))),
            }
        })
    }

    /// The attempt failed: the row is due again after a random time, or [`QueueState::Dead`] if that was its last attempt. The
    /// text of the error is stored, if the model has a `last_error`.
    ///
    /// The time is between zero and a ceiling that doubles with every attempt (full jitter), from 4 seconds to an hour or as the claim's
    /// [`backoff`](crate::queue::Claim::backoff) says. One statement. Cancel safety and errors: those of [`complete`](Self::complete).
    pub fn retry<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
        error: impl Display,
    ) -> impl Future<Output = Result<Retried, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = self.retry_change(None, stored(&error));
        async move { self.settle_retry("retry", db, change).await }
    }

    /// Like [`retry`](Self::retry), after a time you choose: the `Retry-After` of a server, say.
    pub fn retry_after<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
        error: impl Display,
        delay: Duration,
    ) -> impl Future<Output = Result<Retried, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = self.retry_change(Some(delay), stored(&error));
        async move { self.settle_retry("retry_after", db, change).await }
    }

    /// The job can never succeed: the row becomes [`QueueState::Dead`] at once.
    ///
    /// One statement. Cancel safety and errors: those of [`complete`](Self::complete).
    pub fn fail<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
        error: impl Display,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = Change::dead(stored(&error));
        async move { self.settle("fail", db, change).await }
    }

    /// Not now: the row is due again after `delay`, and this attempt does not count.
    ///
    /// One statement. Cancel safety and errors: those of [`complete`](Self::complete), and `NotReady` if the database does not let
    /// the row be ready: then it is dead.
    pub fn snooze<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
        delay: Duration,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move { self.settle("snooze", db, Change::back(Some(delay))).await }
    }

    /// Gives the row back as if it had not been claimed: it is due when it was, and this attempt does not count.
    ///
    /// One statement. Cancel safety and errors: those of [`complete`](Self::complete), and `NotReady` if the database does not let
    /// the row be ready: then it is dead.
    pub fn release<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move { self.settle("release", db, Change::back(None)).await }
    }

    /// Begins a new lease from now, by the database's clock.
    ///
    /// One statement. Cancel safety and errors: those of [`complete`](Self::complete).
    pub fn extend<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
        lease: Duration,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move { self.run_alone("extend", db, Batch::Extend(lease)).await }
    }

    async fn settle_retry<'c, DB: Backend>(
        &self,
        method: &'static str,
        db: impl Source<'c, DB>,
        change: Change,
    ) -> Result<Retried, FinishError>
    where
        T: QueueSql<DB>,
    {
        let retried = change.retried();
        match self.settle(method, db, change).await {
            Ok(()) => Ok(retried),
            Err(FinishError::NotReady(_)) => Ok(Retried::Dead),
            Err(error) => Err(error),
        }
    }

    async fn settle<'c, DB: Backend>(
        &self,
        method: &'static str,
        db: impl Source<'c, DB>,
        change: Change,
    ) -> Result<(), FinishError>
    where
        T: QueueSql<DB>,
    {
        self.run_alone(method, db, Batch::Settle(&[change])).await
    }

    /// A batch of one row.
    async fn run_alone<'c, DB: Backend>(
        &self,
        method: &'static str,
        db: impl Source<'c, DB>,
        batch: Batch<'_>,
    ) -> Result<(), FinishError>
    where
        T: QueueSql<DB>,
    {
        T::observed::<DB, _>(method, async {
            let at = || at(method, &self.row);
            let mut opened = acquire(db, &at).await.map_err(FinishError::Database)?;
            let mut connection = opened.link();
            let in_transaction = in_transaction::<DB>(&connection);
            let fates = batch
                .run_each::<DB, T>(&[&self.row], Locks::Wait, &mut connection)
                .await;
            let fates = match fates {
                Ok(fates) => fates,
                Err(error) => {
                    return Err(failed(at(), error, in_transaction, &mut connection).await);
                }
            };
            for fate in fates {
                self.finished(method, batch.change(0), fate, &mut connection)
                    .await?;
            }
            Ok(())
        })
        .await
    }

    /// What became of this row of a batch.
    async fn finished<DB: Backend>(
        &self,
        method: &'static str,
        change: Option<&Change>,
        fate: Fate,
        connection: &mut Link<'_, DB>,
    ) -> Result<(), FinishError>
    where
        T: QueueSql<DB>,
    {
        let at = match fate {
            Fate::Written => return Ok(()),
            _ => at(method, &self.row),
        };
        let error = match fate {
            Fate::Refused(error) => error,
            Fate::Kept(error) => return Err(FinishError::Written(DatabaseError::new(at, error))),
            _ => {
                return Err(unwritten(at, &self.row, connection).await);
            }
        };
        if Fault::refuses_a_row(&error)
            && let Some(dead) = change.and_then(|change| change.instead(&error))
        {
            let (rows, changes) = ([&self.row], [dead]);
            let batch = Batch::Settle(&changes);
            let buried = batch.run_each::<DB, T>(&rows, Locks::Wait, connection);
            match buried.await.as_deref() {
                Ok([Fate::Written | Fate::Kept(_)]) => {
                    return Err(FinishError::NotReady(DatabaseError::new(at, error)));
                }
                // Between the two it was cancelled, say. If the claim holds, the first error says more.
                Ok([Fate::Lost])
                    if matches!(
                        look(&self.row, connection).await,
                        Ok(Fate::Lost | Fate::Done)
                    ) =>
                {
                    return Err(FinishError::LeaseLost(at));
                }
                _ => {}
            }
        }
        Err(WriteFailure::new(at, error, false).into())
    }

    /// All of this work is done, in one statement. Returns the rows that were not finished, each with its error: nothing was written to them, or they
    /// are dead ([`NotReady`](FinishError::NotReady)).
    ///
    /// ```sql
    /// -- PostgreSQL; SQLite has a list of rows in place of the arrays
    /// UPDATE … SET state = 'done' WHERE key = ANY ($1) AND state = 'running' AND (key, fence) IN (SELECT * FROM unnest($1, $2))
    ///     AND set_config('lock_timeout', '20', true) IS NOT NULL RETURNING key, fence
    /// -- if a row was locked for longer than these 20 milliseconds, and on a connection or in a transaction of the caller
    /// WITH held AS (SELECT key FROM …
    ///     WHERE key = ANY ($1) AND state = 'running' AND (key, fence) IN (SELECT * FROM unnest($1, $2)) ORDER BY key FOR NO KEY UPDATE),
    /// written AS (UPDATE … SET state = 'done' WHERE key IN (SELECT key FROM held) RETURNING key, fence)
    /// SELECT * FROM unnest($1, $2) AS lost (key, fence) WHERE (key, fence) NOT IN (SELECT * FROM written)
    /// ```
    ///
    /// It waits for rows that a concurrent transaction has locked, and locks its own in the order of their keys then, like `lock_many`. A batch of
    /// one runs the statement of [`complete`](Self::complete), an empty one nothing. On SQLite more than 2,000 rows are several statements. Cancel
    /// safety: if you drop the future, each statement takes effect completely or not at all; what was not finished comes back after its lease.
    ///
    /// If the database refuses one of the rows, by a constraint or a trigger, each is written in a statement of its own, and only the refused one is
    /// returned. In a transaction of the caller the error is the whole batch's; on PostgreSQL it has aborted the transaction.
    ///
    /// # Errors
    ///
    /// Of each row that is returned: `LeaseLost`, `NotReady` if the database does not let it be ready, so that it is dead, `Ignored` if the write was
    /// dropped and `Database` if it was refused otherwise; then the claim still holds. Of all of them: `Serialization`, `Unknown`, `Database`; the
    /// rows that were not finished come back after their leases.
    ///
    /// After RAISE(FAIL) in a trigger of SQLite the row is `Written`, and rows of a batch that were written before it are `LeaseLost`, as rows
    /// that are finished already. In a transaction of the caller the error is `Written`: some of the rows were.
    pub fn complete_many<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = Self>,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let batch: Vec<Self> = batch.into_iter().collect();
        async move { Self::finish_many("complete_many", db, batch, Batch::Complete).await }
    }

    /// [`retry`](Self::retry) for many rows, each with its error, in one statement. Returns the rows that were not written.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many).
    pub fn retry_many<'c, DB: Backend, E: Display>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = (Self, E)>,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = |claimed: &Self, error: &E| claimed.retry_change(None, stored(error));
        Self::settle_many("retry_many", db, batch, change)
    }

    /// [`fail`](Self::fail) for many rows, each with its error, in one statement. Returns the rows that were not written.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many).
    pub fn fail_many<'c, DB: Backend, E: Display>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = (Self, E)>,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = |_: &Self, error: &E| Change::dead(stored(error));
        Self::settle_many("fail_many", db, batch, change)
    }

    /// [`snooze`](Self::snooze) for many rows, in one statement. Returns the rows that were not written.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many).
    pub fn snooze_many<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = Self>,
        delay: Duration,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let batch = batch.into_iter().map(|claimed| (claimed, ()));
        let change = move |_: &Self, (): &()| Change::back(Some(delay));
        Self::settle_many("snooze_many", db, batch, change)
    }

    /// [`release`](Self::release) for many rows, in one statement. Returns the rows that were not written.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many).
    pub fn release_many<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = Self>,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let batch = batch.into_iter().map(|claimed| (claimed, ()));
        Self::settle_many("release_many", db, batch, |_, ()| Change::back(None))
    }

    /// Begins new leases for all of these rows, in one statement. Removes the rows that were not written from the batch and returns them: lost
    /// claims, and rows that the database refuses to write.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many); after an error the batch is as it was.
    pub fn extend_many<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        batch: &mut Vec<Self>,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move {
            let extend = Batch::Extend(lease);
            let results = Self::run_many("extend_many", db, batch, extend).await?;
            let mut unfinished = Vec::new();
            for (claimed, result) in std::mem::take(batch).into_iter().zip(results) {
                match result {
                    Ok(()) => batch.push(claimed),
                    Err(error) => unfinished.push(Unfinished { claimed, error }),
                }
            }
            Ok(unfinished)
        }
    }

    fn settle_many<'c, DB: Backend, E>(
        method: &'static str,
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = (Self, E)>,
        change: impl Fn(&Self, &E) -> Change,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let (batch, changes): (Vec<Self>, Vec<Change>) = batch
            .into_iter()
            .map(|(claimed, error)| {
                let change = change(&claimed, &error);
                (claimed, change)
            })
            .unzip();
        async move { Self::finish_many(method, db, batch, Batch::Settle(&changes)).await }
    }

    async fn finish_many<'c, DB: Backend>(
        method: &'static str,
        db: impl Source<'c, DB>,
        batch: Vec<Self>,
        what: Batch<'_>,
    ) -> Result<Vec<Unfinished<T>>, FinishError>
    where
        T: QueueSql<DB>,
    {
        let results = Self::run_many(method, db, &batch, what).await?;
        let unfinished = batch
            .into_iter()
            .zip(results)
            .filter_map(|(claimed, result)| {
                let error = result.err()?;
                Some(Unfinished { claimed, error })
            });
        Ok(unfinished.collect())
    }

    async fn run_many<'c, DB: Backend>(
        method: &'static str,
        db: impl Source<'c, DB>,
        batch: &[Self],
        what: Batch<'_>,
    ) -> Result<Vec<Result<(), FinishError>>, FinishError>
    where
        T: QueueSql<DB>,
    {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        T::observed::<DB, _>(method, async {
            let at = || T::operation_on_many(method);
            let rows: Vec<&T> = batch.iter().map(|claimed| &claimed.row).collect();
            let mut opened = acquire(db, &at).await.map_err(FinishError::Database)?;
            let mut connection = opened.link();
            let in_transaction = in_transaction::<DB>(&connection);
            let fates = what
                .run_each::<DB, T>(&rows, Locks::Wait, &mut connection)
                .await;
            let fates = match fates {
                Ok(fates) => fates,
                Err(error) => {
                    return Err(failed(at(), error, in_transaction, &mut connection).await);
                }
            };
            let mut results = Vec::with_capacity(batch.len());
            for (index, (claimed, fate)) in batch.iter().zip(fates).enumerate() {
                let change = what.change(index);
                let finished = claimed.finished(method, change, fate, &mut connection);
                results.push(finished.await);
            }
            Ok(results)
        })
        .await
    }
}

async fn complete_one<DB: Backend, T: QueueSql<DB>>(
    method: &'static str,
    row: &T,
    in_transaction: bool,
    connection: &mut Link<'_, DB>,
) -> Result<(), FinishError> {
    match complete::<DB, T>(row, connection).await {
        Ok(1) => Ok(()),
        Ok(_) => Err(unwritten(at(method, row), row, connection).await),
        Err(error) => Err(failed(at(method, row), error, in_transaction, connection).await),
    }
}

/// What an error means that a statement ended with just now.
async fn failed<DB: Backend>(
    at: Operation,
    error: sqlx::Error,
    in_transaction: bool,
    connection: &mut Link<'_, DB>,
) -> FinishError {
    if DB::has_written(connection, &error).await {
        return FinishError::Written(DatabaseError::new(at, error));
    }
    WriteFailure::new(at, error, in_transaction).into()
}
