//! The one place where a database error is classified: by code, never by message text.

use std::error::Error;
use std::fmt;

use crate::error::DatabaseError;

/// What went wrong, the same for every database.
///
/// [`Fault::of`] reads the SQLSTATE of PostgreSQL or the extended result code of SQLite. Message texts are never
/// looked at: they are translated, reworded and can contain the user's own data.
///
/// ```
/// use rowlock::Fault;
///
/// let error = sqlx::Error::PoolTimedOut;
/// assert_eq!(Fault::of(&error), Fault::PoolTimedOut);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The transaction lost against a concurrent one and has to be run again from its start: SQLSTATE 40001,
    /// SQLite `BUSY_SNAPSHOT`.
    Serialization,
    /// Two transactions waited for each other and this one was chosen to fail: SQLSTATE 40P01.
    Deadlock,
    /// Another connection holds the database: SQLite `BUSY` or `LOCKED` after its busy timeout.
    Busy,
    /// A row or table lock was not free in time, or not free at all under NOWAIT: SQLSTATE 55P03.
    LockTimeout,
    /// The server cancelled the statement, after `statement_timeout` or on request: SQLSTATE 57014, SQLite
    /// `INTERRUPT`.
    Canceled,
    /// A unique index already holds the key.
    UniqueViolation,
    /// The row refers to one that does not exist, or is referred to.
    ForeignKeyViolation,
    /// A NOT NULL column was given NULL.
    NotNullViolation,
    /// A CHECK constraint said no.
    CheckViolation,
    /// A number does not fit its column: SQLSTATE 22003.
    NumericOutOfRange,
    /// The statement does not fit the schema: a table, a column or a unique index is missing. SQLSTATE class 42,
    /// SQLite `ERROR`.
    Schema,
    /// An earlier statement of this transaction failed, and the server accepts nothing but its end: SQLSTATE 25P02.
    TransactionAborted,
    /// The transaction or the database is read-only.
    ReadOnly,
    /// No connection became free within the pool's acquire timeout.
    PoolTimedOut,
    /// The pool was closed.
    PoolClosed,
    /// The connection broke, or the server is going away.
    ConnectionLost,
    /// A value that was read does not fit the field's type.
    Decode,
    /// A value could not be encoded.
    Encode,
    /// Anything else.
    Other,
}

