//! The worker at work.

mod beat;
mod claim;
mod end;
mod start;

use super::connection::Failure;
use super::held::{End, Ended, Handled, Held, Stop, Stopped, Waiting};
use super::hooks::{Handle, Work};
use super::stats::{WorkerCounts, WorkerStats};
use super::{DEBOUNCE, GATHER, LAST_STATEMENTS, Limits, PREFETCH_AFTER, WorkerError};
use crate::db::Backend;
use crate::db::error::DatabaseError;
use crate::job::queue::{Claims, Fate, Found, Queue, QueueSql, Refused, Rescued};
use futures_util::future::BoxFuture;
use sqlx::Pool;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

/// What a statement in the background came to.
pub(super) enum Background<DB: Backend, T> {
    Claimed {
        asked: usize,
        counted: bool,
        refused: Refused<DB>,
        /// With the time from which the leases count.
        result: Result<(Instant, Found<T>), Failure>,
    },
    Started(Result<Vec<Fate>, Failure>),
    /// With the rows that are locked.
    Flushed(Ended<T>),
    FlushedLater(Vec<Arc<Held<T>>>),
    Beaten {
        rows: Vec<Arc<Held<T>>>,
        /// With the time from which the leases count.
        result: Result<(Instant, Vec<Fate>), Failure>,
    },
    Rescued {
        refused: Refused<DB>,
        result: Result<Rescued, Failure>,
    },
}

