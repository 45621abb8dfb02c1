//! The workers on PostgreSQL.

pub type Db = sqlx::Postgres;
pub type Pool = sqlx::PgPool;

#[path = "worker.rs"]
// The same code for another type of pool.
#[allow(clippy::duplicate_mod)]
pub mod worker;
