//! How a guarded write is refused.

use std::fmt;

use crate::db::error::{DatabaseError, Operation};

/// Why a guarded write did not happen.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum GuardError<T> {
    /// No row has this key.
    #[error("{0}: no row has this key")]
    NotFound(Operation),
    /// The row does not meet the condition, or an addition would leave the bounds of its counter or the range of its type. Nothing was written. Has
    /// the current row.
    #[error("{}: the row does not meet the condition", .0.operation)]
    Refused(Box<Refusal<T>>),
    /// The row meets the condition, but its version is NULL in the database and cannot go up. Nothing was written.
    #[error("{0}: the version is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullVersion(Operation),
    /// The row meets the condition, but its version is the highest of its type. Nothing was written.
    #[error("{0}: the version cannot go any higher; use a wider integer")]
    VersionOverflow(Operation),
    /// The closure sets this column twice. Nothing was sent.
    #[error("{0}: column {1} is set twice")]
    SetTwice(Operation, &'static str),
    /// The row meets the condition, but a trigger, a row security policy or ON CONFLICT IGNORE (SQLite) dropped the write.
    #[error("{0}: a trigger, a row security policy or ON CONFLICT IGNORE dropped the write")]
    Ignored(Operation),
    /// Several rows have this key: it is not unique in the database. Nothing was written.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The row was written, but the returned row does not fit the model; or on SQLite, a trigger failed afterwards and kept it: RAISE(FAIL) or ON
    /// CONFLICT FAIL. In a transaction the write takes effect at COMMIT.
    #[error("{0}; the row was written")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The write happened or it did not: read the row to find out.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

/// A row that does not meet the condition of a write.
#[non_exhaustive]
pub struct Refusal<T> {
    /// What was refused.
    pub operation: Operation,
    /// The current row. It was read after the refusal, by a statement that saw it fail the condition; a concurrent writer can have changed it in
    /// between.
    pub current: T,
}

/// Without the row: it does not belong in a log.
impl<T> fmt::Debug for Refusal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

/// Without the row: it does not belong in a log.
impl<T> fmt::Debug for GuardError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (variant, inner): (_, &dyn fmt::Debug) = match self {
            Self::NotFound(operation) => ("NotFound", operation),
            Self::Refused(refusal) => ("Refused", refusal),
            Self::NullVersion(operation) => ("NullVersion", operation),
            Self::VersionOverflow(operation) => ("VersionOverflow", operation),
            Self::SetTwice(operation, _) => ("SetTwice", operation),
            Self::Ignored(operation) => ("Ignored", operation),
            Self::NotUnique(operation) => ("NotUnique", operation),
            Self::Written(error) => ("Written", error),
            Self::Serialization(error) => ("Serialization", error),
            Self::Unknown(error) => ("Unknown", error),
            Self::Database(error) => ("Database", error),
        };
        f.debug_tuple(variant).field(inner).finish()
    }
}
