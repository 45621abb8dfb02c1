//! How many jobs per second come out of a queue: over the size of a batch, and next to other crates.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::{Figures, Row};
use crate::panel::{self, Area, FAINT, Line, OURS, Panel, QUICK, QUIET, TEXT, text};
use crate::peers::{SIZE, rate};
use crate::{Chart, Result};

const WORKER: &str = "rowlock, worker";
const CLAIM: &str = "rowlock, `claim`";
const BY_HAND: &str = "by hand";

const NOTE: &str = "How fast a full queue of jobs that do nothing is emptied. Client and server on the same two cores, fsync off.";

/// Drained in turns: ours and the other's jobs per second.
struct Pair<'f> {
    against: &'f str,
    ratio: f64,
    rates: [f64; 2],
}

pub(crate) fn chart(figures: &Figures) -> Result<Chart> {
    let mut claims = [Vec::new(), Vec::new()];
    let mut pairs = Vec::new();
    for row in figures.rows() {
        let pair = pair(row)?;
        match (row.text("contender")?, pair.against) {
            (CLAIM, BY_HAND) => {
                let batch = row.number("batch")?;
                for (line, rate) in claims.iter_mut().zip(pair.rates) {
                    line.push((batch, rate));
                }
            }
            (WORKER, _) => pairs.push(pair),
            _ => {}
        }
    }
    let [ours, theirs] = claims;
    let line = |name: &str, color, points| Line {
        name: name.to_owned(),
        color,
        is_bold: name != BY_HAND,
        points,
    };
    let ours = line("claim", OURS, ours);
    let panel = Panel {
        title: "claim and complete_many, 8 tasks",
        x: "jobs per batch",
        y: "jobs per second",
        names: 80,
        label: rate,
        lines: vec![ours, line(BY_HAND, TEXT, theirs)],
    };
    let is_quick = figures.are_of_a_quick_run()?;
    let note = if is_quick { QUICK } else { NOTE };
    let svg = panel::image(SIZE, "PostgreSQL: queues", note, |area| {
        let (left, right) = area.split_horizontally(420);
        panel.draw(&left)?;
        bars(&pairs, &right)
    })?;
    let name = "queues.svg".to_owned();
    Ok(Chart { name, svg })
}

fn pair(row: Row<'_>) -> Result<Pair<'_>> {
    Ok(Pair {
        against: row.text("against")?,
        ratio: row.number("ratio")?,
        rates: [
            row.number("jobs_per_second")?,
            row.number("against_jobs_per_second")?,
        ],
    })
}

/// Two bars for each pair.
fn bars(pairs: &[Pair<'_>], area: &Area<'_>) -> Result<()> {
    let most = pairs.iter().flat_map(|pair| pair.rates).fold(0.0, f64::max);
    let count = i32::try_from(pairs.len())?;
    let mut chart = ChartBuilder::on(area)
        .caption(
            "Worker, in turns with each crate at its best settings",
            text(14),
        )
        .margin_right(90)
        .x_label_area_size(40)
        .y_label_area_size(120)
        .build_cartesian_2d(0.0..most * 1.02, 0..count * 3)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .label_style(text(12))
        .axis_desc_style(text(13))
        .x_labels(6)
        .x_desc("jobs per second")
        .x_label_formatter(&|value| rate(*value))
        .draw()?;
    let (from_x, from_y) = area.get_base_pixel();
    let place = |jobs: f64, row: i32| {
        let (x, y) = chart.backend_coord(&(jobs, row));
        (x - from_x, y - from_y)
    };
    for (pair, index) in pairs.iter().rev().zip(0..) {
        let [ours, theirs] = pair.rates;
        let note = format!("{} ({:.1}x)", rate(ours), pair.ratio);
        let bars = [
            (pair.against, QUIET, theirs, rate(theirs)),
            (WORKER, OURS, ours, note),
        ];
        for ((name, color, jobs, note), row) in bars.into_iter().zip(index * 3..) {
            let ((left, bottom), (right, top)) = (place(0.0, row), place(jobs, row + 1));
            let bar = Rectangle::new([(left, top + 2), (right, bottom - 2)], color.filled());
            area.draw(&bar)?;
            let middle = i32::midpoint(top, bottom);
            let style = |side| text(12).color(&color).pos(Pos::new(side, VPos::Center));
            area.draw(&Text::new(name, (left - 6, middle), style(HPos::Right)))?;
            area.draw(&Text::new(note, (right + 6, middle), style(HPos::Left)))?;
        }
    }
    Ok(())
}
