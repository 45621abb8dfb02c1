//! Optimistic locking: updates and deletes that check the version they were based on.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::Acquire;

use crate::atomic::in_transaction;
use crate::backend::Backend;
use crate::backoff::full_jitter;
use crate::column::{Changes, Column, ModelRow, VersionNumber};
use crate::error::{Attempt, DatabaseError, KeyText, WriteFailure, from_write_failure};
use crate::statement::{Bind, Fetched, Statement};

/// How often `update_with` loads and applies before it gives up.
const ATTEMPTS: u32 = 32;
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

/// What `#[derive(Versioned)]` knows about a model, the same for every database.
pub trait Versioned: Sized + Clone + Send + Sync + 'static {
    /// The key columns; text is borrowed.
    type Key<'k>: Clone + PartialEq + Send + Sync;
    /// The type of the version column.
    type Version: VersionNumber;
    /// As written by the user.
    const TABLE: &'static str;
    /// The version's field.
    const VERSION: &'static str;
    /// The fields that an update writes.
    const COLUMNS: &'static [&'static str];

    /// The key of this row.
    fn key(&self) -> Self::Key<'_>;
    /// The version of this copy.
    fn version(&self) -> Self::Version;
    /// Writes the key into an error.
    fn describe(key: &Self::Key<'_>, to: &mut KeyText);
    /// The columns whose values differ.
    fn changes(&self, other: &Self) -> Changes;
    /// Takes over the given columns.
    fn adopt(&mut self, from: &Self, columns: &Changes);
}

/// The statements of a model for one database.
pub trait VersionedSql<DB: Backend>: Versioned + ModelRow<DB> {
    /// Reads all columns.
    const LOAD: &'static str;
    /// Where the version stands among the columns of `LOAD`.
    const VERSION_INDEX: usize;
    /// Writes all columns and the next version.
    const UPDATE: &'static str;
    /// Writes the next version.
    const TOUCH: &'static str;
    /// Deletes the row.
    const DELETE: &'static str;
    /// Writes some columns and the next version: what stands around the changed columns.
    const SAVE: (&'static str, &'static str);
    /// `"name" = ` for each of `Versioned::COLUMNS`.
    const SET: &'static [&'static str];

    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds `Versioned::COLUMNS`.
    fn bind_columns(&self, to: &mut impl Bind<DB>);
    /// Takes over what the database changed, from a row of a RETURNING clause.
    fn read_back(&mut self, row: &DB::Row) -> Result<(), sqlx::Error>;
}

/// Why a row could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No row has this key.
    #[error("{0}: no such row")]
    NotFound(Attempt),
    /// The row's version is NULL, so nothing could ever be checked against it.
    #[error("{0}: the version is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullVersion(Attempt),
    /// Several rows have this key: it is not unique in the database.
    #[error("{0}: several rows have this key")]
    NotUnique(Attempt),
    /// The database, the connection or the pool failed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why an update did not happen.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError<T> {
    /// Somebody changed the row since this copy was read. Nothing was written. The conflict has the row as it is now.
    #[error("{0}")]
    Stale(Box<Conflict<T>>),
    /// Somebody deleted the row. Nothing was written.
    #[error("{0}: the row was deleted")]
    Gone(Attempt),
    /// The row's version is NULL in the database, so it cannot be checked. Nothing was written.
    #[error("{0}: the version is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullVersion(Attempt),
    /// The version is the highest its type can hold. Nothing was written.
    #[error("{0}: the version cannot go any higher; use a wider integer")]
    VersionOverflow(Attempt),
    /// The row has the expected version, and yet the database wrote nothing: a trigger or a row security policy
    /// dropped the update.
    #[error("{0}: the version matches, but a trigger or a row security policy dropped the write")]
    Ignored(Attempt),
    /// The key is not unique in the database, and all rows that have it were written. Add the unique index, or name
    /// the column that is missing from the key.
    #[error("{0}: several rows have this key, all were written")]
    NotUnique(Attempt),
    /// The key of an [`Edit`] was changed. A key never changes. Nothing was sent.
    #[error("{0}: the key was edited")]
    KeyChanged(Attempt),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The write happened or it did not: reload to find out.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a delete did not happen.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum DeleteError<T> {
    /// Somebody changed the row since this copy was read. It is still there.
    #[error("{0}")]
    Stale(Box<Conflict<T>>),
    /// Somebody else deleted the row.
    #[error("{0}: the row was deleted already")]
    Gone(Attempt),
    /// The row's version is NULL in the database, so it cannot be checked. It is still there.
    #[error("{0}: the version is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullVersion(Attempt),
    /// The row has the expected version, and yet the database kept it: a trigger or a row security policy dropped the
    /// delete.
    #[error("{0}: the version matches, but a trigger or a row security policy dropped the delete")]
    Ignored(Attempt),
    /// The key is not unique in the database, and all rows that have it were deleted. Add the unique index, or name
    /// the column that is missing from the key.
    #[error("{0}: several rows have this key, all were deleted")]
    NotUnique(Attempt),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The row is gone or it is not: load it to find out.
    #[error("{0}; it is unknown whether the delete took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. The row is still there.
    #[error(transparent)]
    Database(DatabaseError),
}

