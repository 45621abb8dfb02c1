//! Statements about many rows that waited for a concurrent update of them: each row is still theirs.
//!
//! In READ COMMITTED PostgreSQL locks the new version of such a row, and runs the rest of the join again for it (EvalPlanQual). A list of keys that
//! it runs again as well has another first key then, and the row is left out.

use rowlock::queue::{Claimed, QueueState, Unfinished};
use rowlock::{Counter, Fence, Lockable, Queue, Versioned};
use rowlock_tests::proxy::Proxy;
use sqlx::{Executor, Row as _};

use super::{Connection, Database, PoolOptions, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable, Counter)]
#[rowlock(table = "things")]
struct Thing {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
    #[rowlock(counter(min = 0))]
    bounded: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "things", existing_rows)]
struct Existing {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
    #[rowlock(counter(min = 0))]
    bounded: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "things")]
struct Whole {
    #[rowlock(key)]
    id: i64,
    free: i64,
    #[rowlock(version)]
    attempts: i32,
}

/// Rows that are there once a gate is open.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "gated")]
struct Gated {
    #[rowlock(key)]
    id: i64,
}

#[derive(Debug, Clone, sqlx::FromRow, Queue)]
#[rowlock(table = "things")]
struct Task {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// The same with a key of two columns, whose statements are others.
#[derive(Debug, Clone, sqlx::FromRow, Queue)]
#[rowlock(table = "things")]
struct PartTask {
    #[rowlock(key)]
    id: i64,
    #[rowlock(key)]
    part: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// So many rows that each key is looked up in the index, which is the plan that loses rows.
const THINGS: &str = "CREATE TABLE things (id bigint UNIQUE, part bigint NOT NULL DEFAULT 0, free bigint NOT NULL DEFAULT 0,
        bounded bigint NOT NULL DEFAULT 10, note bigint NOT NULL DEFAULT 0,
        run_at timestamptz NOT NULL DEFAULT now(), state text NOT NULL DEFAULT 'done', attempts int NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0, leased_until timestamptz, PRIMARY KEY (id, part));
    INSERT INTO things (id) SELECT i FROM generate_series(1, 30000) i;
    ANALYZE things;
    CREATE FUNCTION gate(id bigint) RETURNS bool STABLE LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(''things''::regclass::oid::int, 0); RETURN true; END';
    CREATE VIEW gated AS SELECT * FROM things WHERE gate(id)";

const KEYS: [i64; 3] = [1, 2, 3];

/// The rows of `KEYS`, updated in a transaction that is open.
async fn updated(database: &Database) -> Connection {
    let mut holder = database.connection().await;
    let update = "BEGIN; UPDATE things SET note = note + 1 WHERE id <= 3";
    holder.execute(update).await.unwrap();
    holder
}

/// What comes of `work` if it has to wait for an update, which commits.
async fn after_an_update<T: Send + 'static>(
    database: &Database,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let mut holder = updated(database).await;
    let work = tokio::spawn(work);
    database.until_blocked().await;
    holder.execute("COMMIT").await.unwrap();
    work.await.unwrap()
}

/// The text without MATERIALIZED: PostgreSQL makes the list a part of the join, and reads it again from its beginning.
#[tokio::test]
async fn naive_twin_of_a_lock_that_waited_loses_rows() {
    let database = database(THINGS).await;
    let pool = database.pool.clone();
    let locked: Vec<i64> = after_an_update(&database, async move {
        let sql = "WITH given (k, n) AS (SELECT id, NULL::bigint FROM things WHERE false UNION ALL
                SELECT * FROM unnest((SELECT $1::bigint[])) WITH ORDINALITY)
            SELECT things.id FROM things JOIN given ON things.id = given.k ORDER BY k FOR UPDATE OF things";
        let locked = sqlx::query(sql).bind(&KEYS[..]).fetch_all(&pool).await;
        locked.unwrap().iter().map(|row| row.get(0)).collect()
    })
    .await;
    assert!(locked.len() < KEYS.len(), "{locked:?}");
}

#[tokio::test]
async fn a_lock_of_many_rows_that_waited_for_an_update_has_them_all() {
    let database = database(THINGS).await;
    for how in ["plain", "no_key", "share"] {
        let pool = database.pool.clone();
        let locked = after_an_update(&database, async move {
            let mut tx = pool.begin().await.unwrap();
            let lock = Thing::lock_many(&mut tx, KEYS);
            let locked: Vec<i64> = match how {
                "plain" => lock
                    .await
                    .map(|rows| rows.iter().map(|row| row.id).collect()),
                "no_key" => lock
                    .no_key()
                    .await
                    .map(|rows| rows.iter().map(|row| row.id).collect()),
                _ => lock
                    .share()
                    .await
                    .map(|rows| rows.iter().map(|row| row.id).collect()),
            }
            .unwrap_or_else(|error| panic!("{how}: {error:?}"));
            locked
        });
        assert_eq!(locked.await, KEYS, "{how}");
    }
}

