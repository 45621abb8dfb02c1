//! SQLite: a file in a temporary directory, which goes away with it.

use std::time::Duration;

use anyhow::Context;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, SqlitePool};
use tempfile::TempDir;

/// A new database, and a pool on it.
#[derive(Debug)]
pub struct Database {
    /// What it is called in the output, with its version.
    pub name: String,
    /// At most eight connections.
    pub pool: SqlitePool,
    _directory: TempDir,
}

impl Database {
    /// Creates the file and the tables in it.
    pub async fn open(program: &str, tables: &str) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("rowlock-{program}-"))
            .tempdir()
            .context("no temporary directory")?;
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("rowlock.db"))
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
        let tables = tables
            .replace("{id}", "INTEGER PRIMARY KEY")
            .replace("{timestamp}", "timestamp");
        sqlx::raw_sql(AssertSqlSafe(tables)).execute(&pool).await?;
        Ok(Self {
            name: format!("SQLite {version}"),
            pool,
            _directory: directory,
        })
    }
}
