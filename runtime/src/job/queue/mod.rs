//! Rows that one worker at a time works on.

mod aside;
mod batch;

use std::cmp::Ordering;
use std::fmt::Display;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Type};

use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::column::Column;
use crate::db::error::{Attempt, DatabaseError, KeyText, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Statement};
use crate::tx::InTransaction;

pub use aside::BadRow;
pub(crate) use aside::{Found, Look, Refused, rescue_on};
use batch::look;
pub(crate) use batch::{Batch, Fate, Locks};

/// How long a claim holds unless it says otherwise.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// The ceilings of the random waits before the second attempt and before the last.
const FIRST_BACKOFF: Duration = Duration::from_secs(4);
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);
/// So much of an error's text is stored.
const LONGEST_ERROR: usize = 8 * 1024;

/// What `#[derive(Queue)]` knows about a table, the same for every database.
pub trait Queue: Sized + Send + Sync + 'static {
    /// The key as it is read from a row.
    type Key: Send;
    /// As written by the user.
    const TABLE: &'static str;
    /// A row that was claimed so often is not claimed again.
    const MAX_ATTEMPTS: i64;
    /// What a worker listens to.
    const CHANNEL: &'static str;
    /// The columns of the key: how a condition about each begins, and its place among the columns that a claim returns.
    const KEY: &'static [(&'static str, &'static str, usize)];
    /// The places of the fence and of the attempts.
    const PLACES: [usize; 2];
    /// Whether there is a column for the text of an error.
    const HAS_LAST_ERROR: bool;

    /// Which attempt this is.
    fn attempts(&self) -> i64;
    /// One attempt more.
    fn count(&mut self);
    /// The fence of the claim that read the row.
    fn fence(&self) -> Fence;
    /// Whether this is the row's key.
    fn has_key(&self, key: &Self::Key) -> bool;
    /// Writes the key into an error.
    fn describe(&self, to: &mut KeyText);
}

