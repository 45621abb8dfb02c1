//! Why a row was neither found nor written.

use crate::db::error::{DatabaseError, Operation, from_write_failure};
use crate::db::fence::Fence;

/// Why a row could not be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// Several rows have this key: the database has no unique index on it.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The database, the connection or the pool failed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a row was neither found nor created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindOrCreateError {
    /// The database repeatedly reports that the key is taken, but no row with this key is visible. The holder is hidden by a row security policy, or
    /// a trigger or the column's type changes the key on its way in, so that the stored key is not the requested one. Nothing was written.
    #[error(
        "{0}: the key is taken by a row that a lookup of this key does not find, or the insert was dropped (by row security, a trigger, or ON CONFLICT IGNORE)"
    )]
    KeyTaken(Operation),
    /// Several rows have this key: the database has no unique index on it. Nothing was written.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The database has no unique index on exactly the columns of the key. Nothing was written.
    #[error("{0}: the database has no unique index on ({1}); create one")]
    MissingUniqueIndex(Operation, &'static str),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The row was created, but the returned row does not fit the model; or on SQLite, a trigger failed afterwards and kept it: RAISE(FAIL) or ON
    /// CONFLICT FAIL. In a transaction it takes effect at COMMIT.
    #[error("{0}; the row was created")]
    Written(#[source] DatabaseError),
    /// The connection was lost before the answer came. The row was created or it was not: call again to find out.
    #[error("{0}; it is unknown whether the row was created")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed: also a violation of any constraint other than the key's.
    /// Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a row was neither created nor overwritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpsertError {
    /// The key is on a generated column, and another key's row has the value that this one computes; see also [`FindOrCreateError::KeyTaken`].
    /// Nothing was written.
    #[error(
        "{0}: the key is taken by a row that a lookup of this key does not find, or the insert was dropped (by row security, a trigger, or ON CONFLICT IGNORE)"
    )]
    KeyTaken(Operation),
    /// Several rows have this key: the database has no unique index on it. Nothing was written.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The database has no unique index on exactly the columns of the key. Nothing was written.
    #[error("{0}: the database has no unique index on ({1}); create one")]
    MissingUniqueIndex(Operation, &'static str),
    /// The row exists, and was written with a higher fence: another holder has the lock. Nothing was written.
    #[error("{0}: the row was written with the fence {1}, by a later holder of the lock")]
    Fenced(Operation, Fence),
    /// The row exists, and its version is NULL or the highest of its type. Nothing was written.
    #[error("{0}: the row's version is NULL or cannot go any higher")]
    VersionOverflow(Operation),
    /// Nothing was written. A trigger or ON CONFLICT IGNORE (SQLite) dropped the write; or concurrent writers changed the row in each of five rounds
    /// (`upsert_if`, and `update_or_create` on SQLite). A row that a policy protects is [`Fault::PermissionDenied`](crate::Fault::PermissionDenied).
    #[error(
        "{0}: nothing was written: a trigger or ON CONFLICT IGNORE dropped it, or concurrent writers changed the row in between"
    )]
    Ignored(Operation),
    /// The row was created or overwritten, but the returned row does not fit the model; or on SQLite, a trigger failed afterwards and kept it:
    /// RAISE(FAIL) or ON CONFLICT FAIL. In a transaction it takes effect at COMMIT.
    #[error("{0}; the row was written")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The write happened or it did not.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed: also a violation of any constraint other than the key's.
    /// Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a row was not created, although its key may be free.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The database has no unique index on exactly the columns of the key. Nothing was written.
    #[error("{0}: the database has no unique index on ({1}); create one")]
    MissingUniqueIndex(Operation, &'static str),
    /// The row was created, but the returned row does not fit the model; or on SQLite, a trigger failed afterwards and kept it: RAISE(FAIL) or ON
    /// CONFLICT FAIL. In a transaction it takes effect at COMMIT.
    #[error("{0}; the row was created")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The row was created or it was not.
    #[error("{0}; it is unknown whether the row was created")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed: also a violation of any constraint other than the key's.
    /// Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

from_write_failure!(CreateError, FindOrCreateError, UpsertError);

impl From<FindOrCreateError> for UpsertError {
    fn from(error: FindOrCreateError) -> Self {
        match error {
            FindOrCreateError::KeyTaken(operation) => Self::KeyTaken(operation),
            FindOrCreateError::NotUnique(operation) => Self::NotUnique(operation),
            FindOrCreateError::MissingUniqueIndex(operation, columns) => {
                Self::MissingUniqueIndex(operation, columns)
            }
            FindOrCreateError::Serialization(error) => Self::Serialization(error),
            FindOrCreateError::Written(error) => Self::Written(error),
            FindOrCreateError::Unknown(error) => Self::Unknown(error),
            FindOrCreateError::Database(error) => Self::Database(error),
        }
    }
}
