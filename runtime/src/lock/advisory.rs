//! Advisory locks: work that only one at a time may do, whatever rows it touches.

use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use sqlx::Pool;
use tracing::Instrument;

use crate::db::Backend;
use crate::db::begin::{TakeLock, look};
use crate::db::error::{DatabaseError, Operation};
use crate::db::fault::Fault;
use crate::db::source::{Link, Opened, Source};
use crate::lock::key::{LockKey, LockKeyPart};
use crate::row::lockable::{Exclusive, Share};
use crate::tx::{
    Body, Carries, FailureOf, InTransaction, TransactionError, Tx, Work, describe, transaction,
};

/// A named lock: work that only one process may do at a time, among all that use the database.
///
/// It is a name and locks nothing until you call one of its methods. [`run`](Self::run) waits for its turn; [`try_run`](Self::try_run) leaves the
/// work to the current holder.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::raw_sql("CREATE TABLE reports (night text NOT NULL)").execute(&pool).await?;
/// use rowlock::lock::AdvisoryLock;
///
/// let written = AdvisoryLock::new("nightly-report")
///     .try_run(&pool, async |tx| {
///         sqlx::query("INSERT INTO reports VALUES ('2026-11-21')").execute(&mut *tx).await?;
///         Ok::<_, sqlx::Error>("written")
///     })
///     .await?;
/// match written {
///     Some(report) => println!("{report}"),
///     None => println!("another process is at it"),
/// }
/// # assert_eq!(written, Some("written"));
/// # Ok(())
/// # }
/// ```
///
/// # What it protects, and what not
///
/// It keeps apart only those who take it; it guards no table. It ends with the transaction that holds it, by COMMIT, ROLLBACK or the end of the
/// connection, so there is no unlock to forget. If the connection dies, the server gives the lock to the next one at once, while the running work may
/// not know yet: what it does outside its transaction can then overlap with the next one. What it does inside is rolled back.
///
/// "At most one at a time" is not "once": a later caller runs again. Record what was done, in the transaction, and check for it first.
///
/// # Where it is held
///
/// | | PostgreSQL | SQLite |
/// |---|---|---|
/// | [`run`](Self::run), [`try_run`](Self::try_run) | a transaction of its own | the one write transaction of the database |
/// | [`lock`](Self::lock), [`try_lock`](Self::try_lock) | the caller's transaction | does not compile |
/// | `SessionLock` | a connection of its own | not available |
///
/// On SQLite the name does not matter: any writer of the database keeps out all others, with this lock or without. So different names wait for each
/// other, and `try_run` returns `None` because of any writer, even one that has just finished. That is as safe, and good enough for short work.
///
/// # The key
///
/// PostgreSQL locks a 64-bit number: the first eight bytes, big-endian and signed, of the SHA-256 of a text in UTF-8. The text is
/// `rowlock:advisory:1`, and for the name and each part a space, its kind, the length of its bytes, a colon and its value. The kinds are `s` text,
/// `i` integer in decimal, `b` `true` or `false`, `x` bytes in lower-case hexadecimal.
///
/// ```text
/// AdvisoryLock::new("nightly-report")            rowlock:advisory:1 s14:nightly-report
/// AdvisoryLock::of("invoice", (42, "2026-11"))   rowlock:advisory:1 s7:invoice i2:42 s7:2026-11
/// ```
///
/// In Python, and in SQL (where `octet_length` counts as UTF-8 if the database does):
///
/// ```text
/// def part(kind, value):
///     return f" {kind}{len(str(value).encode())}:{value}"
/// text = "rowlock:advisory:1" + part("s", "invoice") + part("i", 42) + part("s", "2026-11")
/// key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)   # 5171724266116172653
/// ```
///
/// ```sql
/// SELECT ('x' || left(encode(sha256(convert_to(
///     format('rowlock:advisory:1 s%s:%s i%s:%s s%s:%s',
///         octet_length(namespace), namespace, octet_length(tenant::text), tenant, octet_length(month), month),
///     'UTF8')), 'hex'), 16))::bit(64)::bigint
/// FROM (VALUES ('invoice', 42, '2026-11')) AS lock (namespace, tenant, month)
/// ```
///
/// The key is the same in every version of rowlock, or the number in the text changes. Two names with the same number (with five billion names in
/// use, an even chance that any two collide) wait for each other needlessly, and nothing worse. The keys of two 32-bit numbers are a separate space
/// on the server, which rowlock does not use.
///
/// # Poolers
///
/// Behind a pooler in transaction mode (PgBouncer), `run`, `try_run`, `lock`, `try_lock` and `is_held` work and prepare nothing. Your own statements
/// are another matter: sqlx prepares them under names that such a pooler must know (PgBouncer since 1.21, with `max_prepared_statements`). The
/// generated methods of rowlock prepare theirs too. With an older one, use `sqlx::raw_sql`, or inside the transaction `.persistent(false)` on each
/// query; `statement_cache_capacity(0)` alone does not help with sqlx 0.9.0.
///
/// # Origin
///
/// `with_advisory_lock` of Ruby and `pg_advisory_xact_lock` of PostgreSQL's
/// [manual](https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS).
#[derive(Debug)]
#[must_use = "it is only a name until a method locks it"]
pub struct AdvisoryLock<G = Exclusive> {
    key: LockKey,
    timeout: Option<Duration>,
    mode: PhantomData<fn() -> G>,
}

