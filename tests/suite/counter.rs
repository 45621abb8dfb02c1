//! `add_<counter>`: one row, one statement, the database's total.

use chrono::NaiveDate;
use rowlock::row::CounterError;
use rowlock::{Counter, Fault, Versioned};
use sqlx::{AssertSqlSafe, Executor};

use super::{Database, Pool, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(key)]
    day: NaiveDate,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(counter(min = 0, max = 10))]
    seats: i32,
    #[rowlock(counter(min = 5, max = 8))]
    level: i16,
    note: Option<String>,
}

const PAGE_VIEWS: &str = "CREATE TABLE page_views (page bigint NOT NULL, day date NOT NULL, views bigint NOT NULL, \
    seats int NOT NULL, level smallint NOT NULL, note text, PRIMARY KEY (page, day))";

/// A counter of each width, without bounds of its own.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "widths")]
struct Width {
    #[rowlock(key)]
    name: String,
    #[rowlock(counter)]
    short: i16,
    #[rowlock(counter)]
    int: i32,
    #[rowlock(counter)]
    long: i64,
}

const WIDTHS: &str =
    "CREATE TABLE widths (name text PRIMARY KEY, short smallint, int int, long bigint)";

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "products", existing_rows)]
struct Product {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(counter(min = 0))]
    stock: i32,
}

const PRODUCTS: &str = "CREATE TABLE products (id bigint, title text NOT NULL, stock int NOT NULL); \
    INSERT INTO products VALUES (1, 'one', 3), (2, 'two', 3), (2, 'two again', 3)";

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter)]
#[rowlock(table = "posts")]
struct Post {
    #[rowlock(key)]
    id: i64,
    #[rowlock(default)]
    title: String,
    #[rowlock(counter)]
    likes: i64,
    #[rowlock(version)]
    lock_version: i32,
}

const POSTS: &str = "CREATE TABLE posts (id bigint PRIMARY KEY, title text NOT NULL DEFAULT 'untitled', \
    likes bigint NOT NULL, lock_version int NOT NULL)";

fn day(day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 1, day).unwrap()
}

/// Runs statements of the test's own.
async fn sql(pool: &Pool, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned()))
        .execute(pool)
        .await
        .unwrap();
}

async fn page(database: &Database, key: (i64, NaiveDate)) -> Option<PageViews> {
    PageViews::get(&database.pool, key).await.unwrap()
}

/// What an error looks like to whoever logs it.
fn texts(error: &CounterError) -> String {
    format!("{error} {error:?}")
}

#[tokio::test]
async fn c_01_exact_deltas_of_any_sign_go_in() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    for (delta, total) in [(5, 5), (1, 6), (-2, 4), (-9, -5), (0, -5)] {
        let added = PageViews::add_views(&database.pool, key, delta).await;
        assert_eq!(added.unwrap(), total);
    }
    assert_eq!(page(&database, key).await.unwrap().views, -5);
}

/// The naive twin shows what is at stake: both read before either writes, and one of two additions is lost.
#[tokio::test]
async fn c_02_two_stale_copies_both_count() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    PageViews::add_views(&database.pool, key, 1).await.unwrap();

    let copies = [page(&database, key).await, page(&database, key).await];
    for copy in copies.into_iter().flatten() {
        sqlx::query("UPDATE page_views SET views = $1 WHERE page = 1")
            .bind(copy.views + 1)
            .execute(&database.pool)
            .await
            .unwrap();
    }
    assert_eq!(page(&database, key).await.unwrap().views, 2, "one is lost");

    let copies = [page(&database, key).await, page(&database, key).await];
    for copy in copies.into_iter().flatten() {
        let key = (copy.page, copy.day);
        PageViews::add_views(&database.pool, key, 1).await.unwrap();
    }
    assert_eq!(page(&database, key).await.unwrap().views, 4, "none is lost");
}

#[tokio::test]
async fn c_05_the_total_is_the_database_s_own() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    PageViews::add_views(&database.pool, key, 1).await.unwrap();
    sql(&database.pool, "UPDATE page_views SET views = 1000").await;
    let total = PageViews::add_views(&database.pool, key, 1).await.unwrap();
    assert_eq!(total, 1001);
}

