//! PostgreSQL.

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
use crate::db::begin::Isolation;
use crate::db::fault::Fault;
use crate::db::lanes::PgCells;
use crate::db::lock_timeout::milliseconds;
use crate::db::notes::Torn;

/// Whether values of this type, or arrays of it, are equal only if they are the same. `1.0` and `1.00` are the same number.
fn has_exact_equality(ty: &PgTypeInfo) -> bool {
    const EXACT: &[&str] = &[
        "BOOL",
        "BYTEA",
        "INT2",
        "INT4",
        "INT8",
        "NUMERIC",
        "UUID",
        "DATE",
        "TIME",
        "TIMETZ",
        "TIMESTAMP",
        "TIMESTAMPTZ",
        "INET",
        "CIDR",
        "INT4RANGE",
        "INT8RANGE",
        "NUMRANGE",
        "DATERANGE",
        "TSRANGE",
        "TSTZRANGE",
    ];
    EXACT.contains(&ty.name().trim_end_matches("[]"))
}

impl Backend for Postgres {
    const SYSTEM: &'static str = "postgresql";
    const MAX_PARAMETERS: usize = 65_535;
    const BEGIN: &'static str = "BEGIN";
    const SAME: &'static str = " IS NOT DISTINCT FROM ";
    const NOT_SAME: &'static str = " IS DISTINCT FROM ";
    const FOR_UPDATE: &'static str = " FOR UPDATE";
    /// The value is a `text[]`, which PostgreSQL does not compare with a `varchar[]`. By way of text, because the cast alone would cut the
    /// blanks that fill a `char(n)` up, and that were read.
    fn compared_as(ty: &PgTypeInfo) -> Option<[&'static str; 2]> {
        (*ty == <Vec<String> as Type<Postgres>>::type_info()).then_some(["", "::text::text[]"])
    }
    /// `Ada` is `ADA` to citext, and to a column whose collation says so; `1 mon` is `30 days` to interval, and circles are equal if their
    /// areas are. As texts, and byte by byte, they are not. A value of type text gets the type of its column from the first comparison.
    fn as_read(ty: &PgTypeInfo) -> &'static [Piece] {
        use Piece::{Column, Sql, Value};
        if *ty == <str as Type<Postgres>>::type_info() {
            const TEXT: &[Piece] = &[
                Column,
                Sql(" IS NOT DISTINCT FROM "),
                Value,
                Sql(" AND "),
                Column,
                Sql("::text COLLATE \"C\" IS NOT DISTINCT FROM "),
                Value,
                Sql("::text"),
            ];
            TEXT
        } else if has_exact_equality(ty) {
            &[Column, Sql(" IS NOT DISTINCT FROM "), Value]
        } else {
            const AS_TEXT: &[Piece] = &[
                Column,
                Sql("::text COLLATE \"C\" IS NOT DISTINCT FROM "),
                Value,
                Sql("::text"),
            ];
            AS_TEXT
        }
    }
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
    #[cfg(feature = "periodic")]
    const SCHEDULE_TABLE: &'static str = "CREATE TABLE IF NOT EXISTS rowlock_schedules \
         (name text NOT NULL PRIMARY KEY, schedule text NOT NULL, next_tick timestamptz NOT NULL)";
    // The limits are for 'infinity', which has no number of seconds.
    #[cfg(feature = "periodic")]
    const READ_SCHEDULE: &'static str = "SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint, \"schedule\", \
         (date_part('epoch', least(greatest(\"next_tick\", timestamptz '1970-01-01 00:00:00Z'), timestamptz '9999-01-01 00:00:00Z')) * 1000000)::bigint, \
         (pg_typeof(\"next_tick\") = 'timestamptz'::regtype AND (\"next_tick\" IS NULL) = (\"name\" IS NULL))::int \
         FROM (SELECT 1) AS \"now\" LEFT JOIN \"rowlock_schedules\" ON \"name\" = $1";
    #[cfg(feature = "periodic")]
    const SET_SCHEDULE: &'static str = "INSERT INTO \"rowlock_schedules\" (\"name\", \"schedule\", \"next_tick\") \
         VALUES ($1, $2, to_timestamp($3::bigint)) \
         ON CONFLICT (\"name\") DO UPDATE SET \"schedule\" = excluded.\"schedule\", \"next_tick\" = excluded.\"next_tick\" \
         WHERE \"rowlock_schedules\".\"schedule\" <> excluded.\"schedule\"";
    // Whoever waited for the row would hold a connection for as long as the closure of another process runs.
    #[cfg(feature = "periodic")]
    const ADVANCE_SCHEDULE: &'static str = "WITH \"due\" AS MATERIALIZED (SELECT \"name\" FROM \"rowlock_schedules\" \
         WHERE \"name\" = $1 AND \"schedule\" = $2 AND \"next_tick\" <= clock_timestamp() \
         AND (date_part('epoch', least(greatest(\"next_tick\", timestamptz '1970-01-01 00:00:00Z'), timestamptz '9999-01-01 00:00:00Z')) * 1000000)::bigint = $3 \
         FOR NO KEY UPDATE SKIP LOCKED) \
         UPDATE \"rowlock_schedules\" SET \"next_tick\" = to_timestamp($4::bigint) FROM \"due\" \
         WHERE \"rowlock_schedules\".\"name\" = \"due\".\"name\"";
    #[cfg(feature = "periodic")]
    const DUE_SCHEDULE: &'static str = "SELECT 1 FROM \"rowlock_schedules\" \
         WHERE \"name\" = $1 AND \"schedule\" = $2 AND \"next_tick\" <= clock_timestamp() \
         AND (date_part('epoch', least(greatest(\"next_tick\", timestamptz '1970-01-01 00:00:00Z'), timestamptz '9999-01-01 00:00:00Z')) * 1000000)::bigint = $3 \
         FOR NO KEY UPDATE SKIP LOCKED";
    const ERROR_ABORTS_TRANSACTION: bool = true;
    const STATEMENTS_GO_STALE: bool = true;
    const READS_SNAPSHOT: Option<&'static str> = Some(
        "SELECT 1 WHERE current_setting('transaction_isolation') IN ('repeatable read', 'serializable')",
    );
    const UPSERT_TELLS: bool = true;
    const HAS_ADVISORY_LOCKS: bool = true;
    const EMBEDDED: bool = false;
    const AROUND_WRITES: Option<[&'static str; 2]> = None;

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

    #[cfg(any(feature = "executor", feature = "schema"))]
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
                sql.push_str(&format!("; SET LOCAL {name} = {}", milliseconds(limit)));
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
                // Not above that of the role or the session.
                sql.push_str(&unless_stricter("statement_timeout", left));
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

    fn enter_sql(begin: &Begin) -> Option<String> {
        let limits = limits_inside(begin);
        // READ COMMITTED is what every transaction has at least.
        let is_weakest = matches!(begin.isolation, None | Some(Isolation::ReadCommitted));
        if is_weakest && !begin.read_only && limits.is_empty() {
            return None;
        }
        let mut sql = "SELECT current_setting('transaction_isolation'), \
             current_setting('transaction_read_only')::boolean, \
             (date_part('epoch', current_setting('lock_timeout')::interval) * 1000)::bigint, \
             (date_part('epoch', current_setting('statement_timeout')::interval) * 1000)::bigint"
            .to_owned();
        for (name, limit) in limits {
            sql.push_str(&unless_stricter(name, limit));
        }
        Some(sql)
    }

    fn entered(row: &PgRow, begin: &Begin) -> Result<Inside, sqlx::Error> {
        let (found, read_only): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        let found = match found.as_str() {
            "serializable" => Isolation::Serializable,
            "repeatable read" => Isolation::RepeatableRead,
            _ => Isolation::ReadCommitted,
        };
        let asked = begin.isolation.filter(|asked| *asked > found);
        let lacks = match asked {
            Some(asked) => Some((asked.name(), found.name())),
            None if begin.read_only && !read_only => Some(("READ ONLY", "READ WRITE")),
            None => None,
        };
        let mut restore = String::new();
        for (name, _) in limits_inside(begin) {
            let column = if name == "lock_timeout" { 2 } else { 3 };
            let before: i64 = row.try_get(column)?;
            restore.push_str(&format!("SET LOCAL {name} = {before}; "));
        }
        Ok(Inside {
            lacks,
            restore: Some(restore).filter(|restore| !restore.is_empty()),
        })
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

    async fn commit(connection: &mut PgConnection, looks: LooksAtCommit, height: usize) -> Commit {
        type Manager = <Postgres as sqlx::Database>::TransactionManager;
        if looks == LooksAtCommit::No && height == 0 {
            return match Manager::commit(connection).await {
                Ok(()) => Commit::Done,
                Err(error) if crate::db::fault::ended_before_commit(&error) => {
                    Commit::Refused(error)
                }
                Err(error) if Fault::of(&error).may_have_committed() => Commit::Unanswered(error),
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
                Err(error) if marked && !reached && crate::db::fault::lacks_mark(&error) => {
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

    async fn is_in_transaction(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        // Outside of one each statement begins at the time of its own transaction. A question that fails there would leave its error to
        // the next statement, if it is dropped.
        let sql = "SELECT transaction_timestamp() <> statement_timestamp()";
        connection.fetch_one(sqlx::raw_sql(sql)).await?.try_get(0)
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

    async fn set_lock_timeout(
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
        .bind(milliseconds(timeout).to_string())
        .fetch_one(connection)
        .await
        .map(Some)
    }

    async fn restore_lock_timeout(
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

    fn restore_lock_timeout_soon(_: &mut PgConnection, _: String) {
        // It is for the transaction only.
    }

    fn rows_affected(result: &PgQueryResult) -> u64 {
        result.rows_affected()
    }

    fn bind_i64(arguments: &mut PgArguments, value: i64) -> Result<(), BoxDynError> {
        arguments.add(value)
    }

    fn bind_null(arguments: &mut PgArguments) -> Result<(), BoxDynError> {
        arguments.add(None::<i64>)
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
                    // Zero has the weight that its digits had; those that are no number have a sign of their own.
                    let (head, digits) = bytes.split_at_mut(8);
                    if matches!(head[4], 0x00 | 0x40) && digits.iter().all(|digit| *digit == 0) {
                        head.fill(0);
                        bytes.truncate(8);
                    }
                }
                Encoded::Bytes(bytes)
            }
            Err(_) => Encoded::Not,
        }
    }

    fn bind_rows(
        arguments: &mut PgArguments,
        _: usize,
        columns: &[Array],
    ) -> Result<(), BoxDynError> {
        columns.iter().try_for_each(|column| match column {
            Array::Integers(values) => arguments.add(values),
            Array::Floats(values) => arguments.add(values),
            Array::Texts(values) => arguments.add(values),
        })
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

    fn get_i64s(
        row: &PgRow,
        index: usize,
        numbers: &mut Vec<Option<i64>>,
    ) -> Result<(), sqlx::Error> {
        numbers.append(&mut row.try_get_unchecked(index)?);
        Ok(())
    }

    fn abandon_statement(connection: &mut PoolConnection<Self>) {
        connection.close_on_drop();
    }

    type Cells = PgCells;
    type Raw = PgRaw;
    const WAITING_BRIEFLY: &'static str =
        " AND (SELECT set_config('lock_timeout', '20', true)) IS NOT NULL";

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

    fn holds_null(row: &PgRow, index: usize) -> Result<bool, sqlx::Error> {
        Ok(row.try_get_raw(index)?.is_null())
    }

    fn raw_bytes(value: &PgRaw) -> &[u8] {
        &value.bytes
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
        _: bool,
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

    async fn read_schema(_: &mut PgConnection) -> bool {
        false
    }

    async fn lacks_unique_index(
        _: &mut PgConnection,
        error: &sqlx::Error,
        _: IndexedColumns,
    ) -> bool {
        crate::db::fault::lacks_arbiter(error)
    }
}

/// What limits a transaction that begins inside another one.
fn limits_inside(begin: &Begin) -> Vec<(&'static str, Duration)> {
    let statement = begin.statement_timeout.into_iter().chain(begin.left).min();
    let lock = begin.lock_timeout.map(|limit| ("lock_timeout", limit));
    let statement = statement.map(|limit| ("statement_timeout", limit));
    lock.into_iter().chain(statement).collect()
}

/// Sets the limit where it is not stricter already; 0 is none.
fn unless_stricter(name: &str, limit: Duration) -> String {
    let limit = milliseconds(limit);
    format!(
        "; SELECT set_config('{name}', '{limit}', true) \
         WHERE current_setting('{name}')::interval \
         NOT BETWEEN interval '1 us' AND {limit} * interval '1 ms'"
    )
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
pub(super) struct OfTheColumn<'v, T>(pub(super) &'v T);

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
