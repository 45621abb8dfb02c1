//! Transactions that are run again, from their start, when the database asks for it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _, Pool, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tracing::Instrument;

use crate::advisory::TakeLock;
use crate::backend::Backend;
use crate::backoff::full_jitter;
use crate::budget::RetryBudget;
use crate::error::{Attempt, DatabaseError, KeyText};
use crate::fault::Fault;
use crate::source::Link;

/// How often a transaction is run unless [`TransactionBuilder::attempts`] says otherwise.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// How long the question what became of a lost COMMIT may take. Not the deadline, which may be what cut the COMMIT short.
const LONGEST_QUESTION: Duration = Duration::from_secs(5);

/// Starts a transaction on a pool; [`run`](TransactionBuilder::run) runs it, again from its start where the database asks for
/// that.
///
/// ```
/// # async fn setup() -> Result<sqlx::SqlitePool, sqlx::Error> {
/// #     let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// #     sqlx::raw_sql(
/// #         "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
/// #          INSERT INTO accounts VALUES (1, 100), (2, 0)",
/// #     ).execute(&pool).await?;
/// #     Ok(pool)
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = setup().await?;
/// let left = rowlock::transaction(&pool)
///     .serializable()
///     .run(async |tx| {
///         let sql = "UPDATE accounts SET balance = balance + $1 WHERE id = $2 RETURNING balance";
///         sqlx::query(sql).bind(30).bind(2).execute(&mut **tx).await?;
///         let left: i64 = sqlx::query_scalar(sql).bind(-30).bind(1).fetch_one(&mut **tx).await?;
///         Ok::<_, sqlx::Error>(left)
///     })
///     .await?;
/// assert_eq!(left, 70);
/// # Ok(())
/// # }
/// ```
///
/// # Nested use
///
/// It takes a pool and nothing else, so that a transaction that retries can never stand inside another one, whose earlier
/// statements it could not run again. Called inside a closure with the pool, it is a second transaction on a second
/// connection: it commits even if the outer one rolls back, does not see what the outer one wrote, and waits for the outer
/// one's locks, which are never released while the outer one waits for it. On a pool of one connection it ends as
/// `Begin` with [`Fault::PoolTimedOut`]. For a part that may fail alone, begin a savepoint: `tx.begin()` of
/// [`sqlx::Acquire`].
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
        budget: None,
        advisory: None,
    }
}

/// How a transaction is to be run.
///
/// Limits mean what they say: `attempts(0)` and a deadline of zero run nothing. Without a call there is no deadline and no
/// timeout, and there are five attempts with waits of at most 5, 10, 20 and 40 ms between them.
///
/// Durations are given to PostgreSQL in whole milliseconds, at least one.
#[derive(Debug)]
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
    budget: Option<RetryBudget>,
    advisory: Option<TakeLock>,
}

