//! Recurring work: by one process, however many there are.

mod due;
mod error;
mod schedule;

use std::fmt;
use std::future::{Future, pending};
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::Pool;
use tracing::Instrument;

use self::due::Due;
pub use self::due::{Missed, Tick};
pub use self::error::{PeriodicError, TickError};
pub use self::schedule::{Schedule, ScheduleError, Zone};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::error::{DatabaseError, KeyText, Operation};
use crate::db::fault::Fault;
use crate::db::source::Link;
use crate::db::statement::{Fetched, Statement, write_one};
use crate::fan_out::panic_text;
use crate::job::queue::dropped;
use crate::job::worker::connection::{Attended, Failure, in_time};
use crate::tx::{FailureOf, LastFailure, TransactionError, Tx, Work, transaction};

/// How long the table of schedules is waited for.
const LOOK: Duration = Duration::from_secs(30);

/// The ceilings of the random waits after a tick that failed, or that another process is making.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The closure of a periodic job: `async |tx, tick| { … }`. Like a [`Body`](crate::tx::Body), it can borrow from its surroundings, but not change them.
pub trait TickBody<A, B, R>: AsyncFn(A, B) -> R + Fn(A, B) -> Self::Future {
    /// What the closure returns.
    type Future: Future<Output = R> + Send;
}

impl<F, A, B, R, Fut> TickBody<A, B, R> for F
where
    F: AsyncFn(A, B) -> R + Fn(A, B) -> Fut,
    Fut: Future<Output = R> + Send,
{
    type Future = Fut;
}