// Not derived: that would ask for `G: Clone`.
impl<G> Clone for AdvisoryLock<G> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            ..*self
        }
    }
}

/// A database with advisory locks beside its transactions.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no advisory locks: they can be neither shared nor taken inside a transaction that is open already",
    label = "needs PostgreSQL",
    note = "use `AdvisoryLock::run` or `try_run`, without `shared`: on SQLite they keep everybody out by the one write transaction"
)]
pub trait AdvisoryLocks: Backend {
    /// Runs unprepared statements and yields the first column of the last row.
    #[doc(hidden)]
    fn ask(
        link: &mut Link<'_, Self>,
        sql: String,
    ) -> impl Future<Output = Result<Option<bool>, sqlx::Error>> + Send;
}

#[cfg(feature = "postgres")]
impl AdvisoryLocks for sqlx::Postgres {
    async fn ask(link: &mut Link<'_, Self>, sql: String) -> Result<Option<bool>, sqlx::Error> {
        use sqlx::Row;

        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        let mut last = None;
        link.run(sql, |result| last = result.right().or(last.take()))
            .await?;
        match last {
            Some(row) => row.try_get(0),
            None => Ok(None),
        }
    }
}

/// Exclusive or shared, on a database that supports it.
pub trait AdvisoryMode<DB: Backend>: Send + 'static {
    #[doc(hidden)]
    const SHARED: bool;
}

#[diagnostic::do_not_recommend]
impl<DB: Backend> AdvisoryMode<DB> for Exclusive {
    const SHARED: bool = false;
}

impl<DB: AdvisoryLocks> AdvisoryMode<DB> for Share {
    const SHARED: bool = true;
}

impl AdvisoryLock {
    /// A lock with a name. Names are not secret: errors show them.
    pub fn new(name: &str) -> Self {
        Self::of(name, ())
    }

    /// A lock for one thing of a kind: `AdvisoryLock::of("invoice", (tenant_id, "2026-11"))`. Errors show the namespace, numbers, booleans and UUIDs,
    /// but no other parts.
    ///
    /// ```
    /// use rowlock::lock::AdvisoryLock;
    ///
    /// let lock = AdvisoryLock::of("invoice", (42, "2026-11"));
    /// assert_eq!(lock.key(), 5_171_724_266_116_172_653);
    /// assert_ne!(lock.key(), AdvisoryLock::of("invoice", ("42", "2026-11")).key());
    /// ```
    pub fn of(namespace: &str, parts: impl LockKeyPart) -> Self {
        Self {
            key: LockKey::new(namespace, &parts),
            timeout: None,
            mode: PhantomData,
        }
    }

    /// Shares the lock: other shared holders can have it at the same time, exclusive ones cannot. PostgreSQL only.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use rowlock::lock::AdvisoryLock;
    ///
    /// // Any number of exports, but none while an import has the same lock exclusively.
    /// let lines = AdvisoryLock::new("catalogue")
    ///     .shared()
    ///     .run(&pool, async |tx| {
    ///         sqlx::query_scalar::<_, String>("SELECT line FROM catalogue").fetch_all(&mut *tx).await
    ///     })
    ///     .await?;
    /// # drop(lines);
    /// # Ok(())
    /// # }
    /// ```
    pub fn shared(self) -> AdvisoryLock<Share> {
        AdvisoryLock {
            key: self.key,
            timeout: self.timeout,
            mode: PhantomData,
        }
    }
}

