//! The paths on PostgreSQL.

pub type Db = sqlx::Postgres;
pub type Pool = sqlx::Pool<Db>;

#[path = "paths.rs"]
// The same code for another type of pool.
#[allow(clippy::duplicate_mod)]
pub mod paths;
