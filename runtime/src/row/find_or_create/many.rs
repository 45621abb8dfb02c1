//! Many new rows in one statement, each with an outcome of its own.

use std::collections::BTreeSet;
use std::future::Future;

use futures_util::future::BoxFuture;

use super::create::{create_on, insert_all};
use super::upsert::{bind_limit, upsert_on};
use super::{
    CreateError, FindOrCreateError, FoundOrCreated, UniqueKeySql, UpsertError, find_or_create_on,
    row_call,
};
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::copied::copy;
use crate::db::error::{DatabaseError, WriteFailure};
use crate::db::fault::Fault;
use crate::db::lanes::{Batch, of_calls};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Fetched, Statement, Way, number, write_all};
use crate::row::versioned::rows_of_a_statement;

/// Finds each row or creates it.
pub fn find_or_create_many<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: impl IntoIterator<Item = T::New>,
) -> impl Future<Output = Vec<Result<FoundOrCreated<T>, FindOrCreateError>>> + Send {
    // The iterator is read here, so that it need not be `Send`.
    let new: Vec<_> = new.into_iter().collect();
    T::observed::<DB, _>(T::METHODS[6], async move {
        all::<DB, N, T, Finds<6>>(db, &new).await
    })
}

/// Creates each row, unless its key is taken.
pub fn create_many<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: impl IntoIterator<Item = T::New>,
) -> impl Future<Output = Vec<Result<Option<T>, CreateError>>> + Send {
    let new: Vec<_> = new.into_iter().collect();
    T::observed::<DB, _>(T::METHODS[8], async move {
        all::<DB, N, T, Creates>(db, &new).await
    })
}

/// Creates each row or overwrites it.
pub fn upsert_many<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: impl IntoIterator<Item = T::New>,
) -> impl Future<Output = Vec<Result<T, UpsertError>>> + Send {
    let new: Vec<_> = new.into_iter().collect();
    T::observed::<DB, _>(T::METHODS[7], async move {
        if T::UPSERT.is_some() {
            return all::<DB, N, T, Upserts>(db, &new).await;
        }
        // Nothing but a key: a row that exists is as it should be.
        let found = all::<DB, N, T, Finds<7>>(db, &new).await.into_iter();
        found.map(|found| Ok(found?.into_inner())).collect()
    })
}

