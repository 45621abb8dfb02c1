//! Optimistic locking: updates and deletes that check the version they were based on.

mod conflict;
mod edit;
mod error;

use std::future::Future;
use std::time::Duration;

use self::conflict::Clash;
pub use self::conflict::{Conflict, MergeError};
pub use self::edit::Edit;
pub use self::error::{DeleteError, LoadError, UpdateError};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::atomic::{Reruns, in_transaction};
use crate::db::column::{Changes, Read};
use crate::db::error::{DatabaseError, Operation, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::model::{Model, acquire};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Fetched, Statement, write_one};
use crate::db::stored;

/// How often `update_with` loads and applies before it gives up.
const ATTEMPTS: u32 = 32;
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

/// The derive, for [`Model`].
#[derive(Debug)]
pub struct Derive;

/// What `#[derive(Versioned)]` knows about a model beyond that, the same for every database.
pub trait Versioned: for<'k> Model<Derive, Key<'k>: PartialEq> {
    /// The highest version that the field's type can hold.
    const MAX_VERSION: i64;
    /// Where the version stands among all columns.
    const VERSION_INDEX: usize;
    /// The fields that an update writes.
    const COLUMNS: &'static [&'static str];

    /// `Clone`, which is not a supertrait because the compiler would complain about a missing one five times.
    const COPY: fn(&Self) -> Self;

    /// The key of this row.
    fn key(&self) -> Self::Key<'_>;
    /// The columns whose values differ in any of the model's databases.
    fn changes(&self, other: &Self) -> Changes;
    /// Takes over the given columns, and the fence.
    fn adopt(&mut self, from: &Self, columns: &Changes);
}

/// The statements of a model for one database.
pub trait VersionedSql<DB: Backend>: Versioned {
    /// Reads all columns.
    const ROW: Read<DB, Self>;
    /// Reads all columns.
    const LOAD: &'static str;
    /// Writes all columns and the next version.
    const UPDATE: &'static str;
    /// Writes the next version.
    const TOUCH: &'static str;
    /// Deletes the row.
    const DELETE: &'static str;
    /// Writes some columns and the next version: what stands before the changed columns.
    const SAVE_HEAD: &'static str;
    /// What stands behind them.
    const SAVE_TAIL: &'static str;
    /// `"name" = ` for each of `Versioned::COLUMNS`.
    const SET: &'static [&'static str];

    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds `Versioned::COLUMNS`.
    fn bind_columns(&self, to: &mut impl Bind<DB>);
    /// Takes over what the database changed, from a row of a RETURNING clause.
    fn read_back(&mut self, row: &DB::Row) -> Result<(), sqlx::Error>;

    /// The columns whose values differ in this database.
    fn stored_changes(&self, other: &Self) -> Changes {
        stored::changes::<DB>(&|to| self.bind_columns(to), &|to| other.bind_columns(to))
    }
}

from_write_failure!(UpdateError<T>, DeleteError<T>);

fn operation<T: Versioned>(row: &T, method: &'static str) -> Operation {
    T::operation(method, &row.key())
}

/// The key and the version that the row must still have, and the fence that it must not have seen pass.
fn bind_unchanged<DB: Backend, T: VersionedSql<DB>>(row: &T, statement: &mut Statement<DB>) {
    T::bind_key(&row.key(), &mut Compared(statement));
    statement.bind_i64(row.version().unwrap_or_default());
    if let Some(fence) = row.fence() {
        statement.bind_i64(fence.get());
    }
}

fn select<DB: Backend, T: VersionedSql<DB>>(key: &T::Key<'_>) -> Statement<DB> {
    let mut statement = Statement::literal(T::LOAD);
    T::bind_key(key, &mut Compared(&mut statement));
    statement
}

/// A row as the database has it, with its version.
enum Stored<T> {
    Row(T, i64),
    NullVersion,
    Missing,
    Several,
}

fn stored<DB: Backend, T: VersionedSql<DB>>(
    selected: Fetched<DB::Row>,
) -> Result<Stored<T>, sqlx::Error> {
    let row = match selected {
        Fetched::One(row) => row,
        Fetched::None => return Ok(Stored::Missing),
        Fetched::Several => return Ok(Stored::Several),
    };
    match DB::get_i64(&row, T::VERSION_INDEX)? {
        Some(version) => Ok(Stored::Row((T::ROW)(&row)?, version)),
        None => Ok(Stored::NullVersion),
    }
}

/// Starts an edit of a copy.
pub fn edit<T: Versioned>(row: &T) -> Edit<T> {
    Edit::new((T::COPY)(row))
}

/// Reads the row with this key.
pub fn load<'c, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<T, LoadError>> + Send {
    read("load", db, key)
}

