//! Advisory locks where only PostgreSQL can show it: shared ones, inside a transaction, on a connection, and in `pg_locks`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rowlock::lock::{AcquireError, AdvisoryLock, AdvisoryLockError, ReleaseError, SessionLock};
use rowlock::row::{Exclusive, Share};
use rowlock::tx::TransactionError;
use rowlock::{Fault, Tx, transaction};
use rowlock_tests::cancel::polled;
use rowlock_tests::postgres::unique_name;
use rowlock_tests::proxy::Proxy;
use rowlock_tests::random::Random;
use sqlx::{Acquire, AssertSqlSafe, Connection as _, Executor, PgConnection};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Connection, Database, Db, Pool, PoolOptions, address, database};

const NOTES: &str = "CREATE TABLE notes (name text NOT NULL)";
const INSERT: &str = "INSERT INTO notes VALUES ('note')";
const SHORT: Duration = Duration::from_millis(30);

fn lock() -> AdvisoryLock {
    AdvisoryLock::new(&unique_name())
}

async fn nothing(_: &mut Tx<Db>) -> Result<(), sqlx::Error> {
    Ok(())
}

/// How many sessions hold this key, or wait for it.
async fn sessions(connection: &mut PgConnection, key: i64) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
        AND (classid::bigint << 32 | objid::bigint) = $1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    sqlx::query_scalar(sql)
        .bind(key)
        .fetch_one(connection)
        .await
        .unwrap()
}

