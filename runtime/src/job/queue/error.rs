//! How claims and their ends fail.

use super::Queue;
use super::claimed::Claimed;
use crate::db::error::{DatabaseError, Operation};
use std::ops::Deref;

/// Why nothing was claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The transaction of a stricter isolation level lost against a concurrent one. Nothing was claimed.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. What was claimed comes back after its lease, and its attempt has counted.
    #[error("{0}; it is unknown whether rows were claimed")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was claimed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a claimed row could not be finished or extended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// The claim no longer holds: its lease ended and the row was taken back, or the row was finished, cancelled or deleted. Nothing was written.
    #[error("{0}: the lease was lost; another attempt may have the row: stop this work")]
    LeaseLost(Operation),
    /// The claim holds, but nothing was written: a trigger, a row security policy or ON CONFLICT IGNORE (SQLite) dropped the write. The row comes
    /// back after its lease.
    #[error(
        "{0}: the claim still holds, but a trigger, a row security policy or ON CONFLICT IGNORE dropped the write"
    )]
    Ignored(Operation),
    /// The database does not let the row be ready again, as `UNIQUE (…) WHERE state = 'ready'` does if the same job was added meanwhile. The row is
    /// [`QueueState::Dead`](crate::queue::QueueState::Dead), with this as its last error.
    #[error("{0}; the row could not be ready again, and is dead")]
    NotReady(#[source] DatabaseError),
    /// The row was written, and then an SQLite trigger failed and kept it: RAISE(FAIL) or ON CONFLICT FAIL. In a transaction it takes effect at
    /// COMMIT, and of a batch there some rows were written. The claim no longer holds, unless it was `extend`.
    #[error("{0}; the row was written")]
    Written(#[source] DatabaseError),
    /// `complete_in`: the connection is in no transaction, where the completion would be committed without the work. Nothing was written. Begin one.
    #[error(
        "{0}: the connection is not in a transaction; begin one, and pass it or its connection"
    )]
    NotInTransaction(Operation),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. If nothing was written, the row comes back after its lease.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written; the row comes back after its lease.
    #[error(transparent)]
    Database(DatabaseError),
}

/// A row of a batch that was not written as requested, and why. Dereferences to the claim, and so to the row.
#[non_exhaustive]
pub struct Unfinished<T> {
    /// The claim. If the error is [`FinishError::Ignored`] or [`FinishError::Database`] it still holds until its lease ends: you can finish the row
    /// in another way.
    pub claimed: Claimed<T>,
    /// [`LeaseLost`](FinishError::LeaseLost), [`Ignored`](FinishError::Ignored), [`NotReady`](FinishError::NotReady),
    /// [`Written`](FinishError::Written), or why the database refused to write this row.
    pub error: FinishError,
}

impl<T> Deref for Unfinished<T> {
    type Target = Claimed<T>;

    fn deref(&self) -> &Claimed<T> {
        &self.claimed
    }
}

impl<T: Queue> std::fmt::Debug for Unfinished<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unfinished")
            .field("claimed", &self.claimed)
            .field("error", &self.error)
            .finish()
    }
}
