//! Hand-written sqlx on the same table as rowlock's: what one writes who knows how.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::harness::{Contender, Database, Run, Schema, Setting, TASKS, execute};

pub(crate) const NAME: &str = "by hand";

pub(super) const TABLE: &str = "CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payload text NOT NULL,
    priority smallint NOT NULL DEFAULT 0,
    run_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'ready',
    attempts int NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0,
    leased_until timestamptz,
    last_error text
)";

/// Room for heartbeats on the page, an index to claim by, and one to find the leases that ended: as rowlock's `ddl()` and `storage_ddl()` have it.
const INDEX: &str = "ALTER TABLE jobs SET (fillfactor = 50);
    CREATE INDEX jobs_ready ON jobs (priority, run_at, id) WHERE state = 'ready';
    CREATE INDEX jobs_running ON jobs (id) WHERE state = 'running'";

const ENQUEUE: &str = r#"INSERT INTO jobs (payload)
    SELECT format('{"n":%s}', n) FROM generate_series(1, $1) AS n"#;

/// Two ways to say the same. Which one is faster depends on what the planner makes of it.
#[derive(Debug, Clone, Copy)]
struct Sql {
    text: &'static str,
    claim: &'static str,
    complete: &'static str,
}

/// Chooses the rows once, because of MATERIALIZED: a subquery that is planned into the join may lock and skip rows again and
/// again.
macro_rules! claim {
    ($($what:literal),+) => {
        concat!(
            "WITH claimed AS MATERIALIZED (
                SELECT id FROM jobs
                WHERE state = 'ready' AND run_at <= statement_timestamp()
                ORDER BY priority, run_at, id
                LIMIT $1
                FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE jobs SET state = 'running', attempts = attempts + 1, fence = fence + 1,
                leased_until = clock_timestamp() + make_interval(secs => $2) ",
            $($what,)+
            " RETURNING jobs.id, payload, priority, run_at, state, attempts, fence, leased_until, last_error"
        )
    };
}

/// As it is mostly written. A large batch may be joined by reading the whole table.
const JOINED: Sql = Sql {
    text: "rows joined",
    claim: claim!("FROM claimed WHERE jobs.id = claimed.id"),
    complete: "UPDATE jobs SET state = 'done'
        FROM unnest($1::bigint[], $2::bigint[]) AS held (id, fence)
        WHERE jobs.id = held.id AND jobs.fence = held.fence AND jobs.state = 'running'",
};

/// By the primary key, whatever the statistics say; the pairs are looked up in a hash table.
const ARRAYS: Sql = Sql {
    text: "rows by key",
    claim: claim!("WHERE id = ANY (ARRAY(SELECT id FROM claimed))"),
    complete: "UPDATE jobs SET state = 'done'
        WHERE id = ANY ($1) AND state = 'running'
        AND ((id, fence) IN (SELECT * FROM unnest($1::bigint[], $2::bigint[]))) IS TRUE",
};

pub(super) const LEASE: Duration = Duration::from_secs(60);

/// All columns, as the job would have them.
#[derive(Debug, sqlx::FromRow)]
#[expect(
    dead_code,
    reason = "read from the row, and not looked at by a job that does nothing"
)]
struct Job {
    id: i64,
    payload: String,
    priority: i16,
    run_at: DateTime<Utc>,
    state: String,
    attempts: i32,
    fence: i64,
    leased_until: Option<DateTime<Utc>>,
    last_error: Option<String>,
}

/// How many jobs are claimed at once, and how many of them take some tenths of a second.
pub(super) const BATCHES: [(usize, i64); 4] =
    [(1, 1_500), (10, 10_000), (100, 30_000), (500, 40_000)];

/// Enqueues into the table `jobs`.
pub(super) async fn enqueue(pool: PgPool, jobs: i64) {
    sqlx::query(ENQUEUE)
        .bind(jobs)
        .execute(&pool)
        .await
        .expect("jobs can be inserted");
}

/// The table `jobs`.
pub(super) fn schema(pool: PgPool) -> Schema {
    Schema {
        pool,
        tables: "jobs",
        clear: "TRUNCATE jobs RESTART IDENTITY",
        left: "SELECT EXISTS (SELECT FROM jobs WHERE state <> 'done')",
    }
}

/// One contender per batch size, all on one table.
pub(crate) async fn contenders(database: &Database) -> Vec<Contender> {
    let pool = database.pool().await;
    execute(&pool, TABLE).await;
    execute(&pool, INDEX).await;
    let schema = schema(database.harness_pool().await);
    BATCHES
        .map(|(batch, jobs)| {
            let filled = pool.clone();
            let settings = [JOINED, ARRAYS].map(|sql| {
                let pool = pool.clone();
                let text = format!("{TASKS} tasks, {batch} at a time, {}", sql.text);
                Setting::new(text, batch, move |run| drain(pool.clone(), sql, batch, run))
            });
            Contender {
                name: NAME,
                jobs,
                schema: schema.clone(),
                enqueue: Box::new(move |jobs| Box::pin(enqueue(filled.clone(), jobs))),
                settings: settings.into(),
            }
        })
        .into()
}

async fn drain(pool: PgPool, sql: Sql, batch: usize, run: Run) -> Duration {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        tasks.spawn(work(pool.clone(), sql, batch, run.clone()));
    }
    let time = run.completed(start).await;
    tasks.join_all().await;
    time
}

async fn work(pool: PgPool, sql: Sql, batch: usize, run: Run) {
    let limit = i64::try_from(batch).expect("a batch is small");
    loop {
        let jobs: Vec<Job> = sqlx::query_as(sql.claim)
            .bind(limit)
            .bind(LEASE.as_secs_f64())
            .fetch_all(&pool)
            .await
            .expect("jobs can be claimed");
        if jobs.is_empty() {
            return;
        }
        let (ids, fences): (Vec<i64>, Vec<i64>) =
            jobs.iter().map(|job| (job.id, job.fence)).unzip();
        let completed = sqlx::query(sql.complete)
            .bind(ids)
            .bind(fences)
            .execute(&pool)
            .await
            .expect("jobs can be completed");
        assert_eq!(completed.rows_affected(), jobs.len() as u64);
        run.handled(jobs.len());
    }
}
