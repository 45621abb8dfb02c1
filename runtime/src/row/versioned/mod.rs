//! Optimistic locking: updates and deletes that check the version they were based on.

mod conflict;
mod edit;
mod error;

use std::future::Future;
use std::time::Duration;

pub use self::conflict::{Conflict, MergeError};
pub use self::edit::Edit;
pub use self::error::{DeleteError, LoadError, UpdateError};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::atomic::{Reruns, in_transaction};
use crate::db::column::Changes;
use crate::db::error::{Attempt, DatabaseError, KeyText, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Fetched, Statement, write_one};
use crate::db::stored;

/// How often `update_with` loads and applies before it gives up.
const ATTEMPTS: u32 = 32;
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

/// What `#[derive(Versioned)]` knows about a model, the same for every database.
pub trait Versioned: Sized + Send + Sync + 'static {
    /// The key columns; text is borrowed.
    type Key<'k>: Clone + PartialEq + Send + Sync;
    /// As written by the user.
    const TABLE: &'static str;
    /// The version's field.
    const VERSION: &'static str;
    /// The highest version that the field's type can hold.
    const MAX_VERSION: i64;
    /// Where the version stands among all columns.
    const VERSION_INDEX: usize;
    /// The fields that an update writes.
    const COLUMNS: &'static [&'static str];

    /// `Clone`, which is not a supertrait because the compiler would complain about a missing one five times.
    fn copy(&self) -> Self;
    /// The key of this row.
    fn key(&self) -> Self::Key<'_>;
    /// The version of this copy.
    fn version(&self) -> i64;
    /// Writes the key into an error.
    fn describe(key: &Self::Key<'_>, to: &mut KeyText);
    /// The columns whose values differ in any of the model's databases.
    fn changes(&self, other: &Self) -> Changes;
    /// The fence to show to the row, if the model has one.
    fn fence(&self) -> Option<Fence> {
        None
    }
    /// Takes over the given columns, and the fence.
    fn adopt(&mut self, from: &Self, columns: &Changes);
}

/// The statements of a model for one database.
pub trait VersionedSql<DB: Backend>: Versioned {
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

    /// Reads all columns.
    fn from_row(row: &DB::Row) -> Result<Self, sqlx::Error>;
    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds `Versioned::COLUMNS`.
    fn bind_columns(&self, to: &mut impl Bind<DB>);
    /// Takes over what the database changed, from a row of a RETURNING clause.
    fn read_back(&mut self, row: &DB::Row) -> Result<(), sqlx::Error>;

    /// The columns whose values differ in this database.
    fn stored_changes(&self, other: &Self) -> Changes {
        stored::changes::<DB>(|to| self.bind_columns(to), |to| other.bind_columns(to))
    }
}

from_write_failure!(UpdateError<T>, DeleteError<T>);

fn attempt<T: Versioned>(row: &T, operation: &'static str) -> Attempt {
    attempt_on::<T>(&row.key(), operation)
}

fn attempt_on<T: Versioned>(key: &T::Key<'_>, operation: &'static str) -> Attempt {
    let mut text = KeyText::default();
    T::describe(key, &mut text);
    Attempt::new(operation, T::TABLE, text)
}

/// The key and the version that the row must still have, and the fence that it must not have seen pass.
fn bind_unchanged<DB: Backend, T: VersionedSql<DB>>(row: &T, statement: &mut Statement<DB>) {
    T::bind_key(&row.key(), &mut Compared(statement));
    statement.bind_i64(row.version());
    if let Some(fence) = row.fence() {
        statement.bind_i64(fence.get());
    }
}

/// A row as the database has it, with its version.
enum Stored<T> {
    Row(T, i64),
    NullVersion,
    Missing,
    Several,
}

