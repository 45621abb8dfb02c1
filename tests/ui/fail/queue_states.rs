//! States that a table cannot have, or that nobody could tell apart.

use rowlock::queue::QueueState;
use rowlock::{Fence, Queue};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "emails")]
struct Email {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state(redy = "queued", running = "queued", running = "busy", done = delete, dead))]
    state: String,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

/// Two of them are the same, one by its own name.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state(ready = "dead"))]
    state: String,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

/// The crate's own type has the crate's own texts.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "tasks")]
struct Task {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state(ready = "queued"))]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

/// Both.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "calls", done = "delete")]
struct Call {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(dead)]
    failed_at: Option<Timestamp>,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

/// Nothing says when it is done.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "payouts")]
struct Payout {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(dead)]
    failed_at: Option<Timestamp>,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

/// It is never NULL.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "payouts", done = delete)]
struct Invoice {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(dead)]
    failed_at: Timestamp,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

/// A time is asked for where there is a state; pauses are not jobs.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "notices", pauses = "notices")]
struct Notice {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(finished)]
    notified: bool,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

/// Yes, no, or nobody knows.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "notices", pauses = "a.b.c")]
struct Announcement {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(finished)]
    notified: Option<bool>,
    #[rowlock(dead)]
    failed: Option<bool>,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

fn main() {}
