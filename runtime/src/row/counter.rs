//! Counters: additions that the database does, in one statement, within bounds.

use std::collections::BTreeMap;
use std::future::Future;

use crate::db::atomic::{Atomic, Reruns, in_transaction};
use crate::db::column::CounterNumber;
use crate::db::error::{Attempt, DatabaseError, KeyText, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Fetched, Listed, Statement, write_one};
use crate::db::{Array, Backend};

/// What `#[derive(Counter)]` knows about a model, the same for every database.
pub trait CounterRow: Sized + Send + Sync + 'static {
    /// The key columns as the caller gives them; text is borrowed.
    type Key<'k>: Ord + Clone + Send + Sync;
    /// The key columns as the database returns them.
    type OwnedKey: Ord + Send;
    /// As written by the user.
    const TABLE: &'static str;
    /// The number of key columns.
    const KEYS: usize;

    /// Writes the key into an error.
    fn describe(key: &Self::Key<'_>, to: &mut KeyText);
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
    const GET: &'static str;
    /// Locks the rows of a batch that exist; `None` where there are no row locks.
    const LOCK_BATCH: Option<&'static str>;
    /// Reads all columns.
    fn from_row(row: &DB::Row) -> Result<Self, sqlx::Error>;
    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds the keys of many rows, an array per column, where the database has arrays.
    fn bind_keys(_keys: &[&Self::Key<'_>], _to: &mut impl Bind<DB>) {}
    /// Reads the key from the first columns of a row.
    fn read_key(row: &DB::Row) -> Result<Self::OwnedKey, sqlx::Error>;
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
}

/// The pieces of a statement over many rows. Where the database has arrays, `head` is all of it.
#[derive(Clone, Copy)]
pub struct BatchSql {
    /// Before the first row.
    pub head: &'static str,
    /// Closes a row that `(` and its parameters began.
    pub row_tail: &'static str,
    /// Behind the last row.
    pub tail: &'static str,
    /// Whether rows that are missing are created.
    pub creates: bool,
    /// What follows the lowest and the highest total, if the statement has to know them.
    /// These are its last parameters.
    pub behind_bounds: Option<&'static str>,
}

/// Keys and their new totals.
type Totals<T, const N: usize> = Vec<(<T as CounterRow>::OwnedKey, <T as Counter<N>>::Number)>;

/// Why nothing was added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CounterError {
    /// The total would leave the declared bounds. Nothing was changed, in a batch nothing of the whole batch.
    #[error("{0}")]
    OutOfBounds(Box<OutOfBounds>),
    /// The total, or the sum of a batch for one key, does not fit the counter's integer type. Nothing was changed.
    #[error("{0}: the total does not fit the counter's type")]
    Overflow(Attempt),
    /// The row does not exist, and the model is declared with `existing_rows`. Nothing was changed.
    #[error("{0}: no such row")]
    NotFound(Attempt),
    /// The counter is NULL in the database, and NULL + 1 is NULL. Nothing was changed.
    #[error("{0}: the counter is NULL in the database; set it to 0 and make the column NOT NULL")]
    NullValue(Attempt),
    /// The database changed nothing, although a look right after says that it could: another caller moved the counter in
    /// between, or a trigger, a row security policy or a constraint with ON CONFLICT IGNORE (SQLite) dropped the write. Nothing was
    /// changed; call again.
    #[error("{0}: nothing was changed, although there would be room by now")]
    Contended(Attempt),
    /// The key is not unique in the database. Nothing was changed.
    #[error("{0}: several rows have this key")]
    NotUnique(Attempt),
    /// The addition was made, and the total that the database returned is NULL or does not fit the field; or on SQLite, a trigger
    /// failed after it in a way that keeps it: RAISE(FAIL), or ON CONFLICT FAIL. Inside a transaction it counts once that is
    /// committed. A batch is then undone, and its error is `Database`.
    #[error("{0}; the addition was made")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The addition happened or it did not; doing it again could count
    /// twice.
    #[error("{0}; it is unknown whether the addition took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed. Nothing was changed.
    #[error(transparent)]
    Database(DatabaseError),
}

from_write_failure!(CounterError);

/// An addition that would have left the counter's bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfBounds {
    /// What was attempted.
    pub attempt: Attempt,
    /// The counter's field.
    pub field: &'static str,
    /// What should have been added.
    pub delta: i64,
    /// The value when it was looked at right after, which another caller may have changed in between. `None` if there
    /// is no row.
    pub current: Option<i64>,
    /// The declared lower bound.
    pub min: Option<i64>,
    /// The declared upper bound.
    pub max: Option<i64>,
}