from_write_failure!(UpdateError<T>, DeleteError<T>);

/// Two writers changed the same row, and the other one was first.
///
/// Resolve it in one of three ways: take [`current`](Self::current), write [`mine`](Self::mine) over it (set its
/// version to the current one), or [`merge`](Self::merge).
pub struct Conflict<T> {
    /// The row as it is now, by somebody else.
    pub current: T,
    /// The row as it should have been written.
    pub mine: T,
    base: Option<T>,
    attempt: Attempt,
    version: &'static str,
    expected: i64,
    found: i64,
}

impl<T> Conflict<T> {
    /// What was attempted, on which row.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// The version that the write was based on.
    pub fn expected_version(&self) -> i64 {
        self.expected
    }

    /// The version of the row as it is now.
    pub fn current_version(&self) -> i64 {
        self.found
    }

    /// The row that both writers started from. Known after [`Edit::save`] and `update_with`.
    pub fn base(&self) -> Option<&T> {
        self.base.as_ref()
    }
}

impl<T: Versioned> Conflict<T> {
    /// The fields that the other writer changed; without a [`base`](Self::base), the fields in which the row differs
    /// from [`mine`](Self::mine).
    pub fn changed_fields(&self) -> Vec<&'static str> {
        let since = self.base.as_ref().unwrap_or(&self.mine);
        since.changes(&self.current).names(T::COLUMNS)
    }

    /// The row with both writers' changes, ready to be written: the current row plus the fields that only this writer
    /// changed.
    ///
    /// # Errors
    ///
    /// [`MergeError::Overlap`] if both changed the same field to different values, [`MergeError::NoBase`] after
    /// `update`, which does not know what it started from; use `edit` and `save`.
    pub fn merge(&self) -> Result<T, MergeError> {
        let base = self.base.as_ref().ok_or(MergeError::NoBase)?;
        let mine = base.changes(&self.mine);
        let theirs = base.changes(&self.current);
        let differing = self.mine.changes(&self.current);
        let overlap: Vec<_> = mine
            .shared(&theirs, T::COLUMNS)
            .into_iter()
            // Both made the same change: that is agreement.
            .filter(|field| differing.names(T::COLUMNS).contains(field))
            .collect();
        if !overlap.is_empty() {
            return Err(MergeError::Overlap(overlap));
        }
        let mut merged = self.current.clone();
        merged.adopt(&self.mine, &mine);
        Ok(merged)
    }
}

impl<T> fmt::Display for Conflict<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: the row was changed by somebody else: its {} is {}, expected {}",
            self.attempt, self.version, self.found, self.expected
        )
    }
}

/// Without the rows: they do not belong into a log.
impl<T> fmt::Debug for Conflict<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conflict")
            .field("attempt", &self.attempt)
            .field("expected", &self.expected)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