/// Runs a closure at the times of a [`Schedule`], once per tick, however many processes run it: to enqueue a job, above all.
///
/// ```
/// # use chrono::{DateTime, Utc};
/// # use rowlock::{Fence, Queue};
/// # use std::time::Duration;
/// use rowlock::queue::{Missed, Periodic, QueueState, Schedule};
///
/// #[derive(sqlx::FromRow, Queue)]
/// #[rowlock(table = "reports")]
/// struct Report {
///     #[rowlock(key, generated)]
///     id: i64,
///     day: chrono::NaiveDate,
///     // …
/// #     #[rowlock(run_at, default)] run_at: DateTime<Utc>,
/// #     #[rowlock(state)] state: QueueState,
/// #     #[rowlock(attempts)] attempts: i32,
/// #     #[rowlock(fence)] fence: Fence,
/// #     #[rowlock(lease)] leased_until: Option<DateTime<Utc>>,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::raw_sql(
/// #     "CREATE TABLE reports (id INTEGER PRIMARY KEY, day text NOT NULL, run_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
/// #          state text NOT NULL DEFAULT 'ready', attempts integer NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamp)",
/// # ).execute(&pool).await?;
/// sqlx::raw_sql(Schedule::ddl::<sqlx::Sqlite>()).execute(&pool).await?; // once, in a migration
///
/// # let sigterm = tokio::time::sleep(Duration::from_millis(100));
/// let nightly = Schedule::cron("0 3 * * *")?.zone(chrono_tz::Europe::Berlin);
/// let counts = Periodic::new(&pool, "nightly-report", nightly)
///     .missed(Missed::Within(Duration::from_secs(3600)))
///     .shutdown(sigterm)
///     .run(async |tx, tick| {
///         let day = tick.local().date_naive();
///         Report::enqueue(tx, NewReport { day }).await
///     })
///     .await?;
/// assert_eq!(counts.failed, 0);
/// # Ok(())
/// # }
/// ```
///
/// # The rules
///
/// - One process makes each tick. The transaction that moves its row in the table of schedules on also contains what the closure writes: both commit,
///   or neither.
/// - The database's clock decides; a process's clock only decides when it looks. If the database's clock is put back, no tick is made twice: the next
///   one comes when the clock is there again.
/// - The first tick is the first one after the schedule was registered, which happens when the first process starts with it. The same holds for
///   [another schedule](#another-schedule).
/// - [`missed`](Self::missed) decides about ticks that nobody made in time.
/// - If the closure fails, panics or exceeds [`tick_timeout`](Self::tick_timeout), nothing of the tick is committed. It is logged and tried again, by
///   any process, after a random wait of up to 15 seconds, until it succeeds or the next tick replaces it. Other schedules are not affected.
/// - Ticks do not overlap: the next one waits for the transaction of this one. The jobs that they enqueue may overlap.
///
/// # Another schedule
///
/// The latest start wins: a process that starts with another expression or zone under the same name writes it into the table, and the next tick is
/// the first one after now by the new schedule. An older process sees that at its next look, logs it once, and makes no ticks meanwhile; it continues
/// if its schedule is put back, by a rollback of the deployment for example. It does not end, because the process may have other work. A tick in
/// progress when the other process starts is still made.
///
/// Running processes recreate a deleted row. The row of an abandoned schedule stays in the table; delete it in a migration. An `UPDATE` of
/// `next_tick` by hand takes effect: `now()` makes a tick at the next look, `'infinity'` (on PostgreSQL) or a distant time pauses the schedule.
///
/// # SQL
///
/// A look is one statement, at every tick and every [`poll`](Self::poll). A tick is, on PostgreSQL,
///
/// ```sql
/// BEGIN;
/// WITH due AS MATERIALIZED (
///     SELECT name FROM rowlock_schedules
///     WHERE name = $1 AND schedule = $2 AND next_tick <= clock_timestamp() AND next_tick = $3
///     FOR NO KEY UPDATE SKIP LOCKED)
/// UPDATE rowlock_schedules SET next_tick = $4 FROM due WHERE rowlock_schedules.name = due.name;
/// -- the closure's statements, if a row was updated
/// COMMIT
/// ```
///
/// and on SQLite `BEGIN IMMEDIATE`, which waits for the write lock, and an UPDATE with the same conditions. The second process waits for no row lock,
/// and finds out at its next look whether the tick was made.
///
/// # Isolation
///
/// The transaction has the session's default level, and runs again as [`transaction`] does. At REPEATABLE READ and SERIALIZABLE the server can refuse
/// the second process; it runs again and finds the tick made, or being made.
///
/// # Origin
///
/// River and Oban make periodic jobs in an elected leader, and without their commercial editions a tick is lost if there is none at that moment.
/// graphile_worker keeps the last time in the database and makes up for missed ticks on request. Here any process may make a tick, and the row
/// decides.
#[must_use = "nothing happens before `run` or `tick`"]
pub struct Periodic<DB: Backend, Tz: Zone = Utc> {
    entry: Entry<DB, Tz>,
    poll: Duration,
    shutdown: BoxFuture<'static, ()>,
}

impl<DB: Backend, Tz: Zone> fmt::Debug for Periodic<DB, Tz> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Periodic")
            .field("name", &self.entry.name)
            .field("schedule", &self.entry.schedule)
            .field("missed", &self.entry.missed)
            .field("poll", &self.poll)
            .field("tick_timeout", &self.entry.limit)
            .finish_non_exhaustive()
    }
}

/// The counts of [`Periodic::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TickCounts {
    /// Ticks that this process made.
    pub made: u64,
    /// Ticks that this process skipped, as [`Missed`] says.
    pub missed: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// What [`Periodic::tick`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ticked {
    /// Ticks that this call made.
    pub made: u64,
    /// The time of the next tick. `None` if the table has another schedule under this name, or if another process is making a tick or has just made
    /// one.
    pub next: Option<DateTime<Utc>>,
}

impl<DB: Backend, Tz: Zone> Periodic<DB, Tz> {
    /// A periodic job with default settings. `name` is its key in the table of schedules: no two jobs may share it.
    pub fn new(pool: &Pool<DB>, name: impl Into<String>, schedule: Schedule<Tz>) -> Self {
        Self {
            entry: Entry {
                pool: pool.clone(),
                name: name.into(),
                text: schedule.to_string(),
                schedule,
                missed: Missed::default(),
                limit: Duration::from_secs(60),
                started: false,
                replaced: false,
            },
            poll: Duration::from_secs(30),
            shutdown: Box::pin(pending()),
        }
    }

