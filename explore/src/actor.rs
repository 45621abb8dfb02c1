//! What an actor gets from the explorer.

use std::sync::Arc;

use tokio::sync::Notify;

/// One of those who run at the same time: where its database is, and how its futures are dropped.
#[derive(Clone, Debug)]
pub struct Actor {
    name: String,
    url: String,
    dropper: Dropper,
}

impl Actor {
    pub(crate) fn new(name: String, url: String, dropper: Dropper) -> Self {
        Self { name, url, dropper }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of its database, for any driver, in this process or another one. Connections that are made with it belong to
    /// this actor.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Awaits `future`, which the explorer may drop at a request of its, where [`Explorer::faults`] has
    /// `DroppedBefore` or `DroppedAfter`: `None` then. What the future has borrowed, such as a pool, is used on after it.
    ///
    /// [`Explorer::faults`]: crate::Explorer::faults
    pub async fn may_drop<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.dropper.0.notified() => None,
            value = future => Some(value),
        }
    }
}

/// Drops what an actor waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dropper(Arc<Notify>);

impl Dropper {
    pub(crate) fn fire(&self) {
        self.0.notify_waiters();
    }
}