/// Waits until nobody holds the key or waits for it: the server notices some ends only after a second.
async fn until_gone(database: &Database, key: i64) {
    let mut connection = database.connection().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while sessions(&mut connection, key).await > 0 {
        if Instant::now() >= deadline {
            // Who it is, for whoever has to understand it.
            let sql = "SELECT string_agg(format('%s granted=%s %s %s %s %s', pid, granted, state, wait_event, now() - state_change, query), E'\\n')
                FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND objsubid = 1
                AND (classid::bigint << 32 | objid::bigint) = $1";
            let who: Option<String> = sqlx::query_scalar(sql)
                .bind(key)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            panic!("somebody holds the lock: {who:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A transaction of no pool of ours that holds the lock.
async fn hold<G>(database: &Database, lock: &AdvisoryLock<G>) -> (Connection, i64) {
    let mut holder = database.connection().await;
    let sql = format!("BEGIN; SELECT pg_advisory_xact_lock({})", lock.key());
    holder
        .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
        .await
        .unwrap();
    (holder, lock.key())
}

async fn all_of_the_pool(pool: &Pool, size: usize) {
    let mut all = Vec::new();
    for _ in 0..size {
        let mut connection = pool.acquire().await.unwrap();
        connection.ping().await.unwrap();
        all.push(connection);
    }
    assert_eq!(pool.size() as usize, size);
}

async fn lock_timeout(connection: &mut PgConnection) -> String {
    sqlx::query_scalar("SHOW lock_timeout")
        .fetch_one(connection)
        .await
        .unwrap()
}

/// what each way of asking gets while somebody holds the lock in each mode.
#[tokio::test]
async fn a_04_shared_and_exclusive() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let exclusive = lock().lock_timeout(SHORT);
    let shared = exclusive.clone().shared();
    for held_shared in [false, true] {
        for asks_shared in [false, true] {
            let expected = held_shared && asks_shared;
            let got = Barrier::new(2);
            let asks = async {
                got.wait().await;
                let mut tx = pool.begin().await.unwrap();
                let taken = if asks_shared {
                    asked(pool, &mut tx, &shared).await
                } else {
                    asked(pool, &mut tx, &exclusive).await
                };
                tx.rollback().await.unwrap();
                got.wait().await;
                taken
            };
            let holds = async {
                let inside = async |_: &mut Tx<Db>| {
                    got.wait().await;
                    got.wait().await;
                    Ok::<_, sqlx::Error>(())
                };
                if held_shared {
                    shared.run(pool, inside).await.unwrap();
                } else {
                    exclusive.run(pool, inside).await.unwrap();
                }
            };
            let (taken, ()) = tokio::join!(asks, holds);
            assert_eq!(taken, [expected; 6], "{held_shared} {asks_shared}");
        }
    }
    until_gone(&database, exclusive.key()).await;
}

/// The six ways to ask, one after the other.
async fn asked<G: rowlock::lock::AdvisoryMode<Db>>(
    pool: &Pool,
    tx: &mut sqlx::PgTransaction<'_>,
    lock: &AdvisoryLock<G>,
) -> [bool; 6] {
    let tried = lock.try_run(pool, nothing).await.unwrap().is_some();
    let run = match lock.run(pool, nothing).await {
        Ok(()) => true,
        Err(AdvisoryLockError::LockTimeout(_)) => false,
        Err(error) => panic!("{error:?}"),
    };
    let waited = |result: Result<_, AcquireError>| match result {
        Ok(_) => true,
        Err(AcquireError::LockTimeout(_)) => false,
        Err(error) => panic!("{error:?}"),
    };
    let session_tried = SessionLock::try_acquire(pool, lock).await.unwrap();
    let session_tried_taken = session_tried.is_some();
    if let Some(session) = session_tried {
        session.release().await.unwrap();
    }
    let session = SessionLock::acquire(pool, lock).await;
    let session_taken = match session {
        Ok(session) => {
            session.release().await.unwrap();
            true
        }
        Err(AcquireError::LockTimeout(_)) => false,
        Err(error) => panic!("{error:?}"),
    };
    let mut savepoint = tx.begin().await.unwrap();
    let locked = waited(lock.lock(&mut savepoint).await);
    savepoint.rollback().await.unwrap();
    let try_locked = lock.try_lock(&mut *tx).await.unwrap();
    [
        tried,
        run,
        session_tried_taken,
        session_taken,
        locked,
        try_locked,
    ]
}

#[tokio::test]
async fn a_05_commit_and_rollback_release_it() {
    let database = database(NOTES).await;
    let lock = lock();
    for commit in [true, false] {
        let mut tx = database.pool.begin().await.unwrap();
        lock.lock(&mut tx).await.unwrap();
        // Who has it gets it again.
        assert!(lock.try_lock(&mut tx).await.unwrap());
        assert!(lock.is_held(&database.pool).await.unwrap());
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        assert!(!lock.is_held(&database.pool).await.unwrap());
    }
}

/// A session lock by hand survives the failed transaction, and the unlock in it is refused.
#[tokio::test]
async fn a_06_naive_twin_keeps_the_lock_behind_the_rollback() {
    let database = database(NOTES).await;
    let key = lock().key();
    let mut connection = database.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let call = |function: &str| sqlx::raw_sql(AssertSqlSafe(format!("SELECT {function}({key})")));
    tx.execute(call("pg_advisory_lock")).await.unwrap();
    tx.execute("SELECT 1 / 0").await.unwrap_err();
    let refused = tx.execute(call("pg_advisory_unlock")).await.unwrap_err();
    assert_eq!(Fault::of(&refused), Fault::TransactionAborted);
    tx.rollback().await.unwrap();
    assert_eq!(sessions(&mut connection, key).await, 1);
    connection
        .execute(call("pg_advisory_unlock"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_06_an_aborted_transaction_leaves_no_lock() {
    let database = database(NOTES).await;
    let pool = database.one_connection_pool().await;
    let lock = lock();
    // The closure's error is hidden by the closure.
    let aborted = lock
        .run(&pool, async |tx| {
            tx.execute(INSERT).await?;
            let _ = tx.execute("SELECT 1 / 0").await;
            Ok::<_, sqlx::Error>(())
        })
        .await;
    assert!(
        matches!(
            aborted,
            Err(AdvisoryLockError::Transaction(TransactionError::Aborted(_)))
        ),
        "{aborted:?}"
    );
    assert!(!lock.is_held(&pool).await.unwrap());

    // On a connection: released inside the transaction, dropped inside of it, dropped with the transaction.
    for way in 0..3 {
        let mut held = SessionLock::acquire(&pool, &lock).await.unwrap();
        let own = held.connection();
        own.execute("BEGIN").await.unwrap();
        own.execute("SELECT 1 / 0").await.unwrap_err();
        if way == 0 {
            let refused = held.release().await.unwrap_err();
            assert!(
                matches!(&refused, ReleaseError::Database(error) if error.fault() == Fault::TransactionAborted),
                "{refused:?}"
            );
        } else if way == 1 {
            drop(held);
        } else {
            own.execute("ROLLBACK").await.unwrap();
            held.release().await.unwrap();
        }
        until_gone(&database, lock.key()).await;
        all_of_the_pool(&pool, 1).await;
    }
    // A transaction that was forgotten is no clean state either.
    let mut held = SessionLock::acquire(&pool, &lock).await.unwrap();
    held.execute(sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {INSERT}"))))
        .await
        .unwrap();
    let open = held.release().await;
    assert!(
        matches!(open, Err(ReleaseError::OpenTransaction(_))),
        "{open:?}"
    );
    until_gone(&database, lock.key()).await;
    let notes: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(notes, 0);
}

/// Locked on one connection of the pool and unlocked on another: `false`, no error, and the lock stays.
#[tokio::test]
async fn a_07_naive_twin_unlocks_on_another_connection() {
    let database = database(NOTES).await;
    let key = lock().key();
    let call = |function: &str| {
        AssertSqlSafe(format!(
            "SELECT {function}({key}) IS NOT DISTINCT FROM true"
        ))
    };
    let mut one = database.pool.acquire().await.unwrap();
    let mut other = database.pool.acquire().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("SELECT pg_advisory_lock({key})")))
        .execute(&mut *one)
        .await
        .unwrap();
    let unlocked: bool = sqlx::query_scalar(call("pg_advisory_unlock"))
        .fetch_one(&mut *other)
        .await
        .unwrap();
    assert!(!unlocked);
    drop((one, other));
    while database.pool.num_idle() < 2 {
        tokio::task::yield_now().await;
    }
    let mut aside = database.connection().await;
    assert_eq!(sessions(&mut aside, key).await, 1);
}

#[tokio::test]
async fn a_07_an_unlock_that_finds_nothing_is_an_error() {
    let database = database(NOTES).await;
    let pool = database.one_connection_pool().await;
    let lock = lock();
    let mut held = SessionLock::acquire(&pool, &lock).await.unwrap();
    assert!(held.is_held().await.unwrap());
    held.execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    assert!(!held.is_held().await.unwrap());
    let refused = held.release().await;
    assert!(
        matches!(refused, Err(ReleaseError::NotHeld(_))),
        "{refused:?}"
    );
    // Another lock on the connection: this one is released, and the connection does not go back with the other.
    let mut held = SessionLock::acquire(&pool, &lock).await.unwrap();
    held.execute(sqlx::raw_sql(AssertSqlSafe(format!(
        "SELECT pg_advisory_lock({})",
        lock.key()
    ))))
    .await
    .unwrap();
    held.release().await.unwrap();
    until_gone(&database, lock.key()).await;
    all_of_the_pool(&pool, 1).await;
}

#[tokio::test]
async fn a_released_connection_is_the_pools_again_and_a_dropped_one_is_closed() {
    let database = database(NOTES).await;
    let pool = database.one_connection_pool().await;
    let lock = lock();
    let pid = async || {
        sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    let before = pid().await;
    SessionLock::acquire(&pool, &lock)
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    assert_eq!(pid().await, before);
    // A wait that was answered leaves the connection in order, too.
    let (mut holder, _) = hold(&database, &lock).await;
    let tried = SessionLock::try_acquire(&pool, &lock).await.unwrap();
    assert!(tried.is_none());
    let late = SessionLock::acquire(&pool, &lock.clone().lock_timeout(SHORT)).await;
    assert!(
        matches!(late, Err(AcquireError::LockTimeout(_))),
        "{late:?}"
    );
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(pid().await, before);
    drop(SessionLock::acquire(&pool, &lock).await.unwrap());
    assert_ne!(pid().await, before);
    until_gone(&database, lock.key()).await;
}

/// any call, dropped anywhere, by many at once. Transactions and sessions apart, as the connections that one kind closes
/// would hide what the other left on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_08_ten_thousand_cancellations_leave_no_lock() {
    let database = database(NOTES).await;
    let name = unique_name();
    let locks = [AdvisoryLock::of(&name, 0), AdvisoryLock::of(&name, 1)];
    let mut random = Random::new(8);
    for sessions in [false, true] {
        let pool = database
            .pool_with(PoolOptions::new().max_connections(8))
            .await;
        let cuts = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..12 {
            let (pool, locks, cuts) = (pool.clone(), locks.clone(), cuts.clone());
            tasks.spawn(cut_at_random(pool, locks, sessions, cuts, random.fork()));
        }
        let finished: usize = tasks.join_all().await.into_iter().sum();
        assert!(finished > 500, "only {finished} got to their end");
        for lock in &locks {
            until_gone(&database, lock.key()).await;
        }
        assert_eq!(database.open_transactions().await, 0);
        all_of_the_pool(&pool, 8).await;
        for lock in &locks {
            assert_eq!(lock.try_run(&pool, nothing).await.unwrap(), Some(()));
        }
    }
}

/// Until all tasks together have cut five thousand calls short. Yields how many it did not cut.
async fn cut_at_random(
    pool: Pool,
    locks: [AdvisoryLock; 2],
    sessions: bool,
    cuts: Arc<AtomicUsize>,
    mut random: Random,
) -> usize {
    let mut finished = 0;
    while cuts.load(Ordering::SeqCst) < 5000 {
        let lock = &locks[random.below(2)];
        let limit = 1 + random.below(12);
        let timeout = Duration::from_millis(1 + random.below(20) as u64);
        let timed = lock.clone().lock_timeout(timeout);
        let body = async |tx: &mut Tx<Db>| {
            tx.execute(INSERT).await?;
            tx.execute("SELECT 1").await.map(drop)
        };
        let session = async {
            if let Ok(mut held) = SessionLock::acquire(&pool, &timed).await {
                held.execute("SELECT 1").await.unwrap();
                held.release().await.unwrap();
            }
        };
        let session_tried = async {
            if let Some(held) = SessionLock::try_acquire(&pool, lock).await.unwrap() {
                held.release().await.unwrap();
            }
        };
        let ended = match (sessions, random.below(4)) {
            (true, 0 | 1) => polled(limit, session).await.is_some(),
            (true, _) => polled(limit, session_tried).await.is_some(),
            (false, 0) => polled(limit, lock.run(&pool, body)).await.is_some(),
            (false, 1) => polled(limit, timed.run(&pool, body)).await.is_some(),
            (false, 2) => polled(limit, lock.try_run(&pool, body)).await.is_some(),
            (false, _) => {
                let shared = lock.clone().shared();
                polled(limit, shared.run(&pool, body)).await.is_some()
            }
        };
        if ended {
            finished += 1;
        } else {
            cuts.fetch_add(1, Ordering::SeqCst);
        }
    }
    finished
}

/// Waiters that give up while the lock is held all the time: the pool has room again at once, and the server soon.
#[tokio::test]
async fn a_08_a_hundred_cancelled_waiters_do_not_shrink_the_pool() {
    let database = database(NOTES).await;
    let lock = lock();
    let (_holder, key) = hold(&database, &lock).await;
    for session in [false, true] {
        let options = PoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(2));
        let pool = database.pool_with(options).await;
        for _ in 0..25 {
            let mut waiters = JoinSet::new();
            for _ in 0..4 {
                let (pool, lock) = (pool.clone(), lock.clone());
                waiters.spawn(async move {
                    if session {
                        SessionLock::acquire(&pool, &lock).await.map(drop).unwrap();
                    } else {
                        lock.run(&pool, nothing).await.unwrap();
                    }
                });
            }
            database.until_blocked().await;
            waiters.shutdown().await;
        }
        // The lock is held to this moment.
        all_of_the_pool(&pool, 4).await;
    }
    let mut aside = database.connection().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while sessions(&mut aside, key).await > 1 {
        assert!(Instant::now() < deadline, "the server still waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same by hand: a rollback stands behind the wait, in a connection that the pool counts.
#[tokio::test]
async fn a_08_naive_twin_loses_its_pool_to_cancelled_waiters() {
    let database = database(NOTES).await;
    let lock = lock();
    let (mut holder, key) = hold(&database, &lock).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_millis(500));
    let pool = database.pool_with(options).await;
    let (other, sql) = (pool.clone(), format!("SELECT pg_advisory_xact_lock({key})"));
    let waiter = tokio::spawn(async move {
        let mut tx = other.begin().await.unwrap();
        tx.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    });
    database.until_blocked().await;
    waiter.abort();
    let refused = pool.acquire().await;
    assert!(matches!(refused, Err(sqlx::Error::PoolTimedOut)));
    holder.execute("ROLLBACK").await.unwrap();
}

async fn terminate(database: &Database, key: i64) {
    let sql = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND (classid::bigint << 32 | objid::bigint) = $1";
    let ended: bool = sqlx::query_scalar(sql)
        .bind(key)
        .fetch_one(&mut database.connection().await)
        .await
        .unwrap();
    assert!(ended);
}

/// the end of the session is the end of the lock, whatever the server gives as the reason.
#[tokio::test]
async fn a_10_a_session_that_was_idle_for_too_long_is_a_lost_lock() {
    let database = database(NOTES).await;
    let lock = lock();
    let lost = lock
        .run(&database.pool, async |tx| {
            tx.execute("SET LOCAL idle_in_transaction_session_timeout = 20")
                .await?;
            while lock
                .try_run(&database.pool, nothing)
                .await
                .unwrap()
                .is_none()
            {}
            Ok::<_, sqlx::Error>(())
        })
        .await;
    assert!(
        matches!(&lost, Err(AdvisoryLockError::Lost(error)) if error.fault() == Fault::TransactionTimeout),
        "{lost:?}"
    );
}

/// the server frees the lock, the next one runs, and the first one is told.
#[tokio::test]
async fn a_10_a_lost_connection_is_a_lost_lock() {
    let database = database(NOTES).await;
    let lock = lock();
    let lost = lock
        .run(&database.pool, async |tx| {
            tx.execute(INSERT).await?;
            terminate(&database, lock.key()).await;
            // The next one is in while this one is not out.
            assert_eq!(
                lock.try_run(&database.pool, nothing).await.unwrap(),
                Some(())
            );
            Ok::<_, sqlx::Error>(())
        })
        .await
        .unwrap_err();
    assert!(
        matches!(&lost, AdvisoryLockError::Lost(error) if error.fault() == Fault::ConnectionLost),
        "{lost:?}"
    );
    assert!(lost.to_string().contains("nothing was committed"), "{lost}");

    let met = lock
        .run(&database.pool, async |tx| {
            terminate(&database, lock.key()).await;
            tx.execute(INSERT).await.map(drop)
        })
        .await;
    assert!(
        matches!(
            met,
            Err(AdvisoryLockError::Transaction(TransactionError::Failed(_)))
        ),
        "{met:?}"
    );

    let pool = database.one_connection_pool().await;
    for dropped in [true, false] {
        let mut held = SessionLock::acquire(&pool, &lock).await.unwrap();
        terminate(&database, lock.key()).await;
        assert!(!held.is_held().await.unwrap());
        if dropped {
            drop(held);
        } else {
            let refused = held.release().await;
            assert!(
                matches!(&refused, Err(ReleaseError::Database(error)) if error.fault() == Fault::ConnectionLost),
                "{refused:?}"
            );
        }
        all_of_the_pool(&pool, 1).await;
    }
    let notes: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(notes, 0);
}

/// the expression of the docs.
#[tokio::test]
async fn a_11_the_server_computes_the_same_key() {
    let database = database(NOTES).await;
    let sql = "SELECT ('x' || left(encode(sha256(convert_to(
            format('rowlock:advisory:1 s%s:%s i%s:%s s%s:%s',
                octet_length(namespace), namespace, octet_length(tenant::text), tenant, octet_length(month), month),
            'UTF8')), 'hex'), 16))::bit(64)::bigint
        FROM (SELECT $1::text AS namespace, $2::bigint AS tenant, $3::text AS month) AS lock";
    for (namespace, tenant, month) in [("invoice", 42, "2026-11"), ("Ärger", -7, "Mär z:")] {
        let key: i64 = sqlx::query_scalar(sql)
            .bind(namespace)
            .bind(tenant)
            .bind(month)
            .fetch_one(&database.pool)
            .await
            .unwrap();
        assert_eq!(AdvisoryLock::of(namespace, (tenant, month)).key(), key);
    }
    // Negative numbers, too, are found in pg_locks by their halves.
    for part in 0..20 {
        let lock = AdvisoryLock::of(&unique_name(), part);
        let mut tx = database.pool.begin().await.unwrap();
        lock.lock(&mut tx).await.unwrap();
        assert!(lock.is_held(&database.pool).await.unwrap());
    }
}

/// What was refused in a savepoint undoes it, also if the closure made nothing of it.
#[tokio::test]
async fn a_12_a_lock_that_was_refused_in_a_savepoint_undoes_it() {
    let database = database(NOTES).await;
    let lock = lock().lock_timeout(SHORT);
    let mut holder = database.pool.begin().await.unwrap();
    lock.lock(&mut holder).await.unwrap();
    let run = transaction(&database.pool).run(async |tx| {
        let refused: Result<(), sqlx::Error> = tx
            .savepoint(async |sp| {
                sqlx::query(INSERT).execute(&mut *sp).await?;
                let _ = lock.lock(&mut *sp).await;
                Ok(())
            })
            .await;
        refused.unwrap_err();
        sqlx::query(INSERT).execute(&mut *tx).await
    });
    run.await.unwrap();
    let notes: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(notes, 1);
}

/// The limit is that of the lock and of no statement behind it.
#[tokio::test]
async fn a_12_the_limit_does_not_leak() {
    let database = database(NOTES).await;
    let pool = database.one_connection_pool().await;
    let lock = lock().lock_timeout(SHORT);
    let inside = async |tx: &mut Tx<Db>| Ok::<_, sqlx::Error>(lock_timeout(tx).await);
    for before in ["0", "1234ms"] {
        let set = format!("SET lock_timeout = '{before}'");
        pool.execute(sqlx::raw_sql(AssertSqlSafe(set)))
            .await
            .unwrap();
        assert_eq!(lock.run(&pool, inside).await.unwrap(), before);
        assert_eq!(
            lock.try_run(&pool, inside).await.unwrap(),
            Some(before.to_owned())
        );
        let mut tx = pool.begin().await.unwrap();
        lock.lock(&mut tx).await.unwrap();
        assert_eq!(lock_timeout(&mut tx).await, before);
        tx.commit().await.unwrap();
        let mut held = SessionLock::acquire(&pool, &lock).await.unwrap();
        assert_eq!(lock_timeout(&mut held).await, before);
        held.release().await.unwrap();
        // Behind a wait that failed as well.
        let (_holder, _) = hold(&database, &lock).await;
        let begun = Instant::now();
        let late = lock.run(&pool, nothing).await;
        assert!(matches!(late, Err(AdvisoryLockError::LockTimeout(_))));
        assert!((SHORT..Duration::from_secs(5)).contains(&begun.elapsed()));
        assert_eq!(
            lock_timeout(&mut pool.acquire().await.unwrap()).await,
            before
        );
        let mut tx = pool.begin().await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        let late = lock.lock(&mut savepoint).await;
        assert!(
            matches!(late, Err(AcquireError::LockTimeout(_))),
            "{late:?}"
        );
        savepoint.rollback().await.unwrap();
        assert_eq!(lock_timeout(&mut tx).await, before);
    }
}

/// A lock timeout of the server's own is the same kind of answer.
#[tokio::test]
async fn a_12_a_limit_of_the_session_is_a_lock_timeout_too() {
    let database = database(NOTES).await;
    let pool = database.one_connection_pool().await;
    pool.execute("SET lock_timeout = '20ms'").await.unwrap();
    let lock = lock();
    let (_holder, _) = hold(&database, &lock).await;
    let late = lock.run(&pool, nothing).await;
    assert!(
        matches!(late, Err(AdvisoryLockError::LockTimeout(_))),
        "{late:?}"
    );
}

#[tokio::test]
async fn a_13_locks_taken_crosswise_are_a_deadlock() {
    let database = database(NOTES).await;
    let locks = [lock(), lock()];
    let both_hold = Barrier::new(2);
    let cross = async |first: &AdvisoryLock, second: &AdvisoryLock| {
        let mut tx = database.pool.begin().await.unwrap();
        first.lock(&mut tx).await.unwrap();
        both_hold.wait().await;
        let outcome = second.lock(&mut tx).await;
        tx.rollback().await.unwrap();
        outcome
    };
    let (one, other) = tokio::join!(cross(&locks[0], &locks[1]), cross(&locks[1], &locks[0]));
    let outcomes = [one, other];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let ended = outcomes.into_iter().find_map(Result::err);
    assert!(
        matches!(&ended, Some(AcquireError::Deadlock(error)) if error.fault() == Fault::Deadlock),
        "{ended:?}"
    );
}

/// Asks all the time whether the lock is held, while another one tries to take it a hundred times.
async fn missed(database: &Database, probes_by_trying: bool) -> usize {
    let lock = lock();
    let done = AtomicBool::new(false);
    let asks = async {
        while !done.load(Ordering::SeqCst) {
            if probes_by_trying {
                lock.try_run(&database.pool, nothing).await.unwrap();
            } else {
                lock.is_held(&database.pool).await.unwrap();
            }
        }
    };
    let tries = async {
        let mut missed = 0;
        for _ in 0..100 {
            let tried = lock.try_run(&database.pool, nothing).await.unwrap();
            missed += usize::from(tried.is_none());
        }
        done.store(true, Ordering::SeqCst);
        missed
    };
    tokio::join!(asks, tries).1
}

#[tokio::test]
async fn a_14_asking_takes_nothing() {
    let database = database(NOTES).await;
    assert_eq!(missed(&database, false).await, 0);
}

#[tokio::test]
async fn a_14_naive_twin_asks_by_trying_and_is_in_the_way() {
    let database = database(NOTES).await;
    assert!(missed(&database, true).await > 0);
}

#[tokio::test]
async fn a_fixed_snapshot_is_refused_and_nothing_locked() {
    let database = database(NOTES).await;
    let lock = lock();
    for serializable in [false, true] {
        let builder = transaction(&database.pool);
        let builder = if serializable {
            builder.serializable()
        } else {
            builder.repeatable_read()
        };
        let refused = builder
            .run(async |tx| {
                let waited = lock.lock(&mut *tx).await;
                assert!(matches!(waited, Err(AcquireError::FixedSnapshot(_))));
                lock.clone()
                    .lock_timeout(SHORT)
                    .lock(&mut *tx)
                    .await
                    .unwrap_err();
                let tried = lock.try_lock(&mut *tx).await;
                assert!(!lock.is_held(&database.pool).await?);
                tried
            })
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("READ COMMITTED"), "{refused}");
    }
    // Whatever the default is: `run` says what it needs.
    let pool = database.one_connection_pool().await;
    pool.execute("SET default_transaction_isolation = 'repeatable read'")
        .await
        .unwrap();
    let level = async |tx: &mut Tx<Db>| {
        sqlx::query_scalar::<_, String>("SHOW transaction_isolation")
            .fetch_one(&mut **tx)
            .await
    };
    assert_eq!(lock.run(&pool, level).await.unwrap(), "read committed");
}

