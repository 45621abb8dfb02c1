//! When all is at rest: no actor and no statement is going to move by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Ready, Run, Thread};
use crate::connection::{Connection, Held, Level, named};
use crate::error::Error;
use crate::footprint::OtherClock;
use crate::relay::{Event, Grant, Request};
use crate::trace::What;
use crate::wire::{Answer, Statement, Status};

/// How long something that was begun and is about to go on may take before the explorer goes on without it.
const QUIET: Duration = Duration::from_millis(5);
/// And how often the runtime must have looked for it in vain: on a busy machine all of the process can stand still for longer.
const LOOKS: u32 = 4;
/// How long an actor may do neither: send a request, wait for a lock, return.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an actor that has returned may leave a connection in a transaction.
const LEFT: Duration = Duration::from_millis(200);
/// The number of a connection that has none yet.
const UNNUMBERED: usize = usize::MAX;
/// How often the server is asked who waits for whom.
const TICK: Duration = Duration::from_micros(300);
/// After this time the server has looked whether a waiting statement is in a deadlock; `deadlock_timeout` is 1 ms.
const DEADLOCK_CHECK: Duration = Duration::from_millis(4);

/// Something of an actor may be about to come.
pub(super) struct Expected {
    until: Instant,
    looks: u32,
}

impl Expected {
    pub(super) fn within(now: Instant, wait: Duration) -> Self {
        Self {
            until: now + wait,
            looks: LOOKS,
        }
    }
}

/// What is next.
pub(crate) enum Rest {
    /// One of these.
    Choose(Vec<Ready>),
    /// Nothing: all actors have returned.
    Over,
    /// Nothing, although some have not: they wait for something which is not the database.
    Stuck,
}

