//! Many rows in one statement, each with an outcome of its own.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;

use futures_util::future::BoxFuture;

use super::checked::{self, Failure, Met, Unread, Unwritten, Write};
use super::edit::{Edit, Save};
use super::{
    DeleteError, Derive, LoadError, UpdateError, VersionedSql, bind_row, deleted, read_or,
    read_version, select, updated, updated_copy,
};
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::column::Changes;
use crate::db::copied::copy;
use crate::db::error::{DatabaseError, Operation, WriteFailure};
use crate::db::fault::Fault;
use crate::db::lanes::{Batch, Call, Values};
use crate::db::model::Model;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Fetched, Statement, Way, number, write_all};

/// How many rows one statement is about, at most.
const ROWS: usize = 1_000;

/// In a transaction it is about all: each statement has its rows in the order of their keys, and two of them one after the other would have no
/// order. They deadlock then with two others.
pub(crate) fn rows_of_a_statement<DB: Backend>(link: &Link<'_, DB>) -> usize {
    match in_transaction::<DB>(link) {
        true => usize::MAX,
        false => ROWS,
    }
}

/// Reads the rows with these keys.
pub fn load_many<'c, 'k, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    keys: impl IntoIterator<Item = T::Key<'k>>,
) -> impl Future<Output = Vec<Result<T, LoadError>>> + Send {
    const METHOD: &str = "load_many";
    // The iterator is read here, so that it need not be `Send`.
    let keys: Vec<_> = keys.into_iter().collect();
    T::observed::<DB, _>(METHOD, async move {
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
            let read = |row, _| (T::ROW)(&row).map_err(Unread::Failed);
            match find::<DB, T, _>(&each, &mut link, read).await {
                Ok(found) => outcomes.extend(keys.iter().zip(found).map(|(key, found)| {
                    found.map_err(|unread| unread.of(<T as Model<Derive>>::operation(METHOD, key)))
                })),
                // One of the keys, such as a text with a NUL byte.
                Err(error)
                    if Fault::of(&error).may_be_of_a_row() && !in_transaction::<DB>(&link) =>
                {
                    for key in keys {
                        let select = select::<DB, T>(key);
                        let found = checked::read_on(select, read_version::<T>(), &mut link).await;
                        outcomes.push(read_or::<DB, T>(METHOD, key, found));
                    }
                }
                Err(error) => outcomes.extend(keys.iter().map(|key| failed(key, &error))),
            }
        }
        outcomes
    })
}

/// What `read` makes of each row and its version, in the order of the keys.
async fn find<DB: Backend, T: VersionedSql<DB>, R: Send>(
    keys: &[&T::Key<'_>],
    link: &mut Link<'_, DB>,
    read: impl Fn(DB::Row, i64) -> Result<R, Unread> + Send + Sync,
) -> Result<Vec<Result<R, Unread>>, sqlx::Error> {
    let statement = |sql| {
        let mut statement = Statement::literal(sql);
        T::bind_keys(keys, &mut statement);
        statement.bind_rows(keys.len(), &[]);
        statement
    };
    let version = read_version::<T>();
    let read = |row| {
        let (row, version) = checked::found::<DB>(Ok(Fetched::One(row)), version)?;
        read(row, version)
    };
    let batch = T::LOAD_ANY.and_then(|_| Batch::of(keys, |key, to| bind_key::<DB, T>(key, to)));
    let batch = batch.filter(Batch::has_exact_keys);
    let told_by = batch.as_ref().and_then(Batch::sorted);
    let mut found = None;
    if let (Some(sql), Some(told_by)) = (T::LOAD_ANY, told_by) {
        found = statement(sql).fetch_told(&told_by, link, read).await?;
    }
    let found = match found {
        Some(found) => found,
        None => {
            let many = statement(T::LOAD_MANY);
            many.fetch_numbered(keys.len(), link, read).await?
        }
    };
    let found = found.into_iter().map(|fetched| match fetched {
        Fetched::One(read) => read,
        Fetched::None => Err(Unread::Missing),
        Fetched::Several => Err(Unread::Several),
    });
    Ok(found.collect())
}

/// Writes all columns of each row that still has the version of its copy.
pub fn update_many<'c, 'r, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    rows: impl IntoIterator<Item = &'r T>,
) -> impl Future<Output = Vec<Result<T, UpdateError<T>>>> + Send {
    let rows: Vec<&T> = rows.into_iter().collect();
    T::observed::<DB, _>(Updates::METHOD, async move {
        let written = write_many::<DB, T, Updates>(db, &rows).await;
        let written = rows.into_iter().zip(written);
        written
            .map(|(row, written)| updated_copy::<DB, T>(&(Updates::METHOD, row), written))
            .collect()
    })
}

