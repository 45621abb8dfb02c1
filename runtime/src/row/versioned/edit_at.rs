//! An edit at a version that the caller knows, without a copy of the row.

use std::fmt;
use std::future::Future;

use super::checked::{self, Checked, Failure, Met, Unwritten, Versions, Write};
use super::{Derive, Versioned, VersionedSql, select};
use crate::db::Backend;
use crate::db::as_read::Stored;
use crate::db::column::Column;
use crate::db::condition::{Field, Names, Operand, Side, TakesSet};
use crate::db::error::{DatabaseError, Operation};
use crate::db::model::Model;
use crate::db::source::Source;
use crate::db::statement::{Compared, Statement};
use crate::observe;
use crate::row::guarded::{GuardedSql, Set};

/// An edit of the row at a version: made by the generated `edit_at`.
///
/// `A` grows with every column you set.
#[must_use = "an edit does nothing until it is saved"]
pub struct EditAt<'k, T: Versioned, A = ()> {
    key: <T as Model<Derive>>::Key<'k>,
    version: i64,
    assignments: A,
}

/// Without the values: they do not belong in a log.
impl<T: Versioned, A> fmt::Debug for EditAt<'_, T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EditAt")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Starts an edit of the row with this key.
pub fn edit_at<T: Versioned>(key: <T as Model<Derive>>::Key<'_>, version: i64) -> EditAt<'_, T> {
    EditAt {
        key,
        version,
        assignments: (),
    }
}

/// A value for a column, if it is given.
#[doc(hidden)]
#[derive(Debug)]
pub struct Assignment<V> {
    field: usize,
    value: Option<Side<V>>,
}

/// What was set, in its order.
#[doc(hidden)]
pub trait Assignments<DB: Backend, T>: Send + Sync {
    fn is_empty(&self) -> bool;
    fn has(&self, field: usize) -> bool;
    /// The field that is set twice, if one is.
    fn twice(&self) -> Option<usize>;
    fn write(&self, to: &mut Set<DB, T>);
}

impl<DB: Backend, T: GuardedSql<DB>> Assignments<DB, T> for () {
    fn is_empty(&self) -> bool {
        true
    }

    fn has(&self, _: usize) -> bool {
        false
    }

    fn twice(&self) -> Option<usize> {
        None
    }

    fn write(&self, _: &mut Set<DB, T>) {}
}

impl<DB, T, A, V> Assignments<DB, T> for (A, Assignment<V>)
where
    DB: Backend,
    T: GuardedSql<DB>,
    A: Assignments<DB, T>,
    V: Column<DB> + Send,
{
    fn is_empty(&self) -> bool {
        self.1.value.is_none() && self.0.is_empty()
    }

    fn has(&self, field: usize) -> bool {
        (self.1.value.is_some() && self.1.field == field) || self.0.has(field)
    }

    fn twice(&self) -> Option<usize> {
        let again = self.1.value.is_some() && self.0.has(self.1.field);
        self.0.twice().or(again.then_some(self.1.field))
    }

    fn write(&self, to: &mut Set<DB, T>) {
        self.0.write(to);
        if let Some(value) = &self.1.value {
            to.assign(self.1.field, value);
        }
    }
}

impl<'k, T: Versioned, A> EditAt<'k, T, A> {
    /// Sets a column to a value, or to another column.
    ///
    /// Setting a column twice is [`SetTwice`](EditAtError::SetTwice), and nothing is sent.
    pub fn set<V, C: TakesSet>(
        self,
        field: Field<T, V, C>,
        value: impl Operand<T, V>,
    ) -> EditAt<'k, T, (A, Assignment<V>)> {
        self.assign(field, Some(value.into_side()))
    }

    /// Sets the column if there is a value: `None` leaves it as it is. To write NULL, pass `Some(None)`.
    pub fn set_if_some<V, C: TakesSet>(
        self,
        field: Field<T, V, C>,
        value: Option<impl Operand<T, V>>,
    ) -> EditAt<'k, T, (A, Assignment<V>)> {
        self.assign(field, value.map(Operand::into_side))
    }

    fn assign<V, C>(
        self,
        field: Field<T, V, C>,
        value: Option<Side<V>>,
    ) -> EditAt<'k, T, (A, Assignment<V>)> {
        let field = field.index();
        EditAt {
            key: self.key,
            version: self.version,
            assignments: (self.assignments, Assignment { field, value }),
        }
    }

    /// Writes what was set if the row has the version, raises the version, and returns the new row.
    ///
    /// If nothing was set, it writes nothing and returns the row if it has the version.
    ///
    /// # SQL
    ///
    /// `UPDATE t SET "column" = $2, "version" = "version" + 1 WHERE "key" = $1 AND … AND "version" = $3 RETURNING …`, the same on
    /// PostgreSQL and SQLite; if it meets no row, one SELECT of the current row.
    ///
    /// # Errors
    ///
    /// [`EditAtError`].
    ///
    /// # Cancel safety
    ///
    /// One statement: if you drop the future, it takes effect completely or not at all.
    pub fn save<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, EditAtError<T>>> + Send
    where
        T: VersionedSql<DB> + GuardedSql<DB>,
        A: Assignments<DB, T>,
    {
        <T as Model<Derive>>::observed::<DB, _>(METHOD, async move {
            if let Some(field) = self.assignments.twice() {
                let operation = Checked::<DB>::operation(&self, METHOD);
                let column = <T as Names<DB>>::NAMES[field];
                return Err(EditAtError::SetTwice(operation, column));
            }
            let nothing = self.assignments.is_empty();
            let written = if nothing {
                checked::look::<DB>(METHOD, &self, db).await
            } else {
                checked::write::<DB>(METHOD, &self, Write::Update, db).await
            };
            let read = <T as VersionedSql<DB>>::ROW;
            let failure = match written {
                Ok(row) => match read(&row) {
                    Ok(row) => return Ok(row),
                    Err(error) => {
                        let error =
                            DatabaseError::new(Checked::<DB>::operation(&self, METHOD), error);
                        if nothing {
                            Failure::Database(error)
                        } else {
                            Failure::Written(error)
                        }
                    }
                },
                Err(Unwritten::Met(met)) if met.found != met.expected => match read(&met.row) {
                    Ok(current) => return Err(EditAtError::Stale(outdated(met, current))),
                    Err(error) => met.undecoded(error),
                },
                Err(Unwritten::Met(met)) => Failure::Ignored(met.operation),
                Err(Unwritten::Failed(failure)) => failure,
            };
            Err(failure.into())
        })
    }
}