/// Why it is refused: the reader waits for the lock, has it, and does not see what the one before it wrote.
#[tokio::test]
async fn naive_twin_reads_under_the_lock_what_was_before_it() {
    let database = database(NOTES).await;
    let lock = lock();
    let (mut holder, key) = hold(&database, &lock).await;
    let pool = database.pool.clone();
    let reader = tokio::spawn(async move {
        let mut tx = pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .await
            .unwrap();
        let sql = format!("SELECT pg_advisory_xact_lock({key})");
        tx.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM notes")
            .fetch_one(&mut *tx)
            .await
            .unwrap()
    });
    database.until_blocked().await;
    holder.execute(INSERT).await.unwrap();
    holder.execute("COMMIT").await.unwrap();
    assert_eq!(reader.await.unwrap(), 0);
}

/// Round trips without the pool's own, and the statements that are prepared.
#[tokio::test]
async fn round_trips_and_no_prepared_statement() {
    let database = database(NOTES).await;
    let proxy = Proxy::start(&address()).await;
    let pool = database
        .pool_through(&proxy, PoolOptions::new().max_connections(1))
        .await;
    let lock = lock();
    let timed = lock.clone().lock_timeout(SHORT);
    // The pool pings when it hands out a connection and when it takes it back.
    let trips = async |what: usize| {
        proxy.reset();
        match what {
            0 => lock.run(&pool, nothing).await.unwrap(),
            1 => timed.run(&pool, nothing).await.unwrap(),
            2 => lock.try_run(&pool, nothing).await.map(drop).unwrap(),
            _ => {
                let held = SessionLock::acquire(&pool, &timed).await.unwrap();
                held.release().await.unwrap();
            }
        }
        while pool.num_idle() == 0 {
            tokio::task::yield_now().await;
        }
        (proxy.round_trips() - 2, proxy.statements())
    };
    assert_eq!(trips(0).await, (3, 0), "run");
    assert_eq!(trips(1).await, (3, 0), "run with a timeout");
    assert_eq!(trips(2).await, (3, 0), "try_run");
    assert_eq!(trips(3).await, (2, 0), "a session lock");
}

