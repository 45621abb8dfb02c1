//! The types of SQLite, whose columns hold what they are given.

use rowlock::row::{FoundOrCreated, GuardError, UpdateError};
use rowlock::{Counter, FindOrCreate, Guarded, Lockable, Versioned, transaction};
use sqlx::types::uuid::fmt::Hyphenated;
use sqlx::types::{Json, Uuid};

use super::types::{of_columns, of_types, things};

/// A key with a type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
struct Number(i64);

/// Its names as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(rename_all = "snake_case")]
enum Mood {
    Good,
    SoSo,
}

of_types! {
    on Sqlite;
    integer: i32 as "integer" by clone, -1, i32::MIN;
    bigint: i64 as "bigint" by clone, 1, i64::MAX;
    text: String as "text" by as_str, "a".to_owned(), String::new();
    uuid: Uuid as "blob" by clone, Uuid::from_u128(7), Uuid::from_u128(u128::MAX);
    uuid_as_text: Hyphenated as "text" by clone, Uuid::from_u128(7).into(), Uuid::from_u128(u128::MAX).into();
    blob: Vec<u8> as "blob" by clone, vec![0, 255], vec![];
    time: chrono::DateTime<chrono::Utc> as "text" by clone, chrono::DateTime::UNIX_EPOCH, "2026-11-22T01:02:03.000004Z".parse().unwrap();
    date: chrono::NaiveDate as "text" by clone, "0001-01-01".parse().unwrap(), "2026-11-22".parse().unwrap();
    boolean: bool as "boolean" by clone, true, false;
    newtype: Number as "bigint" by clone, Number(1), Number(-1);
    an_enum: Mood as "text" by clone, Mood::Good, Mood::SoSo;
}

of_columns! {
    on Sqlite;
    double: f64 as "real", 0.1, -1e300;
    json: Json<Vec<i32>> as "text", Json(vec![1]), Json(vec![]);
}
