//! Connections to the server, made anew when they break.

use super::LONGEST_CONNECT;
use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ErrorKind, ServerErrorKind};
use ::redis::{Client, RedisError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// The connection that the clones of a mutex, those of other names and their guards share.
pub(super) struct Connections {
    client: Client,
    current: std::sync::Mutex<Option<Connecting>>,
}

/// An attempt to connect, and what came of it.
#[derive(Clone)]
struct Connecting {
    began: Instant,
    /// Closed and empty when the runtime ended meanwhile.
    outcome: watch::Receiver<Option<Result<Connection, RedisError>>>,
}

#[derive(Clone)]
pub(super) struct Connection {
    pub(super) shared: MultiplexedConnection,
    pub(super) health: Arc<Health>,
}

#[derive(Default)]
pub(super) struct Health {
    /// Set by whoever met an error on it.
    pub(super) broken: AtomicBool,
    /// When the first call was sent that got no answer in its time; `None` after an answer to another one.
    silent: std::sync::Mutex<Option<Instant>>,
}

impl Connection {
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.health, &other.health)
    }
}

impl Health {
    pub(super) fn answered(&self) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A call that its deadline cut short tells nothing; calls without an answer for as long as a full try do.
    pub(super) fn unanswered(&self, sent: Instant, longest: Duration) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *silent.get_or_insert(sent);
        if since.elapsed() >= longest {
            self.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl Connections {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            current: std::sync::Mutex::new(None),
        }
    }

    /// A connection that works as far as we know, waiting until the deadline for one.
    pub(super) async fn get(&self, deadline: Instant) -> Result<Connection, Failed> {
        let connection = timeout_at(deadline, async {
            // The second time only if the runtime of the first attempt ended.
            for _ in 0..2 {
                let mut outcome = self.connecting().outcome;
                if let Ok(outcome) = outcome.wait_for(Option::is_some).await
                    && let Some(outcome) = &*outcome
                {
                    return outcome.clone();
                }
            }
            Err(no_answer())
        });
        let connection = connection.await.unwrap_or_else(|_| Err(no_answer()));
        connection.map_err(Failed::unsent)
    }

    /// The attempt that is under way or gave a connection that works, or another one.
    ///
    /// It is nobody's own: it would end with the time of the one who makes it, and never come to an end where all of them
    /// have less time than it takes.
    fn connecting(&self) -> Connecting {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connecting) = &*current {
            // First, for the outcome may come in between.
            let open = connecting.outcome.has_changed().is_ok();
            let usable = match &*connecting.outcome.borrow() {
                Some(Ok(connection)) => !connection.health.broken.load(Ordering::Relaxed),
                Some(Err(_)) => false,
                // Older where nobody drives its runtime.
                None => open && connecting.began.elapsed() <= LONGEST_CONNECT,
            };
            if usable {
                return connecting.clone();
            }
        }
        let (sender, outcome) = watch::channel(None);
        let client = self.client.clone();
        tokio::spawn(async move {
            // Every call has a limit of its own.
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None);
            let connection = client.get_multiplexed_async_connection_with_config(&config);
            let connection = timeout(LONGEST_CONNECT, connection)
                .await
                .unwrap_or_else(|_| Err(no_answer()));
            sender.send_replace(Some(connection.map(|shared| Connection {
                shared,
                health: Arc::default(),
            })));
        });
        let began = Instant::now();
        current.insert(Connecting { began, outcome }).clone()
    }
}

pub(super) fn no_answer() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Why a call came to nothing.
pub(super) struct Failed {
    pub(super) error: RedisError,
    /// Whether there was a connection, so that the script may have run.
    sent: bool,
}

impl Failed {
    pub(super) fn sent(error: RedisError) -> Self {
        Self { error, sent: true }
    }

    pub(super) fn unsent(error: RedisError) -> Self {
        Self { error, sent: false }
    }

    /// Whether the server refused the script, which then changed nothing.
    pub(super) fn is_answered(&self) -> bool {
        matches!(
            self.error.kind(),
            ErrorKind::Server(_) | ErrorKind::Extension
        )
    }

    pub(super) fn may_have_run(&self) -> bool {
        self.sent && !self.is_answered()
    }

    /// Whether the next try would meet it too. Not final: the connection, and a server that starts, is busy or changes its
    /// role.
    pub(super) fn is_final(&self) -> bool {
        match self.error.kind() {
            ErrorKind::Io | ErrorKind::Parse => false,
            // While connecting: too many clients, or loading. Wrong passwords are another kind.
            ErrorKind::Server(ServerErrorKind::ResponseError) => {
                self.sent && !too_many_clients(&self.error)
            }
            ErrorKind::Server(kind) => !matches!(
                kind,
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
                    // Flushed between SCRIPT LOAD and EVALSHA.
                    | ServerErrorKind::NoScript
            ),
            // A long script runs; too few replicas are connected; the disk is full.
            ErrorKind::Extension => {
                !matches!(self.error.code(), Some("BUSY" | "NOREPLICAS" | "MISCONF"))
            }
            _ => true,
        }
    }
}

/// Whether another connection may do better: this one has failed, or leads to a server that is not the master any more and
/// keeps it open, while the address may lead to the new one.
pub(super) fn breaks(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::ReadOnly
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown => true,
            _ => too_many_clients(error),
        },
        ErrorKind::Extension | ErrorKind::UnexpectedReturnType => false,
        _ => true,
    }
}

/// What the server says before it closes a connection; a first command may take it for its answer.
fn too_many_clients(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.contains("max number of clients"))
}
