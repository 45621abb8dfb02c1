//! What a program happens to: a database, and the workers that run on it.

use std::collections::HashSet;
use std::time::Duration;

use rowlock::Tx;
use rowlock::queue::{
    Cancelled, Periodic, Schedule, Worker, WorkerCounts, WorkerSet, WorkerSetError, WorkerStats,
};
use sqlx::AssertSqlSafe;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::handlers::{Shared, join};
use super::jobs::{LowStep, Model, Step, good, table};
use super::program::{Crew, Event, Kind, Member};
use super::{BEGIN_WRITE, Database, Db, NAME, Pool, SECOND, SHORT, execute};

struct Running {
    stop: oneshot::Sender<()>,
    stats: Vec<WorkerStats>,
    task: JoinHandle<Result<Vec<(&'static str, WorkerCounts)>, WorkerSetError>>,
}

pub(super) struct World {
    database: Database,
    pub(super) seen: Shared,
    crews: Vec<Running>,
    /// Transactions that hold rows.
    holders: JoinSet<()>,
    /// All rows there ever were.
    pub(super) ids: HashSet<i64>,
    pub(super) cancelled: HashSet<i64>,
    pub(super) kills: i32,
    pub(super) locks: i32,
    ticks: i32,
    pub(super) lowered: bool,
    pub(super) purged: bool,
    /// Claims that ended without the worker's doing.
    pub(super) lost: i32,
}

impl World {
    pub(super) async fn new() -> Self {
        let database = table().await;
        execute(&database.pool, Schedule::ddl::<Db>()).await;
        Self {
            database,
            seen: Shared::default(),
            crews: Vec::new(),
            holders: JoinSet::new(),
            ids: HashSet::new(),
            cancelled: HashSet::new(),
            kills: 0,
            locks: 0,
            ticks: 0,
            lowered: false,
            purged: false,
            lost: 0,
        }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.database.pool
    }

    fn worker<T: Model>(&self, member: &Member) -> Worker<Db, T> {
        T::worker_for(self.pool(), member.handler.part)
            .concurrency(member.concurrency)
            .prefetch(member.prefetch)
            .poll(SHORT)
            .lease(SECOND)
            .backoff(SHORT, 2 * SHORT)
            .shutdown_timeout(5 * SHORT)
    }

    fn set<T: Model>(&self, crew: &Crew) -> (WorkerSet, Vec<WorkerStats>) {
        let (mut set, mut stats) = (WorkerSet::new(), Vec::new());
        for member in &crew.members {
            let worker = self.worker::<T>(member);
            stats.push(worker.stats());
            set = join(set, worker, member, &self.seen);
        }
        (set, stats)
    }

