//! What a step meets: what its statement touches, and what follows from the transactions that are open and from those who wait.

use super::{Run, Thread};
use crate::connection::Connection;
use crate::footprint::{Footprint, Touch};
use crate::relay::Request;

/// Stands for the relation of all transactions; no table has this number.
const TRANSACTIONS: u32 = u32::MAX;

impl Thread {
    /// The transaction of this connection, as a thing that is touched.
    fn as_touch(self, writes: bool) -> Touch {
        let key = [self.actor.to_be_bytes(), self.connection.to_be_bytes()].concat();
        Touch {
            relation: TRANSACTIONS,
            key: Some(key),
            writes,
        }
    }
}

impl<T: Send + 'static> Run<'_, T> {
    /// What a request touches by itself.
    pub(super) fn own(&self, connection: &Connection, request: &Request) -> Footprint {
        let mut own = connection.touches(request, &self.stage.catalogue, &self.stage.seen);
        // Whoever may have to wait for a transaction meets each step of it: the next one may close a circle, and who does
        // that is who fails.
        let others = self
            .connections
            .values()
            .filter(|other| other.thread != connection.thread);
        let held = others.map(|other| (other.thread, other.holds(&self.stage.seen)));
        let waits_for: Vec<Touch> = held
            .filter(|(_, held)| own.meets(held))
            .map(|(thread, _)| thread.as_touch(true))
            .collect();
        if !connection.holds(&self.stage.seen).is_nothing() {
            own.touches.insert(connection.thread.as_touch(false));
        }
        own.touches.extend(waits_for);
        own
    }

    /// With what those touch who wait, and may go on after it.
    pub(super) fn reach(&self, footprint: Footprint) -> Footprint {
        self.reach_without(footprint, usize::MAX)
    }

    /// The same, but for the step itself, which does not wait yet.
    pub(super) fn reach_without(&self, mut footprint: Footprint, step: usize) -> Footprint {
        let waiting = self
            .connections
            .values()
            .filter_map(|connection| connection.flight.as_ref());
        let waiting = waiting.filter(|flight| flight.step != step);
        let mut waiting: Vec<&Footprint> = waiting
            .map(|flight| &self.trace.steps[flight.step].footprint)
            .collect();
        while let Some(at) = waiting.iter().position(|other| footprint.meets(other)) {
            footprint.join(waiting.swap_remove(at));
        }
        footprint
    }

    pub(super) fn broken(&self, connection: &Connection, mut own: Footprint) -> Footprint {
        own.join(&connection.touched);
        own.everything |= self.stage.global_faults;
        self.reach(own)
    }
}
