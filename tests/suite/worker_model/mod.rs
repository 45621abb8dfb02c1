//! Random small programs for workers: rows of every kind, and what happens to workers and rows meanwhile.
//!
//! In the end every row is done, dead or purged: as the handler and the hooks of its last claim said, or for a reason that the program has. Bad
//! rows say why, no two of one customer were handled at the same time, no attempt was counted for which no handler began, and each tick of a
//! schedule enqueued one job. `ROWLOCK_SEED` runs one program again; `ROWLOCK_PROGRAMS` says how many there are.

mod handlers;
mod jobs;
mod program;
mod verdict;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use rowlock_tests::random::Random;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::handlers::SHOWN;
use self::jobs::{Row, rows};
use self::program::Program;
use self::verdict::judge;
use self::world::World;
use super::worker::{SECOND, SHORT, execute};
use super::{BEGIN_WRITE, Database, Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

/// So many if nothing else is said.
const PROGRAMS: u64 = 16;

/// Returns what it has shown.
async fn run(program: &Program) -> BTreeSet<&'static str> {
    let mut world = World::new().await;
    for kind in &program.rows {
        world.add(*kind).await;
    }
    for event in &program.events {
        world.happen(event).await;
    }
    world.until_unlocked().await;
    for customer in [None, Some(1), Some(2)] {
        world.resume(customer).await;
    }
    world.start(&program.last);
    let pool = world.pool().clone();
    let all_end = async {
        while !rows(&pool).await.iter().all(Row::has_ended) {
            sleep(SHORT).await;
        }
    };
    if timeout(40 * SECOND, all_end).await.is_err() {
        panic!("rows do not end: {:#?}", rows(&pool).await);
    }
    world.stop_all().await;
    judge(&world, rows(&pool).await);
    std::mem::take(&mut world.seen.lock().unwrap().shown)
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_a_random_program_ends() {
    let seeds = match number("ROWLOCK_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("ROWLOCK_PROGRAMS").unwrap_or(PROGRAMS),
    };
    let is_whole = seeds.clone().count() as u64 >= PROGRAMS;
    let at_once = Arc::new(Semaphore::new(8));
    let mut running = JoinSet::new();
    for seed in seeds {
        let at_once = at_once.clone();
        running.spawn(async move {
            let _turn = at_once.acquire_owned().await.unwrap();
            let program = Program::random(&mut Random::new(seed));
            let text = format!("{program:#?}");
            let ran = tokio::spawn(async move { run(&program).await }).await;
            ran.map_err(|error| {
                println!("seed {seed}: {error}\n{text}");
                seed
            })
        });
    }
    let (mut shown, mut failed) = (BTreeSet::new(), Vec::new());
    for ran in running.join_all().await {
        match ran {
            Ok(more) => shown.extend(more),
            Err(seed) => failed.push(seed),
        }
    }
    assert!(
        failed.is_empty(),
        "programs {failed:?} failed: ROWLOCK_SEED={} runs one again",
        failed[0]
    );
    assert!(!is_whole || shown.iter().eq(&SHOWN), "only {shown:?}");
}
