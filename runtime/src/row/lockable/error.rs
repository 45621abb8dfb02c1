//! How a lock is refused.

use crate::db::error::{DatabaseError, Operation};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::row::versioned::Conflict;
use std::fmt;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// No row has this key.
    #[error("{0}: no row has this key")]
    NotFound(Operation),
    /// Several rows have this key. `save` has written none of them.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The row was written with a higher fence: another holder has the lock. Nothing was written.
    #[error("{0}: the row was written with the fence {1}, by a later holder of the lock")]
    Fenced(Operation, Fence),
    /// Another transaction holds the row, and the call was not to wait (any longer).
    #[error("{0}")]
    NotAvailable(#[source] DatabaseError),
    /// The transaction is REPEATABLE READ or SERIALIZABLE: it reads other rows as they were before the lock, so the lock does not protect them. Use
    /// READ COMMITTED, or [`only_itself`](crate::row::Lock::only_itself) if only the locked row matters. The row is locked all the same, unless none
    /// was found: there may be one that the snapshot does not show.
    #[error(
        "{0}: in REPEATABLE READ and SERIALIZABLE the snapshot is older than the lock; use READ COMMITTED, or `only_itself`"
    )]
    FixedSnapshot(Operation),
    /// The key of a [`Locked`](crate::row::Locked) was changed, and a key never changes: the row with the new one was not locked. Nothing was sent.
    #[error("{0}: the key was edited; a save cannot change it")]
    KeyChanged(Operation),
    /// The row has another version than this [`Locked`](crate::row::Locked): it was saved through another one in the same transaction, or a save of this
    /// one was rolled back with a savepoint. Nothing was written. Lock the row again.
    #[error("{0}: the row was written since, or a save was rolled back; lock it again")]
    Stale(Operation),
    /// The row belongs to another transaction than the one it was locked in.
    #[error("{0}: the row was locked in another transaction; lock it again in this one")]
    OtherTransaction(Operation),
    /// The connection is in no transaction, where a lock would end with its statement. Nothing was locked or written. Begin one.
    #[error(
        "{0}: the connection is not in a transaction; begin one, and pass it or its connection"
    )]
    NotInTransaction(Operation),
    /// `save`: the row exists, but a trigger, a row security policy or ON CONFLICT IGNORE (SQLite) dropped the write, or a trigger returned OLD.
    #[error("{0}: a trigger, a row security policy or ON CONFLICT IGNORE dropped the write")]
    Ignored(Operation),
    /// `save`: the row was written, as far as this transaction commits, but the returned row does not fit the model; or on SQLite, a trigger failed
    /// afterwards and kept it: RAISE(FAIL) or ON CONFLICT FAIL.
    #[error("{0}; the row was written")]
    Written(#[source] DatabaseError),
    /// The transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The database or the connection failed.
    #[error(transparent)]
    Database(DatabaseError),
}

impl LockError {
    /// `limited`: the caller asked not to wait, or not for long. Then a database that is busy is the answer to that, and not
    /// a reason to run the transaction again.
    pub(super) fn new(operation: Operation, error: sqlx::Error, limited: bool) -> Self {
        let mut error = DatabaseError::new(operation, error);
        if limited && error.fault() == Fault::Busy {
            error = error.with_fault(Fault::LockTimeout);
        }
        match error.fault() {
            Fault::LockTimeout | Fault::Busy => Self::NotAvailable(error),
            Fault::Serialization => Self::Serialization(error),
            _ => Self::Database(error),
        }
    }
}

/// Why a loaded copy was not locked.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LockCheckedError<T> {
    /// The row changed since this copy was read, by a concurrent writer or by your own earlier write. The current row is locked.
    #[error("{0}")]
    Stale(Box<Conflict<T>>),
    /// The row was not locked.
    #[error(transparent)]
    Lock(LockError),
}

impl<T> fmt::Debug for LockCheckedError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(conflict) => f.debug_tuple("Stale").field(conflict).finish(),
            Self::Lock(error) => f.debug_tuple("Lock").field(error).finish(),
        }
    }
}
