//! Many additions in one statement.

use super::error::CounterError;
use super::{
    Counter, CounterRow, CounterSql, Explained, add_one, bounds, can_start, explain, failed,
    fitting, met_null, total,
};
use crate::db::atomic::{Atomic, Reruns, in_transaction};
use crate::db::error::DatabaseError;
use crate::db::fault::{Fault, met_twice, wrote_too_few};
use crate::db::model::acquire;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Compared, Fetched, Statement, knew_an_old_schema};
use crate::db::{Array, Backend};
use std::collections::BTreeMap;
use std::future::Future;

/// A statement over many rows.
#[derive(Clone, Copy)]
pub struct BatchSql {
    /// What is before and after its rows; nothing after them, and all of it before, where they are arrays.
    pub sql: [&'static str; 2],
    /// Whether rows that are missing are created.
    pub creates: bool,
    /// Whether it has to know the lowest and the highest total, which are its last parameters.
    pub guarded: bool,
}

/// Keys and their new totals.
type Totals<T, const N: usize> = Vec<(<T as CounterRow>::OwnedKey, <T as Counter<N>>::Number)>;

/// Adds to many rows, all or none, and returns the new totals in key order.
pub fn add_many<'c, 'k, DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    db: impl Source<'c, DB>,
    deltas: impl IntoIterator<Item = (T::Key<'k>, i64)>,
) -> impl Future<Output = Result<Totals<T, N>, CounterError>> + Send
where
    T::Key<'k>: Ord,
{
    // The iterator is read here, so that it need not be `Send`.
    let summed = sum::<N, T>(deltas);
    T::observed::<DB, _>(T::METHODS.1, async move {
        let deltas = summed?;
        if deltas.is_empty() {
            return Ok(Vec::new());
        }
        let mut opened = acquire(db, &|| T::operation_on_many(T::METHODS.1))
            .await
            .map_err(CounterError::Database)?;
        let mut connection = opened.link();
        let mut reruns = Reruns::new(in_transaction::<DB>(&connection));
        loop {
            match add_batch_on::<DB, N, T>(&deltas, &mut connection).await {
                Err(CounterError::Serialization(error)) => {
                    if !reruns.after(error.fault(), &mut connection).await {
                        return Err(CounterError::Serialization(error));
                    }
                }
                outcome => return outcome,
            }
        }
    })
}

fn add_batch_on<'c, DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    deltas: &'c [(T::Key<'_>, i64)],
    connection: &'c mut Link<'_, DB>,
) -> impl Future<Output = Result<Totals<T, N>, CounterError>> + Send {
    async move {
        let operation = || T::operation_on_many(T::METHODS.1);
        let parts = parts::<DB, N, T>(deltas);
        let in_transaction = in_transaction::<DB>(connection);
        // A CHECK can refuse what is taken, see `add_one`, and the caller's transaction must survive that.
        let in_doubt = DB::ERROR_ABORTS_TRANSACTION && in_transaction && takes(deltas);
        if let [(sql, rows)] = parts.as_slice()
            && sql.creates
            && !sql.guarded
            && !in_doubt
        {
            // Nothing is refused for one row only, so the statement is all or nothing by itself.
            return match add_part::<DB, N, T>(*sql, rows, connection).await {
                Ok(rows) => totals::<DB, N, T>(&rows)
                    .map(sorted::<N, T>)
                    .map_err(|error| CounterError::Written(DatabaseError::new(operation(), error)))?
                    .ok_or_else(|| CounterError::NotUnique(operation())),
                Err(error) if !in_transaction && goes_one_by_one(&error) => {
                    one_by_one::<DB, N, T>(deltas, connection).await
                }
                // The transaction is aborted and answers no more questions.
                Err(error) if wrote_too_few(&error) => Err(CounterError::Contended(operation())),
                Err(error) if met_null(&error) && in_transaction => {
                    Err(CounterError::NullValue(operation()))
                }
                Err(error) if !in_transaction && may_be_a_counter(&error) => {
                    let refused = find_unfit::<DB, N, T>(deltas, connection).await;
                    Err(refused.unwrap_or_else(|| failed(operation(), error, in_transaction)))
                }
                Err(error) => Err(failed(operation(), error, in_transaction)),
            };
        }

        if in_transaction && DB::ERROR_ABORTS_TRANSACTION {
            // A transaction that is aborted already has to fail here: when sqlx's SAVEPOINT fails, it rolls back the
            // caller's whole transaction and forgets that there was one, and the caller's next statements commit.
            Statement::<DB>::literal("SELECT 1")
                .execute(connection)
                .await
                .map_err(|error| failed(operation(), error, true))?;
        }
        // Until COMMIT is sent, a lost connection means that nothing was written.
        let before_commit = |error| failed(operation(), error, true);
        let mut atomic = Atomic::<DB>::begin(connection.reborrow())
            .await
            .map_err(before_commit)?;
        // Several statements would each have an order of their own.
        if let Some(lock) = T::LOCK_BATCH
            && parts.len() > 1
        {
            let rows: Vec<_> = deltas.iter().collect();
            let lock = statement::<DB, N, T>([lock, ""], &rows, 0);
            if let Err(error) = lock.fetch_all(atomic.link()).await {
                let error = before_commit(error);
                return Err(undo(atomic, error).await);
            }
        }
        let mut all = Vec::with_capacity(deltas.len());
        for (sql, rows) in parts {
            let written = match add_part::<DB, N, T>(sql, &rows, atomic.link()).await {
                Ok(written) => written,
                Err(error) if goes_one_by_one(&error) => {
                    atomic.rollback().await.map_err(before_commit)?;
                    return one_by_one::<DB, N, T>(deltas, connection).await;
                }
                Err(error) if may_be_a_counter(&error) => {
                    atomic.rollback().await.map_err(before_commit)?;
                    let refused = find_unfit::<DB, N, T>(deltas, connection).await;
                    return Err(refused.unwrap_or_else(|| before_commit(error)));
                }
                Err(error) => {
                    let error = before_commit(error);
                    return Err(undo(atomic, error).await);
                }
            };
            match totals::<DB, N, T>(&written) {
                Ok(totals) if totals.len() == rows.len() => all.extend(totals),
                Ok(_) => {
                    all.clear();
                    break;
                }
                // A counter that was NULL, or whose total is no integer: SQLite's overflows, see the guard.
                Err(error) => {
                    atomic.rollback().await.map_err(before_commit)?;
                    let refused = find_refused::<DB, N, T>(deltas, connection).await;
                    return Err(refused.unwrap_or_else(|| before_commit(error)));
                }
            }
        }
        if let Some(all) = sorted::<N, T>(all).filter(|all| !all.is_empty()) {
            atomic
                .commit()
                .await
                .map_err(|error| failed(operation(), error, in_transaction))?;
            return Ok(all);
        }
        // The refused row is looked for after the rollback, in the state that refused it.
        atomic.rollback().await.map_err(before_commit)?;
        match find_refused::<DB, N, T>(deltas, connection).await {
            Some(error) => Err(error),
            None => one_by_one::<DB, N, T>(deltas, connection).await,
        }
    }
}

/// The same totals, with the keys as the caller knows them.
pub fn with_keys<Own, Key, Number>(
    totals: impl Future<Output = Result<Vec<(Own, Number)>, CounterError>> + Send,
    key: fn(Own) -> Key,
) -> impl Future<Output = Result<Vec<(Key, Number)>, CounterError>> + Send {
    async move {
        let totals = totals.await?.into_iter();
        Ok(totals.map(|(own, total)| (key(own), total)).collect())
    }
}

/// Sums the changes per key.
pub(super) fn sum<'k, const N: usize, T: Counter<N>>(
    deltas: impl IntoIterator<Item = (T::Key<'k>, i64)>,
) -> Result<Vec<(T::Key<'k>, i64)>, CounterError>
where
    T::Key<'k>: Ord,
{
    let mut summed: BTreeMap<T::Key<'k>, i128> = BTreeMap::new();
    for (key, delta) in deltas {
        // No iterator is long enough to overflow this.
        *summed.entry(key).or_default() += i128::from(delta);
    }
    summed
        .into_iter()
        .map(|(key, delta)| match i64::try_from(delta) {
            Ok(delta) => Ok((key, delta)),
            Err(_) => Err(CounterError::Overflow(T::operation(T::METHODS.1, &key))),
        })
        .collect()
}

/// One statement of a batch: its SQL, and the changes that it covers.
type Part<'d, K> = (BatchSql, Vec<&'d (K, i64)>);

/// How many rows a statement has at most that is not of arrays.
///
/// Each power of two up to this is a statement of its own among those that a connection keeps prepared, and the larger ones save little.
const ROWS: usize = 128;

/// Parts the changes that can create a row from the others.
fn parts<'d, 'k, DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    deltas: &'d [(T::Key<'k>, i64)],
) -> Vec<Part<'d, T::Key<'k>>> {
    let (creating, existing): (Vec<_>, Vec<_>) = deltas
        .iter()
        .partition(|(_, delta)| T::BATCH.is_some() && can_start::<N, T>(*delta));
    let creating = T::BATCH.map(|sql| (sql, creating));
    let parts = creating.into_iter().chain([(T::EXISTING_BATCH, existing)]);
    let mut statements = Vec::new();
    for (sql, rows) in parts {
        let most = if sql.sql[1].is_empty() {
            usize::MAX
        } else {
            ROWS
        };
        statements.extend(rows.chunks(most).map(|rows| (sql, rows.to_vec())));
    }
    statements
}

