//! What can be watched from outside: spans and events with a subscriber, numbers with a recorder. And no value of a row in either.

#![allow(missing_docs, dead_code)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use rowlock::lock::{AdvisoryLock, SessionLock};
use rowlock::queue::{JobOutcome, QueueState};
use rowlock::row::UpdateError;
use rowlock::{Counter, Fence, FindOrCreate, Guarded, Lanes, Queue, Tx, Versioned, transaction};
use rowlock_tests::{postgres, sqlite};
use sqlx::SqlitePool;
use sqlx::types::chrono::{DateTime, Utc};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::format::FmtSpan;

/// In every text that is bound: none of it may be in what is written down.
const SECRET: &str = "canary-in-a-coal-mine";

#[derive(Debug, Clone, sqlx::FromRow, Versioned, Guarded)]
#[rowlock(table = "documents")]
struct Document {
    #[rowlock(key)]
    id: i64,
    title: String,
    body: String,
    #[rowlock(version)]
    version: i64,
}

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: String,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "labels")]
struct Label {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(unique)]
    name: String,
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "mails")]
struct Mail {
    #[rowlock(key, generated)]
    id: i64,
    address: String,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 2))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

const TABLES: &str = "
    CREATE TABLE documents (id bigint PRIMARY KEY, title text NOT NULL, body text NOT NULL, version bigint NOT NULL);
    INSERT INTO documents VALUES (7, 'canary-in-a-coal-mine', '', 0);
    CREATE TABLE page_views (page text PRIMARY KEY, views bigint NOT NULL);
    CREATE TABLE labels (id {id}, name text NOT NULL UNIQUE);
    CREATE TABLE mails (id {id}, address text NOT NULL, run_at {timestamp} NOT NULL, state text NOT NULL, attempts int NOT NULL,
        fence bigint NOT NULL, leased_until {timestamp})";

/// What a subscriber has been told, as text.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn begin() -> (Self, DefaultGuard) {
        let written = Self::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::NEW)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (written, tracing::subscriber::set_default(subscriber))
    }

    /// The lines of this crate: sqlx has its own.
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains("rowlock"));
        lines.map(str::to_owned).collect()
    }

    #[track_caller]
    fn has(&self, parts: &[&str]) {
        let lines = self.lines();
        let found = lines
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "{parts:?} is not in:\n{}", lines.join("\n"));
    }
}

/// Counters, and how many values each histogram has, by name and labels.
fn numbers(snapshotter: &Snapshotter) -> BTreeMap<String, u64> {
    let mut numbers = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let mut labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        let number = match value {
            DebugValue::Counter(number) => number,
            DebugValue::Histogram(values) => values.len() as u64,
            DebugValue::Gauge(_) => continue,
        };
        numbers.insert(format!("{} {}", key.name(), labels.join(" ")), number);
    }
    numbers
}

/// A conflict that is merged, one that overlaps, and what `update_with` repeats.
async fn conflicts(pool: &SqlitePool) {
    let open = async || Document::load(pool, 7).await.unwrap().edit();
    let (mut ann, mut ben, mut eve) = (open().await, open().await, open().await);
    ann.title = format!("{SECRET} of Ann");
    ben.body = format!("{SECRET} of Ben");
    eve.title = format!("{SECRET} of Eve");
    ann.save(pool).await.unwrap();
    let Err(UpdateError::Stale(conflict)) = ben.save(pool).await else {
        panic!("Ann was faster");
    };
    conflict.merge().unwrap().save(pool).await.unwrap();
    let Err(UpdateError::Stale(conflict)) = eve.save(pool).await else {
        panic!("Ann was faster");
    };
    conflict.merge().unwrap_err();

    let late = Document::edit_at(7, 0).set(Document::TITLE, SECRET);
    late.save(pool).await.unwrap_err();
}