/// What is done with each of many rows.
trait Kind<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>: Send + Sync {
    type Output: Send;
    type Error: From<WriteFailure> + Send;
    const METHOD: &'static str;
    /// Whether rows that are there are looked for first: an insert that meets one burns a sequence value on PostgreSQL.
    const FINDS: bool;
    /// The statements that write many, if the database has them: at once, if their keys are different, and in the order of those.
    const WRITE: Option<[&'static str; 2]>;

    /// Of a row that was there.
    fn found(row: Fetched<T>, new: &T::New) -> Option<Result<Self::Output, Self::Error>>;
    /// Of one that was written.
    fn written(row: T) -> Self::Output;
    /// Of one that was written and cannot be read.
    fn unread(error: DatabaseError) -> Self::Error;
    /// Of one that the statement has not written, if nothing else has to be asked.
    fn unwritten() -> Option<Self::Output>;
    /// Binds what comes after the rows.
    fn bind(_: &mut Statement<DB>) {}
    /// Does it with one.
    fn one(
        new: &T::New,
        link: &mut Link<'_, DB>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

type Outcome<K, DB, const N: usize, T> =
    Result<<K as Kind<DB, N, T>>::Output, <K as Kind<DB, N, T>>::Error>;

/// By the method at this position.
struct Finds<const METHOD: usize>;

impl<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>, const METHOD: usize> Kind<DB, N, T>
    for Finds<METHOD>
{
    type Output = FoundOrCreated<T>;
    type Error = FindOrCreateError;
    const METHOD: &'static str = T::METHODS[METHOD];
    const FINDS: bool = true;
    const WRITE: Option<[&'static str; 2]> = T::INSERT_MANY;

    fn found(row: Fetched<T>, new: &T::New) -> Option<Result<Self::Output, Self::Error>> {
        match row {
            Fetched::One(row) => Some(Ok(FoundOrCreated::Found(row))),
            Fetched::None => None,
            Fetched::Several => {
                let method = <Self as Kind<DB, N, T>>::METHOD;
                let operation = T::operation(method, &T::key_of(new));
                Some(Err(FindOrCreateError::NotUnique(operation)))
            }
        }
    }

    fn written(row: T) -> Self::Output {
        FoundOrCreated::Created(row)
    }

    fn unread(error: DatabaseError) -> Self::Error {
        FindOrCreateError::Written(error)
    }

    fn unwritten() -> Option<Self::Output> {
        None
    }

    async fn one(new: &T::New, link: &mut Link<'_, DB>) -> Result<Self::Output, FindOrCreateError> {
        find_or_create_on::<DB, N, T>(new, <Self as Kind<DB, N, T>>::METHOD, link).await
    }
}

struct Creates;

impl<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>> Kind<DB, N, T> for Creates {
    type Output = Option<T>;
    type Error = CreateError;
    const METHOD: &'static str = T::METHODS[8];
    const FINDS: bool = false;
    const WRITE: Option<[&'static str; 2]> = T::INSERT_MANY;

    fn found(_: Fetched<T>, _: &T::New) -> Option<Result<Self::Output, Self::Error>> {
        None
    }

    fn written(row: T) -> Self::Output {
        Some(row)
    }

    fn unread(error: DatabaseError) -> Self::Error {
        CreateError::Written(error)
    }

    fn unwritten() -> Option<Self::Output> {
        Some(None)
    }

    async fn one(new: &T::New, link: &mut Link<'_, DB>) -> Result<Option<T>, CreateError> {
        create_on::<DB, N, T>(new, <Self as Kind<DB, N, T>>::METHOD, link).await
    }
}

struct Upserts;

impl<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>> Kind<DB, N, T> for Upserts {
    type Output = T;
    type Error = UpsertError;
    const METHOD: &'static str = T::METHODS[7];
    const FINDS: bool = false;
    const WRITE: Option<[&'static str; 2]> = T::UPSERT_MANY;

    fn found(_: Fetched<T>, _: &T::New) -> Option<Result<Self::Output, Self::Error>> {
        None
    }

    fn written(row: T) -> T {
        row
    }

    fn unread(error: DatabaseError) -> Self::Error {
        UpsertError::Written(error)
    }

    fn unwritten() -> Option<T> {
        None
    }

    fn bind(to: &mut Statement<DB>) {
        bind_limit::<DB, T>(to);
    }

    async fn one(new: &T::New, link: &mut Link<'_, DB>) -> Result<T, UpsertError> {
        upsert_on::<DB, N, T>(new, <Self as Kind<DB, N, T>>::METHOD, link).await
    }
}

async fn all<'c, DB, const N: usize, T, K>(
    db: impl Source<'c, DB>,
    new: &[T::New],
) -> Vec<Outcome<K, DB, N, T>>
where
    DB: Backend,
    T: UniqueKeySql<DB, N>,
    K: Kind<DB, N, T>,
{
    if new.is_empty() {
        return Vec::new();
    }
    let new: Vec<&T::New> = new.iter().collect();
    let mut opened = match db.open().await {
        Ok(opened) => opened,
        // Nothing was sent.
        Err(error) => return failed::<DB, N, T, K>(&new, &error, true),
    };
    let mut link = opened.link();
    let mut outcomes = Vec::with_capacity(new.len());
    for new in new.chunks(rows_of_a_statement::<DB>(&link)) {
        outcomes.extend(some::<DB, N, T, K>(new, &mut link).await);
    }
    outcomes
}

fn failed<DB, const N: usize, T, K>(
    new: &[&T::New],
    error: &sqlx::Error,
    in_transaction: bool,
) -> Vec<Outcome<K, DB, N, T>>
where
    DB: Backend,
    T: UniqueKeySql<DB, N>,
    K: Kind<DB, N, T>,
{
    let failed = new.iter().map(|new| {
        let operation = T::operation(K::METHOD, &T::key_of(new));
        Err(WriteFailure::new(operation, copy(error), in_transaction).into())
    });
    failed.collect()
}

/// Those of one statement. Then those that it could not decide about: the row of another one of them, or of a concurrent call, has the key.
fn some<'s, DB, const N: usize, T, K>(
    new: &'s [&T::New],
    link: &'s mut Link<'_, DB>,
) -> BoxFuture<'s, Vec<Outcome<K, DB, N, T>>>
where
    DB: Backend,
    T: UniqueKeySql<DB, N>,
    K: Kind<DB, N, T> + 's,
{
    Box::pin(async move {
        let mut outcomes = match K::FINDS {
            true => found::<DB, N, T, K>(new, link).await,
            false => undecided(new.len()),
        };
        let missing = without(new, &outcomes);
        let in_transaction = in_transaction::<DB>(link);
        match write::<DB, N, T, K>(&missing, link).await {
            Ok(written) => fill(&mut outcomes, written),
            Err(error) => {
                let written = match Fault::of(&error) {
                    fault if is_of_all(fault) => one_by_one::<DB, N, T, K>(&missing, link).await,
                    // Each half by itself, so that a row that is refused hurts no other. All of the first half before the second: of
                    // equal keys the last one counts.
                    fault if fault.may_be_of_a_row() => {
                        let (some_of, others) = missing.split_at(missing.len() / 2);
                        let mut written = some::<DB, N, T, K>(some_of, link).await;
                        written.extend(some::<DB, N, T, K>(others, link).await);
                        written
                    }
                    _ => failed::<DB, N, T, K>(&missing, &error, in_transaction),
                };
                fill(&mut outcomes, written.into_iter().map(Some));
            }
        }
        let rest = without(new, &outcomes);
        let decided = match rest.len() {
            0 => Vec::new(),
            // None of them would be decided the next time.
            count if count == new.len() => one_by_one::<DB, N, T, K>(&rest, link).await,
            _ => some::<DB, N, T, K>(&rest, link).await,
        };
        fill(&mut outcomes, decided.into_iter().map(Some));
        outcomes.into_iter().flatten().collect()
    })
}

fn undecided<O>(count: usize) -> Vec<Option<O>> {
    let mut outcomes = Vec::new();
    outcomes.resize_with(count, || None);
    outcomes
}

/// Those that have no outcome yet.
fn without<'n, New, O>(new: &[&'n New], outcomes: &[Option<O>]) -> Vec<&'n New> {
    let missing = new.iter().zip(outcomes);
    let missing = missing.filter(|(_, outcome)| outcome.is_none());
    missing.map(|(new, _)| *new).collect()
}

/// Gives each of those the next one.
fn fill<O>(outcomes: &mut [Option<O>], next: impl IntoIterator<Item = Option<O>>) {
    let without = outcomes.iter_mut().filter(|outcome| outcome.is_none());
    for (outcome, next) in without.zip(next) {
        *outcome = next;
    }
}

async fn one_by_one<DB, const N: usize, T, K>(
    new: &[&T::New],
    link: &mut Link<'_, DB>,
) -> Vec<Outcome<K, DB, N, T>>
where
    DB: Backend,
    T: UniqueKeySql<DB, N>,
    K: Kind<DB, N, T>,
{
    let mut outcomes = Vec::with_capacity(new.len());
    for new in new {
        outcomes.push(K::one(new, link).await);
    }
    outcomes
}

/// Whether the statement about many cannot be about such rows at all: nothing was sent, because a column is an array, and PostgreSQL has no
/// arrays of arrays; or nothing was run, because `unnest` makes a column of each part of a composite type, or there is no unique index.
fn is_of_all(fault: Fault) -> bool {
    matches!(fault, Fault::Encode | Fault::Schema)
}

/// Reads the rows that are there.
async fn found<DB, const N: usize, T, K>(
    new: &[&T::New],
    link: &mut Link<'_, DB>,
) -> Vec<Option<Outcome<K, DB, N, T>>>
where
    DB: Backend,
    T: UniqueKeySql<DB, N>,
    K: Kind<DB, N, T>,
{
    let found = match stored::<DB, N, T>(new, link).await {
        Ok(Some(found)) => found,
        Ok(None) => return undecided(new.len()),
        Err(error) => {
            let fault = Fault::of(&error);
            let is_over = DB::ERROR_ABORTS_TRANSACTION && in_transaction::<DB>(link);
            if !is_over && (is_of_all(fault) || fault.may_be_of_a_row()) {
                return one_by_one::<DB, N, T, K>(new, link)
                    .await
                    .into_iter()
                    .map(Some)
                    .collect();
            }
            // A read: whatever happened to it, nothing was written.
            return failed::<DB, N, T, K>(new, &error, true)
                .into_iter()
                .map(Some)
                .collect();
        }
    };
    let outcomes = new.iter().zip(found).map(|(new, found)| {
        let found = match found {
            Fetched::One(Ok(row)) => Fetched::One(row),
            Fetched::One(Err(error)) => return failed::<DB, N, T, K>(&[new], &error, true).pop(),
            Fetched::None => Fetched::None,
            Fetched::Several => Fetched::Several,
        };
        K::found(found, new)
    });
    outcomes.collect()
}

/// Those with these keys, where one statement reads many.
async fn stored<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &[&T::New],
    link: &mut Link<'_, DB>,
) -> Result<Option<Vec<Fetched<Result<T, sqlx::Error>>>>, sqlx::Error> {
    let Some(sql) = T::FIND_MANY.filter(|_| new.len() > 1) else {
        return Ok(None);
    };
    let read = |row| (T::ROW)(&row);
    let batch = T::FIND_ANY.and_then(|_| keys::<DB, N, T>(new));
    let batch = batch.filter(Batch::has_plain_keys);
    let sorted = batch.as_ref().and_then(Batch::sorted);
    if let (Some(sql), Some(sorted)) = (T::FIND_ANY, sorted) {
        let mut any = Statement::literal(sql);
        sorted.bind(&mut any);
        if let Some(found) = any.fetch_told(&sorted, link, read).await? {
            return Ok(Some(found));
        }
    }
    let calls = new.iter().map(|new| row_call::<DB, N, T>(&T::key_of(new)));
    let Some(calls) = calls.collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let calls: Vec<_> = calls.iter().collect();
    let found = of_calls(sql, &calls);
    found.fetch_numbered(new.len(), link, read).await.map(Some)
}

