//! A struct as a new row.

use std::future::Future;

use futures_util::future::BoxFuture;

use super::many::rows_of_a_statement;
use super::{Derive, VersionedSql};
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::copied::copy;
use crate::db::error::{DatabaseError, KeyText, Operation, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::lanes::Batch;
use crate::db::model::{Model, acquire};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Fetched, Statement, number, write_all, write_one};

/// Why a row was not inserted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// Another row has this key, or the values of another unique index: [`DatabaseError::constraint`] is its name on PostgreSQL. Nothing was written.
    /// It aborts a PostgreSQL transaction, like every failed statement.
    #[error(transparent)]
    AlreadyExists(DatabaseError),
    /// A trigger, a rule or ON CONFLICT IGNORE (SQLite) dropped the row.
    #[error("{0}: a trigger, a rule or ON CONFLICT IGNORE dropped the row")]
    Ignored(Operation),
    /// The row was inserted, but the returned row does not fit the model; or on SQLite, a trigger failed afterwards and kept it: RAISE(FAIL) or ON
    /// CONFLICT FAIL. In a transaction the insert takes effect at COMMIT.
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
    const METHOD: &str = "insert";
    T::observed::<DB, _>(METHOD, async move {
        let mut opened = acquire(db, &|| operation(row, METHOD))
            .await
            .map_err(InsertError::Database)?;
        insert_on(row, METHOD, &mut opened.link()).await
    })
}

async fn insert_on<DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    method: &'static str,
    link: &mut Link<'_, DB>,
) -> Result<T, InsertError> {
    let operation = || operation(row, method);
    let make = || {
        let mut statement = Statement::literal(T::INSERT);
        row.bind_new(&mut statement);
        statement
    };
    let row = write_new::<DB>(&make, &operation, link).await?;
    (T::ROW)(&row).map_err(|error| InsertError::Written(DatabaseError::new(operation(), error)))
}

/// Inserts each struct.
pub fn insert_many<'c, 'r, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    rows: impl IntoIterator<Item = &'r T>,
) -> impl Future<Output = Vec<Result<T, InsertError>>> + Send {
    const METHOD: &str = "insert_many";
    // The iterator is read here, so that it need not be `Send`.
    let rows: Vec<&T> = rows.into_iter().collect();
    T::observed::<DB, _>(METHOD, async move {
        if rows.is_empty() {
            return Vec::new();
        }
        let mut opened = match db.open().await {
            Ok(opened) => opened,
            Err(error) => {
                let failed = |row: &T| DatabaseError::new(operation(row, METHOD), copy(&error));
                let failed = rows.iter().map(|row| failed(row));
                return failed
                    .map(|error| Err(InsertError::Database(error)))
                    .collect();
            }
        };
        let mut link = opened.link();
        let mut outcomes = Vec::with_capacity(rows.len());
        for rows in rows.chunks(rows_of_a_statement::<DB>(&link)) {
            outcomes.extend(insert_some(rows, METHOD, &mut link).await);
        }
        outcomes
    })
}

/// Those of one statement. If the database refuses one of them, each half by itself, so that it hurts no other.
fn insert_some<'s, DB: Backend, T: VersionedSql<DB>>(
    rows: &'s [&T],
    method: &'static str,
    link: &'s mut Link<'_, DB>,
) -> BoxFuture<'s, Vec<Result<T, InsertError>>> {
    Box::pin(async move {
        let Some(sql) = T::INSERT_MANY.filter(|_| rows.len() > 1) else {
            return one_by_one(rows, method, link).await;
        };
        let Some(batch) = Batch::of(rows, |row, to| row.bind_new(to)) else {
            return one_by_one(rows, method, link).await;
        };
        let statement = || {
            let mut statement = Statement::literal(sql);
            batch.bind_all(&mut statement);
            statement
        };
        let in_transaction = in_transaction::<DB>(link);
        let error = match write_all(&statement, link).await {
            Ok(inserted) => return each_inserted(rows, method, &inserted, link).await,
            Err(error) => error,
        };
        let fault = Fault::of(&error);
        // As of an update of many.
        if fault == Fault::Encode || fault == Fault::Schema && !in_transaction {
            return one_by_one(rows, method, link).await;
        }
        if fault.may_be_of_a_row() && !in_transaction {
            let (some, others) = rows.split_at(rows.len() / 2);
            let mut outcomes = insert_some(some, method, link).await;
            outcomes.extend(insert_some(others, method, link).await);
            return outcomes;
        }
        let mut outcomes = Vec::with_capacity(rows.len());
        for row in rows {
            let operation = || operation(*row, method);
            let failed = failed::<DB>(copy(&error), &operation, in_transaction, link).await;
            outcomes.push(Err(failed));
        }
        outcomes
    })
}

/// What was inserted; a row that was not goes by itself: a trigger or a rule dropped all of them.
async fn each_inserted<DB: Backend, T: VersionedSql<DB>>(
    rows: &[&T],
    method: &'static str,
    inserted: &[DB::Row],
    link: &mut Link<'_, DB>,
) -> Vec<Result<T, InsertError>> {
    let mut places = Vec::new();
    places.resize_with(rows.len(), || None);
    for row in inserted {
        if let Ok(number) = number::<DB>(row)
            && let Some(place) = places.get_mut(number)
        {
            *place = Some((T::ROW)(row));
        }
    }
    let mut outcomes = Vec::with_capacity(rows.len());
    for (row, place) in rows.iter().zip(places) {
        outcomes.push(match place {
            Some(inserted) => inserted.map_err(|error| {
                InsertError::Written(DatabaseError::new(operation(*row, method), error))
            }),
            None => insert_on(*row, method, link).await,
        });
    }
    outcomes
}

async fn one_by_one<DB: Backend, T: VersionedSql<DB>>(
    rows: &[&T],
    method: &'static str,
    link: &mut Link<'_, DB>,
) -> Vec<Result<T, InsertError>> {
    let mut outcomes = Vec::with_capacity(rows.len());
    for row in rows {
        outcomes.push(insert_on(*row, method, link).await);
    }
    outcomes
}

/// A key that the database makes up is not that of the struct.
fn operation<T: super::Versioned>(row: &T, method: &'static str) -> Operation {
    if T::KEY_IS_GIVEN {
        <T as Model<Derive>>::operation(method, &row.key())
    } else {
        Operation::new(method, T::TABLE, KeyText::default())
    }
}

/// It knows no model, so that it is compiled once for each kind of connection.
pub(crate) async fn write_new<DB: Backend>(
    make: &(dyn Fn() -> Statement<DB> + Sync),
    operation: &(dyn Fn() -> Operation + Sync),
    link: &mut Link<'_, DB>,
) -> Result<DB::Row, InsertError> {
    let in_transaction = in_transaction::<DB>(link);
    let error = match write_one(make, link).await {
        Ok(Fetched::One(row)) => return Ok(row),
        // One row of VALUES is not inserted twice.
        Ok(Fetched::None | Fetched::Several) => return Err(InsertError::Ignored(operation())),
        Err(error) => error,
    };
    Err(failed::<DB>(error, operation, in_transaction, link).await)
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
