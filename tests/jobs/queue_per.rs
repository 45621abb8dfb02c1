//! One running job per value of a column, in order, and turns between the values.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock::queue::{Claimed, Job, QueueState, WorkerError};
use rowlock::{Fence, Queue};
use rowlock_tests::random::Random;
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::Notify;

use super::{Db, NAME, Pool, database};

pub(super) type Timestamp = chrono::DateTime<chrono::Utc>;

/// Of one customer one job at a time; of none as many as there are.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
pub(super) struct Invoice {
    #[rowlock(key)]
    pub(super) id: i64,
    #[rowlock(per, filter)]
    customer: Option<i64>,
    #[rowlock(filter)]
    kind: String,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 100))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    last_error: Option<String>,
}

/// The same rows, of which any can be claimed.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Any {
    #[rowlock(key)]
    id: i64,
    customer: Option<i64>,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 100))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// Strictly in the order of `id`, a key of two columns, no column for the state.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Event {
    #[rowlock(key, sequence)]
    id: i64,
    #[rowlock(key, per)]
    kind: String,
    #[rowlock(priority)]
    urgency: i32,
    #[rowlock(run_at)]
    run_at: Option<Timestamp>,
    #[rowlock(dead)]
    failed_at: Option<Timestamp>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// Up to three of a customer.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Render {
    #[rowlock(key)]
    id: i64,
    #[rowlock(per(max = 3))]
    customer: Option<i64>,
    #[rowlock(slot)]
    slot: Option<i16>,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 100))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

const NOW: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_secs(3600);

async fn table(ddl: &str) -> super::Database {
    let time = match NAME {
        "PostgreSQL" => "timestamptz",
        _ => "text",
    };
    database(&format!(
        "CREATE TABLE jobs (id bigint NOT NULL PRIMARY KEY, customer bigint, slot smallint, kind text NOT NULL DEFAULT 'mail', urgency int NOT NULL DEFAULT 0,
             run_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP, state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0,
             fence bigint NOT NULL DEFAULT 0, leased_until {time}, failed_at {time}, finished_at {time}, last_error text); {ddl}"
    ))
    .await
}

pub(super) async fn invoices() -> super::Database {
    table(Invoice::ddl::<Db>()).await
}

