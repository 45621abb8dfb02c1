//! `#[derive(FindOrCreate)]` where only PostgreSQL can show it: types that normalise keys, triggers, indexes that are being built.

use rowlock::row::{CounterError, FindOrCreateError, UpdateError, UpsertError};
use rowlock::{Counter, Fault, FindOrCreate, Versioned};
use sqlx::Executor;

use super::{Database, Pool, PoolOptions, database};

async fn run(pool: &Pool, sql: &'static str) {
    pool.execute(sqlx::raw_sql(sql)).await.unwrap();
}

/// A pool that sees the types of extensions beside the tables of the test.
async fn with_citext(database: &Database) -> Pool {
    let mut connection = database.connection().await;
    // Two tests that create it at once would violate the catalog's unique index.
    connection
        .execute(sqlx::raw_sql(
            "BEGIN; SELECT pg_advisory_xact_lock(20260901); CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; COMMIT",
        ))
        .await
        .unwrap();
    let pool = PoolOptions::new()
        .max_connections(1)
        .after_connect(|connection, _| {
            Box::pin(async move {
                let path =
                    "SELECT set_config('search_path', current_schema() || ', public', false)";
                connection.execute(path).await.map(drop)
            })
        });
    database.pool_with(pool).await
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(name))]
struct User {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    city: String,
}

fn user(name: &str) -> NewUser {
    NewUser {
        name: name.to_owned(),
        city: "Rome".to_owned(),
    }
}

