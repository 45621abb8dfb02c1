//! A schedule as a person reads it: time downwards, one column per actor.

mod svg;
mod text;
mod values;

#[cfg(test)]
pub(crate) mod examples;

use std::time::Duration;

use crate::trace::{Fault, Step, Trace, What};
use crate::wire::{Answer, Statement};

/// How many characters of one value are shown.
const VALUE_WIDTH: usize = 48;
/// How many lines of one statement are shown.
const STATEMENT_LINES: usize = 4;

/// What happens at one moment, in one actor's column.
#[derive(Debug)]
struct Event {
    actor: usize,
    /// The step that it tells of.
    step: usize,
    /// Whether the step had to wait, and this is its answer.
    late: bool,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Statement,
    Values,
    Answer,
    Error,
    Fault,
    Wait,
}

impl Line {
    fn new(kind: Kind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind, text }
    }

    /// The line in lines of a width; those that follow are indented.
    fn wrap(&self, width: usize) -> Vec<String> {
        let indent = match self.kind {
            Kind::Statement => 0,
            Kind::Values | Kind::Answer | Kind::Error | Kind::Fault | Kind::Wait => 2,
        };
        let mut lines = wrap(&self.text, width, indent);
        if self.kind == Kind::Statement && lines.len() > STATEMENT_LINES {
            let half = STATEMENT_LINES / 2;
            let last = lines.split_off(lines.len() - half);
            lines.truncate(half);
            if let Some(line) = lines.last_mut() {
                let room = width.saturating_sub(2).max(1);
                line.truncate(wrap(line, room, 0).first().map_or(0, String::len));
                line.push_str(" …");
            }
            lines.extend(last);
        }
        lines
    }
}

impl Trace {
    fn name(&self, actor: usize) -> &str {
        self.actors.get(actor).map_or("?", String::as_str)
    }

    /// The step in the course of which it was answered, if that is a later one.
    fn answered_later(&self, step: usize) -> Option<usize> {
        let later = self.steps[step].answered_in?;
        (later > step && later < self.steps.len()).then_some(later)
    }

    /// Whether it is not answered at once, or waits for ever.
    fn has_to_wait(&self, at: usize) -> bool {
        let step = &self.steps[at];
        self.answered_later(at).is_some() || (step.answer.is_none() && !step.waited_for.is_empty())
    }

