//! The rows that a worker holds.

use super::outcome::{HandlerOutcome, JobOutcome};
use super::stats::{WorkerStats, add};
use crate::job::queue::{Change, Claimed, Queue, at};
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

/// A row that a handler works on. Dereferences to the claim, and so to the row.
///
/// It is the worker that finishes the row, as the handler's [`HandlerOutcome`] says.
pub struct Job<T>(Arc<Held<T>>);

impl<T> Job<T> {
    /// Whether the work is to stop: the claim holds no more, because the job was cancelled or its lease ended; the handler took too long; the
    /// worker stops and has waited long enough; or the handler has ended.
    ///
    /// The handler itself is dropped at its next `.await` then. What it has given to `spawn_blocking` or to another task goes on: let that
    /// look here from time to time, with a clone of the job.
    pub fn is_stopped(&self) -> bool {
        self.0.stop.is_told()
    }

    /// Waits until [`is_stopped`](Self::is_stopped), for tasks that the handler has spawned. Cancel safety: it only waits.
    pub async fn stopped(&self) {
        self.0.stop.told().await;
    }
}

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
pub(super) struct Held<T> {
    pub(super) claimed: Claimed<T>,
    pub(super) claimed_at: Instant,
    pub(super) stop: Stop,
}

/// Tells a job, and what it has spawned, to stop.
#[derive(Default)]
pub(super) struct Stop {
    is_told: AtomicBool,
    waiting: Notify,
}

impl Stop {
    pub(super) fn tell(&self) {
        self.is_told.store(true, Ordering::Release);
        self.waiting.notify_waiters();
    }

    fn is_told(&self) -> bool {
        self.is_told.load(Ordering::Acquire)
    }

    async fn told(&self) {
        let mut notified = pin!(self.waiting.notified());
        // Before the look, so that it misses nothing.
        notified.as_mut().enable();
        if !self.is_told() {
            notified.await;
        }
    }
}

/// A row whose job has not started.
pub(super) struct Waiting<T> {
    pub(super) held: Arc<Held<T>>,
    /// As in [`Handled`].
    pub(super) until: Instant,
    /// Whether the attempt counts in the database already.
    pub(super) counted: bool,
}

/// A row whose job runs.
pub(super) struct Handled<T> {
    pub(super) held: Arc<Held<T>>,
    /// Until when the claim holds, by our clock: not later than by the database's.
    pub(super) until: Instant,
    pub(super) stopped: Option<Stopped>,
}

#[derive(Clone, Copy)]
pub(super) enum Stopped {
    LeaseLost,
    /// The handler has completed the row.
    Done,
    Drained,
}

/// How a job ended.
pub(super) enum End {
    Outcome(JobOutcome),
    TimedOut,
    Stopped,
}

/// Rows whose jobs have ended, and which are to be finished in the database.
pub(super) struct Ended<T> {
    pub(super) done: Vec<Arc<Held<T>>>,
    pub(super) changed: Vec<(Arc<Held<T>>, Change)>,
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
    pub(super) fn len(&self) -> usize {
        self.done.len() + self.changed.len()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Arc<Held<T>>> {
        let changed = self.changed.iter().map(|(held, _)| held);
        self.done.iter().chain(changed).cloned()
    }
}

/// Tells what a handler has spawned that it is over, however it ended.
struct Over<'h>(&'h Stop);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.tell();
    }
}

/// Looks how long a handler keeps its thread.
pub(super) struct Watch {
    pub(super) limit: Duration,
    pub(super) stats: WorkerStats,
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

pub(super) async fn run_job<T, F, R>(
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
    let _over = Over(&held.stop);
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
            () = held.stop.told() => End::Stopped,
            ended = timeout(limit, work) => ended.unwrap_or(End::TimedOut),
        }
    };
    let end = job.instrument(span).await;
    (end, begun.elapsed())
}
