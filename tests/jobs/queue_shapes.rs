//! Queues on the tables of public services as they are, with the columns that a lease needs added: each through claim, finish, retry, rescue, a
//! crash and a cancel. `docs/adopting.md` says what each table lacks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rowlock::queue::{Cancelled, Claimed, FinishError, Retried};
use rowlock::{Fence, Queue};
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Executor};

use super::{Db, NAME, Pool, database};

pub(super) const NOW: Duration = Duration::ZERO;
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// A schema in the words of PostgreSQL, as this database has them.
pub(super) fn schema(text: &str) -> String {
    if NAME == "PostgreSQL" {
        return text.to_owned();
    }
    text.replace("bigserial PRIMARY KEY", "INTEGER PRIMARY KEY")
        .replace("serial PRIMARY KEY", "INTEGER PRIMARY KEY")
        .replace("timestamptz", "text")
        .replace("now()", "CURRENT_TIMESTAMP")
        .replace("uuid", "blob")
}

/// The uuid of this number, as SQL.
pub(super) fn uuid(number: i64) -> String {
    match NAME {
        "PostgreSQL" => format!("'00000000-0000-0000-0000-{number:012}'"),
        _ => format!("x'00000000000000000000{number:012}'"),
    }
}

pub(super) async fn count(pool: &Pool, table: &str, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table} WHERE {condition}");
    let count = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool);
    count.await.unwrap()
}

/// Conditions in the table's own words: ready, running, done (none if it is deleted), dead.
pub(super) struct Words {
    pub(super) table: &'static str,
    pub(super) ready: &'static str,
    pub(super) running: &'static str,
    pub(super) done: Option<&'static str>,
    pub(super) dead: &'static str,
}

impl Words {
    /// How many jobs are ready, running, done and dead, of so many.
    pub(super) async fn counts(&self, pool: &Pool, of: i64) -> [i64; 4] {
        let count = |condition| count(pool, self.table, condition);
        let done = match self.done {
            Some(done) => count(done).await,
            None => of - count("true").await,
        };
        [
            count(self.ready).await,
            count(self.running).await,
            done,
            count(self.dead).await,
        ]
    }
}

