//! How a queue stands.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::QueueSql;
use super::claim::waited_for;
use super::column::Conditions;
use crate::db::Backend;
use crate::db::column::Column;
use crate::db::condition::{Condition, Expression, Field};
use crate::db::error::DatabaseError;
use crate::db::model::acquire;
use crate::db::source::{Opened, Source};
use crate::db::statement::{Fetched, Statement};

/// How many rows a queue has in which state, at one moment. Rows that are done are not counted, as no index has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Rows that can be claimed now or later.
    pub ready: u64,
    /// Those of them that can be claimed now.
    pub due: u64,
    /// For how long the oldest of these has been due, by the clock of the database; `None` if none is due. A row whose time is NULL does
    /// not say, and counts as due since now.
    pub oldest_due: Option<Duration>,
    /// Rows that a claim holds.
    pub running: u64,
    /// Those of them whose leases have ended, and which nobody has taken back yet.
    pub overdue: u64,
    /// Rows that were given up.
    pub dead: u64,
}

/// A look at a queue that is about to be made; `.await` makes it.
#[must_use = "nothing is read until this is awaited"]
pub struct ReadStats<'c, DB: Backend, T, A> {
    db: A,
    conditions: Conditions<DB>,
    lifetime: PhantomData<&'c ()>,
    types: PhantomData<fn() -> T>,
}

impl<DB: Backend, T, A> std::fmt::Debug for ReadStats<'_, DB, T, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadStats").finish_non_exhaustive()
    }
}

/// A look at all rows that are not done.
pub fn stats<'c, DB, T, A>(db: A) -> ReadStats<'c, DB, T, A>
where
    DB: Backend,
    A: Source<'c, DB> + 'c,
{
    ReadStats {
        db,
        conditions: Conditions::default(),
        lifetime: PhantomData,
        types: PhantomData,
    }
}

impl<DB: Backend, T, A> ReadStats<'_, DB, T, A> {
    /// Counts only rows that have this value in the column; `None` means NULL. Several conditions must all be met.
    pub fn only<V, W>(mut self, field: Field<T, V, W>, value: impl Into<V>) -> Self
    where
        T: QueueSql<DB>,
        V: Column<DB> + Send + 'static,
    {
        self.conditions.only(field, value.into());
        self
    }

    /// Counts only rows that meet this condition. Several must all be met.
    pub fn when<E>(mut self, condition: Condition<T, E>) -> Self
    where
        T: QueueSql<DB>,
        E: Expression<DB> + 'static,
    {
        self.conditions.when(condition);
        self
    }
}

impl<'c, DB, T, A> IntoFuture for ReadStats<'c, DB, T, A>
where
    DB: Backend,
    T: QueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    type Output = Result<QueueStats, DatabaseError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(T::observed::<DB, _>("stats", async move {
            let at = || T::operation_on_many("stats");
            let mut opened = acquire(self.db, &at).await?;
            let [head, rest @ ..] = T::STATS;
            let mut statement = Statement::<DB>::composed(head);
            for part in rest {
                self.conditions.push(&mut statement);
                statement.push(part);
            }
            let read = match statement.fetch_one(&mut opened.link()).await {
                Ok(Fetched::One(row)) => read::<DB>(&row),
                Ok(Fetched::None | Fetched::Several) => Err(sqlx::Error::RowNotFound),
                Err(error) => Err(error),
            };
            read.map_err(|error| DatabaseError::new(at(), error))
        }))
    }
}

fn read<DB: Backend>(row: &DB::Row) -> Result<QueueStats, sqlx::Error> {
    let count = |index| {
        let count = DB::get_i64(row, index)?.unwrap_or_default();
        Ok::<_, sqlx::Error>(count.unsigned_abs())
    };
    let due = count(1)?;
    let oldest = waited_for(DB::get_f64(row, 2)?);
    Ok(QueueStats {
        ready: count(0)?,
        due,
        oldest_due: (due > 0).then_some(oldest),
        running: count(3)?,
        overdue: count(4)?,
        dead: count(5)?,
    })
}
