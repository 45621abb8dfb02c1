//! The databases, behind one sealed trait, and what all rooms say to them: statements, and what comes of one.

pub(crate) mod as_read;
pub(crate) mod atomic;
pub(crate) mod begin;
pub(crate) mod column;
pub(crate) mod condition;
pub(crate) mod copied;
pub(crate) mod error;
pub(crate) mod fault;
pub(crate) mod fence;
#[cfg(feature = "sqlite")]
mod json_rows;
#[cfg(feature = "postgres")]
pub(crate) mod key_array;
pub(crate) mod lanes;
pub(crate) mod lock_timeout;
pub(crate) mod model;
pub(crate) mod notes;
#[cfg(feature = "postgres")]
mod postgres;
pub(crate) mod shell;
pub(crate) mod source;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod statement;
pub(crate) mod stored;
pub(crate) mod xmin;

use std::future::Future;
use std::time::Duration;

#[cfg(any(feature = "executor", feature = "schema"))]
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
#[cfg(any(feature = "executor", feature = "schema"))]
use sqlx::SqlStr;
use sqlx::database::HasStatementCache;
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Either, Execute, IntoArguments};
#[cfg(feature = "executor")]
use sqlx_core::describe::Describe;

use crate::db::as_read::Piece;
use crate::db::begin::Begin;
use crate::db::column::Column;
use crate::db::lanes::Cells;
use crate::db::stored::Encoded;

/// What running a query yields: rows, and the number of affected rows at its end.
pub(crate) type Results<'e, DB> = BoxStream<
    'e,
    Result<Either<<DB as Database>::QueryResult, <DB as Database>::Row>, sqlx::Error>,
>;