/// A model is a value: what an addition returned can be written back as often as one likes.
#[tokio::test]
async fn c_06_an_addition_applies_once() {
    let database = database(POSTS).await;
    Post::add_likes(&database.pool, 1, 3).await.unwrap();
    let post = Post::load(&database.pool, 1).await.unwrap();
    let post = post.update(&database.pool).await.unwrap();
    let post = post.update(&database.pool).await.unwrap();
    assert_eq!((post.likes, post.lock_version), (3, 2));
}

#[tokio::test]
async fn c_07_a_new_row_starts_at_the_bound_nearest_to_zero() {
    let database = database(PAGE_VIEWS).await;
    let total = PageViews::add_level(&database.pool, (1, day(1)), 2).await;
    assert_eq!(total.unwrap(), 7, "5 + 2");
    let expected = PageViews {
        page: 1,
        day: day(1),
        views: 0,
        seats: 0,
        level: 7,
        note: None,
    };
    assert_eq!(page(&database, (1, day(1))).await, Some(expected));

    PageViews::add_views(&database.pool, (2, day(1)), 1)
        .await
        .unwrap();
    let other = page(&database, (2, day(1))).await.unwrap();
    assert_eq!((other.views, other.seats, other.level), (1, 0, 5));
}

#[tokio::test]
async fn c_08_several_counters_of_a_row_do_not_touch_each_other() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    PageViews::add_views(&database.pool, key, 7).await.unwrap();
    PageViews::add_seats(&database.pool, key, 4).await.unwrap();
    PageViews::add_level(&database.pool, key, 1).await.unwrap();
    PageViews::add_seats(&database.pool, key, -1).await.unwrap();
    let row = page(&database, key).await.unwrap();
    assert_eq!((row.views, row.seats, row.level), (7, 3, 6));
}

#[tokio::test]
async fn c_09_bounds_hold_at_both_ends() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    for (delta, total) in [(10, 10), (-10, 0), (0, 0), (9, 9)] {
        let added = PageViews::add_seats(&database.pool, key, delta).await;
        assert_eq!(added.unwrap(), total);
    }
    for delta in [2, -10, i64::from(i32::MAX) - 9, i64::from(i32::MIN)] {
        let refused = PageViews::add_seats(&database.pool, key, delta).await;
        let Err(CounterError::OutOfBounds(refused)) = refused else {
            panic!("{delta}: {refused:?}");
        };
        assert_eq!((refused.field, refused.delta), ("seats", delta));
        assert_eq!((refused.min, refused.max), (Some(0), Some(10)));
        assert_eq!(refused.current, Some(9));
    }
    assert_eq!(page(&database, key).await.unwrap().seats, 9);
}

/// The row is missing, and could not start with this delta: it is not created at its start value either.
#[tokio::test]
async fn c_09_a_refused_first_addition_creates_nothing() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    for delta in [-1, 11] {
        let refused = PageViews::add_seats(&database.pool, key, delta).await;
        let Err(CounterError::OutOfBounds(refused)) = refused else {
            panic!("{delta}: {refused:?}");
        };
        assert_eq!(refused.current, None);
    }
    assert_eq!(page(&database, key).await, None);
}

/// A value that is out of its bounds already may come back, and go nowhere else.
#[tokio::test]
async fn c_09_a_value_outside_its_bounds_can_only_return() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    PageViews::add_views(&database.pool, key, 0).await.unwrap();
    for (value, refused, accepted, total) in [(-4, 3, 5, 1), (40, -29, -31, 9)] {
        sql(
            &database.pool,
            &format!("UPDATE page_views SET seats = {value}"),
        )
        .await;
        let error = PageViews::add_seats(&database.pool, key, refused).await;
        assert!(
            matches!(&error, Err(CounterError::OutOfBounds(bounds)) if bounds.current == Some(value)),
            "{error:?}"
        );
        let added = PageViews::add_seats(&database.pool, key, accepted).await;
        assert_eq!(added.unwrap(), total);
    }
}

#[tokio::test]
async fn c_10_without_bounds_a_counter_goes_below_zero() {
    let database = database(PAGE_VIEWS).await;
    let total = PageViews::add_views(&database.pool, (1, day(1)), -3).await;
    assert_eq!(total.unwrap(), -3);
}

