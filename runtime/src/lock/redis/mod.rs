//! A mutex in Redis, with a time to live, and the fence that keeps its holders' writes in order.
//!
//! ```no_run
//! use std::time::Duration;
//! use rowlock::lock::redis::{Client, Mutex};
//!
//! # async fn rebuild() {}
//! # async fn show(pool: &sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::open("redis://127.0.0.1/")?;
//! let mutex = Mutex::new(&client, "backfill").ttl(Duration::from_secs(10)).lock_timeout(Duration::from_secs(5));
//!
//! let guard = mutex.acquire().await?; // waits up to five seconds
//! let fence = guard.fence(pool).await?; // once, before the first write
//! guard.run(rebuild()).await?; // dropped when the lock is lost
//! sqlx::query("UPDATE reports SET total = 7, fence = $1 WHERE id = 1 AND fence <= $1")
//!     .bind(fence)
//!     .execute(pool)
//!     .await?; // 0 rows: somebody else has written since
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! - Two guards of one name exist at the same time only in the cases below. A guard is renewed every third of its ttl by
//!   a task of its own, and says that it is lost before its key can expire.
//! - Only the holder's random token releases or renews the key: compared and done in one Lua script.
//! - Every call ends within its time, whether Redis is down, hangs, restarts or was flushed, with a typed error.
//!
//! # What does not hold
//!
//! A lock that ends by time saves work; it does not make a write safe. These give two holders:
//!
//! - **A pause.** The holder's process, machine or disk stops for longer than the ttl, and goes on without knowing.
//! - **A failover or a restart** of Redis that loses its last writes: replication is asynchronous, and this is one node's
//!   lock, not a quorum of several.
//! - **FLUSHALL, DEL or eviction** of the key. The next renewal notices, at most a third of the ttl later. Use
//!   `maxmemory-policy noeviction`.
//! - **The clock of Redis is set forward**, by NTP or by hand. Redis ends keys by the time of day, so the key is gone at once. The
//!   next renewal notices, at most a third of the ttl later; until then there are two guards. Set back, it keeps a key for longer.
//! - **Clocks** that run at different speeds by more than a hundredth; or that of a machine which is suspended, whose
//!   monotonic clock may stop meanwhile.
//!
//! So let the row decide: [`Guard::fence`], and `WHERE fence <= $fence` in every write. It holds in all these cases: a guard whose key
//! is gone gets no fence any more, and the one that it has is lower than its successor's. Where all the work is in the SQL
//! database, a row lock or an advisory lock of that database needs no Redis.
//!
//! # Commands
//!
//! The key is `rowlock:{name}`, with the braces. Redis Cluster is not supported: a node that does not have the key's slot answers
//! `MOVED` or `CLUSTERDOWN`, and the lock is `Refused` or `Unavailable`. The commands are `EVALSHA` of scripts
//! with one key, and `SCRIPT LOAD` where Redis does not know one yet. In them: `GET`; `SET` with `NX PX`; `PEXPIRE`; `DEL`;
//! `PTTL`. An ACL must allow these, and what the client sends when it connects. For TLS enable a feature of the crate
//! `redis` 1, such as `tokio-rustls-comp`, in your own `Cargo.toml`. The pattern is that of `SET` in the Redis documentation ("Distributed Locks with Redis", one instance).
//!
//! Needs a Tokio runtime with time and I/O enabled, and panics without one, as sqlx's does.

mod connections;
mod error;
mod guard;
mod key;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

pub use ::redis::{Client, RedisError};

use self::connections::{Connections, Failed, no_answer};
pub use self::error::{FenceError, MutexError, ReleaseError};
pub use self::guard::Guard;
use self::key::{ACQUIRE, InDoubt, Key, token};
use crate::backoff::full_jitter;
use crate::db::error::{KeyText, Operation};
use crate::observe;

const SHORTEST_TTL: Duration = Duration::from_millis(100);
const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// For instants that must not overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// No answer for so long means that the connection is not worth waiting for.
const LONGEST_TRY: Duration = Duration::from_secs(1);
/// How long one attempt to connect lasts, however little time each of those has who wait for it.
const LONGEST_CONNECT: Duration = Duration::from_secs(5);
/// How long a key that nobody needs any more is tried to be deleted before it is left to its ttl.
const LONGEST_CLEANUP: Duration = Duration::from_secs(10);

/// A named lock in Redis: one holder at a time, among all processes that use this Redis.
///
/// Made once and shared: clones, and the mutexes of other names from [`named`](Self::named), share one connection, which is
/// opened by the first call and again after it broke. [`new`](Self::new) makes one more connection each time, so a lock per
/// entity is `named` of one mutex. `Debug` shows the name and the durations, never the connection's URL. The name appears in errors and logs; keep secrets out.
///
/// See the [module](self) for what such a lock is good for, and for an example.
#[derive(Clone)]
pub struct Mutex {
    connections: Arc<Connections>,
    name: Arc<str>,
    ttl: Duration,
    lock_timeout: Duration,
}