pub(super) async fn run(pool: &Pool, sql: &str) {
    pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

/// Jobs of these ids, each with its customer.
pub(super) async fn add(pool: &Pool, jobs: impl IntoIterator<Item = (i64, Option<i64>)>) {
    let jobs: Vec<_> = jobs.into_iter().collect();
    for jobs in jobs.chunks(500) {
        let rows = jobs.iter().map(|(id, customer)| match customer {
            Some(customer) => format!("({id}, {customer})"),
            None => format!("({id}, NULL)"),
        });
        let rows = rows.collect::<Vec<_>>().join(", ");
        run(
            pool,
            &format!("INSERT INTO jobs (id, customer) VALUES {rows}"),
        )
        .await;
    }
}

pub(super) fn ids(jobs: &[Claimed<Invoice>]) -> Vec<i64> {
    jobs.iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn one_of_each_customer_is_claimed_and_the_next_after_its_end() {
    let database = invoices().await;
    let pool = &database.pool;
    add(
        pool,
        [
            (1, Some(7)),
            (2, Some(7)),
            (3, Some(8)),
            (4, None),
            (5, Some(7)),
            (6, None),
        ],
    )
    .await;
    let mut first = Invoice::claim(pool, 10).await.unwrap();
    assert_eq!(ids(&first), [1, 3, 4, 6]);
    assert!(Invoice::claim(pool, 10).await.unwrap().is_empty());
    first.remove(0).complete(pool).await.unwrap();
    let second = Invoice::claim(pool, 10).await.unwrap();
    assert_eq!(ids(&second), [2]);
    // A retry that is due later steps back.
    for job in second {
        job.retry_after(pool, "no", HOUR).await.unwrap();
    }
    let third = Invoice::claim(pool, 10).await.unwrap();
    assert_eq!(ids(&third), [5]);
    // What a dead worker holds is held until it is taken back.
    run(
        pool,
        "UPDATE jobs SET run_at = CURRENT_TIMESTAMP WHERE id = 2",
    )
    .await;
    assert!(Invoice::claim(pool, 10).await.unwrap().is_empty());
    run(pool, "UPDATE jobs SET leased_until = run_at WHERE id = 5").await;
    assert_eq!(Invoice::rescue(pool).await.unwrap().ready, 1);
    assert_eq!(Invoice::claim(pool, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_naive_twin_claims_two_of_a_customer() {
    let database = table("").await;
    let pool = &database.pool;
    add(pool, [(1, Some(7)), (2, Some(7))]).await;
    let jobs = Any::claim(pool, 10).await.unwrap();
    assert_eq!(
        jobs.iter().map(|job| job.customer).collect::<Vec<_>>(),
        [Some(7); 2]
    );
}

#[tokio::test]
async fn conditions_count_before_the_order() {
    let database = invoices().await;
    let pool = &database.pool;
    add(pool, [(1, Some(7)), (2, Some(7)), (3, Some(8)), (4, None)]).await;
    run(pool, "UPDATE jobs SET kind = 'push' WHERE id IN (1, 4)").await;
    let mails = Invoice::claim(pool, 10)
        .only(Invoice::KIND, "mail")
        .await
        .unwrap();
    assert_eq!(ids(&mails), [2, 3]);
    let pushes = Invoice::claim(pool, 10)
        .only(Invoice::KIND, "push")
        .await
        .unwrap();
    assert_eq!(ids(&pushes), [4]);
}

/// Behind thousands of rows that have to wait.
#[tokio::test]
async fn rows_that_wait_keep_no_others() {
    let database = invoices().await;
    let pool = &database.pool;
    add(pool, (0..3000).map(|id| (id, Some(id % 2)))).await;
    add(
        pool,
        (3000..3030).map(|id| (id, (id % 3 != 0).then_some(id))),
    )
    .await;
    let first = Invoice::claim(pool, 2).await.unwrap();
    assert_eq!(ids(&first), [0, 1]);
    let mut seen = Vec::new();
    loop {
        let jobs = Invoice::claim(pool, 4).await.unwrap();
        if jobs.is_empty() {
            break;
        }
        seen.extend(ids(&jobs));
    }
    seen.sort_unstable();
    assert_eq!(seen, (3000..3030).collect::<Vec<_>>());
    let at_once = Invoice::release_all(first, pool).await;
    assert_eq!(at_once, 2);
    assert_eq!(ids(&Invoice::claim(pool, 100).await.unwrap()), [0, 1]);
}

impl Invoice {
    async fn release_all(jobs: Vec<Claimed<Self>>, pool: &Pool) -> usize {
        let count = jobs.len();
        assert!(Claimed::release_many(pool, jobs).await.unwrap().is_empty());
        count
    }
}

/// While a customer of whom there are always jobs fills the beginning, the others take turns.
#[tokio::test]
async fn each_customer_has_its_turn() {
    let database = invoices().await;
    let pool = &database.pool;
    add(pool, (0..2000).map(|id| (id, Some(0)))).await;
    add(pool, (2000..4000).map(|id| (id, Some(1 + id % 100)))).await;
    let held = Invoice::claim(pool, 1).await.unwrap();
    let served: Arc<Mutex<BTreeMap<i64, usize>>> = Arc::default();
    let enough = Arc::new(Notify::new());
    let signal = enough.clone();
    let counted = served.clone();
    let worker = Invoice::worker(pool)
        .concurrency(10)
        .shutdown(async move { signal.notified().await });
    let ran = worker.run(move |job: Job<Invoice>| {
        let (served, enough) = (counted.clone(), enough.clone());
        async move {
            let mut served = served.lock().unwrap();
            *served.entry(job.customer.unwrap()).or_default() += 1;
            if served.values().sum::<usize>() >= 400 {
                enough.notify_one();
            }
        }
    });
    ran.await.unwrap();
    drop(held);
    let served = served.lock().unwrap();
    assert_eq!(served.len(), 100, "{served:?}");
    let (least, most) = (served.values().min(), served.values().max());
    assert!(most.unwrap() - least.unwrap() <= 4, "{served:?}");
}

/// Eight that claim, end, put off, give back and add, at random.
#[tokio::test]
async fn whatever_happens_never_two_of_a_customer() {
    let mut random = Random::new(13);
    let database = invoices().await;
    let pool = &database.pool;
    add(
        pool,
        (0..400).map(|id| (id, (id % 9 > 0).then_some(id % 9))),
    )
    .await;
    let running = Arc::new(Mutex::new(HashSet::new()));
    let tasks = (1..=8).map(|task| {
        let (pool, running, mut random) = (pool.clone(), running.clone(), random.fork());
        tokio::spawn(async move {
            let mut next = 1000 * task;
            for _ in 0..25 {
                let jobs = Invoice::claim(&pool, 1 + random.below(11)).await.unwrap();
                for job in &jobs {
                    if let Some(customer) = job.customer {
                        assert!(running.lock().unwrap().insert(customer), "two of {customer}");
                    }
                }
                for job in jobs {
                    tokio::task::yield_now().await;
                    if let Some(customer) = job.customer {
                        running.lock().unwrap().remove(&customer);
                    }
                    match random.below(6) {
                        0 => drop(job.retry_after(&pool, "no", NOW).await.unwrap()),
                        1 => job.snooze(&pool, HOUR).await.unwrap(),
                        2 => job.release(&pool).await.unwrap(),
                        _ => job.complete(&pool).await.unwrap(),
                    }
                }
                if random.below(2) == 0 {
                    next += 1;
                    let past = match NAME {
                        "PostgreSQL" => "now() - interval '1 hour'",
                        _ => "datetime('now', '-1 hour')",
                    };
                    let customer = 1 + random.below(8);
                    run(&pool, &format!("INSERT INTO jobs (id, customer, run_at) VALUES ({next}, {customer}, {past})")).await;
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // None was lost on the way.
    run(pool, "UPDATE jobs SET run_at = CURRENT_TIMESTAMP").await;
    while let Some(job) = Invoice::claim(pool, 1).await.unwrap().pop() {
        job.complete(pool).await.unwrap();
    }
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state <> 'done'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(open, 0);
}

/// The next job of a customer does not wait for the next look.
#[tokio::test]
async fn a_worker_goes_on_as_soon_as_a_job_has_ended() {
    for prefetch in [0, 8] {
        let database = invoices().await;
        let pool = &database.pool;
        add(pool, (0..200).map(|id| (id, Some(id % 5)))).await;
        let done: Arc<Mutex<HashMap<i64, Vec<i64>>>> = Arc::default();
        let stop = Arc::new(Notify::new());
        let workers = (0..2).map(|_| {
            let (done, stop) = (done.clone(), stop.clone());
            let signal = stop.clone();
            Invoice::worker(pool)
                .concurrency(4)
                .prefetch(prefetch)
                .poll(HOUR)
                .shutdown(async move { signal.notified().await })
                .run(move |job: Job<Invoice>| {
                    let (done, stop) = (done.clone(), stop.clone());
                    async move {
                        let mut done = done.lock().unwrap();
                        done.entry(job.customer.unwrap()).or_default().push(job.id);
                        if done.values().map(Vec::len).sum::<usize>() == 200 {
                            stop.notify_one();
                            stop.notify_one();
                            stop.notify_waiters();
                        }
                    }
                })
        });
        let workers = workers.map(tokio::spawn).collect::<Vec<_>>();
        let mut completed = 0;
        for worker in workers {
            // Whoever has the last one wakes one other.
            completed += worker.await.unwrap().unwrap().completed;
            stop.notify_one();
        }
        assert_eq!(completed, 200);
        for (customer, ids) in done.lock().unwrap().iter() {
            assert!(ids.is_sorted(), "{customer}: {ids:?}");
        }
    }
}

#[tokio::test]
async fn a_worker_without_the_index_does_not_begin() {
    let database = table("").await;
    let pool = &database.pool;
    add(pool, [(1, Some(7))]).await;
    let refused = Invoice::worker(pool).run(async |_: Job<Invoice>| ()).await;
    let Err(WorkerError::MissingIndex { index, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(Invoice::ddl::<Db>().contains(index));
    let ready: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'ready'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(ready, 1);
}

/// The same, and kinds can be paused.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", pauses = "job_pauses")]
struct Paused {
    #[rowlock(key)]
    id: i64,
    #[rowlock(per)]
    customer: Option<i64>,
    #[rowlock(filter)]
    kind: String,
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

/// A paused job keeps no other of its customer.
#[tokio::test]
async fn of_each_customer_the_first_that_is_not_paused() {
    let database = table(Paused::ddl::<Db>()).await;
    let pool = &database.pool;
    add(pool, (0..600).map(|id| (id, Some(7)))).await;
    add(
        pool,
        [(600, Some(7)), (601, Some(8)), (602, None), (603, None)],
    )
    .await;
    run(
        pool,
        "UPDATE jobs SET kind = 'push' WHERE id < 600 OR id = 602",
    )
    .await;
    assert!(
        Paused::pause(pool)
            .only(Paused::KIND, "push")
            .await
            .unwrap()
    );
    let claimed = Paused::claim(pool, 10).await.unwrap();
    let ids: Vec<_> = claimed.iter().map(|job| job.id).collect();
    assert_eq!(ids, [600, 601, 603]);
    assert!(
        Paused::resume(pool)
            .only(Paused::KIND, "push")
            .await
            .unwrap()
    );
    let claimed = Paused::claim(pool, 10).await.unwrap();
    let ids: Vec<_> = claimed.iter().map(|job| job.id).collect();
    assert_eq!(ids, [602]);
}

#[tokio::test]
async fn three_of_each_customer_are_running_at_most() {
    let database = table(Render::ddl::<Db>()).await;
    let pool = &database.pool;
    add(pool, (1..=10).map(|id| (id, Some(7)))).await;
    add(
        pool,
        [
            (11, Some(8)),
            (12, None),
            (13, None),
            (14, None),
            (15, None),
        ],
    )
    .await;
    let mut first = Render::claim(pool, 20).await.unwrap();
    let ids: Vec<_> = first.iter().map(|job| job.id).collect();
    assert_eq!(ids, [1, 2, 3, 11, 12, 13, 14, 15]);
    let slots: HashSet<_> = first[..3].iter().map(|job| job.slot.unwrap()).collect();
    assert_eq!(slots, HashSet::from([1, 2, 3]));
    assert!(Render::claim(pool, 20).await.unwrap().is_empty());
    let second = first.remove(1);
    let slot = second.slot;
    second.complete(pool).await.unwrap();
    let next = Render::claim(pool, 20).await.unwrap();
    assert_eq!(next.len(), 1);
    assert_eq!((next[0].id, next[0].slot), (4, slot));
    // Nobody makes a fourth, also by hand.
    let by_hand = pool.execute("UPDATE jobs SET state = 'running', slot = 3 WHERE id = 10");
    assert!(by_hand.await.is_err());
}

#[tokio::test]
async fn never_a_fourth_whoever_claims() {
    let mut random = Random::new(31);
    let database = table(Render::ddl::<Db>()).await;
    let pool = &database.pool;
    add(pool, (0..300).map(|id| (id, Some(id % 4)))).await;
    let running: Arc<Mutex<HashMap<i64, i32>>> = Arc::default();
    let tasks = (0..6).map(|_| {
        let (pool, running, mut random) = (pool.clone(), running.clone(), random.fork());
        tokio::spawn(async move {
            loop {
                let jobs = Render::claim(&pool, 1 + random.below(8)).await.unwrap();
                if jobs.is_empty() && running.lock().unwrap().values().all(|count| *count == 0) {
                    return;
                }
                for job in &jobs {
                    let mut running = running.lock().unwrap();
                    let count = running.entry(job.customer.unwrap()).or_default();
                    *count += 1;
                    assert!(*count <= 3, "{count} of {:?}", job.customer);
                }
                for job in jobs {
                    tokio::task::yield_now().await;
                    *running
                        .lock()
                        .unwrap()
                        .get_mut(&job.customer.unwrap())
                        .unwrap() -= 1;
                    match random.below(5) {
                        0 => drop(job.retry_after(&pool, "no", NOW).await.unwrap()),
                        1 => job.release(&pool).await.unwrap(),
                        _ => job.complete(&pool).await.unwrap(),
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    while let Some(job) = Render::claim(pool, 1).await.unwrap().pop() {
        job.complete(pool).await.unwrap();
    }
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state <> 'done'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(open, 0);
}

async fn events(count: i64) -> super::Database {
    let database = table(Event::ddl::<Db>()).await;
    let rows = (1..=count).map(|id| format!("({id}, 'order {}', {})", id % 2, -id));
    let rows = rows.collect::<Vec<_>>().join(", ");
    run(
        &database.pool,
        &format!("INSERT INTO jobs (id, kind, urgency) VALUES {rows}"),
    )
    .await;
    database
}

fn numbers(events: &[Claimed<Event>]) -> Vec<i64> {
    let mut ids: Vec<_> = events.iter().map(|event| event.id).collect();
    ids.sort_unstable();
    ids
}

/// The priorities of all of them are against it.
#[tokio::test]
async fn a_sequence_is_strict() {
    let database = events(8).await;
    let pool = &database.pool;
    let mut first = Event::claim(pool, 10).await.unwrap();
    assert_eq!(numbers(&first), [1, 2]);
    first.sort_by_key(|event| event.id);
    let (one, two) = (first.remove(0), first.remove(0));
    one.retry_after(pool, "no", HOUR).await.unwrap();
    two.complete(pool).await.unwrap();
    // 1 waits, and keeps 3.
    let second = Event::claim(pool, 10).await.unwrap();
    assert_eq!(numbers(&second), [4]);
    run(pool, "UPDATE jobs SET run_at = CURRENT_TIMESTAMP").await;
    let mut third = Event::claim(pool, 10).await.unwrap();
    assert_eq!(numbers(&third), [1]);
    // A dead one keeps none.
    third.remove(0).fail(pool, "never").await.unwrap();
    assert_eq!(numbers(&Event::claim(pool, 10).await.unwrap()), [3]);
}

#[tokio::test]
async fn a_sequence_that_waits_keeps_no_other() {
    let database = events(1200).await;
    let pool = &database.pool;
    run(
        pool,
        "UPDATE jobs SET kind = 'order 0', urgency = 0 WHERE id <= 1100",
    )
    .await;
    run(
        pool,
        "UPDATE jobs SET kind = 'order ' || id, urgency = 1 WHERE id > 1100",
    )
    .await;
    let held = Event::claim(pool, 1).await.unwrap();
    assert_eq!(numbers(&held), [1]);
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let events = Event::claim(pool, 7).await.unwrap();
        assert!(!events.is_empty());
        seen.extend(numbers(&events));
    }
    seen.sort_unstable();
    assert_eq!(seen, (1101..=1200).collect::<Vec<_>>());
}

/// A row that the database refuses to write lets the next one of its customer go on, as it is not running.
#[tokio::test]
async fn a_refused_row_hurts_only_itself() {
    let database = invoices().await;
    let pool = &database.pool;
    add(pool, (1..=6).map(|id| (id, Some(id % 2)))).await;
    let trigger = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION refuse();"
        }
        _ => {
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN OLD.id = 1 BEGIN SELECT RAISE(ABORT, 'not this one'); END;"
        }
    };
    run(pool, trigger).await;
    let mut bad = 0;
    let jobs = Invoice::claim(pool, 10)
        .on_bad_row(|_| bad += 1)
        .await
        .unwrap();
    assert_eq!((ids(&jobs), bad), (vec![2, 3], 1));
}
