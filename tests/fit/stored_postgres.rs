//! Types of PostgreSQL whose `=` is not that of their values, that has none, or whose arrays have one of their own.

use rowlock::row::{GuardError, UpdateError};
use rowlock::{Guarded, Versioned};
use sqlx::Executor;
use sqlx::postgres::types::{PgCircle, PgInterval, PgPoint};
use sqlx::types::{BigDecimal, Decimal};

use super::stored::of_stored;
use super::{Database, Pool, PoolOptions, database};

/// With a pool that sees the operators of an extension.
async fn stored(column: &str) -> (Database, Pool) {
    let database = database(super::TYPES).await;
    // Two tests that create it at once would violate the catalog's unique index.
    let citext = "BEGIN; SELECT pg_advisory_xact_lock(20260901); CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; COMMIT";
    let pool = PoolOptions::new()
        .max_connections(2)
        .after_connect(|connection, _| {
            Box::pin(async move {
                let path =
                    "SELECT set_config('search_path', current_schema() || ', public', false)";
                connection.execute(path).await.map(drop)
            })
        });
    sqlx::raw_sql(citext).execute(&database.pool).await.unwrap();
    let pool = database.pool_with(pool).await;
    let table = format!(
        "CREATE TABLE stored (id bigint PRIMARY KEY, note integer NOT NULL, value {column}, other {column});
         INSERT INTO stored VALUES (1, 0, NULL, NULL)"
    );
    let table = sqlx::AssertSqlSafe(table);
    sqlx::raw_sql(table).execute(&pool).await.unwrap();
    (database, pool)
}

/// `citext` by its name.
#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(type_name = "citext")]
struct Folded(String);

/// A text to sqlx, whatever its column is.
#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Name(String);

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "snake_case")]
enum Mood {
    Good,
    SoSo,
}

of_stored! {
    on Postgres;
    times_of_the_day: chrono::NaiveTime as "time", ["'24:00'", "'00:00'", "'10:00'", "'10:00:00.000001'"];
    intervals: PgInterval as "interval", ["'1 mon'", "'30 days'", "'720 hours'", "'1 year'", "'12 mons'", "'-1 mon'", "'1 mon -1 day'"];
    arrays_of_intervals: Vec<PgInterval> as "interval[]", ["'{1 mon}'", "'{30 days}'", "'{1 mon,1 day}'"];
    circles: PgCircle as "circle", ["'<(0,0),1>'", "'<(1,0),1>'", "'<(0,0),2>'"];
    points: PgPoint as "point", ["'(0,0)'", "'(1,0)'", "'(0.1,0)'"];
    decimals: Decimal as "numeric", ["1", "1.0", "1.00", "1.5", "0", "0.0000", "100.0000"];
    big_decimals: BigDecimal as "numeric", ["1", "1.0", "1.00", "1.5", "0", "0.0000", "100.0000", "1e40", "1e-40"];
    own_citext: Folded as "citext", ["'ada'", "'ADA'", "''"];
    citext_as_text: Name as "citext", ["'ada'", "'ADA'", "''"];
    enums: Mood as "mood", ["'good'", "'so_so'"];
    texts: Vec<String> as "text[]", ["'{a}'", "'{A}'", "'{a,b}'", "'{}'", "'{\"a  \"}'"];
    varchars: Vec<String> as "varchar(9)[]", ["'{a}'", "'{A}'", "'{a,b}'", "'{}'", "'{\"a  \"}'"];
    chars: Vec<String> as "char(3)[]", ["'{a}'", "'{A}'", "'{a,b}'", "'{}'", "'{\"a  \"}'"];
    citexts: Vec<String> as "citext[]", ["'{a}'", "'{A}'", "'{a,b}'", "'{}'", "'{\"a  \"}'"];
    some_texts: Vec<Option<String>> as "varchar[]", ["'{a}'", "'{NULL}'", "'{\"NULL\"}'", "'{\"\"}'"];
}

#[tokio::test]
async fn arrays_of_texts_in_conditions() {
    #[derive(Debug, Clone, sqlx::FromRow, Guarded)]
    #[rowlock(table = "stored", backend(Postgres))]
    struct Tagged {
        #[rowlock(key)]
        id: i64,
        note: i32,
        value: Vec<String>,
        other: Option<Vec<String>>,
    }
    for column in ["text[]", "varchar(9)[]", "char(3)[]", "citext[]", "name[]"] {
        let (_database, pool) = stored(column).await;
        let pool = &pool;
        let write = "UPDATE stored SET value = '{a,B}', other = '{a,b}'";
        sqlx::raw_sql(write).execute(pool).await.unwrap();
        let row: Tagged = sqlx::query_as("SELECT * FROM stored")
            .fetch_one(pool)
            .await
            .unwrap();
        // What was read is what is there.
        let read = || row.value.clone();
        let is = Tagged::VALUE
            .eq(read())
            .and(Tagged::VALUE.one_of([vec![], read()]))
            .and(Tagged::VALUE.le(read()))
            .and(Tagged::VALUE.ne(Tagged::OTHER))
            .and(Tagged::OTHER.ne(read()).and(Tagged::OTHER.ne(None)));
        let set = Tagged::update_if(pool, 1, is, |row| row.set(Tagged::OTHER, read())).await;
        assert!(set.is_ok(), "{column}: {set:?}");
        let same = Tagged::VALUE.eq(Tagged::OTHER);
        let set = Tagged::update_if(pool, 1, same, |row| row.set(Tagged::NOTE, 1)).await;
        assert!(set.is_ok(), "{column}: {set:?}");
        for other in [vec!["a".to_owned()], vec![]] {
            let other = Tagged::VALUE.eq(other);
            let refused = Tagged::update_if(pool, 1, other, |row| row.set(Tagged::NOTE, 2)).await;
            assert!(
                matches!(refused, Err(GuardError::Refused(_))),
                "{column}: {refused:?}"
            );
        }
    }
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "headings", backend(Postgres))]
struct Heading {
    #[rowlock(key)]
    name: Folded,
    text: String,
    #[rowlock(version)]
    version: i64,
}

/// The first of two copies is written, also if only the database takes their keys for one.
#[tokio::test]
async fn copies_of_a_row_under_two_spellings() {
    let (_database, pool) = stored("citext").await;
    let table = "CREATE TABLE headings (name citext PRIMARY KEY, text text NOT NULL, version bigint NOT NULL);
        INSERT INTO headings VALUES ('a', '', 0), ('b', '', 0)";
    sqlx::raw_sql(table).execute(&pool).await.unwrap();
    let heading = |name: &str, text: &str| Heading {
        name: Folded(name.to_owned()),
        text: text.to_owned(),
        version: 0,
    };
    let given = [
        heading("A", "first"),
        heading("a", "second"),
        heading("b", "third"),
        heading("B", "fourth"),
    ];
    let outcomes = Heading::update_many(&pool, &given).await;
    assert!(
        matches!(
            outcomes[..],
            [
                Ok(_),
                Err(UpdateError::Stale(_)),
                Ok(_),
                Err(UpdateError::Stale(_))
            ]
        ),
        "{outcomes:?}"
    );
    let texts = "SELECT text FROM headings ORDER BY name";
    let texts: Vec<String> = sqlx::query_scalar(texts).fetch_all(&pool).await.unwrap();
    assert_eq!(texts, ["first", "third"]);
}