/// The statements on a queue for one database. Batches are made of two parts, with the rows between them where the database
/// takes no arrays.
pub trait QueueSql<DB: Backend>: Queue {
    /// Claims: how many, seconds, whether their attempts begin now; then the values of the conditions between the two parts.
    const CLAIM: [&'static str; 2];
    /// What a claim would take: how many; conditions between the two parts. Returns key, fence, attempts.
    const LIST_DUE: [&'static str; 2];
    /// Key, fence.
    const COMPLETE: &'static str;
    /// The state of a row, as long as the fence is its: key, fence.
    const LOOK: &'static str;
    /// Per row: key, fence.
    const COMPLETE_MANY: [&'static str; 2];
    /// Per row: key, fence, state, seconds or NULL, attempts, error or NULL.
    const SETTLE: [&'static str; 2];
    /// Per row: key, fence, attempts.
    const START: [&'static str; 2];
    /// Per row: key, fence, seconds.
    const EXTEND: [&'static str; 2];
    /// These four, which lock the rows first, in the order of their keys, where the database locks rows. SKIP LOCKED between the two parts.
    const IN_ORDER: [[&'static str; 2]; 4] = [[""; 2]; 4];
    /// Returns the new state of each row. Conditions between the two parts.
    const RESCUE: [&'static str; 2];
    /// What a rescue would take back: key, fence, attempts.
    const LIST_ENDED: &'static str;
    /// The condition that a lease is over.
    const HAS_ENDED: &'static str;
    /// Puts a row off, or gives it up: fence, attempts, the error if there is a column, in the first seconds; then conditions
    /// about the key.
    const SET_ASIDE: [&'static str; 2];
    /// Indexes and settings.
    const DDL: &'static str;

    /// Reads a row.
    fn from_row(row: &DB::Row) -> Result<Self, sqlx::Error>;
    /// Binds the key of this row.
    fn bind_key(&self, to: &mut impl Bind<DB>);
    /// Binds the keys of many rows, an array per column, where the database has arrays.
    fn bind_keys(_rows: &[&Self], _to: &mut impl Bind<DB>) {}
    /// Reads the key and the fence out of what a batch returned.
    fn read_claim(row: &DB::Row) -> Result<(Self::Key, Fence), sqlx::Error>;
    /// The order of claims. Only a row and itself are equal.
    fn order(&self, other: &Self) -> Ordering;
}

/// The state of a row of a queue, in a `text` column: `ready`, `running`, `done` or `dead`.
///
/// ```sql
/// state text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'running', 'done', 'dead'))
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueState {
    /// It can be claimed as soon as it is due.
    #[default]
    Ready,
    /// A claim holds it until its lease ends.
    Running,
    /// The work was done.
    Done,
    /// It was given up: by `fail`, or after its last attempt. The dead letters of the queue.
    Dead,
}

impl QueueState {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
}

impl Display for QueueState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is none of the four states.
#[derive(Debug, thiserror::Error)]
#[error("not a state of a queue: expected `ready`, `running`, `done` or `dead`")]
pub struct UnknownState;

impl FromStr for QueueState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Ready, Self::Running, Self::Done, Self::Dead]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(UnknownState)
    }
}

impl<DB: Database> Type<DB> for QueueState
where
    str: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        <str as Type<DB>>::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        <str as Type<DB>>::compatible(ty)
    }
}

impl<'q, DB: Database> Encode<'q, DB> for QueueState
where
    &'static str: Encode<'q, DB>,
{
    fn encode_by_ref(&self, buf: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.as_str().encode_by_ref(buf)
    }
}

impl<'r, DB: Database> Decode<'r, DB> for QueueState
where
    &'r str: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(<&str>::decode(value)?.parse()?)
    }
}

/// A column marked `#[rowlock(filter)]`, by which claims can be limited. Generated: `Email::TENANT_ID`.
pub struct QueueColumn<T, V> {
    condition: &'static str,
    types: PhantomData<fn() -> (T, V)>,
}

/// A column of the generated code.
pub const fn column<T, V>(condition: &'static str) -> QueueColumn<T, V> {
    let types = PhantomData;
    QueueColumn { condition, types }
}

impl<T, V> std::fmt::Debug for QueueColumn<T, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("QueueColumn").field(&self.condition).finish()
    }
}

impl<T, V> Clone for QueueColumn<T, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V> Copy for QueueColumn<T, V> {}

/// The values of a column in many rows.
pub fn each<T, V: Clone>(rows: &[&T], value: impl Fn(&T) -> &V) -> Vec<V> {
    rows.iter().map(|row| value(row).clone()).collect()
}

/// Why nothing was claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The transaction of a stricter isolation level lost against a concurrent one. Nothing was claimed.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. What was claimed comes back when its lease has ended, and its attempt has
    /// counted.
    #[error("{0}; it is unknown whether rows were claimed")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was claimed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a claimed row could not be finished or extended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// The claim holds no more: its lease ended and the row was taken back, or the row was finished or deleted. Nothing was
    /// written.
    #[error("{0}: the lease was lost, the row is no longer this claim's")]
    LeaseLost(Attempt),
    /// The claim holds, and yet nothing was written: a trigger, a row security policy or a constraint with ON CONFLICT IGNORE (SQLite)
    /// dropped the write. The row comes back when its lease has ended.
    #[error(
        "{0}: the claim still holds, but a trigger, a row security policy or ON CONFLICT IGNORE dropped the write"
    )]
    Ignored(Attempt),
    /// The database does not let the row be ready again, as `UNIQUE (…) WHERE state = 'ready'` does if the same job was added
    /// in the meantime. The row is [`QueueState::Dead`], with this as its last error.
    #[error("{0}; the row could not be ready again, and is dead")]
    NotReady(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. If nothing was written, the row comes back when its lease has ended.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written; the row comes back when its lease has ended.
    #[error(transparent)]
    Database(DatabaseError),
}

from_write_failure!(ClaimError, FinishError);

/// A row of a batch that did not become what was asked for, and why. Dereferences to the claim, and so to the row.
#[non_exhaustive]
pub struct Unfinished<T> {
    /// The claim. It still holds if the error is [`FinishError::Ignored`] or [`FinishError::Database`], until its lease ends: the row can be
    /// finished otherwise.
    pub claimed: Claimed<T>,
    /// [`LeaseLost`](FinishError::LeaseLost), [`Ignored`](FinishError::Ignored), [`NotReady`](FinishError::NotReady), or why the database
    /// refused to write this row.
    pub error: FinishError,
}

impl<T> Deref for Unfinished<T> {
    type Target = Claimed<T>;

    fn deref(&self) -> &Claimed<T> {
        &self.claimed
    }
}

impl<T: Queue> std::fmt::Debug for Unfinished<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unfinished")
            .field("claimed", &self.claimed)
            .field("error", &self.error)
            .finish()
    }
}

