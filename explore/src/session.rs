//! The sessions on the server: opened as their clients want, and used again when these have gone.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire::{Answer, Server, Status};

/// Sessions on the server that no connection uses, by the message that they began with.
///
/// A session costs the server a process; a schedule is many times as fast without making one.
#[derive(Debug)]
pub(crate) struct Sessions {
    address: String,
    idle: Mutex<HashMap<Bytes, Vec<Session>>>,
}

/// One session on the server.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) stream: TcpStream,
    /// What the server said when it had let the client in.
    greeting: Bytes,
    pub(crate) pid: i32,
    /// How transactions of it are isolated that say nothing of it.
    pub(crate) isolation: String,
    /// Whether it finds the clock that can be stepped, if there is one.
    pub(crate) finds_clock: bool,
}

impl Sessions {
    pub(crate) fn new(address: String) -> Arc<Self> {
        Arc::new(Self {
            address,
            idle: Mutex::default(),
        })
    }

    /// Forgets those that are idle: the server was restarted.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Bytes, Vec<Session>>> {
        // Nothing in here can panic halfway.
        self.idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A session that begins with this message, and has told the client so.
    pub(crate) async fn open(
        &self,
        startup: &Bytes,
        client: &mut TcpStream,
    ) -> io::Result<Session> {
        let idle = self.lock().get_mut(startup).and_then(Vec::pop);
        if let Some(session) = idle {
            client.write_all(&session.greeting).await?;
            return Ok(session);
        }
        let mut stream = self.connect().await?;
        stream.write_all(startup).await?;
        let (mut server, mut greeting) = (Server::default(), Greeting::default());
        let (mut from_server, mut from_client) = (BytesMut::new(), BytesMut::new());
        loop {
            tokio::select! {
                read = stream.read_buf(&mut from_server) => {
                    let bytes = from_server.split();
                    client.write_all(&bytes).await?;
                    greeting.take(&bytes);
                    let ready = server.take(&bytes)?.is_some();
                    if ready {
                        let (greeting, pid) = (greeting.said.freeze(), server.pid);
                        // Whoever has set it: the client, its user, or the database.
                        let isolation = run(&mut stream, "SHOW default_transaction_isolation").await?;
                        let path = run(&mut stream, "SHOW search_path").await?;
                        let finds_clock = path.split(',').next() == Some("rowlock_explore");
                        return Ok(Session { stream, greeting, pid, isolation, finds_clock });
                    }
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                read = client.read_buf(&mut from_client) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    stream.write_all(&from_client.split()).await?;
                }
            }
        }
    }

    /// Takes a session back, as new; or, if nothing makes it so, closes it. Either way nobody waits for it any more.
    pub(crate) async fn give_back(
        &self,
        startup: Bytes,
        mut session: Session,
        status: Status,
        as_new: bool,
    ) -> io::Result<()> {
        if status != Status::Idle {
            run(&mut session.stream, "ROLLBACK").await?;
        }
        run(&mut session.stream, "DISCARD ALL").await?;
        if as_new {
            self.lock().entry(startup).or_default().push(session);
        }
        Ok(())
    }
}

/// What a server says when it has let a client in, without how it did.
#[derive(Debug, Default)]
struct Greeting {
    unread: BytesMut,
    said: BytesMut,
}

impl Greeting {
    fn take(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        while let Some(mut length) = self.unread.get(1..5) {
            let length = 1 + length.get_u32() as usize;
            if self.unread.len() < length {
                break;
            }
            let message = self.unread.split_to(length);
            // Of the messages about authentication the last one, AuthenticationOk.
            let asks = message[0] == b'R' && message[5..].iter().any(|&byte| byte != 0);
            if !asks {
                self.said.extend_from_slice(&message);
            }
        }
    }
}

/// Runs a statement: its first value, as text.
async fn run(stream: &mut TcpStream, sql: &str) -> io::Result<String> {
    let mut message = BytesMut::new();
    postgres_protocol::message::frontend::query(sql, &mut message)?;
    stream.write_all(&message).await?;
    let (mut server, mut bytes) = (Server::default(), BytesMut::new());
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match server.take(&bytes.split())? {
            Some(Answer {
                error: Some((_, text)),
                ..
            }) => return Err(io::Error::other(text)),
            Some(answer) => {
                let value = answer.rows.into_iter().flatten().flatten().next();
                return Ok(String::from_utf8_lossy(&value.unwrap_or_default()).into_owned());
            }
            None => {}
        }
    }
}
