//! A row that is locked, and what is saved of it.

use super::error::LockError;
use super::{LockableSql, began};
use crate::db::Backend;
use crate::db::error::DatabaseError;
use crate::db::source::Link;
use crate::db::statement::{Compared, Fetched, Statement};
use crate::db::stored;
use crate::tx::InTransaction;
use sqlx::Row;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// What is known of the transaction that has a lock.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Of those of rowlock, which one it is, or which savepoint.
    pub(super) scope: Option<u64>,
    /// Where there are row locks, when it began, by the clock of the database.
    pub(super) began: Option<i64>,
}

/// A row that nobody else can change until the transaction ends. It dereferences to the row.
///
/// The lock belongs to the transaction, not to this value: dropping it releases nothing. After a rollback this value has what was not
/// written, with a raised version, and so has the row that [`into_inner`](Self::into_inner) returns: let the closure of
/// `rowlock::transaction` return rows, so that they get out by `Ok` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked<T> {
    pub(super) row: T,
    pub(super) key: LockedKey,
    pub(super) transaction: Transaction,
}

/// The key as it was when the row was locked, of a type that only `save` needs to know.
#[derive(Clone)]
pub(super) struct LockedKey(pub(super) Arc<dyn Any + Send + Sync>);

impl fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedKey")
    }
}

// Two locked rows are equal if their rows are, keys included.
impl PartialEq for LockedKey {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for LockedKey {}

/// A row that nobody can change until the transaction ends, this transaction included unless it is the only one that
/// shares it. It dereferences to the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared<T>(pub(super) T);

impl<T> Deref for Locked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.row
    }
}

impl<T> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.row
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Shared<T> {
    /// The row.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Locked<T> {
    /// The row, without the proof that it is locked. What was saved is part of it, whether the transaction is committed or not.
    pub fn into_inner(self) -> T {
        self.row
    }

    /// Writes all columns. A version is checked and goes up: nobody else can have changed the row, but this transaction can, through
    /// another `Locked` of it. Without a version column the last save of a transaction wins.
    ///
    /// # Errors
    ///
    /// [`LockError::Stale`] if this transaction saved the row through another `Locked`, or rolled a save of this one back with a
    /// savepoint. [`LockError::KeyChanged`] if the key was edited.
    ///
    /// [`LockError::NotUnique`] if several rows have this key by now, and [`LockError::Ignored`] if a trigger or a row security policy
    /// dropped the write, or a trigger returned OLD. Nothing was written.
    ///
    /// [`LockError::OtherTransaction`] if `tx` is not the transaction that locked the row, or if the row was locked in a savepoint
    /// of `rowlock::Tx` that was undone. Transactions of `rowlock::transaction` are told apart, on PostgreSQL also those of sqlx, by the
    /// time at which they began. Two of sqlx on SQLite are not: passing the right one is up to the caller.
    pub fn save<'t, DB: Backend>(
        &mut self,
        tx: impl InTransaction<'t, Database = DB>,
    ) -> impl Future<Output = Result<(), LockError>> + Send
    where
        T: LockableSql<DB>,
    {
        T::observed::<DB, _>("save", async move {
            let operation = |row: &T| T::operation("save", &row.key());
            if !tx.has(self.transaction.scope) {
                return Err(LockError::OtherTransaction(operation(&self.row)));
            }
            let locked = self.key.0.downcast_ref::<T::OwnedKey>();
            if !locked.is_some_and(|key| self.row.has_key(key)) {
                return Err(LockError::KeyChanged(operation(&self.row)));
            }
            let connection = &mut tx.link();
            let open = connection.is_in_transaction().await;
            if !open.map_err(|error| LockError::new(operation(&self.row), error, false))? {
                return Err(LockError::NotInTransaction(operation(&self.row)));
            }
            let mut statement = Statement::literal(T::UPDATE);
            self.row.bind_columns(&mut statement);
            T::bind_key(&self.row.key(), &mut Compared(&mut statement));
            let version = self.row.version();
            if let Some(version) = version {
                statement.bind_i64(version);
            }
            if let Some(fence) = self.row.fence() {
                statement.bind_i64(fence.get());
            }
            if let Some(began) = self.transaction.began {
                statement.bind_i64(began);
            }
            let failed = |error| LockError::new(operation(&self.row), error, false);
            let row = match statement.fetch_one(connection).await {
                Ok(Fetched::One(row)) => row,
                Ok(Fetched::None) => return Err(self.refused(connection).await),
                Ok(Fetched::Several) => return Err(LockError::NotUnique(operation(&self.row))),
                Err(error) if DB::has_written(connection, &error).await => {
                    let error = DatabaseError::new(operation(&self.row), error);
                    return Err(LockError::Written(error));
                }
                Err(error) => return Err(failed(error)),
            };
            // What a trigger returned instead of the new row is what comes back: here the old one.
            let unchanged = match version {
                None if T::WRITE_LOCK.is_none() => {
                    DB::get_i64(&row, row.len().saturating_sub(1)).map_err(failed)? == Some(1)
                }
                _ => false,
            };
            if unchanged && self.differs(connection).await.map_err(failed)? {
                return Err(LockError::Ignored(operation(&self.row)));
            }
            self.row.read_back(&row).map_err(|error| {
                LockError::Written(DatabaseError::new(operation(&self.row), error))
            })?;
            if version.is_some() && self.row.version() == version {
                return Err(LockError::Ignored(operation(&self.row)));
            }
            Ok(())
        })
    }

    /// Whether the stored row is another one than this, as far as `save` writes it.
    async fn differs<DB: Backend>(&self, connection: &mut Link<'_, DB>) -> Result<bool, sqlx::Error>
    where
        T: LockableSql<DB>,
    {
        let mut statement = Statement::literal(T::SELECT);
        T::bind_key(&self.row.key(), &mut Compared(&mut statement));
        let Fetched::One(row) = statement.fetch_one(connection).await? else {
            return Ok(false);
        };
        let stored = (T::ROW)(&row)?;
        let changes = stored::changes::<DB>(&|to| stored.bind_columns(to), &|to| {
            self.row.bind_columns(to)
        });
        Ok(!changes.is_empty())
    }

    /// Why `save` met no row.
    async fn refused<DB: Backend>(&self, connection: &mut Link<'_, DB>) -> LockError
    where
        T: LockableSql<DB>,
    {
        let (mine, operation) = (&self.row, T::operation("save", &self.row.key()));
        let mut statement = Statement::literal(T::SELECT);
        T::bind_key(&mine.key(), &mut Compared(&mut statement));
        let row = match statement.fetch_one(connection).await {
            Ok(Fetched::One(row)) => row,
            Ok(Fetched::None) => return LockError::NotFound(operation),
            Ok(Fetched::Several) => return LockError::NotUnique(operation),
            Err(error) => return LockError::new(operation, error, false),
        };
        match began::<DB, T>(&row, 0) {
            Ok((began, _)) if began != self.transaction.began => {
                return LockError::OtherTransaction(operation);
            }
            Ok(_) => {}
            Err(error) => return LockError::new(operation, error, false),
        }
        if mine.fence().is_none() && mine.version().is_none() {
            return LockError::Ignored(operation);
        }
        match (T::ROW)(&row) {
            Ok(stored) if stored.fence() > mine.fence() => {
                LockError::Fenced(operation, stored.fence().unwrap_or_default())
            }
            Ok(stored) if stored.version() != mine.version() => LockError::Stale(operation),
            Ok(_) => LockError::Ignored(operation),
            Err(error) => LockError::new(operation, error, false),
        }
    }
}
