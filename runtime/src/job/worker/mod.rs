//! A worker of a queue: claims rows, runs a handler for each, and finishes them.

mod flush;

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::future::{Future, pending, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::Pool;
use sqlx::pool::PoolConnection;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::column::Column;
use crate::db::error::{Attempt, DatabaseError, KeyText};
use crate::db::fault::Fault;
use crate::db::source::Link;
use crate::fan_out::panic_text;
use crate::job::queue::{
    Backoff, Batch, Change, Claimed, Claims, Fate, Found, Locks, Look, Queue, QueueColumn,
    QueueSql, Refused, Rescued, Retried, at, rescue_on, stored,
};
use flush::Flush;

/// The ceilings of the random waits after an error of the database.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long the database has after the end of [`Worker::shutdown_timeout`] to write down what became of the rows.
const LAST_STATEMENTS: Duration = Duration::from_secs(5);

/// What a longer time comes to: instants cannot be further away.
const AGES: Duration = Duration::from_secs(86_400 * 365 * 10);

/// What becomes of a job, as its handler says.
///
/// A handler may return `()`, this, or a `Result` of either: an error means `Retry`, with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobOutcome {
    /// The work is done.
    Complete,
    /// The handler has completed the row itself, with [`Claimed::complete_in`], as the last thing it did: what it does after the
    /// commit can be stopped by the next heartbeat, which finds that the claim holds no more.
    Completed,
    /// The attempt failed.
    Retry {
        /// What is stored as the last error.
        error: String,
        /// When it is due again; `None` for the worker's backoff.
        after: Option<Duration>,
    },
    /// The job can never succeed.
    Fail {
        /// What is stored as the last error.
        error: String,
    },
    /// Not now. The attempt does not count.
    Snooze(Duration),
}

impl JobOutcome {
    /// The attempt failed; the next one is after this time.
    pub fn retry_after(error: impl Display, after: Duration) -> Self {
        Self::Retry {
            error: stored(&error),
            after: Some(after),
        }
    }

    /// The job can never succeed: its row becomes [`QueueState::Dead`](crate::QueueState::Dead).
    pub fn fail(error: impl Display) -> Self {
        Self::Fail {
            error: stored(&error),
        }
    }
}

/// What a handler can return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what becomes of the job",
    label = "the handler returns this",
    note = "return `()`, a `rowlock::JobOutcome`, or a `Result` of either whose error can be displayed"
)]
pub trait HandlerOutcome: Send + 'static {
    /// What becomes of the job.
    fn into_outcome(self) -> JobOutcome;
}

impl HandlerOutcome for () {
    fn into_outcome(self) -> JobOutcome {
        JobOutcome::Complete
    }
}

impl HandlerOutcome for JobOutcome {
    fn into_outcome(self) -> JobOutcome {
        self
    }
}

impl<T: HandlerOutcome, E: Display + Send + 'static> HandlerOutcome for Result<T, E> {
    fn into_outcome(self) -> JobOutcome {
        match self {
            Ok(outcome) => outcome.into_outcome(),
            Err(error) => JobOutcome::Retry {
                error: stored(&error),
                after: None,
            },
        }
    }
}

/// Why a worker stopped before it was told to.
///
/// Errors that can pass (a lost connection, a restarted server, an exhausted pool) do not stop it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The statement can never succeed: a table or a column is missing or of another type, or the pool was closed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// What a worker has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerCounts {
    /// Rows claimed and held.
    pub claimed: u64,
    /// Rows that became done, by this worker or by the handler itself, however that ended after its `complete_in`.
    pub completed: u64,
    /// Rows put back after a failed attempt.
    pub retried: u64,
    /// Rows given up: by the handler, after the last attempt, or when the lease of the last attempt ended.
    pub dead: u64,
    /// Rows put back by [`JobOutcome::Snooze`].
    pub snoozed: u64,
    /// Rows given back unfinished because the worker stopped.
    pub released: u64,
    /// Claims that were lost before the row was finished, or that end unfinished as the database refuses the row; the work may be done
    /// twice.
    pub lease_lost: u64,
    /// Rows of any worker whose leases had ended and which were taken back.
    pub rescued: u64,
    /// Rows that could not be given to a handler, because they do not fit the model or the database refuses to write them; each
    /// that could be put off is also in `retried`, or in `dead`.
    pub bad: u64,
    /// How often the database refused, or a trigger dropped, the write of a row that was to be finished or rescued. Such a row is left as it
    /// is.
    pub refused: u64,
    /// Handlers that were stopped because of the time limit; each is also in `retried` or `dead`, or in `completed` if it had completed
    /// the row itself, or in `lease_lost`.
    pub timed_out: u64,
    /// Handlers that panicked; each is also in one of the same.
    pub panicked: u64,
    /// Handlers that kept a thread of the runtime for longer than a third of the lease without an `.await`. If they keep all of
    /// them, no heartbeat is sent, and the leases of all rows of this worker can end.
    pub blocked: u64,
    /// Handlers that were started.
    pub started: u64,
    /// How long the started rows had been due, in all.
    pub waited: Duration,
    /// How long one of them had been due at most.
    pub longest_wait: Duration,
    /// How long handlers ran, in all.
    pub ran: Duration,
}

/// Counts while the worker runs. Cloning gives another view of the same counts.
#[derive(Debug, Clone, Default)]
pub struct WorkerStats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    claimed: AtomicU64,
    completed: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
    snoozed: AtomicU64,
    released: AtomicU64,
    lease_lost: AtomicU64,
    rescued: AtomicU64,
    bad: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    panicked: AtomicU64,
    blocked: AtomicU64,
    started: AtomicU64,
    /// In microseconds.
    waited: AtomicU64,
    longest_wait: AtomicU64,
    ran: AtomicU64,
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

fn micros(duration: Duration) -> u64 {
    // A row that is due since `-infinity` must not end the count of all others.
    let limit = Duration::from_secs(86_400 * 365);
    u64::try_from(duration.min(limit).as_micros()).unwrap_or(u64::MAX)
}

