//! The worker of `#[derive(Queue)]` in several processes on one file.

use rowlock::queue::{JobOutcome, QueueState};
use rowlock::transaction;
use rowlock_tests::process::{self, Process};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::time::sleep;

use super::worker::{
    HOUR, SECOND, all, in_state, jobs, log, runs, start, until, until_in_state, worker,
};
use super::{Database, PoolOptions};

fn child_of(database: &Database, what: &str) -> Process {
    let options = database.options();
    let argument = format!("{what} {}", options.get_filename().display());
    Process::start("sqlite::worker_sqlite::child", &argument)
}

/// The process: works until no row is left, and says how many it finished; or says that it has rows, and waits.
#[tokio::test]
async fn child() {
    let Some(argument) = process::argument() else {
        return;
    };
    let (what, file) = argument.split_once(' ').unwrap();
    let options = SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(20 * SECOND);
    let pool = PoolOptions::new().connect_with(options).await.unwrap();
    let (captured, stays) = (pool.clone(), what == "stays");
    // One that ends because the machine is busy would be a second run.
    let lease = if what == "shares" { HOUR } else { 2 * SECOND };
    let worker = worker(&pool).concurrency(4).prefetch(4).lease(lease);
    let background = start(worker, move |job| {
        let pool = captured.clone();
        async move {
            log(&pool, &job, "child").await;
            if stays {
                process::say("there");
                std::future::pending::<()>().await;
            }
        }
    });
    until("no row is left", async || {
        in_state(&pool, QueueState::Done).await == 400
    })
    .await;
    process::say(&background.stop().await.completed.to_string());
}

/// A handler writes in one transaction for longer than the lease. No heartbeat gets through meanwhile, but nobody can take the row
/// either.
#[tokio::test]
async fn a_write_transaction_longer_than_the_lease() {
    let database = jobs(1).await;
    let pool = &database.pool;
    let captured = pool.clone();
    let long = worker(pool).lease(SECOND);
    let background = start(long, move |job| {
        let pool = captured.clone();
        async move {
            let done = transaction(&pool).run(async |tx| {
                let insert = "INSERT INTO runs VALUES (1, 1, 'long')";
                sqlx::query(insert).execute(&mut **tx).await.unwrap();
                sleep(4 * SECOND).await;
                job.complete_in(tx).await
            });
            match done.await {
                Ok(()) => JobOutcome::Completed,
                Err(error) => JobOutcome::fail(error),
            }
        }
    });
    until("it has the row", async || background.counts().started > 0).await;
    // Another worker would take whatever it gets.
    let other = start(worker(pool).lease(SECOND), async |_| {});
    until_in_state(pool, QueueState::Done, 1).await;
    let (counts, other) = (background.stop().await, other.stop().await);
    assert_eq!((counts.completed, counts.lease_lost), (1, 0));
    assert_eq!((other.started, other.rescued), (0, 0));
    assert_eq!(runs(pool).await[&1], [1]);
}

#[tokio::test]
async fn processes_share_the_rows() {
    let database = jobs(400).await;
    let mut children = [child_of(&database, "shares"), child_of(&database, "shares")];
    let said = tokio::task::spawn_blocking(move || {
        let numbers = children.each_mut().map(|child| child.says());
        assert!(children.into_iter().all(Process::ends_well));
        numbers
    });
    let numbers: [u64; 2] = said.await.unwrap().map(|number| number.parse().unwrap());
    assert_eq!(numbers.iter().sum::<u64>(), 400);
    let runs = runs(&database.pool).await;
    assert_eq!(runs.len(), 400);
    assert!(runs.values().all(|runs| *runs == [1]));
}

/// kill -9: its rows come back, and nothing else is done twice.
#[tokio::test]
async fn the_rows_of_a_killed_process_come_back() {
    let database = jobs(400).await;
    let pool = &database.pool;
    let mut child = child_of(&database, "stays");
    for _ in 0..4 {
        assert_eq!(child.says(), "there");
    }
    child.kill();
    let held = in_state(pool, QueueState::Running).await;
    assert!((4..=8).contains(&held), "{held}");
    let mut next = child_of(&database, "works");
    let said = tokio::task::spawn_blocking(move || next.says());
    assert_eq!(said.await.unwrap(), "400");
    let runs = runs(pool).await;
    let again = runs.values().filter(|runs| **runs == [1, 2]).count();
    assert_eq!((runs.len(), again), (400, 4));
    let attempts: i64 = all(pool)
        .await
        .iter()
        .map(|job| i64::from(job.attempts))
        .sum();
    // Those that waited had had none.
    assert_eq!(attempts, 400 + 4);
}