/// Deletes each row that still has the version of its copy.
pub fn delete_many<'c, 'r, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    rows: impl IntoIterator<Item = &'r T>,
) -> impl Future<Output = Vec<Result<(), DeleteError<T>>>> + Send {
    let rows: Vec<&T> = rows.into_iter().collect();
    T::observed::<DB, _>("delete_many", async move {
        let written = write_many::<DB, T, Deletes>(db, &rows).await;
        let written = rows.iter().zip(written);
        written
            .map(|(row, written)| deleted::<DB, T>(row, written))
            .collect()
    })
}

/// Writes the changed columns of each edit whose row still has the version it was read with. Edits of the same columns share a statement.
pub fn save_many<'c, 'e, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    edits: impl IntoIterator<Item = &'e Edit<T>>,
) -> impl Future<Output = Vec<Result<T, UpdateError<T>>>> + Send {
    let edits: Vec<&Edit<T>> = edits.into_iter().collect();
    T::observed::<DB, _>(SAVE, async move {
        let mut outcomes = Vec::with_capacity(edits.len());
        let mut groups: Vec<(Changes, Vec<usize>)> = Vec::new();
        let (mut seen, mut again) = (HashSet::new(), Vec::new());
        for (place, edit) in edits.iter().enumerate() {
            if let Err(operation) = edit.unchanged_key(SAVE) {
                outcomes.push(Some(Err(UpdateError::KeyChanged(operation))));
                continue;
            }
            let changes = edit.base.stored_changes(&edit.mine);
            if edit.changes_nothing(&changes) {
                outcomes.push(Some(Ok((T::COPY)(&edit.base))));
                continue;
            }
            outcomes.push(None);
            let key = Call::<DB>::of(|to| bind_version(&edit.base, to));
            if is_again(key.as_ref(), &mut seen) {
                again.push((changes, vec![place]));
                continue;
            }
            match groups.iter_mut().find(|(others, _)| *others == changes) {
                Some((_, places)) => places.push(place),
                None => groups.push((changes, vec![place])),
            }
        }
        if groups.is_empty() {
            return outcomes.into_iter().flatten().collect();
        }
        let mut opened = db.open().await;
        // After the first of each row, whatever columns that changes.
        for (changes, places) in groups.into_iter().chain(again) {
            let saves: Vec<_> = places
                .iter()
                .filter_map(|place| edits.get(*place))
                .map(|edit| Save {
                    base: &edit.base,
                    mine: &edit.mine,
                    changes: &changes,
                })
                .collect();
            let saves: Vec<_> = saves.iter().collect();
            let written = match &mut opened {
                Ok(opened) => all::<DB, T, Saves>(&saves, &mut opened.link()).await,
                Err(error) => unopened::<DB, T, Saves>(&saves, error),
            };
            for ((place, save), written) in places.into_iter().zip(saves).zip(written) {
                if let Some(outcome) = outcomes.get_mut(place) {
                    let (mine, base) = (save.mine, Some(save.base));
                    *outcome = Some(updated::<DB, T>(SAVE, mine, base, written));
                }
            }
        }
        outcomes.into_iter().flatten().collect()
    })
}

const SAVE: &str = "save_many";

/// What is done to each of many rows.
trait Kind<DB: Backend, T: VersionedSql<DB>>: Send + Sync {
    /// What is given for each.
    type Given: Send + Sync;
    /// What the statement about one row yields.
    type Output: Send;
    /// See [`Failure`].
    type Overflow: Send;
    const METHOD: &'static str;
    /// Whether the database has a statement about many.
    const HAS_MANY: bool;

    /// The row, with the version that it is to have.
    fn row(given: &Self::Given) -> &T;
    /// Binds one.
    fn bind(given: &Self::Given, to: &mut Values<DB>);
    /// The statement about many, which `bind` binds.
    fn statement(
        given: &[&Self::Given],
        bind: impl FnOnce(&mut Statement<DB>),
        way: Way,
    ) -> Statement<DB>;
    fn output(row: DB::Row) -> Self::Output;
    /// Does it to one.
    fn one(
        given: &Self::Given,
        link: &mut Link<'_, DB>,
    ) -> impl Future<Output = Outcome<DB, T, Self>> + Send;
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
    type Given = T;
    type Output = DB::Row;
    type Overflow = Operation;
    const METHOD: &'static str = Self::METHOD;
    const HAS_MANY: bool = T::UPDATE_MANY.is_some();

