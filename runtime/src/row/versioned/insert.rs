//! A struct as a new row.

use std::future::Future;

use super::{Derive, VersionedSql};
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::error::{DatabaseError, KeyText, Operation, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::model::{Model, acquire};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Fetched, Statement, write_all, write_one};

/// Why a row was not inserted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// Another row has this key, or the values of another unique index: [`DatabaseError::constraint`] is its name on PostgreSQL. Nothing
    /// was written. Inside a transaction on PostgreSQL that is aborted by it, as by every failed statement.
    #[error(transparent)]
    AlreadyExists(DatabaseError),
    /// A trigger, a rule or a constraint with ON CONFLICT IGNORE (SQLite) dropped the row.
    #[error("{0}: a trigger, a rule or ON CONFLICT IGNORE dropped the row")]
    Ignored(Operation),
    /// The row was inserted, and what the database returned does not fit the model; or on SQLite, a trigger failed after the insert in a
    /// way that keeps it: RAISE(FAIL), or ON CONFLICT FAIL. Inside a transaction the insert counts once that is committed.
    #[error("{0}; the row was inserted")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The row was inserted or it was not: load it to find out.
    #[error("{0}; it is unknown whether the insert took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

from_write_failure!(InsertError);

/// Inserts the struct.
pub fn insert<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<T, InsertError>> + Send {
    async move {
        let operation = || operation(row);
        let make = || {
            let mut statement = Statement::literal(T::INSERT);
            row.bind_new(&mut statement);
            statement
        };
        let row = write_new::<DB>(&make, &operation, db).await?;
        (T::ROW)(&row).map_err(|error| InsertError::Written(DatabaseError::new(operation(), error)))
    }
}

/// A key that the database makes up is not that of the struct.
fn operation<T: super::Versioned>(row: &T) -> Operation {
    const METHOD: &str = "insert";
    if T::KEY_IS_GIVEN {
        <T as Model<Derive>>::operation(METHOD, &row.key())
    } else {
        Operation::new(METHOD, T::TABLE, KeyText::default())
    }
}

/// It knows no model, so that it is compiled once for each kind of connection.
pub(crate) async fn write_new<'c, DB: Backend>(
    make: &(dyn Fn() -> Statement<DB> + Sync),
    operation: &(dyn Fn() -> Operation + Sync),
    db: impl Source<'c, DB>,
) -> Result<DB::Row, InsertError> {
    let mut opened = acquire(db, operation)
        .await
        .map_err(InsertError::Database)?;
    let mut link = opened.link();
    let in_transaction = in_transaction::<DB>(&link);
    let error = match write_one(make, &mut link).await {
        Ok(Fetched::One(row)) => return Ok(row),
        // One row of VALUES is not inserted twice.
        Ok(Fetched::None | Fetched::Several) => return Err(InsertError::Ignored(operation())),
        Err(error) => error,
    };
    Err(failed::<DB>(error, operation, in_transaction, &mut link).await)
}

/// The same of many rows.
pub(crate) async fn write_many<DB: Backend>(
    make: &(dyn Fn() -> Statement<DB> + Sync),
    operation: &(dyn Fn() -> Operation + Sync),
    link: &mut Link<'_, DB>,
) -> Result<Vec<DB::Row>, InsertError> {
    let in_transaction = in_transaction::<DB>(link);
    match write_all(make, link).await {
        Ok(rows) => Ok(rows),
        Err(error) => Err(failed::<DB>(error, operation, in_transaction, link).await),
    }
}

async fn failed<DB: Backend>(
    error: sqlx::Error,
    operation: &(dyn Fn() -> Operation + Sync),
    in_transaction: bool,
    link: &mut Link<'_, DB>,
) -> InsertError {
    if DB::has_written(link, &error).await {
        return InsertError::Written(DatabaseError::new(operation(), error));
    }
    if Fault::of(&error) == Fault::UniqueViolation {
        return InsertError::AlreadyExists(DatabaseError::new(operation(), error));
    }
    WriteFailure::new(operation(), error, in_transaction).into()
}
