//! graphile_worker: claims one job at a time, or in batches into local queues; completes one by one, or in batches after
//! a delay; deletes what is completed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use graphile_worker::tokio_postgres::TokioPostgresDatabase;
use graphile_worker::{
    Database as Driver, IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler,
    WorkerContext, WorkerOptions, WorkerUtils,
};

use crate::harness::{CONNECTIONS, Contender, Database, Payload, Run, Schema, Setting};

pub(crate) const NAME: &str = "graphile_worker";

const SCHEMA: &str = "graphile_worker";

/// Without a local queue, each tick hands one job to each of the workers: a longer one would be all that is measured.
const POLL: Duration = Duration::from_millis(1);

impl TaskHandler for Payload {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(run) = context.get_ext::<Run>() {
            run.handled(1);
        }
        Ok::<(), String>(())
    }
}

#[derive(Debug, Clone, Copy)]
struct Knobs {
    concurrency: usize,
    /// Size and number of the local queues.
    local: Option<(usize, usize)>,
    /// How long completions are collected.
    delay: Option<Duration>,
}

impl Knobs {
    fn text(self, driver: &str) -> String {
        let Self {
            concurrency,
            local,
            delay,
        } = self;
        let local = local.map_or("no local queue".to_owned(), |(size, count)| {
            format!("local queues {count} x {size}")
        });
        let delay = delay.map_or("no batches of completions".to_owned(), |delay| {
            format!("completions every {delay:?}")
        });
        format!("concurrency {concurrency}, {local}, {delay}, {driver}")
    }
}

pub(crate) async fn contenders(database: &Database) -> [Contender; 1] {
    let pool = database.pool().await;
    let sqlx = Driver::from(pool);
    let tokio_postgres =
        TokioPostgresDatabase::from_url(&database.url(), CONNECTIONS as usize).expect("a URL");
    let tokio_postgres = Driver::from(tokio_postgres);
    let utils = WorkerUtils::new(sqlx.clone(), SCHEMA);
    utils
        .migrate()
        .await
        .expect("graphile_worker makes its tables");

    let ms = Duration::from_millis;
    let tried = [
        ("sqlx", 32, None, Some(ms(1))),
        ("sqlx", 8, Some((100, 1)), Some(ms(1))),
        ("sqlx", 8, Some((500, 1)), Some(ms(1))),
        ("sqlx", 32, Some((500, 4)), Some(ms(1))),
        ("sqlx", 32, Some((500, 4)), Some(ms(5))),
        ("tokio-postgres", 32, Some((500, 4)), Some(ms(1))),
    ];
    let settings = tried.map(|(driver, concurrency, local, delay)| {
        let knobs = Knobs {
            concurrency,
            local,
            delay,
        };
        let batch = local.map_or(1, |(size, _)| size);
        let text = knobs.text(driver);
        let driver = match driver {
            "sqlx" => sqlx.clone(),
            _ => tokio_postgres.clone(),
        };
        Setting::new(text, batch, move |run| drain(driver.clone(), knobs, run))
    });
    [Contender {
        name: NAME,
        jobs: 30_000,
        schema: Schema {
            pool: database.harness_pool().await,
            tables: "graphile_worker._private_jobs",
            clear: "TRUNCATE graphile_worker._private_jobs CASCADE",
            left: "SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)",
        },
        enqueue: Box::new(move |jobs| Box::pin(enqueue(utils.clone(), jobs))),
        settings: settings.into(),
    }]
}

async fn enqueue(utils: WorkerUtils, jobs: i64) {
    let jobs: Vec<RawJobSpec> = (1..=jobs)
        .map(|n| RawJobSpec {
            identifier: Payload::IDENTIFIER.to_owned(),
            payload: serde_json::to_value(Payload { n }).expect("a payload is JSON"),
            spec: JobSpec::default(),
        })
        .collect();
    utils.add_raw_jobs(&jobs).await.expect("jobs can be added");
}

async fn drain(driver: Driver, knobs: Knobs, run: Run) -> Duration {
    let mut options = WorkerOptions::default()
        .database(driver)
        .schema(SCHEMA)
        .concurrency(knobs.concurrency)
        .poll_interval(POLL)
        .listen_os_shutdown_signals(false)
        .add_extension(run.clone())
        .define_job::<Payload>();
    if let Some((size, count)) = knobs.local {
        let local = LocalQueueConfig::default().with_size(size);
        options = options.local_queue(local.with_queue_count(count));
    }
    if let Some(delay) = knobs.delay {
        options = options.complete_job_batch_delay(delay);
    }
    let worker = Arc::new(options.init().await.expect("the worker can be made"));
    let start = Instant::now();
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run().await }
    });
    let time = run.completed(start).await;
    worker.request_shutdown();
    running
        .await
        .expect("the worker does not panic")
        .expect("the worker ends well");
    time
}
