//! Requests that take effect once, however often they are sent.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::Pool;

use crate::backoff::full_jitter;
use crate::db::atomic::in_transaction;
use crate::db::error::{Attempt, DatabaseError, KeyText, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Fetched, Statement};
use crate::db::{Backend, IndexedColumns};
use crate::job::fingerprint::{Digest, RequestError};
use crate::tx::{Body, FailureOf, LastFailure, TransactionError, Tx, Work, transaction};

/// How often a key is asked for before somebody else must be at work on it.
const ROUNDS: u32 = 3;
/// How often `start` is tried when the database wants it to be.
const ATTEMPTS: u32 = 5;
/// The ceilings of the random waits of [`OnceCall::wait`]: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// What `#[derive(Idempotent)]` knows about a ledger, the same for every database.
pub trait Idempotent: Sized + Send + Sync + 'static {
    /// The key columns as the caller gives them; text is borrowed.
    type Key<'k>: Clone + Send + Sync;
    /// What is stored and replayed.
    type Outcome: Send + Sync + 'static;
    /// As written by the user.
    const TABLE: &'static str;
    /// The part before the dot.
    const SCHEMA: Option<&'static str>;
    /// The part behind the dot.
    const TABLE_NAME: &'static str;
    /// The key's columns in alphabetical order, joined by commas.
    const KEY_COLUMNS: &'static str;

    /// Writes a key into an error.
    fn describe(key: &Self::Key<'_>, to: &mut KeyText);
}

/// A ledger's statements for one database. The key is bound first, as `$1…`, except in `FINISH`.
pub trait IdempotentSql<DB: Backend>: Idempotent {
    /// Creates the row, or takes it over if nobody is at work on it: key, fingerprint, lease in seconds. Returns the
    /// fence, if it is claimed, and 0 if another call is about to claim it, 2 if the row is not under this key.
    const CLAIM: &'static str;
    /// Reads how things stand: key, fingerprint. Returns the `Standing` and the outcome.
    const READ: &'static str;
    /// Stores the outcome: outcome, key, fence.
    const FINISH: &'static str;
    /// Ends the lease now: key, fence.
    const RELEASE: &'static str;
    /// Begins a new lease now: key, fence, seconds.
    const EXTEND: &'static str;
    /// Deletes what was finished so many seconds ago.
    const PURGE: &'static str;

    /// Binds a key.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds a fingerprint.
    fn bind_fingerprint(digest: &Digest, to: &mut impl Bind<DB>);
    /// Binds an outcome.
    fn bind_outcome(outcome: &Self::Outcome, to: &mut impl Bind<DB>);
    /// Reads the outcome, which is the second column.
    fn outcome(row: &DB::Row) -> Result<Self::Outcome, sqlx::Error>;
}

/// What became of a call with an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "`Busy` means that nothing was done"]
pub enum Once<R> {
    /// This call did it. Its effects and this outcome are committed.
    Ran(R),
    /// An earlier call did it. Nothing was run; this is its outcome.
    Replayed(R),
    /// Another call is at work on it. Nothing was run; ask again later.
    Busy,
}

impl<R> Once<R> {
    /// The outcome, whoever did the work; `None` while another call is at it.
    pub fn into_inner(self) -> Option<R> {
        match self {
            Self::Ran(outcome) | Self::Replayed(outcome) => Some(outcome),
            Self::Busy => None,
        }
    }
}

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