macro_rules! debug_without_rows {
    ($($error:ident: $($variant:ident),*;)*) => {$(
        impl<T> fmt::Debug for $error<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(inner) => f.debug_tuple(stringify!($variant)).field(inner).finish(),)*
                }
            }
        }
    )*};
}
debug_without_rows! {
    UpdateError: Stale, Gone, NullVersion, VersionOverflow, Ignored, NotUnique, KeyChanged, Serialization, Unknown, Database;
    DeleteError: Stale, Gone, NullVersion, Ignored, NotUnique, Serialization, Unknown, Database;
}

/// Why two changes could not be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeError {
    /// Both writers changed these fields, to different values.
    Overlap(Vec<&'static str>),
    /// It is not known what the write was based on.
    NoBase,
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap(fields) => write!(f, "both changed {}", fields.join(", ")),
            Self::NoBase => {
                f.write_str("not known what the write was based on; use `edit` and `save`")
            }
        }
    }
}

impl Error for MergeError {}

/// A copy of a row to change, that remembers how the row was.
///
/// Made by the generated method `edit`. It dereferences to the model.
#[derive(Debug, Clone)]
#[must_use = "an edit does nothing until it is saved"]
pub struct Edit<T> {
    base: T,
    mine: T,
}

impl<T> Deref for Edit<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.mine
    }
}

impl<T> DerefMut for Edit<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.mine
    }
}

impl<T: Versioned> Edit<T> {
    /// Starts from a row as it was read.
    pub fn new(base: T) -> Self {
        Self {
            mine: base.clone(),
            base,
        }
    }

    /// The row as it was read.
    pub fn base(&self) -> &T {
        &self.base
    }

    /// The fields that were changed so far.
    pub fn changed_fields(&self) -> Vec<&'static str> {
        self.base.changes(&self.mine).names(T::COLUMNS)
    }

    /// Writes the changed columns if the row still has the version it was read with, and returns the row as it now is.
    ///
    /// If nothing was changed, nothing is sent and the row is returned as it was read. Two edits of different columns
    /// still conflict: [`Conflict::merge`] puts them together.
    ///
    /// # SQL
    ///
    /// `UPDATE t SET "changed" = $3, "version" = "version" + 1 WHERE "key" = $1 AND "version" = $2 RETURNING …`, the
    /// same on PostgreSQL and SQLite; after a conflict, one SELECT of the current row.
    ///
    /// # Errors
    ///
    /// Those of `update`, and [`UpdateError::KeyChanged`] if the key was edited.
    ///
    /// # Cancel safety
    ///
    /// One statement: if the future is dropped, it was executed completely or not at all.
    pub fn save<'c, DB: Backend>(
        &self,
        db: impl Acquire<'c, Database = DB> + Send,
    ) -> impl Future<Output = Result<T, UpdateError<T>>> + Send
    where
        T: VersionedSql<DB>,
    {
        async move {
            let changes = self.base.changes(&self.mine);
            if self.base.key() != self.mine.key() {
                return Err(UpdateError::KeyChanged(attempt(&self.base, "save")));
            }
            if changes.is_empty() {
                return Ok(self.base.clone());
            }
            let (head, tail) = T::SAVE;
            let mut statement = Statement::composed(head);
            bind_unchanged(&self.mine, &mut statement);
            self.mine.bind_columns(&mut Changed {
                statement: &mut statement,
                columns: T::SET,
                changes: &changes,
            });
            statement.push(tail);
            write("save", &self.mine, Some(&self.base), statement, db).await
        }
    }
}

/// Binds the changed columns only, with their names.
struct Changed<'s, DB: Backend> {
    statement: &'s mut Statement<DB>,
    columns: &'static [&'static str],
    changes: &'s Changes,
}

impl<DB: Backend> Bind<DB> for Changed<'_, DB> {
    fn bind<T: Column<DB>>(&mut self, index: usize, value: &T) {
        if self.changes.contains(index) {
            self.statement.push(self.columns[index]);
            self.statement.push_parameter();
            self.statement.push(", ");
            self.statement.bind(index, value);
        }
    }
}