const METHOD: &str = "edit_at";

fn outdated<T, R>(met: Met<R>, current: T) -> Box<Outdated<T>> {
    observe::conflict(&met.operation);
    Box::new(Outdated {
        operation: met.operation,
        expected_version: met.expected,
        current_version: met.found,
        current,
    })
}

impl<DB: Backend, T, A> Checked<DB> for EditAt<'_, T, A>
where
    T: VersionedSql<DB> + GuardedSql<DB>,
    A: Assignments<DB, T>,
{
    fn operation(&self, method: &'static str) -> Operation {
        <T as Model<Derive>>::operation(method, &self.key)
    }

    fn versions(&self) -> Versions {
        Versions {
            expected: self.version,
            highest: T::MAX_VERSION,
            index: T::VERSION_INDEX,
            holds: None,
        }
    }

    fn statement(&self, _: Write, _: &Stored<DB>) -> Statement<DB> {
        let [head, middle, tail] = <T as GuardedSql<DB>>::UPDATE;
        let mut statement = Statement::composed(head);
        <T as VersionedSql<DB>>::bind_key(&self.key, &mut Compared(&mut statement));
        let mut set = Set::new(statement);
        self.assignments.write(&mut set);
        let mut statement = set.into_statement();
        statement.push(middle);
        statement.push(<T as Names<DB>>::NAMES[T::VERSION_INDEX]);
        statement.push(" = ");
        statement.push_parameter();
        statement.bind_i64(self.version);
        statement.push(tail);
        statement
    }

    fn look(&self, _: &Stored<DB>) -> Statement<DB> {
        select::<DB, T>(&self.key)
    }
}