/// What [`Claimed::retry`] made of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// It is due again after this time.
    Later(Duration),
    /// That was its last attempt, or the database does not let it be ready again, beside a newer row of the same job say: it is
    /// [`QueueState::Dead`].
    Dead,
}

/// How many rows were taken back because their leases had ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rescued {
    /// Rows that can be claimed again.
    pub ready: u64,
    /// Rows without attempts left, and those that the database does not let be ready again.
    pub dead: u64,
    /// Rows that the database refuses to write at all, or whose writes a trigger drops. They are as they were.
    pub refused: u64,
}

/// The ceiling of the random wait before the next attempt: it doubles from the first to the longest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: FIRST_BACKOFF,
            longest: LONGEST_BACKOFF,
        }
    }
}

impl Backoff {
    pub(crate) fn after(self, attempts: i64) -> Duration {
        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        full_jitter(attempts, self.first, self.longest)
    }
}

type Condition<DB> = Arc<dyn Fn(&mut Statement<DB>) + Send + Sync>;

/// Which rows are claimed, and for how long.
pub(crate) struct Claims<DB: Backend> {
    pub(crate) lease: Duration,
    pub(crate) backoff: Backoff,
    conditions: Vec<Condition<DB>>,
}

impl<DB: Backend> Default for Claims<DB> {
    fn default() -> Self {
        Self {
            lease: LEASE,
            backoff: Backoff::default(),
            conditions: Vec::new(),
        }
    }
}

impl<DB: Backend> Clone for Claims<DB> {
    fn clone(&self) -> Self {
        Self {
            conditions: self.conditions.clone(),
            ..*self
        }
    }
}

impl<DB: Backend> Claims<DB> {
    pub(crate) fn only<T, V>(&mut self, column: QueueColumn<T, V>, value: V)
    where
        V: Column<DB> + Send + 'static,
    {
        // Nothing is equal to NULL, and no index finds what is not distinct from a parameter.
        let null = DB::is_null(&value);
        self.conditions.push(Arc::new(move |statement| {
            statement.push(column.condition);
            if null {
                statement.push(" IS NULL");
                return;
            }
            statement.push(" = ");
            statement.push_parameter();
            statement.bind(0, &value);
        }));
    }

    fn push_conditions(&self, to: &mut Statement<DB>) {
        for condition in &self.conditions {
            condition(to);
        }
    }
}

/// Any number can be in the table: also the infinite time since `-infinity`.
fn waited_for(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// A claim that is about to be made; `.await` makes it.
#[must_use = "nothing is claimed until this is awaited"]
pub struct Claim<'c, DB: Backend, T, A> {
    db: A,
    limit: usize,
    claims: Claims<DB>,
    report: Report<'c>,
    types: PhantomData<fn() -> T>,
}

type Report<'c> = Box<dyn FnMut(&BadRow) + Send + 'c>;

impl<DB: Backend, T, A> std::fmt::Debug for Claim<'_, DB, T, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim")
            .field("limit", &self.limit)
            .field("lease", &self.claims.lease)
            .finish_non_exhaustive()
    }
}

/// A claim of up to `limit` rows.
pub fn claim<'c, DB, T, A>(db: A, limit: usize) -> Claim<'c, DB, T, A>
where
    DB: Backend,
    A: Source<'c, DB> + 'c,
{
    Claim {
        db,
        limit,
        claims: Claims::default(),
        report: Box::new(|_| ()),
        types: PhantomData,
    }
}

impl<'c, DB: Backend, T, A> Claim<'c, DB, T, A> {
    /// How long the rows are this claim's, by the clock of the database; a minute if nothing else is said. After that another
    /// claim can have them. [`Claimed::extend`] begins a new lease.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.claims.lease = lease;
        self
    }

    /// Claims only rows that have this value in the column; `None` means NULL. Several conditions must all be met.
    pub fn only<V>(mut self, column: QueueColumn<T, V>, value: impl Into<V>) -> Self
    where
        V: Column<DB> + Send + 'static,
    {
        self.claims.only(column, value.into());
        self
    }

    /// Calls this for each row that cannot be given out: one that does not fit the model, that the database refuses to write, or whose
    /// write a trigger drops.
    ///
    /// Such a row is not among those that are returned, and keeps none of them. It has had an attempt: it is due again after
    /// a random time, or [`QueueState::Dead`] if that was its last one, with the reason as its last error; or as it was, if that cannot be written. It is logged as well.
    pub fn on_bad_row(mut self, report: impl FnMut(&BadRow) + Send + 'c) -> Self {
        self.report = Box::new(report);
        self
    }

    /// How long [`Claimed::retry`] waits at most after the first attempt, and at most at all: 4 seconds and an hour if nothing
    /// else is said. The wait is random between zero and a ceiling that doubles with every attempt.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.claims.backoff = Backoff { first, longest };
        self
    }
}

