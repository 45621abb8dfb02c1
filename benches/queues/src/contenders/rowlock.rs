//! rowlock's `Queue` on the user's own table: `claim` and `complete_many` in the same loop as by hand, the worker, and the worker on queues
//! that have more to them.

use std::future::{Future, ready};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rowlock::queue::{Claimed, QueueState, WorkerCounts, WorkerError};
use rowlock::{Fence, Queue};
use sqlx::{PgPool, Postgres};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::by_hand::{BATCHES, LEASE, TABLE, enqueue, schema};
use crate::harness::{Boxed, Contender, Database, Run, Schema, Setting, TASKS, execute};

pub(crate) const CLAIM: &str = "rowlock, `claim`";
/// The names of the other workers begin with it.
pub(crate) const WORKER: &str = "rowlock, worker";
/// What becomes of a completed job with crates that delete it too.
pub(crate) const DELETED: &str = "rowlock, worker, done = delete";

/// A queue, and how a worker is started for it.
macro_rules! queue {
    ($name:ident, $table:literal, ($($option:tt)*), $(#[$state:meta])* $states:ty, {$($(#[$role:meta])* $column:ident: $type:ty,)*}) => {
        #[derive(Debug, sqlx::FromRow, Queue)]
        #[rowlock(table = $table, backend(Postgres), $($option)*)]
        struct $name {
            #[rowlock(key, generated)]
            id: i64,
            payload: String,
            #[rowlock(priority)]
            priority: i16,
            #[rowlock(run_at)]
            run_at: DateTime<Utc>,
            $(#[$state])*
            state: $states,
            #[rowlock(attempts)]
            attempts: i32,
            #[rowlock(fence)]
            fence: Fence,
            #[rowlock(lease)]
            leased_until: Option<DateTime<Utc>>,
            #[rowlock(last_error)]
            last_error: Option<String>,
            $($(#[$role])* $column: $type,)*
        }

        impl $name {
            fn work_off(pool: PgPool, knobs: Knobs, run: Run) -> Boxed<Duration> {
                let (stop, stopped) = oneshot::channel();
                let handled = run.clone();
                let worker = Self::worker(&pool)
                    .concurrency(knobs.concurrency)
                    .prefetch(knobs.prefetch)
                    .shutdown(async {
                        let _ = stopped.await;
                    })
                    .run(move |_| {
                        handled.handled(1);
                        ready(())
                    });
                Box::pin(time(worker, stop, run))
            }
        }
    };
}

queue!(Plain, "jobs", (), #[rowlock(state)] QueueState, {});
queue!(Deleted, "deleted", (done = delete), #[rowlock(state)] QueueState, {});
queue!(Per, "per_customer", (), #[rowlock(state)] QueueState, {
    #[rowlock(per)]
    customer: i64,
});
queue!(Unique, "of_its_own", (unique(customer, while(ready, running))), #[rowlock(state)] QueueState, {
    customer: i64,
});

#[derive(Debug, Clone, Copy, sqlx::Type)]
#[sqlx(type_name = "progress", rename_all = "lowercase")]
enum Progress {
    Queued,
    Working,
    Sent,
    Failed,
}

queue!(
    Enum,
    "of_an_enum",
    (),
    #[rowlock(state(ready = "queued", running = "working", done = "sent", dead = "failed"))]
    Progress,
    {}
);

#[derive(Debug, Clone, Copy)]
struct Knobs {
    concurrency: usize,
    prefetch: usize,
}

impl Knobs {
    const ALL: [Self; 6] = [
        Self::new(100, 1_000),
        Self::new(1_000, 1_000),
        Self::new(500, 0),
        Self::new(1_000, 0),
        Self::new(2_000, 0),
        Self::new(2_000, 2_000),
    ];

    const fn new(concurrency: usize, prefetch: usize) -> Self {
        Self {
            concurrency,
            prefetch,
        }
    }
}

type WorkOff = fn(PgPool, Knobs, Run) -> Boxed<Duration>;

fn worker(
    name: &'static str,
    pool: &PgPool,
    schema: Schema,
    enqueue: Box<dyn Fn(i64) -> Boxed<()>>,
    work_off: WorkOff,
) -> Contender {
    let settings = Knobs::ALL.map(|knobs| {
        let pool = pool.clone();
        let Knobs {
            concurrency,
            prefetch,
        } = knobs;
        let text = format!("concurrency {concurrency}, prefetch {prefetch}");
        Setting::new(text, concurrency.max(prefetch), move |run| work_off(pool.clone(), knobs, run))
    });
    Contender {
        name,
        jobs: 40_000,
        schema,
        enqueue,
        settings: settings.into(),
    }
}

/// One contender per batch size, and the worker, all on one table; and workers on tables of their own.
pub(crate) async fn contenders(database: &Database) -> Vec<Contender> {
    let pool = database.pool().await;
    execute(&pool, TABLE).await;
    execute(&pool, Plain::ddl::<Postgres>()).await;
    execute(&pool, Plain::storage_ddl()).await;
    let harness = database.harness_pool().await;
    let schema = schema(harness.clone());
    let fill = || -> Box<dyn Fn(i64) -> Boxed<()>> {
        let pool = pool.clone();
        Box::new(move |jobs| Box::pin(enqueue(pool.clone(), jobs)))
    };
    let mut contenders = Vec::from(BATCHES.map(|(batch, jobs)| {
        let pool = pool.clone();
        let setting = Setting::new(format!("{TASKS} tasks, {batch} at a time"), batch, move |run| {
            drain(pool.clone(), batch, run)
        });
        Contender {
            name: CLAIM,
            jobs,
            schema: schema.clone(),
            enqueue: fill(),
            settings: vec![setting],
        }
    }));
    contenders.push(worker(WORKER, &pool, schema, fill(), Plain::work_off));

    macro_rules! others {
        ($($queue:ident, $name:expr, $table:literal, $change:literal, ($columns:literal, $values:literal), $left:literal;)+) => {$(
            execute(&pool, concat!("CREATE TABLE ", $table, " (LIKE jobs INCLUDING ALL EXCLUDING INDEXES, PRIMARY KEY (id))")).await;
            execute(&pool, $change).await;
            execute(&pool, $queue::ddl::<Postgres>()).await;
            execute(&pool, $queue::storage_ddl()).await;
            let schema = Schema {
                pool: harness.clone(),
                tables: $table,
                clear: concat!("TRUNCATE ", $table, " RESTART IDENTITY"),
                left: concat!("SELECT EXISTS (SELECT FROM ", $table, " WHERE ", $left, ")"),
            };
            let fill = {
                let pool = pool.clone();
                Box::new(move |jobs| -> Boxed<()> {
                    let pool = pool.clone();
                    let sql = concat!(
                        "INSERT INTO ", $table, " (payload", $columns, ") SELECT format('{\"n\":%s}', n)", $values,
                        " FROM generate_series(1, $1) AS n"
                    );
                    Box::pin(async move {
                        let filled = sqlx::query(sql).bind(jobs).execute(&pool);
                        filled.await.expect("jobs can be inserted");
                    })
                })
            };
            contenders.push(worker($name, &pool, schema, fill, $queue::work_off));
        )+};
    }
    others! {
        Deleted, DELETED, "deleted", "", ("", ""), "true";
        Enum, "rowlock, worker, states of an enum", "of_an_enum",
            "CREATE TYPE progress AS ENUM ('queued', 'working', 'sent', 'failed');
             ALTER TABLE of_an_enum ALTER state DROP DEFAULT, ALTER state TYPE progress USING state::progress,
                 ALTER state SET DEFAULT 'queued'", ("", ""), "state <> 'sent'";
        Unique, "rowlock, worker, unique jobs", "of_its_own", "ALTER TABLE of_its_own ADD customer bigint NOT NULL",
            (", customer", ", n"), "state <> 'done'";
        Per, "rowlock, worker, per customer (4,000)", "per_customer", "ALTER TABLE per_customer ADD customer bigint NOT NULL",
            (", customer", ", n % 4000"), "state <> 'done'";
    }
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
        let claimed = Plain::claim(&pool, batch).lease(LEASE).await;
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

/// How long a worker takes.
async fn time<W>(worker: W, stop: oneshot::Sender<()>, run: Run) -> Duration
where
    W: Future<Output = Result<WorkerCounts, WorkerError>> + Send + 'static,
{
    let start = Instant::now();
    let running = tokio::spawn(worker);
    let time = run.completed(start).await;
    stop.send(()).expect("the worker runs");
    running
        .await
        .expect("the worker does not panic")
        .expect("the worker ends well");
    time
}