fn attempt<T: Versioned>(row: &T, operation: &'static str) -> Attempt {
    attempt_on::<T>(&row.key(), operation)
}

fn attempt_on<T: Versioned>(key: &T::Key<'_>, operation: &'static str) -> Attempt {
    let mut text = KeyText::default();
    T::describe(key, &mut text);
    Attempt::new(operation, T::TABLE, text)
}

/// The key and the version that the row must still have.
fn bind_unchanged<DB: Backend, T: VersionedSql<DB>>(row: &T, statement: &mut Statement<DB>) {
    T::bind_key(&row.key(), statement);
    statement.bind_i64(row.version().to_i64());
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
    connection: &mut DB::Connection,
) -> Result<Stored<T>, sqlx::Error> {
    let mut statement = Statement::literal(T::LOAD);
    T::bind_key(key, &mut statement);
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
    db: impl Acquire<'c, Database = DB> + Send,
    key: T::Key<'_>,
) -> impl Future<Output = Result<T, LoadError>> + Send {
    read("load", db, key)
}

/// Reads the row again.
pub fn reload<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Acquire<'c, Database = DB> + Send,
) -> impl Future<Output = Result<T, LoadError>> + Send {
    read("reload", db, row.key())
}

async fn read<'c, DB: Backend, T: VersionedSql<DB>>(
    operation: &'static str,
    db: impl Acquire<'c, Database = DB> + Send,
    key: T::Key<'_>,
) -> Result<T, LoadError> {
    let attempt = || attempt_on::<T>(&key, operation);
    let failed = |error| LoadError::Database(DatabaseError::new(attempt(), error));
    let mut connection = db.acquire().await.map_err(failed)?;
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
    db: impl Acquire<'c, Database = DB> + Send,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    write("update", row, None, update_statement(row), db)
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
    db: impl Acquire<'c, Database = DB> + Send,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    let mut statement = Statement::literal(T::TOUCH);
    bind_unchanged(row, &mut statement);
    write("touch", row, None, statement, db)
}

/// Runs an UPDATE that checks the version of `mine` and returns what the database changed.
async fn write<'c, DB: Backend, T: VersionedSql<DB>>(
    operation: &'static str,
    mine: &T,
    base: Option<&T>,
    statement: Statement<DB>,
    db: impl Acquire<'c, Database = DB> + Send,
) -> Result<T, UpdateError<T>> {
    let mut connection = db.acquire().await.map_err(|error| {
        UpdateError::Database(DatabaseError::new(attempt(mine, operation), error))
    })?;
    write_on(operation, mine, base, statement, &mut connection).await
}

async fn write_on<DB: Backend, T: VersionedSql<DB>>(
    operation: &'static str,
    mine: &T,
    base: Option<&T>,
    statement: Statement<DB>,
    connection: &mut DB::Connection,
) -> Result<T, UpdateError<T>> {
    // In SQL an overflow is an error on one database and a floating-point number on another; here it is neither.
    if mine.version().to_i64() == T::Version::MAX {
        return Err(UpdateError::VersionOverflow(attempt(mine, operation)));
    }
    let in_transaction = in_transaction::<DB>(connection);
    let failed = |error| WriteFailure::new(attempt(mine, operation), error, in_transaction);
    match statement.fetch_one(connection).await.map_err(failed)? {
        Fetched::One(row) => {
            let mut updated = mine.clone();
            // The write itself went well: a column that does not fit its field is not an unknown outcome.
            updated
                .read_back(&row)
                .map_err(|error| DatabaseError::new(attempt(mine, operation), error))
                .map_err(UpdateError::Database)?;
            Ok(updated)
        }
        Fetched::Several => Err(UpdateError::NotUnique(attempt(mine, operation))),
        Fetched::None => Err(match refused(operation, mine, base, connection).await? {
            Refused::Stale(conflict) => UpdateError::Stale(conflict),
            Refused::Gone(attempt) => UpdateError::Gone(attempt),
            Refused::NullVersion(attempt) => UpdateError::NullVersion(attempt),
            Refused::Ignored(attempt) => UpdateError::Ignored(attempt),
        }),
    }
}

