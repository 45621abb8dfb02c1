//! What a contender is, and how a slice of its calls is measured.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// How many rows each table has.
pub(crate) const ROWS: i64 = 10_000;

/// How many documents each caller writes. Nobody else writes them, so that no update is stale.
const DOCUMENTS: usize = 30;

/// `words` of a document that nobody has written.
const WORDS: i64 = 100;

/// How many connections each contender has.
pub(crate) const CONNECTIONS: u32 = 8;

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The five operations, with a library. Each call is acknowledged when it returns.
pub(crate) trait Peer: Clone + Send + Sync + 'static {
    /// All columns of a document.
    type Document: Send;

    /// Adds 1 to the views of a page, which need not be there, and returns how many they are.
    fn add(&self, page: i64) -> impl Future<Output = i64> + Send;

    fn load(&self, id: i64) -> impl Future<Output = Self::Document> + Send;

    fn id(document: &Self::Document) -> i64;

    /// Counts its words up by one, and writes all columns if its version is still the same.
    fn update(&self, document: &mut Self::Document) -> impl Future<Output = ()> + Send;

    /// The id of the tag of this name, which is there.
    fn find(&self, name: String) -> impl Future<Output = i64> + Send;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Hot,
    Uniform,
    Load,
    Update,
    Find,
}

impl Operation {
    pub(crate) const ALL: [Self; 5] = [
        Self::Hot,
        Self::Uniform,
        Self::Load,
        Self::Update,
        Self::Find,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot counter",
            Self::Uniform => "counters",
            Self::Load => "load",
            Self::Update => "update of 8 columns",
            Self::Find => "find or create, found",
        }
    }
}

/// The tables, for a database: what it calls a primary key, and what follows the columns.
pub(crate) fn tables(key: &str, options: &str) -> String {
    let body = "It had always been there. ".repeat(20);
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
    );
    format!(
        "CREATE TABLE page_views (page {key}, views bigint NOT NULL) {options};
        {numbers} INSERT INTO page_views (page, views) SELECT n, 0 FROM numbers;
        CREATE TABLE documents (id {key}, author_id bigint NOT NULL, reviewer_id bigint, title text NOT NULL, body text NOT NULL,
            language text NOT NULL, published boolean NOT NULL, words int NOT NULL, lock_version bigint NOT NULL) {options};
        {numbers} INSERT INTO documents (id, author_id, reviewer_id, title, body, language, published, words, lock_version)
            SELECT n, 7, NULL, 'How the river came to the town', '{body}', 'en', true, {WORDS}, 0 FROM numbers;
        CREATE TABLE tags (id {key}, name text NOT NULL UNIQUE);
        {numbers} INSERT INTO tags (id, name) SELECT n, 'tag ' || n FROM numbers;
        ANALYZE"
    )
}

/// What the tables of a contender have in them, by a connection that is not its own.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(crate) struct Totals {
    views: i64,
    hot: i64,
    versions: i64,
    words: i64,
    tags: i64,
}

impl Totals {
    pub(crate) const QUERY: &str = "SELECT (SELECT CAST(sum(views) AS bigint) FROM page_views) AS views, (SELECT views FROM page_views WHERE page = 1) AS hot,
        (SELECT CAST(sum(lock_version) AS bigint) FROM documents) AS versions, (SELECT CAST(sum(words) AS bigint) FROM documents) AS words,
        (SELECT count(*) FROM tags) AS tags";
}

/// A library, with tables of its own.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    run: Box<dyn Fn(Operation, i64, Arc<Run>) -> Boxed<i64> + Send + Sync>,
    totals: Box<dyn Fn() -> Boxed<Totals> + Send + Sync>,
    added: AtomicI64,
    updated: AtomicI64,
}

