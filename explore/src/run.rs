//! One schedule: lets one request after the other go, and waits after each until all is at rest.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::actor::{Actor, Dropper};
use crate::admin::{Admin, doing};
use crate::connection::{Connection, Flight, Held, Level, SeenElsewhere, named};
use crate::error::Error;
use crate::footprint::{Catalogue, Footprint, Touch};
use crate::relay::{Event, Grant, Request, serve};
use crate::session::Sessions;
use crate::trace::{Fault, Step, Trace, What};
use crate::url::Url;
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
/// Stands for the relation of all transactions; no table has this number.
const TRANSACTIONS: u32 = u32::MAX;
/// How often the server is asked who waits for whom.
const TICK: Duration = Duration::from_micros(300);
/// After this time the server has looked whether a waiting statement is in a deadlock; `deadlock_timeout` is 1 ms.
const DEADLOCK_CHECK: Duration = Duration::from_millis(4);

/// A connection of an actor, by the actor's number and its own, from 0. Requests of one thread never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Thread {
    pub(crate) actor: usize,
    pub(crate) connection: usize,
}

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

/// One of the ways in which a schedule can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) thread: Thread,
    pub(crate) fault: Option<Fault>,
}

/// A request that can be let go.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) thread: Thread,
    /// What it is, to see that the program does the same again.
    pub(crate) label: String,
    /// What it touches, and what those touch who may go on after it.
    pub(crate) footprint: Footprint,
    /// The same when a fault comes with it: its transaction can be undone.
    pub(crate) broken: Footprint,
    /// Whether a fault makes a difference here.
    pub(crate) statements: bool,
}

/// How an actor is made: a future for each run.
pub(crate) type Play<T> =
    Arc<dyn Fn(Actor) -> Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync>;
/// Restarts the server.
pub(crate) type Restart =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// What all schedules of one exploration have in common.
pub(crate) struct Stage<T> {
    pub(crate) url: Url,
    pub(crate) settings: Vec<String>,
    pub(crate) setup: Vec<String>,
    pub(crate) actors: Vec<(String, Play<T>)>,
    pub(crate) admin: Arc<Admin>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) catalogue: Catalogue,
    pub(crate) restart: Option<Restart>,
    pub(crate) seen: SeenElsewhere,
    /// Some of the faults are about all sessions.
    pub(crate) global_faults: bool,
    /// The server looks for deadlocks at once.
    pub(crate) quick_deadlocks: bool,
}

struct Player {
    name: String,
    task: AbortHandle,
    dropper: Dropper,
    returned: bool,
    /// Something of it may be about to come: until then it is not at rest.
    expected: Option<Expected>,
    /// What it does with the server besides steps.
    busy: usize,
    /// Since when it does nothing that can be seen.
    idle_since: Instant,
}

