//! SQLite.

use std::pin::pin;
use std::task::{Context, Waker};

use sqlx::encode::IsNull;
use sqlx::sqlite::{
    SqliteArguments, SqliteArgumentsBuffer, SqliteConnection, SqliteQueryResult, SqliteRow,
    SqliteTypeInfo,
};
use sqlx::{Arguments, Connection as _, Executor, Row, Sqlite, TypeInfo, ValueRef};
use sqlx_core::transaction::{TransactionManager, begin_ansi_transaction_sql};

use super::*;
use crate::db::fault::Fault;
use crate::db::json_rows::json_rows;
use crate::db::lanes::SqliteCells;
use crate::db::notes::Torn;

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
    const SYSTEM: &'static str = "sqlite";
    const MAX_PARAMETERS: usize = 32_766;
    // A deferred transaction that reads and then writes fails with SQLITE_BUSY at once, whatever the timeout.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const SAME: &'static str = " IS ";
    const NOT_SAME: &'static str = " IS NOT ";
    const FOR_UPDATE: &'static str = "";
    /// Times are text: with a blank by SQLite's clock, with a `T` and an offset by sqlx.
    fn compared_as(ty: &SqliteTypeInfo) -> Option<[&'static str; 2]> {
        (ty.name() == "DATETIME").then_some(["strftime('%Y-%m-%d %H:%M:%f', ", ", 'auto')"])
    }
    /// A time that SQLite's clock wrote has another text than that of sqlx. It has no more than milliseconds, which is all that `strftime`
    /// looks at: of a time that has more, the text counts. A number can be a Julian day to SQLite and seconds to sqlx.
    fn as_read(ty: &SqliteTypeInfo) -> &'static [Piece] {
        use Piece::{Column, Sql, Value};
        if ty.name() == "DATETIME" {
            const TIME: &[Piece] = &[
                Sql("("),
                Column,
                Sql(" IS "),
                Value,
                Sql(" OR typeof("),
                Column,
                Sql(") = 'text' AND strftime('%Y-%m-%d %H:%M:%f', "),
                Column,
                Sql(") IS strftime('%Y-%m-%d %H:%M:%f', "),
                Value,
                Sql(") AND NOT ("),
                Column,
                Sql(" || ' ' || "),
                Value,
                Sql(") GLOB '*.[0-9][0-9][0-9][0-9]*')"),
            ];
            TIME
        } else {
            &[Column, Sql(" IS "), Value, Sql(" COLLATE BINARY")]
        }
    }
    // A temporary table, or an attached file, could have one of this name too.
    const FENCE_TABLE: &'static str = "CREATE TABLE IF NOT EXISTS main.rowlock_fences (name text NOT NULL PRIMARY KEY, fence bigint NOT NULL)";
    const MINT_FENCE: &'static str = "INSERT INTO \"main\".\"rowlock_fences\" (\"name\", \"fence\") \
         VALUES ($1, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000) \
         ON CONFLICT (\"name\") DO UPDATE SET \"fence\" = max(\"fence\" + 1, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000) \
         RETURNING \"fence\"";
    const PURGE_FENCES: &'static str = "DELETE FROM \"main\".\"rowlock_fences\" \
         WHERE \"fence\" < CAST((julianday('now') - 2440587.5) * 86400000 - $1 * 1000 AS integer) * 1000";
    #[cfg(feature = "periodic")]
    const SCHEDULE_TABLE: &'static str = "CREATE TABLE IF NOT EXISTS main.rowlock_schedules \
         (name text NOT NULL PRIMARY KEY, schedule text NOT NULL, next_tick text NOT NULL)";
    #[cfg(feature = "periodic")]
    const READ_SCHEDULE: &'static str = "SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS integer) * 1000, \"schedule\", \
         CAST(round((julianday(\"next_tick\") - 2440587.5) * 86400000) AS integer) * 1000, typeof(\"next_tick\") IN ('text', 'null') \
         FROM (SELECT 1) AS \"now\" LEFT JOIN \"main\".\"rowlock_schedules\" ON \"name\" = $1";
    #[cfg(feature = "periodic")]
    const SET_SCHEDULE: &'static str = "INSERT INTO \"main\".\"rowlock_schedules\" (\"name\", \"schedule\", \"next_tick\") \
         VALUES ($1, $2, datetime($3, 'unixepoch')) \
         ON CONFLICT (\"name\") DO UPDATE SET \"schedule\" = excluded.\"schedule\", \"next_tick\" = excluded.\"next_tick\" \
         WHERE \"schedule\" <> excluded.\"schedule\"";
    #[cfg(feature = "periodic")]
    const ADVANCE_SCHEDULE: &'static str = "UPDATE \"main\".\"rowlock_schedules\" SET \"next_tick\" = datetime($4, 'unixepoch') \
         WHERE \"name\" = $1 AND \"schedule\" = $2 AND julianday(\"next_tick\") <= julianday('now') \
         AND CAST(round((julianday(\"next_tick\") - 2440587.5) * 86400000) AS integer) * 1000 = $3";
    #[cfg(feature = "periodic")]
    const DUE_SCHEDULE: &'static str = "SELECT 1 FROM \"main\".\"rowlock_schedules\" \
         WHERE \"name\" = $1 AND \"schedule\" = $2 AND julianday(\"next_tick\") <= julianday('now') \
         AND CAST(round((julianday(\"next_tick\") - 2440587.5) * 86400000) AS integer) * 1000 = $3";
    const ERROR_ABORTS_TRANSACTION: bool = false;
    const STATEMENTS_GO_STALE: bool = false;
    const READS_SNAPSHOT: Option<&'static str> = None;
    const UPSERT_TELLS: bool = false;
    const HAS_ADVISORY_LOCKS: bool = false;
    const EMBEDDED: bool = true;
    // RAISE(FAIL) and ON CONFLICT FAIL leave what was written before.
    const AROUND_WRITES: Option<[&'static str; 2]> = Some(["BEGIN IMMEDIATE; ", "; COMMIT"]);

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

    #[cfg(any(feature = "executor", feature = "schema"))]
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

    fn enter_sql(_: &Begin) -> Option<String> {
        // Every transaction is SERIALIZABLE, and READ ONLY refuses nothing.
        None
    }

    fn entered(_: &SqliteRow, _: &Begin) -> Result<Inside, sqlx::Error> {
        Ok(Inside::default())
    }

    const NOTHING: &'static str = "SELECT 1";

    async fn is_true(connection: &mut SqliteConnection, sql: String) -> Result<bool, sqlx::Error> {
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        connection.execute(sql).await.map(|_| true)
    }

    async fn id(_: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
        Ok(None)
    }

    async fn commit(connection: &mut SqliteConnection, looks: LooksAtCommit, _: usize) -> Commit {
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

    async fn is_in_transaction(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        // BEGIN fails inside of a transaction. sqlx's, because that one is rolled back wherever this future is dropped.
        match connection.begin().await {
            Ok(begun) => begun.rollback().await.map(|()| false),
            Err(error) if error.as_database_error().is_some() => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn unwind(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let levels = |connection: &mut SqliteConnection| Manager::get_transaction_depth(connection);
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
        if !may_be_gone {
            for _ in 1..depth {
                Manager::start_rollback(connection);
            }
            return;
        }
        // The ROLLBACK of a transaction that is gone fails, and sqlx would count it for ever. So open what it counts; where that is
        // open, BEGIN fails and a savepoint more ends with the others. What was sent and dropped before is still to come: it can count
        // one level more, or make sqlx pass over a rollback; or it is a rollback itself, and this BEGIN opens what nobody counts,
        // so that the last ROLLBACK, which nobody counts either, has to end it.
        for level in 0..=depth {
            hand_over(connection, sqlx::raw_sql(begin_ansi_transaction_sql(level)));
        }
        for _ in 0..depth + 2 {
            Manager::start_rollback(connection);
        }
        hand_over(connection, sqlx::raw_sql("ROLLBACK"));
    }

    async fn was_committed(_: &mut SqliteConnection, _: String) -> Option<bool> {
        None
    }

    async fn set_lock_timeout(
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

    async fn restore_lock_timeout(
        connection: &mut SqliteConnection,
        limit: Option<String>,
        _: bool,
    ) -> Result<(), sqlx::Error> {
        match limit.and_then(|limit| limit.parse().ok()) {
            Some(limit) => set_busy_timeout(connection, limit).await,
            None => Ok(()),
        }
    }

    fn restore_lock_timeout_soon(connection: &mut SqliteConnection, limit: String) {
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

    fn bind_null(arguments: &mut SqliteArguments) -> Result<(), BoxDynError> {
        arguments.add(None::<i64>)
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

    fn bind_rows(
        arguments: &mut SqliteArguments,
        count: usize,
        columns: &[Array],
    ) -> Result<(), BoxDynError> {
        let rows = json_rows(count, arguments, columns)?;
        *arguments = SqliteArguments::default();
        arguments.add(rows)
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

    type Cells = SqliteCells;
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

    fn holds_null(row: &SqliteRow, index: usize) -> Result<bool, sqlx::Error> {
        Ok(row.try_get_raw(index)?.is_null())
    }

    fn raw_bytes(value: &SqliteRaw) -> &[u8] {
        match value {
            SqliteRaw::Text(value) => value.as_bytes(),
            SqliteRaw::Blob(value) => value,
            SqliteRaw::Integer(_) | SqliteRaw::Real(_) => &[],
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
        marks: bool,
    ) -> Result<usize, sqlx::Error> {
        let mut sql = String::new();
        if floor < height {
            sql.push_str(&format!("RELEASE rowlock_{floor}; "));
        }
        if marks {
            sql.push_str(MARK);
            sql.push_str("; ");
        }
        sql.push_str(&format!("SAVEPOINT rowlock_{floor}"));
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

    async fn read_schema(connection: &mut SqliteConnection) -> bool {
        // Whatever is run compares the schema that the connection knows with that of the file, and reads it again if it is another.
        // What cannot be prepared is not run; of that SQLite compares only if it misses a table, and not if it misses an index.
        connection
            .execute("SELECT 1 FROM sqlite_schema LIMIT 1")
            .await
            .is_ok()
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
        // One row per unique index, one for the primary key; and one per column, of which there are some if the table exists at all.
        let found = sqlx::query_as(
            "SELECT 0, (SELECT group_concat(name, ',') FROM (SELECT name FROM pragma_index_info(i.name, $1) ORDER BY name)) \
             FROM pragma_index_list($2, $1) AS i WHERE i.\"unique\" AND NOT i.partial \
             UNION ALL \
             SELECT 0, group_concat(name, ',') FROM (SELECT name FROM pragma_table_info($2, $1) WHERE pk > 0 ORDER BY name) \
             UNION ALL \
             SELECT 1, name FROM pragma_table_xinfo($2, $1)",
        )
        .bind(key.schema.unwrap_or("main"))
        .bind(key.table)
        .fetch_all(connection)
        .await;
        found.is_ok_and(|found: Vec<(i64, Option<String>)>| {
            let of_kind = |wanted| {
                let found = found.iter().filter(move |(kind, _)| *kind == wanted);
                found.filter_map(|(_, names)| names.as_deref())
            };
            let has_column =
                |name: &str| of_kind(1).any(|column| column.eq_ignore_ascii_case(name));
            // A column of the key that is missing is another mistake. What an expression or a predicate reads is not looked at.
            let is_name = |name: &str| name.chars().all(|c| c.is_alphanumeric() || c == '_');
            let mut names = key.columns.split(',');
            let columns_exist = match names.clone().all(is_name) {
                true => names.all(has_column),
                false => of_kind(1).next().is_some(),
            };
            columns_exist && !of_kind(0).any(|columns| columns == key.columns)
        })
    }
}

/// Puts the busy timeout back if it is dropped with it.
struct Restore<'c>(&'c mut SqliteConnection, Option<String>);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if let Some(limit) = self.1.take() {
            Sqlite::restore_lock_timeout_soon(self.0, limit);
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