/// The life of jobs of this model. `$tables` makes the tables, `$job` the values of the job of a number.
macro_rules! shape {
    ($name:ident, $model:ident, $max:literal, $tables:expr, $words:expr, $insert:literal, $job:expr, |$row:ident| $key:expr) => {
        mod $name {
            use super::*;

            const WORDS: Words = $words;

            async fn table(jobs: i64) -> super::super::Database {
                let database = database(&schema($tables)).await;
                let job: fn(i64) -> String = $job;
                let rows: Vec<String> = (1..=jobs).map(job).collect();
                let insert = format!(
                    "INSERT INTO {} {} VALUES {}",
                    WORDS.table,
                    $insert,
                    rows.join(", ")
                );
                database.pool.execute(AssertSqlSafe(insert)).await.unwrap();
                database.pool.execute($model::ddl::<Db>()).await.unwrap();
                database
            }

            async fn claim(pool: &Pool) -> Claimed<$model> {
                let claim = $model::claim(pool, 1).await.unwrap().pop();
                claim.expect("one is due")
            }

            #[tokio::test]
            async fn claim_and_finish() {
                let database = table(6).await;
                let pool = &database.pool;
                let mut jobs = $model::claim(pool, 4).await.unwrap();
                assert_eq!(WORDS.counts(pool, 6).await, [2, 4, 0, 0]);
                jobs.remove(0).complete(pool).await.unwrap();
                jobs.remove(0).fail(pool, "never").await.unwrap();
                assert_eq!(WORDS.counts(pool, 6).await, [2, 2, 1, 1]);
                assert!(Claimed::complete_many(pool, jobs).await.unwrap().is_empty());
                assert_eq!(WORDS.counts(pool, 6).await, [2, 0, 3, 1]);
                let job = claim(pool).await;
                let mut tx = pool.begin().await.unwrap();
                job.complete_in(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
                claim(pool).await.release(pool).await.unwrap();
                assert_eq!(WORDS.counts(pool, 6).await, [1, 0, 4, 1]);
                let stats = $model::stats(pool).await.unwrap();
                assert_eq!((stats.ready, stats.running, stats.dead), (1, 0, 1));
            }

            #[tokio::test]
            async fn retry() {
                let database = table(1).await;
                let pool = &database.pool;
                for attempt in 1..=$max {
                    let retried = claim(pool)
                        .await
                        .retry_after(pool, "no", NOW)
                        .await
                        .unwrap();
                    assert_eq!(matches!(retried, Retried::Dead), attempt == $max);
                }
                assert_eq!(WORDS.counts(pool, 1).await, [0, 0, 0, 1]);
                assert_eq!($model::redrive(pool).await.unwrap().ready, 1);
                claim(pool)
                    .await
                    .retry_after(pool, "later", HOUR)
                    .await
                    .unwrap();
                assert!($model::claim(pool, 1).await.unwrap().is_empty());
                assert_eq!(WORDS.counts(pool, 1).await, [1, 0, 0, 0]);
            }

            /// A claim that is dropped without an end, and is over: as that of a process that died.
            #[tokio::test]
            async fn crash_and_rescue() {
                let database = table(2).await;
                let pool = &database.pool;
                drop($model::claim(pool, 1).lease(NOW).await.unwrap());
                let rescued = $model::rescue(pool).await.unwrap();
                assert_eq!((rescued.ready, rescued.dead), (1, 0));
                assert_eq!(WORDS.counts(pool, 2).await, [2, 0, 0, 0]);
                // The next one that finds too few takes them back by itself, and who had them has lost them.
                let asleep = $model::claim(pool, 2).lease(NOW).await.unwrap();
                let mut taken_over = $model::claim(pool, 2).await.unwrap();
                assert_eq!(taken_over.len(), 2);
                for job in asleep {
                    let late = job.complete(pool).await;
                    assert!(matches!(late, Err(FinishError::LeaseLost(_))), "{late:?}");
                }
                assert_eq!(WORDS.counts(pool, 2).await, [0, 2, 0, 0]);
                taken_over.remove(0).complete(pool).await.unwrap();
                // After its last attempt it is dead.
                taken_over.remove(0).release(pool).await.unwrap();
                while let Some(job) = $model::claim(pool, 1).lease(NOW).await.unwrap().pop() {
                    drop(job);
                    $model::rescue(pool).await.unwrap();
                }
                assert_eq!(WORDS.counts(pool, 2).await, [0, 0, 1, 1]);
            }

            #[tokio::test]
            async fn cancel() {
                let database = table(2).await;
                let pool = &database.pool;
                let job = claim(pool).await;
                let $row: &$model = &job;
                assert_eq!($model::cancel(pool, $key).await.unwrap(), Cancelled::Now);
                assert_eq!(WORDS.counts(pool, 2).await, [1, 0, 0, 1]);
                assert!(matches!(
                    job.complete(pool).await,
                    Err(FinishError::LeaseLost(_))
                ));
                claim(pool).await.complete(pool).await.unwrap();
                assert_eq!(WORDS.counts(pool, 2).await, [0, 0, 1, 1]);
            }
        }
    };
}

/// zero2prod, `issue_delivery_queue`: a key of two columns and nothing else; what was sent is deleted. All but the key is added.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "issue_delivery_queue", done = delete)]
struct IssueDelivery {
    #[rowlock(key)]
    newsletter_issue_id: Uuid,
    #[rowlock(key)]
    subscriber_email: String,
    #[rowlock(run_at)]
    execute_after: DateTime<Utc>,
    #[rowlock(dead)]
    failed_at: Option<DateTime<Utc>>,
    #[rowlock(attempts(max = 3))]
    n_retries: i16,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

shape!(
    zero2prod,
    IssueDelivery,
    3,
    "CREATE TABLE issue_delivery_queue (newsletter_issue_id uuid NOT NULL, subscriber_email text NOT NULL, PRIMARY KEY (newsletter_issue_id, subscriber_email));
     ALTER TABLE issue_delivery_queue ADD COLUMN execute_after timestamptz NOT NULL DEFAULT '2000-01-01 00:00:00+00:00';
     ALTER TABLE issue_delivery_queue ADD COLUMN failed_at timestamptz;
     ALTER TABLE issue_delivery_queue ADD COLUMN n_retries smallint NOT NULL DEFAULT 0;
     ALTER TABLE issue_delivery_queue ADD COLUMN fence bigint NOT NULL DEFAULT 0;
     ALTER TABLE issue_delivery_queue ADD COLUMN leased_until timestamptz;",
    Words {
        table: "issue_delivery_queue",
        ready: "failed_at IS NULL AND leased_until IS NULL",
        running: "failed_at IS NULL AND leased_until IS NOT NULL",
        done: None,
        dead: "failed_at IS NOT NULL",
    },
    "(newsletter_issue_id, subscriber_email)",
    |number| format!("({}, 'ann{number}@example.org')", uuid(7)),
    |job| (job.newsletter_issue_id, job.subscriber_email.as_str())
);

/// docs.rs, `queue`: built crates are deleted; the lowest priority first; when it was last tried is when it is due again, NULL before the first
/// time. Added: the end of a job that is given up, the fence and the lease. `attempt` is NOT NULL.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "queue", done = delete)]
struct QueuedCrate {
    #[rowlock(key, generated)]
    id: i32,
    #[rowlock(priority)]
    priority: i32,
    #[rowlock(run_at)]
    last_attempt: Option<DateTime<Utc>>,
    #[rowlock(dead)]
    failed_at: Option<DateTime<Utc>>,
    #[rowlock(attempts(max = 5))]
    attempt: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

shape!(
    docs_rs,
    QueuedCrate,
    5,
    "CREATE TABLE queue (id serial PRIMARY KEY, name text NOT NULL, version text NOT NULL, attempt integer DEFAULT 0, date_added timestamptz DEFAULT now(),
         priority integer NOT NULL DEFAULT 0, registry text, last_attempt timestamptz, UNIQUE (name, version));
     ALTER TABLE queue ADD COLUMN failed_at timestamptz;
     ALTER TABLE queue ADD COLUMN fence bigint NOT NULL DEFAULT 0;
     ALTER TABLE queue ADD COLUMN leased_until timestamptz;",
    Words {
        table: "queue",
        ready: "failed_at IS NULL AND leased_until IS NULL",
        running: "failed_at IS NULL AND leased_until IS NOT NULL",
        done: None,
        dead: "failed_at IS NOT NULL",
    },
    "(name, version, priority)",
    |number| format!("('serde', '1.0.{number}', {})", number % 3),
    |job| job.id
);

/// labrinth, `payouts_values_notifications`: `notified` says that it is done. Added: the same for one that is given up, the attempts, the fence
/// and the lease.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "payouts_values_notifications")]
struct PayoutNotification {
    #[rowlock(key, generated)]
    id: i32,
    #[rowlock(run_at)]
    date_available: DateTime<Utc>,
    #[rowlock(finished)]
    notified: bool,
    #[rowlock(dead)]
    given_up: bool,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

shape!(
    labrinth_payouts,
    PayoutNotification,
    3,
    "CREATE TABLE payouts_values_notifications (id serial PRIMARY KEY, date_available timestamptz NOT NULL, user_id bigint NOT NULL, notified boolean NOT NULL);
     CREATE UNIQUE INDEX once ON payouts_values_notifications (date_available, user_id);
     ALTER TABLE payouts_values_notifications ADD COLUMN given_up boolean NOT NULL DEFAULT false;
     ALTER TABLE payouts_values_notifications ADD COLUMN attempts integer NOT NULL DEFAULT 0;
     ALTER TABLE payouts_values_notifications ADD COLUMN fence bigint NOT NULL DEFAULT 0;
     ALTER TABLE payouts_values_notifications ADD COLUMN leased_until timestamptz;",
    Words {
        table: "payouts_values_notifications",
        ready: "NOT notified AND NOT given_up AND leased_until IS NULL",
        running: "NOT notified AND NOT given_up AND leased_until IS NOT NULL",
        done: Some("notified"),
        dead: "given_up",
    },
    "(date_available, user_id, notified)",
    |number| format!("('2020-01-01 00:00:00+00:00', {number}, false)"),
    |job| job.id
);

/// The same with a time for those that are given up: the two need not be alike.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "payouts_values_notifications")]
struct PayoutNotificationAndTime {
    #[rowlock(key, generated)]
    id: i32,
    #[rowlock(run_at)]
    date_available: DateTime<Utc>,
    #[rowlock(finished)]
    notified: bool,
    #[rowlock(dead)]
    given_up_at: Option<DateTime<Utc>>,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

shape!(
    a_boolean_and_a_time,
    PayoutNotificationAndTime,
    3,
    "CREATE TABLE payouts_values_notifications (id serial PRIMARY KEY, date_available timestamptz NOT NULL, notified boolean NOT NULL DEFAULT false,
         given_up_at timestamptz, attempts integer NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamptz);",
    Words {
        table: "payouts_values_notifications",
        ready: "NOT notified AND given_up_at IS NULL AND leased_until IS NULL",
        running: "NOT notified AND given_up_at IS NULL AND leased_until IS NOT NULL",
        done: Some("notified"),
        dead: "given_up_at IS NOT NULL AND NOT notified",
    },
    "(date_available)",
    |_| "('2020-01-01 00:00:00+00:00')".to_owned(),
    |job| job.id
);

/// labrinth, `notifications_deliveries`: states as texts, the highest priority first. There is no text for a delivery that is under way: the column
/// takes one more. Added: the fence and the lease.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "notifications_deliveries")]
struct NotificationDelivery {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(priority(desc))]
    delivery_priority: i32,
    #[rowlock(filter)]
    channel: String,
    #[rowlock(state(
        ready = "pending",
        running = "delivering",
        done = "delivered",
        dead = "permanently_failed"
    ))]
    status: String,
    #[rowlock(run_at)]
    next_attempt: DateTime<Utc>,
    #[rowlock(attempts(max = 3))]
    attempt_count: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