    pub(super) fn start(&mut self, crew: &Crew) {
        let (set, stats) = match crew.lowered {
            true => self.set::<LowStep>(crew),
            false => self.set::<Step>(crew),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let set = set.shutdown(async move {
            let _ = stopped.await;
        });
        let task = tokio::spawn(set.run());
        self.lowered |= crew.lowered;
        self.crews.push(Running { stop, stats, task });
    }

    async fn stop(&mut self, crew: Running) {
        let _ = crew.stop.send(());
        let ended = timeout(20 * SECOND, crew.task).await;
        let ended = ended.expect("it stops in time").unwrap();
        ended.expect("no row ends a worker");
        self.count(&crew.stats);
    }

    fn count(&mut self, stats: &[WorkerStats]) {
        for counts in stats.iter().map(WorkerStats::counts) {
            self.lost += i32::try_from(counts.lease_lost + counts.rescued).unwrap();
        }
    }

    pub(super) async fn stop_all(&mut self) {
        for crew in std::mem::take(&mut self.crews) {
            self.stop(crew).await;
        }
    }

    pub(super) async fn add(&mut self, Kind { what, customer }: Kind) {
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
        let row = Step::enqueue(self.pool(), good(&format!("tag {tag}"))).await;
        self.ids.insert(row.unwrap().into_inner().id);
    }

    /// A tick is due. One process makes it, and fails; then one of two at the same time.
    async fn tick(&mut self) {
        self.ticks += 1;
        let tag = &format!("tick {}", self.ticks);
        let pool = self.pool();
        // Nobody waits for the next one.
        let yearly = Schedule::cron("0 0 1 1 *").unwrap();
        let process = || Periodic::new(pool, "yearly", yearly.clone());
        let start = process().tick(async |_, _| Ok::<_, String>(())).await;
        assert_eq!(start.unwrap().made, 0);
        execute(
            pool,
            "UPDATE rowlock_schedules SET next_tick = '2020-01-01 00:00:00+00:00'",
        )
        .await;
        let mut fails = process();
        let fails = fails.tick(async |tx, _| enqueue_in(tx, tag, true).await);
        fails.await.expect_err("as the closure says");
        let (mut one, mut other) = (process(), process());
        let (one, other) = tokio::join!(
            one.tick(async |tx, _| enqueue_in(tx, tag, false).await),
            other.tick(async |tx, _| enqueue_in(tx, tag, false).await),
        );
        assert_eq!(one.unwrap().made + other.unwrap().made, 1);
        let made: Vec<i64> = sqlx::query_scalar("SELECT id FROM jobs WHERE tag = $1")
            .bind(tag)
            .fetch_all(pool)
            .await
            .unwrap();
        assert_eq!(made.len(), 1, "{tag}");
        self.ids.extend(made);
    }

    async fn pause(&self, customer: Option<i64>) {
        let pause = Step::pause(self.pool());
        let pause = match customer {
            Some(customer) => pause.only(Step::CUSTOMER, customer),
            None => pause,
        };
        pause.await.unwrap();
    }

    pub(super) async fn resume(&self, customer: Option<i64>) {
        let resume = Step::resume(self.pool());
        let resume = match customer {
            Some(customer) => resume.only(Step::CUSTOMER, customer),
            None => resume,
        };
        resume.await.unwrap();
    }

    fn lock(&mut self, id: i64, time: Duration) {
        self.locks += 1;
        let pool = self.pool().clone();
        self.holders.spawn(async move {
            let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
            // A write that changes nothing, which locks the row on PostgreSQL.
            sqlx::query("UPDATE jobs SET payload = payload WHERE id = $1 AND what NOT LIKE 'no %'")
                .bind(id)
                .execute(&mut *tx)
                .await
                .unwrap();
            sleep(time).await;
            tx.rollback().await.unwrap();
        });
    }

    pub(super) async fn until_unlocked(&mut self) {
        std::mem::take(&mut self.holders).join_all().await;
    }

    pub(super) async fn happen(&mut self, event: &Event) {
        match *event {
            Event::Wait(time) => sleep(time).await,
            Event::Start(ref crew) => self.start(crew),
            Event::Kill(crew) if crew < self.crews.len() => {
                let crew = self.crews.swap_remove(crew);
                crew.task.abort();
                let _ = crew.task.await;
                self.kills += 1;
                self.count(&crew.stats);
            }
            Event::Shutdown(crew) if crew < self.crews.len() => {
                let crew = self.crews.swap_remove(crew);
                self.stop(crew).await;
            }
            Event::Kill(_) | Event::Shutdown(_) => {}
            Event::Lock(id, time) => self.lock(id, time),
            Event::Add(kind) => self.add(kind).await,
            Event::Enqueue(tag) => self.enqueue(tag).await,
            Event::Tick => self.tick().await,
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

async fn enqueue_in(tx: &mut Tx<Db>, tag: &str, fails: bool) -> Result<(), &'static str> {
    let row = Step::enqueue(&mut *tx, good(tag)).await.unwrap();
    assert!(row.is_created(), "{tag} is there already");
    if fails { Err("no tick") } else { Ok(()) }
}
