//! The life of a queue's table: what has ended is deleted, or begins again, and how it stands.

use std::time::Duration;

use rowlock::__private::queue::{PurgeSql, QueueSql};
use rowlock::queue::{QueueState, QueueStats};
use rowlock::{Fault, Fence, Queue};
use sqlx::{AssertSqlSafe, Connection as _, Executor, Row};

use super::{Db, NAME, Pool, database};

pub(super) type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
pub(super) struct Email {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    tenant: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    last_error: Option<String>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

/// The states of a table's own enum, and a key of two columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "progress", rename_all = "UPPERCASE")]
enum Progress {
    Waiting,
    Working,
    Finished,
    Dead,
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Render {
    #[rowlock(key, filter)]
    tenant: i64,
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Option<Timestamp>,
    #[rowlock(state(
        ready = "WAITING",
        running = "WORKING",
        done = "FINISHED",
        dead = "DEAD"
    ))]
    state: Progress,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

/// So long before now, as SQL; on SQLite in the form that the clock of the database has, or in that of sqlx.
fn ago(hours: i64, by_sqlx: bool) -> String {
    match (NAME, by_sqlx) {
        ("PostgreSQL", _) => format!("now() - interval '{hours} hours'"),
        (_, false) => format!("strftime('%Y-%m-%d %H:%M:%f', 'now', '-{hours} hours')"),
        (_, true) => format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-{hours} hours')"),
    }
}

/// A table of jobs whose states have this type.
pub(super) async fn jobs(ty: &str, ready: &str) -> super::Database {
    let (time, enumeration) = match NAME {
        "PostgreSQL" => (
            "timestamptz",
            "CREATE TYPE progress AS ENUM ('WAITING', 'WORKING', 'FINISHED', 'DEAD');",
        ),
        _ => ("text", ""),
    };
    let schema = format!(
        "{enumeration} CREATE TABLE jobs (id bigint NOT NULL, tenant bigint NOT NULL DEFAULT 1, run_at {time} DEFAULT CURRENT_TIMESTAMP,
             state {ty} NOT NULL DEFAULT '{ready}', attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until {time},
             finished_at {time}, last_error text, PRIMARY KEY (tenant, id), UNIQUE (id))"
    );
    database(&schema).await
}

/// Jobs from this id to that one, in this state, which ended so many hours ago.
pub(super) async fn ended(
    pool: &Pool,
    ids: std::ops::RangeInclusive<i64>,
    state: &str,
    hours: i64,
) {
    let rows = ids.map(|id| format!("({id}, '{state}', {})", ago(hours, id % 2 == 0)));
    let rows = rows.collect::<Vec<_>>().join(", ");
    run(
        pool,
        &format!("INSERT INTO jobs (id, state, finished_at) VALUES {rows}"),
    )
    .await;
}

pub(super) async fn run(pool: &Pool, sql: &str) {
    pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

pub(super) async fn ids(pool: &Pool, condition: &str) -> Vec<i64> {
    let sql = format!("SELECT id FROM jobs WHERE {condition} ORDER BY id");
    let ids = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool);
    ids.await.unwrap()
}

