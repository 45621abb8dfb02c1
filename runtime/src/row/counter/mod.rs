//! Counters: additions that the database does, in one statement, within bounds.

mod batch;
mod error;

use std::future::Future;

pub use self::batch::{BatchSql, add_many, with_keys};
pub use self::error::{CounterError, OutOfBounds};
use crate::db::atomic::in_transaction;
use crate::db::column::{CounterNumber, Read};
use crate::db::error::{DatabaseError, Operation, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::lanes::{Addition, Call, Fold, Turn, take_to_add};
use crate::db::model::{Model, acquire};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Fetched, Statement, write_one};
use crate::db::{Backend, IndexedColumns};

/// The derive, for [`Model`].
#[derive(Debug)]
pub struct Derive;

/// What `#[derive(Counter)]` knows about a model beyond that, the same for every database.
pub trait CounterRow: Model<Derive> {
    /// The key columns as the database returns them.
    type OwnedKey: Ord + Send;
    /// The number of key columns.
    const KEYS: usize;
    /// Their names, sorted.
    const KEY_COLUMNS: &'static str;
}

/// One of a model's counters, by its position among them.
pub trait Counter<const N: usize>: CounterRow {
    /// The type of the column.
    type Number: CounterNumber;
    /// The counter's field.
    const FIELD: &'static str;
    /// The name of the method that adds to it, and of the one that adds a batch.
    const METHODS: (&'static str, &'static str);
    /// The declared lower bound.
    const MIN: Option<i64>;
    /// The declared upper bound.
    const MAX: Option<i64>;
    /// Where a new row starts.
    const START: i64;
}

/// The statements that all counters of a model share, for one database.
pub trait CounterRowSql<DB: Backend>: CounterRow {
    /// Reads all columns.
    const ROW: Read<DB, Self>;
    /// Reads all columns.
    const GET: &'static str;
    /// Locks the rows of a batch that exist; `None` where there are no row locks.
    const LOCK_BATCH: Option<&'static str>;
    /// Says which of many rows another session has locked, for [`Lanes`](crate::Lanes).
    const HELD: Option<&'static str> = None;
    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds the keys of many rows, before [`Backend::bind_rows`], where the database has arrays: one per column.
    fn bind_keys(_keys: &[&Self::Key<'_>], _to: &mut impl Bind<DB>) {}
    /// Reads the key from the first columns of a row.
    fn read_key(row: &DB::Row) -> Result<Self::OwnedKey, sqlx::Error>;
    /// Reads the keys of what a statement over many rows returned: of one row, or where the database has arrays, of many in one.
    fn read_keys(row: &DB::Row, keys: &mut Vec<Self::OwnedKey>) -> Result<(), sqlx::Error> {
        keys.push(Self::read_key(row)?);
        Ok(())
    }
}

/// The statements of one counter for one database.
pub trait CounterSql<DB: Backend, const N: usize>: Counter<N> + CounterRowSql<DB> {
    /// Adds or creates; `None` for a model of existing rows.
    const ADD: Option<&'static str>;
    /// Adds to a row that exists.
    const ADD_EXISTING: &'static str;
    /// Reads the key and the counter.
    const READ: &'static str;
    /// `ADD` for many rows.
    const BATCH: Option<BatchSql>;
    /// `ADD_EXISTING` for many rows.
    const EXISTING_BATCH: BatchSql;
    /// `ADD_EXISTING` for the calls of many callers: see [`Lanes`](crate::Lanes).
    const FOLD: Option<&'static str> = None;
    /// The same where all of them add to one row.
    const FOLD_ONE: Option<&'static str> = None;
}

from_write_failure!(CounterError);

/// The values that a counter can take: its declared bounds, within its type.
fn bounds<const N: usize, T: Counter<N>>() -> (i64, i64) {
    (
        T::MIN.unwrap_or(i64::MIN).max(T::Number::MIN),
        T::MAX.unwrap_or(i64::MAX).min(T::Number::MAX),
    )
}

/// The lowest and highest old value to which `delta` can be added, or an empty range.
///
/// Comparing the old value instead of the new one keeps the database from computing a sum that does not fit.
fn room(delta: i64, (min, max): (i64, i64)) -> (i64, i64) {
    let low = i128::from(min) - i128::from(delta);
    let high = i128::from(max) - i128::from(delta);
    if low > i128::from(i64::MAX) || high < i128::from(i64::MIN) {
        return (i64::MAX, i64::MIN);
    }
    let clamp = |value: i128| {
        let value = value.clamp(i64::MIN.into(), i64::MAX.into());
        i64::try_from(value).unwrap_or_default()
    };
    (clamp(low), clamp(high))
}

/// Whether a row that does not exist yet could start with this addition.
fn can_start<const N: usize, T: Counter<N>>(delta: i64) -> bool {
    let (min, max) = bounds::<N, T>();
    let total = i128::from(T::START) + i128::from(delta);
    (i128::from(min)..=i128::from(max)).contains(&total)
}

/// Reads the row with this key.
pub fn get<'c, DB: Backend, T: CounterRowSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<Option<T>, DatabaseError>> + Send {
    T::observed::<DB, _>("get", async move {
        let operation = || T::operation("get", &key);
        let mut opened = acquire(db, &operation).await?;
        let mut statement = Statement::literal(T::GET);
        T::bind_key(&key, &mut Compared(&mut statement));
        let rows = statement.fetch_all(&mut opened.link()).await;
        rows.and_then(|rows| rows.first().map(T::ROW).transpose())
            .map_err(|error| DatabaseError::new(operation(), error))
    })
}

/// Adds `delta` and returns the new total.
pub fn add<'c, DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    delta: i64,
) -> impl Future<Output = Result<T::Number, CounterError>> + Send {
    T::observed::<DB, _>(T::METHODS.0, async move {
        let operation = || T::operation(T::METHODS.0, &key);
        let call = || {
            let (low, high) = room(delta, bounds::<N, T>());
            let call = Call::of(|to| {
                T::bind_key(&key, to);
                to.end_key();
            });
            Some(call?.adding(Addition { delta, low, high }))
        };
        let fold = T::FOLD.map(|sql| Fold::write(sql, T::HELD).of_one(T::FOLD_ONE));
        let turn = take_to_add(db, fold, call).await;
        let turn = turn.map_err(|error| DatabaseError::new(operation(), error));
        match turn.map_err(CounterError::Database)? {
            Turn::Alone(mut opened) => add_on::<DB, N, T>(&key, delta, &mut opened.link()).await,
            Turn::PassedOver(mut opened) => {
                // The row is mostly there and has no room. An upsert would wait until it is not locked to say so, and each of the others on a connection
                // of its own; a look does not.
                let mut link = opened.link();
                let looked = explain::<DB, N, T>(&key, delta, operation(), &mut link).await;
                if let Explained::Refused(error) = looked {
                    return Err(error);
                }
                add_on::<DB, N, T>(&key, delta, &mut link).await
            }
            Turn::Answered(Ok(total)) => fitting::<N, T>(total)
                .map_err(|error| CounterError::Written(DatabaseError::new(operation(), error))),
            Turn::Answered(Err(error)) => Err(failed(operation(), error, false)),
        }
    })
}

