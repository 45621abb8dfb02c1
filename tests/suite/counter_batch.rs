//! `add_<counter>_many`: many rows, all or none.

use rowlock::row::CounterError;
use rowlock::{Counter, Versioned};
use sqlx::AssertSqlSafe;

use super::{Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "stock")]
struct Stock {
    #[rowlock(key)]
    shop: i64,
    #[rowlock(key)]
    sku: String,
    #[rowlock(counter)]
    sold: i64,
    #[rowlock(counter(min = 0, max = 100))]
    held: i32,
    #[rowlock(counter(min = 5))]
    level: i16,
}

const STOCK: &str = "CREATE TABLE stock (shop bigint NOT NULL, sku text NOT NULL, sold bigint, \
    held int, level smallint, PRIMARY KEY (shop, sku))";

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "wallets", existing_rows)]
struct Wallet {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    points: i64,
    #[rowlock(counter(min = 0))]
    cents: i64,
}

const WALLETS: &str = "CREATE TABLE wallets (id bigint, points bigint, cents bigint NOT NULL); \
    INSERT INTO wallets VALUES (1, 0, 10), (2, 0, 10), (3, 0, 10)";

async fn sql(pool: &Pool, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned()))
        .execute(pool)
        .await
        .unwrap();
}

async fn count(pool: &Pool, text: &'static str) -> i64 {
    sqlx::query_scalar(text).fetch_one(pool).await.unwrap()
}

fn key(shop: i64, sku: &str) -> (i64, String) {
    (shop, sku.to_owned())
}

#[tokio::test]
async fn c_15_totals_come_back_in_key_order() {
    let database = database(STOCK).await;
    Stock::add_sold(&database.pool, (1, "b"), 10).await.unwrap();
    let deltas = [((2, "a"), 1), ((1, "b"), 2), ((1, "a"), -3)];
    let totals = Stock::add_sold_many(&database.pool, deltas).await.unwrap();
    assert_eq!(
        totals,
        [(key(1, "a"), -3), (key(1, "b"), 12), (key(2, "a"), 1)]
    );
    let row = Stock::get(&database.pool, (2, "a")).await.unwrap().unwrap();
    assert_eq!((row.sold, row.held, row.level), (1, 0, 5));
}

#[tokio::test]
async fn c_08_a_counter_with_a_start_value_starts_there() {
    let database = database(STOCK).await;
    let deltas = [((1, "a"), 3), ((1, "b"), 0)];
    for expected in [[8, 5], [11, 5]] {
        let totals = Stock::add_level_many(&database.pool, deltas).await;
        let totals: Vec<i16> = totals
            .unwrap()
            .into_iter()
            .map(|(_, total)| total)
            .collect();
        assert_eq!(totals, expected);
    }
}

#[tokio::test]
async fn u_08_deltas_of_one_key_are_summed() {
    let database = database(STOCK).await;
    let deltas = [
        ((1, "a"), 60),
        ((1, "b"), 1),
        ((1, "a"), 60),
        ((1, "a"), -50),
    ];
    let totals = Stock::add_held_many(&database.pool, deltas).await.unwrap();
    assert_eq!(totals, [(key(1, "a"), 70), (key(1, "b"), 1)]);

    let wallets = super::database(WALLETS).await;
    let totals = Wallet::add_cents_many(&wallets.pool, [(2, -9), (1, 1), (2, 4)]).await;
    assert_eq!(totals.unwrap(), [(1, 11), (2, 5)]);
}

#[tokio::test]
async fn u_09_an_empty_batch_needs_no_connection() {
    let database = database("").await;
    database.pool.close().await;
    let none: [((i64, &str), i64); 0] = [];
    let totals = Stock::add_sold_many(&database.pool, none).await;
    assert_eq!(totals.unwrap(), []);
}

#[tokio::test]
async fn c_11_a_sum_that_overflows_never_reaches_the_database() {
    let database = database("").await;
    database.pool.close().await;
    for (a, b) in [(i64::MAX, 1), (i64::MIN, -1)] {
        let error = Stock::add_sold_many(&database.pool, [((1, "a"), a), ((1, "a"), b)]).await;
        assert!(matches!(error, Err(CounterError::Overflow(_))), "{error:?}");
    }
    // In between it may be as large as it likes.
    let deltas = [((1, "a"), i64::MAX), ((1, "a"), 1), ((1, "a"), -1)];
    let error = Stock::add_sold_many(&database.pool, deltas).await;
    assert!(matches!(error, Err(CounterError::Database(_))), "{error:?}");
}

