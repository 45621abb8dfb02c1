//! Many rows in one statement, each with an outcome of its own.

use std::convert::Infallible;
use std::future::Future;

use futures_util::future::BoxFuture;

use super::checked::{self, Failure, Met, Unread, Unwritten, Write};
use super::{
    DeleteError, Derive, LoadError, UpdateError, VersionedSql, deleted, read_or, read_version,
    updated_copy,
};
use crate::db::atomic::in_transaction;
use crate::db::copied::copy;
use crate::db::error::{DatabaseError, Operation, WriteFailure};
use crate::db::fault::Fault;
use crate::db::model::Model;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Fetched, Statement, number, write_all};
use crate::db::{Array, Backend};

/// How many rows one statement is about, at most.
const ROWS: usize = 1_000;

/// Reads the rows with these keys.
pub fn load_many<'c, 'k, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    keys: impl IntoIterator<Item = T::Key<'k>>,
) -> impl Future<Output = Vec<Result<T, LoadError>>> + Send {
    const METHOD: &str = "load_many";
    // The iterator is read here, so that it need not be `Send`.
    let keys: Vec<_> = keys.into_iter().collect();
    async move {
        let failed = |key: &T::Key<'_>, error: &sqlx::Error| {
            let operation = <T as Model<Derive>>::operation(METHOD, key);
            Err(LoadError::Database(DatabaseError::new(
                operation,
                copy(error),
            )))
        };
        if keys.is_empty() {
            return Vec::new();
        }
        let mut opened = match db.open().await {
            Ok(opened) => opened,
            Err(error) => return keys.iter().map(|key| failed(key, &error)).collect(),
        };
        let mut link = opened.link();
        let mut outcomes = Vec::with_capacity(keys.len());
        for keys in keys.chunks(ROWS) {
            let each: Vec<_> = keys.iter().collect();
            match find::<DB, T>(&each, &mut link).await {
                Ok(found) => outcomes.extend(keys.iter().zip(found).map(|(key, found)| {
                    let found = found.map(|(row, _)| row);
                    read_or::<DB, T>(METHOD, key, found)
                })),
                Err(error) => outcomes.extend(keys.iter().map(|key| failed(key, &error))),
            }
        }
        outcomes
    }
}

/// Each row with its version, in the order of the keys.
async fn find<DB: Backend, T: VersionedSql<DB>>(
    keys: &[&T::Key<'_>],
    link: &mut Link<'_, DB>,
) -> Result<Vec<Result<(DB::Row, i64), Unread>>, sqlx::Error> {
    let mut statement = Statement::literal(T::LOAD_MANY);
    T::bind_keys(keys, &mut statement);
    statement.bind_rows(keys.len(), &[]);
    let mut fetched = Vec::new();
    fetched.resize_with(keys.len(), || Fetched::None);
    for row in statement.fetch_all(link).await? {
        if let Some(place) = fetched.get_mut(number::<DB>(&row)?) {
            *place = match place {
                Fetched::None => Fetched::One(row),
                Fetched::One(_) | Fetched::Several => Fetched::Several,
            };
        }
    }
    let version = read_version::<T>();
    let found = fetched
        .into_iter()
        .map(|fetched| checked::found::<DB>(Ok(fetched), version));
    Ok(found.collect())
}

/// Writes all columns of each row that still has the version of its copy.
pub fn update_many<'c, 'r, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    rows: impl IntoIterator<Item = &'r T>,
) -> impl Future<Output = Vec<Result<T, UpdateError<T>>>> + Send {
    let rows: Vec<&T> = rows.into_iter().collect();
    async move {
        let written = write_many::<DB, T, Updates>(db, &rows).await;
        let written = rows.into_iter().zip(written);
        written
            .map(|(row, written)| updated_copy::<DB, T>(&(Updates::METHOD, row), written))
            .collect()
    }
}

