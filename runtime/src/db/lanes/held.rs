//! Rows that another session has locked, and the calls for them, which hold up no others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::fold::{Queue, Waiting, Word, alone_each, failed_each, unsent_each};
use super::{Inner, Lane};
use crate::db::Backend;
use crate::db::fault::Fault;

/// For how long after a row was found locked its calls stay apart from those for other rows, which would wait with them if it were locked again.
const APART_FOR: Duration = Duration::from_secs(1);

/// By the keys of the rows.
pub(super) type HeldRows<DB> = HashMap<Box<[u8]>, Held<DB>>;

/// A row that was locked not long ago, and the calls for it that wait in memory.
pub(super) struct Held<DB: Backend> {
    waiting: VecDeque<Waiting<DB>>,
    /// There is a [`HeldRow`].
    is_taken: bool,
    /// When it was last found locked.
    since: Instant,
}

impl<DB: Backend> Held<DB> {
    fn is_over(&self) -> bool {
        !self.is_taken && self.since.elapsed() >= APART_FOR
    }
}

/// Forgets the rows that were locked long ago. Whether there are no others.
pub(super) fn is_none<DB: Backend>(rows: &mut HeldRows<DB>) -> bool {
    rows.retain(|_, held| !held.is_over());
    rows.is_empty()
}

/// The right to use a connection for a row that was locked: one call waits for the lock, or one statement serves those that have waited for that call.
/// Dropping it serves those that wait by then.
///
/// So such a row takes one connection of the pool. One for each of its callers could leave none for the holder of the lock.
pub(super) struct HeldRow<DB: Backend> {
    lanes: Arc<Inner<DB>>,
    queue: Arc<Queue<DB>>,
    key: Box<[u8]>,
    permit: Option<OwnedSemaphorePermit>,
    /// How many waited when the call that waits for the lock began to.
    before: usize,
}

impl<DB: Backend> HeldRow<DB> {
    fn new(lanes: &Arc<Inner<DB>>, queue: &Arc<Queue<DB>>, key: Box<[u8]>) -> Self {
        Self {
            lanes: Arc::clone(lanes),
            queue: Arc::clone(queue),
            key,
            permit: None,
            before: 0,
        }
    }

    /// Calls whose rows were found locked. The first of each row waits for the lock, by itself.
    pub(super) fn hold(
        lanes: &Arc<Inner<DB>>,
        queue: &Arc<Queue<DB>>,
        calls: impl IntoIterator<Item = Waiting<DB>>,
    ) {
        for waiting in calls {
            let key: Box<[u8]> = waiting.call.key().into();
            let mut state = queue.state();
            let held = state.held.entry(key.clone()).or_insert_with(|| Held {
                waiting: VecDeque::new(),
                is_taken: false,
                since: Instant::now(),
            });
            held.since = Instant::now();
            if held.is_taken {
                held.waiting.push_back(waiting);
                continue;
            }
            held.is_taken = true;
            drop(state);
            Self::new(lanes, queue, key).give(waiting);
        }
    }

    /// The call waits for the lock. If its caller is gone, the row is dropped.
    fn give(self, waiting: Waiting<DB>) {
        let _ = waiting.word.send(Word::Held(self));
    }

    /// A call that is to be served waits here if its row was locked not long ago. Else it is given back.
    pub(super) fn join(
        lanes: &Arc<Inner<DB>>,
        queue: &Arc<Queue<DB>>,
        waiting: Waiting<DB>,
    ) -> Option<Waiting<DB>> {
        let mut state = queue.state();
        let held = state.held.get_mut(waiting.call.key());
        let Some(held) = held.filter(|held| !held.is_over()) else {
            return Some(waiting);
        };
        let key: Box<[u8]> = waiting.call.key().into();
        held.waiting.push_back(waiting);
        if !std::mem::replace(&mut held.is_taken, true) {
            drop(state);
            tokio::spawn(Self::new(lanes, queue, key).serve());
        }
        None
    }