/// Writes all at once, or one by one where no statement does.
async fn write<DB, const N: usize, T, K>(
    new: &[&T::New],
    link: &mut Link<'_, DB>,
) -> Result<Vec<Option<Outcome<K, DB, N, T>>>, sqlx::Error>
where
    DB: Backend,
    T: UniqueKeySql<DB, N>,
    K: Kind<DB, N, T>,
{
    let batch = || Batch::of(new, |new, to| T::bind_new(new, to));
    let many = K::WRITE.filter(|_| new.len() > 1);
    let Some(([at_once, in_order], batch)) = many.and_then(|many| Some((many, batch()?))) else {
        let outcomes = one_by_one::<DB, N, T, K>(new, link).await;
        return Ok(outcomes.into_iter().map(Some).collect());
    };
    let at_once = Some(at_once).filter(|sql| !sql.is_empty() && Way::first(link) == Way::AtOnce);
    let keys = at_once.and_then(|_| keys::<DB, N, T>(new));
    let keys = keys.filter(Batch::has_plain_keys);
    let sorted = keys.as_ref().and_then(Batch::sorted);
    if let (Some(sql), Some(sorted)) = (at_once, sorted) {
        let statement = || {
            let mut statement = Statement::literal(sql);
            batch.bind(sorted.places(), &mut statement);
            K::bind(&mut statement);
            statement
        };
        match write_all(&statement, link).await {
            // The table has triggers, say.
            Ok(rows) if rows.is_empty() => {}
            Ok(rows) => {
                let is_all = rows.len() == new.len();
                let place = |row: &DB::Row, number| match is_all {
                    true => sorted.nth(number),
                    false => sorted.place_of(row, number),
                };
                return Ok(written::<DB, N, T, K>(new, &rows, place));
            }
            // Another transaction holds one of the rows, one is refused, or the database has keys as equal that are not the same.
            Err(error) if Way::AtOnce.has_waited(&error) => {}
            Err(error) if Fault::of(&error).may_be_of_a_row() || is_of_all(Fault::of(&error)) => {}
            Err(error) => return Err(error),
        }
    }
    let statement = || {
        let mut statement = Statement::literal(in_order);
        batch.bind_all(&mut statement);
        K::bind(&mut statement);
        statement
    };
    let rows = insert_all(&statement, link).await?;
    let place = |row: &DB::Row, _| number::<DB>(row).ok();
    Ok(written::<DB, N, T, K>(new, &rows, place))
}

