//! Find a row by a unique key or create it, without duplicates and without a window in between.

mod create;
mod error;
mod many;
mod outcome;
mod upsert;
mod upsert_if;

use std::future::Future;

pub use self::create::{create, create_unless_conflict};
use self::create::{insert, lacks_unique_index, new_row};
pub use self::error::{CreateError, FindError, FindOrCreateError, UpsertError};
pub use self::many::{create_many, find_or_create_many, upsert_many};
pub use self::outcome::{FoundOrCreated, UpdatedOrCreated, Upserted};
pub use self::upsert::{update_or_create, upsert};
pub use self::upsert_if::upsert_if;
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::column::Read;
use crate::db::error::{DatabaseError, WriteFailure};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::lanes::{Call, Fold, Turn, take};
use crate::db::model::Model;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Fetched, Statement};

/// How often the row is looked for and created before something other than a race must be the reason.
const ROUNDS: u32 = 5;

/// The derive, for [`Model`]: a model has a key for each of its unique keys, by their positions.
#[derive(Debug)]
pub struct Derive<const N: usize>;

/// What `#[derive(FindOrCreate)]` knows about a model beyond that, the same for every database.
pub trait FindOrCreate: Sized + Send + Sync + 'static {
    /// The generated struct with what the caller gives.
    type New: Send + Sync;
    /// Where the version of a versioned model stands among all columns, and the highest one, which an upsert must not pass.
    const VERSION_LIMIT: Option<(usize, i64)>;
    /// Whether calls that wait become one: see [`Lanes`](crate::Lanes).
    const FOLDS: bool = true;
    /// Whether the model has a fence.
    const FENCED: bool = false;

    /// The fence that is shown, and that of the row, if the model has one.
    fn fences(_new: &Self::New, _stored: &Self) -> Option<(Fence, Fence)> {
        None
    }
}

/// A model's columns for one database.
pub trait FindOrCreateSql<DB: Backend>: FindOrCreate {
    /// Reads all columns.
    const ROW: Read<DB, Self>;
    /// Creates the row unless any unique key is taken.
    const CREATE: &'static str;
    /// What stands before a column of the row that is there, where those of the new values have the same names.
    const THERE: &'static str;
    /// Binds what the caller gave as `$1…`.
    fn bind_new(new: &Self::New, to: &mut impl Bind<DB>);
}

