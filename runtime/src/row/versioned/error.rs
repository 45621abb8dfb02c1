//! How a read, a write and a deletion fail.

use super::conflict::Conflict;
use crate::db::error::{Attempt, DatabaseError};
use crate::db::fence::Fence;
use std::fmt;

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
    /// The key of an [`Edit`](crate::row::Edit) was changed, and a key never changes. Nothing was sent.
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
    /// The key of an [`Edit`](crate::row::Edit) was changed, and a key never changes. Nothing was sent.
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
    /// The key of an [`Edit`](crate::row::Edit) was changed, and a key never changes. Nothing was sent.
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
