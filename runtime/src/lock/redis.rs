//! A mutex in Redis, with a time to live, and the fence that keeps its holders' writes in order.
//!
//! ```no_run
//! use std::time::Duration;
//! use rowlock::redis::{Client, Mutex};
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

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ErrorKind, FromRedisValue, Script, ServerErrorKind};
use futures_util::future::{Either, join_all, select};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

pub use ::redis::{Client, RedisError};

use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::error::{Attempt, DatabaseError, KeyText};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::source::{Opened, Source};

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
                None => Err(MutexError::Held(self.attempt("acquire"))),
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

    fn attempt(&self, operation: &'static str) -> Attempt {
        attempt(operation, &self.name)
    }

    async fn take(&self, wait: bool) -> Result<Option<Guard>, MutexError> {
        let operation = if wait { "acquire" } else { "try_acquire" };
        if !(SHORTEST_TTL..=LONGEST_TTL).contains(&self.ttl) {
            return Err(MutexError::Ttl(self.attempt(operation), self.ttl));
        }
        let deadline = Instant::now() + self.lock_timeout.min(LONGEST_TIMEOUT);
        let token = token().map_err(|error| MutexError::Random(self.attempt(operation), error))?;
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
                        return Err(MutexError::Refused(self.attempt(operation), failed.error));
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
                        Err(MutexError::Unavailable(self.attempt(operation), error))
                    }
                    _ => Ok(None),
                };
            }
        }
        // Not reached: the loop has no end of its own.
        Ok(None)
    }
}

/// The lock, held until [`release`](Self::release) or drop.
///
/// A task renews the key every third of its ttl, each try bounded in time, reconnecting as necessary: two full tries, or
/// more that fail quickly, before the lock counts as lost. It ends before the key is deleted, and renews nothing after.
///
/// Dropping the guard ends the renewal at once and deletes the key in a task of its own, which nobody hears about; at
/// worst, when Redis is away or the runtime ends, the key stays for its ttl.
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard {
    key: Arc<Key>,
    /// Until when the lock is ours for sure; `None` when it is known to be lost.
    valid: watch::Receiver<Option<Instant>>,
    renewal: Option<JoinHandle<()>>,
    runtime: Handle,
    released: bool,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.key.name)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

impl Guard {
    fn new(key: Arc<Key>, sent: Instant) -> Self {
        let (state, valid) = watch::channel(Some(sent + key.validity()));
        let runtime = Handle::current();
        let renewal = runtime.spawn(renew(Arc::clone(&key), state, sent));
        Self {
            key,
            valid,
            renewal: Some(renewal),
            runtime,
            released: false,
        }
    }

    /// Nothing is left to do when it is dropped.
    fn disarm(&mut self) {
        self.released = true;
    }

    /// The mutex's name.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Whether the lock can no longer be relied on. It never becomes `false` again.
    ///
    /// Looks at the clock, not at Redis: somebody who deleted the key is noticed by the next renewal.
    pub fn is_lost(&self) -> bool {
        is_lost(&self.valid)
    }

