//! What every error of a generated method can tell: which operation, on which row, and what the database said.

use std::error::Error;
use std::fmt;

use crate::db::fault::Fault;
use crate::observe;

/// What was attempted: the operation and the row. Part of every error.
///
/// `Display` prints it as ``update of documents (id = 7)``. Key columns that are integers or UUIDs are printed;
/// others may be an e-mail address or worse, and appear as `…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    method: &'static str,
    table: &'static str,
    key: String,
}

impl Operation {
    pub(crate) fn new(method: &'static str, table: &'static str, key: KeyText) -> Self {
        Self {
            method,
            table,
            key: key.0,
        }
    }

    /// The name of the method: `"update"`, `"add_views"`, `"find_or_create"`.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// The table, as written in `#[rowlock(table = "...")]`.
    pub fn table(&self) -> &'static str {
        self.table
    }

    /// The key as text: `id = 7`. Empty if the operation is about several rows.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method)?;
        // A transaction is of no table, nor is an advisory lock.
        if !self.table.is_empty() {
            write!(f, " of {}", self.table)?;
        }
        if !self.key.is_empty() {
            write!(f, " ({})", self.key)?;
        }
        Ok(())
    }
}

/// Collects the key columns for an [`Operation`]. Written only when something failed.
#[derive(Debug, Default)]
pub struct KeyText(String);

impl KeyText {
    /// A column whose value may be printed.
    pub fn shown(&mut self, column: &str, value: &impl fmt::Display) {
        self.add(column, &value.to_string());
    }

    /// A column whose value may not be printed.
    pub fn hidden(&mut self, column: &str) {
        self.add(column, "…");
    }

    /// What is no list of columns.
    pub(crate) fn whole(text: String) -> Self {
        Self(text)
    }

    fn add(&mut self, column: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push_str(", ");
        }
        self.0.push_str(column);
        self.0.push_str(" = ");
        self.0.push_str(value);
    }
}

/// The database, the connection or the pool failed.
///
/// `Display` and `Debug` show the operation, the [`Fault`], the error code and the constraint, and never a value of a
/// row. [`source`](Error::source) is the `sqlx::Error` itself, whose own texts can contain values, and name the column that
/// is missing.
pub struct DatabaseError(Box<Inner>);

struct Inner {
    operation: Operation,
    fault: Fault,
    source: sqlx::Error,
    /// Part of an error that says that it may have happened.
    of_unknown_outcome: bool,
}

impl DatabaseError {
    pub(crate) fn new(operation: Operation, source: sqlx::Error) -> Self {
        let fault = Fault::of(&source);
        Self(Box::new(Inner {
            operation,
            fault,
            source,
            of_unknown_outcome: false,
        }))
    }

    /// The same error where the circumstances say more than its code.
    pub(crate) fn with_fault(mut self, fault: Fault) -> Self {
        self.0.fault = fault;
        self
    }

    /// The same error of what the user called, where that is more than the part that failed.
    pub(crate) fn with_operation(mut self, operation: Operation) -> Self {
        self.0.operation = operation;
        self
    }

    /// The same error as a part of one that says that it may have happened.
    pub(crate) fn of_unknown_outcome(mut self) -> Self {
        self.0.of_unknown_outcome = true;
        observe::unknown(&self.0.operation);
        self
    }

    pub(crate) fn is_of_unknown_outcome(&self) -> bool {
        self.0.of_unknown_outcome
    }

    /// What was attempted.
    pub fn operation(&self) -> &Operation {
        &self.0.operation
    }

    /// What went wrong, the same for every database.
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// The SQLSTATE of PostgreSQL, or the extended result code of SQLite in decimal.
    pub fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        self.database()?.code()
    }

    /// The name of the constraint that was violated. PostgreSQL only.
    pub fn constraint(&self) -> Option<&str> {
        self.database()?.constraint()
    }

    /// The error as sqlx returned it.
    pub fn as_sqlx(&self) -> &sqlx::Error {
        &self.0.source
    }

    /// The error as sqlx returned it.
    pub fn into_sqlx(self) -> sqlx::Error {
        self.0.source
    }

    fn database(&self) -> Option<&(dyn sqlx::error::DatabaseError + 'static)> {
        self.0.source.as_database_error()
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.fault)?;
        if let Some(constraint) = self.constraint() {
            write!(f, " of {constraint}")?;
        }
        if let Some(code) = self.code() {
            let kind = if code.len() == 5 && self.database().is_some_and(is_postgres) {
                "SQLSTATE"
            } else {
                "SQLite code"
            };
            write!(f, " ({kind} {code})")?;
        }
        match &self.0.source {
            // The database's own text can have values of the row in it, whatever the code is: that of a function which
            // a trigger calls, for example.
            sqlx::Error::ColumnDecode { index, .. } => write!(f, ": column {index}"),
            sqlx::Error::ColumnNotFound(name) => write!(f, ": no column {name:?}"),
            _ => Ok(()),
        }
    }
}

fn is_postgres(error: &(dyn sqlx::error::DatabaseError + 'static)) -> bool {
    #[cfg(feature = "postgres")]
    return error
        .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        .is_some()
        || error
            .try_downcast_ref::<crate::db::copied::CopiedError>()
            .is_some();
    #[cfg(not(feature = "postgres"))]
    {
        let _ = error;
        false
    }
}

impl fmt::Debug for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseError")
            .field("operation", &self.0.operation)
            .field("fault", &self.0.fault)
            .field("code", &self.code())
            .field("constraint", &self.constraint())
            .finish_non_exhaustive()
    }
}

impl Error for DatabaseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0.source)
    }
}

/// How a write failed. Each operation's error has these three variants.
pub(crate) enum WriteFailure {
    Serialization(DatabaseError),
    Unknown(DatabaseError),
    Database(DatabaseError),
}

impl WriteFailure {
    /// `in_transaction`: whether the write was part of an open transaction, in which case a lost connection means
    /// that it was rolled back.
    pub(crate) fn new(operation: Operation, source: sqlx::Error, in_transaction: bool) -> Self {
        let error = DatabaseError::new(operation, source);
        match error.fault() {
            Fault::Serialization => Self::Serialization(error),
            // It can also be the server of another database that this one asked in a transaction of ours.
            Fault::CompletionUnknown => Self::Unknown(error.of_unknown_outcome()),
            fault if fault.may_have_committed() && !in_transaction => {
                Self::Unknown(error.of_unknown_outcome())
            }
            _ => Self::Database(error),
        }
    }
}

/// Turns a [`WriteFailure`] into the variants of the same names.
macro_rules! from_write_failure {
    ($($error:ident $(<$t:ident>)?),*) => {$(
        impl $(<$t>)? From<crate::db::error::WriteFailure> for $error $(<$t>)? {
            fn from(failure: crate::db::error::WriteFailure) -> Self {
                match failure {
                    crate::db::error::WriteFailure::Serialization(error) => Self::Serialization(error),
                    crate::db::error::WriteFailure::Unknown(error) => Self::Unknown(error),
                    crate::db::error::WriteFailure::Database(error) => Self::Database(error),
                }
            }
        }
    )*};
}
pub(crate) use from_write_failure;
