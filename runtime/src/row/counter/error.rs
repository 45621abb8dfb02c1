//! How an addition is refused.

use crate::db::error::{DatabaseError, Operation};

/// Why nothing was added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CounterError {
    /// The total would leave the declared bounds. Nothing was changed: in a batch, nothing of the whole batch.
    #[error("{0}")]
    OutOfBounds(Box<OutOfBounds>),
    /// The total, or the sum of a batch for one key, does not fit the counter's integer type. Nothing was changed. In a PostgreSQL transaction that a
    /// batch has aborted, a total cannot be told from a key that does not fit its column: both are `Database`, with
    /// [`Fault::NumericOutOfRange`](crate::Fault::NumericOutOfRange).
    #[error("{0}: the total does not fit the counter's type; use a wider integer")]
    Overflow(Operation),
    /// The row does not exist, and the model is declared with `existing_rows`. Nothing was changed.
    #[error("{0}: no row has this key")]
    NotFound(Operation),
    /// The counter is NULL in the database, and NULL + 1 is NULL. Nothing was changed.
    #[error("{0}: the counter is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullValue(Operation),
    /// The database changed nothing, although a read right afterwards shows room: a concurrent caller changed the counter in between, or a trigger, a
    /// row security policy or ON CONFLICT IGNORE (SQLite) dropped the write. Nothing was changed; call again.
    #[error("{0}: nothing was changed, although there is room by now; call again")]
    Contended(Operation),
    /// The key is not unique in the database. Nothing was changed.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The database has no unique index on exactly the columns of the key, so it cannot tell whether the row is there. Nothing was changed.
    #[error("{0}: the database has no unique index on ({1}); create one")]
    MissingUniqueIndex(Operation, &'static str),
    /// The addition was made, but the returned total is NULL or does not fit the field; or on SQLite, a trigger failed afterwards and kept it:
    /// RAISE(FAIL) or ON CONFLICT FAIL. In a transaction it takes effect at COMMIT. A batch is then undone, and its error is `Database`.
    #[error("{0}; the addition was made")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The addition happened or it did not; doing it again could count
    /// twice.
    #[error("{0}; it is unknown whether the addition took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was changed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// An addition that would have left the counter's bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfBounds {
    /// The attempted operation.
    pub operation: Operation,
    /// The counter's field.
    pub field: &'static str,
    /// The refused addition.
    pub delta: i64,
    /// The value read right afterwards, which a concurrent caller may have changed in between. `None` if there is no row.
    pub current: Option<i64>,
    /// The declared lower bound.
    pub min: Option<i64>,
    /// The declared upper bound.
    pub max: Option<i64>,
}

impl std::fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {:+} would take {} out of its bounds",
            self.operation, self.delta, self.field
        )?;
        match (self.min, self.max) {
            (Some(min), Some(max)) => write!(f, " {min} to {max}"),
            (Some(min), None) => write!(f, ", at least {min}"),
            (None, Some(max)) => write!(f, ", at most {max}"),
            (None, None) => Ok(()),
        }
    }
}
