//! Claims and rescues.

use super::aside::{BadRow, Found, Look, Refused, rescue_on};
use super::claimed::{Backoff, Claimed};
use super::column::Conditions;
use super::error::ClaimError;
use super::turns::Turn;
use super::{LEASE, QueueSql};
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::column::Column;
use crate::db::condition::{Condition, Expression, Field};
use crate::db::error::{DatabaseError, WriteFailure};
use crate::db::model::acquire;
use crate::db::source::{Opened, Source};
use crate::db::statement::Statement;
use futures_util::future::BoxFuture;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::time::Duration;

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

/// Which rows are claimed, and for how long.
pub(crate) struct Claims<DB: Backend> {
    pub(crate) lease: Duration,
    pub(crate) backoff: Backoff,
    conditions: Conditions<DB>,
    pub(super) turn: Turn<DB>,
}

impl<DB: Backend> Default for Claims<DB> {
    fn default() -> Self {
        Self {
            lease: LEASE,
            backoff: Backoff::default(),
            conditions: Conditions::default(),
            turn: Turn::default(),
        }
    }
}

impl<DB: Backend> Clone for Claims<DB> {
    fn clone(&self) -> Self {
        Self {
            lease: self.lease,
            backoff: self.backoff,
            conditions: self.conditions.clone(),
            turn: Turn::default(),
        }
    }
}

impl<DB: Backend> Claims<DB> {
    pub(crate) fn only<T, V, W>(&mut self, field: Field<T, V, W>, value: V)
    where
        T: QueueSql<DB>,
        V: Column<DB> + Send + 'static,
    {
        self.conditions.only(field, value);
    }

    pub(crate) fn when<T, E>(&mut self, condition: Condition<T, E>)
    where
        T: QueueSql<DB>,
        E: Expression<DB> + 'static,
    {
        self.conditions.when(condition);
    }

    pub(super) fn push_conditions(&self, to: &mut Statement<DB>) {
        self.conditions.push(to);
    }
}

/// Any number can be in the table: also the infinite time since `-infinity`.
pub(super) fn waited_for(seconds: f64) -> Duration {
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
    pub fn only<V, W>(mut self, field: Field<T, V, W>, value: impl Into<V>) -> Self
    where
        T: QueueSql<DB>,
        V: Column<DB> + Send + 'static,
    {
        self.claims.only(field, value.into());
        self
    }

    /// Claims only rows that meet this condition, as [`only_if`](crate::row::Edit::only_if) has it. Several must all be met.
    ///
    /// Rows that do not meet it are read and passed over: see [Conditions](derive@crate::Queue#conditions).
    pub fn when<E>(mut self, condition: Condition<T, E>) -> Self
    where
        T: QueueSql<DB>,
        E: Expression<DB> + 'static,
    {
        self.claims.when(condition);
        self
    }

    /// Calls this for each row that cannot be given out: one that does not fit the model, that the database refuses to write, or whose
    /// write a trigger drops.
    ///
    /// Such a row is not among those that are returned, and keeps none of them. It has had an attempt: it is due again after
    /// a random time, or [`QueueState::Dead`](crate::queue::QueueState::Dead) if that was its last one, with the reason as its last error; or as it was, if that cannot be written. It is logged as well.
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
        Box::pin(T::observed::<DB, _>("claim", async move {
            if self.limit == 0 {
                return Ok(Vec::new());
            }
            let at = || T::operation_on_many("claim");
            let mut opened = acquire(self.db, &at).await.map_err(ClaimError::Database)?;
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
        }))
    }
}

/// Two claims as if they had been one. A row whose lease ended in between has been claimed twice; the greater fence holds.
fn merge<DB: Backend, T: QueueSql<DB>>(claimed: &mut Vec<Claimed<T>>, more: Vec<Claimed<T>>) {
    claimed.extend(more);
    claimed.sort_by(|one, other| {
        let order = one.row.order(&other.row);
        order.then_with(|| other.row.claimed_as().cmp(&one.row.claimed_as()))
    });
    claimed.dedup_by(|one, other| one.row.order(&other.row).is_eq());
}

/// Takes back the rows whose leases have ended.
pub fn rescue<'c, DB: Backend, T: QueueSql<DB>>(
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<Rescued, DatabaseError>> + Send {
    T::observed::<DB, _>("rescue", async move {
        let at = || T::operation_on_many("rescue");
        let mut opened = acquire(db, &at).await?;
        let mut refused = Refused::default();
        let rescued = rescue_on::<DB, T>(&mut refused, Look::Always, &mut opened.link()).await;
        rescued.map_err(|error| DatabaseError::new(at(), error))
    })
}
