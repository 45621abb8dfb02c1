//! The application on SQLite.

pub type Db = sqlx::Sqlite;
pub type Pool = sqlx::SqlitePool;
pub type Options = sqlx::sqlite::SqliteConnectOptions;
pub type PoolOptions = sqlx::sqlite::SqlitePoolOptions;

pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

#[path = "app/mod.rs"]
pub mod app;
