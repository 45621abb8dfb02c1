//! A panel: lines over two logarithmic axes, each with its name at its end.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Result;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) const TEXT: RGBColor = RGBColor(0x24, 0x29, 0x2f);
pub(crate) const FAINT: RGBColor = RGBColor(0xe4, 0xe7, 0xeb);
pub(crate) const QUIET: RGBColor = RGBColor(0x6e, 0x77, 0x81);
pub(crate) const OURS: RGBColor = RGBColor(0xc2, 0x25, 0x1c);
const AXIS: RGBColor = RGBColor(0x8c, 0x95, 0x9f);

/// In the place of the note.
pub(crate) const QUICK: &str =
    "A quick run, to show that it works: these figures are worth nothing.";

/// Pixels between two names.
const LINE_HEIGHT: i32 = 15;

pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) color: RGBColor,
    /// One that the chart is about.
    pub(crate) is_bold: bool,
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct Panel<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Pixels to the right of the lines.
    pub(crate) names: u32,
    /// What the axis says of a value.
    pub(crate) label: fn(f64) -> String,
    pub(crate) lines: Vec<Line>,
}

/// An image with a background of its own, so that it can be read on a light and on a dark page.
pub(crate) fn image(
    size: (u32, u32),
    title: &str,
    note: &str,
    draw: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let corner = (i32::try_from(size.0)? - 1, i32::try_from(size.1)? - 1);
        root.draw(&Rectangle::new([(0, 0), corner], FAINT))?;
        root.draw(&Text::new(title, (16, 10), text(17)))?;
        root.draw(&Text::new(note, (16, 33), text(12).color(&QUIET)))?;
        draw(&root.margin(54, 6, 8, 8))?;
        root.present()?;
    }
    // plotters leaves spaces at the ends of lines.
    let lines: Vec<_> = svg.lines().map(str::trim_end).collect();
    Ok(lines.join("\n") + "\n")
}

/// In pixels, which plotters divides by 1.24 in an SVG.
pub(crate) fn text(size: u32) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", f64::from(size) * 1.24).into_font()).color(&TEXT)
}

/// An axis with labels at given values, which that of plotters has at powers of ten alone.
struct Logarithmic {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Logarithmic {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let Range { start, end } = self.range;
        let share = (value / start).ln() / (end / start).ln();
        from + (f64::from(to - from) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// 1, 2 and 5 of each power of ten.
fn ticks(range: &Range<f64>) -> Vec<f64> {
    let powers = 0..range.end.log10().ceil() as i32;
    let all = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
    all.filter(|tick| range.contains(tick)).collect()
}

impl Panel<'_> {
    pub(crate) fn draw(&self, area: &Area<'_>) -> Result<()> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let mut places: Vec<_> = points().map(|point| point.0).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let (Some(first), Some(last)) = (places.first(), places.last()) else {
            return Err(format!("{}: no figures", self.title).into());
        };
        let values = || points().map(|point| point.1);
        let range = values().fold(f64::MAX, f64::min) / 1.2..values().fold(0.0, f64::max) * 1.2;
        let ticks = ticks(&range);
        let x_axis = Logarithmic {
            range: first / 1.15..last * 1.15,
            ticks: places.clone(),
        };
        let y_axis = Logarithmic { range, ticks };
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, text(14))
            .margin_right(self.names)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .axis_style(AXIS)
            .label_style(text(12))
            .axis_desc_style(text(13))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|place| format!("{place:.0}"))
            .y_label_formatter(&|value| (self.label)(*value))
            .draw()?;

        let mut ends = Vec::new();
        // Those that are bold come last, and lie above the others.
        let (others, bold): (Vec<_>, Vec<_>) = self.lines.iter().partition(|line| !line.is_bold);
        for line in others.into_iter().chain(bold) {
            let style = line.color.stroke_width(if line.is_bold { 3 } else { 1 });
            let points = line.points.iter().copied();
            chart.draw_series(LineSeries::new(points.clone(), style))?;
            let size = if line.is_bold { 4 } else { 3 };
            chart.draw_series(
                points
                    .clone()
                    .map(|point| Circle::new(point, size, line.color.filled())),
            )?;
            if let Some(end) = points.last() {
                ends.push((chart.backend_coord(&end), line));
            }
        }
        let (from_x, from_y) = area.get_base_pixel();
        let places = chart.plotting_area().get_pixel_range().1;
        let heights = apart(
            ends.iter().map(|(end, _)| end.1).collect(),
            places.start,
            places.end,
        );
        for ((end, line), height) in ends.into_iter().zip(heights) {
            let end = (end.0 - from_x, end.1 - from_y);
            let name = (end.0 + 22, height - from_y);
            area.draw(&PathElement::new(
                [(end.0 + 6, end.1), (name.0 - 3, name.1)],
                line.color.mix(0.6),
            ))?;
            let style = text(if line.is_bold { 13 } else { 12 }).color(&line.color);
            area.draw(&Text::new(
                line.name.clone(),
                name,
                style.pos(Pos::new(HPos::Left, VPos::Center)),
            ))?;
        }
        Ok(())
    }
}

/// Moves heights apart until the names at them do not overlap, in their order.
fn apart(heights: Vec<i32>, top: i32, bottom: i32) -> Vec<i32> {
    let mut order: Vec<_> = (0..heights.len()).collect();
    order.sort_by_key(|&index| heights[index]);
    let mut moved = heights;
    let mut least = top;
    for &index in &order {
        moved[index] = moved[index].max(least);
        least = moved[index] + LINE_HEIGHT;
    }
    let mut most = bottom;
    for &index in order.iter().rev() {
        moved[index] = moved[index].min(most);
        most = moved[index] - LINE_HEIGHT;
    }
    moved
}
