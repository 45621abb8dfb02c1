//! The mailer on PostgreSQL.

use rowlock::queue::Worker;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::model::Email;

pub type Db = sqlx::Postgres;
pub type Pool = sqlx::PgPool;

#[path = "office.rs"]
// The same code for another type of pool.
#[allow(clippy::duplicate_mod)]
pub mod office;

#[path = "worker.rs"]
#[allow(clippy::duplicate_mod)]
pub mod worker;

/// The schema of this run, which the workers are told.
pub async fn whereabouts(pool: &Pool) -> sqlx::Result<String> {
    let sql = "SELECT current_schema()::text";
    sqlx::query_scalar(sql).fetch_one(pool).await
}

/// The pool of a worker.
pub async fn connect(url: &str, schema: &str) -> anyhow::Result<Pool> {
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("search_path", schema)]);
    let pool = PgPoolOptions::new().max_connections(8);
    Ok(pool.connect_with(options).await?)
}

/// The table with its indexes, settings of it, and a trigger that wakes the workers when mails are enqueued: usually in a migration.
pub async fn set_up(pool: &Pool) -> sqlx::Result<()> {
    let table = Email::create_table::<Db>();
    sqlx::raw_sql(table).execute(pool).await?;
    sqlx::raw_sql(Email::storage_ddl()).execute(pool).await?;
    sqlx::raw_sql(Email::notify_ddl()).execute(pool).await?;
    Ok(())
}

/// A worker that the trigger wakes.
pub fn awake(worker: Worker<Db, Email>) -> Worker<Db, Email> {
    worker.listen()
}
