//! The paths on SQLite.

pub type Db = sqlx::Sqlite;
pub type Pool = sqlx::Pool<Db>;

#[path = "paths.rs"]
pub mod paths;
