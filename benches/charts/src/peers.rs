//! Throughput and the 99th percentile of each operation, over the number of callers.

use plotters::style::RGBColor;

use crate::figures::{Figures, Row, distinct};
use crate::panel::{self, Line, OURS, Panel, QUICK, QUIET, TEXT};
use crate::{Chart, Result};

/// Dark enough for text on white, and told apart by who does not see all colors.
const COLORS: [(&str, RGBColor); 12] = [
    ("rowlock, Lanes", OURS),
    ("rowlock, pool", RGBColor(0xd9, 0x73, 0x0d)),
    ("sqlx pool", TEXT),
    ("sqlx pool, no ping", QUIET),
    ("sqlx, one writer", QUIET),
    ("tokio-postgres, deadpool", RGBColor(0x05, 0x50, 0xae)),
    ("tokio-postgres, pipelined", RGBColor(0x1f, 0x88, 0xd0)),
    ("diesel-async", RGBColor(0x1a, 0x7f, 0x37)),
    ("sea-orm", RGBColor(0x0a, 0x8a, 0x8a)),
    ("toasty", RGBColor(0x82, 0x50, 0xdf)),
    ("rusqlite", RGBColor(0x05, 0x50, 0xae)),
    ("rusqlite, group commit", RGBColor(0x1f, 0x88, 0xd0)),
];

const LANES: &str = "rowlock, Lanes";

fn color(name: &str) -> Result<RGBColor> {
    let color = COLORS.iter().find(|(other, _)| *other == name);
    Ok(color.ok_or_else(|| format!("no color for {name}"))?.1)
}

pub(crate) fn charts(figures: &Figures) -> Result<Vec<Chart>> {
    let title = |row: Row<'_>| {
        Ok((
            row.text("database")?.to_owned(),
            row.text("operation")?.to_owned(),
        ))
    };
    let is_quick = figures.are_of_a_quick_run()?;
    let mut charts = Vec::new();
    for (database, operation) in distinct(figures.rows().map(title))? {
        let rows = figures.rows().filter(|row| {
            let is = |column, value: &str| row.text(column).is_ok_and(|text| text == value);
            is("database", &database) && is("operation", &operation)
        });
        let rows: Vec<_> = rows.collect();
        let note = if is_quick { QUICK } else { note(&database)? };
        let panels = [
            Panel {
                title: "Throughput",
                x: "callers",
                y: "calls per second",
                names: NAMES,
                label: rate,
                lines: lines(&rows, "calls_per_second")?,
            },
            Panel {
                title: "Latency, 99th percentile",
                x: "callers",
                y: "time per call",
                names: NAMES,
                label: time,
                lines: lines(&rows, "p99_us")?,
            },
        ];
        let svg = panel::image(SIZE, &format!("{database}: {operation}"), note, |area| {
            let [left, right] = &panels;
            let (throughput, latency) = area.split_horizontally(492);
            left.draw(&throughput)?;
            right.draw(&latency)
        })?;
        let name = format!("{database} {operation}")
            .to_lowercase()
            .replace(", ", "-")
            .replace(' ', "-");
        charts.push(Chart {
            name: format!("{name}.svg"),
            svg,
        });
    }
    Ok(charts)
}

pub(crate) const SIZE: (u32, u32) = (1000, 420);

fn note(database: &str) -> Result<&'static str> {
    match database {
        "PostgreSQL" => Ok(
            "Client and server on the same two cores, fsync off. Eight connections each; Lanes four of them.",
        ),
        "SQLite" => Ok(
            "Two cores, WAL, synchronous off. sqlx and rowlock on eight connections; rusqlite on a thread that writes and two that read.",
        ),
        _ => Err(format!("nothing is known of {database}").into()),
    }
}

/// Pixels for the longest of the names.
const NAMES: u32 = 170;

fn lines(rows: &[Row<'_>], column: &str) -> Result<Vec<Line>> {
    let names = distinct(rows.iter().map(|row| row.text("contender")))?;
    let line = |name: &str| {
        let mine = rows
            .iter()
            .filter(|row| row.text("contender").is_ok_and(|text| text == name));
        let points = mine.map(|row| Ok((row.number("callers")?, row.number(column)?)));
        Ok(Line {
            name: name.to_owned(),
            color: color(name)?,
            is_bold: name == LANES,
            points: points.collect::<Result<_>>()?,
        })
    };
    names.into_iter().map(line).collect()
}

/// 500, 4.6k, 20k, 1M.
pub(crate) fn rate(value: f64) -> String {
    match value {
        ..999.5 => format!("{value:.0}"),
        ..9_950.0 => format!("{:.1}k", value / 1e3).replace(".0", ""),
        ..999_500.0 => format!("{:.0}k", value / 1e3),
        _ => format!("{:.1}M", value / 1e6).replace(".0", ""),
    }
}

/// Of microseconds.
fn time(value: f64) -> String {
    match value {
        ..999.5 => format!("{value:.0} µs"),
        ..999_500.0 => format!("{:.0} ms", value / 1e3),
        _ => format!("{:.0} s", value / 1e6),
    }
}
