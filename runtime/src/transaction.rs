//! Transactions that are run again, from their start, when the database asks for it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::{Acquire, AssertSqlSafe, Pool, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;

use crate::backend::Backend;
use crate::backoff::full_jitter;
use crate::error::{Attempt, DatabaseError, KeyText};
use crate::fault::Fault;

/// How often a transaction is run unless [`TransactionBuilder::attempts`] says otherwise.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Starts a transaction on a pool; [`run`](TransactionBuilder::run) runs it.
///
/// It takes a pool and nothing else, so that a transaction that retries can never stand inside another one, whose
/// earlier statements it could not run again.
pub fn transaction<DB: Backend>(pool: &Pool<DB>) -> TransactionBuilder<DB> {
    TransactionBuilder {
        pool: pool.clone(),
        isolation: None,
        read_only: false,
        attempts: ATTEMPTS,
        deadline: None,
        first_wait: FIRST_WAIT,
        longest_wait: LONGEST_WAIT,
        lock_limit: None,
        statement_limit: None,
        ask_after_commit: false,
        on_retry: None,
    }
}

/// How a transaction is to be run.
///
/// Limits mean what they say: `attempts(0)` and a deadline of zero run nothing. Without a call there is no deadline and no
/// timeout, and there are five attempts.
#[derive(Debug, Clone)]
#[must_use = "a transaction does nothing until it is run"]
pub struct TransactionBuilder<DB: Backend> {
    pool: Pool<DB>,
    isolation: Option<Isolation>,
    read_only: bool,
    attempts: u32,
    deadline: Option<Duration>,
    first_wait: Duration,
    longest_wait: Duration,
    // Not named like the methods: rustc would tell users of another database about a private field.
    lock_limit: Option<Duration>,
    statement_limit: Option<Duration>,
    ask_after_commit: bool,
    on_retry: Option<Hook>,
}

#[derive(Clone)]
struct Hook(Arc<dyn Fn(&Retry) + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// What is about to be tried again, for [`TransactionBuilder::on_retry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// The number of the attempt that failed, from 1.
    pub attempt: u32,
    /// Why it failed.
    pub fault: Fault,
    /// How long the next one waits.
    pub wait: Duration,
}

/// How PostgreSQL is told to begin. SQLite knows only whether the transaction is going to write.
#[derive(Debug, Clone, Copy)]
#[doc(hidden)]
pub struct Begin {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) read_only: bool,
    pub(crate) lock_timeout: Option<Duration>,
    pub(crate) statement_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl<DB: Backend> TransactionBuilder<DB> {
    /// READ COMMITTED. SQLite gives SERIALIZABLE whatever is asked for.
    pub fn read_committed(mut self) -> Self {
        self.isolation = Some(Isolation::ReadCommitted);
        self
    }

    /// REPEATABLE READ: on PostgreSQL, snapshot isolation.
    pub fn repeatable_read(mut self) -> Self {
        self.isolation = Some(Isolation::RepeatableRead);
        self
    }

    /// SERIALIZABLE. Protects an invariant only if all transactions that can break it use it.
    pub fn serializable(mut self) -> Self {
        self.isolation = Some(Isolation::Serializable);
        self
    }

    /// READ ONLY; on SQLite a deferred transaction, which does not take the write lock.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// How often the closure is run at most. 0 runs nothing.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// How long all attempts and the waits between them may take together. Zero runs nothing.
    ///
    /// On PostgreSQL what is left of it is also given to the server, as the limit of each statement: dropping a future
    /// does not stop a statement.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Calls `hook` before each further attempt, and not after the last one.
    pub fn on_retry(mut self, hook: impl Fn(&Retry) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(Hook(Arc::new(hook)));
        self
    }

    /// The ceiling of the first random wait between two attempts, and the highest it can get; it doubles in between.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first_wait = first;
        self.longest_wait = longest;
        self
    }
}