impl<G> AdvisoryLock<G> {
    /// How long [`run`](Self::run), [`lock`](Self::lock) and `SessionLock::acquire` wait for other holders, in whole milliseconds; minimum 1 (on
    /// SQLite 0). It does not limit what follows. The `try_` methods never wait.
    ///
    /// Defaults to the database's own limit: PostgreSQL waits for ever, unless `lock_timeout` or `statement_timeout` is set; SQLite waits for the
    /// connection's busy timeout, which defaults to five seconds.
    ///
    /// The wait for a connection of the pool comes first and is not part of it: the pool's `acquire_timeout` limits that, and `run` then ends as
    /// `Transaction(Begin)` with [`Fault::PoolTimedOut`]. This happens on a pool of one connection while another task of the same process has the
    /// lock.
    ///
    /// On SQLite the limit is the connection's busy timeout during BEGIN. If you drop the future then, a message to sqlx's worker thread restores the
    /// old one; its delivery cannot be awaited. With `command_buffer_size(0)`, or a full buffer of messages from other dropped futures, it is lost,
    /// and the connection keeps the limit. The same goes for `try_run`, whose limit is zero.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The number that is locked on PostgreSQL, as `pg_locks` shows it: its upper half as `classid`, its lower half as `objid`,
    /// with `objsubid` 1.
    pub fn key(&self) -> i64 {
        self.key.number()
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn lock_key(&self) -> &LockKey {
        &self.key
    }

    pub(crate) fn take<DB: Backend>(&self, tries: bool) -> TakeLock
    where
        G: AdvisoryMode<DB>,
    {
        TakeLock {
            key: self.key.number(),
            shared: G::SHARED,
            timeout: self.timeout,
            tries,
        }
    }

    /// Waits for the lock, runs `body` in a transaction that holds it, and commits.
    ///
    /// `body` is an `async |tx| { … }` with `tx: &mut Tx`, as in [`transaction`]. Its `Ok` commits, its `Err` rolls back, and the lock is free after
    /// either. It runs once, whatever happens: rowlock cannot know whether a job is safe to run again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    /// # sqlx::raw_sql("CREATE TABLE invoices (tenant bigint NOT NULL, number bigint NOT NULL)").execute(&pool).await?;
    /// use std::time::Duration;
    ///
    /// use rowlock::lock::{AdvisoryLock, AdvisoryLockError};
    ///
    /// // Numbers without gaps, per tenant.
    /// let tenant = 42;
    /// let number = AdvisoryLock::of("invoice-numbers", tenant)
    ///     .lock_timeout(Duration::from_secs(2))
    ///     .run(&pool, async |tx| {
    ///         let sql = "INSERT INTO invoices SELECT $1, coalesce(max(number), 0) + 1 FROM invoices WHERE tenant = $1
    ///             RETURNING number";
    ///         sqlx::query_scalar::<_, i64>(sql).bind(tenant).fetch_one(&mut *tx).await
    ///     })
    ///     .await;
    /// match number {
    ///     Ok(number) => assert_eq!(number, 1),
    ///     Err(AdvisoryLockError::LockTimeout(error)) => println!("busy: {error}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # SQL
    ///
    /// On PostgreSQL, each line one round trip, none of them prepared:
    ///
    /// ```sql
    /// BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('client_connection_check_interval', …); SELECT pg_advisory_xact_lock(…)
    /// SELECT
    /// -- the closure's statements
    /// COMMIT
    /// ```
    ///
    /// With [`lock_timeout`](Self::lock_timeout) the third statement sets `lock_timeout`, locks, and sets it back. The setting in the second lasts
    /// for the transaction and makes the server notice within a second that a waiting client is gone (PostgreSQL 14 and later on Linux, 15 and later
    /// on macOS and the BSDs). With the empty statement after it sqlx takes the transaction over. [`transaction`] explains COMMIT.
    ///
    /// On SQLite `BEGIN IMMEDIATE` and `COMMIT`, and with a timeout a `PRAGMA busy_timeout` before and after BEGIN.
    ///
    /// # Isolation
    ///
    /// READ COMMITTED, whatever the server's default is, and the lock comes first: each statement of `body` sees everything that the previous holder
    /// committed.
    ///
    /// # Nested calls
    ///
    /// `run` takes another connection. Called for the same lock inside `body` it waits for itself, for ever or until the timeout, and no server can
    /// detect that. Nor can it detect two callers that take two locks crosswise by a `run` inside a `run`. For a second lock use [`lock`](Self::lock)
    /// with `tx`: it succeeds if the transaction has the lock already, and PostgreSQL detects crossed waits.
    ///
    /// # Errors
    ///
    /// | [`AdvisoryLockError`] | |
    /// |---|---|
    /// | `LockTimeout` | the lock was not free in time; `body` did not run |
    /// | `Deadlock` | PostgreSQL ended a wait in a circle; `body` did not run |
    /// | `Lost` | the connection, and with it the lock, was lost while `body` ran; nothing was committed |
    /// | `Transaction` | everything else: `Failed` has `body`'s error, `CommitUnknown` is a connection lost during COMMIT |
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or a panic in `body`, rolls back and frees the lock. A connection that waits for the lock is closed, so that the pool has
    /// room for another one at once; the server gives up the wait within a second (if it cannot notice, when the connection's turn comes or a timeout
    /// ends it). On SQLite the connection is busy until BEGIN has given up, or has succeeded and was rolled back.
    pub fn run<DB, T, E, C, By, F>(
        &self,
        pool: &Pool<DB>,
        body: F,
    ) -> impl Future<Output = Result<T, AdvisoryLockError<C>>> + Send + use<DB, T, E, C, By, F, G>
    where
        DB: Backend,
        G: AdvisoryMode<DB>,
        T: Send,
        E: FailureOf<By, Carried = C> + Send,
        C: Carries<E, By>,
        F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Send + Sync,
    {
        let (key, lock, pool) = (self.key.clone(), self.take::<DB>(false), pool.clone());
        async move {
            match run_once(&pool, lock, body).await {
                Ok(Some(value)) => Ok(value),
                // Only of locks that are not waited for.
                Ok(None) => Err(AdvisoryLockError::Transaction(TransactionError::NotRun)),
                Err(error) => Err(AdvisoryLockError::new(&key, error, lock)),
            }
        }
        .instrument(tracing::debug_span!("rowlock.advisory_lock"))
    }

    /// Like [`run`](Self::run) if the lock is free; otherwise `None` at once, and `body` does not run. What `body` returns is inside `Some`, so the
    /// two cannot be confused.
    ///
    /// It does not wait for the lock, but it first waits for a connection of the pool, up to the pool's `acquire_timeout`. If there is none by then,
    /// that is `Transaction(Begin)` with [`Fault::PoolTimedOut`], not `None`: a full pool does not mean a held lock. Do not use it on a pool of one
    /// connection, as is common with SQLite.
    ///
    /// On PostgreSQL it takes one round trip more than `run`: `BEGIN`, and `SELECT pg_try_advisory_xact_lock(…)`. On SQLite `None` means that another
    /// connection is writing to the database, or has just done so.
    ///
    /// # Errors
    ///
    /// Those of `run`, without `LockTimeout`.
    ///
    /// # Cancel safety
    ///
    /// Like `run`; there is no wait for the lock to leave behind.
    pub fn try_run<DB, T, E, C, By, F>(
        &self,
        pool: &Pool<DB>,
        body: F,
    ) -> impl Future<Output = Result<Option<T>, AdvisoryLockError<C>>> + Send + use<DB, T, E, C, By, F, G>
    where
        DB: Backend,
        G: AdvisoryMode<DB>,
        T: Send,
        E: FailureOf<By, Carried = C> + Send,
        C: Carries<E, By>,
        F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Send + Sync,
    {
        let (key, lock, pool) = (self.key.clone(), self.take::<DB>(true), pool.clone());
        async move {
            match run_once(&pool, lock, body).await {
                Ok(value) => Ok(value),
                // SQLite, which says so by failing.
                Err(TransactionError::Begin(error)) if error.fault() == Fault::Busy => Ok(None),
                Err(error) => Err(AdvisoryLockError::new(&key, error, lock)),
            }
        }
        .instrument(tracing::debug_span!("rowlock.advisory_lock"))
    }

    /// Waits for the lock inside the caller's transaction, which then holds it until its end. PostgreSQL only.
    ///
    /// A transaction that has the lock gets it again. Take it before the first statement that reads what it protects. Rolling back to a savepoint set
    /// before the lock frees it.
    ///
    /// ```
    /// # #[cfg(feature = "postgres")]
    /// # async fn example(pool: sqlx::PgPool, from: i64, to: i64) -> Result<(), Box<dyn std::error::Error>> {
    /// use rowlock::lock::AdvisoryLock;
    ///
    /// let mut tx = pool.begin().await?;
    /// // In the same order everywhere, so that nobody waits in a circle.
    /// AdvisoryLock::of("account", from.min(to)).lock(&mut tx).await?;
    /// AdvisoryLock::of("account", from.max(to)).lock(&mut tx).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # SQL
    ///
    /// One round trip, not prepared: `SELECT CASE WHEN current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
    /// THEN NULL ELSE pg_advisory_xact_lock(…) IS NOT NULL END`; with [`lock_timeout`](Self::lock_timeout) the same statement also sets `lock_timeout` and sets it
    /// back.
    ///
    /// # Isolation
    ///
    /// Under REPEATABLE READ and SERIALIZABLE the transaction sees what was committed before its first statement, so the lock would come too late for
    /// everything it reads: [`AcquireError::FixedSnapshot`], and nothing is locked. The server refuses the COMMIT after a stale read only if all
    /// other transactions are SERIALIZABLE too, and [`run`](Self::run) is not.
    ///
    /// # Errors
    ///
    /// [`AcquireError`]: `LockTimeout`, `Deadlock`, `FixedSnapshot`, `NotInTransaction` (of a connection), `Database`. After all of them but
    /// `FixedSnapshot` the transaction is aborted; to go on with it, lock inside a savepoint.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the connection waiting: nobody, including the pool, can use it until the lock was free or a timeout ended the wait.
    /// So set a timeout. [`run`](Self::run) does not have this problem, because it owns its connection.
    pub fn lock<'t, DB: AdvisoryLocks, X>(
        &self,
        tx: X,
    ) -> impl Future<Output = Result<(), AcquireError>> + Send + use<'t, DB, X, G>
    where
        G: AdvisoryMode<DB>,
        X: InTransaction<'t, Database = DB>,
    {
        let lock = in_transaction(self.key.clone(), self.take::<DB>(false), tx);
        async move { lock.await.map(drop) }
    }

