//! Databases on SQLite: each is a file in a temporary directory of its own.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tempfile::TempDir;

/// The driver.
pub type Db = sqlx::Sqlite;
/// A pool of it.
pub type Pool = sqlx::SqlitePool;
/// How to make a pool.
pub type PoolOptions = sqlx::sqlite::SqlitePoolOptions;
/// A connection of it.
pub type Connection = sqlx::SqliteConnection;
/// A row of it.
pub type Row = sqlx::sqlite::SqliteRow;

/// Begins a transaction that is going to write.
pub const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";
/// What the backend is called.
pub const NAME: &str = "SQLite";

/// Replaces `{id}`, `{timestamp}`, `{now}`, `{json}` and `{bytes}` by what
/// SQLite calls them.
pub fn ddl(text: &str) -> String {
    text.replace("{id}", "INTEGER PRIMARY KEY AUTOINCREMENT")
        .replace("{timestamp}", "TEXT")
        .replace("{now}", "CURRENT_TIMESTAMP")
        .replace("{json}", "TEXT")
        .replace("{bytes}", "BLOB")
}

/// A fresh database, with the tables that `text` makes after [`ddl`].
pub async fn database(text: &str) -> Database {
    let directory = tempfile::Builder::new()
        .prefix("rowlock-sqlite-")
        .tempdir()
        .expect("a temporary directory");
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("test.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off)
        .busy_timeout(Duration::from_secs(20))
        .foreign_keys(true);
    let pool = PoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options.clone())
        .await
        .expect("the file can be created");
    sqlx::raw_sql(AssertSqlSafe(ddl(text)))
        .execute(&pool)
        .await
        .expect("the DDL is valid");
    Database {
        pool,
        options,
        _directory: directory,
    }
}

/// A file nobody else uses, removed with this value.
#[derive(Debug)]
pub struct Database {
    /// 16 connections, 10 seconds to acquire one.
    pub pool: Pool,
    options: SqliteConnectOptions,
    _directory: TempDir,
}

impl Database {
    /// How the pools connect.
    pub fn options(&self) -> SqliteConnectOptions {
        self.options.clone()
    }

    /// A further pool on the same file.
    pub async fn pool_with(&self, pool: PoolOptions) -> Pool {
        pool.connect_with(self.options())
            .await
            .expect("the file can be opened")
    }
    /// A further pool of one connection. It answers from another thread, and can be faster than the caller looks.
    pub async fn one_connection_that_waits(&self) -> (Pool, ()) {
        (self.one_connection_pool().await, ())
    }

    /// A further pool on the same file, of one connection, which shows by an
    /// acquire timeout of 5 seconds who wants two at once.
    pub async fn one_connection_pool(&self) -> Pool {
        let pool = PoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(5));
        self.pool_with(pool).await
    }

    /// A connection of no pool on the same file.
    pub async fn connection(&self) -> Connection {
        self.options()
            .connect()
            .await
            .expect("the file can be opened")
    }

    /// 1 while any connection, of a pool or not, is in a transaction that
    /// writes, else 0. SQLite lets us see no more than that.
    pub async fn open_transactions(&self) -> i64 {
        let mut connection = self.connection().await;
        // Only now: opening the file may have to wait for its last closing.
        let attempt = "PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK";
        match sqlx::raw_sql(attempt).execute(&mut connection).await {
            Ok(_) => 0,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("5") => 1,
            Err(error) => panic!("neither free nor SQLITE_BUSY: {error}"),
        }
    }

    /// Nothing: who waits for SQLite's one write lock cannot be seen from
    /// outside. A writer that comes before or behind the end of the
    /// transaction that it should wait for must meet the same outcome.
    pub async fn until_blocked(&self) {}
}
