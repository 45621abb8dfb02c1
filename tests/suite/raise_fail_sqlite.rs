//! `RAISE(FAIL)` and ON CONFLICT FAIL: SQLite keeps what the statement wrote before it failed, and commits it.

use rowlock::row::{
    CounterError, DeleteError, FindOrCreateError, LockError, UpdateError, UpsertError,
};
use rowlock::{Counter, Fault, FindOrCreate, Lockable, Versioned};
use sqlx::{AssertSqlSafe, Executor};

use super::{Database, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, FindOrCreate, Counter)]
#[rowlock(table = "things", unique(id))]
struct Thing {
    #[rowlock(key)]
    id: i64,
    #[rowlock(default)]
    name: String,
    #[rowlock(counter)]
    units: i64,
    #[rowlock(version)]
    version: i64,
}

/// A row, and a trigger with this body after each write of another.
async fn things(body: &str) -> Database {
    let database = database(
        "CREATE TABLE things (id bigint PRIMARY KEY, name text NOT NULL DEFAULT '', units bigint NOT NULL, version bigint NOT NULL);
         CREATE TABLE notes (note text UNIQUE ON CONFLICT FAIL);
         INSERT INTO notes VALUES ('taken');
         INSERT INTO things VALUES (1, 'one', 0, 0)",
    )
    .await;
    for event in ["INSERT", "UPDATE", "DELETE"] {
        let sql = format!("CREATE TRIGGER after_{event} AFTER {event} ON things BEGIN {body}; END");
        database.pool.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    database
}

async fn count(pool: &Pool, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(pool).await.unwrap()
}

const RAISE_FAIL: &str = "SELECT RAISE(FAIL, 'no')";
const RAISE_ABORT: &str = "SELECT RAISE(ABORT, 'no')";

/// What triggers do, and whether the write stays. What becomes of a constraint's own ON CONFLICT depends on the statement outside.
const BODIES: [(&str, Option<bool>); 4] = [
    (RAISE_FAIL, Some(true)),
    ("INSERT INTO notes VALUES ('taken')", None),
    (RAISE_ABORT, Some(false)),
    ("INSERT OR ABORT INTO notes VALUES ('taken')", Some(false)),
];

#[tokio::test]
async fn naive_twin_of_an_error_that_wrote() {
    let database = things(RAISE_FAIL).await;
    let update = database.pool.execute("UPDATE things SET units = 5").await;
    assert_eq!(Fault::of(&update.unwrap_err()), Fault::Raised);
    assert_eq!(count(&database.pool, "SELECT units FROM things").await, 5);
}

/// Asserts that `$error::Written` came back if the row was written, and else `$error::Database`.
macro_rules! says_what_it_did {
    ($outcome:expr, $error:ident, $written:expr, $body:expr) => {{
        let (outcome, written, (body, keeps)) = (&$outcome, $written == 1, $body);
        let says = matches!(outcome, Err($error::Written(_)));
        assert_eq!(says, written, "{body}: {outcome:?}");
        assert!(
            written || matches!(outcome, Err($error::Database(_))),
            "{body}: {outcome:?}"
        );
        assert_eq!(keeps.unwrap_or(written), written, "{body}: {outcome:?}");
    }};
}

#[tokio::test]
async fn an_addition_that_failed_says_whether_it_was_made() {
    for body in BODIES {
        let database = things(body.0).await;
        let pool = &database.pool;
        for (delta, written) in [
            (5, "SELECT units = 5 FROM things"),
            (-9, "SELECT units < 0 FROM things"),
        ] {
            let added = Thing::add_units(pool, 1, delta).await;
            says_what_it_did!(added, CounterError, count(pool, written).await, body);
        }
        // All or none.
        let before = count(pool, "SELECT units FROM things").await;
        let added = Thing::add_units_many(pool, [(1, 1), (7, 1)]).await;
        assert!(matches!(added, Err(CounterError::Database(_))), "{added:?}");
        assert_eq!(count(pool, "SELECT sum(units) FROM things").await, before);
    }
}

#[tokio::test]
async fn a_checked_write_that_failed_says_whether_it_wrote() {
    for body in BODIES {
        let database = things(body.0).await;
        let pool = &database.pool;
        let name = "SELECT name = 'updated' FROM things";
        let mut row = Thing::load(pool, 1).await.unwrap();
        row.name = "updated".into();
        let updated = row.update(pool).await;
        says_what_it_did!(updated, UpdateError, count(pool, name).await, body);

        let row = Thing::load(pool, 1).await.unwrap();
        let touched = row.touch(pool).await;
        let written = count(pool, "SELECT version FROM things").await - row.version;
        says_what_it_did!(touched, UpdateError, written, body);

        let name = "SELECT name = 'edited' FROM things";
        let mut edit = Thing::load(pool, 1).await.unwrap().edit();
        edit.name = "edited".into();
        let saved = edit.save(pool).await;
        says_what_it_did!(saved, UpdateError, count(pool, name).await, body);

        let name = "SELECT name = 'with' FROM things";
        let with = Thing::update_with(pool, 1, |row| row.name = "with".into()).await;
        says_what_it_did!(with, UpdateError, count(pool, name).await, body);

        let deleted = Thing::load(pool, 1).await.unwrap().delete(pool).await;
        let gone = 1 - count(pool, "SELECT count(*) FROM things").await;
        says_what_it_did!(deleted, DeleteError, gone, body);
    }
}

#[tokio::test]
async fn a_find_or_create_that_failed_says_whether_it_created() {
    for body in BODIES {
        let database = things(body.0).await;
        let created = Thing::find_or_create(&database.pool, NewThing { id: 2 }).await;
        let rows = count(&database.pool, "SELECT count(*) FROM things").await;
        says_what_it_did!(created, FindOrCreateError, rows - 1, body);
    }
}

/// In a transaction that swallows the error and is committed.
#[tokio::test]
async fn a_write_that_failed_in_a_transaction_says_whether_it_wrote() {
    for body in BODIES {
        let database = things(body.0).await;
        let pool = &database.pool;
        let mut tx = pool.begin_with(super::BEGIN_WRITE).await.unwrap();
        let mut locked = Thing::lock(&mut tx, 1).await.unwrap();
        locked.name = "saved".into();
        let saved = locked.save(&mut tx).await;
        let added = Thing::add_units(&mut *tx, 1, 5).await;
        tx.commit().await.unwrap();
        let name = count(pool, "SELECT name = 'saved' FROM things").await;
        says_what_it_did!(saved, LockError, name, body);
        let units = count(pool, "SELECT units = 5 FROM things").await;
        says_what_it_did!(added, CounterError, units, body);
    }
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags")]
struct Tag {
    #[rowlock(key, unique)]
    id: i64,
    name: String,
}

/// An upsert, which can also meet a constraint of its own row: nothing was written then, whatever the conflict clause.
#[tokio::test]
async fn an_upsert_that_failed_says_whether_it_wrote() {
    for (table, trigger, keeps) in [
        ("name text NOT NULL", RAISE_FAIL, true),
        ("name text NOT NULL", RAISE_ABORT, false),
        ("name text NOT NULL CHECK (name <> 'x')", "SELECT 1", false),
        (
            "name text NOT NULL UNIQUE ON CONFLICT FAIL",
            "SELECT 1",
            false,
        ),
    ] {
        let database = database("CREATE TABLE notes (note text UNIQUE ON CONFLICT FAIL)").await;
        let sql = format!(
            "CREATE TABLE tags (id bigint PRIMARY KEY, {table}); INSERT INTO tags VALUES (1, 'one'), (2, 'x2');
             CREATE TRIGGER after_update AFTER UPDATE ON tags BEGIN {trigger}; END"
        );
        let sql = if table.contains("UNIQUE") {
            sql.replace("x2", "x")
        } else {
            sql
        };
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&database.pool)
            .await
            .unwrap();
        // What an earlier statement of the connection wrote does not count.
        let pool = database.one_connection_pool().await;
        pool.execute("INSERT INTO notes VALUES ('before')")
            .await
            .unwrap();
        let new = NewTag {
            id: 1,
            name: "x".into(),
        };
        let upserted = Tag::upsert(&pool, new).await;
        assert_eq!(
            matches!(upserted, Err(UpsertError::Written(_))),
            keeps,
            "{table} {trigger}: {upserted:?}"
        );
        assert_eq!(
            matches!(upserted, Err(UpsertError::Database(_))),
            !keeps,
            "{table} {trigger}: {upserted:?}"
        );
        let name = "SELECT count(*) FROM tags WHERE id = 1 AND name = 'x'";
        assert_eq!(count(&pool, name).await, i64::from(keeps));
    }
}