    /// Takes the lock inside the caller's transaction if no other session has it, and returns whether it did. PostgreSQL only.
    ///
    /// Never waits. `false` leaves the transaction as it was. Everything else is as for [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// [`AcquireError`]: `FixedSnapshot`, `NotInTransaction`, `Database`.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the transaction may have the lock.
    pub fn try_lock<'t, DB: AdvisoryLocks, X>(
        &self,
        tx: X,
    ) -> impl Future<Output = Result<bool, AcquireError>> + Send + use<'t, DB, X, G>
    where
        G: AdvisoryMode<DB>,
        X: InTransaction<'t, Database = DB>,
    {
        in_transaction(self.key.clone(), self.take::<DB>(true), tx)
    }

    /// Whether any session holds the lock, exclusively or shared. PostgreSQL only.
    ///
    /// It reads `pg_locks` and takes nothing, so it never makes another caller's `try_run` fail. The answer can be outdated when it arrives: use it
    /// for a status page, not for a decision.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Database`].
    pub fn is_held<'c, DB: AdvisoryLocks, A>(
        &self,
        db: A,
    ) -> impl Future<Output = Result<bool, AcquireError>> + Send + use<'c, DB, A, G>
    where
        A: Source<'c, DB>,
    {
        let key = self.key.clone();
        let sql = look(key.number(), false);
        async move {
            let ask = async {
                let mut opened = db.open().await?;
                let mut connection = opened.link();
                DB::ask(&mut Link::new(&mut *connection), sql).await
            };
            let held = ask.await;
            held.map(|held| held == Some(true))
                .map_err(|error| AcquireError::new(&key, error))
        }
    }
}

