//! The end of rows that have ended.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::QueueSql;
use super::aside::Refused;
use super::sweep::Sweep;
use crate::db::Backend;
use crate::db::error::DatabaseError;
use crate::db::model::acquire;
use crate::db::source::{Opened, Source};
use crate::db::statement::Statement;

/// So many rows are deleted by a statement unless it says otherwise.
const BATCH: u64 = 1000;
/// With more rows than this that cannot be deleted, the table has to be mended first.
const MOST_REFUSED: usize = 1000;

/// The statements of a purge, if the model can be purged. Each for the rows that are done, and for those that are dead as well.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be purged: it does not keep when a job was done",
    label = "needs a `finished` column",
    note = "add the column to the table, nullable, and to the struct: `#[rowlock(finished)] finished_at: Option<DateTime<Utc>>`",
    note = "a `bool` says that a job was done, and not when",
    note = "with `done = delete` no job is kept that was done, and none has to be purged"
)]
pub trait PurgeSql<DB: Backend>: QueueSql<DB> {
    /// How many, seconds; then the values of the conditions between the two parts.
    const PURGE: [[&'static str; 2]; 2];
    /// What a purge would delete, in the same way. Returns key, fence, attempts.
    const LIST_OLD: [[&'static str; 2]; 2];
}

/// A purge that is about to be made; `.await` makes it.
#[must_use = "nothing is deleted until this is awaited"]
pub struct Purge<'c, DB, T, A> {
    db: A,
    older_than: Duration,
    also_dead: bool,
    batch: u64,
    /// Those of [`PurgeSql`]: only the function asks for it, so that a model without it is one error.
    statements: [[[&'static str; 2]; 2]; 2],
    lifetime: PhantomData<&'c ()>,
    types: PhantomData<fn() -> (DB, T)>,
}

impl<DB, T, A> std::fmt::Debug for Purge<'_, DB, T, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purge")
            .field("older_than", &self.older_than)
            .field("also_dead", &self.also_dead)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// A purge of the rows that ended longer ago than that.
pub fn purge<'c, DB, T, A>(db: A, older_than: Duration) -> Purge<'c, DB, T, A>
where
    DB: Backend,
    T: PurgeSql<DB>,
    A: Source<'c, DB> + 'c,
{
    Purge {
        db,
        older_than,
        also_dead: false,
        batch: BATCH,
        statements: [T::PURGE, T::LIST_OLD],
        lifetime: PhantomData,
        types: PhantomData,
    }
}

impl<DB, T, A> Purge<'_, DB, T, A> {
    /// Deletes dead rows as well.
    pub fn dead(mut self) -> Self {
        self.also_dead = true;
        self
    }

    /// How many rows a statement deletes at most. Defaults to 1,000; minimum 1.
    pub fn batch(mut self, rows: usize) -> Self {
        self.batch = (rows as u64).max(1);
        self
    }
}

impl<'c, DB, T, A> IntoFuture for Purge<'c, DB, T, A>
where
    DB: Backend,
    T: QueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    type Output = Result<u64, DatabaseError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(T::observed::<DB, _>("purge", async move {
            let at = || T::operation_on_many("purge");
            let mut opened = acquire(self.db, &at).await?;
            let mut connection = opened.link();
            let begun = Instant::now();
            // Rows that become old while it runs are left to the next one, or it would run for as long as jobs are done.
            let bind = |statement: &mut Statement<DB>, limit| {
                statement.bind_i64(limit);
                statement.bind_seconds(self.older_than.saturating_add(begun.elapsed()));
            };
            let [write, list] = self.statements.map(|[done, ended]| match self.also_dead {
                false => done,
                true => ended,
            });
            let sweep = Sweep {
                method: "purge",
                write,
                list,
                bind: &bind,
            };
            let mut refused = Refused::default();
            let (mut purged, mut first) = (0, None);
            loop {
                let page = sweep.page::<T>(self.batch, true, &mut refused, &mut connection);
                let page = page
                    .await
                    .map_err(|error| DatabaseError::new(at(), error))?;
                purged += page.written;
                for error in page.errors {
                    tracing::warn!(%error, "a row cannot be deleted");
                    first.get_or_insert(error);
                }
                if !page.full || refused.keys.len() > MOST_REFUSED {
                    return first.map_or(Ok(purged), Err);
                }
            }
        }))
    }
}