impl std::fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {:+} would take {} out of its bounds",
            self.attempt, self.delta, self.field
        )?;
        match (self.min, self.max) {
            (Some(min), Some(max)) => write!(f, " {min} to {max}"),
            (Some(min), None) => write!(f, ", at least {min}"),
            (None, Some(max)) => write!(f, ", at most {max}"),
            (None, None) => Ok(()),
        }
    }
}

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

fn attempt_on<T: CounterRow>(key: &T::Key<'_>, operation: &'static str) -> Attempt {
    let mut text = KeyText::default();
    T::describe(key, &mut text);
    Attempt::new(operation, T::TABLE, text)
}

/// Reads the row with this key.
pub fn get<'c, DB: Backend, T: CounterRowSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<Option<T>, DatabaseError>> + Send {
    async move {
        let failed = |error| DatabaseError::new(attempt_on::<T>(&key, "get"), error);
        let mut opened = db.open().await.map_err(failed)?;
        let mut connection = opened.link();
        let mut statement = Statement::literal(T::GET);
        T::bind_key(&key, &mut Compared(&mut statement));
        let rows = statement.fetch_all(&mut connection).await.map_err(failed)?;
        rows.first().map(T::from_row).transpose().map_err(failed)
    }
}

/// Adds `delta` and returns the new total.
pub fn add<'c, DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    delta: i64,
) -> impl Future<Output = Result<T::Number, CounterError>> + Send {
    async move {
        let attempt = || attempt_on::<T>(&key, T::METHODS.0);
        let mut opened = db
            .open()
            .await
            .map_err(|error| CounterError::Database(DatabaseError::new(attempt(), error)))?;
        let mut connection = opened.link();
        let mut added =
            add_one::<DB, N, T>(&key, delta, T::METHODS.0, delta < 0, &mut connection).await;
        // A row whose first number would be refused may be there all the same.
        if let Err(CounterError::Database(error)) = &added
            && error.fault() == Fault::CheckViolation
            && delta >= 0
            && !(DB::ERROR_ABORTS_TRANSACTION && in_transaction::<DB>(&connection))
        {
            added = add_one::<DB, N, T>(&key, delta, T::METHODS.0, true, &mut connection).await;
        }
        total::<DB, N, T>(&added?, 0)
            .map_err(|error| CounterError::Written(DatabaseError::new(attempt(), error)))
    }
}

/// Adds to one row and returns the row with the new total.
///
/// An upsert checks constraints on the row that it proposes, which is the bare addition: `CHECK (units >= 0)` would refuse
/// to take 1 from 10. So where something is taken the row is looked for first: with `existing_first`.
async fn add_one<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    key: &T::Key<'_>,
    delta: i64,
    operation: &'static str,
    existing_first: bool,
    connection: &mut Link<'_, DB>,
) -> Result<DB::Row, CounterError> {
    let attempt = || attempt_on::<T>(key, operation);
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
        let fetched = match write_one(statement, connection).await {
            Ok(fetched) => fetched,
            Err(error) if DB::has_written(connection, &error).await => {
                return Err(CounterError::Written(DatabaseError::new(attempt(), error)));
            }
            Err(error) => return Err(failed(attempt(), error, in_transaction)),
        };
        match fetched {
            Fetched::One(row) => return Ok(row),
            Fetched::Several => return Err(CounterError::NotUnique(attempt())),
            Fetched::None => {
                if let Explained::Refused(error) =
                    explain::<DB, N, T>(key, delta, attempt(), connection).await
                {
                    return Err(error);
                }
            }
        }
    }
    Err(CounterError::Contended(attempt()))
}

/// Whether a batch without a guard met a row whose counter is NULL: it divides by zero then.
fn met_null(error: &sqlx::Error) -> bool {
    crate::db::fault::divided_by_zero(error)
}

/// An overflow in the database is the counter's own business, everything else goes the usual way.
fn failed(attempt: Attempt, error: sqlx::Error, in_transaction: bool) -> CounterError {
    if Fault::of(&error) == Fault::NumericOutOfRange {
        return CounterError::Overflow(attempt);
    }
    WriteFailure::new(attempt, error, in_transaction).into()
}

