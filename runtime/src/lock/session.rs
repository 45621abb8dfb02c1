//! Advisory locks for work that cannot be in one transaction.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, Postgres, Row};

use crate::db::begin::{TakeLock, look};
use crate::db::error::{DatabaseError, Operation};
use crate::db::fault::Fault;
use crate::db::source::Link;
use crate::lock::advisory::{AcquireError, AdvisoryLock, AdvisoryLocks, AdvisoryMode};
use crate::lock::key::LockKey;
use crate::observe;
use crate::tx::describe;

/// An [`AdvisoryLock`] that a connection holds, over any number of transactions. PostgreSQL only.
///
/// For work that cannot be in one transaction: it takes hours, or is of several. Where it can, [`AdvisoryLock::run`] is
/// simpler and safer.
///
/// It owns the connection, which counts among the pool's until it is given back, and dereferences to it. Work on this
/// connection: if it dies the lock is gone, and what goes on elsewhere is not protected any more and does not notice.
///
/// ```no_run
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use rowlock::lock::{AdvisoryLock, SessionLock};
///
/// let lock = AdvisoryLock::new("reindex");
/// let Some(mut held) = SessionLock::try_acquire(&pool, &lock).await? else {
///     return Ok(());
/// };
/// for table in ["REINDEX TABLE orders", "REINDEX TABLE customers"] {
///     sqlx::query(table).execute(&mut *held).await?;
/// }
/// held.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Dropping it
///
/// closes the connection, and the server frees the lock. So does all that leaves the state of the connection in doubt. Only
/// [`release`](Self::release) that returns `Ok` gives the connection back to the pool. Session settings, temporary tables and prepared
/// transactions of yours are not looked for: put them back yourself, or drop the lock instead of releasing it.
///
/// # Poolers
///
/// Not usable behind a pooler in transaction or statement mode: the next statement goes to another session, which
/// does not have the lock, while the one that has it serves others and keeps it. Connect to the server itself.
///
/// # If the process or the connection dies
///
/// The server frees the lock when it notices: at once if the process was killed, after its TCP keepalive if the machine or the
/// network is gone. Ask [`is_held`](Self::is_held) between two steps. No lock of this kind stops a step that is under way:
/// what must not happen twice has to be checked by the database that it is written to.
///
/// # Where it comes from
///
/// `PgAdvisoryLock` of sqlx, whose guard queues the unlock when it is dropped: it is sent when the connection is used next, and
/// refused in an aborted transaction.
#[derive(Debug)]
#[must_use = "dropping it frees the lock"]
pub struct SessionLock {
    connection: PoolConnection<Postgres>,
    key: LockKey,
    lock: TakeLock,
    /// Whether the connection is known to hold no lock of ours.
    is_clean: bool,
}

impl Deref for SessionLock {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for SessionLock {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        if !self.is_clean {
            self.connection.close_on_drop();
        }
    }
}

/// Whether the connection has no advisory lock at all.
const HOLDS_NOTHING: &str = "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";

impl SessionLock {
    /// Waits for the lock, as long as [`AdvisoryLock::lock_timeout`] says or else as the server does; before that for a connection of
    /// the pool, as long as its `acquire_timeout` says.
    ///
    /// One round trip, not prepared: `SELECT set_config('client_connection_check_interval', …); SELECT set_config('lock_timeout', …);
    /// SELECT pg_advisory_lock(…)`, where the settings last for these statements only.
    ///
    /// # Errors
    ///
    /// [`AcquireError`]: `LockTimeout`, `Deadlock`, `Database`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection: the pool has room for another one at once, and the server gives the wait up within a second
    /// (where it cannot notice, when its turn comes or a timeout ends it: see [`AdvisoryLock::run`]).
    pub fn acquire<G>(
        pool: &PgPool,
        lock: &AdvisoryLock<G>,
    ) -> impl Future<Output = Result<Self, AcquireError>> + Send + use<G>
    where
        G: AdvisoryMode<Postgres>,
    {
        let (pool, key, lock) = (pool.clone(), lock.lock_key().clone(), lock.take(false));
        async move {
            let (session, _) = Self::take(&pool, key, lock).await?;
            Ok(session)
        }
    }

