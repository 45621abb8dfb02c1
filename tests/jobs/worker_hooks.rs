//! Hooks around the handler of a worker, and what a handler knows about its job.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rowlock::queue::{
    Cancelled, HandlerOutcome, Job, JobOutcome, Next, QueueState, Worker, WorkerCounts,
    WorkerError, WorkerStats,
};
use rowlock::{Fence, Queue};
use sqlx::AssertSqlSafe;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Database, Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "mails")]
pub(super) struct Mail {
    #[rowlock(key)]
    pub(super) id: i64,
    #[rowlock(filter)]
    pub(super) kind: String,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 2))]
    pub(super) attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    last_error: Option<String>,
}

/// A table of this name with so many jobs.
pub(super) fn table(name: &str, count: i64) -> String {
    let time = match NAME {
        "PostgreSQL" => "timestamptz",
        _ => "text",
    };
    format!(
        "CREATE TABLE {name} (id bigint NOT NULL PRIMARY KEY, kind text NOT NULL DEFAULT 'mail', run_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP,
             state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until {time},
             last_error text);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) INSERT INTO {name} (id) SELECT i FROM n WHERE i <= {count};"
    )
}

pub(super) async fn mails(count: i64) -> Database {
    database(&table("mails", count)).await
}

pub(super) async fn run(pool: &Pool, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

pub(super) async fn ids(pool: &Pool, condition: &str) -> Vec<i64> {
    let sql = format!("SELECT id FROM mails WHERE {condition} ORDER BY id");
    let ids = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool);
    ids.await.unwrap()
}

pub(super) async fn errors(pool: &Pool) -> Vec<Option<String>> {
    let errors = sqlx::query_scalar("SELECT last_error FROM mails ORDER BY id").fetch_all(pool);
    errors.await.unwrap()
}

/// The least that a worker takes.
pub(super) const LEASE: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

pub(super) fn worker(pool: &Pool) -> Worker<Db, Mail> {
    Mail::worker(pool).lease(LEASE).backoff(HOUR, HOUR)
}

/// A worker in a task of its own.
pub(super) struct Background {
    pub(super) stats: WorkerStats,
    stop: Arc<Notify>,
    pub(super) task: JoinHandle<Result<WorkerCounts, WorkerError>>,
}

impl Background {
    /// Tells it to stop.
    pub(super) fn signal(&self) {
        self.stop.notify_one();
    }

    pub(super) async fn stop(self) -> WorkerCounts {
        self.signal();
        self.task.await.unwrap().unwrap()
    }

    pub(super) async fn until(&self, reached: impl Fn(WorkerCounts) -> bool) {
        until(async || reached(self.stats.counts())).await;
    }
}

/// Waits for something that must come.
pub(super) async fn until(reached: impl AsyncFn() -> bool) {
    while !reached().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(super) fn background<R>(
    worker: Worker<Db, Mail>,
    run: impl FnOnce(Worker<Db, Mail>) -> R,
) -> Background
where
    R: Future<Output = Result<WorkerCounts, WorkerError>> + Send + 'static,
{
    let (stats, stop) = (worker.stats(), Arc::new(Notify::new()));
    let stopped = stop.clone();
    let worker = worker.shutdown(async move { stopped.notified().await });
    let task = tokio::spawn(run(worker));
    Background { stats, stop, task }
}

fn start<F, R>(worker: Worker<Db, Mail>, handler: F) -> Background
where
    F: Fn(Job<Mail>) -> R + Send + Sync + 'static,
    R: Future<Output: HandlerOutcome> + Send + 'static,
{
    background(worker, |worker| worker.run(handler))
}

/// Says something when it is dropped.
pub(super) struct Dropped(pub(super) mpsc::UnboundedSender<String>, pub(super) String);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(self.1.clone());
    }
}

/// What was said, in order.
fn all(mut said: mpsc::UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| said.try_recv().ok()).collect()
}

/// A hook that says when it begins, and what the rest came to.
fn speaking(
    name: &'static str,
    say: &mpsc::UnboundedSender<String>,
) -> impl Fn(Job<Mail>, Next) -> futures_util::future::BoxFuture<'static, JobOutcome> + 'static {
    let say = say.clone();
    move |job, next| {
        let say = say.clone();
        Box::pin(async move {
            say.send(format!("{name} of {}", job.id)).unwrap();
            let outcome = next.run().await;
            say.send(format!("{name}: {outcome:?}")).unwrap();
            outcome
        })
    }
}

