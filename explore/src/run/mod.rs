//! One schedule: lets one request after the other go, and waits after each until all is at rest.

mod meets;
mod rest;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;

use self::rest::Expected;
pub(crate) use self::rest::Rest;
use crate::actor::{Actor, Dropper, Outcome, panic_text};
use crate::admin::{Admin, doing};
use crate::connection::{Connection, Flight, SeenElsewhere, named};
use crate::error::Error;
use crate::footprint::{Catalogue, Footprint, OtherClock, other_clock};
use crate::relay::{Event, Grant, Request, serve};
use crate::session::Sessions;
use crate::trace::{Fault, Step, Trace, What};
use crate::url::Url;

/// A connection of an actor, by the actor's number and its own, from 0. Requests of one thread never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Thread {
    pub(crate) actor: usize,
    pub(crate) connection: usize,
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
    /// How long the user's code for invariants and restarts may take.
    pub(crate) patience: Duration,
    pub(crate) seen: SeenElsewhere,
    /// Some of the faults are about all sessions.
    pub(crate) global_faults: bool,
    /// One of the faults steps the clock.
    pub(crate) clock: bool,
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
    /// An actor may read a clock that is not stepped.
    pub(crate) other_clock: Option<OtherClock>,
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
            other_clock: None,
        })
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
                    let patience = self.stage.patience;
                    let restarted = timeout(patience, restart()).await;
                    restarted
                        .unwrap_or_else(|_| Err(format!("it has not returned after {patience:?}")))
                        .map_err(Error::Restart)?;
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
                if self.stage.clock {
                    self.other_clock = self.other_clock.or_else(|| other_clock(&statement.sql));
                }
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