#[cfg(feature = "postgres")]
impl TransactionBuilder<sqlx::Postgres> {
    /// How long a statement waits for a lock: `SET LOCAL lock_timeout`, in the round trip of BEGIN. A lock that is not free
    /// by then is [`Fault::LockTimeout`], which is not retried.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_limit = Some(timeout);
        self
    }

    /// How long a statement runs: `SET LOCAL statement_timeout`, in the round trip of BEGIN. After that it is
    /// [`Fault::Canceled`], which is not retried.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_limit = Some(timeout);
        self
    }

    /// If the connection is lost during COMMIT, asks the server on another connection what became of the transaction
    /// (`pg_xact_status`): committed is `Ok`, rolled back is retried, and only no answer is
    /// [`TransactionError::CommitUnknown`]. Costs nothing as long as no connection is lost.
    pub fn ask_after_lost_commit(mut self) -> Self {
        self.ask_after_commit = true;
        self
    }
}

/// Why a transaction has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// The closure failed, and running it again would not help. Rolled back.
    #[error("{0}")]
    Failed(#[source] E),
    /// The closure returned `Ok`, but a statement in it had failed and the server had given up the transaction: nothing of it
    /// was committed. (The COMMIT of such a transaction is a ROLLBACK that reports success.)
    #[error("{0}; the closure returned Ok all the same, and nothing was committed")]
    Aborted(#[source] DatabaseError),
    /// No connection, or BEGIN failed. The closure was not run.
    #[error(transparent)]
    Begin(DatabaseError),
    /// COMMIT failed: a deferred constraint, or a conflict that only the end of the transaction shows. Rolled back.
    #[error(transparent)]
    Commit(DatabaseError),
    /// The connection was lost during COMMIT. The transaction was committed or it was not.
    #[error("{0}; it is unknown whether the transaction was committed")]
    CommitUnknown(#[source] DatabaseError),
    /// All attempts failed in a way that another one could have mended. Rolled back.
    #[error("gave up after {attempts} attempts: {last}")]
    Exhausted {
        /// How often the closure was run, or would have been if there had been a connection.
        attempts: u32,
        /// Why the last attempt failed.
        #[source]
        last: LastFailure<E>,
    },
    /// The deadline passed. Rolled back.
    #[error("the deadline passed in attempt {attempts}")]
    DeadlineExceeded {
        /// How many attempts were begun.
        attempts: u32,
    },
    /// `attempts(0)`: nothing was run.
    #[error("no attempt is allowed")]
    NotRun,
}

/// Why the last of several attempts failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LastFailure<E> {
    /// The closure did.
    #[error("{0}")]
    Closure(#[source] E),
    /// BEGIN or COMMIT did.
    #[error(transparent)]
    Database(DatabaseError),
}

/// An open transaction, as the closure of [`TransactionBuilder::run`] receives it.
///
/// It dereferences to the connection, and `&mut *tx` can be given to every generated method, `&mut **tx` to sqlx's own.
/// It ends with the closure.
#[derive(Debug)]
pub struct Tx<DB: Backend> {
    connection: PoolConnection<DB>,
    state: State,
    /// Tells transactions apart, so that a lock of one is not taken for a lock of another.
    id: u64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Beginning,
    Open,
    Ended,
}

impl<DB: Backend> Deref for Tx<DB> {
    type Target = DB::Connection;
    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: Backend> DerefMut for Tx<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}

impl<'t, DB: Backend> Acquire<'t> for &'t mut Tx<DB> {
    type Database = DB;
    type Connection = &'t mut DB::Connection;

    fn acquire(self) -> BoxFuture<'t, Result<Self::Connection, sqlx::Error>> {
        Box::pin(std::future::ready(Ok(&mut *self.connection)))
    }

    fn begin(self) -> BoxFuture<'t, Result<sqlx::Transaction<'t, DB>, sqlx::Error>> {
        sqlx::Transaction::begin(&mut *self.connection, None)
    }
}

