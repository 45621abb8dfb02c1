//! Rows are claimed, and those of dead workers taken back.

use std::sync::Arc;

use super::super::connection::{Attended, Failure, in_time};
use super::super::held::{Held, Waiting};
use super::super::hooks::Handle;
use super::super::stats::Event;
use super::super::{FIRST_PAUSE, LONGEST_PAUSE, WorkerError};
use super::{Background, Running, jittered, warn};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::error::DatabaseError;
use crate::db::fault::Fault;
use crate::job::queue::{Found, Look, QueueSql, Rescued, Retried, rescue_on};
use tokio::time::Instant;

impl<DB, T, H> Running<DB, T, H>
where
    DB: Backend,
    T: QueueSql<DB>,
    H: Handle<T>,
{
    /// `counted`: the attempts begin with the claim.
    pub(super) fn claim(&mut self, now: Instant, room: usize, counted: bool) {
        self.claiming = true;
        self.last_claim = Some(now);
        self.woken = false;
        let (pool, claims) = (self.pool.clone(), self.claims.clone());
        let short = std::mem::take(&mut self.short);
        let unwanted = self.no_more.clone();
        let mut refused = std::mem::take(&mut self.refused);
        self.operations.spawn(async move {
            let claim = async {
                let mut connection = tokio::select! {
                    biased;
                    () = unwanted.told() => return Ok((Instant::now(), Found::default())),
                    connection = Attended::acquire(&pool, claims.lease) => connection?,
                };
                let sent = Instant::now();
                let found = {
                    let mut link = connection.link();
                    let found = claims.run(room, counted, short, &mut refused, &mut link);
                    in_time::<DB, _>(claims.lease, found).await
                };
                // It may have waited longer than the lease for another writer, and the lease begins after that.
                let at = if DB::EMBEDDED { Instant::now() } else { sent };
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

    pub(super) fn claimed(
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
        self.stats.add(Event::Claimed, claimed.len() as u64);
        self.stats.add(Event::Dead, exhausted);
        for row in &bad {
            row.log();
            self.stats.add(Event::Bad, 1);
            match row.became {
                Some(Retried::Later(_)) => self.stats.add(Event::Retried, 1),
                Some(Retried::Dead) => self.stats.add(Event::Dead, 1),
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
        for claimed in claimed {
            let held = Arc::new(Held::new(claimed, at, self.claims.lease));
            // A batch of fewer rows may have begun meanwhile, and taken the places.
            if self.stopping.is_some() || self.held() >= self.capacity() {
                self.give_back(held);
            } else {
                self.waiting.push_back(Waiting { held, counted });
            }
        }
    }

    pub(super) fn rescue(&mut self, now: Instant) {
        self.rescuing = true;
        // At most half a lease after the end of one.
        self.next_rescue = now + jittered(self.claims.lease / 3);
        let (pool, lease) = (self.pool.clone(), self.claims.lease);
        let unwanted = self.no_more.clone();
        let mut refused = std::mem::take(&mut self.not_rescued);
        self.operations.spawn(async move {
            let rescue = async {
                let mut connection = tokio::select! {
                    biased;
                    () = unwanted.told() => return Ok(Rescued::default()),
                    connection = Attended::acquire(&pool, lease) => connection?,
                };
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

    pub(super) fn rescued(&mut self, result: Result<Rescued, Failure>) {
        match result {
            Ok(Rescued {
                ready,
                dead,
                refused,
            }) => {
                self.stats.add(Event::Rescued, ready + dead);
                self.stats.add(Event::Dead, dead);
                self.stats.add(Event::Refused, refused);
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