/// Reads the row again.
pub fn reload<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<T, LoadError>> + Send {
    read("reload", db, row.key())
}

async fn read<'c, DB: Backend, T: VersionedSql<DB>>(
    method: &'static str,
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> Result<T, LoadError> {
    let operation = || T::operation(method, &key);
    let mut opened = acquire(db, &operation).await.map_err(LoadError::Database)?;
    let selected = select::<DB, T>(&key).fetch_one(&mut opened.link()).await;
    match selected.and_then(stored::<DB, T>) {
        Ok(Stored::Row(row, _)) => Ok(row),
        Ok(Stored::NullVersion) => Err(LoadError::NullVersion(operation())),
        Ok(Stored::Missing) => Err(LoadError::NotFound(operation())),
        Ok(Stored::Several) => Err(LoadError::NotUnique(operation())),
        Err(error) => Err(LoadError::Database(DatabaseError::new(operation(), error))),
    }
}

/// Writes all columns if the row still has the version of this copy.
pub fn update<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    async move { write("update", row, None, &|| update_statement(row), db).await }
}

fn update_statement<DB: Backend, T: VersionedSql<DB>>(row: &T) -> Statement<DB> {
    let mut statement = Statement::literal(T::UPDATE);
    row.bind_columns(&mut statement);
    bind_unchanged(row, &mut statement);
    statement
}

/// Bumps the version, and lets the database renew what it generates.
pub fn touch<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    async move {
        let statement = || {
            let mut statement = Statement::literal(T::TOUCH);
            bind_unchanged(row, &mut statement);
            statement
        };
        write("touch", row, None, &statement, db).await
    }
}

/// Runs an UPDATE that checks the version of `mine` and returns what the database changed.
async fn write<'c, DB: Backend, T: VersionedSql<DB>>(
    method: &'static str,
    mine: &T,
    base: Option<&T>,
    statement: &(dyn Fn() -> Statement<DB> + Sync),
    db: impl Source<'c, DB>,
) -> Result<T, UpdateError<T>> {
    let operation = || operation(mine, method);
    let mut opened = acquire(db, &operation)
        .await
        .map_err(UpdateError::Database)?;
    has_room(mine, method)?;
    let look = || select::<DB, T>(&mine.key());
    let outcome = write_checked(statement, &look, &mut opened.link()).await;
    updated::<DB, T>(method, mine, base, outcome)
}

/// In SQL an overflow is an error on one database and a floating-point number on another; here it is neither.
fn has_room<T: Versioned>(mine: &T, method: &'static str) -> Result<(), UpdateError<T>> {
    if mine.version() == Some(T::MAX_VERSION) {
        return Err(UpdateError::VersionOverflow(operation(mine, method)));
    }
    Ok(())
}

/// What became of a write that checks the row.
enum Outcome<W, R> {
    Written(W),
    Several,
    /// It met no row, and this is what is there.
    Refused(Result<Fetched<R>, sqlx::Error>),
    Failed {
        error: sqlx::Error,
        has_written: bool,
        in_transaction: bool,
    },
}

/// Runs an UPDATE on a connection, and if it meets no row, looks at what is there. It knows no model, so that it is compiled once.
async fn write_checked<DB: Backend>(
    statement: &(dyn Fn() -> Statement<DB> + Sync),
    look: &(dyn Fn() -> Statement<DB> + Sync),
    connection: &mut Link<'_, DB>,
) -> Outcome<DB::Row, DB::Row> {
    let in_transaction = in_transaction::<DB>(connection);
    match write_one(statement, connection).await {
        Ok(Fetched::One(row)) => Outcome::Written(row),
        Ok(Fetched::Several) => Outcome::Several,
        Ok(Fetched::None) => Outcome::Refused(look().fetch_one(connection).await),
        Err(error) => Outcome::Failed {
            has_written: DB::has_written(connection, &error).await,
            in_transaction,
            error,
        },
    }
}

/// The same of a DELETE.
async fn delete_checked<DB: Backend>(
    statement: &(dyn Fn() -> Statement<DB> + Sync),
    look: &(dyn Fn() -> Statement<DB> + Sync),
    connection: &mut Link<'_, DB>,
) -> Outcome<(), DB::Row> {
    let in_transaction = in_transaction::<DB>(connection);
    let mut reruns = Reruns::new(in_transaction);
    loop {
        return match statement().execute(connection).await {
            Ok(0) => Outcome::Refused(look().fetch_one(connection).await),
            Ok(1) => Outcome::Written(()),
            Ok(_) => Outcome::Several,
            Err(error) if reruns.after(Fault::of(&error)).await => continue,
            Err(error) => Outcome::Failed {
                has_written: DB::has_written(connection, &error).await,
                in_transaction,
                error,
            },
        };
    }
}

