//! The life of a queue's table while others hold its rows.

use sqlx::Executor;

use super::queue_life::{Email, HOUR, ended, ids, jobs, run};

/// Somebody looks at a row, or writes it.
#[tokio::test]
async fn a_purge_passes_over_rows_that_are_locked() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=10, "done", 3).await;
    let mut holder = pool.begin().await.unwrap();
    holder
        .execute("SELECT 1 FROM jobs WHERE id IN (2, 3) FOR KEY SHARE")
        .await
        .unwrap();
    assert_eq!(Email::purge(pool, HOUR).batch(3).await.unwrap(), 8);
    assert_eq!(ids(pool, "true").await, [2, 3]);
    // The naive twin waits for as long as the row is held.
    let mut tx = pool.begin().await.unwrap();
    tx.execute("SET LOCAL lock_timeout = '100ms'")
        .await
        .unwrap();
    let by_hand = tx.execute("DELETE FROM jobs WHERE state = 'done'").await;
    assert!(by_hand.is_err());
    drop(tx);
    holder.rollback().await.unwrap();
    assert_eq!(Email::purge(pool, HOUR).await.unwrap(), 2);
}

/// A job that is made ready while the purge comes to it is not deleted.
#[tokio::test]
async fn a_purge_leaves_a_row_that_is_no_longer_done() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=3, "done", 3).await;
    let mut holder = pool.begin().await.unwrap();
    holder
        .execute("UPDATE jobs SET state = 'ready' WHERE id = 2")
        .await
        .unwrap();
    assert_eq!(Email::purge(pool, HOUR).await.unwrap(), 2);
    holder.commit().await.unwrap();
    assert_eq!(Email::purge(pool, HOUR).await.unwrap(), 0);
    assert_eq!(ids(pool, "state = 'ready'").await, [2]);
    run(pool, "DELETE FROM jobs").await;
}

/// A job that is deleted, or made ready, while the redrive comes to it.
#[tokio::test]
async fn a_redrive_passes_over_rows_that_are_locked() {
    let database = jobs("text", "ready").await;
    let pool = &database.pool;
    ended(pool, 1..=4, "dead", 3).await;
    let mut holder = pool.begin().await.unwrap();
    holder
        .execute("DELETE FROM jobs WHERE id = 1; UPDATE jobs SET state = 'ready', attempts = 1 WHERE id = 2")
        .await
        .unwrap();
    assert_eq!(Email::redrive(pool).await.unwrap().ready, 2);
    holder.commit().await.unwrap();
    assert_eq!(Email::redrive(pool).await.unwrap().ready, 0);
    assert_eq!(ids(pool, "state = 'ready' AND attempts = 0").await, [3, 4]);
}