impl WorkerStats {
    /// The counts as they are now.
    pub fn counts(&self) -> WorkerCounts {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let time = |counter: &AtomicU64| Duration::from_micros(number(counter));
        let counters = &*self.0;
        WorkerCounts {
            claimed: number(&counters.claimed),
            completed: number(&counters.completed),
            retried: number(&counters.retried),
            dead: number(&counters.dead),
            snoozed: number(&counters.snoozed),
            released: number(&counters.released),
            lease_lost: number(&counters.lease_lost),
            rescued: number(&counters.rescued),
            bad: number(&counters.bad),
            refused: number(&counters.refused),
            timed_out: number(&counters.timed_out),
            panicked: number(&counters.panicked),
            blocked: number(&counters.blocked),
            started: number(&counters.started),
            waited: time(&counters.waited),
            longest_wait: time(&counters.longest_wait),
            ran: time(&counters.ran),
        }
    }
}

/// A worker of the queue `T`; [`run`](Self::run) starts it.
///
/// ```
/// # use chrono::{DateTime, Utc};
/// # use rowlock::{Fence, Queue, QueueState};
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
pub fn worker<DB: Backend, T>(pool: &Pool<DB>) -> Worker<DB, T> {
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
        stats: WorkerStats::default(),
        queue: std::marker::PhantomData,
    }
}

impl<DB: Backend, T: QueueSql<DB>> Worker<DB, T> {
    /// How many handlers run at once; 8 if nothing else is said, 1 at least. There is no other limit: with `usize::MAX` a claim takes all
    /// rows that are due. If they use the worker's pool, it should have some more connections than that: claims and heartbeats need
    /// one too.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.limits.concurrency = handlers.max(1);
        self
    }

    /// How many rows may be held besides those that are being handled: claimed in advance, or handled and not yet finished in
    /// the database. 0 if nothing else is said; there is no limit.
    ///
    /// Short jobs are much faster with as many as there are handlers: a claim, a completion and the handlers then go on at the same
    /// time. Long jobs should have none: a row that waits here could be handled by another worker.
    ///
    /// The attempt of a row that is claimed for a handler which is free counts from the claim, also if the claim's answer is lost and no
    /// handler starts. That of one that was claimed in advance counts when its handler starts, and costs one more write: handlers
    /// that become free start together, after one statement that counts the attempts of their rows. So a process that dies costs
    /// no row an attempt but those whose handlers had started, and those of a claim under way for handlers that were free.
    pub fn prefetch(mut self, rows: usize) -> Self {
        self.limits.prefetch = rows;
        self
    }

    /// How long a claim holds without a heartbeat, by the clock of the database; a minute if nothing else is said, a second at
    /// least. A worker sends one heartbeat for all of its rows every third of it, so a job may take longer than that. The rows of
    /// a worker that died are taken back by another one, with the same lease, after one and a half leases at most.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.claims.lease = lease.clamp(Duration::from_secs(1), AGES);
        self
    }

    /// Claims only rows that have this value in the column; `None` means NULL. Several conditions must all be met.
    pub fn only<V>(mut self, column: QueueColumn<T, V>, value: impl Into<V>) -> Self
    where
        V: Column<DB> + Send + 'static,
    {
        self.claims.only(column, value.into());
        self
    }

    /// How long a failed job waits at most after its first attempt, and at most at all: 4 seconds and an hour if nothing else is
    /// said. The wait is random between zero and a ceiling that doubles with every attempt.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.claims.backoff = Backoff { first, longest };
        self
    }

    /// How often to look for rows while there are none; a second if nothing else is said. Half as long to one and a half times
    /// as long in fact, at random, so that workers do not come all at once.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.limits.poll = interval.clamp(Duration::from_millis(1), AGES);
        self
    }

    /// How long a handled row waits at most for others, to be finished in one statement with them; 5 ms if nothing else is said.
    /// It does not wait if no handler is running.
    pub fn flush_after(mut self, delay: Duration) -> Self {
        self.limits.flush = delay.min(AGES);
        self
    }

    /// How long a handler may take; 5 minutes if nothing else is said. Then it is dropped and the attempt has failed.
    pub fn handler_timeout(mut self, limit: Duration) -> Self {
        self.limits.handler_timeout = limit;
        self
    }

    /// Stops the worker when the future is ready: rows that wait are given back at once, handlers may go on for as long as
    /// [`shutdown_timeout`](Self::shutdown_timeout) says.
    pub fn shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// How long handlers may go on after the signal to stop; 30 seconds if nothing else is said. What is not finished then is
    /// dropped and given back.
    ///
    /// [`run`](Self::run) ends 5 seconds after that at the latest: rows about which the database has said nothing by then count as
    /// lost, and come back when their leases have ended. It cannot end before a handler that blocks the thread that it runs on.
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.limits.shutdown_timeout = limit.min(AGES);
        self
    }

    /// The counts of this worker, to be looked at while it runs.
    pub fn stats(&self) -> WorkerStats {
        self.stats.clone()
    }

    /// Runs `handler` for each row, in tasks of their own, until the signal of [`shutdown`](Self::shutdown), and returns the counts.
    ///
    /// The handler returns `()`, a [`JobOutcome`], or a `Result` of either, whose error's text is stored (`{:#}`, up to 8 KiB). What
    /// it needs besides the job it clones for each: `move |job| { let pool = pool.clone(); async move { … } }`. A panic is a failed
    /// attempt. If the claim is lost, the handler is dropped at its next await
    /// point; what it wrote outside of a transaction with [`Claimed::complete_in`] stays.
    ///
    /// Statements: those of `claim`, `Claimed::complete_many`, `Claimed::retry_many` and their like, `rescue`, one that counts the
    /// attempts of rows which were claimed in advance, and a heartbeat. On PostgreSQL they wait for no lock of a row, or for 100 ms, so
    /// a handler may lock the row that it works on for as long as a lease, and a row that is locked keeps no other.
    ///
    /// Cancel safety: if the future is dropped, handlers are dropped at their next await point, and their rows come back when
    /// their leases have ended.
    ///
    /// # Errors
    ///
    /// `Database` for an error that cannot pass; all others are logged and waited out.
    pub fn run<F, R>(
        self,
        handler: F,
    ) -> impl Future<Output = Result<WorkerCounts, WorkerError>> + Send
    where
        F: Fn(Job<T>) -> R + Send + Sync + 'static,
        R: Future<Output: HandlerOutcome> + Send + 'static,
    {
        let span = tracing::info_span!("rowlock.worker", table = T::TABLE);
        async move {
            let wake = Arc::new(Notify::new());
            let mut listeners = JoinSet::new();
            if let Some(listener) = self.listener {
                listeners.spawn(listener(wake.clone()));
            }
            let now = Instant::now();
            let running = Running {
                claims: Arc::new(self.claims),
                limits: self.limits,
                stats: self.stats,
                pool: self.pool,
                handler: Arc::new(handler),
                wake,
                waiting: VecDeque::new(),
                starting: Vec::new(),
                next_start: now,
                jobs: JoinSet::new(),
                handled: HashMap::new(),
                ended: Ended::default(),
                ended_since: None,
                operations: JoinSet::new(),
                claiming: false,
                no_claim: Arc::default(),
                flushing: Vec::new(),
                locked: Vec::new(),
                refused: Refused::default(),
                not_rescued: Refused::default(),
                beating: false,
                beat_failed: false,
                rescuing: false,
                next_claim: now,
                next_beat: now,
                next_rescue: now,
                woken: false,
                plenty: false,
                short: false,
                failures: 0,
                stopping: None,
                error: None,
            };
            running.run(self.shutdown).await
        }
        .instrument(span)
    }
}