impl Fault {
    /// Classifies an error of sqlx.
    pub fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self::of_database(error.as_ref()),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => Self::ConnectionLost,
            sqlx::Error::PoolTimedOut => Self::PoolTimedOut,
            sqlx::Error::PoolClosed => Self::PoolClosed,
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => Self::Decode,
            sqlx::Error::Encode(_) => Self::Encode,
            _ => Self::Other,
        }
    }

    /// Finds the error of sqlx behind the user's own error type, by following `source()`.
    ///
    /// An error that was formatted into a string is lost to this, as to every other program. So is a lost connection (not an
    /// error that the server sent) behind thiserror's `#[error(transparent)]`, which hides the `sqlx::Error`: give the variant
    /// a text of its own.
    pub fn in_chain(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<sqlx::Error>() {
                return Some(Self::of(error));
            }
            if let Some(error) = error.downcast_ref::<DatabaseError>() {
                return Some(error.fault());
            }
            // A variant that is transparent to sqlx::Error hides it, and shows only what is inside it.
            if let Some(error) = error.downcast_ref::<Box<dyn sqlx::error::DatabaseError>>() {
                return Some(Self::of_database(error.as_ref()));
            }
            next = error.source();
        }
        None
    }

    /// Whether the same transaction, run again from its start, can succeed without anybody changing anything.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Serialization | Self::Deadlock | Self::Busy | Self::ConnectionLost
        )
    }

    fn of_database(error: &dyn sqlx::error::DatabaseError) -> Self {
        #[cfg(feature = "postgres")]
        if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
            return Self::of_sqlstate(error.code());
        }
        #[cfg(feature = "sqlite")]
        if error
            .try_downcast_ref::<sqlx::sqlite::SqliteError>()
            .is_some()
        {
            let code = error.code().and_then(|code| code.parse().ok());
            return code.map_or(Self::Other, Self::of_sqlite);
        }
        let _ = error;
        Self::Other
    }

    #[cfg(feature = "postgres")]
    fn of_sqlstate(code: &str) -> Self {
        match code {
            "40001" => Self::Serialization,
            "40P01" => Self::Deadlock,
            "55P03" => Self::LockTimeout,
            "57014" => Self::Canceled,
            "23505" => Self::UniqueViolation,
            "23503" => Self::ForeignKeyViolation,
            "23502" => Self::NotNullViolation,
            "23514" => Self::CheckViolation,
            "22003" => Self::NumericOutOfRange,
            "25P02" => Self::TransactionAborted,
            "25006" => Self::ReadOnly,
            // The server ends the connection: an administrator, a crash, or an idle timeout.
            "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => Self::ConnectionLost,
            // Permission (42501) is the exception in a class that else means schema or syntax.
            "42501" => Self::Other,
            _ if code.starts_with("42") || code.starts_with("3F") => Self::Schema,
            _ if code.starts_with("08") => Self::ConnectionLost,
            _ => Self::Other,
        }
    }

    #[cfg(feature = "sqlite")]
    fn of_sqlite(code: i32) -> Self {
        match code {
            517 => Self::Serialization,                  // BUSY_SNAPSHOT
            2067 | 1555 | 2579 => Self::UniqueViolation, // UNIQUE, PRIMARYKEY, ROWID
            787 => Self::ForeignKeyViolation,
            1299 => Self::NotNullViolation,
            275 => Self::CheckViolation,
            // The low byte is the primary code.
            _ => match code & 0xff {
                1 => Self::Schema,
                5 | 6 => Self::Busy,
                8 => Self::ReadOnly,
                9 => Self::Canceled,
                _ => Self::Other,
            },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serialization => {
                "serialization failure, run the transaction again from its start"
            }
            Self::Deadlock => "deadlock",
            Self::Busy => "the database is busy",
            Self::LockTimeout => "a lock was not free in time",
            Self::Canceled => "the server cancelled the statement",
            Self::UniqueViolation => "unique violation",
            Self::ForeignKeyViolation => "foreign key violation",
            Self::NotNullViolation => "NULL in a NOT NULL column",
            Self::CheckViolation => "check violation",
            Self::NumericOutOfRange => "number out of the column's range",
            Self::Schema => "the statement does not fit the schema",
            Self::TransactionAborted => "an earlier statement of the transaction failed",
            Self::ReadOnly => "read-only",
            Self::PoolTimedOut => "no connection became free in time",
            Self::PoolClosed => "the pool is closed",
            Self::ConnectionLost => "connection lost",
            Self::Decode => "a column does not fit its field",
            Self::Encode => "a value could not be encoded",
            Self::Other => "database error",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;

    #[test]
    #[cfg(feature = "postgres")]
    fn sqlstates() {
        for (code, fault) in [
            ("40001", Fault::Serialization),
            ("40P01", Fault::Deadlock),
            ("42P01", Fault::Schema),
            ("42P10", Fault::Schema),
            ("42501", Fault::Other),
            ("08006", Fault::ConnectionLost),
            ("57P01", Fault::ConnectionLost),
            ("XX000", Fault::Other),
        ] {
            assert_eq!(Fault::of_sqlstate(code), fault, "{code}");
        }
    }

    #[test]
    #[cfg(feature = "sqlite")]
    fn sqlite_extended_codes() {
        for (code, fault) in [
            (5, Fault::Busy),
            (261, Fault::Busy),
            (517, Fault::Serialization),
            (2067, Fault::UniqueViolation),
            (1555, Fault::UniqueViolation),
            (1811, Fault::Other),
            (1, Fault::Schema),
        ] {
            assert_eq!(Fault::of_sqlite(code), fault, "{code}");
        }
    }
}
