//! Handlers are started.

use std::sync::Arc;

use super::super::connection::{Attended, Failure, in_time};
use super::super::held::{Handled, Held, Waiting, run_job};
use super::super::hooks::Handle;
use super::super::{FIRST_PAUSE, GATHER, LONGEST_PAUSE};
use super::{Background, Running, claims, warn};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::job::queue::{Batch, Fate, Locks, QueueSql, stored};
use tokio::time::Instant;

impl<DB, T, H> Running<DB, T, H>
where
    DB: Backend,
    T: QueueSql<DB>,
    H: Handle<T>,
{
    pub(super) fn start_jobs(&mut self) {
        let now = Instant::now();
        let margin = self.margin();
        let size = self.work.handler.size();
        let (mut uncounted, mut together) = (Vec::new(), Vec::new());
        while uncounted.len() + together.len() < self.free() {
            // The rows before it are waiting for their attempts to be counted.
            let next = self.waiting.front();
            let busy = !self.starting.is_empty() || self.next_start > now;
            if next.is_none_or(|next| busy && !next.counted) {
                break;
            }
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            if next.held.until() <= now + margin && self.leases_are_safe() {
                self.waiting.push_front(next);
                break;
            }
            if next.held.until() <= now + margin {
                // This process was asleep. Somebody else has the row, or will have it soon.
                self.lost(&next.held);
            } else if !next.counted {
                uncounted.push(next);
            } else if size == 1 {
                self.start(std::iter::once(next));
            } else {
                together.push(next);
                if together.len() == size {
                    self.start(std::mem::take(&mut together).into_iter());
                    self.gathering = None;
                }
            }
        }
        self.gather(together, now);
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

    /// Fewer rows than a batch has wait a little for more.
    fn gather(&mut self, rows: Vec<Waiting<T>>, now: Instant) {
        let since = match rows.is_empty() {
            true => None,
            false => Some(self.gathering.unwrap_or(now)),
        };
        if since.is_some_and(|since| since + GATHER <= now) {
            self.gathering = None;
            return self.start(rows.into_iter());
        }
        self.gathering = since;
        for next in rows.into_iter().rev() {
            self.waiting.push_front(next);
        }
    }

    /// Starts the handler of these rows.
    fn start(&mut self, rows: impl ExactSizeIterator<Item = Waiting<T>>) {
        let (begun, work) = (Instant::now(), self.work.clone());
        self.last_start = begun;
        let (seats, batch) = H::seats(&work, rows.len());
        for (next, seat) in rows.zip(seats) {
            self.start_job(next.held, seat, begun);
        }
        if let Some(batch) = batch {
            self.batches.spawn(batch);
        }
    }

    fn start_job(&mut self, held: Arc<Held<T>>, seat: H::Seat, begun: Instant) {
        let waited = held.claimed.waited() + held.claimed_at.elapsed();
        self.stats.begun(waited);
        let job = run_job(self.work.clone(), held.clone(), seat, begun);
        let id = self.jobs.spawn(job).id();
        let stopped = None;
        let handled = Handled { held, stopped };
        self.handled.insert(id, handled);
    }

    /// The attempts of these rows count, or not.
    pub(super) fn started(&mut self, result: Result<Vec<Fate>, Failure>) {
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
}