/// A total that a write returned. Bounds keep it within the type, unless a trigger or a wider column does not.
fn total<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    row: &DB::Row,
    index: usize,
) -> Result<T::Number, sqlx::Error> {
    DB::get_i64(row, index)?
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
    attempt: Attempt,
    connection: &mut Link<'_, DB>,
) -> Explained {
    let mut statement = Statement::literal(T::READ);
    T::bind_key(key, &mut Compared(&mut statement));
    let current = match statement.fetch_one(connection).await {
        // A read: whatever happened to it, nothing was written.
        Err(error) => return Explained::Refused(WriteFailure::new(attempt, error, true).into()),
        Ok(Fetched::None) if T::ADD.is_none() => {
            return Explained::Refused(CounterError::NotFound(attempt));
        }
        Ok(Fetched::None) => None,
        Ok(Fetched::Several) => return Explained::Refused(CounterError::NotUnique(attempt)),
        Ok(Fetched::One(row)) => match DB::get_i64(&row, T::KEYS) {
            Ok(Some(value)) => Some(value),
            Ok(None) => return Explained::Refused(CounterError::NullValue(attempt)),
            Err(error) => {
                let error = DatabaseError::new(attempt, error);
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
            attempt,
            field: T::FIELD,
            delta,
            current,
            min: T::MIN,
            max: T::MAX,
        })))
    } else {
        Explained::Refused(CounterError::Overflow(attempt))
    }
}