#[tokio::test]
async fn c_11_a_batch_that_overflows_changes_nothing() {
    let database = database(STOCK).await;
    let totals = Stock::add_sold_many(&database.pool, [((1, "a"), 1), ((1, "b"), i64::MAX)]).await;
    assert_eq!(totals.unwrap()[1].1, i64::MAX);
    for deltas in [
        [((1, "a"), 1), ((1, "b"), 1)],
        [((1, "b"), 1), ((1, "c"), 1)],
    ] {
        let error = Stock::add_sold_many(&database.pool, deltas).await;
        assert!(matches!(error, Err(CounterError::Overflow(_))), "{error:?}");
    }
    let sold = count(&database.pool, "SELECT min(sold) * count(*) FROM stock").await;
    assert_eq!(sold, 2, "two rows, the lowest still 1");
}

/// Some of the deltas could start a row and some could not, which takes two kinds of statements.
#[tokio::test]
async fn c_08_creating_and_other_deltas_mix() {
    let database = database(STOCK).await;
    for sku in ["a", "c", "e"] {
        Stock::add_held(&database.pool, (1, sku), 50).await.unwrap();
    }
    let deltas = [
        ((1, "e"), -5),
        ((1, "d"), 4),
        ((1, "c"), -3),
        ((1, "b"), 2),
        ((1, "a"), -1),
    ];
    let totals = Stock::add_held_many(&database.pool, deltas).await.unwrap();
    let expected = [("a", 49), ("b", 2), ("c", 47), ("d", 4), ("e", 45)];
    assert_eq!(totals, expected.map(|(sku, total)| (key(1, sku), total)));
}

