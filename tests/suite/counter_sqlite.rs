//! Counters on SQLite: one writer at a time, and integers that must stay integers.

use std::time::Duration;

use rowlock::row::CounterError;
use rowlock::{Counter, Fault};
use sqlx::{AssertSqlSafe, Executor};

use super::{PoolOptions, database};

#[derive(Debug, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "counts")]
struct Count {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
    #[rowlock(counter(min = 0, max = 100))]
    bounded: i64,
    #[rowlock(counter)]
    small: i16,
}

const COUNTS: &str = "CREATE TABLE counts (id bigint PRIMARY KEY, free bigint NOT NULL, bounded bigint NOT NULL, \
    small smallint NOT NULL)";

/// The naive twin's total becomes a floating-point number, and its last digits are gone.
#[tokio::test]
async fn c_11_an_overflow_never_becomes_a_real() {
    let database = database(COUNTS).await;
    let edges = [(1, i64::MAX, 1), (2, i64::MIN, -1)];
    for (id, edge, away) in edges {
        Count::add_free(&database.pool, id, edge).await.unwrap();
        for error in [
            Count::add_free(&database.pool, id, away).await.map(drop),
            Count::add_free(&database.pool, id, edge).await.map(drop),
            Count::add_free_many(&database.pool, [(id, away)])
                .await
                .map(drop),
            Count::add_free_many(&database.pool, [(id, edge), (9, 1)])
                .await
                .map(drop),
            Count::add_small_many(&database.pool, [(id, edge)])
                .await
                .map(drop),
        ] {
            assert!(matches!(error, Err(CounterError::Overflow(_))), "{error:?}");
        }
    }
    let types = "SELECT group_concat(typeof(free) || typeof(small), ' ') FROM counts";
    let types = async || {
        let types: Result<String, _> = sqlx::query_scalar(types).fetch_one(&database.pool).await;
        types.unwrap()
    };
    assert_eq!(types().await, "integerinteger integerinteger");
    for (id, edge, away) in edges {
        let naive =
            format!("UPDATE counts SET free = free + {away} WHERE id = {id} AND free = {edge}");
        database.pool.execute(AssertSqlSafe(naive)).await.unwrap();
    }
    assert_eq!(types().await, "realinteger realinteger");
}

#[tokio::test]
async fn a_database_that_stays_locked_is_busy() {
    let database = database(COUNTS).await;
    let mut holder = database.connection().await;
    holder.execute("BEGIN IMMEDIATE").await.unwrap();
    let options = database.options().busy_timeout(Duration::from_millis(20));
    let pool = PoolOptions::new().connect_with(options).await.unwrap();
    let failures = [
        Count::add_free(&pool, 1, 1).await.map(drop),
        Count::add_free_many(&pool, [(1, 1)]).await.map(drop),
        Count::add_bounded_many(&pool, [(1, 1)]).await.map(drop),
    ];
    for failure in failures {
        let Err(CounterError::Database(error)) = failure else {
            panic!("{failure:?}");
        };
        assert_eq!(error.fault(), Fault::Busy);
    }
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(Count::add_free(&pool, 1, 1).await.unwrap(), 1);
    assert_eq!(database.open_transactions().await, 0);
}

/// Who holds the lock has time to finish: the addition waits, and adds to what it then finds.
#[tokio::test]
async fn c_04_an_addition_waits_for_the_writer() {
    let database = database(COUNTS).await;
    let mut holder = database.connection().await;
    holder.execute("BEGIN IMMEDIATE").await.unwrap();
    holder
        .execute("INSERT INTO counts VALUES (1, 1000, 0, 0)")
        .await
        .unwrap();
    let pool = database.pool.clone();
    let add = tokio::spawn(async move { Count::add_free(&pool, 1, 1).await });
    assert_eq!(Count::get(&database.pool, 1).await.unwrap(), None);
    holder.execute("COMMIT").await.unwrap();
    assert_eq!(add.await.unwrap().unwrap(), 1001);
}

/// A deferred transaction that has read cannot write any more once somebody else did.
#[tokio::test]
async fn u_16_a_lost_snapshot_is_a_serialization_failure() {
    let database = database(COUNTS).await;
    for batch in [false, true] {
        let mut tx = database.pool.begin().await.unwrap();
        Count::get(&mut *tx, 1).await.unwrap();
        Count::add_free(&database.pool, 1, 1).await.unwrap();
        let lost = if batch {
            Count::add_bounded_many(&mut *tx, [(1, 1)]).await.map(drop)
        } else {
            Count::add_free(&mut *tx, 1, 1).await.map(drop)
        };
        assert!(
            matches!(lost, Err(CounterError::Serialization(_))),
            "{lost:?}"
        );
        tx.rollback().await.unwrap();
    }
    let row = Count::get(&database.pool, 1).await.unwrap().unwrap();
    assert_eq!((row.free, row.bounded), (2, 0));
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn a_read_only_database_is_said() {
    let database = database(COUNTS).await;
    let options = database.options().read_only(true);
    let pool = PoolOptions::new().connect_with(options).await.unwrap();
    for error in [
        Count::add_free(&pool, 1, 1).await.map(drop),
        Count::add_bounded_many(&pool, [(1, 1)]).await.map(drop),
    ] {
        assert!(
            matches!(&error, Err(CounterError::Database(error)) if error.fault() == Fault::ReadOnly),
            "{error:?}"
        );
    }
}