    fn row(given: &T) -> &T {
        given
    }

    fn bind(given: &T, to: &mut Values<DB>) {
        bind_row(given, to);
    }

    fn statement(_: &[&T], bind: impl FnOnce(&mut Statement<DB>), way: Way) -> Statement<DB> {
        bound(way.of(T::UPDATE_MANY), bind)
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
    type Given = T;
    type Output = ();
    type Overflow = Infallible;
    const METHOD: &'static str = "delete_many";
    const HAS_MANY: bool = T::DELETE_MANY.is_some();

    fn row(given: &T) -> &T {
        given
    }

    fn bind(given: &T, to: &mut Values<DB>) {
        bind_version(given, to);
    }

    fn statement(_: &[&T], bind: impl FnOnce(&mut Statement<DB>), way: Way) -> Statement<DB> {
        bound(way.of(T::DELETE_MANY), bind)
    }

    fn output(_: DB::Row) {}

    async fn one(row: &T, link: &mut Link<'_, DB>) -> Outcome<DB, T, Self> {
        let method = <Self as Kind<DB, T>>::METHOD;
        checked::delete_on::<DB>(method, row, link).await
    }
}

fn bound<DB: Backend>(sql: &'static str, bind: impl FnOnce(&mut Statement<DB>)) -> Statement<DB> {
    let mut statement = Statement::literal(sql);
    bind(&mut statement);
    statement
}

/// Those of one statement change the same columns.
struct Saves<'g>(PhantomData<&'g ()>);

impl<'g, DB: Backend, T: VersionedSql<DB>> Kind<DB, T> for Saves<'g> {
    type Given = Save<'g, T>;
    type Output = DB::Row;
    type Overflow = Operation;
    const METHOD: &'static str = SAVE;
    const HAS_MANY: bool = T::SAVE_MANY.is_some();

    fn row<'s>(given: &'s Save<'g, T>) -> &'s T {
        given.mine
    }

    fn bind(given: &Save<'g, T>, to: &mut Values<DB>) {
        bind_version(given.mine, to);
        given.bind_changed(to);
    }

    fn statement(
        given: &[&Save<'g, T>],
        bind: impl FnOnce(&mut Statement<DB>),
        way: Way,
    ) -> Statement<DB> {
        let changed: Vec<usize> = match given.first() {
            Some(save) => save.changes.columns().collect(),
            None => Vec::new(),
        };
        saving::<DB, T>(&changed, way, bind)
    }

    fn output(row: DB::Row) -> DB::Row {
        row
    }

    async fn one(save: &Save<'g, T>, link: &mut Link<'_, DB>) -> Outcome<DB, T, Self> {
        checked::write_on::<DB>(SAVE, save, Write::Update, link).await
    }
}

/// A statement about many rows that writes these columns, whose arrays `bind` binds last.
fn saving<DB: Backend, T: VersionedSql<DB>>(
    changed: &[usize],
    way: Way,
    bind: impl FnOnce(&mut Statement<DB>),
) -> Statement<DB> {
    let (at_once, in_order) = T::SAVE_MANY.unwrap_or_default();
    let (names, nulls, [arrays, set, end]) = match (way, at_once, in_order) {
        (Way::AtOnce, [names, rest @ ..], _) => (names, None, rest),
        (Way::InOrder, _, [names, nulls, rest @ ..]) => (names, Some(nulls), rest),
    };
    let mut statement = Statement::composed(names);
    bind(&mut statement);
    for column in changed {
        statement.push(", ");
        statement.push_column(*column);
    }
    if let Some(nulls) = nulls {
        statement.push(nulls);
        for _ in changed {
            statement.push(", NULL");
        }
    }
    statement.push(arrays);
    for after in (0..changed.len()).rev() {
        statement.push(", (SELECT ");
        statement.push_bound(after);
        statement.push(")");
    }
    statement.push(set);
    for (number, column) in changed.iter().enumerate() {
        statement.push(if number == 0 { "" } else { ", " });
        statement.push(T::SET.get(*column).copied().unwrap_or_default());
        statement.push_column(*column);
    }
    // The version, the fence or an expression comes next, if there is one.
    if !changed.is_empty() && !end.starts_with(" FROM ") {
        statement.push(", ");
    }
    statement.push(end);
    statement
}

/// The text of a save of many rows that changes every column, if there is one; so many values tell each row from others.
#[cfg(feature = "schema")]
pub(crate) fn save_many_of_all<DB: Backend, T: VersionedSql<DB>>(
    told_by: usize,
    way: Way,
) -> String {
    if T::SAVE_MANY.is_none() || T::SET.is_empty() {
        return String::new();
    }
    let columns: Vec<usize> = (0..T::SET.len()).collect();
    let bind = |statement: &mut Statement<DB>| statement.bind_nulls(told_by + columns.len());
    saving::<DB, T>(&columns, way, bind).into_text()
}

/// Binds what says which row it is.
fn bind_version<DB: Backend, T: VersionedSql<DB>>(row: &T, to: &mut Values<DB>) {
    bind_key::<DB, T>(&row.key(), to);
    to.number(row.version().unwrap_or_default());
    if let Some(fence) = row.fence() {
        to.number(fence.get());
    }
}

async fn write_many<'c, DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    db: impl Source<'c, DB>,
    given: &[&K::Given],
) -> Vec<Outcome<DB, T, K>> {
    if given.is_empty() {
        return Vec::new();
    }
    match db.open().await {
        Ok(mut opened) => all::<DB, T, K>(given, &mut opened.link()).await,
        Err(error) => unopened::<DB, T, K>(given, &error),
    }
}

