//! A TCP proxy before PostgreSQL that counts, holds back and cuts.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// The proxy, which ends when this value is dropped.
///
/// It reads along in the protocol, so clients must not encrypt
/// (`sslmode=disable`).
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    accepting: AbortHandle,
    connections: Arc<Mutex<JoinSet<()>>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    round_trips: AtomicUsize,
    statements: AtomicUsize,
    requests: watch::Sender<Requests>,
    replies: watch::Sender<Replies>,
    messages: Mutex<Messages>,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The clients.
    Client,
    /// The server.
    Server,
}

/// How many messages were forwarded, and at which of them a connection is cut.
#[derive(Debug, Default)]
struct Messages {
    from_clients: usize,
    from_server: usize,
    cut: Option<Cut>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    from: Side,
    message: usize,
    is_whole: bool,
}

impl Messages {
    /// Of these messages, which end at these places of a piece: how much of the piece goes on before the cut, if it is in there.
    fn cut_within(&mut self, from: Side, ends: &[usize]) -> Option<usize> {
        let count = match from {
            Side::Client => &mut self.from_clients,
            Side::Server => &mut self.from_server,
        };
        let before = *count;
        *count += ends.len();
        let cut = self.cut.filter(|cut| cut.from == from)?;
        let end = ends.get(cut.message.checked_sub(before + 1)?)?;
        self.cut = None;
        Some(end - usize::from(!cut.is_whole))
    }
}

/// What becomes of the bytes from the clients.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Requests {
    /// They are forwarded.
    Flow,
    /// The connection that sends a statement first will be held back, and no other.
    HoldNext,
    /// It has sent, and is held back.
    Held,
}

/// What becomes of the bytes from the server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Replies {
    /// They are forwarded.
    Flow,
    /// They will be held back when some come.
    Hold,
    /// Some have come, and are held back.
    Held,
}

impl Proxy {
    /// Starts a proxy on a free loopback port before `upstream`, a `host:port`.
    pub async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free loopback port");
        let port = listener
            .local_addr()
            .expect("the address just bound")
            .port();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let shared = Arc::new(Shared {
            round_trips: AtomicUsize::new(0),
            statements: AtomicUsize::new(0),
            requests: watch::Sender::new(Requests::Flow),
            replies: watch::Sender::new(Replies::Flow),
            messages: Mutex::default(),
        });

        let accept = {
            let (connections, shared) = (Arc::clone(&connections), Arc::clone(&shared));
            let upstream = upstream.to_owned();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let relay = relay(client, upstream.clone(), Arc::clone(&shared));
                    connections
                        .lock()
                        .expect("no panic under the lock")
                        .spawn(async {
                            // A broken connection is for its two ends to notice.
                            let _ = relay.await;
                        });
                }
            }
        };
        let accepting = tokio::spawn(accept).abort_handle();
        Self {
            port,
            accepting,
            connections,
            shared,
        }
    }

    /// The loopback port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many `ReadyForQuery` messages were forwarded since
    /// [`reset`](Self::reset): one ends each round trip.
    pub fn round_trips(&self) -> usize {
        self.shared.round_trips.load(SeqCst)
    }

    /// How many `Parse` messages were forwarded since [`reset`](Self::reset):
    /// one prepares each statement.
    pub fn statements(&self) -> usize {
        self.shared.statements.load(SeqCst)
    }

    /// Counts from zero. Call it after connecting, which takes messages too.
    pub fn reset(&self) {
        self.shared.round_trips.store(0, SeqCst);
        self.shared.statements.store(0, SeqCst);
        *self.shared.messages() = Messages::default();
    }

    /// How many messages were forwarded since [`reset`](Self::reset), whole or in part.
    pub fn messages(&self, from: Side) -> usize {
        let messages = self.shared.messages();
        match from {
            Side::Client => messages.from_clients,
            Side::Server => messages.from_server,
        }
    }

    /// Counts from zero, and cuts the connection on which the message of this number comes, from 1: after the message, or before its last byte.
    pub fn cut_at(&self, from: Side, message: usize, is_whole: bool) {
        let cut = Cut {
            from,
            message,
            is_whole,
        };
        *self.shared.messages() = Messages {
            cut: Some(cut),
            ..Messages::default()
        };
    }

    /// Whether the message of [`cut_at`](Self::cut_at) has come.
    pub fn has_cut(&self) -> bool {
        self.shared.messages().cut.is_none()
    }

    /// Holds back all that the server sends from now on, or lets it go.
    pub fn hold_replies(&self, hold: bool) {
        self.shared
            .replies
            .send_replace(if hold { Replies::Hold } else { Replies::Flow });
    }

    /// Holds back the next statement that a client sends, and waits until that is so. All other clients go on.
    pub async fn hold_next_request(&self) {
        self.shared.requests.send_replace(Requests::HoldNext);
        let mut requests = self.shared.requests.subscribe();
        let held = requests.wait_for(|requests| *requests == Requests::Held);
        held.await.expect("the proxy holds the sender");
    }

    /// Lets go what is held back.
    pub fn release_request(&self) {
        self.shared.requests.send_replace(Requests::Flow);
    }

    /// Waits until a reply is held back, which tells that the server has done
    /// what the client does not know yet.
    pub async fn reply_held(&self) {
        let mut replies = self.shared.replies.subscribe();
        let held = replies.wait_for(|replies| *replies == Replies::Held).await;
        held.expect("the proxy holds the sender");
    }

    /// Closes all connections at once; new ones are accepted.
    pub async fn cut(&self) {
        let mut connections =
            std::mem::take(&mut *self.connections.lock().expect("no panic under the lock"));
        connections.shutdown().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections
            .lock()
            .expect("no panic under the lock")
            .abort_all();
    }
}

