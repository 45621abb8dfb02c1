//! What rowlock counts, kept in memory for the live page. A service would install the recorder of its metrics system instead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// How many samples the chart has.
pub const SAMPLES: usize = 60;

type Label = (&'static str, &'static str);

/// The lines of the live page: what they are called, the counter, and the label that it must have.
const LINES: [(&str, &str, Option<Label>); 7] = [
    ("conflicts", "rowlock.conflicts", None),
    ("merges", "rowlock.merges", Some(("outcome", "clean"))),
    ("overlaps", "rowlock.merges", Some(("outcome", "overlap"))),
    ("retries", "rowlock.retries", None),
    ("calls on lanes", "rowlock.lanes.calls", None),
    ("statements of lanes", "rowlock.lanes.statements", None),
    ("notices", "rowlock.jobs", Some(("event", "completed"))),
];

/// A line of the live page: its total, and how much it grew by in each second.
#[derive(Debug)]
pub struct Line {
    pub name: &'static str,
    pub total: u64,
    pub growth: Vec<u64>,
}

/// A handle: clones are the same numbers.
#[derive(Debug, Clone, Default)]
pub struct Numbers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counters: Mutex<BTreeMap<Key, Arc<AtomicU64>>>,
    samples: Mutex<VecDeque<[u64; LINES.len()]>>,
}

impl Numbers {
    /// Takes a sample, once a second.
    pub fn sample(&self) {
        let totals = self.totals();
        let mut samples = lock(&self.0.samples);
        samples.push_back(totals);
        if samples.len() > SAMPLES + 1 {
            samples.pop_front();
        }
    }

    pub fn lines(&self) -> Vec<Line> {
        let totals = self.totals();
        let samples = lock(&self.0.samples);
        let pairs = || samples.iter().zip(samples.iter().skip(1));
        let line = |(at, (name, ..)): (usize, &(&'static str, _, _))| Line {
            name,
            total: totals[at],
            growth: pairs()
                .map(|(before, after)| after[at] - before[at])
                .collect(),
        };
        LINES.iter().enumerate().map(line).collect()
    }

    fn totals(&self) -> [u64; LINES.len()] {
        let counters = lock(&self.0.counters);
        LINES.map(|(_, name, label)| {
            let counted = |key: &Key| {
                let mut labels = key.labels().map(|label| (label.key(), label.value()));
                key.name() == name && label.is_none_or(|wanted| labels.any(|label| label == wanted))
            };
            let ours = counters.iter().filter(|(key, _)| counted(key));
            ours.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
        })
    }
}

impl Recorder for Numbers {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = lock(&self.0.counters);
        let counter = counters.entry(key.clone()).or_default();
        Counter::from_arc(Arc::clone(counter))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A count is as good after a panic as before it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