    /// All that happens, in order.
    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            events.push(Event {
                actor: step.actor,
                step: at,
                late: false,
                lines: self.request(at),
            });
            let late = (0..at).filter(|&before| self.answered_later(before) == Some(at));
            events.extend(late.map(|before| Event {
                actor: self.steps[before].actor,
                step: before,
                late: true,
                lines: self.late_answer(before),
            }));
        }
        events
    }

    /// What is asked, what is broken, and the answer if it comes at once.
    fn request(&self, at: usize) -> Vec<Line> {
        let step = &self.steps[at];
        let several = |other: &Step| other.actor == step.actor && other.connection > 0;
        let connection = if self.steps.iter().any(several) {
            format!("[connection {}] ", step.connection + 1)
        } else {
            String::new()
        };
        let mut lines = Vec::new();
        match &step.what {
            What::Statements(statements) => {
                for statement in statements.iter() {
                    let sql: Vec<_> = statement.sql.split_whitespace().collect();
                    let sql = format!("{connection}{}", sql.join(" "));
                    lines.push(Line::new(Kind::Statement, values::printable(&sql)));
                    if !statement.params.is_empty() {
                        lines.push(Line::new(Kind::Values, params(statement)));
                    }
                }
            }
            What::Disconnect => lines.push(Line::new(
                Kind::Statement,
                format!("{connection}(closes the connection)"),
            )),
        }
        if let Some(fault) = step.fault {
            lines.push(Line::new(Kind::Fault, self.fault(fault)));
        }
        if self.has_to_wait(at) {
            lines.push(Line::new(Kind::Wait, self.waits(step)));
        }
        if self.answered_later(at).is_none() {
            self.answer(step, &mut lines);
        }
        lines
    }

    fn late_answer(&self, at: usize) -> Vec<Line> {
        let step = &self.steps[at];
        let mut lines = vec![Line::new(
            Kind::Wait,
            format!("◂ {} goes on, after {}", at + 1, duration(step.waited)),
        )];
        self.answer(step, &mut lines);
        lines
    }

    fn waits(&self, step: &Step) -> String {
        let mut names: Vec<_> = step
            .waited_for
            .iter()
            .map(|&actor| self.name(actor))
            .collect();
        names.dedup();
        match names.as_slice() {
            [] => "▸ waits".to_owned(),
            names => format!("▸ waits for {}", names.join(" and ")),
        }
    }

    fn answer(&self, step: &Step, lines: &mut Vec<Line>) {
        let What::Statements(statements) = &step.what else {
            return;
        };
        let Some(answer) = &step.answer else {
            if step
                .fault
                .is_none_or(|fault| matches!(fault, Fault::Clock(_)))
            {
                lines.push(Line::new(Kind::Answer, "→ (no answer yet)"));
            }
            return;
        };
        let first = lines.len();
        rows(statements, answer, lines);
        if let Some((code, message)) = &answer.error {
            let message = values::printable(message);
            lines.push(Line::new(Kind::Error, format!("✗ ERROR {code}: {message}")));
        }
        if unseen(step.fault)
            && let Some(line) = lines[first..].last_mut()
        {
            line.text.push_str(" (the client does not see this)");
        }
    }

    fn fault(&self, fault: Fault) -> String {
        match fault {
            Fault::CutBefore => "✂ the connection is cut before this reaches the server".to_owned(),
            Fault::CutAfter => {
                "✂ the server does this, and the connection is cut before the answer".to_owned()
            }
            Fault::CutInAnswer => "✂ the connection is cut in the middle of the answer".to_owned(),
            Fault::Stalled => "✂ the answer never comes".to_owned(),
            Fault::Terminated => "✂ the server ends the session before this reaches it".to_owned(),
            Fault::Restarted => "✂ the server is restarted before this reaches it".to_owned(),
            Fault::DroppedBefore => {
                "✂ the client stops waiting; the server gets this all the same".to_owned()
            }
            Fault::DroppedAfter => {
                "✂ the server does this, and the client stops waiting before the answer".to_owned()
            }
            Fault::Clock(ahead) => {
                format!(
                    "✂ the server's clock is {} ahead from here on",
                    duration(ahead)
                )
            }
        }
    }

    fn result(&self, actor: usize) -> String {
        match self.results.get(actor).and_then(Option::as_ref) {
            Some(result) => format!("= {}", values::printable(result)),
            None => "= (did not end)".to_owned(),
        }
    }
}

/// Whether the client gets no answer.
fn unseen(fault: Option<Fault>) -> bool {
    match fault {
        Some(Fault::Clock(_)) | None => false,
        // The answer is the error with which the server takes its leave.
        Some(Fault::Terminated | Fault::Restarted) => false,
        Some(
            Fault::CutBefore
            | Fault::CutAfter
            | Fault::CutInAnswer
            | Fault::Stalled
            | Fault::DroppedBefore
            | Fault::DroppedAfter,
        ) => true,
    }
}

fn params(statement: &Statement) -> String {
    let params = statement.params.iter().enumerate().map(|(at, param)| {
        let value = values::show(param.oid, param.binary, param.value.as_deref());
        format!("${} = {}", at + 1, shorten(&value))
    });
    format!("  {}", params.collect::<Vec<_>>().join(", "))
}

