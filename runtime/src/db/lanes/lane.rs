//! One of the connections, while a call has it.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sqlx::Connection as _;
use tokio::runtime::Handle;
use tokio::sync::TryAcquireError;
use tokio::time::timeout;

use super::fold::Place;
use super::held::HeldRow;
use super::{DRAINED_WITHIN, Inner, Kept, PATIENCE, TRUSTED_FOR};
use crate::db::Backend;
use crate::db::source::{Health, Link, Opened};

/// A connection of [`Lanes`](super::Lanes), as [`Lanes::acquire`](super::Lanes::acquire) lends it.
pub struct Lane<DB: Backend> {
    /// None after it was given back.
    kept: Option<Kept<DB>>,
    health: Health,
    seat: Seat<DB>,
    /// Of the call that it serves, among those of the same operation.
    place: Option<Place<DB>>,
}

/// The right to use one lane, or none: then the connection is one of the pool's.
struct Seat<DB: Backend> {
    lanes: Arc<Inner<DB>>,
    is_lane: bool,
    /// It waits for the lock of this row.
    held: Option<HeldRow<DB>>,
}

impl<DB: Backend> Drop for Seat<DB> {
    fn drop(&mut self) {
        if self.is_lane {
            self.lanes.permits.add_permits(1);
        }
    }
}

/// Counts who waits.
struct Waiting<'w>(&'w std::sync::atomic::AtomicUsize);

impl<'w> Waiting<'w> {
    fn new(count: &'w std::sync::atomic::AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<DB: Backend> Inner<DB> {
    /// A free lane; after a while another connection: those who have the lanes may wait for a lock that this caller has.
    pub(super) fn lane(
        self: &Arc<Self>,
    ) -> impl Future<Output = Result<Lane<DB>, sqlx::Error>> + Send {
        async move {
            let permit = match self.permits.try_acquire() {
                Ok(permit) => permit,
                Err(TryAcquireError::Closed) => return Err(sqlx::Error::PoolClosed),
                Err(TryAcquireError::NoPermits) => {
                    let _waiting = Waiting::new(&self.waiting);
                    // Where the lanes are all that the pool has, there is nothing else to wait for.
                    let longest = match self.has_spares() {
                        true => PATIENCE,
                        false => self.pool.options().get_acquire_timeout(),
                    };
                    match timeout(longest, self.permits.acquire()).await {
                        Ok(Ok(permit)) => permit,
                        Ok(Err(_)) => return Err(sqlx::Error::PoolClosed),
                        Err(_) if self.has_spares() => return self.spare().await,
                        Err(_) => return Err(sqlx::Error::PoolTimedOut),
                    }
                }
            };
            permit.forget();
            let seat = Seat {
                lanes: Arc::clone(self),
                is_lane: true,
                held: None,
            };
            let kept = match self.kept().await {
                Some(kept) => kept,
                None => Kept::new(self.pool.acquire().await?),
            };
            Ok(Lane::new(kept, seat))
        }
    }

    fn has_spares(&self) -> bool {
        let all = self.pool.options().get_max_connections();
        usize::try_from(all).is_ok_and(|all| all > self.count)
    }

    /// A connection of the pool that is no lane.
    pub(super) async fn spare(self: &Arc<Self>) -> Result<Lane<DB>, sqlx::Error> {
        let seat = Seat {
            lanes: Arc::clone(self),
            is_lane: false,
            held: None,
        };
        Ok(Lane::new(Kept::new(self.pool.acquire().await?), seat))
    }

    /// An idle lane that is well.
    async fn kept(&self) -> Option<Kept<DB>> {
        loop {
            let mut kept = self.idle().pop()?;
            let options = self.pool.options();
            let is_old = |most| kept.opened.elapsed() > most;
            if options.get_max_lifetime().is_some_and(is_old) {
                let _ = kept.connection.close().await;
                continue;
            }
            if kept.used.elapsed() < TRUSTED_FOR || kept.connection.ping().await.is_ok() {
                return Some(kept);
            }
            kept.connection.close_on_drop();
        }
    }

    /// Whether others wait for a lane.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl<DB: Backend> Lane<DB> {
    fn new(kept: Kept<DB>, seat: Seat<DB>) -> Self {
        Self {
            kept: Some(kept),
            health: Health {
                is_clean: true,
                timed_out: None,
            },
            seat,
            place: None,
        }
    }

    /// For a call that others may wait for.
    pub(super) fn with(mut self, place: Place<DB>) -> Self {
        self.place = Some(place);
        self
    }

    /// For a call that waits for the lock of this row.
    pub(super) fn of(mut self, row: HeldRow<DB>) -> Self {
        self.seat.held = Some(row);
        self
    }

    pub(super) fn is_clean(&self) -> bool {
        self.health.is_clean
    }

    #[expect(clippy::expect_used, reason = "only Drop takes it out")]
    fn kept(&self) -> &Kept<DB> {
        self.kept.as_ref().expect("it has not been given back")
    }

    #[expect(clippy::expect_used, reason = "only Drop takes it out")]
    fn kept_mut(&mut self) -> &mut Kept<DB> {
        self.kept.as_mut().expect("it has not been given back")
    }
}

impl<DB: Backend> Opened<DB> for Lane<DB> {
    #[expect(clippy::expect_used, reason = "only Drop takes it out")]
    fn link(&mut self) -> Link<'_, DB> {
        let kept = self.kept.as_mut().expect("it has not been given back");
        Link::on_lane(&mut *kept.connection, &mut self.health)
    }
}