#[tokio::test]
async fn c_10_a_check_constraint_surfaces_and_changes_nothing() {
    let database = database(
        "CREATE TABLE widths (name text PRIMARY KEY, short smallint, int int, long bigint, \
         CONSTRAINT long_is_positive CHECK (long >= 0))",
    )
    .await;
    Width::add_long(&database.pool, "secret", 5).await.unwrap();
    let error = Width::add_long(&database.pool, "secret", -6)
        .await
        .unwrap_err();
    let CounterError::Database(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.fault(), Fault::CheckViolation);
    if super::NAME == "PostgreSQL" {
        assert_eq!(error.constraint(), Some("long_is_positive"));
    }
    let row = Width::get(&database.pool, "secret").await.unwrap().unwrap();
    assert_eq!(row.long, 5);
}

/// Both ends of each width: the last step that fits, then the first that does not.
#[tokio::test]
async fn c_11_overflow_is_an_error_and_changes_nothing() {
    macro_rules! overflows {
        ($pool:expr, $add:ident, $column:ident, $ty:ty) => {
            for (edge, away) in [(<$ty>::MAX, 1), (<$ty>::MIN, -1)] {
                let name = format!("{}{away}", stringify!($column));
                let total = Width::$add($pool, &name, i64::from(edge) - away).await;
                assert_eq!(i64::from(total.unwrap()), i64::from(edge) - away);
                let total = Width::$add($pool, &name, away).await;
                assert_eq!(total.unwrap(), edge);
                for delta in [away, away * i64::MAX] {
                    let error = Width::$add($pool, &name, delta).await;
                    assert!(matches!(error, Err(CounterError::Overflow(_))), "{error:?}");
                }
                let row = Width::get($pool, &name).await.unwrap().unwrap();
                assert_eq!(row.$column, edge);
            }
        };
    }
    let database = database(WIDTHS).await;
    overflows!(&database.pool, add_short, short, i16);
    overflows!(&database.pool, add_int, int, i32);
    overflows!(&database.pool, add_long, long, i64);
}

#[tokio::test]
async fn c_11_a_delta_wider_than_the_column_still_counts_right() {
    let database = database(WIDTHS).await;
    let wide = i64::from(i16::MAX) - i64::from(i16::MIN);
    let error = Width::add_short(&database.pool, "a", wide).await;
    assert!(matches!(error, Err(CounterError::Overflow(_))), "{error:?}");
    assert_eq!(Width::get(&database.pool, "a").await.unwrap(), None);

    let lowest = Width::add_short(&database.pool, "a", i16::MIN.into()).await;
    assert_eq!(lowest.unwrap(), i16::MIN);
    let highest = Width::add_short(&database.pool, "a", wide).await;
    assert_eq!(highest.unwrap(), i16::MAX);
}

#[tokio::test]
async fn c_12_columns_that_are_not_counters_stay() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    PageViews::add_views(&database.pool, key, 1).await.unwrap();
    sql(&database.pool, "UPDATE page_views SET note = 'kept'").await;
    PageViews::add_views(&database.pool, key, 1).await.unwrap();
    let row = page(&database, key).await.unwrap();
    assert_eq!(row.note.as_deref(), Some("kept"));
}

/// A hot counter must not make every edit of its row stale.
#[tokio::test]
async fn c_13_a_counter_does_not_bump_the_version() {
    let database = database(POSTS).await;
    Post::add_likes(&database.pool, 1, 1).await.unwrap();
    let post = Post::load(&database.pool, 1).await.unwrap();
    assert_eq!((post.lock_version, post.title.as_str()), (0, "untitled"));

    Post::add_likes(&database.pool, 1, 1).await.unwrap();
    Post::add_likes_many(&database.pool, [(1, 1)])
        .await
        .unwrap();
    let edited = Post {
        title: "edited".to_owned(),
        ..post
    };
    let saved = edited.update(&database.pool).await.unwrap();
    assert_eq!((saved.lock_version, saved.likes), (1, 3));
}

#[tokio::test]
async fn c_14_a_stale_versioned_copy_still_counts() {
    let database = database(POSTS).await;
    Post::add_likes(&database.pool, 1, 1).await.unwrap();
    let stale = Post::load(&database.pool, 1).await.unwrap();
    stale.update(&database.pool).await.unwrap();
    assert!(stale.update(&database.pool).await.is_err());

    let total = Post::add_likes(&database.pool, stale.id, 1).await;
    assert_eq!(total.unwrap(), 2);
}