pub(super) const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_purge_deletes_what_was_done_long_enough_ago() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=4, "done", 3).await;
    ended(pool, 5..=6, "done", 1).await;
    ended(pool, 7..=8, "dead", 3).await;
    // These did not end, whatever the time says; that one did, and nobody knows when.
    ended(pool, 9..=9, "ready", 3).await;
    ended(pool, 10..=10, "running", 3).await;
    run(pool, "INSERT INTO jobs (id, state) VALUES (11, 'done')").await;
    assert_eq!(Email::purge(pool, HOUR * 4).await.unwrap(), 0);
    assert_eq!(Email::purge(pool, HOUR * 2).await.unwrap(), 4);
    assert_eq!(ids(pool, "true").await, [5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(Email::purge(pool, HOUR * 2).dead().await.unwrap(), 2);
    assert_eq!(ids(pool, "true").await, [5, 6, 9, 10, 11]);
    // Longer than any clock goes back.
    assert_eq!(Email::purge(pool, Duration::MAX).await.unwrap(), 0);
    assert_eq!(Email::purge(pool, Duration::ZERO).await.unwrap(), 2);
}

/// States of an enum, a key of two columns.
#[tokio::test]
async fn a_purge_of_other_states() {
    let ty = if NAME == "PostgreSQL" {
        "progress"
    } else {
        "text"
    };
    let database = jobs(ty, "WAITING").await;
    let pool = &database.pool;
    run(pool, "INSERT INTO jobs (id) VALUES (1), (2), (3)").await;
    let mut jobs = Render::claim(pool, 2).await.unwrap();
    jobs.pop().unwrap().fail(pool, "never").await.unwrap();
    jobs.pop().unwrap().complete(pool).await.unwrap();
    assert_eq!(Render::purge(pool, HOUR).dead().await.unwrap(), 0);
    assert_eq!(Render::purge(pool, Duration::ZERO).await.unwrap(), 1);
    assert_eq!(Render::purge(pool, Duration::ZERO).dead().await.unwrap(), 1);
    assert_eq!(ids(pool, "true").await, [3]);
}

/// Each statement deletes so many, and the statements end.
#[tokio::test]
async fn a_purge_is_made_of_batches() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    for (count, batch) in [(10, 3), (9, 3), (1, 1), (3, 1), (3, 0), (2500, 1000)] {
        ended(pool, 1..=count, "done", 3).await;
        let purged = Email::purge(pool, HOUR).batch(batch).await.unwrap();
        assert_eq!(purged, count as u64, "batches of {batch}");
        assert!(ids(pool, "true").await.is_empty());
    }
    ended(pool, 1..=5, "done", 3).await;
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(Email::purge(&mut *tx, HOUR).batch(2).await.unwrap(), 5);
    tx.rollback().await.unwrap();
    assert_eq!(ids(pool, "true").await.len(), 5);
}

/// Other rows refer to some of the jobs.
#[tokio::test]
async fn a_row_that_cannot_be_deleted_keeps_no_other() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=100, "done", 3).await;
    run(
        pool,
        "CREATE TABLE receipts (job bigint NOT NULL REFERENCES jobs (id)); INSERT INTO receipts VALUES (2), (50)",
    )
    .await;
    // By hand it deletes none. Its locks can outlive its error, but not the next statement of its connection.
    let mut other = pool.acquire().await.unwrap();
    let by_hand = other.execute("DELETE FROM jobs WHERE state = 'done'").await;
    assert_eq!(Fault::of(&by_hand.unwrap_err()), Fault::ForeignKeyViolation);
    other.execute("SELECT 1").await.unwrap();
    drop(other);
    assert_eq!(ids(pool, "true").await.len(), 100);
    let error = Email::purge(pool, HOUR).batch(7).await.unwrap_err();
    assert_eq!(error.fault(), Fault::ForeignKeyViolation, "{error}");
    assert!(error.to_string().contains("purge"), "{error}");
    assert_eq!(ids(pool, "true").await, [2, 50]);
    // Also if there is nothing else, and one row at a time.
    run(pool, "INSERT INTO receipts SELECT 2").await;
    ended(pool, 200..=200, "done", 3).await;
    let error = Email::purge(pool, HOUR).batch(1).await.unwrap_err();
    assert_eq!(error.fault(), Fault::ForeignKeyViolation, "{error}");
    assert_eq!(ids(pool, "true").await, [2, 50]);
    run(pool, "DELETE FROM receipts").await;
    assert_eq!(Email::purge(pool, HOUR).await.unwrap(), 2);
}

/// More rows that cannot be deleted than a statement names.
#[tokio::test]
async fn many_rows_that_cannot_be_deleted() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=120, "done", 3).await;
    run(
        pool,
        "CREATE TABLE receipts (job bigint NOT NULL REFERENCES jobs (id)); INSERT INTO receipts SELECT id FROM jobs WHERE id <= 60",
    )
    .await;
    let error = Email::purge(pool, HOUR).batch(50).await.unwrap_err();
    assert_eq!(error.fault(), Fault::ForeignKeyViolation, "{error}");
    assert_eq!(ids(pool, "true").await, (1..=60).collect::<Vec<_>>());
}

/// Nobody is told of a delete that a trigger drops.
#[tokio::test]
async fn a_row_that_a_trigger_keeps_keeps_no_other() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=20, "done", 3).await;
    let trigger = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER keep BEFORE DELETE ON jobs FOR EACH ROW WHEN (OLD.id <= 6) EXECUTE FUNCTION keep()"
        }
        _ => "CREATE TRIGGER keep BEFORE DELETE ON jobs WHEN OLD.id <= 6 BEGIN SELECT RAISE(IGNORE); END",
    };
    run(pool, trigger).await;
    let error = Email::purge(pool, HOUR).batch(3).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Raised, "{error}");
    assert_eq!(ids(pool, "true").await, [1, 2, 3, 4, 5, 6]);
}

