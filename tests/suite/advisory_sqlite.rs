//! `rowlock::lock::AdvisoryLock` where SQLite differs: there is one lock, whatever the name, and the wait for it is a setting of the
//! connection.

use std::time::Duration;

use rowlock::lock::{AdvisoryLock, AdvisoryLockError};
use rowlock_tests::cancel::polled;
use sqlx::Executor;

use super::{Pool, database};

async fn busy_timeout(pool: &Pool) -> i64 {
    sqlx::query_scalar("PRAGMA busy_timeout")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn any_writer_excludes_any_name() {
    let database = database("CREATE TABLE notes (name text)").await;
    let mut writer = database.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let tried =
        AdvisoryLock::new("one").try_run(&database.pool, async |_| Ok::<_, sqlx::Error>(()));
    assert_eq!(tried.await.unwrap(), None);
    let late = AdvisoryLock::new("other")
        .lock_timeout(Duration::ZERO)
        .run(&database.pool, async |_| Ok::<_, sqlx::Error>(()))
        .await;
    assert!(
        matches!(late, Err(AdvisoryLockError::LockTimeout(_))),
        "{late:?}"
    );
    writer
        .execute("INSERT INTO notes VALUES ('a')")
        .await
        .unwrap();
    writer.commit().await.unwrap();
}

/// A-12, L-18. The limit is that of BEGIN and of nothing behind it, also if the call is dropped.
#[tokio::test]
async fn a_12_the_busy_timeout_is_as_before() {
    let database = database("CREATE TABLE notes (name text)").await;
    let pool = database.one_connection_pool().await;
    let before = busy_timeout(&pool).await;
    let lock = AdvisoryLock::new("a").lock_timeout(Duration::from_millis(7));
    let inside = async |tx: &mut rowlock::Tx<sqlx::Sqlite>| {
        sqlx::query_scalar::<_, i64>("PRAGMA busy_timeout")
            .fetch_one(&mut **tx)
            .await
    };
    assert_eq!(lock.run(&pool, inside).await.unwrap(), before);
    assert_eq!(lock.try_run(&pool, inside).await.unwrap(), Some(before));
    for held in [false, true] {
        let mut writer = database.connection().await;
        if held {
            writer.execute("BEGIN IMMEDIATE").await.unwrap();
        }
        for tries in [false, true] {
            for limit in 1.. {
                let finished = if tries {
                    polled(limit, lock.try_run(&pool, inside)).await.is_some()
                } else {
                    polled(limit, lock.run(&pool, inside)).await.is_some()
                };
                assert_eq!(busy_timeout(&pool).await, before, "after {limit} polls");
                if finished {
                    break;
                }
            }
        }
        if held {
            writer.execute("ROLLBACK").await.unwrap();
        }
    }
    assert_eq!(database.open_transactions().await, 0);
}
