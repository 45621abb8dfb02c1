//! What a terminal shows while the mails go out: the queue's depth, the rates, the workers, the dead letters.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use rowlock::queue::QueueStats;
use tokio::time::Instant;

use crate::Way;

/// A rate is that of the time since the look that was so long ago.
const WINDOW: Duration = Duration::from_secs(1);
/// So many rates are drawn.
const HISTORY: usize = 24;
/// A rate, from nothing to the highest so far.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Shows itself only on a terminal.
pub struct View {
    mails: ProgressBar,
    queue: ProgressBar,
    workers: Vec<Worker>,
    rate: Rate,
    heights: VecDeque<u64>,
    /// Draws the others.
    lines: MultiProgress,
}

/// A worker process.
struct Worker {
    line: ProgressBar,
    rate: Rate,
    is_killed: bool,
}

impl View {
    pub fn new(way: Way, workers: usize) -> Self {
        let lines = MultiProgress::new();
        let add = |template: &str, length: usize| {
            let line = lines.add(ProgressBar::new(length as u64));
            match ProgressStyle::with_template(template) {
                Ok(style) => line.with_style(style.progress_chars("█▌░")),
                Err(_) => line,
            }
        };
        let mails = add(
            "{prefix:>9} {bar:32.green/dim} {human_pos} of {human_len} {msg}",
            way.mails(),
        );
        let queue = add("{prefix:>9} {msg}", 0);
        let workers = (1..=workers).map(|number| Worker {
            line: add("{prefix:>9} {bar:32.cyan/dim} {msg}", way.mails())
                .with_prefix(format!("worker {number}")),
            rate: Rate::default(),
            is_killed: false,
        });
        Self {
            mails: mails.with_prefix(way.name()),
            queue: queue.with_prefix("queue"),
            workers: workers.collect(),
            rate: Rate::default(),
            heights: VecDeque::new(),
            lines,
        }
    }

    /// What `rowlock` says of the queue, how many mails are done or dead, and how often each worker has called the mail server.
    pub fn show(&mut self, stats: &QueueStats, ended: u64, calls: &[(i64, i64)]) {
        let rate = self.rate.after(ended);
        if self.heights.len() == HISTORY {
            self.heights.pop_front();
        }
        self.heights.push_back(rate);
        self.mails.set_position(ended);
        self.mails
            .set_message(format!("{} {}/s", self.sparks(), HumanCount(rate)));

        let oldest = stats.oldest_due.unwrap_or_default().as_secs_f64();
        self.queue.set_message(format!(
            "{} ready ({} due, the oldest for {oldest:.1} s), {} running ({} overdue), {} dead",
            HumanCount(stats.ready),
            HumanCount(stats.due),
            stats.running,
            stats.overdue,
            stats.dead,
        ));

        let most = calls.iter().map(|(_, calls)| *calls).max().unwrap_or(1);
        for (number, worker) in (1..).zip(&mut self.workers) {
            let calls = calls.iter().find(|(process, _)| *process == number);
            let calls = calls.map_or(0, |(_, calls)| calls.unsigned_abs());
            worker.line.set_length(most.unsigned_abs());
            worker.line.set_position(calls);
            let rate = worker.rate.after(calls);
            worker.line.set_message(match worker.is_killed {
                true => format!("{}, killed with -9", HumanCount(calls)),
                false => format!("{} {}/s", HumanCount(calls), HumanCount(rate)),
            });
        }
    }

    pub fn killed(&mut self, number: i64) {
        let index = usize::try_from(number - 1).unwrap_or_default();
        if let Some(worker) = self.workers.get_mut(index) {
            worker.is_killed = true;
        }
    }

    fn sparks(&self) -> String {
        let highest = self
            .heights
            .iter()
            .max()
            .copied()
            .unwrap_or_default()
            .max(1);
        let height = |rate: &u64| HEIGHTS[(rate * 7 / highest) as usize];
        let sparks: String = self.heights.iter().map(height).collect();
        format!("{sparks:>HISTORY$}")
    }
}

/// All lines go, as the table that the program prints then says more.
impl Drop for View {
    fn drop(&mut self) {
        // On a terminal that has gone there is nothing to clear.
        let _ = self.lines.clear();
    }
}

/// How fast a number grows.
#[derive(Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// By the second, with the number as it is now.
    fn after(&mut self, number: u64) -> u64 {
        let now = Instant::now();
        self.0.push_back((now, number));
        while self.0.len() > 2 && now - self.0[1].0 >= WINDOW {
            self.0.pop_front();
        }
        let (since, before) = self.0[0];
        let seconds = (now - since).as_secs_f64().max(0.001);
        (number.saturating_sub(before) as f64 / seconds) as u64
    }
}
