//! The worker of `#[derive(Queue)]`: every row is handled, by one handler at a time, and its end is written down once.

use std::collections::{BTreeMap, HashSet};
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rowlock::queue::{
    Claimed, HandlerOutcome, Job, JobOutcome, QueueState, Worker, WorkerCounts, WorkerError,
    WorkerStats,
};
use rowlock::{Fence, Queue, transaction};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Database, Db, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, Clone, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
pub(super) struct Task {
    #[rowlock(key, generated)]
    pub(super) id: i64,
    #[rowlock(filter)]
    pub(super) what: String,
    #[rowlock(run_at)]
    pub(super) run_at: Timestamp,
    #[rowlock(state)]
    pub(super) state: QueueState,
    #[rowlock(attempts(max = 3))]
    pub(super) attempts: i32,
    #[rowlock(fence)]
    pub(super) fence: Fence,
    #[rowlock(lease)]
    pub(super) leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    pub(super) last_error: Option<String>,
    #[rowlock(finished)]
    pub(super) finished_at: Option<Timestamp>,
}

/// `runs`: what handlers say that they did.
pub(super) const JOBS: &str = "CREATE TABLE jobs (
        id {id},
        what text NOT NULL DEFAULT '',
        run_at {timestamp} NOT NULL DEFAULT ({now}),
        state text NOT NULL DEFAULT 'ready',
        attempts integer NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        leased_until {timestamp},
        last_error text,
        finished_at {timestamp}
    );
    CREATE TABLE runs (id bigint NOT NULL, attempt bigint NOT NULL, worker text NOT NULL)";

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const SHORT: Duration = Duration::from_millis(10);

/// The tables with their indexes, and `rows` rows.
pub(super) async fn jobs(rows: i64) -> Database {
    let database = database(JOBS).await;
    execute(&database.pool, Task::ddl::<Db>()).await;
    add(&database.pool, rows, "").await;
    database
}

pub(super) async fn add(pool: &Pool, rows: i64, what: &str) {
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
               INSERT INTO jobs (what) SELECT $2 FROM n WHERE i <= $1";
    let insert = sqlx::query(sql).bind(rows).bind(what);
    insert.execute(pool).await.unwrap();
}

