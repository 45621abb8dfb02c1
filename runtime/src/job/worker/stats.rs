//! What a worker counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a worker has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerCounts {
    /// Rows claimed and held.
    pub claimed: u64,
    /// Rows that became done, by this worker or by the handler itself, however the handler ended after its `complete_in`.
    pub completed: u64,
    /// Rows put back after a failed attempt.
    pub retried: u64,
    /// Rows given up: by the handler, after the last attempt, or when the lease of the last attempt ended.
    pub dead: u64,
    /// Rows put back by [`JobOutcome::Snooze`](crate::queue::JobOutcome::Snooze).
    pub snoozed: u64,
    /// Rows given back unfinished because the worker stopped.
    pub released: u64,
    /// Claims that were lost before the row was finished, or that end unfinished because the database refuses the row; the work may be done twice.
    /// Also claims of cancelled jobs, whose work is not done again.
    pub lease_lost: u64,
    /// Rows of any worker whose leases had ended and which were taken back.
    pub rescued: u64,
    /// Rows that could not be given to a handler, because they do not fit the model or the database refuses to write them; those that could be put
    /// off also count in `retried` or `dead`.
    pub bad: u64,
    /// How often the database refused, or a trigger dropped, the write of a row to be finished or rescued. Such a row stays as it is.
    pub refused: u64,
    /// Handlers, or their hooks, that exceeded the time limit; each also counts in `retried` or `dead`, in `completed` if it had completed the row
    /// itself, in `lease_lost`, or as a hook decides. In a batch each job counts.
    pub timed_out: u64,
    /// Handlers, or their hooks, that panicked; each also counts in one of the same. In a batch each job counts.
    pub panicked: u64,
    /// Handlers that occupied a thread of the runtime for longer than a third of the lease without an `.await`. If they occupy all of them, no
    /// heartbeat is sent, and the leases of all rows of this worker can end.
    pub blocked: u64,
    /// Handlers, or their hooks, that were started.
    pub started: u64,
    /// How long the started rows had been due, in total.
    pub waited: Duration,
    /// The longest time that one of them had been due.
    pub longest_wait: Duration,
    /// How long handlers ran, in total.
    pub ran: Duration,
}

/// Counts while the worker runs. A clone reads the same counts.
#[derive(Debug, Clone, Default)]
pub struct WorkerStats(pub(super) Arc<Counters>);

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) claimed: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) dead: AtomicU64,
    pub(super) snoozed: AtomicU64,
    pub(super) released: AtomicU64,
    pub(super) lease_lost: AtomicU64,
    pub(super) rescued: AtomicU64,
    pub(super) bad: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) panicked: AtomicU64,
    pub(super) blocked: AtomicU64,
    pub(super) started: AtomicU64,
    /// In microseconds.
    pub(super) waited: AtomicU64,
    pub(super) longest_wait: AtomicU64,
    pub(super) ran: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

pub(super) fn micros(duration: Duration) -> u64 {
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