impl<DB: Backend> Deref for Lane<DB> {
    type Target = DB::Connection;
    fn deref(&self) -> &DB::Connection {
        &self.kept().connection
    }
}

impl<DB: Backend> DerefMut for Lane<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        // What is sent here nobody sees.
        self.health.is_clean = false;
        &mut self.kept_mut().connection
    }
}

impl<DB: Backend> Drop for Lane<DB> {
    fn drop(&mut self) {
        let Some(mut kept) = self.kept.take() else {
            return;
        };
        let lanes = Arc::clone(&self.seat.lanes);
        let is_lane = std::mem::replace(&mut self.seat.is_lane, false);
        let held = self.seat.held.take();
        if let (Some(row), Some(error)) = (&held, &self.health.timed_out) {
            row.timed_out(error);
        }
        let seat = Seat {
            lanes,
            is_lane,
            held,
        };
        kept.used = Instant::now();
        let Ok(runtime) = Handle::try_current() else {
            kept.leave();
            return;
        };
        let place = self.place.take();
        if self.health.is_clean {
            let lane = Self::new(kept, seat);
            match place.and_then(|mut place| place.is_wanted().then_some(place)) {
                // Calls have waited for this one: the same connection serves them.
                Some(place) => drop(runtime.spawn(place.serve(Some(lane)))),
                None => lane.give_back(),
            }
            return;
        }
        drop(place);
        if !is_lane {
            // The pool drains it.
            return;
        }
        runtime.spawn(async move {
            // Also whether the caller has sent BEGIN.
            let asked = DB::is_in_transaction(&mut *kept.connection);
            match timeout(DRAINED_WITHIN, asked).await {
                Ok(Ok(false)) => Self::new(kept, seat).give_back(),
                // No ROLLBACK, no farewell: it may never answer.
                _ => kept.connection.close_on_drop(),
            }
        });
    }
}

impl<DB: Backend> Lane<DB> {
    /// It is clean.
    fn give_back(mut self) {
        if let Some(kept) = self.kept.take()
            && self.seat.is_lane
            && !self.seat.lanes.permits.is_closed()
        {
            self.seat.lanes.idle().push(kept);
        }
    }
}

impl<DB: Backend> fmt::Debug for Lane<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}