impl<DB: Backend> Drop for Tx<DB> {
    fn drop(&mut self) {
        match self.state {
            State::Ended => {}
            State::Open => DB::TransactionManager::start_rollback(&mut self.connection),
            State::Beginning => DB::abandon_begin(&mut self.connection),
        }
    }
}

impl<DB: Backend> Tx<DB> {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    async fn begin(connection: PoolConnection<DB>, begin: &Begin) -> Result<Self, sqlx::Error> {
        let sql = DB::begin_sql(begin);
        let mut tx = Self {
            connection,
            state: State::Beginning,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        };
        let statement = AssertSqlSafe(sql).into_sql_str();
        DB::TransactionManager::begin(&mut tx.connection, Some(statement)).await?;
        tx.state = State::Open;
        Ok(tx)
    }

    /// Rolls back; a connection that cannot even do that leaves the pool.
    async fn rollback(mut self) {
        match DB::TransactionManager::rollback(&mut self.connection).await {
            Ok(()) => self.state = State::Ended,
            Err(_) => self.close(),
        }
    }

    fn close(&mut self) {
        self.state = State::Ended;
        self.connection.close_on_drop();
    }
}

/// A closure that can be run in one transaction after another: `async |tx| { … }`.
///
/// It runs with a fresh transaction each time and can borrow from its surroundings, but not change them: nothing of a failed
/// attempt must reach the next one.
pub trait Body<A, R>: AsyncFn(A) -> R + Fn(A) -> Self::Future {
    /// What the closure returns.
    type Future: Future<Output = R> + Send;
}

impl<F, A, R, Fut> Body<A, R> for F
where
    F: AsyncFn(A) -> R + Fn(A) -> Fut,
    Fut: Future<Output = R> + Send,
{
    type Future = Fut;
}

/// An error type in whose chain the database's error can be found: any `std::error::Error`, and `anyhow::Error` or
/// `Box<dyn Error + Send + Sync>`, which are none themselves. `By` is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a transaction",
    label = "the closure returns this error",
    note = "the database's error is looked for in it: use a type that implements `std::error::Error`, `anyhow::Error` or `Box<dyn Error + Send + Sync>`"
)]
pub trait FailureOf<By> {
    /// The fault of the first database error in the chain.
    fn fault(&self) -> Option<Fault>;
}

/// See [`FailureOf`].
#[derive(Debug)]
pub struct ByError;
/// See [`FailureOf`].
#[derive(Debug)]
pub struct ByReference;

impl<E: Error + 'static> FailureOf<ByError> for E {
    fn fault(&self) -> Option<Fault> {
        Fault::in_chain(self)
    }
}

impl<E: AsRef<dyn Error + Send + Sync>> FailureOf<ByReference> for E {
    fn fault(&self) -> Option<Fault> {
        Fault::in_chain(self.as_ref())
    }
}

/// How one attempt ended.
enum Ended<T, E> {
    Committed(T),
    /// Whether another attempt can help is the fault's to say.
    Failed(TransactionError<E>, Option<Fault>),
}

