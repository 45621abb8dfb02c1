//! What each of the calls gets that one statement has served.

use rowlock::row::{CounterError, LoadError, UpdateError};
use rowlock::{Counter, Fence, FindOrCreate, Lanes, Versioned, Xmin};
use rowlock_tests::postgres::address;
use rowlock_tests::proxy::Proxy;

use super::*;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter, Versioned, FindOrCreate)]
#[rowlock(table = "apart", backend(Postgres), existing_rows, fold = off)]
struct Apart {
    #[rowlock(key)]
    id: i64,
    #[rowlock(unique)]
    name: String,
    #[rowlock(counter)]
    times: i64,
    #[rowlock(version)]
    version: i64,
}

/// `fold = off`: a trigger sees each call by itself.
#[tokio::test]
async fn calls_of_a_model_can_be_kept_apart() {
    let database = database(
        "CREATE TABLE apart (id bigint PRIMARY KEY, name text NOT NULL UNIQUE, times bigint NOT NULL, version bigint NOT NULL);
         INSERT INTO apart SELECT n, n, 0, 0 FROM generate_series(1, 40) AS n;
         CREATE TABLE seen (times bigint NOT NULL);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (NEW.times); RETURN NULL; END $$;
         CREATE TRIGGER look AFTER UPDATE OF times ON apart FOR EACH ROW EXECUTE FUNCTION look()",
    )
    .await;
    let proxy = Proxy::start(&address()).await;
    let pool = database.pool_through(&proxy, PoolOptions::new()).await;
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    at_once((1..=40).map(|id| {
        let lanes = lanes.clone();
        async move {
            Apart::add_times(&lanes, 1, 1).await.unwrap();
            Apart::find_by_name(&lanes, &id.to_string())
                .await
                .unwrap()
                .unwrap();
            let row = Apart::load(&lanes, id).await.unwrap();
            row.update(&lanes).await.unwrap();
        }
    }))
    .await;
    let seen = number(&database.pool, "SELECT count(DISTINCT times) FROM seen").await;
    assert_eq!(seen, 40);
    assert!(
        proxy.round_trips() >= 160,
        "{} round trips",
        proxy.round_trips()
    );
}

