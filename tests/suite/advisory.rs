//! `rowlock::lock::AdvisoryLock`: section A of `docs/behaviours.md`, on every database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rowlock::Fault;
use rowlock::lock::{AdvisoryLock, AdvisoryLockError};
use rowlock::tx::TransactionError;
use rowlock_tests::cancel::polled;
use rowlock_tests::postgres::unique_name;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

use super::{Database, Pool, PoolOptions, database};

const NOTES: &str = "CREATE TABLE notes (name text NOT NULL)";

/// A lock of this test alone: their keys are of the whole server.
fn lock() -> AdvisoryLock {
    AdvisoryLock::new(&unique_name())
}

async fn count(pool: &Pool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(pool)
        .await
        .unwrap()
}

const INSERT: &str = "INSERT INTO notes VALUES ('note')";

/// Holds a lock until it is let go.
struct Holder {
    gate: Arc<Barrier>,
    task: JoinHandle<()>,
}

impl Holder {
    async fn new(pool: &Pool, lock: &AdvisoryLock) -> Self {
        let gate = Arc::new(Barrier::new(2));
        let (pool, lock, inside) = (pool.clone(), lock.clone(), gate.clone());
        let task = tokio::spawn(async move {
            lock.run(&pool, async |tx| {
                inside.wait().await;
                inside.wait().await;
                sqlx::query(INSERT).execute(&mut **tx).await.map(drop)
            })
            .await
            .unwrap();
        });
        gate.wait().await;
        Self { gate, task }
    }

