//! Which keys `lock_many` takes for a row's, and what it asks of their type: what the database considers equal.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use rowlock::Lockable;
use rowlock::row::LockError;
use sqlx::{AssertSqlSafe, Executor};

use super::{Database, NAME, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "things")]
struct Named {
    #[rowlock(key)]
    name: String,
    units: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "things")]
struct Timed {
    #[rowlock(key)]
    at: DateTime<Utc>,
    units: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "things")]
struct Pair {
    #[rowlock(key)]
    hall: i64,
    #[rowlock(key)]
    row: String,
    units: i64,
}

async fn things(columns: &str, values: &str) -> Database {
    let database = database("").await;
    fill(&database, columns, values).await;
    database
}

async fn fill(database: &Database, columns: &str, values: &str) {
    let sql = format!(
        "CREATE TABLE things ({columns}, units bigint NOT NULL); INSERT INTO things VALUES {values}"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&database.pool)
        .await
        .unwrap();
}

/// What the column considers equal finds the row: `char(n)` pads, a collation ignores case.
#[tokio::test]
async fn lock_many_finds_what_lock_finds_in_a_column_that_changes_keys() {
    let (columns, given) = if NAME == "SQLite" {
        ("name text COLLATE NOCASE PRIMARY KEY", ["ONE", "Two"])
    } else {
        ("name char(5) PRIMARY KEY", ["one", "two"])
    };
    let database = things(columns, "('one', 1), ('two', 2)").await;
    let mut tx = database.pool.begin().await.unwrap();
    for name in given {
        Named::lock(&mut tx, name).await.unwrap();
    }
    let locked = Named::lock_many(&mut tx, given).await.unwrap();
    let units: Vec<_> = locked.iter().map(|row| row.units).collect();
    assert_eq!(units, [1, 2]);
    let missing = Named::lock_many(&mut tx, ["three", given[0]]).await;
    assert!(
        matches!(missing, Err(LockError::NotFound(_))),
        "{missing:?}"
    );
}

/// Rust sees two keys where the database has one row: it comes once.
#[tokio::test]
async fn a_row_that_is_given_in_two_ways_comes_once() {
    let (before, collation) = if NAME == "SQLite" {
        ("", "NOCASE")
    } else {
        (
            "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);",
            "folded",
        )
    };
    let database = database(before).await;
    let columns = format!("name text COLLATE {collation} PRIMARY KEY");
    fill(&database, &columns, "('one', 1), ('two', 2)").await;
    let mut tx = database.pool.begin().await.unwrap();
    let locked = Named::lock_many(&mut tx, ["TWO", "One", "two", "one"])
        .await
        .unwrap();
    let names: Vec<_> = locked.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
}

/// A time has more digits in Rust than PostgreSQL keeps.
#[tokio::test]
async fn lock_many_finds_a_time_with_nanoseconds() {
    let database =
        database("CREATE TABLE things (at {timestamp} PRIMARY KEY, units bigint NOT NULL)").await;
    let at = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::nanoseconds(1_000_000_123);
    sqlx::query("INSERT INTO things VALUES ($1, 1)")
        .bind(at)
        .execute(&database.pool)
        .await
        .unwrap();
    let mut tx = database.pool.begin().await.unwrap();
    Timed::lock(&mut tx, at).await.unwrap();
    assert_eq!(Timed::lock_many(&mut tx, [at]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_of_several_columns_is_found_as_a_whole() {
    let database = things(
        "hall bigint, row text",
        "(1, 'a', 1), (1, 'b', 2), (2, 'a', 3), (2, 'b', 4)",
    )
    .await;
    let mut tx = database.pool.begin().await.unwrap();
    let locked = Pair::lock_many(&mut tx, [(2, "a"), (1, "b")])
        .await
        .unwrap();
    let units: Vec<_> = locked.iter().map(|row| row.units).collect();
    assert_eq!(units, [2, 3]);
    let missing = Pair::lock_many(&mut tx, [(1, "a"), (3, "a")]).await;
    assert_eq!(
        missing.unwrap_err().to_string(),
        "lock_many of things (hall = 3, row = …): no row has this key"
    );
}

#[tokio::test]
async fn a_key_of_two_rows_is_not_unique() {
    let database = things("name text", "('one', 1), ('two', 2), ('two', 3)").await;
    let mut tx = database.pool.begin().await.unwrap();
    Named::lock_many(&mut tx, ["one"]).await.unwrap();
    for given in [vec!["one", "two"], vec!["two", "two"]] {
        let several = Named::lock_many(&mut tx, given).await;
        assert!(
            matches!(several, Err(LockError::NotUnique(_))),
            "{several:?}"
        );
    }
}

/// A second row with the key of the locked one, from the same transaction. The naive twin writes both.
#[tokio::test]
async fn a_save_to_a_key_of_two_rows_writes_neither() {
    let database = things("name text", "('one', 1)").await;
    for naive in [true, false] {
        let mut tx = database.pool.begin_with(super::BEGIN_WRITE).await.unwrap();
        let mut locked = Named::lock(&mut tx, "one").await.unwrap();
        tx.execute("INSERT INTO things VALUES ('one', 2)")
            .await
            .unwrap();
        locked.units = 3;
        if naive {
            tx.execute("UPDATE things SET units = 3 WHERE name = 'one'")
                .await
                .unwrap();
        } else {
            let refused = locked.save(&mut tx).await;
            assert!(
                matches!(refused, Err(LockError::NotUnique(_))),
                "{refused:?}"
            );
        }
        let stored: Vec<i64> = sqlx::query_scalar("SELECT units FROM things ORDER BY units")
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        assert_eq!(stored, if naive { [3, 3] } else { [1, 2] });
        tx.rollback().await.unwrap();
    }
}

static COMPARISONS: AtomicUsize = AtomicUsize::new(0);

/// Counts how often it is compared. The suite of each database has its own.
#[derive(Debug, Clone, Copy, sqlx::Type)]
#[sqlx(transparent)]
struct Counted(i64);

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        COMPARISONS.fetch_add(1, Ordering::Relaxed);
        self.0 == other.0
    }
}

#[derive(Debug, sqlx::FromRow, Lockable)]
#[rowlock(table = "things")]
struct Many {
    #[rowlock(key)]
    id: Counted,
    units: i64,
}

/// More keys than a statement has parameters; and each is looked at about once.
#[tokio::test]
async fn many_keys_are_not_compared_with_each_other() {
    let rows = 70_000;
    let database = things("id bigint PRIMARY KEY", "(0, 0)").await;
    let sql = format!(
        "INSERT INTO things WITH RECURSIVE n (id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n WHERE id < {}) SELECT id, 0 FROM n",
        rows - 1
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&database.pool)
        .await
        .unwrap();
    let mut tx = database.pool.begin().await.unwrap();
    let locked = Many::lock_many(&mut tx, (0..rows).rev().map(Counted))
        .await
        .unwrap();
    let rows = usize::try_from(rows).unwrap();
    assert_eq!(locked.len(), rows);
    assert!(locked.is_sorted_by_key(|row| row.id.0));
    assert!(COMPARISONS.load(Ordering::Relaxed) <= rows);
    assert_eq!(locked[7].units, 0);
}