/// Why `once` has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError<E> {
    /// The key was used before, with another request. Nothing was run.
    #[error("{0}: this key was used with another request")]
    Mismatch(Attempt),
    /// The key was used before, and the fingerprint of its request is that of another version of rowlock: whether it was this
    /// request cannot be told. Nothing was run.
    #[error(
        "{0}: this key was used under another version of fingerprints, so whether by this request cannot be told"
    )]
    OtherFingerprint(Attempt),
    /// The database holds the row under another key than the one that was given: a trigger or the column's type changes the
    /// key on its way in (to lower case, say), or a trigger or a row security policy drops the write. Rolled back.
    #[error(
        "{0}: the row is not stored under the key that was given (a trigger or the column's type changes it), or cannot be seen or written"
    )]
    KeyTaken(Attempt),
    /// The `Serialize` of the request failed, so it has no fingerprint. Nothing was run.
    #[error("{0}: the request cannot be serialized")]
    Request(Attempt, #[source] RequestError),
    /// The database has no unique index on exactly the columns of the key. Nothing was run.
    #[error("{0}: the database has no unique index on ({1})")]
    MissingUniqueIndex(Attempt, &'static str),
    /// A statement on the ledger failed. Rolled back.
    #[error(transparent)]
    Ledger(DatabaseError),
    /// The transaction failed, or the closure in it.
    #[error(transparent)]
    Transaction(TransactionError<E>),
}

/// Why an attempt was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The key was used before, with another request.
    #[error("{0}: this key was used with another request")]
    Mismatch(Attempt),
    /// The key was used before, and the fingerprint of its request is that of another version of rowlock: whether it was this
    /// request cannot be told.
    #[error(
        "{0}: this key was used under another version of fingerprints, so whether by this request cannot be told"
    )]
    OtherFingerprint(Attempt),
    /// The database holds the row under another key than the one that was given: a trigger or the column's type changes the
    /// key on its way in (to lower case, say), or a trigger or a row security policy drops the write.
    #[error(
        "{0}: the row is not stored under the key that was given (a trigger or the column's type changes it), or cannot be seen or written"
    )]
    KeyTaken(Attempt),
    /// The `Serialize` of the request failed, so it has no fingerprint.
    #[error("{0}: the request cannot be serialized")]
    Request(Attempt, #[source] RequestError),
    /// The database has no unique index on exactly the columns of the key.
    #[error("{0}: the database has no unique index on ({1})")]
    MissingUniqueIndex(Attempt, &'static str),
    /// The connection was lost before the answer came. If the attempt was started, it ends with its lease.
    #[error("{0}; it is unknown whether the attempt was started")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why an attempt could not be finished, released or extended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The key is no longer this attempt's: its lease ended and another attempt took over, or it was finished. Nothing was
    /// written.
    #[error("{0}: the attempt is over, finished or taken over by another one")]
    TakenOver(Attempt),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The write happened or it did not. After `finish`, call `start` again: it is
    /// `Replayed` if the outcome was stored.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

from_write_failure!(AttemptError);

/// How a key stands, as `READ` says it.
enum Standing {
    /// Another request has the key.
    OtherRequest,
    /// Some request has the key, under a fingerprint of another version.
    OtherFingerprint,
    Finished,
    /// The lease of an attempt runs.
    Leased,
    /// An attempt was given up.
    Free,
}

impl Standing {
    fn of<DB: Backend>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(match DB::get_i64(row, 0)? {
            Some(1) => Self::OtherRequest,
            Some(2) => Self::Finished,
            Some(3) => Self::Leased,
            Some(5) => Self::OtherFingerprint,
            _ => Self::Free,
        })
    }
}

/// Who has the key now.
enum Asked<R> {
    /// The caller, with this fence.
    Mine(Fence),
    Finished(R),
    Mismatch,
    OtherFingerprint,
    Busy,
    KeyTaken,
}

fn attempt_at<T: Idempotent>(operation: &'static str, key: &T::Key<'_>) -> Attempt {
    let mut text = KeyText::default();
    T::describe(key, &mut text);
    Attempt::new(operation, T::TABLE, text)
}

/// Claims the key, or finds out why not.
async fn ask<DB: Backend, T: IdempotentSql<DB>>(
    key: &T::Key<'_>,
    digest: &Digest,
    lease: Duration,
    connection: &mut Link<'_, DB>,
) -> Result<Asked<T::Outcome>, sqlx::Error> {
    let mut taken = false;
    for _ in 0..ROUNDS {
        let mut claim = Statement::<DB>::literal(T::CLAIM);
        T::bind_key(key, &mut claim);
        T::bind_fingerprint(digest, &mut claim);
        claim.bind_seconds(lease);
        let state = match claim.fetch_one(connection).await? {
            Fetched::One(row) => (DB::get_i64(&row, 0)?, DB::get_i64(&row, 1)?),
            // Nothing was claimed, on a database where nobody else can be about to.
            Fetched::None | Fetched::Several => (None, None),
        };
        taken = match state {
            (Some(_), Some(2)) => return Ok(Asked::KeyTaken),
            (Some(fence), _) => return Ok(Asked::Mine(Fence::claimed(fence))),
            (None, state) => state != Some(0),
        };
        // A new statement, so that it sees what made the claim fail.
        let mut read = Statement::<DB>::literal(T::READ);
        T::bind_key(key, &mut read);
        T::bind_fingerprint(digest, &mut read);
        match read.fetch_one(connection).await? {
            Fetched::One(row) => match Standing::of::<DB>(&row)? {
                Standing::OtherRequest => return Ok(Asked::Mismatch),
                Standing::OtherFingerprint => return Ok(Asked::OtherFingerprint),
                Standing::Finished => return Ok(Asked::Finished(T::outcome(&row)?)),
                Standing::Leased => return Ok(Asked::Busy),
                // It was let go between the two statements, or somebody is about to finish it or to take it over.
                Standing::Free => taken = false,
            },
            // Its row is not committed yet, or was purged.
            Fetched::None | Fetched::Several => {}
        }
        if !taken {
            return Ok(Asked::Busy);
        }
    }
    Ok(if taken { Asked::KeyTaken } else { Asked::Busy })
}

async fn finish<DB: Backend, T: IdempotentSql<DB>>(
    key: &T::Key<'_>,
    fence: Fence,
    outcome: &T::Outcome,
    connection: &mut Link<'_, DB>,
) -> Result<bool, sqlx::Error> {
    let mut statement = Statement::<DB>::literal(T::FINISH);
    T::bind_outcome(outcome, &mut statement);
    T::bind_key(key, &mut statement);
    statement.bind_i64(fence.get());
    Ok(statement.execute(connection).await? == 1)
}

async fn lacks_unique_index<DB: Backend, T: Idempotent>(
    error: &sqlx::Error,
    connection: &mut Link<'_, DB>,
) -> bool {
    let key = IndexedColumns {
        schema: T::SCHEMA,
        table: T::TABLE_NAME,
        columns: T::KEY_COLUMNS,
    };
    DB::lacks_unique_index(connection, error, key).await
}

/// A call of `once`; `.await` runs it.
#[must_use = "nothing is run until this is awaited"]
pub struct OnceCall<'r, R, E> {
    run: Runner<'r, R, E>,
    wait: Duration,
}