/// It waits for no lock of a row, so that the update must have committed after the statement began: the gate keeps it there.
#[tokio::test]
async fn a_lock_that_skips_has_the_rows_that_were_updated_meanwhile() {
    let database = database(THINGS).await;
    let mut gate = database.connection().await;
    let close = "SELECT pg_advisory_lock('things'::regclass::oid::int, 0)";
    gate.execute(close).await.unwrap();
    let pool = database.pool.clone();
    let locked = tokio::spawn(async move {
        let mut tx = pool.begin().await.unwrap();
        let locked = Gated::lock_many(&mut tx, KEYS).skip_locked().await.unwrap();
        locked.iter().map(|row| row.id).collect::<Vec<_>>()
    });
    database.until_blocked().await;
    updated(&database).await.execute("COMMIT").await.unwrap();
    gate.execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    assert_eq!(locked.await.unwrap(), KEYS);
}

#[tokio::test]
async fn a_batch_of_a_counter_that_waited_for_an_update_adds_to_all_rows() {
    let database = database(THINGS).await;
    let each = |number: i64| KEYS.map(move |key| (key, number));
    let mixed = [(1, 1), (2, -1), (3, 1)];
    macro_rules! adds {
        ($add:expr, $deltas:expr, $expected:expr) => {
            let (pool, deltas) = (database.pool.clone(), $deltas);
            let totals = after_an_update(&database, async move { $add(&pool, deltas).await });
            assert_eq!(totals.await.unwrap(), $expected, stringify!($add));
        };
    }
    adds!(Thing::add_free_many, each(1), each(1));
    adds!(Existing::add_free_many, each(1), each(2));
    adds!(Existing::add_free_many, each(-1), each(1));
    adds!(Thing::add_bounded_many, each(1), each(11));
    // No row can start with this, and then one cannot.
    adds!(Thing::add_bounded_many, each(-1), each(10));
    adds!(Thing::add_bounded_many, mixed, [(1, 11), (2, 9), (3, 11)]);
    adds!(
        Existing::add_bounded_many,
        mixed,
        [(1, 12), (2, 8), (3, 12)]
    );
}

/// What was left out would be written row by row, in no order.
#[tokio::test]
async fn whole_rows_that_waited_for_an_update_are_one_statement() {
    let database = database(THINGS).await;
    let proxy = Proxy::start(&super::address()).await;
    let pool = database.pool_through(&proxy, PoolOptions::new()).await;
    for deletes in [false, true] {
        let mut connection = pool.acquire().await.unwrap();
        let loaded = Whole::load_many(&mut *connection, KEYS).await.into_iter();
        let rows: Vec<Whole> = loaded.collect::<Result<_, _>>().unwrap();
        // A statement is prepared in a trip of its own.
        let missing = [-1, -2].map(|id| Whole {
            id,
            ..rows[0].clone()
        });
        Whole::update_many(&mut *connection, &missing).await;
        Whole::delete_many(&mut *connection, &missing).await;
        proxy.reset();
        // The connection comes back with it: a pool would ping it.
        let written = after_an_update(&database, async move {
            let all = match deletes {
                true => {
                    let deleted = Whole::delete_many(&mut *connection, &rows).await;
                    deleted.iter().all(Result::is_ok)
                }
                false => {
                    let updated = Whole::update_many(&mut *connection, &rows).await;
                    updated.iter().all(Result::is_ok)
                }
            };
            (all, connection)
        });
        let (all, _connection) = written.await;
        assert!(all, "{deletes}");
        assert_eq!(proxy.round_trips(), 1, "{deletes}");
    }
}

/// Each `…_many` of a queue, as a job of `$model`.
macro_rules! finishes_all {
    ($database:expr, $model:ident) => {
        for method in ["complete", "retry", "fail", "snooze", "release", "extend"] {
            let pool = $database.pool.clone();
            let due =
                "UPDATE things SET state = 'ready', run_at = now(), attempts = 0 WHERE id <= 3";
            pool.execute(due).await.unwrap();
            let mut batch = $model::claim(&pool, 3).await.unwrap();
            assert_eq!(batch.len(), KEYS.len());
            let unfinished = after_an_update(&$database, async move {
                let soon = std::time::Duration::from_secs(9);
                let unfinished: Vec<Unfinished<$model>> = match method {
                    "complete" => Claimed::complete_many(&pool, batch).await,
                    "retry" => {
                        Claimed::retry_many(&pool, batch.into_iter().map(|job| (job, "no"))).await
                    }
                    "fail" => {
                        Claimed::fail_many(&pool, batch.into_iter().map(|job| (job, "no"))).await
                    }
                    "snooze" => Claimed::snooze_many(&pool, batch, soon).await,
                    "release" => Claimed::release_many(&pool, batch).await,
                    _ => Claimed::extend_many(&pool, &mut batch, soon).await,
                }
                .unwrap();
                unfinished
            });
            let unfinished = unfinished.await;
            assert!(unfinished.is_empty(), "{method}_many: {unfinished:?}");
            let state = match method {
                "complete" => "done",
                "fail" => "dead",
                "extend" => "running",
                _ => "ready",
            };
            let written = "SELECT count(*) FROM things WHERE id <= 3 AND state = $1";
            let written: i64 = sqlx::query_scalar(written)
                .bind(state)
                .fetch_one(&$database.pool)
                .await
                .unwrap();
            assert_eq!(written, 3, "{method}_many");
        }
    };
}

#[tokio::test]
async fn a_batch_of_a_queue_that_waited_for_an_update_finishes_all_rows() {
    let database = database(THINGS).await;
    finishes_all!(database, Task);
    finishes_all!(database, PartTask);
}
