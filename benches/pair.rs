//! Two ways to do the same, measured in turns.

use std::env;
use std::time::{Duration, Instant};

/// What to run, and for how long.
pub(crate) struct Bench {
    words: Vec<String>,
    group: String,
    headed: bool,
    /// How long a pair takes.
    budget: Duration,
    /// How long a block takes, long against a context switch and short against the drift of the machine.
    block: Duration,
}

impl Bench {
    /// `cargo test --all-targets` passes no `--bench`: then each pair runs once, to show that it works.
    pub(crate) fn from_arguments() -> Self {
        let (flags, words): (Vec<_>, Vec<_>) = env::args()
            .skip(1)
            .partition(|argument| argument.starts_with("--"));
        let has = |flag: &str| flags.iter().any(|other| other == flag);
        let (budget, block) = match (has("--bench"), has("--quick")) {
            (false, _) => (0, 0),
            (true, true) => (400, 1),
            (true, false) => (3500, 1),
        };
        Self {
            words,
            group: String::new(),
            headed: false,
            budget: Duration::from_millis(budget),
            block: Duration::from_millis(block),
        }
    }

    /// The title of the pairs that follow.
    pub(crate) fn group(&mut self, title: &str) {
        title.clone_into(&mut self.group);
        self.headed = false;
    }

    /// Whether all words on the command line are in the title of the group or the pair.
    fn wants(&mut self, name: &str) -> bool {
        let title = format!("{}, {name}", self.group);
        let wanted = self.words.iter().all(|word| title.contains(word.as_str()));
        if wanted && !self.headed {
            self.headed = true;
            println!("\n### {}\n", self.group);
            println!(
                "| operation | rowlock / hand-written | 95 % interval | 10-90 % of rounds | rounds | rowlock calls/s | hand calls/s |"
            );
            println!("|---|---|---|---|---|---|---|");
        }
        wanted
    }

    /// Prints the ratio of the two throughputs. `prepare` runs before each call and is not measured.
    pub(crate) async fn pair<H, A, B>(
        &mut self,
        name: &str,
        handle: &mut H,
        mut prepare: impl AsyncFnMut(&mut H),
        mut rowlock: impl AsyncFnMut(&mut H) -> A,
        mut hand: impl AsyncFnMut(&mut H) -> B,
    ) {
        if !self.wants(name) {
            return;
        }
        // Prepares the statements, and makes PostgreSQL settle on a plan.
        let warm_up = if self.budget.is_zero() { 1 } else { 50 };
        block(warm_up, handle, &mut prepare, &mut rowlock).await;
        let warm = block(warm_up, handle, &mut prepare, &mut hand).await;
        let once = warm / warm_up;
        let calls = self.block.as_nanos() / once.as_nanos().max(1);
        let calls = u32::try_from(calls).unwrap_or(1).max(1);

        let start = Instant::now();
        let mut rounds = Rounds::default();
        loop {
            // ABBA, then BAAB: what drifts evenly, or follows from going first, falls out.
            let (mut a, mut b) = (Duration::ZERO, Duration::ZERO);
            for first in [true, false, false, true] {
                if first == (rounds.ratios.len() % 2 == 0) {
                    a += block(calls, handle, &mut prepare, &mut rowlock).await;
                } else {
                    b += block(calls, handle, &mut prepare, &mut hand).await;
                }
            }
            rounds.add(2 * calls, a, b);
            if start.elapsed() >= self.budget {
                break;
            }
        }
        rounds.print(name);
    }
}

/// Calls `f` that many times, and sums up its time.
async fn block<H, T>(
    calls: u32,
    handle: &mut H,
    prepare: &mut impl AsyncFnMut(&mut H),
    f: &mut impl AsyncFnMut(&mut H) -> T,
) -> Duration {
    let mut sum = Duration::ZERO;
    for _ in 0..calls {
        prepare(handle).await;
        let start = Instant::now();
        drop(f(handle).await);
        sum += start.elapsed();
    }
    sum
}

#[derive(Default)]
struct Rounds {
    ratios: Vec<f64>,
    rowlock: Vec<f64>,
    hand: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, calls: u32, rowlock: Duration, hand: Duration) {
        self.ratios.push(hand.as_secs_f64() / rowlock.as_secs_f64());
        self.rowlock.push(f64::from(calls) / rowlock.as_secs_f64());
        self.hand.push(f64::from(calls) / hand.as_secs_f64());
    }

    fn print(mut self, name: &str) {
        for values in [&mut self.ratios, &mut self.rowlock, &mut self.hand] {
            values.sort_by(f64::total_cmp);
        }
        let count = self.ratios.len();
        // The median lies between these two ranks with 95 % probability, whatever the distribution.
        let margin = 0.98 / (count as f64).sqrt();
        println!(
            "| {name} | **{:.3}** | {:.3}-{:.3} | {:.3}-{:.3} | {count} | {:.0} | {:.0} |",
            at(&self.ratios, 0.5),
            at(&self.ratios, 0.5 - margin),
            at(&self.ratios, 0.5 + margin),
            at(&self.ratios, 0.1),
            at(&self.ratios, 0.9),
            at(&self.rowlock, 0.5),
            at(&self.hand, 0.5),
        );
    }
}

/// The value at this fraction of sorted values.
fn at(sorted: &[f64], fraction: f64) -> f64 {
    let last = (sorted.len() - 1) as f64;
    sorted[(fraction.clamp(0.0, 1.0) * last).round() as usize]
}