/// The row as it now is.
fn updated<DB: Backend, T: VersionedSql<DB>>(
    method: &'static str,
    mine: &T,
    base: Option<&T>,
    outcome: Outcome<DB::Row, DB::Row>,
) -> Result<T, UpdateError<T>> {
    let refused = match outcome {
        Outcome::Written(row) => {
            let mut updated = (T::COPY)(mine);
            if let Err(error) = updated.read_back(&row) {
                let error = DatabaseError::new(operation(mine, method), error);
                return Err(UpdateError::Written(error));
            }
            // What a trigger returned instead of the new row is what RETURNING shows: here the old one.
            if updated.version() == mine.version() {
                return Err(UpdateError::Ignored(operation(mine, method)));
            }
            return Ok(updated);
        }
        Outcome::Several => return Err(UpdateError::NotUnique(operation(mine, method))),
        Outcome::Failed {
            error,
            has_written: true,
            ..
        } => {
            let error = DatabaseError::new(operation(mine, method), error);
            return Err(UpdateError::Written(error));
        }
        Outcome::Failed {
            error,
            in_transaction,
            ..
        } => return Err(WriteFailure::new(operation(mine, method), error, in_transaction).into()),
        Outcome::Refused(selected) => refused::<DB, T>(method, mine, base, selected)?,
    };
    Err(match refused {
        Refused::Stale(conflict) => UpdateError::Stale(conflict),
        Refused::Gone(operation) => UpdateError::Gone(operation),
        Refused::NullVersion(operation) => UpdateError::NullVersion(operation),
        Refused::Fenced(operation, fence) => UpdateError::Fenced(operation, fence),
        Refused::Ignored(operation) => UpdateError::Ignored(operation),
        Refused::NotUnique(operation) => UpdateError::NotUnique(operation),
    })
}

/// Why a write that checks the version met no row.
enum Refused<T> {
    Stale(Box<Conflict<T>>),
    Gone(Operation),
    Fenced(Operation, Fence),
    NullVersion(Operation),
    Ignored(Operation),
    NotUnique(Operation),
}

/// Finds out from what is there why the write met no row. That was a read: if it failed, nothing was written.
fn refused<DB: Backend, T: VersionedSql<DB>>(
    method: &'static str,
    mine: &T,
    base: Option<&T>,
    selected: Result<Fetched<DB::Row>, sqlx::Error>,
) -> Result<Refused<T>, WriteFailure> {
    let operation = operation(mine, method);
    let expected = mine.version().unwrap_or_default();
    Ok(match selected.and_then(stored::<DB, T>) {
        Err(error) => return Err(WriteFailure::new(operation, error, true)),
        Ok(Stored::Missing) => Refused::Gone(operation),
        Ok(Stored::NullVersion) => Refused::NullVersion(operation),
        Ok(Stored::Several) => Refused::NotUnique(operation),
        // First, because who lost the lock has nothing to merge.
        Ok(Stored::Row(current, _)) if current.fence() > mine.fence() => {
            Refused::Fenced(operation, current.fence().unwrap_or_default())
        }
        Ok(Stored::Row(_, found)) if found == expected => Refused::Ignored(operation),
        Ok(Stored::Row(current, found)) => Refused::Stale(Box::new(Conflict {
            current,
            mine: (T::COPY)(mine),
            base: base.map(T::COPY),
            changes: T::stored_changes,
            clash: Clash {
                operation,
                version: T::VERSION,
                expected,
                found,
            },
        })),
    })
}

/// Deletes the row if it still has the version of this copy.
pub fn delete<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<(), DeleteError<T>>> + Send {
    async move {
        let operation = || operation(row, "delete");
        let mut opened = acquire(db, &operation)
            .await
            .map_err(DeleteError::Database)?;
        let statement = || {
            let mut statement = Statement::literal(T::DELETE);
            bind_unchanged(row, &mut statement);
            statement
        };
        let look = || select::<DB, T>(&row.key());
        let outcome = delete_checked(&statement, &look, &mut opened.link()).await;
        deleted::<DB, T>("delete", row, outcome)
    }
}

fn deleted<DB: Backend, T: VersionedSql<DB>>(
    method: &'static str,
    row: &T,
    outcome: Outcome<(), DB::Row>,
) -> Result<(), DeleteError<T>> {
    let refused = match outcome {
        Outcome::Written(()) => return Ok(()),
        Outcome::Several => return Err(DeleteError::NotUnique(operation(row, method))),
        Outcome::Failed {
            error,
            has_written: true,
            ..
        } => {
            let error = DatabaseError::new(operation(row, method), error);
            return Err(DeleteError::Written(error));
        }
        Outcome::Failed {
            error,
            in_transaction,
            ..
        } => return Err(WriteFailure::new(operation(row, method), error, in_transaction).into()),
        Outcome::Refused(selected) => refused::<DB, T>(method, row, None, selected)?,
    };
    Err(match refused {
        Refused::Stale(conflict) => DeleteError::Stale(conflict),
        Refused::Gone(operation) => DeleteError::Gone(operation),
        Refused::NullVersion(operation) => DeleteError::NullVersion(operation),
        Refused::Fenced(operation, fence) => DeleteError::Fenced(operation, fence),
        Refused::Ignored(operation) => DeleteError::Ignored(operation),
        Refused::NotUnique(operation) => DeleteError::NotUnique(operation),
    })
}

