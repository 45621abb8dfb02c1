//! A worker process.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rowlock::queue::{Claimed, Job, JobOutcome};
use rowlock::{Fence, transaction};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::task::{BATCH, EFFECT, End, Plan, Task, plan};
use crate::{Break, Options};

/// Handlers at once.
pub(crate) const CONCURRENCY: usize = 8;
/// How many tasks a claim without a worker takes.
pub(crate) const HAND: usize = 25;
/// By which the connections of workers are known.
pub(crate) const NAME: &str = "soak-worker";
/// The text of a panic that was planned.
const PLANNED: &str = "as planned";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the handlers of a process share.
#[derive(Clone)]
struct Process {
    options: Arc<Options>,
    pool: PgPool,
    /// A line per attempt that began: an effect outside of every transaction, which stays when the process is killed. Another one if it
    /// failed, and not as planned.
    log: Arc<File>,
}

/// Works until standard input ends.
pub(crate) async fn run(options: Options, url: &str, log: &str) -> Result<(), Error> {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(PLANNED) {
            shown(panic);
        }
    }));
    let connect: PgConnectOptions = url.parse()?;
    let pool = PgPoolOptions::new()
        .max_connections(CONCURRENCY as u32 + 6)
        .connect_lazy_with(connect.application_name(NAME));
    let log = Arc::new(File::options().create(true).append(true).open(log)?);
    let process = Process {
        options: Arc::new(options),
        pool,
        log,
    };
    let (stop, stopped) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    std::thread::spawn({
        let (stop, stopped) = (stop.clone(), stopped.clone());
        move || {
            let _ = std::io::stdin().read(&mut [0]);
            stopped.store(true, Ordering::Relaxed);
            stop.notify_one();
        }
    });
    let by_hand = tokio::spawn(process.clone().by_hand(stopped));
    let handler = process.clone();
    let worker = Task::worker(&process.pool)
        .concurrency(CONCURRENCY)
        .prefetch(50)
        .lease(process.options.lease)
        .poll(Duration::from_millis(500))
        .backoff(Duration::from_millis(100), Duration::from_secs(1))
        .shutdown(async move { stop.notified().await })
        .listen();
    worker.run(move |job| handler.clone().handle(job)).await?;
    Ok(by_hand.await??)
}

impl Process {
    fn plan(&self, task: &Task) -> Plan {
        plan(self.options.seed, task.id, task.attempts.into())
    }

    /// In one write, so that no line is cut.
    fn write_down<'t>(
        &self,
        tasks: impl IntoIterator<Item = &'t Task>,
        end: &str,
    ) -> std::io::Result<()> {
        let line = |task: &Task| {
            let fence = task.fence.get();
            format!("{} {} {fence}{end}\n", task.id, task.attempts)
        };
        let lines: String = tasks.into_iter().map(line).collect();
        (&*self.log).write_all(lines.as_bytes())
    }

    async fn handle(self, job: Job<Task>) -> Result<JobOutcome, Error> {
        self.write_down([&**job], "")?;
        let handled = self.work(&job).await;
        if let Err(error) = &handled
            && error.to_string() != PLANNED
        {
            self.write_down([&**job], " failed")?;
        }
        handled
    }

    async fn work(&self, job: &Job<Task>) -> Result<JobOutcome, Error> {
        let plan = self.plan(job);
        if job.kind != EFFECT {
            sleep(plan.pause).await;
            end(plan)?;
            return Ok(JobOutcome::Complete);
        }
        match self.options.breaks {
            None => {
                let done = transaction(&self.pool).run(async |tx| {
                    effect(job.id, job.fence).execute(&mut *tx).await?;
                    sleep(plan.pause).await;
                    end(plan)?;
                    Ok::<_, Error>(job.complete_in(tx).await?)
                });
                done.await.map_err(|error| error.to_string())?;
            }
            Some(Break::Effects) => {
                effect(job.id, job.fence).execute(&self.pool).await?;
                sleep(plan.pause).await;
                end(plan)?;
                return Ok(JobOutcome::Complete);
            }
            Some(Break::Fence) => {
                // In a task of its own: the worker drops a handler whose lease has ended.
                let careless = without_a_fence(self.pool.clone(), job.id, job.fence, plan);
                tokio::spawn(careless).await??;
            }
        }
        Ok(JobOutcome::Completed)
    }

    /// Claims and finishes batches without a worker. What goes wrong goes wrong for all of a batch, whose leases then end.
    async fn by_hand(self, stopped: Arc<AtomicBool>) -> std::io::Result<()> {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        while !stopped.load(Ordering::Relaxed) {
            let claim = Task::claim(&self.pool, HAND)
                .only(Task::KIND, BATCH)
                .lease(self.options.lease)
                .backoff(first, longest);
            let batch = claim.await.unwrap_or_default();
            if batch.is_empty() {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            self.write_down(batch.iter().map(|task| &**task), "")?;
            let works = |task: &Claimed<Task>| self.plan(task).end == End::Works;
            let (done, failed): (Vec<_>, Vec<_>) = batch.into_iter().partition(works);
            let failed = failed.into_iter().map(|task| (task, PLANNED));
            let _ = Claimed::complete_many(&self.pool, done).await;
            let _ = Claimed::retry_many(&self.pool, failed).await;
        }
        Ok(())
    }
}

fn effect(
    task: i64,
    fence: Fence,
) -> sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let insert = sqlx::query("INSERT INTO effects (task, fence) VALUES ($1, $2)");
    insert.bind(task).bind(fence.get())
}

/// Completes the task whoever has it: where this process was stopped for longer than the lease, after the attempt that has it now.
async fn without_a_fence(pool: PgPool, task: i64, fence: Fence, plan: Plan) -> Result<(), Error> {
    let mut tx = pool.begin().await?;
    effect(task, fence).execute(&mut *tx).await?;
    // So that there is always one to be stopped in the middle.
    sleep(plan.pause.max(Duration::from_millis(50))).await;
    end(plan)?;
    let turn = "SELECT fence = $2 OR state = 'done' FROM tasks WHERE id = $1";
    let turn = || {
        sqlx::query_scalar::<_, bool>(turn)
            .bind(task)
            .bind(fence.get())
    };
    while !turn().fetch_one(&mut *tx).await? {
        sleep(Duration::from_millis(20)).await;
    }
    sqlx::query("UPDATE tasks SET state = 'done', finished_at = now() WHERE id = $1")
        .bind(task)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

fn end(plan: Plan) -> Result<(), Error> {
    match plan.end {
        End::Works => Ok(()),
        End::Fails => Err(PLANNED.into()),
        End::Panics => panic!("{PLANNED}"),
    }
}
