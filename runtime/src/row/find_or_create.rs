//! Find a row by a unique key or create it, without duplicates and without a window in between.

use std::future::Future;
use std::ops::Deref;

use sqlx::Row as _;

use crate::db::atomic::in_transaction;
use crate::db::column::Read;
use crate::db::error::{DatabaseError, Operation, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::model::{Model, acquire};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Fetched, Statement, write_one};
use crate::db::{Backend, IndexedColumns};

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
    /// Binds what the caller gave as `$1…`.
    fn bind_new(new: &Self::New, to: &mut impl Bind<DB>);
}

/// One of a model's unique keys, by its position.
pub trait UniqueKey<const N: usize>: FindOrCreate + Model<Derive<N>> {
    /// What the key's index is on, in alphabetical order, joined by commas.
    const COLUMNS: &'static str;
    /// The names of the methods that find, find or create, upsert, create, and update or create.
    const METHODS: [&'static str; 5];

    /// The key of a new row.
    fn key_of(new: &Self::New) -> Self::Key<'_>;
}

/// The statements of one unique key for one database.
pub trait UniqueKeySql<DB: Backend, const N: usize>: UniqueKey<N> + FindOrCreateSql<DB> {
    /// Reads all columns.
    const FIND: &'static str;
    /// Creates the row unless the key is taken.
    const INSERT: &'static str;
    /// `None` if the key is all there is.
    const UPSERT: Option<&'static str>;
    /// The same, saying in its last column whether it created the row; where a database cannot say, it only overwrites.
    const UPDATE_OR_CREATE: Option<&'static str>;

    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
}

/// Whether a row was there or is new. It dereferences to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FoundOrCreated<T> {
    /// The row was there. Nothing was written, and the given values other than the key were ignored.
    Found(T),
    /// This call created the row.
    Created(T),
}

impl<T> FoundOrCreated<T> {
    /// The row, either way.
    pub fn into_inner(self) -> T {
        match self {
            Self::Found(row) | Self::Created(row) => row,
        }
    }

    /// Whether this call created the row.
    pub fn is_created(&self) -> bool {
        matches!(self, Self::Created(_))
    }
}

impl<T> Deref for FoundOrCreated<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Self::Found(row) | Self::Created(row) => row,
        }
    }
}

/// Whether an upsert overwrote a row or made a new one. It dereferences to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpdatedOrCreated<T> {
    /// The row was there, and has the given values now.
    Updated(T),
    /// This call created the row.
    Created(T),
}

impl<T> UpdatedOrCreated<T> {
    /// The row, either way.
    pub fn into_inner(self) -> T {
        match self {
            Self::Updated(row) | Self::Created(row) => row,
        }
    }

    /// Whether this call created the row.
    pub fn is_created(&self) -> bool {
        matches!(self, Self::Created(_))
    }
}

impl<T> Deref for UpdatedOrCreated<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Self::Updated(row) | Self::Created(row) => row,
        }
    }
}

