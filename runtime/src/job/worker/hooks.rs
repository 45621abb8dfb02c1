//! A handler, and what runs around it.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::held::{Job, Watch};
use super::outcome::{HandlerOutcome, JobOutcome};
use super::stats::WorkerStats;
use crate::fan_out::{Cut, contained};
use crate::job::queue::Queue;

pub(super) type Hook<T> = Box<dyn Fn(Job<T>, Next) -> BoxFuture<'static, JobOutcome> + Send + Sync>;

/// The inside of a hook of [`around`](super::Worker::around): the hooks added after it, and the handler.
#[must_use = "without `run` the handler does not run"]
pub struct Next(BoxFuture<'static, JobOutcome>);

impl Next {
    /// Runs the handler, and returns its outcome; after a panic or at the [`deadline`](Job::deadline) a [`Retry`](JobOutcome::Retry), with the text
    /// to store as the last error.
    ///
    /// A hook can move this into a task of its own: it still ends with the job.
    ///
    /// Cancel safety: if you drop the future, the handler is dropped at once, and the hook decides what becomes of the job.
    pub async fn run(self) -> JobOutcome {
        self.0.await
    }
}

impl std::fmt::Debug for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// How a handler gets its rows: each for itself, or several together.
pub(super) trait Handle<T>: Sized + Send + Sync + 'static {
    /// The place of a row among those that it is handled with.
    type Seat: Send + 'static;

    /// How many rows it gets at most.
    fn size(&self) -> usize;

    /// The seats of so many rows, and what handles those that sit down.
    fn seats(
        work: &Arc<Work<T, Self>>,
        rows: usize,
    ) -> (
        impl Iterator<Item = Self::Seat>,
        Option<BoxFuture<'static, ()>>,
    );

    /// What it makes of a row.
    fn handle(&self, job: Job<T>, seat: Self::Seat) -> impl Future<Output = JobOutcome> + Send;
}

/// A handler of one row.
pub(super) struct Each<F>(pub(super) F);

impl<T, F, R> Handle<T> for Each<F>
where
    T: Queue,
    F: Fn(Job<T>) -> R + Send + Sync + 'static,
    R: Future<Output: HandlerOutcome> + Send + 'static,
{
    type Seat = ();

    fn size(&self) -> usize {
        1
    }

    fn seats(
        _: &Arc<Work<T, Self>>,
        rows: usize,
    ) -> (impl Iterator<Item = ()>, Option<BoxFuture<'static, ()>>) {
        (std::iter::repeat_n((), rows), None)
    }

    async fn handle(&self, job: Job<T>, (): ()) -> JobOutcome {
        (self.0)(job).await.into_outcome()
    }
}

/// A handler, and the hooks around it, the outermost first.
pub(super) struct Work<T, H> {
    pub(super) handler: H,
    pub(super) hooks: Vec<Hook<T>>,
    /// How long all of them may take.
    pub(super) limit: Duration,
    /// How long they may keep their thread.
    pub(super) thread_limit: Duration,
    pub(super) stats: WorkerStats,
}

impl<T: Queue, H: Handle<T>> Work<T, H> {
    pub(super) fn watch(&self) -> Watch {
        Watch {
            limit: self.thread_limit,
            stats: self.stats.clone(),
        }
    }

    pub(super) async fn run(self: Arc<Self>, job: Job<T>, seat: H::Seat) -> JobOutcome {
        if self.hooks.is_empty() {
            return self.handler.handle(job, seat).await;
        }
        self.rest(0, job, seat).run().await
    }

    /// The hooks from this one on, and the handler. What they panic with, and their deadline, end here: the hook around them sees an outcome.
    fn rest(self: Arc<Self>, from: usize, job: Job<T>, seat: H::Seat) -> Next {
        Next(Box::pin(async move {
            let (work, held, deadline) = (self.clone(), job.held.clone(), job.deadline);
            let stopped = job.clone();
            let rest = async move {
                let Some(hook) = work.hooks.get(from) else {
                    return work.handler.handle(job, seat).await;
                };
                let next = work.clone().rest(from + 1, job.clone(), seat);
                hook(job, next).await
            };
            // Also where a hook has given it to a task of its own, which nothing else would end.
            let rest = tokio::select! {
                biased;
                // Of all of it the task of the job has been told: it is no failed attempt.
                () = stopped.stopped() => match from {
                    0 => return pending().await,
                    _ => return JobOutcome::Retry { error: "the job was stopped".to_owned(), after: None },
                },
                rest = contained(rest, Some(deadline)) => rest,
            };
            match rest {
                Ok(outcome) => outcome,
                Err(Cut::Panicked(text)) => held.panicked(&self.stats, &text),
                Err(Cut::TimedOut) => held.timed_out(&self.stats, self.limit),
            }
        }))
    }
}