#[tokio::test]
async fn every_method_can_be_spawned() {
    let database = database(NOTES).await;
    let pool = database.pool.clone();
    let name = unique_name();
    let task = tokio::spawn(async move {
        let borrowed = name.as_str();
        let shared: AdvisoryLock<Share> = AdvisoryLock::new(borrowed).shared();
        let lock: AdvisoryLock<Exclusive> = AdvisoryLock::of(borrowed, 1);
        let inside = |lock: AdvisoryLock<Share>| async move {
            let mut tx = pool.begin().await.unwrap();
            lock.lock(&mut tx).await.unwrap();
            assert!(lock.try_lock(&mut tx).await.unwrap());
            assert!(lock.is_held(&mut *tx).await.unwrap());
            assert!(lock.is_held(&pool).await.unwrap());
            let run = lock.run(&pool, async |tx| {
                lock.lock(&mut *tx).await?;
                lock.try_lock(&mut *tx).await
            });
            assert!(run.await.unwrap());
            pool
        };
        let pool = inside(shared).await;
        let mut held = SessionLock::acquire(&pool, &lock).await.unwrap();
        assert!(held.is_held().await.unwrap());
        assert!(
            SessionLock::try_acquire(&pool, &lock)
                .await
                .unwrap()
                .is_none()
        );
        held.release().await.unwrap();
        let held = SessionLock::try_acquire(&pool, &lock.shared())
            .await
            .unwrap();
        held.unwrap().release().await.unwrap();
    });
    task.await.unwrap();
}

/// The server looks after its client where it can, for this transaction only, and refuses no lock where it cannot.
#[tokio::test]
async fn the_server_is_asked_to_look_for_its_client() {
    const INTERVAL: &str = "SELECT current_setting('client_connection_check_interval', true)";
    let database = database(NOTES).await;
    let pool = database.one_connection_pool().await;
    let (before, can): (Option<String>, bool) = sqlx::query_as(
        "SELECT current_setting('client_connection_check_interval', true), version() ~ 'linux'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let inside = async |tx: &mut Tx<Db>| {
        let interval = sqlx::query_scalar::<_, Option<String>>(INTERVAL);
        interval.fetch_one(&mut **tx).await
    };
    let during = lock().run(&pool, inside).await.unwrap();
    if can && before.as_deref() == Some("0") {
        assert_eq!(during.as_deref(), Some("1s"));
    }
    let after: Option<String> = sqlx::query_scalar(INTERVAL).fetch_one(&pool).await.unwrap();
    assert_eq!(after, before);
}
