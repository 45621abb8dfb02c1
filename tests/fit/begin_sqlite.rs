//! A transaction begins although sqlx counts one on the pool's connection that SQLite has ended by itself.

use sqlx::Executor;

use super::{PoolOptions, database};

const THINGS: &str = "CREATE TABLE things (id bigint PRIMARY KEY);
    CREATE TRIGGER rolls_back BEFORE INSERT ON things WHEN NEW.id = 2 BEGIN SELECT RAISE(ROLLBACK, 'no'); END";

#[tokio::test]
async fn a_connection_that_sqlx_takes_for_one_in_a_transaction_is_replaced() {
    let database = database(THINGS).await;
    let pool = database.one_connection_pool().await;
    let mut tx = pool.begin().await.unwrap();
    let two = tx.execute("INSERT INTO things VALUES (2)").await;
    two.unwrap_err();
    tx.rollback().await.unwrap_err();
    // The naive twin.
    let naive = pool.begin_with("BEGIN IMMEDIATE").await.map(drop);
    naive.unwrap_err();

    for id in 10..13 {
        let insert = async |tx: &mut rowlock::Tx<super::Db>| {
            let sql = sqlx::query("INSERT INTO things VALUES ($1)").bind(id);
            sql.execute(&mut *tx).await.map(drop)
        };
        rowlock::transaction(&pool).run(insert).await.unwrap();
    }
    assert_eq!(pool.size(), 1);
    let things: Vec<i64> = sqlx::query_scalar("SELECT id FROM things")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    assert_eq!(things, [10, 11, 12]);
}

/// sqlx rolls back a transaction that was dropped in another thread. The connection is not closed because of that: it is the database.
#[tokio::test]
async fn a_connection_whose_rollback_is_under_way_is_kept() {
    let pool = PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .connect("sqlite::memory:")
        .await
        .unwrap();
    pool.execute(THINGS).await.unwrap();
    for _ in 0..200 {
        drop(pool.begin().await.unwrap());
        let read = async |tx: &mut rowlock::Tx<super::Db>| {
            let sql = sqlx::query("SELECT * FROM things");
            sql.execute(&mut *tx).await.map(drop)
        };
        rowlock::transaction(&pool).run(read).await.unwrap();
    }
}
