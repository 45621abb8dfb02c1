//! A worker of a queue: claims rows, runs a handler for each, and finishes them.

mod batch;
pub(in crate::job) mod connection;
mod flush;
mod held;
mod hooks;
#[cfg(feature = "postgres")]
mod listen;
mod outcome;
mod running;
mod set;
mod stats;

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::Pool;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::Instrument;

pub use self::batch::BatchOutcome;
use self::batch::Together;
use self::connection::{Attended, in_time};
pub use self::held::Job;
pub use self::hooks::Next;
use self::hooks::{Each, Handle, Hook, Work};
pub use self::outcome::{HandlerOutcome, JobOutcome};
use self::running::Running;
pub use self::set::{WorkerSet, WorkerSetError};
pub use self::stats::{WorkerCounts, WorkerStats};
use crate::db::Backend;
use crate::db::column::Column;
use crate::db::condition::{Condition, Expression, Field};
use crate::db::error::{DatabaseError, Operation};
use crate::db::statement::{Fetched, Statement};
use crate::job::queue::{Backoff, Claims, Queue, QueueSql};

/// The ceilings of the random waits after an error of the database.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a worker that is told of new rows waits after its last claim found none. However many notifications come, it claims once in this
/// time: each claim reads the index.
const DEBOUNCE: Duration = Duration::from_millis(3);

/// How long after the start of a handler rows are claimed in advance, if there are none.
const PREFETCH_AFTER: Duration = Duration::from_millis(1);

/// How long rows wait at most for others, to be handled in one batch with them.
const GATHER: Duration = Duration::from_millis(5);

/// How long the database has after the end of [`Worker::shutdown_timeout`] to write down what became of the rows.
const LAST_STATEMENTS: Duration = Duration::from_secs(5);

/// What a longer time comes to: instants cannot be further away.
const AGES: Duration = Duration::from_secs(86_400 * 365 * 10);

/// Why a worker stopped early.
///
/// Temporary errors (a lost connection, a restarted server, an exhausted pool) do not stop it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The statement can never succeed: a table or a column is missing or of another type, or the pool was closed.
    #[error(transparent)]
    Database(DatabaseError),
    /// The table lacks the unique index that keeps two jobs of one value of the `per` column from running at once. `ddl` makes it.
    #[error(
        "{at}: the table has no index `{index}`, which lets no two jobs of one value run; run the statements of `ddl()`"
    )]
    MissingIndex {
        /// What was tried.
        at: Operation,
        /// The name of the index.
        index: &'static str,
    },
}

/// A worker of the queue `T`; [`run`](Self::run) starts it.
///
/// ```
/// # use chrono::{DateTime, Utc};
/// # use rowlock::{Fence, Queue};
/// # use rowlock::queue::QueueState;
/// # use std::time::Duration;
/// #[derive(sqlx::FromRow, Queue)]
/// #[rowlock(table = "emails")]
/// struct Email {
///     #[rowlock(key, generated)]
///     id: i64,
///     recipient: String,
///     // …
/// #     #[rowlock(run_at)] run_at: DateTime<Utc>,
/// #     #[rowlock(state)] state: QueueState,
/// #     #[rowlock(attempts)] attempts: i32,
/// #     #[rowlock(fence)] fence: Fence,
/// #     #[rowlock(lease)] leased_until: Option<DateTime<Utc>>,
/// }
///
/// async fn send(email: &Email) -> Result<(), std::io::Error> {
///     println!("to {}", email.recipient);
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::raw_sql(
/// #     "CREATE TABLE emails (id INTEGER PRIMARY KEY, recipient text NOT NULL,
/// #          run_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, state text NOT NULL DEFAULT 'ready',
/// #          attempts integer NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamp);
/// #      INSERT INTO emails (recipient) VALUES ('ann@example.org')",
/// # ).execute(&pool).await?;
/// # let sigterm = tokio::time::sleep(Duration::from_millis(300));
/// let counts = Email::worker(&pool)
///     .concurrency(4)
///     .lease(Duration::from_secs(30))
///     .shutdown(sigterm)
///     .run(async |email| send(&email).await)
///     .await?;
/// assert_eq!(counts.completed, 1);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before `run`"]
pub struct Worker<DB: Backend, T> {
    pool: Pool<DB>,
    claims: Claims<DB>,
    limits: Limits,
    shutdown: BoxFuture<'static, ()>,
    /// Notifies when rows were added.
    listener: Option<Listener>,
    hooks: Vec<Hook<T>>,
    stats: WorkerStats,
    queue: std::marker::PhantomData<fn() -> T>,
}

type Listener = Box<dyn FnOnce(Arc<Notify>) -> BoxFuture<'static, ()> + Send>;

#[derive(Debug, Clone, Copy)]
struct Limits {
    concurrency: usize,
    prefetch: usize,
    poll: Duration,
    flush: Duration,
    handler_timeout: Duration,
    shutdown_timeout: Duration,
}

impl<DB: Backend, T> std::fmt::Debug for Worker<DB, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("limits", &self.limits)
            .field("lease", &self.claims.lease)
            .finish_non_exhaustive()
    }
}