/// A worker at work. All of its state is here, in one task; only statements and handlers run beside it.
pub(super) struct Running<DB: Backend, T, H> {
    pool: Pool<DB>,
    claims: Arc<Claims<DB>>,
    limits: Limits,
    stats: WorkerStats,
    work: Arc<Work<T, H>>,
    wake: Arc<Notify>,
    /// Claimed, and not started.
    waiting: VecDeque<Waiting<T>>,
    /// The rows in the statement that counts their attempts; handlers are reserved for them.
    starting: Vec<Waiting<T>>,
    next_start: Instant,
    jobs: JoinSet<(End, Duration)>,
    handled: HashMap<Id, Handled<T>>,
    /// What handles rows together. Their jobs wait for it.
    batches: JoinSet<()>,
    /// Since when fewer rows than a batch has wait for more.
    gathering: Option<Instant>,
    ended: Ended<T>,
    ended_since: Option<Instant>,
    operations: JoinSet<Background<DB, T>>,
    claiming: bool,
    /// Tells a claim or a rescue that waits for a connection that it is not wanted any more.
    no_more: Arc<Stop>,
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
    last_claim: Option<Instant>,
    /// When a handler was started last.
    last_start: Instant,
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

impl<DB, T, H> Running<DB, T, H>
where
    DB: Backend,
    T: QueueSql<DB>,
    H: Handle<T>,
{
    pub(super) fn new(
        pool: Pool<DB>,
        claims: Claims<DB>,
        limits: Limits,
        work: Work<T, H>,
        wake: Arc<Notify>,
    ) -> Self {
        let now = Instant::now();
        Self {
            claims: Arc::new(claims),
            limits,
            stats: work.stats.clone(),
            pool,
            work: Arc::new(work),
            wake,
            waiting: VecDeque::new(),
            starting: Vec::new(),
            next_start: now,
            jobs: JoinSet::new(),
            handled: HashMap::new(),
            batches: JoinSet::new(),
            gathering: None,
            ended: Ended::default(),
            ended_since: None,
            operations: JoinSet::new(),
            claiming: false,
            no_more: Arc::default(),
            flushing: Vec::new(),
            locked: Vec::new(),
            refused: Refused::default(),
            not_rescued: Refused::default(),
            beating: false,
            beat_failed: false,
            rescuing: false,
            next_claim: now,
            last_claim: None,
            last_start: now,
            next_beat: now,
            next_rescue: now,
            woken: false,
            plenty: false,
            short: false,
            failures: 0,
            stopping: None,
            error: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut shutdown: BoxFuture<'static, ()>,
    ) -> Result<WorkerCounts, WorkerError> {
        let wake = self.wake.clone();
        loop {
            self.start_jobs();
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
                Some(_) = self.batches.join_next() => {}
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
        self.next_claim = self.soon();
        self.woken = true;
        self.short = false;
    }

    /// A job has ended, and another one may have waited for that.
    fn look_for_the_next(&mut self) {
        if T::PER.is_some() {
            // This is news, however soon it comes.
            self.last_claim = None;
            self.look();
        }
    }

    /// When to claim, if there may be rows: at once, but not repeatedly while there are fewer than are wanted.
    fn soon(&self) -> Instant {
        let now = Instant::now();
        match self.last_claim {
            Some(last) if !self.plenty => now.max(last + DEBOUNCE),
            _ => now,
        }
    }

    fn is_over(&self) -> bool {
        let finishing = !self.flushing.is_empty() || !self.locked.is_empty();
        // What a claim or a rescue has written is counted.
        let writing = self.claiming || self.rescuing || finishing;
        let working = writing || !self.starting.is_empty();
        let late = self.gives_up().is_some_and(|at| at <= Instant::now());
        let rows = self.handled.is_empty() && self.batches.is_empty() && self.ended.len() == 0;
        late || self.stopping.is_some() && !working && rows
    }

    /// When the worker ends, whatever the database has not answered.
    fn gives_up(&self) -> Option<Instant> {
        self.stopping.map(|until| until + LAST_STATEMENTS)
    }

    fn held(&self) -> usize {
        let finishing = self.ended.len() + self.flushing.len() + self.locked.len();
        let waiting = self.waiting.len() + self.starting.len();
        self.taken().saturating_add(waiting + finishing)
    }

    /// Places of rows at handlers that are at work. A batch takes no others once it has begun.
    fn taken(&self) -> usize {
        let size = self.work.handler.size();
        let at_work = self.handled.len().div_ceil(size).max(self.batches.len());
        at_work.saturating_mul(size)
    }

    /// Places of rows at all handlers.
    fn places(&self) -> usize {
        let size = self.work.handler.size();
        self.limits.concurrency.saturating_mul(size)
    }

    /// How many rows the worker holds at most.
    fn capacity(&self) -> usize {
        self.places().saturating_add(self.limits.prefetch)
    }

    /// Rows that handlers could have more.
    fn free(&self) -> usize {
        let taken = self.taken().saturating_add(self.starting.len());
        self.places().saturating_sub(taken)
    }

    fn start_statements(&mut self) {
        let now = Instant::now();
        let (capacity, prefetch) = (self.capacity(), self.limits.prefetch);
        let room = capacity.saturating_sub(self.held());
        // As soon as a handler is free, and then for the free ones only: their attempts count from the claim. But many rows are
        // claimed at once where there are many more than that. For the buffer not for every row that ends.
        let free = self.free().saturating_sub(self.waiting.len());
        let counted = free > 0 && (free.saturating_mul(2) >= room || !self.plenty);
        let enough = room > 0 && (free > 0 || room.saturating_mul(2) >= prefetch);
        let room = if counted { room.min(free) } else { room };
        let wanted = enough && (counted || self.next_prefetch().is_none_or(|at| at <= now));
        if self.stopping.is_none() && !self.claiming && wanted && self.next_claim <= now {
            self.claim(now, room, counted);
        }
        if self.flushing.is_empty() && self.should_flush(now, capacity) {
            self.flush();
        }
        if !self.beating && self.next_beat <= now {
            self.beat(now);
        }
        if !self.rescuing && self.next_rescue <= now && self.stopping.is_none() {
            self.rescue(now);
        }
    }

    /// When to claim rows in advance, if not at once: handlers that have only just begun may all be free in a moment, and what is claimed
    /// for them then needs no statement that counts the attempts.
    fn next_prefetch(&self) -> Option<Instant> {
        let none_in_advance = self.waiting.is_empty() && self.starting.is_empty();
        none_in_advance.then(|| self.last_start + PREFETCH_AFTER)
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
        if let Some(since) = self.gathering {
            or(true, since + GATHER);
        }
        if let Some(drained) = self.stopping {
            let mut handled = self.handled.values();
            or(handled.any(|handled| handled.stopped.is_none()), drained);
            or(true, drained + LAST_STATEMENTS);
        } else {
            or(!self.rescuing, self.next_rescue);
            // A claim that is due, and not sent, waits for a job to end.
            or(!self.claiming && self.next_claim > now, self.next_claim);
            if let Some(at) = self.next_prefetch() {
                or(self.limits.prefetch > 0 && at > now, at);
            }
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
            let why = match handled.held.until() <= now + margin && !safe {
                true => Stopped::LeaseLost,
                false if drained => Stopped::Drained,
                false => continue,
            };
            if handled.stopped.is_none() {
                handled.stopped = Some(why);
                handled.held.stop.tell();
            }
        }
    }

    fn stop(&mut self) {
        tracing::info!(running = self.handled.len(), "stopping");
        let drained = Instant::now() + self.limits.shutdown_timeout;
        self.stopping.get_or_insert(drained);
        self.no_more.tell();
        for next in std::mem::take(&mut self.waiting) {
            self.give_back(next.held);
        }
    }

    fn operation_ended(&mut self, operation: Background<DB, T>) {
        match operation {
            Background::Claimed {
                asked,
                counted,
                refused,
                result,
            } => {
                self.claiming = false;
                self.refused = refused;
                self.claimed(asked, counted, result);
            }
            Background::Started(result) => self.started(result),
            Background::Flushed(later) => {
                self.flushing.clear();
                self.look_for_the_next();
                if later.len() > 0 {
                    self.flush_later(later);
                }
            }
            Background::FlushedLater(rows) => {
                let of_these = |held: &Arc<Held<T>>| rows.iter().any(|row| Arc::ptr_eq(row, held));
                self.locked.retain(|held| !of_these(held));
                self.look_for_the_next();
            }
            Background::Beaten { rows, result } => {
                self.beating = false;
                self.beaten(rows, result);
            }
            Background::Rescued { refused, result } => {
                self.rescuing = false;
                self.not_rescued = refused;
                self.rescued(result);
            }
        }
    }
}

pub(super) fn claims<T>(rows: &[Arc<Held<T>>]) -> Vec<&T> {
    rows.iter().map(|held| &*held.claimed).collect()
}

pub(super) fn warn<T: Queue>(method: &'static str, failure: Failure) {
    let at = T::operation_on_many(method);
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
