//! What `per` and `sequence` are about.

use chrono::{DateTime, Utc};
use rowlock::queue::QueueState;
use rowlock::{Fence, Queue};

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct SequenceOfNothing {
    #[rowlock(key, sequence)]
    id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct SequenceOfNull {
    #[rowlock(key, sequence)]
    id: i64,
    #[rowlock(per)]
    order_id: Option<i64>,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct PerTwice {
    #[rowlock(key)]
    id: i64,
    #[rowlock(per, sequence)]
    order_id: i64,
    #[rowlock(per)]
    customer_id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct NoSlot {
    #[rowlock(key)]
    id: i64,
    #[rowlock(per(max = 3))]
    customer_id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct SlotOfOne {
    #[rowlock(key)]
    id: i64,
    #[rowlock(per)]
    customer_id: i64,
    #[rowlock(slot)]
    place: Option<i16>,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct StrictAndThree {
    #[rowlock(key, sequence)]
    id: i64,
    #[rowlock(per(max = 3))]
    customer_id: i64,
    #[rowlock(slot)]
    place: Option<i16>,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct NoneRuns {
    #[rowlock(key)]
    id: i64,
    #[rowlock(per(max = 0))]
    customer_id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct ByTheTime {
    #[rowlock(key)]
    id: i64,
    #[rowlock(per)]
    customer_id: i64,
    #[rowlock(sequence)]
    happened_at: DateTime<Utc>,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

fn main() {}
