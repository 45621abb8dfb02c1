//! One connection of an actor: forwards it unchanged, and holds each request until it is let go.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::session::{Session, Sessions};
use crate::wire::{
    Answer, CANCEL_REQUEST, Client, Cycle, Frames, GSS_REQUEST, SSL_REQUEST, Server, Statement,
    Status,
};

/// What a connection tells the explorer.
#[derive(Debug)]
pub(crate) enum Event {
    /// It is there: `grants` lets its requests go.
    Opened {
        id: usize,
        actor: usize,
        pid: i32,
        /// How its transactions are isolated that say nothing of it.
        isolation: String,
        /// Whether it finds the clock that can be stepped, if there is one.
        finds_clock: bool,
        grants: UnboundedSender<Grant>,
    },
    /// Something goes on between it and the server that is no step: the session is made, or a ping is answered.
    Begun { actor: usize },
    /// That has ended.
    Done { actor: usize },
    /// It wants to send this, and is held.
    Held { id: usize, request: Request },
    /// The step that was let go executes what it has prepared.
    Executes {
        id: usize,
        statements: Arc<[Statement]>,
    },
    /// Its request was answered, and the client has the answer.
    Answered { id: usize, answer: Answer },
    /// What it executes, or the answer to it, is held once more: the client is to stop waiting now.
    HeldToDrop { id: usize },
    /// It is closed on both sides.
    Gone { id: usize },
    /// The actor has returned.
    Returned { actor: usize },
}

/// What a connection wants to do.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// To execute these; or to prepare them, and to execute them next.
    Statements(Arc<[Statement]>),
    /// To close.
    Disconnect,
}

/// How a request is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// As it is.
    Go,
    /// Both sides of the connection are cut instead.
    CutBefore,
    /// Both sides are cut when the server has answered.
    CutAfter,
    /// Both sides are cut after half of the answer.
    CutInAnswer,
    /// The client hears nothing of the answer, and nothing after it.
    Stall,
    /// What is executed is held until the next grant.
    HoldRequest,
    /// The answer is held until the next grant.
    HoldAnswer,
    /// The run is over: the connection is closed, whatever it is about to do.
    Abandon,
}

/// Serves one connection of an actor until it is closed.
pub(crate) async fn serve(
    mut client: TcpStream,
    sessions: Arc<Sessions>,
    id: usize,
    actor: usize,
    events: UnboundedSender<Event>,
) {
    let _ = events.send(Event::Begun { actor });
    let opened = begin(&mut client, &sessions).await;
    let _ = events.send(Event::Done { actor });
    let Ok(Some((frames, startup, session))) = opened else {
        return;
    };
    let (grants, granted) = unbounded_channel();
    let pid = session.pid;
    let (isolation, finds_clock) = (session.isolation.clone(), session.finds_clock);
    let _ = events.send(Event::Opened {
        id,
        actor,
        pid,
        isolation,
        finds_clock,
        grants,
    });
    let mut relay = Relay {
        id,
        actor,
        client: Some(client),
        session,
        events: events.clone(),
        granted,
        spoken: Client::default(),
        frames,
        wanted: VecDeque::new(),
        status: Status::Idle,
        wants_to_go: false,
        leaves_settings: false,
    };
    let ended = relay.relay().await;
    if let Ok(true) = ended {
        // What cannot be used again is closed.
        let _ = sessions
            .give_back(startup, relay.session, relay.status, !relay.leaves_settings)
            .await;
    }
    let _ = events.send(Event::Gone { id });
}

/// Lets a client in; `None` if it wanted no session.
async fn begin(
    client: &mut TcpStream,
    sessions: &Sessions,
) -> io::Result<Option<(Frames, Bytes, Session)>> {
    client.set_nodelay(true)?;
    let mut frames = Frames::default();
    loop {
        let Some(frame) = frames.next()? else {
            if client.read_buf(frames.buffer()).await? == 0 {
                return Ok(None);
            }
            continue;
        };
        match frame.code() {
            SSL_REQUEST | GSS_REQUEST => client.write_all(b"N").await?,
            CANCEL_REQUEST => {
                let mut server = sessions.connect().await?;
                server.write_all(&frame.bytes).await?;
                // The server closes when it has sent the signal.
                let _ = server.read_u8().await;
                return Ok(None);
            }
            _ => {
                let session = sessions.open(&frame.bytes, client).await?;
                return Ok(Some((frames, frame.bytes, session)));
            }
        }
    }
}

/// What a client wants next.
#[derive(Debug)]
enum Want {
    Cycle(Cycle),
    Disconnect,
}

