//! `Lanes` against a pool of sqlx: calls per second and how long they take, over the number of callers.
//!
//! ```text
//! cargo bench -p rowlock-benches --bench lanes                      everything, about four minutes
//! cargo bench -p rowlock-benches --bench lanes -- 'hot counter' 64  only what has these words
//! cargo bench -p rowlock-benches --bench lanes -- --quick           a third of it
//! ```
//!
//! The pool has eight connections and runs the statement that one writes by hand; each call takes a connection of it, as `fetch_one(&pool)` does.
//! `Lanes` has four of a pool of its own. Callers are tasks that call again when they have their answer. Both run in turns, and a ratio is that of
//! one round.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rowlock::{Counter, FindOrCreate, Lanes, Versioned};
use rowlock_tests::postgres::database;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres};
use tokio::task::JoinSet;

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views", backend(Postgres))]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents", backend(Postgres))]
struct Document {
    #[rowlock(key)]
    id: i64,
    author_id: i64,
    reviewer_id: Option<i64>,
    title: String,
    body: String,
    language: String,
    published: bool,
    words: i32,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", backend(Postgres))]
struct Tag {
    #[rowlock(generated)]
    id: i64,
    #[rowlock(unique)]
    name: String,
}

const TABLES: &str = "CREATE TABLE page_views (page bigint PRIMARY KEY, views bigint NOT NULL) WITH (fillfactor = 50);
    INSERT INTO page_views SELECT n, 0 FROM generate_series(1, 10000) AS n;
    CREATE TABLE documents (id bigint PRIMARY KEY, author_id bigint NOT NULL, reviewer_id bigint, title text NOT NULL, body text NOT NULL,
        language text NOT NULL, published boolean NOT NULL, words int NOT NULL, lock_version bigint NOT NULL) WITH (fillfactor = 50);
    INSERT INTO documents SELECT n, 7, NULL, 'How the river came to the town', repeat('It had always been there. ', 20), 'en', true, 100, 0
        FROM generate_series(1, 10000) AS n;
    CREATE TABLE tags (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
    INSERT INTO tags (name) SELECT 'tag ' || n FROM generate_series(1, 10000) AS n;
    ANALYZE";

const ADD: &str = "INSERT INTO page_views (page, views) VALUES ($1, $2)
    ON CONFLICT (page) DO UPDATE SET views = page_views.views + excluded.views RETURNING views";
const LOAD: &str = "SELECT id, author_id, reviewer_id, title, body, language, published, words, lock_version FROM documents WHERE id = $1";
const UPDATE: &str = "UPDATE documents SET author_id = $1, reviewer_id = $2, title = $3, body = $4, language = $5, published = $6, words = $7,
    lock_version = lock_version + 1 WHERE id = $8 AND lock_version = $9 RETURNING lock_version";
const FIND: &str = "SELECT id, name FROM tags WHERE name = $1";

/// Numbers that look random, without a lock.
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn below(&mut self, most: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        i64::try_from(self.0 >> 33).unwrap() % most
    }
}

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What one caller does again and again. It gets its number, of so many.
#[derive(Clone, Copy)]
enum Operation {
    Hot,
    Uniform,
    Load,
    Update,
    Find,
}

impl Operation {
    const ALL: [Self; 5] = [
        Self::Hot,
        Self::Uniform,
        Self::Load,
        Self::Update,
        Self::Find,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot counter",
            Self::Uniform => "counters",
            Self::Load => "load",
            Self::Update => "update of 8 columns",
            Self::Find => "find or create, found",
        }
    }

