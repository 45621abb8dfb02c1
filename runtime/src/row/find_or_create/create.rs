//! Inserts that yield to the row that holds the key.

use std::future::Future;

use super::{CreateError, FindOrCreateSql, UniqueKeySql, met_elsewhere};
use crate::db::atomic::in_transaction;
use crate::db::error::{DatabaseError, Operation, WriteFailure};
use crate::db::model::acquire;
use crate::db::notes::Before;
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Fetched, Statement, write_all, write_one};
use crate::db::{Backend, IndexedColumns};

/// Creates the row, unless its key is taken.
pub fn create<'c, DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<Option<T>, CreateError>> + Send {
    T::observed::<DB, _>(T::METHODS[3], async move {
        let method = T::METHODS[3];
        let operation = || T::operation(method, &T::key_of(&new));
        let mut opened = acquire(db, &operation)
            .await
            .map_err(CreateError::Database)?;
        create_on::<DB, N, T>(&new, method, &mut opened.link()).await
    })
}

pub(super) async fn create_on<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
    new: &T::New,
    method: &'static str,
    connection: &mut Link<'_, DB>,
) -> Result<Option<T>, CreateError> {
    let operation = || T::operation(method, &T::key_of(new));
    let in_transaction = in_transaction::<DB>(connection);
    let created = insert_new::<DB, T>(T::INSERT, new, connection).await;
    let Err(error) = created else {
        return created_row::<DB, T>(created, &operation, in_transaction, connection).await;
    };
    if lacks_unique_index::<DB, N, T>(&error, new, connection).await {
        return Err(CreateError::MissingUniqueIndex(operation(), T::COLUMNS));
    }
    if met_elsewhere::<DB, N, T>(Some(&error), new, connection).await {
        // The key is taken, but not by this row if it is one that the key's index does not have: then the other index alone keeps it
        // out. Now that the row with the key can be seen, the database says which.
        let again = insert_new::<DB, T>(T::INSERT, new, connection).await;
        return created_row::<DB, T>(again, &operation, in_transaction, connection).await;
    }
    created_row::<DB, T>(Err(error), &operation, in_transaction, connection).await
}

/// Creates the row, unless any of its unique keys is taken.
pub fn create_unless_conflict<'c, DB: Backend, T: UniqueKeySql<DB, 0>>(
    db: impl Source<'c, DB>,
    new: T::New,
) -> impl Future<Output = Result<Option<T>, CreateError>> + Send {
    T::observed::<DB, _>("create_unless_conflict", async move {
        // Which of the keys is taken, nobody knows.
        let operation = || T::operation_on_many("create_unless_conflict");
        let mut opened = acquire(db, &operation)
            .await
            .map_err(CreateError::Database)?;
        let mut connection = opened.link();
        let in_transaction = in_transaction::<DB>(&connection);
        let created = insert_new::<DB, T>(T::CREATE, &new, &mut connection).await;
        created_row::<DB, T>(created, &operation, in_transaction, &mut connection).await
    })
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

pub(super) async fn insert_new<DB: Backend, T: FindOrCreateSql<DB>>(
    sql: &'static str,
    new: &T::New,
    connection: &mut Link<'_, DB>,
) -> Result<Fetched<DB::Row>, sqlx::Error> {
    insert(&|| new_row::<DB, T>(sql, new), connection).await
}

pub(super) fn new_row<DB: Backend, T: FindOrCreateSql<DB>>(
    sql: &'static str,
    new: &T::New,
) -> Statement<DB> {
    let mut statement = Statement::literal(sql);
    T::bind_new(new, &mut statement);
    statement
}

/// Runs a write that can violate a constraint, so that the caller's transaction stays usable if it does.
pub(super) async fn insert<DB: Backend>(
    statement: &(dyn Fn() -> Statement<DB> + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<Fetched<DB::Row>, sqlx::Error> {
    let Some(savepoint) = Savepoint::begin(connection).await? else {
        return write_one(statement, connection).await;
    };
    let outcome = statement().fetch_one(connection).await;
    savepoint.end(outcome, connection).await
}

/// The same of a write that returns many rows.
pub(super) async fn insert_all<DB: Backend>(
    statement: &(dyn Fn() -> Statement<DB> + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    let Some(savepoint) = Savepoint::begin(connection).await? else {
        return write_all(statement, connection).await;
    };
    let outcome = statement().fetch_all(connection).await;
    savepoint.end(outcome, connection).await
}

/// A savepoint around one statement.
///
/// It is not one of sqlx's: those queue a ROLLBACK TO when a future is dropped, and if it is dropped while
/// RELEASE is under way, the queued statement finds no savepoint and takes the whole transaction with it.
struct Savepoint {
    before: Option<Before>,
}

impl Savepoint {
    /// None where a statement that fails leaves the transaction as it was.
    async fn begin<DB: Backend>(
        connection: &mut Link<'_, DB>,
    ) -> Result<Option<Self>, sqlx::Error> {
        if !(DB::ERROR_ABORTS_TRANSACTION && in_transaction::<DB>(connection)) {
            return Ok(None);
        }
        let before = connection.before();
        connection.plain("SAVEPOINT rowlock").await?;
        Ok(Some(Self { before }))
    }

    async fn end<DB: Backend, O>(
        self,
        outcome: Result<O, sqlx::Error>,
        connection: &mut Link<'_, DB>,
    ) -> Result<O, sqlx::Error> {
        match outcome {
            Ok(outcome) => {
                connection.plain("RELEASE SAVEPOINT rowlock").await?;
                Ok(outcome)
            }
            Err(error) => {
                // If this fails too, the first error is the one to know.
                let back = "ROLLBACK TO SAVEPOINT rowlock; RELEASE SAVEPOINT rowlock";
                if DB::run_plain(connection, back).await.is_ok() {
                    connection.undo(self.before);
                }
                Err(error)
            }
        }
    }
}

/// Whether the write failed because the database has no unique index for ON CONFLICT to refer to.
pub(super) async fn lacks_unique_index<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>>(
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
    // SQLite runs an EXPLAIN that is prepared without a look at the schema, and after DDL reads what it has freed.
    statement.unprepared().fetch_all(connection).await.is_ok()
}
