//! The key on the server: what takes, renews and gives it back.

use super::connections::{Connection, Connections, Failed, breaks, no_answer};
use super::{LONGEST_CLEANUP, LONGEST_TRY};
use crate::backoff::full_jitter;
use ::redis::{FromRedisValue, Script};
use futures_util::future::join_all;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout_at};

/// One acquisition: the key and the token that is ours.
pub(super) struct Key {
    pub(super) connections: Arc<Connections>,
    pub(super) name: Arc<str>,
    pub(super) key: String,
    pub(super) token: String,
    pub(super) ttl: Duration,
    pub(super) lock_timeout: Duration,
}

impl Key {
    /// How long after sending the command the lock counts as ours: the ttl, less a tenth in which the work can stop, less
    /// the drift of clocks that the Redis documentation assumes.
    pub(super) fn validity(&self) -> Duration {
        let margin = self.ttl / 10 + self.ttl / 100 + Duration::from_millis(2);
        self.ttl.saturating_sub(margin)
    }

    /// From ttl/3 on, two tries of a quarter fit before the end of the validity.
    pub(super) fn longest_try(&self) -> Duration {
        (self.ttl / 4).min(LONGEST_TRY)
    }

    /// Runs one of the scripts, on a connection that works as far as we know. The try lasts `longest` from when there is a
    /// connection, and all of it until the deadline.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        script: &Script,
        longest: Duration,
        deadline: Instant,
    ) -> Result<T, Failed> {
        let connection = self.connections.get(deadline).await?;
        let limit = (Instant::now() + longest).min(deadline);
        self.call_on(&connection, script, limit).await
    }

    pub(super) async fn call_on<T: FromRedisValue>(
        &self,
        connection: &Connection,
        script: &Script,
        limit: Instant,
    ) -> Result<T, Failed> {
        let sent = Instant::now();
        if sent >= limit {
            return Err(Failed::unsent(no_answer()));
        }
        let mut call = script.key(&self.key);
        call.arg(&self.token).arg(self.ttl.as_millis() as u64);
        let mut shared = connection.shared.clone();
        let answer = timeout_at(limit, call.invoke_async(&mut shared)).await;
        let Ok(answer) = answer else {
            connection.health.unanswered(sent, self.longest_try());
            return Err(Failed::sent(no_answer()));
        };
        connection.health.answered();
        answer.map_err(|error| {
            if breaks(&error) {
                connection.health.broken.store(true, Ordering::Relaxed);
            }
            Failed::sent(error)
        })
    }

    /// Deletes the key if it is ours; tries for a while, and leaves the rest to the ttl.
    pub(super) async fn delete_quietly(&self) {
        let deadline = Instant::now() + self.ttl.min(LONGEST_CLEANUP);
        for tries in 1.. {
            match self.call::<bool>(&RELEASE, LONGEST_TRY, deadline).await {
                Ok(_) => return,
                Err(failed) if failed.is_final() || Instant::now() >= deadline => return,
                Err(_) => sleep(full_jitter(tries, self.ttl / 50, LONGEST_TRY / 4)).await,
            }
        }
    }
}

/// The connections with tries to take the lock whose outcome is not known.
pub(super) struct InDoubt {
    pub(super) key: Arc<Key>,
    pub(super) connections: Vec<Connection>,
    pub(super) runtime: Handle,
}

impl InDoubt {
    /// Whether it was not among them: one deletion undoes all tries on a connection.
    pub(super) fn add(&mut self, connection: &Connection) -> bool {
        let new = !self.connections.iter().any(|other| other.is(connection));
        if new {
            self.connections.push(connection.clone());
        }
        new
    }

    pub(super) fn remove(&mut self, connection: &Connection) {
        self.connections.retain(|other| !other.is(connection));
    }
}

impl Drop for InDoubt {
    fn drop(&mut self) {
        if self.connections.is_empty() {
            return;
        }
        let connections = std::mem::take(&mut self.connections);
        let key = Arc::clone(&self.key);
        self.runtime.spawn(async move {
            let limit = Instant::now() + key.ttl.min(LONGEST_CLEANUP);
            let elsewhere = OnceCell::new();
            join_all(connections.iter().map(async |connection| {
                // On the connection of the try, the deletion cannot overtake it.
                let deleted = key.call_on::<bool>(connection, &RELEASE, limit).await;
                if deleted.is_err() {
                    elsewhere.get_or_init(|| key.delete_quietly()).await;
                }
            }))
            .await;
        });
    }
}

/// `KEYS[1]` the key, `ARGV[1]` the token, `ARGV[2]` the ttl in milliseconds: the same for all of them.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new($code));)*
    };
}
scripts! {
    /// Whether the lock is ours now, and else how long the holder's key lives.
    ACQUIRE = "
        local holder = redis.call('GET', KEYS[1])
        if holder == ARGV[1] then
            redis.call('PEXPIRE', KEYS[1], ARGV[2])
            return {1, 0}
        elseif not holder then
            redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
            return {1, 0}
        end
        return {0, redis.call('PTTL', KEYS[1])}";
    /// Whether it was ours, and is for another ttl.
    EXTEND = "
        if redis.call('GET', KEYS[1]) == ARGV[1] then
            return redis.call('PEXPIRE', KEYS[1], ARGV[2])
        end
        return 0";
    /// Whether it was ours until now.
    RELEASE = "
        if redis.call('GET', KEYS[1]) == ARGV[1] then
            return redis.call('DEL', KEYS[1])
        end
        return 0";
    /// Whether it is ours.
    CHECK = "
        if redis.call('GET', KEYS[1]) == ARGV[1] then
            return 1
        end
        return 0";
}

/// 128 bits from the operating system. That two tokens differ is what makes release and renewal safe, and a generator
/// which each process seeds for itself (`fastrand`) can be seeded alike in copies of one machine.
pub(super) fn token() -> Result<String, std::io::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
