//! What `rowlock::transaction` costs against BEGIN and COMMIT by hand, and the throughput of three ways to reserve inventory.
//!
//! ```text
//! cargo bench -p rowlock-benches --bench transactions
//! ```
//!
//! The overhead is paired and interleaved as in `overhead.rs`. The three ways run for a second each, in turn, three times
//! over, with eight tasks on eight connections, on one SKU and spread over 1,000; the table has the medians.

mod pair;

use std::time::{Duration, Instant};

use self::pair::Bench;

const TASKS: usize = 8;

const DDL: &str = "CREATE TABLE stock (id bigint PRIMARY KEY, units bigint NOT NULL);
    CREATE TABLE sales (sku bigint NOT NULL, buyer bigint NOT NULL)";

macro_rules! database {
    ($backend:ident) => {
        mod $backend {
            use std::sync::Arc;
            use std::sync::atomic::{AtomicU64, Ordering};

            use rowlock::{Counter, Lockable, transaction};
            use rowlock_tests::$backend::*;

            use super::{Bench, DDL, Duration, Instant, TASKS};

            #[derive(Debug, Clone, sqlx::FromRow, Lockable)]
            #[rowlock(table = "stock")]
            struct Sku {
                #[rowlock(key)]
                id: i64,
                units: i64,
            }

            #[derive(Debug, sqlx::FromRow, Counter)]
            #[rowlock(table = "stock", existing_rows)]
            #[allow(dead_code)]
            struct Stock {
                #[rowlock(key)]
                id: i64,
                #[rowlock(counter(min = 0))]
                units: i64,
            }

            #[derive(Debug, thiserror::Error)]
            enum Refused {
                #[error(transparent)]
                Sqlx(#[from] sqlx::Error),
                #[error(transparent)]
                Lock(#[from] rowlock::row::LockError),
                #[error(transparent)]
                Counter(#[from] rowlock::row::CounterError),
            }

            const SELL: &str = "INSERT INTO sales VALUES ($1, $2)";
            const TAKE: &str = "UPDATE stock SET units = units - 1 WHERE id = $1";

            async fn stocked(skus: i64) -> (Database, Pool) {
                let database = database(DDL).await;
                let pool = PoolOptions::new().max_connections(TASKS as u32);
                let pool = database.pool_with(pool).await;
                for id in 0..skus {
                    sqlx::query("INSERT INTO stock VALUES ($1, 1000000000)")
                        .bind(id)
                        .execute(&pool)
                        .await
                        .unwrap();
                }
                (database, pool)
            }

            /// Two statements in a transaction.
            pub(super) async fn overhead(bench: &mut Bench) {
                let (_database, mut pool) = stocked(1).await;
                bench.group(&format!("{NAME}, pool"));
                bench
                    .pair(
                        "transaction of two statements",
                        &mut pool,
                        async |_| {},
                        async |pool: &mut Pool| {
                            transaction(pool)
                                .run(async |tx| {
                                    sqlx::query(SELL)
                                        .bind(0i64)
                                        .bind(0i64)
                                        .execute(&mut *tx)
                                        .await?;
                                    sqlx::query(TAKE).bind(0i64).execute(&mut *tx).await
                                })
                                .await
                                .unwrap();
                        },
                        async |pool: &mut Pool| {
                            let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
                            sqlx::query(SELL)
                                .bind(0i64)
                                .bind(0i64)
                                .execute(&mut *tx)
                                .await
                                .unwrap();
                            sqlx::query(TAKE)
                                .bind(0i64)
                                .execute(&mut *tx)
                                .await
                                .unwrap();
                            tx.commit().await.unwrap();
                        },
                    )
                    .await;
            }

            #[derive(Clone, Copy)]
            enum Way {
                RowLock,
                Guarded,
                Serializable,
            }

            async fn sell(pool: &Pool, way: Way, sku: i64, retries: &Arc<AtomicU64>) {
                let retries = retries.clone();
                let tx = transaction(pool).attempts(1_000).on_retry(move |_| {
                    retries.fetch_add(1, Ordering::Relaxed);
                });
                let sold = match way {
                    Way::RowLock => {
                        tx.run(async |tx| {
                            let mut row = Sku::lock(&mut *tx, sku).await?;
                            row.units -= 1;
                            sqlx::query(SELL)
                                .bind(sku)
                                .bind(0i64)
                                .execute(&mut *tx)
                                .await?;
                            Ok::<_, Refused>(row.save(&mut *tx).await?)
                        })
                        .await
                    }
                    Way::Guarded => {
                        tx.run(async |tx| {
                            sqlx::query(SELL)
                                .bind(sku)
                                .bind(0i64)
                                .execute(&mut *tx)
                                .await?;
                            Stock::add_units(&mut *tx, sku, -1).await?;
                            Ok::<_, Refused>(())
                        })
                        .await
                    }
                    Way::Serializable => {
                        tx.serializable()
                            .run(async |tx| {
                                let units: i64 =
                                    sqlx::query_scalar("SELECT units FROM stock WHERE id = $1")
                                        .bind(sku)
                                        .fetch_one(&mut *tx)
                                        .await?;
                                sqlx::query(SELL)
                                    .bind(sku)
                                    .bind(0i64)
                                    .execute(&mut *tx)
                                    .await?;
                                sqlx::query("UPDATE stock SET units = $1 WHERE id = $2")
                                    .bind(units - 1)
                                    .bind(sku)
                                    .execute(&mut *tx)
                                    .await?;
                                Ok::<_, Refused>(())
                            })
                            .await
                    }
                };
                sold.unwrap();
            }

            /// Sales per second and retries per sale.
            async fn rate(pool: &Pool, way: Way, skus: i64, time: Duration) -> (f64, f64) {
                let retries = Arc::new(AtomicU64::new(0));
                let start = Instant::now();
                let mut tasks = tokio::task::JoinSet::new();
                for task in 0..TASKS as i64 {
                    let (pool, retries) = (pool.clone(), retries.clone());
                    tasks.spawn(async move {
                        let mut sales = 0i64;
                        while start.elapsed() < time {
                            // A stride that is prime to the number of SKUs.
                            sell(&pool, way, (sales * 7 + task * 131) % skus, &retries).await;
                            sales += 1;
                        }
                        sales
                    });
                }
                let sales = tasks.join_all().await.into_iter().sum::<i64>() as f64;
                let retries = retries.load(Ordering::Relaxed) as f64;
                (
                    sales / start.elapsed().as_secs_f64(),
                    retries / sales.max(1.0),
                )
            }

            pub(super) async fn reserve(time: Duration) {
                println!("\n### {NAME}: reserving, {TASKS} tasks\n");
                println!("| way | SKUs | sales/s | to the row lock | retries per sale |");
                println!("|---|---|---|---|---|");
                for skus in [1, 1_000] {
                    let (_database, pool) = stocked(skus).await;
                    let ways = [
                        ("row lock", Way::RowLock),
                        ("insert, then guarded update", Way::Guarded),
                        ("serializable, retried", Way::Serializable),
                    ];
                    let mut rounds = [const { Vec::new() }; 3];
                    for _ in 0..3 {
                        for (rates, (_, way)) in rounds.iter_mut().zip(ways) {
                            rates.push(rate(&pool, way, skus, time).await);
                        }
                    }
                    let medians = rounds.map(|mut rates| {
                        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
                        rates[1]
                    });
                    for ((name, _), (sales, retries)) in ways.iter().zip(medians) {
                        let ratio = sales / medians[0].0;
                        println!("| {name} | {skus} | {sales:.0} | {ratio:.2} | {retries:.2} |");
                    }
                }
            }
        }
    };
}

database!(postgres);
database!(sqlite);

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let time = Duration::from_millis(if measured { 1_000 } else { 10 });
    let mut bench = Bench::from_arguments();
    let one = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    one.block_on(async {
        postgres::overhead(&mut bench).await;
        sqlite::overhead(&mut bench).await;
    });
    let many = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    many.block_on(async {
        postgres::reserve(time).await;
        sqlite::reserve(time).await;
    });
}