/// A database that rowlock generates code for: `sqlx::Postgres` and `sqlx::Sqlite`, each with the cargo feature of
/// its name.
///
/// Sealed. It exists so that generated methods can be generic over the database; its members hide the bounds that
/// sqlx's own traits do not imply.
#[diagnostic::on_unimplemented(
    message = "rowlock works on PostgreSQL and SQLite, and not on `{Self}`",
    note = "use `sqlx::PgPool` or `sqlx::SqlitePool`; `sqlx::AnyPool` and `sqlx::MySqlPool` are not supported",
    note = "`Postgres` needs the cargo feature `postgres` of rowlock, `Sqlite` the feature `sqlite`"
)]
pub trait Backend:
    sealed::Sealed + Database<Arguments: IntoArguments<Self> + Clone> + HasStatementCache
{
    /// As OpenTelemetry names it: `db.system.name`.
    #[doc(hidden)]
    const SYSTEM: &'static str;
    /// How many parameters one statement can have.
    #[doc(hidden)]
    const MAX_PARAMETERS: usize;
    /// Starts a transaction that is going to write.
    #[doc(hidden)]
    const BEGIN: &'static str;
    /// Between two values: whether they are equal, or both are NULL.
    #[doc(hidden)]
    const SAME: &'static str;
    /// The opposite.
    #[doc(hidden)]
    const NOT_SAME: &'static str;
    /// At the end of a SELECT: locks its rows, where BEGIN has not done that already.
    #[doc(hidden)]
    const FOR_UPDATE: &'static str;
    /// Around a value of this type on both sides of a comparison, if it has several texts for one value.
    #[doc(hidden)]
    fn compared_as(_: &Self::TypeInfo) -> Option<[&'static str; 2]> {
        None
    }
    /// Whether a column has the value of this type that was read from it: as it is stored, and not as its type or its collation compares.
    #[doc(hidden)]
    fn as_read(_: &Self::TypeInfo) -> &'static [Piece];
    /// Creates the table of fences, unless it is there.
    #[doc(hidden)]
    const FENCE_TABLE: &'static str;
    /// The next fence of the lock `$1`: never lower than the clock, so that it stays the highest when the row has been deleted.
    #[doc(hidden)]
    const MINT_FENCE: &'static str;
    /// Deletes the fences that are older than `$1` seconds.
    #[doc(hidden)]
    const PURGE_FENCES: &'static str;
    /// Creates the table of schedules, unless it is there.
    #[doc(hidden)]
    #[cfg(feature = "periodic")]
    const SCHEDULE_TABLE: &'static str;
    /// Of the schedule `$1`: the time now in microseconds since 1970, its text and its next tick, likewise, which are NULL if it is not there; and
    /// 1 if the column of the tick has the right type.
    #[doc(hidden)]
    #[cfg(feature = "periodic")]
    const READ_SCHEDULE: &'static str;
    /// Gives the name `$1` the schedule `$2` with the next tick `$3`, in seconds, unless it has this schedule.
    #[doc(hidden)]
    #[cfg(feature = "periodic")]
    const SET_SCHEDULE: &'static str;
    /// Moves the schedule `$1` from the tick `$3`, in microseconds, to `$4`, in seconds: if it is still `$2` and still at that tick, which is due, and
    /// if nobody is about to move it.
    #[doc(hidden)]
    #[cfg(feature = "periodic")]
    const ADVANCE_SCHEDULE: &'static str;
    /// A row if that would have moved it: `$1` to `$3` as there.
    #[doc(hidden)]
    #[cfg(feature = "periodic")]
    const DUE_SCHEDULE: &'static str;
    /// Whether a failed statement makes the rest of its transaction fail.
    #[doc(hidden)]
    const ERROR_ABORTS_TRANSACTION: bool;
    /// Whether a statement that was prepared before its table changed can fail until it is prepared anew.
    #[doc(hidden)]
    const STATEMENTS_GO_STALE: bool;
    /// Yields a row in a transaction that reads other rows as they were before it locked any, if there are such.
    #[doc(hidden)]
    const READS_SNAPSHOT: Option<&'static str>;
    /// Whether an upsert can say of each row whether it created it.
    #[doc(hidden)]
    const UPSERT_TELLS: bool;
    /// Else BEGIN itself keeps all other writers out.
    #[doc(hidden)]
    const HAS_ADVISORY_LOCKS: bool;
    /// The database is a library: each statement comes to its end, and while one connection writes, no other can.
    #[doc(hidden)]
    const EMBEDDED: bool;
    /// What stands before and after a write of many rows, if a failure could leave some of them written without.
    #[doc(hidden)]
    const AROUND_WRITES: Option<[&'static str; 2]>;

    #[doc(hidden)]
    fn run<'e, 'q: 'e>(
        connection: &'e mut Self::Connection,
        query: impl Execute<'q, Self> + 'q,
    ) -> Results<'e, Self>;

    /// Yields the first row.
    #[doc(hidden)]
    #[cfg(feature = "executor")]
    fn run_for_one<'e, 'q: 'e>(
        connection: &'e mut Self::Connection,
        query: impl Execute<'q, Self> + 'q,
    ) -> BoxFuture<'e, Result<Option<Self::Row>, sqlx::Error>>;

    #[doc(hidden)]
    #[cfg(any(feature = "executor", feature = "schema"))]
    fn prepare<'e>(
        connection: &'e mut Self::Connection,
        sql: SqlStr,
        parameters: &'e [Self::TypeInfo],
    ) -> BoxFuture<'e, Result<Self::Statement, sqlx::Error>>;

    #[doc(hidden)]
    #[cfg(feature = "executor")]
    fn describe<'e>(
        connection: &'e mut Self::Connection,
        sql: SqlStr,
    ) -> BoxFuture<'e, Result<Describe<Self>, sqlx::Error>>;

    /// Runs statements without parameters, unprepared, in one round trip.
    #[doc(hidden)]
    fn run_plain(
        connection: &mut Self::Connection,
        sql: &'static str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// What begins a transaction of `rowlock::transaction`.
    #[doc(hidden)]
    fn begin_sql(begin: &Begin) -> String;

    /// What asks the transaction that is open for what a transaction inside it is to have, and sets its limits where these are stricter; `None` if
    /// there is nothing to ask for. Its first row is for [`entered`](Self::entered).
    #[doc(hidden)]
    fn enter_sql(begin: &Begin) -> Option<String>;

    #[doc(hidden)]
    fn entered(row: &Self::Row, begin: &Begin) -> Result<Inside, sqlx::Error>;

    /// A statement that does nothing.
    #[doc(hidden)]
    const NOTHING: &'static str;

    /// Runs unprepared statements in one round trip. Whether the last row begins with true.
    #[doc(hidden)]
    fn is_true(
        connection: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// The transaction's id, if it has one that can be asked about later. None has it that wrote nothing.
    #[doc(hidden)]
    fn id(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Commits the transaction, or fails if that for which it `looks` is so. `height`: of how many savepoints of ours.
    #[doc(hidden)]
    fn commit(
        connection: &mut Self::Connection,
        looks: LooksAtCommit,
        height: usize,
    ) -> impl Future<Output = Commit> + Send;

    /// Gives the transaction a mark that it does not share with one that is begun in its place. Nothing is awaited: the next
    /// statement stands after it.
    #[doc(hidden)]
    fn mark(connection: &mut Self::Connection);

    /// Whether the transaction is still the same, after an error and after what was not seen. SQLite looks at the mark only at
    /// COMMIT. If none is open there, it opens one for all that follows, to be rolled back.
    #[doc(hidden)]
    fn is_ours(
        connection: &mut Self::Connection,
        marked: bool,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Asks the database whether a transaction is open that sqlx does not count. Dropping the future opens none.
    #[doc(hidden)]
    fn is_in_transaction(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Rolls back, all levels that sqlx counts.
    #[doc(hidden)]
    fn unwind(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The same where nothing can be awaited, but for the last level, which is for sqlx's own transaction.
    #[doc(hidden)]
    fn unwind_soon(connection: &mut Self::Connection, may_be_gone: bool);

    /// Whether the transaction with this id was committed; `None` if the server cannot tell.
    #[doc(hidden)]
    fn was_committed(
        connection: &mut Self::Connection,
        id: String,
    ) -> impl Future<Output = Option<bool>> + Send;

    /// Limits how long the next locks are waited for; see `db/lock_timeout.rs`. Yields the limit that was in force, if it was changed.
    #[doc(hidden)]
    fn set_lock_timeout(
        connection: &mut Self::Connection,
        timeout: Option<Duration>,
        clause: &'static str,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Puts the limit back. `taken`: whether the lock was.
    #[doc(hidden)]
    fn restore_lock_timeout(
        connection: &mut Self::Connection,
        limit: Option<String>,
        taken: bool,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The same where nothing can be awaited, because the lock was dropped.
    #[doc(hidden)]
    fn restore_lock_timeout_soon(connection: &mut Self::Connection, limit: String);

    #[doc(hidden)]
    fn rows_affected(result: &Self::QueryResult) -> u64;

    #[doc(hidden)]
    fn bind_i64(arguments: &mut Self::Arguments, value: i64) -> Result<(), BoxDynError>;

    #[doc(hidden)]
    fn bind_null(arguments: &mut Self::Arguments) -> Result<(), BoxDynError>;

    #[doc(hidden)]
    fn bind_f64(arguments: &mut Self::Arguments, value: f64) -> Result<(), BoxDynError>;

    #[doc(hidden)]
    fn bind_text(arguments: &mut Self::Arguments, value: &str) -> Result<(), BoxDynError>;

    /// Binds a value that a column is compared with, as the column's type compares it.
    #[doc(hidden)]
    fn bind_compared<T: Column<Self>>(
        arguments: &mut Self::Arguments,
        value: &T,
    ) -> Result<(), BoxDynError>;

    /// What of a value gets to the database, for comparison.
    #[doc(hidden)]
    fn encoded<T: Column<Self>>(value: &T) -> Encoded;

    /// Binds so many rows, whose keys are bound, and nothing else, with what is in these columns beside them: an array per
    /// column, or one JSON text.
    #[doc(hidden)]
    fn bind_rows(
        arguments: &mut Self::Arguments,
        count: usize,
        columns: &[Array],
    ) -> Result<(), BoxDynError>;

    /// The values of a call that waits for others, see [`Lanes`](crate::Lanes).
    #[doc(hidden)]
    type Cells: Cells<Self>;

    /// Whether the value is stored as NULL.
    #[doc(hidden)]
    fn is_null<T: Column<Self>>(value: &T) -> bool;

    #[doc(hidden)]
    fn get_f64(row: &Self::Row, index: usize) -> Result<f64, sqlx::Error>;

    #[doc(hidden)]
    fn get_text(row: &Self::Row, index: usize) -> Result<String, sqlx::Error>;

    /// Reads an integer column of any width; `None` is NULL.
    #[doc(hidden)]
    fn get_i64(row: &Self::Row, index: usize) -> Result<Option<i64>, sqlx::Error>;

    /// The same of what a statement over many rows returned: an array of them where the database has arrays.
    #[doc(hidden)]
    fn get_i64s(
        row: &Self::Row,
        index: usize,
        numbers: &mut Vec<Option<i64>>,
    ) -> Result<(), sqlx::Error> {
        numbers.push(Self::get_i64(row, index)?);
        Ok(())
    }

    /// Called before a connection goes back to its pool, on which a statement was given up. The pool would wait for the answer,
    /// and have a connection less for as long.
    #[doc(hidden)]
    fn abandon_statement(connection: &mut PoolConnection<Self>);

    /// A value as the database has it, whether or not a field can hold it.
    #[doc(hidden)]
    type Raw: Clone + PartialEq + Send + Sync + 'static;

    #[doc(hidden)]
    fn get_raw(row: &Self::Row, index: usize) -> Result<Self::Raw, sqlx::Error>;

    #[doc(hidden)]
    fn bind_raw(arguments: &mut Self::Arguments, value: &Self::Raw) -> Result<(), BoxDynError>;

    #[doc(hidden)]
    fn holds_null(row: &Self::Row, index: usize) -> Result<bool, sqlx::Error>;

    /// The value, if it is an integer.
    #[doc(hidden)]
    fn raw_integer(value: &Self::Raw) -> Option<i64>;

    /// The bytes of a value that is no number.
    #[doc(hidden)]
    fn raw_bytes(value: &Self::Raw) -> &[u8];

    /// A condition under which a statement waits for no lock longer than a moment: then it fails.
    #[doc(hidden)]
    const WAITING_BRIEFLY: &'static str;

    /// Called when a future was dropped while its `BEGIN` was under way: whatever became of it, the connection must
    /// not end up inside a transaction that nobody owns.
    #[doc(hidden)]
    fn abandon_begin(connection: &mut Self::Connection);

    /// Sets sqlx's savepoint in an open transaction. Dropping the future leaves the transaction open and intact, at
    /// most with a savepoint too many, which ends with it.
    #[doc(hidden)]
    fn savepoint(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Asked right after a statement about one row failed with `error`: whether the row was written all the same.
    #[doc(hidden)]
    fn has_written(
        connection: &mut Self::Connection,
        error: &sqlx::Error,
    ) -> impl Future<Output = bool> + Send;

    /// Sets a savepoint of a `Tx` as number `floor`, and yields how many are set then. `height` are set now; those from `floor` on have
    /// ended, and are released with it. `marks`: the transaction is marked before. Dropping the future leaves at most one more of each,
    /// which changes nothing, and can have come no further than the release.
    ///
    /// They are sqlx's own on PostgreSQL, because only these can be undone where nothing can be awaited. SQLite has names of ours: there
    /// sqlx counts in another thread, and what it has counted by the time that a future is dropped cannot be known.
    #[doc(hidden)]
    fn set_savepoint(
        connection: &mut Self::Connection,
        floor: usize,
        height: usize,
        marks: bool,
    ) -> impl Future<Output = Result<usize, sqlx::Error>> + Send;

    /// Undoes what was written since that savepoint was set, and yields how many are set then.
    #[doc(hidden)]
    fn undo_savepoint(
        connection: &mut Self::Connection,
        number: usize,
    ) -> impl Future<Output = Result<usize, sqlx::Error>> + Send;

    /// The same where nothing can be awaited.
    #[doc(hidden)]
    fn undo_savepoint_soon(connection: &mut Self::Connection, number: usize) -> usize;

    /// What sqlx counts when so many savepoints of ours are set.
    #[doc(hidden)]
    fn depth_at(height: usize) -> usize;

    /// Reads the schema anew after a statement failed that can have been prepared for an older one. `false` if it never is.
    #[doc(hidden)]
    fn read_schema(connection: &mut Self::Connection) -> impl Future<Output = bool> + Send;

    /// Whether `error`, which an upsert met, means that the database has no unique index on exactly these columns.
    #[doc(hidden)]
    fn lacks_unique_index(
        connection: &mut Self::Connection,
        error: &sqlx::Error,
        key: IndexedColumns,
    ) -> impl Future<Output = bool> + Send;
}

/// How a transaction began inside another one.
#[doc(hidden)]
#[derive(Default)]
pub struct Inside {
    /// What it was to be, and what the outer one is instead.
    pub(crate) lacks: Option<(&'static str, &'static str)>,
    /// What sets the limits back.
    pub(crate) restore: Option<String>,
}

/// What may have become of a transaction before its COMMIT.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LooksAtCommit {
    /// Nothing: each statement was seen to succeed.
    No,
    /// The server gave it up or ended it.
    IfOpen,
    /// The same, or it was ended and another one begun, which has no mark.
    IfMarked,
}

/// What became of a COMMIT.
#[doc(hidden)]
pub enum Commit {
    Done,
    /// Nothing was committed.
    Refused(sqlx::Error),
    /// It was committed, or it was not.
    Unanswered(sqlx::Error),
}

/// A column of a batch.
#[doc(hidden)]
pub enum Array {
    Integers(Vec<i64>),
    Floats(Vec<Option<f64>>),
    Texts(Vec<Option<String>>),
}

/// A value of PostgreSQL in its binary format.
#[doc(hidden)]
#[cfg(feature = "postgres")]
#[derive(Clone, PartialEq)]
pub struct PgRaw {
    ty: sqlx::postgres::PgTypeInfo,
    bytes: Vec<u8>,
}

/// A value of SQLite.
#[doc(hidden)]
#[cfg(feature = "sqlite")]
#[derive(Clone, PartialEq)]
pub enum SqliteRaw {
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// The columns that should have a unique index.
#[doc(hidden)]
#[derive(Clone, Copy)]
#[cfg_attr(
    not(feature = "sqlite"),
    expect(
        dead_code,
        reason = "PostgreSQL says by an error code what SQLite is asked about"
    )
)]
pub struct IndexedColumns {
    pub(crate) schema: Option<&'static str>,
    pub(crate) table: &'static str,
    /// In alphabetical order, joined by commas.
    pub(crate) columns: &'static str,
}

impl IndexedColumns {
    /// `table`: as written by the user.
    pub(crate) fn of(table: &'static str, columns: &'static str) -> Self {
        let (schema, table) = match table.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, table),
        };
        Self {
            schema,
            table,
            columns,
        }
    }
}

mod sealed {
    pub trait Sealed {}
    #[cfg(feature = "postgres")]
    impl Sealed for sqlx::Postgres {}
    #[cfg(feature = "sqlite")]
    impl Sealed for sqlx::Sqlite {}
}