impl<'c, DB, T, A> IntoFuture for Claim<'c, DB, T, A>
where
    DB: Backend,
    T: QueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    type Output = Result<Vec<Claimed<T>>, ClaimError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            if self.limit == 0 {
                return Ok(Vec::new());
            }
            let at = || Attempt::new("claim", T::TABLE, KeyText::default());
            let mut opened = self
                .db
                .open()
                .await
                .map_err(|error| ClaimError::Database(DatabaseError::new(at(), error)))?;
            let mut connection = opened.link();
            let in_transaction = in_transaction::<DB>(&connection);
            let failed = |error| ClaimError::from(WriteFailure::new(at(), error, in_transaction));
            let mut refused = Refused::default();
            let (mut claimed, mut short, mut rescued) = (Vec::new(), false, false);
            while claimed.len() < self.limit {
                let missing = self.limit - claimed.len();
                let claims = &self.claims;
                let found = claims.run::<T>(missing, true, short, &mut refused, &mut connection);
                let Found {
                    claimed: more,
                    bad,
                    exhausted,
                } = match found.await {
                    Ok(found) => found,
                    // What is claimed already must not be lost to the caller.
                    Err(_) if !claimed.is_empty() && !in_transaction => break,
                    Err(error) => return Err(failed(error)),
                };
                short = !more.is_empty();
                merge::<DB, T>(&mut claimed, more);
                for row in &bad {
                    row.log();
                    (self.report)(row);
                }
                // There can be good rows behind the bad ones.
                if !bad.is_empty() || exhausted > 0 {
                    short = false;
                    continue;
                }
                if short {
                    continue;
                }
                // Whoever claims without a worker takes back the rows of dead processes as well.
                if std::mem::replace(&mut rescued, true) {
                    break;
                }
                match rescue_on::<DB, T>(&mut Refused::default(), Look::Never, &mut connection)
                    .await
                {
                    Ok(Rescued { ready: 0, .. }) => break,
                    Ok(_) => {}
                    Err(_) if !claimed.is_empty() && !in_transaction => break,
                    Err(error) => return Err(failed(error)),
                }
            }
            Ok(claimed)
        })
    }
}

/// Two claims as if they had been one. A row whose lease ended in between has been claimed twice; the greater fence holds.
fn merge<DB: Backend, T: QueueSql<DB>>(claimed: &mut Vec<Claimed<T>>, more: Vec<Claimed<T>>) {
    claimed.extend(more);
    claimed.sort_by(|one, other| {
        let order = one.row.order(&other.row);
        order.then_with(|| other.row.fence().cmp(&one.row.fence()))
    });
    claimed.dedup_by(|one, other| one.row.order(&other.row).is_eq());
}

/// Takes back the rows whose leases have ended.
pub fn rescue<'c, DB: Backend, T: QueueSql<DB>>(
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<Rescued, DatabaseError>> + Send {
    async move {
        let failed =
            |error| DatabaseError::new(Attempt::new("rescue", T::TABLE, KeyText::default()), error);
        let mut opened = db.open().await.map_err(failed)?;
        let mut refused = Refused::default();
        let rescued = rescue_on::<DB, T>(&mut refused, Look::Always, &mut opened.link()).await;
        rescued.map_err(failed)
    }
}

/// A row that is this claim's until its lease ends. Dereferences to the row.
///
/// The row is finished with [`complete`](Self::complete), [`retry`](Self::retry), [`fail`](Self::fail), [`snooze`](Self::snooze) or
/// [`release`](Self::release), each of which takes the claim and writes only if it still holds. Dropped without that, the
/// row comes back when its lease has ended.
///
/// Every claim of a row has a greater fence than the one before, which is how a claim that was lost is told from the one that
/// holds. So work at least once is what a queue gives; what is written in the transaction of [`complete_in`](Self::complete_in)
/// happens once.
#[must_use = "a claimed row that is not finished comes back when its lease has ended"]
pub struct Claimed<T> {
    row: T,
    backoff: Backoff,
    waited: Duration,
}

impl<T> Deref for Claimed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.row
    }
}