fn retry(error: &str) -> String {
    format!("Retry {{ error: {error:?}, after: None }}")
}

#[tokio::test]
async fn the_first_hook_is_the_outermost() {
    let database = mails(1).await;
    let (say, said) = mpsc::unbounded_channel();
    let worker = worker(&database.pool)
        .around(speaking("one", &say))
        .around(speaking("two", &say))
        .around(speaking("three", &say));
    let background = start(worker, move |_| {
        say.send("handler".to_owned()).unwrap();
        async {}
    });
    background.until(|counts| counts.completed == 1).await;
    background.stop().await;
    let expected = [
        "one of 1",
        "two of 1",
        "three of 1",
        "handler",
        "three: Complete",
        "two: Complete",
        "one: Complete",
    ];
    assert_eq!(all(said), expected);
}

async fn fails(id: i64) -> Result<(), String> {
    match id {
        1 => Err("not today".to_owned()),
        2 => panic!("no address"),
        _ => pending().await,
    }
}

#[tokio::test]
async fn hooks_see_errors_panics_and_timeouts() {
    let database = mails(3).await;
    let pool = &database.pool;
    let (say, said) = mpsc::unbounded_channel();
    let worker = worker(pool)
        .handler_timeout(SOON)
        .around(speaking("outer", &say))
        .around(speaking("inner", &say));
    let background = start(worker, async |job| fails(job.id).await);
    background.until(|counts| counts.retried == 3).await;
    let counts = background.stop().await;
    let seen = (counts.started, counts.panicked, counts.timed_out);
    assert_eq!(seen, (3, 1, 1));
    let expected = [
        "not today",
        "the handler panicked: no address",
        "the handler took longer than 20ms",
    ];
    assert_eq!(errors(pool).await, expected.map(|error| Some(error.into())));
    let said = all(said);
    for error in expected {
        let error = retry(error);
        for name in ["inner", "outer"] {
            let times = said
                .iter()
                .filter(|said| **said == format!("{name}: {error}"));
            assert_eq!(times.count(), 1, "{name} of {error}: {said:?}");
        }
    }
}

/// What a handler wraps around another one by hand is dropped with it.
#[tokio::test]
async fn naive_twin_around_by_hand_sees_neither_panics_nor_timeouts() {
    let database = mails(3).await;
    let (say, said) = mpsc::unbounded_channel();
    let worker = worker(&database.pool).handler_timeout(SOON);
    let background = start(worker, move |job| {
        let say = say.clone();
        async move {
            let outcome = fails(job.id).await;
            say.send(format!("{outcome:?}")).unwrap();
            outcome
        }
    });
    background.until(|counts| counts.retried == 3).await;
    background.stop().await;
    assert_eq!(all(said), ["Err(\"not today\")"]);
}

#[tokio::test]
async fn hooks_decide_what_becomes_of_the_job() {
    let database = mails(4).await;
    let pool = &database.pool;
    let (say, said) = mpsc::unbounded_channel();
    let worker = worker(pool).around(|job, next| async move {
        match job.id {
            1 => JobOutcome::fail("unwanted"),
            2 => match next.run().await {
                JobOutcome::Retry { error, .. } => JobOutcome::fail(error),
                outcome => outcome,
            },
            // The handler of one that is not awaited is dropped.
            3 => tokio::select! {
                biased;
                outcome = next.run() => outcome,
                () = std::future::ready(()) => JobOutcome::Snooze(HOUR),
            },
            _ => next.run().await,
        }
    });
    let background = start(worker, move |job| {
        let say = say.clone();
        async move {
            let _dropped = Dropped(say, format!("handler of {}", job.id));
            match job.id {
                2 => Err("broken"),
                3 => pending().await,
                _ => Ok(()),
            }
        }
    });
    let ended = |counts: WorkerCounts| counts.dead + counts.completed + counts.snoozed == 4;
    background.until(ended).await;
    let counts = background.stop().await;
    assert_eq!(
        (
            counts.dead,
            counts.completed,
            counts.snoozed,
            counts.started
        ),
        (2, 1, 1, 4)
    );
    let mut said = all(said);
    said.sort_unstable();
    assert_eq!(said, ["handler of 2", "handler of 3", "handler of 4"]);
    assert_eq!(ids(pool, "state = 'dead'").await, [1, 2]);
    assert_eq!(ids(pool, "state = 'done'").await, [4]);
    assert_eq!(
        errors(pool).await[..2],
        [Some("unwanted".into()), Some("broken".into())]
    );
}

