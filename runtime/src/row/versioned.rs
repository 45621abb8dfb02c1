//! Optimistic locking: updates and deletes that check the version they were based on.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::atomic::{Reruns, in_transaction};
use crate::db::column::{Changes, Column};
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
    /// The key of an [`Edit`] was changed, and a key never changes. Nothing was sent.
    #[error("{0}: the key was edited")]
    KeyChanged(Attempt),
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
    /// The row does not exist: somebody deleted it, or it never did. Nothing was written.
    #[error("{0}: the row does not exist (any more)")]
    Gone(Attempt),
    /// The row has been written with a higher fence: the lock was lost to another holder. Nothing was written.
    #[error("{0}: the row was written with the fence {1}, by a later holder of the lock")]
    Fenced(Attempt, Fence),
    /// The row's version is NULL in the database, so it cannot be checked. Nothing was written.
    #[error("{0}: the version is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullVersion(Attempt),
    /// The version is the highest its type can hold. Nothing was written.
    #[error("{0}: the version cannot go any higher; use a wider integer")]
    VersionOverflow(Attempt),
    /// The row has the expected version, and has kept it: a trigger, a row security policy or a constraint with ON CONFLICT IGNORE
    /// (SQLite) dropped the update, or a trigger returned OLD.
    #[error(
        "{0}: the version matches, but a trigger, a row security policy or ON CONFLICT IGNORE dropped the write"
    )]
    Ignored(Attempt),
    /// The key is not unique in the database. Nothing was written. Add the unique index, or name the column that is missing
    /// from the key.
    #[error("{0}: several rows have this key")]
    NotUnique(Attempt),
    /// The key of an [`Edit`] was changed, and a key never changes. Nothing was sent.
    #[error("{0}: the key was edited")]
    KeyChanged(Attempt),
    /// The row was written, and what the database returned does not fit the model; or on SQLite, a trigger failed after the write in
    /// a way that keeps it: RAISE(FAIL), or ON CONFLICT FAIL. Inside a transaction the write counts once that is committed.
    #[error("{0}; the row was written")]
    Written(#[source] DatabaseError),
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
    /// The row does not exist: somebody else deleted it, or it never did.
    #[error("{0}: the row does not exist (any more)")]
    Gone(Attempt),
    /// The row has been written with a higher fence: the lock was lost to another holder. It is still there.
    #[error("{0}: the row was written with the fence {1}, by a later holder of the lock")]
    Fenced(Attempt, Fence),
    /// The row's version is NULL in the database, so it cannot be checked. It is still there.
    #[error("{0}: the version is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullVersion(Attempt),
    /// The row has the expected version, and yet the database kept it: a trigger or a row security policy dropped the
    /// delete.
    #[error("{0}: the version matches, but a trigger or a row security policy dropped the delete")]
    Ignored(Attempt),
    /// The key is not unique in the database. Nothing was deleted. Add the unique index, or name the column that is missing
    /// from the key.
    #[error("{0}: several rows have this key")]
    NotUnique(Attempt),
    /// The key of an [`Edit`] was changed, and a key never changes. Nothing was sent.
    #[error("{0}: the key was edited")]
    KeyChanged(Attempt),
    /// The row was deleted, and then a trigger of SQLite failed in a way that keeps that: RAISE(FAIL), or ON CONFLICT FAIL. Inside a
    /// transaction it is gone once that is committed.
    #[error("{0}; the row was deleted")]
    Written(#[source] DatabaseError),
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
/// Resolve it in one of three ways: take theirs, which is [`current`](Self::current); write yours over it with
/// [`keep_mine`](Self::keep_mine); or [`merge`](Self::merge).
pub struct Conflict<T> {
    /// The row as it is now, by somebody else.
    pub current: T,
    /// The row as it should have been written.
    pub mine: T,
    base: Option<T>,
    /// In the database that the conflict is from.
    changes: fn(&T, &T) -> Changes,
    attempt: Attempt,
    version: &'static str,
    expected: i64,
    found: i64,
}

impl<T> Conflict<T> {
    /// Of a copy whose origin is not known; `versions` are the version's field, the expected and the found one.
    pub(crate) fn new(
        current: T,
        mine: T,
        changes: fn(&T, &T) -> Changes,
        attempt: Attempt,
        (version, expected, found): (&'static str, i64, i64),
    ) -> Self {
        Self {
            current,
            mine,
            base: None,
            changes,
            attempt,
            version,
            expected,
            found,
        }
    }

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
        (self.changes)(since, &self.current).names(T::COLUMNS)
    }

    /// Both writers' changes: the current row plus the fields that only this writer changed, ready to be
    /// [saved](Edit::save). If that meets a third writer, the next conflict can be merged again.
    ///
    /// # Errors
    ///
    /// [`MergeError::Overlap`] if both changed the same field to different values, [`MergeError::NoBase`] after
    /// `update`, which does not know what it started from; use `edit` and `save`.
    pub fn merge(&self) -> Result<Edit<T>, MergeError> {
        let base = self.base.as_ref().ok_or(MergeError::NoBase)?;
        let mine = (self.changes)(base, &self.mine);
        let theirs = (self.changes)(base, &self.current);
        let differing = (self.changes)(&self.mine, &self.current);
        let overlap: Vec<_> = mine
            .shared(&theirs, T::COLUMNS)
            .into_iter()
            // Both made the same change: that is agreement.
            .filter(|field| differing.names(T::COLUMNS).contains(field))
            .collect();
        if !overlap.is_empty() {
            return Err(MergeError::Overlap(overlap));
        }
        let mut merged = Edit::new(self.current.copy());
        merged.adopt(&self.mine, &mine);
        Ok(merged)
    }

    /// This writer's row over the current one: whatever the other writer changed is overwritten when this is
    /// [saved](Edit::save).
    pub fn keep_mine(&self) -> Edit<T> {
        let mut mine = Edit::new(self.current.copy());
        mine.adopt(&self.mine, &(self.changes)(&self.current, &self.mine));
        mine
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
                    Self::Fenced(attempt, fence) => f.debug_tuple("Fenced").field(attempt).field(fence).finish(),
                    $(Self::$variant(inner) => f.debug_tuple(stringify!($variant)).field(inner).finish(),)*
                }
            }
        }
    )*};
}
debug_without_rows! {
    UpdateError: Stale, Gone, NullVersion, VersionOverflow, Ignored, NotUnique, KeyChanged, Written, Serialization, Unknown, Database;
    DeleteError: Stale, Gone, NullVersion, Ignored, NotUnique, KeyChanged, Written, Serialization, Unknown, Database;
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
/// Made by the generated method `edit`. It dereferences to the model. The key stays the row's: once it was edited, every method
/// here is refused with `KeyChanged` and sends nothing.
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
            mine: base.copy(),
            base,
        }
    }

    /// The row as it was read.
    pub fn base(&self) -> &T {
        &self.base
    }

    /// The fields that were changed so far, so that a database of the model would store something else.
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
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, UpdateError<T>>> + Send
    where
        T: VersionedSql<DB>,
    {
        async move {
            self.unchanged_key("save")
                .map_err(UpdateError::KeyChanged)?;
            let changes = self.base.stored_changes(&self.mine);
            // A new holder marks the row with its fence, if with nothing else.
            if changes.is_empty() && self.base.fence() == self.mine.fence() {
                return Ok(self.base.copy());
            }
            let statement = || {
                let mut statement = Statement::composed(T::SAVE_HEAD);
                bind_unchanged(&self.mine, &mut statement);
                self.mine.bind_columns(&mut Changed {
                    statement: &mut statement,
                    columns: T::SET,
                    changes: &changes,
                });
                statement.push(T::SAVE_TAIL);
                statement
            };
            write("save", &self.mine, Some(&self.base), statement, db).await
        }
    }

    /// The model's `update`, with the edited values: writes all columns, changed or not.
    ///
    /// # Errors
    ///
    /// Those of `update`, and [`UpdateError::KeyChanged`] if the key was edited.
    pub fn update<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, UpdateError<T>>> + Send
    where
        T: VersionedSql<DB>,
    {
        async move {
            self.unchanged_key("update")
                .map_err(UpdateError::KeyChanged)?;
            update(&self.mine, db).await
        }
    }

    /// The model's `touch`: raises the version and writes nothing else.
    ///
    /// # Errors
    ///
    /// Those of `touch`, and [`UpdateError::KeyChanged`] if the key was edited.
    pub fn touch<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, UpdateError<T>>> + Send
    where
        T: VersionedSql<DB>,
    {
        async move {
            self.unchanged_key("touch")
                .map_err(UpdateError::KeyChanged)?;
            touch(&self.mine, db).await
        }
    }

    /// The model's `reload`: reads the row as it now is.
    ///
    /// # Errors
    ///
    /// Those of `reload`, and [`LoadError::KeyChanged`] if the key was edited.
    pub fn reload<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, LoadError>> + Send
    where
        T: VersionedSql<DB>,
    {
        async move {
            self.unchanged_key("reload")
                .map_err(LoadError::KeyChanged)?;
            reload(&self.mine, db).await
        }
    }

    /// The model's `delete`: deletes the row if it still has the version it was read with.
    ///
    /// # Errors
    ///
    /// Those of `delete`, and [`DeleteError::KeyChanged`] if the key was edited.
    pub fn delete<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<(), DeleteError<T>>> + Send
    where
        T: VersionedSql<DB>,
    {
        async move {
            self.unchanged_key("delete")
                .map_err(DeleteError::KeyChanged)?;
            delete(&self.mine, db).await
        }
    }

    /// Another edit of the same row, with the changes so far.
    pub fn edit(&self) -> Self {
        Self {
            base: self.base.copy(),
            mine: self.mine.copy(),
        }
    }

    /// A row is found by its key: a changed one would be another row, which this edit has never seen.
    fn unchanged_key(&self, operation: &'static str) -> Result<(), Attempt> {
        if self.base.key() == self.mine.key() {
            return Ok(());
        }
        Err(attempt(&self.base, operation))
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
