//! How a call is refused.

use crate::db::error::{DatabaseError, Operation};
use crate::job::fingerprint::RequestError;
use crate::tx::TransactionError;

/// Why `once` has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError<E> {
    /// The key was used before, with another request. Nothing ran.
    #[error("{0}: this key was used with another request; a new request needs a new key")]
    Mismatch(Operation),
    /// The key was used before, and the fingerprint of its request is that of another version of rowlock: whether it was this request cannot be told.
    /// Nothing ran.
    #[error(
        "{0}: this key was used under another version of fingerprints, so whether by this request cannot be told"
    )]
    OtherFingerprint(Operation),
    /// The database holds the row under another key than the one that was given: a trigger or the column's type changes the
    /// key on its way in (to lower case, say), or a trigger or a row security policy drops the write. Rolled back.
    #[error(
        "{0}: the row is not stored under the key that was given (a trigger or the column's type changes it), or cannot be seen or written"
    )]
    KeyTaken(Operation),
    /// The `Serialize` of the request failed, so it has no fingerprint. Nothing ran.
    #[error("{0}: the request cannot be serialized")]
    Request(Operation, #[source] RequestError),
    /// The database has no unique index on exactly the columns of the key. Nothing ran.
    #[error("{0}: the database has no unique index on ({1}); create one")]
    MissingUniqueIndex(Operation, &'static str),
    /// A statement on the ledger failed. Rolled back.
    #[error(transparent)]
    Ledger(DatabaseError),
    /// The transaction failed, or the closure in it.
    #[error(transparent)]
    Transaction(TransactionError<E>),
}

/// Why an attempt was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The key was used before, with another request.
    #[error("{0}: this key was used with another request; a new request needs a new key")]
    Mismatch(Operation),
    /// The key was used before, and the fingerprint of its request is that of another version of rowlock: whether it was this
    /// request cannot be told.
    #[error(
        "{0}: this key was used under another version of fingerprints, so whether by this request cannot be told"
    )]
    OtherFingerprint(Operation),
    /// The database holds the row under another key than the one that was given: a trigger or the column's type changes the
    /// key on its way in (to lower case, say), or a trigger or a row security policy drops the write.
    #[error(
        "{0}: the row is not stored under the key that was given (a trigger or the column's type changes it), or cannot be seen or written"
    )]
    KeyTaken(Operation),
    /// The `Serialize` of the request failed, so it has no fingerprint.
    #[error("{0}: the request cannot be serialized")]
    Request(Operation, #[source] RequestError),
    /// The database has no unique index on exactly the columns of the key.
    #[error("{0}: the database has no unique index on ({1}); create one")]
    MissingUniqueIndex(Operation, &'static str),
    /// The connection was lost before the answer came. If the attempt was started, it ends with its lease.
    #[error("{0}; it is unknown whether the attempt was started")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why an attempt could not be finished, released or extended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The key is no longer this attempt's: its lease ended and another attempt took over, or it was finished. Nothing was
    /// written.
    #[error("{0}: the attempt is over, finished or taken over by another one")]
    TakenOver(Operation),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The write happened or it did not. After `finish`, call `start` again: it is
    /// `Replayed` if the outcome was stored.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}