#[derive(Debug)]
struct Relay {
    id: usize,
    actor: usize,
    /// `None` when it is gone.
    client: Option<TcpStream>,
    session: Session,
    events: UnboundedSender<Event>,
    granted: UnboundedReceiver<Grant>,
    spoken: Client,
    frames: Frames,
    wanted: VecDeque<Want>,
    status: Status,
    /// It is known that the client sends no more.
    wants_to_go: bool,
    /// The session may know settings that a new one does not, and no `DISCARD` forgets: those with a point in their names.
    leaves_settings: bool,
}

/// Whether a text may set something for its session.
fn sets_anything(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    let first = sql.split_whitespace().next();
    first == Some("set")
        || first == Some("do")
        || first == Some("call")
        || sql.contains("set_config")
}

/// The explorer has ended the run.
fn over<T>(_: T) -> io::Error {
    io::ErrorKind::Interrupted.into()
}

impl Relay {
    fn tell(&self, event: Event) -> io::Result<()> {
        self.events.send(event).map_err(over)
    }

    /// Returns whether the session can be used by another connection.
    async fn relay(&mut self) -> io::Result<bool> {
        // The statements of the step that is under way, which has prepared them and not executed them yet.
        let mut prepared: Option<Vec<Bytes>> = None;
        let mut grant_of_step = Grant::Go;
        loop {
            let Some(want) = self.wanted.pop_front() else {
                match self.listen().await? {
                    Some(reusable) => return Ok(reusable),
                    None => continue,
                }
            };
            let mut cycle = match want {
                Want::Disconnect => {
                    self.tell(Event::Held {
                        id: self.id,
                        request: Request::Disconnect,
                    })?;
                    self.granted.recv().await.ok_or(()).map_err(over)?;
                    return Ok(true);
                }
                Want::Cycle(cycle) => cycle,
            };
            if cycle.statements.is_empty() && cycle.prepares.is_empty() {
                // A ping, or the end of a prepared statement: nobody else can see it.
                let actor = self.actor;
                self.tell(Event::Begun { actor })?;
                let asked = self.ask(&mut cycle).await;
                if let Ok((answer, bytes)) = &asked {
                    self.say(bytes).await;
                    self.status = answer.status;
                }
                self.tell(Event::Done { actor })?;
                asked?;
                continue;
            }
            // What was prepared in this step is executed in it.
            let continues = prepared.take().is_some_and(|names| {
                !cycle.uses.is_empty() && cycle.uses.iter().all(|name| names.contains(name))
            });
            if !continues {
                let mut statements = cycle.statements.clone();
                if statements.is_empty() {
                    statements.extend(
                        cycle
                            .prepares
                            .iter()
                            .map(|(_, sql)| Statement::of(Arc::clone(sql))),
                    );
                }
                if cycle.flushed {
                    statements.push(Statement::of("(whatever follows a Flush)".into()));
                }
                let request = Request::Statements(statements.into());
                self.tell(Event::Held {
                    id: self.id,
                    request,
                })?;
                let Some(grant) = self.wait_for_grant().await? else {
                    return Ok(false);
                };
                grant_of_step = grant;
            } else {
                let statements = cycle.statements.clone().into();
                self.tell(Event::Executes {
                    id: self.id,
                    statements,
                })?;
            }
            match grant_of_step {
                Grant::CutBefore => return Ok(false),
                Grant::Abandon => return Ok(true),
                _ => {}
            }
            let only_prepares = cycle.statements.is_empty();
            self.leaves_settings |= cycle
                .statements
                .iter()
                .any(|statement| sets_anything(&statement.sql));
            if grant_of_step == Grant::HoldRequest && !only_prepares {
                self.hold_to_drop().await?;
            }
            let names = cycle
                .prepares
                .iter()
                .map(|(name, _)| name.clone())
                .collect();
            let (answer, bytes) = self.ask(&mut cycle).await?;
            self.status = answer.status;
            if only_prepares && answer.error.is_none() {
                prepared = Some(names);
                self.say(&bytes).await;
                continue;
            }
            match grant_of_step {
                Grant::CutAfter | Grant::CutInAnswer => {
                    if grant_of_step == Grant::CutInAnswer {
                        self.say(&bytes[..bytes.len() / 2]).await;
                    }
                    self.client = None;
                    self.tell(Event::Answered {
                        id: self.id,
                        answer,
                    })?;
                    return Ok(false);
                }
                Grant::Stall => {
                    let id = self.id;
                    self.tell(Event::Answered { id, answer })?;
                    self.stall().await;
                    return Ok(false);
                }
                Grant::HoldAnswer => self.hold_to_drop().await?,
                Grant::Go | Grant::CutBefore | Grant::Abandon | Grant::HoldRequest => {}
            }
            self.say(&bytes).await;
            self.tell(Event::Answered {
                id: self.id,
                answer,
            })?;
        }
    }

