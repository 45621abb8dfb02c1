//! How many jobs per second come out of a queue, with rowlock, by hand, and with the crates that own their schema.
//!
//! ```text
//! cargo run -q -p rowlock-tests --bin with-servers -- \
//!     cargo run --release --manifest-path benches/queues/Cargo.toml -- [--fsync] [--rounds N] [--tries N] [--data FILE] [NAME...]
//! ```
//!
//! Every drain begins with a full queue of jobs that do nothing, and ends when the database says that all of them are
//! completed. First each setting of each contender is drained three times, and the one with the best median is chosen. Then come
//! the rounds, in which each pair is drained in turns: one, the other, the other, the one; the next round begins with the other. Each
//! gives one ratio. Names choose pairs. `--tries 1` tries each setting once, and `--data` writes the last table to a file.
//!
//! With `--fsync` the server waits for its disk meanwhile; the role must be allowed to change the server's settings.

mod contenders;
mod harness;

use std::path::PathBuf;
use std::process::ExitCode;

use contenders::{apalis, by_hand, graphile_worker, rowlock, sqlxmq, underway};
use harness::{Contender, Database, Server, Setting};

const ROUNDS: usize = 11;

/// How often each setting is tried before one is chosen.
const TRIES: usize = 3;

struct Arguments {
    fsync: bool,
    rounds: usize,
    tries: usize,
    data: Option<PathBuf>,
    names: Vec<String>,
}

impl Arguments {
    fn parse() -> Option<Self> {
        let mut this = Self {
            fsync: false,
            rounds: ROUNDS,
            tries: TRIES,
            data: None,
            names: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--fsync" => this.fsync = true,
                "--rounds" => this.rounds = count(&mut arguments)?,
                "--tries" => this.tries = count(&mut arguments)?,
                "--data" => this.data = Some(arguments.next()?.into()),
                _ => this.names.push(argument),
            }
        }
        Some(this)
    }

    fn wants(&self, ours: &str, theirs: &str) -> bool {
        let named = |name: &String| ours.contains(name.as_str()) || theirs.contains(name.as_str());
        self.names.is_empty() || self.names.iter().any(named)
    }
}

fn count(arguments: &mut impl Iterator<Item = String>) -> Option<usize> {
    let count = arguments.next()?.parse().ok();
    count.filter(|&count| count > 0)
}

/// A contender, and the setting at which it is best.
struct Entry {
    contender: Contender,
    chosen: usize,
}

impl Entry {
    fn setting(&self) -> &Setting {
        &self.contender.settings[self.chosen]
    }

    async fn measure(&self) -> f64 {
        self.contender.measure(self.setting()).await
    }
}

/// Two that are drained in turns.
struct Pair {
    ours: usize,
    theirs: usize,
    ratios: Vec<f64>,
    /// Jobs per second.
    rates: [Vec<f64>; 2],
}

impl Pair {
    async fn round(&mut self, entries: &[Entry], number: usize) {
        let mut seconds = [0.0; 2];
        // What drifts evenly, or follows from going first, falls out.
        for first in [true, false, false, true] {
            let theirs = usize::from(first != (number % 2 == 0));
            let entry = &entries[[self.ours, self.theirs][theirs]];
            seconds[theirs] += 1.0 / entry.measure().await;
        }
        let [ours, theirs] = seconds.map(|seconds| 2.0 / seconds);
        self.ratios.push(ours / theirs);
        self.rates[0].push(ours);
        self.rates[1].push(theirs);
    }
}

fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse() else {
        eprintln!("usage: rowlock-benches-queues [--fsync] [--rounds N] [--tries N] [--data FILE] [NAME...]");
        return ExitCode::from(2);
    };
    let Some(server) = Server::from_environment() else {
        eprintln!("ROWLOCK_POSTGRES_URL or DATABASE_URL must name a server that may be loaded");
        return ExitCode::from(2);
    };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(run(&arguments, &server))
}