/// Also when the exploration itself is dropped.
impl Drop for Player {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Something of an actor may be about to come.
struct Expected {
    until: Instant,
    looks: u32,
}

impl Expected {
    fn within(now: Instant, wait: Duration) -> Self {
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

/// A schedule that is being run.
pub(crate) struct Run<'a, T> {
    stage: &'a Stage<T>,
    events: UnboundedReceiver<Event>,
    connections: BTreeMap<usize, Connection>,
    players: Vec<Player>,
    results: Vec<JoinHandle<T>>,
    relays: JoinSet<()>,
    pub(crate) trace: Trace,
    /// For each step, the step after which its request was there.
    pub(crate) since: Vec<usize>,
    transactions: usize,
    /// Sessions whose connections were cut, until the server has noticed.
    doomed: Vec<i32>,
    /// Something was seen that makes the steps of earlier schedules touch more than was known then.
    pub(crate) learned: bool,
    /// Actors that the explorer has gone on without.
    pub(crate) impatient: bool,
}

impl<'a, T: Send + 'static> Run<'a, T> {
    /// Sets the stage, and starts all actors.
    pub(crate) async fn start(stage: &'a Stage<T>) -> Result<Self, Error> {
        for sql in &stage.setup {
            stage.admin.execute(sql, "set up").await?;
        }
        let (sender, events) = unbounded_channel();
        let (mut players, mut results, mut relays) = (Vec::new(), Vec::new(), JoinSet::new());
        let ids = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for (number, (name, play)) in stage.actors.iter().enumerate() {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let port = listener.local_addr()?.port();
            let (sessions, events, ids) = (
                Arc::clone(&stage.sessions),
                sender.clone(),
                Arc::clone(&ids),
            );
            relays.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    let id = ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    connections.spawn(serve(
                        client,
                        Arc::clone(&sessions),
                        id,
                        number,
                        events.clone(),
                    ));
                }
            });
            let dropper = Dropper::default();
            let actor = Actor::new(
                name.clone(),
                stage.url.through(port, &stage.settings),
                dropper.clone(),
            );
            let (play, returned) = (play(actor), sender.clone());
            let task = tokio::spawn(async move {
                // Also when it panics.
                let _returned = Returned {
                    actor: number,
                    events: returned,
                };
                play.await
            });
            players.push(Player {
                name: name.clone(),
                task: task.abort_handle(),
                dropper,
                returned: false,
                expected: None,
                busy: 0,
                idle_since: Instant::now(),
            });
            results.push(task);
        }
        let trace = Trace {
            actors: players.iter().map(|player| player.name.clone()).collect(),
            relations: stage.catalogue.names(),
            ..Trace::default()
        };
        Ok(Self {
            stage,
            events,
            connections: BTreeMap::new(),
            players,
            results,
            relays,
            trace,
            since: Vec::new(),
            transactions: 0,
            doomed: Vec::new(),
            learned: false,
            impatient: false,
        })
    }

    fn note(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Opened {
                id,
                actor,
                pid,
                isolation,
                grants,
            } => {
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
    fn land(&mut self, id: usize, answer: Option<Answer>) {
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
    fn others(&self, id: usize) -> impl Iterator<Item = &Connection> {
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

    fn any_flight(&self) -> bool {
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

    fn choices(&mut self) -> Rest {
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

    /// What a request touches by itself.
    fn own(&self, connection: &Connection, request: &Request) -> Footprint {
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
    fn reach(&self, footprint: Footprint) -> Footprint {
        self.reach_without(footprint, usize::MAX)
    }

    /// The same, but for the step itself, which does not wait yet.
    fn reach_without(&self, mut footprint: Footprint, step: usize) -> Footprint {
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

    fn broken(&self, connection: &Connection, mut own: Footprint) -> Footprint {
        own.join(&connection.touched);
        own.everything |= self.stage.global_faults;
        self.reach(own)
    }

    /// Lets a request go, with or without a fault. It must be one of the last choices.
    pub(crate) async fn take(&mut self, choice: Choice) -> Result<(), Error> {
        let step = self.trace.steps.len();
        let found = self.connections.iter().find(|(_, connection)| {
            connection.thread == choice.thread && connection.held.is_some()
        });
        let Some((&id, connection)) = found else {
            return Ok(());
        };
        let Some(held) = &connection.held else {
            return Ok(());
        };
        let own = self.own(connection, &held.request);
        let footprint = if choice.fault.is_some() {
            self.broken(connection, own)
        } else {
            self.reach(own)
        };
        let (request, since, pid) = (held.request.clone(), held.since, connection.pid);
        let transaction = connection.transaction.unwrap_or_else(|| {
            self.transactions += 1;
            self.transactions - 1
        });
        self.since.push(since);
        self.trace.steps.push(Step {
            actor: choice.thread.actor,
            connection: choice.thread.connection,
            what: match &request {
                Request::Statements(statements) => What::Statements(Arc::clone(statements)),
                Request::Disconnect => What::Disconnect,
            },
            fault: choice.fault,
            answer: None,
            answered_in: None,
            waited_for: Vec::new(),
            waited: Duration::ZERO,
            transaction,
            ends_transaction: false,
            touched: named(&request, &self.stage.catalogue),
            footprint: footprint.clone(),
        });
        let grant = match choice.fault {
            None => Grant::Go,
            Some(Fault::CutBefore) => Grant::CutBefore,
            Some(Fault::CutAfter) => Grant::CutAfter,
            Some(Fault::CutInAnswer) => Grant::CutInAnswer,
            Some(Fault::Stalled) => Grant::Stall,
            Some(Fault::Terminated) => {
                let sql = format!("SELECT pg_terminate_backend({pid})");
                self.stage.admin.rows(&sql, "end a session").await?;
                Grant::Go
            }
            Some(Fault::Restarted) => {
                if let Some(restart) = &self.stage.restart {
                    restart().await.map_err(Error::Restart)?;
                }
                self.stage.sessions.forget();
                self.stage
                    .admin
                    .reconnect()
                    .await
                    .map_err(doing("connect after the restart"))?;
                Grant::Go
            }
            Some(Fault::DroppedBefore) => Grant::HoldRequest,
            Some(Fault::DroppedAfter) => Grant::HoldAnswer,
            Some(Fault::Clock(ahead)) => {
                let sql = format!(
                    "UPDATE rowlock_explore.clock SET ahead = ahead + make_interval(secs => {})",
                    ahead.as_secs_f64()
                );
                self.stage.admin.execute(&sql, "step the clock").await?;
                Grant::Go
            }
        };
        if let Some(Fault::CutBefore | Fault::CutAfter | Fault::CutInAnswer | Fault::Terminated) =
            choice.fault
        {
            self.doomed.push(pid);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        connection.held = None;
        connection.transaction = Some(transaction);
        connection.flight = Some(Flight {
            step,
            since: Instant::now(),
            waits: false,
        });
        if let Request::Statements(statements) = &request {
            let touched = &self.trace.steps[step].touched;
            connection.goes(statements, touched);
            for statement in statements.iter() {
                self.learned |= self.stage.seen.take(statement, touched);
            }
        }
        if !matches!(choice.fault, Some(Fault::Terminated | Fault::Restarted)) {
            let _ = connection.grants.send(grant);
        }
        for other in self.connections.values_mut() {
            if let Some(flight) = &mut other.flight {
                // Whoever waited may go on now.
                flight.waits = false;
            }
        }
        Ok(())
    }

    /// Ends the run: what each actor has returned, in their order.
    pub(crate) async fn end(mut self, complete: bool) -> (Trace, Vec<Outcome<T>>) {
        let mut outcomes = Vec::new();
        for (player, result) in self.players.iter().zip(&mut self.results) {
            if complete && player.returned {
                outcomes.push(match result.await {
                    Ok(value) => Outcome::Returned(value),
                    Err(error) => Outcome::Panicked(panic_text(error)),
                });
            } else {
                player.task.abort();
                outcomes.push(Outcome::Unfinished);
            }
        }
        for connection in self.connections.values() {
            let _ = connection.grants.send(Grant::Abandon);
        }
        // Sessions that are given back in time are used again; what takes longer is closed with its relay.
        let given_back = async {
            while self.connections.values().any(|connection| !connection.gone) {
                match self.events.recv().await {
                    Some(Event::Gone { id }) => {
                        if let Some(connection) = self.connections.get_mut(&id) {
                            connection.gone = true;
                        }
                    }
                    Some(Event::Held { id, .. }) => {
                        if let Some(connection) = self.connections.get(&id) {
                            let _ = connection.grants.send(Grant::Abandon);
                        }
                    }
                    Some(Event::Opened { grants, .. }) => drop(grants.send(Grant::Abandon)),
                    Some(_) => {}
                    None => break,
                }
            }
        };
        let _ = timeout(Duration::from_secs(1), given_back).await;
        let pids: Vec<i32> = self
            .connections
            .values()
            .filter(|connection| !connection.gone)
            .map(|connection| connection.pid)
            .collect();
        self.relays.shutdown().await;
        for pid in pids {
            let _ = self
                .stage
                .admin
                .rows(
                    &format!("SELECT pg_terminate_backend({pid}, 1000)"),
                    "end a session",
                )
                .await;
        }
        (self.trace, outcomes)
    }
}

/// What became of an actor.
///
/// ```
/// use rowlock_explore::Outcome;
///
/// let outcome: Outcome<u32> = Outcome::Panicked("no such page".to_owned());
/// assert!(!matches!(outcome, Outcome::Returned(_)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It returned this.
    Returned(T),
    /// It panicked, with this message.
    Panicked(String),
    /// The run was ended before it returned.
    Unfinished,
}

pub(crate) fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else {
        return "it was cancelled".to_owned();
    };
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Says that an actor has returned, also when it panics.
struct Returned {
    actor: usize,
    events: UnboundedSender<Event>,
}

impl Drop for Returned {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Returned { actor: self.actor });
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
