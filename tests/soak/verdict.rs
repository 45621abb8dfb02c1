//! What became of each task, and what is wrong with that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rowlock::queue::QueueStats;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::sleep;

use crate::Options;
use crate::run::{Trouble, Worker};
use crate::task::{EFFECT, End, kind, plan};
use crate::worker::{CONCURRENCY, HAND, NAME};

/// So many of one kind of mistake are shown.
const SHOWN: usize = 5;

/// In bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sizes {
    pub(crate) heap: i64,
    pub(crate) indexes: i64,
    /// The indexes of the queue, without the primary key.
    partial: i64,
    dead: i64,
    vacuums: i64,
}

impl Sizes {
    pub(crate) async fn of_now(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let sizes = "SELECT pg_relation_size('tasks'), pg_indexes_size('tasks'),
            (SELECT sum(pg_relation_size(indexrelid))::bigint FROM pg_index WHERE indrelid = 'tasks'::regclass AND NOT indisprimary),
            n_dead_tup, autovacuum_count FROM pg_stat_user_tables WHERE relname = 'tasks'";
        let (heap, indexes, partial, dead, vacuums) = sqlx::query_as(sizes).fetch_one(pool).await?;
        Ok(Self {
            heap,
            indexes,
            partial,
            dead,
            vacuums,
        })
    }
}

/// What was seen on the way.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) last: Sizes,
    pub(crate) ready: u64,
    pub(crate) running: u64,
    most: Sizes,
    most_ready: u64,
    longest_due: Duration,
    /// Of all lives of the server, which forgets them in a crash.
    vacuums: i64,
}

impl Samples {
    pub(crate) fn add(&mut self, stats: QueueStats, sizes: Sizes) {
        let known = match sizes.vacuums < self.last.vacuums {
            true => 0,
            false => self.last.vacuums,
        };
        self.vacuums += sizes.vacuums - known;
        self.last = sizes;
        (self.ready, self.running) = (stats.ready, stats.running);
        self.most_ready = self.most_ready.max(stats.ready);
        self.longest_due = self.longest_due.max(stats.oldest_due.unwrap_or_default());
        let most = &mut self.most;
        most.heap = most.heap.max(sizes.heap);
        most.indexes = most.indexes.max(sizes.indexes);
        most.partial = most.partial.max(sizes.partial);
        most.dead = most.dead.max(sizes.dead);
    }
}

pub(crate) struct Run<'r> {
    pub(crate) options: &'r Options,
    pub(crate) trouble: &'r Trouble,
    pub(crate) workers: &'r [Worker],
    pub(crate) samples: &'r Samples,
    pub(crate) took: Duration,
}

/// An attempt whose handler began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Begun {
    task: i64,
    fence: i64,
    attempt: i64,
    worker: usize,
}

/// Attempts that began, by how they ended.
#[derive(Debug, Default)]
struct Attempts {
    finished: i64,
    planned: i64,
    /// Because of the database.
    failed: i64,
    /// With their processes.
    broken: i64,
    /// With their leases, of processes that went on: an answer was lost, say.
    ended: i64,
    /// That the database has counted, and no handler began.
    without_handler: i64,
}

