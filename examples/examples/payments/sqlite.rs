//! The workers on SQLite.

pub type Db = sqlx::Sqlite;
pub type Pool = sqlx::SqlitePool;

#[path = "worker.rs"]
pub mod worker;