fn unopened<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    given: &[&K::Given],
    error: &sqlx::Error,
) -> Vec<Outcome<DB, T, K>> {
    // Nothing was sent.
    let failed = |given| WriteFailure::new(operation::<DB, T, K>(K::row(given)), copy(error), true);
    given
        .iter()
        .map(|given| Err(unwritten(failed(given))))
        .collect()
}

async fn all<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    given: &[&K::Given],
    link: &mut Link<'_, DB>,
) -> Vec<Outcome<DB, T, K>> {
    if !K::HAS_MANY || given.len() < 2 {
        return one_by_one::<DB, T, K>(given, link).await;
    }
    let mut outcomes = Vec::new();
    outcomes.resize_with(given.len(), || None);
    let are_first = are_first::<DB, T, K>(given);
    let firsts = given.iter().enumerate().zip(are_first);
    let firsts: Vec<_> = firsts.filter(|(_, is_first)| *is_first).collect();
    for firsts in firsts.chunks(rows_of_a_statement::<DB>(link)) {
        let given: Vec<_> = firsts.iter().map(|((_, given), _)| **given).collect();
        let written = some::<DB, T, K>(&given, link).await;
        for (((place, _), _), written) in firsts.iter().zip(written) {
            if let Some(outcome) = outcomes.get_mut(*place) {
                *outcome = Some(written);
            }
        }
    }
    for (given, outcome) in given.iter().zip(&mut outcomes) {
        if outcome.is_none() {
            *outcome = Some(K::one(given, link).await);
        }
    }
    outcomes.into_iter().flatten().collect()
}

/// Of each whether it is the first with its key.
fn are_first<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(given: &[&K::Given]) -> Vec<bool> {
    let keys = given.iter().map(|given| K::row(given).key());
    let keys = Batch::<DB>::of(keys, |key, to| bind_key::<DB, T>(&key, to));
    if keys.is_some_and(|keys| keys.sorted().is_some()) {
        return vec![true; given.len()];
    }
    let mut seen = HashSet::new();
    let key = |given| Call::<DB>::of(|to| bind_key::<DB, T>(&K::row(given).key(), to));
    let are_first = given
        .iter()
        .map(|given| !is_again(key(given).as_ref(), &mut seen));
    are_first.collect()
}

fn bind_key<DB: Backend, T: VersionedSql<DB>>(key: &T::Key<'_>, to: &mut Values<DB>) {
    T::bind_key(key, to);
    to.end_key();
}

/// Whether a row with its key came before. A statement about many writes a row once, and what comes after that looks at what it has become: the second
/// is sent after it, as in a loop.
fn is_again<DB: Backend>(call: Option<&Call<DB>>, seen: &mut HashSet<Vec<u8>>) -> bool {
    call.is_some_and(|call| !seen.insert(call.key().to_vec()))
}

fn operation<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(row: &T) -> Operation {
    <T as Model<Derive>>::operation(K::METHOD, &row.key())
}

fn unwritten<R, O>(failure: WriteFailure) -> Unwritten<R, O> {
    Failure::from(failure).into()
}