/// ON CONFLICT can use neither.
#[tokio::test]
async fn u_18_a_deferrable_or_exclusion_constraint_is_no_key() {
    for constraint in ["UNIQUE (name) DEFERRABLE", "EXCLUDE (name WITH =)"] {
        let database = database(&format!(
            "CREATE TABLE users (id {{id}}, name text NOT NULL, city text NOT NULL, {constraint})"
        ))
        .await;
        let pool = &database.pool;
        let refused = User::find_or_create(pool, user("ada")).await.unwrap_err();
        assert!(
            matches!(refused, FindOrCreateError::MissingUniqueIndex(_, "name")),
            "{constraint}: {refused:?}"
        );
        let refused = User::upsert(pool, user("ada")).await.unwrap_err();
        assert!(
            matches!(refused, UpsertError::MissingUniqueIndex(_, "name")),
            "{constraint}: {refused:?}"
        );
        assert_eq!(User::find_by_name(pool, "ada").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_citext_key_is_found_by_what_the_database_considers_equal() {
    let database = database("").await;
    let pool = &with_citext(&database).await;
    run(
        pool,
        "CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name citext NOT NULL UNIQUE, city text NOT NULL)",
    )
    .await;
    let created = User::find_or_create(pool, user("ada")).await.unwrap();
    let found = User::find_or_create(pool, user("ADA")).await.unwrap();
    assert!(!found.is_created());
    assert_eq!(found.id, created.id);
    let found = User::find_by_name(pool, "Ada").await.unwrap();
    assert_eq!(found, Some(created.into_inner()));

    // The hand-written lookup, with the value bound as sqlx binds a string.
    let naive: Option<i64> = sqlx::query_scalar("SELECT id FROM users WHERE name = $1")
        .bind("Ada")
        .fetch_optional(pool)
        .await
        .unwrap();
    assert_eq!(naive, None);
}

/// Blanks at the end do not count in a char(n), and a domain compares as the type below it.
#[tokio::test]
async fn keys_of_padded_and_derived_types_are_found() {
    let database = database("").await;
    let pool = &with_citext(&database).await;
    for table in [
        "CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name char(8) NOT NULL UNIQUE, city text NOT NULL)",
        "CREATE DOMAIN name_of AS citext; DROP TABLE users;
         CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name name_of NOT NULL UNIQUE, city text NOT NULL)",
        "DROP TABLE users;
         CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(8) NOT NULL UNIQUE, city text NOT NULL)",
    ] {
        run(pool, table).await;
        let pool = &with_citext(&database).await;
        let created = User::find_or_create(pool, user("ada")).await.unwrap();
        assert!(created.is_created(), "{table}");
        let again = User::find_or_create(pool, user("ada")).await.unwrap();
        assert!(!again.is_created(), "{table}");
        pool.close().await;
    }
}

/// A NUL byte cannot be in any text of PostgreSQL; the server would say so too, and abort the transaction.
#[tokio::test]
async fn a_key_that_cannot_be_text_leaves_the_transaction_usable() {
    let database =
        database("CREATE TABLE users (id {id}, name text NOT NULL UNIQUE, city text NOT NULL)")
            .await;
    let mut tx = database.pool.begin().await.unwrap();
    let error = User::find_or_create(&mut *tx, user("a\0b"))
        .await
        .unwrap_err();
    let FindOrCreateError::Database(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.fault(), Fault::Encode);
    User::find_or_create(&mut *tx, user("ab")).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = database.pool.begin().await.unwrap();
    let naive = sqlx::query("SELECT id FROM users WHERE name = $1")
        .bind("a\0b")
        .fetch_optional(&mut *tx)
        .await;
    assert!(naive.is_err());
    assert!(tx.execute("SELECT 1").await.is_err(), "not aborted");
}

/// A unique index that is being built, or was given up half-way, refuses rows and decides about no conflict. It is met
/// by who was past the check of the real one when another call created the row; the gate is in between.
#[tokio::test]
async fn an_index_that_is_being_built_is_no_other_constraint() {
    let database = database(
        "CREATE TABLE users (id {id}, name text NOT NULL, city text NOT NULL);
         CREATE FUNCTION gate(name text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('gate.passed', true) IS DISTINCT FROM 'on' THEN
                 PERFORM pg_advisory_xact_lock_shared(to_regclass('users')::oid::bigint);
             END IF;
             RETURN name;
         END $$;
         CREATE INDEX a_gate ON users (gate(name));
         CREATE UNIQUE INDEX users_name ON users (name)",
    )
    .await;
    let pool = &database.pool;

    // An old snapshot keeps the build from its end, and a timeout ends the waiting.
    let mut old = pool.begin().await.unwrap();
    old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .await
        .unwrap();
    let mut builder = pool.acquire().await.unwrap();
    builder
        .execute("SET statement_timeout = '1s'")
        .await
        .unwrap();
    let build = "CREATE UNIQUE INDEX CONCURRENTLY users_name_again ON users (name)";
    assert!(builder.execute(build).await.is_err());
    builder.close().await.unwrap();
    old.rollback().await.unwrap();
    let refuses: bool = sqlx::query_scalar(
        "SELECT indisready AND NOT indisvalid FROM pg_index WHERE indexrelid = 'users_name_again'::regclass",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert!(refuses);

    for upsert in [false, true] {
        let name = if upsert { "upserted" } else { "found" };
        let mut winner = pool.acquire().await.unwrap();
        winner.execute("SET gate.passed = 'on'; SELECT pg_advisory_lock(to_regclass('users')::oid::bigint)").await.unwrap();
        let loser = {
            let pool = pool.clone();
            tokio::spawn(async move {
                if upsert {
                    User::upsert(&pool, user(name)).await.unwrap()
                } else {
                    User::find_or_create(&pool, user(name))
                        .await
                        .unwrap()
                        .into_inner()
                }
            })
        };
        database.until_blocked().await;
        let won = User::find_or_create(&mut *winner, user(name))
            .await
            .unwrap();
        assert!(won.is_created());
        winner.close().await.unwrap();
        assert_eq!(loser.await.unwrap(), won.into_inner());
    }
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "pages")]
struct Page {
    #[rowlock(key)]
    id: i64,
    text: String,
    #[rowlock(version)]
    version: i64,
}

/// RETURNING shows what the trigger returned, which is the row as it was.
#[tokio::test]
async fn an_update_whose_trigger_returns_the_old_row_is_ignored() {
    let database = database(
        "CREATE TABLE pages (id bigint PRIMARY KEY, text text NOT NULL, version bigint NOT NULL);
         INSERT INTO pages VALUES (1, 'old', 3);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
         CREATE TRIGGER keep BEFORE UPDATE ON pages FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await;
    let pool = &database.pool;
    let page = Page::load(pool, 1).await.unwrap();
    let mut edit = page.edit();
    edit.text = "new".to_owned();
    for outcome in [
        edit.save(pool).await,
        Page {
            text: "new".to_owned(),
            ..page.clone()
        }
        .update(pool)
        .await,
        page.touch(pool).await,
        Page::update_with(pool, 1, |page| page.text = "new".to_owned()).await,
    ] {
        assert!(
            matches!(outcome, Err(UpdateError::Ignored(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(Page::load(pool, 1).await.unwrap(), page);
}

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "stock")]
struct Stock {
    #[rowlock(key)]
    sku: String,
    #[rowlock(counter(min = 0))]
    units: i64,
}

#[tokio::test]
async fn a_citext_key_of_a_counter_is_that_of_the_row() {
    let database = database("").await;
    let pool = &with_citext(&database).await;
    run(
        pool,
        "CREATE TABLE stock (sku citext PRIMARY KEY, units bigint NOT NULL); INSERT INTO stock VALUES ('alice', 5)",
    )
    .await;
    assert_eq!(Stock::add_units(pool, "ALICE", -1).await.unwrap(), 4);
    assert_eq!(Stock::add_units(pool, "Alice", 3).await.unwrap(), 7);
    let read = Stock::get(pool, "ALICE").await.unwrap().unwrap();
    assert_eq!((read.sku.as_str(), read.units), ("alice", 7));
    let Err(CounterError::OutOfBounds(refused)) = Stock::add_units(pool, "ALICE", -8).await else {
        panic!("not refused");
    };
    assert_eq!(refused.current, Some(7));
}

/// Two keys of the batch are those of one row, which has the sum of both.
#[tokio::test]
async fn citext_keys_of_a_batch_are_those_of_the_rows() {
    let database = database("").await;
    let pool = &with_citext(&database).await;
    run(
        pool,
        "CREATE TABLE stock (sku citext PRIMARY KEY, units bigint NOT NULL); INSERT INTO stock VALUES ('alice', 5), ('bob', 5)",
    )
    .await;
    // The connection gets to know the type: sqlx looks one up with a simple query, which ends an unnamed prepared statement.
    Stock::get(pool, "bob").await.unwrap();
    let totals =
        Stock::add_units_many(pool, [("BOB", -1), ("Alice", 3), ("ALICE", -4), ("new", 1)]).await;
    let expected =
        [("alice", 4), ("bob", 4), ("new", 1)].map(|(sku, units)| (sku.to_owned(), units));
    assert_eq!(totals.unwrap(), expected);
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT sku::text, units FROM stock ORDER BY sku")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(rows, expected);
    let refused = Stock::add_units_many(pool, [("BOB", -1), ("Alice", -5)]).await;
    assert!(
        matches!(refused, Err(CounterError::OutOfBounds(_))),
        "{refused:?}"
    );
}

/// 1.5, shown with some digits.
#[derive(Debug, Clone)]
struct Amount {
    digits: u16,
}

impl sqlx::Type<sqlx::Postgres> for Amount {
    fn type_info() -> sqlx::postgres::PgTypeInfo {
        sqlx::postgres::PgTypeInfo::with_name("numeric")
    }
}

impl sqlx::Encode<'_, sqlx::Postgres> for Amount {
    fn encode_by_ref(
        &self,
        buffer: &mut sqlx::postgres::PgArgumentBuffer,
    ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
        // The number of digits of base 10,000, the weight of the first, the sign, the digits to show, the digits.
        for part in [2, 0, 0, self.digits, 1, 5000] {
            buffer.extend(part.to_be_bytes());
        }
        Ok(sqlx::encode::IsNull::No)
    }
}

impl sqlx::Decode<'_, sqlx::Postgres> for Amount {
    fn decode(value: sqlx::postgres::PgValueRef<'_>) -> Result<Self, sqlx::error::BoxDynError> {
        let digits = value.as_bytes()?.get(6..8).ok_or("too short")?;
        Ok(Self {
            digits: u16::from_be_bytes(digits.try_into()?),
        })
    }
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "prices", backend(Postgres))]
struct Price {
    #[rowlock(key)]
    id: i64,
    amount: Amount,
    #[rowlock(version)]
    version: i64,
}

/// The column has two digits, whatever was given.
#[tokio::test]
async fn a_number_with_more_or_fewer_digits_is_the_same() {
    let database = database(
        "CREATE TABLE prices (id bigint PRIMARY KEY, amount numeric(10, 2) NOT NULL, version bigint NOT NULL);
         INSERT INTO prices VALUES (1, 1.5, 0)",
    )
    .await;
    let stored = Price::load(&database.pool, 1).await.unwrap();
    assert_eq!(stored.amount.digits, 2);
    let mut edit = stored.edit();
    edit.amount.digits = 1;
    assert_eq!(edit.changed_fields(), [""; 0]);
    assert_eq!(edit.save(&database.pool).await.unwrap().version, 0);
}
