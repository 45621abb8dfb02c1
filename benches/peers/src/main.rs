//! How many calls per second rowlock and other libraries answer, and how long a call takes, over the number of callers.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- [--trips] [--quick] [--rounds N] [--data FILE] [WORD...]
//! ```
//!
//! Only what has all words in its title, "SQLite, hot counter, 64", is measured. `--data` writes the figures to a file.
//! `--trips` measures nothing, and counts the round trips of each call to PostgreSQL.
//!
//! Each contender has eight connections and tables of its own, on the same server or beside it on the same disk. Callers are tasks that call again when
//! they have their answer. The contenders have slices of time in turns, and the order is reversed in every other round; a ratio is that of one round. After each
//! slice the database is asked whether it has each call that was acknowledged, once.

mod by_hand;
mod figures;
mod harness;
mod postgres;
mod rowlock;
mod sqlite;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use figures::{COLUMNS, Figures};
use harness::{Contender, Operation, Slice};

const CALLERS: [i64; 4] = [1, 8, 64, 256];

struct Arguments {
    rounds: usize,
    time: Duration,
    data: Option<PathBuf>,
    trips: bool,
    words: Vec<String>,
}

impl Arguments {
    fn parse() -> Option<Self> {
        let mut this = Self {
            rounds: 5,
            time: Duration::from_millis(200),
            data: None,
            trips: false,
            words: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => (this.rounds, this.time) = (1, Duration::from_millis(50)),
                "--rounds" => {
                    this.rounds = arguments
                        .next()?
                        .parse()
                        .ok()
                        .filter(|&rounds| rounds > 0)?
                }
                "--data" => this.data = Some(arguments.next()?.into()),
                "--trips" => this.trips = true,
                flag if flag.starts_with("--") => return None,
                _ => this.words.push(argument),
            }
        }
        Some(this)
    }
}

fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse() else {
        eprintln!(
            "usage: rowlock-benches-peers [--trips] [--quick] [--rounds N] [--data FILE] [WORD...]"
        );
        return ExitCode::from(2);
    };
    let data = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(async {
            if arguments.trips {
                postgres::round_trips().await;
                return String::new();
            }
            let mut data = format!("database\toperation\tcallers\tcontender\t{COLUMNS}\n");
            for (database, contenders) in [
                (postgres::NAME, postgres::contenders(None).await),
                (sqlite::NAME, sqlite::contenders().await),
            ] {
                compare(&arguments, database, &contenders, &mut data).await;
            }
            data
        });
    if let Some(file) = arguments.data {
        let written = File::create(&file).and_then(|mut file| file.write_all(data.as_bytes()));
        if let Err(error) = written {
            eprintln!("{}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Prints a table of throughput as it is measured, and then one of latency.
async fn compare(
    arguments: &Arguments,
    database: &str,
    contenders: &[Contender],
    data: &mut String,
) {
    let (first, others) = contenders.split_first().expect("there are contenders");
    let names = |contenders: &[Contender]| {
        contenders
            .iter()
            .map(|contender| contender.name.to_owned())
            .collect()
    };
    println!(
        "\n### {database}, calls per second of {}, and what the others have of it\n",
        first.name
    );
    head(first.name, names(others));
    let mut latency = Vec::new();
    for operation in Operation::ALL {
        for callers in CALLERS {
            let title = format!("{database}, {}, {callers}", operation.name());
            if !arguments
                .words
                .iter()
                .all(|word| title.contains(word.as_str()))
            {
                continue;
            }
            let slices = turns(arguments, operation, callers, contenders).await;
            let all: Vec<_> = slices
                .iter()
                .map(|mine| Figures::new(mine, &slices[0]))
                .collect();
            let begin = format!("{} | {callers}", operation.name());
            line(
                &begin,
                all[0].rate(),
                all[1..].iter().map(Figures::ratio).collect(),
            );
            for (contender, figures) in contenders.iter().zip(&all) {
                let begin = [
                    database,
                    operation.name(),
                    &callers.to_string(),
                    contender.name,
                ];
                *data += &format!("{}\t{}\n", begin.join("\t"), figures.row());
            }
            latency.push((begin, all));
        }
    }
    println!("\n### {database}, microseconds of a call: half of them take less, and 99 of 100\n");
    head(first.name, names(others));
    for (begin, all) in latency {
        line(
            &begin,
            all[0].times(),
            all[1..].iter().map(Figures::times).collect(),
        );
    }
}

fn head(first: &str, others: Vec<String>) {
    let rule = vec!["---".to_owned(); others.len()];
    line("operation | callers", first.to_owned(), others);
    line("--- | ---", "---".to_owned(), rule);
}

fn line(begin: &str, first: String, others: Vec<String>) {
    println!("| {begin} | {first} | {} |", others.join(" | "));
}

/// The slices of each contender. Before the first round each has one that prepares its statements.
async fn turns(
    arguments: &Arguments,
    operation: Operation,
    callers: i64,
    contenders: &[Contender],
) -> Vec<Vec<Slice>> {
    let mut slices = vec![Vec::new(); contenders.len()];
    for contender in contenders {
        contender
            .slice(operation, callers, arguments.time / 5)
            .await;
    }
    for round in 0..arguments.rounds {
        let mut order: Vec<_> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let slice = contenders[index].slice(operation, callers, arguments.time);
            slices[index].push(slice.await);
        }
    }
    slices
}
