//! Several workers with one end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rowlock::queue::{Job, QueueState, WorkerCounts, WorkerSet, WorkerSetError};
use rowlock::{Error, Fault, Fence, Queue};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::worker_hooks::{Dropped, Mail, ids, mails, run, table, until, worker};
use super::{Database, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "letters")]
struct Letter {
    #[rowlock(key)]
    id: i64,
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
}

/// So many mails, and two letters.
async fn both(mails: i64) -> Database {
    database(&(table("mails", mails) + &table("letters", 2))).await
}

type Counts = Vec<(&'static str, WorkerCounts)>;

/// A set in a task of its own, and what tells it to stop.
fn start(set: WorkerSet) -> (JoinHandle<Result<Counts, WorkerSetError>>, Arc<Notify>) {
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let set = set.shutdown(async move { stopped.notified().await });
    (tokio::spawn(set.run()), stop)
}

fn completed(counts: &Counts) -> Vec<(&'static str, u64)> {
    let counts = counts.iter();
    counts
        .map(|(table, counts)| (*table, counts.completed))
        .collect()
}

/// Pushes that hang, before five mails.
const FLOOD: &str = "UPDATE mails SET kind = 'push' WHERE id <= 40";

async fn mails_done(pool: &Pool) -> usize {
    ids(pool, "state = 'done' AND kind = 'mail'").await.len()
}

/// Handlers of pushes that end when they may; those of mails end at once.
fn hanging(gate: &Arc<Semaphore>) -> impl Fn(Job<Mail>) -> Handled + use<> {
    let gate = gate.clone();
    move |job| {
        let gate = gate.clone();
        Box::pin(async move {
            if job.kind == "push" {
                gate.acquire().await.unwrap().forget();
            }
        })
    }
}

type Handled = futures_util::future::BoxFuture<'static, ()>;

#[tokio::test]
async fn a_flood_of_one_kind_leaves_handlers_to_the_others() {
    let database = mails(45).await;
    let pool = &database.pool;
    run(pool, FLOOD).await;
    let gate = Arc::new(Semaphore::new(0));
    let pushes = worker(pool).only(Mail::KIND, "push").concurrency(2);
    let others = worker(pool).when(Mail::KIND.ne("push")).concurrency(2);
    let stats = pushes.stats();
    let set = WorkerSet::new()
        .add(pushes, hanging(&gate))
        .add(others, hanging(&gate));
    let (set, stop) = start(set);
    until(async || mails_done(pool).await == 5 && stats.counts().started == 2).await;
    assert_eq!(ids(pool, "state = 'running'").await, [1, 2]);
    gate.add_permits(40);
    until(async || ids(pool, "state = 'done'").await.len() == 45).await;
    stop.notify_one();
    let counts = set.await.unwrap().unwrap();
    assert_eq!(completed(&counts), [("mails", 40), ("mails", 5)]);
}

#[tokio::test]
async fn naive_twin_a_flood_of_one_kind_has_all_handlers_of_one_worker() {
    let database = mails(45).await;
    let pool = &database.pool;
    run(pool, FLOOD).await;
    let gate = Arc::new(Semaphore::new(0));
    let one = worker(pool).concurrency(4);
    let stats = one.stats();
    let (set, stop) = start(WorkerSet::new().add(one, hanging(&gate)));
    until(async || stats.counts().started == 4).await;
    // Nothing else can begin.
    assert_eq!(ids(pool, "state = 'running'").await, [1, 2, 3, 4]);
    assert_eq!(mails_done(pool).await, 0);
    gate.add_permits(40);
    until(async || mails_done(pool).await == 5).await;
    stop.notify_one();
    set.await.unwrap().unwrap();
}

#[tokio::test]
async fn several_models_have_counts_of_their_own() {
    let database = both(3).await;
    let pool = &database.pool;
    let letters = Letter::worker(pool);
    let (mails, letters_) = (worker(pool), letters.stats());
    let stats = mails.stats();
    let set = WorkerSet::new()
        .add(letters, async |_| {})
        .add_task("idle", |stop| async move {
            stop.await;
            Ok::<_, Error>(())
        })
        .add(mails, async |_| {});
    let (set, stop) = start(set);
    until(async || stats.counts().completed + letters_.counts().completed == 5).await;
    stop.notify_one();
    let counts = set.await.unwrap().unwrap();
    assert_eq!(completed(&counts), [("letters", 2), ("mails", 3)]);
}

#[tokio::test]
async fn a_worker_that_ends_by_itself_leaves_the_others() {
    let database = both(1).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let own = Arc::new(Notify::new());
    let ends = own.clone();
    let (mails, letters) = (worker(pool), Letter::worker(pool));
    let (stats, poll) = (letters.stats(), std::time::Duration::from_millis(5));
    // Dropped with the worker.
    let dropped = Arc::new(Dropped(say, "mails".to_owned()));
    let set = WorkerSet::new()
        .add(
            mails.shutdown(async move { ends.notified().await }),
            move |_| {
                let _ = &dropped;
                async {}
            },
        )
        .add(letters.poll(poll), async |_| {});
    let (set, stop) = start(set);
    until(async || stats.counts().completed == 2).await;
    own.notify_one();
    assert_eq!(said.recv().await.as_deref(), Some("mails"));
    run(pool, "UPDATE letters SET state = 'ready'").await;
    until(async || stats.counts().completed == 4).await;
    stop.notify_one();
    let counts = set.await.unwrap().unwrap();
    assert_eq!(counts.len(), 2);
    assert_eq!(counts[1].1.completed, 4);
}

/// The handler of a mail ends when the set was told to stop, and not before.
fn waits_for_the_end(set: WorkerSet, pool: &Pool) -> (WorkerSet, mpsc::UnboundedReceiver<()>) {
    let (say, begun) = mpsc::unbounded_channel();
    let told = Arc::new(Notify::new());
    let tells = told.clone();
    let set = set
        .add(worker(pool), move |_| {
            let (say, told) = (say.clone(), told.clone());
            async move {
                say.send(()).unwrap();
                told.notified().await;
            }
        })
        .add_task("tells", move |stop| async move {
            stop.await;
            tells.notify_one();
            Ok::<_, Error>(())
        });
    (set, begun)
}

#[tokio::test]
async fn an_error_of_one_worker_stops_the_others_in_order() {
    let database = both(1).await;
    let pool = &database.pool;
    let letters = Letter::worker(pool).poll(std::time::Duration::from_millis(5));
    let letters_ = letters.stats();
    let set = WorkerSet::new().add(letters, async |_| {});
    let (set, mut begun) = waits_for_the_end(set, pool);
    let (set, _stop) = start(set);
    begun.recv().await.unwrap();
    until(async || letters_.counts().completed == 2).await;
    run(pool, "ALTER TABLE letters RENAME TO elsewhere").await;
    let error = set.await.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the worker of `letters`"), "{text}");
    assert!(
        matches!(
            error,
            WorkerSetError::Worker {
                table: "letters",
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(Error::from(error).fault(), Some(Fault::Schema));
    assert_eq!(ids(pool, "state = 'done'").await, [1]);
}

#[tokio::test]
async fn an_error_of_a_task_stops_the_workers_in_order() {
    let database = mails(1).await;
    let pool = &database.pool;
    let (set, mut begun) = waits_for_the_end(WorkerSet::new(), pool);
    let set = set.add_task("nightly", move |_| async move {
        begun.recv().await.unwrap();
        Err::<(), _>("no schedule")
    });
    let (set, _stop) = start(set);
    let error = set.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the task `nightly` has failed: no schedule"
    );
    let WorkerSetError::Task { name, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(name, "nightly");
    assert_eq!(Error::from(error).fault(), None);
    assert_eq!(ids(pool, "state = 'done'").await, [1]);
}

#[tokio::test]
async fn a_panic_stops_the_others_in_order_and_goes_on() {
    let database = mails(1).await;
    let pool = &database.pool;
    let (set, mut begun) = waits_for_the_end(WorkerSet::new(), pool);
    let set = set.add_task("nightly", move |_| async move {
        begun.recv().await.unwrap();
        panic!("no night");
        #[allow(unreachable_code)]
        Ok::<_, Error>(())
    });
    let (set, _stop) = start(set);
    let panic = set.await.unwrap_err().into_panic();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "no night");
    assert_eq!(ids(pool, "state = 'done'").await, [1]);
}

#[tokio::test]
async fn a_set_that_is_dropped_drops_its_handlers() {
    let database = both(2).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let begun = Arc::new(AtomicUsize::new(0));
    let handler = |name: &str| {
        let (say, begun, name) = (say.clone(), begun.clone(), name.to_owned());
        move || -> Handled {
            let dropped = Dropped(say.clone(), name.clone());
            let begun = begun.clone();
            Box::pin(async move {
                let _dropped = dropped;
                begun.fetch_add(1, Ordering::SeqCst);
                std::future::pending().await
            })
        }
    };
    let (mails, letters) = (handler("mail"), handler("letter"));
    let set = WorkerSet::new()
        .add(worker(pool), move |_| mails())
        .add(Letter::worker(pool), move |_| letters());
    let (set, _stop) = start(set);
    until(async || begun.load(Ordering::SeqCst) == 4).await;
    set.abort();
    let mut dropped = Vec::new();
    for _ in 0..4 {
        dropped.push(said.recv().await.unwrap());
    }
    dropped.sort_unstable();
    assert_eq!(dropped, ["letter", "letter", "mail", "mail"]);
}

#[tokio::test]
async fn a_set_without_members_ends_at_once() {
    assert!(WorkerSet::new().run().await.unwrap().is_empty());
}