/// Loads, applies and updates until no other writer comes between.
pub fn update_with<'c, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    mut change: impl FnMut(&mut T) + Send,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    async move {
        const OPERATION: &str = "update_with";
        let operation = || T::operation(OPERATION, &key);
        let mut opened = acquire(db, &operation)
            .await
            .map_err(UpdateError::Database)?;
        let mut connection = opened.link();
        let mut tried = 0;
        loop {
            tried += 1;
            let selected = select::<DB, T>(&key).fetch_one(&mut connection).await;
            let base = match selected.and_then(stored::<DB, T>) {
                Ok(Stored::Row(row, _)) => row,
                Ok(Stored::NullVersion) => return Err(UpdateError::NullVersion(operation())),
                Ok(Stored::Missing) => return Err(UpdateError::Gone(operation())),
                Ok(Stored::Several) => return Err(UpdateError::NotUnique(operation())),
                Err(error) => return Err(WriteFailure::new(operation(), error, true).into()),
            };
            let mut mine = (T::COPY)(&base);
            change(&mut mine);
            if mine.key() != base.key() {
                return Err(UpdateError::KeyChanged(operation()));
            }
            has_room(&mine, OPERATION)?;
            let statement = || update_statement(&mine);
            let look = || select::<DB, T>(&mine.key());
            let outcome = write_checked(&statement, &look, &mut connection).await;
            match updated::<DB, T>(OPERATION, &mine, Some(&base), outcome) {
                Err(UpdateError::Stale(_)) if tried < ATTEMPTS => {
                    tokio::time::sleep(full_jitter(tried, FIRST_WAIT, LONGEST_WAIT)).await;
                }
                outcome => return outcome,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::db::error::KeyText;

    /// A model as the derive would make it, of three columns.
    #[derive(Debug, Clone, PartialEq)]
    struct Row([i8; 3]);

    impl Model<Derive> for Row {
        type Key<'k> = ();
        const TABLE: &'static str = "rows";
        fn describe((): &(), _: &mut KeyText) {}
    }

    impl Versioned for Row {
        const MAX_VERSION: i64 = i64::MAX;
        const VERSION_INDEX: usize = 0;
        const COLUMNS: &'static [&'static str] = &["a", "b", "c"];
        const COPY: fn(&Self) -> Self = Self::clone;
        fn key(&self) {}
        fn changes(&self, other: &Self) -> Changes {
            Changes::from(Vec::from(
                [0, 1, 2].map(|column| self.0[column] != other.0[column]),
            ))
        }
        fn adopt(&mut self, from: &Self, columns: &Changes) {
            for column in 0..3 {
                columns.copy(column, &from.0[column], &mut self.0[column]);
            }
        }
    }

    fn row() -> impl Strategy<Value = Row> {
        // Few values, so that equal ones are frequent.
        prop::array::uniform3(0..3i8).prop_map(Row)
    }

    proptest! {
        #[test]
        fn a_merge_has_both_changes_or_names_the_overlap(base in row(), mine in row(), theirs in row()) {
            let conflict = Conflict {
                current: theirs.clone(),
                mine: mine.clone(),
                base: Some(base.clone()),
                changes: Row::changes,
                clash: Clash {
                    operation: operation(&base, "save"),
                    version: "version",
                    expected: 0,
                    found: 1,
                },
            };
            let (base, mine, theirs) = (base.0, mine.0, theirs.0);
            let overlap: Vec<&str> = (0..3)
                .filter(|&i| mine[i] != base[i] && theirs[i] != base[i] && mine[i] != theirs[i])
                .map(|i| Row::COLUMNS[i])
                .collect();
            match conflict.merge() {
                Err(MergeError::Overlap(fields)) => prop_assert_eq!(fields, overlap),
                Err(MergeError::NoBase) => prop_assert!(false, "there is a base"),
                Ok(merged) => {
                    prop_assert!(overlap.is_empty());
                    for i in 0..3 {
                        let expected = if mine[i] == base[i] { theirs[i] } else { mine[i] };
                        prop_assert_eq!(merged.0[i], expected);
                    }
                }
            }
        }
    }
}
