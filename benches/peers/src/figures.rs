//! What came of the rounds of a contender, and how it is shown.

use crate::harness::Slice;

/// The columns of [`Figures::row`] after the first four.
pub(crate) const COLUMNS: &str =
    "ratio\tratio_low\tratio_high\tcalls_per_second\tp50_us\tp99_us\trounds";

/// The medians of the rounds.
pub(crate) struct Figures {
    ratio: f64,
    lowest: f64,
    highest: f64,
    per_second: f64,
    p50: f64,
    p99: f64,
    rounds: usize,
}

impl Figures {
    /// A ratio is that of the slices of one round.
    pub(crate) fn new(mine: &[Slice], first: &[Slice]) -> Self {
        let pairs = mine.iter().zip(first);
        let ratios = sorted(pairs.map(|(mine, first)| mine.per_second / first.per_second));
        let of = |value: fn(&Slice) -> f64| median(&sorted(mine.iter().map(value)));
        Self {
            ratio: median(&ratios),
            lowest: ratios[0],
            highest: ratios[ratios.len() - 1],
            per_second: of(|slice| slice.per_second),
            p50: of(|slice| slice.p50),
            p99: of(|slice| slice.p99),
            rounds: mine.len(),
        }
    }

    pub(crate) fn ratio(&self) -> String {
        let Self {
            ratio,
            lowest,
            highest,
            ..
        } = self;
        format!("**{ratio:.2}** ({lowest:.2}-{highest:.2})")
    }

    pub(crate) fn rate(&self) -> String {
        format!("{:.0}", self.per_second)
    }

    pub(crate) fn times(&self) -> String {
        format!("{:.0}, {:.0}", self.p50, self.p99)
    }

    pub(crate) fn row(&self) -> String {
        let Self {
            ratio,
            lowest,
            highest,
            per_second,
            p50,
            p99,
            rounds,
        } = self;
        format!(
            "{ratio:.3}\t{lowest:.3}\t{highest:.3}\t{per_second:.0}\t{p50:.0}\t{p99:.0}\t{rounds}"
        )
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