#[cfg(feature = "postgres")]
impl<T: QueueSql<sqlx::Postgres>> Worker<sqlx::Postgres, T> {
    /// Looks for rows as soon as the trigger of `notify_ddl` says that some were added, over a connection of its own besides those of
    /// the pool. Without it, and whenever that connection is lost, rows are found at the next [`poll`](Self::poll).
    ///
    /// Not behind a pooler in transaction mode, which passes no notifications on.
    pub fn listen(mut self) -> Self {
        let pool = self.pool.clone();
        self.listener = Some(Box::new(move |wake| {
            Box::pin(listen(pool, T::CHANNEL, wake))
        }));
        self
    }
}

#[cfg(feature = "postgres")]
async fn listen(pool: sqlx::PgPool, channel: &'static str, wake: Arc<Notify>) {
    use sqlx::postgres::{PgListener, PgPoolOptions};

    let own = || {
        PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with((*pool.connect_options()).clone())
    };
    let mut failures = 0;
    loop {
        let listened: Result<(), sqlx::Error> = async {
            let mut listener = PgListener::connect_with(&own()).await?;
            listener.listen(channel).await?;
            loop {
                // Also after a reconnect, during which notifications were missed.
                wake.notify_one();
                failures = 0;
                listener.try_recv().await?;
            }
        }
        .await;
        if let Err(error) = listened {
            let error =
                DatabaseError::new(Attempt::new("listen", channel, KeyText::default()), error);
            tracing::warn!(%error, "not listening, rows are found by polling");
        }
        failures += 1;
        tokio::time::sleep(full_jitter(failures, FIRST_PAUSE, LONGEST_PAUSE)).await;
    }
}

/// A row that a handler works on. Dereferences to the claim, and so to the row.
///
/// It is the worker that finishes the row, as the handler's [`HandlerOutcome`] says.
pub struct Job<T>(Arc<Held<T>>);

impl<T> Deref for Job<T> {
    type Target = Claimed<T>;

    fn deref(&self) -> &Claimed<T> {
        &self.0.claimed
    }
}

impl<T> Clone for Job<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Queue> std::fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Job").field(&self.0.claimed).finish()
    }
}

/// A row that this worker holds.
struct Held<T> {
    claimed: Claimed<T>,
    claimed_at: Instant,
    /// Tells the job to stop.
    stop: Notify,
}

/// A row whose job has not started.
struct Waiting<T> {
    held: Arc<Held<T>>,
    /// As in [`Handled`].
    until: Instant,
    /// Whether the attempt counts in the database already.
    counted: bool,
}

/// A row whose job runs.
struct Handled<T> {
    held: Arc<Held<T>>,
    /// Until when the claim holds, by our clock: not later than by the database's.
    until: Instant,
    stopped: Option<Stopped>,
}

#[derive(Clone, Copy)]
enum Stopped {
    LeaseLost,
    /// The handler has completed the row.
    Done,
    Drained,
}

/// How a job ended.
enum End {
    Outcome(JobOutcome),
    TimedOut,
    Stopped,
}

/// Rows whose jobs have ended, and which are to be finished in the database.
struct Ended<T> {
    done: Vec<Arc<Held<T>>>,
    changed: Vec<(Arc<Held<T>>, Change)>,
}

impl<T> Default for Ended<T> {
    fn default() -> Self {
        Self {
            done: Vec::new(),
            changed: Vec::new(),
        }
    }
}

impl<T> Ended<T> {
    fn len(&self) -> usize {
        self.done.len() + self.changed.len()
    }

    fn rows(&self) -> impl Iterator<Item = Arc<Held<T>>> {
        let changed = self.changed.iter().map(|(held, _)| held);
        self.done.iter().chain(changed).cloned()
    }
}

/// What a statement in the background came to.
enum Operation<DB: Backend, T> {
    Claimed {
        asked: usize,
        counted: bool,
        refused: Refused<DB>,
        /// With the time before the claim was sent.
        result: Result<(Instant, Found<T>), Failure>,
    },
    Started(Result<Vec<Fate>, Failure>),
    /// With the rows that are locked.
    Flushed(Ended<T>),
    FlushedLater(Vec<Arc<Held<T>>>),
    Beaten {
        rows: Vec<Arc<Held<T>>>,
        /// With the time before the heartbeat was sent.
        result: Result<(Instant, Vec<Fate>), Failure>,
    },
    Rescued {
        refused: Refused<DB>,
        result: Result<Rescued, Failure>,
    },
}