#[derive(Debug, Default)]
struct Wrong(BTreeMap<&'static str, Vec<String>>);

impl Wrong {
    fn add(&mut self, what: &'static str, which: impl std::fmt::Debug) {
        self.0.entry(what).or_default().push(format!("{which:?}"));
    }

    fn check(&mut self, what: &'static str, is_right: bool, which: impl std::fmt::Debug) {
        if !is_right {
            self.add(what, which);
        }
    }

    fn lines(self) -> Vec<String> {
        let line = |(what, which): (_, Vec<String>)| {
            let shown: Vec<_> = which.iter().take(SHOWN).map(String::as_str).collect();
            format!("{what}: {} times, as {}", which.len(), shown.join(", "))
        };
        self.0.into_iter().map(line).collect()
    }
}

async fn number(pool: &PgPool, sql: &str) -> Result<i64, sqlx::Error> {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::query_scalar(sql).fetch_one(pool).await
}

/// The report, and what is wrong.
pub(crate) async fn judge(
    run: &Run<'_>,
    pool: &PgPool,
) -> Result<(String, Vec<String>), sqlx::Error> {
    let mut wrong = Wrong::default();
    let left = sessions_left(pool).await?;
    wrong.check("sessions of workers that have ended", left == 0, left);

    let open =
        "SELECT id, state FROM tasks WHERE state <> 'done' OR finished_at IS NULL ORDER BY id";
    let open: Vec<(i64, String)> = sqlx::query_as(open).fetch_all(pool).await?;
    for task in open {
        wrong.add("a task that is not done", task);
    }
    let effects = effects(run, pool, &mut wrong).await?;
    let attempts = attempts(run, pool, &mut wrong).await?;
    let most_without = most_without_handler(run);
    wrong.check(
        "attempts are lost",
        attempts.without_handler <= most_without,
        (attempts.without_handler, most_without),
    );

    let end = Sizes::of_now(pool).await?;
    sqlx::query("VACUUM FULL tasks").execute(pool).await?;
    let packed = Sizes::of_now(pool).await?;
    Ok((
        report(run, effects, &attempts, most_without, [end, packed]),
        wrong.lines(),
    ))
}

/// Connections of processes that are gone are closed by the server in a moment.
async fn sessions_left(pool: &PgPool) -> Result<i64, sqlx::Error> {
    let begun = Instant::now();
    loop {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        let sessions = sqlx::query_scalar(sessions)
            .bind(NAME)
            .fetch_one(pool)
            .await?;
        if sessions == 0 || begun.elapsed() > Duration::from_secs(10) {
            return Ok(sessions);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// How many there are: one per task that has one.
async fn effects(run: &Run<'_>, pool: &PgPool, wrong: &mut Wrong) -> Result<i64, sqlx::Error> {
    let times =
        "SELECT task, count(*) FROM effects GROUP BY task HAVING count(*) > 1 ORDER BY task";
    let times: Vec<(i64, i64)> = sqlx::query_as(times).fetch_all(pool).await?;
    for times in times {
        wrong.add("an effect that happened several times", times);
    }
    let none = "SELECT id FROM tasks WHERE kind = $1 AND NOT EXISTS (SELECT FROM effects WHERE task = tasks.id)";
    let none: Vec<i64> = sqlx::query_scalar(none)
        .bind(EFFECT)
        .fetch_all(pool)
        .await?;
    for none in none {
        wrong.add("an effect that did not happen", none);
    }
    let effects = number(pool, "SELECT count(*) FROM effects").await?;
    let expected = (1..=run.options.jobs)
        .filter(|id| kind(*id) == EFFECT)
        .count();
    wrong.check("effects of no task", effects >= expected as i64, effects);
    Ok(effects)
}

/// What the workers have written down: the attempts that began, in order, and those that failed as nobody had planned.
fn begun(workers: &[Worker], wrong: &mut Wrong) -> (Vec<Begun>, HashSet<Begun>) {
    let (mut begun, mut failed) = (Vec::new(), HashSet::new());
    for (worker, log) in workers.iter().map(|worker| &worker.log).enumerate() {
        // It may have been killed before it made one.
        for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let mut number = || words.next()?.parse::<i64>().ok();
            let (task, attempt, fence) = (number(), number(), number());
            let (Some(task), Some(attempt), Some(fence)) = (task, attempt, fence) else {
                wrong.add("a line of a worker that cannot be read", line);
                continue;
            };
            let one = Begun {
                task,
                fence,
                attempt,
                worker,
            };
            match words.next() {
                None => begun.push(one),
                Some(_) => _ = failed.insert(one),
            }
        }
    }
    begun.sort_unstable();
    (begun, failed)
}

/// Each attempt that began and did not finish its task must have a reason.
async fn attempts(
    run: &Run<'_>,
    pool: &PgPool,
    wrong: &mut Wrong,
) -> Result<Attempts, sqlx::Error> {
    let ended: Vec<(i64, i64)> = sqlx::query_as("SELECT task, fence FROM ended")
        .fetch_all(pool)
        .await?;
    let ended: HashSet<_> = ended.into_iter().collect();
    let (all, failed) = begun(run.workers, wrong);
    let mut of_task: HashMap<i64, &[Begun]> = all
        .chunk_by(|one, other| one.task == other.task)
        .filter_map(|begun| Some((begun.first()?.task, begun)))
        .collect();
    let mut attempts = Attempts::default();
    let mut tasks = sqlx::query_as("SELECT id, attempts::bigint, fence FROM tasks").fetch(pool);
    let mut count = 0;
    while let Some((id, counted, fence)) = tasks.try_next().await? {
        let (id, counted, fence): (i64, i64, i64) = (id, counted, fence);
        count += 1;
        let begun = of_task.remove(&id).unwrap_or_default();
        let Some((last, before)) = begun.split_last() else {
            wrong.add("a task that nobody has handled", id);
            continue;
        };
        let is_last = (last.fence, last.attempt) == (fence, counted);
        wrong.check(
            "a task that another attempt than the last one has finished",
            is_last,
            last,
        );
        attempts.finished += 1;
        attempts.without_handler += counted - begun.len() as i64;
        for pair in begun.windows(2) {
            let in_order = pair[0].fence < pair[1].fence && pair[0].attempt < pair[1].attempt;
            wrong.check("an attempt that began twice", in_order, pair);
        }
        for one in before {
            let worker = &run.workers[one.worker];
            let has_ended = ended.contains(&(one.task, one.fence));
            let reason = match plan(run.options.seed, one.task, one.attempt).end {
                _ if has_ended && (worker.killed || worker.stopped) => &mut attempts.broken,
                _ if has_ended => &mut attempts.ended,
                End::Fails | End::Panics => &mut attempts.planned,
                End::Works if failed.contains(one) => &mut attempts.failed,
                End::Works => {
                    wrong.add("a task that was handled again without a reason", one);
                    continue;
                }
            };
            *reason += 1;
        }
    }
    wrong.check(
        "tasks that are gone, or were never there",
        count == run.options.jobs,
        count,
    );
    wrong.check("attempts of no task", of_task.is_empty(), of_task.len());
    Ok(attempts)
}

/// What the pages of `worker` say: a claim for handlers that are free counts, also if nobody gets its answer.
fn most_without_handler(run: &Run<'_>) -> i64 {
    let (hand, all) = (HAND as i64, (CONCURRENCY + HAND) as i64);
    let count = |is: fn(&&Worker) -> bool| run.workers.iter().filter(is).count() as i64;
    let processes = count(|worker| worker.killed || worker.stopped);
    let restarts = run.trouble.restarts * run.options.workers as i64;
    (processes + restarts) * all + run.trouble.terminated * hand
}

fn report(
    run: &Run<'_>,
    effects: i64,
    attempts: &Attempts,
    most_without: i64,
    [end, packed]: [Sizes; 2],
) -> String {
    let mut report = String::from("| | |\n|---|---|\n");
    let mut row = |name: &str, text: String| {
        let _ = writeln!(report, "| {name} | {text} |");
    };
    let (options, trouble, samples) = (run.options, run.trouble, run.samples);
    let count = |is: fn(&&Worker) -> bool| run.workers.iter().filter(is).count();
    let mb = |bytes: i64| format!("{:.1} MB", bytes as f64 / f64::from(1 << 20));
    let jobs = options.jobs;
    let seconds = run.took.as_secs_f64();
    row(
        "jobs",
        format!(
            "{jobs} in {seconds:.0} s, {:.0} per second; seed {}",
            jobs as f64 / seconds,
            options.seed
        ),
    );
    row(
        "worker processes",
        format!(
            "{} at once; {} killed, {} stopped for {:?}, a lease of {:?}",
            options.workers,
            count(|worker| worker.killed),
            count(|worker| worker.stopped),
            options.lease * 5 / 2,
            options.lease,
        ),
    );
    row("backends terminated", trouble.terminated.to_string());
    row(
        "the server",
        format!(
            "crashed {} times, restarted {} times, was away for {:.1} s in all",
            (trouble.restarts + 1) / 2,
            trouble.restarts / 2,
            trouble.away.as_secs_f64(),
        ),
    );
    row(
        "effects in the transaction of `complete_in`",
        effects.to_string(),
    );
    row(
        "attempts whose handlers began",
        format!(
            "{} that finished a task, {} that failed as planned, {} by an error of the database; leases ended of {} whose processes were killed or stopped, and of {} others",
            attempts.finished, attempts.planned, attempts.failed, attempts.broken, attempts.ended
        ),
    );
    row(
        "attempts counted for which none began",
        format!(
            "{}, of {most_without} that there may be",
            attempts.without_handler
        ),
    );
    row(
        "waiting at most",
        format!(
            "{} tasks, the oldest for {:.1} s",
            samples.most_ready,
            samples.longest_due.as_secs_f64()
        ),
    );
    row(
        "heap",
        format!(
            "{} at the end, {} at most, {} packed; {} bytes per task",
            mb(end.heap),
            mb(samples.most.heap),
            mb(packed.heap),
            end.heap / jobs
        ),
    );
    row(
        "indexes of the queue",
        format!(
            "{} at the end, {} at most, {} packed",
            mb(end.partial),
            mb(samples.most.partial),
            mb(packed.partial)
        ),
    );
    row(
        "primary key",
        format!(
            "{} at the end, {} packed",
            mb(end.indexes - end.partial),
            mb(packed.indexes - packed.partial)
        ),
    );
    row(
        "dead tuples",
        format!(
            "{} at the end, {} at most; {} autovacuums",
            end.dead, samples.most.dead, samples.vacuums
        ),
    );
    report
}
