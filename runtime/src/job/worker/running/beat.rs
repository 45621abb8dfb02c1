//! Heartbeats.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::connection::{Attended, Failure, in_time};
use super::super::held::{Held, Stopped};
use super::super::hooks::Handle;
use super::{Background, Running, claims, warn};
use crate::db::Backend;
use crate::job::queue::{Batch, Fate, Locks, QueueSql};
use tokio::time::Instant;

impl<DB, T, H> Running<DB, T, H>
where
    DB: Backend,
    T: QueueSql<DB>,
    H: Handle<T>,
{
    /// One heartbeat for all rows that are waiting or handled, and one for those that are not finished in the database yet.
    pub(super) fn beat(&mut self, now: Instant) {
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

    pub(super) fn beaten(
        &mut self,
        rows: Vec<Arc<Held<T>>>,
        result: Result<(Instant, Vec<Fate>), Failure>,
    ) {
        self.beat_failed = result.is_err();
        let (at, fates) = match result {
            Ok(beaten) => beaten,
            Err(failure) => {
                warn::<T>("heartbeat", failure);
                self.next_beat = Instant::now() + self.margin();
                return;
            }
        };
        let mut over = HashMap::new();
        for (held, fate) in rows.iter().zip(&fates) {
            let why = match fate {
                Fate::Written | Fate::Kept(_) | Fate::Later => {
                    held.extend(at, self.claims.lease);
                    continue;
                }
                Fate::Lost => Stopped::LeaseLost,
                Fate::Done => Stopped::Done,
                // Who is refused has lost nothing, until its lease ends.
                Fate::Refused(_) => continue,
            };
            over.insert(Arc::as_ptr(held), why);
        }
        for handled in self.handled.values_mut() {
            let why = over.get(&Arc::as_ptr(&handled.held));
            if let (Some(why), None) = (why, handled.stopped) {
                handled.stopped = Some(*why);
                handled.held.stop.tell();
            }
        }
        for next in std::mem::take(&mut self.waiting) {
            match over.contains_key(&Arc::as_ptr(&next.held)) {
                true => self.lost(&next.held),
                false => self.waiting.push_back(next),
            }
        }
    }
}
