//! What a worker counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::observe;

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
    /// Rows put back by [`JobOutcome::Snooze`](crate::queue::JobOutcome::Snooze).
    pub snoozed: u64,
    /// Rows given back unfinished because the worker stopped.
    pub released: u64,
    /// Claims that were lost before the row was finished, or that end unfinished as the database refuses the row; the work may be done
    /// twice. Also claims of jobs that were cancelled, whose work is not done again.
    pub lease_lost: u64,
    /// Rows of any worker whose leases had ended and which were taken back.
    pub rescued: u64,
    /// Rows that could not be given to a handler, because they do not fit the model or the database refuses to write them; each
    /// that could be put off is also in `retried`, or in `dead`.
    pub bad: u64,
    /// How often the database refused, or a trigger dropped, the write of a row that was to be finished or rescued. Such a row is left as it
    /// is.
    pub refused: u64,
    /// Handlers, or their hooks, that were stopped because of the time limit; each is also in `retried` or `dead`, or in `completed` if it had
    /// completed the row itself, or in `lease_lost`, or where a hook says. Of a batch each job counts.
    pub timed_out: u64,
    /// Handlers, or their hooks, that panicked; each is also in one of the same. Of a batch each job counts.
    pub panicked: u64,
    /// Handlers that kept a thread of the runtime for longer than a third of the lease without an `.await`. If they keep all of
    /// them, no heartbeat is sent, and the leases of all rows of this worker can end.
    pub blocked: u64,
    /// Handlers that were started, or their hooks.
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
pub struct WorkerStats(pub(super) Arc<Counters>);

#[derive(Debug, Default)]
pub(super) struct Counters {
    /// The worker's.
    table: &'static str,
    events: [AtomicU64; Event::Started as usize + 1],
    /// In microseconds.
    waited: AtomicU64,
    longest_wait: AtomicU64,
    ran: AtomicU64,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Claimed,
    Completed,
    Retried,
    Dead,
    Snoozed,
    Released,
    LeaseLost,
    Rescued,
    Bad,
    Refused,
    TimedOut,
    Panicked,
    Blocked,
    /// The last one.
    Started,
}

impl Event {
    /// The field of [`WorkerCounts`].
    fn name(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Completed => "completed",
            Self::Retried => "retried",
            Self::Dead => "dead",
            Self::Snoozed => "snoozed",
            Self::Released => "released",
            Self::LeaseLost => "lease_lost",
            Self::Rescued => "rescued",
            Self::Bad => "bad",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::Blocked => "blocked",
            Self::Started => "started",
        }
    }
}

fn micros(duration: Duration) -> u64 {
    // A row that is due since `-infinity` must not end the count of all others.
    let limit = Duration::from_secs(86_400 * 365);
    u64::try_from(duration.min(limit).as_micros()).unwrap_or(u64::MAX)
}

impl WorkerStats {
    pub(super) fn of(table: &'static str) -> Self {
        Self(Arc::new(Counters {
            table,
            ..Counters::default()
        }))
    }

    pub(super) fn add(&self, event: Event, number: u64) {
        if let Some(counter) = self.0.events.get(event as usize)
            && number > 0
        {
            counter.fetch_add(number, Ordering::Relaxed);
            observe::jobs(self.0.table, event.name(), number);
        }
    }

    /// A handler begins with a row that has been due for so long.
    pub(super) fn begun(&self, waited: Duration) {
        self.add(Event::Started, 1);
        observe::job_waited(self.0.table, waited);
        let waited = micros(waited);
        self.0.waited.fetch_add(waited, Ordering::Relaxed);
        self.0.longest_wait.fetch_max(waited, Ordering::Relaxed);
    }

    /// A handler has ended.
    pub(super) fn ran(&self, ran: Duration) {
        observe::job_ran(self.0.table, ran);
        self.0.ran.fetch_add(micros(ran), Ordering::Relaxed);
    }

    /// The counts as they are now.
    pub fn counts(&self) -> WorkerCounts {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let time = |counter: &AtomicU64| Duration::from_micros(number(counter));
        let counters = &*self.0;
        let count = |event| counters.events.get(event as usize).map_or(0, number);
        WorkerCounts {
            claimed: count(Event::Claimed),
            completed: count(Event::Completed),
            retried: count(Event::Retried),
            dead: count(Event::Dead),
            snoozed: count(Event::Snoozed),
            released: count(Event::Released),
            lease_lost: count(Event::LeaseLost),
            rescued: count(Event::Rescued),
            bad: count(Event::Bad),
            refused: count(Event::Refused),
            timed_out: count(Event::TimedOut),
            panicked: count(Event::Panicked),
            blocked: count(Event::Blocked),
            started: count(Event::Started),
            waited: time(&counters.waited),
            longest_wait: time(&counters.longest_wait),
            ran: time(&counters.ran),
        }
    }
}