/// A batch does not read the table from its beginning.
#[tokio::test]
async fn a_purge_finds_old_rows_by_the_index_of_the_page() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=3000, "done", 1).await;
    ended(pool, 3001..=3010, "done", 3).await;
    let (time, explain, column) = match NAME {
        "PostgreSQL" => ("finished_at", "EXPLAIN", 0),
        _ => ("julianday(finished_at)", "EXPLAIN QUERY PLAN", 3),
    };
    let index = format!("CREATE INDEX jobs_done ON jobs ({time}) WHERE state = 'done'; ANALYZE");
    // On this connection: SQLite's EXPLAIN does not look whether another one has changed the schema.
    let mut connection = pool.acquire().await.unwrap();
    connection.execute(AssertSqlSafe(index)).await.unwrap();
    let [[head, tail], _] = <Email as PurgeSql<Db>>::PURGE;
    let sql = AssertSqlSafe(format!("{explain} {head}{tail}"));
    let plan = sqlx::query(sql).bind(1000_i64).bind(7200.0_f64);
    let plan = plan.fetch_all(&mut *connection).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(column)).collect();
    assert!(plan.concat().contains("jobs_done"), "{plan:#?}");
    assert_eq!(Email::purge(pool, HOUR * 2).await.unwrap(), 10);
}

#[tokio::test]
async fn a_purge_that_is_dropped_has_deleted_whole_batches() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=100, "done", 3).await;
    for polls in 1.. {
        let purge = std::future::IntoFuture::into_future(Email::purge(pool, HOUR).batch(10));
        let ended = rowlock_tests::cancel::polled(polls, purge).await;
        let left = ids(pool, "true").await.len();
        assert_eq!(left % 10, 0);
        if ended.is_some() {
            break;
        }
    }
    // Nothing is left behind on the connections.
    assert_eq!(database.open_transactions().await, 0);
    // A statement that was sent goes on, and its rows are locked until it ends.
    while !ids(pool, "true").await.is_empty() {
        Email::purge(pool, HOUR).await.unwrap();
    }
}

async fn count(pool: &Pool, condition: &str) -> usize {
    ids(pool, condition).await.len()
}

#[tokio::test]
async fn dead_jobs_begin_again() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    run(
        pool,
        "INSERT INTO jobs (id, attempts) VALUES (1, 2), (2, 0), (3, 0)",
    )
    .await;
    let mut old = Email::claim(pool, 3).await.unwrap();
    old.sort_by_key(|job| job.id);
    let fences: Vec<Fence> = old.iter().map(|job| job.fence).collect();
    old.pop().unwrap().complete(pool).await.unwrap();
    for job in old {
        job.fail(pool, "the server is down").await.unwrap();
    }
    let none = Email::redrive(pool).only(Email::TENANT, 2).await.unwrap();
    assert_eq!((none.ready, none.refused), (0, 0));
    assert!(Email::claim(pool, 3).await.unwrap().is_empty());
    let redriven = Email::redrive(pool).only(Email::TENANT, 1).await.unwrap();
    assert_eq!((redriven.ready, redriven.refused), (2, 0));
    // As new, but for the error and the fence.
    let as_new = "state = 'ready' AND attempts = 0 AND finished_at IS NULL AND last_error = 'the server is down'";
    assert_eq!(ids(pool, as_new).await, [1, 2]);
    let mut new = Email::claim(pool, 3).await.unwrap();
    new.sort_by_key(|job| job.id);
    assert_eq!(new.len(), 2);
    for (job, old) in new.into_iter().zip(fences) {
        assert!(job.fence > old);
        job.complete(pool).await.unwrap();
    }
    assert_eq!(Email::redrive(pool).await.unwrap().ready, 0);
    assert_eq!(count(pool, "state = 'done'").await, 3);
}