/// A worker at work. All of its state is here, in one task; only statements and handlers run beside it.
struct Running<DB: Backend, T, F> {
    pool: Pool<DB>,
    claims: Arc<Claims<DB>>,
    limits: Limits,
    stats: WorkerStats,
    handler: Arc<F>,
    wake: Arc<Notify>,
    /// Claimed, and not started.
    waiting: VecDeque<Waiting<T>>,
    /// The rows in the statement that counts their attempts; handlers are reserved for them.
    starting: Vec<Waiting<T>>,
    next_start: Instant,
    jobs: JoinSet<(End, Duration)>,
    handled: HashMap<Id, Handled<T>>,
    ended: Ended<T>,
    ended_since: Option<Instant>,
    operations: JoinSet<Operation<DB, T>>,
    claiming: bool,
    /// Tells a claim that waits for a connection that none is wanted any more.
    no_claim: Arc<Notify>,
    /// The rows in the statement that finishes them.
    flushing: Vec<Arc<Held<T>>>,
    /// Rows that could not be finished yet, because a concurrent transaction has locked them.
    locked: Vec<Arc<Held<T>>>,
    /// What the database refuses to write.
    refused: Refused<DB>,
    not_rescued: Refused<DB>,
    beating: bool,
    /// The last heartbeat that ended did so with an error.
    beat_failed: bool,
    rescuing: bool,
    next_claim: Instant,
    next_beat: Instant,
    next_rescue: Instant,
    /// There may be rows that the claim under way does not see.
    woken: bool,
    /// The last claim got as many rows as it asked for.
    plenty: bool,
    /// It got some, and fewer than that.
    short: bool,
    /// Claims in a row that failed.
    failures: u32,
    /// Until when handlers may go on.
    stopping: Option<Instant>,
    error: Option<WorkerError>,
}

