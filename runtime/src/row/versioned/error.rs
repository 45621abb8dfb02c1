//! How a read, a write and a deletion fail.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;

use super::checked::Failure;
use super::conflict::Conflict;
use crate::db::error::{DatabaseError, Operation};
use crate::db::fence::Fence;
use crate::row::guarded::Refusal;

/// Why a row could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No row has this key.
    #[error("{0}: no row has this key")]
    NotFound(Operation),
    /// The row's version is NULL, so no write could be checked against it.
    #[error("{0}: the version is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullVersion(Operation),
    /// Several rows have this key: it is not unique in the database.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The key of an [`Edit`](crate::row::Edit) was changed, and a key never changes. Nothing was sent.
    #[error("{0}: the key was edited; a save cannot change it")]
    KeyChanged(Operation),
    /// The database, the connection or the pool failed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why an update did not happen.
#[non_exhaustive]
pub enum UpdateError<T> {
    /// The row changed since this copy was read, by a concurrent writer or by your own earlier write. Nothing was written. The conflict has the
    /// current row.
    Stale(Box<Conflict<T>>),
    /// The row has the expected version and does not meet the condition of [`only_if`](crate::row::Edit::only_if). Nothing was written. Has the
    /// current row.
    Refused(Box<Refusal<T>>),
    /// The row does not exist: it was deleted, or never existed. Nothing was written.
    Gone(Operation),
    /// The row was written with a higher fence: another holder has the lock. Nothing was written.
    Fenced(Operation, Fence),
    /// The row's version is NULL in the database, so it cannot be checked. Nothing was written.
    NullVersion(Operation),
    /// The version is the highest of its type. Nothing was written.
    VersionOverflow(Operation),
    /// The row has the expected version and kept it: a trigger, a row security policy or ON CONFLICT IGNORE (SQLite) dropped the update, or a trigger
    /// returned OLD.
    Ignored(Operation),
    /// The key is not unique in the database. Nothing was written. Add the unique index, or name the column that is missing
    /// from the key.
    NotUnique(Operation),
    /// The key of an [`Edit`](crate::row::Edit) was changed, and a key never changes. Nothing was sent.
    KeyChanged(Operation),
    /// The row was written, but the returned row does not fit the model; or on SQLite, a trigger failed afterwards and kept it: RAISE(FAIL) or ON
    /// CONFLICT FAIL. In a transaction the write takes effect at COMMIT.
    Written(DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The write happened or it did not: reload to find out.
    Unknown(DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written.
    Database(DatabaseError),
}

/// Why a delete did not happen.
#[non_exhaustive]
pub enum DeleteError<T> {
    /// The row changed since this copy was read, by a concurrent writer or by your own earlier write. It is still there.
    Stale(Box<Conflict<T>>),
    /// The row has the expected version and does not meet the condition of [`only_if`](crate::row::Edit::only_if). It is still there; has the current
    /// row.
    Refused(Box<Refusal<T>>),
    /// The row does not exist: it was deleted, or never existed.
    Gone(Operation),
    /// The row was written with a higher fence: another holder has the lock. It is still there.
    Fenced(Operation, Fence),
    /// The row's version is NULL in the database, so it cannot be checked. It is still there.
    NullVersion(Operation),
    /// The row has the expected version, but the database kept it: a trigger or a row security policy dropped the delete.
    Ignored(Operation),
    /// The key is not unique in the database. Nothing was deleted. Add the unique index, or name the column that is missing
    /// from the key.
    NotUnique(Operation),
    /// The key of an [`Edit`](crate::row::Edit) was changed, and a key never changes. Nothing was sent.
    KeyChanged(Operation),
    /// The row was deleted, and then an SQLite trigger failed and kept that: RAISE(FAIL) or ON CONFLICT FAIL. In a transaction it takes effect at
    /// COMMIT.
    Written(DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The row is gone or it is not: load it to find out.
    Unknown(DatabaseError),
    /// The database, the connection or the pool failed. The row is still there.
    Database(DatabaseError),
}

macro_rules! of_failures {
    ($($error:ident $other:ty { $overflow:ident => $of_overflow:expr })*) => {$(
        impl<T> From<Failure<$other>> for $error<T> {
            fn from(failure: Failure<$other>) -> Self {
                match failure {
                    Failure::Gone(operation) => Self::Gone(operation),
                    Failure::Fenced(operation, fence) => Self::Fenced(operation, fence),
                    Failure::NullVersion(operation) => Self::NullVersion(operation),
                    Failure::VersionOverflow($overflow) => $of_overflow,
                    Failure::Ignored(operation) => Self::Ignored(operation),
                    Failure::NotUnique(operation) => Self::NotUnique(operation),
                    Failure::Written(error) => Self::Written(error),
                    Failure::Serialization(error) => Self::Serialization(error),
                    Failure::Unknown(error) => Self::Unknown(error),
                    Failure::Database(error) => Self::Database(error),
                }
            }
        }
    )*};
}
of_failures! {
    UpdateError Operation { operation => Self::VersionOverflow(operation) }
    DeleteError Infallible { never => match never {} }
}

/// What an error says. It knows no model, so that it is compiled once.
struct Said<'e> {
    variant: &'static str,
    shown: &'e dyn Shown,
    fence: Option<Fence>,
    text: &'static str,
    source: Option<&'e (dyn Error + 'static)>,
}

trait Shown: fmt::Display + fmt::Debug {}
impl<S: fmt::Display + fmt::Debug> Shown for S {}

impl<'e> Said<'e> {
    fn plain(variant: &'static str, shown: &'e dyn Shown, text: &'static str) -> Self {
        Self {
            variant,
            shown,
            fence: None,
            text,
            source: None,
        }
    }

