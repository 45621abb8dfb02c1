//! Draws `docs/charts/*.svg`: charts of the figures in `docs/charts/*.tsv`, and the pictures of the guide.
//!
//! ```text
//! cargo run -p rowlock-charts
//! ```

mod figures;
mod panel;
mod peers;
mod pictures;
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
    fs::write(for_rustdoc(), pictures::definitions(&pictures::charts()))?;
    Ok(())
}

fn charts() -> Result<Vec<Chart>> {
    let read = |name| Figures::parse(&fs::read_to_string(folder().join(name))?);
    let mut charts = peers::charts(&read("peers.tsv")?)?;
    charts.push(queues::chart(&read("queues.tsv")?)?);
    charts.extend(pictures::charts());
    Ok(charts)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/charts")
}

/// The pictures once more, for the documentation of the crate.
fn for_rustdoc() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtime/guide/pictures.rustdoc")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::{charts, folder, for_rustdoc, pictures};

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
        let there = fs::read_to_string(for_rustdoc()).unwrap_or_default();
        assert!(
            there == pictures::definitions(&pictures::charts()),
            "the pictures of the guide are out of date: cargo run -p rowlock-charts"
        );
    }
}