#[tokio::test]
async fn c_15_each_key_of_a_composite_key_counts() {
    let database = database(PAGE_VIEWS).await;
    for key in [(1, day(1)), (1, day(2)), (2, day(1)), (1, day(1))] {
        PageViews::add_views(&database.pool, key, 1).await.unwrap();
    }
    let mut views = Vec::new();
    for key in [(1, day(1)), (1, day(2)), (2, day(1))] {
        views.push(page(&database, key).await.unwrap().views);
    }
    assert_eq!(views, [2, 1, 1]);
    assert_eq!(page(&database, (2, day(2))).await, None);
}

/// A natural key needs no sequence, so there is none to run out.
#[tokio::test]
async fn c_19_additions_burn_no_ids() {
    #[derive(Debug, sqlx::FromRow, Counter)]
    #[rowlock(table = "products", existing_rows)]
    struct Stock {
        #[rowlock(key, generated)]
        id: i64,
        #[rowlock(counter)]
        stock: i64,
    }
    let database = database("CREATE TABLE products (id {id}, stock bigint NOT NULL)").await;
    let insert = "INSERT INTO products (stock) VALUES (0)";
    sql(&database.pool, insert).await;
    for _ in 0..5 {
        Stock::add_stock(&database.pool, 1, 1).await.unwrap();
    }
    sql(&database.pool, insert).await;
    let second = Stock::get(&database.pool, 2).await.unwrap().unwrap();
    assert_eq!((second.id, second.stock), (2, 0));
}

#[tokio::test]
async fn adding_zero_creates_the_row_and_returns_its_total() {
    let database = database(PAGE_VIEWS).await;
    let key = (1, day(1));
    let start = PageViews::add_level(&database.pool, key, 0).await;
    assert_eq!(start.unwrap(), 5);
    assert!(page(&database, key).await.is_some());
}

#[tokio::test]
async fn a_null_counter_is_an_error_and_stays_null() {
    let database = database(WIDTHS).await;
    sql(&database.pool, "INSERT INTO widths (name) VALUES ('a')").await;
    let error = Width::add_long(&database.pool, "a", 1).await;
    assert!(
        matches!(error, Err(CounterError::NullValue(_))),
        "{error:?}"
    );
    let null: bool = sqlx::query_scalar("SELECT long IS NULL FROM widths")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert!(null);
}

#[tokio::test]
async fn existing_rows_are_never_created() {
    let database = database(PRODUCTS).await;
    let stock = Product::add_stock(&database.pool, 1, 2).await;
    assert_eq!(stock.unwrap(), 5);
    for delta in [1, 0, -1] {
        let error = Product::add_stock(&database.pool, 7, delta).await;
        let Err(CounterError::NotFound(attempt)) = error else {
            panic!("{error:?}");
        };
        assert_eq!(attempt.to_string(), "add_stock of products (id = 7)");
    }
    assert_eq!(Product::get(&database.pool, 7).await.unwrap(), None);
}

#[tokio::test]
async fn a_key_of_several_rows_is_reported() {
    let database = database(PRODUCTS).await;
    let error = Product::add_stock(&database.pool, 2, 1).await;
    assert!(
        matches!(error, Err(CounterError::NotUnique(_))),
        "{error:?}"
    );
    let one = Product::get(&database.pool, 1).await.unwrap().unwrap();
    assert_eq!(one.stock, 3);
    let stocks = sqlx::query_scalar::<_, i32>("SELECT stock FROM products WHERE id = 2")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    assert_eq!(stocks, [3, 3]);
}