impl<DB: Backend> TransactionBuilder<DB> {
    /// Runs `body` in a transaction and commits, again and again if the database asks for it.
    pub fn run<'r, T, E, By, F>(
        self,
        body: F,
    ) -> impl Future<Output = Result<T, TransactionError<E>>> + Send + 'r
    where
        T: Send + 'r,
        E: FailureOf<By> + Send + 'r,
        By: 'r,
        F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Send + Sync + 'r,
    {
        async move {
            if self.attempts == 0 {
                return Err(TransactionError::NotRun);
            }
            let ends = self
                .deadline
                .and_then(|left| Instant::now().checked_add(left));
            let mut attempt = 0;
            loop {
                attempt += 1;
                let exceeded = TransactionError::DeadlineExceeded { attempts: attempt };
                let once = self.run_once(&body, ends);
                let ended = match ends {
                    None => once.await,
                    Some(ends) if ends <= Instant::now() => return Err(exceeded),
                    Some(ends) => match tokio::time::timeout_at(ends.into(), once).await {
                        Ok(ended) => ended,
                        Err(_) => return Err(exceeded),
                    },
                };
                let (error, fault) = match ended {
                    Ended::Committed(value) => return Ok(value),
                    Ended::Failed(error, fault) => (error, fault),
                };
                let Some(fault) = fault.filter(|fault| fault.is_transient()) else {
                    return Err(error);
                };
                if attempt == self.attempts {
                    return Err(exhausted(attempt, error));
                }
                let wait = full_jitter(attempt, self.first_wait, self.longest_wait);
                if let Some(Hook(hook)) = &self.on_retry {
                    hook(&Retry {
                        attempt,
                        fault,
                        wait,
                    });
                }
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn run_once<T, E, By, F>(&self, body: &F, ends: Option<Instant>) -> Ended<T, E>
    where
        T: Send,
        E: FailureOf<By> + Send,
        F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Sync,
    {
        let mut tx = match self.begin(ends).await {
            Ok(tx) => tx,
            Err(error) => {
                let error = describe(error);
                let fault = error.fault();
                return Ended::Failed(TransactionError::Begin(error), Some(fault));
            }
        };
        let value = match body(&mut tx).await {
            Ok(value) => value,
            Err(error) => {
                let fault = error.fault();
                tx.rollback().await;
                return Ended::Failed(TransactionError::Failed(error), fault);
            }
        };
        let id = match DB::before_commit(&mut tx).await {
            Ok(id) => id,
            Err(error) => {
                let error = describe(error);
                let fault = error.fault();
                tx.rollback().await;
                return match fault {
                    // The statement that failed is not known, so neither is whether it was worth another attempt.
                    Fault::TransactionAborted => {
                        Ended::Failed(TransactionError::Aborted(error), None)
                    }
                    fault => Ended::Failed(TransactionError::Commit(error), Some(fault)),
                };
            }
        };
        match DB::TransactionManager::commit(&mut tx.connection).await {
            Ok(()) => {
                tx.state = State::Ended;
                Ended::Committed(value)
            }
            Err(error) => {
                let error = describe(error);
                let fault = error.fault();
                tx.close();
                drop(tx);
                if fault != Fault::ConnectionLost {
                    return Ended::Failed(TransactionError::Commit(error), Some(fault));
                }
                match self.what_became_of(id).await {
                    Some(true) => Ended::Committed(value),
                    Some(false) => Ended::Failed(TransactionError::Commit(error), Some(fault)),
                    None => Ended::Failed(TransactionError::CommitUnknown(error), None),
                }
            }
        }
    }

    async fn begin(&self, ends: Option<Instant>) -> Result<Tx<DB>, sqlx::Error> {
        let left = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        let statement_timeout = match (self.statement_limit, left) {
            (Some(limit), Some(left)) => Some(limit.min(left)),
            (limit, left) => limit.or(left),
        };
        let begin = Begin {
            isolation: self.isolation,
            read_only: self.read_only,
            lock_timeout: self.lock_limit,
            statement_timeout,
        };
        Tx::begin(self.pool.acquire().await?, &begin).await
    }

    /// Whether the transaction with this id was committed, if the caller wants to know and the server can tell.
    async fn what_became_of(&self, id: Option<String>) -> Option<bool> {
        if !self.ask_after_commit {
            return None;
        }
        let mut connection = self.pool.acquire().await.ok()?;
        DB::was_committed(&mut connection, id?).await
    }
}

fn exhausted<E>(attempts: u32, error: TransactionError<E>) -> TransactionError<E> {
    let last = match error {
        TransactionError::Failed(error) => LastFailure::Closure(error),
        TransactionError::Begin(error) | TransactionError::Commit(error) => {
            LastFailure::Database(error)
        }
        // The others are never transient.
        other => return other,
    };
    TransactionError::Exhausted { attempts, last }
}

fn describe(error: sqlx::Error) -> DatabaseError {
    DatabaseError::new(Attempt::new("transaction", "", KeyText::default()), error)
}
