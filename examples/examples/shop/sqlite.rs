//! The ways on SQLite.

pub type Db = sqlx::Sqlite;
pub type Pool = sqlx::Pool<Db>;

#[path = "ways.rs"]
pub mod ways;