    async fn let_go(self) {
        self.gate.wait().await;
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_01_none_is_not_a_none_of_the_closure() {
    let database = database(NOTES).await;
    let (pool, lock) = (&database.pool, lock());
    let answer = |value: Option<bool>| {
        let lock = lock.clone();
        async move {
            let run = lock.try_run(pool, async |_| Ok::<_, sqlx::Error>(value));
            run.await.unwrap()
        }
    };
    assert_eq!(answer(Some(false)).await, Some(Some(false)));
    assert_eq!(answer(None).await, Some(None));

    let holder = Holder::new(pool, &lock).await;
    assert_eq!(answer(None).await, None);
    let runs = AtomicUsize::new(0);
    let counted = async |_: &mut rowlock::Tx<super::Db>| {
        runs.fetch_add(1, Ordering::SeqCst);
        Ok::<_, sqlx::Error>(())
    };
    assert_eq!(lock.try_run(pool, counted).await.unwrap(), None);
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    // one try, whenever it is made.
    holder.let_go().await;
    assert_eq!(lock.try_run(pool, counted).await.unwrap(), Some(()));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_02_a_try_does_not_wait() {
    let database = database(NOTES).await;
    let lock = lock();
    let holder = Holder::new(&database.pool, &lock).await;
    // Well below the busy timeout of 20 seconds, and whatever the timeout of the lock.
    let lock = lock.lock_timeout(Duration::from_secs(20));
    let tries = async {
        for _ in 0..20 {
            let nothing = async |_: &mut rowlock::Tx<super::Db>| Ok::<_, sqlx::Error>(());
            assert_eq!(lock.try_run(&database.pool, nothing).await.unwrap(), None);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), tries)
        .await
        .unwrap();
    holder.let_go().await;
}

#[tokio::test]
async fn the_second_waits_and_sees_what_the_first_wrote() {
    let database = database(NOTES).await;
    let lock = lock();
    let holder = Holder::new(&database.pool, &lock).await;
    let pool = database.pool.clone();
    let second = tokio::spawn(async move {
        lock.run(&pool, async |tx| {
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM notes")
                .fetch_one(&mut **tx)
                .await
        })
        .await
    });
    database.until_blocked().await;
    assert!(!second.is_finished());
    holder.let_go().await;
    assert_eq!(second.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_12_a_wait_ends_as_a_typed_error_and_runs_nothing() {
    let database = database(NOTES).await;
    let lock = lock().lock_timeout(Duration::from_millis(30));
    let holder = Holder::new(&database.pool, &lock).await;
    let runs = AtomicUsize::new(0);
    let late = lock
        .run(&database.pool, async |_| {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, sqlx::Error>(())
        })
        .await
        .unwrap_err();
    let AdvisoryLockError::LockTimeout(error) = &late else {
        panic!("{late:?}");
    };
    assert_eq!(
        (error.fault(), runs.load(Ordering::SeqCst)),
        (Fault::LockTimeout, 0)
    );
    assert_eq!(Fault::in_chain(&late), Some(Fault::LockTimeout));
    holder.let_go().await;
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn a_05_a_06_commit_error_and_panic_release_it() {
    let database = database(NOTES).await;
    let pool = database.one_connection_pool().await;
    let lock = lock();
    let is_free = async || {
        let nothing = async |_: &mut rowlock::Tx<super::Db>| Ok::<_, sqlx::Error>(());
        lock.try_run(&database.pool, nothing).await.unwrap() == Some(())
    };
    lock.run(&pool, async |tx| {
        sqlx::query(INSERT).execute(&mut **tx).await.map(drop)
    })
    .await
    .unwrap();
    assert!(is_free().await);

    let failed = lock
        .run(&pool, async |tx| {
            sqlx::query(INSERT).execute(&mut **tx).await?;
            sqlx::query("SELECT no_such_column FROM notes")
                .execute(&mut **tx)
                .await
        })
        .await;
    assert!(matches!(
        failed,
        Err(AdvisoryLockError::Transaction(TransactionError::Failed(_)))
    ));
    assert!(is_free().await);

    let (spawned, other) = (lock.clone(), pool.clone());
    let panicked = tokio::spawn(async move {
        spawned
            .run(&other, async |tx| {
                sqlx::query(INSERT).execute(&mut **tx).await?;
                if true {
                    panic!("on purpose");
                }
                Ok::<_, sqlx::Error>(())
            })
            .await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    // The connection has rolled back when the pool of one hands it out again.
    assert_eq!(count(&pool).await, 1);
    assert!(is_free().await);
}

/// Ten workers, each of which looks, and inserts if it found nothing: with or without the lock around both.
async fn found_or_created(database: &Database, lock: Option<AdvisoryLock>) -> i64 {
    let there = "SELECT count(*) FROM notes WHERE name = 'note'";
    let pool = &database.pool;
    let all_look = Barrier::new(10);
    let worker = async || {
        let Some(lock) = &lock else {
            let found: i64 = sqlx::query_scalar(there).fetch_one(pool).await.unwrap();
            all_look.wait().await;
            if found == 0 {
                sqlx::query(INSERT).execute(pool).await.unwrap();
            }
            return;
        };
        lock.run(pool, async |tx| {
            let found: i64 = sqlx::query_scalar(there).fetch_one(&mut **tx).await?;
            if found == 0 {
                // The others are at the lock, and not between their look and their insert.
                database.until_blocked().await;
                sqlx::query(INSERT).execute(&mut **tx).await?;
            }
            Ok::<_, sqlx::Error>(())
        })
        .await
        .unwrap();
    };
    futures_util::future::join_all((0..10).map(|_| worker())).await;
    count(&database.pool).await
}

/// The lock is freed by COMMIT and not before it.
#[tokio::test]
async fn a_16_find_or_create_without_an_index() {
    let database = database(NOTES).await;
    assert_eq!(found_or_created(&database, Some(lock())).await, 1);
}

#[tokio::test]
async fn a_16_naive_twin_creates_ten() {
    let database = database(NOTES).await;
    assert_eq!(found_or_created(&database, None).await, 10);
}

/// Cut at each await point: nothing half done, and the lock is free.
#[tokio::test]
async fn a_08_dropped_anywhere_it_leaves_nothing() {
    let database = database(NOTES).await;
    for way in 0..3 {
        let lock = lock();
        let timed = lock.clone().lock_timeout(Duration::from_secs(5));
        for limit in 1.. {
            let pool = database.one_connection_pool().await;
            let before = count(&pool).await;
            let body = async |tx: &mut rowlock::Tx<super::Db>| {
                sqlx::query(INSERT).execute(&mut **tx).await.map(drop)
            };
            let finished = match way {
                0 => polled(limit, lock.run(&pool, body)).await.map(drop),
                1 => polled(limit, timed.run(&pool, body)).await.map(drop),
                _ => polled(limit, lock.try_run(&pool, body)).await.map(drop),
            };
            let added = count(&pool).await - before;
            assert!(added == 1 || finished.is_none() && added == 0, "{added}");
            let free = lock.clone().lock_timeout(Duration::from_secs(10));
            let nothing = async |_: &mut rowlock::Tx<super::Db>| Ok::<_, sqlx::Error>(());
            free.run(&database.pool, nothing).await.unwrap();
            if finished.is_some() {
                break;
            }
        }
    }
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn errors_show_names_and_numbers_and_no_text() {
    let database = database(NOTES).await;
    let name = unique_name();
    let lock =
        AdvisoryLock::of(&name, (7, "ann@example.org")).lock_timeout(Duration::from_millis(1));
    let holder = Holder::new(&database.pool, &lock).await;
    let late = lock.run(&database.pool, async |_| Ok::<_, sqlx::Error>(()));
    let late = late.await.unwrap_err();
    let expected = format!("advisory lock ({name} (7, …)): a lock was not free in time (");
    assert!(late.to_string().starts_with(&expected), "{late}");
    assert!(!format!("{late:?} {lock:?}").contains("ann@"));
    holder.let_go().await;
}

#[tokio::test]
async fn every_method_can_be_spawned() {
    let database = database(NOTES).await;
    let pool = database.pool.clone();
    let name = unique_name();
    let task = tokio::spawn(async move {
        let borrowed = name.as_str();
        let lock = AdvisoryLock::of(borrowed, (1, "a", true, [1_u8; 16]))
            .lock_timeout(Duration::from_secs(9));
        let body = async |tx: &mut rowlock::Tx<super::Db>| {
            sqlx::query("INSERT INTO notes VALUES ($1)")
                .bind(borrowed)
                .execute(&mut **tx)
                .await
                .map(drop)
        };
        lock.run(&pool, body).await.unwrap();
        // The future needs neither the lock nor the pool.
        let run = AdvisoryLock::new(borrowed).try_run(&pool.clone(), body);
        run.await.unwrap()
    });
    assert_eq!(task.await.unwrap(), Some(()));
}

/// Who has all connections need not have the lock, so that is an error, and takes as long as the pool waits.
#[tokio::test]
async fn no_connection_is_not_an_answer() {
    let database = database(NOTES).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(1));
    let pool = database.pool_with(options).await;
    let connection = pool.acquire().await.unwrap();
    let lock = lock().lock_timeout(Duration::from_millis(1));
    let nothing = async |_: &mut rowlock::Tx<super::Db>| Ok::<_, sqlx::Error>(());
    let (ran, tried) = tokio::join!(lock.run(&pool, nothing), lock.try_run(&pool, nothing));
    for error in [ran.unwrap_err(), tried.unwrap_err()] {
        assert!(
            matches!(
                &error,
                AdvisoryLockError::Transaction(TransactionError::Begin(error))
                    if error.fault() == Fault::PoolTimedOut
            ),
            "{error:?}"
        );
    }
    drop(connection);
    assert_eq!(lock.try_run(&pool, nothing).await.unwrap(), Some(()));
}
