//! What happened in one schedule, step by step.

use std::sync::Arc;
use std::time::Duration;

use crate::footprint::Footprint;
use crate::wire::{Answer, Statement};

/// A thing that is broken at a step, for [`Explorer::faults`](crate::Explorer::faults).
///
/// ```
/// use std::time::Duration;
///
/// use rowlock_explore::{Explorer, Fault};
///
/// # let explorer = Explorer::<()>::new("postgres://localhost/scratch");
/// // One of them in each schedule, at each request.
/// explorer.faults([Fault::CutBefore, Fault::CutAfter, Fault::Clock(Duration::from_secs(60))]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The connection is cut before the request reaches the server.
    CutBefore,
    /// The connection is cut after the server has done the request, and before its answer.
    CutAfter,
    /// The connection is cut in the middle of the answer.
    CutInAnswer,
    /// The server has done the request, and its answer never comes: the connection stays open and says nothing more. What
    /// ends that is a timeout of the program; without one its actor does not return.
    Stalled,
    /// The server ends the session before the request reaches it (`pg_terminate_backend`).
    Terminated,
    /// The server is restarted before the request reaches it, as [`restart`](crate::Explorer::restart) says.
    Restarted,
    /// The client stops waiting before the server has begun; the server gets the request all the same.
    DroppedBefore,
    /// The client stops waiting after the server has done the request, and before its answer.
    DroppedAfter,
    /// The clock of the server is ahead by so much from here on: `now()`, `clock_timestamp()` and `statement_timestamp()`, by
    /// these names, which `search_path` leads to another function. It is inconclusive if a session sets a `search_path` of its own, or
    /// a request says `pg_catalog.now()`.
    Clock(Duration),
}

/// One step of a schedule: a request of one actor, from the moment when it was let go.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) actor: usize,
    /// Which of the actor's connections, from 0.
    pub(crate) connection: usize,
    pub(crate) what: What,
    pub(crate) fault: Option<Fault>,
    /// What the server has answered; `None` if the run ended before.
    pub(crate) answer: Option<Answer>,
    /// The step in the course of which it was answered: its own number, unless it had to wait for others.
    pub(crate) answered_in: Option<usize>,
    /// Those whom it waited for, as actors.
    pub(crate) waited_for: Vec<usize>,
    /// How long it waited for locks.
    pub(crate) waited: Duration,
    /// A number for the transaction that it belongs to, the same for all of its steps, over all actors.
    pub(crate) transaction: usize,
    /// Whether the answer says that the transaction has ended with this step.
    pub(crate) ends_transaction: bool,
    /// What its statements touch by themselves.
    pub(crate) touched: Footprint,
    /// What it meets: with what its transaction and its level add, and what those touch who waited for it.
    pub(crate) footprint: Footprint,
}

/// What a step is.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Statements, most often one.
    Statements(Arc<[Statement]>),
    /// The client closes the connection.
    Disconnect,
}

/// All of one schedule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    /// The actors' names.
    pub(crate) actors: Vec<String>,
    pub(crate) steps: Vec<Step>,
    /// What each actor returned, as `Debug` says it; `None` if it did not end.
    pub(crate) results: Vec<Option<String>>,
    /// The names of tables, by oid.
    pub(crate) relations: std::collections::HashMap<u32, String>,
}
