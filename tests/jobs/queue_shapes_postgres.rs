//! Queues on tables that only PostgreSQL can have: see `queue_shapes.rs`.

use chrono::{DateTime, Utc};
use rowlock::queue::{Cancelled, Claimed, FinishError, Retried};
use rowlock::{Fence, Queue};
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Executor};

use super::queue_shapes::{HOUR, NOW, Words, schema, uuid};
use super::{Db, Pool, database};

/// matrix-authentication-service, `queue_jobs`: states of an enum, of which two are left to the service. Added: the fence and the lease; `started_at` and
/// `started_by` can stay, and are not written. It enqueues a retry as another row, and rowlock tries the same one again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "queue_job_status", rename_all = "lowercase")]
enum Status {
    Scheduled,
    Available,
    Running,
    Completed,
    Failed,
    Lost,
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "queue_jobs")]
struct QueueJob {
    #[rowlock(key)]
    queue_job_id: Uuid,
    #[rowlock(filter)]
    queue_name: String,
    #[rowlock(state(ready = "available", done = "completed", dead = "failed"))]
    status: Status,
    #[rowlock(run_at)]
    scheduled_at: Option<DateTime<Utc>>,
    #[rowlock(attempts(max = 3))]
    attempt: i32,
    #[rowlock(last_error)]
    failed_reason: Option<String>,
    #[rowlock(finished)]
    completed_at: Option<DateTime<Utc>>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

const QUEUE_JOBS: &str = "
    CREATE TYPE queue_job_status AS ENUM ('scheduled', 'available', 'running', 'completed', 'failed', 'lost');
    CREATE TABLE queue_jobs (queue_job_id uuid NOT NULL PRIMARY KEY, status queue_job_status NOT NULL DEFAULT 'available', created_at timestamptz NOT NULL,
        started_at timestamptz, started_by uuid, completed_at timestamptz, failed_at timestamptz, failed_reason text, attempt integer NOT NULL DEFAULT 0,
        next_attempt_id uuid REFERENCES queue_jobs (queue_job_id), scheduled_at timestamptz, queue_name text NOT NULL, payload jsonb NOT NULL DEFAULT '{}');
    ALTER TABLE queue_jobs ADD COLUMN fence bigint NOT NULL DEFAULT 0;
    ALTER TABLE queue_jobs ADD COLUMN leased_until timestamptz;";

shape!(
    matrix_authentication_service,
    QueueJob,
    3,
    QUEUE_JOBS,
    Words {
        table: "queue_jobs",
        ready: "status = 'available'",
        running: "status = 'running'",
        done: Some("status = 'completed'"),
        dead: "status = 'failed'",
    },
    "(queue_job_id, created_at, queue_name)",
    |number| format!("({}, now(), 'verify-email')", uuid(number)),
    |job| job.queue_job_id
);

/// States that the service has for itself are left alone.
#[tokio::test]
async fn other_states_of_the_enum() {
    let database = database(&schema(QUEUE_JOBS)).await;
    let pool = &database.pool;
    let insert = format!(
        "INSERT INTO queue_jobs (queue_job_id, created_at, queue_name, status) VALUES ({}, now(), 'a', 'scheduled'), ({}, now(), 'a', 'lost')",
        uuid(1),
        uuid(2)
    );
    pool.execute(AssertSqlSafe(insert)).await.unwrap();
    assert!(QueueJob::claim(pool, 9).await.unwrap().is_empty());
    let job = Uuid::from_u128(1);
    assert_eq!(QueueJob::cancel(pool, job).await.unwrap(), Cancelled::Ended);
    assert_eq!(QueueJob::redrive(pool).await.unwrap().ready, 0);
}