    /// What to do about ticks that nobody made in time; defaults to [`Missed::Once`].
    pub fn missed(mut self, missed: Missed) -> Self {
        self.entry.missed = missed;
        self
    }

    /// How long a tick may take, with all attempts of its transaction; defaults to 60 seconds. After that it is rolled back and counts as failed. It
    /// does not stop a closure that blocks its thread.
    pub fn tick_timeout(mut self, limit: Duration) -> Self {
        self.entry.limit = limit;
        self
    }

    /// How often this process looks at the table at least; defaults to 30 seconds; minimum one millisecond. A look finds what the process cannot
    /// foresee: another schedule, a row changed by hand, a clock that was set.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.poll = interval.max(Duration::from_millis(1));
        self
    }

    /// Ends [`run`](Self::run) when the future is ready; a tick in progress is finished or rolled back first, within
    /// [`tick_timeout`](Self::tick_timeout).
    pub fn shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Makes the ticks that are due now, and returns: for tests, and for programs that something else starts.
    ///
    /// The first call on each value counts as a start: it writes the schedule into the table if there is none or another one. If a program is started
    /// for each call, do not call two versions of it in turns: each would replace the other's schedule and begin after now.
    ///
    /// # Errors
    ///
    /// `Periodic` if the table could not be read or written, `Transaction` for the error of the closure or of its transaction. Ticks of
    /// [`Missed::Each`] that this call made before stay made. A panic of the closure propagates, after its tick is rolled back.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, each tick is made completely or not at all.
    pub fn tick<T, E, By, F>(
        &mut self,
        body: F,
    ) -> impl Future<Output = Result<Ticked, TickError<E>>> + Send
    where
        T: Send,
        E: FailureOf<By> + Send,
        F: for<'t> TickBody<&'t mut Tx<DB>, Tick<Tz>, Result<T, E>> + Send + Sync,
    {
        async move {
            let mut made = 0;
            loop {
                let look = self.entry.look().await.map_err(TickError::Periodic)?;
                let next = match look {
                    Look::Due(at) if self.entry.make(&at, &body).await? => {
                        made += u64::from(at.due.tick.is_some());
                        if at.due.next <= at.now {
                            continue;
                        }
                        // Without another look, whose error would hide that a tick was made.
                        Some(at.due.next)
                    }
                    Look::Due(_) | Look::Replaced => None,
                    Look::Waits { next, .. } => Some(next),
                };
                return Ok(Ticked { made, next });
            }
        }
    }

    /// Makes ticks until the signal of [`shutdown`](Self::shutdown), and returns the counts.
    ///
    /// `body` gets the transaction and the [`Tick`]; its `Ok` commits. What it does outside the transaction happens once per attempt: enqueue a job
    /// for that. It must be safe to run again, like that of [`transaction`]. The text of its error is logged (`{:#}`).
    ///
    /// # Errors
    ///
    /// Permanent errors: [`Table`](PeriodicError::Table) and, with [`Fault::Schema`], `Database` if the table is missing or another one; `Database`
    /// with [`Fault::PoolClosed`]; `Schedule` if the schedule never comes in its zone. Everything else is logged and waited out: a lost connection, a
    /// restarting server, the closure's errors. If it is unknown whether a tick was committed, the next look tells; it is not made twice.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, each tick is made completely or not at all.
    pub fn run<T, E, By, F>(
        self,
        body: F,
    ) -> impl Future<Output = Result<TickCounts, PeriodicError>> + Send
    where
        T: Send,
        E: FailureOf<By> + fmt::Display + Send,
        F: for<'t> TickBody<&'t mut Tx<DB>, Tick<Tz>, Result<T, E>> + Send + Sync,
    {
        let span = tracing::info_span!("rowlock.periodic", name = self.entry.name);
        async move {
            let Self {
                mut entry,
                poll,
                mut shutdown,
            } = self;
            let mut counts = TickCounts::default();
            let mut failures = 0_u32;
            let mut wait = Duration::ZERO;
            loop {
                let look = async {
                    tokio::time::sleep(wait).await;
                    entry.look().await
                };
                let look = tokio::select! {
                    biased;
                    () = &mut shutdown => return Ok(counts),
                    look = look => look,
                };
                let end = match look {
                    Ok(Look::Waits { wait, .. }) => End::Done(wait.min(poll)),
                    Ok(Look::Replaced) => End::Done(poll),
                    Ok(Look::Due(due)) => {
                        let making = AssertUnwindSafe(entry.make(&due, &body)).catch_unwind();
                        match making.await {
                            Ok(Ok(true)) => {
                                counts.made += u64::from(due.due.tick.is_some());
                                counts.missed += due.due.missed;
                                End::Done(Duration::ZERO)
                            }
                            Ok(Ok(false)) => End::ByAnother,
                            Ok(Err(TickError::Periodic(error))) if !error.can_pass() => {
                                return Err(error);
                            }
                            Ok(Err(TickError::Transaction(TransactionError::Failed(error)))) => {
                                End::Failed(format!("{error:#}"))
                            }
                            Ok(Err(error)) => End::Failed(error.to_string()),
                            Err(panic) => End::Failed(format!("panicked: {}", panic_text(panic))),
                        }
                    }
                    Err(error) if error.can_pass() => End::Failed(error.to_string()),
                    Err(error) => return Err(error),
                };
                if let End::Failed(error) = &end {
                    counts.failed += 1;
                    tracing::warn!(error, "trying again");
                }
                (failures, wait) = match end {
                    End::Done(wait) => (0, wait),
                    End::ByAnother | End::Failed(_) => {
                        let failures = failures.saturating_add(1);
                        (failures, full_jitter(failures, FIRST_PAUSE, LONGEST_PAUSE))
                    }
                };
            }
        }
        .instrument(span)
    }
}

