//! Several workers with one end.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::batch::BatchOutcome;
use super::held::{Job, Stop};
use super::outcome::HandlerOutcome;
use super::stats::WorkerCounts;
use super::{Worker, WorkerError};
use crate::db::Backend;
use crate::job::queue::QueueSql;

/// Why a [`WorkerSet`] stopped early: the error of its first failed member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerSetError {
    /// A worker has stopped.
    #[error("the worker of `{table}` has stopped: {error}")]
    Worker {
        /// The table of its queue.
        table: &'static str,
        /// Why.
        #[source]
        error: WorkerError,
    },
    /// A task has failed.
    #[error("the task `{name}` has failed: {error}")]
    Task {
        /// As given to [`WorkerSet::add_task`].
        name: String,
        /// What it returned.
        #[source]
        error: Box<dyn Error + Send + Sync>,
    },
}

/// Several workers that run together, and stop together. [`run`](Self::run) starts them.
///
/// ```
/// # use chrono::{DateTime, Utc};
/// # use rowlock::{Fence, Queue};
/// # use rowlock::queue::QueueState;
/// # use std::time::Duration;
/// use rowlock::queue::WorkerSet;
///
/// # #[derive(sqlx::FromRow, Queue)]
/// # #[rowlock(table = "emails")]
/// # struct Email {
/// #     #[rowlock(key, generated)] id: i64,
/// #     #[rowlock(filter)] kind: String,
/// #     #[rowlock(run_at)] run_at: DateTime<Utc>,
/// #     #[rowlock(state)] state: QueueState,
/// #     #[rowlock(attempts)] attempts: i32,
/// #     #[rowlock(fence)] fence: Fence,
/// #     #[rowlock(lease)] leased_until: Option<DateTime<Utc>>,
/// # }
/// # #[derive(sqlx::FromRow, Queue)]
/// # #[rowlock(table = "reports")]
/// # struct Report {
/// #     #[rowlock(key, generated)] id: i64,
/// #     #[rowlock(run_at)] run_at: DateTime<Utc>,
/// #     #[rowlock(state)] state: QueueState,
/// #     #[rowlock(attempts)] attempts: i32,
/// #     #[rowlock(fence)] fence: Fence,
/// #     #[rowlock(lease)] leased_until: Option<DateTime<Utc>>,
/// # }
/// # async fn send(email: &Email) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn render(report: &Report) -> Result<(), std::io::Error> { Ok(()) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # for (table, rows) in [("emails", 3), ("reports", 1)] {
/// #     sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
/// #         "CREATE TABLE {table} (id INTEGER PRIMARY KEY, kind text NOT NULL DEFAULT 'push',
/// #              run_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, state text NOT NULL DEFAULT 'ready',
/// #              attempts integer NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamp)",
/// #     ))).execute(&pool).await?;
/// #     for _ in 0..rows {
/// #         sqlx::raw_sql(sqlx::AssertSqlSafe(format!("INSERT INTO {table} DEFAULT VALUES"))).execute(&pool).await?;
/// #     }
/// # }
/// # let sigterm = tokio::time::sleep(Duration::from_millis(300));
/// let counts = WorkerSet::new()
///     .add(Report::worker(&pool).concurrency(1), async |report| render(&report).await)
///     // The same model twice, to limit a kind: however many pushes wait, 6 handlers are for the other mails.
///     .add(Email::worker(&pool).only(Email::KIND, "push").concurrency(2), async |email| send(&email).await)
///     .add(Email::worker(&pool).when(Email::KIND.ne("push")).concurrency(6), async |email| send(&email).await)
///     .shutdown(sigterm)
///     .run()
///     .await?;
/// for (table, counts) in &counts {
///     println!("{table}: {} done", counts.completed);
/// }
/// # let completed: Vec<_> = counts.iter().map(|(table, counts)| (*table, counts.completed)).collect();
/// # assert_eq!(completed, [("reports", 1), ("emails", 3), ("emails", 0)]);
/// # Ok(())
/// # }
/// ```
///
/// Each worker claims for itself, with its own settings and heartbeat, so a pool needs connections for all of them: two each, and those of the
/// handlers.
#[must_use = "nothing happens before `run`"]
pub struct WorkerSet {
    members: Vec<Member>,
    shutdown: BoxFuture<'static, ()>,
}