impl<DB, T, F> Running<DB, T, F>
where
    DB: Backend,
    T: QueueSql<DB>,
    F: Send + Sync + 'static,
{
    async fn run<R>(
        mut self,
        mut shutdown: BoxFuture<'static, ()>,
    ) -> Result<WorkerCounts, WorkerError>
    where
        F: Fn(Job<T>) -> R,
        R: Future<Output: HandlerOutcome> + Send + 'static,
    {
        let wake = self.wake.clone();
        loop {
            self.start_jobs::<R>();
            self.start_statements();
            if self.is_over() {
                break;
            }
            let timer = self.next_timer();
            let stopping = self.stopping.is_some();
            tokio::select! {
                Some(job) = self.jobs.join_next_with_id() => {
                    self.job_ended(job);
                    while let Some(job) = self.jobs.try_join_next_with_id() {
                        self.job_ended(job);
                    }
                }
                Some(operation) = self.operations.join_next() => {
                    match operation {
                        Ok(operation) => self.operation_ended(operation),
                        // Code of the model, which encodes and decodes columns, can panic. Nothing aborts these tasks.
                        Err(error) => match error.try_into_panic() {
                            Ok(panic) => std::panic::resume_unwind(panic),
                            Err(_) => self.stop(),
                        },
                    }
                }
                () = wake.notified(), if !stopping => self.look(),
                () = &mut shutdown, if !stopping => self.stop(),
                () = sleep_until(timer) => self.on_timer(),
            }
        }
        let handled = self.handled.values().map(|handled| &handled.held);
        let starting = self.starting.iter().map(|next| &next.held);
        let finishing = self.flushing.iter().chain(&self.locked);
        for held in handled.chain(starting).chain(finishing) {
            self.lost(held);
        }
        for held in self.ended.rows() {
            self.lost(&held);
        }
        let counts = self.stats.counts();
        tracing::info!(?counts, "stopped");
        match self.error {
            Some(error) => Err(error),
            None => Ok(counts),
        }
    }

    /// There are rows to be claimed.
    fn look(&mut self) {
        self.next_claim = Instant::now();
        self.woken = true;
        self.short = false;
    }

    fn is_over(&self) -> bool {
        let finishing = !self.flushing.is_empty() || !self.locked.is_empty();
        let working = self.claiming || finishing || !self.starting.is_empty();
        let late = self.gives_up().is_some_and(|at| at <= Instant::now());
        let rows = self.handled.is_empty() && self.ended.len() == 0;
        late || self.stopping.is_some() && !working && rows
    }

    /// When the worker ends, whatever the database has not answered.
    fn gives_up(&self) -> Option<Instant> {
        self.stopping.map(|until| until + LAST_STATEMENTS)
    }

    fn held(&self) -> usize {
        let finishing = self.ended.len() + self.flushing.len() + self.locked.len();
        self.waiting.len() + self.starting.len() + self.handled.len() + finishing
    }

    /// Handlers for which there is no row.
    fn free(&self) -> usize {
        let taken = self.handled.len() + self.starting.len();
        self.limits.concurrency.saturating_sub(taken)
    }

    fn start_jobs<R>(&mut self)
    where
        F: Fn(Job<T>) -> R,
        R: Future<Output: HandlerOutcome> + Send + 'static,
    {
        let now = Instant::now();
        let margin = self.margin();
        let mut uncounted = Vec::new();
        while uncounted.len() < self.free() {
            // The rows before it are waiting for their attempts to be counted.
            let next = self.waiting.front();
            let busy = !self.starting.is_empty() || self.next_start > now;
            if next.is_none_or(|next| busy && !next.counted) {
                break;
            }
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            if next.until <= now + margin && self.leases_are_safe() {
                self.waiting.push_front(next);
                break;
            }
            if next.until <= now + margin {
                // This process was asleep. Somebody else has the row, or will have it soon.
                self.lost(&next.held);
            } else if next.counted {
                self.start_job::<R>(next);
            } else {
                uncounted.push(next);
            }
        }
        if uncounted.is_empty() {
            return;
        }
        let rows: Vec<_> = uncounted.iter().map(|next| next.held.clone()).collect();
        self.starting = uncounted;
        let (pool, lease) = (self.pool.clone(), self.claims.lease);
        self.operations.spawn(async move {
            let limit = lease / 3;
            let start = async {
                let mut connection = Attended::acquire(&pool, limit).await?;
                let rows = claims(&rows);
                let fates = {
                    let mut link = connection.link();
                    let start =
                        Batch::Start.run_and_look::<DB, T>(&rows, Locks::WaitBriefly, &mut link);
                    in_time::<DB, _>(limit, start).await
                };
                connection.answered(fates)
            };
            Operation::Started(start.await)
        });
    }

    fn start_job<R>(&mut self, next: Waiting<T>)
    where
        F: Fn(Job<T>) -> R,
        R: Future<Output: HandlerOutcome> + Send + 'static,
    {
        let Waiting { held, until, .. } = next;
        let counters = &self.stats.0;
        let waited = held.claimed.waited() + held.claimed_at.elapsed();
        add(&counters.started, 1);
        add(&counters.waited, micros(waited));
        let longest = &counters.longest_wait;
        longest.fetch_max(micros(waited), Ordering::Relaxed);
        let handler = self.handler.clone();
        let watch = Watch {
            limit: self.claims.lease / 3,
            stats: self.stats.clone(),
        };
        let job = run_job(handler, held.clone(), self.limits.handler_timeout, watch);
        let id = self.jobs.spawn(job).id();
        let stopped = None;
        let handled = Handled {
            held,
            until,
            stopped,
        };
        self.handled.insert(id, handled);
    }

    /// The attempts of these rows count, or not.
    fn started(&mut self, result: Result<Vec<Fate>, Failure>) {
        let starting = std::mem::take(&mut self.starting);
        let fates = match result {
            Ok(fates) => fates,
            Err(failure) => {
                // If it was written, it is written once more: the number is the same.
                warn::<T>("start", failure);
                self.failures = self.failures.saturating_add(1);
                let pause = full_jitter(self.failures, FIRST_PAUSE, LONGEST_PAUSE);
                self.next_start = Instant::now() + pause;
                if self.stopping.is_some() {
                    starting
                        .into_iter()
                        .for_each(|next| self.give_back(next.held));
                } else {
                    starting
                        .into_iter()
                        .rev()
                        .for_each(|next| self.waiting.push_front(next));
                }
                return;
            }
        };
        for (mut next, fate) in starting.into_iter().zip(fates).rev() {
            match fate {
                Fate::Written if self.stopping.is_none() => {
                    next.counted = true;
                    self.waiting.push_front(next);
                }
                Fate::Lost | Fate::Done => self.lost(&next.held),
                Fate::Refused(error) => {
                    let error = format!("the attempt could not be counted: {error}");
                    let change = next.held.claimed.retry_change(None, stored(&error));
                    self.change(next.held, change);
                }
                // A handler could not finish it before the lock is gone.
                Fate::Written | Fate::Later => self.give_back(next.held),
            }
        }
    }

    fn start_statements(&mut self) {
        let now = Instant::now();
        let Limits {
            concurrency,
            prefetch,
            ..
        } = self.limits;
        let capacity = concurrency.saturating_add(prefetch);
        let room = capacity.saturating_sub(self.held());
        // As soon as a handler is free, and then for the free ones only: their attempts count from the claim. But many rows are
        // claimed at once where there are many more than that. For the buffer not for every row that ends.
        let free = self.free().saturating_sub(self.waiting.len());
        let counted = free > 0 && (free.saturating_mul(2) >= room || !self.plenty);
        let enough = room > 0 && (free > 0 || room.saturating_mul(2) >= prefetch);
        let room = if counted { room.min(free) } else { room };
        if self.stopping.is_none() && !self.claiming && enough && self.next_claim <= now {
            self.claiming = true;
            self.woken = false;
            let (pool, claims) = (self.pool.clone(), self.claims.clone());
            let short = std::mem::take(&mut self.short);
            let unwanted = self.no_claim.clone();
            let mut refused = std::mem::take(&mut self.refused);
            self.operations.spawn(async move {
                let claim = async {
                    let mut connection = tokio::select! {
                        biased;
                        () = unwanted.notified() => return Ok((Instant::now(), Found::default())),
                        connection = Attended::acquire(&pool, claims.lease) => connection?,
                    };
                    let at = Instant::now();
                    let found = {
                        let mut link = connection.link();
                        let found = claims.run(room, counted, short, &mut refused, &mut link);
                        in_time::<DB, _>(claims.lease, found).await
                    };
                    Ok((at, connection.answered(found)?))
                };
                let result = claim.await;
                Operation::Claimed {
                    asked: room,
                    counted,
                    refused,
                    result,
                }
            });
        }
        if self.flushing.is_empty() && self.should_flush(now, capacity) {
            let ended = self.take_ended();
            self.flushing = ended.rows().collect();
            let flush = Flush::new(&self.pool, &self.stats, self.claims.lease);
            self.operations.spawn(async move {
                Operation::Flushed(flush.run(ended, Locks::WaitBriefly).await)
            });
        }
        if !self.beating && self.next_beat <= now {
            self.beat(now);
        }
        if !self.rescuing && self.next_rescue <= now && self.stopping.is_none() {
            self.rescuing = true;
            // At most half a lease after the end of one.
            self.next_rescue = now + jittered(self.claims.lease / 3);
            let (pool, lease) = (self.pool.clone(), self.claims.lease);
            let mut refused = std::mem::take(&mut self.not_rescued);
            self.operations.spawn(async move {
                let rescue = async {
                    let mut connection = Attended::acquire(&pool, lease).await?;
                    let rescued = {
                        let mut link = connection.link();
                        let rescue = rescue_on::<DB, T>(&mut refused, Look::IfNone, &mut link);
                        in_time::<DB, _>(lease, rescue).await
                    };
                    connection.answered(rescued)
                };
                let result = rescue.await;
                Operation::Rescued { refused, result }
            });
        }
    }

    fn should_flush(&self, now: Instant, capacity: usize) -> bool {
        let Some(since) = self.ended_since else {
            return false;
        };
        if self.claim_could_take_back() && self.ended.done.is_empty() {
            return false;
        }
        let none = self.waiting.is_empty() && self.starting.is_empty();
        let alone = self.handled.is_empty() && none;
        let soon = alone || self.stopping.is_some();
        soon || self.ended.len().saturating_mul(2) >= capacity || since + self.limits.flush <= now
    }

    /// A claim that is still under way when the worker stops could get the rows that are given back, only to give them back again.
    fn claim_could_take_back(&self) -> bool {
        self.stopping.is_some() && self.claiming
    }

    fn take_ended(&mut self) -> Ended<T> {
        let mut ended = std::mem::take(&mut self.ended);
        if self.claim_could_take_back() {
            self.ended.changed = std::mem::take(&mut ended.changed);
        } else {
            self.ended_since = None;
        }
        ended
    }

    /// One heartbeat for all rows that are waiting or handled, and one for those that are not finished in the database yet.
    fn beat(&mut self, now: Instant) {
        self.next_beat = now + self.claims.lease / 3;
        let handled = self.handled.values();
        let handled = handled.filter(|handled| handled.stopped.is_none());
        let rows = handled.map(|handled| handled.held.clone());
        let waiting = self.waiting.iter().chain(&self.starting);
        let waiting = waiting.map(|next| next.held.clone());
        let rows: Vec<_> = rows.chain(waiting).collect();
        // In a statement of their own: the same row may have been finished and claimed again already.
        let ending: Vec<_> = self
            .ended
            .rows()
            .chain(self.flushing.iter().cloned())
            .chain(self.locked.iter().cloned())
            .collect();
        if rows.is_empty() && ending.is_empty() {
            return;
        }
        self.beating = true;
        let (pool, lease) = (self.pool.clone(), self.claims.lease);
        self.operations.spawn(async move {
            // In time for another one.
            let limit = lease / 3;
            let result = async {
                let mut connection = Attended::acquire(&pool, limit).await?;
                let sent = Instant::now();
                let fates = in_time::<DB, _>(limit, async {
                    let beat = Batch::Extend(lease);
                    let mut link = connection.link();
                    let (rows, ending) = (claims(&rows), claims(&ending));
                    let fates = beat.run_and_look::<DB, T>(&rows, Locks::PassOver, &mut link);
                    let fates = fates.await?;
                    let beaten = beat.run_each::<DB, T>(&ending, Locks::PassOver, &mut link);
                    beaten.await?;
                    Ok(fates)
                });
                let fates = fates.await;
                // It may have waited longer than the lease for another writer, and the lease begins after that.
                let at = if DB::EMBEDDED { Instant::now() } else { sent };
                Ok((at, connection.answered(fates)?))
            };
            let result = result.await;
            Operation::Beaten { rows, result }
        });
    }

    /// When there is something to do that no job and no statement will wake us for. Never in the past for long, or the loop
    /// would spin.
    fn next_timer(&self) -> Instant {
        let now = Instant::now();
        let mut timer = now + self.margin();
        let mut or = |condition: bool, at: Instant| {
            if condition {
                timer = timer.min(at);
            }
        };
        or(!self.beating, self.next_beat);
        let counting = self.next_start > now && self.free() > 0;
        or(counting && !self.waiting.is_empty(), self.next_start);
        if let Some(drained) = self.stopping {
            let mut handled = self.handled.values();
            or(handled.any(|handled| handled.stopped.is_none()), drained);
            or(true, drained + LAST_STATEMENTS);
        } else {
            or(!self.rescuing, self.next_rescue);
            // A claim that is due, and not sent, waits for a job to end.
            or(!self.claiming && self.next_claim > now, self.next_claim);
        }
        if let Some(since) = self.ended_since {
            let waits = !self.flushing.is_empty() || self.claim_could_take_back();
            or(!waits, since + self.limits.flush);
        }
        timer
    }

    /// Whether no lease can have been taken over, although its time is up: where there is one writer, and our heartbeat waits for it,
    /// everybody else does. The writer may well be a handler of ours, in a transaction that will finish its row.
    fn leases_are_safe(&self) -> bool {
        DB::EMBEDDED && (self.beating || self.beat_failed)
    }

    /// So much time before the end of a lease it counts as over.
    fn margin(&self) -> Duration {
        self.claims.lease / 12
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        let margin = self.margin();
        let drained = self.stopping.is_some_and(|until| until <= now);
        let safe = self.leases_are_safe();
        for handled in self.handled.values_mut() {
            let why = match handled.until <= now + margin && !safe {
                true => Stopped::LeaseLost,
                false if drained => Stopped::Drained,
                false => continue,
            };
            if handled.stopped.is_none() {
                handled.stopped = Some(why);
                handled.held.stop.notify_one();
            }
        }
    }

    fn stop(&mut self) {
        tracing::info!(running = self.handled.len(), "stopping");
        let drained = Instant::now() + self.limits.shutdown_timeout;
        self.stopping.get_or_insert(drained);
        self.no_claim.notify_one();
        for next in std::mem::take(&mut self.waiting) {
            self.give_back(next.held);
        }
    }

    fn give_back(&mut self, held: Arc<Held<T>>) {
        self.change(held, Change::back(None));
    }

    fn change(&mut self, held: Arc<Held<T>>, change: Change) {
        self.ended.changed.push((held, change));
        self.ended_since.get_or_insert_with(Instant::now);
    }

    fn lost(&self, held: &Held<T>) {
        self.stats.lost(&held.claimed);
    }

    fn job_ended(&mut self, job: Result<(Id, (End, Duration)), tokio::task::JoinError>) {
        let counters = self.stats.0.clone();
        let (id, end) = match job {
            Ok((id, (end, ran))) => {
                add(&counters.ran, micros(ran));
                (id, end)
            }
            Err(error) => {
                let id = error.id();
                let text = error.try_into_panic().map(panic_text).unwrap_or_default();
                add(&counters.panicked, 1);
                let error = stored(&format_args!("the handler panicked: {text}"));
                (id, End::Outcome(JobOutcome::Retry { error, after: None }))
            }
        };
        let Some(Handled { held, stopped, .. }) = self.handled.remove(&id) else {
            return;
        };
        let outcome = match (end, stopped) {
            (End::Outcome(outcome), _) => outcome,
            (End::TimedOut, _) => {
                add(&counters.timed_out, 1);
                JobOutcome::Retry {
                    error: format!(
                        "the handler took longer than {:?}",
                        self.limits.handler_timeout
                    ),
                    after: None,
                }
            }
            (End::Stopped, Some(Stopped::Drained)) => return self.give_back(held),
            (End::Stopped, Some(Stopped::Done)) => JobOutcome::Completed,
            (End::Stopped, _) => return self.lost(&held),
        };
        let change = match outcome {
            JobOutcome::Complete => {
                self.ended.done.push(held);
                self.ended_since.get_or_insert_with(Instant::now);
                return;
            }
            JobOutcome::Completed => return add(&counters.completed, 1),
            // A handler may build these without the functions that shorten the text.
            JobOutcome::Retry { error, after } => held.claimed.retry_change(after, stored(&error)),
            JobOutcome::Fail { error } => Change::dead(stored(&error)),
            JobOutcome::Snooze(delay) => Change::back(Some(delay)),
        };
        self.change(held, change);
    }

    fn operation_ended(&mut self, operation: Operation<DB, T>) {
        match operation {
            Operation::Claimed {
                asked,
                counted,
                refused,
                result,
            } => {
                self.claiming = false;
                self.refused = refused;
                self.claimed(asked, counted, result);
            }
            Operation::Started(result) => self.started(result),
            Operation::Flushed(later) => {
                self.flushing.clear();
                if later.len() > 0 {
                    self.flush_later(later);
                }
            }
            Operation::FlushedLater(rows) => {
                let of_these = |held: &Arc<Held<T>>| rows.iter().any(|row| Arc::ptr_eq(row, held));
                self.locked.retain(|held| !of_these(held));
            }
            Operation::Beaten { rows, result } => {
                self.beating = false;
                self.beaten(rows, result);
            }
            Operation::Rescued { refused, result } => {
                self.rescuing = false;
                self.not_rescued = refused;
                match result {
                    Ok(Rescued {
                        ready,
                        dead,
                        refused,
                    }) => {
                        add(&self.stats.0.rescued, ready + dead);
                        add(&self.stats.0.dead, dead);
                        add(&self.stats.0.refused, refused);
                        if ready + dead > 0 {
                            tracing::warn!(ready, dead, "leases had ended");
                        }
                        if ready > 0 {
                            self.look();
                        }
                    }
                    Err(error) => warn::<T>("rescue", error),
                }
            }
        }
    }

    /// They are tried alone, and keep no others.
    fn flush_later(&mut self, later: Ended<T>) {
        let rows: Vec<_> = later.rows().collect();
        self.locked.extend(rows.iter().cloned());
        let flush = Flush::new(&self.pool, &self.stats, self.claims.lease);
        self.operations.spawn(async move {
            flush.run_later(later).await;
            Operation::FlushedLater(rows)
        });
    }

    fn claimed(
        &mut self,
        asked: usize,
        counted: bool,
        result: Result<(Instant, Found<T>), Failure>,
    ) {
        let now = Instant::now();
        let (at, found) = match result {
            Ok(found) => found,
            Err(failure) => {
                let cannot_pass = |error: &sqlx::Error| {
                    matches!(
                        Fault::of(error),
                        Fault::Schema | Fault::Decode | Fault::PoolClosed
                    )
                };
                match failure {
                    Failure::Database(error) if cannot_pass(&error) => {
                        let at = Attempt::new("claim", T::TABLE, KeyText::default());
                        let error = DatabaseError::new(at, error);
                        self.error = Some(WorkerError::Database(error));
                        return self.stop();
                    }
                    failure => warn::<T>("claim", failure),
                }
                self.failures = self.failures.saturating_add(1);
                self.next_claim = now + full_jitter(self.failures, FIRST_PAUSE, LONGEST_PAUSE);
                return;
            }
        };
        let Found {
            claimed,
            bad,
            exhausted,
        } = found;
        self.failures = 0;
        add(&self.stats.0.claimed, claimed.len() as u64);
        add(&self.stats.0.dead, exhausted);
        for row in &bad {
            row.log();
            add(&self.stats.0.bad, 1);
            match row.became {
                Some(Retried::Later(_)) => add(&self.stats.0.retried, 1),
                Some(Retried::Dead) => add(&self.stats.0.dead, 1),
                None => {}
            }
        }
        self.plenty = claimed.len() == asked;
        let more = self.woken || !bad.is_empty() || exhausted > 0;
        // The handlers need not wait for the answer whether there are rows behind some that no claim can write.
        self.short = !claimed.is_empty() && !self.plenty && !more;
        self.next_claim = match claimed.is_empty() && !more {
            true => now + jittered(self.limits.poll),
            false => now,
        };
        let until = at + self.claims.lease;
        for claimed in claimed {
            let held = Arc::new(Held {
                claimed,
                claimed_at: now,
                stop: Notify::new(),
            });
            if self.stopping.is_some() {
                self.give_back(held);
            } else {
                self.waiting.push_back(Waiting {
                    held,
                    until,
                    counted,
                });
            }
        }
    }

    fn beaten(&mut self, rows: Vec<Arc<Held<T>>>, result: Result<(Instant, Vec<Fate>), Failure>) {
        self.beat_failed = result.is_err();
        let (at, fates) = match result {
            Ok(beaten) => beaten,
            Err(failure) => {
                warn::<T>("heartbeat", failure);
                self.next_beat = Instant::now() + self.margin();
                return;
            }
        };
        let until = at + self.claims.lease;
        let rows = rows.iter().map(Arc::as_ptr).zip(&fates);
        let rows: HashMap<*const Held<T>, &Fate> = rows.collect();
        for handled in self.handled.values_mut() {
            let why = match rows.get(&Arc::as_ptr(&handled.held)) {
                Some(Fate::Lost) => Stopped::LeaseLost,
                Some(Fate::Done) => Stopped::Done,
                Some(Fate::Written | Fate::Later) => {
                    handled.until = until;
                    continue;
                }
                // Who is refused has lost nothing, until its lease ends.
                Some(Fate::Refused(_)) | None => continue,
            };
            if handled.stopped.is_none() {
                handled.stopped = Some(why);
                handled.held.stop.notify_one();
            }
        }
        for next in &mut self.starting {
            if let Some(Fate::Written | Fate::Later) = rows.get(&Arc::as_ptr(&next.held)) {
                next.until = until;
            }
        }
        for mut next in std::mem::take(&mut self.waiting) {
            match rows.get(&Arc::as_ptr(&next.held)) {
                Some(Fate::Lost | Fate::Done) => {
                    self.lost(&next.held);
                    continue;
                }
                Some(Fate::Written | Fate::Later) => next.until = until,
                Some(Fate::Refused(_)) | None => {}
            }
            self.waiting.push_back(next);
        }
    }
}