/// One of a model's unique keys, by its position.
pub trait UniqueKey<const N: usize>: FindOrCreate + Model<Derive<N>> {
    /// What the key's index is on, in alphabetical order, joined by commas.
    const COLUMNS: &'static str;
    /// Whether that is a column which the database makes of the key, so that another key can be in the way.
    const GENERATED: bool = false;
    /// The names of the methods that find, find or create, upsert, create, update or create, and upsert under a condition; and that find or
    /// create, upsert, and create many.
    const METHODS: [&'static str; 9];

    /// The key of a new row.
    fn key_of(new: &Self::New) -> Self::Key<'_>;
}

/// The statements of one unique key for one database.
pub trait UniqueKeySql<DB: Backend, const N: usize>: UniqueKey<N> + FindOrCreateSql<DB> {
    /// Reads all columns.
    const FIND: &'static str;
    /// The same of many keys, with the number of each, from 1.
    const FIND_MANY: Option<&'static str> = None;
    /// The same with the key of each instead, where that says whose row it is.
    const FIND_ANY: Option<&'static str> = None;
    /// Creates the row unless the key is taken.
    const INSERT: &'static str;
    /// `None` if the key is all there is.
    const UPSERT: Option<&'static str>;
    /// Creates those of many rows whose keys are free: at once, if that can be, in the order given, with the key of each; and in the order of their keys,
    /// but of equal keys the first one's only, with the number of each.
    const INSERT_MANY: Option<[&'static str; 2]> = None;
    /// The same, overwriting the rows whose keys are taken.
    const UPSERT_MANY: Option<[&'static str; 2]> = None;
    /// Like `UPSERT`, saying in its last column whether it created the row; where [`Backend::UPSERT_TELLS`] is not, it creates only rows that a
    /// partial index does not have.
    const UPDATE_OR_CREATE: Option<&'static str>;
    /// The same under a condition, which stands in between.
    const UPSERT_IF: [&'static str; 2];
    /// Reads all columns, and 1 if a condition is met, else 0.
    const LOOK: [&'static str; 2];

    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
}

fn select<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(key: &T::Key<'_>) -> Statement<DB> {
    let mut statement = Statement::literal(T::FIND);
    T::bind_key(key, &mut Compared(&mut statement));
    statement
}

fn selected<DB: Backend, T: FindOrCreateSql<DB>>(
    fetched: Fetched<DB::Row>,
) -> Result<Fetched<T>, sqlx::Error> {
    Ok(match fetched {
        Fetched::One(row) => Fetched::One((T::ROW)(&row)?),
        Fetched::None => Fetched::None,
        Fetched::Several => Fetched::Several,
    })
}

/// Reads the row with this unique key.
pub fn find<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<Option<T>, FindError>> + Send {
    T::observed::<DB, _>(T::METHODS[0], async move {
        let operation = || T::operation(T::METHODS[0], &key);
        let turn = take(db, fold::<DB, N, T>(), || row_call::<DB, N, T>(&key)).await;
        let turn = turn.map_err(|error| DatabaseError::new(operation(), error));
        let fetched = match turn.map_err(FindError::Database)? {
            Turn::Alone(mut opened) | Turn::PassedOver(mut opened) => {
                let select = select::<DB, N, T>(&key);
                select.fetch_one(&mut opened.link()).await
            }
            Turn::Answered(found) => found.map(Fetched::One),
        };
        match fetched.and_then(selected::<DB, T>) {
            Ok(Fetched::One(row)) => Ok(Some(row)),
            Ok(Fetched::None) => Ok(None),
            Ok(Fetched::Several) => Err(FindError::NotUnique(operation())),
            Err(error) => Err(FindError::Database(DatabaseError::new(operation(), error))),
        }
    })
}

/// Reads the row with the key of `new`, or creates it.
pub fn find_or_create<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<FoundOrCreated<T>, FindOrCreateError>> + Send {
    T::observed::<DB, _>(T::METHODS[1], async move {
        let operation = || T::operation(T::METHODS[1], &T::key_of(&new));
        let turn = take(db, fold::<DB, N, T>(), || {
            row_call::<DB, N, T>(&T::key_of(&new))
        })
        .await;
        let turn = turn.map_err(|error| DatabaseError::new(operation(), error));
        match turn.map_err(FindOrCreateError::Database)? {
            Turn::Alone(mut opened) | Turn::PassedOver(mut opened) => {
                find_or_create_on::<DB, N, T>(&new, T::METHODS[1], &mut opened.link()).await
            }
            Turn::Answered(found) => match found.and_then(|row| (T::ROW)(&row)) {
                Ok(row) => Ok(FoundOrCreated::Found(row)),
                // A read: whatever happened to it, nothing was written.
                Err(error) => Err(WriteFailure::new(operation(), error, true).into()),
            },
        }
    })
}

/// The lookup of those that wait for each other.
fn fold<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>() -> Option<Fold> {
    T::FIND_MANY.filter(|_| T::FOLDS).map(Fold::read)
}

/// What is kept of a call that is one of many.
fn row_call<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    key: &T::Key<'_>,
) -> Option<Call<DB>> {
    Call::of(|to| {
        T::bind_key(key, to);
        to.end_key();
    })
}

async fn find_or_create_on<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    method: &'static str,
    connection: &mut Link<'_, DB>,
) -> Result<FoundOrCreated<T>, FindOrCreateError> {
    let make = || new_row::<DB, T>(T::INSERT, new);
    let insert = Insert {
        method,
        make: &make,
        rounds: ROUNDS,
        // An insert that meets an existing row burns a sequence value on PostgreSQL.
        looks_first: true,
    };
    find_or_insert::<DB, N, T>(new, insert, connection).await
}

/// How a row is inserted that may be there.
pub(crate) struct Insert<'m, DB: Backend> {
    pub(crate) method: &'static str,
    /// It does nothing if the key is taken.
    pub(crate) make: &'m (dyn Fn() -> Statement<DB> + Sync),
    pub(crate) rounds: u32,
    pub(crate) looks_first: bool,
}

pub(crate) async fn find_or_insert<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    plan: Insert<'_, DB>,
    connection: &mut Link<'_, DB>,
) -> Result<FoundOrCreated<T>, FindOrCreateError> {
    let key = T::key_of(new);
    let operation = || T::operation(plan.method, &key);
    let mut refused = None;
    let mut looks = plan.looks_first;
    for _ in 0..plan.rounds {
        if std::mem::replace(&mut looks, true) {
            let fetched = select::<DB, N, T>(&key).fetch_one(connection).await;
            match fetched.and_then(selected::<DB, T>) {
                Ok(Fetched::One(row)) => return Ok(FoundOrCreated::Found(row)),
                Ok(Fetched::Several) => return Err(FindOrCreateError::NotUnique(operation())),
                Ok(Fetched::None) => {}
                // The insert aborted a transaction that was begun by hand, and had no savepoint there.
                Err(_) if refused.is_some() => {}
                // A read: whatever happened to it, nothing was written.
                Err(error) => return Err(WriteFailure::new(operation(), error, true).into()),
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
        let in_transaction = in_transaction::<DB>(connection);
        match insert(plan.make, connection).await {
            Ok(Fetched::One(row)) => {
                let row = (T::ROW)(&row).map_err(|error| {
                    FindOrCreateError::Written(DatabaseError::new(operation(), error))
                })?;
                return Ok(FoundOrCreated::Created(row));
            }
            // A concurrent caller was faster, and the next lookup, a new statement, sees the row; or has deleted it again.
            Ok(Fetched::None | Fetched::Several) => {}
            Err(error) if DB::has_written(connection, &error).await => {
                let error = DatabaseError::new(operation(), error);
                return Err(FindOrCreateError::Written(error));
            }
            Err(error) if lacks_unique_index::<DB, N, T>(&error, new, connection).await => {
                return Err(FindOrCreateError::MissingUniqueIndex(
                    operation(),
                    T::COLUMNS,
                ));
            }
            Err(error) => {
                let violated = Fault::of(&error) == Fault::UniqueViolation;
                let error = WriteFailure::new(operation(), error, in_transaction).into();
                if !violated {
                    return Err(error);
                }
                // The row of a concurrent and equal call can be met in another unique index first, also in one that is
                // being built: then it is the row that was asked for.
                refused = Some(error);
            }
        }
    }
    Err(refused.unwrap_or_else(|| FindOrCreateError::KeyTaken(operation())))
}

/// Whether an insert failed because it met the row with the key in another unique index, or in one that is being built: a concurrent
/// call created it.
async fn met_elsewhere<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    error: Option<&sqlx::Error>,
    new: &T::New,
    connection: &mut Link<'_, DB>,
) -> bool {
    let Some(error) = error else { return false };
    if Fault::of(error) != Fault::UniqueViolation || DB::has_written(connection, error).await {
        return false;
    }
    let select = select::<DB, N, T>(&T::key_of(new));
    matches!(select.fetch_one(connection).await, Ok(Fetched::One(_)))
}
