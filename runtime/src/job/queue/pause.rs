//! Jobs that are not given out for a while.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::QueueSql;
use super::claim::waited_for;
use crate::db::Backend;
use crate::db::column::Column;
use crate::db::condition::Field;
use crate::db::error::{DatabaseError, Operation};
use crate::db::model::acquire;
use crate::db::source::{Opened, Source};
use crate::db::statement::{Bind, Statement};

/// The statements about pauses, if the model has a table of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be paused: it has no table of pauses",
    label = "needs `pauses = \"…\"`",
    note = "name a table beside that of the queue, which `ddl()` then creates: `#[rowlock(pauses = \"email_pauses\")]`"
)]
pub trait PauseSql<DB: Backend>: QueueSql<DB> {
    /// Names of columns, then values, between the three parts.
    const PAUSE: [&'static str; 3];
    /// A condition for each column between the two parts.
    const RESUME: [&'static str; 2];
    /// Seconds; then for each column 1 or 0, and the value as a text.
    const PAUSES: &'static str;
    /// The fields by which jobs can be paused, and their places among the columns.
    const FILTERS: &'static [(&'static str, usize)];
}

/// Why nothing was paused or resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    /// The value of this column is NULL, which in the table of pauses stands for any value. Nothing was sent.
    #[error("{0}: {1} is NULL, and jobs with NULL there cannot be paused by it")]
    Null(Operation, &'static str),
    /// A field is not marked `#[rowlock(filter)]`. Nothing was sent.
    #[error("{0}: jobs can only be paused by columns marked `filter`")]
    NotAFilter(Operation),
    /// This column was given two values. Nothing was sent.
    #[error("{0}: {1} is given twice")]
    GivenTwice(Operation, &'static str),
    /// The database, the connection or the pool failed. If the connection was lost, call it again: the second time changes nothing.
    #[error(transparent)]
    Database(DatabaseError),
}

/// A pause of the jobs that have certain values, or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Paused {
    /// The values, as the database writes them as texts, with their columns. None: all jobs are paused.
    pub only: Vec<(&'static str, String)>,
    /// For how long it has been, by the clock of the database.
    pub since: Duration,
}

#[derive(Clone, Copy)]
enum What {
    Pause,
    Resume,
}

type Push<DB> = Box<dyn Fn(&mut Statement<DB>) + Send + Sync>;

/// A value that jobs must have.
struct Given<DB: Backend> {
    index: usize,
    is_null: bool,
    push: Push<DB>,
}

/// A pause that is about to be made or ended; `.await` does it.
#[must_use = "nothing is paused or resumed until this is awaited"]
pub struct Pause<'c, DB: Backend, T, A> {
    db: A,
    what: What,
    given: Vec<Given<DB>>,
    /// Those of [`PauseSql`]: only the function asks for it, so that a model without it is one error.
    pause: [&'static str; 3],
    resume: [&'static str; 2],
    filters: &'static [(&'static str, usize)],
    lifetime: PhantomData<&'c ()>,
    types: PhantomData<fn() -> T>,
}

impl<DB: Backend, T, A> std::fmt::Debug for Pause<'_, DB, T, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pause")
            .field("method", &self.what.method())
            .finish_non_exhaustive()
    }
}