shape!(
    labrinth_deliveries,
    NotificationDelivery,
    3,
    "CREATE TABLE notifications_deliveries (id bigserial PRIMARY KEY, notification_id bigint NOT NULL, channel varchar(32) NOT NULL, user_id bigint NOT NULL,
         delivery_priority integer NOT NULL, status varchar(32) NOT NULL, next_attempt timestamptz NOT NULL, attempt_count integer NOT NULL,
         UNIQUE (notification_id, channel));
     ALTER TABLE notifications_deliveries ADD COLUMN fence bigint NOT NULL DEFAULT 0;
     ALTER TABLE notifications_deliveries ADD COLUMN leased_until timestamptz;",
    Words {
        table: "notifications_deliveries",
        ready: "status = 'pending'",
        running: "status = 'delivering'",
        done: Some("status = 'delivered'"),
        dead: "status = 'permanently_failed'",
    },
    "(notification_id, channel, user_id, delivery_priority, status, next_attempt, attempt_count)",
    |number| format!("({number}, 'email', 1, {}, 'pending', '2020-01-01 00:00:00+00:00', 0)", number % 3),
    |job| job.id
);

/// hook0, `webhook.request_attempt`: the times of the ends, NULL is at once. Added: the fence and the lease; `picked_at` and its like can stay, and are
/// not written.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "request_attempt")]
struct RequestAttempt {
    #[rowlock(key)]
    #[sqlx(rename = "request_attempt__id")]
    id: Uuid,
    #[rowlock(run_at)]
    delay_until: Option<DateTime<Utc>>,
    #[rowlock(finished)]
    succeeded_at: Option<DateTime<Utc>>,
    #[rowlock(dead)]
    failed_at: Option<DateTime<Utc>>,
    #[rowlock(attempts(max = 3))]
    retry_count: i16,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

shape!(
    hook0,
    RequestAttempt,
    3,
    "CREATE TABLE request_attempt (request_attempt__id uuid NOT NULL PRIMARY KEY, event__id uuid NOT NULL, subscription__id uuid NOT NULL,
         created_at timestamptz NOT NULL DEFAULT now(), picked_at timestamptz, worker_id text, failed_at timestamptz, succeeded_at timestamptz,
         delay_until timestamptz, response__id uuid UNIQUE, retry_count smallint NOT NULL DEFAULT 0);
     ALTER TABLE request_attempt ADD COLUMN fence bigint NOT NULL DEFAULT 0;
     ALTER TABLE request_attempt ADD COLUMN leased_until timestamptz;",
    Words {
        table: "request_attempt",
        ready: "succeeded_at IS NULL AND failed_at IS NULL AND leased_until IS NULL",
        running: "succeeded_at IS NULL AND failed_at IS NULL AND leased_until IS NOT NULL",
        done: Some("succeeded_at IS NOT NULL"),
        dead: "failed_at IS NOT NULL",
    },
    "(request_attempt__id, event__id, subscription__id)",
    |number| format!("({0}, {0}, {0})", uuid(number)),
    |job| job.id
);

