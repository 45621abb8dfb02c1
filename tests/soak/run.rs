//! Jobs, workers, and trouble for both.

use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rowlock_tests::postgres::Server;
use rowlock_tests::random::Random;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::task::{NewTask, TABLES, Task, kind};
use crate::verdict::{self, Samples, Sizes};
use crate::worker::NAME;
use crate::{Break, Options};

/// So long nothing may be finished.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was done to the workers and to the server.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) terminated: i64,
    pub(crate) restarts: i64,
    /// Times that the server was away, in all.
    pub(crate) away: Duration,
}

/// A worker process, running or not.
pub(crate) struct Worker {
    child: Child,
    /// Its end is the sign to stop.
    stdin: Option<ChildStdin>,
    pub(crate) log: PathBuf,
    pub(crate) killed: bool,
    pub(crate) stopped: bool,
    /// Continues it after a while, also if this program is gone by then.
    alarm: Option<Child>,
}

impl Worker {
    fn start(options: &Options, url: &str, log: PathBuf) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.arg("--worker").arg(url).arg(&log);
        command.args(["--seed", &options.seed.to_string()]);
        command.args(["--lease", &options.lease.as_millis().to_string()]);
        if let Some(breaks) = options.breaks {
            let breaks = match breaks {
                Break::Effects => "effects",
                Break::Fence => "fence",
            };
            command.args(["--break", breaks]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program can be started again");
        Self {
            stdin: child.stdin.take(),
            child,
            log,
            killed: false,
            stopped: false,
            alarm: None,
        }
    }

    fn runs(&self) -> bool {
        self.stdin.is_some()
    }

    /// Whether it can be killed or stopped.
    fn is_free(&mut self) -> bool {
        if let Some(alarm) = &mut self.alarm
            && alarm.try_wait().expect("it is our child").is_some()
        {
            self.alarm = None;
        }
        self.runs() && self.alarm.is_none()
    }

    fn kill(&mut self) {
        self.killed = true;
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is our child");
        self.stdin = None;
    }

    fn stop_for(&mut self, time: Duration) {
        self.stopped = true;
        let (id, time) = (self.child.id(), time.as_secs_f64());
        let stop = format!("kill -STOP {id} && sleep {time} && kill -CONT {id}");
        let alarm = Command::new("sh").args(["-c", &stop]).spawn();
        self.alarm = Some(alarm.expect("sh starts"));
    }
}

/// A worker does not outlive this program, except by the time for which it is stopped.
impl Drop for Worker {
    fn drop(&mut self) {
        if self.runs() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let Some(alarm) = &mut self.alarm {
            let _ = alarm.kill();
            let _ = alarm.wait();
        }
    }
}

struct Soak {
    options: Options,
    server: Server,
    pool: PgPool,
    logs: TempDir,
    workers: Vec<Worker>,
    random: Random,
    trouble: Trouble,
    enqueued: Arc<AtomicI64>,
    done: Arc<AtomicI64>,
    samples: Samples,
    begun: Instant,
    wrong: Vec<String>,
}

/// Returns what is wrong.
pub(crate) async fn run(options: Options) -> Vec<String> {
    let server = Server::start_durable();
    let pool = PgPoolOptions::new().max_connections(4);
    let pool = pool.connect(&server.url()).await.expect("the server runs");
    let ddl = [
        TABLES,
        Task::ddl::<sqlx::Postgres>(),
        Task::storage_ddl(),
        Task::notify_ddl(),
    ];
    for ddl in ddl {
        let ddl = sqlx::raw_sql(ddl).execute(&pool).await;
        ddl.expect("the DDL is valid");
    }
    let soak = Soak {
        random: Random::seeded(options.seed),
        server,
        pool,
        logs: tempfile::tempdir().expect("a temporary directory"),
        workers: Vec::new(),
        trouble: Trouble::default(),
        enqueued: Arc::default(),
        done: Arc::default(),
        samples: Samples::default(),
        begun: Instant::now(),
        wrong: Vec::new(),
        options,
    };
    soak.run().await
}

impl Soak {
    async fn run(mut self) -> Vec<String> {
        for _ in 0..self.options.workers {
            self.start();
        }
        let all = Arc::new(AtomicBool::new(false));
        let producer = tokio::spawn(produce(
            self.pool.clone(),
            self.options.clone(),
            self.enqueued.clone(),
            self.done.clone(),
            all.clone(),
        ));
        let step = self.options.kill_every;
        let (mut kill, mut terminate, mut stop, mut sample) = (step, step / 3, step / 2, step / 4);
        let mut said = Duration::ZERO;
        let mut last = (0, Instant::now());
        loop {
            sleep(step / 40).await;
            self.look_at_workers();
            let now = self.begun.elapsed();
            if now >= kill {
                kill = now + step;
                self.kill();
            }
            if now >= stop {
                stop = now + step * 4;
                self.stop();
            }
            if now >= terminate {
                terminate = now + step * 3 / 8;
                self.terminate().await;
            }
            if now < sample {
                continue;
            }
            sample = now + step / 4;
            // Before the look, which else may not see the last of them.
            let no_more = all.load(Ordering::Relaxed);
            let open = self.sample().await;
            let done = self.done.load(Ordering::Relaxed);
            if now >= said {
                said = now + Duration::from_secs(5);
                self.say(now);
            }
            if no_more && open == Some(0) {
                break;
            }
            if done > last.0 {
                last = (done, Instant::now());
            }
            if last.1.elapsed() > PATIENCE {
                let wrong = format!("nothing was finished for {PATIENCE:?}");
                self.wrong.push(wrong);
                break;
            }
            let restarts = self.trouble.restarts;
            let due = self.options.jobs / (self.options.restarts + 1) * (restarts + 1);
            if restarts < self.options.restarts && done >= due {
                self.restart();
                last.1 = Instant::now();
            }
        }
        self.say(self.begun.elapsed());
        let took = self.begun.elapsed();
        producer.abort();
        if let Ok(Err(wrong)) = producer.await {
            self.wrong.push(wrong);
        }
        self.end_workers();
        let run = verdict::Run {
            options: &self.options,
            trouble: &self.trouble,
            workers: &self.workers,
            samples: &self.samples,
            took,
        };
        match verdict::judge(&run, &self.pool).await {
            Ok((report, wrong)) => {
                println!("{report}");
                self.wrong.extend(wrong);
            }
            Err(error) => self.wrong.push(format!("it could not be judged: {error}")),
        }
        self.wrong
    }