pub(super) async fn execute(pool: &Pool, sql: &'static str) {
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

pub(super) async fn all(pool: &Pool) -> Vec<Task> {
    sqlx::query_as("SELECT * FROM jobs ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap()
}

pub(super) async fn in_state(pool: &Pool, state: QueueState) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = $1")
        .bind(state)
        .fetch_one(pool)
        .await
        .unwrap()
}

pub(super) async fn until_in_state(pool: &Pool, state: QueueState, rows: i64) {
    until(&format!("{rows} rows are {state}"), async || {
        in_state(pool, state).await == rows
    })
    .await;
}

/// Waits for something that must come.
pub(super) async fn until(what: &str, reached: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(240);
    while !reached().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Says that a handler ran, and fails where the same attempt did already.
pub(super) async fn log(pool: &Pool, job: &Task, worker: &str) {
    sqlx::query("INSERT INTO runs VALUES ($1, $2, $3)")
        .bind(job.id)
        .bind(i64::from(job.attempts))
        .bind(worker)
        .execute(pool)
        .await
        .unwrap();
}

/// The attempts of each row that somebody ran, in order.
pub(super) async fn runs(pool: &Pool) -> BTreeMap<i64, Vec<i64>> {
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("SELECT id, attempt FROM runs ORDER BY id, attempt, worker")
            .fetch_all(pool)
            .await
            .unwrap();
    let mut runs = BTreeMap::new();
    for (id, attempt) in rows {
        runs.entry(id).or_insert_with(Vec::new).push(attempt);
    }
    runs
}

/// A worker in a task of its own.
pub(super) struct Background {
    pub(super) stats: WorkerStats,
    stop: oneshot::Sender<()>,
    pub(super) task: JoinHandle<Result<WorkerCounts, WorkerError>>,
}

impl Background {
    pub(super) fn counts(&self) -> WorkerCounts {
        self.stats.counts()
    }

    /// Tells it to stop.
    pub(super) fn signal(self) -> JoinHandle<Result<WorkerCounts, WorkerError>> {
        let _ = self.stop.send(());
        self.task
    }

    pub(super) async fn stop(self) -> WorkerCounts {
        self.signal().await.unwrap().unwrap()
    }
}

pub(super) fn start<F, R>(worker: Worker<Db, Task>, handler: F) -> Background
where
    F: Fn(Job<Task>) -> R + Send + Sync + 'static,
    R: Future<Output: HandlerOutcome> + Send + 'static,
{
    let stats = worker.stats();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = worker.shutdown(async move {
        let _ = stopped.await;
    });
    let task = tokio::spawn(worker.run(handler));
    Background { stats, stop, task }
}

/// A worker that looks often.
pub(super) fn worker(pool: &Pool) -> Worker<Db, Task> {
    Task::worker(pool).poll(SHORT)
}

/// Handlers that say when they begin, and end one by one when they may.
#[derive(Clone)]
pub(super) struct Gate {
    may_end: Arc<Semaphore>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            may_end: Arc::new(Semaphore::new(0)),
            running: Arc::default(),
            most: Arc::default(),
        }
    }

    pub(super) async fn pass(self) {
        struct Left(Arc<AtomicUsize>);
        impl Drop for Left {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let _left = Left(self.running.clone());
        self.may_end.acquire().await.unwrap().forget();
    }

    pub(super) fn handler(&self) -> impl Fn(Job<Task>) -> BoxFuture<'static, ()> + 'static {
        let gate = self.clone();
        move |_| Box::pin(gate.clone().pass())
    }

    pub(super) fn open(&self, handlers: usize) {
        self.may_end.add_permits(handlers);
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(super) async fn until_running(&self, handlers: usize) {
        until(&format!("{handlers} handlers run"), async || {
            self.running() == handlers
        })
        .await;
    }
}

async fn say(job: &Task) -> Result<(), std::fmt::Error> {
    assert!(job.attempts == 1 && job.state == QueueState::Running);
    tokio::task::yield_now().await;
    Ok(())
}

/// The closure of the documentation: it borrows the row, and may fail. `run` can be spawned.
#[tokio::test]
async fn rows_are_handled_and_done() {
    let database = jobs(20).await;
    let pool = &database.pool;
    let background = start(worker(pool), async |job| say(&job).await);
    until_in_state(pool, QueueState::Done, 20).await;
    // By polling alone, also those that come later.
    add(pool, 20, "later").await;
    until_in_state(pool, QueueState::Done, 40).await;
    let counts = background.stop().await;
    assert_eq!(
        (counts.claimed, counts.started, counts.completed),
        (40, 40, 40)
    );
    assert_eq!((counts.retried, counts.dead, counts.lease_lost), (0, 0, 0));
    assert!(counts.longest_wait <= counts.waited);
    for job in all(pool).await {
        assert!(job.finished_at.is_some() && job.last_error.is_none());
        assert!(job.run_at <= job.leased_until.unwrap());
    }
}

#[tokio::test]
async fn only_rows_that_meet_the_condition() {
    let database = jobs(3).await;
    let pool = &database.pool;
    add(pool, 3, "mine").await;
    let mine = worker(pool).only(Task::WHAT, "mine");
    let background = start(mine, async |_| {});
    until_in_state(pool, QueueState::Done, 3).await;
    let counts = background.stop().await;
    assert_eq!(counts.claimed, 3);
    assert_eq!(in_state(pool, QueueState::Ready).await, 3);
}

/// What each kind of job does.
async fn outcome(pool: &Pool, job: &Claimed<Task>) -> Result<JobOutcome, String> {
    let hour = Duration::from_secs(3600);
    Ok(match job.what.as_str() {
        "complete" => JobOutcome::Complete,
        "completed" => {
            let done = transaction(pool).run(async |tx| {
                sqlx::query("INSERT INTO runs VALUES ($1, 1, 'in')")
                    .bind(job.id)
                    .execute(&mut **tx)
                    .await
                    .unwrap();
                job.complete_in(tx).await
            });
            done.await.unwrap();
            JobOutcome::Completed
        }
        "completed by hand" => {
            let done = "UPDATE jobs SET state = 'done', finished_at = run_at WHERE what = 'completed by hand'";
            execute(pool, done).await;
            JobOutcome::Completed
        }
        "not completed" => JobOutcome::Completed,
        "error" | "last" => return Err(format!("the {} error", job.what)),
        "retry" => JobOutcome::Retry {
            error: "again".to_owned(),
            after: None,
        },
        "after" => JobOutcome::retry_after("later", hour),
        "fail" => JobOutcome::fail("never"),
        "snooze" => JobOutcome::Snooze(hour),
        "panic" | "last panic" => panic!("no {}", job.what),
        "silent" => std::panic::panic_any(1),
        "timeout" | "last timeout" => pending().await,
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn every_outcome_of_a_handler() {
    use QueueState::{Dead, Done, Ready};
    let database = jobs(0).await;
    let pool = &database.pool;
    let panic = "the handler panicked: no";
    let timeout = "the handler took longer than 2s";
    let expected = [
        ("complete", Done, 1, None),
        ("completed", Done, 1, None),
        ("completed by hand", Done, 1, None),
        (
            "not completed",
            Ready,
            1,
            Some("the handler returned `Completed` without `complete_in`".to_owned()),
        ),
        ("error", Ready, 1, Some("the error error".to_owned())),
        ("last", Dead, 3, Some("the last error".to_owned())),
        ("retry", Ready, 1, Some("again".to_owned())),
        ("after", Ready, 1, Some("later".to_owned())),
        ("fail", Dead, 1, Some("never".to_owned())),
        ("snooze", Ready, 0, None),
        ("panic", Ready, 1, Some(format!("{panic} panic"))),
        ("silent", Ready, 1, Some("the handler panicked".to_owned())),
        ("last panic", Dead, 3, Some(format!("{panic} last panic"))),
        ("timeout", Ready, 1, Some(timeout.to_owned())),
        ("last timeout", Dead, 3, Some(timeout.to_owned())),
    ];
    for (what, ..) in &expected {
        add(pool, 1, what).await;
    }
    execute(pool, "UPDATE jobs SET attempts = 2 WHERE what LIKE 'last%'").await;
    // So long that the random part of it is never short.
    let ages = Duration::from_secs(100_000_000);
    let worker = worker(pool)
        .concurrency(expected.len())
        .handler_timeout(2 * SECOND)
        .backoff(ages, ages);
    let captured = pool.clone();
    let background = start(worker, move |job| {
        let pool = captured.clone();
        async move { outcome(&pool, &job).await }
    });
    until_in_state(pool, QueueState::Running, 0).await;
    until("all are handled", async || {
        background.counts().started == 15 && in_state(pool, QueueState::Running).await == 0
    })
    .await;
    let rows = all(pool).await;
    let found = rows.iter().map(|job| {
        (
            job.what.as_str(),
            job.state,
            job.attempts,
            job.last_error.clone(),
        )
    });
    assert_eq!(found.collect::<Vec<_>>(), expected);
    for job in &rows {
        assert_eq!(job.finished_at.is_some(), job.state != Ready, "{job:?}");
        let due = job.run_at > chrono::Utc::now() + chrono::TimeDelta::minutes(30);
        assert_eq!(due, job.state == Ready, "{job:?}");
    }
    assert_eq!(runs(pool).await.len(), 1);
    let stats = background.stats.clone();
    let counts = background.stop().await;
    assert_eq!(stats.counts(), counts);
    assert_eq!((counts.claimed, counts.started), (15, 15));
    assert_eq!((counts.completed, counts.retried), (3, 7));
    assert_eq!((counts.dead, counts.snoozed), (4, 1));
    assert_eq!((counts.panicked, counts.timed_out), (3, 2));
    assert_eq!((counts.released, counts.lease_lost), (0, 0));
    assert_eq!(counts.rescued, 0);
    assert!(counts.ran >= 4 * SECOND, "{:?}", counts.ran);
}

/// However a handler says it, the text of an error can be stored: without NUL, and not in any length.
#[tokio::test]
async fn the_error_of_an_outcome_is_shortened() {
    let database = jobs(2).await;
    let pool = &database.pool;
    let background = start(worker(pool).backoff(HOUR, HOUR), async |job| {
        let error = format!("a\0b{}", "…".repeat(1 << 20));
        match job.id {
            1 => JobOutcome::Fail { error },
            _ => JobOutcome::Retry { error, after: None },
        }
    });
    until("both are written", async || {
        let counts = background.counts();
        counts.dead + counts.retried + counts.lease_lost == 2
    })
    .await;
    let counts = background.stop().await;
    assert_eq!((counts.dead, counts.retried), (1, 1));
    for job in all(pool).await {
        let error = job.last_error.unwrap();
        assert!(error.starts_with("a\u{fffd}b…"), "{}", &error[..20]);
        assert!((8000..8200).contains(&error.len()), "{}", error.len());
    }
}

/// A row that fails is handled as often as it may be.
#[tokio::test]
async fn a_failing_row_is_dead_after_its_last_attempt() {
    let database = jobs(5).await;
    let pool = &database.pool;
    let logged = pool.clone();
    let worker = worker(pool).backoff(Duration::from_millis(1), Duration::from_millis(2));
    let background = start(worker, move |job| {
        let pool = logged.clone();
        async move {
            log(&pool, &job, "").await;
            Err::<(), _>("no")
        }
    });
    until_in_state(pool, QueueState::Dead, 5).await;
    let counts = background.stop().await;
    assert_eq!((counts.retried, counts.dead), (10, 5));
    let runs = runs(pool).await;
    assert!(runs.values().all(|runs| *runs == [1, 2, 3]), "{runs:?}");
}

/// A row that is ready and has no attempts left ends as well.
#[tokio::test]
async fn a_row_without_attempts_left_is_dead() {
    let database = jobs(5).await;
    let pool = &database.pool;
    execute(pool, "UPDATE jobs SET attempts = 3 WHERE id < 4").await;
    for prefetch in [0, 3] {
        let background = start(worker(pool).concurrency(2).prefetch(prefetch), async |_| {});
        until_in_state(pool, QueueState::Ready, 0).await;
        until_in_state(pool, QueueState::Running, 0).await;
        let counts = background.stop().await;
        assert_eq!((counts.started, counts.dead), (2, 3));
        assert_eq!((counts.completed, counts.bad), (2, 0));
        for job in all(pool).await {
            let (state, attempts) = match job.id < 4 {
                true => (QueueState::Dead, 3),
                false => (QueueState::Done, 1),
            };
            assert_eq!((job.state, job.attempts), (state, attempts));
        }
        execute(
            pool,
            "UPDATE jobs SET state = 'ready', attempts = CASE WHEN id < 4 THEN 3 ELSE 0 END",
        )
        .await;
    }
}

/// `concurrency` is reached and never exceeded; `prefetch` is what may be held besides.
#[tokio::test]
async fn concurrency_and_prefetch_are_limits() {
    let database = jobs(30).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let worker = worker(pool).concurrency(4).prefetch(3);
    let background = start(worker, gate.handler());
    gate.until_running(4).await;
    until_in_state(pool, QueueState::Running, 7).await;
    for ended in 1..=30 {
        gate.open(1);
        until("the row is done, and the next are there", async || {
            assert!(in_state(pool, QueueState::Running).await <= 7);
            let left = usize::try_from(30 - ended).unwrap();
            background.counts().completed == ended && gate.running() == left.min(4)
        })
        .await;
    }
    assert_eq!(gate.most.load(Ordering::SeqCst), 4);
    assert_eq!(background.stop().await.completed, 30);
}

/// A handler that is free gets a row, although the others go on and the buffer is small.
#[tokio::test]
async fn a_free_handler_does_not_wait_for_the_buffer() {
    let database = jobs(5).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let worker = worker(pool).concurrency(4).prefetch(1);
    let background = start(worker, gate.handler());
    gate.until_running(4).await;
    gate.open(2);
    until_in_state(pool, QueueState::Done, 2).await;
    gate.until_running(3).await;
    add(pool, 1, "").await;
    gate.until_running(4).await;
    gate.open(4);
    until_in_state(pool, QueueState::Done, 6).await;
    background.stop().await;
}

/// The lease begins when the claim is made, not when the worker began to wait for a connection.
#[tokio::test]
async fn a_lease_does_not_begin_in_the_wait_for_a_connection() {
    let database = jobs(3).await;
    let pool = database.one_connection_pool().await;
    let only = pool.acquire().await.unwrap();
    let started = Instant::now();
    let background = start(worker(&pool).lease(2 * SECOND), async |_| {});
    // Until just before the claim gives up.
    sleep(Duration::from_millis(1900).saturating_sub(started.elapsed())).await;
    drop(only);
    until_in_state(&database.pool, QueueState::Done, 3).await;
    let counts = background.stop().await;
    assert_eq!((counts.claimed, counts.lease_lost), (3, 0));
}

/// A job, and rows that wait for it, longer than the lease: nobody else gets them.
#[tokio::test]
async fn a_heartbeat_keeps_the_rows() {
    let database = jobs(4).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let slow = worker(pool).concurrency(2).prefetch(2).lease(SECOND);
    let slow = start(slow, gate.handler());
    until_in_state(pool, QueueState::Running, 4).await;
    let first = all(pool).await;
    let other = start(worker(pool).lease(SECOND), async |_| {});
    until("all leases are one and a half seconds later", async || {
        let rows = all(pool).await;
        let later = |(row, first): (&Task, &Task)| {
            let later = row.leased_until.unwrap() - first.leased_until.unwrap();
            later > chrono::TimeDelta::milliseconds(1500)
        };
        rows.iter().zip(&first).all(later)
    })
    .await;
    assert_eq!(gate.running(), 2);
    gate.open(4);
    until_in_state(pool, QueueState::Done, 4).await;
    let (slow, other) = (slow.stop().await, other.stop().await);
    assert_eq!((slow.completed, slow.lease_lost), (4, 0));
    assert_eq!((other.claimed, other.rescued, slow.rescued), (0, 0, 0));
    assert!(all(pool).await.iter().all(|job| job.attempts == 1));
}

/// The same for rows that are handled and wait to be written.
#[tokio::test]
async fn a_heartbeat_keeps_rows_that_are_not_written_yet() {
    let database = jobs(3).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let slow = worker(pool)
        .concurrency(3)
        .prefetch(5)
        .lease(SECOND)
        .flush_after(HOUR);
    let slow = start(slow, gate.handler());
    gate.until_running(3).await;
    gate.open(2);
    gate.until_running(1).await;
    let first = all(pool).await;
    let other = start(worker(pool).lease(SECOND), async |_| {});
    until("all leases are one and a half seconds later", async || {
        let rows = all(pool).await;
        assert!(rows.iter().all(|job| job.attempts == 1), "{rows:?}");
        let later = |(row, first): (&Task, &Task)| {
            let later = row.leased_until.unwrap() - first.leased_until.unwrap();
            later > chrono::TimeDelta::milliseconds(1500)
        };
        rows.iter().zip(&first).all(later)
    })
    .await;
    assert_eq!(slow.counts().completed, 0);
    gate.open(1);
    until_in_state(pool, QueueState::Done, 3).await;
    let (slow, other) = (slow.stop().await, other.stop().await);
    assert_eq!((slow.completed, slow.lease_lost), (3, 0));
    assert_eq!((other.claimed, other.rescued), (0, 0));
}

/// Somebody takes the rows away: the handler ends, what waits is not begun, and nothing is written.
#[tokio::test]
async fn a_lost_lease_stops_the_handler() {
    for takes in [
        "UPDATE jobs SET fence = fence + 1",
        "UPDATE jobs SET state = 'dead'",
    ] {
        let database = jobs(2).await;
        let pool = &database.pool;
        let gate = Gate::new();
        let worker = worker(pool).concurrency(1).prefetch(1).lease(SECOND);
        let background = start(worker, gate.handler());
        until_in_state(pool, QueueState::Running, 2).await;
        gate.until_running(1).await;
        // The lease of whoever has them now.
        execute(pool, takes).await;
        execute(
            pool,
            "UPDATE jobs SET leased_until = '2999-01-01 00:00:00+00:00'",
        )
        .await;
        let taken = all(pool).await;
        until("both are lost", async || {
            background.counts().lease_lost == 2
        })
        .await;
        assert_eq!(gate.running(), 0);
        let counts = background.stop().await;
        assert_eq!((counts.started, counts.lease_lost), (1, 2));
        assert_eq!(counts.completed + counts.released + counts.retried, 0);
        for (row, taken) in all(pool).await.iter().zip(&taken) {
            assert_eq!(row.state, taken.state);
            assert_eq!(row.fence, taken.fence);
            assert_eq!(row.leased_until, taken.leased_until);
            // The other one has not started.
            let attempts = i32::from(row.id == 1);
            assert_eq!((row.attempts, row.finished_at), (attempts, None));
        }
    }
}

/// The handler ends well, but the row is somebody else's by then.
#[tokio::test]
async fn the_end_of_a_lost_claim_is_not_written() {
    let database = jobs(3).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let ends = gate.clone();
    let handler = move |job: Job<Task>| {
        let gate = ends.clone();
        async move {
            gate.pass().await;
            match job.id {
                1 => Ok(JobOutcome::Complete),
                2 => Ok(JobOutcome::fail("never")),
                _ => Err("again"),
            }
        }
    };
    let background = start(worker(pool), handler);
    gate.until_running(3).await;
    execute(pool, "UPDATE jobs SET fence = fence + 1, attempts = 2").await;
    gate.open(3);
    until("all are lost", async || background.counts().lease_lost == 3).await;
    let counts = background.stop().await;
    assert_eq!((counts.completed, counts.dead, counts.retried), (0, 0, 0));
    for row in all(pool).await {
        assert_eq!((row.state, row.attempts), (QueueState::Running, 2));
        assert_eq!((row.last_error, row.finished_at), (None, None));
    }
}

/// Rows that wait are given back while handlers go on.
#[tokio::test]
async fn a_shutdown_gives_back_what_waits_and_lets_handlers_end() {
    let database = jobs(6).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let worker = worker(pool)
        .concurrency(2)
        .prefetch(20)
        .flush_after(HOUR)
        .shutdown_timeout(HOUR);
    let background = start(worker, gate.handler());
    until_in_state(pool, QueueState::Running, 6).await;
    gate.until_running(2).await;
    let run = background.signal();
    until_in_state(pool, QueueState::Ready, 4).await;
    // Written at once, although another one goes on.
    gate.open(1);
    until_in_state(pool, QueueState::Done, 1).await;
    assert_eq!(gate.running(), 1);
    gate.open(1);
    let counts = run.await.unwrap().unwrap();
    assert_eq!((counts.claimed, counts.started), (6, 2));
    assert_eq!((counts.completed, counts.released), (2, 4));
    assert_eq!((counts.retried, counts.dead, counts.lease_lost), (0, 0, 0));
    for job in all(pool).await {
        match job.state {
            QueueState::Done => assert_eq!(job.attempts, 1),
            state => assert_eq!((state, job.attempts), (QueueState::Ready, 0)),
        }
    }
    assert_eq!(in_state(pool, QueueState::Done).await, 2);
}

/// What is not finished after `shutdown_timeout` is dropped, and given back as if it had not been claimed.
#[tokio::test]
async fn a_shutdown_drops_what_does_not_end() {
    let database = jobs(3).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let background = start(worker(pool).shutdown_timeout(SHORT), gate.handler());
    gate.until_running(3).await;
    let counts = background.stop().await;
    assert_eq!(gate.running(), 0);
    assert_eq!((counts.started, counts.released), (3, 3));
    for job in all(pool).await {
        assert_eq!((job.state, job.attempts), (QueueState::Ready, 0));
        assert_eq!((job.last_error, job.finished_at), (None, None));
    }
}

/// The signal may come before anything else. What the first claim got is given back.
#[tokio::test]
async fn a_shutdown_at_once() {
    let database = jobs(20).await;
    let pool = &database.pool;
    for _ in 0..20 {
        let worker = worker(pool).shutdown(async {});
        let counts = worker.run(async |_| {}).await.unwrap();
        assert_eq!(counts.claimed, counts.released + counts.completed);
        assert_eq!(in_state(pool, QueueState::Running).await, 0);
    }
    let rows = all(pool).await;
    let attempts = rows.iter().map(|job| i64::from(job.attempts)).sum::<i64>();
    assert_eq!(attempts, in_state(pool, QueueState::Done).await);
}

/// Who drops the future stops the handlers; the rows come back when their leases have ended.
#[tokio::test]
async fn a_dropped_worker_leaves_rows_that_come_back() {
    let database = jobs(4).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let worker_one = worker(pool).concurrency(2).prefetch(2).lease(SECOND);
    let background = start(worker_one, gate.handler());
    until_in_state(pool, QueueState::Running, 4).await;
    gate.until_running(2).await;
    background.task.abort();
    gate.until_running(0).await;
    assert_eq!(in_state(pool, QueueState::Running).await, 4);
    let next = start(worker(pool).lease(SECOND), async |_| {});
    until_in_state(pool, QueueState::Done, 4).await;
    let counts = next.stop().await;
    assert_eq!((counts.rescued, counts.completed), (4, 4));
    let attempts: Vec<i32> = all(pool).await.iter().map(|job| job.attempts).collect();
    assert_eq!(attempts, [2, 2, 1, 1]);
}

#[tokio::test]
async fn an_error_that_cannot_pass_ends_the_worker() {
    let database = jobs(1).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let background = start(worker(pool).shutdown_timeout(SECOND), gate.handler());
    gate.until_running(1).await;
    execute(pool, "ALTER TABLE jobs RENAME TO other").await;
    let error = background.task.await.unwrap().unwrap_err();
    let WorkerError::Database(cause) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(cause.fault(), rowlock::Fault::Schema);
    assert!(error.to_string().starts_with("claim of jobs"), "{error}");

    execute(pool, "ALTER TABLE other RENAME TO jobs").await;
    let background = start(worker(pool), async |_| {});
    pool.close().await;
    let error = background.task.await.unwrap().unwrap_err();
    let WorkerError::Database(cause) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(cause.fault(), rowlock::Fault::PoolClosed);
}

/// Nobody holds a connection while it waits for another one.
#[tokio::test]
async fn one_connection_is_enough() {
    let database = jobs(100).await;
    let pool = database.one_connection_pool().await;
    let logged = pool.clone();
    let handler = move |job: Job<Task>| {
        let pool = logged.clone();
        async move { log(&pool, &job, "").await }
    };
    let background = start(worker(&pool).prefetch(20).lease(SECOND), handler);
    until_in_state(&database.pool, QueueState::Done, 100).await;
    let counts = background.stop().await;
    assert_eq!((counts.completed, counts.lease_lost), (100, 0));
    assert_eq!(runs(&database.pool).await.len(), 100);
}

/// Also such as no clock can show.
#[tokio::test]
async fn a_time_of_any_length_can_be_given() {
    let database = jobs(3).await;
    let longest = Duration::MAX;
    let worker = Task::worker(&database.pool)
        .lease(longest)
        .poll(longest)
        .flush_after(longest)
        .handler_timeout(longest)
        .shutdown_timeout(longest)
        .backoff(Duration::ZERO, longest);
    let background = start(worker, async |job| match job.id {
        1 => Ok(()),
        2 => Err("no"),
        _ => pending().await,
    });
    until("two are handled", async || background.counts().started == 3).await;
    let run = background.signal();
    until_in_state(&database.pool, QueueState::Running, 1).await;
    run.abort();
    let states: Vec<_> = all(&database.pool)
        .await
        .iter()
        .map(|job| job.state)
        .collect();
    assert_eq!(
        states,
        [QueueState::Done, QueueState::Ready, QueueState::Running]
    );
}

/// A handler that never awaits keeps the heartbeats from being sent: the worker says which one it was.
#[tokio::test]
async fn a_handler_that_blocks_its_thread_is_counted() {
    let database = jobs(3).await;
    let pool = &database.pool;
    let background = start(worker(pool).lease(SECOND), async |job| {
        if job.id == 2 {
            std::thread::sleep(Duration::from_millis(400));
        }
        sleep(SHORT).await;
    });
    until_in_state(pool, QueueState::Done, 3).await;
    let counts = background.stop().await;
    assert_eq!((counts.completed, counts.blocked), (3, 1));
}

/// Several workers on one table: each row is handled once.
#[tokio::test]
async fn workers_share_the_rows() {
    let database = jobs(600).await;
    let pool = &database.pool;
    let handled = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..4)
        .map(|index| {
            let handled = handled.clone();
            let handler = move |job: Job<Task>| {
                handled.lock().unwrap().push((job.id, job.attempts));
                async {}
            };
            start(worker(pool).concurrency(4).prefetch(index * 10), handler)
        })
        .collect();
    until_in_state(pool, QueueState::Done, 600).await;
    let mut completed = 0;
    for worker in workers {
        let counts = worker.stop().await;
        assert_eq!((counts.lease_lost, counts.rescued), (0, 0));
        completed += counts.completed;
    }
    assert_eq!(completed, 600);
    let handled = handled.lock().unwrap();
    let distinct: HashSet<_> = handled.iter().collect();
    assert_eq!((handled.len(), distinct.len()), (600, 600));
    assert!(handled.iter().all(|(_, attempt)| *attempt == 1));
}

/// What the handler has done itself is done, however it ends after that.
#[tokio::test]
async fn what_a_handler_completed_counts_as_completed() {
    let database = jobs(5).await;
    let pool = database.pool.clone();
    let worker = worker(&pool).concurrency(1).lease(SECOND);
    let worker = worker.handler_timeout(2 * SECOND);
    let db = pool.clone();
    let background = start(worker, move |job: Job<Task>| {
        let pool = db.clone();
        async move {
            let done = transaction(&pool).run(async |tx| job.complete_in(tx).await);
            done.await.unwrap();
            match job.id {
                1 => panic!("after the commit"),
                2 => Err("after the commit"),
                // The heartbeat finds that it is done.
                3 => pending().await,
                4 => Ok(JobOutcome::Complete),
                _ => Ok(JobOutcome::Completed),
            }
        }
    });
    until("all have ended", async || {
        background.stats.counts().completed == 5
    })
    .await;
    let counts = background.stop().await;
    assert_eq!((counts.completed, counts.lease_lost), (5, 0));
    assert_eq!((counts.retried, counts.dead, counts.panicked), (0, 0, 1));
    assert_eq!(in_state(&pool, QueueState::Done).await, 5);
}

#[tokio::test]
async fn a_worker_without_limits() {
    let database = jobs(50).await;
    for prefetch in [0, usize::MAX] {
        add(&database.pool, 50, "").await;
        let worker = worker(&database.pool)
            .concurrency(usize::MAX)
            .prefetch(prefetch);
        let background = start(worker, async |_| {});
        until_in_state(&database.pool, QueueState::Ready, 0).await;
        until_in_state(&database.pool, QueueState::Running, 0).await;
        background.stop().await;
    }
}