/// Why an edit at a version did not happen.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EditAtError<T> {
    /// The row has another version. Nothing was written. Has the current row.
    #[error("{}: the row was changed since it was read: its version is {}, expected {}", .0.operation, .0.current_version, .0.expected_version)]
    Stale(Box<Outdated<T>>),
    /// The row does not exist: it was deleted, or never existed. Nothing was written.
    #[error("{0}: the row does not exist (any more)")]
    Gone(Operation),
    /// The row's version is NULL in the database, so it cannot be checked. Nothing was written.
    #[error("{0}: the version is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullVersion(Operation),
    /// The version is the highest of its type. Nothing was written.
    #[error("{0}: the version cannot go any higher; use a wider integer")]
    VersionOverflow(Operation),
    /// This column is set twice. Nothing was sent.
    #[error("{0}: column {1} is set twice")]
    SetTwice(Operation, &'static str),
    /// The row has this version, but a trigger, a row security policy or ON CONFLICT IGNORE (SQLite) dropped the update.
    #[error(
        "{0}: the version matches, but a trigger, a row security policy or ON CONFLICT IGNORE dropped the write"
    )]
    Ignored(Operation),
    /// The key is not unique in the database. Nothing was written.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The row was written, but the returned row does not fit the model; or on SQLite, a trigger failed afterwards and kept it: RAISE(FAIL) or ON
    /// CONFLICT FAIL. In a transaction the write takes effect at COMMIT.
    #[error("{0}; the row was written")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The write happened or it did not: load the row to find out.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

/// A row at another version than that of [`edit_at`](EditAt). What the caller has seen is unknown, so there is nothing to merge.
#[non_exhaustive]
pub struct Outdated<T> {
    /// The attempted operation and its row.
    pub operation: Operation,
    /// The version that was given.
    pub expected_version: i64,
    /// The version of the row as it is now.
    pub current_version: i64,
    /// The current row.
    pub current: T,
}

/// Without the row: it does not belong in a log.
impl<T> fmt::Debug for Outdated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outdated")
            .field("operation", &self.operation)
            .field("expected_version", &self.expected_version)
            .field("current_version", &self.current_version)
            .finish_non_exhaustive()
    }
}

/// Without the row: it does not belong in a log.
impl<T> fmt::Debug for EditAtError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (variant, inner): (_, &dyn fmt::Debug) = match self {
            Self::Stale(outdated) => ("Stale", outdated),
            Self::Gone(operation) => ("Gone", operation),
            Self::NullVersion(operation) => ("NullVersion", operation),
            Self::VersionOverflow(operation) => ("VersionOverflow", operation),
            Self::SetTwice(operation, _) => ("SetTwice", operation),
            Self::Ignored(operation) => ("Ignored", operation),
            Self::NotUnique(operation) => ("NotUnique", operation),
            Self::Written(error) => ("Written", error),
            Self::Serialization(error) => ("Serialization", error),
            Self::Unknown(error) => ("Unknown", error),
            Self::Database(error) => ("Database", error),
        };
        f.debug_tuple(variant).field(inner).finish()
    }
}

impl<T> From<Failure> for EditAtError<T> {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Gone(operation) => Self::Gone(operation),
            Failure::NullVersion(operation) => Self::NullVersion(operation),
            Failure::VersionOverflow(operation) => Self::VersionOverflow(operation),
            // No fence is shown here: models with one do not derive `Guarded`.
            Failure::Ignored(operation) | Failure::Fenced(operation, _) => Self::Ignored(operation),
            Failure::NotUnique(operation) => Self::NotUnique(operation),
            Failure::Written(error) => Self::Written(error),
            Failure::Serialization(error) => Self::Serialization(error),
            Failure::Unknown(error) => Self::Unknown(error),
            Failure::Database(error) => Self::Database(error),
        }
    }
}
