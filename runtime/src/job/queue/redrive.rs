//! Dead rows that get another chance.

use std::future::IntoFuture;
use std::marker::PhantomData;

use futures_util::future::BoxFuture;

use super::QueueSql;
use super::aside::Refused;
use super::column::Conditions;
use super::sweep::Sweep;
use crate::db::Backend;
use crate::db::column::Column;
use crate::db::condition::{Condition, Expression, Field};
use crate::db::error::DatabaseError;
use crate::db::model::acquire;
use crate::db::source::{Opened, Source};
use crate::db::statement::Statement;

/// How many dead rows were made ready again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redriven {
    /// Rows that can be claimed again.
    pub ready: u64,
    /// Rows that the database does not let be ready again. They are dead as they were.
    pub refused: u64,
}

/// A redrive that is about to be made; `.await` makes it.
#[must_use = "nothing is made ready until this is awaited"]
pub struct Redrive<'c, DB: Backend, T, A> {
    db: A,
    limit: u64,
    conditions: Conditions<DB>,
    lifetime: PhantomData<&'c ()>,
    types: PhantomData<fn() -> T>,
}

impl<DB: Backend, T, A> std::fmt::Debug for Redrive<'_, DB, T, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redrive")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// A redrive of all dead rows.
pub fn redrive<'c, DB, T, A>(db: A) -> Redrive<'c, DB, T, A>
where
    DB: Backend,
    A: Source<'c, DB> + 'c,
{
    Redrive {
        db,
        limit: u64::MAX,
        conditions: Conditions::default(),
        lifetime: PhantomData,
        types: PhantomData,
    }
}

impl<DB: Backend, T, A> Redrive<'_, DB, T, A> {
    /// Only rows that have this value in the column; `None` means NULL. Several conditions must all be met.
    pub fn only<V, W>(mut self, field: Field<T, V, W>, value: impl Into<V>) -> Self
    where
        T: QueueSql<DB>,
        V: Column<DB> + Send + 'static,
    {
        self.conditions.only(field, value.into());
        self
    }

    /// Only rows that meet this condition. Several must all be met.
    pub fn when<E>(mut self, condition: Condition<T, E>) -> Self
    where
        T: QueueSql<DB>,
        E: Expression<DB> + 'static,
    {
        self.conditions.when(condition);
        self
    }

    /// So many rows at most, those first that a claim would have taken first. Defaults to all.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = rows as u64;
        self
    }
}

impl<'c, DB, T, A> IntoFuture for Redrive<'c, DB, T, A>
where
    DB: Backend,
    T: QueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    type Output = Result<Redriven, DatabaseError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(T::observed::<DB, _>("redrive", async move {
            let at = || T::operation_on_many("redrive");
            let mut opened = acquire(self.db, &at).await?;
            let bind = |statement: &mut Statement<DB>, limit| {
                statement.bind_i64(limit);
                self.conditions.push(statement);
            };
            let sweep = Sweep {
                method: "redrive",
                write: T::REDRIVE,
                list: T::LIST_DEAD,
                bind: &bind,
            };
            let mut refused = Refused::default();
            let mut connection = opened.link();
            let page = sweep.page::<T>(self.limit, false, &mut refused, &mut connection);
            let page = page
                .await
                .map_err(|error| DatabaseError::new(at(), error))?;
            for error in &page.errors {
                tracing::warn!(%error, "a dead row could not be made ready");
            }
            Ok(Redriven {
                ready: page.written,
                refused: page.errors.len() as u64,
            })
        }))
    }
}
