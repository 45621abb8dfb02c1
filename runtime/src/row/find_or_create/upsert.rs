//! Writes that create a row or overwrite it.

use std::future::Future;

use sqlx::Row as _;

use super::create::{insert, insert_new, lacks_unique_index};
use super::{
    FindOrCreateSql, FoundOrCreated, ROUNDS, UniqueKeySql, UpdatedOrCreated, UpsertError,
    find_or_create_on, met_elsewhere, select,
};
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::error::{DatabaseError, Operation, WriteFailure};
use crate::db::fence::Fence;
use crate::db::model::acquire;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Fetched, Statement};

/// Creates the row or overwrites the one that has the key.
pub fn upsert<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<T, UpsertError>> + Send {
    T::observed::<DB, _>(T::METHODS[2], async move {
        let method = T::METHODS[2];
        let operation = || T::operation(method, &T::key_of(&new));
        let mut opened = acquire(db, &operation)
            .await
            .map_err(UpsertError::Database)?;
        upsert_on::<DB, N, T>(&new, method, &mut opened.link()).await
    })
}

pub(super) async fn upsert_on<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    method: &'static str,
    connection: &mut Link<'_, DB>,
) -> Result<T, UpsertError> {
    let operation = || T::operation(method, &T::key_of(new));
    let Some(sql) = T::UPSERT else {
        // Nothing but a key: a row that exists is as it should be.
        let row = find_or_create_on::<DB, N, T>(new, method, connection).await?;
        return Ok(row.into_inner());
    };
    let row = write::<DB, N, T>(sql, new, &operation, connection).await?;
    read_written(&row, &operation)
}

/// Creates the row or overwrites the one that has the key, and tells which.
pub fn update_or_create<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<UpdatedOrCreated<T>, UpsertError>> + Send {
    T::observed::<DB, _>(T::METHODS[4], async move {
        let method = T::METHODS[4];
        let operation = || T::operation(method, &T::key_of(&new));
        let mut opened = acquire(db, &operation)
            .await
            .map_err(UpsertError::Database)?;
        let mut connection = opened.link();
        let Some(sql) = T::UPDATE_OR_CREATE else {
            let row = find_or_create_on::<DB, N, T>(&new, method, &mut connection).await?;
            return Ok(match row {
                FoundOrCreated::Found(row) => UpdatedOrCreated::Updated(row),
                FoundOrCreated::Created(row) => UpdatedOrCreated::Created(row),
            });
        };
        if !DB::UPSERT_TELLS {
            return in_turn::<DB, N, T>(sql, &new, &operation, &mut connection).await;
        }
        let row = write::<DB, N, T>(sql, &new, &operation, &mut connection).await?;
        updated_or_created(&row, &operation)
    })
}

/// What an upsert says that tells.
fn updated_or_created<DB: Backend, T: FindOrCreateSql<DB>>(
    row: &DB::Row,
    operation: &(dyn Fn() -> Operation + Sync),
) -> Result<UpdatedOrCreated<T>, UpsertError> {
    let created = has_created::<DB>(row, operation)?;
    let row = read_written(row, operation)?;
    Ok(if created {
        UpdatedOrCreated::Created(row)
    } else {
        UpdatedOrCreated::Updated(row)
    })
}

/// Whether an upsert that tells has created this row: its last column says so.
pub(super) fn has_created<DB: Backend>(
    row: &DB::Row,
    operation: &(dyn Fn() -> Operation + Sync),
) -> Result<bool, UpsertError> {
    let created = DB::get_i64(row, row.len() - 1);
    let created = created.map_err(|error| written(operation, error))?;
    Ok(created == Some(1))
}