async fn run_once<DB, T, E, C, By, F>(
    pool: &Pool<DB>,
    lock: TakeLock,
    body: F,
) -> Result<Option<T>, TransactionError<C>>
where
    DB: Backend,
    T: Send,
    E: FailureOf<By, Carried = C> + Send,
    F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Send + Sync,
{
    transaction(pool)
        .read_committed()
        .under(lock)
        .run_work_once(&Once(body, PhantomData))
        .await
        .map_err(|error| error.map(E::carried))
}

/// The user's closure, whose error nobody looks into, as it is not run again.
struct Once<F, R>(F, PhantomData<fn() -> R>);

impl<DB, F, T, E> Work<DB> for Once<F, Result<T, E>>
where
    DB: Backend,
    T: Send,
    E: Send,
    F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Send + Sync,
{
    type Output = T;
    type Error = E;

    fn run(&self, tx: &mut Tx<DB>) -> impl Future<Output = Result<T, E>> + Send {
        self.0(tx)
    }

    fn fault(_: &E) -> Option<Fault> {
        None
    }
}

fn in_transaction<'t, DB: AdvisoryLocks>(
    key: LockKey,
    lock: TakeLock,
    tx: impl InTransaction<'t, Database = DB>,
) -> impl Future<Output = Result<bool, AcquireError>> + Send {
    async move {
        let mut link = tx.link();
        match link.is_in_transaction().await {
            Ok(true) => {}
            Ok(false) => return Err(AcquireError::NotInTransaction(key.operation())),
            Err(error) => return Err(AcquireError::new(&key, error)),
        }
        match DB::ask(&mut link, lock.in_transaction()).await {
            Ok(Some(taken)) => Ok(taken),
            Ok(None) => Err(AcquireError::FixedSnapshot(key.operation())),
            Err(error) => Err(AcquireError::new(&key, error)),
        }
    }
}

