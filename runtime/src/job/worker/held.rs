//! The rows that a worker holds.

use super::hooks::{Handle, Work};
use super::outcome::JobOutcome;
use super::stats::{Event, WorkerStats};
use crate::job::queue::{Change, Claimed, Queue, at, stored};
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

/// A row that a handler works on. Dereferences to the claim, and so to the row.
///
/// The worker finishes the row, as the handler's [`HandlerOutcome`](super::HandlerOutcome) says.
pub struct Job<T> {
    pub(super) held: Arc<Held<T>>,
    pub(super) deadline: Instant,
}

impl<T> Job<T> {
    /// Whether the work should stop: the claim no longer holds, because the job was cancelled or its lease ended; the handler took too long; the
    /// worker is stopping and has waited long enough; or the handler has ended.
    ///
    /// The handler itself is then dropped at its next `.await`. What it has given to `spawn_blocking` or to another task goes on: check this there
    /// from time to time, on a clone of the job.
    pub fn is_stopped(&self) -> bool {
        self.held.stop.is_told()
    }

    /// When the handler is dropped at the latest: [`handler_timeout`](super::Worker::handler_timeout) after its start.
    ///
    /// Earlier if the job is cancelled, its lease is lost, or the worker stops and has waited long enough.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Until when the claim certainly holds, by this process's clock; each heartbeat moves it.
    ///
    /// It counts from before the claim or the heartbeat was sent, so the database's value is a little later. The claim of a cancelled job no longer
    /// holds, whatever this says: see [`is_stopped`](Self::is_stopped).
    pub fn leased_until(&self) -> Instant {
        self.held.until()
    }

    /// Waits until [`is_stopped`](Self::is_stopped), for tasks that the handler has spawned. Cancel safety: it only waits.
    pub async fn stopped(&self) {
        self.held.stop.told().await;
    }
}

impl<T> Deref for Job<T> {
    type Target = Claimed<T>;

    fn deref(&self) -> &Claimed<T> {
        &self.held.claimed
    }
}

impl<T> Clone for Job<T> {
    fn clone(&self) -> Self {
        Self {
            held: self.held.clone(),
            deadline: self.deadline,
        }
    }
}

impl<T: Queue> std::fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Job").field(&self.held.claimed).finish()
    }
}

/// A row that this worker holds.
pub(super) struct Held<T> {
    pub(super) claimed: Claimed<T>,
    pub(super) claimed_at: Instant,
    /// Before its claim was sent.
    sent: Instant,
    /// So many microseconds after that the lease ends.
    lease: AtomicU64,
    pub(super) stop: Stop,
    /// What is counted once, however many hooks see it.
    has_panicked: AtomicBool,
    has_timed_out: AtomicBool,
}

impl<T> Held<T> {
    pub(super) fn new(claimed: Claimed<T>, sent: Instant, lease: Duration) -> Self {
        Self {
            claimed,
            claimed_at: Instant::now(),
            sent,
            lease: AtomicU64::new(in_micros(lease)),
            stop: Stop::default(),
            has_panicked: AtomicBool::new(false),
            has_timed_out: AtomicBool::new(false),
        }
    }

    /// Until when the claim holds, by our clock: not later than by the database's.
    pub(super) fn until(&self) -> Instant {
        self.sent + Duration::from_micros(self.lease.load(Ordering::Relaxed))
    }

    /// A lease from then on.
    pub(super) fn extend(&self, from: Instant, lease: Duration) {
        let lease = from.saturating_duration_since(self.sent) + lease;
        self.lease.store(in_micros(lease), Ordering::Relaxed);
    }

    /// What becomes of the row of a handler that has panicked.
    pub(super) fn panicked(&self, stats: &WorkerStats, text: &str) -> JobOutcome {
        if !self.has_panicked.swap(true, Ordering::Relaxed) {
            stats.add(Event::Panicked, 1);
        }
        let error = match text {
            "" => "the handler panicked".to_owned(),
            text => stored(&format_args!("the handler panicked: {text}")),
        };
        JobOutcome::Retry { error, after: None }
    }

    /// What becomes of the row of a handler that took too long.
    pub(super) fn timed_out(&self, stats: &WorkerStats, limit: Duration) -> JobOutcome {
        if !self.has_timed_out.swap(true, Ordering::Relaxed) {
            stats.add(Event::TimedOut, 1);
        }
        JobOutcome::Retry {
            error: format!("the handler took longer than {limit:?}"),
            after: None,
        }
    }
}

fn in_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Tells a job and what it has spawned, or a statement that waits for a connection, to stop.
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

    pub(super) fn is_told(&self) -> bool {
        self.is_told.load(Ordering::Acquire)
    }

    pub(super) async fn told(&self) {
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
    /// Whether the attempt counts in the database already.
    pub(super) counted: bool,
}

/// A row whose job runs.
pub(super) struct Handled<T> {
    pub(super) held: Arc<Held<T>>,
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
    pub(super) async fn over<T: Queue, R>(
        self,
        held: &Held<T>,
        work: impl Future<Output = R>,
    ) -> R {
        let (mut work, mut said) = (pin!(work), false);
        poll_fn(|context| {
            let begun = Instant::now();
            let poll = work.as_mut().poll(context);
            let kept = begun.elapsed();
            if kept > self.limit && !said {
                said = true;
                self.stats.add(Event::Blocked, 1);
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

/// `begun`: when its time began.
pub(super) async fn run_job<T: Queue, H: Handle<T>>(
    work: Arc<Work<T, H>>,
    held: Arc<Held<T>>,
    seat: H::Seat,
    begun: Instant,
) -> (End, Duration) {
    let deadline = begun + work.limit;
    let _over = Over(&held.stop);
    let span = tracing::debug_span!(
        "rowlock.job",
        otel.kind = "consumer",
        messaging.system = "rowlock",
        messaging.destination.name = T::TABLE,
        messaging.operation.name = "process",
        job = %at("run", &*held.claimed),
        attempt = held.claimed.attempts()
    );
    let job = async {
        let job = Job {
            held: held.clone(),
            deadline,
        };
        let watch = work.watch();
        let outcome = async { End::Outcome(watch.over(&held, work.run(job, seat)).await) };
        tokio::select! {
            biased;
            () = held.stop.told() => End::Stopped,
            ended = timeout_at(deadline, outcome) => ended.unwrap_or(End::TimedOut),
        }
    };
    let end = job.instrument(span).await;
    (end, begun.elapsed())
}
