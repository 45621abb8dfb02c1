//! apalis with apalis-postgres: each worker claims in batches and reports completions as they come in; done jobs stay.

use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{Contender, Database, Payload, Run, Schema, Setting};

const QUEUE: &str = "noop";

/// How long a worker waits after it found nothing.
const POLL: Duration = Duration::from_millis(10);

async fn noop(_: Payload, run: Data<Run>) -> Result<(), BoxDynError> {
    run.handled(1);
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Knobs {
    workers: usize,
    batch: usize,
    /// Whether each job runs in a task of its own.
    spawn: bool,
}

pub(crate) async fn contenders(database: &Database) -> [Contender; 1] {
    let pool = database.pool().await;
    PostgresStorage::setup(&pool)
        .await
        .expect("apalis makes its tables");
    let tried = [
        (1, 100, false),
        (4, 100, true),
        (4, 500, false),
        (4, 500, true),
        (8, 500, false),
    ];
    let settings = tried.map(|(workers, batch, spawn)| {
        let pool = pool.clone();
        let knobs = Knobs {
            workers,
            batch,
            spawn,
        };
        let parallel = if spawn { "a task per job, " } else { "" };
        Setting::new(
            format!("workers {workers}, {parallel}lock_tasks off"),
            batch,
            move |run| drain(pool.clone(), knobs, run),
        )
    });
    [Contender {
        name: "apalis-postgres",
        jobs: 10_000,
        schema: Schema {
            pool: database.harness_pool().await,
            tables: "apalis.jobs, apalis.workers",
            clear: "TRUNCATE apalis.jobs, apalis.workers",
            left: "SELECT EXISTS (SELECT FROM apalis.jobs WHERE status <> 'Done')",
        },
        enqueue: Box::new(move |jobs| Box::pin(enqueue(pool.clone(), jobs))),
        settings: settings.into(),
    }]
}

async fn enqueue(pool: PgPool, jobs: i64) {
    let tasks = (1..=jobs)
        .map(|n| {
            let payload = serde_json::to_vec(&Payload { n }).expect("a payload is JSON");
            // Its times are whole seconds, and it takes what was due before now.
            TaskBuilder::new(payload).run_at_timestamp(1).build()
        })
        .collect();
    let mut connection = pool.acquire().await.expect("a connection is free");
    apalis_postgres::queries::push_tasks(&mut *connection, QUEUE, tasks)
        .await
        .expect("tasks can be pushed");
}

async fn drain(pool: PgPool, knobs: Knobs, run: Run) -> Duration {
    let (stop, stopped) = watch::channel(false);
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for index in 0..knobs.workers {
        let config = Config::default()
            .queue(QUEUE)
            .batch_size(knobs.batch)
            // A second write per job, to say that it is no longer queued but running.
            .lock_tasks(false);
        let backend = PostgresStorage::<Payload>::new(&pool)
            .with_config(config)
            .poll_with_interval(POLL);
        let worker = WorkerBuilder::new(format!("worker-{index}"))
            .backend(backend)
            .data(run.clone());
        let mut stopped = stopped.clone();
        let until = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
            Ok::<(), WorkerError>(())
        };
        if knobs.spawn {
            let worker = worker.parallelize(tokio::spawn).build(noop);
            workers.spawn(worker.run_until(until));
        } else {
            workers.spawn(worker.build(noop).run_until(until));
        }
    }
    let time = run.completed(start).await;
    stop.send(true).expect("the workers listen");
    for ended in workers.join_all().await {
        ended.expect("the worker ends well");
    }
    time
}