/// Why work under an [`AdvisoryLock`] has no result.
///
/// Nothing of the transaction is in the database, except perhaps after `Transaction(CommitUnknown)`. It is an `std::error::Error` if
/// `E` is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdvisoryLockError<E> {
    /// Another holder kept the lock for too long. The closure did not run.
    #[error("{0}")]
    LockTimeout(#[source] DatabaseError),
    /// Several transactions waited for each other in a circle, and the server ended this wait. The closure did not run.
    #[error("{0}")]
    Deadlock(#[source] DatabaseError),
    /// The connection was lost while the closure ran, and the lock with it: another holder may have started before the closure ended. Nothing was
    /// committed.
    ///
    /// This variant is for a closure that returned `Ok`; if a statement in it met the loss, the error is `Transaction(Failed)`.
    #[error("{0}; the lock was lost while the closure ran, and nothing was committed")]
    Lost(#[source] DatabaseError),
    /// The transaction or the closure failed.
    #[error(transparent)]
    Transaction(TransactionError<E>),
}

impl<E> AdvisoryLockError<E> {
    fn new(key: &LockKey, error: TransactionError<E>, lock: TakeLock) -> Self {
        let named = |error: DatabaseError| error.with_operation(key.operation());
        match error {
            TransactionError::Begin(error) => {
                let mut error = named(error);
                if error.fault() == Fault::Busy && lock.timeout.is_some() {
                    error = error.with_fault(Fault::LockTimeout);
                }
                match error.fault() {
                    Fault::LockTimeout | Fault::Busy => Self::LockTimeout(error),
                    Fault::Deadlock => Self::Deadlock(error),
                    _ => Self::Transaction(TransactionError::Begin(error)),
                }
            }
            // Both end the session.
            TransactionError::Commit(error)
                if matches!(
                    error.fault(),
                    Fault::ConnectionLost | Fault::TransactionTimeout
                ) =>
            {
                Self::Lost(named(error))
            }
            TransactionError::Commit(error) => {
                Self::Transaction(TransactionError::Commit(named(error)))
            }
            TransactionError::Aborted(error) => {
                Self::Transaction(TransactionError::Aborted(named(error)))
            }
            TransactionError::CommitUnknown(error) => {
                Self::Transaction(TransactionError::CommitUnknown(named(error)))
            }
            error => Self::Transaction(error),
        }
    }
}

/// Why a lock was not taken, or its state not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Another holder kept the lock for too long.
    #[error("{0}")]
    LockTimeout(#[source] DatabaseError),
    /// Several transactions waited for each other in a circle, and the server ended this wait. The transaction is aborted.
    #[error("{0}")]
    Deadlock(#[source] DatabaseError),
    /// The transaction is REPEATABLE READ or SERIALIZABLE: after the lock it would still read what was committed before. Nothing was locked. Use READ
    /// COMMITTED.
    #[error(
        "{0}: in REPEATABLE READ and SERIALIZABLE the snapshot is older than the lock; use READ COMMITTED"
    )]
    FixedSnapshot(Operation),
    /// The connection is in no transaction, where the lock would end with its statement. Nothing was locked. Begin one, or use
    /// [`run`](AdvisoryLock::run) or a `SessionLock`.
    #[error(
        "{0}: the connection is not in a transaction; begin one, and pass it or its connection"
    )]
    NotInTransaction(Operation),
    /// The database or the connection failed.
    #[error(transparent)]
    Database(DatabaseError),
}

impl AcquireError {
    pub(crate) fn new(key: &LockKey, error: sqlx::Error) -> Self {
        let error = describe(error).with_operation(key.operation());
        match error.fault() {
            Fault::LockTimeout => Self::LockTimeout(error),
            Fault::Deadlock => Self::Deadlock(error),
            _ => Self::Database(error),
        }
    }
}
