//! `Lanes` against a pool of sqlx: calls per second and how long they take, over the number of callers.
//!
//! ```text
//! cargo bench -p rowlock-benches --bench lanes                      everything, about eight minutes
//! cargo bench -p rowlock-benches --bench lanes -- SQLite 'hot counter' 64  only what has these words
//! cargo bench -p rowlock-benches --bench lanes -- --quick           a third of it
//! ```
//!
//! The pool has eight connections and runs the statement that one writes by hand; each call takes a connection of it, as `fetch_one(&pool)` does.
//! `Lanes` has four of a pool of its own; on SQLite one, and there is also a pool of one connection. Callers are tasks that call again when they have their answer. Both run in turns, and a ratio is that of
//! one round.

#![allow(clippy::duplicate_mod)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// Counts the calls of a slice of time.
pub(crate) struct Run {
    /// Until it is known, nobody has begun.
    gate: tokio::sync::Barrier,
    begun: std::sync::OnceLock<Instant>,
    time: Duration,
    calls: AtomicU64,
    /// How many took how many microseconds.
    histogram: Vec<AtomicU64>,
}

/// Powers of 1.05 microseconds.
const BUCKETS: usize = 400;

impl Run {
    fn new(callers: i64, time: Duration) -> Arc<Self> {
        Arc::new(Self {
            gate: tokio::sync::Barrier::new(usize::try_from(callers).unwrap()),
            begun: std::sync::OnceLock::new(),
            time,
            calls: AtomicU64::new(0),
            histogram: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    pub(crate) async fn is_ready(&self) {
        self.gate.wait().await;
    }

    pub(crate) fn begin(&self) -> Option<Instant> {
        let begun = *self.begun.get_or_init(Instant::now);
        (begun.elapsed() < self.time).then(Instant::now)
    }

    pub(crate) fn end(&self, call: Instant) {
        let micros = call.elapsed().as_secs_f64() * 1e6;
        let bucket = (micros.max(1.0).ln() / 1.05_f64.ln()) as usize;
        self.histogram[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn per_second(&self) -> f64 {
        let begun = self.begun.get().map_or(Duration::ZERO, Instant::elapsed);
        self.calls.load(Ordering::Relaxed) as f64 / begun.as_secs_f64()
    }

    /// In microseconds.
    fn at(&self, fraction: f64) -> f64 {
        let count = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed);
        let all: u64 = self.histogram.iter().map(count).sum();
        let mut seen = 0;
        for (bucket, power) in self.histogram.iter().zip(0..) {
            seen += count(bucket);
            if seen as f64 >= all as f64 * fraction {
                return 1.05_f64.powi(power);
            }
        }
        f64::INFINITY
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn slice(
    callers: i64,
    time: Duration,
    spawn: impl Fn(i64, Arc<Run>) -> Pin<Box<dyn Future<Output = ()> + Send>>,
) -> (f64, f64, f64) {
    let run = Run::new(callers, time);
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        tasks.spawn(spawn(caller, Arc::clone(&run)));
    }
    tasks.join_all().await;
    (run.per_second(), run.at(0.5), run.at(0.99))
}

/// The median of the rounds, and their least and highest.
fn ratio(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("**{:.1}** {least:.1}-{most:.1}", values[values.len() / 2])
}

/// What is asked for on the command line.
struct Wanted {
    words: Vec<String>,
    rounds: u32,
    time: Duration,
}

impl Wanted {
    fn wants(&self, title: &str) -> bool {
        self.words.iter().all(|word| title.contains(word.as_str()))
    }
}

macro_rules! on {
    ($backend:ident) => {
        #[path = "."]
        mod $backend {
            use rowlock::Lanes;
            pub(crate) use rowlock_tests::$backend::{Db, Pool, PoolOptions};
            use rowlock_tests::$backend::NAME;

            use crate::{Arc, Wanted, median, ratio, slice};

            #[path = "lanes/calls.rs"]
            pub(crate) mod calls;

            /// Each of the pools by hand against lanes of a pool of their own.
            pub(crate) async fn compare(wanted: &Wanted, pools: &[(&str, Pool)], own: &Pool, count: usize) {
                let lanes = Lanes::new(own, count).await.unwrap();
                let heads: String = pools.iter().map(|(name, _)| format!(" lanes / {name} |")).collect();
                println!("\n### {NAME}\n\n| operation | callers |{heads} {} calls/s | p50, p99 us | lanes calls/s | p50, p99 us |", pools[0].0);
                println!("|---|---|{}---|---|---|---|", "---|".repeat(pools.len()));
                for operation in calls::Operation::ALL {
                    for callers in [1, 8, 64, 256] {
                        if !wanted.wants(&format!("{NAME}, {}, {callers}", operation.name())) {
                            continue;
                        }
                        let mut ratios = vec![Vec::new(); pools.len()];
                        let mut of = [const { Vec::new() }; 6];
                        for round in 0..=wanted.rounds {
                            let mut hands = Vec::new();
                            for (_, pool) in pools {
                                hands.push(slice(callers, wanted.time, |caller, run| operation.by_hand(pool.clone(), caller, callers, Arc::clone(&run))).await);
                            }
                            let mine = slice(callers, wanted.time, |caller, run| operation.on_lanes(lanes.clone(), caller, callers, run)).await;
                            // The first prepares the statements.
                            if round == 0 && wanted.rounds > 1 {
                                continue;
                            }
                            for (ratios, hand) in ratios.iter_mut().zip(&hands) {
                                ratios.push(mine.0 / hand.0);
                            }
                            let hand = hands[0];
                            for (all, value) in of.iter_mut().zip([hand.0, hand.1, hand.2, mine.0, mine.1, mine.2]) {
                                all.push(value);
                            }
                        }
                        let ratios: String = ratios.iter_mut().map(|ratios| format!(" {} |", ratio(ratios))).collect();
                        let [calls, half, most_of, mine, mine_half, mine_most] = of.each_mut().map(|values| median(values));
                        println!(
                            "| {} | {callers} |{ratios} {calls:.0} | {half:.0}, {most_of:.0} | {mine:.0} | {mine_half:.0}, {mine_most:.0} |",
                            operation.name()
                        );
                    }
                }
                lanes.close().await;
            }

            pub(crate) fn of(connections: u32) -> PoolOptions {
                PoolOptions::new().min_connections(connections).max_connections(connections)
            }
        }
    };
}
on!(postgres);
on!(sqlite);

async fn on_postgres(wanted: &Wanted) {
    let tables =
        postgres::calls::TABLES.replace("{body}", "repeat('It had always been there. ', 20)");
    let database = rowlock_tests::postgres::database(&tables).await;
    let settle = "ALTER TABLE page_views SET (fillfactor = 50); ALTER TABLE documents SET (fillfactor = 50); VACUUM FULL page_views; VACUUM FULL documents; ANALYZE";
    for statement in settle.split("; ") {
        sqlx::raw_sql(statement)
            .execute(&database.pool)
            .await
            .unwrap();
    }
    let pool = database.pool_with(postgres::of(8)).await;
    let own = database.pool_with(postgres::of(8)).await;
    postgres::compare(wanted, &[("pool", pool)], &own, 4).await;
}

/// With a write-ahead log that is written to disk at checkpoints, as most who use SQLite on a server have it.
async fn on_sqlite(wanted: &Wanted) {
    let body = format!("'{}'", "It had always been there. ".repeat(20));
    let tables = sqlite::calls::TABLES.replace("{body}", &body);
    let database = rowlock_tests::sqlite::database(&tables).await;
    let open = |connections| {
        let options = database
            .options()
            .synchronous(sqlx::sqlite::SqliteSynchronous::Normal);
        sqlite::of(connections).connect_with(options)
    };
    let pools = [
        ("pool", open(8).await.unwrap()),
        ("one connection", open(1).await.unwrap()),
    ];
    sqlite::compare(wanted, &pools, &open(8).await.unwrap(), 1).await;
}

fn main() {
    let (flags, words): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|word| word.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|other| other == flag);
    // `cargo test --all-targets` passes no `--bench`.
    let (rounds, time) = match (has("--bench"), has("--quick")) {
        (false, _) => (1, 20),
        (true, true) => (3, 300),
        (true, false) => (7, 500),
    };
    let time = Duration::from_millis(time);
    let wanted = Wanted {
        words,
        rounds,
        time,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let is_other = |name: &str| wanted.words.iter().any(|word| word == name);
        if !is_other(rowlock_tests::sqlite::NAME) {
            on_postgres(&wanted).await;
        }
        if !is_other(rowlock_tests::postgres::NAME) {
            on_sqlite(&wanted).await;
        }
    });
}
