//! The databases, behind one sealed trait.

use std::future::Future;
use std::time::Duration;

#[cfg(feature = "executor")]
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
#[cfg(feature = "executor")]
use sqlx::SqlStr;
use sqlx::database::HasStatementCache;
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Either, Execute, IntoArguments};
#[cfg(feature = "executor")]
use sqlx_core::describe::Describe;

use crate::column::Column;
use crate::stored::Encoded;
use crate::tx::Begin;

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
    message = "rowlock has no support for the database `{Self}`",
    note = "enable the cargo feature `postgres` or `sqlite` of rowlock"
)]
pub trait Backend:
    sealed::Sealed + Database<Arguments: IntoArguments<Self> + Clone> + HasStatementCache
{
    /// How many parameters one statement can have.
    #[doc(hidden)]
    const MAX_PARAMETERS: usize;
    /// Whether many parameters are faster as `?` than as `$n`.
    #[doc(hidden)]
    const PREFERS_UNNAMED_PARAMETERS: bool;
    /// Starts a transaction that is going to write.
    #[doc(hidden)]
    const BEGIN: &'static str;
    /// Creates the table of fences, unless it is there.
    #[doc(hidden)]
    const FENCE_TABLE: &'static str;
    /// The next fence of the lock `$1`: never lower than the clock, so that it stays the highest when the row has been deleted.
    #[doc(hidden)]
    const MINT_FENCE: &'static str;
    /// Deletes the fences that are older than `$1` seconds.
    #[doc(hidden)]
    const PURGE_FENCES: &'static str;
    /// Whether a failed statement makes the rest of its transaction fail.
    #[doc(hidden)]
    const ERROR_ABORTS_TRANSACTION: bool;
    /// Whether a statement that was prepared before its table changed can fail until it is prepared anew.
    #[doc(hidden)]
    const STATEMENTS_GO_STALE: bool;
    /// Else BEGIN itself keeps all other writers out.
    #[doc(hidden)]
    const HAS_ADVISORY_LOCKS: bool;
    /// The database is a library: each statement comes to its end, and while one connection writes, no other can.
    #[doc(hidden)]
    const EMBEDDED: bool;

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
    #[cfg(feature = "executor")]
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

    /// Before a lock: limits how long it is waited for. Yields the limit that was in force, if it was changed.
    #[doc(hidden)]
    fn be_patient(
        connection: &mut Self::Connection,
        timeout: Option<Duration>,
        clause: &'static str,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Behind a lock: puts the limit back. `taken`: whether the lock was.
    #[doc(hidden)]
    fn be_as_before(
        connection: &mut Self::Connection,
        limit: Option<String>,
        taken: bool,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The same where nothing can be awaited, because the lock was dropped.
    #[doc(hidden)]
    fn be_as_before_soon(connection: &mut Self::Connection, limit: String);

    #[doc(hidden)]
    fn rows_affected(result: &Self::QueryResult) -> u64;

    #[doc(hidden)]
    fn bind_i64(arguments: &mut Self::Arguments, value: i64) -> Result<(), BoxDynError>;

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

    /// Whether a statement can take the values of many rows as one array per column.
    #[doc(hidden)]
    const HAS_ARRAYS: bool;

    #[doc(hidden)]
    fn bind_array(arguments: &mut Self::Arguments, array: Array) -> Result<(), BoxDynError>;

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

    /// The value, if it is an integer.
    #[doc(hidden)]
    fn raw_integer(value: &Self::Raw) -> Option<i64>;

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
    /// ended, and are released with it. Dropping the future leaves at most one more, which changes nothing.
    ///
    /// They are sqlx's own on PostgreSQL, because only these can be undone where nothing can be awaited. SQLite has names of ours: there
    /// sqlx counts in another thread, and what it has counted by the time that a future is dropped cannot be known.
    #[doc(hidden)]
    fn set_savepoint(
        connection: &mut Self::Connection,
        floor: usize,
        height: usize,
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

    /// Whether `error`, which an upsert met, means that the database has no unique index on exactly these columns.
    #[doc(hidden)]
    fn lacks_unique_index(
        connection: &mut Self::Connection,
        error: &sqlx::Error,
        key: IndexedColumns,
    ) -> impl Future<Output = bool> + Send;
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

mod sealed {
    pub trait Sealed {}
    #[cfg(feature = "postgres")]
    impl Sealed for sqlx::Postgres {}
    #[cfg(feature = "sqlite")]
    impl Sealed for sqlx::Sqlite {}
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker, ready};

    use futures_util::TryStreamExt;
    use sqlx::encode::IsNull;
    use sqlx::postgres::types::Oid;
    use sqlx::postgres::{
        PgArgumentBuffer, PgArguments, PgConnection, PgQueryResult, PgRow, PgTypeInfo,
    };
    use sqlx::{Arguments, Encode, Executor, Postgres, Row, SqlSafeStr, Type, TypeInfo, ValueRef};
    use sqlx_core::transaction::TransactionManager;

    use super::*;
    use crate::fault::Fault;
    use crate::tx::Isolation;
    use crate::tx::notes::Torn;

    impl Backend for Postgres {
        const MAX_PARAMETERS: usize = 65_535;
        const PREFERS_UNNAMED_PARAMETERS: bool = false;
        const BEGIN: &'static str = "BEGIN";
        // A schema of its own: which table a bare name means would depend on the search_path of whoever asks, and a number from
        // another table may be lower.
        const FENCE_TABLE: &'static str = "CREATE SCHEMA IF NOT EXISTS rowlock; \
             CREATE TABLE IF NOT EXISTS rowlock.fences (name text NOT NULL PRIMARY KEY, fence bigint NOT NULL)";
        const MINT_FENCE: &'static str = "INSERT INTO \"rowlock\".\"fences\" (\"name\", \"fence\") \
             VALUES ($1, (date_part('epoch', clock_timestamp()) * 1000000)::bigint) \
             ON CONFLICT (\"name\") DO UPDATE SET \"fence\" = greatest(\"fences\".\"fence\" + 1, (date_part('epoch', clock_timestamp()) * 1000000)::bigint) \
             RETURNING \"fence\"";
        const PURGE_FENCES: &'static str = "DELETE FROM \"rowlock\".\"fences\" \
             WHERE \"fence\" < ((date_part('epoch', clock_timestamp()) - $1) * 1000000)::bigint";
        const ERROR_ABORTS_TRANSACTION: bool = true;
        const STATEMENTS_GO_STALE: bool = true;
        const HAS_ADVISORY_LOCKS: bool = true;
        const EMBEDDED: bool = false;
        const HAS_ARRAYS: bool = true;

        fn run<'e, 'q: 'e>(
            connection: &'e mut PgConnection,
            query: impl Execute<'q, Self> + 'q,
        ) -> Results<'e, Self> {
            connection.fetch_many(query)
        }

        #[cfg(feature = "executor")]
        fn run_for_one<'e, 'q: 'e>(
            connection: &'e mut PgConnection,
            query: impl Execute<'q, Self> + 'q,
        ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>> {
            connection.fetch_optional(query)
        }

        #[cfg(feature = "executor")]
        fn prepare<'e>(
            connection: &'e mut PgConnection,
            sql: SqlStr,
            parameters: &'e [PgTypeInfo],
        ) -> BoxFuture<'e, Result<Self::Statement, sqlx::Error>> {
            connection.prepare_with(sql, parameters)
        }

        #[cfg(feature = "executor")]
        fn describe<'e>(
            connection: &'e mut PgConnection,
            sql: SqlStr,
        ) -> BoxFuture<'e, Result<Describe<Self>, sqlx::Error>> {
            connection.describe(sql)
        }

        async fn run_plain(
            connection: &mut PgConnection,
            sql: &'static str,
        ) -> Result<(), sqlx::Error> {
            connection.execute(sqlx::raw_sql(sql)).await.map(drop)
        }

        fn begin_sql(begin: &Begin) -> String {
            let mut sql = "BEGIN".to_owned();
            sql.push_str(match begin.isolation {
                None => "",
                Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
                Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
                Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
            });
            if begin.read_only {
                sql.push_str(" READ ONLY");
            }
            let mut limit = |name: &str, limit: Option<Duration>| {
                if let Some(limit) = limit {
                    // 0 would mean no limit, and more than i32::MAX milliseconds are not possible.
                    let limit = limit.as_millis().clamp(1, i32::MAX as u128);
                    sql.push_str(&format!("; SET LOCAL {name} = {limit}"));
                }
            };
            limit("lock_timeout", begin.lock_timeout);
            match (begin.statement_timeout, begin.left) {
                (Some(asked), left) => {
                    limit(
                        "statement_timeout",
                        Some(left.map_or(asked, |left| asked.min(left))),
                    );
                }
                (None, Some(left)) => {
                    // Not above a stricter one of the role or the session; 0 is none.
                    let left = left.as_millis().clamp(1, i32::MAX as u128);
                    sql.push_str(&format!(
                        "; SELECT set_config('statement_timeout', '{left}', true) \
                         WHERE current_setting('statement_timeout')::interval \
                         NOT BETWEEN interval '1 us' AND {left} * interval '1 ms'"
                    ));
                }
                (None, None) => {}
            }
            if let Some(lock) = begin.advisory {
                sql.push_str("; ");
                sql.push_str(&if lock.tries {
                    lock.try_in_begin()
                } else {
                    lock.wait_in_begin()
                });
            }
            sql
        }

        const NOTHING: &'static str = "SELECT";

        async fn is_true(connection: &mut PgConnection, sql: String) -> Result<bool, sqlx::Error> {
            let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
            let rows = connection.fetch_all(sql).await?;
            // What a lock that is waited for yields is of no type.
            Ok(rows
                .last()
                .is_some_and(|row| matches!(row.try_get(0), Ok(true))))
        }

        async fn id(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
            let sql = "SELECT pg_current_xact_id_if_assigned()::text";
            let row = connection.fetch_one(sqlx::raw_sql(sql)).await?;
            row.try_get(0)
        }

        async fn commit(
            connection: &mut PgConnection,
            looks: LooksAtCommit,
            height: usize,
        ) -> Commit {
            type Manager = <Postgres as sqlx::Database>::TransactionManager;
            if looks == LooksAtCommit::No && height == 0 {
                return match Manager::commit(connection).await {
                    Ok(()) => Commit::Done,
                    Err(error) if crate::fault::ended_before_commit(&error) => {
                        Commit::Refused(error)
                    }
                    Err(error) if Fault::of(&error).may_have_committed() => {
                        Commit::Unanswered(error)
                    }
                    Err(error) => Commit::Refused(error),
                };
            }
            // The COMMIT of an aborted transaction is answered with the tag ROLLBACK and no error, which sqlx does not
            // look at; and outside of a transaction, with a warning. Any other statement fails in the first case, and AND
            // CHAIN in the second, as long as they are sent as one: the server skips what follows an error. The transaction
            // that CHAIN opens is what the ROLLBACK is for that sqlx sends, together with the pool's ping. Unprepared works
            // behind a pooler that knows no prepared statements. Savepoints that sqlx still counts are to be there for it.
            let marked = looks == LooksAtCommit::IfMarked;
            let select = match marked {
                // Empty in any other transaction, which is no boolean.
                true => "SELECT current_setting('rowlock.tx')::boolean",
                false => "SELECT",
            };
            let sql = format!("{select}; COMMIT AND CHAIN{}", savepoints(0..height));
            let mut results = connection.fetch_many(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)));
            let mut reached = false;
            loop {
                match results.try_next().await {
                    Ok(Some(result)) => reached |= result.is_left(),
                    Ok(None) => return Commit::Done,
                    Err(error) if marked && !reached && crate::fault::lacks_mark(&error) => {
                        return Commit::Refused(Torn::Ended.into());
                    }
                    // The server ended the connection before it came to COMMIT.
                    Err(error @ sqlx::Error::Database(_)) if !reached => {
                        return Commit::Refused(error);
                    }
                    Err(error) if Fault::of(&error).may_have_committed() => {
                        return Commit::Unanswered(error);
                    }
                    Err(error) => return Commit::Refused(error),
                }
            }
        }

        fn mark(connection: &mut PgConnection) {
            // Not a savepoint: SET TRANSACTION fails in one, and so would that of the user.
            let mark = connection.execute(sqlx::raw_sql("SET LOCAL rowlock.tx = 1"));
            // The first poll sends the statement, and the next one reads its answer.
            let _ = pin!(mark).poll(&mut Context::from_waker(Waker::noop()));
        }

        async fn is_ours(connection: &mut PgConnection, marked: bool) -> Result<bool, sqlx::Error> {
            if marked {
                let sql = "SELECT current_setting('rowlock.tx', true) IS NOT DISTINCT FROM '1'";
                return connection.fetch_one(sqlx::raw_sql(sql)).await?.try_get(0);
            }
            let sql = "SAVEPOINT rowlock; RELEASE SAVEPOINT rowlock";
            match Self::run_plain(connection, sql).await {
                Err(error) if Fault::of(&error) == Fault::NoTransaction => Ok(false),
                open => open.map(|()| true),
            }
        }

        async fn unwind(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
            type Manager = <Postgres as sqlx::Database>::TransactionManager;
            let depth = Manager::get_transaction_depth(connection);
            while Manager::get_transaction_depth(connection) > 1 {
                Manager::start_rollback(connection);
            }
            let mut ended = match Manager::get_transaction_depth(connection) {
                // What sqlx does not count any more can be open all the same: a BEGIN that met the error of what was sent before.
                0 => Self::run_plain(connection, "ROLLBACK").await,
                _ => Manager::rollback(connection).await,
            };
            // The error can be that of a ROLLBACK TO which was sent before, of a savepoint that was gone: each statement reads what
            // those before it left. Outside of a transaction ROLLBACK is a warning.
            for _ in 0..depth + 8 {
                if !matches!(ended, Err(sqlx::Error::Database(_))) {
                    break;
                }
                ended = Self::run_plain(connection, "ROLLBACK").await;
            }
            ended
        }

        fn unwind_soon(connection: &mut PgConnection, _: bool) {
            type Manager = <Postgres as sqlx::Database>::TransactionManager;
            if Manager::get_transaction_depth(connection) == 0 {
                return Self::abandon_begin(connection);
            }
            while Manager::get_transaction_depth(connection) > 1 {
                Manager::start_rollback(connection);
            }
        }

        async fn was_committed(connection: &mut PgConnection, id: String) -> Option<bool> {
            // `in progress`: the server has not noticed yet that its client is gone.
            for _ in 0..50 {
                let status: Option<String> = sqlx::query_scalar("SELECT pg_xact_status($1::xid8)")
                    .bind(&id)
                    .fetch_one(&mut *connection)
                    .await
                    .ok()?;
                match status.as_deref() {
                    Some("committed") => return Some(true),
                    Some("aborted") => return Some(false),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
            None
        }

        async fn be_patient(
            connection: &mut PgConnection,
            timeout: Option<Duration>,
            _: &'static str,
        ) -> Result<Option<String>, sqlx::Error> {
            let Some(timeout) = timeout else {
                return Ok(None);
            };
            // The old value is computed first: the new one is set by the outer query, row by row.
            sqlx::query_scalar(
                "SELECT old.value FROM (SELECT current_setting('lock_timeout') AS value OFFSET 0) AS old \
                 WHERE set_config('lock_timeout', $1, true) IS NOT NULL",
            )
            .bind(timeout.as_millis().clamp(1, i32::MAX as u128).to_string())
            .fetch_one(connection)
            .await
            .map(Some)
        }

        async fn be_as_before(
            connection: &mut PgConnection,
            limit: Option<String>,
            taken: bool,
        ) -> Result<(), sqlx::Error> {
            // Without the lock the transaction is aborted, and takes its settings with it.
            let Some(limit) = limit.filter(|_| taken) else {
                return Ok(());
            };
            sqlx::query("SELECT set_config('lock_timeout', $1, true)")
                .bind(limit)
                .execute(connection)
                .await
                .map(drop)
        }

        fn be_as_before_soon(_: &mut PgConnection, _: String) {
            // It is for the transaction only.
        }

        fn rows_affected(result: &PgQueryResult) -> u64 {
            result.rows_affected()
        }

        fn bind_i64(arguments: &mut PgArguments, value: i64) -> Result<(), BoxDynError> {
            arguments.add(value)
        }

        fn bind_f64(arguments: &mut PgArguments, value: f64) -> Result<(), BoxDynError> {
            arguments.add(value)
        }

        fn bind_text(arguments: &mut PgArguments, value: &str) -> Result<(), BoxDynError> {
            arguments.add(value)
        }

        fn bind_compared<T: Column<Self>>(
            arguments: &mut PgArguments,
            value: &T,
        ) -> Result<(), BoxDynError> {
            if T::type_info() == <str as Type<Postgres>>::type_info() {
                arguments.add(OfTheColumn(value))
            } else {
                arguments.add(value)
            }
        }

        fn encoded<T: Column<Self>>(value: &T) -> Encoded {
            let mut buffer = PgArgumentBuffer::default();
            match value.encode_by_ref(&mut buffer) {
                Ok(IsNull::Yes) => Encoded::Null,
                Ok(IsNull::No) => {
                    let mut bytes = std::mem::take(&mut *buffer);
                    // The number of digits to show: the column has one of its own, and 1.5 is 1.50.
                    if T::type_info().name().eq_ignore_ascii_case("numeric")
                        && let Some(scale) = bytes.get_mut(6..8)
                    {
                        scale.fill(0);
                    }
                    Encoded::Bytes(bytes)
                }
                Err(_) => Encoded::Not,
            }
        }

        fn bind_array(arguments: &mut PgArguments, array: Array) -> Result<(), BoxDynError> {
            match array {
                Array::Integers(values) => arguments.add(values),
                Array::Floats(values) => arguments.add(values),
                Array::Texts(values) => arguments.add(values),
            }
        }

        fn is_null<T: Column<Self>>(value: &T) -> bool {
            let encoded = value.encode_by_ref(&mut PgArgumentBuffer::default());
            matches!(encoded, Ok(IsNull::Yes))
        }

        fn get_f64(row: &PgRow, index: usize) -> Result<f64, sqlx::Error> {
            row.try_get(index)
        }

        fn get_text(row: &PgRow, index: usize) -> Result<String, sqlx::Error> {
            row.try_get(index)
        }

        fn get_i64(row: &PgRow, index: usize) -> Result<Option<i64>, sqlx::Error> {
            // Unchecked, because int2 and int4 are welcome too; sqlx decodes by the value's length.
            row.try_get_unchecked(index)
        }

        fn abandon_statement(connection: &mut PoolConnection<Self>) {
            connection.close_on_drop();
        }

        type Raw = PgRaw;
        const WAITING_BRIEFLY: &'static str =
            " AND (SELECT set_config('lock_timeout', '100', true)) IS NOT NULL";

        fn get_raw(row: &PgRow, index: usize) -> Result<PgRaw, sqlx::Error> {
            let value = row.try_get_raw(index)?;
            Ok(PgRaw {
                ty: value.type_info().into_owned(),
                bytes: value.as_bytes().map_err(sqlx::Error::Decode)?.to_vec(),
            })
        }

        fn bind_raw(arguments: &mut PgArguments, value: &PgRaw) -> Result<(), BoxDynError> {
            arguments.add(value)
        }

        fn raw_integer(value: &PgRaw) -> Option<i64> {
            let bytes = value.bytes.as_slice();
            match value.ty.name() {
                "INT2" => Some(i16::from_be_bytes(bytes.try_into().ok()?).into()),
                "INT4" => Some(i32::from_be_bytes(bytes.try_into().ok()?).into()),
                "INT8" => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
                _ => None,
            }
        }

        fn abandon_begin(connection: &mut PgConnection) {
            // sqlx 0.9.0 counts a transaction only after the server's answer to BEGIN, so dropping `begin` before
            // that leaves the connection in a transaction that nobody rolls back. What it offers is this: `begin`
            // queues its statement on the first poll. So queue a ROLLBACK behind the BEGIN; whoever uses the
            // connection next (the pool's own ping at the latest) sends it and reads both answers.
            let rollback = <Postgres as sqlx::Database>::TransactionManager::begin(
                connection,
                Some("ROLLBACK".into_sql_str()),
            );
            let _ = pin!(rollback).poll(&mut Context::from_waker(Waker::noop()));
        }

        fn savepoint(
            connection: &mut PgConnection,
        ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
            // When sqlx's future is dropped before the answer came, it rolls back the whole transaction of the caller
            // and counts it as ended: the caller's COMMIT would answer `Ok` and do nothing. So it is never dropped.
            type Manager = <Postgres as sqlx::Database>::TransactionManager;
            ForgottenOnDrop(Some(Box::pin(Manager::begin(connection, None))))
        }

        async fn has_written(_: &mut PgConnection, _: &sqlx::Error) -> bool {
            false
        }

        async fn set_savepoint(
            connection: &mut PgConnection,
            floor: usize,
            height: usize,
        ) -> Result<usize, sqlx::Error> {
            if floor == height {
                Self::savepoint(connection).await?;
                return Ok(height + 1);
            }
            // sqlx counts as many as before.
            let released = format!(
                "RELEASE SAVEPOINT {}{}",
                savepoint_name(floor),
                savepoints(floor..height)
            );
            let released = sqlx::raw_sql(sqlx::AssertSqlSafe(released));
            connection.execute(released).await?;
            Ok(height)
        }

        async fn undo_savepoint(
            connection: &mut PgConnection,
            number: usize,
        ) -> Result<usize, sqlx::Error> {
            type Manager = <Postgres as sqlx::Database>::TransactionManager;
            Self::undo_savepoint_soon(connection, number + 1);
            if Manager::get_transaction_depth(connection) > Self::depth_at(number) {
                Manager::rollback(connection).await?;
            }
            Ok(number)
        }

        fn undo_savepoint_soon(connection: &mut PgConnection, number: usize) -> usize {
            type Manager = <Postgres as sqlx::Database>::TransactionManager;
            while Manager::get_transaction_depth(connection) > Self::depth_at(number) {
                Manager::start_rollback(connection);
            }
            number
        }

        fn depth_at(height: usize) -> usize {
            height + 1
        }

        async fn lacks_unique_index(
            _: &mut PgConnection,
            error: &sqlx::Error,
            _: IndexedColumns,
        ) -> bool {
            crate::fault::lacks_arbiter(error)
        }
    }

    /// sqlx's name.
    fn savepoint_name(number: usize) -> String {
        format!("_sqlx_savepoint_{}", number + 1)
    }

    fn savepoints(numbers: std::ops::Range<usize>) -> String {
        numbers
            .map(|number| format!("; SAVEPOINT {}", savepoint_name(number)))
            .collect()
    }

    impl Type<Postgres> for PgRaw {
        fn type_info() -> PgTypeInfo {
            PgTypeInfo::with_name("unknown")
        }
    }

    impl Encode<'_, Postgres> for PgRaw {
        fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
            buffer.extend_from_slice(&self.bytes);
            Ok(IsNull::No)
        }

        fn produces(&self) -> Option<PgTypeInfo> {
            Some(self.ty.clone())
        }
    }

    /// Text of the type of the column that it is compared with: bound as `text`, it would turn the column into text as well,
    /// and `Ada` would not be the `ada` of a citext column, nor would the column's index serve.
    struct OfTheColumn<'v, T>(&'v T);

    impl<T> Type<Postgres> for OfTheColumn<'_, T> {
        fn type_info() -> PgTypeInfo {
            // Left open for the server to say.
            PgTypeInfo::with_oid(Oid(0))
        }
    }

    impl<'q, T: Encode<'q, Postgres>> Encode<'q, Postgres> for OfTheColumn<'_, T> {
        fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
            let start = buffer.len();
            let is_null = self.0.encode_by_ref(buffer)?;
            // The server would refuse it too, and abort the transaction of a lookup that could just find nothing.
            if buffer.get(start..).is_some_and(|text| text.contains(&0)) {
                return Err("text cannot contain a NUL byte".into());
            }
            Ok(is_null)
        }
    }

    /// A future whose destructor does not run when it is dropped unfinished, at the price of its memory.
    struct ForgottenOnDrop<F>(Option<Pin<Box<F>>>);

    impl<F: Future> Future for ForgottenOnDrop<F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
            let Some(future) = &mut self.0 else {
                return Poll::Pending;
            };
            let output = ready!(future.as_mut().poll(context));
            self.0 = None;
            Poll::Ready(output)
        }
    }

    impl<F> Drop for ForgottenOnDrop<F> {
        fn drop(&mut self) {
            std::mem::forget(self.0.take());
        }
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use sqlx::encode::IsNull;
    #[cfg(feature = "executor")]
    use sqlx::sqlite::SqliteTypeInfo;
    use sqlx::sqlite::{
        SqliteArguments, SqliteArgumentsBuffer, SqliteConnection, SqliteQueryResult, SqliteRow,
    };
    use sqlx::{Arguments, Executor, Row, Sqlite, TypeInfo, ValueRef};
    use sqlx_core::transaction::{TransactionManager, begin_ansi_transaction_sql};

    use super::*;
    use crate::fault::Fault;
    use crate::tx::notes::Torn;

    type Manager = <Sqlite as sqlx::Database>::TransactionManager;

    const MARK: &str = "SAVEPOINT rowlock";
    const RELEASE_MARK: &str = "RELEASE rowlock";

    /// Opens a transaction for all that follows if none is open.
    async fn is_open(connection: &mut SqliteConnection) -> bool {
        // BEGIN fails inside of a transaction, and does nothing else there. The savepoints are those that sqlx counts.
        let mut sql = "BEGIN".to_owned();
        for level in 1..Manager::get_transaction_depth(connection) {
            sql.push_str(&format!("; SAVEPOINT _sqlx_savepoint_{level}"));
        }
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        connection.execute(sql).await.is_err()
    }

    fn roll_back_to(number: usize) -> sqlx::RawSql {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("ROLLBACK TO rowlock_{number}")))
    }

    /// Runs it without waiting for it: the first poll hands it to sqlx's worker thread.
    fn hand_over(connection: &mut SqliteConnection, sql: sqlx::RawSql) {
        let executed = connection.execute(sql);
        let _ = pin!(executed).poll(&mut Context::from_waker(Waker::noop()));
    }

    impl Backend for Sqlite {
        const MAX_PARAMETERS: usize = 32_766;
        // To SQLite `$1` is a name, which it looks up among all the others when it parses and again when sqlx binds.
        const PREFERS_UNNAMED_PARAMETERS: bool = true;
        // A deferred transaction that reads and then writes fails with SQLITE_BUSY at once, whatever the timeout.
        const BEGIN: &'static str = "BEGIN IMMEDIATE";
        // A temporary table, or an attached file, could have one of this name too.
        const FENCE_TABLE: &'static str = "CREATE TABLE IF NOT EXISTS main.rowlock_fences (name text NOT NULL PRIMARY KEY, fence bigint NOT NULL)";
        const MINT_FENCE: &'static str = "INSERT INTO \"main\".\"rowlock_fences\" (\"name\", \"fence\") \
             VALUES ($1, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000) \
             ON CONFLICT (\"name\") DO UPDATE SET \"fence\" = max(\"fence\" + 1, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000) \
             RETURNING \"fence\"";
        const PURGE_FENCES: &'static str = "DELETE FROM \"main\".\"rowlock_fences\" \
             WHERE \"fence\" < CAST((julianday('now') - 2440587.5) * 86400000 - $1 * 1000 AS integer) * 1000";
        const ERROR_ABORTS_TRANSACTION: bool = false;
        const STATEMENTS_GO_STALE: bool = false;
        const HAS_ADVISORY_LOCKS: bool = false;
        const EMBEDDED: bool = true;
        const HAS_ARRAYS: bool = false;

        fn run<'e, 'q: 'e>(
            connection: &'e mut SqliteConnection,
            query: impl Execute<'q, Self> + 'q,
        ) -> Results<'e, Self> {
            connection.fetch_many(query)
        }

        #[cfg(feature = "executor")]
        fn run_for_one<'e, 'q: 'e>(
            connection: &'e mut SqliteConnection,
            query: impl Execute<'q, Self> + 'q,
        ) -> BoxFuture<'e, Result<Option<SqliteRow>, sqlx::Error>> {
            connection.fetch_optional(query)
        }

        #[cfg(feature = "executor")]
        fn prepare<'e>(
            connection: &'e mut SqliteConnection,
            sql: SqlStr,
            parameters: &'e [SqliteTypeInfo],
        ) -> BoxFuture<'e, Result<Self::Statement, sqlx::Error>> {
            connection.prepare_with(sql, parameters)
        }

        #[cfg(feature = "executor")]
        fn describe<'e>(
            connection: &'e mut SqliteConnection,
            sql: SqlStr,
        ) -> BoxFuture<'e, Result<Describe<Self>, sqlx::Error>> {
            connection.describe(sql)
        }

        async fn run_plain(
            connection: &mut SqliteConnection,
            sql: &'static str,
        ) -> Result<(), sqlx::Error> {
            connection.execute(sqlx::raw_sql(sql)).await.map(drop)
        }

        fn begin_sql(begin: &Begin) -> String {
            if begin.read_only {
                "BEGIN"
            } else {
                Self::BEGIN
            }
            .to_owned()
        }

        const NOTHING: &'static str = "SELECT 1";

        async fn is_true(
            connection: &mut SqliteConnection,
            sql: String,
        ) -> Result<bool, sqlx::Error> {
            let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
            connection.execute(sql).await.map(|_| true)
        }

        async fn id(_: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
            Ok(None)
        }

        async fn commit(
            connection: &mut SqliteConnection,
            looks: LooksAtCommit,
            _: usize,
        ) -> Commit {
            let marked = looks == LooksAtCommit::IfMarked;
            if marked && Self::run_plain(connection, RELEASE_MARK).await.is_err() {
                return Commit::Refused(Torn::Ended.into());
            }
            // A constraint does not end a transaction of SQLite, and the COMMIT of one that is gone is an error.
            match Manager::commit(connection).await {
                Ok(()) => Commit::Done,
                Err(error) if Fault::of(&error).may_have_committed() => Commit::Unanswered(error),
                Err(_) if !is_open(connection).await => Commit::Refused(Torn::Ended.into()),
                Err(error) => Commit::Refused(error),
            }
        }

        fn mark(connection: &mut SqliteConnection) {
            hand_over(connection, sqlx::raw_sql(MARK));
        }

        async fn is_ours(connection: &mut SqliteConnection, _: bool) -> Result<bool, sqlx::Error> {
            // The user's savepoints may stand after the mark, and would end with it.
            Ok(is_open(connection).await)
        }

        async fn unwind(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
            let levels =
                |connection: &mut SqliteConnection| Manager::get_transaction_depth(connection);
            let mut ended = Ok(());
            while levels(connection) > 0 && ended.is_ok() {
                ended = Manager::rollback(connection).await;
            }
            // One that `is_open` began where sqlx counts none any more. Without one it is an error.
            let _ = Self::run_plain(connection, "ROLLBACK").await;
            if ended.is_err() {
                // A savepoint was gone, and sqlx would count it for ever. So open what it counts.
                is_open(connection).await;
                while levels(connection) > 0 {
                    Manager::rollback(connection).await?;
                }
            }
            Ok(())
        }

        fn unwind_soon(connection: &mut SqliteConnection, may_be_gone: bool) {
            let depth = Manager::get_transaction_depth(connection);
            if may_be_gone {
                // The ROLLBACK of a transaction that is gone fails, and sqlx would count it for ever. So open what it counts; where
                // that is open, BEGIN fails and a savepoint more ends with the others.
                for level in 0..depth {
                    hand_over(connection, sqlx::raw_sql(begin_ansi_transaction_sql(level)));
                }
            }
            for _ in 1..depth {
                Manager::start_rollback(connection);
            }
        }

        async fn was_committed(_: &mut SqliteConnection, _: String) -> Option<bool> {
            None
        }

        async fn be_patient(
            connection: &mut SqliteConnection,
            timeout: Option<Duration>,
            clause: &'static str,
        ) -> Result<Option<String>, sqlx::Error> {
            let timeout = if clause.is_empty() {
                timeout
            } else {
                Some(Duration::ZERO)
            };
            let Some(timeout) = timeout else {
                return Ok(None);
            };
            let before: i64 = sqlx::query_scalar("PRAGMA busy_timeout")
                .fetch_one(&mut *connection)
                .await?;
            let mut unless_set = Restore(connection, Some(before.to_string()));
            set_busy_timeout(unless_set.0, timeout.as_millis()).await?;
            Ok(unless_set.1.take())
        }

        async fn be_as_before(
            connection: &mut SqliteConnection,
            limit: Option<String>,
            _: bool,
        ) -> Result<(), sqlx::Error> {
            match limit.and_then(|limit| limit.parse().ok()) {
                Some(limit) => set_busy_timeout(connection, limit).await,
                None => Ok(()),
            }
        }

        fn be_as_before_soon(connection: &mut SqliteConnection, limit: String) {
            if let Ok(limit) = limit.parse() {
                // The first poll hands the statement to sqlx's worker thread, which runs it even if nobody waits for it. That needs
                // room in the channel between them, 50 messages unless `command_buffer_size` was changed. Without room the statement
                // is lost and the limit stays. It looks the same from here, and closing the connection in any case would be the end
                // of a database in memory: `AdvisoryLock::lock_timeout` documents it.
                let restore = set_busy_timeout(connection, limit);
                let _ = pin!(restore).poll(&mut Context::from_waker(Waker::noop()));
            }
        }

        fn rows_affected(result: &SqliteQueryResult) -> u64 {
            result.rows_affected()
        }

        fn bind_i64(arguments: &mut SqliteArguments, value: i64) -> Result<(), BoxDynError> {
            arguments.add(value)
        }

        fn bind_f64(arguments: &mut SqliteArguments, value: f64) -> Result<(), BoxDynError> {
            arguments.add(value)
        }

        fn bind_text(arguments: &mut SqliteArguments, value: &str) -> Result<(), BoxDynError> {
            arguments.add(value)
        }

        fn bind_compared<T: Column<Self>>(
            arguments: &mut SqliteArguments,
            value: &T,
        ) -> Result<(), BoxDynError> {
            // A column is compared by its own affinity and collation.
            arguments.add(value)
        }

        fn encoded<T: Column<Self>>(value: &T) -> Encoded {
            let mut buffer = SqliteArgumentsBuffer::default();
            match value.encode_by_ref(&mut buffer) {
                Ok(IsNull::Yes) => Encoded::Null,
                // sqlx lets nobody see the values but by `Debug`, which tells every value from every other.
                Ok(IsNull::No) => match format!("{buffer:?}") {
                    // SQLite stores it as NULL.
                    nan if nan.ends_with("[Double(NaN)])") => Encoded::Null,
                    other => Encoded::Bytes(other.into_bytes()),
                },
                Err(_) => Encoded::Not,
            }
        }

        fn bind_array(_: &mut SqliteArguments, _: Array) -> Result<(), BoxDynError> {
            Err("SQLite has no arrays".into())
        }

        fn is_null<T: Column<Self>>(value: &T) -> bool {
            let encoded = value.encode_by_ref(&mut SqliteArgumentsBuffer::default());
            matches!(encoded, Ok(IsNull::Yes))
        }

        fn get_f64(row: &SqliteRow, index: usize) -> Result<f64, sqlx::Error> {
            row.try_get(index)
        }

        fn get_text(row: &SqliteRow, index: usize) -> Result<String, sqlx::Error> {
            row.try_get(index)
        }

        fn get_i64(row: &SqliteRow, index: usize) -> Result<Option<i64>, sqlx::Error> {
            row.try_get(index)
        }

        fn abandon_statement(_: &mut PoolConnection<Self>) {
            // Its thread comes to the end of every statement. To close it would be the end of a database in memory.
        }

        type Raw = SqliteRaw;
        // It has no locks of rows.
        const WAITING_BRIEFLY: &'static str = "";

        fn get_raw(row: &SqliteRow, index: usize) -> Result<SqliteRaw, sqlx::Error> {
            let ty = row.try_get_raw(index)?.type_info().name().to_owned();
            match ty.as_str() {
                "REAL" => row.try_get_unchecked(index).map(SqliteRaw::Real),
                "TEXT" => row.try_get_unchecked(index).map(SqliteRaw::Text),
                "BLOB" => row.try_get_unchecked(index).map(SqliteRaw::Blob),
                // Also BOOLEAN and the like, which are integers in a column of that type.
                _ => row.try_get_unchecked(index).map(SqliteRaw::Integer),
            }
        }

        fn bind_raw(arguments: &mut SqliteArguments, value: &SqliteRaw) -> Result<(), BoxDynError> {
            match value {
                SqliteRaw::Integer(value) => arguments.add(value),
                SqliteRaw::Real(value) => arguments.add(value),
                SqliteRaw::Text(value) => arguments.add(value.clone()),
                SqliteRaw::Blob(value) => arguments.add(value.clone()),
            }
        }

        fn raw_integer(value: &SqliteRaw) -> Option<i64> {
            match value {
                SqliteRaw::Integer(value) => Some(*value),
                _ => None,
            }
        }

        fn abandon_begin(_: &mut SqliteConnection) {
            // sqlx's worker thread sees that nobody waits for its BEGIN any more and rolls back.
        }

        fn savepoint(
            connection: &mut SqliteConnection,
        ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
            // The same goes for a SAVEPOINT.
            <Sqlite as sqlx::Database>::TransactionManager::begin(connection, None)
        }

        async fn has_written(connection: &mut SqliteConnection, error: &sqlx::Error) -> bool {
            if !Fault::of(error).is_of_a_row() {
                return false;
            }
            // RAISE(FAIL) in a trigger AFTER the write, or a statement there that meets a constraint with ON CONFLICT FAIL: what was
            // written stays, and outside a transaction is committed. After any other error this is 0.
            let changes = sqlx::query_scalar("SELECT changes()").fetch_one(connection);
            changes.await.is_ok_and(|rows: i64| rows > 0)
        }

        async fn set_savepoint(
            connection: &mut SqliteConnection,
            floor: usize,
            height: usize,
        ) -> Result<usize, sqlx::Error> {
            let release = match floor < height {
                true => format!("RELEASE rowlock_{floor}; "),
                false => String::new(),
            };
            let sql = format!("{release}SAVEPOINT rowlock_{floor}");
            let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
            connection.execute(sql).await?;
            Ok(floor + 1)
        }

        async fn undo_savepoint(
            connection: &mut SqliteConnection,
            number: usize,
        ) -> Result<usize, sqlx::Error> {
            connection.execute(roll_back_to(number)).await?;
            Ok(number + 1)
        }

        fn undo_savepoint_soon(connection: &mut SqliteConnection, number: usize) -> usize {
            hand_over(connection, roll_back_to(number));
            number + 1
        }

        fn depth_at(_: usize) -> usize {
            1
        }

        async fn lacks_unique_index(
            connection: &mut SqliteConnection,
            error: &sqlx::Error,
            key: IndexedColumns,
        ) -> bool {
            // SQLite has no code of its own for it: the statement just could not be prepared. So look.
            if Fault::of(error) != Fault::Schema {
                return false;
            }
            // One row per unique index, one for the primary key, and an empty one if the table exists at all.
            let indexes = sqlx::query_scalar(
                "SELECT (SELECT group_concat(name, ',') FROM (SELECT name FROM pragma_index_info(i.name, $1) ORDER BY name)) \
                 FROM pragma_index_list($2, $1) AS i WHERE i.\"unique\" AND NOT i.partial \
                 UNION ALL \
                 SELECT group_concat(name, ',') FROM (SELECT name FROM pragma_table_info($2, $1) WHERE pk > 0 ORDER BY name) \
                 UNION ALL \
                 SELECT DISTINCT '' FROM pragma_table_info($2, $1)",
            )
            .bind(key.schema.unwrap_or("main"))
            .bind(key.table)
            .fetch_all(connection)
            .await;
            indexes.is_ok_and(|indexes: Vec<Option<String>>| {
                let has = |columns: &str| indexes.iter().flatten().any(|found| found == columns);
                has("") && !has(key.columns)
            })
        }
    }

    /// Puts the busy timeout back if it is dropped with it.
    struct Restore<'c>(&'c mut SqliteConnection, Option<String>);

    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            if let Some(limit) = self.1.take() {
                Sqlite::be_as_before_soon(self.0, limit);
            }
        }
    }

    /// PRAGMA takes no parameters.
    async fn set_busy_timeout(
        connection: &mut SqliteConnection,
        milliseconds: u128,
    ) -> Result<(), sqlx::Error> {
        let milliseconds = milliseconds.min(i32::MAX as u128);
        let sql = sqlx::AssertSqlSafe(format!("PRAGMA busy_timeout = {milliseconds}"));
        connection.execute(sqlx::raw_sql(sql)).await.map(drop)
    }
}