/// Deletes each row that still has the version of its copy.
pub fn delete_many<'c, 'r, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    rows: impl IntoIterator<Item = &'r T>,
) -> impl Future<Output = Vec<Result<(), DeleteError<T>>>> + Send {
    let rows: Vec<&T> = rows.into_iter().collect();
    async move {
        let written = write_many::<DB, T, Deletes>(db, &rows).await;
        let written = rows.iter().zip(written);
        written
            .map(|(row, written)| deleted::<DB, T>(row, written))
            .collect()
    }
}

/// What is done to each of many rows.
trait Kind<DB: Backend, T: VersionedSql<DB>>: Send + Sync {
    /// What the statement about one row yields.
    type Output: Send;
    /// See [`Failure`].
    type Overflow: Send;
    const METHOD: &'static str;
    /// The statement about many, if the database has one.
    const SQL: Option<&'static str>;

    /// Binds what is written, as arrays.
    fn bind(rows: &[&T], to: &mut Statement<DB>);
    fn output(row: DB::Row) -> Self::Output;
    /// Does it to one.
    fn one(row: &T, link: &mut Link<'_, DB>) -> impl Future<Output = Outcome<DB, T, Self>> + Send;
}

type Outcome<DB, T, K> = Result<
    <K as Kind<DB, T>>::Output,
    Unwritten<<DB as sqlx::Database>::Row, <K as Kind<DB, T>>::Overflow>,
>;

struct Updates;

impl Updates {
    const METHOD: &str = "update_many";
}

impl<DB: Backend, T: VersionedSql<DB>> Kind<DB, T> for Updates {
    type Output = DB::Row;
    type Overflow = Operation;
    const METHOD: &'static str = Self::METHOD;
    const SQL: Option<&'static str> = T::UPDATE_MANY;

    fn bind(rows: &[&T], to: &mut Statement<DB>) {
        T::bind_many(rows, to);
    }

    fn output(row: DB::Row) -> DB::Row {
        row
    }

    async fn one(row: &T, link: &mut Link<'_, DB>) -> Outcome<DB, T, Self> {
        checked::write_on::<DB>(Self::METHOD, row, Write::Update, link).await
    }
}

struct Deletes;

impl<DB: Backend, T: VersionedSql<DB>> Kind<DB, T> for Deletes {
    type Output = ();
    type Overflow = Infallible;
    const METHOD: &'static str = "delete_many";
    const SQL: Option<&'static str> = T::DELETE_MANY;

    fn bind(_: &[&T], _: &mut Statement<DB>) {}

    fn output(_: DB::Row) {}

    async fn one(row: &T, link: &mut Link<'_, DB>) -> Outcome<DB, T, Self> {
        let method = <Self as Kind<DB, T>>::METHOD;
        checked::delete_on::<DB>(method, row, link).await
    }
}

async fn write_many<'c, DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    db: impl Source<'c, DB>,
    rows: &[&T],
) -> Vec<Outcome<DB, T, K>> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut opened = match db.open().await {
        Ok(opened) => opened,
        Err(error) => {
            // Nothing was sent.
            let failed = |row| WriteFailure::new(operation::<DB, T, K>(row), copy(&error), true);
            return rows.iter().map(|row| Err(unwritten(failed(row)))).collect();
        }
    };
    let mut link = opened.link();
    let mut outcomes = Vec::with_capacity(rows.len());
    for rows in rows.chunks(ROWS) {
        outcomes.extend(write_some::<DB, T, K>(rows, &mut link).await);
    }
    outcomes
}

fn operation<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(row: &T) -> Operation {
    <T as Model<Derive>>::operation(K::METHOD, &row.key())
}

fn unwritten<R, O>(failure: WriteFailure) -> Unwritten<R, O> {
    Failure::from(failure).into()
}