/// Why a row could not be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// Several rows have this key: the database has no unique index on it.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The database, the connection or the pool failed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a row was neither found nor created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindOrCreateError {
    /// The database says that the key is taken, and yet no row with this key can be seen, time after time. The holder is
    /// hidden by a row security policy, or a trigger or the column's type changes the key on its way in, so that the
    /// stored key is not the one that was asked for. Nothing was written.
    #[error(
        "{0}: the key is taken by a row that a lookup of this key does not find, or the insert was dropped (by row security, a trigger, or ON CONFLICT IGNORE)"
    )]
    KeyTaken(Operation),
    /// Several rows have this key: the database has no unique index on it. Nothing was written.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The database has no unique index on exactly the columns of the key. Nothing was written.
    #[error("{0}: the database has no unique index on ({1})")]
    MissingUniqueIndex(Operation, &'static str),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The row was created, and what the database returned does not fit the model; or on SQLite, a trigger failed after that in a way
    /// that keeps the row: RAISE(FAIL), or ON CONFLICT FAIL. Inside a transaction it is there once that is committed.
    #[error("{0}; the row was created")]
    Written(#[source] DatabaseError),
    /// The connection was lost before the answer came. The row was created or it was not: call again to find out.
    #[error("{0}; it is unknown whether the row was created")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed: also a violation of any constraint other than the key's.
    /// Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a row was neither created nor overwritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpsertError {
    /// See [`FindOrCreateError::KeyTaken`].
    #[error(
        "{0}: the key is taken by a row that a lookup of this key does not find, or the insert was dropped (by row security, a trigger, or ON CONFLICT IGNORE)"
    )]
    KeyTaken(Operation),
    /// Several rows have this key: the database has no unique index on it. Nothing was written.
    #[error("{0}: several rows have this key; it needs a unique index")]
    NotUnique(Operation),
    /// The database has no unique index on exactly the columns of the key. Nothing was written.
    #[error("{0}: the database has no unique index on ({1})")]
    MissingUniqueIndex(Operation, &'static str),
    /// The row exists, and has been written with a higher fence: the lock was lost to another holder. Nothing was written.
    #[error("{0}: the row was written with the fence {1}, by a later holder of the lock")]
    Fenced(Operation, Fence),
    /// The row exists, and its version is NULL or the highest that its type can hold. Nothing was written.
    #[error("{0}: the row's version is NULL or cannot go any higher")]
    VersionOverflow(Operation),
    /// A trigger or a constraint with ON CONFLICT IGNORE (SQLite) dropped the write. A row that a policy protects is
    /// [`Fault::PermissionDenied`].
    #[error("{0}: a trigger or ON CONFLICT IGNORE dropped the write")]
    Ignored(Operation),
    /// The row was created or overwritten, and what the database returned does not fit the model; or on SQLite, a trigger failed after
    /// that in a way that keeps it: RAISE(FAIL), or ON CONFLICT FAIL. Inside a transaction it counts once that is committed.
    #[error("{0}; the row was written")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The write happened or it did not.
    #[error("{0}; it is unknown whether the write took effect")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed: also a violation of any constraint other than the key's.
    /// Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

/// Why a row was not created, although its key may be free.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The database has no unique index on exactly the columns of the key. Nothing was written.
    #[error("{0}: the database has no unique index on ({1})")]
    MissingUniqueIndex(Operation, &'static str),
    /// The row was created, and what the database returned does not fit the model; or on SQLite, a trigger failed after that in a way
    /// that keeps the row: RAISE(FAIL), or ON CONFLICT FAIL. Inside a transaction it is there once that is committed.
    #[error("{0}; the row was created")]
    Written(#[source] DatabaseError),
    /// The surrounding transaction lost against a concurrent one: run it again from its start.
    #[error(transparent)]
    Serialization(DatabaseError),
    /// The connection was lost before the answer came. The row was created or it was not.
    #[error("{0}; it is unknown whether the row was created")]
    Unknown(#[source] DatabaseError),
    /// The database, the connection or the pool failed: also a violation of any constraint other than the key's.
    /// Nothing was written.
    #[error(transparent)]
    Database(DatabaseError),
}

from_write_failure!(CreateError, FindOrCreateError, UpsertError);

impl From<FindOrCreateError> for UpsertError {
    fn from(error: FindOrCreateError) -> Self {
        match error {
            FindOrCreateError::KeyTaken(operation) => Self::KeyTaken(operation),
            FindOrCreateError::NotUnique(operation) => Self::NotUnique(operation),
            FindOrCreateError::MissingUniqueIndex(operation, columns) => {
                Self::MissingUniqueIndex(operation, columns)
            }
            FindOrCreateError::Serialization(error) => Self::Serialization(error),
            FindOrCreateError::Written(error) => Self::Written(error),
            FindOrCreateError::Unknown(error) => Self::Unknown(error),
            FindOrCreateError::Database(error) => Self::Database(error),
        }
    }
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
    async move {
        let operation = || T::operation(T::METHODS[0], &key);
        let mut opened = acquire(db, &operation).await.map_err(FindError::Database)?;
        let select = select::<DB, N, T>(&key);
        let fetched = select.fetch_one(&mut opened.link()).await;
        match fetched.and_then(selected::<DB, T>) {
            Ok(Fetched::One(row)) => Ok(Some(row)),
            Ok(Fetched::None) => Ok(None),
            Ok(Fetched::Several) => Err(FindError::NotUnique(operation())),
            Err(error) => Err(FindError::Database(DatabaseError::new(operation(), error))),
        }
    }
}

/// Reads the row with the key of `new`, or creates it.
pub fn find_or_create<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<FoundOrCreated<T>, FindOrCreateError>> + Send {
    async move {
        let operation = || T::operation(T::METHODS[1], &T::key_of(&new));
        let mut opened = acquire(db, &operation)
            .await
            .map_err(FindOrCreateError::Database)?;
        find_or_create_on::<DB, N, T>(&new, T::METHODS[1], &mut opened.link()).await
    }
}

async fn find_or_create_on<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    method: &'static str,
    connection: &mut Link<'_, DB>,
) -> Result<FoundOrCreated<T>, FindOrCreateError> {
    let key = T::key_of(new);
    let operation = || T::operation(method, &key);
    let mut refused = None;
    for _ in 0..ROUNDS {
        // The lookup comes first: an insert that meets an existing row burns a sequence value on PostgreSQL.
        let fetched = select::<DB, N, T>(&key).fetch_one(connection).await;
        match fetched.and_then(selected::<DB, T>) {
            Ok(Fetched::One(row)) => return Ok(FoundOrCreated::Found(row)),
            Ok(Fetched::Several) => return Err(FindOrCreateError::NotUnique(operation())),
            Ok(Fetched::None) => {}
            // A read: whatever happened to it, nothing was written.
            Err(error) => return Err(WriteFailure::new(operation(), error, true).into()),
        }
        if let Some(error) = refused {
            return Err(error);
        }
        let in_transaction = in_transaction::<DB>(connection);
        match insert_new::<DB, T>(T::INSERT, new, connection).await {
            Ok(Fetched::One(row)) => {
                let row = (T::ROW)(&row).map_err(|error| {
                    FindOrCreateError::Written(DatabaseError::new(operation(), error))
                })?;
                return Ok(FoundOrCreated::Created(row));
            }
            // Somebody else was faster, and the next lookup, a new statement, sees the row; or has deleted it again.
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

/// Creates the row, unless its key is taken.
pub fn create<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<Option<T>, CreateError>> + Send {
    async move {
        let operation = || T::operation(T::METHODS[3], &T::key_of(&new));
        let mut opened = acquire(db, &operation)
            .await
            .map_err(CreateError::Database)?;
        let mut connection = opened.link();
        let in_transaction = in_transaction::<DB>(&connection);
        let created = insert_new::<DB, T>(T::INSERT, &new, &mut connection).await;
        let Err(error) = created else {
            return created_row::<DB, T>(created, &operation, in_transaction, &mut connection)
                .await;
        };
        if lacks_unique_index::<DB, N, T>(&error, &new, &mut connection).await {
            return Err(CreateError::MissingUniqueIndex(operation(), T::COLUMNS));
        }
        if met_elsewhere::<DB, N, T>(Some(&error), &new, &mut connection).await {
            return Ok(None);
        }
        created_row::<DB, T>(Err(error), &operation, in_transaction, &mut connection).await
    }
}

/// Creates the row, unless any of its unique keys is taken.
pub fn create_unless_conflict<'c, DB: Backend, T: UniqueKeySql<DB, 0>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<Option<T>, CreateError>> + Send {
    async move {
        // Which of the keys is taken, nobody knows.
        let operation = || T::operation_on_many("create_unless_conflict");
        let mut opened = acquire(db, &operation)
            .await
            .map_err(CreateError::Database)?;
        let mut connection = opened.link();
        let in_transaction = in_transaction::<DB>(&connection);
        let created = insert_new::<DB, T>(T::CREATE, &new, &mut connection).await;
        created_row::<DB, T>(created, &operation, in_transaction, &mut connection).await
    }
}

/// The row that an insert has created, if it has.
async fn created_row<DB: Backend, T: FindOrCreateSql<DB>>(
    created: Result<Fetched<DB::Row>, sqlx::Error>,
    operation: &(dyn Fn() -> Operation + Sync),
    in_transaction: bool,
    connection: &mut Link<'_, DB>,
) -> Result<Option<T>, CreateError> {
    let written = |error| CreateError::Written(DatabaseError::new(operation(), error));
    match created {
        Ok(Fetched::One(row)) => (T::ROW)(&row).map(Some).map_err(written),
        Ok(Fetched::None | Fetched::Several) => Ok(None),
        Err(error) if DB::has_written(connection, &error).await => Err(written(error)),
        Err(error) => Err(WriteFailure::new(operation(), error, in_transaction).into()),
    }
}

async fn insert_new<DB: Backend, T: FindOrCreateSql<DB>>(
    sql: &'static str,
    new: &T::New,
    connection: &mut Link<'_, DB>,
) -> Result<Fetched<DB::Row>, sqlx::Error> {
    let statement = || {
        let mut statement = Statement::literal(sql);
        T::bind_new(new, &mut statement);
        statement
    };
    insert(&statement, connection).await
}

/// Runs a write that can violate a constraint, so that the caller's transaction stays usable if it does.
///
/// The savepoint is not one of sqlx's: those queue a ROLLBACK TO when a future is dropped, and if it is dropped while
/// RELEASE is under way, the queued statement finds no savepoint and takes the whole transaction with it.
async fn insert<DB: Backend>(
    statement: &(dyn Fn() -> Statement<DB> + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<Fetched<DB::Row>, sqlx::Error> {
    if !(DB::ERROR_ABORTS_TRANSACTION && in_transaction::<DB>(connection)) {
        return write_one(statement, connection).await;
    }
    let before = connection.before();
    connection.plain("SAVEPOINT rowlock").await?;
    match statement().fetch_one(connection).await {
        Ok(fetched) => {
            connection.plain("RELEASE SAVEPOINT rowlock").await?;
            Ok(fetched)
        }
        Err(error) => {
            // If this fails too, the first error is the one to know.
            let back = "ROLLBACK TO SAVEPOINT rowlock; RELEASE SAVEPOINT rowlock";
            if DB::run_plain(connection, back).await.is_ok() {
                connection.undo(before);
            }
            Err(error)
        }
    }
}

/// Whether the write failed because the database has no unique index for ON CONFLICT to refer to.
async fn lacks_unique_index<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    error: &sqlx::Error,
    new: &T::New,
    connection: &mut Link<'_, DB>,
) -> bool {
    let key = IndexedColumns::of(T::TABLE, T::COLUMNS);
    if !DB::lacks_unique_index(connection, error, key).await {
        return false;
    }
    // Of an index that is partial or on an expression SQLite tells too little: but it can be asked whether it is the key, of all that
    // is in the statement, that it does not understand.
    !DB::EMBEDDED
        || explains::<DB, T>(T::CREATE, new, connection).await
            && !explains::<DB, T>(T::INSERT, new, connection).await
}

/// Whether the database understands an insert. It is not run.
async fn explains<DB: Backend, T: FindOrCreateSql<DB>>(
    sql: &'static str,
    new: &T::New,
    connection: &mut Link<'_, DB>,
) -> bool {
    let mut statement = Statement::composed("EXPLAIN ");
    statement.push(sql);
    T::bind_new(new, &mut statement);
    statement.fetch_all(connection).await.is_ok()
}

/// Creates the row or overwrites the one that has the key.
pub fn upsert<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<T, UpsertError>> + Send {
    async move {
        let method = T::METHODS[2];
        let operation = || T::operation(method, &T::key_of(&new));
        let mut opened = acquire(db, &operation)
            .await
            .map_err(UpsertError::Database)?;
        let mut connection = opened.link();
        let Some(sql) = T::UPSERT else {
            // Nothing but a key: a row that exists is as it should be.
            let row = find_or_create_on::<DB, N, T>(&new, method, &mut connection).await?;
            return Ok(row.into_inner());
        };
        let row = upsert_on::<DB, N, T>(sql, &new, &operation, &mut connection).await?;
        read_written(&row, &operation)
    }
}

/// Creates the row or overwrites the one that has the key, and tells which.
pub fn update_or_create<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<UpdatedOrCreated<T>, UpsertError>> + Send {
    async move {
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
        let row = upsert_on::<DB, N, T>(sql, &new, &operation, &mut connection).await?;
        let created = DB::get_i64(&row, row.len() - 1);
        let created = created.map_err(|error| written(&operation, error))?;
        let row = read_written(&row, &operation)?;
        Ok(match created {
            Some(1) => UpdatedOrCreated::Created(row),
            _ => UpdatedOrCreated::Updated(row),
        })
    }
}

/// Overwrites the row if it is there, and creates it if not: a statement each, of which one finds what it needs, unless other
/// writers delete and create the row all the time.
async fn in_turn<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    sql: &'static str,
    new: &T::New,
    operation: &(dyn Fn() -> Operation + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<UpdatedOrCreated<T>, UpsertError> {
    for _ in 0..ROUNDS {
        let updated = overwrite::<DB, N, T>(sql, new, connection).await;
        if let Some(row) = one_of::<DB, N, T>(updated, new, operation, connection).await? {
            return read_written(&row, operation).map(UpdatedOrCreated::Updated);
        }
        let created = insert_new::<DB, T>(T::INSERT, new, connection).await;
        if met_elsewhere::<DB, N, T>(created.as_ref().err(), new, connection).await {
            continue;
        }
        if let Some(row) = one_of::<DB, N, T>(created, new, operation, connection).await? {
            return read_written(&row, operation).map(UpdatedOrCreated::Created);
        }
        match refused::<DB, N, T>(new, operation(), connection).await {
            UpsertError::Ignored(_) => {}
            error => return Err(error),
        }
    }
    Err(UpsertError::Ignored(operation()))
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

/// The row that a write returned, if it wrote one.
async fn one_of<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
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

fn read_written<DB: Backend, T: FindOrCreateSql<DB>>(
    row: &DB::Row,
    operation: &(dyn Fn() -> Operation + Sync),
) -> Result<T, UpsertError> {
    (T::ROW)(row).map_err(|error| written(operation, error))
}

/// Runs an upsert, and yields the row that it wrote.
async fn upsert_on<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
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
        T::bind_new(new, &mut statement);
        if let Some((_, max)) = T::VERSION_LIMIT {
            statement.bind_i64(max);
        }
        statement
    };
    insert(&statement, connection).await
}

/// Why the upsert wrote nothing. Its only conditions are about the version and the fence.
async fn refused<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    operation: Operation,
    connection: &mut Link<'_, DB>,
) -> UpsertError {
    match explain::<DB, N, T>(new, connection).await {
        Ok(Refused::Fenced(fence)) => UpsertError::Fenced(operation, fence),
        Ok(Refused::Version) => UpsertError::VersionOverflow(operation),
        Ok(Refused::Ignored) => UpsertError::Ignored(operation),
        // A read: whatever happens to it, nothing was written.
        Err(error) => WriteFailure::new(operation, error, true).into(),
    }
}

enum Refused {
    Fenced(Fence),
    Version,
    Ignored,
}

async fn explain<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    connection: &mut Link<'_, DB>,
) -> Result<Refused, sqlx::Error> {
    // Without conditions there is nothing to look for.
    if T::VERSION_LIMIT.is_none() && !T::FENCED {
        return Ok(Refused::Ignored);
    }
    let Fetched::One(row) = select::<DB, N, T>(&T::key_of(new))
        .fetch_one(connection)
        .await?
    else {
        return Ok(Refused::Ignored);
    };
    if let Some((index, max)) = T::VERSION_LIMIT
        && DB::get_i64(&row, index)?.is_none_or(|version| version >= max)
    {
        return Ok(Refused::Version);
    }
    if T::FENCED
        && let Some((shown, fence)) = T::fences(new, &(T::ROW)(&row)?)
        && shown < fence
    {
        return Ok(Refused::Fenced(fence));
    }
    Ok(Refused::Ignored)
}