fn claims<T>(rows: &[Arc<Held<T>>]) -> Vec<&T> {
    rows.iter().map(|held| &*held.claimed).collect()
}

/// A statement, for as long as there is hope for an answer.
async fn in_time<DB: Backend, R>(
    limit: Duration,
    statement: impl Future<Output = Result<R, sqlx::Error>>,
) -> Result<Result<R, sqlx::Error>, Elapsed> {
    if DB::EMBEDDED {
        // Given up, it would be executed all the same, and claim rows for nobody.
        return Ok(statement.await);
    }
    timeout(limit, statement).await
}

/// Why a statement of the worker yielded nothing.
enum Failure {
    Database(sqlx::Error),
    /// The server said nothing in time. It may have executed the statement, or may do so yet.
    NoAnswer,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// A connection of the pool, which is closed if no statement on it was [`answered`](Self::answered).
struct Attended<DB: Backend> {
    connection: PoolConnection<DB>,
    answered: bool,
}

impl<DB: Backend> Attended<DB> {
    async fn acquire(pool: &Pool<DB>, limit: Duration) -> Result<Self, sqlx::Error> {
        let connection = timeout(limit, pool.acquire()).await;
        Ok(Self {
            connection: connection.unwrap_or(Err(sqlx::Error::PoolTimedOut))?,
            answered: false,
        })
    }