/// zksync, `prover_jobs_fri`: texts, two priorities, a `smallint` of attempts. Its times are without a zone, so the one when a job is due is added, with the
/// fence and the lease.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "prover_jobs_fri")]
struct ProverJob {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(priority(desc))]
    aggregation_round: i16,
    #[rowlock(priority, filter)]
    l1_batch_number: i64,
    #[rowlock(state(
        ready = "queued",
        running = "in_progress",
        done = "successful",
        dead = "failed"
    ))]
    status: String,
    #[rowlock(last_error)]
    error: Option<String>,
    #[rowlock(attempts(max = 10))]
    attempts: i16,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

shape!(
    zksync,
    ProverJob,
    10,
    "CREATE TABLE prover_jobs_fri (id bigserial PRIMARY KEY, l1_batch_number bigint NOT NULL, circuit_id smallint NOT NULL, aggregation_round smallint NOT NULL,
         sequence_number integer NOT NULL, status text NOT NULL, error text, attempts smallint NOT NULL DEFAULT 0, processing_started_at timestamp,
         created_at timestamp NOT NULL, updated_at timestamp NOT NULL, picked_by text);
     CREATE UNIQUE INDEX once ON prover_jobs_fri (l1_batch_number, aggregation_round, circuit_id, sequence_number);
     ALTER TABLE prover_jobs_fri ADD COLUMN run_at timestamptz NOT NULL DEFAULT '2000-01-01 00:00:00+00:00';
     ALTER TABLE prover_jobs_fri ADD COLUMN fence bigint NOT NULL DEFAULT 0;
     ALTER TABLE prover_jobs_fri ADD COLUMN leased_until timestamptz;",
    Words {
        table: "prover_jobs_fri",
        ready: "status = 'queued'",
        running: "status = 'in_progress'",
        done: Some("status = 'successful'"),
        dead: "status = 'failed'",
    },
    "(l1_batch_number, circuit_id, aggregation_round, sequence_number, status, created_at, updated_at)",
    |number| format!("({}, 1, {}, {number}, 'queued', '2020-01-01 00:00:00', '2020-01-01 00:00:00')", number % 2, number % 3),
    |job| job.id
);

/// The order of zksync's claims: the highest round, then the lowest batch.
#[tokio::test]
async fn two_priorities() {
    let tables = "CREATE TABLE prover_jobs_fri (id bigserial PRIMARY KEY, l1_batch_number bigint NOT NULL, aggregation_round smallint NOT NULL, status text NOT NULL DEFAULT 'queued',
        error text, attempts smallint NOT NULL DEFAULT 0, run_at timestamptz NOT NULL DEFAULT '2000-01-01 00:00:00+00:00', fence bigint NOT NULL DEFAULT 0, leased_until timestamptz);
        INSERT INTO prover_jobs_fri (l1_batch_number, aggregation_round) VALUES (1, 0), (2, 1), (1, 1), (1, 2)";
    let database = database(&schema(tables)).await;
    let jobs = ProverJob::claim(&database.pool, 3).await.unwrap();
    let order: Vec<_> = jobs
        .iter()
        .map(|job| (job.aggregation_round, job.l1_batch_number))
        .collect();
    assert_eq!(order, [(2, 1), (1, 1), (1, 2)]);
}
