//! underway: claims one task at a time, in a transaction of its own, runs it in a second one, and keeps its attempts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::ToSpan;
use sqlx_08::{PgPool, Postgres, Transaction};
use underway::{Queue, Task, Worker, task};

use crate::harness::{Contender, Database, Payload, Run, Schema, Setting};

/// Without a run it is only enqueued.
struct Noop(Option<Run>);

impl Task for Noop {
    type Input = Payload;
    type Output = ();

    async fn execute(&self, _: Transaction<'_, Postgres>, _: Payload) -> task::Result<()> {
        if let Some(run) = &self.0 {
            run.handled(1);
        }
        Ok(())
    }
}

pub(crate) async fn contenders(database: &Database) -> [Contender; 1] {
    let pool = database.pool_08().await;
    underway::run_migrations(&pool)
        .await
        .expect("underway makes its tables");
    let queue = Queue::<Noop>::builder()
        .name("noop")
        .pool(pool.clone())
        .build()
        .await
        .expect("a queue can be made");
    let queue = Arc::new(queue);
    let settings = [8, 16, 32].map(|concurrency| {
        let queue = queue.clone();
        Setting::new(
            format!("concurrency {concurrency}, polls every 5 ms"),
            1,
            move |run| drain(queue.clone(), concurrency, run),
        )
    });
    [Contender {
        name: "underway",
        jobs: 1_000,
        schema: Schema {
            pool: database.harness_pool().await,
            tables: "underway.task, underway.task_attempt",
            clear: "TRUNCATE underway.task, underway.task_attempt",
            left: "SELECT EXISTS (SELECT FROM underway.task WHERE state <> 'succeeded')",
        },
        enqueue: Box::new(move |jobs| Box::pin(enqueue(queue.clone(), pool.clone(), jobs))),
        settings: settings.into(),
    }]
}

async fn enqueue(queue: Arc<Queue<Noop>>, pool: PgPool, jobs: i64) {
    let payloads: Vec<Payload> = (1..=jobs).map(|n| Payload { n }).collect();
    queue
        .enqueue_multi(&pool, &Noop(None), &payloads)
        .await
        .expect("tasks can be enqueued");
}

async fn drain(queue: Arc<Queue<Noop>>, concurrency: usize, run: Run) -> Duration {
    let mut worker = Worker::new(queue, Noop(Some(run.clone())));
    worker.set_concurrency_limit(concurrency);
    let start = Instant::now();
    let running = tokio::spawn({
        let worker = worker.clone();
        // Each tick starts one more loop that takes tasks until there are none, up to the limit. With the usual minute
        // a backlog would be worked off by one loop alone.
        async move { worker.run_every(5.milliseconds()).await }
    });
    let time = run.completed(start).await;
    worker.shutdown();
    running
        .await
        .expect("the worker does not panic")
        .expect("the worker ends well");
    time
}