impl Contender {
    pub(crate) fn new<P, F>(
        name: &'static str,
        peer: P,
        totals: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: Peer,
        F: Future<Output = Totals> + Send + 'static,
    {
        Self {
            name,
            run: Box::new(move |operation, callers, run| {
                Box::pin(call_from(peer.clone(), operation, callers, run))
            }),
            totals: Box::new(move || Box::pin(totals())),
            added: AtomicI64::new(0),
            updated: AtomicI64::new(0),
        }
    }

    /// Lets so many callers call for so long, and then asks the database whether all that was acknowledged is there, once.
    pub(crate) async fn slice(&self, operation: Operation, callers: i64, time: Duration) -> Slice {
        let run = Run::new(callers, time);
        let largest = (self.run)(operation, callers, Arc::clone(&run)).await;
        let slice = run.ended();

        let calls = i64::try_from(slice.calls).unwrap();
        match operation {
            Operation::Hot | Operation::Uniform => self.added.fetch_add(calls, Ordering::Relaxed),
            Operation::Update => self.updated.fetch_add(calls, Ordering::Relaxed),
            Operation::Load | Operation::Find => 0,
        };
        let totals = (self.totals)().await;
        let updated = self.updated.load(Ordering::Relaxed);
        assert_eq!(
            totals.views,
            self.added.load(Ordering::Relaxed),
            "{}: views",
            self.name
        );
        assert_eq!(totals.versions, updated, "{}: versions", self.name);
        assert_eq!(totals.words, ROWS * WORDS + updated, "{}: words", self.name);
        assert_eq!(totals.tags, ROWS, "{}: tags", self.name);
        if operation == Operation::Hot {
            assert_eq!(
                totals.hot, largest,
                "{}: the largest total that a caller was told",
                self.name
            );
        }
        slice
    }
}

/// The largest total that a caller was told.
async fn call_from<P: Peer>(peer: P, operation: Operation, callers: i64, run: Arc<Run>) -> i64 {
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        tasks.spawn(call_again(
            peer.clone(),
            operation,
            caller,
            callers,
            Arc::clone(&run),
        ));
    }
    tasks.join_all().await.into_iter().max().unwrap_or_default()
}

async fn call_again<P: Peer>(
    peer: P,
    operation: Operation,
    caller: i64,
    callers: i64,
    run: Arc<Run>,
) -> i64 {
    let mut random = Random(u64::try_from(caller + 1).unwrap() * 0x9E37_79B9_7F4A_7C15);
    let mut largest = 0;
    let mut documents = Vec::new();
    if operation == Operation::Update {
        for id in (1..=ROWS)
            .filter(|id| id % callers == caller)
            .take(DOCUMENTS)
        {
            documents.push(peer.load(id).await);
        }
    }
    run.is_ready().await;
    while let Some(call) = run.begin() {
        match operation {
            Operation::Hot => largest = peer.add(1).await.max(largest),
            Operation::Uniform => {
                peer.add(1 + random.below(ROWS)).await;
            }
            Operation::Load => {
                let id = 1 + random.below(ROWS);
                assert_eq!(P::id(&peer.load(id).await), id);
            }
            Operation::Update => {
                let index = random.below(i64::try_from(documents.len()).unwrap());
                peer.update(&mut documents[usize::try_from(index).unwrap()])
                    .await;
            }
            Operation::Find => {
                let id = 1 + random.below(ROWS);
                assert_eq!(peer.find(format!("tag {id}")).await, id);
            }
        }
        run.end(call);
    }
    largest
}

/// Numbers that look random, without a lock.
struct Random(u64);

impl Random {
    fn below(&mut self, most: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        i64::try_from(self.0 >> 33).unwrap() % most
    }
}

/// What came of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) calls: u64,
    pub(crate) per_second: f64,
    /// In microseconds, as is `p99`.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Counts the calls of a slice.
pub(crate) struct Run {
    gate: Barrier,
    begun: OnceLock<Instant>,
    time: Duration,
    calls: AtomicU64,
    /// How many took how many microseconds, in powers of 1.05.
    histogram: Vec<AtomicU64>,
    /// When the last caller had its last answer.
    last: Mutex<Option<Instant>>,
}

const BUCKETS: usize = 400;

impl Run {
    fn new(callers: i64, time: Duration) -> Arc<Self> {
        Arc::new(Self {
            gate: Barrier::new(usize::try_from(callers).unwrap()),
            begun: OnceLock::new(),
            time,
            calls: AtomicU64::new(0),
            histogram: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            last: Mutex::new(None),
        })
    }

    async fn is_ready(&self) {
        self.gate.wait().await;
    }

    fn begin(&self) -> Option<Instant> {
        let now = Instant::now();
        let begun = *self.begun.get_or_init(|| now);
        if now - begun < self.time {
            return Some(now);
        }
        *self.last.lock().unwrap() = Some(now);
        None
    }

    fn end(&self, call: Instant) {
        let micros = call.elapsed().as_secs_f64() * 1e6;
        let bucket = (micros.max(1.0).ln() / 1.05_f64.ln()) as usize;
        self.histogram[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self) -> Slice {
        let last = self.last.lock().unwrap().unwrap();
        let time = last - *self.begun.get().unwrap();
        let calls = self.calls.load(Ordering::Relaxed);
        Slice {
            calls,
            per_second: calls as f64 / time.as_secs_f64(),
            p50: self.at(0.5),
            p99: self.at(0.99),
        }
    }

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
