//! The worker at work: claims, handlers, heartbeats, outcomes.

use super::connection::{Attended, Failure, in_time};
use super::flush::Flush;
use super::held::{End, Ended, Handled, Held, Job, Stop, Stopped, Waiting, Watch, run_job};
use super::outcome::{HandlerOutcome, JobOutcome};
use super::stats::{WorkerCounts, WorkerStats, add, micros};
use super::{DEBOUNCE, FIRST_PAUSE, LAST_STATEMENTS, LONGEST_PAUSE, Limits, WorkerError};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::error::DatabaseError;
use crate::db::fault::Fault;
use crate::fan_out::panic_text;
use crate::job::queue::{
    Batch, Change, Claims, Fate, Found, Locks, Look, Queue, QueueSql, Refused, Rescued, Retried,
    rescue_on, stored,
};
use futures_util::future::BoxFuture;
use sqlx::Pool;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
pub(super) struct Running<DB: Backend, T, F> {
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
    operations: JoinSet<Background<DB, T>>,
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
    last_claim: Option<Instant>,
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
    pub(super) fn new(
        pool: Pool<DB>,
        claims: Claims<DB>,
        limits: Limits,
        stats: WorkerStats,
        handler: F,
        wake: Arc<Notify>,
    ) -> Self {
        let now = Instant::now();
        Self {
            claims: Arc::new(claims),
            limits,
            stats,
            pool,
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
            last_claim: None,
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

    pub(super) async fn run<R>(
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

    /// When to claim, if there may be rows: at once, but not time after time while there are fewer than are wanted.
    fn soon(&self) -> Instant {
        let now = Instant::now();
        match self.last_claim {
            Some(last) if !self.plenty => now.max(last + DEBOUNCE),
            _ => now,
        }
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
            Background::Started(start.await)
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
                Fate::Written | Fate::Kept(_) if self.stopping.is_none() => {
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
                Fate::Written | Fate::Kept(_) | Fate::Later => self.give_back(next.held),
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
            self.last_claim = Some(now);
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
                Background::Claimed {
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
                Background::Flushed(flush.run(ended, Locks::WaitBriefly).await)
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
                Background::Rescued { refused, result }
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
            Background::Beaten { rows, result }
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
                handled.held.stop.tell();
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
            JobOutcome::Completed => {
                self.look_for_the_next();
                return add(&counters.completed, 1);
            }
            // A handler may build these without the functions that shorten the text.
            JobOutcome::Retry { error, after } => held.claimed.retry_change(after, stored(&error)),
            JobOutcome::Fail { error } => Change::dead(stored(&error)),
            JobOutcome::Snooze(delay) => Change::back(Some(delay)),
        };
        self.change(held, change);
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
            Background::FlushedLater(rows)
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
                        let at = T::operation_on_many("claim");
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
        self.next_claim = if !claimed.is_empty() {
            now
        } else if more {
            self.soon()
        } else {
            now + jittered(self.limits.poll)
        };
        let until = at + self.claims.lease;
        for claimed in claimed {
            let held = Arc::new(Held {
                claimed,
                claimed_at: now,
                stop: Stop::default(),
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
                Some(Fate::Written | Fate::Kept(_) | Fate::Later) => {
                    handled.until = until;
                    continue;
                }
                // Who is refused has lost nothing, until its lease ends.
                Some(Fate::Refused(_)) | None => continue,
            };
            if handled.stopped.is_none() {
                handled.stopped = Some(why);
                handled.held.stop.tell();
            }
        }
        for next in &mut self.starting {
            if let Some(Fate::Written | Fate::Kept(_) | Fate::Later) =
                rows.get(&Arc::as_ptr(&next.held))
            {
                next.until = until;
            }
        }
        for mut next in std::mem::take(&mut self.waiting) {
            match rows.get(&Arc::as_ptr(&next.held)) {
                Some(Fate::Lost | Fate::Done) => {
                    self.lost(&next.held);
                    continue;
                }
                Some(Fate::Written | Fate::Kept(_) | Fate::Later) => next.until = until,
                Some(Fate::Refused(_)) | None => {}
            }
            self.waiting.push_back(next);
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