/// A statement about these rows and what is added to them; `start` is added to each.
fn statement<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    [head, tail]: [&'static str; 2],
    deltas: &[&(T::Key<'_>, i64)],
    start: i64,
) -> Statement<DB> {
    if tail.is_empty() {
        let mut statement = Statement::literal(head);
        let keys: Vec<_> = deltas.iter().map(|(key, _)| key).collect();
        T::bind_keys(&keys, &mut statement);
        let values = deltas.iter().map(|(_, delta)| start.saturating_add(*delta));
        statement.bind_rows(deltas.len(), &[Array::Integers(values.collect())]);
        return statement;
    }
    let mut statement = Statement::composed(head);
    let (rows, columns) = (deltas.len().next_power_of_two(), T::KEYS + 1);
    statement.push_rows(rows, columns);
    statement.push(tail);
    for (key, delta) in deltas {
        T::bind_key(key, &mut statement);
        statement.bind_i64(start.saturating_add(*delta));
    }
    for _ in deltas.len() * columns..rows * columns {
        statement.bind_null();
    }
    statement
}

/// Runs one statement of a batch and returns what it says of the rows that it changed.
async fn add_part<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    sql: BatchSql,
    deltas: &[&(T::Key<'_>, i64)],
    connection: &mut Link<'_, DB>,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    // The row that an upsert proposes starts where a new row would; one that exists only takes the change.
    let start = if sql.creates { T::START } else { 0 };
    let statement = || {
        let mut statement = statement::<DB, N, T>(sql.sql, deltas, start);
        if sql.guarded {
            let (min, max) = bounds::<N, T>();
            statement.bind_i64(min);
            statement.bind_i64(max);
        }
        statement
    };
    match statement().fetch_all(connection).await {
        Err(error) if knew_an_old_schema(&error, connection).await => {
            statement().fetch_all(connection).await
        }
        outcome => outcome,
    }
}

/// The keys and totals that a statement returned.
fn totals<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    rows: &[DB::Row],
) -> Result<Totals<T, N>, sqlx::Error> {
    let (mut keys, mut totals) = (Vec::new(), Vec::new());
    for row in rows {
        T::read_keys(row, &mut keys)?;
        DB::get_i64s(row, T::KEYS, &mut totals)?;
    }
    let totals = totals.into_iter().map(fitting::<N, T>);
    keys.into_iter()
        .zip(totals)
        .map(|(key, total)| Ok((key, total?)))
        .collect()
}

/// Totals in key order: a database returns rows in any order it likes. `None` if a key stands for several rows.
fn sorted<const N: usize, T: Counter<N>>(mut totals: Totals<T, N>) -> Option<Totals<T, N>> {
    totals.sort_by(|(a, _), (b, _)| a.cmp(b));
    // As many rows as keys could also be two rows for one key and none for another.
    let unique = totals.is_sorted_by(|(a, _), (b, _)| a < b);
    unique.then_some(totals)
}

/// Rolls back and returns `error`, or what went wrong with the rollback if that is worse to know.
async fn undo<DB: Backend>(atomic: Atomic<'_, DB>, error: CounterError) -> CounterError {
    // If the rollback fails, the connection is broken and the server rolls back by itself.
    let _ = atomic.rollback().await;
    error
}

/// Finds the first change that its row refuses.
async fn find_refused<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    deltas: &[(T::Key<'_>, i64)],
    connection: &mut Link<'_, DB>,
) -> Option<CounterError> {
    for (key, delta) in deltas {
        let operation = T::operation(T::METHODS.1, key);
        match explain::<DB, N, T>(key, *delta, operation, connection).await {
            Explained::Fits => {}
            Explained::Refused(error) => return Some(error),
        }
    }
    None
}

/// Whether an addition without a guard can have failed like this: a counter was NULL, or its total did not fit. But a trigger can divide by
/// zero as well, and a key can be out of the range of its column.
fn may_be_a_counter(error: &sqlx::Error) -> bool {
    met_null(error) || Fault::of(error) == Fault::NumericOutOfRange
}

/// Finds the counter that is why, if it is one.
async fn find_unfit<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    deltas: &[(T::Key<'_>, i64)],
    connection: &mut Link<'_, DB>,
) -> Option<CounterError> {
    let refused = find_refused::<DB, N, T>(deltas, connection).await;
    refused.filter(|refused| {
        matches!(
            refused,
            CounterError::NullValue(_) | CounterError::Overflow(_)
        )
    })
}

/// Whether something is taken.
fn takes<K>(deltas: &[(K, i64)]) -> bool {
    deltas.iter().any(|(_, delta)| *delta < 0)
}

/// Whether what one statement could not do for all rows may be possible for each.
fn goes_one_by_one(error: &sqlx::Error) -> bool {
    Fault::of(error) == Fault::CheckViolation || met_twice(error) || wrote_too_few(error)
}

/// A batch in as many statements as it has rows, which are found by what the database considers equal.
async fn one_by_one<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    deltas: &[(T::Key<'_>, i64)],
    connection: &mut Link<'_, DB>,
) -> Result<Totals<T, N>, CounterError> {
    let operation = || T::operation_on_many(T::METHODS.1);
    let in_transaction = in_transaction::<DB>(connection);
    // Until COMMIT is sent, a lost connection means that nothing was written.
    let before_commit = |error| failed(operation(), error, true);
    let mut atomic = Atomic::<DB>::begin(connection.reborrow())
        .await
        .map_err(before_commit)?;
    // In the order in which every batch locks its rows.
    if let Some(lock) = T::LOCK_BATCH {
        let rows: Vec<_> = deltas.iter().collect();
        let lock = statement::<DB, N, T>([lock, ""], &rows, 0);
        if let Err(error) = lock.fetch_all(atomic.link()).await {
            return Err(undo(atomic, before_commit(error)).await);
        }
    }
    // Two keys can be those of one row: the later total is its total.
    let mut totals = BTreeMap::new();
    for (key, delta) in deltas {
        match add_and_read::<DB, N, T>(key, *delta, atomic.link()).await {
            Ok((key, total)) => totals.insert(key, total),
            Err(error) => return Err(undo(atomic, error).await),
        };
    }
    atomic
        .commit()
        .await
        .map_err(|error| failed(operation(), error, in_transaction))?;
    Ok(totals.into_iter().collect())
}

/// Adds to one row of a batch and reads its key as it is stored.
async fn add_and_read<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    key: &T::Key<'_>,
    delta: i64,
    connection: &mut Link<'_, DB>,
) -> Result<(T::OwnedKey, T::Number), CounterError> {
    let failed =
        |error| CounterError::Database(DatabaseError::new(T::operation(T::METHODS.1, key), error));
    add_one::<DB, N, T>(key, delta, T::METHODS.1, true, connection).await?;
    let mut statement = Statement::literal(T::READ);
    T::bind_key(key, &mut Compared(&mut statement));
    match statement.fetch_one(connection).await.map_err(failed)? {
        Fetched::One(row) => {
            let total = total::<DB, N, T>(&row, T::KEYS).map_err(failed)?;
            Ok((T::read_key(&row).map_err(failed)?, total))
        }
        _ => Err(CounterError::NotUnique(T::operation(T::METHODS.1, key))),
    }
}