impl fmt::Debug for Mutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex")
            .field("name", &self.name)
            .field("ttl", &self.ttl)
            .field("lock_timeout", &self.lock_timeout)
            .finish_non_exhaustive()
    }
}

impl Mutex {
    /// A mutex of this name. Sends nothing yet.
    ///
    /// The ttl is 10 seconds and the lock_timeout 5 seconds until set otherwise. The client's own timeouts do not count.
    pub fn new(client: &Client, name: impl Into<String>) -> Self {
        Self {
            connections: Arc::new(Connections::new(client)),
            name: name.into().into(),
            ttl: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
        }
    }

    /// A mutex of another name on the same connection, with the same ttl and lock_timeout. Sends nothing yet.
    #[must_use]
    pub fn named(&self, name: impl Into<String>) -> Self {
        Self {
            name: name.into().into(),
            ..self.clone()
        }
    }

    /// How long the key lives without a renewal, from 100 milliseconds to 30 days, in whole milliseconds.
    ///
    /// It is how long others wait when a holder dies, and how long a holder may be cut off from Redis: 11 % and 2
    /// milliseconds before the end, a margin for the work to stop and for clocks, the guard is lost. Another duration is
    /// [`MutexError::Ttl`] when the lock is taken.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long [`acquire`](Self::acquire) waits in total, connecting included. It bounds
    /// [`try_acquire`](Self::try_acquire) and [`Guard::release`] as well, which do not wait for others but for Redis.
    ///
    /// [`Duration::ZERO`] allows no call at all: every attempt is [`Unavailable`](MutexError::Unavailable). Not to wait for
    /// others is `try_acquire`.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// The name, as given to [`new`](Self::new) or [`named`](Self::named).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the lock, and waits up to the [`lock_timeout`](Self::lock_timeout) while somebody else holds it.
    ///
    /// Runs one script per try: `GET`, and `SET … NX PX` if there is no key; a key that has our own token already, because
    /// the answer to an earlier try was lost, is ours. Between the tries it waits for a random time, which is at most 200
    /// milliseconds and never longer than the holder's key lives. Who waits longest is not preferred.
    ///
    /// # Errors
    ///
    /// [`Held`](MutexError::Held) when somebody else had the lock until the end; [`Unavailable`](MutexError::Unavailable)
    /// when Redis did not answer in time; [`Refused`](MutexError::Refused) when it answered with an error that another try
    /// would meet again; [`Ttl`](MutexError::Ttl); [`Random`](MutexError::Random).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no lock behind: a task deletes the key if a command was under way, on the same
    /// connection, so that it cannot come first. Where it cannot, for the runtime ends or Redis does not answer, the key
    /// stays for its ttl at worst. So it does when a command that got no answer arrives after all, behind the release of
    /// a lock that a later try took.
    pub fn acquire(&self) -> impl Future<Output = Result<Guard, MutexError>> + Send {
        async move {
            match self.take(true).await? {
                Some(guard) => Ok(guard),
                None => Err(MutexError::Held(self.operation("acquire"))),
            }
        }
    }

    /// Takes the lock if it is free; `None` if somebody else holds it.
    ///
    /// Asks once. It asks again, with the same token and within the [`lock_timeout`](Self::lock_timeout), only if Redis did not
    /// answer. Errors and cancel safety are those of [`acquire`](Self::acquire), without `Held`.
    pub fn try_acquire(&self) -> impl Future<Output = Result<Option<Guard>, MutexError>> + Send {
        self.take(false)
    }

    fn operation(&self, method: &'static str) -> Operation {
        operation(method, &self.name)
    }

    async fn take(&self, wait: bool) -> Result<Option<Guard>, MutexError> {
        let begun = Instant::now();
        let taken = self.try_until_timeout(wait).await;
        observe::waited_for_lock("redis", begun.elapsed(), matches!(taken, Ok(Some(_))));
        taken
    }