async fn add_on<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    key: &T::Key<'_>,
    delta: i64,
    connection: &mut Link<'_, DB>,
) -> Result<T::Number, CounterError> {
    let operation = || T::operation(T::METHODS.0, key);
    let mut added = add_one::<DB, N, T>(key, delta, T::METHODS.0, delta < 0, connection).await;
    // A row whose first number would be refused may be there all the same.
    if let Err(CounterError::Database(error)) = &added
        && error.fault() == Fault::CheckViolation
        && delta >= 0
        && !(DB::ERROR_ABORTS_TRANSACTION && in_transaction::<DB>(connection))
    {
        added = add_one::<DB, N, T>(key, delta, T::METHODS.0, true, connection).await;
    }
    total::<DB, N, T>(&added?, 0)
        .map_err(|error| CounterError::Written(DatabaseError::new(operation(), error)))
}

/// Adds to one row and returns the row with the new total.
///
/// An upsert checks constraints on the row that it proposes, which is the bare addition: `CHECK (units >= 0)` would refuse
/// to take 1 from 10. So where something is taken the row is looked for first: with `existing_first`.
async fn add_one<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    key: &T::Key<'_>,
    delta: i64,
    method: &'static str,
    existing_first: bool,
    connection: &mut Link<'_, DB>,
) -> Result<DB::Row, CounterError> {
    let operation = || T::operation(method, key);
    let in_transaction = in_transaction::<DB>(connection);
    let (low, high) = room(delta, bounds::<N, T>());
    // Adding to nothing is only possible if a new row could start that way. Where it could not, the row either exists or the
    // answer is no, and an UPDATE says both.
    let create = T::ADD.filter(|_| can_start::<N, T>(delta));
    let existing = (existing_first || create.is_none()).then_some(T::ADD_EXISTING);
    let steps = [(existing, true), (create, false)];
    for (sql, compares) in steps
        .into_iter()
        .filter_map(|(sql, compares)| Some((sql?, compares)))
    {
        let statement = || {
            let mut statement = Statement::literal(sql);
            if compares {
                T::bind_key(key, &mut Compared(&mut statement));
            } else {
                T::bind_key(key, &mut statement);
            }
            statement.bind_i64(delta);
            statement.bind_i64(low);
            statement.bind_i64(high);
            statement
        };
        let fetched = match write_one(&statement, connection).await {
            Ok(fetched) => fetched,
            Err(error) if DB::has_written(connection, &error).await => {
                return Err(CounterError::Written(DatabaseError::new(
                    operation(),
                    error,
                )));
            }
            Err(error) => {
                return Err(refused::<DB, T>(operation(), error, in_transaction, connection).await);
            }
        };
        match fetched {
            Fetched::One(row) => return Ok(row),
            Fetched::Several => return Err(CounterError::NotUnique(operation())),
            Fetched::None => {
                if let Explained::Refused(error) =
                    explain::<DB, N, T>(key, delta, operation(), connection).await
                {
                    return Err(error);
                }
            }
        }
    }
    Err(CounterError::Contended(operation()))
}