    /// Completes when the lock is lost, to cancel the work it protects: as soon as a renewal says that the key is not ours
    /// any more, and when no renewal has succeeded for the ttl less its margin of 11 % and 2 ms, so before the key can
    /// expire.
    ///
    /// The future does not borrow the guard: it can go into another task, and completes as well when the guard is released
    /// or dropped. Cancel safe.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut valid = self.valid.clone();
        async move {
            while !is_lost(&valid) {
                let Some(until) = *valid.borrow_and_update() else {
                    return;
                };
                // Both outcomes mean to look again: the time is over, or it is another time.
                let _ = timeout_at(until, valid.changed()).await;
            }
        }
    }

    /// Runs `work` for as long as the lock is held, and drops it at an await point when the lock is lost.
    ///
    /// # Errors
    ///
    /// [`MutexError::Lost`]. What `work` had sent by then may have taken effect.
    ///
    /// # Cancel safety
    ///
    /// That of `work`. The guard stays held.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, MutexError> {
        let lost = pin!(self.lost());
        let work = pin!(work);
        match select(lost, work).await {
            Either::Left(((), _)) => Err(MutexError::Lost(attempt("run", self.name()))),
            Either::Right((output, _)) => Ok(output),
        }
    }

    /// A number greater than that of every earlier holder, out of the database whose rows it protects.
    ///
    /// Call it once, before the first write, and use the number for all writes under this guard: a second call gives a
    /// greater one, and a row that has it refuses the first. `db` is a pool or a connection outside a transaction. The
    /// database needs the table of [`Fence::ddl`]. Several databases count on their own.
    ///
    /// One upsert on the database, then `GET` on Redis. `GET` comes second so that the numbers are in the order of
    /// holding: a holder that was paused before the upsert might get a greater number than its successor, but finds then
    /// that the lock is lost, and gets no number. It ends when the lock is lost, whatever the database does.
    ///
    /// # Errors
    ///
    /// [`Lost`](FenceError::Lost), [`InTransaction`](FenceError::InTransaction), [`Table`](FenceError::Table),
    /// [`Database`](FenceError::Database), [`Unavailable`](FenceError::Unavailable), [`Refused`](FenceError::Refused). A
    /// number that was made and not returned is wasted, which does no harm.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future wastes a number at worst.
    pub fn fence<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<Fence, FenceError>> + Send {
        async move {
            let attempt = || attempt("fence", self.name());
            let failed = |error| {
                let error = DatabaseError::new(attempt(), error);
                match error.fault() {
                    Fault::Schema => FenceError::Table(error),
                    _ => FenceError::Database(error),
                }
            };
            if self.is_lost() {
                return Err(FenceError::Lost(attempt()));
            }
            let mint = async {
                let mut opened = db.open().await.map_err(failed)?;
                let mut connection = opened.link();
                // A transaction that is rolled back gives its number to the next holder too.
                if in_transaction::<DB>(&connection) {
                    return Err(FenceError::InTransaction(attempt()));
                }
                Fence::mint::<DB>(self.name(), &mut connection)
                    .await
                    .map_err(failed)
            };
            // The database may keep us waiting for longer than the lock lasts.
            let fence = match select(pin!(self.lost()), pin!(mint)).await {
                Either::Left(((), _)) => return Err(FenceError::Lost(attempt())),
                Either::Right((fence, _)) => fence?,
            };
            // The token is ours alone and set once. If it is there now, the lock was ours when the number was made, and
            // who comes after us makes theirs after now. If it is not, somebody may have come, and made a smaller number,
            // before ours was made.
            loop {
                let Some(until) = *self.valid.borrow() else {
                    return Err(FenceError::Lost(attempt()));
                };
                let longest = self.key.longest_try();
                match self.key.call::<bool>(&CHECK, longest, until).await {
                    Ok(true) if !self.is_lost() => return Ok(fence),
                    Ok(_) => return Err(FenceError::Lost(attempt())),
                    Err(failed) if failed.is_final() => {
                        return Err(FenceError::Refused(attempt(), failed.error));
                    }
                    Err(failed) if self.is_lost() => {
                        return Err(FenceError::Unavailable(attempt(), failed.error));
                    }
                    Err(_) => sleep(full_jitter(1, self.key.ttl / 20, LONGEST_TRY)).await,
                }
            }
        }
    }

    /// Gives the lock back. `Ok` says that the key was there with our token until now.
    ///
    /// Ends the renewal, then compares and deletes in one script, again if there is no answer, for as long as the mutex's
    /// timeout and the ttl last.
    ///
    /// # Errors
    ///
    /// [`NotHeld`](ReleaseError::NotHeld) when the lock was lost before; [`Unknown`](ReleaseError::Unknown),
    /// [`Unavailable`](ReleaseError::Unavailable), [`Refused`](ReleaseError::Refused). The lock is given up in any case.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is like dropping the guard.
    pub fn release(self) -> impl Future<Output = Result<(), ReleaseError>> + Send {
        let mut guard = self;
        async move {
            let deadline = Instant::now() + guard.key.lock_timeout.min(guard.key.ttl);
            // No renewal may come behind the release. What the task has sent goes before it, on the same connection; and
            // elsewhere it finds no key with our token.
            if let Some(renewal) = guard.renewal.as_mut() {
                renewal.abort();
                // Its thread may be busy with something else.
                let _ = timeout_at(deadline, renewal).await;
            }
            guard.renewal = None;

            let key = Arc::clone(&guard.key);
            let attempt = || attempt("release", &key.name);
            let mut unanswered = None;
            for tries in 1.. {
                match key.call::<bool>(&RELEASE, LONGEST_TRY, deadline).await {
                    Ok(true) => {
                        guard.disarm();
                        tracing::debug!(name = %key.name, "released");
                        return Ok(());
                    }
                    Ok(false) => {
                        guard.disarm();
                        return Err(match unanswered {
                            None => ReleaseError::NotHeld(attempt()),
                            // An earlier try of ours may be what deleted it.
                            Some(error) => ReleaseError::Unknown(attempt(), error),
                        });
                    }
                    Err(failed) if failed.is_final() => {
                        return Err(ReleaseError::Refused(attempt(), failed.error));
                    }
                    Err(failed) => {
                        let pause = full_jitter(tries, key.ttl / 50, LONGEST_TRY / 4);
                        if Instant::now() + pause >= deadline {
                            return Err(ReleaseError::Unavailable(attempt(), failed.error));
                        }
                        if failed.may_have_run() {
                            unanswered = Some(failed.error);
                        }
                        sleep(pause).await;
                    }
                }
            }
            // Not reached: the loop has no end of its own.
            Err(ReleaseError::NotHeld(attempt()))
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let renewal = self.renewal.take();
        if let Some(renewal) = &renewal {
            renewal.abort();
        }
        let key = Arc::clone(&self.key);
        self.runtime.spawn(async move {
            // Behind its end, so that it renews nothing after.
            if let Some(renewal) = renewal {
                let _ = timeout(LONGEST_TRY, renewal).await;
            }
            key.delete_quietly().await;
        });
    }
}