async fn select<DB: Backend, T: VersionedSql<DB>>(
    key: &T::Key<'_>,
    connection: &mut Link<'_, DB>,
) -> Result<Stored<T>, sqlx::Error> {
    let mut statement = Statement::literal(T::LOAD);
    T::bind_key(key, &mut Compared(&mut statement));
    let row = match statement.fetch_one(connection).await? {
        Fetched::One(row) => row,
        Fetched::None => return Ok(Stored::Missing),
        Fetched::Several => return Ok(Stored::Several),
    };
    match DB::get_i64(&row, T::VERSION_INDEX)? {
        Some(version) => Ok(Stored::Row(T::from_row(&row)?, version)),
        None => Ok(Stored::NullVersion),
    }
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
    operation: &'static str,
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> Result<T, LoadError> {
    let attempt = || attempt_on::<T>(&key, operation);
    let failed = |error| LoadError::Database(DatabaseError::new(attempt(), error));
    let mut opened = db.open().await.map_err(failed)?;
    let mut connection = opened.link();
    match select::<DB, T>(&key, &mut connection)
        .await
        .map_err(failed)?
    {
        Stored::Row(row, _) => Ok(row),
        Stored::NullVersion => Err(LoadError::NullVersion(attempt())),
        Stored::Missing => Err(LoadError::NotFound(attempt())),
        Stored::Several => Err(LoadError::NotUnique(attempt())),
    }
}

/// Writes all columns if the row still has the version of this copy.
pub fn update<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    write("update", row, None, || update_statement(row), db)
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
    let statement = || {
        let mut statement = Statement::literal(T::TOUCH);
        bind_unchanged(row, &mut statement);
        statement
    };
    write("touch", row, None, statement, db)
}

/// Runs an UPDATE that checks the version of `mine` and returns what the database changed.
async fn write<'c, DB: Backend, T: VersionedSql<DB>>(
    operation: &'static str,
    mine: &T,
    base: Option<&T>,
    statement: impl Fn() -> Statement<DB> + Send + Sync,
    db: impl Source<'c, DB>,
) -> Result<T, UpdateError<T>> {
    let mut opened = db.open().await.map_err(|error| {
        UpdateError::Database(DatabaseError::new(attempt(mine, operation), error))
    })?;
    let mut connection = opened.link();
    write_on(operation, mine, base, statement, &mut connection).await
}

async fn write_on<DB: Backend, T: VersionedSql<DB>>(
    operation: &'static str,
    mine: &T,
    base: Option<&T>,
    statement: impl Fn() -> Statement<DB> + Send + Sync,
    connection: &mut Link<'_, DB>,
) -> Result<T, UpdateError<T>> {
    // In SQL an overflow is an error on one database and a floating-point number on another; here it is neither.
    if mine.version() == T::MAX_VERSION {
        return Err(UpdateError::VersionOverflow(attempt(mine, operation)));
    }
    let in_transaction = in_transaction::<DB>(connection);
    let fetched = match write_one(statement, connection).await {
        Ok(fetched) => fetched,
        Err(error) => {
            let attempt = attempt(mine, operation);
            if DB::has_written(connection, &error).await {
                return Err(UpdateError::Written(DatabaseError::new(attempt, error)));
            }
            return Err(WriteFailure::new(attempt, error, in_transaction).into());
        }
    };
    match fetched {
        Fetched::One(row) => {
            let mut updated = mine.copy();
            updated
                .read_back(&row)
                .map_err(|error| DatabaseError::new(attempt(mine, operation), error))
                .map_err(UpdateError::Written)?;
            // What a trigger returned instead of the new row is what RETURNING shows: here the old one.
            if updated.version() == mine.version() {
                return Err(UpdateError::Ignored(attempt(mine, operation)));
            }
            Ok(updated)
        }
        Fetched::Several => Err(UpdateError::NotUnique(attempt(mine, operation))),
        Fetched::None => Err(match refused(operation, mine, base, connection).await? {
            Refused::Stale(conflict) => UpdateError::Stale(conflict),
            Refused::Gone(attempt) => UpdateError::Gone(attempt),
            Refused::NullVersion(attempt) => UpdateError::NullVersion(attempt),
            Refused::Fenced(attempt, fence) => UpdateError::Fenced(attempt, fence),
            Refused::Ignored(attempt) => UpdateError::Ignored(attempt),
            Refused::NotUnique(attempt) => UpdateError::NotUnique(attempt),
        }),
    }
}

/// Why a write that checks the version met no row.
enum Refused<T> {
    Stale(Box<Conflict<T>>),
    Gone(Attempt),
    Fenced(Attempt, Fence),
    NullVersion(Attempt),
    Ignored(Attempt),
    NotUnique(Attempt),
}