    fn start(&mut self) {
        let log = self.logs.path().join(self.workers.len().to_string());
        let worker = Worker::start(&self.options, &self.server.url(), log);
        self.workers.push(worker);
    }

    fn look_at_workers(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| worker.runs()) {
            if let Some(status) = worker.child.try_wait().expect("it is our child") {
                let wrong = format!("a worker ended by itself: {status}");
                self.wrong.push(wrong);
                worker.stdin = None;
            }
        }
        let running = self.workers.iter().filter(|worker| worker.runs()).count();
        for _ in running..self.options.workers {
            self.start();
        }
    }

    fn any_worker(&mut self) -> Option<&mut Worker> {
        let free: Vec<_> = self
            .workers
            .iter_mut()
            .filter_map(|worker| worker.is_free().then_some(worker))
            .collect();
        let index = self.random.below(free.len().max(1));
        free.into_iter().nth(index)
    }

    fn kill(&mut self) {
        if let Some(worker) = self.any_worker() {
            worker.kill();
            self.start();
        }
    }

    /// For so long that others take over what it has.
    fn stop(&mut self) {
        let time = self.options.lease * 5 / 2;
        if let Some(worker) = self.any_worker() {
            worker.stop_for(time);
        }
    }

    async fn terminate(&mut self) {
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 ORDER BY random() LIMIT 1";
        let terminate = sqlx::query_scalar(terminate).bind(NAME);
        if let Ok(Some(true)) = terminate.fetch_optional(&self.pool).await {
            self.trouble.terminated += 1;
        }
    }

    /// Every other time it crashes.
    fn restart(&mut self) {
        let begun = Instant::now();
        let crash = self.trouble.restarts % 2 == 0;
        eprintln!("the server {}", if crash { "crashes" } else { "restarts" });
        block_in_place(|| {
            match crash {
                true => self.server.crash(),
                false => self.server.shut_down(),
            }
            self.server.restart();
        });
        self.trouble.restarts += 1;
        self.trouble.away += begun.elapsed();
    }