impl<T: Queue> std::fmt::Debug for Claimed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Claimed({}, attempt {})",
            at("claim", &self.row),
            self.row.attempts()
        )
    }
}

pub(crate) fn at<T: Queue>(operation: &'static str, row: &T) -> Attempt {
    let mut text = KeyText::default();
    row.describe(&mut text);
    Attempt::new(operation, T::TABLE, text)
}

/// What becomes of a row that is not done.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) state: QueueState,
    /// When it is due again; `None`: when it was due.
    pub(crate) delay: Option<Duration>,
    /// The attempt does not count.
    pub(crate) refund: bool,
    pub(crate) error: Option<String>,
}

impl Change {
    pub(crate) fn later(delay: Duration, error: String) -> Self {
        Self {
            state: QueueState::Ready,
            delay: Some(delay),
            refund: false,
            error: Some(error),
        }
    }

    pub(crate) fn dead(error: String) -> Self {
        Self {
            state: QueueState::Dead,
            delay: None,
            refund: false,
            error: Some(error),
        }
    }

    pub(crate) fn back(delay: Option<Duration>) -> Self {
        Self {
            state: QueueState::Ready,
            delay,
            refund: true,
            error: None,
        }
    }

    /// What becomes instead of a row that the database does not let be ready again: it is dead, like in a rescue.
    pub(crate) fn instead(&self, error: &sqlx::Error) -> Option<Self> {
        let after = self.error.as_deref().unwrap_or("unfinished");
        let dead = || {
            Self::dead(stored(&format_args!(
                "{after}; the row could not be ready again: {error}"
            )))
        };
        (self.state == QueueState::Ready).then(dead)
    }

    /// How many attempts the row has had, if this is the one of that number.
    fn attempts(&self, this: i64) -> i64 {
        this - i64::from(self.refund)
    }

    fn retried(&self) -> Retried {
        match self.delay {
            Some(delay) if self.state == QueueState::Ready => Retried::Later(delay),
            _ => Retried::Dead,
        }
    }
}