fn is_lost(valid: &watch::Receiver<Option<Instant>>) -> bool {
    // Without the renewal task, which ended or whose runtime did, nobody renews the key any more.
    valid.has_changed().is_err() || valid.borrow().is_none_or(|until| Instant::now() >= until)
}

/// Renews the key until the lock is lost. Aborted when the guard is released or dropped.
async fn renew(key: Arc<Key>, state: watch::Sender<Option<Instant>>, mut renewed: Instant) {
    let mut failures = 0;
    let why = loop {
        let Some(until) = *state.borrow() else { return };
        let next = match failures {
            0 => renewed + key.ttl / 3,
            _ => Instant::now() + full_jitter(failures, key.ttl / 50, key.ttl / 12),
        };
        sleep_until(next.min(until)).await;
        let mut sent = Instant::now();
        if sent >= until {
            break "no renewal succeeded in time";
        }
        let answer = async {
            let connection = key.connections.get(until).await?;
            sent = Instant::now();
            let limit = (sent + key.longest_try()).min(until);
            key.call_on::<bool>(&connection, &EXTEND, limit).await
        };
        match answer.await {
            // Once lost is lost for good, even if the answer came just after.
            Ok(true) if Instant::now() >= until => break "the renewal came too late",
            Ok(true) => {
                tracing::debug!(name = %key.name, "renewed");
                (renewed, failures) = (sent, 0);
                state.send_replace(Some(sent + key.validity()));
            }
            Ok(false) => break "the key is not ours any more",
            Err(Failed { error, .. }) => {
                failures += 1;
                tracing::debug!(name = %key.name, failures, error = error.category(), "not renewed");
            }
        }
    };
    tracing::debug!(name = %key.name, why, "lost");
    state.send_replace(None);
}