/// Those of one statement. If the database refuses one of them, each half by itself, so that it hurts no other.
fn some<'s, DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    given: &'s [&K::Given],
    link: &'s mut Link<'_, DB>,
) -> BoxFuture<'s, Vec<Outcome<DB, T, K>>> {
    Box::pin(async move {
        // A column can be an array, and PostgreSQL has no arrays of arrays.
        let batch = Batch::of(given, |given, to| K::bind(given, to));
        let Some(batch) = batch.filter(|batch| batch.len() > 1) else {
            return one_by_one::<DB, T, K>(given, link).await;
        };
        let in_transaction = in_transaction::<DB>(link);
        let error = match send::<DB, T, K>(given, &batch, link).await {
            Ok(written) => return after::<DB, T, K>(given, written, link).await,
            Err(error) => error,
        };
        let fault = Fault::of(&error);
        // Nothing was sent; or nothing was run, because `unnest` makes a column of each part of a composite type.
        if fault == Fault::Encode || fault == Fault::Schema && !in_transaction {
            return one_by_one::<DB, T, K>(given, link).await;
        }
        if fault.may_be_of_a_row() && !in_transaction {
            let (first, others) = given.split_at(given.len() / 2);
            let mut outcomes = some::<DB, T, K>(first, link).await;
            outcomes.extend(some::<DB, T, K>(others, link).await);
            return outcomes;
        }
        let failed = |given| {
            let operation = operation::<DB, T, K>(K::row(given));
            WriteFailure::new(operation, copy(&error), in_transaction)
        };
        given
            .iter()
            .map(|given| Err(unwritten(failed(given))))
            .collect()
    })
}

async fn one_by_one<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    given: &[&K::Given],
    link: &mut Link<'_, DB>,
) -> Vec<Outcome<DB, T, K>> {
    let mut outcomes = Vec::with_capacity(given.len());
    for given in given {
        outcomes.push(K::one(given, link).await);
    }
    outcomes
}

/// What the statement returned for each row, if it wrote that.
async fn send<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    given: &[&K::Given],
    batch: &Batch<DB>,
    link: &mut Link<'_, DB>,
) -> Result<Vec<Option<DB::Row>>, sqlx::Error> {
    let mut written = Vec::new();
    written.resize_with(given.len(), || None);
    let at_once = Way::first(link) == Way::AtOnce && batch.has_exact_keys();
    // This is the order in which it mostly locks them.
    if let Some(sorted) = at_once.then(|| batch.sorted()).flatten() {
        let bind = |to: &mut Statement<DB>| batch.bind(sorted.places(), to);
        match write_all::<DB>(&|| K::statement(given, bind, Way::AtOnce), link).await {
            Err(error) if Way::AtOnce.has_waited(&error) => {}
            Err(error) => return Err(error),
            // The table has triggers, say, or all copies are stale.
            Ok(rows) if rows.is_empty() => {}
            Ok(rows) => {
                for (number, row) in rows.into_iter().enumerate() {
                    let place = sorted.place_of(&row, number);
                    if let Some(place) = place.and_then(|place| written.get_mut(place)) {
                        *place = Some(row);
                    }
                }
                return Ok(written);
            }
        }
    }
    let bind = |to: &mut Statement<DB>| batch.bind_all(to);
    for row in write_all::<DB>(&|| K::statement(given, bind, Way::InOrder), link).await? {
        if let Some(place) = written.get_mut(number::<DB>(&row)?) {
            *place = Some(row);
        }
    }
    Ok(written)
}

/// Looks at those that were not written, all at once.
async fn after<DB: Backend, T: VersionedSql<DB>, K: Kind<DB, T>>(
    given: &[&K::Given],
    written: Vec<Option<DB::Row>>,
    link: &mut Link<'_, DB>,
) -> Vec<Outcome<DB, T, K>> {
    let missed = given.iter().zip(&written);
    let missed: Vec<_> = missed
        .filter(|(_, written)| written.is_none())
        .map(|(given, _)| K::row(given).key())
        .collect();
    let keys: Vec<_> = missed.iter().collect();
    let mut found = match keys.is_empty() {
        true => Ok(Vec::new()),
        false => find::<DB, T, _>(&keys, link, |row, version| Ok((row, version))).await,
    }
    .map(Vec::into_iter);
    let mut outcomes = Vec::with_capacity(given.len());
    for (given, written) in given.iter().zip(written) {
        if let Some(written) = written {
            outcomes.push(Ok(K::output(written)));
            continue;
        }
        let row = K::row(given);
        let operation = operation::<DB, T, K>(row);
        let expected = row.version().unwrap_or_default();
        let found = match &mut found {
            Ok(found) => found.next().unwrap_or(Err(Unread::Missing)),
            Err(error) => Err(Unread::Failed(copy(error))),
        };
        outcomes.push(match found {
            // A trigger dropped the write, or it came to be as it was: alone, that is told apart.
            Ok((_, found)) if found == expected => K::one(given, link).await,
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