#[tokio::test]
async fn methods_have_spans_and_conflicts_are_events_without_values() {
    let database = sqlite::database(TABLES).await;
    let pool = &database.pool;
    let (written, _guard) = Written::begin();
    conflicts(pool).await;
    PageViews::add_views(pool, SECRET, 1).await.unwrap();
    let new = NewLabel {
        name: SECRET.to_owned(),
    };
    Label::find_or_create(pool, new.clone()).await.unwrap();
    Label::create(pool, new).await.unwrap();
    transaction(pool)
        .run(async |tx: &mut Tx<sqlx::Sqlite>| {
            Document::load(&mut *tx, 7).await?.touch(&mut *tx).await?;
            Ok::<_, rowlock::Error>(())
        })
        .await
        .unwrap();

    let client = [
        "rowlock{",
        "db.system.name=\"sqlite\"",
        "otel.kind=\"client\"",
    ];
    for (method, table) in [
        ("load", "documents"),
        ("save", "documents"),
        ("touch", "documents"),
        ("add_views", "page_views"),
        ("find_or_create", "labels"),
        ("create", "labels"),
    ] {
        let [name, method, table] = [
            format!("otel.name={method} {table}"),
            format!("db.operation.name=\"{method}\""),
            format!("db.collection.name=\"{table}\""),
        ];
        written.has(&[&client[..], &[&name, &method, &table]].concat());
    }
    written.has(&["DEBUG", "conflict", "db.operation.name=\"save\""]);
    written.has(&["rowlock.transaction:rowlock{"]);
    let lines = written.lines().join("\n");
    assert!(!lines.contains(SECRET), "{lines}");
}

#[tokio::test]
async fn conflicts_merges_and_durations_are_counted() {
    let database = sqlite::database(TABLES).await;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let guard = metrics::set_default_local_recorder(&recorder);
    conflicts(&database.pool).await;
    let lanes = Lanes::new(&database.pool, 1).await.unwrap();
    for _ in 0..3 {
        PageViews::add_views(&lanes, SECRET, 1).await.unwrap();
    }
    drop(guard);

    let numbers = numbers(&snapshotter);
    let of_documents = "db.collection.name=documents db.operation.name=save";
    for (name, number) in [
        (format!("rowlock.conflicts {of_documents}"), 2),
        (
            "rowlock.conflicts db.collection.name=documents db.operation.name=edit_at".to_owned(),
            1,
        ),
        (
            "rowlock.merges db.collection.name=documents outcome=clean".to_owned(),
            1,
        ),
        (
            "rowlock.merges db.collection.name=documents outcome=overlap".to_owned(),
            1,
        ),
        (
            format!("db.client.operation.duration {of_documents} db.system.name=sqlite"),
            4,
        ),
        ("rowlock.lanes.calls ".to_owned(), 3),
        ("rowlock.lanes.statements ".to_owned(), 3),
    ] {
        assert_eq!(numbers.get(&name), Some(&number), "{name}: {numbers:#?}");
    }
    let text = format!("{numbers:?}");
    assert!(!text.contains(SECRET), "{text}");
}

/// The only connection of the pool is taken until all of them wait: the first one gets it, and the others are served together.
#[tokio::test]
async fn calls_that_wait_for_lanes_are_one_statement() {
    let database = sqlite::database(TABLES).await;
    let pool = database.one_connection_pool().await;
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let guard = metrics::set_default_local_recorder(&recorder);
    let lane = lanes.acquire().await.unwrap();
    let calls = (0..10).map(|_| PageViews::add_views(&lanes, SECRET, 1));
    let mut calls = std::pin::pin!(futures_util::future::join_all(calls));
    let waits = poll_fn(|context| Poll::Ready(calls.as_mut().poll(context).is_pending()));
    assert!(waits.await);
    drop(lane);
    let totals = calls.await;
    drop(guard);
    assert_eq!(totals.into_iter().map(Result::unwrap).max(), Some(10));
    let numbers = numbers(&snapshotter);
    assert_eq!(numbers.get("rowlock.lanes.calls "), Some(&10));
    // How many of them the runtime lets in before the rest is sent is its own affair.
    let statements = numbers.get("rowlock.lanes.statements ").copied();
    assert!(
        (2..10).contains(&statements.unwrap_or_default()),
        "{statements:?}"
    );
}