    /// The connection of the call that waits for the lock.
    pub(super) async fn lane(mut self) -> Result<Lane<DB>, sqlx::Error> {
        let lane = self.connect().await?;
        let state = self.queue.state();
        let held = state.held.get(&self.key);
        let before = held.map_or(0, |held| held.waiting.len());
        drop(state);
        self.before = before;
        Ok(lane.of(self))
    }

    /// The call has waited for the lock as long as the session lets it. So have those that wait since it began to: one after the other would each wait
    /// as long.
    pub(super) fn timed_out(&self, error: &sqlx::Error) {
        let mut state = self.queue.state();
        let Some(held) = state.held.get_mut(&self.key) else {
            return;
        };
        let count = self.before.min(held.waiting.len());
        let calls: Vec<_> = held.waiting.drain(..count).collect();
        drop(state);
        failed_each(calls, error);
    }

    async fn connect(&mut self) -> Result<Lane<DB>, sqlx::Error> {
        if self.permit.is_none() {
            let longest = self.lanes.pool.options().get_acquire_timeout();
            let permit = Arc::clone(&self.lanes.patient).acquire_owned();
            let permit = timeout(longest, permit).await;
            self.permit = permit.map_err(|_| sqlx::Error::PoolTimedOut)?.ok();
        }
        self.lanes.spare().await
    }

    /// Serves those that wait, until there are none or the row is locked again.
    async fn serve(mut self) {
        let mut lane = match self.connect().await {
            Ok(lane) => lane,
            Err(error) => return unsent_each(self.take(), &error),
        };
        loop {
            let mut calls = self.take();
            if calls.is_empty() {
                return;
            }
            match self.queue.send(&calls, &mut lane).await {
                Ok(words) => {
                    for (waiting, word) in calls.into_iter().zip(words) {
                        let _ = waiting.word.send(word);
                    }
                    // Those who got their answers call again, and are one statement again.
                    tokio::task::yield_now().await;
                }
                Err(error) if Fault::of(&error) == Fault::LockTimeout => {
                    drop(lane);
                    let first = calls.remove(0);
                    self.put_back(calls);
                    return self.give(first);
                }
                Err(error) if Fault::of(&error).may_have_committed() => failed_each(calls, &error),
                // Nothing was written, and a call by itself gets its own error.
                Err(_) => alone_each(calls),
            }
        }
    }

    fn take(&self) -> Vec<Waiting<DB>> {
        let mut state = self.queue.state();
        let held = state.held.get_mut(&self.key);
        let taken = held.map(|held| std::mem::take(&mut held.waiting));
        drop(state);
        let taken = taken.unwrap_or_default().into_iter();
        taken.filter(|waiting| !waiting.word.is_closed()).collect()
    }

    fn put_back(&self, calls: Vec<Waiting<DB>>) {
        let mut state = self.queue.state();
        if let Some(held) = state.held.get_mut(&self.key) {
            held.since = Instant::now();
            let later = std::mem::replace(&mut held.waiting, calls.into());
            held.waiting.extend(later);
        }
    }
}

impl<DB: Backend> Drop for HeldRow<DB> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let Some(held) = state.held.get_mut(&self.key) else {
            return;
        };
        held.waiting.retain(|waiting| !waiting.word.is_closed());
        held.is_taken = !held.waiting.is_empty();
        if !held.is_taken {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            let gone = state.held.remove(&self.key);
            drop(state);
            drop(gone);
            return;
        };
        drop(state);
        let (lanes, queue) = (Arc::clone(&self.lanes), Arc::clone(&self.queue));
        let (key, permit) = (std::mem::take(&mut self.key), self.permit.take());
        // Made when it runs: a runtime that ends drops what is spawned, and that must not spawn again.
        runtime.spawn(async move {
            let mut row = Self::new(&lanes, &queue, key);
            row.permit = permit;
            row.serve().await;
        });
    }
}
