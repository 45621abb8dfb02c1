//! sqlxmq: claims in batches, keeps between a least and a most number of jobs running, deletes each job when it completes.

use std::error::Error;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlxmq::{CurrentJob, JobRegistry};

use crate::harness::{Contender, Database, Run, Schema, Setting, execute};

pub(crate) const NAME: &str = "sqlxmq";

/// The migrations, put together by the build script.
const MIGRATIONS: &str = include_str!(concat!(env!("OUT_DIR"), "/sqlxmq.sql"));

/// The function of the crate that its builder calls, for many jobs at once.
const ENQUEUE: &str = r#"SELECT mq_insert(ARRAY(
    SELECT (gen_random_uuid(), '0', 4, '1 minute', '', '', NULL, false, 'noop', format('{"n":%s}', n), NULL)::mq_new_t
    FROM generate_series(1, $1) AS n))"#;

#[sqlxmq::job("noop")]
async fn noop(mut job: CurrentJob, run: Run) -> Result<(), Box<dyn Error + Send + Sync>> {
    job.complete().await?;
    run.handled(1);
    Ok(())
}

pub(crate) async fn contenders(database: &Database) -> [Contender; 1] {
    let pool = database.harness_pool().await;
    execute(&pool, MIGRATIONS).await;
    let workers = database.pool_08().await;
    let settings = [(50, 100), (50, 500), (450, 500)].map(|(least, most)| {
        let workers = workers.clone();
        Setting::new(
            format!("concurrency {least} to {most}, no keep-alive"),
            most,
            move |run| drain(workers.clone(), least, most, run),
        )
    });
    let filled = pool.clone();
    [Contender {
        name: NAME,
        jobs: 5_000,
        schema: Schema {
            pool,
            tables: "mq_msgs, mq_payloads",
            // The row that all others refer to when they wait for none.
            clear: "TRUNCATE mq_msgs, mq_payloads;
                INSERT INTO mq_msgs (id, channel_name, channel_args, after_message_id)
                VALUES (uuid_nil(), '', '', NULL)",
            left: "SELECT EXISTS (SELECT FROM mq_msgs WHERE id <> uuid_nil())",
        },
        enqueue: Box::new(move |jobs| Box::pin(enqueue(filled.clone(), jobs))),
        settings: settings.into(),
    }]
}

async fn enqueue(pool: PgPool, jobs: i64) {
    sqlx::query(ENQUEUE)
        .bind(jobs)
        .execute(&pool)
        .await
        .expect("jobs can be inserted");
}

async fn drain(pool: sqlx_08::PgPool, least: usize, most: usize, run: Run) -> Duration {
    let mut registry = JobRegistry::new(&[noop]);
    registry.set_context(run.clone());
    let mut options = registry.runner(&pool);
    // A timer per job that a job this short does not live to see.
    options.set_concurrency(least, most).set_keep_alive(false);
    let start = Instant::now();
    let mut runner = options.run().await.expect("the runner starts");
    let time = run.completed(start).await;
    runner.stop().await;
    time
}