/// Adds to many rows, all or none, and returns the new totals in key order.
pub fn add_batch<'c, 'k, DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    db: impl Source<'c, DB>,
    deltas: impl IntoIterator<Item = (T::Key<'k>, i64)>,
) -> impl Future<Output = Result<Totals<T, N>, CounterError>> + Send {
    // The iterator is read here, so that it need not be `Send`.
    let summed = sum::<N, T>(deltas);
    async move {
        let deltas = summed?;
        if deltas.is_empty() {
            return Ok(Vec::new());
        }
        let mut opened = db.open().await.map_err(|error| {
            let attempt = Attempt::new(T::METHODS.1, T::TABLE, KeyText::default());
            CounterError::Database(DatabaseError::new(attempt, error))
        })?;
        let mut connection = opened.link();
        let mut reruns = Reruns::new(in_transaction::<DB>(&connection));
        loop {
            match add_batch_on::<DB, N, T>(&deltas, &mut connection).await {
                Err(CounterError::Serialization(error)) => {
                    if !reruns.after(error.fault()).await {
                        return Err(CounterError::Serialization(error));
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

fn add_batch_on<'c, DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    deltas: &'c [(T::Key<'_>, i64)],
    connection: &'c mut Link<'_, DB>,
) -> impl Future<Output = Result<Totals<T, N>, CounterError>> + Send {
    async move {
        let attempt = || Attempt::new(T::METHODS.1, T::TABLE, KeyText::default());
        let chunks = chunks::<DB, N, T>(deltas);
        let in_transaction = in_transaction::<DB>(connection);
        // A CHECK can refuse what is taken, see `add_one`, and the caller's transaction must survive that.
        let in_doubt = DB::ERROR_ABORTS_TRANSACTION && in_transaction && takes(deltas);
        if let [(sql, rows)] = chunks.as_slice()
            && sql.creates
            && sql.behind_bounds.is_none()
            && !in_doubt
        {
            // Nothing can be refused for one row only, so the statement is all or nothing by itself.
            return match add_chunk::<DB, N, T>(*sql, rows, connection).await {
                Ok(rows) => totals::<DB, N, T>(&rows)
                    .map(sorted::<N, T>)
                    .map_err(|error| CounterError::Written(DatabaseError::new(attempt(), error)))?
                    .ok_or_else(|| CounterError::NotUnique(attempt())),
                Err(error) if !in_transaction && goes_one_by_one(&error) => {
                    one_by_one::<DB, N, T>(deltas, connection).await
                }
                // The transaction is aborted and answers no more questions.
                Err(error) if met_null(&error) && in_transaction => {
                    Err(CounterError::NullValue(attempt()))
                }
                Err(error) if met_null(&error) => {
                    match find_refused::<DB, N, T>(deltas, connection).await {
                        Some(null @ CounterError::NullValue(_)) => Err(null),
                        // A trigger can divide by zero as well.
                        _ => Err(failed(attempt(), error, in_transaction)),
                    }
                }
                Err(error) => Err(failed(attempt(), error, in_transaction)),
            };
        }

        if in_transaction && DB::ERROR_ABORTS_TRANSACTION {
            // A transaction that is aborted already has to fail here: when sqlx's SAVEPOINT fails, it rolls back the
            // caller's whole transaction and forgets that there was one, and the caller's next statements commit.
            Statement::<DB>::literal("SELECT 1")
                .execute(connection)
                .await
                .map_err(|error| failed(attempt(), error, true))?;
        }
        // Until COMMIT is sent, a lost connection means that nothing was written.
        let before_commit = |error| failed(attempt(), error, true);
        let mut atomic = Atomic::<DB>::begin(connection.reborrow())
            .await
            .map_err(before_commit)?;
        // Several statements would each have an order of their own.
        if let Some(lock) = T::LOCK_BATCH
            && chunks.len() > 1
        {
            let rows: Vec<_> = deltas.iter().collect();
            let lock = arrays::<DB, N, T>(lock, &rows, 0);
            if let Err(error) = lock.fetch_all(atomic.link()).await {
                let error = before_commit(error);
                return Err(undo(atomic, error).await);
            }
        }
        let mut all = Vec::with_capacity(deltas.len());
        for (sql, rows) in chunks {
            let written = match add_chunk::<DB, N, T>(sql, &rows, atomic.link()).await {
                Ok(written) => written,
                Err(error) if goes_one_by_one(&error) => {
                    atomic.rollback().await.map_err(before_commit)?;
                    return one_by_one::<DB, N, T>(deltas, connection).await;
                }
                Err(error) if met_null(&error) => {
                    atomic.rollback().await.map_err(before_commit)?;
                    return match find_refused::<DB, N, T>(deltas, connection).await {
                        Some(null @ CounterError::NullValue(_)) => Err(null),
                        _ => Err(before_commit(error)),
                    };
                }
                Err(error) => {
                    let error = before_commit(error);
                    return Err(undo(atomic, error).await);
                }
            };
            if written.len() != rows.len() {
                all.clear();
                break;
            }
            match totals::<DB, N, T>(&written) {
                Ok(totals) => all.extend(totals),
                // A counter that was NULL.
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
                .map_err(|error| failed(attempt(), error, in_transaction))?;
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
fn sum<'k, const N: usize, T: Counter<N>>(
    deltas: impl IntoIterator<Item = (T::Key<'k>, i64)>,
) -> Result<Vec<(T::Key<'k>, i64)>, CounterError> {
    let mut summed: BTreeMap<T::Key<'k>, i128> = BTreeMap::new();
    for (key, delta) in deltas {
        // No iterator is long enough to overflow this.
        *summed.entry(key).or_default() += i128::from(delta);
    }
    summed
        .into_iter()
        .map(|(key, delta)| match i64::try_from(delta) {
            Ok(delta) => Ok((key, delta)),
            Err(_) => Err(CounterError::Overflow(attempt_on::<T>(&key, T::METHODS.1))),
        })
        .collect()
}

/// One statement of a batch: its SQL, and the changes that it covers.
type Chunk<'d, K> = (BatchSql, Vec<&'d (K, i64)>);

/// Parts the changes that can create a row from the others, and cuts them where a statement would have too many parameters.
fn chunks<'d, 'k, DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    deltas: &'d [(T::Key<'k>, i64)],
) -> Vec<Chunk<'d, T::Key<'k>>> {
    let most = if DB::HAS_ARRAYS {
        usize::MAX
    } else {
        // Two parameters are the guard's.
        (DB::MAX_PARAMETERS - 2) / (T::KEYS + 1)
    };
    let (creating, existing): (Vec<_>, Vec<_>) = deltas
        .iter()
        .partition(|(_, delta)| T::BATCH.is_some() && can_start::<N, T>(*delta));
    let creating = T::BATCH.map(|sql| (sql, creating));
    creating
        .into_iter()
        .chain([(T::EXISTING_BATCH, existing)])
        .flat_map(|(sql, rows)| {
            let chunks = rows.chunks(most).map(|rows| (sql, rows.to_vec()));
            chunks.collect::<Vec<_>>()
        })
        .collect()
}

/// A statement with an array per column of the key, and one of the changes; `start` is added to each.
fn arrays<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    sql: &'static str,
    deltas: &[&(T::Key<'_>, i64)],
    start: i64,
) -> Statement<DB> {
    let mut statement = Statement::literal(sql);
    let keys: Vec<_> = deltas.iter().map(|(key, _)| key).collect();
    T::bind_keys(&keys, &mut statement);
    let values = deltas.iter().map(|(_, delta)| start.saturating_add(*delta));
    statement.bind_array(Array::Integers(values.collect()));
    statement
}

/// Runs one statement of a batch and returns the rows that it changed.
async fn add_chunk<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    sql: BatchSql,
    deltas: &[&(T::Key<'_>, i64)],
    connection: &mut Link<'_, DB>,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    // The row that an upsert proposes starts where a new row would; one that exists only takes the change.
    let start = if sql.creates { T::START } else { 0 };
    let (min, max) = bounds::<N, T>();
    if DB::HAS_ARRAYS {
        let mut statement = arrays::<DB, N, T>(sql.head, deltas, start);
        if sql.behind_bounds.is_some() {
            statement.bind_i64(min);
            statement.bind_i64(max);
        }
        return statement.fetch_all(connection).await;
    }
    let mut statement = Statement::one_off(sql.head);
    for (index, (key, delta)) in deltas.iter().enumerate() {
        statement.push(if index == 0 { "(" } else { ", (" });
        T::bind_key(key, &mut Listed(&mut statement));
        statement.push(", ");
        statement.push_next_parameter();
        statement.bind_i64(start.saturating_add(*delta));
        statement.push(sql.row_tail);
    }
    statement.push(sql.tail);
    if let Some(end) = sql.behind_bounds {
        statement.push_next_parameter();
        statement.bind_i64(min);
        statement.push(" AND ");
        statement.push_next_parameter();
        statement.bind_i64(max);
        statement.push(end);
    }
    statement.fetch_all(connection).await
}

/// The keys and totals of the rows that a statement returned.
fn totals<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    rows: &[DB::Row],
) -> Result<Totals<T, N>, sqlx::Error> {
    let total = |row| Ok((T::read_key(row)?, total::<DB, N, T>(row, T::KEYS)?));
    rows.iter().map(total).collect()
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
        let attempt = attempt_on::<T>(key, T::METHODS.1);
        match explain::<DB, N, T>(key, *delta, attempt, connection).await {
            Explained::Fits => {}
            Explained::Refused(error) => return Some(error),
        }
    }
    None
}

/// Whether something is taken.
fn takes<K>(deltas: &[(K, i64)]) -> bool {
    deltas.iter().any(|(_, delta)| *delta < 0)
}

/// Whether what one statement could not do for all rows may be possible for each.
fn goes_one_by_one(error: &sqlx::Error) -> bool {
    Fault::of(error) == Fault::CheckViolation || crate::db::fault::met_twice(error)
}

/// A batch in as many statements as it has rows, which are found by what the database considers equal.
async fn one_by_one<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    deltas: &[(T::Key<'_>, i64)],
    connection: &mut Link<'_, DB>,
) -> Result<Totals<T, N>, CounterError> {
    let attempt = || Attempt::new(T::METHODS.1, T::TABLE, KeyText::default());
    let in_transaction = in_transaction::<DB>(connection);
    // Until COMMIT is sent, a lost connection means that nothing was written.
    let before_commit = |error| failed(attempt(), error, true);
    let mut atomic = Atomic::<DB>::begin(connection.reborrow())
        .await
        .map_err(before_commit)?;
    // In the order in which every batch locks its rows.
    if let Some(lock) = T::LOCK_BATCH {
        let rows: Vec<_> = deltas.iter().collect();
        let lock = arrays::<DB, N, T>(lock, &rows, 0);
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
        .map_err(|error| failed(attempt(), error, in_transaction))?;
    Ok(totals.into_iter().collect())
}

/// Adds to one row of a batch and reads its key as it is stored.
async fn add_and_read<DB: Backend, const N: usize, T: CounterSql<DB, N>>(
    key: &T::Key<'_>,
    delta: i64,
    connection: &mut Link<'_, DB>,
) -> Result<(T::OwnedKey, T::Number), CounterError> {
    let failed = |error| {
        CounterError::Database(DatabaseError::new(
            attempt_on::<T>(key, T::METHODS.1),
            error,
        ))
    };
    add_one::<DB, N, T>(key, delta, T::METHODS.1, true, connection).await?;
    let mut statement = Statement::literal(T::READ);
    T::bind_key(key, &mut Compared(&mut statement));
    match statement.fetch_one(connection).await.map_err(failed)? {
        Fetched::One(row) => {
            let total = total::<DB, N, T>(&row, T::KEYS).map_err(failed)?;
            Ok((T::read_key(&row).map_err(failed)?, total))
        }
        _ => Err(CounterError::NotUnique(attempt_on::<T>(key, T::METHODS.1))),
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
