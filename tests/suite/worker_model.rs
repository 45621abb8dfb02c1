//! Random small programs for workers: rows of every kind, and what happens to workers and rows meanwhile.
//!
//! In the end every row is done, dead or purged; good rows were handled, bad ones say why, no two of one customer were handled at the same
//! time, and no attempt was counted for which no handler began. `ROWLOCK_SEED` runs one program again; `ROWLOCK_PROGRAMS` says how many there are.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock::queue::{Cancelled, JobOutcome, QueueState, Worker, WorkerCounts, WorkerError};
use rowlock::{Fence, FindOrCreate, Queue};
use rowlock_tests::random::Random;
use sqlx::AssertSqlSafe;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::worker::{SECOND, SHORT, execute};
use super::{BEGIN_WRITE, Database, Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

macro_rules! step {
    ($(#[$doc:meta])* $name:ident, $attempts:literal) => {
        $(#[$doc])*
        #[derive(Debug, sqlx::FromRow, Queue, FindOrCreate)]
        #[rowlock(table = "jobs", pauses = "pauses", unique(tag, while(ready, running)))]
        struct $name {
            #[rowlock(key, generated)]
            id: i64,
            what: String,
            /// NULL, or not a text, in rows that cannot be read.
            payload: String,
            #[rowlock(per, filter)]
            customer: Option<i64>,
            tag: String,
            #[rowlock(run_at, default)]
            run_at: Timestamp,
            #[rowlock(state)]
            state: QueueState,
            #[rowlock(attempts(max = $attempts))]
            attempts: i32,
            #[rowlock(fence)]
            fence: Fence,
            #[rowlock(lease)]
            leased_until: Option<Timestamp>,
            #[rowlock(last_error)]
            last_error: Option<String>,
            #[rowlock(finished)]
            finished_at: Option<Timestamp>,
        }
    };
}

step!(
    /// As the last worker knows it.
    Step,
    3
);
step!(
    /// The same with a lower limit.
    LowStep,
    2
);

const MAX: i32 = 3;
const LOWERED: i32 = 2;

const TABLE: &str = "CREATE TABLE jobs (
        id {id},
        what text NOT NULL,
        payload text,
        customer bigint,
        tag text NOT NULL,
        run_at {timestamp} NOT NULL DEFAULT ({now}),
        state text NOT NULL DEFAULT 'ready',
        attempts integer NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        leased_until {timestamp},
        last_error text,
        finished_at {timestamp}
    )";

/// Rows of these kinds refuse to be claimed, or to be done.
const REFUSED: &str = "(NEW.what = 'no claim' AND NEW.state = 'running') OR (NEW.what = 'no done' AND NEW.state = 'done')";

const KINDS: [&str; 9] = [
    "good",
    "good",
    "slow",
    "flaky",
    "crashing",
    "failing",
    "undecodable",
    "no claim",
    "no done",
];

#[derive(Debug, Clone)]
enum Event {
    Wait(Duration),
    Start {
        lowered: bool,
        concurrency: usize,
        prefetch: usize,
    },
    /// As `kill -9` does: nothing is written any more.
    Kill(usize),
    Shutdown(usize),
    /// A transaction holds the row.
    Lock(i64, Duration),
    Add(Kind),
    /// A job of which one is to wait or run.
    Enqueue(i64),
    Cancel(i64),
    /// Of one customer, or all.
    Pause(Option<i64>),
    Resume(Option<i64>),
    Redrive,
    Purge,
}

/// What a row is, and whose.
#[derive(Debug, Clone, Copy)]
struct Kind {
    what: &'static str,
    customer: Option<i64>,
}

impl Kind {
    fn random(random: &mut Random) -> Self {
        Self {
            what: KINDS[random.below(KINDS.len())],
            customer: customer(random),
        }
    }
}

/// One of two, or none.
fn customer(random: &mut Random) -> Option<i64> {
    match random.below(3) as i64 {
        0 => None,
        customer => Some(customer),
    }
}

#[derive(Debug)]
struct Program {
    rows: Vec<Kind>,
    events: Vec<Event>,
}

fn milliseconds(random: &mut Random, below: usize) -> Duration {
    Duration::from_millis(random.below(below) as u64)
}

impl Program {
    fn random(random: &mut Random) -> Self {
        let rows = 0..1 + random.below(12);
        let rows = rows.map(|_| Kind::random(random)).collect();
        let events = (0..1 + random.below(14)).map(|_| match random.below(16) {
            0..3 => Event::Start {
                lowered: random.below(3) == 0,
                concurrency: 1 + random.below(4),
                prefetch: random.below(8),
            },
            3 => Event::Kill(random.below(3)),
            4 => Event::Shutdown(random.below(3)),
            5 => Event::Lock(1 + random.below(12) as i64, milliseconds(random, 3000)),
            6 => Event::Add(Kind::random(random)),
            7 => Event::Enqueue(random.below(2) as i64),
            8 => Event::Cancel(1 + random.below(12) as i64),
            9 => Event::Pause(customer(random)),
            10 => Event::Resume(customer(random)),
            11 => Event::Redrive,
            12 => Event::Purge,
            _ => Event::Wait(milliseconds(random, 300)),
        });
        Self {
            rows,
            events: events.collect(),
        }
    }
}

/// What the handlers see.
#[derive(Default)]
struct Seen {
    /// How often the handler of a row began.
    starts: HashMap<i64, i32>,
    /// The row of a customer that is handled.
    handled: HashMap<i64, i64>,
    /// Rows of one customer that were handled at the same time, the earlier first.
    together: Vec<[i64; 2]>,
}

type Shared = Arc<Mutex<Seen>>;

/// A row that is handled, until that ends, however it does.
struct Inside {
    seen: Shared,
    customer: i64,
    id: i64,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut seen = self.seen.lock().unwrap();
        if seen.handled.get(&self.customer) == Some(&self.id) {
            seen.handled.remove(&self.customer);
        }
    }
}

async fn work(
    shared: Shared,
    id: i64,
    what: String,
    customer: Option<i64>,
) -> Result<JobOutcome, String> {
    let run = {
        let mut seen = shared.lock().unwrap();
        if let Some(customer) = customer
            && let Some(earlier) = seen.handled.insert(customer, id)
        {
            seen.together.push([earlier, id]);
        }
        let run = seen.starts.entry(id).or_default();
        *run += 1;
        *run
    };
    let _inside = customer.map(|customer| Inside {
        seen: shared.clone(),
        customer,
        id,
    });
    match what.as_str() {
        "slow" => sleep(Duration::from_millis(700)).await,
        "flaky" if run == 1 => return Err("the first time".to_owned()),
        "crashing" => panic!("crashing"),
        "failing" => return Err("failing".to_owned()),
        _ => tokio::task::yield_now().await,
    }
    Ok(JobOutcome::Complete)
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<WorkerCounts, WorkerError>>,
}

struct World {
    database: Database,
    seen: Shared,
    workers: Vec<Running>,
    /// All rows there ever were.
    ids: HashSet<i64>,
    cancelled: HashSet<i64>,
    kills: i32,
    locks: i32,
    lowered: bool,
    purged: bool,
    /// Claims that ended without the worker's doing.
    lost: i32,
}

impl World {
    fn pool(&self) -> &Pool {
        &self.database.pool
    }

    fn settings<T>(
        &self,
        worker: Worker<Db, T>,
        concurrency: usize,
        prefetch: usize,
    ) -> Worker<Db, T>
    where
        T: rowlock::__private::queue::QueueSql<Db>,
    {
        worker
            .concurrency(concurrency)
            .prefetch(prefetch)
            .poll(SHORT)
            .lease(2 * SECOND)
            .backoff(SHORT, 2 * SHORT)
            .shutdown_timeout(5 * SHORT)
    }

    fn start(&mut self, lowered: bool, concurrency: usize, prefetch: usize) {
        let seen = self.seen.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let task = if lowered {
            let worker = self.settings(LowStep::worker(self.pool()), concurrency, prefetch);
            let run = worker
                .shutdown(stopped)
                .run(move |job| work(seen.clone(), job.id, job.what.clone(), job.customer));
            tokio::spawn(run)
        } else {
            let worker = self.settings(Step::worker(self.pool()), concurrency, prefetch);
            let run = worker
                .shutdown(stopped)
                .run(move |job| work(seen.clone(), job.id, job.what.clone(), job.customer));
            tokio::spawn(run)
        };
        self.lowered |= lowered;
        self.workers.push(Running { stop, task });
    }

    async fn stop(&mut self, worker: Running) {
        let _ = worker.stop.send(());
        let counts = timeout(20 * SECOND, worker.task).await;
        let counts = counts.expect("it stops in time").unwrap();
        let counts = counts.expect("no row ends a worker");
        self.lost += i32::try_from(counts.lease_lost + counts.rescued).unwrap();
    }

    async fn add(&mut self, Kind { what, customer }: Kind) {
        let payload = match what {
            // SQLite reads NULL as an empty text.
            "undecodable" if NAME == "SQLite" => "x'ff'",
            "undecodable" => "NULL",
            _ => "''",
        };
        let sql = format!(
            "INSERT INTO jobs (what, payload, customer, tag) VALUES ($1, {payload}, $2, $3) RETURNING id"
        );
        let insert = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(what)
            .bind(customer)
            .bind(format!("row {}", self.ids.len()));
        let id = insert.fetch_one(self.pool()).await.unwrap();
        self.ids.insert(id);
    }

    async fn enqueue(&mut self, tag: i64) {
        let new = NewStep {
            what: "good".to_owned(),
            payload: String::new(),
            customer: Some(1),
            tag: format!("tag {tag}"),
        };
        let row = Step::enqueue(self.pool(), new).await;
        self.ids.insert(row.unwrap().into_inner().id);
    }

    async fn pause(&self, customer: Option<i64>) {
        let pause = Step::pause(self.pool());
        let pause = match customer {
            Some(customer) => pause.only(Step::CUSTOMER, customer),
            None => pause,
        };
        pause.await.unwrap();
    }

    async fn resume(&self, customer: Option<i64>) {
        let resume = Step::resume(self.pool());
        let resume = match customer {
            Some(customer) => resume.only(Step::CUSTOMER, customer),
            None => resume,
        };
        resume.await.unwrap();
    }

    async fn happen(&mut self, event: Event, locks: &mut JoinSet<()>) {
        match event {
            Event::Wait(time) => sleep(time).await,
            Event::Start {
                lowered,
                concurrency,
                prefetch,
            } => {
                self.start(lowered, concurrency, prefetch);
            }
            Event::Kill(worker) if worker < self.workers.len() => {
                let worker = self.workers.swap_remove(worker);
                worker.task.abort();
                let _ = worker.task.await;
                self.kills += 1;
            }
            Event::Shutdown(worker) if worker < self.workers.len() => {
                let worker = self.workers.swap_remove(worker);
                self.stop(worker).await;
            }
            Event::Kill(_) | Event::Shutdown(_) => {}
            Event::Lock(id, time) => {
                self.locks += 1;
                let pool = self.pool().clone();
                locks.spawn(async move {
                    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
                    // A write that changes nothing, which locks the row on PostgreSQL.
                    sqlx::query(
                        "UPDATE jobs SET payload = payload WHERE id = $1 AND what NOT LIKE 'no %'",
                    )
                    .bind(id)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                    sleep(time).await;
                    tx.rollback().await.unwrap();
                });
            }
            Event::Add(kind) => self.add(kind).await,
            Event::Enqueue(tag) => self.enqueue(tag).await,
            Event::Cancel(id) => {
                if Step::cancel(self.pool(), id).await.unwrap() == Cancelled::Now {
                    self.cancelled.insert(id);
                }
            }
            Event::Pause(customer) => self.pause(customer).await,
            Event::Resume(customer) => self.resume(customer).await,
            Event::Redrive => {
                Step::redrive(self.pool()).await.unwrap();
            }
            Event::Purge => {
                Step::purge(self.pool(), Duration::ZERO).await.unwrap();
                self.purged = true;
            }
        }
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    id: i64,
    what: String,
    state: String,
    attempts: i32,
    last_error: Option<String>,
}

async fn rows(pool: &Pool) -> Vec<Row> {
    sqlx::query_as("SELECT id, what, state, attempts, last_error FROM jobs ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn run(program: &Program) {
    let database = database(TABLE).await;
    let trigger = if NAME == "SQLite" {
        format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN {REFUSED} BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    } else {
        format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF {REFUSED} THEN RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    };
    sqlx::raw_sql(AssertSqlSafe(trigger))
        .execute(&database.pool)
        .await
        .unwrap();
    execute(&database.pool, Step::ddl::<Db>()).await;
    let mut world = World {
        database,
        seen: Shared::default(),
        workers: Vec::new(),
        ids: HashSet::new(),
        cancelled: HashSet::new(),
        kills: 0,
        locks: 0,
        lowered: false,
        purged: false,
        lost: 0,
    };
    for kind in &program.rows {
        world.add(*kind).await;
    }
    let mut locks = JoinSet::new();
    for event in program.events.clone() {
        world.happen(event, &mut locks).await;
    }
    locks.join_all().await;
    for customer in [None, Some(1), Some(2)] {
        world.resume(customer).await;
    }
    world.start(false, 3, 3);
    let pool = world.pool().clone();
    let all_end = async {
        while !rows(&pool)
            .await
            .iter()
            .all(|row| row.state == "done" || row.state == "dead")
        {
            sleep(SHORT).await;
        }
    };
    if timeout(40 * SECOND, all_end).await.is_err() {
        panic!("rows do not end: {:#?}", rows(&pool).await);
    }
    for worker in std::mem::take(&mut world.workers) {
        world.stop(worker).await;
    }
    judge(&world, rows(&pool).await);
}

fn judge(world: &World, rows: Vec<Row>) {
    let seen = world.seen.lock().unwrap();
    let starts = |id| seen.starts.get(&id).copied().unwrap_or_default();
    let left: HashSet<i64> = rows.iter().map(|row| row.id).collect();
    for id in world.ids.difference(&left) {
        assert!(world.purged && starts(*id) > 0, "{id} is gone");
    }
    for [earlier, later] in &seen.together {
        // A handler whose claim holds no more goes on until the next heartbeat; a killed worker does not tell of such claims.
        let over = world.cancelled.contains(earlier) || world.lost > 0;
        let untold = world.kills > 0 && world.locks > 0;
        assert!(over || untold, "{earlier} and {later} of one customer");
    }
    for row in rows {
        let started = starts(row.id);
        let least = if world.lowered { LOWERED } else { MAX };
        let dead = row.state == "dead";
        match row.what.as_str() {
            _ if dead && world.cancelled.contains(&row.id) => continue,
            "undecodable" | "no claim" => {
                assert_eq!(started, 0, "{row:?}");
                assert!(dead && row.last_error.is_some(), "{row:?}");
                continue;
            }
            "crashing" | "failing" | "no done" => {
                assert!(dead && row.last_error.is_some(), "{row:?}");
                assert!(row.attempts >= least, "{row:?}");
            }
            _ if dead => {
                // Somebody took its attempts.
                let excuse = world.kills + world.lost > 0 || world.lowered;
                assert!(excuse && row.last_error.is_some(), "{row:?}");
                assert!(row.attempts >= least, "{row:?}");
            }
            _ => {}
        }
        assert!(started > 0, "never handled: {row:?}");
        // Killed between the statement that counts and the handler, or asleep there until the lease had ended, a worker has
        // counted for nothing.
        let for_nothing = world.kills + world.lost;
        assert!(
            row.attempts <= started + for_nothing,
            "{started} starts, {for_nothing} for nothing: {row:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_a_random_program_ends() {
    let programs = std::env::var("ROWLOCK_PROGRAMS").ok();
    let programs = programs
        .and_then(|programs| programs.parse().ok())
        .unwrap_or(12);
    let one = std::env::var("ROWLOCK_SEED")
        .ok()
        .and_then(|seed| seed.parse::<u64>().ok());
    let seeds = match one {
        Some(seed) => vec![seed],
        None => (1..=programs).collect(),
    };
    let at_once = Arc::new(Semaphore::new(8));
    let mut running = JoinSet::new();
    for seed in seeds {
        let at_once = at_once.clone();
        running.spawn(async move {
            let _turn = at_once.acquire_owned().await.unwrap();
            let program = Program::random(&mut Random::new(seed));
            let text = format!("{program:#?}");
            let ran = tokio::spawn(async move { run(&program).await });
            let error = ran.await.err()?;
            println!("seed {seed}: {error}\n{text}");
            Some(seed)
        });
    }
    let failed: Vec<u64> = running.join_all().await.into_iter().flatten().collect();
    assert!(
        failed.is_empty(),
        "programs {failed:?} failed: ROWLOCK_SEED={} runs one again",
        failed[0]
    );
}