type Answer<R, E> = Result<Once<R>, OnceError<E>>;
type Runner<'r, R, E> = Box<dyn FnOnce(Duration) -> BoxFuture<'r, Answer<R, E>> + Send + 'r>;

impl<R, E> std::fmt::Debug for OnceCall<'_, R, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnceCall")
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

impl<R, E> OnceCall<'_, R, E> {
    /// How long to ask again while another call is at work on the key, before the answer is [`Once::Busy`]. Without it:
    /// not at all.
    ///
    /// Between two attempts it waits for a random time of up to 200 ms and holds no connection.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = at_most;
        self
    }
}

impl<'r, R: 'r, E: 'r> IntoFuture for OnceCall<'r, R, E> {
    type Output = Answer<R, E>;
    type IntoFuture = BoxFuture<'r, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        (self.run)(self.wait)
    }
}

/// Runs `body` unless an outcome is stored under the key.
pub fn once<'r, DB, T, E, By, F>(
    pool: &Pool<DB>,
    key: T::Key<'r>,
    digest: Result<Digest, RequestError>,
    body: F,
) -> OnceCall<'r, T::Outcome, E>
where
    DB: Backend,
    T: IdempotentSql<DB>,
    E: FailureOf<By> + Send + 'r,
    By: 'r,
    F: for<'t> Body<&'t mut Tx<DB>, Result<T::Outcome, E>> + Send + Sync + 'r,
{
    let pool = pool.clone();
    let run = move |wait| -> BoxFuture<'r, Answer<T::Outcome, E>> {
        Box::pin(async move {
            let digest =
                digest.map_err(|error| OnceError::Request(attempt_at::<T>("once", &key), error))?;
            let job = Job::<T, F, E, By> {
                key,
                digest,
                body,
                error: PhantomData,
            };
            job.run_until_done(&pool, wait).await
        })
    };
    OnceCall {
        run: Box::new(run),
        wait: Duration::ZERO,
    }
}

/// What `once` does in its transaction: claim, run, finish.
struct Job<'k, T: Idempotent, F, E, By> {
    key: T::Key<'k>,
    digest: Digest,
    body: F,
    error: PhantomData<fn() -> (E, By)>,
}

/// Why the transaction of `once` is rolled back.
enum Stop<R, E> {
    /// There is nothing to do.
    Answer(Once<R>),
    Mismatch,
    OtherFingerprint,
    KeyTaken,
    MissingUniqueIndex,
    Ledger(DatabaseError),
    /// The closure returned `Ok` over an error after which the database accepts nothing more.
    Swallowed(DatabaseError),
    Body(E),
}