    /// How many tasks are not finished, if the server says so.
    async fn sample(&mut self) -> Option<i64> {
        // Before the look, so that none counts as done that the look has not seen.
        let enqueued = self.enqueued.load(Ordering::Relaxed);
        let stats = Task::stats(&self.pool).await.ok()?;
        let sizes = Sizes::of_now(&self.pool).await.ok()?;
        let open = i64::try_from(stats.ready + stats.running).ok()?;
        let dead = i64::try_from(stats.dead).ok()?;
        let done = enqueued - open - dead;
        self.done.fetch_max(done, Ordering::Relaxed);
        self.samples.add(stats, sizes);
        Some(open)
    }

    fn say(&self, now: Duration) {
        let killed = self.workers.iter().filter(|worker| worker.killed).count();
        let Trouble {
            terminated,
            restarts,
            ..
        } = self.trouble;
        let last = self.samples.last;
        eprintln!(
            "{:>4} s: {} done of {}, {} ready, {} running; {killed} killed, {terminated} backends terminated, {restarts} restarts; heap {} MB, indexes {} MB",
            now.as_secs(),
            self.done.load(Ordering::Relaxed),
            self.options.jobs,
            self.samples.ready,
            self.samples.running,
            last.heap >> 20,
            last.indexes >> 20,
        );
    }

    /// All of them are told to, and must do so well.
    fn end_workers(&mut self) {
        for worker in &mut self.workers {
            if let Some(mut alarm) = worker.alarm.take() {
                let _ = alarm.wait();
            }
        }
        let running: Vec<_> = self
            .workers
            .iter_mut()
            .filter(|worker| worker.runs())
            .collect();
        let mut ended = Vec::new();
        for worker in running {
            worker.stdin = None;
            ended.push(worker);
        }
        for worker in ended {
            let status = block_in_place(|| worker.child.wait()).expect("it is our child");
            if !status.success() {
                self.wrong
                    .push(format!("a worker did not stop well: {status}"));
            }
        }
    }
}

/// Enqueues all, some at a time, as long as not too many wait.
async fn produce(
    pool: PgPool,
    options: Options,
    enqueued: Arc<AtomicI64>,
    done: Arc<AtomicI64>,
    all: Arc<AtomicBool>,
) -> Result<(), String> {
    let backlog = (options.jobs / 50).max(1000);
    let mut random = Random::seeded(options.seed).fork();
    let mut next = 1;
    while next <= options.jobs {
        while next - done.load(Ordering::Relaxed) > backlog {
            sleep(Duration::from_millis(5)).await;
        }
        let size = match random.below(10) {
            0 => 1,
            _ => 1 + random.below(200) as i64,
        };
        let last = (next + size - 1).min(options.jobs);
        let delay = match random.below(10) {
            0 => Duration::from_millis(random.below(3000) as u64),
            _ => Duration::ZERO,
        };
        enqueue(&pool, next, last, delay).await?;
        enqueued.store(last, Ordering::Relaxed);
        next = last + 1;
    }
    all.store(true, Ordering::Relaxed);
    Ok(())
}

/// Those of these keys, once: if the answer is lost, it looks whether they are there.
async fn enqueue(pool: &PgPool, first: i64, last: i64, delay: Duration) -> Result<(), String> {
    let new = |id| NewTask {
        id,
        kind: kind(id).to_owned(),
    };
    loop {
        let error = match first == last {
            true => Task::enqueue(pool, new(first)).delay(delay).await.err(),
            false => {
                let many = Task::enqueue_many(pool, (first..=last).map(new));
                many.delay(delay).await.err()
            }
        };
        let Some(error) = error else {
            return Ok(());
        };
        let count = "SELECT count(*) FROM tasks WHERE id BETWEEN $1 AND $2";
        let there = loop {
            let count = sqlx::query_scalar::<_, i64>(count).bind(first).bind(last);
            match count.fetch_one(pool).await {
                Ok(there) => break there,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        };
        if there == last - first + 1 {
            return Ok(());
        }
        if there != 0 {
            return Err(format!("{there} tasks of a batch are there after {error}"));
        }
    }
}