impl What {
    fn method(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// A pause of all jobs.
pub fn pause<'c, DB, T, A>(db: A) -> Pause<'c, DB, T, A>
where
    DB: Backend,
    T: PauseSql<DB>,
    A: Source<'c, DB> + 'c,
{
    about(db, What::Pause)
}

/// The end of the pause of all jobs.
pub fn resume<'c, DB, T, A>(db: A) -> Pause<'c, DB, T, A>
where
    DB: Backend,
    T: PauseSql<DB>,
    A: Source<'c, DB> + 'c,
{
    about(db, What::Resume)
}

fn about<'c, DB: Backend, T: PauseSql<DB>, A>(db: A, what: What) -> Pause<'c, DB, T, A> {
    Pause {
        db,
        what,
        given: Vec::new(),
        pause: T::PAUSE,
        resume: T::RESUME,
        filters: T::FILTERS,
        lifetime: PhantomData,
        types: PhantomData,
    }
}

impl<DB: Backend, T, A> Pause<'_, DB, T, A> {
    /// The pause of the jobs that have this value in the column, and the others that are given; each column once. It is another pause than that of all jobs, or
    /// of fewer columns. NULL cannot be paused: [`PauseError::Null`].
    pub fn only<V, W>(mut self, field: Field<T, V, W>, value: impl Into<V>) -> Self
    where
        V: Column<DB> + Send + 'static,
    {
        let value = value.into();
        self.given.push(Given {
            index: field.index(),
            is_null: DB::is_null(&value),
            push: Box::new(move |statement| {
                statement.push_parameter();
                statement.bind(0, &value);
            }),
        });
        self
    }

    /// Refuses what the table of pauses cannot say.
    fn check(&self, at: &dyn Fn() -> Operation) -> Result<(), PauseError> {
        for (place, given) in self.given.iter().enumerate() {
            let mut filters = self.filters.iter();
            let Some((name, _)) = filters.find(|(_, index)| *index == given.index) else {
                return Err(PauseError::NotAFilter(at()));
            };
            if given.is_null {
                return Err(PauseError::Null(at(), name));
            }
            let mut before = self.given.iter().take(place);
            if before.any(|other| other.index == given.index) {
                return Err(PauseError::GivenTwice(at(), name));
            }
        }
        Ok(())
    }

    /// `columns`: how each column of the model is written.
    fn statement(&self, columns: &'static [&'static str]) -> Statement<DB> {
        match self.what {
            What::Pause => {
                let [head, values, tail] = self.pause;
                let mut statement = Statement::composed(head);
                for given in &self.given {
                    statement.push(", ");
                    statement.push(columns[given.index]);
                }
                statement.push(values);
                for given in &self.given {
                    statement.push(", ");
                    (given.push)(&mut statement);
                }
                statement.push(tail);
                statement
            }
            What::Resume => {
                let [head, tail] = self.resume;
                let mut statement = Statement::composed(head);
                for (_, index) in self.filters {
                    statement.push(" AND ");
                    statement.push(columns[*index]);
                    match self.given.iter().find(|given| given.index == *index) {
                        Some(given) => {
                            statement.push(" = ");
                            (given.push)(&mut statement);
                        }
                        None => statement.push(" IS NULL"),
                    }
                }
                statement.push(tail);
                statement
            }
        }
    }
}

impl<'c, DB, T, A> IntoFuture for Pause<'c, DB, T, A>
where
    DB: Backend,
    T: QueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    type Output = Result<bool, PauseError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let at = || T::operation_on_many(self.what.method());
        let statement = self.check(&at).map(|()| self.statement(T::COLUMNS));
        let method = self.what.method();
        Box::pin(T::observed::<DB, _>(method, async move {
            let at = || T::operation_on_many(method);
            let statement = statement?;
            let opened = acquire(self.db, &at).await;
            let mut opened = opened.map_err(PauseError::Database)?;
            let changed = statement.execute(&mut opened.link()).await;
            let failed = |error| PauseError::Database(DatabaseError::new(at(), error));
            Ok(changed.map_err(failed)? > 0)
        }))
    }
}

/// All pauses, the oldest first.
pub fn pauses<'c, DB: Backend, T: PauseSql<DB>>(
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<Vec<Paused>, DatabaseError>> + Send {
    T::observed::<DB, _>("pauses", async move {
        let at = || T::operation_on_many("pauses");
        let mut opened = acquire(db, &at).await?;
        let statement = Statement::<DB>::literal(T::PAUSES);
        let rows = statement.fetch_all(&mut opened.link()).await;
        let pauses = rows.and_then(|rows| rows.iter().map(read::<DB, T>).collect());
        pauses.map_err(|error| DatabaseError::new(at(), error))
    })
}

fn read<DB: Backend, T: PauseSql<DB>>(row: &DB::Row) -> Result<Paused, sqlx::Error> {
    let mut only = Vec::new();
    for (place, (column, _)) in T::FILTERS.iter().enumerate() {
        let place = 1 + 2 * place;
        if DB::get_i64(row, place)? == Some(1) {
            only.push((*column, DB::get_text(row, place + 1)?));
        }
    }
    let since = waited_for(DB::get_f64(row, 0)?);
    Ok(Paused { only, since })
}
