//! A queue for as long as it takes: `cargo run --release -p rowlock-tests --bin soak -- --jobs 1000000`.
//!
//! On a private PostgreSQL, which writes to its disk as one in production does, processes work off jobs that are enqueued meanwhile. One of them is killed
//! every two seconds and replaced, now and then one is stopped for longer than its lease, backends are terminated, and the server is restarted: by
//! `immediate`, which is a crash, and by `fast`. In the end it is counted what became of each job. The report is on standard output; the program fails if
//! anything in it is wrong.
//!
//! `--break effects` and `--break fence` are programs with a mistake, which it must find.

mod run;
mod task;
mod verdict;
mod worker;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a program can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// The effect is not written in the transaction that completes the task.
    Effects,
    /// A task is completed whoever has it.
    Fence,
}

#[derive(Debug, Clone)]
struct Options {
    jobs: i64,
    workers: usize,
    kill_every: Duration,
    restarts: i64,
    lease: Duration,
    seed: u64,
    breaks: Option<Break>,
}

const USAGE: &str = "usage: soak [--jobs N] [--workers N] [--kill-every MS] [--restarts N] [--lease MS] [--seed N] [--break effects|fence]";

/// The options, and what a worker is started with.
fn options(mut arguments: impl Iterator<Item = String>) -> Option<(Options, Option<[String; 2]>)> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let mut options = Options {
        jobs: 1_000_000,
        workers: 3,
        kill_every: Duration::from_secs(2),
        restarts: 2,
        lease: Duration::from_secs(4),
        seed: u64::from(since.subsec_nanos()),
        breaks: None,
    };
    let mut worker = None;
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        let number = || value.parse::<u64>().ok();
        match name.as_str() {
            "--jobs" => options.jobs = value.parse().ok().filter(|jobs| *jobs > 0)?,
            "--workers" => options.workers = value.parse().ok().filter(|workers| *workers > 0)?,
            "--kill-every" => options.kill_every = Duration::from_millis(number()?.max(1)),
            "--restarts" => options.restarts = value.parse().ok()?,
            "--lease" => options.lease = Duration::from_millis(number()?.max(1000)),
            "--seed" => options.seed = number()?,
            "--break" if value == "effects" => options.breaks = Some(Break::Effects),
            "--break" if value == "fence" => options.breaks = Some(Break::Fence),
            "--worker" => worker = Some([value, arguments.next()?]),
            _ => return None,
        }
    }
    Some((options, worker))
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some((options, worker)) = options(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some([url, log]) = worker {
        return match worker::run(options, &url, &log).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("a worker has failed: {error}");
                ExitCode::FAILURE
            }
        };
    }
    eprintln!("seed {}", options.seed);
    let wrong = run::run(options).await;
    for wrong in &wrong {
        eprintln!("WRONG: {wrong}");
    }
    match wrong.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