/// Those first that were due first.
#[tokio::test]
async fn so_many_dead_jobs_begin_again() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=5, "dead", 1).await;
    let early = format!(
        "UPDATE jobs SET run_at = {} WHERE id IN (2, 4)",
        ago(9, false)
    );
    run(pool, &early).await;
    assert_eq!(Email::redrive(pool).limit(0).await.unwrap().ready, 0);
    assert_eq!(Email::redrive(pool).limit(2).await.unwrap().ready, 2);
    assert_eq!(ids(pool, "state = 'ready'").await, [2, 4]);
    assert_eq!(Email::redrive(pool).limit(9).await.unwrap().ready, 3);
}

#[tokio::test]
async fn dead_jobs_of_other_states_begin_again() {
    let ty = if NAME == "PostgreSQL" {
        "progress"
    } else {
        "text"
    };
    let database = jobs(ty, "WAITING").await;
    let pool = &database.pool;
    run(
        pool,
        "INSERT INTO jobs (id, tenant, run_at) VALUES (1, 1, NULL), (2, 2, NULL), (3, 1, NULL)",
    )
    .await;
    for job in Render::claim(pool, 3).await.unwrap() {
        job.fail(pool, "never").await.unwrap();
    }
    let redrive = Render::redrive(pool).only(Render::TENANT, 1).limit(9);
    assert_eq!(redrive.await.unwrap().ready, 2);
    assert_eq!(
        ids(pool, "state = 'WAITING' AND run_at IS NOT NULL").await,
        [1, 3]
    );
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(Render::redrive(&mut *tx).await.unwrap().ready, 1);
    tx.rollback().await.unwrap();
    assert_eq!(ids(pool, "state = 'DEAD'").await, [2]);
}

/// A job may wait once.
#[tokio::test]
async fn a_row_that_may_not_be_ready_keeps_no_other() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    run(
        pool,
        "CREATE UNIQUE INDEX once ON jobs (tenant, last_error) WHERE state = 'ready'",
    )
    .await;
    ended(pool, 1..=6, "dead", 1).await;
    run(
        pool,
        "UPDATE jobs SET last_error = id; UPDATE jobs SET last_error = '1' WHERE id = 5",
    )
    .await;
    run(pool, "INSERT INTO jobs (id, last_error) VALUES (7, '2')").await;
    // By hand none is.
    let by_hand = "UPDATE jobs SET state = 'ready', attempts = 0 WHERE state = 'dead'";
    let mut connection = pool.acquire().await.unwrap();
    let by_hand = connection.execute(by_hand).await.unwrap_err();
    assert_eq!(Fault::of(&by_hand), Fault::UniqueViolation);
    // The error comes before the end of the transaction, which holds the locks of its rows until then.
    connection.ping().await.unwrap();
    drop(connection);
    assert_eq!(count(pool, "state = 'dead'").await, 6);
    // In a transaction it is an error, and nothing is written.
    let mut tx = pool.begin().await.unwrap();
    let error = Email::redrive(&mut *tx).await.unwrap_err();
    assert_eq!(error.fault(), Fault::UniqueViolation);
    tx.rollback().await.unwrap();
    let redriven = Email::redrive(pool).await.unwrap();
    assert_eq!((redriven.ready, redriven.refused), (4, 2));
    let dead = ids(pool, "state = 'dead'").await;
    assert_eq!(
        (dead.len(), dead[0]),
        (2, if dead.contains(&1) { 1 } else { 2 })
    );
    assert!(dead.contains(&2), "{dead:?}");
    assert_eq!(Email::redrive(pool).await.unwrap().refused, 2);
}

#[tokio::test]
async fn stats_count_what_has_not_ended_well() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    assert_eq!(Email::stats(pool).await.unwrap(), QueueStats::default());
    // Ready: due for three hours and for five, in the future; done: two.
    let insert = format!(
        "INSERT INTO jobs (id, run_at) VALUES (1, {}), (2, {}), (3, {}); INSERT INTO jobs (id, tenant) VALUES (4, 2)",
        ago(3, true),
        ago(5, false),
        ago(-1, true)
    );
    run(pool, &insert).await;
    ended(pool, 10..=11, "done", 1).await;
    let stats = Email::stats(pool).await.unwrap();
    assert_eq!((stats.ready, stats.due), (4, 3), "{stats:?}");
    let oldest = stats.oldest_due.unwrap();
    assert!(oldest > HOUR * 4 && oldest < HOUR * 6, "{oldest:?}");
    assert_eq!((stats.running, stats.overdue, stats.dead), (0, 0, 0));
    // Of one tenant.
    let held = Email::claim(pool, 1).only(Email::TENANT, 2).await.unwrap();
    let stats = Email::stats(pool).only(Email::TENANT, 2).await.unwrap();
    assert_eq!((stats.ready, stats.due, stats.oldest_due), (0, 0, None));
    assert_eq!((stats.running, stats.overdue), (1, 0), "{stats:?}");
    let over = Email::claim(pool, 2).lease(Duration::ZERO).await.unwrap();
    assert_eq!(over.len(), 2);
    ended(pool, 20..=22, "dead", 1).await;
    let stats = Email::stats(pool).await.unwrap();
    assert_eq!((stats.ready, stats.due, stats.oldest_due), (1, 0, None));
    assert_eq!((stats.running, stats.overdue, stats.dead), (3, 2, 3));
    drop(held);
}

