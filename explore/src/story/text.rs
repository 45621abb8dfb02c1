//! The story as text: a table, as in an article about isolation.

use std::fmt;

use super::{Event, wrap};
use crate::trace::Trace;

/// How wide all of it is.
const WIDTH: usize = 116;
/// How wide a column is at least, for however many actors, and at most.
const COLUMN: std::ops::RangeInclusive<usize> = 24..=54;
/// The numbers of the steps.
const NUMBERS: usize = 3;

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actors = self.actors.len().max(1);
        let width = ((WIDTH - NUMBERS) / actors).saturating_sub(3);
        let table = Table {
            trace: self,
            width: width.clamp(*COLUMN.start(), *COLUMN.end()),
        };
        table.fmt(f)
    }
}

struct Table<'a> {
    trace: &'a Trace,
    width: usize,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actors = self.trace.actors.len();
        let names = self.trace.actors.iter();
        let names = names.map(|name| wrap(name, self.width, 0)).collect();
        self.row(f, "", names)?;
        self.rule(f)?;
        let mut waiting = vec![false; actors];
        for event in &self.trace.events() {
            self.event(f, event, &mut waiting)?;
        }
        self.rule(f)?;
        let results = (0..actors).map(|actor| wrap(&self.trace.result(actor), self.width, 2));
        self.row(f, "", results.collect())
    }
}

impl Table<'_> {
    fn event(
        &self,
        f: &mut fmt::Formatter<'_>,
        event: &Event,
        waiting: &mut [bool],
    ) -> fmt::Result {
        let lines = event.lines.iter();
        let lines: Vec<_> = lines.flat_map(|line| line.wrap(self.width)).collect();
        let mut cells = vec![Vec::new(); self.trace.actors.len()];
        // Whoever waits is seen to wait.
        for (cell, _) in cells.iter_mut().zip(&*waiting).filter(|(_, waits)| **waits) {
            *cell = vec!["┊".to_owned(); lines.len()];
        }
        if let Some(cell) = cells.get_mut(event.actor) {
            *cell = lines;
        }
        if let Some(waits) = waiting.get_mut(event.actor) {
            *waits = !event.late && self.trace.has_to_wait(event.step);
        }
        let number = if event.late {
            String::new()
        } else {
            (event.step + 1).to_string()
        };
        self.row(f, &number, cells)
    }

    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        number: &str,
        cells: Vec<Vec<String>>,
    ) -> fmt::Result {
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..height {
            let number = if at == 0 { number } else { "" };
            let mut line = format!("{number:>NUMBERS$}");
            for cell in &cells {
                let text = cell.get(at).map_or("", String::as_str);
                line.push_str(&format!(" │ {text:<width$}", width = self.width));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn rule(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = format!("─┼─{}", "─".repeat(self.width));
        let columns = column.repeat(self.trace.actors.len());
        writeln!(f, "{}{columns}", "─".repeat(NUMBERS))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::examples::{self, ANN, BOB, Play};
    use crate::trace::Fault;

    #[test]
    fn examples() {
        for (name, trace) in examples::ALL {
            insta::assert_snapshot!(name, trace().to_string());
        }
    }

    #[test]
    fn faults() {
        let mut play = Play::new(1);
        for fault in [
            Fault::CutBefore,
            Fault::CutAfter,
            Fault::CutInAnswer,
            Fault::Terminated,
            Fault::Restarted,
            Fault::DroppedBefore,
            Fault::DroppedAfter,
            Fault::Clock(Duration::from_millis(90_500)),
        ] {
            play.step(ANN, "DELETE FROM products").fault(fault);
        }
        insta::assert_snapshot!(play.trace.to_string());
    }

    #[test]
    fn several_connections_and_a_wait_without_end() {
        let mut play = Play::new(2);
        play.step(ANN, "LOCK TABLE products");
        play.step(ANN, "LOCK TABLE doctors").connection(1);
        let waits = play.step(BOB, "LOCK TABLE products").waits(ANN, 3, 0);
        waits.no_answer();
        play.step(ANN, "SELECT 1");
        insta::assert_snapshot!(play.returns(BOB, None).trace.to_string());
    }

    #[test]
    fn no_line_is_wider_than_the_table() {
        for (name, trace) in examples::ALL {
            for line in trace().to_string().lines() {
                assert!(line.chars().count() <= super::WIDTH + 1, "{name}: {line}");
            }
        }
    }
}
