//! The application on PostgreSQL.

pub type Db = sqlx::Postgres;
pub type Pool = sqlx::PgPool;
pub type Options = sqlx::postgres::PgConnectOptions;
pub type PoolOptions = sqlx::postgres::PgPoolOptions;

pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

// On purpose: the same application for each database.
#[allow(clippy::duplicate_mod)]
#[path = "app/mod.rs"]
pub mod app;
