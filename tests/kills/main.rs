//! What was confirmed is there, whatever breaks: `cargo run --release -p rowlock-tests --bin kills -- --times 1000`.
//!
//! 64 callers of a process share `Lanes`: they count, update, load, find and create, a few keys for all of them, so that statements serve many. Some of them
//! go before they are told. Meanwhile
//!
//! - the process is killed with SIGKILL,
//! - or a connection is cut at a message: after it or in it, of the client or of the server, one message after the other,
//! - or the server crashes (`immediate`), or is shut down (`fast`), and is started again; it writes to its disk as one in production does.
//!
//! Then what the database has is compared with what each caller was told, for each key by itself ([`law`]). The figures are on standard output; the program
//! fails if the law is broken, and says by which key, round and seed.
//!
//! With `--break early` and `--break again` additions are done by lanes with a mistake, which it must find; with `--break lazy` the sessions are at
//! `synchronous_commit = off`, which it must find when the server crashes.

mod client;
mod history;
mod law;
mod naive;
mod rows;
mod run;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// What lanes can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// They answer before COMMIT.
    Early,
    /// They send a statement again whose answer was lost.
    Again,
    /// Their sessions do not wait until a commit is on the disk.
    Lazy,
}

impl Break {
    const ALL: [(&str, Self); 3] = [
        ("early", Self::Early),
        ("again", Self::Again),
        ("lazy", Self::Lazy),
    ];

    fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(its, _)| *its == name);
        found.map(|(_, breaks)| *breaks)
    }

    fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, breaks)| *breaks == self);
        found.map_or("", |(name, _)| name)
    }
}

#[derive(Debug, Clone, Copy)]
struct Options {
    kills: usize,
    cuts: usize,
    crashes: usize,
    stops: usize,
    seed: u64,
    breaks: Option<Break>,
}

/// What a client is started with.
#[derive(Debug)]
struct Client {
    url: String,
    log: String,
    round: i64,
    seed: u64,
    /// Of each caller; without, until it is stopped.
    calls: Option<usize>,
}

const USAGE: &str = "usage: kills [--times N] [--kills N] [--cuts N] [--crashes N] [--stops N] [--seed N] [--break early|again|lazy]";

enum Role {
    World(Options),
    Client(Client, Option<Break>),
}

fn role(mut arguments: impl Iterator<Item = String>) -> Option<Role> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let mut options = Options {
        kills: 1_000,
        cuts: 1_000,
        crashes: 1_000,
        stops: 1_000,
        seed: u64::from(since.subsec_nanos()),
        breaks: None,
    };
    let (mut client, mut round, mut calls) = (None, 0, None);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        let number = || value.parse::<usize>().ok();
        match name.as_str() {
            "--times" => {
                let times = number()?;
                (options.kills, options.cuts) = (times, times);
                (options.crashes, options.stops) = (times, times);
            }
            "--kills" => options.kills = number()?,
            "--cuts" => options.cuts = number()?,
            "--crashes" => options.crashes = number()?,
            "--stops" => options.stops = number()?,
            "--seed" => options.seed = value.parse().ok()?,
            "--break" => options.breaks = Some(Break::named(&value)?),
            "--client" => client = Some((value, arguments.next()?)),
            "--round" => round = value.parse().ok()?,
            "--calls" => calls = Some(number()?),
            _ => return None,
        }
    }
    let Some((url, log)) = client else {
        return Some(Role::World(options));
    };
    let client = Client {
        url,
        log,
        round,
        seed: options.seed,
        calls,
    };
    Some(Role::Client(client, options.breaks))
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match role(std::env::args().skip(1)) {
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
        Some(Role::Client(client, breaks)) => client::run(client, breaks)
            .await
            .map_err(|error| vec![format!("a client has failed: {error}")]),
        Some(Role::World(options)) => {
            eprintln!("seed {}", options.seed);
            run::run(options).await
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            for wrong in wrong {
                eprintln!("WRONG: {wrong}");
            }
            ExitCode::FAILURE
        }
    }
}
