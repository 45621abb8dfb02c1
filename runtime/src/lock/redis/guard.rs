//! The lock while it is held.

use super::connections::Failed;
use super::error::{FenceError, MutexError, ReleaseError};
use super::key::{CHECK, EXTEND, Key, RELEASE};
use super::{LONGEST_TRY, operation};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::error::DatabaseError;
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::source::{Opened, Source};
use crate::observe;
use futures_util::future::{Either, select};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// The lock, held until [`release`](Self::release) or drop.
///
/// A task renews the key every third of its ttl, each try bounded in time, reconnecting as necessary: two full tries, or
/// more that fail quickly, before the lock counts as lost. It ends before the key is deleted, and renews nothing after.
///
/// Dropping the guard ends the renewal at once and deletes the key in a task of its own, which nobody hears about; at
/// worst, when Redis is away or the runtime ends, the key stays for its ttl.
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard {
    key: Arc<Key>,
    /// Until when the lock is ours for sure; `None` when it is known to be lost.
    valid: watch::Receiver<Option<Instant>>,
    renewal: Option<JoinHandle<()>>,
    runtime: Handle,
    released: bool,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.key.name)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

impl Guard {
    pub(super) fn new(key: Arc<Key>, sent: Instant) -> Self {
        let (state, valid) = watch::channel(Some(sent + key.validity()));
        let runtime = Handle::current();
        let renewal = runtime.spawn(renew(Arc::clone(&key), state, sent));
        Self {
            key,
            valid,
            renewal: Some(renewal),
            runtime,
            released: false,
        }
    }

    /// Nothing is left to do when it is dropped.
    fn disarm(&mut self) {
        self.released = true;
    }

    /// The mutex's name.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Whether the lock can no longer be relied on. It never becomes `false` again.
    ///
    /// Looks at the clock, not at Redis: somebody who deleted the key is noticed by the next renewal.
    pub fn is_lost(&self) -> bool {
        is_lost(&self.valid)
    }