/// The text of an error as it is stored: without NUL, which PostgreSQL's texts cannot have, and of bounded length.
pub(crate) fn stored(error: &impl Display) -> String {
    // The alternate form of `anyhow::Error` is the whole chain.
    let mut text = format!("{error:#}").replace('\0', "\u{fffd}");
    if text.len() > LONGEST_ERROR {
        let end = (0..=LONGEST_ERROR)
            .rev()
            .find(|index| text.is_char_boundary(*index))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl<T: Queue> Claimed<T> {
    /// How long the row had been due when it was claimed, by the clock of the database.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    pub(crate) fn retry_change(&self, delay: Option<Duration>, error: String) -> Change {
        if self.row.attempts() >= T::MAX_ATTEMPTS {
            return Change::dead(error);
        }
        let delay = delay.unwrap_or_else(|| self.backoff.after(self.row.attempts()));
        Change::later(delay, error)
    }

    /// The work is done: the row becomes [`QueueState::Done`].
    ///
    /// One statement, `UPDATE … SET state = 'done' WHERE key = … AND fence = … AND state = 'running'`, and a look at the row if it wrote
    /// none. With `&mut *tx` it commits with the rest of the transaction; see also [`complete_in`](Self::complete_in). Also after the end
    /// of the lease it succeeds as long as nobody has taken the row back. Cancel safety: if the future is dropped, it was executed
    /// completely or not at all.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if another claim has the row, or it was finished or deleted; `Ignored` if the claim holds, and a trigger, a row
    /// security policy or ON CONFLICT IGNORE dropped the write. Nothing was written then. `Serialization`, `Unknown`, `Database`.
    pub fn complete<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move {
            let at = || at("complete", &self.row);
            let mut opened = acquire(db, at).await?;
            let mut connection = opened.link();
            let in_transaction = in_transaction::<DB>(&connection);
            complete_one(at(), &self.row, in_transaction, &mut connection).await
        }
    }

    /// The same in a transaction: what else the transaction wrote and the completion commit together, so the effect of the job
    /// happens once, however often the job is run.
    ///
    /// By reference, because a transaction that is retried runs its closure again. If it fails, return the error, so that the
    /// transaction is rolled back. A worker's handler returns [`JobOutcome::Completed`](crate::JobOutcome::Completed) after it.
    ///
    /// The statement, the cancel safety and the errors are those of [`complete`](Self::complete).
    pub fn complete_in<'t, DB: Backend>(
        &self,
        tx: impl InTransaction<'t, Database = DB>,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move {
            let at = at("complete_in", &self.row);
            complete_one(at, &self.row, true, &mut tx.link()).await
        }
    }

    /// The attempt failed: the row is due again after a random time, or [`QueueState::Dead`] if that was its last attempt. The
    /// text of the error is stored, if the model has a `last_error`.
    ///
    /// The time is between zero and a ceiling that doubles with every attempt (full jitter), from 4 seconds to an hour or as the claim's
    /// [`backoff`](Claim::backoff) says. One statement. Cancel safety and errors: those of [`complete`](Self::complete).
    pub fn retry<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
        error: impl Display,
    ) -> impl Future<Output = Result<Retried, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = self.retry_change(None, stored(&error));
        async move { self.settle_retry("retry", db, change).await }
    }

    /// Like [`retry`](Self::retry), after a time of the caller's choice: the `Retry-After` of a server, say.
    pub fn retry_after<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
        error: impl Display,
        delay: Duration,
    ) -> impl Future<Output = Result<Retried, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = self.retry_change(Some(delay), stored(&error));
        async move { self.settle_retry("retry_after", db, change).await }
    }

    /// The job can never succeed: the row becomes [`QueueState::Dead`] at once.
    ///
    /// One statement. Cancel safety and errors: those of [`complete`](Self::complete).
    pub fn fail<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
        error: impl Display,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = Change::dead(stored(&error));
        async move { self.settle("fail", db, change).await }
    }

    /// Not now: the row is due again after `delay`, and this attempt does not count.
    ///
    /// One statement. Cancel safety and errors: those of [`complete`](Self::complete), and `NotReady` if the database does not let
    /// the row be ready: then it is dead.
    pub fn snooze<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
        delay: Duration,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move { self.settle("snooze", db, Change::back(Some(delay))).await }
    }

    /// Gives the row back as if it had not been claimed: it is due when it was, and this attempt does not count.
    ///
    /// One statement. Cancel safety and errors: those of [`complete`](Self::complete), and `NotReady` if the database does not let
    /// the row be ready: then it is dead.
    pub fn release<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move { self.settle("release", db, Change::back(None)).await }
    }

    /// Begins a new lease from now, by the clock of the database.
    ///
    /// One statement. Cancel safety and errors: those of [`complete`](Self::complete).
    pub fn extend<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
        lease: Duration,
    ) -> impl Future<Output = Result<(), FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move { self.run_alone("extend", db, Batch::Extend(lease)).await }
    }

    async fn settle_retry<'c, DB: Backend>(
        &self,
        operation: &'static str,
        db: impl Source<'c, DB>,
        change: Change,
    ) -> Result<Retried, FinishError>
    where
        T: QueueSql<DB>,
    {
        let retried = change.retried();
        match self.settle(operation, db, change).await {
            Ok(()) => Ok(retried),
            Err(FinishError::NotReady(_)) => Ok(Retried::Dead),
            Err(error) => Err(error),
        }
    }

    async fn settle<'c, DB: Backend>(
        &self,
        operation: &'static str,
        db: impl Source<'c, DB>,
        change: Change,
    ) -> Result<(), FinishError>
    where
        T: QueueSql<DB>,
    {
        self.run_alone(operation, db, Batch::Settle(&[change]))
            .await
    }

    /// A batch of one row.
    async fn run_alone<'c, DB: Backend>(
        &self,
        operation: &'static str,
        db: impl Source<'c, DB>,
        batch: Batch<'_>,
    ) -> Result<(), FinishError>
    where
        T: QueueSql<DB>,
    {
        let at = || at(operation, &self.row);
        let mut opened = acquire(db, at).await?;
        let mut connection = opened.link();
        let in_transaction = in_transaction::<DB>(&connection);
        let fates = batch
            .run_each::<DB, T>(&[&self.row], Locks::Wait, &mut connection)
            .await
            .map_err(|error| FinishError::from(WriteFailure::new(at(), error, in_transaction)))?;
        for fate in fates {
            self.finished(operation, batch.change(0), fate, &mut connection)
                .await?;
        }
        Ok(())
    }

    /// What became of this row of a batch.
    async fn finished<DB: Backend>(
        &self,
        operation: &'static str,
        change: Option<&Change>,
        fate: Fate,
        connection: &mut Link<'_, DB>,
    ) -> Result<(), FinishError>
    where
        T: QueueSql<DB>,
    {
        let at = at(operation, &self.row);
        let error = match fate {
            Fate::Written => return Ok(()),
            Fate::Refused(error) => error,
            Fate::Lost | Fate::Done | Fate::Later => {
                return Err(unwritten(at, &self.row, connection).await);
            }
        };
        if Fault::of(&error).is_of_a_row()
            && let Some(dead) = change.and_then(|change| change.instead(&error))
        {
            let (rows, changes) = ([&self.row], [dead]);
            let batch = Batch::Settle(&changes);
            let buried = batch.run_each::<DB, T>(&rows, Locks::Wait, connection);
            if matches!(buried.await.as_deref(), Ok([Fate::Written])) {
                return Err(FinishError::NotReady(DatabaseError::new(at, error)));
            }
        }
        Err(WriteFailure::new(at, error, false).into())
    }

    /// All of this work is done, in one statement. Returns those that were not finished, each with its
    /// error: nothing was written to them, or they are dead ([`NotReady`](FinishError::NotReady)).
    ///
    /// ```sql
    /// -- PostgreSQL; SQLite has a list of rows in place of the arrays, and returns those that were written
    /// WITH held AS (SELECT key FROM …
    ///     WHERE key = ANY ($1) AND state = 'running' AND (key, fence) IN (SELECT * FROM unnest($1, $2)) ORDER BY key FOR NO KEY UPDATE),
    /// written AS (UPDATE … SET state = 'done' WHERE key IN (SELECT key FROM held) RETURNING key, fence)
    /// SELECT * FROM unnest($1, $2) AS lost (key, fence) WHERE (key, fence) NOT IN (SELECT * FROM written)
    /// ```
    ///
    /// It waits for rows that a concurrent transaction has locked, and locks its own in the order of their keys, like `lock_many`. An empty
    /// batch runs nothing. On SQLite more than 2,000 rows are several statements. Cancel safety: if the future is dropped, the
    /// statement was executed completely or not at all; what was not finished comes back when its lease has ended.
    ///
    /// If the database refuses one of the rows, by a constraint or a trigger, each is written alone, in a statement of its own, and only that
    /// one is returned. In a transaction of the caller the error is that of the batch; on PostgreSQL it has aborted the transaction.
    ///
    /// # Errors
    ///
    /// Of each row that is returned: `LeaseLost`, `NotReady` if the database does not let it be ready, so that it is dead,
    /// `Ignored` if the write was dropped and `Database` if it was refused otherwise; then the claim still holds. Of all of them: `Serialization`, `Unknown`,
    /// `Database`; the rows that were not finished come back when their leases have ended.
    pub fn complete_many<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = Self>,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let batch: Vec<Self> = batch.into_iter().collect();
        async move { Self::finish_many("complete_many", db, batch, Batch::Complete).await }
    }

    /// [`retry`](Self::retry) for many rows, each with its error, in one statement. Returns those of which
    /// that was not written.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many).
    pub fn retry_many<'c, DB: Backend, E: Display>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = (Self, E)>,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = |claimed: &Self, error: &E| claimed.retry_change(None, stored(error));
        Self::settle_many("retry_many", db, batch, change)
    }

    /// [`fail`](Self::fail) for many rows, each with its error, in one statement. Returns those of which
    /// that was not written.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many).
    pub fn fail_many<'c, DB: Backend, E: Display>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = (Self, E)>,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let change = |_: &Self, error: &E| Change::dead(stored(error));
        Self::settle_many("fail_many", db, batch, change)
    }

    /// [`snooze`](Self::snooze) for many rows, in one statement. Returns those of which
    /// that was not written.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many).
    pub fn snooze_many<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = Self>,
        delay: Duration,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let batch = batch.into_iter().map(|claimed| (claimed, ()));
        let change = move |_: &Self, (): &()| Change::back(Some(delay));
        Self::settle_many("snooze_many", db, batch, change)
    }

    /// [`release`](Self::release) for many rows, in one statement. Returns those of which
    /// that was not written.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many).
    pub fn release_many<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = Self>,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let batch = batch.into_iter().map(|claimed| (claimed, ()));
        Self::settle_many("release_many", db, batch, |_, ()| Change::back(None))
    }

    /// Begins new leases for all of these rows, in one statement. Takes those to which that was not written out of the batch, and
    /// returns them: claims that were lost, and rows that the database refuses to write.
    ///
    /// Cancel safety and errors: those of [`complete_many`](Self::complete_many); after an error the batch is as it was.
    pub fn extend_many<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        batch: &mut Vec<Self>,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        async move {
            let extend = Batch::Extend(lease);
            let results = Self::run_many("extend_many", db, batch, extend).await?;
            let mut unfinished = Vec::new();
            for (claimed, result) in std::mem::take(batch).into_iter().zip(results) {
                match result {
                    Ok(()) => batch.push(claimed),
                    Err(error) => unfinished.push(Unfinished { claimed, error }),
                }
            }
            Ok(unfinished)
        }
    }

    fn settle_many<'c, DB: Backend, E>(
        operation: &'static str,
        db: impl Source<'c, DB>,
        batch: impl IntoIterator<Item = (Self, E)>,
        change: impl Fn(&Self, &E) -> Change,
    ) -> impl Future<Output = Result<Vec<Unfinished<T>>, FinishError>> + Send
    where
        T: QueueSql<DB>,
    {
        let (batch, changes): (Vec<Self>, Vec<Change>) = batch
            .into_iter()
            .map(|(claimed, error)| {
                let change = change(&claimed, &error);
                (claimed, change)
            })
            .unzip();
        async move { Self::finish_many(operation, db, batch, Batch::Settle(&changes)).await }
    }

    async fn finish_many<'c, DB: Backend>(
        operation: &'static str,
        db: impl Source<'c, DB>,
        batch: Vec<Self>,
        what: Batch<'_>,
    ) -> Result<Vec<Unfinished<T>>, FinishError>
    where
        T: QueueSql<DB>,
    {
        let results = Self::run_many(operation, db, &batch, what).await?;
        let unfinished = batch
            .into_iter()
            .zip(results)
            .filter_map(|(claimed, result)| {
                let error = result.err()?;
                Some(Unfinished { claimed, error })
            });
        Ok(unfinished.collect())
    }

    async fn run_many<'c, DB: Backend>(
        operation: &'static str,
        db: impl Source<'c, DB>,
        batch: &[Self],
        what: Batch<'_>,
    ) -> Result<Vec<Result<(), FinishError>>, FinishError>
    where
        T: QueueSql<DB>,
    {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let at = || Attempt::new(operation, T::TABLE, KeyText::default());
        let rows: Vec<&T> = batch.iter().map(|claimed| &claimed.row).collect();
        let mut opened = acquire(db, at).await?;
        let mut connection = opened.link();
        let in_transaction = in_transaction::<DB>(&connection);
        let fates = what
            .run_each::<DB, T>(&rows, Locks::Wait, &mut connection)
            .await
            .map_err(|error| FinishError::from(WriteFailure::new(at(), error, in_transaction)))?;
        let mut results = Vec::with_capacity(batch.len());
        for (index, (claimed, fate)) in batch.iter().zip(fates).enumerate() {
            let change = what.change(index);
            let finished = claimed.finished(operation, change, fate, &mut connection);
            results.push(finished.await);
        }
        Ok(results)
    }
}

