//! The operations on SQLite.

use std::time::Duration;

use sqlx::sqlite::SqlitePoolOptions;

pub type Db = sqlx::Sqlite;
pub type Pool = sqlx::SqlitePool;

#[path = "operations/mod.rs"]
pub mod operations;

/// A pool on the same file whose connections do not wait for the database's one writer: who comes second is told so.
pub async fn impatient(pool: &Pool) -> anyhow::Result<Pool> {
    let options = pool.connect_options().as_ref().clone();
    Ok(SqlitePoolOptions::new()
        .max_connections(8)
        .connect_with(options.busy_timeout(Duration::ZERO))
        .await?)
}