#[tokio::test]
async fn a_table_in_another_schema_works() {
    #[derive(Debug, sqlx::FromRow, Counter)]
    #[rowlock(table = "pg_temp.hits")]
    struct Hits {
        #[rowlock(key)]
        key: i64,
        #[rowlock(counter(min = 0))]
        hits: i64,
    }
    let database = database("").await;
    let mut connection = database.pool.acquire().await.unwrap();
    // A schema of the session's own; SQLite calls it an attached database.
    let create = match super::NAME {
        "PostgreSQL" => "CREATE TEMP TABLE hits (key bigint PRIMARY KEY, hits bigint NOT NULL)",
        _ => {
            "ATTACH ':memory:' AS pg_temp; \
             CREATE TABLE pg_temp.hits (key bigint PRIMARY KEY, hits bigint NOT NULL)"
        }
    };
    sqlx::raw_sql(create)
        .execute(&mut *connection)
        .await
        .unwrap();
    for total in [1, 2] {
        let added = Hits::add_hits(&mut *connection, 1, 1).await;
        assert_eq!(added.unwrap(), total);
    }
    let added = Hits::add_hits(&mut *connection, 1, -1).await;
    assert_eq!(added.unwrap(), 1);
    let added = Hits::add_hits_many(&mut *connection, [(1, 1), (2, 1)]).await;
    assert_eq!(added.unwrap(), [(1, 2), (2, 1)]);
    let row = Hits::get(&mut *connection, 2).await.unwrap().unwrap();
    assert_eq!((row.key, row.hits), (2, 1));
}

#[tokio::test]
async fn a_refusal_leaves_the_caller_s_transaction_usable() {
    let database = database(PAGE_VIEWS).await;
    let mut tx = database.pool.begin().await.unwrap();
    PageViews::add_views(&mut *tx, (1, day(1)), 1)
        .await
        .unwrap();
    for delta in [-1, i64::from(i32::MAX), i64::MIN] {
        PageViews::add_seats(&mut *tx, (1, day(1)), delta)
            .await
            .unwrap_err();
    }
    PageViews::add_seats(&mut *tx, (1, day(1)), 1)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let row = page(&database, (1, day(1))).await.unwrap();
    assert_eq!((row.views, row.seats), (1, 1));
}

#[tokio::test]
async fn a_missing_table_is_named() {
    let database = database("").await;
    let error = PageViews::add_views(&database.pool, (1, day(1)), 1)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("page_views"), "{error}");
    let CounterError::Database(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.fault(), Fault::Schema);
}

#[tokio::test]
async fn a_key_without_a_unique_index_is_told() {
    let database =
        database("CREATE TABLE widths (name text, short smallint, int int, long bigint)").await;
    let error = Width::add_long(&database.pool, "a", 1).await.unwrap_err();
    assert!(
        matches!(error, CounterError::MissingUniqueIndex(_, "name")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_closed_or_exhausted_pool_is_said() {
    let database = database(WIDTHS).await;
    let hasty = PoolOptions::new()
        .max_connections(1)
        .acquire_timeout(std::time::Duration::from_secs(2));
    let pool = database.pool_with(hasty).await;
    let held = pool.acquire().await.unwrap();
    let fault = async || match Width::add_long(&pool, "a", 1).await {
        Err(CounterError::Database(error)) => error.fault(),
        other => panic!("{other:?}"),
    };
    assert_eq!(fault().await, Fault::PoolTimedOut);
    drop(held);
    Width::add_long(&pool, "a", 1).await.unwrap();
    pool.close().await;
    assert_eq!(fault().await, Fault::PoolClosed);
    let batch = Width::add_long_many(&pool, [("a", 1)]).await;
    assert!(
        matches!(&batch, Err(CounterError::Database(error)) if error.fault() == Fault::PoolClosed)
    );
}

/// Operation, table and key are in every text; a text key and what the database quotes of the row are in none.
#[tokio::test]
async fn errors_say_where_and_never_what() {
    let database = database(
        "CREATE TABLE widths (name text PRIMARY KEY, short smallint, int int, long bigint CHECK (long < 77))",
    )
    .await;
    sql(
        &database.pool,
        "INSERT INTO widths VALUES ('alice@example.org', 32767, NULL, 42)",
    )
    .await;
    let key = "alice@example.org";
    let errors = [
        Width::add_short(&database.pool, key, 1).await.unwrap_err(),
        Width::add_short_many(&database.pool, [(key, i64::MAX), (key, 1)])
            .await
            .unwrap_err(),
        Width::add_long(&database.pool, key, 40).await.unwrap_err(),
    ];
    for error in &errors {
        let shown = error.to_string();
        assert!(shown.starts_with("add_"), "{shown}");
        assert!(shown.contains(" of widths (name = …)"), "{shown}");
        assert!(!texts(error).contains("alice"), "{}", texts(error));
        assert!(!texts(error).contains("82"), "{}", texts(error));
    }
    let null = Width::add_int(&database.pool, key, 1).await.unwrap_err();
    assert!(!texts(&null).contains("alice"), "{}", texts(&null));

    let mut source: &dyn std::error::Error = &errors[2];
    while let Some(next) = source.source() {
        source = next;
        if source.is::<sqlx::Error>() {
            return;
        }
    }
    panic!("no sqlx::Error below {:?}", errors[2]);
}

#[tokio::test]
async fn an_out_of_bounds_text_names_the_bounds() {
    let database = database(PAGE_VIEWS).await;
    let error = PageViews::add_seats(&database.pool, (7, day(1)), -3)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "add_seats of page_views (page = 7, day = …): -3 would take seats out of its bounds 0 to 10"
    );
}

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "stock")]
#[allow(dead_code)]
struct Stock {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    units: i64,
}