    async fn hold_to_drop(&mut self) -> io::Result<()> {
        self.tell(Event::HeldToDrop { id: self.id })?;
        self.granted.recv().await.map(drop).ok_or(()).map_err(over)
    }

    /// Hears nothing until the client gives up, or the run is over.
    async fn stall(&mut self) {
        let Some(client) = &mut self.client else {
            return;
        };
        let mut unheard = BytesMut::new();
        let given_up = async {
            while client
                .read_buf(&mut unheard)
                .await
                .is_ok_and(|read| read > 0)
            {}
        };
        tokio::select! {
            () = given_up => {}
            _ = self.granted.recv() => {}
        }
    }

    /// Waits for what the client says, and tells it what the server says without being asked. `Some` if the connection
    /// ends: whether its session can be used again.
    async fn listen(&mut self) -> io::Result<Option<bool>> {
        let Some(client) = &mut self.client else {
            self.wanted.push_back(Want::Disconnect);
            return Ok(None);
        };
        let mut unasked = BytesMut::new();
        tokio::select! {
            read = client.read_buf(self.frames.buffer()) => {
                let read = read.unwrap_or(0);
                self.hear(read)?;
                Ok(None)
            }
            read = self.session.stream.read_buf(&mut unasked) => {
                let ended = read.unwrap_or(0) == 0;
                self.say(&unasked).await;
                Ok(ended.then_some(false))
            }
            // Nothing is held here: it is abandoned.
            _ = self.granted.recv() => Ok(Some(true)),
        }
    }

    /// Takes in what the client has sent.
    fn hear(&mut self, read: usize) -> io::Result<()> {
        while let Some(frame) = self.frames.next()? {
            if frame.kind == b'X' {
                self.leave();
            } else if let Some(cycle) = self.spoken.take(&frame)? {
                self.wanted.push_back(Want::Cycle(cycle));
            }
        }
        if read == 0 {
            self.leave();
            self.client = None;
        }
        Ok(())
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.wants_to_go, true) {
            self.wanted.push_back(Want::Disconnect);
        }
    }

    /// What the client cannot hear any more is lost.
    async fn say(&mut self, bytes: &[u8]) {
        if let Some(client) = &mut self.client
            && client.write_all(bytes).await.is_err()
        {
            self.client = None;
        }
    }

    /// `None` if the server closes the connection first.
    async fn wait_for_grant(&mut self) -> io::Result<Option<Grant>> {
        let mut unasked = BytesMut::new();
        loop {
            tokio::select! {
                grant = self.granted.recv() => return grant.map(Some).ok_or(()).map_err(over),
                read = self.session.stream.read_buf(&mut unasked) => {
                    let ended = read.unwrap_or(0) == 0;
                    let bytes = unasked.split();
                    self.say(&bytes).await;
                    if ended {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Sends a cycle to the server, and collects all of its answer.
    async fn ask(&mut self, cycle: &mut Cycle) -> io::Result<(Answer, BytesMut)> {
        self.session.stream.write_all(&cycle.bytes).await?;
        // The data of a COPY, and the rest of a cycle that was flushed, belong to what is under way.
        let mut flows = cycle.flushed;
        let (mut server, mut fresh, mut said) =
            (Server::default(), BytesMut::new(), BytesMut::new());
        loop {
            let heard = async {
                match &mut self.client {
                    Some(client) => client.read_buf(self.frames.buffer()).await.unwrap_or(0),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = self.session.stream.read_buf(&mut fresh) => {
                    if read? == 0 {
                        self.say(&said).await;
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let answer = server.take(&fresh)?;
                    said.unsplit(fresh.split());
                    flows |= server.wants_data;
                    if flows {
                        let bytes = said.split();
                        self.say(&bytes).await;
                    }
                    if let Some(answer) = answer {
                        let described = std::mem::take(&mut server.described);
                        for (name, (params, columns)) in cycle.describes.iter().zip(described) {
                            self.spoken.described(name, params, columns);
                        }
                        return Ok((answer, said));
                    }
                }
                read = heard => {
                    if flows {
                        while let Some(frame) = self.frames.next()? {
                            self.session.stream.write_all(&frame.bytes).await?;
                        }
                    }
                    self.hear(read)?;
                }
            }
        }
    }
}