#[tokio::test]
async fn c_09_one_refused_row_refuses_the_batch() {
    let database = database(STOCK).await;
    Stock::add_held(&database.pool, (1, "b"), 99).await.unwrap();
    for (delta, current) in [(2, Some(99)), (-100, Some(99))] {
        let deltas = [((1, "a"), 1), ((1, "b"), delta), ((1, "c"), 1)];
        let error = Stock::add_held_many(&database.pool, deltas).await;
        let Err(CounterError::OutOfBounds(refused)) = error else {
            panic!("{error:?}");
        };
        assert_eq!(refused.operation.key(), "shop = 1, sku = …");
        assert_eq!((refused.delta, refused.current), (delta, current));
    }
    // A row that is not there and could not start with its delta.
    let error = Stock::add_held_many(&database.pool, [((1, "a"), 1), ((1, "z"), -1)]).await;
    assert!(
        matches!(&error, Err(CounterError::OutOfBounds(refused)) if refused.current.is_none()),
        "{error:?}"
    );
    assert_eq!(count(&database.pool, "SELECT count(*) FROM stock").await, 1);
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn c_09_inside_a_transaction_a_refused_batch_leaves_the_rest() {
    let database = database(STOCK).await;
    let mut tx = database.pool.begin().await.unwrap();
    Stock::add_held(&mut *tx, (1, "b"), 99).await.unwrap();
    let deltas = [((1, "a"), 1), ((1, "b"), 2), ((1, "c"), 1)];
    let error = Stock::add_held_many(&mut *tx, deltas).await;
    assert!(
        matches!(error, Err(CounterError::OutOfBounds(_))),
        "{error:?}"
    );
    Stock::add_held_many(&mut *tx, [((1, "b"), 1), ((1, "d"), 1)])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let held: Vec<(String, i32)> = sqlx::query_as("SELECT sku, held FROM stock ORDER BY sku")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    assert_eq!(held, [("b".to_owned(), 100), ("d".to_owned(), 1)]);
}

#[tokio::test]
async fn existing_rows_in_a_batch_are_all_there_or_none_changes() {
    let database = database(WALLETS).await;
    let mut tx = database.pool.begin().await.unwrap();
    Wallet::add_points(&mut *tx, 1, 5).await.unwrap();
    let error = Wallet::add_points_many(&mut *tx, [(1, 1), (7, 1), (2, 1)]).await;
    let Err(CounterError::NotFound(attempt)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(attempt.to_string(), "add_points_many of wallets (id = 7)");
    let error = Wallet::add_cents_many(&mut *tx, [(1, 1), (2, -11)]).await;
    assert!(
        matches!(error, Err(CounterError::OutOfBounds(_))),
        "{error:?}"
    );
    tx.commit().await.unwrap();
    let error = Wallet::add_points_many(&database.pool, [(1, 1), (7, 1)]).await;
    assert!(matches!(error, Err(CounterError::NotFound(_))), "{error:?}");
    let sums = "SELECT CAST(sum(points) * 1000 + sum(cents) AS bigint) FROM wallets";
    assert_eq!(count(&database.pool, sums).await, 5030);
}

/// Two rows for one key must not pass for the row that is missing.
#[tokio::test]
async fn a_batch_notices_a_key_of_several_rows() {
    let database = database(WALLETS).await;
    sql(&database.pool, "INSERT INTO wallets VALUES (2, 0, 10)").await;
    for deltas in [[(2, 1), (7, 1)], [(1, 1), (2, 1)]] {
        let error = Wallet::add_points_many(&database.pool, deltas).await;
        assert!(
            matches!(
                error,
                Err(CounterError::NotUnique(_) | CounterError::NotFound(_))
            ),
            "{error:?}"
        );
    }
    let sum = "SELECT CAST(sum(points) AS bigint) FROM wallets";
    assert_eq!(count(&database.pool, sum).await, 0);
}

/// NULL + 1 is NULL: the row that has it would not change, and the others must not either.
#[tokio::test]
async fn a_null_counter_refuses_its_batch() {
    let database = database(STOCK).await;
    sql(
        &database.pool,
        "INSERT INTO stock (shop, sku) VALUES (1, 'b')",
    )
    .await;
    let deltas = [((1, "a"), 1), ((1, "b"), 1), ((1, "c"), 1)];
    let sold = Stock::add_sold_many(&database.pool, deltas).await;
    assert!(
        matches!(&sold, Err(CounterError::NullValue(attempt)) if attempt.key() == "shop = 1, sku = …"),
        "{sold:?}"
    );
    let held = Stock::add_held_many(&database.pool, deltas).await;
    assert!(matches!(held, Err(CounterError::NullValue(_))), "{held:?}");
    assert_eq!(count(&database.pool, "SELECT count(*) FROM stock").await, 1);

    let mut tx = database.pool.begin().await.unwrap();
    let sold = Stock::add_sold_many(&mut *tx, deltas).await;
    assert!(matches!(sold, Err(CounterError::NullValue(_))), "{sold:?}");
    tx.rollback().await.unwrap();

    let wallets = super::database(WALLETS).await;
    sql(
        &wallets.pool,
        "UPDATE wallets SET points = NULL WHERE id = 2",
    )
    .await;
    let points = Wallet::add_points_many(&wallets.pool, [(1, 1), (2, 1)]).await;
    assert!(
        matches!(points, Err(CounterError::NullValue(_))),
        "{points:?}"
    );
    let one = Wallet::get(&wallets.pool, 1).await.unwrap().unwrap();
    assert_eq!(one.points, 0);
}

/// Far more parameters than a statement can have.
#[tokio::test]
async fn c_15_a_batch_of_25_000_composite_keys() {
    let database = database(STOCK).await;
    let skus: Vec<String> = (0..250).map(|sku| format!("{sku:03}")).collect();
    let deltas = || {
        let shops = (0..100).rev();
        shops.flat_map(|shop| skus.iter().map(move |sku| ((shop, sku.as_str()), shop + 1)))
    };
    let totals = Stock::add_sold_many(&database.pool, deltas())
        .await
        .unwrap();
    assert_eq!(totals.len(), 25_000);
    assert!(totals.is_sorted());
    assert!(totals.iter().all(|((shop, _), total)| *total == shop + 1));
    // The last of all keys is refused, after the others were written.
    Stock::add_held(&database.pool, (99, "249"), 100)
        .await
        .unwrap();
    let error = Stock::add_held_many(&database.pool, deltas().map(|(key, _)| (key, 1))).await;
    assert!(
        matches!(error, Err(CounterError::OutOfBounds(_))),
        "{error:?}"
    );
    let held = "SELECT CAST(sum(held) AS bigint) FROM stock";
    assert_eq!(count(&database.pool, held).await, 100);
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn a_batch_writes_the_first_version_of_a_new_row() {
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter)]
    #[rowlock(table = "posts")]
    struct Post {
        #[rowlock(key)]
        id: i64,
        #[rowlock(counter)]
        likes: i64,
        #[rowlock(version)]
        lock_version: i16,
    }
    let database = database(
        "CREATE TABLE posts (id bigint PRIMARY KEY, likes bigint NOT NULL, lock_version smallint NOT NULL)",
    )
    .await;
    Post::add_likes_many(&database.pool, [(1, 1), (2, 2)])
        .await
        .unwrap();
    let post = Post::load(&database.pool, 2).await.unwrap();
    assert_eq!((post.likes, post.lock_version), (2, 0));
    let post = post.update(&database.pool).await.unwrap();
    assert_eq!(post.lock_version, 1);
}