/// Runs until it is told to stop. A worker yields its table and counts.
type Member = Box<dyn FnOnce(BoxFuture<'static, ()>) -> BoxFuture<'static, Ended> + Send>;
type Ended = Result<Option<(&'static str, WorkerCounts)>, WorkerSetError>;

impl fmt::Debug for WorkerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerSet")
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}

impl Default for WorkerSet {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerSet {
    /// A set without members.
    pub fn new() -> Self {
        Self {
            members: Vec::new(),
            shutdown: Box::pin(pending()),
        }
    }

    /// Adds a worker, and what [`Worker::run`] takes. Its own [`shutdown`](Worker::shutdown), if it has one, stops it alone.
    pub fn add<DB, T, F, R>(self, worker: Worker<DB, T>, handler: F) -> Self
    where
        DB: Backend,
        T: QueueSql<DB>,
        F: Fn(Job<T>) -> R + Send + Sync + 'static,
        R: Future<Output: HandlerOutcome> + Send + 'static,
    {
        self.add_worker(T::TABLE, move |stop| worker.or_shutdown(stop).run(handler))
    }

    /// Adds a worker, and what [`Worker::run_batch`] takes.
    pub fn add_batch<DB, T, F, R>(self, worker: Worker<DB, T>, size: usize, handler: F) -> Self
    where
        DB: Backend,
        T: QueueSql<DB>,
        F: Fn(Vec<Job<T>>) -> R + Send + Sync + 'static,
        R: Future<Output: BatchOutcome> + Send + 'static,
    {
        self.add_worker(T::TABLE, move |stop| {
            worker.or_shutdown(stop).run_batch(size, handler)
        })
    }

    /// Adds any other task that runs until it is told to stop. `run` gets the future that tells it.
    ///
    /// An error stops the set and shows the name. A task may end earlier: the others go on.
    ///
    /// ```
    /// # use rowlock::queue::WorkerSet;
    /// # async fn sweep() -> Result<(), std::io::Error> { Ok(()) }
    /// # let set = WorkerSet::new();
    /// # let _ =
    /// set.add_task("sweep", |mut stop| async move {
    ///     loop {
    ///         tokio::select! {
    ///             () = &mut stop => return Ok::<_, std::io::Error>(()),
    ///             () = tokio::time::sleep(std::time::Duration::from_secs(60)) => sweep().await?,
    ///         }
    ///     }
    /// })
    /// # ;
    /// ```
    pub fn add_task<R, O, E>(
        mut self,
        name: impl Into<String>,
        run: impl FnOnce(BoxFuture<'static, ()>) -> R + Send + 'static,
    ) -> Self
    where
        R: Future<Output = Result<O, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let name = name.into();
        self.members.push(Box::new(move |stop| {
            let run = run(stop);
            Box::pin(async move {
                match run.await {
                    Ok(_) => Ok(None),
                    Err(error) => Err(WorkerSetError::Task {
                        name,
                        error: error.into(),
                    }),
                }
            })
        }));
        self
    }

    fn add_worker<R>(
        mut self,
        table: &'static str,
        run: impl FnOnce(BoxFuture<'static, ()>) -> R + Send + 'static,
    ) -> Self
    where
        R: Future<Output = Result<WorkerCounts, WorkerError>> + Send + 'static,
    {
        self.members.push(Box::new(move |stop| {
            let run = run(stop);
            Box::pin(async move {
                match run.await {
                    Ok(counts) => Ok(Some((table, counts))),
                    Err(error) => Err(WorkerSetError::Worker { table, error }),
                }
            })
        }));
        self
    }

    /// Stops all members when the future is ready, each by its own [`shutdown_timeout`](Worker::shutdown_timeout).
    pub fn shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Runs all members, in tasks of their own, until all of them have ended. Returns the table and the counts of each worker, in
    /// the order in which they were added.
    ///
    /// Cancel safety: if you drop the future, all members are dropped at their next await point; see [`Worker::run`].
    ///
    /// # Errors
    ///
    /// `Worker` or `Task`, of the first failed member. The others are then stopped as by [`shutdown`](Self::shutdown) and awaited; [`Worker::stats`]
    /// has their counts. Further errors are logged. If a member panics, the others are stopped in the same way before the panic propagates.
    pub fn run(
        self,
    ) -> impl Future<Output = Result<Vec<(&'static str, WorkerCounts)>, WorkerSetError>> + Send
    {
        async move {
            let Self {
                members,
                mut shutdown,
            } = self;
            let stop = Arc::new(Stop::default());
            let mut running = JoinSet::new();
            for (index, member) in members.into_iter().enumerate() {
                let stop = stop.clone();
                let member = member(Box::pin(async move { stop.told().await }));
                running.spawn(async move { (index, member.await) }.in_current_span());
            }
            let mut counts = BTreeMap::new();
            let (mut failed, mut panicked) = (None, None);
            loop {
                let ended = tokio::select! {
                    ended = running.join_next() => ended,
                    () = &mut shutdown, if !stop.is_told() => {
                        stop.tell();
                        continue;
                    }
                };
                match ended {
                    None => break,
                    Some(Ok((index, Ok(ended)))) => {
                        counts.extend(ended.map(|counts| (index, counts)));
                        continue;
                    }
                    Some(Ok((_, Err(error)))) if failed.is_none() => failed = Some(error),
                    Some(Ok((_, Err(error)))) => tracing::error!(%error, "another one"),
                    Some(Err(error)) => panicked = error.try_into_panic().ok().or(panicked),
                }
                stop.tell();
            }
            if let Some(panic) = panicked {
                std::panic::resume_unwind(panic);
            }
            match failed {
                Some(error) => Err(error),
                None => Ok(counts.into_values().collect()),
            }
        }
    }
}