/// How a round of [`Periodic::run`] ended, with the time until the next one.
enum End {
    Done(Duration),
    /// A concurrent process makes the tick, or has made it.
    ByAnother,
    Failed(String),
}

/// What the table says.
enum Look<Tz: Zone> {
    Waits {
        next: DateTime<Utc>,
        /// Until then, by the database's clock.
        wait: Duration,
    },
    Due(AtTick<Tz>),
    /// It has another schedule under this name.
    Replaced,
}

/// What is due, of a row as it was seen.
struct AtTick<Tz: Zone> {
    /// By the clock of the database.
    now: DateTime<Utc>,
    /// The tick of the row, in microseconds.
    seen: i64,
    due: Due<Tz>,
}

/// A row in the table of schedules, and what is to be done with it.
struct Entry<DB: Backend, Tz: Zone> {
    pool: Pool<DB>,
    name: String,
    schedule: Schedule<Tz>,
    /// As it is in the row.
    text: String,
    missed: Missed,
    limit: Duration,
    /// The schedule was found in the table, or written there.
    started: bool,
    /// It was said that the table has another one.
    replaced: bool,
}

impl<DB: Backend, Tz: Zone> Entry<DB, Tz> {
    fn operation(&self, method: &'static str) -> Operation {
        let mut key = KeyText::default();
        key.shown("name", &self.name);
        Operation::new(method, "rowlock_schedules", key)
    }

    fn failed(&self, method: &'static str, error: sqlx::Error) -> PeriodicError {
        PeriodicError::Database(DatabaseError::new(self.operation(method), error))
    }

    fn dropped(&self, method: &'static str) -> PeriodicError {
        let error = DatabaseError::new(self.operation(method), dropped());
        PeriodicError::Database(error.with_fault(Fault::Raised))
    }