fn rows(statements: &[Statement], answer: &Answer, lines: &mut Vec<Line>) {
    // The rows of several statements are together in one answer.
    let [.., statement] = statements else { return };
    let columns = match answer.columns.as_slice() {
        [] => &statement.columns,
        columns => columns,
    };
    for row in &answer.rows {
        let cells = row.iter().enumerate().map(|(at, value)| {
            let (name, oid) = columns
                .get(at)
                .map_or(("?", 0), |column| (column.name.as_str(), column.oid));
            let value = values::show(oid, statement.is_binary(at), value.as_deref());
            format!("{name} = {}", shorten(&value))
        });
        let cells = cells.collect::<Vec<_>>().join(", ");
        lines.push(Line::new(Kind::Answer, format!("→ {cells}")));
    }
    if answer.row_count > answer.rows.len() {
        let more = answer.row_count - answer.rows.len();
        lines.push(Line::new(Kind::Answer, format!("→ … and {more} more")));
    }
    let asked = statements.iter().map(|statement| statement.sql.trim());
    let tags: Vec<_> = answer
        .tags
        .iter()
        .filter(|tag| !(tag.starts_with("SELECT ") && answer.row_count > 0))
        .collect();
    // BEGIN and COMMIT have nothing to add where they are answered with their own name.
    let echo = asked
        .map(|sql| sql.trim_end_matches(';').split_whitespace().next())
        .eq(tags.iter().map(|tag| Some(tag.as_str())));
    if tags.is_empty() || echo {
        return;
    }
    let tags = tags.iter().map(|tag| match tag.as_str() {
        "SELECT 0" => "no rows",
        tag => tag,
    });
    let tags = tags.collect::<Vec<_>>().join(", ");
    lines.push(Line::new(Kind::Answer, format!("→ {tags}")));
}

fn shorten(value: &str) -> String {
    match value.char_indices().nth(VALUE_WIDTH) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

fn duration(duration: Duration) -> String {
    if duration < Duration::from_millis(1) {
        return "less than 1 ms".to_owned();
    }
    if duration < Duration::from_secs(1) {
        return format!("{} ms", duration.as_millis());
    }
    // Whole milliseconds: what is below them is noise.
    let seconds = Duration::from_millis(duration.as_millis() as u64).as_secs_f64();
    format!("{seconds} s")
}

/// The text in lines of a width, broken at spaces where there are any.
fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    loop {
        let indent = if lines.is_empty() { 0 } else { indent };
        let pad = " ".repeat(indent);
        let room = width.saturating_sub(indent).max(1);
        let Some((end, _)) = rest.char_indices().nth(room) else {
            lines.push(format!("{pad}{rest}"));
            return lines;
        };
        // A space just after the line is as good as one in it. Spaces that begin the line are no place to break it.
        let begin = rest.len() - rest.trim_start().len();
        let next = rest[end..]
            .chars()
            .next()
            .map_or(end, |c| end + c.len_utf8());
        let end = match rest[..next].rfind(' ') {
            Some(space) if space > begin => space,
            _ => end,
        };
        lines.push(format!("{pad}{}", rest[..end].trim_end()));
        rest = rest[end..].trim_start();
        if rest.is_empty() {
            return lines;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (text, width, indent, lines) in [
            ("", 5, 0, vec![""]),
            ("one two", 7, 0, vec!["one two"]),
            ("one two", 6, 0, vec!["one", "two"]),
            ("one two", 3, 0, vec!["one", "two"]),
            ("one two three", 7, 2, vec!["one two", "  three"]),
            ("abcdefgh", 3, 1, vec!["abc", " de", " fg", " h"]),
            ("  $1 = 7, $2 = 8", 10, 2, vec!["  $1 = 7,", "  $2 = 8"]),
            ("äöü äöü", 3, 0, vec!["äöü", "äöü"]),
        ] {
            assert_eq!(wrap(text, width, indent), lines, "{text} in {width}");
        }
    }

    #[test]
    fn a_long_statement_is_shortened_within_its_width() {
        let statement = |sql: &str| Line::new(Kind::Statement, sql).wrap(7);
        assert_eq!(
            statement("1234567 1234 67 3 4 5 6 7 8 9 a b c d e f g h"),
            ["1234567", "1234 …", "b c d e", "f g h"]
        );
        for line in statement(&"x".repeat(60)) {
            assert!(line.chars().count() <= 7, "{line}");
        }
    }

    #[test]
    fn durations() {
        for (micros, shown) in [
            (0, "less than 1 ms"),
            (12_900, "12 ms"),
            (1_004_700, "1.004 s"),
            (60_000_000, "60 s"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), shown);
        }
    }
}
