//! The texts and numbers of SQLite that sqlx reads, and would have written in another way.

use rowlock::row::{DeleteError, UpdateError};
use rowlock::{Guarded, Versioned};
use sqlx::types::uuid::fmt::Hyphenated;

use super::stored::of_stored;
use super::{Database, Pool, database};

/// A text to sqlx.
#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Name(String);

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(rename_all = "snake_case")]
enum Mood {
    Good,
    SoSo,
}

async fn stored(column: &str) -> (Database, Pool) {
    let table = format!(
        "CREATE TABLE stored (id bigint PRIMARY KEY, note integer NOT NULL, value {column});
         INSERT INTO stored VALUES (1, 0, NULL)"
    );
    let database = database(&table).await;
    let pool = database.pool.clone();
    (database, pool)
}

of_stored! {
    on Sqlite;
    times: chrono::DateTime<chrono::Utc> as "text", [
        "'2026-01-01 00:00'", "'2026-01-01 00:00:00'", "'2026-01-01T00:00:00Z'", "'2026-01-01 02:00:00+02:00'", "strftime('%Y-%m-%d %H:%M:%f', 'now')", "'2026-01-01 00:00:01.500'", "'2026-01-01T00:00:01.5Z'", "'2026-01-01 00:00:01.5001'",
        "'2026-01-01 00:00:01.123456'", "'2026-01-01T00:00:01.123456Z'", "'2026-01-01 00:00:01.123456789'", "'2026-01-01 00:00:01.123'",
    ];
    numbers_as_times: chrono::DateTime<chrono::Utc> as "datetime", [
        "1767225600", "2461041.5", "2461041.5000001", "'2026-01-01 00:00:00'", "'2026-01-01T00:00:00Z'", "17", "2461042", "'2026-01-01 12:00:00'",
    ];
    times_without_a_zone: chrono::NaiveDateTime as "text", [
        "'2026-01-01 00:00:00'", "'2026-01-01T00:00:00'", "'2026-01-01 00:00'", "'2026-01-01 00:00:00.000'", "'2026-01-01 00:00:00.0001'",
    ];
    times_of_the_day: chrono::NaiveTime as "text", ["'10:00'", "'10:00:00'", "'10:00:00.000'", "'10:00:00Z'", "'10:00:00.001'"];
    booleans: bool as "boolean", ["0", "1", "2", "-1"];
    uuids: Hyphenated as "text", ["'00000000-0000-0000-0000-00000000000a'", "'00000000-0000-0000-0000-00000000000A'", "'0000000000000000000000000000000a'", "'0000000000000000000000000000000b'"];
    anything: i64 as "blob", ["1", "2", "0"];
    texts: String as "text COLLATE NOCASE", ["'a'", "'A'", "''", "'a '"];
    own_texts: Name as "text COLLATE NOCASE", ["'a'", "'A'", "''", "'a '"];
    own_enums: Mood as "text COLLATE NOCASE", ["'good'", "'so_so'"];
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "stored", backend(Sqlite))]
struct Switch {
    #[rowlock(key)]
    id: i64,
    note: i32,
    #[rowlock(check)]
    value: bool,
}

#[tokio::test]
async fn a_write_that_a_trigger_drops_is_ignored_there_too() {
    let (_database, pool) = stored("boolean").await;
    let sql = "UPDATE stored SET value = 2;
        CREATE TRIGGER skip_update BEFORE UPDATE ON stored BEGIN SELECT RAISE(IGNORE); END;
        CREATE TRIGGER skip_delete BEFORE DELETE ON stored BEGIN SELECT RAISE(IGNORE); END";
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    let mut edit = Switch::load(&pool, 1).await.unwrap().edit();
    edit.note = 1;
    let ignored = edit.save(&pool).await;
    assert!(
        matches!(ignored, Err(UpdateError::Ignored(_))),
        "{ignored:?}"
    );
    let ignored = edit.delete(&pool).await;
    assert!(
        matches!(ignored, Err(DeleteError::Ignored(_))),
        "{ignored:?}"
    );
}