/// Why a write that checks the version met no row.
enum Refused<T> {
    Stale(Box<Conflict<T>>),
    Gone(Attempt),
    NullVersion(Attempt),
    Ignored(Attempt),
}

/// Looks at the row to find out why the write met none. A read: if it fails, nothing was written.
async fn refused<DB: Backend, T: VersionedSql<DB>>(
    operation: &'static str,
    mine: &T,
    base: Option<&T>,
    connection: &mut DB::Connection,
) -> Result<Refused<T>, WriteFailure> {
    let attempt = attempt(mine, operation);
    let expected = mine.version().to_i64();
    let stored = select::<DB, T>(&mine.key(), connection).await;
    Ok(match stored {
        Err(error) => return Err(WriteFailure::new(attempt, error, true)),
        Ok(Stored::Missing) => Refused::Gone(attempt),
        Ok(Stored::NullVersion) => Refused::NullVersion(attempt),
        // The write matched none of several rows, so none of them has the version: what applies to one of them
        // applies to all.
        Ok(Stored::Several) => Refused::Gone(attempt),
        Ok(Stored::Row(_, found)) if found == expected => Refused::Ignored(attempt),
        Ok(Stored::Row(current, found)) => Refused::Stale(Box::new(Conflict {
            current,
            mine: mine.clone(),
            base: base.cloned(),
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
    db: impl Acquire<'c, Database = DB> + Send,
) -> impl Future<Output = Result<(), DeleteError<T>>> + Send {
    async move {
        const OPERATION: &str = "delete";
        let mut connection = db.acquire().await.map_err(|error| {
            DeleteError::Database(DatabaseError::new(attempt(row, OPERATION), error))
        })?;
        let in_transaction = in_transaction::<DB>(&connection);
        let mut statement = Statement::literal(T::DELETE);
        bind_unchanged(row, &mut statement);
        let deleted = statement
            .execute(&mut connection)
            .await
            .map_err(|error| WriteFailure::new(attempt(row, OPERATION), error, in_transaction))?;
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
                Refused::Ignored(attempt) => DeleteError::Ignored(attempt),
            },
        )
    }
}

/// Loads, applies and updates until no other writer comes between.
pub fn update_with<'c, DB: Backend, T: VersionedSql<DB>>(
    db: impl Acquire<'c, Database = DB> + Send,
    key: T::Key<'_>,
    mut change: impl FnMut(&mut T) + Send,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    async move {
        const OPERATION: &str = "update_with";
        let describe = || attempt_on::<T>(&key, OPERATION);
        let failed = |error| UpdateError::Database(DatabaseError::new(describe(), error));
        let mut connection = db.acquire().await.map_err(failed)?;
        let mut tried = 0;
        loop {
            tried += 1;
            let base = match select::<DB, T>(&key, &mut connection).await {
                Ok(Stored::Row(row, _)) => row,
                Ok(Stored::NullVersion) => return Err(UpdateError::NullVersion(describe())),
                Ok(Stored::Missing | Stored::Several) => return Err(UpdateError::Gone(describe())),
                Err(error) => return Err(WriteFailure::new(describe(), error, true).into()),
            };
            let mut mine = base.clone();
            change(&mut mine);
            if mine.key() != base.key() {
                return Err(UpdateError::KeyChanged(describe()));
            }
            let statement = update_statement(&mine);
            match write_on(OPERATION, &mine, Some(&base), statement, &mut connection).await {
                Err(UpdateError::Stale(_)) if tried < ATTEMPTS => {
                    tokio::time::sleep(full_jitter(tried, FIRST_WAIT, LONGEST_WAIT)).await;
                }
                outcome => return outcome,
            }
        }
    }
}
