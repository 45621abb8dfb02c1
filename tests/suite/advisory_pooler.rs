//! advisory locks behind PgBouncer in transaction mode, where a client has another session for each transaction.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rowlock::Tx;
use rowlock::lock::{AdvisoryLock, AdvisoryLockError, ReleaseError, SessionLock};
use rowlock_tests::pgbouncer::PgBouncer;
use rowlock_tests::postgres::unique_name;
use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::task::JoinSet;

use super::{Database, Db, Pool, PoolOptions, database};

/// Fewer sessions than clients.
const SESSIONS: usize = 3;
const CLIENTS: usize = 12;

const NOTES: &str = "CREATE TABLE notes (name text NOT NULL)";

fn lock() -> AdvisoryLock {
    AdvisoryLock::new(&unique_name())
}

async fn through(pooler: &PgBouncer) -> Pool {
    PoolOptions::new()
        .max_connections(CLIENTS as u32)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(pooler.options())
        .await
        .expect("the pooler accepts connections")
}

/// The pooler passes on no `search_path`.
async fn notes(database: &Database) -> String {
    let schema: String = sqlx::query_scalar("SELECT current_schema()")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    format!("{schema}.notes")
}

async fn until_free(database: &Database, lock: &AdvisoryLock) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lock.is_held(&database.pool).await.unwrap() {
        assert!(Instant::now() < deadline, "somebody holds the lock");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_09_run_and_try_run_exclude_each_other_behind_a_pooler() {
    let database = database(NOTES).await;
    let pooler = PgBouncer::start(SESSIONS);
    let pool = through(&pooler).await;
    let (lock, notes) = (lock(), notes(&database).await);
    let inside = std::sync::Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (pool, lock, notes, inside) =
            (pool.clone(), lock.clone(), notes.clone(), inside.clone());
        clients.spawn(async move {
            let mut ran = 0;
            for _ in 0..20 {
                let body = async |tx: &mut Tx<Db>| {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    let sql = format!("INSERT INTO {notes} SELECT 'n' || count(*) FROM {notes}");
                    let inserted = tx.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    inserted.map(drop)
                };
                let timed = lock.clone().lock_timeout(Duration::from_secs(20));
                ran += match client % 3 {
                    0 => usize::from(lock.try_run(&pool, body).await.unwrap().is_some()),
                    1 => lock.run(&pool, body).await.map(|()| 1).unwrap(),
                    _ => timed.run(&pool, body).await.map(|()| 1).unwrap(),
                };
            }
            ran
        });
    }
    let ran: usize = clients.join_all().await.into_iter().sum();
    // Each saw what all before it had written.
    let (rows, names): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT name) FROM notes")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!((rows, names), (ran as i64, ran as i64));
    assert!(!lock.is_held(&pool).await.unwrap());
}

#[tokio::test]
async fn a_09_the_callers_transaction_timeouts_and_cancellation_work_there() {
    let database = database(NOTES).await;
    let pooler = PgBouncer::start(SESSIONS);
    let pool = through(&pooler).await;
    let lock = lock();
    let timed = lock.clone().lock_timeout(Duration::from_millis(30));
    lock.run(&pool, async |tx| {
        let late = timed.run(&pool, async |_| Ok::<_, sqlx::Error>(())).await;
        assert!(
            matches!(late, Err(AdvisoryLockError::LockTimeout(_))),
            "{late:?}"
        );
        // As often as there are sessions, and more.
        for _ in 0..2 * SESSIONS {
            let wait = lock.run(&pool, async |_| Ok::<_, sqlx::Error>(()));
            let cut = tokio::time::timeout(Duration::from_millis(30), wait).await;
            assert!(cut.is_err());
        }
        let mut other = pool.begin().await?;
        assert!(!lock.try_lock(&mut other).await.unwrap());
        other.rollback().await?;
        assert!(lock.try_lock(&mut *tx).await.unwrap());
        lock.lock(&mut *tx).await.unwrap();
        assert!(lock.is_held(&pool).await.unwrap());
        Ok::<_, sqlx::Error>(())
    })
    .await
    .unwrap();
    until_free(&database, &lock).await;
    let waits: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = $1",
    )
    .bind(lock.key())
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!(waits, 0);
}

/// What the docs say about the statements of users.
#[tokio::test]
async fn a_09_what_sqlx_sends_behind_a_pooler() {
    let pooler = PgBouncer::start(1);
    let cached = pooler.options();
    let uncached = pooler.options().statement_cache_capacity(0);
    // Two clients that share one session; each prepares its first statement under the same name.
    for (options, persistent, works) in [
        (cached.clone(), true, false),
        (uncached, true, false),
        (cached, false, true),
    ] {
        let one_client = || PoolOptions::new().max_connections(1);
        let clients = [
            one_client().connect_with(options.clone()).await.unwrap(),
            one_client().connect_with(options).await.unwrap(),
        ];
        let mut outcomes = Vec::new();
        for (number, client) in (1_i64..).zip(&clients) {
            let outcome = lock()
                .run(client, async |tx| {
                    sqlx::query_scalar::<_, i64>("SELECT $1")
                        .persistent(persistent)
                        .bind(number)
                        .fetch_one(&mut **tx)
                        .await
                })
                .await;
            outcomes.push(outcome.is_ok_and(|answer| answer == number));
        }
        assert_eq!(outcomes.iter().all(|right| *right), works, "{outcomes:?}");
        // The next round has a session without statements.
        clients[0]
            .execute(sqlx::raw_sql("DEALLOCATE ALL"))
            .await
            .unwrap();
    }
}

/// Why `SessionLock` is not for there: the session that has the lock serves others, or none.
#[tokio::test]
async fn a_09_naive_twin_a_session_lock_leaks_and_vanishes() {
    let database = database(NOTES).await;
    let pooler = PgBouncer::start(2);
    let pool = through(&pooler).await;
    let lock = lock();
    let mut one = pool.acquire().await.unwrap();
    let mut other = pool.acquire().await.unwrap();
    let pid = |row: &sqlx::postgres::PgRow| row.get::<i32, _>(0);
    let sql = || {
        let key = lock.key();
        AssertSqlSafe(format!("SELECT pg_backend_pid(), pg_advisory_lock({key})"))
    };
    let holder = pid(&one.fetch_one(sqlx::raw_sql(sql())).await.unwrap());
    // Nobody else is kept out who happens to get the same session: both "hold" it.
    let second = pid(&other.fetch_one(sqlx::raw_sql(sql())).await.unwrap());
    assert_eq!(holder, second);
    // And when both clients are gone, the lock is not.
    drop((one, other));
    pool.close().await;
    assert!(lock.is_held(&database.pool).await.unwrap());
    drop(pooler);
    until_free(&database, &lock).await;
}

/// Ours cannot help it, but says that something is wrong.
#[tokio::test]
async fn a_09_a_session_lock_notices_that_it_is_gone() {
    let database = database(NOTES).await;
    let pooler = PgBouncer::start(2);
    let pool = through(&pooler).await;
    let lock = lock();
    let mut held = SessionLock::acquire(&pool, &lock).await.unwrap();
    // Somebody else takes the session for a transaction of its own.
    let mut other = pool.begin().await.unwrap();
    assert!(!held.is_held().await.unwrap());
    let refused = held.release().await;
    assert!(
        matches!(refused, Err(ReleaseError::NotHeld(_))),
        "{refused:?}"
    );
    other.execute(sqlx::raw_sql("SELECT 1")).await.unwrap();
    other.rollback().await.unwrap();
    drop((pool, pooler));
    until_free(&database, &lock).await;
}