    /// Completes when the lock is lost, to cancel the work it protects: as soon as a renewal says that the key is not ours
    /// any more, and when no renewal has succeeded for the ttl less its margin of 11 % and 2 ms, so before the key can
    /// expire.
    ///
    /// The future does not borrow the guard: it can go into another task, and completes as well when the guard is released
    /// or dropped. Cancel safe.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut valid = self.valid.clone();
        async move {
            while !is_lost(&valid) {
                let Some(until) = *valid.borrow_and_update() else {
                    return;
                };
                // Both outcomes mean to look again: the time is over, or it is another time.
                let _ = timeout_at(until, valid.changed()).await;
            }
        }
    }

    /// Runs `work` for as long as the lock is held, and drops it at an await point when the lock is lost.
    ///
    /// # Errors
    ///
    /// [`MutexError::Lost`]. What `work` had sent by then may have taken effect.
    ///
    /// # Cancel safety
    ///
    /// That of `work`. The guard stays held.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, MutexError> {
        let lost = pin!(self.lost());
        let work = pin!(work);
        match select(lost, work).await {
            Either::Left(((), _)) => Err(MutexError::Lost(operation("run", self.name()))),
            Either::Right((output, _)) => Ok(output),
        }
    }

    /// A number greater than that of every earlier holder, out of the database whose rows it protects.
    ///
    /// Call it once, before the first write, and use the number for all writes under this guard: a second call gives a
    /// greater one, and a row that has it refuses the first. `db` is a pool or a connection outside a transaction. The
    /// database needs the table of [`Fence::ddl`]. Several databases count on their own.
    ///
    /// One upsert on the database, then `GET` on Redis. `GET` comes second so that the numbers are in the order of
    /// holding: a holder that was paused before the upsert might get a greater number than its successor, but finds then
    /// that the lock is lost, and gets no number. It ends when the lock is lost, whatever the database does.
    ///
    /// # Errors
    ///
    /// [`Lost`](FenceError::Lost), [`InTransaction`](FenceError::InTransaction), [`Table`](FenceError::Table),
    /// [`Database`](FenceError::Database), [`Unavailable`](FenceError::Unavailable), [`Refused`](FenceError::Refused). A
    /// number that was made and not returned is wasted, which does no harm.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future wastes a number at worst.
    pub fn fence<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<Fence, FenceError>> + Send {
        async move {
            let operation = || operation("fence", self.name());
            let failed = |error| {
                let error = DatabaseError::new(operation(), error);
                match error.fault() {
                    Fault::Schema => FenceError::Table(error),
                    _ => FenceError::Database(error),
                }
            };
            if self.is_lost() {
                return Err(FenceError::Lost(operation()));
            }
            let mint = async {
                let mut opened = db.open().await.map_err(failed)?;
                let mut connection = opened.link();
                // A transaction that is rolled back gives its number to the next holder too.
                if in_transaction::<DB>(&connection) {
                    return Err(FenceError::InTransaction(operation()));
                }
                Fence::mint::<DB>(self.name(), &mut connection)
                    .await
                    .map_err(failed)
            };
            // The database may keep us waiting for longer than the lock lasts.
            let fence = match select(pin!(self.lost()), pin!(mint)).await {
                Either::Left(((), _)) => return Err(FenceError::Lost(operation())),
                Either::Right((fence, _)) => fence?,
            };
            // The token is ours alone and set once. If it is there now, the lock was ours when the number was made, and
            // who comes after us makes theirs after now. If it is not, somebody may have come, and made a smaller number,
            // before ours was made.
            loop {
                let Some(until) = *self.valid.borrow() else {
                    return Err(FenceError::Lost(operation()));
                };
                let longest = self.key.longest_try();
                match self.key.call::<bool>(&CHECK, longest, until).await {
                    Ok(true) if !self.is_lost() => return Ok(fence),
                    Ok(_) => return Err(FenceError::Lost(operation())),
                    Err(failed) if failed.is_final() => {
                        return Err(FenceError::Refused(operation(), failed.error));
                    }
                    Err(failed) if self.is_lost() => {
                        return Err(FenceError::Unavailable(operation(), failed.error));
                    }
                    Err(_) => sleep(full_jitter(1, self.key.ttl / 20, LONGEST_TRY)).await,
                }
            }
        }
    }

    /// Gives the lock back. `Ok` says that the key was there with our token until now.
    ///
    /// Ends the renewal, then compares and deletes in one script, again if there is no answer, for as long as the mutex's
    /// timeout and the ttl last.
    ///
    /// # Errors
    ///
    /// [`NotHeld`](ReleaseError::NotHeld) when the lock was lost before; [`Unknown`](ReleaseError::Unknown),
    /// [`Unavailable`](ReleaseError::Unavailable), [`Refused`](ReleaseError::Refused). The lock is given up in any case.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is like dropping the guard.
    pub fn release(self) -> impl Future<Output = Result<(), ReleaseError>> + Send {
        let mut guard = self;
        async move {
            let deadline = Instant::now() + guard.key.lock_timeout.min(guard.key.ttl);
            // No renewal may come behind the release. What the task has sent goes before it, on the same connection; and
            // elsewhere it finds no key with our token.
            if let Some(renewal) = guard.renewal.as_mut() {
                renewal.abort();
                // Its thread may be busy with something else.
                let _ = timeout_at(deadline, renewal).await;
            }
            guard.renewal = None;

            let key = Arc::clone(&guard.key);
            let operation = || operation("release", &key.name);
            let mut unanswered = None;
            for tries in 1.. {
                match key.call::<bool>(&RELEASE, LONGEST_TRY, deadline).await {
                    Ok(true) => {
                        guard.disarm();
                        tracing::debug!(name = %key.name, "released");
                        return Ok(());
                    }
                    Ok(false) => {
                        guard.disarm();
                        return Err(match unanswered {
                            None => ReleaseError::NotHeld(operation()),
                            // An earlier try of ours may be what deleted it.
                            Some(error) => ReleaseError::Unknown(operation(), error),
                        });
                    }
                    Err(failed) if failed.is_final() => {
                        return Err(ReleaseError::Refused(operation(), failed.error));
                    }
                    Err(failed) => {
                        let pause = full_jitter(tries, key.ttl / 50, LONGEST_TRY / 4);
                        if Instant::now() + pause >= deadline {
                            return Err(ReleaseError::Unavailable(operation(), failed.error));
                        }
                        if failed.may_have_run() {
                            unanswered = Some(failed.error);
                        }
                        sleep(pause).await;
                    }
                }
            }
            // Not reached: the loop has no end of its own.
            Err(ReleaseError::NotHeld(operation()))
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let renewal = self.renewal.take();
        if let Some(renewal) = &renewal {
            renewal.abort();
        }
        let key = Arc::clone(&self.key);
        self.runtime.spawn(async move {
            // Behind its end, so that it renews nothing after.
            if let Some(renewal) = renewal {
                let _ = timeout(LONGEST_TRY, renewal).await;
            }
            key.delete_quietly().await;
        });
    }
}

fn is_lost(valid: &watch::Receiver<Option<Instant>>) -> bool {
    // Without the renewal task, which ended or whose runtime did, nobody renews the key any more.
    valid.has_changed().is_err() || valid.borrow().is_none_or(|until| Instant::now() >= until)
}

/// Renews the key until the lock is lost. Aborted when the guard is released or dropped.
async fn renew(key: Arc<Key>, state: watch::Sender<Option<Instant>>, mut renewed: Instant) {
    let mut failures = 0;
    let why = loop {
        let Some(until) = *state.borrow() else { return };
        let next = match failures {
            0 => renewed + key.ttl / 3,
            _ => Instant::now() + full_jitter(failures, key.ttl / 50, key.ttl / 12),
        };
        sleep_until(next.min(until)).await;
        let mut sent = Instant::now();
        if sent >= until {
            break "no renewal succeeded in time";
        }
        let answer = async {
            let connection = key.connections.get(until).await?;
            sent = Instant::now();
            let limit = (sent + key.longest_try()).min(until);
            key.call_on::<bool>(&connection, &EXTEND, limit).await
        };
        match answer.await {
            // Once lost is lost for good, even if the answer came just after.
            Ok(true) if Instant::now() >= until => break "the renewal came too late",
            Ok(true) => {
                tracing::debug!(name = %key.name, "renewed");
                (renewed, failures) = (sent, 0);
                state.send_replace(Some(sent + key.validity()));
            }
            Ok(false) => break "the key is not ours any more",
            Err(Failed { error, .. }) => {
                failures += 1;
                tracing::debug!(name = %key.name, failures, error = error.category(), "not renewed");
            }
        }
    };
    tracing::debug!(name = %key.name, why, "lost");
    observe::lease_lost("redis");
    state.send_replace(None);
}
