//! The queue, and what is going to happen to each attempt of its tasks.

use std::time::Duration;

use rowlock::queue::QueueState;
use rowlock::{Fence, Queue};
use rowlock_tests::random::Random;
use sqlx::types::chrono::{DateTime, Utc};

/// As a service has it. The key is given by who enqueues, so that an enqueue whose answer is lost can be looked for.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "tasks", backend(Postgres))]
pub(crate) struct Task {
    #[rowlock(key)]
    pub(crate) id: i64,
    #[rowlock(filter)]
    pub(crate) kind: String,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 100))]
    pub(crate) attempts: i32,
    #[rowlock(fence)]
    pub(crate) fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
    #[rowlock(last_error)]
    last_error: Option<String>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

/// `effects` has no unique index, so that it can hold what must not be. `ended` gets each claim that a rescue takes back, in the
/// transaction of the rescue.
pub(crate) const TABLES: &str = "
    CREATE TABLE tasks (
        id bigint PRIMARY KEY, kind text NOT NULL, run_at timestamptz NOT NULL, state text NOT NULL, attempts int NOT NULL, fence bigint NOT NULL,
        leased_until timestamptz, last_error text, finished_at timestamptz);
    CREATE TABLE effects (task bigint NOT NULL, fence bigint NOT NULL);
    CREATE TABLE ended (task bigint NOT NULL, fence bigint NOT NULL);
    CREATE FUNCTION lease_ended() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO ended (task, fence) VALUES (OLD.id, OLD.fence); RETURN NULL; END $$;
    CREATE TRIGGER lease_ended AFTER UPDATE ON tasks FOR EACH ROW
        WHEN (OLD.state = 'running' AND NEW.state <> 'running' AND NEW.last_error = 'the lease ended' AND NEW.fence > OLD.fence)
        EXECUTE FUNCTION lease_ended();";

/// Completed with an effect in the same transaction.
pub(crate) const EFFECT: &str = "effect";
/// Completed by the worker.
pub(crate) const PLAIN: &str = "plain";
/// Claimed in batches without a worker, unless a worker is there first.
pub(crate) const BATCH: &str = "batch";

pub(crate) fn kind(id: i64) -> &'static str {
    match id % 10 {
        0..4 => EFFECT,
        4..8 => PLAIN,
        _ => BATCH,
    }
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Works,
    Fails,
    Panics,
}

/// What happens in an attempt, if nobody breaks it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) pause: Duration,
    pub(crate) end: End,
}

/// The same whenever it is asked, so that who looks at the end knows it, too.
pub(crate) fn plan(seed: u64, id: i64, attempt: i64) -> Plan {
    let attempt = [id, attempt].map(i64::cast_unsigned);
    let mut random = Random::seeded(seed ^ attempt[0].rotate_left(20) ^ attempt[1].rotate_left(54));
    let pause = match random.below(200) {
        0 => 200,
        1..10 => 5,
        _ => 0,
    };
    let end = match random.below(1000) {
        0..10 => End::Fails,
        10..13 => End::Panics,
        _ => End::Works,
    };
    Plan {
        pause: Duration::from_millis(pause),
        end,
    }
}
