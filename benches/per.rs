//! What `#[rowlock(per)]` costs a worker: as a ratio to the same worker on the plain queue, in turns.
//!
//! ```text
//! cargo bench -p rowlock-benches --bench per
//! ```
//!
//! Each slice drains 10,000 jobs that do nothing. The blocked ones are 100,000 ready jobs of two customers, each of whom has one running.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rowlock::queue::{Job, QueueState};
use rowlock::{Fence, Queue};
use rowlock_tests::postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tokio::sync::Notify;

type Timestamp = sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc>;

macro_rules! queue {
    ($name:ident, $table:literal, $(#[$per:meta])?) => {
        #[derive(sqlx::FromRow, Queue)]
        #[rowlock(table = $table, backend(Postgres))]
        #[allow(dead_code)]
        struct $name {
            #[rowlock(key)]
            id: i64,
            $(#[$per])?
            customer: Option<i64>,
            #[rowlock(run_at)]
            run_at: Timestamp,
            #[rowlock(state)]
            state: QueueState,
            #[rowlock(attempts)]
            attempts: i32,
            #[rowlock(fence)]
            fence: Fence,
            #[rowlock(lease)]
            leased_until: Option<Timestamp>,
            payload: String,
        }

        impl $name {
            async fn table(pool: &PgPool) {
                let table = $table;
                run(pool, &format!("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, customer bigint,
                    run_at timestamptz NOT NULL DEFAULT now(), state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0,
                    fence bigint NOT NULL DEFAULT 0, leased_until timestamptz, payload text NOT NULL DEFAULT repeat('x', 100))")).await;
                run(pool, Self::ddl::<sqlx::Postgres>()).await;
                run(pool, Self::storage_ddl()).await;
            }

            /// For how long a worker has so many jobs, whose customers are this expression.
            async fn drain(pool: &PgPool, jobs: usize, customer: &str) -> Duration {
                let table = $table;
                run(pool, &format!("INSERT INTO {table} (customer) SELECT {customer} FROM generate_series(1, {jobs}) AS n")).await;
                run(pool, &format!("VACUUM ANALYZE {table}")).await;
                run(pool, "CHECKPOINT").await;
                let (left, done) = (Arc::new(AtomicUsize::new(jobs)), Arc::new(Notify::new()));
                let signal = done.clone();
                let worker = Self::worker(pool)
                    .concurrency(100)
                    .prefetch(400)
                    .shutdown(async move { signal.notified().await });
                let begun = Instant::now();
                let counts = worker
                    .run(move |_: Job<Self>| {
                        let (left, done) = (left.clone(), done.clone());
                        async move {
                            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                                done.notify_one();
                            }
                        }
                    })
                    .await
                    .expect("the worker runs");
                assert_eq!(counts.completed, jobs as u64);
                begun.elapsed()
            }
        }
    };
}

queue!(Plain, "plain",);
queue!(Free, "free", #[rowlock(per)]);
queue!(Crowded, "crowded", #[rowlock(per)]);

async fn run(pool: &PgPool, sql: &str) {
    for statement in sql.split_inclusive(";\n") {
        let done = pool.execute(AssertSqlSafe(statement.to_owned())).await;
        done.expect("the statement runs");
    }
}

async fn bench(rounds: usize, jobs: usize, blocked: usize) {
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect(&postgres::fresh_url().await)
        .await
        .expect("the server is there");
    Plain::table(&pool).await;
    Free::table(&pool).await;
    Crowded::table(&pool).await;
    run(
        &pool,
        &format!("INSERT INTO crowded (customer) SELECT -1 - n % 2 FROM generate_series(1, {blocked}) AS n"),
    )
    .await;
    let held = Crowded::claim(&pool, 10).lease(Duration::from_secs(3600));
    assert_eq!(held.await.expect("they can be claimed").len(), 2);
    println!(
        "| queue | rate, of the plain one's | 10-90 % of rounds | jobs/s | plain jobs/s |\n|---|---|---|---|---|"
    );
    for (name, crowded, customer) in [
        ("one job of each customer", false, "n"),
        (
            "ten jobs of each customer",
            false,
            "n % (SELECT greatest(count(*) / 10, 1) FROM generate_series(1, 10000))",
        ),
        ("no customer", false, "NULL::bigint"),
        ("one job of each customer, after those blocked", true, "n"),
        ("no customer, after those blocked", true, "NULL::bigint"),
    ] {
        let mut ratios = Vec::new();
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let mut times = [Duration::ZERO; 2];
            for first in [true, false, false, true] {
                if first == (round % 2 == 0) {
                    times[0] += Plain::drain(&pool, jobs, customer).await;
                } else if crowded {
                    times[1] += Crowded::drain(&pool, jobs, customer).await;
                } else {
                    times[1] += Free::drain(&pool, jobs, customer).await;
                }
            }
            let rate = |time: Duration| 2.0 * jobs as f64 / time.as_secs_f64();
            plain.push(rate(times[0]));
            ours.push(rate(times[1]));
            ratios.push(times[0].as_secs_f64() / times[1].as_secs_f64());
        }
        for values in [&mut ratios, &mut ours, &mut plain] {
            values.sort_by(f64::total_cmp);
        }
        let at =
            |values: &[f64], part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        println!(
            "| {name} | **{:.2}** | {:.2}-{:.2} | {:.0} | {:.0} |",
            at(&ratios, 0.5),
            at(&ratios, 0.1),
            at(&ratios, 0.9),
            at(&ours, 0.5),
            at(&plain, 0.5)
        );
    }
}

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, jobs, blocked) = if measured {
        (5, 10_000, 100_000)
    } else {
        (1, 50, 300)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime starts");
    runtime.block_on(bench(rounds, jobs, blocked));
}
