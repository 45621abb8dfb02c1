//! More attempts than the column can count.

use rowlock::Queue;

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: chrono::DateTime<chrono::Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts(max = 40000))]
    attempts: i16,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    lease: Option<chrono::DateTime<chrono::Utc>>,
}

/// A claim counts one more.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Full {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: chrono::DateTime<chrono::Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts(max = 2147483647))]
    attempts: i32,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    lease: Option<chrono::DateTime<chrono::Utc>>,
}

fn main() {}
