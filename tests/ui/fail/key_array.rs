//! A key that is an array cannot be one of many.

use chrono::{DateTime, Utc};
use rowlock::{Counter, Fence, Lockable, Queue};
use rowlock::queue::QueueState;

#[derive(sqlx::FromRow, Counter, Lockable)]
#[rowlock(table = "paths", backend(Postgres))]
struct Path {
    #[rowlock(key)]
    steps: Vec<i32>,
    #[rowlock(counter)]
    visits: i64,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "routes", backend(Postgres))]
struct Route {
    #[rowlock(key)]
    steps: [i64; 3],
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i16,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<DateTime<Utc>>,
}

// Bytes are no array.
#[derive(sqlx::FromRow, Counter, Lockable)]
#[rowlock(table = "hashes", backend(Postgres))]
struct Hash {
    #[rowlock(key)]
    hash: Vec<u8>,
    #[rowlock(counter)]
    visits: i64,
}

fn main() {}
