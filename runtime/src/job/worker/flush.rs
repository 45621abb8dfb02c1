//! How a worker finishes rows in the database.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::{Instant, sleep};

use super::connection::{Attended, Failure, in_time};
use super::held::{Ended, Held};
use super::running::{claims, warn};
use super::stats::{Event, WorkerStats};
use super::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::fault::Fault;
use crate::job::queue::{Batch, Change, Fate, Locks, Queue, QueueSql, QueueState};

/// Finishes rows in the database.
pub(super) struct Flush<DB: Backend> {
    pool: Pool<DB>,
    stats: WorkerStats,
    lease: Duration,
    /// When the leases must have ended.
    ends: Instant,
}

impl<DB: Backend> Flush<DB> {
    pub(super) fn new(pool: &Pool<DB>, stats: &WorkerStats, lease: Duration) -> Self {
        Self {
            pool: pool.clone(),
            stats: stats.clone(),
            lease,
            ends: Instant::now() + lease,
        }
    }

    /// Finishes what it can, and returns the rows that a concurrent transaction has locked.
    pub(super) async fn run<T: QueueSql<DB>>(&self, ended: Ended<T>, locks: Locks) -> Ended<T> {
        let Ended { done, changed } = ended;
        let (rows, changes): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
        let later = self.finish(&done, Batch::Complete, locks).await;
        let done = later
            .into_iter()
            .filter_map(|index| done.get(index).cloned());
        let later = self.finish(&rows, Batch::Settle(&changes), locks).await;
        let changed = later.into_iter().filter_map(|index| {
            let (row, change) = (rows.get(index)?, changes.get(index)?);
            Some((row.clone(), change.clone()))
        });
        Ended {
            done: done.collect(),
            changed: changed.collect(),
        }
    }

    /// Tries the rows that were locked until they are free, or until their leases must have ended.
    pub(super) async fn run_later<T: QueueSql<DB>>(&self, mut ended: Ended<T>) {
        let mut tries = 0;
        while ended.len() > 0 {
            tries += 1;
            let pause = full_jitter(tries, FIRST_PAUSE, LONGEST_PAUSE);
            if Instant::now() + pause >= self.ends {
                return ended.rows().for_each(|row| self.stats.lost(&row.claimed));
            }
            sleep(pause).await;
            ended = self.run(ended, Locks::PassOver).await;
        }
    }

    /// Tries until it is known what became of the rows, or until their leases must have ended. Yields those that are locked.
    async fn finish<T: QueueSql<DB>>(
        &self,
        rows: &[Arc<Held<T>>],
        batch: Batch<'_>,
        locks: Locks,
    ) -> Vec<usize> {
        let mut ends = self.ends;
        let (mut failures, mut unknown) = (0, false);
        while !rows.is_empty() {
            let failure = match self.try_finish(rows, batch, locks, ends).await {
                Ok(fates) => return self.finished(rows, batch, fates, unknown).await,
                Err(failure) => failure,
            };
            let fault = match &failure {
                Failure::Database(error) => Fault::of(error),
                Failure::NoAnswer => Fault::ConnectionLost,
            };
            warn::<T>("finish", failure);
            unknown |= fault.may_have_committed();
            if DB::EMBEDDED && fault == Fault::Busy {
                // Nobody can have taken the rows: who would has to write as well.
                ends = Instant::now() + self.lease;
            }
            failures += 1;
            let passes = matches!(
                fault,
                Fault::PoolTimedOut | Fault::LockTimeout | Fault::ReadOnly | Fault::LimitReached
            ) || fault.is_transient()
                || fault.may_have_committed();
            let pause = full_jitter(failures, FIRST_PAUSE, LONGEST_PAUSE);
            let late = Instant::now() + pause >= ends;
            if late || !passes {
                rows.iter().for_each(|row| self.stats.lost(&row.claimed));
                break;
            }
            sleep(pause).await;
        }
        Vec::new()
    }

    async fn try_finish<T: QueueSql<DB>>(
        &self,
        rows: &[Arc<Held<T>>],
        batch: Batch<'_>,
        locks: Locks,
        ends: Instant,
    ) -> Result<Vec<Fate>, Failure> {
        // A connection that says nothing must leave time for another one.
        let limit = (self.lease / 3).min(ends - Instant::now());
        let mut connection = Attended::acquire(&self.pool, limit).await?;
        let rows = claims(rows);
        let fates = {
            let mut link = connection.link();
            let finish = batch.run_and_look::<DB, T>(&rows, locks, &mut link);
            in_time::<DB, _>(limit, finish).await
        };
        connection.answered(fates)
    }

    /// `unknown`: an earlier try may have been the one that wrote the rows.
    async fn finished<T: QueueSql<DB>>(
        &self,
        rows: &[Arc<Held<T>>],
        batch: Batch<'_>,
        fates: Vec<Fate>,
        unknown: bool,
    ) -> Vec<usize> {
        let mut later = Vec::new();
        for (index, (row, fate)) in rows.iter().zip(fates).enumerate() {
            let change = batch.change(index);
            match fate {
                Fate::Later => later.push(index),
                Fate::Written | Fate::Kept(_) => self.count(change),
                Fate::Done => self.count(None),
                Fate::Lost if unknown => self.count(change),
                Fate::Lost => self.stats.lost(&row.claimed),
                Fate::Refused(error) => {
                    if self.refused(row, change, error).await {
                        later.push(index);
                    }
                }
            }
        }
        later
    }

    /// A row that may not be ready again is dead: like in a rescue.
    ///
    /// `true` if it is locked, and has to be tried later: the server says that it has refused a statement before it gives back its locks,
    /// and the next statement has another connection.
    async fn refused<T: QueueSql<DB>>(
        &self,
        row: &Arc<Held<T>>,
        change: Option<&Change>,
        error: sqlx::Error,
    ) -> bool {
        if let Some(dead) = change.and_then(|change| change.instead(&error)) {
            let (rows, changes) = (std::slice::from_ref(row), [dead]);
            let batch = Batch::Settle(&changes);
            let tried = self.try_finish(rows, batch, Locks::PassOver, self.ends);
            match tried.await.as_deref() {
                Ok([Fate::Written | Fate::Kept(_)]) => {
                    self.count(changes.first());
                    return false;
                }
                Ok([Fate::Later]) => return true,
                // Cancelled between the two, say.
                Ok([Fate::Lost | Fate::Done]) => {
                    self.stats.lost(&row.claimed);
                    return false;
                }
                _ => {}
            }
        }
        warn::<T>("finish", error.into());
        self.stats.add(Event::Refused, 1);
        self.stats.lost(&row.claimed);
        false
    }

    fn count(&self, change: Option<&Change>) {
        let event = match change {
            None => Event::Completed,
            Some(change) if change.state == QueueState::Dead => Event::Dead,
            Some(change) if !change.refund => Event::Retried,
            Some(change) if change.delay.is_some() => Event::Snoozed,
            Some(_) => Event::Released,
        };
        self.stats.add(event, 1);
    }
}

impl WorkerStats {
    pub(super) fn lost<T: Queue>(&self, claimed: &crate::job::queue::Claimed<T>) {
        self.add(Event::LeaseLost, 1);
        tracing::warn!(job = %crate::job::queue::at("run", &**claimed), "the lease was lost");
    }
}