/// Their keys.
fn keys<DB, const N: usize, T>(new: &[&T::New]) -> Option<Batch<DB>>
where
    DB: Backend,
    T: UniqueKeySql<DB, N>,
{
    Batch::of(new, |new, to| {
        T::bind_key(&T::key_of(new), to);
        to.end_key();
    })
}

/// What was written of these, and what was not. `place_of`: which one a row is about, and the number of the row.
fn written<DB, const N: usize, T, K>(
    new: &[&T::New],
    rows: &[DB::Row],
    place_of: impl Fn(&DB::Row, usize) -> Option<usize>,
) -> Vec<Option<Outcome<K, DB, N, T>>>
where
    DB: Backend,
    T: UniqueKeySql<DB, N>,
    K: Kind<DB, N, T>,
{
    let mut outcomes = undecided(new.len());
    for (number, row) in rows.iter().enumerate() {
        let Some(place) = place_of(row, number) else {
            continue;
        };
        let (Some(outcome), Some(new)) = (outcomes.get_mut(place), new.get(place)) else {
            continue;
        };
        *outcome = Some((T::ROW)(row).map(K::written).map_err(|error| {
            let operation = T::operation(K::METHOD, &T::key_of(new));
            K::unread(DatabaseError::new(operation, error))
        }));
    }
    // Of equal keys only the first was tried. The others go on: a trigger may have dropped that one, or they are not in a partial index.
    let mut tried = BTreeSet::new();
    for (outcome, new) in outcomes.iter_mut().zip(new) {
        let Some(unwritten) = K::unwritten() else {
            break;
        };
        let call = row_call::<DB, N, T>(&T::key_of(new));
        let is_first = call.is_none_or(|call| tried.insert(call.into_key()));
        if is_first {
            outcome.get_or_insert(Ok(unwritten));
        }
    }
    outcomes
}