    fn by_hand(self, pool: PgPool, caller: i64, callers: i64, run: Arc<Run>) -> Call {
        Box::pin(async move {
            let mut random = Random(u64::try_from(caller + 1).unwrap() * 0x9E37_79B9_7F4A_7C15);
            match self {
                Self::Hot | Self::Uniform => {
                    while let Some(call) = run.begin() {
                        let page = if matches!(self, Self::Hot) {
                            1
                        } else {
                            1 + random.below(10_000)
                        };
                        let total = sqlx::query_scalar(ADD).bind(page).bind(1_i64);
                        let _: i64 = total.fetch_one(&pool).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Load => {
                    while let Some(call) = run.begin() {
                        let query = sqlx::query_as(LOAD).bind(1 + random.below(10_000));
                        let _: Document = query.fetch_one(&pool).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Update => {
                    let mut mine = Vec::new();
                    for id in (1..=10_000).filter(|id| id % callers == caller).take(30) {
                        let query = sqlx::query_as(LOAD).bind(id);
                        let document: Document = query.fetch_one(&pool).await.unwrap();
                        mine.push(document);
                    }
                    run.is_ready().await;
                    while let Some(call) = run.begin() {
                        let index = usize::try_from(random.below(30)).unwrap();
                        let document = &mut mine[index];
                        let query = sqlx::query_scalar(UPDATE)
                            .bind(document.author_id)
                            .bind(document.reviewer_id)
                            .bind(&document.title)
                            .bind(&document.body)
                            .bind(&document.language)
                            .bind(document.published)
                            .bind(document.words)
                            .bind(document.id)
                            .bind(document.lock_version);
                        document.lock_version = query.fetch_one(&pool).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Find => {
                    while let Some(call) = run.begin() {
                        let name = format!("tag {}", 1 + random.below(10_000));
                        let query = sqlx::query_as(FIND).bind(name);
                        let _: Tag = query.fetch_one(&pool).await.unwrap();
                        run.end(call);
                    }
                }
            }
        })
    }

    fn on_lanes(self, lanes: Lanes<Postgres>, caller: i64, callers: i64, run: Arc<Run>) -> Call {
        Box::pin(async move {
            let mut random = Random(u64::try_from(caller + 1).unwrap() * 0x9E37_79B9_7F4A_7C15);
            match self {
                Self::Hot | Self::Uniform => {
                    while let Some(call) = run.begin() {
                        let page = if matches!(self, Self::Hot) {
                            1
                        } else {
                            1 + random.below(10_000)
                        };
                        PageViews::add_views(&lanes, page, 1).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Load => {
                    while let Some(call) = run.begin() {
                        Document::load(&lanes, 1 + random.below(10_000))
                            .await
                            .unwrap();
                        run.end(call);
                    }
                }
                Self::Update => {
                    let ids = (1..=10_000).filter(|id| id % callers == caller).take(30);
                    let mine = Document::load_many(&lanes, ids).await.into_iter();
                    let mut mine: Vec<_> = mine.collect::<Result<_, _>>().unwrap();
                    run.is_ready().await;
                    while let Some(call) = run.begin() {
                        let index = usize::try_from(random.below(30)).unwrap();
                        mine[index] = mine[index].update(&lanes).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Find => {
                    while let Some(call) = run.begin() {
                        let name = format!("tag {}", 1 + random.below(10_000));
                        Tag::find_or_create(&lanes, NewTag { name }).await.unwrap();
                        run.end(call);
                    }
                }
            }
        })
    }
}

/// Counts the calls of a slice of time.
struct Run {
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

    async fn is_ready(&self) {
        self.gate.wait().await;
    }

    fn begin(&self) -> Option<Instant> {
        let begun = *self.begun.get_or_init(Instant::now);
        (begun.elapsed() < self.time).then(Instant::now)
    }

    fn end(&self, call: Instant) {
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
    spawn: impl Fn(i64, Arc<Run>) -> Call,
) -> (f64, f64, f64) {
    let run = Run::new(callers, time);
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        tasks.spawn(spawn(caller, Arc::clone(&run)));
    }
    tasks.join_all().await;
    (run.per_second(), run.at(0.5), run.at(0.99))
}

fn eight() -> PgPoolOptions {
    PgPoolOptions::new().min_connections(8).max_connections(8)
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let database = database(TABLES).await;
        let pool = database.pool_with(eight()).await;
        let own = database.pool_with(eight()).await;
        let lanes = Lanes::new(&own, 4).await.unwrap();
        println!("| operation | callers | lanes / pool | rounds | pool calls/s | p50, p99 us | lanes calls/s | p50, p99 us |");
        println!("|---|---|---|---|---|---|---|---|");
        for operation in Operation::ALL {
            for callers in [1, 8, 64, 256] {
                let title = format!("{}, {callers}", operation.name());
                if !words.iter().all(|word| title.contains(word.as_str())) {
                    continue;
                }
                let time = Duration::from_millis(time);
                let mut of = [const { Vec::new() }; 7];
                for round in 0..=rounds {
                    let hand = slice(callers, time, |caller, run| operation.by_hand(pool.clone(), caller, callers, run)).await;
                    let mine = slice(callers, time, |caller, run| operation.on_lanes(lanes.clone(), caller, callers, run)).await;
                    // The first prepares the statements.
                    if round > 0 || rounds == 1 {
                        let values = [mine.0 / hand.0, hand.0, hand.1, hand.2, mine.0, mine.1, mine.2];
                        for (all, value) in of.iter_mut().zip(values) {
                            all.push(value);
                        }
                    }
                }
                let (least, most) = of[0].iter().fold((f64::MAX, 0.0_f64), |(least, most), ratio| (least.min(*ratio), most.max(*ratio)));
                let [ratio, calls, half, most_of, mine, mine_half, mine_most] = of.each_mut().map(|values| median(values));
                println!(
                    "| {} | {callers} | **{ratio:.1}** | {least:.1}-{most:.1} | {calls:.0} | {half:.0}, {most_of:.0} | {mine:.0} | {mine_half:.0}, {mine_most:.0} |",
                    operation.name()
                );
            }
        }
        lanes.close().await;
    });
}