/// One acquisition: the key and the token that is ours.
struct Key {
    connections: Arc<Connections>,
    name: Arc<str>,
    key: String,
    token: String,
    ttl: Duration,
    lock_timeout: Duration,
}

impl Key {
    /// How long after sending the command the lock counts as ours: the ttl, less a tenth in which the work can stop, less
    /// the drift of clocks that the Redis documentation assumes.
    fn validity(&self) -> Duration {
        let margin = self.ttl / 10 + self.ttl / 100 + Duration::from_millis(2);
        self.ttl.saturating_sub(margin)
    }

    /// From ttl/3 on, two tries of a quarter fit before the end of the validity.
    fn longest_try(&self) -> Duration {
        (self.ttl / 4).min(LONGEST_TRY)
    }

    /// Runs one of the scripts, on a connection that works as far as we know. The try lasts `longest` from when there is a
    /// connection, and all of it until the deadline.
    async fn call<T: FromRedisValue>(
        &self,
        script: &Script,
        longest: Duration,
        deadline: Instant,
    ) -> Result<T, Failed> {
        let connection = self.connections.get(deadline).await?;
        let limit = (Instant::now() + longest).min(deadline);
        self.call_on(&connection, script, limit).await
    }

    async fn call_on<T: FromRedisValue>(
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
    async fn delete_quietly(&self) {
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
struct InDoubt {
    key: Arc<Key>,
    connections: Vec<Connection>,
    runtime: Handle,
}

impl InDoubt {
    /// Whether it was not among them: one deletion undoes all tries on a connection.
    fn add(&mut self, connection: &Connection) -> bool {
        let new = !self.connections.iter().any(|other| other.is(connection));
        if new {
            self.connections.push(connection.clone());
        }
        new
    }

    fn remove(&mut self, connection: &Connection) {
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

/// The connection that the clones of a mutex, those of other names and their guards share.
struct Connections {
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
struct Connection {
    shared: MultiplexedConnection,
    health: Arc<Health>,
}

#[derive(Default)]
struct Health {
    /// Set by whoever met an error on it.
    broken: AtomicBool,
    /// When the first call was sent that got no answer in its time; `None` after an answer to another one.
    silent: std::sync::Mutex<Option<Instant>>,
}

impl Connection {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.health, &other.health)
    }
}

impl Health {
    fn answered(&self) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A call that its deadline cut short tells nothing; calls without an answer for as long as a full try do.
    fn unanswered(&self, sent: Instant, longest: Duration) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *silent.get_or_insert(sent);
        if since.elapsed() >= longest {
            self.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl Connections {
    fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            current: std::sync::Mutex::new(None),
        }
    }

    /// A connection that works as far as we know, waiting until the deadline for one.
    async fn get(&self, deadline: Instant) -> Result<Connection, Failed> {
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

/// `KEYS[1]` the key, `ARGV[1]` the token, `ARGV[2]` the ttl in milliseconds: the same for all of them.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$doc])* static $name: LazyLock<Script> = LazyLock::new(|| Script::new($code));)*
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
fn token() -> Result<String, std::io::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn attempt(operation: &'static str, name: &str) -> Attempt {
    let mut key = KeyText::default();
    key.shown("lock", &name);
    Attempt::new(operation, "", key)
}

fn no_answer() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Why a call came to nothing.
struct Failed {
    error: RedisError,
    /// Whether there was a connection, so that the script may have run.
    sent: bool,
}

impl Failed {
    fn sent(error: RedisError) -> Self {
        Self { error, sent: true }
    }

    fn unsent(error: RedisError) -> Self {
        Self { error, sent: false }
    }

    /// Whether the server refused the script, which then changed nothing.
    fn is_answered(&self) -> bool {
        matches!(
            self.error.kind(),
            ErrorKind::Server(_) | ErrorKind::Extension
        )
    }

    fn may_have_run(&self) -> bool {
        self.sent && !self.is_answered()
    }

    /// Whether the next try would meet it too. Not final: the connection, and a server that starts, is busy or changes its
    /// role.
    fn is_final(&self) -> bool {
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
fn breaks(error: &RedisError) -> bool {
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

/// Why the lock was not taken, or could not be relied on any more.
///
/// Texts have the mutex's name and the kind of Redis's error; [`source`](std::error::Error::source) is that error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MutexError {
    /// Somebody else held the lock until the timeout.
    #[error("{0}: somebody else held it until the timeout")]
    Held(Attempt),
    /// The lock was lost while the work ran: it expired, or somebody deleted the key.
    #[error("{0}: the lock was lost")]
    Lost(Attempt),
    /// Redis did not answer in time, or only with errors that may pass: it starts, is busy with a script, has too many
    /// clients, is no master, has too few replicas, cannot write its disk. If a command was under way, a task deletes the key.
    #[error("{0}: Redis did not answer in time ({kind})", kind = .1.category())]
    Unavailable(Attempt, #[source] RedisError),
    /// Redis answered with an error that trying again would not mend: no permission, wrong password, a key of another
    /// type, no memory. Errors that may pass are [`Unavailable`](Self::Unavailable), at the end of the time.
    #[error("{0}: Redis refused ({kind})", kind = .1.category())]
    Refused(Attempt, #[source] RedisError),
    /// The ttl is not between 100 milliseconds and 30 days.
    #[error("{0}: a ttl of {1:?} is not between 100 milliseconds and 30 days")]
    Ttl(Attempt, Duration),
    /// The operating system gave no random numbers.
    #[error("{0}: no random numbers")]
    Random(Attempt, #[source] std::io::Error),
}

/// What became of a release. In every case the guard is gone and renews nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The key was not ours any more: it expired, or somebody deleted it. Others may have held the lock meanwhile.
    #[error("{0}: the lock was lost before")]
    NotHeld(Attempt),
    /// The key is gone, but the answer to an earlier try was lost: either that try released the lock, or it was lost
    /// before.
    #[error("{0}: the lock is gone, it is unknown whether it was lost before ({kind})", kind = .1.category())]
    Unknown(Attempt, #[source] RedisError),
    /// Redis did not answer in time. A task goes on trying; the key stays for its ttl at worst.
    #[error("{0}: Redis did not answer in time ({kind})", kind = .1.category())]
    Unavailable(Attempt, #[source] RedisError),
    /// Redis answered with an error that trying again would not mend. The key stays for its ttl.
    #[error("{0}: Redis refused ({kind})", kind = .1.category())]
    Refused(Attempt, #[source] RedisError),
}

/// Why there is no fence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The lock is lost: somebody else may hold it by now.
    #[error("{0}: the lock was lost")]
    Lost(Attempt),
    /// The connection is inside a transaction. If that were rolled back, the next holder would get the same number.
    #[error("{0}: a fence is made outside of transactions; make it before the transaction begins")]
    InTransaction(Attempt),
    /// The table of the fences is missing, or is another one.
    #[error("{0}; create the table of the fences with the SQL of `Fence::ddl`")]
    Table(#[source] DatabaseError),
    /// The database or the connection failed.
    #[error(transparent)]
    Database(DatabaseError),
    /// Redis could not be asked, for as long as the lock lasted, whether the lock is still ours.
    #[error("{0}: Redis did not answer in time ({kind})", kind = .1.category())]
    Unavailable(Attempt, #[source] RedisError),
    /// Redis answered with an error that trying again would not mend.
    #[error("{0}: Redis refused ({kind})", kind = .1.category())]
    Refused(Attempt, #[source] RedisError),
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
        let error = MutexError::Unavailable(mutex.attempt("acquire"), no_answer());
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