impl Shared {
    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().expect("no panic under the lock")
    }
}

/// Serves one connection until either end closes it.
async fn relay(client: TcpStream, upstream: String, shared: Arc<Shared>) -> io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        end = requests(from_client, to_server, &shared) => end,
        end = replies(from_server, to_client, &shared) => end,
    }
}

async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    let mut stream = Stream {
        typed: false,
        ..Stream::default()
    };
    let mut buffer = [0; 8192];
    loop {
        let bytes = match client.read(&mut buffer).await? {
            0 => return Ok(()),
            length => &buffer[..length],
        };
        let mine = shared.requests.send_if_modified(|requests| {
            // Not how a connection begins, nor the single Sync by which a pool asks whether it is alive.
            let statement = matches!(bytes[0], b'P' | b'B' | b'Q');
            let next = *requests == Requests::HoldNext && statement;
            if next {
                *requests = Requests::Held;
            }
            next
        });
        if mine {
            let mut released = shared.requests.subscribe();
            let flow = released.wait_for(|requests| *requests == Requests::Flow);
            flow.await.map_err(io::Error::other)?;
        }
        let Found { begun, ends } = stream.read(b'P', bytes);
        shared.statements.fetch_add(begun, SeqCst);
        let cut = shared.messages().cut_within(Side::Client, &ends);
        server
            .write_all(&bytes[..cut.unwrap_or(bytes.len())])
            .await?;
        if cut.is_some() {
            return Ok(());
        }
    }
}

async fn replies(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    let mut stream = Stream {
        typed: true,
        ..Stream::default()
    };
    let mut released = shared.replies.subscribe();
    let mut buffer = [0; 8192];
    loop {
        let bytes = match server.read(&mut buffer).await? {
            0 => return Ok(()),
            length => &buffer[..length],
        };
        shared.replies.send_if_modified(|replies| {
            let hold = *replies == Replies::Hold;
            if hold {
                *replies = Replies::Held;
            }
            hold
        });
        let flow = released.wait_for(|replies| *replies == Replies::Flow).await;
        flow.map_err(io::Error::other)?;

        // Counted before it is sent, so that who has the reply sees the count.
        let Found { begun, ends } = stream.read(b'Z', bytes);
        shared.round_trips.fetch_add(begun, SeqCst);
        let cut = shared.messages().cut_within(Side::Server, &ends);
        client
            .write_all(&bytes[..cut.unwrap_or(bytes.len())])
            .await?;
        if cut.is_some() {
            return Ok(());
        }
    }
}

