//! How many jobs per second come out of a queue, with rowlock, by hand, and with the crates that own their schema.
//!
//! ```text
//! cargo run -q -p rowlock-tests --bin with-servers -- \
//!     cargo run --release --manifest-path benches/queues/Cargo.toml -- [--rounds N] [NAME...]
//! ```
//!
//! Every drain begins with a full queue of jobs that do nothing, and ends when the database says that all of them are
//! completed. First each setting of each contender is drained twice, and the better one of each contender is chosen by
//! the mean. Then come the rounds, in which every contender is drained once; every other round goes backwards. Names
//! choose contenders; those by hand are always in it.

mod contenders;
mod harness;

use std::process::ExitCode;

use contenders::{apalis, by_hand, graphile_worker, rowlock, sqlxmq, underway};
use harness::{Contender, Database, Server, Setting};

const ROUNDS: usize = 5;

/// How often each setting is tried before one is chosen.
const TRIES: usize = 2;

struct Arguments {
    rounds: usize,
    names: Vec<String>,
}

impl Arguments {
    fn parse() -> Option<Self> {
        let mut this = Self {
            rounds: ROUNDS,
            names: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--rounds" {
                let rounds = arguments.next()?.parse().ok();
                this.rounds = rounds.filter(|&rounds| rounds > 0)?;
            } else {
                this.names.push(argument);
            }
        }
        Some(this)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty()
            || name == "by_hand"
            || self.names.iter().any(|wanted| name.contains(wanted))
    }
}

/// A contender at one setting, and what the rounds measured.
struct Entry {
    contender: Contender,
    chosen: usize,
    /// Jobs per second.
    rates: Vec<f64>,
}

impl Entry {
    fn setting(&self) -> &Setting {
        &self.contender.settings[self.chosen]
    }

    fn is_by_hand(&self) -> bool {
        self.contender.name == by_hand::NAME
    }
}

fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse() else {
        eprintln!("usage: rowlock-benches-queues [--rounds N] [NAME...]");
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
        .block_on(run(&arguments, &server));
    ExitCode::SUCCESS
}

async fn run(arguments: &Arguments, server: &Server) {
    let mut databases = Vec::new();
    let mut contenders = Vec::new();
    macro_rules! add {
        ($($module:ident),+) => {$(
            if arguments.wants(stringify!($module)) {
                let database = server.database(stringify!($module)).await;
                contenders.extend($module::contenders(&database).await);
                databases.push(database);
            }
        )+};
    }
    add!(by_hand, rowlock, sqlxmq, underway, apalis, graphile_worker);

    let mut entries = choose(contenders).await;
    for round in 0..arguments.rounds {
        let mut order: Vec<&mut Entry> = entries.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for entry in order {
            let rate = entry.contender.measure(entry.setting()).await;
            entry.rates.push(rate);
        }
    }
    report(&entries);

    drop(entries);
    for database in databases {
        Database::drop(database).await;
    }
}

/// Tries all settings, and prints what came of those that are alternatives to each other.
async fn choose(contenders: Vec<Contender>) -> Vec<Entry> {
    println!("| contender | setting tried | claims up to | jobs/s, mean of {TRIES} |");
    println!("|---|---|---|---|");
    let mut entries = Vec::new();
    for contender in contenders {
        let mut means = vec![0.0; contender.settings.len()];
        for _ in 0..TRIES {
            for (mean, setting) in means.iter_mut().zip(&contender.settings) {
                *mean += contender.measure(setting).await / TRIES as f64;
            }
        }
        let best = (0..means.len()).max_by(|&a, &b| means[a].total_cmp(&means[b]));
        if means.len() > 1 {
            for (mean, setting) in means.iter().zip(&contender.settings) {
                let Setting { text, batch, .. } = setting;
                println!("| {} | {text} | {batch} | {mean:.0} |", contender.name);
            }
        }
        entries.push(Entry {
            contender,
            chosen: best.expect("a contender has settings"),
            rates: Vec::new(),
        });
    }
    entries
}

fn report(entries: &[Entry]) {
    println!(
        "\n| contender | setting | claims up to | jobs | jobs/s, median | min-max | to by hand, same batch |"
    );
    println!("|---|---|---|---|---|---|---|");
    for entry in entries {
        let Setting { text, batch, .. } = entry.setting();
        let Contender { name, jobs, .. } = entry.contender;
        let hand = entries
            .iter()
            .find(|other| other.is_by_hand() && other.setting().batch == *batch)
            .expect("every batch size in use is there by hand");
        let ratios = entry.rates.iter().zip(&hand.rates);
        let ratio = median(ratios.map(|(rate, hand)| rate / hand).collect());
        let (least, most) = entry
            .rates
            .iter()
            .fold((f64::MAX, 0.0f64), |(least, most), &rate| {
                (least.min(rate), most.max(rate))
            });
        let rate = median(entry.rates.clone());
        println!(
            "| {name} | {text} | {batch} | {jobs} | **{rate:.0}** | {least:.0}-{most:.0} | {ratio:.2} |"
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 {
        values[half]
    } else {
        values[half - 1].midpoint(values[half])
    }
}