    /// Reads the row, and writes it if it has to be written.
    async fn look(&mut self) -> Result<Look<Tz>, PeriodicError> {
        let (now, found) = self.read().await?;
        let Some((text, seen)) = found else {
            return self.start(now).await;
        };
        if text != self.text {
            if !self.started {
                return self.start(now).await;
            }
            if !self.replaced {
                self.replaced = true;
                tracing::warn!(
                    own = self.text,
                    found = text,
                    "another schedule was started under this name, no ticks are made for as long as it is there"
                );
            }
            return Ok(Look::Replaced);
        }
        (self.started, self.replaced) = (true, false);
        let next = self.time(Some(seen))?;
        if next > now {
            return Ok(waits(next, now));
        }
        let due = self.missed.due(&self.schedule, next, now);
        let due = due.map_err(PeriodicError::Schedule)?;
        Ok(Look::Due(AtTick { now, seen, due }))
    }

    /// The time by the database's clock; and what the row says, with its tick in microseconds.
    async fn read(&self) -> Result<(DateTime<Utc>, Option<(String, i64)>), PeriodicError> {
        let statement = || {
            let mut statement = Statement::<DB>::literal(DB::READ_SCHEDULE);
            statement.bind_text(&self.name);
            statement
        };
        let Fetched::One(row) = self.send("look", &statement).await? else {
            return Err(self.no_such_table());
        };
        let failed = |error| self.failed("look", error);
        let number = |index| DB::get_i64(&row, index).map_err(failed);
        if number(3)? != Some(1) {
            return Err(self.no_such_table());
        }
        let now = self.time(number(0)?)?;
        if DB::holds_null(&row, 1).map_err(failed)? {
            return Ok((now, None));
        }
        let text = DB::get_text(&row, 1).map_err(failed)?;
        let seen = number(2)?.ok_or_else(|| self.no_such_table())?;
        Ok((now, Some((text, seen))))
    }

    fn time(&self, microseconds: Option<i64>) -> Result<DateTime<Utc>, PeriodicError> {
        let time = microseconds.and_then(DateTime::from_timestamp_micros);
        time.ok_or_else(|| self.no_such_table())
    }

    fn no_such_table(&self) -> PeriodicError {
        PeriodicError::Table(self.operation("look"))
    }

    /// Writes the schedule into the table. If a concurrent process has just done it, its row stays.
    async fn start(&mut self, now: DateTime<Utc>) -> Result<Look<Tz>, PeriodicError> {
        let next = self.schedule.after(now).map_err(PeriodicError::Schedule)?;
        let write = || {
            let mut statement = Statement::<DB>::literal(DB::SET_SCHEDULE);
            statement.bind_text(&self.name);
            statement.bind_text(&self.text);
            statement.bind_i64(next.timestamp());
            statement
        };
        self.send("start", &write).await?;
        if self.read().await?.1.is_none() {
            return Err(self.dropped("start"));
        }
        (self.started, self.replaced) = (true, false);
        Ok(waits(next.to_utc(), now))
    }

    /// Runs a statement outside of a transaction.
    async fn send(
        &self,
        method: &'static str,
        statement: &(dyn Fn() -> Statement<DB> + Sync),
    ) -> Result<Fetched<DB::Row>, PeriodicError> {
        let answer = async {
            let mut connection = Attended::acquire(&self.pool, LOOK).await?;
            let answer = {
                let mut link = connection.link();
                in_time::<DB, _>(LOOK, write_one(statement, &mut link)).await
            };
            connection.answered(answer)
        };
        answer.await.map_err(|failure| {
            let error = match failure {
                Failure::Database(error) => error,
                Failure::NoAnswer => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
            };
            self.failed(method, error)
        })
    }