/// Finds the messages in one direction of a connection, whose bytes come in
/// pieces of any size: a type byte, a length that counts itself, a body.
#[derive(Default)]
struct Stream {
    /// Whether the next message has a type byte. A client's first has none.
    typed: bool,
    header: Vec<u8>,
    body_left: usize,
}

/// What is in a piece.
struct Found {
    /// How many messages of the kind that was asked for begin.
    begun: usize,
    /// Where messages end.
    ends: Vec<usize>,
}

impl Stream {
    fn read(&mut self, kind: u8, bytes: &[u8]) -> Found {
        let mut found = Found {
            begun: 0,
            ends: Vec::new(),
        };
        let mut at = 0;
        while at < bytes.len() {
            if self.body_left > 0 {
                let skipped = self.body_left.min(bytes.len() - at);
                self.body_left -= skipped;
                at += skipped;
            } else {
                self.header.push(bytes[at]);
                at += 1;
                let length = &self.header[usize::from(self.typed)..];
                let Ok(length) = <[u8; 4]>::try_from(length) else {
                    continue;
                };
                self.body_left = u32::from_be_bytes(length).saturating_sub(4) as usize;
                found.begun += usize::from(self.typed && self.header[0] == kind);
                self.header.clear();
                self.typed = true;
            }
            if self.body_left == 0 {
                found.ends.push(at);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::{Proxy, Side};
    use crate::postgres::{self, PoolOptions};

    async fn select(connection: &mut postgres::Connection) -> Result<i32, sqlx::Error> {
        sqlx::query_scalar("SELECT 1").fetch_one(connection).await
    }

    #[tokio::test]
    async fn a_prepared_statement_takes_one_round_trip() {
        let database = postgres::database("").await;
        let proxy = Proxy::start(&postgres::address()).await;
        let pool = database.pool_through(&proxy, PoolOptions::new()).await;
        let mut connection = pool.acquire().await.unwrap();

        proxy.reset();
        select(&mut connection).await.unwrap();
        assert_eq!((proxy.round_trips(), proxy.statements()), (2, 1));

        proxy.reset();
        select(&mut connection).await.unwrap();
        assert_eq!((proxy.round_trips(), proxy.statements()), (1, 0));
    }

    #[tokio::test]
    async fn replies_are_held_and_connections_cut() {
        let database = postgres::database("CREATE TABLE notes (id {id})").await;
        let proxy = Proxy::start(&postgres::address()).await;
        let pool = database
            .pool_through(&proxy, PoolOptions::new().max_connections(1))
            .await;
        let mut connection = pool.acquire().await.unwrap();

        proxy.hold_replies(true);
        let ping = connection.ping();
        tokio::select! {
            biased;
            _ = ping => panic!("the reply is held"),
            () = proxy.reply_held() => {}
        }
        proxy.hold_replies(false);
        select(&mut connection).await.unwrap();

        proxy.cut().await;
        select(&mut connection).await.unwrap_err();
        drop(connection);
        select(&mut pool.acquire().await.unwrap()).await.unwrap();
    }

    /// At each message of a statement, in both directions: it is answered only if the whole answer has come.
    #[tokio::test]
    async fn a_connection_is_cut_at_a_message() {
        let database = postgres::database("CREATE TABLE notes (id {id})").await;
        let proxy = Proxy::start(&postgres::address()).await;
        let pool = database
            .pool_through(&proxy, PoolOptions::new().max_connections(1))
            .await;
        // Bind, Execute, Close, Sync; and for each an answer, with DataRow beside CommandComplete.
        for (from, most) in [(Side::Client, 4), (Side::Server, 5)] {
            for message in 1..=most + 1 {
                for is_whole in [false, true] {
                    let mut connection = pool.acquire().await.unwrap();
                    select(&mut connection).await.unwrap();
                    proxy.cut_at(from, message, is_whole);
                    let is_answered = select(&mut connection).await.is_ok();
                    let is_over = from == Side::Server && message == most && is_whole;
                    let case = format!("{from:?} {message} {is_whole}");
                    assert_eq!(is_answered, is_over || message > most, "{case}");
                    assert_eq!(proxy.has_cut(), message <= most, "{case}");
                    proxy.reset();
                }
            }
        }
    }
}
