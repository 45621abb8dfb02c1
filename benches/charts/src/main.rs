//! Draws `docs/charts/*.svg` from the figures in `docs/charts/*.tsv`.
//!
//! ```text
//! cargo run -p rowlock-charts
//! ```

mod figures;
mod panel;
mod peers;
mod queues;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use figures::Figures;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A file and what is in it.
struct Chart {
    name: String,
    svg: String,
}

fn main() -> Result<()> {
    for chart in charts()? {
        fs::write(folder().join(&chart.name), &chart.svg)?;
        println!("docs/charts/{}: {} bytes", chart.name, chart.svg.len());
    }
    Ok(())
}

fn charts() -> Result<Vec<Chart>> {
    let read = |name| Figures::parse(&fs::read_to_string(folder().join(name))?);
    let mut charts = peers::charts(&read("peers.tsv")?)?;
    charts.push(queues::chart(&read("queues.tsv")?)?);
    Ok(charts)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/charts")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::{charts, folder};

    #[test]
    fn the_charts_are_those_of_the_figures() {
        let mut drawn = BTreeSet::new();
        for chart in charts().unwrap() {
            let there = fs::read_to_string(folder().join(&chart.name)).unwrap_or_default();
            assert!(
                there == chart.svg,
                "docs/charts/{} is out of date: cargo run -p rowlock-charts",
                chart.name
            );
            assert!(
                chart.svg.len() < 60_000,
                "{} has {} bytes",
                chart.name,
                chart.svg.len()
            );
            drawn.insert(chart.name);
        }
        let files = fs::read_dir(folder()).unwrap();
        let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<_> = files.filter(|name| name.ends_with(".svg")).collect();
        assert_eq!(there, drawn);
    }
}
