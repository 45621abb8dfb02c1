//! The operations on PostgreSQL.

pub type Db = sqlx::Postgres;
pub type Pool = sqlx::PgPool;

#[path = "operations/mod.rs"]
// The same code for another type of pool.
#[allow(clippy::duplicate_mod)]
pub mod operations;

/// Here conflicts show without help.
pub async fn impatient(pool: &Pool) -> anyhow::Result<Pool> {
    Ok(pool.clone())
}
