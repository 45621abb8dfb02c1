//! rowlock's `Queue` on the user's own table: `claim` and `complete_many` in the same loop as by hand, and the worker.

use std::future::ready;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rowlock::{Fence, Queue};
use rowlock::queue::{Claimed, QueueState};
use sqlx::PgPool;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::by_hand::{BATCHES, LEASE, TABLE, enqueue, schema};
use crate::harness::{Contender, Database, Run, Setting, TASKS, execute};

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key, generated)]
    id: i64,
    payload: String,
    #[rowlock(priority)]
    priority: i16,
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
    #[rowlock(last_error)]
    last_error: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Knobs {
    concurrency: usize,
    prefetch: usize,
}

/// One contender per batch size, and the worker, all on one table.
pub(crate) async fn contenders(database: &Database) -> Vec<Contender> {
    let pool = database.pool().await;
    execute(&pool, TABLE).await;
    execute(&pool, Job::ddl::<sqlx::Postgres>()).await;
    let schema = schema(database.harness_pool().await);
    let contender = |name, jobs, settings| {
        let pool = pool.clone();
        Contender {
            name,
            jobs,
            schema: schema.clone(),
            enqueue: Box::new(move |jobs| Box::pin(enqueue(pool.clone(), jobs))),
            settings,
        }
    };
    let mut contenders = Vec::from(BATCHES.map(|(batch, jobs)| {
        let pool = pool.clone();
        let setting = Setting::new(format!("{TASKS} tasks"), batch, move |run| {
            drain(pool.clone(), batch, run)
        });
        contender("rowlock, `claim`", jobs, vec![setting])
    }));
    // It claims from a half of what it may hold to all of that.
    let tried = [
        (8, 100, 100),
        (8, 500, 500),
        (32, 500, 500),
        (8, 1_000, 500),
    ];
    let settings = tried.map(|(concurrency, prefetch, batch)| {
        let pool = pool.clone();
        let knobs = Knobs {
            concurrency,
            prefetch,
        };
        let text = format!("concurrency {concurrency}, prefetch {prefetch}");
        Setting::new(text, batch, move |run| work_off(pool.clone(), knobs, run))
    });
    contenders.push(contender("rowlock, worker", 60_000, settings.into()));
    contenders
}

async fn drain(pool: PgPool, batch: usize, run: Run) -> Duration {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        tasks.spawn(work(pool.clone(), batch, run.clone()));
    }
    let time = run.completed(start).await;
    tasks.join_all().await;
    time
}

async fn work(pool: PgPool, batch: usize, run: Run) {
    loop {
        let claimed = Job::claim(&pool, batch).lease(LEASE).await;
        let claimed = claimed.expect("jobs can be claimed");
        if claimed.is_empty() {
            return;
        }
        let jobs = claimed.len();
        let lost = Claimed::complete_many(&pool, claimed).await;
        assert!(lost.expect("jobs can be completed").is_empty());
        run.handled(jobs);
    }
}

async fn work_off(pool: PgPool, knobs: Knobs, run: Run) -> Duration {
    let (stop, stopped) = oneshot::channel::<()>();
    let handled = run.clone();
    let start = Instant::now();
    let running = tokio::spawn(async move {
        Job::worker(&pool)
            .concurrency(knobs.concurrency)
            .prefetch(knobs.prefetch)
            .shutdown(async {
                let _ = stopped.await;
            })
            .run(move |_| {
                handled.handled(1);
                ready(())
            })
            .await
    });
    let time = run.completed(start).await;
    stop.send(()).expect("the worker runs");
    running
        .await
        .expect("the worker does not panic")
        .expect("the worker ends well");
    time
}