    fn fenced(operation: &'e Operation, fence: Fence) -> Self {
        let text = "by a later holder of the lock";
        Self {
            fence: Some(fence),
            ..Self::plain("Fenced", operation, text)
        }
    }

    fn caused(variant: &'static str, error: &'e DatabaseError, text: &'static str) -> Self {
        Self {
            source: Some(error),
            ..Self::plain(variant, error, text)
        }
    }

    fn transparent(variant: &'static str, error: &'e DatabaseError, text: &'static str) -> Self {
        Self {
            source: error.source(),
            ..Self::plain(variant, error, text)
        }
    }

    fn display(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fence {
            None => write!(f, "{}{}", self.shown, self.text),
            Some(fence) => {
                let (operation, text) = (self.shown, self.text);
                write!(
                    f,
                    "{operation}: the row was written with the fence {fence}, {text}"
                )
            }
        }
    }

    fn debug(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = f.debug_tuple(self.variant);
        tuple.field(&self.shown);
        if let Some(fence) = &self.fence {
            tuple.field(fence);
        }
        tuple.finish()
    }
}

macro_rules! errors {
    ($($error:ident { $($kind:ident $variant:ident $text:literal;)* })*) => {$(
        impl<T> $error<T> {
            fn said(&self) -> Said<'_> {
                match self {
                    Self::Stale(conflict) => Said::plain("Stale", &conflict.clash, ""),
                    Self::Refused(refusal) => {
                        let text = ": the row does not meet the condition";
                        Said::plain("Refused", &refusal.operation, text)
                    }
                    Self::Fenced(operation, fence) => Said::fenced(operation, *fence),
                    $(Self::$variant(inner) => Said::$kind(stringify!($variant), inner, $text),)*
                }
            }
        }

        #[automatically_derived]
        impl<T> fmt::Display for $error<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.said().display(f)
            }
        }

        /// Without the rows: they do not belong in a log.
        impl<T> fmt::Debug for $error<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.said().debug(f)
            }
        }

        #[automatically_derived]
        impl<T> Error for $error<T> {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                self.said().source
            }
        }
    )*};
}
errors! {
    UpdateError {
        plain Gone ": the row does not exist (any more)";
        plain NullVersion ": the version is NULL in the database; set it to 0 and make the column NOT NULL";
        plain VersionOverflow ": the version cannot go any higher; use a wider integer";
        plain Ignored ": the version matches, but a trigger, a row security policy or ON CONFLICT IGNORE dropped the write";
        plain NotUnique ": several rows have this key";
        plain KeyChanged ": the key was edited";
        caused Written "; the row was written";
        caused Unknown "; it is unknown whether the write took effect";
        transparent Serialization "";
        transparent Database "";
    }
    DeleteError {
        plain Gone ": the row does not exist (any more)";
        plain NullVersion ": the version is NULL in the database; set it to 0 and make the column NOT NULL";
        plain Ignored ": the version matches, but a trigger or a row security policy dropped the delete";
        plain NotUnique ": several rows have this key";
        plain KeyChanged ": the key was edited";
        caused Written "; the row was deleted";
        caused Unknown "; it is unknown whether the delete took effect";
        transparent Serialization "";
        transparent Database "";
    }
}