/// Looks at the row to find out why the write met none. A read: if it fails, nothing was written.
async fn refused<DB: Backend, T: VersionedSql<DB>>(
    operation: &'static str,
    mine: &T,
    base: Option<&T>,
    connection: &mut Link<'_, DB>,
) -> Result<Refused<T>, WriteFailure> {
    let attempt = attempt(mine, operation);
    let expected = mine.version();
    let stored = select::<DB, T>(&mine.key(), connection).await;
    Ok(match stored {
        Err(error) => return Err(WriteFailure::new(attempt, error, true)),
        Ok(Stored::Missing) => Refused::Gone(attempt),
        Ok(Stored::NullVersion) => Refused::NullVersion(attempt),
        Ok(Stored::Several) => Refused::NotUnique(attempt),
        // First, because who lost the lock has nothing to merge.
        Ok(Stored::Row(current, _)) if current.fence() > mine.fence() => {
            Refused::Fenced(attempt, current.fence().unwrap_or_default())
        }
        Ok(Stored::Row(_, found)) if found == expected => Refused::Ignored(attempt),
        Ok(Stored::Row(current, found)) => Refused::Stale(Box::new(Conflict {
            current,
            mine: mine.copy(),
            base: base.map(T::copy),
            changes: T::stored_changes,
            attempt,
            version: T::VERSION,
            expected,
            found,
        })),
    })
}

/// Deletes the row if it still has the version of this copy.
pub fn delete<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<(), DeleteError<T>>> + Send {
    async move {
        const OPERATION: &str = "delete";
        let mut opened = db.open().await.map_err(|error| {
            DeleteError::Database(DatabaseError::new(attempt(row, OPERATION), error))
        })?;
        let mut connection = opened.link();
        let in_transaction = in_transaction::<DB>(&connection);
        let mut reruns = Reruns::new(in_transaction);
        let deleted = loop {
            let mut statement = Statement::literal(T::DELETE);
            bind_unchanged(row, &mut statement);
            match statement.execute(&mut connection).await {
                Ok(deleted) => break deleted,
                Err(error) if reruns.after(Fault::of(&error)).await => {}
                Err(error) => {
                    let attempt = attempt(row, OPERATION);
                    if DB::has_written(&mut connection, &error).await {
                        return Err(DeleteError::Written(DatabaseError::new(attempt, error)));
                    }
                    return Err(WriteFailure::new(attempt, error, in_transaction).into());
                }
            }
        };
        match deleted {
            0 => {}
            1 => return Ok(()),
            _ => return Err(DeleteError::NotUnique(attempt(row, OPERATION))),
        }
        Err(
            match refused(OPERATION, row, None, &mut connection).await? {
                Refused::Stale(conflict) => DeleteError::Stale(conflict),
                Refused::Gone(attempt) => DeleteError::Gone(attempt),
                Refused::NullVersion(attempt) => DeleteError::NullVersion(attempt),
                Refused::Fenced(attempt, fence) => DeleteError::Fenced(attempt, fence),
                Refused::Ignored(attempt) => DeleteError::Ignored(attempt),
                Refused::NotUnique(attempt) => DeleteError::NotUnique(attempt),
            },
        )
    }
}

/// Loads, applies and updates until no other writer comes between.
pub fn update_with<'c, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    mut change: impl FnMut(&mut T) + Send,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    async move {
        const OPERATION: &str = "update_with";
        let describe = || attempt_on::<T>(&key, OPERATION);
        let failed = |error| UpdateError::Database(DatabaseError::new(describe(), error));
        let mut opened = db.open().await.map_err(failed)?;
        let mut connection = opened.link();
        let mut tried = 0;
        loop {
            tried += 1;
            let base = match select::<DB, T>(&key, &mut connection).await {
                Ok(Stored::Row(row, _)) => row,
                Ok(Stored::NullVersion) => return Err(UpdateError::NullVersion(describe())),
                Ok(Stored::Missing) => return Err(UpdateError::Gone(describe())),
                Ok(Stored::Several) => return Err(UpdateError::NotUnique(describe())),
                Err(error) => return Err(WriteFailure::new(describe(), error, true).into()),
            };
            let mut mine = base.copy();
            change(&mut mine);
            if mine.key() != base.key() {
                return Err(UpdateError::KeyChanged(describe()));
            }
            let statement = || update_statement(&mine);
            match write_on(OPERATION, &mine, Some(&base), statement, &mut connection).await {
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

    /// A model as the derive would make it, of three columns.
    #[derive(Debug, Clone, PartialEq)]
    struct Row([i8; 3]);

    impl Versioned for Row {
        type Key<'k> = ();
        const TABLE: &'static str = "rows";
        const VERSION: &'static str = "version";
        const MAX_VERSION: i64 = i64::MAX;
        const VERSION_INDEX: usize = 0;
        const COLUMNS: &'static [&'static str] = &["a", "b", "c"];
        fn copy(&self) -> Self {
            self.clone()
        }
        fn key(&self) {}
        fn version(&self) -> i64 {
            0
        }
        fn describe((): &(), _: &mut KeyText) {}
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
                attempt: attempt(&base, "save"),
                version: "version",
                expected: 0,
                found: 1,
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
