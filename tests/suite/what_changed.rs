//! Which fields an edit or a conflict takes for changed: what the database would store decides, not `==`.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use rowlock::row::{LockCheckedError, MergeError, UpdateError};
use rowlock::{FindOrCreate, Lockable, Versioned};
use serde_json::{Value, json};
use sqlx::types::Json;

use super::{NAME, Pool, database};

/// Without `PartialEq`, which nothing asks for.
#[derive(Debug, Clone, sqlx::FromRow, FindOrCreate, Lockable, Versioned)]
#[rowlock(table = "readings", unique(id))]
struct Reading {
    #[rowlock(key)]
    id: i64,
    at: DateTime<Utc>,
    level: Option<f64>,
    note: Note,
    #[sqlx(json)]
    parts: HashMap<String, f64>,
    payload: Json<HashMap<String, Value>>,
    #[sqlx(json(nullable))]
    extra: Option<Value>,
    #[rowlock(version)]
    version: i64,
}

const READINGS: &str = "CREATE TABLE readings (id bigint PRIMARY KEY, at {timestamp} NOT NULL, level double precision,
    note text NOT NULL, parts {json} NOT NULL, payload {json} NOT NULL, extra {json}, version bigint NOT NULL)";

/// Equal if it is the same word.
#[derive(Debug, Clone, sqlx::Type)]
#[sqlx(transparent)]
struct Note(String);

impl PartialEq for Note {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

/// Nanoseconds, NaN, maps of any order, and a number that jsonb writes in another way.
fn reading() -> NewReading {
    let many = || (0..20).map(|part| format!("part {part}"));
    NewReading {
        id: 1,
        at: DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap(),
        level: Some(f64::NAN),
        note: Note("first".to_owned()),
        parts: many().zip([0.5, 1e16].into_iter().cycle()).collect(),
        payload: Json(many().map(|part| (part, json!(1e16))).collect()),
        extra: Some(json!({"b": 1e17, "a": [1.0]})),
    }
}

/// The row as its writer knows it, which is not how the database gives it back.
async fn written(pool: &Pool) -> Reading {
    let mut row = Reading::find_or_create(pool, reading())
        .await
        .unwrap()
        .into_inner();
    let given = reading();
    (row.at, row.level) = (given.at, given.level);
    (row.parts, row.payload, row.extra) = (given.parts, given.payload, given.extra);
    row.update(pool).await.unwrap()
}

#[tokio::test]
async fn an_untouched_edit_writes_nothing_whatever_its_values() {
    let database = database(READINGS).await;
    let row = written(&database.pool).await;
    let edit = row.edit();
    assert_eq!(edit.changed_fields(), [""; 0]);
    assert_eq!(edit.save(&database.pool).await.unwrap().version, 1);

    // Nor does one with values that are stored as the same ones.
    let mut edit = row.edit();
    let given = reading();
    (edit.level, edit.parts, edit.payload, edit.extra) =
        (given.level, given.parts, given.payload, given.extra);
    assert_eq!(edit.changed_fields(), [""; 0]);
    assert_eq!(edit.save(&database.pool).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_conflict_lists_what_was_changed_and_not_what_is_written_differently() {
    let database = database(READINGS).await;
    let pool = &database.pool;
    let row = written(pool).await;
    Reading::update_with(pool, 1, |row| row.note = Note("theirs".to_owned()))
        .await
        .unwrap();

    let mut edit = row.edit();
    edit.extra = None;
    let Err(UpdateError::Stale(conflict)) = edit.save(pool).await else {
        panic!("not stale");
    };
    assert_eq!(conflict.changed_fields(), ["note"]);
    let merged = conflict.merge().unwrap().save(pool).await.unwrap();
    assert_eq!((merged.note.0.as_str(), merged.version), ("theirs", 3));

    // Without a base, the fields in which the row differs from the copy.
    let Err(UpdateError::Stale(conflict)) = row.update(pool).await else {
        panic!("not stale");
    };
    assert_eq!(conflict.changed_fields(), ["note", "extra"]);
    let mut tx = pool.begin().await.unwrap();
    let Err(LockCheckedError::Stale(conflict)) = row.lock_checked(&mut tx).await else {
        panic!("not stale");
    };
    assert_eq!(conflict.changed_fields(), ["note", "extra"]);
    tx.rollback().await.unwrap();

    // And a true overlap is one.
    let mut edit = row.edit();
    edit.note = Note("mine".to_owned());
    let Err(UpdateError::Stale(conflict)) = edit.save(pool).await else {
        panic!("not stale");
    };
    assert_eq!(
        conflict.merge().unwrap_err(),
        MergeError::Overlap(vec!["note"])
    );
}

/// Both wrote the same time, of which the one knows more digits than the column keeps.
#[tokio::test]
async fn the_same_change_with_more_digits_is_agreement() {
    let database = database(READINGS).await;
    let pool = &database.pool;
    let row = written(pool).await;
    let later = row.at + TimeDelta::hours(1);
    Reading::update_with(pool, 1, |row| row.at = later)
        .await
        .unwrap();
    let mut edit = row.edit();
    edit.at = later;
    edit.note = Note("mine".to_owned());
    let Err(UpdateError::Stale(conflict)) = edit.save(pool).await else {
        panic!("not stale");
    };
    let merged = conflict.merge().unwrap().save(pool).await.unwrap();
    assert_eq!(merged.note.0, "mine");
}

/// A nanosecond is nothing to PostgreSQL, and a change to SQLite, which stores a time as text.
#[tokio::test]
async fn a_difference_that_the_database_keeps_is_written() {
    let database = database(READINGS).await;
    let pool = &database.pool;
    let row = written(pool).await;
    let mut edit = row.edit();
    edit.at += TimeDelta::nanoseconds(1);
    let saved = edit.save(pool).await.unwrap();
    if NAME == "SQLite" {
        assert_eq!(saved.version, 2);
        assert_eq!(Reading::load(pool, 1).await.unwrap().at, edit.at);
    } else {
        assert_eq!(saved.version, 1);
    }

    // Equal by `==`, which is not asked.
    let mut edit = Reading::load(pool, 1).await.unwrap().edit();
    edit.note = Note("FIRST".to_owned());
    assert!(edit.note == edit.base().note);
    assert_eq!(edit.changed_fields(), ["note"]);
    edit.save(pool).await.unwrap();
    assert_eq!(Reading::load(pool, 1).await.unwrap().note.0, "FIRST");

    let mut edit = Reading::load(pool, 1).await.unwrap().edit();
    edit.extra = Some(json!({"b": 1e17, "a": [2.0]}));
    assert_eq!(edit.changed_fields(), ["extra"]);
}

#[tokio::test]
async fn none_of_nullable_json_is_null_and_not_the_json_value_null() {
    let database = database(READINGS).await;
    let pool = &database.pool;
    let nulls = "SELECT count(*) FROM readings WHERE extra IS NULL";
    let count = || async {
        sqlx::query_scalar::<_, i64>(nulls)
            .fetch_one(pool)
            .await
            .unwrap()
    };
    let new = NewReading {
        extra: None,
        ..reading()
    };
    let created = Reading::find_or_create(pool, new)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(count().await, 1, "created");

    let mut edit = created.edit();
    edit.extra = Some(json!(1));
    let mut edit = edit.save(pool).await.unwrap().edit();
    assert_eq!(count().await, 0);
    edit.extra = None;
    assert_eq!(edit.changed_fields(), ["extra"]);
    let saved = edit.save(pool).await.unwrap();
    assert_eq!(count().await, 1, "saved");
    saved.update(pool).await.unwrap();
    assert_eq!(count().await, 1, "updated");
}
