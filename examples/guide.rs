//! What the shorter programs of the guide run on and leave out: a database, and models that its pages show in full.

use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rowlock::queue::QueueState;
use rowlock::{Fence, Guarded, Idempotent, Queue, Versioned};
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{PgPool, SqlitePool};

use crate::postgres;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A row that several people edit.
#[derive(Debug, Clone, sqlx::FromRow, Versioned, Guarded)]
#[rowlock(table = "documents")]
pub struct Document {
    /// The key.
    #[rowlock(key)]
    pub id: i64,
    /// The first line.
    pub title: String,
    /// All others.
    pub body: String,
    /// How often it was written.
    #[rowlock(version)]
    pub lock_version: i64,
}

/// The row of a payment's idempotency key.
#[derive(Debug, sqlx::FromRow, Idempotent)]
#[rowlock(table = "payments")]
pub struct Payment {
    /// What the client sends.
    #[rowlock(key)]
    pub key: String,
    /// Of its request.
    #[rowlock(fingerprint)]
    pub fingerprint: Vec<u8>,
    /// The number that the provider gave.
    #[rowlock(outcome)]
    pub charge: Option<String>,
    /// Tells attempts apart.
    #[rowlock(fence)]
    pub fence: Fence,
    /// When an attempt is dead.
    #[rowlock(lease)]
    pub leased_until: DateTime<Utc>,
    /// When it was done.
    #[rowlock(finished)]
    pub finished_at: Option<DateTime<Utc>>,
}

/// A job.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "invoices")]
pub struct Invoice {
    /// The key.
    #[rowlock(key, generated)]
    pub id: i64,
    /// Whose invoice it is.
    #[rowlock(filter)]
    pub customer_id: i64,
    /// What is owed.
    pub cents: i64,
    /// Not before.
    #[rowlock(run_at)]
    pub run_at: DateTime<Utc>,
    /// How far it has come.
    #[rowlock(state)]
    pub state: QueueState,
    /// How often it was tried.
    #[rowlock(attempts(max = 5))]
    pub attempts: i32,
    /// Tells claims apart.
    #[rowlock(fence)]
    pub fence: Fence,
    /// When a claim ends.
    #[rowlock(lease)]
    pub leased_until: Option<DateTime<Utc>>,
    /// When it was done or given up.
    #[rowlock(finished)]
    pub finished_at: Option<DateTime<Utc>>,
}

/// Runs a program to its end. Its error is a panic, which fails the test.
pub fn block_on(program: impl Future<Output = Result<()>>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(program).expect("the program succeeds");
}

/// A database in memory with these tables.
pub async fn sqlite(tables: &'static str) -> Result<SqlitePool> {
    let options = SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await?;
    sqlx::raw_sql(tables).execute(&pool).await?;
    Ok(pool)
}

/// One with documents 1, 2 and 7, which nobody has edited.
pub async fn documents() -> Result<SqlitePool> {
    sqlite(
        "CREATE TABLE documents (id bigint PRIMARY KEY, title text NOT NULL, body text NOT NULL, lock_version bigint NOT NULL);
         INSERT INTO documents VALUES (1, 'One', '', 0), (2, 'Two', '', 0), (7, 'Draft', '', 0)",
    )
    .await
}

/// One with an invoice of customer 1, who has 100 cents.
pub async fn invoices() -> Result<SqlitePool> {
    let pool = sqlite(
        "CREATE TABLE invoices (id INTEGER PRIMARY KEY, customer_id bigint NOT NULL, cents bigint NOT NULL, run_at timestamp NOT NULL,
             state text NOT NULL, attempts integer NOT NULL, fence bigint NOT NULL, leased_until timestamp, finished_at timestamp);
         CREATE TABLE accounts (customer_id bigint PRIMARY KEY, cents bigint NOT NULL);
         INSERT INTO accounts VALUES (1, 100)",
    )
    .await?;
    let new = NewInvoice {
        customer_id: 1,
        cents: 30,
    };
    Invoice::enqueue(&pool, new).await?;
    Ok(pool)
}

/// Runs a program on the PostgreSQL of `ROWLOCK_POSTGRES_URL`, which `tests/run` starts, in a schema of its own with these tables.
pub fn on_postgres(tables: &str, program: impl AsyncFnOnce(&PgPool) -> Result<()>) {
    block_on(async {
        let url = std::env::var("ROWLOCK_POSTGRES_URL")
            .map_err(|_| "this needs a PostgreSQL: `with-servers` of tests/ starts one")?;
        let database = postgres::Database::open(&url, "guide", tables).await?;
        let outcome = program(&database.pool).await;
        database.drop_schema().await?;
        outcome
    });
}

/// Waits until a queue is empty: the signal to stop of a worker that has done all.
pub async fn empty(pool: SqlitePool, unfinished: &'static str) {
    while sqlx::query_scalar::<_, i64>(unfinished)
        .fetch_one(&pool)
        .await
        .is_ok_and(|left| left > 0)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