/// The bounds are known to the database only. `at_least` is 10 for the row 7: what a new row would start with is below it.
const STOCK: &str = "CREATE TABLE stock (id bigint PRIMARY KEY, units bigint NOT NULL, CHECK (units >= 0), CHECK (id <> 7 OR units >= 10));
    INSERT INTO stock VALUES (1, 10), (2, 10), (7, 20)";

async fn units(database: &Database) -> Vec<(i64, i64)> {
    sqlx::query_as("SELECT id, units FROM stock ORDER BY id")
        .fetch_all(&database.pool)
        .await
        .unwrap()
}

fn assert_check<T: std::fmt::Debug>(outcome: Result<T, CounterError>) {
    match outcome {
        Err(CounterError::Database(error)) => assert_eq!(error.fault(), Fault::CheckViolation),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_check_is_about_the_total_and_not_about_the_bare_addition() {
    let database = database(STOCK).await;
    let pool = &database.pool;
    assert_eq!(Stock::add_units(pool, 1, -1).await.unwrap(), 9);
    // A new row would start with too little.
    assert_eq!(Stock::add_units(pool, 7, 3).await.unwrap(), 23);
    assert_check(Stock::add_units(pool, 1, -10).await);
    assert_check(Stock::add_units(pool, 3, -1).await);
    assert_eq!(units(&database).await, [(1, 9), (2, 10), (7, 23)]);

    let mut tx = pool.begin().await.unwrap();
    assert_eq!(Stock::add_units(&mut *tx, 1, -1).await.unwrap(), 8);
    assert_eq!(Stock::add_units(&mut *tx, 2, -1).await.unwrap(), 9);
    tx.commit().await.unwrap();
    assert_eq!(units(&database).await, [(1, 8), (2, 9), (7, 23)]);

    // The upsert by hand proposes the row with -1.
    let naive = "INSERT INTO stock (id, units) VALUES (1, -1) ON CONFLICT (id) DO UPDATE SET units = stock.units - 1";
    assert!(pool.execute(naive).await.is_err());
}

#[tokio::test]
async fn a_check_is_about_the_totals_of_a_batch_too() {
    for in_transaction in [false, true] {
        let database = database(STOCK).await;
        let pool = &database.pool;
        let deltas = [(2, -2), (1, -1), (4, 4), (7, -3)];
        let totals = if in_transaction {
            let mut tx = pool.begin().await.unwrap();
            let totals = Stock::add_units_many(&mut *tx, deltas).await.unwrap();
            tx.commit().await.unwrap();
            totals
        } else {
            Stock::add_units_many(pool, deltas).await.unwrap()
        };
        assert_eq!(totals, [(1, 9), (2, 8), (4, 4), (7, 17)]);
        assert_eq!(units(&database).await, totals);

        // All or none, and the caller's transaction goes on.
        let mut tx = pool.begin().await.unwrap();
        assert_check(Stock::add_units_many(&mut *tx, [(1, -1), (2, -9)]).await);
        assert_check(Stock::add_units_many(&mut *tx, [(1, -1), (3, -1)]).await);
        assert_eq!(Stock::add_units(&mut *tx, 1, 0).await.unwrap(), 9);
        tx.commit().await.unwrap();
        assert_eq!(units(&database).await, totals);
    }
}