/// Prefixes count: in the order of the calls the counter would leave its bounds on the way, though the sum is within.
#[tokio::test]
async fn mixed_signs_never_pass_a_bound_on_the_way() {
    let database = database(TABLES).await;
    sqlx::raw_sql(
        "CREATE TABLE history (units int NOT NULL);
         CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO history VALUES (NEW.units); RETURN NULL; END $$;
         CREATE TRIGGER remember AFTER UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION remember()",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let lanes = lanes_of(&database, 1).await;
    let deltas: Vec<i64> = (0..200)
        .map(|n| if n % 2 == 0 { -400 } else { 400 })
        .collect();
    let outcomes = at_once(deltas.iter().map(|delta| {
        let (lanes, delta) = (lanes.clone(), *delta);
        async move { Stock::add_units(&lanes, "pen", delta).await }
    }))
    .await;
    let mut sum = 0;
    for (outcome, delta) in outcomes.into_iter().zip(deltas) {
        match outcome {
            Ok(total) => {
                assert!((0..=1000).contains(&total), "{total}");
                sum += delta;
            }
            Err(CounterError::OutOfBounds(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let there = "SELECT units::bigint FROM stock WHERE sku = 'pen'";
    assert_eq!(number(&database.pool, there).await, sum);
    let outside = "SELECT count(*) FROM history WHERE units NOT BETWEEN 0 AND 1000";
    assert_eq!(number(&database.pool, outside).await, 0);
}

#[tokio::test]
async fn loads_are_few_statements_and_each_gets_its_row() {
    let database = database(TABLES).await;
    let proxy = Proxy::start(&address()).await;
    // To make another connection would be round trips, too.
    let pool = PoolOptions::new().max_connections(1);
    let pool = database.pool_through(&proxy, pool).await;
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    Document::load(&lanes, 1).await.unwrap();
    proxy.reset();
    let outcomes = at_once((0..128).map(|n| {
        let lanes = lanes.clone();
        async move { Document::load(&lanes, n % 120).await }
    }))
    .await;
    for (outcome, id) in outcomes.into_iter().zip((0..120).chain(0..8)) {
        match outcome {
            Ok(document) => assert_eq!((document.id, document.title), (id, format!("title {id}"))),
            Err(LoadError::NotFound(operation)) => {
                assert!(id == 0 || id > 100, "{id}");
                assert_eq!(
                    operation.to_string(),
                    format!("load of documents (id = {id})")
                );
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    // Those that are not there look again by themselves: 21 of them.
    let trips = proxy.round_trips();
    assert!(trips < 40, "{trips} round trips");
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "words", backend(Postgres))]
struct Word {
    #[rowlock(key)]
    word: String,
    #[rowlock(counter)]
    times: i64,
}

/// Keys that are equal to the database and not to Rust: `citext`, `char(n)`, a collation that ignores case.
#[tokio::test]
async fn keys_that_only_the_database_calls_equal_are_one_row() {
    for ty in ["citext", "char(8)", "text COLLATE ignores_case"] {
        let database = database(
            "CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
             CREATE COLLATION ignores_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        )
        .await;
        let table = format!(
            "SET search_path = {}, public; CREATE TABLE words (word {ty} PRIMARY KEY, times bigint NOT NULL); INSERT INTO words VALUES ('a', 0), ('b', 0)",
            schema(&database.pool).await
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(table))
            .execute(&database.pool)
            .await
            .unwrap();
        let lanes = lanes_of(&database, 1).await;
        let words = if ty == "char(8)" {
            ["a", "a ", "b", "b  "]
        } else {
            ["a", "A", "b", "B"]
        };
        let mut totals = at_once((0..40).map(|n| {
            let (lanes, word) = (lanes.clone(), words[n % 4]);
            async move { Word::add_times(&lanes, word, 1).await.unwrap() }
        }))
        .await;
        totals.sort_unstable();
        let expected: Vec<_> = (1..=20).flat_map(|total| [total; 2]).collect();
        assert_eq!(totals, expected, "{ty}");
    }
}

/// Two statements about the same rows in different orders would deadlock: each goes by the keys, in whatever order the calls came.
#[tokio::test]
async fn rows_are_written_in_the_order_of_their_keys() {
    let database = database(TABLES).await;
    sqlx::raw_sql(
        "CREATE TABLE written (place serial, page bigint NOT NULL, statement xid8 NOT NULL);
         CREATE FUNCTION note_page() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO written (page, statement) VALUES (NEW.page, pg_current_xact_id()); RETURN NEW; END $$;
         CREATE TRIGGER note_page BEFORE UPDATE ON page_views FOR EACH ROW EXECUTE FUNCTION note_page()",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let lanes = lanes_of(&database, 1).await;
    at_once((1..=100).rev().map(|page| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, page, 1).await.unwrap() }
    }))
    .await;
    let backwards = "SELECT count(*) FROM (SELECT page < lag(page) OVER (PARTITION BY statement ORDER BY place) AS back FROM written) AS pages WHERE back";
    assert_eq!(number(&database.pool, backwards).await, 0);
    let longest =
        "SELECT max(count) FROM (SELECT count(*) FROM written GROUP BY statement) AS statements";
    assert!(number(&database.pool, longest).await > 10);
}

async fn schema(pool: &Pool) -> String {
    sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "odd", backend(Postgres))]
struct Odd {
    #[rowlock(key)]
    id: i64,
    numbers: Vec<i64>,
    point: Option<Point>,
    mood: Mood,
    at: Option<sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc>>,
    price: sqlx::types::BigDecimal,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(version)]
    version: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(type_name = "coordinates")]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Good,
    Bad,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "plain", backend(Postgres))]
struct Plain {
    #[rowlock(key)]
    id: i32,
    mood: Mood,
    code: String,
    note: Option<String>,
    price: sqlx::types::BigDecimal,
    bytes: Vec<u8>,
    day: sqlx::types::chrono::NaiveDate,
    key: sqlx::types::Uuid,
    #[rowlock(version)]
    xmin: Xmin,
}

/// What cannot be one of many goes alone, and what can has the same values.
#[tokio::test]
async fn all_types() {
    let database = database(
        "CREATE TYPE mood AS ENUM ('good', 'bad');
         CREATE TYPE coordinates AS (x int, y int);
         CREATE TABLE odd (id bigint PRIMARY KEY, numbers bigint[] NOT NULL, point coordinates, mood mood NOT NULL, at timestamptz, price numeric(9, 2) NOT NULL,
             fence bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0);
         INSERT INTO odd SELECT n, ARRAY[n, n], (n, n)::coordinates, 'good', now(), 1.5 FROM generate_series(1, 20) AS n;
         CREATE TABLE plain (id int PRIMARY KEY, mood mood NOT NULL, code char(4) NOT NULL, note text, price numeric NOT NULL, bytes bytea NOT NULL,
             day date NOT NULL, key uuid NOT NULL);
         INSERT INTO plain SELECT n, 'good', 'ab', NULL, 1.25, '\\x0102', '2026-01-01', gen_random_uuid() FROM generate_series(1, 20) AS n",
    )
    .await;
    let lanes = lanes_of(&database, 1).await;
    let odd = at_once((1..=20).map(|id| {
        let lanes = lanes.clone();
        async move {
            let mut row = Odd::load(&lanes, id).await.unwrap();
            row.numbers.push(7);
            row.mood = Mood::Bad;
            row.point = (id % 2 == 0).then_some(Point { x: 1, y: 2 });
            let updated = row.update(&lanes).await.unwrap();
            assert_eq!(updated, Odd::load(&lanes, id).await.unwrap());
            updated
        }
    }));
    for (row, id) in odd.await.into_iter().zip(1..) {
        assert_eq!(
            (row.numbers, row.mood, row.version),
            (vec![id, id, 7], Mood::Bad, 1)
        );
    }
    let plain = at_once((1..=20).map(|id| {
        let lanes = lanes.clone();
        async move {
            let mut row = Plain::load(&lanes, id).await.unwrap();
            row.mood = Mood::Bad;
            row.note = (id % 2 == 0).then(|| "x".to_owned());
            row.bytes = vec![0, 255];
            let updated = row.update(&lanes).await.unwrap();
            assert_eq!(updated, Plain::load(&lanes, id).await.unwrap());
            row.update(&lanes).await
        }
    }));
    for outcome in plain.await {
        assert!(matches!(outcome, Err(UpdateError::Stale(_))), "{outcome:?}");
    }
}