impl<T: Idempotent, F: Send, E: Send, By> Job<'_, T, F, E, By> {
    fn attempt(&self) -> Attempt {
        attempt_at::<T>("once", &self.key)
    }

    async fn run_until_done<DB: Backend>(
        &self,
        pool: &Pool<DB>,
        wait: Duration,
    ) -> Answer<T::Outcome, E>
    where
        Self: Work<DB, Output = T::Outcome, Error = Stop<T::Outcome, E>>,
    {
        let ends = Instant::now().checked_add(wait);
        let mut asked = 0;
        loop {
            // Each statement has to see what was committed before it.
            let result = transaction(pool).read_committed().run_work(self).await;
            let outcome = match result {
                Ok(outcome) => Once::Ran(outcome),
                Err(error) => self.answer(error)?,
            };
            let left = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
            if !matches!(outcome, Once::Busy) || left == Some(Duration::ZERO) {
                return Ok(outcome);
            }
            asked += 1;
            let pause = full_jitter(asked, FIRST_WAIT, LONGEST_WAIT);
            tokio::time::sleep(left.map_or(pause, |left| pause.min(left))).await;
        }
    }

    fn answer(&self, error: TransactionError<Stop<T::Outcome, E>>) -> Answer<T::Outcome, E> {
        use TransactionError as Tx;
        Err(OnceError::Transaction(match error {
            Tx::Failed(Stop::Answer(outcome)) => return Ok(outcome),
            Tx::Failed(Stop::Swallowed(error)) => Tx::Aborted(error),
            Tx::Exhausted {
                attempts,
                last: LastFailure::Closure(Stop::Swallowed(error)),
            } => Tx::Exhausted {
                attempts,
                last: LastFailure::Database(error),
            },
            Tx::Failed(stop) => return Err(self.stopped(stop, Tx::Failed)),
            Tx::Exhausted {
                attempts,
                last: LastFailure::Closure(stop),
            } => {
                let exhausted = |error| Tx::Exhausted {
                    attempts,
                    last: LastFailure::Closure(error),
                };
                return Err(self.stopped(stop, exhausted));
            }
            // SQLite's one writer is somebody else, and was for as long as its busy timeout, time after time.
            Tx::Exhausted {
                last: LastFailure::Database(error),
                ..
            } if error.fault() == Fault::Busy => return Ok(Once::Busy),
            Tx::Exhausted {
                attempts,
                last: LastFailure::Database(error),
            } => Tx::Exhausted {
                attempts,
                last: LastFailure::Database(error),
            },
            Tx::Aborted(error) => Tx::Aborted(error),
            Tx::Begin(error) => Tx::Begin(error),
            Tx::Commit(error) => Tx::Commit(error),
            Tx::CommitUnknown(error) => Tx::CommitUnknown(error),
            Tx::DeadlineExceeded { attempts } => Tx::DeadlineExceeded { attempts },
            Tx::NotRun => Tx::NotRun,
        }))
    }

    fn stopped(
        &self,
        stop: Stop<T::Outcome, E>,
        body: impl FnOnce(E) -> TransactionError<E>,
    ) -> OnceError<E> {
        match stop {
            Stop::Body(error) => OnceError::Transaction(body(error)),
            Stop::Ledger(error) => OnceError::Ledger(error),
            Stop::Swallowed(error) => OnceError::Transaction(TransactionError::Aborted(error)),
            Stop::MissingUniqueIndex => {
                OnceError::MissingUniqueIndex(self.attempt(), T::KEY_COLUMNS)
            }
            Stop::KeyTaken => OnceError::KeyTaken(self.attempt()),
            Stop::OtherFingerprint => OnceError::OtherFingerprint(self.attempt()),
            // An answer is no failure, and is returned before this.
            Stop::Mismatch | Stop::Answer(_) => OnceError::Mismatch(self.attempt()),
        }
    }
}