    /// Takes the lock if nobody has it; `None` if somebody does. `SELECT pg_try_advisory_lock(…)`.
    ///
    /// It does not wait for the lock, but first for a connection of the pool, for up to the pool's `acquire_timeout`. If there is none
    /// by then, that is `Database` with [`Fault::PoolTimedOut`] and not `None`.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Database`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub fn try_acquire<G>(
        pool: &PgPool,
        lock: &AdvisoryLock<G>,
    ) -> impl Future<Output = Result<Option<Self>, AcquireError>> + Send + use<G>
    where
        G: AdvisoryMode<Postgres>,
    {
        let (pool, key, lock) = (pool.clone(), lock.lock_key().clone(), lock.take(true));
        async move {
            let (mut session, taken) = Self::take(&pool, key, lock).await?;
            session.is_clean = !taken;
            Ok(Some(session).filter(|_| taken))
        }
    }

    async fn take(
        pool: &PgPool,
        key: LockKey,
        lock: TakeLock,
    ) -> Result<(Self, bool), AcquireError> {
        let connection = match pool.acquire().await {
            Ok(connection) => connection,
            Err(error) => return Err(AcquireError::new(&key, error)),
        };
        // From here on, whatever ends this closes the connection.
        let mut session = Self {
            connection,
            key,
            lock,
            is_clean: false,
        };
        let begun = Instant::now();
        let asked = Postgres::ask(&mut Link::new(&mut *session), lock.for_session()).await;
        let is_taken = matches!(asked, Ok(Some(true)));
        observe::waited_for_lock("session", begun.elapsed(), is_taken);
        match asked {
            Ok(_) => Ok((session, is_taken)),
            Err(error) => {
                let error = AcquireError::new(&session.key, error);
                // An error of the wait does not say that nothing was locked. If the lock is granted in the same moment in which
                // the timeout fires, the server keeps it, and a lock of the session is not undone by the error.
                if let AcquireError::LockTimeout(_) | AcquireError::Deadlock(_) = error {
                    let clean =
                        Postgres::ask(&mut Link::new(&mut *session), HOLDS_NOTHING.to_owned())
                            .await;
                    session.is_clean = matches!(clean, Ok(Some(true)));
                }
                Err(error)
            }
        }
    }

    /// The connection that holds the lock. The value dereferences to it, too.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Whether the server says that this connection holds the lock. `false` also if the connection is lost.
    ///
    /// It looks at `pg_locks`. The lock can be lost behind the answer.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Database`], in an aborted transaction for example.
    ///
    /// # Cancel safety
    ///
    /// The lock stays.
    pub fn is_held(&mut self) -> impl Future<Output = Result<bool, AcquireError>> + Send {
        async move {
            let sql = look(self.key.number(), true);
            match Postgres::ask(&mut Link::new(&mut *self.connection), sql).await {
                Ok(held) => Ok(held == Some(true)),
                Err(error) if Fault::of(&error) == Fault::ConnectionLost => Ok(false),
                Err(error) => Err(AcquireError::new(&self.key, error)),
            }
        }
    }

    /// Frees the lock, and gives the connection back to the pool if all is in order: the lock was held, no transaction is open
    /// and no other advisory lock is left. Else the connection is closed.
    ///
    /// One round trip, not prepared: `SELECT pg_advisory_unlock(…)`, and two questions about the rest.
    ///
    /// # Errors
    ///
    /// In every case the lock is free, or will be when the server has noticed that the connection is closed.
    ///
    /// | [`ReleaseError`] | |
    /// |---|---|
    /// | `NotHeld` | the connection did not hold the lock: it was unlocked by hand, or there is a pooler in between. The work was not protected |
    /// | `OpenTransaction` | a transaction was begun on the connection and not ended; it is rolled back |
    /// | `Database` | the server did not answer, or refused, as it does in an aborted transaction |
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub fn release(self) -> impl Future<Output = Result<(), ReleaseError>> + Send {
        async move {
            // All of it: the block would else copy `is_clean`, and Drop would not see the change.
            let mut session = self;
            let key = session.key.clone();
            let sql = sqlx::raw_sql(AssertSqlSafe(session.lock.unlock_session()));
            let answers = match session.connection.fetch_all(sql).await {
                Ok(rows) => rows.iter().map(|row| row.try_get(0)).collect(),
                Err(error) => Err(error),
            };
            let failed =
                |error| ReleaseError::Database(describe(error).with_operation(key.operation()));
            let answers: Vec<bool> = answers.map_err(failed)?;
            match answers[..] {
                [true, true, is_clean] => {
                    session.is_clean = is_clean;
                    Ok(())
                }
                [true, ..] => Err(ReleaseError::OpenTransaction(key.operation())),
                _ => Err(ReleaseError::NotHeld(key.operation())),
            }
        }
    }
}

/// Why a [`SessionLock`] was not released in order. The connection is closed, and with it the lock is free.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The connection did not hold the lock.
    #[error("{0}: the connection did not hold it any more, and the work was not protected")]
    NotHeld(Operation),
    /// A transaction was left open on the connection, and is rolled back.
    #[error("{0}: a transaction was left open on the connection, and is rolled back")]
    OpenTransaction(Operation),
    /// The database or the connection failed.
    #[error(transparent)]
    Database(DatabaseError),
}