/// Before the handler, and after it has taken all of its time.
#[tokio::test]
async fn a_hook_that_hangs_is_cut_at_the_deadline_of_the_handler() {
    let database = mails(3).await;
    let pool = &database.pool;
    let (say, said) = mpsc::unbounded_channel();
    let worker = worker(pool)
        .handler_timeout(SOON)
        .around(speaking("outer", &say))
        .around(|job, next| async move {
            if job.id == 1 {
                pending::<()>().await;
            }
            let outcome = next.run().await;
            assert_eq!(job.id == 3, job.deadline() <= Instant::now());
            pending::<()>().await;
            outcome
        });
    let handled = say.clone();
    let background = start(worker, move |job| {
        let say = handled.clone();
        async move {
            say.send(format!("handler of {}", job.id)).unwrap();
            if job.id == 3 {
                pending().await
            }
        }
    });
    drop(say);
    background.until(|counts| counts.retried == 3).await;
    let counts = background.stop().await;
    assert_eq!((counts.timed_out, counts.panicked), (3, 0));
    let late = "the handler took longer than 20ms";
    assert_eq!(
        errors(pool).await,
        [late; 3].map(|error| Some(error.into()))
    );
    let said = all(said);
    let count = |text: &str| said.iter().filter(|said| said.as_str() == text).count();
    assert_eq!(count(&format!("outer: {}", retry(late))), 3, "{said:?}");
    let handled = [1, 2, 3].map(|id| count(&format!("handler of {id}")));
    assert_eq!(handled, [0, 1, 1]);
}

#[tokio::test]
async fn a_hook_that_panics_is_like_a_handler_that_panics() {
    let database = mails(3).await;
    let pool = &database.pool;
    let (say, said) = mpsc::unbounded_channel();
    let worker = worker(pool)
        .around(speaking("outer", &say))
        .around(|job, next| {
            assert!(job.id != 1, "before a future");
            async move {
                let _ = next.run().await;
                panic!("after {}", job.id)
            }
        });
    let background = start(worker, async |job| {
        assert!(job.id != 3, "in the handler");
    });
    background.until(|counts| counts.retried == 3).await;
    let counts = background.stop().await;
    // One job panics once, whoever sees it.
    assert_eq!((counts.panicked, counts.timed_out), (3, 0));
    let errors_ = ["before a future", "after 2", "after 3"];
    let errors_ = errors_.map(|error| format!("the handler panicked: {error}"));
    assert_eq!(errors(pool).await, errors_.clone().map(Some));
    let said = all(said);
    for error in errors_ {
        assert!(
            said.contains(&format!("outer: {}", retry(&error))),
            "{said:?}"
        );
    }
}

/// A hook and a handler that say when they begin, and when they are dropped.
fn hanging(
    pool: &Pool,
) -> (
    Worker<Db, Mail>,
    Said,
    impl Fn(Job<Mail>) -> Hanging + use<>,
) {
    let (say, said) = mpsc::unbounded_channel();
    let handler = say.clone();
    let worker = worker(pool).around(move |_, next| {
        let dropped = Dropped(say.clone(), "hook dropped".to_owned());
        async move {
            let _dropped = dropped;
            next.run().await
        }
    });
    let handler = move |_| -> Hanging {
        let dropped = Dropped(handler.clone(), "handler dropped".to_owned());
        Box::pin(async move {
            dropped.0.send("begun".to_owned()).unwrap();
            let _dropped = dropped;
            pending().await
        })
    };
    (worker, said, handler)
}

type Said = mpsc::UnboundedReceiver<String>;
type Hanging = futures_util::future::BoxFuture<'static, ()>;

async fn both_are_dropped(said: &mut Said) {
    assert_eq!(said.recv().await.as_deref(), Some("handler dropped"));
    assert_eq!(said.recv().await.as_deref(), Some("hook dropped"));
}

#[tokio::test]
async fn the_hooks_of_a_job_that_is_cancelled_or_lost_are_dropped() {
    for is_cancelled in [true, false] {
        let database = mails(1).await;
        let pool = &database.pool;
        let (worker, mut said, handler) = hanging(pool);
        let background = start(worker, handler);
        assert_eq!(said.recv().await.as_deref(), Some("begun"));
        match is_cancelled {
            true => assert_eq!(Mail::cancel(pool, 1).await.unwrap(), Cancelled::Now),
            false => run(pool, "UPDATE mails SET fence = fence + 1").await,
        }
        both_are_dropped(&mut said).await;
        let counts = background.stop().await;
        assert_eq!((counts.lease_lost, counts.retried), (1, 0));
    }
}