impl<DB, T, F, E, By> Work<DB> for Job<'_, T, F, E, By>
where
    DB: Backend,
    T: IdempotentSql<DB>,
    E: FailureOf<By> + Send,
    F: for<'t> Body<&'t mut Tx<DB>, Result<T::Outcome, E>> + Send + Sync,
{
    type Output = T::Outcome;
    type Error = Stop<T::Outcome, E>;

    async fn run(&self, tx: &mut Tx<DB>) -> Result<T::Outcome, Self::Error> {
        let ledger = |error| Stop::Ledger(DatabaseError::new(self.attempt(), error));
        // No lease: until the transaction ends nobody else can have the key, and afterwards it is finished.
        let asked =
            match ask::<DB, T>(&self.key, &self.digest, Duration::ZERO, &mut tx.link()).await {
                Ok(asked) => asked,
                Err(error) if lacks_unique_index::<DB, T>(&error, &mut tx.link()).await => {
                    return Err(Stop::MissingUniqueIndex);
                }
                Err(error) => return Err(ledger(error)),
            };
        let fence = match asked {
            Asked::Mine(fence) => fence,
            Asked::KeyTaken => return Err(Stop::KeyTaken),
            Asked::Finished(outcome) => return Err(Stop::Answer(Once::Replayed(outcome))),
            Asked::Busy => return Err(Stop::Answer(Once::Busy)),
            Asked::Mismatch => return Err(Stop::Mismatch),
            Asked::OtherFingerprint => return Err(Stop::OtherFingerprint),
        };
        let outcome = (self.body)(&mut *tx).await.map_err(Stop::Body)?;
        let given_up = tx.is_given_up();
        match finish::<DB, T>(&self.key, fence, &outcome, &mut tx.link()).await {
            Ok(true) => Ok(outcome),
            // Nobody else can have written the row since it was claimed.
            Ok(false) => Err(Stop::KeyTaken),
            // The error of the closure, if it was seen, and else only that there was one.
            Err(error) if given_up || Fault::of(&error) == Fault::TransactionAborted => {
                Err(Stop::Swallowed(DatabaseError::new(self.attempt(), error)))
            }
            Err(error) => Err(ledger(error)),
        }
    }

    fn fault(error: &Self::Error) -> Option<Fault> {
        match error {
            Stop::Body(error) => error.fault(),
            Stop::Ledger(error) | Stop::Swallowed(error) => Some(error.fault()),
            _ => None,
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
    async move {
        let at = || attempt_at::<T>("start", &key);
        let digest = digest.map_err(|error| StartError::Request(at(), error))?;
        let mut opened = pool
            .open()
            .await
            .map_err(|error| StartError::Database(DatabaseError::new(at(), error)))?;
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
    }
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

    fn at(&self, operation: &'static str) -> Attempt {
        attempt_at::<T>(operation, &self.key)
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
        let at = || self.at("finish");
        async move {
            let mut opened = acquire(db, at).await?;
            let mut connection = opened.link();
            let in_transaction = in_transaction::<DB>(&connection);
            let done = finish::<DB, T>(&self.key, self.fence, outcome, &mut connection).await;
            checked(done, at, in_transaction)
        }
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
        async move {
            let at = || self.at("release");
            let mut statement = Statement::<DB>::literal(T::RELEASE);
            T::bind_key(&self.key, &mut statement);
            statement.bind_i64(self.fence.get());
            run_checked(db, statement, at).await
        }
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
        async move {
            let mut statement = Statement::<DB>::literal(T::EXTEND);
            T::bind_key(&self.key, &mut statement);
            statement.bind_i64(self.fence.get());
            statement.bind_seconds(lease);
            run_checked(db, statement, || self.at("extend")).await
        }
    }
}

async fn acquire<'c, DB: Backend, A: Source<'c, DB>>(
    db: A,
    at: impl Fn() -> Attempt,
) -> Result<A::Opened, AttemptError> {
    db.open()
        .await
        .map_err(|error| AttemptError::Database(DatabaseError::new(at(), error)))
}

async fn run_checked<'c, DB: Backend>(
    db: impl Source<'c, DB>,
    statement: Statement<DB>,
    at: impl Fn() -> Attempt,
) -> Result<(), AttemptError> {
    let mut opened = acquire(db, &at).await?;
    let mut connection = opened.link();
    let in_transaction = in_transaction::<DB>(&connection);
    let affected = statement.execute(&mut connection).await;
    checked(affected.map(|rows| rows == 1), at, in_transaction)
}

fn checked(
    done: Result<bool, sqlx::Error>,
    at: impl Fn() -> Attempt,
    in_transaction: bool,
) -> Result<(), AttemptError> {
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(AttemptError::TakenOver(at())),
        Err(error) => Err(WriteFailure::new(at(), error, in_transaction).into()),
    }
}

/// Deletes the rows that were finished longer ago than `age`.
pub fn purge<'c, DB: Backend, T: IdempotentSql<DB>>(
    db: impl Source<'c, DB>,
    age: Duration,
) -> impl Future<Output = Result<u64, DatabaseError>> + Send {
    async move {
        let failed =
            |error| DatabaseError::new(Attempt::new("purge", T::TABLE, KeyText::default()), error);
        let mut opened = db.open().await.map_err(failed)?;
        let mut connection = opened.link();
        let mut statement = Statement::<DB>::literal(T::PURGE);
        statement.bind_seconds(age);
        statement.execute(&mut connection).await.map_err(failed)
    }
}
