//! A few connections that are kept, and calls that wait for each other's: [`Lanes`].

mod batch;
mod call;
mod cells;
mod fold;
mod held;
mod lane;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

pub(crate) use self::batch::{Batch, Sorted};
pub(crate) use self::call::{Addition, Call, Cells, Values, of_calls};
#[cfg(feature = "postgres")]
pub(super) use self::cells::PgCells;
#[cfg(feature = "sqlite")]
pub(super) use self::cells::SqliteCells;
#[cfg(all(feature = "postgres", feature = "schema"))]
pub(crate) use self::cells::array_of;
use self::fold::{Address, Queue};
pub(crate) use self::fold::{Fold, Turn, take, take_to_add};

pub use self::lane::Lane;
use crate::db::Backend;
use crate::db::source::Source;

/// How long a call waits for a lane before it takes another connection of the pool, and how long calls wait for one that was sent before
/// another statement takes them.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long a lane may have been idle and serve without being asked whether it is well. As HikariCP has it.
const TRUSTED_FOR: Duration = Duration::from_millis(500);

/// How long a lane is waited for that a dropped call has left behind.
const DRAINED_WITHIN: Duration = Duration::from_secs(5);

/// A round trip that is shorter than this takes less time than the work for it: then calls had better wait for each other.
const NEAR: Duration = Duration::from_micros(150);

/// A few connections of a pool that stay checked out: most calls take one round trip, and under load many calls become one statement.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::raw_sql("CREATE TABLE page_views (page_id bigint PRIMARY KEY, views bigint NOT NULL)").execute(&pool).await?;
/// use rowlock::{Counter, Lanes};
///
/// #[derive(Debug, sqlx::FromRow, Counter)]
/// #[rowlock(table = "page_views")]
/// struct PageViews {
///     #[rowlock(key)]
///     page_id: i64,
///     #[rowlock(counter)]
///     views: i64,
/// }
///
/// // At the start of the program. A clone is the same lanes.
/// let lanes = Lanes::new(&pool, 4).await?;
///
/// // What takes a pool takes lanes.
/// assert_eq!(PageViews::add_views(&lanes, 7, 1).await?, 1);
///
/// // Statements of your own.
/// let mut lane = lanes.acquire().await?;
/// sqlx::query("UPDATE page_views SET views = 0").execute(&mut *lane).await?;
/// drop(lane);
///
/// lanes.close().await;
/// # Ok(())
/// # }
/// ```
///
/// The [guide](crate::_guide::lanes) says which calls share statements, what such a statement means for triggers, locks and sessions, and what the
/// limits are.
pub struct Lanes<DB: Backend>(Arc<Inner<DB>>);

impl<DB: Backend> Clone for Lanes<DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<DB: Backend> fmt::Debug for Lanes<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("lanes", &self.0.count)
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

struct Inner<DB: Backend> {
    pool: Pool<DB>,
    count: usize,
    /// Those that nobody uses. The one that was used last is used next.
    idle: Mutex<Vec<Kept<DB>>>,
    /// One for each lane, in use or not; who waits for one stands in a row.
    permits: Semaphore,
    /// How many stand there.
    waiting: AtomicUsize,
    /// For how many rows that are locked a call may wait at once, each on a connection of the pool: so many that one is left for the others.
    patient: Arc<Semaphore>,
    queues: RwLock<HashMap<Address, Arc<Queue<DB>>>>,
    is_near: bool,
    /// Whether a task looks after calls that wait for long.
    is_watched: AtomicBool,
    /// No new calls are taken.
    is_closing: AtomicBool,
    /// Waits for the end of the pool.
    closer: OnceLock<AbortHandle>,
}

impl<DB: Backend> Drop for Inner<DB> {
    fn drop(&mut self) {
        // It has the pool, which would live as long.
        if let Some(closer) = self.closer.get() {
            closer.abort();
        }
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        idle.drain(..).for_each(Kept::leave);
    }
}

/// A connection that nobody uses.
struct Kept<DB: Backend> {
    connection: PoolConnection<DB>,
    opened: Instant,
    used: Instant,
}

impl<DB: Backend> Kept<DB> {
    /// Gives it back to the pool, which spawns a task for that. Where there is no runtime, in a `main` after `block_on`, it would panic; there the
    /// connection is closed.
    fn leave(self) {
        if Handle::try_current().is_err() {
            drop(self.connection.detach());
        }
    }
}

