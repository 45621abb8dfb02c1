//! The file against the database.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};

use rowlock_schema::{Catalogue, changes};

use super::{Describes, snapshot};
use crate::DatabaseError;
use crate::db::source::Source;

/// Whoever sets it to `write` wants the file written.
const VARIABLE: &str = "ROWLOCK_SCHEMA";

/// Compares the file with the database, for a test: fails with what differs. With `ROWLOCK_SCHEMA=write` in the environment it writes the
/// file instead, if anything does.
///
/// `path`: in a test, from the directory of its package.
pub fn check_file<'c, DB: Describes>(
    db: impl Source<'c, DB>,
    path: impl AsRef<Path> + Send,
) -> impl Future<Output = Result<(), FileError>> + Send {
    async move {
        let found = snapshot(db).await.map_err(FileError::Database)?;
        let path = path.as_ref();
        let read = Catalogue::read(path);
        let differs = match &read {
            Ok(read) if *read == found => return Ok(()),
            Ok(read) => changes(read, &found),
            Err(error) => error.to_string(),
        };
        if std::env::var_os(VARIABLE).is_some_and(|value| value == "write") {
            return std::fs::write(path, found.to_json()).map_err(|error| FileError::Unwritable {
                path: path.to_owned(),
                error,
            });
        }
        Err(FileError::Differs {
            path: path.to_owned(),
            differs,
            source: read.err(),
        })
    }
}

/// Why [`check_file`] failed. `Debug` is `Display`, which a test prints.
#[non_exhaustive]
pub enum FileError {
    /// The database was not read.
    Database(DatabaseError),
    /// The file is not what the database has.
    Differs {
        /// The file.
        path: PathBuf,
        /// What differs: `-` is in the file alone, `+` in the database alone.
        differs: String,
        /// Why the file could not be read, if that is it.
        source: Option<rowlock_schema::FileError>,
    },
    /// The file was not written.
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(error) => error.fmt(f),
            Self::Differs { path, differs, .. } => write!(
                f,
                "`{}` is not what the database has:\n{differs}\nhelp: run this again with {VARIABLE}=write",
                path.display()
            ),
            Self::Unwritable { path, .. } => write!(f, "`{}` cannot be written", path.display()),
        }
    }
}

impl fmt::Debug for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Database(error) => Some(error),
            Self::Differs { source, .. } => source.as_ref().map(|error| error as _),
            Self::Unwritable { error, .. } => Some(error),
        }
    }
}