/// Overwrites the row if it is there, and creates it if not: a statement each, of which one finds what it needs, unless other
/// writers delete and create the row all the time.
async fn in_turn<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    sql: &'static str,
    new: &T::New,
    operation: &(dyn Fn() -> Operation + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<UpdatedOrCreated<T>, UpsertError> {
    let mut refusal = None;
    for _ in 0..ROUNDS {
        let updated = overwrite::<DB, N, T>(sql, new, connection).await;
        if let Some(row) = one_of::<DB, N, T>(updated, new, operation, connection).await? {
            return updated_or_created(&row, operation);
        }
        let created = insert_new::<DB, T>(T::INSERT, new, connection).await;
        if met_elsewhere::<DB, N, T>(created.as_ref().err(), new, connection).await {
            continue;
        }
        if let Some(row) = one_of::<DB, N, T>(created, new, operation, connection).await? {
            return read_written(&row, operation).map(UpdatedOrCreated::Created);
        }
        match refused::<DB, N, T>(new, operation(), connection).await {
            error @ (UpsertError::Ignored(_) | UpsertError::KeyTaken(_)) => refusal = Some(error),
            error => return Err(error),
        }
    }
    Err(refusal.unwrap_or_else(|| UpsertError::Ignored(operation())))
}

/// The row that a write returned, if it wrote one.
pub(super) async fn one_of<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    outcome: Result<Fetched<DB::Row>, sqlx::Error>,
    new: &T::New,
    operation: &(dyn Fn() -> Operation + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<Option<DB::Row>, UpsertError> {
    let error = match outcome {
        Ok(Fetched::One(row)) => return Ok(Some(row)),
        Ok(Fetched::None) => return Ok(None),
        Ok(Fetched::Several) => return Err(UpsertError::NotUnique(operation())),
        Err(error) => error,
    };
    if DB::has_written(connection, &error).await {
        return Err(written(operation, error));
    }
    if lacks_unique_index::<DB, N, T>(&error, new, connection).await {
        return Err(UpsertError::MissingUniqueIndex(operation(), T::COLUMNS));
    }
    let in_transaction = in_transaction::<DB>(connection);
    Err(WriteFailure::new(operation(), error, in_transaction).into())
}

fn written(operation: &(dyn Fn() -> Operation + Sync), error: sqlx::Error) -> UpsertError {
    UpsertError::Written(DatabaseError::new(operation(), error))
}

pub(super) fn read_written<DB: Backend, T: FindOrCreateSql<DB>>(
    row: &DB::Row,
    operation: &(dyn Fn() -> Operation + Sync),
) -> Result<T, UpsertError> {
    (T::ROW)(row).map_err(|error| written(operation, error))
}

/// Runs an upsert, and yields the row that it wrote.
async fn write<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    sql: &'static str,
    new: &T::New,
    operation: &(dyn Fn() -> Operation + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<DB::Row, UpsertError> {
    let mut outcome = overwrite::<DB, N, T>(sql, new, connection).await;
    if met_elsewhere::<DB, N, T>(outcome.as_ref().err(), new, connection).await {
        outcome = overwrite::<DB, N, T>(sql, new, connection).await;
    }
    match one_of::<DB, N, T>(outcome, new, operation, connection).await? {
        Some(row) => Ok(row),
        None => Err(refused::<DB, N, T>(new, operation(), connection).await),
    }
}

async fn overwrite<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    sql: &'static str,
    new: &T::New,
    connection: &mut Link<'_, DB>,
) -> Result<Fetched<DB::Row>, sqlx::Error> {
    let statement = || {
        let mut statement = Statement::literal(sql);
        bind_upsert::<DB, T>(new, &mut statement);
        statement
    };
    insert(&statement, connection).await
}

/// Binds the values of an upsert.
pub(super) fn bind_upsert<DB: Backend, T: FindOrCreateSql<DB>>(
    new: &T::New,
    statement: &mut Statement<DB>,
) {
    T::bind_new(new, statement);
    bind_limit::<DB, T>(statement);
}

/// The highest version that an upsert may not pass, after all values.
pub(super) fn bind_limit<DB: Backend, T: FindOrCreateSql<DB>>(statement: &mut Statement<DB>) {
    if let Some((_, max)) = T::VERSION_LIMIT {
        statement.bind_i64(max);
    }
}

/// Why the upsert wrote nothing. Its only conditions are about the version, the fence, and the parts of a generated key.
async fn refused<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    operation: Operation,
    connection: &mut Link<'_, DB>,
) -> UpsertError {
    match explain::<DB, N, T>(new, connection).await {
        Ok(Some(refused)) => refused.of(operation),
        Ok(None) => UpsertError::Ignored(operation),
        // A read: whatever happens to it, nothing was written.
        Err(error) => WriteFailure::new(operation, error, true).into(),
    }
}

/// What keeps an upsert from a row that is there.
pub(super) enum Refused {
    Fenced(Fence),
    Version,
    /// It is another key's.
    Taken,
}

impl Refused {
    pub(super) fn of(self, operation: Operation) -> UpsertError {
        match self {
            Self::Fenced(fence) => UpsertError::Fenced(operation, fence),
            Self::Version => UpsertError::VersionOverflow(operation),
            Self::Taken => UpsertError::KeyTaken(operation),
        }
    }
}

async fn explain<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    connection: &mut Link<'_, DB>,
) -> Result<Option<Refused>, sqlx::Error> {
    // Without conditions there is nothing to look for.
    if T::VERSION_LIMIT.is_none() && !T::FENCED && !T::GENERATED {
        return Ok(None);
    }
    match select::<DB, N, T>(&T::key_of(new))
        .fetch_one(connection)
        .await?
    {
        Fetched::One(row) => in_the_way::<DB, T>(new, &row),
        Fetched::None if T::GENERATED => Ok(Some(Refused::Taken)),
        Fetched::None | Fetched::Several => Ok(None),
    }
}

/// The version or the fence of this row, if it is what is in the way.
pub(super) fn in_the_way<DB: Backend, T: FindOrCreateSql<DB>>(
    new: &T::New,
    row: &DB::Row,
) -> Result<Option<Refused>, sqlx::Error> {
    if let Some((index, max)) = T::VERSION_LIMIT
        && DB::get_i64(row, index)?.is_none_or(|version| version >= max)
    {
        return Ok(Some(Refused::Version));
    }
    if T::FENCED
        && let Some((shown, fence)) = T::fences(new, &(T::ROW)(row)?)
        && shown < fence
    {
        return Ok(Some(Refused::Fenced(fence)));
    }
    Ok(None)
}