async fn run(arguments: &Arguments, server: &Server) -> ExitCode {
    let mut databases = Vec::new();
    let mut contenders = Vec::new();
    macro_rules! add {
        ($($module:ident),+) => {$(
            let database = server.database(stringify!($module)).await;
            contenders.extend($module::contenders(&database).await);
            databases.push(database);
        )+};
    }
    add!(by_hand, rowlock, sqlxmq, underway, apalis, graphile_worker);

    let mut pairs = pairs(&contenders);
    pairs.retain(|pair| {
        arguments.wants(contenders[pair.ours].name, contenders[pair.theirs].name)
    });
    let mut entries = Vec::new();
    println!("| contender | setting tried | claims up to | jobs/s, median of {} |", arguments.tries);
    println!("|---|---|---|---|");
    for (index, contender) in contenders.into_iter().enumerate() {
        let is_in = pairs.iter().any(|pair| [pair.ours, pair.theirs].contains(&index));
        let chosen = if is_in { choose(&contender, arguments.tries).await } else { 0 };
        entries.push(Entry { contender, chosen });
    }
    if arguments.fsync {
        server.set_fsync(true).await;
    }
    for round in 0..arguments.rounds {
        for pair in &mut pairs {
            pair.round(&entries, round).await;
        }
    }
    if arguments.fsync {
        server.set_fsync(false).await;
    }
    report(&entries, &mut pairs);
    let written = match &arguments.data {
        Some(file) => std::fs::write(file, data(&entries, &pairs)),
        None => Ok(()),
    };

    drop(entries);
    for database in databases {
        Database::drop(database).await;
    }
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the figures are not written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `claim` against the same by hand, batch by batch; the worker against each crate, and one that deletes completed jobs too against those that
/// do; and workers of queues with more to them against that of the plain one.
fn pairs(contenders: &[Contender]) -> Vec<Pair> {
    let find = |name: &str, batch: Option<usize>| {
        contenders.iter().position(|other| {
            let is_batch = batch.is_none_or(|batch| other.settings[0].batch == batch);
            other.name == name && is_batch
        })
    };
    let (worker, deletes) = (find(rowlock::WORKER, None), find(rowlock::DELETED, None));
    let opponents = contenders.iter().enumerate().flat_map(|(index, contender)| {
        let batch = contender.settings[0].batch;
        let (ours, of_those_that_delete) = match contender.name {
            by_hand::NAME | rowlock::WORKER => (None, None),
            rowlock::CLAIM => (Some(index).zip(find(by_hand::NAME, Some(batch))), None),
            name if name.starts_with(rowlock::WORKER) => (Some(index).zip(worker), None),
            graphile_worker::NAME | sqlxmq::NAME => (worker.zip(Some(index)), deletes.zip(Some(index))),
            _ => (worker.zip(Some(index)), None),
        };
        [ours, of_those_that_delete]
    });
    let pair = |(ours, theirs)| Pair {
        ours,
        theirs,
        ratios: Vec::new(),
        rates: Default::default(),
    };
    opponents.flatten().map(pair).collect()
}

/// Tries all settings, and prints what came of those that are alternatives to each other.
async fn choose(contender: &Contender, tries: usize) -> usize {
    let mut rates = vec![Vec::new(); contender.settings.len()];
    if rates.len() > 1 {
        for _ in 0..tries {
            for (rates, setting) in rates.iter_mut().zip(&contender.settings) {
                rates.push(contender.measure(setting).await);
            }
        }
        for (rates, setting) in rates.iter_mut().zip(&contender.settings) {
            rates.sort_by(f64::total_cmp);
            let Setting { text, batch, .. } = setting;
            let rate = at(rates, 0.5);
            println!("| {} | {text} | {batch} | {rate:.0} |", contender.name);
        }
        let best = (0..rates.len()).max_by(|&a, &b| at(&rates[a], 0.5).total_cmp(&at(&rates[b], 0.5)));
        return best.expect("a contender has settings");
    }
    0
}

fn report(entries: &[Entry], pairs: &mut [Pair]) {
    println!(
        "\n| contender | setting | against | setting | ratio | 95 % interval | 10-90 % of the rounds | rounds | jobs/s | of the other |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for pair in pairs {
        for values in [&mut pair.ratios].into_iter().chain(&mut pair.rates) {
            values.sort_by(f64::total_cmp);
        }
        let count = pair.ratios.len();
        let (low, high) = interval(&pair.ratios);
        let [ours, theirs] = [pair.ours, pair.theirs].map(|index| &entries[index]);
        let ratio = |fraction: f64| at(&pair.ratios, fraction);
        println!(
            "| {} | {} | {} | {} | **{:.2}** | {:.2}-{:.2} | {:.2}-{:.2} | {count} | {:.0} | {:.0} |",
            ours.contender.name,
            ours.setting().text,
            theirs.contender.name,
            theirs.setting().text,
            ratio(0.5),
            low,
            high,
            ratio(0.1),
            ratio(0.9),
            at(&pair.rates[0], 0.5),
            at(&pair.rates[1], 0.5),
        );
    }
}

/// Where the median of sorted values is with 95 % probability, whatever the distribution: between two of their ranks.
fn interval(sorted: &[f64]) -> (f64, f64) {
    let margin = 0.98 / (sorted.len() as f64).sqrt();
    (at(sorted, 0.5 - margin), at(sorted, 0.5 + margin))
}

/// The table that [`report`] has printed, for `docs/charts`.
fn data(entries: &[Entry], pairs: &[Pair]) -> String {
    let mut data = "contender\tsetting\tbatch\tagainst\tagainst_setting\tratio\tratio_low\tratio_high\tjobs_per_second\tagainst_jobs_per_second\trounds\n".to_owned();
    for pair in pairs {
        let [ours, theirs] = [pair.ours, pair.theirs].map(|index| &entries[index]);
        let (low, high) = interval(&pair.ratios);
        data += &format!(
            "{}\t{}\t{}\t{}\t{}\t{:.2}\t{low:.2}\t{high:.2}\t{:.0}\t{:.0}\t{}\n",
            ours.contender.name,
            ours.setting().text,
            ours.setting().batch,
            theirs.contender.name,
            theirs.setting().text,
            at(&pair.ratios, 0.5),
            at(&pair.rates[0], 0.5),
            at(&pair.rates[1], 0.5),
            pair.ratios.len(),
        );
    }
    data
}

/// The value at this fraction of sorted values.
fn at(sorted: &[f64], fraction: f64) -> f64 {
    let last = (sorted.len() - 1) as f64;
    sorted[(fraction.clamp(0.0, 1.0) * last).round() as usize]
}
