//! Errors that are told several times: sqlx's own cannot be copied.

use std::borrow::Cow;
use std::fmt;
use std::io;

use sqlx::error::{DatabaseError, ErrorKind};

use crate::db::fault::Fault;

/// The error once more, for another of those whom it concerns: of the same fault, code and constraint.
pub(crate) fn copy(error: &sqlx::Error) -> sqlx::Error {
    if let Some(copied) = CopiedError::of(error, Fault::of(error)) {
        return copied.error();
    }
    match error {
        sqlx::Error::PoolTimedOut => sqlx::Error::PoolTimedOut,
        sqlx::Error::PoolClosed => sqlx::Error::PoolClosed,
        sqlx::Error::WorkerCrashed => sqlx::Error::WorkerCrashed,
        sqlx::Error::Io(error) => sqlx::Error::Io(io::Error::new(error.kind(), error.to_string())),
        sqlx::Error::Encode(error) => sqlx::Error::Encode(error.to_string().into()),
        sqlx::Error::ColumnDecode { index, source } => sqlx::Error::ColumnDecode {
            index: index.clone(),
            source: source.to_string().into(),
        },
        _ => match Fault::of(error) {
            Fault::ConnectionLost => sqlx::Error::Protocol(error.to_string()),
            Fault::Decode => sqlx::Error::Decode(error.to_string().into()),
            _ => sqlx::Error::InvalidArgument(error.to_string()),
        },
    }
}

/// A copy of an error of the server.
#[derive(Debug, Clone)]
pub(crate) struct CopiedError {
    pub(crate) fault: Fault,
    kind: Kind,
    code: Option<String>,
    message: String,
    constraint: Option<String>,
    table: Option<String>,
}

/// `ErrorKind` cannot be copied.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Unique,
    ForeignKey,
    NotNull,
    Check,
    Exclusion,
    Other,
}

impl CopiedError {
    pub(crate) fn of(error: &sqlx::Error, fault: Fault) -> Option<Self> {
        let error = error.as_database_error()?;
        Some(Self {
            fault,
            kind: match error.kind() {
                ErrorKind::UniqueViolation => Kind::Unique,
                ErrorKind::ForeignKeyViolation => Kind::ForeignKey,
                ErrorKind::NotNullViolation => Kind::NotNull,
                ErrorKind::CheckViolation => Kind::Check,
                ErrorKind::ExclusionViolation => Kind::Exclusion,
                _ => Kind::Other,
            },
            code: error.code().map(Cow::into_owned),
            message: error.message().to_owned(),
            constraint: error.constraint().map(str::to_owned),
            table: error.table().map(str::to_owned),
        })
    }

    pub(crate) fn error(&self) -> sqlx::Error {
        sqlx::Error::Database(Box::new(self.clone()))
    }
}

impl fmt::Display for CopiedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CopiedError {}

impl DatabaseError for CopiedError {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.code.as_deref().map(Cow::Borrowed)
    }

    fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    fn kind(&self) -> ErrorKind {
        match self.kind {
            Kind::Unique => ErrorKind::UniqueViolation,
            Kind::ForeignKey => ErrorKind::ForeignKeyViolation,
            Kind::NotNull => ErrorKind::NotNullViolation,
            Kind::Check => ErrorKind::CheckViolation,
            Kind::Exclusion => ErrorKind::ExclusionViolation,
            Kind::Other => ErrorKind::Other,
        }
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_fault_of_the_error() {
        let text = || "text".to_owned();
        for error in [
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::WorkerCrashed,
            sqlx::Error::Io(io::ErrorKind::BrokenPipe.into()),
            sqlx::Error::Tls(text().into()),
            sqlx::Error::Protocol(text()),
            sqlx::Error::Encode(text().into()),
            sqlx::Error::Decode(text().into()),
            sqlx::Error::ColumnNotFound(text()),
            sqlx::Error::InvalidArgument(text()),
            sqlx::Error::RowNotFound,
        ] {
            let copied = copy(&error);
            assert_eq!(Fault::of(&copied), Fault::of(&error), "{error:?}");
        }
    }

    #[test]
    fn a_copy_has_the_column_that_does_not_fit() {
        let error = sqlx::Error::ColumnDecode {
            index: "title".to_owned(),
            source: "unexpected NULL".into(),
        };
        assert_eq!(copy(&error).to_string(), error.to_string());
        assert_eq!(Fault::of(&copy(&error)), Fault::of(&error));
    }
}