/// The handler ends with its job, also in a task that nothing else ends.
#[tokio::test]
async fn a_handler_that_a_hook_has_spawned_is_dropped_with_its_job() {
    let database = mails(1).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let worker = worker(pool)
        .shutdown_timeout(Duration::ZERO)
        .around(|_, next| async move { tokio::spawn(next.run()).await.unwrap() });
    let background = start(worker, move |_: Job<Mail>| {
        let dropped = Dropped(say.clone(), "dropped".to_owned());
        async move {
            dropped.0.send("begun".to_owned()).unwrap();
            let _dropped = dropped;
            pending::<()>().await;
        }
    });
    assert_eq!(said.recv().await.as_deref(), Some("begun"));
    assert_eq!(background.stop().await.released, 1);
    assert_eq!(said.recv().await.as_deref(), Some("dropped"));
}

#[tokio::test]
async fn the_hooks_of_a_worker_that_stops_are_waited_for_and_then_dropped() {
    let database = mails(1).await;
    let pool = &database.pool;
    let may_end = Arc::new(Notify::new());
    let (say, mut said) = mpsc::unbounded_channel();
    let ends = may_end.clone();
    let speaking = worker(pool).around(move |_, next| {
        let (ends, say) = (ends.clone(), say.clone());
        async move {
            say.send(()).unwrap();
            let _ = next.run().await;
            ends.notified().await;
            JobOutcome::Snooze(Duration::ZERO)
        }
    });
    let background = start(speaking, async |_| {});
    said.recv().await;
    background.signal();
    may_end.notify_one();
    let counts = background.task.await.unwrap().unwrap();
    assert_eq!((counts.snoozed, counts.released), (1, 0));

    let (worker, mut said, handler) = hanging(pool);
    let background = start(worker.shutdown_timeout(Duration::ZERO), handler);
    assert_eq!(said.recv().await.as_deref(), Some("begun"));
    let counts = background.stop().await;
    assert_eq!((counts.snoozed, counts.released), (0, 1));
    both_are_dropped(&mut said).await;
    assert_eq!(ids(pool, "state = 'ready' AND attempts = 0").await, [1]);
}

#[tokio::test]
async fn the_hooks_of_a_worker_that_is_dropped_are_dropped() {
    let database = mails(1).await;
    let (worker, mut said, handler) = hanging(&database.pool);
    let background = start(worker, handler);
    assert_eq!(said.recv().await.as_deref(), Some("begun"));
    background.task.abort();
    both_are_dropped(&mut said).await;
}

#[tokio::test]
async fn a_handler_knows_its_attempt() {
    let database = mails(1).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let again = Duration::ZERO;
    let background = start(worker(pool).poll(SOON), move |job| {
        let attempt = (job.attempt(), job.max_attempts(), job.is_last_attempt());
        say.send(attempt).unwrap();
        async move { JobOutcome::retry_after("again", again) }
    });
    assert_eq!(said.recv().await, Some((1, 2, false)));
    assert_eq!(said.recv().await, Some((2, 2, true)));
    background.until(|counts| counts.dead == 1).await;
    background.stop().await;
    run(pool, "UPDATE mails SET state = 'ready', attempts = 1").await;
    assert!(Mail::claim(pool, 1).await.unwrap()[0].is_last_attempt());
}

/// The lease moves with every heartbeat, and the deadline does not.
#[tokio::test]
async fn a_handler_knows_its_deadline_and_its_lease() {
    let database = mails(1).await;
    let (say, mut said) = mpsc::unbounded_channel();
    let background = start(worker(&database.pool).handler_timeout(HOUR), move |job| {
        say.send(job.clone()).unwrap();
        async move {
            let (lease, deadline) = (job.leased_until(), job.deadline());
            assert!(lease <= Instant::now() + LEASE);
            assert!(deadline <= Instant::now() + HOUR);
            assert!(deadline > Instant::now() + HOUR / 2);
            while job.leased_until() <= lease {
                tokio::task::yield_now().await;
            }
            assert!(job.leased_until() <= Instant::now() + LEASE);
            assert_eq!(job.deadline(), deadline);
        }
    });
    let job = said.recv().await.unwrap();
    background.until(|counts| counts.completed == 1).await;
    background.stop().await;
    assert!(job.is_stopped());
}
