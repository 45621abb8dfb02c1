//! The tour on SQLite: a file in a temporary directory, which goes away with it.

use std::time::Duration;

use anyhow::Context;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tempfile::TempDir;

use crate::models::TABLES;

#[path = "operations.rs"]
pub mod operations;

pub type Pool = sqlx::SqlitePool;

pub struct Database {
    pub name: String,
    pub pool: Pool,
    _directory: TempDir,
}

impl Database {
    pub async fn open() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("rowlock-tour-")
            .tempdir()
            .context("no temporary directory")?;
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("tour.db"))
            .create_if_missing(true)
            // Readers do not wait for the writer, and writers wait for each other instead of failing.
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(8)
            .connect_with(options)
            .await?;
        let version: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&pool)
            .await?;
        let tables = TABLES.replace("{id}", "INTEGER PRIMARY KEY");
        sqlx::raw_sql(AssertSqlSafe(tables)).execute(&pool).await?;
        Ok(Self {
            name: format!("SQLite {version}"),
            pool,
            _directory: directory,
        })
    }
}
