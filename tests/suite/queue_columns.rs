//! Columns of a queue that are not as usual: a filter that can be NULL, a state of another type.

use chrono::{DateTime, Utc};
use rowlock::queue::{Claimed, QueueState};
use rowlock::{Counter, Fence, Queue};
use sqlx::Executor;

use super::{NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    tenant: Option<i64>,
    #[rowlock(filter)]
    kind: Option<String>,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 2))]
    attempts: i16,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<DateTime<Utc>>,
}

const JOBS: &str = "CREATE TABLE jobs (id bigint PRIMARY KEY, tenant bigint, kind text, run_at timestamptz NOT NULL,
        state text NOT NULL DEFAULT 'ready', attempts smallint NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0,
        lease timestamptz);
    INSERT INTO jobs (id, tenant, kind, run_at) VALUES (1, NULL, NULL, '2020-01-01 00:00:00'), (2, 7, NULL, '2020-01-01 00:00:00'),
        (3, NULL, 'mail', '2020-01-01 00:00:00'), (4, 7, 'mail', '2020-01-01 00:00:00')";

async fn claim(pool: &Pool, tenant: Option<i64>, kind: Option<&str>) -> Vec<i64> {
    let claimed = Job::claim(pool, 9)
        .only(Job::TENANT, tenant)
        .only(Job::KIND, kind.map(str::to_owned))
        .await
        .unwrap();
    let ids = claimed.iter().map(|job| job.id).collect();
    for job in claimed {
        job.release(pool).await.unwrap();
    }
    ids
}

/// Nothing equals NULL: with `= NULL` there is nothing to claim, ever.
#[tokio::test]
async fn only_none_claims_the_rows_without_a_value() {
    let database = database(JOBS).await;
    let pool = &database.pool;
    assert_eq!(claim(pool, None, None).await, [1]);
    assert_eq!(claim(pool, Some(7), None).await, [2]);
    assert_eq!(claim(pool, None, Some("mail")).await, [3]);
    assert_eq!(claim(pool, Some(7), Some("mail")).await, [4]);
    let any = Job::claim(pool, 9).only(Job::TENANT, None).await.unwrap();
    assert_eq!(any.iter().map(|job| job.id).collect::<Vec<_>>(), [1, 3]);
}

/// A type of PostgreSQL, and a text on SQLite.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "task_state", rename_all = "lowercase")]
enum State {
    Ready,
    Running,
    Done,
    Dead,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "tasks")]
struct Task {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: State,
    #[rowlock(attempts(max = 2))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<DateTime<Utc>>,
    #[rowlock(finished)]
    finished: Option<DateTime<Utc>>,
    #[rowlock(last_error)]
    error: Option<String>,
}

/// Each way for a row to change its state.
#[tokio::test]
async fn a_state_can_be_an_enum_of_the_database() {
    let (ty, of_ty) = match NAME {
        "SQLite" => ("text", ""),
        _ => (
            "task_state",
            "CREATE TYPE task_state AS ENUM ('ready', 'running', 'done', 'dead');",
        ),
    };
    let tables = format!(
        "{of_ty} CREATE TABLE tasks (id bigint PRIMARY KEY, run_at timestamptz NOT NULL, state {ty} NOT NULL,
             attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, lease timestamptz, finished timestamptz,
             error text);
         INSERT INTO tasks (id, run_at, state) VALUES (1, '2020-01-01 00:00:00', 'ready'), (2, '2020-01-02 00:00:00', 'ready'),
             (3, '2020-01-03 00:00:00', 'ready'), (4, '2020-01-04 00:00:00', 'ready'), (5, '2020-01-05 00:00:00', 'ready'), (6, '2020-01-06 00:00:00', 'ready')"
    );
    let database = database("").await;
    let pool = &database.pool;
    pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(tables)))
        .await
        .unwrap();
    pool.execute(sqlx::raw_sql(Task::ddl::<super::Db>()))
        .await
        .unwrap();
    let mut tasks = Task::claim(pool, 5).await.unwrap().into_iter();
    let mut next = || -> Claimed<Task> { tasks.next().unwrap() };
    next().complete(pool).await.unwrap();
    next().fail(pool, "broken").await.unwrap();
    next().retry(pool, "later").await.unwrap();
    next().release(pool).await.unwrap();
    let state = async |id: i64| -> State {
        sqlx::query_scalar("SELECT state FROM tasks WHERE id = $1")
            .bind(id)
            .fetch_one(pool)
            .await
            .unwrap()
    };
    assert_eq!(state(1).await, State::Done);
    assert_eq!(state(2).await, State::Dead);
    assert_eq!(state(3).await, State::Ready);
    assert_eq!(state(4).await, State::Ready);
    assert_eq!(state(5).await, State::Running);

    // The fifth has an attempt left, the sixth has none.
    let ended = "UPDATE tasks SET lease = '2020-01-01 00:00:00', state = 'running', attempts = id - 4 WHERE id > 4";
    pool.execute(ended).await.unwrap();
    let rescued = Task::rescue(pool).await.unwrap();
    assert_eq!((rescued.ready, rescued.dead), (1, 1));
    assert_eq!(state(5).await, State::Ready);
    assert_eq!(state(6).await, State::Dead);
}

/// A job that counts what came while it waited and ran.
#[derive(Debug, sqlx::FromRow, Queue, Counter)]
#[rowlock(table = "digests", existing_rows)]
struct Digest {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    events: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<DateTime<Utc>>,
}

/// An addition needs no claim, takes none away, and is not lost to one.
#[tokio::test]
async fn a_queue_can_have_counters() {
    let database = database(
        "CREATE TABLE digests (id bigint PRIMARY KEY, events bigint NOT NULL DEFAULT 0, run_at timestamptz NOT NULL,
             state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, lease timestamptz);
         INSERT INTO digests (id, run_at) VALUES (7, '2020-01-01 00:00:00')",
    )
    .await;
    let pool = &database.pool;
    assert_eq!(Digest::add_events(pool, 7, 2).await.unwrap(), 2);
    let mut batch = Digest::claim(pool, 1).await.unwrap();
    let claimed = batch.remove(0);
    assert_eq!(claimed.events, 2);
    assert_eq!(Digest::add_events(pool, 7, 3).await.unwrap(), 5);
    claimed.release(pool).await.unwrap();
    let mut batch = Digest::claim(pool, 1).await.unwrap();
    let claimed = batch.remove(0);
    assert_eq!((claimed.events, claimed.attempts), (5, 1));
    claimed.complete(pool).await.unwrap();
    let events = Digest::add_events_many(pool, [(7, 1), (7, 1)]).await;
    assert_eq!(events.unwrap(), [(7, 7)]);
}
