//! The mailer on SQLite.

use std::time::Duration;

use rowlock::queue::Worker;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};

use crate::model::Email;

pub type Db = sqlx::Sqlite;
pub type Pool = sqlx::SqlitePool;

#[path = "office.rs"]
pub mod office;

#[path = "worker.rs"]
pub mod worker;

/// The file of this run, which the workers are told.
pub async fn whereabouts(pool: &Pool) -> sqlx::Result<String> {
    let sql = "SELECT file FROM pragma_database_list";
    sqlx::query_scalar(sql).fetch_one(pool).await
}

/// The pool of a worker.
pub async fn connect(file: &str) -> anyhow::Result<Pool> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        // The journal is that of the file: WAL.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(10));
    // There is one writer in any case.
    let pool = SqlitePoolOptions::new().max_connections(2);
    Ok(pool.connect_with(options).await?)
}

/// The table with its indexes: usually in a migration.
pub async fn set_up(pool: &Pool) -> sqlx::Result<()> {
    let table = Email::create_table::<Db>();
    sqlx::raw_sql(table).execute(pool).await?;
    Ok(())
}

/// SQLite wakes nobody: the worker looks again and again.
pub fn awake(worker: Worker<Db, Email>) -> Worker<Db, Email> {
    worker.poll(Duration::from_millis(100))
}