/// A worker with default settings.
pub fn worker<DB: Backend, T: Queue>(pool: &Pool<DB>) -> Worker<DB, T> {
    Worker {
        pool: pool.clone(),
        claims: Claims::default(),
        limits: Limits {
            concurrency: 8,
            prefetch: 0,
            poll: Duration::from_secs(1),
            flush: Duration::from_millis(5),
            handler_timeout: Duration::from_secs(300),
            shutdown_timeout: Duration::from_secs(30),
        },
        shutdown: Box::pin(pending()),
        listener: None,
        hooks: Vec::new(),
        stats: WorkerStats::of(T::TABLE),
        queue: std::marker::PhantomData,
    }
}

/// The index that limits the running jobs, if the database says that it is not there. One that says nothing may be back soon: the worker
/// starts all the same.
async fn missing_index<DB: Backend, T: QueueSql<DB>>(pool: &Pool<DB>) -> Option<&'static str> {
    let (sql, per) = (T::HAS_INDEX?, T::PER?);
    let mut connection = Attended::<DB>::acquire(pool, LAST_STATEMENTS).await.ok()?;
    let count = {
        let mut link = connection.link();
        let count = Statement::<DB>::literal(sql);
        in_time::<DB, _>(LAST_STATEMENTS, count.fetch_one(&mut link)).await
    };
    match connection.answered(count).ok()? {
        Fetched::One(row) if DB::get_i64(&row, 0).ok()? == Some(0) => Some(per.index),
        _ => None,
    }
}