/// Whether a batch without a guard met a row whose counter is NULL: it divides by zero then.
fn met_null(error: &sqlx::Error) -> bool {
    crate::db::fault::divided_by_zero(error)
}

/// What the database refused. A number out of range is not taken for the counter's: where that can be, the rows are looked at, and the key
/// can be too large for its column as well.
fn failed(operation: Operation, error: sqlx::Error, in_transaction: bool) -> CounterError {
    WriteFailure::new(operation, error, in_transaction).into()
}

/// The same of a statement that may have missed its index.
async fn refused<DB: Backend, T: CounterRow>(
    operation: Operation,
    error: sqlx::Error,
    in_transaction: bool,
    connection: &mut Link<'_, DB>,
) -> CounterError {
    let key = IndexedColumns::of(T::TABLE, T::KEY_COLUMNS);
    if DB::lacks_unique_index(connection, &error, key).await {
        return CounterError::MissingUniqueIndex(operation, T::KEY_COLUMNS);
    }
    failed(operation, error, in_transaction)
}

/// A total that a write returned. Bounds keep it within the type, unless a trigger or a wider column does not.
fn total<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    row: &DB::Row,
    index: usize,
) -> Result<T::Number, sqlx::Error> {
    fitting::<N, T>(DB::get_i64(row, index)?)
}

fn fitting<const N: usize, T: Counter<N>>(total: Option<i64>) -> Result<T::Number, sqlx::Error> {
    total
        .and_then(T::Number::from_i64)
        .ok_or_else(|| sqlx::Error::Decode("the total is NULL or does not fit the field".into()))
}

/// What a look at the row says about a change that was refused.
enum Explained {
    /// By now it would be accepted.
    Fits,
    Refused(CounterError),
}

/// Looks at the counter to find out why the write met no row.
async fn explain<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    key: &T::Key<'_>,
    delta: i64,
    operation: Operation,
    connection: &mut Link<'_, DB>,
) -> Explained {
    let mut statement = Statement::literal(T::READ);
    T::bind_key(key, &mut Compared(&mut statement));
    let current = match statement.fetch_one(connection).await {
        // A read: whatever happened to it, nothing was written.
        Err(error) => return Explained::Refused(WriteFailure::new(operation, error, true).into()),
        Ok(Fetched::None) if T::ADD.is_none() => {
            return Explained::Refused(CounterError::NotFound(operation));
        }
        Ok(Fetched::None) => None,
        Ok(Fetched::Several) => return Explained::Refused(CounterError::NotUnique(operation)),
        Ok(Fetched::One(row)) => match DB::get_i64(&row, T::KEYS) {
            Ok(Some(value)) => Some(value),
            Ok(None) => return Explained::Refused(CounterError::NullValue(operation)),
            Err(error) => {
                let error = DatabaseError::new(operation, error);
                return Explained::Refused(CounterError::Database(error));
            }
        },
    };
    let total = i128::from(current.unwrap_or(T::START)) + i128::from(delta);
    let fits = |(min, max): (i64, i64)| (i128::from(min)..=i128::from(max)).contains(&total);
    if fits(bounds::<N, T>()) {
        Explained::Fits
    } else if fits((T::Number::MIN, T::Number::MAX)) {
        Explained::Refused(CounterError::OutOfBounds(Box::new(OutOfBounds {
            operation,
            field: T::FIELD,
            delta,
            current,
            min: T::MIN,
            max: T::MAX,
        })))
    } else {
        Explained::Refused(CounterError::Overflow(operation))
    }
}

#[cfg(test)]
mod tests {
    use super::room;

    /// For every old value: it has room exactly if the sum, computed without overflow, is within the bounds.
    #[test]
    fn room_is_exact_at_the_edges() {
        let edges = [
            i64::MIN,
            i64::MIN + 1,
            -7,
            -1,
            0,
            1,
            7,
            i64::MAX - 1,
            i64::MAX,
        ];
        for delta in edges {
            for min in edges {
                for max in edges.into_iter().filter(|max| *max >= min) {
                    let (low, high) = room(delta, (min, max));
                    for old in edges {
                        let total = i128::from(old) + i128::from(delta);
                        assert_eq!(
                            (low..=high).contains(&old),
                            (i128::from(min)..=i128::from(max)).contains(&total),
                            "old {old}, delta {delta}, bounds {min} to {max}"
                        );
                    }
                }
            }
        }
    }
}