    fn link(&mut self) -> Link<'_, DB> {
        Link::new(&mut *self.connection)
    }

    fn answered<R>(
        mut self,
        result: Result<Result<R, sqlx::Error>, Elapsed>,
    ) -> Result<R, Failure> {
        self.answered = result.is_ok();
        match result {
            Ok(result) => result.map_err(Failure::Database),
            Err(Elapsed { .. }) => Err(Failure::NoAnswer),
        }
    }
}

impl<DB: Backend> Drop for Attended<DB> {
    fn drop(&mut self) {
        if !self.answered {
            DB::abandon_statement(&mut self.connection);
        }
    }
}

fn warn<T: Queue>(operation: &'static str, failure: Failure) {
    let at = Attempt::new(operation, T::TABLE, KeyText::default());
    match failure {
        Failure::Database(error) => {
            let error = DatabaseError::new(at, error);
            tracing::warn!(%error, "trying again");
        }
        Failure::NoAnswer => {
            tracing::warn!("{at}: no answer in time; the statement is given up, and tried again");
        }
    }
}

/// Between half of it and one and a half times as long.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.5 + fastrand::f64())
}

/// Looks how long a handler keeps its thread.
struct Watch {
    limit: Duration,
    stats: WorkerStats,
}

impl Watch {
    async fn over<T: Queue, R>(self, held: &Held<T>, work: impl Future<Output = R>) -> R {
        let (mut work, mut said) = (pin!(work), false);
        poll_fn(|context| {
            let begun = Instant::now();
            let poll = work.as_mut().poll(context);
            let kept = begun.elapsed();
            if kept > self.limit && !said {
                said = true;
                add(&self.stats.0.blocked, 1);
                tracing::warn!(
                    job = %at("run", &*held.claimed),
                    ?kept,
                    "the handler blocks its thread, and heartbeats can come too late: use `spawn_blocking`"
                );
            }
            poll
        })
        .await
    }
}

async fn run_job<T, F, R>(
    handler: Arc<F>,
    held: Arc<Held<T>>,
    limit: Duration,
    watch: Watch,
) -> (End, Duration)
where
    T: Queue,
    F: Fn(Job<T>) -> R,
    R: Future<Output: HandlerOutcome> + Send,
{
    let begun = Instant::now();
    let span = tracing::debug_span!(
        "rowlock.job",
        job = %at("run", &*held.claimed),
        attempt = held.claimed.attempts()
    );
    let job = async {
        let work = async {
            let outcome = async { handler(Job(held.clone())).await };
            let outcome = watch.over(&held, outcome).await;
            End::Outcome(outcome.into_outcome())
        };
        tokio::select! {
            biased;
            () = held.stop.notified() => End::Stopped,
            ended = timeout(limit, work) => ended.unwrap_or(End::TimedOut),
        }
    };
    let end = job.instrument(span).await;
    (end, begun.elapsed())
}