impl<DB: Backend, T: QueueSql<DB>> Worker<DB, T> {
    /// How many handlers run at once; defaults to 8; minimum 1. There is no maximum: with `usize::MAX` a claim takes all due rows. If handlers use
    /// the worker's pool, give it a few connections more than that: claims and heartbeats need one too.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.limits.concurrency = handlers.max(1);
        self
    }

    /// How many rows to hold besides those being handled: claimed in advance, or handled and not yet finished in the database. Defaults to 0; there
    /// is no maximum.
    ///
    /// For short jobs with few concurrent handlers: with rows in advance, handlers go on during the next claim. If more may run at once, a higher
    /// [`concurrency`](Self::concurrency) is faster. Do not use it for long jobs: another worker could handle a row that waits here.
    ///
    /// The attempt of a row claimed for a free handler counts from the claim, even if the claim's answer is lost and no handler starts. The attempt
    /// of a prefetched row counts when its handler starts, at the cost of one more write: handlers that become free start together, after one
    /// statement that counts the attempts of their rows. So a dying process costs an attempt only of rows whose handlers had started, and of those in
    /// a claim in flight for free handlers.
    pub fn prefetch(mut self, rows: usize) -> Self {
        self.limits.prefetch = rows;
        self
    }

    /// How long a claim holds without a heartbeat, by the database's clock; defaults to one minute; minimum one second. A worker sends one heartbeat
    /// for all of its rows after every third of it, so a job may take longer. Another worker with the same lease takes back the rows of a dead one
    /// after at most one and a half leases.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.claims.lease = lease.clamp(Duration::from_secs(1), AGES);
        self
    }

    /// Claims only rows that have this value in the column; `None` means NULL. Several conditions must all be met.
    pub fn only<V, W>(mut self, field: Field<T, V, W>, value: impl Into<V>) -> Self
    where
        T: QueueSql<DB>,
        V: Column<DB> + Send + 'static,
    {
        self.claims.only(field, value.into());
        self
    }

    /// Claims only rows that meet this condition, as [`Claim::when`](crate::queue::Claim::when) does.
    pub fn when<E>(mut self, condition: Condition<T, E>) -> Self
    where
        T: QueueSql<DB>,
        E: Expression<DB> + 'static,
    {
        self.claims.when(condition);
        self
    }

    /// The ceilings of a failed job's wait, after its first attempt and overall; default to 4 seconds and one hour. The wait is random between zero
    /// and a ceiling that doubles with every attempt.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.claims.backoff = Backoff { first, longest };
        self
    }

    /// How often an idle worker looks for rows; defaults to one second. Each wait is randomly 0.5 to 1.5 times this, so that workers do not all look
    /// at once.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.limits.poll = interval.clamp(Duration::from_millis(1), AGES);
        self
    }

    /// How long a handled row waits at most for others, to be finished in one statement with them; defaults to 5 ms. It does not wait if no handler
    /// is running.
    pub fn flush_after(mut self, delay: Duration) -> Self {
        self.limits.flush = delay.min(AGES);
        self
    }

    /// How long a handler may take; defaults to 5 minutes. After that it is dropped, and the attempt has failed.
    pub fn handler_timeout(mut self, limit: Duration) -> Self {
        self.limits.handler_timeout = limit.min(AGES);
        self
    }

    /// Runs `hook` around each job. The first hook is the outermost.
    ///
    /// `next.run()` runs the handler and returns its outcome, also if the handler [panics or takes too long](Next::run): this is the place for spans,
    /// metrics and error reports. What the hook returns becomes of the job; if it does not call `next`, the handler does not run. All of them share
    /// the [time limit](Self::handler_timeout), with one deadline: after it the handler is dropped, `next.run()` returns, and a hook that then waits
    /// for anything is dropped too. A hook that panics counts as a handler that panics. A cancelled or lost job drops its hooks with the handler; put
    /// what must happen even then in the `Drop` of a value.
    ///
    /// A span:
    ///
    /// ```
    /// # use rowlock::queue::{Job, JobOutcome, Next};
    /// # use tracing::Instrument;
    /// # fn worker<DB: rowlock::Backend, T: rowlock::__private::queue::QueueSql<DB>>(worker: rowlock::queue::Worker<DB, T>) {
    /// # let _ =
    /// worker.around(|job, next| {
    ///     let span = tracing::info_span!("email", attempt = job.attempt());
    ///     next.run().instrument(span)
    /// })
    /// # ;
    /// # }
    /// ```
    ///
    /// A histogram, which also counts dropped jobs:
    ///
    /// ```
    /// # use rowlock::queue::{Job, JobOutcome, Next};
    /// # use std::time::{Duration, Instant};
    /// # #[derive(Clone)]
    /// # struct Histogram;
    /// # impl Histogram { fn record(&self, _: f64) {} }
    /// struct Timer(Histogram, Instant);
    ///
    /// impl Drop for Timer {
    ///     fn drop(&mut self) {
    ///         self.0.record(self.1.elapsed().as_secs_f64());
    ///     }
    /// }
    ///
    /// # fn worker<DB: rowlock::Backend, T: rowlock::__private::queue::QueueSql<DB>>(worker: rowlock::queue::Worker<DB, T>, histogram: Histogram) {
    /// # let _ =
    /// worker.around(move |_job, next| {
    ///     let timer = Timer(histogram.clone(), Instant::now());
    ///     async move {
    ///         let _timer = timer;
    ///         next.run().await
    ///     }
    /// })
    /// # ;
    /// # }
    /// ```
    ///
    /// An error report:
    ///
    /// ```
    /// # use rowlock::queue::{Job, JobOutcome, Next};
    /// # fn report(error: &str, is_last_attempt: bool) {}
    /// # fn worker<DB: rowlock::Backend, T: rowlock::__private::queue::QueueSql<DB>>(worker: rowlock::queue::Worker<DB, T>) {
    /// # let _ =
    /// worker.around(|job, next| async move {
    ///     let outcome = next.run().await;
    ///     if let JobOutcome::Retry { error, .. } | JobOutcome::Fail { error } = &outcome {
    ///         report(error, job.is_last_attempt());
    ///     }
    ///     outcome
    /// })
    /// # ;
    /// # }
    /// ```
    ///
    /// Each hook costs a job a few allocations and a timer; a worker without hooks pays nothing for them.
    pub fn around<H, R>(mut self, hook: H) -> Self
    where
        H: Fn(Job<T>, Next) -> R + Send + Sync + 'static,
        R: Future<Output = JobOutcome> + Send + 'static,
    {
        let hook = move |job: Job<T>, next| -> BoxFuture<'static, JobOutcome> {
            Box::pin(hook(job, next))
        };
        self.hooks.push(Box::new(hook));
        self
    }

    /// Stops the worker when the future is ready: waiting rows are given back at once, handlers may go on for
    /// [`shutdown_timeout`](Self::shutdown_timeout).
    pub fn shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Stops it at another signal as well.
    fn or_shutdown(mut self, signal: BoxFuture<'static, ()>) -> Self {
        let own = std::mem::replace(&mut self.shutdown, Box::pin(pending()));
        self.shutdown(async move {
            tokio::select! {
                () = own => {}
                () = signal => {}
            }
        })
    }

    /// How long handlers may go on after the signal to stop; defaults to 30 seconds. After that, unfinished jobs are dropped and given back.
    ///
    /// [`run`](Self::run) ends at most 5 seconds later: rows without an answer from the database by then count as lost, and come back after their
    /// leases. It cannot end before a handler that blocks its thread.
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.limits.shutdown_timeout = limit.min(AGES);
        self
    }

    /// The counts of this worker, readable while it runs.
    pub fn stats(&self) -> WorkerStats {
        self.stats.clone()
    }

    /// Runs `handler` for each row, in tasks of their own, until the signal of [`shutdown`](Self::shutdown), and returns the counts.
    ///
    /// The handler returns `()`, a [`JobOutcome`], or a `Result` of either, whose error's text is stored (`{:#}`, up to 8 KiB). Clone what else it
    /// needs for each job: `move |job| { let pool = pool.clone(); async move { … } }`. A panic is a failed attempt. If the claim is lost, the handler
    /// is dropped at its next await point; what it wrote outside a transaction with [`Claimed::complete_in`](crate::queue::Claimed::complete_in)
    /// stays.
    ///
    /// Statements: those of `claim`, `Claimed::complete_many`, `Claimed::retry_many` and their relatives, `rescue`, one that counts the attempts of
    /// prefetched rows, and a heartbeat. On PostgreSQL they wait for no row lock, or for 20 ms, so a handler may lock the row that it works on for
    /// as long as a lease, and a locked row holds up no other.
    ///
    /// Cancel safety: if you drop the future, handlers are dropped at their next await point, and their rows come back after their leases.
    ///
    /// # Errors
    ///
    /// `Database` for a permanent error; all others are logged and waited out. `MissingIndex`, before anything is claimed, if a queue with a `per`
    /// column lacks the unique index of `ddl()`.
    pub fn run<F, R>(
        self,
        handler: F,
    ) -> impl Future<Output = Result<WorkerCounts, WorkerError>> + Send
    where
        F: Fn(Job<T>) -> R + Send + Sync + 'static,
        R: Future<Output: HandlerOutcome> + Send + 'static,
    {
        self.run_with(Each(handler))
    }

    /// Runs `handler` for up to `size` rows at a time, minimum 1, with [`concurrency`](Self::concurrency) such batches at once; otherwise like
    /// [`run`](Self::run).
    ///
    /// The handler returns one outcome for all of its jobs, as in `run`, or a `Vec` of outcomes, one per job in order, or a `Result` of that. A wrong
    /// number of outcomes is a failed attempt of all. **A batch that fails, panics or takes too long is a failed attempt of each of its jobs**, the
    /// good ones included: if one job can fail alone, return an outcome for each.
    ///
    /// ```
    /// # use rowlock::queue::{Job, JobOutcome};
    /// # use rowlock::Backend;
    /// # async fn send_all<T>(_: &[Job<T>]) -> Result<Vec<Result<(), String>>, std::io::Error> { Ok(vec![]) }
    /// # fn worker<DB: Backend, T: rowlock::__private::queue::QueueSql<DB>>(worker: rowlock::queue::Worker<DB, T>) {
    /// # let _ =
    /// worker.concurrency(2).run_batch(100, |emails: Vec<Job<_>>| async move {
    ///     // All are tried again if this fails.
    ///     let answers = send_all(&emails).await?;
    ///     let outcome = |answer| match answer {
    ///         Ok(()) => JobOutcome::Complete,
    ///         Err(error) => JobOutcome::fail(error),
    ///     };
    ///     Ok::<_, std::io::Error>(answers.into_iter().map(outcome).collect::<Vec<_>>())
    /// })
    /// # ;
    /// # }
    /// ```
    ///
    /// A batch takes the available rows; fewer than `size` wait up to 5 ms for more. Rows whose claim was in flight when a smaller batch started wait
    /// for the next handler, with attempts that count from the claim. [`prefetch`](Self::prefetch) and the counts count rows. Hooks run around each
    /// job, and the handler begins when those of all its jobs have called `next` or have ended. A hook that hangs for one job is a failed attempt of
    /// all jobs of its batch, whose handler does not begin.
    ///
    /// A cancelled or lost job of a batch does not end it: the handler sees [`is_stopped`](Job::is_stopped), and its outcome for that job is not
    /// written. When all of them are lost, at the deadline, and when the worker gives up waiting, the handler is dropped at its next await point.
    ///
    /// Statements, cancel safety and errors: those of [`run`](Self::run).
    pub fn run_batch<F, R>(
        self,
        size: usize,
        handler: F,
    ) -> impl Future<Output = Result<WorkerCounts, WorkerError>> + Send
    where
        F: Fn(Vec<Job<T>>) -> R + Send + Sync + 'static,
        R: Future<Output: BatchOutcome> + Send + 'static,
    {
        let size = size.max(1);
        self.run_with(Together { size, handler })
    }

    fn run_with(
        self,
        handler: impl Handle<T>,
    ) -> impl Future<Output = Result<WorkerCounts, WorkerError>> + Send {
        let span = tracing::info_span!(
            "rowlock.worker",
            messaging.system = "rowlock",
            messaging.destination.name = T::TABLE,
        );
        async move {
            if let Some(index) = missing_index::<DB, T>(&self.pool).await {
                let at = T::operation_on_many("run");
                return Err(WorkerError::MissingIndex { at, index });
            }
            let wake = Arc::new(Notify::new());
            let mut listeners = JoinSet::new();
            if let Some(listener) = self.listener {
                listeners.spawn(listener(wake.clone()));
            }
            let work = Work {
                handler,
                hooks: self.hooks,
                limit: self.limits.handler_timeout,
                thread_limit: self.claims.lease / 3,
                stats: self.stats,
            };
            let running = Running::new(self.pool, self.claims, self.limits, work, wake);
            running.run(self.shutdown).await
        }
        .instrument(span)
    }
}