impl<DB: Backend> Lanes<DB> {
    /// Takes `count` connections of the pool and keeps them. Minimum 1; always 1 on SQLite, which has one writer.
    ///
    /// The pool's options apply: `after_connect`, and `max_lifetime`, after which a lane is closed and replaced. Lanes count towards the pool's
    /// `max_connections`; leave as many more as calls are served beside the lanes: those that wait for a locked row, and transactions. Eight lanes
    /// are seldom better than four.
    ///
    /// # Errors
    ///
    /// As [`Pool::acquire`]: the database cannot be reached, or the pool has fewer connections to give.
    pub async fn new(pool: &Pool<DB>, count: usize) -> Result<Self, sqlx::Error> {
        let count = if DB::EMBEDDED { 1 } else { count.max(1) };
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            let connection = pool.acquire().await?;
            idle.push(Kept::new(connection));
        }
        let trip = match idle.last_mut() {
            Some(kept) => round_trip(&mut kept.connection).await?,
            None => Duration::ZERO,
        };
        let inner = Arc::new(Inner {
            pool: pool.clone(),
            count,
            idle: Mutex::new(idle),
            permits: Semaphore::new(count),
            waiting: AtomicUsize::new(0),
            patient: Arc::new(Semaphore::new(patient(pool, count))),
            queues: RwLock::default(),
            is_near: trip < NEAR,
            is_watched: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            closer: OnceLock::new(),
        });
        // A pool that is being closed waits for all its connections.
        let closer = tokio::spawn(close_with(pool.clone(), Arc::downgrade(&inner)));
        let _ = inner.closer.set(closer.abort_handle());
        Ok(Self(inner))
    }

    /// Lends a lane, for statements of sqlx: `query.execute(&mut *lanes.acquire().await?)`. Dropping it gives it back.
    ///
    /// After 20 milliseconds without a free lane it lends another connection of the pool.
    ///
    /// # Errors
    ///
    /// As [`Pool::acquire`], and [`sqlx::Error::PoolClosed`] after [`close`](Self::close).
    pub async fn acquire(&self) -> Result<Lane<DB>, sqlx::Error> {
        self.0.is_open()?;
        self.0.lane().await
    }

    /// The pool that the lanes belong to.
    pub fn pool(&self) -> &Pool<DB> {
        &self.0.pool
    }

    /// Closes each lane when it is free. New calls fail with [`sqlx::Error::PoolClosed`]; waiting ones are still served.
    ///
    /// The pool stays open. [`Pool::close`] also closes the lanes.
    pub async fn close(&self) {
        self.0.close().await;
    }

    /// Whether [`close`](Self::close) has been called.
    pub fn is_closed(&self) -> bool {
        self.0.is_closing.load(Ordering::Relaxed)
    }
}

impl<'c, DB: Backend> Source<'c, DB> for &'c Lanes<DB> {
    type Opened = Lane<DB>;

    fn open(self) -> impl Future<Output = Result<Lane<DB>, sqlx::Error>> + Send {
        self.acquire()
    }

    fn lanes(&self) -> Option<&'c Lanes<DB>> {
        Some(self)
    }
}

impl<DB: Backend> Kept<DB> {
    fn new(connection: PoolConnection<DB>) -> Self {
        Self {
            connection,
            opened: Instant::now(),
            used: Instant::now(),
        }
    }
}

impl<DB: Backend> Inner<DB> {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Kept<DB>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> Result<(), sqlx::Error> {
        match self.is_closing.load(Ordering::Relaxed) {
            true => Err(sqlx::Error::PoolClosed),
            false => Ok(()),
        }
    }

    async fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        let Ok(count) = u32::try_from(self.count) else {
            return;
        };
        if let Ok(all) = self.permits.acquire_many(count).await {
            self.permits.close();
            drop(all);
        }
        let idle = std::mem::take(&mut *self.idle());
        for kept in idle {
            // It goes with the session.
            let _ = kept.connection.close().await;
        }
    }
}

fn patient<DB: Backend>(pool: &Pool<DB>, lanes: usize) -> usize {
    let all = pool.options().get_max_connections();
    let all = usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS);
    all.saturating_sub(lanes + 1)
        .clamp(1, Semaphore::MAX_PERMITS)
}

/// The shortest of three.
async fn round_trip<DB: Backend>(
    connection: &mut PoolConnection<DB>,
) -> Result<Duration, sqlx::Error> {
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        connection.ping().await?;
        shortest = shortest.min(begun.elapsed());
    }
    Ok(shortest)
}

async fn close_with<DB: Backend>(pool: Pool<DB>, lanes: Weak<Inner<DB>>) {
    pool.close_event().await;
    if let Some(lanes) = lanes.upgrade() {
        lanes.close().await;
    }
}
