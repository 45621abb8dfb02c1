//! Counters on PostgreSQL as the network sees them: which statements are sent, and what becomes of a future that is
//! dropped, or a connection that is cut, while the answer is on its way.

use std::time::Duration;

use rowlock::Counter;
use rowlock::row::CounterError;
use rowlock_tests::proxy::Proxy;
use sqlx::{Acquire, Connection as _};
use tokio::time::{sleep, timeout};

use super::{Database, Pool, PoolOptions, address, database};

#[derive(Debug, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "counts")]
struct Count {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
    #[rowlock(counter(min = 0, max = 100))]
    bounded: i64,
}

const COUNTS: &str =
    "CREATE TABLE counts (id bigint PRIMARY KEY, free bigint NOT NULL, bounded bigint NOT NULL)";

/// A pool of one connection through a proxy.
async fn through_proxy() -> (Database, Proxy, Pool) {
    let database = database(COUNTS).await;
    let proxy = Proxy::start(&address()).await;
    let one = PoolOptions::new().max_connections(1);
    let pool = database.pool_through(&proxy, one).await;
    (database, proxy, pool)
}

/// Drops the future when the server has answered its first request, and the answer is not read yet.
async fn drop_at_first_reply<T>(proxy: &Proxy, future: impl Future<Output = T>) {
    proxy.hold_replies(true);
    tokio::select! {
        biased;
        _ = future => panic!("the reply is held"),
        () = proxy.reply_held() => {}
    }
    proxy.hold_replies(false);
}

async fn open_transactions(database: &Database, expected: i64) {
    let reached = async {
        while database.open_transactions().await != expected {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(5), reached)
        .await
        .unwrap_or_else(|_| panic!("never {expected} open transactions"));
}

/// As somebody else sees the row.
async fn committed(database: &Database, id: i64) -> Option<i64> {
    let row = Count::get(&database.pool, id).await.unwrap();
    row.map(|row| row.free + row.bounded)
}

#[tokio::test]
async fn c_01_an_addition_is_one_statement() {
    let (_database, proxy, pool) = through_proxy().await;
    let mut connection = pool.acquire().await.unwrap();
    for prepared in [1, 0] {
        proxy.reset();
        Count::add_free(&mut *connection, 1, 1).await.unwrap();
        assert_eq!(proxy.statements(), prepared);
    }
    assert_eq!(proxy.round_trips(), 1);
    proxy.reset();
    Count::add_bounded(&mut *connection, 1, 1).await.unwrap();
    Count::add_bounded(&mut *connection, 1, 1).await.unwrap();
    assert_eq!((proxy.statements(), proxy.round_trips()), (1, 3));
}

#[tokio::test]
async fn u_09_an_empty_batch_runs_no_sql() {
    let (_database, proxy, pool) = through_proxy().await;
    let mut connection = pool.acquire().await.unwrap();
    proxy.reset();
    let totals = Count::add_bounded_many(&mut *connection, []).await;
    assert_eq!(totals.unwrap(), []);
    assert_eq!(proxy.round_trips(), 0);
}

/// The server has added when the connection is cut. To do it again, as the naive twin does, counts twice.
#[tokio::test]
async fn c_18_an_unknown_addition_is_not_run_again() {
    for naive in [false, true] {
        let (database, proxy, pool) = through_proxy().await;
        Count::add_free(&pool, 1, 1).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        proxy.hold_replies(true);
        let cut = async {
            proxy.reply_held().await;
            proxy.cut().await;
            proxy.hold_replies(false);
        };
        let (added, ()) = tokio::join!(Count::add_free(&mut *connection, 1, 1), cut);
        let Err(CounterError::Unknown(error)) = &added else {
            panic!("{added:?}");
        };
        assert_eq!(error.operation().to_string(), "add_free of counts (id = 1)");
        drop(connection);
        if naive && added.is_err() {
            Count::add_free(&pool, 1, 1).await.unwrap();
        }
        let expected = if naive { 3 } else { 2 };
        assert_eq!(committed(&database, 1).await, Some(expected));
    }
}

/// sqlx's `begin` hands the pool a connection with an open transaction: the next write looks committed and is not.
#[tokio::test]
async fn t_16_a_begin_that_is_dropped_leaves_no_transaction() {
    let (database, proxy, pool) = through_proxy().await;
    let mut connection = pool.acquire().await.unwrap();
    drop_at_first_reply(&proxy, connection.begin()).await;
    drop(connection);
    open_transactions(&database, 1).await;
    assert_eq!(Count::add_free(&pool, 1, 1).await.unwrap(), 1);
    assert_eq!(
        committed(&database, 1).await,
        None,
        "lost in the naive twin"
    );

    let (database, proxy, pool) = through_proxy().await;
    let mut connection = pool.acquire().await.unwrap();
    let batch = Count::add_bounded_many(&mut *connection, [(1, 1), (2, 1)]);
    drop_at_first_reply(&proxy, batch).await;
    // The same connection, before the pool could clean it.
    Count::add_free(&mut *connection, 3, 1).await.unwrap();
    assert_eq!(committed(&database, 3).await, Some(1));
    let batch = Count::add_bounded_many(&mut *connection, [(1, 1), (2, 1)]);
    drop_at_first_reply(&proxy, batch).await;
    drop(connection);
    open_transactions(&database, 0).await;
    assert_eq!(Count::add_free(&pool, 4, 1).await.unwrap(), 1);
    assert_eq!(committed(&database, 4).await, Some(1));
    assert_eq!(committed(&database, 1).await, None);
}

/// sqlx's nested `begin` rolls back the outer transaction when it is dropped, whose COMMIT then says `Ok`.
#[tokio::test]
async fn t_16_a_savepoint_that_is_dropped_leaves_the_transaction_alone() {
    let (database, proxy, pool) = through_proxy().await;
    let mut tx = pool.begin().await.unwrap();
    Count::add_free(&mut *tx, 1, 1).await.unwrap();
    drop_at_first_reply(&proxy, tx.begin()).await;
    tx.commit().await.unwrap();
    assert_eq!(
        committed(&database, 1).await,
        None,
        "lost in the naive twin"
    );

    let mut tx = pool.begin().await.unwrap();
    Count::add_free(&mut *tx, 1, 1).await.unwrap();
    let batch = Count::add_bounded_many(&mut *tx, [(2, 1), (3, 1)]);
    drop_at_first_reply(&proxy, batch).await;
    Count::add_bounded_many(&mut *tx, [(4, 1)]).await.unwrap();
    tx.commit().await.unwrap();
    for (id, total) in [(1, Some(1)), (2, None), (3, None), (4, Some(1))] {
        assert_eq!(committed(&database, id).await, total);
    }
    open_transactions(&database, 0).await;
    pool.acquire().await.unwrap().ping().await.unwrap();
}