impl<T: Send + 'static> Run<'_, T> {
    pub(super) fn note(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Opened {
                id,
                actor,
                pid,
                isolation,
                finds_clock,
                grants,
            } => {
                if self.stage.clock && !finds_clock {
                    self.other_clock = Some(OtherClock::Path);
                }
                // Numbered when its first request is there.
                let thread = Thread {
                    actor,
                    connection: UNNUMBERED,
                };
                let connection = Connection::new(thread, pid, grants, Level::named(&isolation));
                self.connections.insert(id, connection);
                self.players[actor].idle_since = now;
            }
            Event::Begun { actor } => {
                let player = &mut self.players[actor];
                (player.busy, player.idle_since) = (player.busy + 1, now);
            }
            Event::Done { actor } => {
                let player = &mut self.players[actor];
                (player.busy, player.idle_since) = (player.busy.saturating_sub(1), now);
                player.expected = Some(Expected::within(now, QUIET));
            }
            Event::Held { id, request } => {
                let since = self.trace.steps.len();
                // What was only prepared is done.
                self.land(id, None);
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.fresh_since = None;
                    let player = &mut self.players[connection.thread.actor];
                    player.expected = None;
                    if matches!(request, Request::Disconnect)
                        && connection.status == Status::Idle
                        && !connection.sticky
                    {
                        // Nobody sees it go.
                        let _ = connection.grants.send(Grant::Go);
                    } else {
                        connection.held = Some(Held { request, since });
                    }
                    player.idle_since = now;
                }
                if let Some(connection) = self.connections.get(&id) {
                    let actor = connection.thread.actor;
                    let request = connection.held.as_ref().map(|held| &held.request);
                    let leaves = matches!(request, Some(Request::Disconnect));
                    // Who closes a connection waits for no answer: the next request comes, or the end.
                    let wait = if leaves && !self.players[actor].returned && !self.others_wait(id) {
                        Some(LEFT)
                    } else {
                        self.loose(id).then_some(QUIET)
                    };
                    self.players[actor].expected = wait.map(|wait| Expected::within(now, wait));
                }
            }
            Event::Executes { id, statements } => {
                let Some(connection) = self.connections.get(&id) else {
                    return;
                };
                let Some(flight) = &connection.flight else {
                    return;
                };
                let step = flight.step;
                // Now with its parameters, which can name the row.
                let request = Request::Statements(Arc::clone(&statements));
                let touched = named(&request, &self.stage.catalogue);
                let own = self.own(connection, &request);
                let with_fault = self.trace.steps[step].fault.is_some();
                let footprint = if with_fault {
                    self.broken(connection, own)
                } else {
                    self.reach_without(own, step)
                };
                let step = &mut self.trace.steps[step];
                step.touched = touched;
                (step.what, step.footprint) = (What::Statements(statements), footprint);
            }
            Event::Answered { id, answer } => {
                self.land(id, Some(answer));
                if let Some(thread) = self
                    .connections
                    .get(&id)
                    .map(|connection| connection.thread)
                {
                    let expected = self.others_wait(id);
                    let player = &mut self.players[thread.actor];
                    player.idle_since = now;
                    player.expected = expected.then(|| Expected::within(now, QUIET));
                }
            }
            Event::HeldToDrop { id } => {
                if let Some(connection) = self.connections.get(&id) {
                    self.players[connection.thread.actor].dropper.fire();
                    let _ = connection.grants.send(Grant::Go);
                }
            }
            Event::Gone { id } => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.status = Status::Idle;
                    connection.gone = true;
                    connection.held = None;
                    self.players[connection.thread.actor].idle_since = now;
                }
                self.land(id, None);
            }
            Event::Returned { actor } => {
                let player = &mut self.players[actor];
                player.returned = true;
                player.expected = None;
                player.idle_since = now;
            }
        }
    }

    /// The step that is under way on a connection has ended.
    pub(super) fn land(&mut self, id: usize, answer: Option<Answer>) {
        let now = self.trace.steps.len().saturating_sub(1);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(flight) = connection.flight.take() else {
            return;
        };
        let step = &mut self.trace.steps[flight.step];
        step.answered_in = Some(now);
        if flight.waits {
            step.waited = flight.since.elapsed();
        }
        if let Some(answer) = &answer {
            connection.status = answer.status;
        }
        let statements: &[Statement] = match &step.what {
            What::Statements(statements) => statements,
            What::Disconnect => &[],
        };
        step.ends_transaction = connection.ends_step(statements, &step.touched, &step.footprint);
        step.answer = answer;
    }

    /// The other connections of the same actor.
    pub(super) fn others(&self, id: usize) -> impl Iterator<Item = &Connection> {
        let actor = self
            .connections
            .get(&id)
            .map(|connection| connection.thread.actor);
        let others = self.connections.iter().filter(move |(other, connection)| {
            **other != id && Some(connection.thread.actor) == actor && !connection.gone
        });
        others.map(|(_, connection)| connection)
    }

    /// Whether another connection of the same actor waits: which of the two comes first is then not decided by this one.
    fn others_wait(&self, id: usize) -> bool {
        self.others(id).any(|other| !other.is_silent())
    }

    /// Whether another connection of the same actor is in a transaction, or others see it go, and nothing was heard of it: it
    /// may be about to roll back, or to close.
    fn loose(&self, id: usize) -> bool {
        self.others(id)
            .any(|other| other.is_silent() && (other.status != Status::Idle || other.sticky))
    }

    /// Numbers the connections whose first requests are there, by what these are: the order in which they came is chance.
    fn number_connections(&mut self) {
        for actor in 0..self.players.len() {
            let mine = |connection: &Connection| connection.thread.actor == actor;
            let numbered = self
                .connections
                .values()
                .filter(|one| mine(one) && one.thread.connection != UNNUMBERED);
            let mut next = numbered.count();
            let new = self
                .connections
                .iter()
                .filter_map(|(id, one)| match &one.held {
                    Some(held) if mine(one) && one.thread.connection == UNNUMBERED => {
                        Some((label(&held.request), *id))
                    }
                    _ => None,
                });
            let mut new: Vec<(String, usize)> = new.collect();
            new.sort();
            for (_, id) in new {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.thread.connection = next;
                    next += 1;
                }
            }
        }
    }

    /// Waits until nothing moves any more.
    pub(crate) async fn rest(&mut self) -> Result<Rest, Error> {
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.note(event);
            }
            if self.at_rest() && !self.someone_dies().await? {
                return Ok(self.choices());
            }
            let tick = if self.any_flight() || !self.doomed.is_empty() {
                TICK
            } else {
                QUIET / LOOKS
            };
            match timeout(tick, self.events.recv()).await {
                Ok(Some(event)) => self.note(event),
                Ok(None) => {}
                Err(_) => {
                    self.look().await?;
                    let expected = self
                        .players
                        .iter_mut()
                        .filter_map(|player| player.expected.as_mut());
                    expected.for_each(|expected| expected.looks = expected.looks.saturating_sub(1));
                }
            }
        }
    }

    pub(super) fn any_flight(&self) -> bool {
        self.connections
            .values()
            .any(|connection| connection.flight.is_some())
    }

    /// Whether a session whose connection was cut is still there.
    async fn someone_dies(&mut self) -> Result<bool, Error> {
        // One that is cut after its answer lives on while it waits for a lock of another one.
        let waits = |pid: &i32| {
            self.connections.values().any(|connection| {
                let flight = connection.flight.as_ref();
                connection.pid == *pid && flight.is_some_and(|flight| flight.waits)
            })
        };
        let (waiting, dying): (Vec<i32>, Vec<i32>) = self.doomed.iter().partition(|pid| waits(pid));
        let dies = !dying.is_empty() && self.stage.admin.alive(&dying).await?;
        if !dies {
            self.doomed = waiting;
        }
        Ok(dies)
    }

    /// Whether nothing is going to happen by itself.
    fn at_rest(&self) -> bool {
        let now = Instant::now();
        let mut flights = self
            .connections
            .values()
            .filter_map(|connection| connection.flight.as_ref());
        if flights.any(|flight| !flight.waits) {
            return false;
        }
        self.players.iter().enumerate().all(|(number, player)| {
            let mut mine = self
                .connections
                .values()
                .filter(|connection| connection.thread.actor == number);
            let fresh = |connection: &Connection| {
                let since = connection.fresh_since.filter(|_| !connection.gone);
                since.is_some_and(|since| now < since + QUIET)
            };
            let fresh = mine.clone().any(fresh);
            let waits = mine.clone().any(|connection| !connection.is_silent());
            // A connection that was left in a transaction is about to roll back or to close; one that others see go, to close.
            let left = player.returned
                && mine.any(|connection| {
                    connection.is_silent()
                        && !connection.gone
                        && (connection.status != Status::Idle || connection.sticky)
                });
            let patience = match player.returned {
                true if left => LEFT,
                false if !waits || player.busy > 0 => PATIENCE,
                _ => Duration::ZERO,
            };
            let expected = fresh
                || player
                    .expected
                    .as_ref()
                    .is_some_and(|expected| now < expected.until || expected.looks > 0);
            !expected && now >= player.idle_since + patience
        })
    }

    /// Asks the server who waits.
    async fn look(&mut self) -> Result<(), Error> {
        let flying = self
            .connections
            .values()
            .filter(|connection| connection.flight.is_some());
        let pids: Vec<i32> = flying.map(|connection| connection.pid).collect();
        if pids.is_empty() {
            return Ok(());
        }
        let blocking = self.stage.admin.blocking(&pids).await?;
        // Stable is what waits only for ours that are at rest, or wait themselves.
        let stable = |pid: &i32| {
            let connection = self
                .connections
                .values()
                .find(|connection| connection.pid == *pid && !connection.gone);
            connection.is_some_and(|connection| {
                connection.flight.is_none()
                    || blocking.get(pid).is_some_and(|others| !others.is_empty())
            })
        };
        let mut waits: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (pid, others) in &blocking {
            if !others.is_empty() && others.iter().all(stable) && !in_circle(*pid, &blocking) {
                waits.insert(*pid, others.clone());
            }
        }
        let actor_of = |pid: &i32| {
            self.connections
                .values()
                .find(|other| other.pid == *pid)
                .map(|other| other.thread.actor)
        };
        let mut seen: Vec<(usize, Vec<usize>)> = Vec::new();
        for (id, connection) in &self.connections {
            let Some(flight) = &connection.flight else {
                continue;
            };
            let checked = !self.stage.quick_deadlocks || flight.since.elapsed() >= DEADLOCK_CHECK;
            if let Some(others) = waits.get(&connection.pid)
                && checked
            {
                seen.push((*id, others.iter().filter_map(actor_of).collect()));
            }
        }
        for connection in self.connections.values_mut() {
            if let Some(flight) = &mut connection.flight {
                flight.waits = false;
            }
        }
        for (id, others) in seen {
            if let Some(flight) = self
                .connections
                .get_mut(&id)
                .and_then(|connection| connection.flight.as_mut())
            {
                flight.waits = true;
                let step = &mut self.trace.steps[flight.step];
                for other in others {
                    if !step.waited_for.contains(&other) {
                        step.waited_for.push(other);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn choices(&mut self) -> Rest {
        self.number_connections();
        let mut ready: Vec<Ready> = Vec::new();
        for connection in self.connections.values() {
            let Some(held) = &connection.held else {
                continue;
            };
            let own = self.own(connection, &held.request);
            ready.push(Ready {
                thread: connection.thread,
                label: label(&held.request),
                broken: self.broken(connection, own.clone()),
                footprint: self.reach(own),
                statements: matches!(held.request, Request::Statements(_)),
            });
        }
        ready.sort_by_key(|ready| ready.thread);
        self.impatient |= self.players.iter().enumerate().any(|(number, player)| {
            let mut mine = self
                .connections
                .values()
                .filter(|connection| connection.thread.actor == number);
            !player.returned && !mine.any(|connection| !connection.is_silent())
        });
        match (
            ready.is_empty(),
            self.players.iter().all(|player| player.returned) && !self.any_flight(),
        ) {
            (false, _) => Rest::Choose(ready),
            (true, true) => Rest::Over,
            (true, false) => Rest::Stuck,
        }
    }
}

/// Whether a session waits for itself, over others.
fn in_circle(pid: i32, blocking: &BTreeMap<i32, Vec<i32>>) -> bool {
    let (mut seen, mut next) = (Vec::new(), blocking.get(&pid).cloned().unwrap_or_default());
    while let Some(other) = next.pop() {
        if other == pid {
            return true;
        }
        if !seen.contains(&other) {
            seen.push(other);
            next.extend(blocking.get(&other).into_iter().flatten());
        }
    }
    false
}

fn label(request: &Request) -> String {
    match request {
        Request::Disconnect => "disconnect".to_owned(),
        Request::Statements(statements) => statements
            .iter()
            .map(|Statement { sql, .. }| sql.as_ref())
            .collect::<Vec<_>>()
            .join("; "),
    }
}