    async fn try_until_timeout(&self, wait: bool) -> Result<Option<Guard>, MutexError> {
        let method = if wait { "acquire" } else { "try_acquire" };
        if !(SHORTEST_TTL..=LONGEST_TTL).contains(&self.ttl) {
            return Err(MutexError::Ttl(self.operation(method), self.ttl));
        }
        let deadline = Instant::now() + self.lock_timeout.min(LONGEST_TIMEOUT);
        let token = token().map_err(|error| MutexError::Random(self.operation(method), error))?;
        let key = Arc::new(Key {
            connections: Arc::clone(&self.connections),
            name: Arc::clone(&self.name),
            key: format!("rowlock:{{{}}}", self.name),
            token,
            ttl: self.ttl,
            lock_timeout: self.lock_timeout,
        });
        let mut in_doubt = InDoubt {
            key: Arc::clone(&key),
            connections: Vec::new(),
            runtime: Handle::current(),
        };
        let mut held = false;
        for tries in 1.. {
            let began = Instant::now();
            let mut sent = began;
            let longest = key.validity().min(LONGEST_TRY);
            let mut new_doubt = None;
            let answer = async {
                let connection = key.connections.get(deadline).await?;
                // The key's life is counted from before the command was sent: it cannot end earlier than that.
                sent = Instant::now();
                if sent >= deadline {
                    return Err(Failed::unsent(no_answer()));
                }
                let new = in_doubt.add(&connection);
                new_doubt = Some((connection.clone(), new));
                let limit = (sent + longest).min(deadline);
                key.call_on::<(bool, i64)>(&connection, &ACQUIRE, limit)
                    .await
            };
            let answer = answer.await;
            let (error, left) = match answer {
                Ok((true, _)) if Instant::now() < sent + key.validity() => {
                    in_doubt.connections.clear();
                    tracing::debug!(name = %self.name, tries, "acquired");
                    return Ok(Some(Guard::new(key, sent)));
                }
                // It took so long that the key may be gone again: as good as no answer.
                Ok((true, _)) => (Some(no_answer()), None),
                Ok((false, left)) => {
                    // Whatever was sent on this connection came before, and left nothing.
                    if let Some((connection, _)) = &new_doubt {
                        in_doubt.remove(connection);
                    }
                    if !wait {
                        return Ok(None);
                    }
                    held = true;
                    // Negative for a key without an end, which is none of ours.
                    (None, u64::try_from(left).ok().map(Duration::from_millis))
                }
                Err(failed) => {
                    // A try that was refused did nothing; an earlier one on the same connection may have.
                    if let Some((connection, true)) = &new_doubt
                        && failed.is_answered()
                    {
                        in_doubt.remove(connection);
                    }
                    if failed.is_final() {
                        return Err(MutexError::Refused(self.operation(method), failed.error));
                    }
                    // A try that the deadline cut short does not tell that Redis is away.
                    held &= deadline <= began + longest && failed.error.is_timeout();
                    (Some(failed.error), None)
                }
            };
            let pause = full_jitter(tries, Duration::from_millis(5), Duration::from_millis(200))
                .min(left.unwrap_or(Duration::MAX))
                .max(Duration::from_millis(1));
            sleep_until((Instant::now() + pause).min(deadline)).await;
            if Instant::now() >= deadline {
                return match error {
                    Some(error) if !held => {
                        Err(MutexError::Unavailable(self.operation(method), error))
                    }
                    _ => Ok(None),
                };
            }
        }
        // Not reached: the loop has no end of its own.
        Ok(None)
    }
}

fn operation(method: &'static str, name: &str) -> Operation {
    let mut key = KeyText::default();
    key.shown("lock", &name);
    Operation::new(method, "", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tries_fit_before_the_lock_is_lost() {
        for ttl in [
            SHORTEST_TTL,
            Duration::from_millis(300),
            Duration::from_secs(10),
            LONGEST_TTL,
        ] {
            let client = Client::open("redis://127.0.0.1:1/").unwrap();
            let key = Key {
                connections: Arc::new(Connections::new(&client)),
                name: "a".into(),
                key: String::new(),
                token: String::new(),
                ttl,
                lock_timeout: ttl,
            };
            // The pause behind the first failure is at most ttl/50.
            let second_ends = ttl / 3 + key.longest_try() + ttl / 50 + key.longest_try();
            assert!(
                second_ends <= key.validity(),
                "{ttl:?}: {second_ends:?} of {:?}",
                key.validity()
            );
        }
    }

    #[test]
    fn texts_have_no_password() {
        let client = Client::open("redis://user:hunter2@127.0.0.1:1/").unwrap();
        let mutex = Mutex::new(&client, "backfill");
        assert_eq!(
            format!("{mutex:?}"),
            r#"Mutex { name: "backfill", ttl: 10s, lock_timeout: 5s, .. }"#
        );
        let error = MutexError::Unavailable(mutex.operation("acquire"), no_answer());
        assert_eq!(
            error.to_string(),
            "acquire (lock = backfill): Redis did not answer in time (I/O error)"
        );
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn tokens_differ() {
        let tokens: std::collections::BTreeSet<_> = (0..1000).map(|_| token().unwrap()).collect();
        assert_eq!(tokens.len(), 1000);
        assert!(tokens.iter().all(|token| token.len() == 32));
    }
}