/// Those of one statement. If the database refuses one of them, each half by itself, so that it hurts no other.
fn write_some<'s, DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    rows: &'s [&T],
    link: &'s mut Link<'_, DB>,
) -> BoxFuture<'s, Vec<Outcome<DB, T, K>>> {
    Box::pin(async move {
        let Some(sql) = K::SQL.filter(|_| rows.len() > 1) else {
            return one_by_one::<DB, T, K>(rows, link).await;
        };
        let in_transaction = in_transaction::<DB>(link);
        let error = match send::<DB, T, K>(sql, rows, link).await {
            Ok(written) => return after::<DB, T, K>(rows, written, link).await,
            Err(error) => error,
        };
        let fault = Fault::of(&error);
        // Nothing was sent, because a column is an array, and PostgreSQL has no arrays of arrays; or nothing was run, because `unnest` makes a
        // column of each part of a composite type.
        if fault == Fault::Encode || fault == Fault::Schema && !in_transaction {
            return one_by_one::<DB, T, K>(rows, link).await;
        }
        if fault.is_of_a_row() && !in_transaction {
            let (some, others) = rows.split_at(rows.len() / 2);
            let mut outcomes = write_some::<DB, T, K>(some, link).await;
            outcomes.extend(write_some::<DB, T, K>(others, link).await);
            return outcomes;
        }
        let failed =
            |row| WriteFailure::new(operation::<DB, T, K>(row), copy(&error), in_transaction);
        rows.iter().map(|row| Err(unwritten(failed(row)))).collect()
    })
}

async fn one_by_one<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    rows: &[&T],
    link: &mut Link<'_, DB>,
) -> Vec<Outcome<DB, T, K>> {
    let mut outcomes = Vec::with_capacity(rows.len());
    for row in rows {
        outcomes.push(K::one(row, link).await);
    }
    outcomes
}

/// What the statement returned for each row, if it wrote that.
async fn send<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    sql: &'static str,
    rows: &[&T],
    link: &mut Link<'_, DB>,
) -> Result<Vec<Option<DB::Row>>, sqlx::Error> {
    let keys: Vec<_> = rows.iter().map(|row| row.key()).collect();
    let keys: Vec<_> = keys.iter().collect();
    let versions = rows.iter().map(|row| row.version().unwrap_or_default());
    let mut numbers = vec![Array::Integers(versions.collect())];
    let fences: Option<Vec<i64>> = rows.iter().map(|row| Some(row.fence()?.get())).collect();
    numbers.extend(fences.map(Array::Integers));
    let make = || {
        let mut statement = Statement::literal(sql);
        T::bind_keys(&keys, &mut statement);
        K::bind(rows, &mut statement);
        statement.bind_rows(rows.len(), &numbers);
        statement
    };
    let mut written = Vec::new();
    written.resize_with(rows.len(), || None);
    for row in write_all::<DB>(&make, link).await? {
        if let Some(place) = written.get_mut(number::<DB>(&row)?) {
            *place = Some(row);
        }
    }
    Ok(written)
}

/// Looks at those that were not written, all at once.
async fn after<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    rows: &[&T],
    written: Vec<Option<DB::Row>>,
    link: &mut Link<'_, DB>,
) -> Vec<Outcome<DB, T, K>> {
    let missed = rows.iter().zip(&written);
    let missed: Vec<_> = missed
        .filter(|(_, written)| written.is_none())
        .map(|(row, _)| row.key())
        .collect();
    let keys: Vec<_> = missed.iter().collect();
    let mut found = match keys.is_empty() {
        true => Ok(Vec::new()),
        false => find::<DB, T>(&keys, link).await,
    }
    .map(Vec::into_iter);
    let mut outcomes = Vec::with_capacity(rows.len());
    for (row, written) in rows.iter().zip(written) {
        if let Some(written) = written {
            outcomes.push(Ok(K::output(written)));
            continue;
        }
        let operation = operation::<DB, T, K>(row);
        let expected = row.version().unwrap_or_default();
        let found = match &mut found {
            Ok(found) => found.next().unwrap_or(Err(Unread::Missing)),
            Err(error) => Err(Unread::Failed(copy(error))),
        };
        outcomes.push(match found {
            // It was given twice, a trigger dropped the write, or it came to be as it was: alone, that is told apart.
            Ok((_, found)) if found == expected => K::one(row, link).await,
            Ok((row, found)) => Err(Unwritten::Met(Met {
                row,
                operation,
                expected,
                found,
                holds: true,
            })),
            Err(unread) => Err(unread.without_a_write(operation).into()),
        });
    }
    outcomes
}