    /// Makes a tick, in one transaction. `false` if another process has made it or is about to.
    async fn make<T, E, By, F>(&self, at: &AtTick<Tz>, body: &F) -> Result<bool, TickError<E>>
    where
        T: Send,
        E: FailureOf<By> + Send,
        F: for<'t> TickBody<&'t mut Tx<DB>, Tick<Tz>, Result<T, E>> + Send + Sync,
    {
        let making = Making {
            entry: self,
            at,
            body,
            types: PhantomData,
        };
        let transaction = transaction(&self.pool).deadline(self.limit);
        match transaction.run_work(&making).await {
            Ok(made) => Ok(made),
            // SQLite's one writer is another process, and was for as long as its busy timeout, repeatedly.
            Err(TransactionError::Exhausted {
                last: LastFailure::Database(error),
                ..
            }) if error.fault() == Fault::Busy => Ok(false),
            Err(error) => Err(stopped(error)),
        }
    }
}

fn waits<Tz: Zone>(next: DateTime<Utc>, now: DateTime<Utc>) -> Look<Tz> {
    let wait = (next - now).to_std().unwrap_or_default();
    Look::Waits { next, wait }
}

/// What the transaction of a tick does: it moves the row on, and runs the closure if the row was there.
struct Making<'m, DB: Backend, Tz: Zone, T, E, By, F> {
    entry: &'m Entry<DB, Tz>,
    at: &'m AtTick<Tz>,
    body: &'m F,
    types: Returns<T, E, By>,
}

type Returns<T, E, By> = PhantomData<fn() -> (Result<T, E>, By)>;

/// Why it is rolled back.
enum Stop<E> {
    Table(PeriodicError),
    Body(E),
}

fn stopped<E>(error: TransactionError<Stop<E>>) -> TickError<E> {
    let error = error.try_map(|stop| match stop {
        Stop::Body(error) => Ok(error),
        Stop::Table(error) => Err(TickError::Periodic(error)),
    });
    error.map_or_else(|error| error, TickError::Transaction)
}

impl<DB: Backend, Tz: Zone, T, E, By, F> Making<'_, DB, Tz, T, E, By, F> {
    /// Whether this process makes the tick.
    async fn move_on(&self, connection: &mut Link<'_, DB>) -> Result<bool, PeriodicError> {
        let about = |sql| {
            let mut statement = Statement::<DB>::literal(sql);
            statement.bind_text(&self.entry.name);
            statement.bind_text(&self.entry.text);
            statement.bind_i64(self.at.seen);
            statement
        };
        let failed = |error| self.entry.failed("tick", error);
        // A second time in case a concurrent process has given the tick up between the two statements.
        for _ in 0..2 {
            let mut advance = about(DB::ADVANCE_SCHEDULE);
            advance.bind_i64(self.at.due.next.timestamp());
            if advance.execute(connection).await.map_err(failed)? > 0 {
                return Ok(true);
            }
            let due = about(DB::DUE_SCHEDULE).fetch_all(connection).await;
            if due.map_err(failed)?.is_empty() {
                return Ok(false);
            }
        }
        Err(self.entry.dropped("tick"))
    }
}

impl<DB, Tz, T, E, By, F> Work<DB> for Making<'_, DB, Tz, T, E, By, F>
where
    DB: Backend,
    Tz: Zone,
    T: Send,
    E: FailureOf<By> + Send,
    F: for<'t> TickBody<&'t mut Tx<DB>, Tick<Tz>, Result<T, E>> + Send + Sync,
{
    type Output = bool;
    type Error = Stop<E>;

    async fn run(&self, tx: &mut Tx<DB>) -> Result<bool, Stop<E>> {
        let moved = self.move_on(&mut tx.link()).await;
        if !moved.map_err(Stop::Table)? {
            return Ok(false);
        }
        if let Some(tick) = &self.at.due.tick {
            (self.body)(tx, tick.clone()).await.map_err(Stop::Body)?;
        }
        Ok(true)
    }

    fn fault(error: &Stop<E>) -> Option<Fault> {
        match error {
            Stop::Body(error) => error.fault(),
            Stop::Table(PeriodicError::Database(error)) => Some(error.fault()),
            Stop::Table(_) => None,
        }
    }
}