// Not derived: that would ask for `DB: Clone`, which no database of sqlx is.
impl<DB: Backend> Clone for TransactionBuilder<DB> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            on_retry: self.on_retry.clone(),
            budget: self.budget.clone(),
            ..*self
        }
    }
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
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
#[doc(hidden)]
pub struct Begin {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) read_only: bool,
    pub(crate) lock_timeout: Option<Duration>,
    pub(crate) statement_timeout: Option<Duration>,
    pub(crate) advisory: Option<TakeLock>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl<DB: Backend> TransactionBuilder<DB> {
    /// READ COMMITTED: each statement sees what was committed before it. Without a call to this or one of the next two, the
    /// server's default, which is this one unless it was changed. SQLite gives SERIALIZABLE whatever is asked for.
    pub fn read_committed(mut self) -> Self {
        self.isolation = Some(Isolation::ReadCommitted);
        self
    }

    /// REPEATABLE READ: on PostgreSQL, snapshot isolation. All statements see what was committed before the first one; who
    /// writes a row that somebody changed since then is run again.
    pub fn repeatable_read(mut self) -> Self {
        self.isolation = Some(Isolation::RepeatableRead);
        self
    }

    /// SERIALIZABLE: the outcome is that of running the transactions one after the other. Protects an invariant only if all
    /// transactions that can break it use it. What was read counts only once the transaction is committed.
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
    /// does not stop a statement. Only the question of `ask_after_lost_commit` can come after it.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Calls `hook` before the wait for each further attempt, and not after the last one. The deadline can still pass during
    /// that wait.
    pub fn on_retry(mut self, hook: impl Fn(&Retry) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(Hook(Arc::new(hook)));
        self
    }

    /// Shares a limit on retries with other transactions. A retry that the budget refuses is not made: the transaction ends
    /// as if its attempts were used up.
    pub fn budget(mut self, budget: &RetryBudget) -> Self {
        self.budget = Some(budget.clone());
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
    ///
    /// The question, with the wait for a connection, takes five seconds at most, which are not part of the deadline: a COMMIT
    /// that the deadline cut short is asked about, too.
    pub fn ask_after_lost_commit(mut self) -> Self {
        self.ask_after_commit = true;
        self
    }
}

/// Why a transaction has no result.
///
/// Nothing of the transaction is in the database, except perhaps after [`CommitUnknown`](Self::CommitUnknown). `source()`
/// leads to the closure's error or to the `sqlx::Error`, and [`Fault::in_chain`] classifies it.
///
/// ```
/// # async fn setup() -> Result<sqlx::SqlitePool, sqlx::Error> {
/// #     let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// #     sqlx::raw_sql("CREATE TABLE names (name text PRIMARY KEY)").execute(&pool).await?;
/// #     Ok(pool)
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = setup().await?;
/// use rowlock::{Fault, TransactionError, transaction};
///
/// let outcome = transaction(&pool)
///     .run(async |tx| {
///         for name in ["ann", "ben", "ann"] {
///             sqlx::query("INSERT INTO names VALUES ($1)").bind(name).execute(&mut **tx).await?;
///         }
///         Ok::<_, sqlx::Error>(())
///     })
///     .await;
/// match outcome {
///     Err(TransactionError::Failed(error)) => assert_eq!(Fault::of(&error), Fault::UniqueViolation),
///     other => panic!("{other:?}"),
/// }
/// let names: i64 = sqlx::query_scalar("SELECT count(*) FROM names").fetch_one(&pool).await?;
/// assert_eq!(names, 0);
/// # Ok(())
/// # }
/// ```
///
/// It is an `std::error::Error` if `E` is. `anyhow::Error` and `Box<dyn Error + Send + Sync>` are none: with these as `E`, `match` on
/// the variants, or give the closure an error type of its own.
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
    /// COMMIT failed: a deferred constraint, or a conflict that only the end of the transaction shows. Rolled back. A conflict
    /// is run again instead.
    #[error(transparent)]
    Commit(DatabaseError),
    /// The connection was lost during COMMIT, or the deadline passed. The transaction was committed or it was not, and running it again could make it
    /// happen twice: so it is not run again. Look for what it writes (an idempotency key, say), or let `ask_after_lost_commit`
    /// ask.
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
    /// The deadline passed. Rolled back. (If it passes while COMMIT is under way, that is `CommitUnknown`.)
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
/// `&mut *tx` can be given to every generated method, `&mut **tx` (it dereferences to the connection) to sqlx's own.
/// `tx.begin()` of [`sqlx::Acquire`] sets a savepoint. It ends with the closure: there is no `commit` and no `rollback` to call.
/// To roll back, return an error.
///
/// ```
/// # async fn setup() -> Result<sqlx::SqlitePool, sqlx::Error> {
/// #     let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// #     sqlx::raw_sql(
/// #         "CREATE TABLE page_views (page_id bigint PRIMARY KEY, views bigint NOT NULL);
/// #          CREATE TABLE visits (page_id bigint NOT NULL)",
/// #     ).execute(&pool).await?;
/// #     Ok(pool)
/// # }
/// use rowlock::{Counter, Tx};
///
/// #[derive(sqlx::FromRow, Counter)]
/// #[rowlock(table = "page_views")]
/// struct PageViews {
///     #[rowlock(key)]
///     page_id: i64,
///     #[rowlock(counter)]
///     views: i64,
/// }
///
/// async fn visit(tx: &mut Tx<sqlx::Sqlite>, page: i64) -> Result<i64, VisitError> {
///     sqlx::query("INSERT INTO visits VALUES ($1)").bind(page).execute(&mut **tx).await.map_err(VisitError::Log)?;
///     PageViews::add_views(&mut *tx, page, 1).await.map_err(VisitError::Count)
/// }
///
/// #[derive(Debug)]
/// enum VisitError {
///     Log(sqlx::Error),
///     Count(rowlock::CounterError),
/// }
/// # impl std::fmt::Display for VisitError {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("cannot count the visit") }
/// # }
/// # impl std::error::Error for VisitError {
/// #     fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
/// #         match self { Self::Log(error) => Some(error), Self::Count(error) => Some(error) }
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = setup().await?;
/// let views = rowlock::transaction(&pool).run(async |tx| visit(tx, 7).await).await?;
/// assert_eq!(views, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tx<DB: Backend> {
    connection: PoolConnection<DB>,
    state: State,
    /// Tells transactions apart, so that a lock of one is not taken for a lock of another.
    id: u64,
    /// What to put back after BEGIN.
    limit: Option<String>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Beginning,
    /// Beginning, and waiting for a lock that somebody may hold for long.
    Waiting,
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

impl<DB: Backend> Drop for Tx<DB> {
    fn drop(&mut self) {
        match self.state {
            State::Ended => {}
            State::Open => DB::TransactionManager::start_rollback(&mut self.connection),
            State::Beginning => DB::abandon_begin(&mut self.connection),
            // A ROLLBACK would stand behind the wait, and the connection would be of no use to the pool until then.
            State::Waiting => self.close(),
        }
        if let Some(limit) = self.limit.take() {
            DB::be_as_before_soon(&mut self.connection, limit);
        }
    }
}

impl<DB: Backend> Tx<DB> {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn link(&mut self) -> Link<'_, DB> {
        Link::new(&mut *self.connection)
    }

    /// `None` if the lock that the transaction should begin with is somebody else's and is not to be waited for.
    async fn begin(
        connection: PoolConnection<DB>,
        begin: &Begin,
    ) -> Result<Option<Self>, sqlx::Error> {
        let mut tx = Self {
            connection,
            state: State::Beginning,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            limit: None,
        };
        let begun = match begin.advisory {
            None => tx.send_begin(begin).await,
            Some(lock) if DB::HAS_ADVISORY_LOCKS => {
                if !lock.tries {
                    tx.state = State::Waiting;
                }
                tx.send_begin(begin).await
            }
            // The lock is that of BEGIN, and the limit one of the connection.
            Some(lock) => {
                tx.limit = DB::be_patient(&mut tx.connection, lock.limit(), "").await?;
                let begun = tx.send_begin(begin).await;
                let limit = tx.limit.clone();
                let as_before = DB::be_as_before(&mut tx.connection, limit, begun.is_ok()).await;
                tx.limit = None;
                begun.and(as_before)
            }
        };
        if let Err(error) = begun {
            // It was answered, so what follows waits for nobody.
            if tx.state == State::Waiting {
                tx.state = State::Beginning;
            }
            return Err(error);
        }
        if let Some(lock) = begin.advisory
            && lock.tries
            && !DB::try_advisory_lock(&mut tx.connection, lock).await?
        {
            tx.rollback().await;
            return Ok(None);
        }
        Ok(Some(tx))
    }

    async fn send_begin(&mut self, begin: &Begin) -> Result<(), sqlx::Error> {
        let statement = AssertSqlSafe(DB::begin_sql(begin)).into_sql_str();
        DB::TransactionManager::begin(&mut self.connection, Some(statement)).await?;
        self.state = State::Open;
        Ok(())
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

/// What is done between BEGIN and COMMIT. A trait and not a closure, because the futures of a closure that wraps another
/// one cannot be shown to be `Send`.
pub(crate) trait Work<DB: Backend>: Send + Sync {
    type Output: Send;
    type Error: Send;
    /// Whether it ends with a statement, which fails if an earlier one made the server give the transaction up. Then
    /// none is needed before COMMIT to find that out.
    const ENDS_WITH_A_STATEMENT: bool = false;

    fn run(
        &self,
        tx: &mut Tx<DB>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    fn fault(error: &Self::Error) -> Option<Fault>;
}

/// The user's closure, and how its error is looked into.
struct Closure<F, R, By>(F, PhantomData<fn() -> (R, By)>);

impl<DB, F, T, E, By> Work<DB> for Closure<F, Result<T, E>, By>
where
    DB: Backend,
    T: Send,
    E: FailureOf<By> + Send,
    F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Send + Sync,
{
    type Output = T;
    type Error = E;

    fn run(&self, tx: &mut Tx<DB>) -> impl Future<Output = Result<T, E>> + Send {
        self.0(tx)
    }

    fn fault(error: &E) -> Option<Fault> {
        error.fault()
    }
}

/// How one attempt ended.
enum Ended<T, E> {
    Committed(T),
    /// The deadline passed before COMMIT was sent.
    TooLate,
    /// Somebody else has the lock that it should begin with.
    NotFree,
    /// Whether another attempt can help is the fault's to say.
    Failed(TransactionError<E>, Option<Fault>),
}

impl<DB: Backend> TransactionBuilder<DB> {
    /// Runs `body` in a transaction and commits; all of it again, in a new transaction, if the database asks for that.
    ///
    /// `body` is an `async |tx| { … }` with `tx: &mut Tx`. Its `Ok` commits, its `Err` rolls back. `E` is any error type whose
    /// `source()` chain leads to the database's error, or `anyhow::Error`, or `Box<dyn Error + Send + Sync>`; an error that was made
    /// into a string is never run again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    /// # sqlx::raw_sql("CREATE TABLE bookings (room bigint NOT NULL, guest text NOT NULL)").execute(&pool).await?;
    /// use std::time::Duration;
    ///
    /// let guest = "Ann";
    /// let booked = rowlock::transaction(&pool)
    ///     .serializable()
    ///     .attempts(10)
    ///     .deadline(Duration::from_secs(2))
    ///     .on_retry(|retry| eprintln!("attempt {} lost: {}", retry.attempt, retry.fault))
    ///     .run(async |tx| {
    ///         let taken: i64 = sqlx::query_scalar("SELECT count(*) FROM bookings WHERE room = 12")
    ///             .fetch_one(&mut **tx)
    ///             .await?;
    ///         if taken > 0 {
    ///             return Ok(false);
    ///         }
    ///         sqlx::query("INSERT INTO bookings VALUES (12, $1)").bind(guest).execute(&mut **tx).await?;
    ///         Ok::<_, sqlx::Error>(true)
    ///     })
    ///     .await?;
    /// assert!(booked);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # The closure must be safe to run again
    ///
    /// It begins from nothing each time: read all that the decision depends on inside it. What it did in the database is rolled
    /// back before it runs again; an e-mail that it sent, a message, a file, a counter in memory are not. Do those after `run`
    /// has returned `Ok`. The closure can borrow from its surroundings, but not change them.
    ///
    /// # What is run again
    ///
    /// Faults after which the same transaction can succeed without anybody changing anything
    /// ([`Fault::is_transient`]), wherever they come up: in BEGIN, in the closure's error, or in COMMIT.
    ///
    /// | run again | |
    /// |---|---|
    /// | [`Fault::Serialization`] | SQLSTATE 40001, SQLite `BUSY_SNAPSHOT` |
    /// | [`Fault::Deadlock`] | SQLSTATE 40P01 |
    /// | [`Fault::Busy`] | SQLite `BUSY` or `LOCKED` |
    /// | [`Fault::StaleStatement`] | a prepared statement whose table was altered |
    /// | [`Fault::ConnectionLost`] before COMMIT | on another connection |
    /// | [`Fault::LimitReached`] in BEGIN | too many connections: SQLSTATE 53300, 53400 |
    ///
    /// Never run again: a connection that was lost during COMMIT, unless the server could be asked and says that it was rolled
    /// back; a violated constraint; `Stale` and `OutOfBounds` of the generated methods, which are for the caller to decide; lock and
    /// statement timeouts; a pool without a free connection; errors that are not the database's.
    ///
    /// Before each further attempt it waits for a random time between zero and a ceiling, which doubles from attempt to attempt
    /// up to a limit ([`backoff`](Self::backoff)). The connection goes back to the pool before the wait.
    ///
    /// # SQL
    ///
    /// On PostgreSQL, each line one round trip:
    ///
    /// ```sql
    /// BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL lock_timeout = 200; SET LOCAL statement_timeout = 2000
    /// -- the closure's statements
    /// SELECT pg_current_xact_id_if_assigned()::text
    /// COMMIT
    /// ```
    ///
    /// of which the first has only what was asked for. PostgreSQL answers COMMIT of an aborted transaction with a rollback and no
    /// error, and sqlx with `Ok`; the statement before it fails in this case, and yields the id that
    /// `ask_after_lost_commit` needs. It costs a round trip, also while rows are locked.
    ///
    /// On SQLite `BEGIN IMMEDIATE`, or with [`read_only`](Self::read_only) `BEGIN`, and `COMMIT`. `BEGIN IMMEDIATE` takes the write lock
    /// of the whole database, so there is one such transaction at a time, and it never loses: only BEGIN can be
    /// [`Fault::Busy`], and in the journal modes other than WAL also COMMIT, which then waits for those who read. `read_only` takes
    /// no lock there and refuses no write.
    ///
    /// # Isolation
    ///
    /// Below SERIALIZABLE a decision is safe only for rows that were locked first (see [`Lockable`](derive@crate::Lockable)), and for
    /// checks that are part of the writing statement. A read in SERIALIZABLE can be refused at COMMIT: nothing that was read
    /// holds before `run` has returned `Ok`.
    ///
    /// # Errors
    ///
    /// | [`TransactionError`] | |
    /// |---|---|
    /// | `Failed(error)` | the closure's error, if running it again would not help |
    /// | `Aborted` | the closure returned `Ok` although a statement in it had failed, and PostgreSQL had given the transaction up |
    /// | `Begin` | no connection, or BEGIN failed; the closure was not run in this attempt |
    /// | `Commit` | COMMIT failed, of a deferred constraint for example |
    /// | `CommitUnknown` | the connection was lost during COMMIT: committed or not |
    /// | `Exhausted` | every attempt failed in a way that another one could have mended; has the last error |
    /// | `DeadlineExceeded` | the deadline passed |
    /// | `NotRun` | `attempts(0)` |
    ///
    /// A deadline that passes during COMMIT is `CommitUnknown`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or a panic in the closure, rolls back, also if BEGIN was under way (which sqlx 0.9.0 alone would
    /// leave open). A statement that was sent goes on until the rollback is reached. If COMMIT was under way, the
    /// transaction was committed or it was not.
    ///
    /// # Where it comes from
    ///
    /// `atomic` of Django and `transaction` of Ecto and Rails, with the loop that
    /// [PostgreSQL's manual](https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html) asks for, as
    /// CockroachDB's client libraries have it. The waits are the "full jitter" of
    /// [Exponential Backoff And Jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
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
        async move { self.run_work(&Closure(body, PhantomData)).await }
    }

    /// Runs `work`, again from its start where that can help.
    pub(crate) fn run_work<W: Work<DB>>(
        &self,
        work: &W,
    ) -> impl Future<Output = Result<W::Output, TransactionError<W::Error>>> + Send {
        async move {
            if self.attempts == 0 {
                return Err(TransactionError::NotRun);
            }
            if let Some(budget) = &self.budget {
                budget.deposit();
            }
            let ends = self.ends();
            let mut attempt = 0;
            let mut stale = false;
            loop {
                attempt += 1;
                let exceeded = TransactionError::DeadlineExceeded { attempts: attempt };
                if ends.is_some_and(|ends| ends <= Instant::now()) {
                    return Err(exceeded);
                }
                let (error, fault) = match self.run_once(work, ends, stale).await {
                    Ended::Committed(value) => return Ok(value),
                    Ended::TooLate => return Err(exceeded),
                    Ended::NotFree => return Err(TransactionError::NotRun),
                    Ended::Failed(error, fault) => (error, fault),
                };
                let passes = match error {
                    TransactionError::Begin(_) => Fault::is_transient_at_begin,
                    _ => Fault::is_transient,
                };
                let Some(fault) = fault.filter(|fault| passes(*fault)) else {
                    return Err(error);
                };
                stale |= fault == Fault::StaleStatement;
                let refused = || !self.budget.as_ref().is_none_or(RetryBudget::withdraw);
                if attempt == self.attempts || refused() {
                    tracing::debug!(attempt, %fault, "gave up");
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
                tracing::debug!(attempt, %fault, ?wait, "runs again");
                if within(ends, tokio::time::sleep(wait)).await.is_none() {
                    return Err(exceeded);
                }
            }
        }
        .instrument(tracing::debug_span!("rowlock.transaction"))
    }

    /// Makes an advisory lock the first thing of the transaction.
    pub(crate) fn under(mut self, lock: TakeLock) -> Self {
        self.advisory = Some(lock);
        self
    }

    /// Runs `work` at most once. `None` if somebody else has the lock.
    pub(crate) async fn run_work_once<W: Work<DB>>(
        &self,
        work: &W,
    ) -> Result<Option<W::Output>, TransactionError<W::Error>> {
        match self.run_once(work, self.ends(), false).await {
            Ended::Committed(value) => Ok(Some(value)),
            Ended::TooLate => Err(TransactionError::DeadlineExceeded { attempts: 1 }),
            Ended::NotFree => Ok(None),
            Ended::Failed(error, _) => Err(error),
        }
    }

    fn ends(&self) -> Option<Instant> {
        self.deadline
            .and_then(|left| Instant::now().checked_add(left))
    }

    async fn run_once<W: Work<DB>>(
        &self,
        work: &W,
        ends: Option<Instant>,
        stale: bool,
    ) -> Ended<W::Output, W::Error> {
        let Some(begun) = within(ends, self.begin(ends)).await else {
            return Ended::TooLate;
        };
        let mut tx = match begun {
            Ok(Some(tx)) => tx,
            Ok(None) => return Ended::NotFree,
            Err(error) => {
                let error = describe(error);
                let fault = error.fault();
                return Ended::Failed(TransactionError::Begin(error), Some(fault));
            }
        };
        if stale {
            // What one connection of the pool has prepared is stale on all of them, and each would cost an attempt. If this
            // fails, so does the work.
            within(ends, tx.connection.clear_cached_statements()).await;
        }
        // Dropping what did not end in time queues a ROLLBACK.
        let value = match within(ends, work.run(&mut tx)).await {
            None => return Ended::TooLate,
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                let fault = W::fault(&error);
                within(ends, tx.rollback()).await;
                return Ended::Failed(TransactionError::Failed(error), fault);
            }
        };
        let check = async {
            if W::ENDS_WITH_A_STATEMENT && !self.ask_after_commit {
                return Ok(None);
            }
            DB::before_commit(&mut tx).await
        };
        let id = match within(ends, check).await {
            None => return Ended::TooLate,
            Some(Ok(id)) => id,
            Some(Err(error)) => {
                let error = describe(error);
                let fault = error.fault();
                within(ends, tx.rollback()).await;
                return match fault {
                    // The statement that failed is not known, so neither is whether it was worth another attempt.
                    Fault::TransactionAborted => {
                        Ended::Failed(TransactionError::Aborted(error), None)
                    }
                    fault => Ended::Failed(TransactionError::Commit(error), Some(fault)),
                };
            }
        };
        let commit = DB::TransactionManager::commit(&mut tx.connection);
        let error = match within(ends, commit).await {
            Some(Ok(())) => {
                tx.state = State::Ended;
                return Ended::Committed(value);
            }
            Some(Err(error)) => describe(error),
            // A COMMIT without an answer is as good as a lost connection.
            None => describe(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        };
        let fault = error.fault();
        tx.close();
        drop(tx);
        if !fault.may_have_committed() {
            return Ended::Failed(TransactionError::Commit(error), Some(fault));
        }
        match self.what_became_of(id).await {
            Some(true) => Ended::Committed(value),
            Some(false) => Ended::Failed(TransactionError::Commit(error), Some(fault)),
            None => Ended::Failed(TransactionError::CommitUnknown(error), None),
        }
    }

    async fn begin(&self, ends: Option<Instant>) -> Result<Option<Tx<DB>>, sqlx::Error> {
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
            advisory: self.advisory,
        };
        Tx::begin(self.pool.acquire().await?, &begin).await
    }

    /// Whether the transaction with this id was committed, if the caller wants to know and the server can tell.
    async fn what_became_of(&self, id: Option<String>) -> Option<bool> {
        if !self.ask_after_commit {
            return None;
        }
        let id = id?;
        let question = async {
            let mut connection = self.pool.acquire().await.ok()?;
            DB::was_committed(&mut connection, id).await
        };
        let answer = tokio::time::timeout(LONGEST_QUESTION, question).await;
        answer.ok().flatten()
    }
}

/// Waits for `future` until the deadline, if there is one.
async fn within<F: Future>(ends: Option<Instant>, future: F) -> Option<F::Output> {
    match ends {
        None => Some(future.await),
        Some(ends) => tokio::time::timeout_at(ends.into(), future).await.ok(),
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

pub(crate) fn describe(error: sqlx::Error) -> DatabaseError {
    DatabaseError::new(Attempt::new("transaction", "", KeyText::default()), error)
}