async fn complete_one<DB: Backend, T: QueueSql<DB>>(
    at: Attempt,
    row: &T,
    in_transaction: bool,
    connection: &mut Link<'_, DB>,
) -> Result<(), FinishError> {
    let mut statement = Statement::<DB>::literal(T::COMPLETE);
    row.bind_key(&mut Compared(&mut statement));
    statement.bind_i64(row.fence().get());
    match statement.execute(connection).await {
        Ok(1) => Ok(()),
        Ok(_) => Err(unwritten(at, row, connection).await),
        Err(error) => Err(WriteFailure::new(at, error, in_transaction).into()),
    }
}

/// Looks at a row that was not written, although nothing was refused. A read: whatever happens to it, nothing was written.
async fn unwritten<DB: Backend, T: QueueSql<DB>>(
    at: Attempt,
    row: &T,
    connection: &mut Link<'_, DB>,
) -> FinishError {
    match look(row, connection).await {
        Ok(Fate::Refused(_)) => FinishError::Ignored(at),
        Ok(_) => FinishError::LeaseLost(at),
        Err(error) => WriteFailure::new(at, error, true).into(),
    }
}

async fn acquire<'c, DB: Backend, A: Source<'c, DB>>(
    db: A,
    at: impl Fn() -> Attempt,
) -> Result<A::Opened, FinishError> {
    db.open()
        .await
        .map_err(|error| FinishError::Database(DatabaseError::new(at(), error)))
}
