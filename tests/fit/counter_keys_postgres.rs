//! Additions whose key does not fit its column: no overflow of the counter.

use rowlock::row::CounterError;
use rowlock::{Counter, Fault};
use sqlx::Executor;

use super::database;

/// The column of the key is narrower than the field.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "counts")]
struct Count {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    small: i16,
    #[rowlock(counter(min = -9))]
    bounded: i64,
}

const COUNTS: &str = "CREATE TABLE counts (id int PRIMARY KEY, small smallint, bounded bigint);
    INSERT INTO counts VALUES (1, 32767, 0)";

const WIDE: i64 = 3_000_000_000;

fn out_of_range<T: std::fmt::Debug>(added: Result<T, CounterError>) {
    assert!(
        matches!(&added, Err(CounterError::Database(error)) if error.fault() == Fault::NumericOutOfRange),
        "{added:?}"
    );
}

#[tokio::test]
async fn a_key_that_does_not_fit_its_column_is_no_overflow_of_the_counter() {
    let database = database(COUNTS).await;
    let pool = &database.pool;
    out_of_range(Count::add_small(pool, WIDE, 1).await);
    out_of_range(Count::add_bounded(pool, WIDE, 1).await);
    out_of_range(Count::add_small_many(pool, [(WIDE, 1)]).await);
    out_of_range(Count::add_small_many(pool, [(2, 1), (WIDE, -1)]).await);
    out_of_range(Count::add_bounded_many(pool, [(2, 1), (WIDE, 1)]).await);
    let mut tx = pool.begin().await.unwrap();
    // With a savepoint.
    out_of_range(Count::add_small_many(&mut *tx, [(2, -1), (WIDE, 1)]).await);
    out_of_range(Count::add_bounded_many(&mut *tx, [(2, 1), (WIDE, 1)]).await);
    tx.execute("SELECT 1").await.unwrap();
    // Without one.
    out_of_range(Count::add_small_many(&mut *tx, [(2, 1), (WIDE, 1)]).await);
    tx.execute("SELECT 1").await.unwrap_err();
    tx.rollback().await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM counts")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_counter_that_overflows_beside_such_keys_is_one() {
    let database = database(COUNTS).await;
    let pool = &database.pool;
    let overflow = |added: Result<Vec<(i64, i16)>, CounterError>| {
        assert!(matches!(added, Err(CounterError::Overflow(_))), "{added:?}");
    };
    overflow(Count::add_small_many(pool, [(1, 1), (2, 1)]).await);
    overflow(Count::add_small_many(pool, [(1, 1), (2, -1)]).await);
    let single = Count::add_small(pool, 1, 1).await;
    assert!(
        matches!(single, Err(CounterError::Overflow(_))),
        "{single:?}"
    );
    let mut tx = pool.begin().await.unwrap();
    overflow(Count::add_small_many(&mut *tx, [(1, 1), (2, -1)]).await);
    // Nobody can be asked any more whose number it was.
    out_of_range(Count::add_small_many(&mut *tx, [(1, 1)]).await);
}
