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
mod harness;
mod postgres;
mod rowlock;
mod sqlite;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
            let mut data = "database\toperation\tcallers\tcontender\tratio\tratio_low\tratio_high\tcalls_per_second\tp50_us\tp99_us\trounds\n".to_owned();
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

async fn compare(
    arguments: &Arguments,
    database: &str,
    contenders: &[Contender],
    data: &mut String,
) {
    println!("\n### {database}\n");
    println!("| operation | callers | | of sqlx pool | rounds | calls/s | p50, p99 us |");
    println!("|---|---|---|---|---|---|---|");
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
            for (contender, mine) in contenders.iter().zip(&slices) {
                let figures = Figures::new(mine, &slices[0]);
                figures.print(operation, callers, contender.name);
                figures.note(database, operation, callers, contender.name, data);
            }
        }
    }
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

/// The medians of the rounds.
struct Figures {
    ratio: f64,
    /// The lowest and the highest.
    ratios: (f64, f64),
    slice: Slice,
    rounds: usize,
}

impl Figures {
    fn new(mine: &[Slice], first: &[Slice]) -> Self {
        let ratios = mine
            .iter()
            .zip(first)
            .map(|(mine, first)| mine.per_second / first.per_second);
        let ratios = sorted(ratios);
        let of = |value: fn(&Slice) -> f64| median(&sorted(mine.iter().map(value)));
        Self {
            ratio: median(&ratios),
            ratios: (ratios[0], ratios[ratios.len() - 1]),
            slice: Slice {
                calls: mine.iter().map(|slice| slice.calls).sum(),
                per_second: of(|slice| slice.per_second),
                p50: of(|slice| slice.p50),
                p99: of(|slice| slice.p99),
            },
            rounds: mine.len(),
        }
    }

    fn print(&self, operation: Operation, callers: i64, contender: &str) {
        let Self {
            ratio,
            ratios: (low, high),
            slice,
            ..
        } = self;
        println!(
            "| {} | {callers} | {contender} | **{ratio:.2}** | {low:.2}-{high:.2} | {:.0} | {:.0}, {:.0} |",
            operation.name(),
            slice.per_second,
            slice.p50,
            slice.p99
        );
    }

    fn note(
        &self,
        database: &str,
        operation: Operation,
        callers: i64,
        contender: &str,
        data: &mut String,
    ) {
        let Self {
            ratio,
            ratios: (low, high),
            slice,
            rounds,
        } = self;
        *data += &format!(
            "{database}\t{}\t{callers}\t{contender}\t{ratio:.3}\t{low:.3}\t{high:.3}\t{:.0}\t{:.0}\t{:.0}\t{rounds}\n",
            operation.name(),
            slice.per_second,
            slice.p50,
            slice.p99
        );
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