#[tokio::test]
async fn jobs_of_a_worker_are_counted() {
    let database = sqlite::database(TABLES).await;
    let pool = &database.pool;
    for _ in 0..2 {
        let mail = NewMail {
            address: SECRET.to_owned(),
        };
        Mail::enqueue(pool, mail).await.unwrap();
    }
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let (written, _written) = Written::begin();
    let guard = metrics::set_default_local_recorder(&recorder);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stop = Mutex::new(Some(stop));
    let worker = Mail::worker(pool).concurrency(1).shutdown(async {
        let _ = stopped.await;
    });
    let stop = Arc::new(stop);
    let handler = move |job: rowlock::queue::Job<Mail>| {
        let stop = stop.clone();
        async move {
            if job.id == 2 {
                stop.lock().unwrap().take();
                return JobOutcome::fail("no such address");
            }
            JobOutcome::Complete
        }
    };
    let counts = worker.run(handler).await.unwrap();
    drop(guard);
    assert_eq!((counts.completed, counts.dead), (1, 1));

    let numbers = numbers(&snapshotter);
    let of_mails = "messaging.destination.name=mails";
    for (name, number) in [
        (format!("rowlock.jobs event=claimed {of_mails}"), 2),
        (format!("rowlock.jobs event=started {of_mails}"), 2),
        (format!("rowlock.jobs event=completed {of_mails}"), 1),
        (format!("rowlock.jobs event=dead {of_mails}"), 1),
        (format!("rowlock.job.wait {of_mails}"), 2),
        (format!("messaging.process.duration {of_mails}"), 2),
    ] {
        assert_eq!(numbers.get(&name), Some(&number), "{name}: {numbers:#?}");
    }
    let job = "messaging.destination.name=\"mails\" messaging.operation.name=\"process\"";
    written.has(&["rowlock.job{", job, "otel.kind=\"consumer\""]);
    let lines = written.lines().join("\n");
    assert!(!lines.contains(SECRET), "{lines}");
}

/// Two transactions at SERIALIZABLE of which each reads what the other writes: one of them is run again.
#[tokio::test]
async fn retries_and_waits_for_locks_are_counted() {
    let database = postgres::database(TABLES).await;
    let pool = &database.pool;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let (written, _written) = Written::begin();
    let guard = metrics::set_default_local_recorder(&recorder);

    let mut first = true;
    let first = &Mutex::new(&mut first);
    transaction(pool)
        .serializable()
        .run(async |tx: &mut Tx<sqlx::Postgres>| {
            Document::load(&mut *tx, 7).await?;
            if std::mem::take(&mut **first.lock().unwrap()) {
                Document::load(pool, 7).await?.touch(pool).await?;
            }
            let document = Document::load(&mut *tx, 7).await?;
            document.touch(&mut *tx).await?;
            Ok::<_, rowlock::Error>(())
        })
        .await
        .unwrap();

    let nightly = AdvisoryLock::new("nightly");
    nightly
        .run(pool, async |_: &mut Tx<sqlx::Postgres>| {
            Ok::<_, rowlock::Error>(())
        })
        .await
        .unwrap();
    let held = SessionLock::acquire(pool, &nightly).await.unwrap();
    let refused = SessionLock::try_acquire(pool, &nightly).await.unwrap();
    assert!(refused.is_none());
    drop(held);
    drop(guard);

    let numbers = numbers(&snapshotter);
    for (name, number) in [
        (
            "rowlock.retries db.operation.name=transaction error.type=Serialization",
            1,
        ),
        ("rowlock.retry.wait db.operation.name=transaction", 1),
        (
            "rowlock.lock.wait outcome=taken rowlock.lock.kind=advisory",
            1,
        ),
        (
            "rowlock.lock.wait outcome=taken rowlock.lock.kind=session",
            1,
        ),
        (
            "rowlock.lock.wait outcome=refused rowlock.lock.kind=session",
            1,
        ),
    ] {
        assert_eq!(numbers.get(name), Some(&number), "{name}: {numbers:#?}");
    }
    written.has(&["runs again", "error.type=Serialization", "attempt=1"]);
}

/// Each number has a text for the recorder, and a line on the page.
#[test]
fn every_number_is_described() {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, rowlock::describe_metrics);
    let source = include_str!("../../runtime/src/observe.rs");
    let page = include_str!("../../runtime/guide/observability.md");
    let (code, described) = source.split_once("pub fn describe_metrics").unwrap();
    let names: Vec<_> = code
        .split('"')
        .filter(|text| {
            ["rowlock.", "messaging.process", "db.client"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
        })
        .filter(|text| *text != "rowlock.lock.kind")
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(described.contains(&format!("\"{name}\"")), "{name}");
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}