/// A job whose time is NULL is due, and nobody knows since when.
#[tokio::test]
async fn stats_of_other_states() {
    let ty = if NAME == "PostgreSQL" {
        "progress"
    } else {
        "text"
    };
    let database = jobs(ty, "WAITING").await;
    let pool = &database.pool;
    run(
        pool,
        "INSERT INTO jobs (id, tenant, run_at) VALUES (1, 1, NULL), (2, 2, NULL)",
    )
    .await;
    let stats = Render::stats(pool).await.unwrap();
    assert_eq!((stats.ready, stats.due), (2, 2));
    assert_eq!(stats.oldest_due, Some(Duration::ZERO));
    for job in Render::claim(pool, 1).await.unwrap() {
        job.fail(pool, "never").await.unwrap();
    }
    let late = format!("UPDATE jobs SET run_at = {}", ago(2, true));
    run(pool, &late).await;
    let stats = Render::stats(pool).await.unwrap();
    assert_eq!((stats.ready, stats.due, stats.dead), (1, 1, 1));
    // As a number of days SQLite has it to some microseconds.
    assert!(stats.oldest_due.unwrap() > HOUR);
}

/// It reads the indexes of the table, however many rows are done.
#[tokio::test]
async fn stats_do_not_read_what_is_done() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    let mut connection = pool.acquire().await.unwrap();
    let sql = "INSERT INTO jobs (id, state) WITH RECURSIVE all_ids (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM all_ids WHERE id < 20000)
        SELECT id, CASE WHEN id <= 9 THEN 'ready' WHEN id <= 19 THEN 'running' WHEN id <= 29 THEN 'dead' ELSE 'done' END FROM all_ids";
    connection.execute(sql).await.unwrap();
    connection.execute(Email::ddl::<Db>()).await.unwrap();
    connection.execute("ANALYZE").await.unwrap();
    let (explain, column) = match NAME {
        "PostgreSQL" => ("EXPLAIN", 0),
        _ => ("EXPLAIN QUERY PLAN", 3),
    };
    let sql = <Email as QueueSql<Db>>::STATS.concat();
    let plan = sqlx::query(AssertSqlSafe(format!("{explain} {sql}")));
    let plan = plan.fetch_all(&mut *connection).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(column)).collect();
    for index in [
        "jobs_rowlock_claim",
        "jobs_rowlock_running",
        "jobs_rowlock_dead",
    ] {
        assert!(plan.iter().any(|line| line.contains(index)), "{plan:#?}");
    }
    assert!(!plan.concat().contains("Seq Scan"), "{plan:#?}");
    let stats = Email::stats(&mut *connection).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.dead), (9, 10, 10));
}

#[tokio::test]
async fn each_function_can_be_spawned() {
    let database = jobs("text", "ready").await;
    let pool = database.pool.clone();
    tokio::spawn(async move {
        Email::purge(&pool, HOUR).dead().batch(7).await.unwrap();
        let redrive = Email::redrive(&pool).only(Email::TENANT, 1).limit(7);
        redrive.await.unwrap();
        Email::stats(&pool).only(Email::TENANT, 1).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        Email::purge(&mut *connection, HOUR).await.unwrap();
        let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
        Email::purge(&mut *tx, HOUR).await.unwrap();
        drop(tx);
        let run = rowlock::transaction(&pool).run(async |tx| {
            Email::purge(&mut *tx, HOUR).await?;
            Email::redrive(&mut *tx).await?;
            Email::stats(&mut *tx).await?;
            Ok::<_, rowlock::Error>(())
        });
        run.await.unwrap();
    })
    .await
    .unwrap();
}
