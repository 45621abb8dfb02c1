//! Handlers end, and their rows are finished.

use std::sync::Arc;
use std::time::Duration;

use super::super::flush::Flush;
use super::super::held::{End, Ended, Handled, Held, Stopped};
use super::super::hooks::Handle;
use super::super::outcome::JobOutcome;
use super::super::stats::Event;
use super::{Background, Running};
use crate::db::Backend;
use crate::fan_out::panic_text;
use crate::job::queue::{Change, Locks, QueueSql, stored};
use tokio::task::Id;
use tokio::time::Instant;

impl<DB, T, H> Running<DB, T, H>
where
    DB: Backend,
    T: QueueSql<DB>,
    H: Handle<T>,
{
    pub(super) fn should_flush(&self, now: Instant, capacity: usize) -> bool {
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

    pub(super) fn flush(&mut self) {
        let ended = self.take_ended();
        self.flushing = ended.rows().collect();
        let flush = Flush::new(&self.pool, &self.stats, self.claims.lease);
        self.operations
            .spawn(async move { Background::Flushed(flush.run(ended, Locks::WaitBriefly).await) });
    }

    /// A claim that is still under way when the worker stops could get the rows that are given back, only to give them back again.
    pub(super) fn claim_could_take_back(&self) -> bool {
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

    pub(super) fn give_back(&mut self, held: Arc<Held<T>>) {
        self.change(held, Change::back(None));
    }

    pub(super) fn change(&mut self, held: Arc<Held<T>>, change: Change) {
        self.ended.changed.push((held, change));
        self.ended_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn lost(&self, held: &Held<T>) {
        self.stats.lost(&held.claimed);
    }

    pub(super) fn job_ended(&mut self, job: Result<(Id, (End, Duration)), tokio::task::JoinError>) {
        let (id, end) = match job {
            Ok((id, (end, ran))) => {
                self.stats.ran(ran);
                (id, Ok(end))
            }
            Err(error) => {
                let id = error.id();
                let text = error.try_into_panic().map(panic_text);
                (id, Err(text.unwrap_or_default()))
            }
        };
        let Some(Handled { held, stopped, .. }) = self.handled.remove(&id) else {
            return;
        };
        let outcome = match (end, stopped) {
            (Ok(End::Outcome(outcome)), _) => outcome,
            (Ok(End::TimedOut), _) => held.timed_out(&self.stats, self.limits.handler_timeout),
            (Err(text), _) => held.panicked(&self.stats, &text),
            (Ok(End::Stopped), Some(Stopped::Drained)) => return self.give_back(held),
            (Ok(End::Stopped), Some(Stopped::Done)) => return self.was_completed(),
            (Ok(End::Stopped), _) => return self.lost(&held),
        };
        let change = match outcome {
            JobOutcome::Complete => {
                self.ended.done.push(held);
                self.ended_since.get_or_insert_with(Instant::now);
                return;
            }
            JobOutcome::Completed if held.claimed.was_completed() => return self.was_completed(),
            // Believed, it would be running until its lease ends, and counted as done. If it is done all the same, it stays so.
            JobOutcome::Completed => {
                let error = "the handler returned `Completed` without `complete_in`";
                held.claimed.retry_change(None, error.to_owned())
            }
            // A handler may build these without the functions that shorten the text.
            JobOutcome::Retry { error, after } => held.claimed.retry_change(after, stored(&error)),
            JobOutcome::Fail { error } => Change::dead(stored(&error)),
            JobOutcome::Snooze(delay) => Change::back(Some(delay)),
        };
        self.change(held, change);
    }

    /// The handler has completed its row itself.
    fn was_completed(&mut self) {
        self.stats.add(Event::Completed, 1);
        self.look_for_the_next();
    }

    /// They are tried alone, and keep no others.
    pub(super) fn flush_later(&mut self, later: Ended<T>) {
        let rows: Vec<_> = later.rows().collect();
        self.locked.extend(rows.iter().cloned());
        let flush = Flush::new(&self.pool, &self.stats, self.claims.lease);
        self.operations.spawn(async move {
            flush.run_later(later).await;
            Background::FlushedLater(rows)
        });
    }
}
