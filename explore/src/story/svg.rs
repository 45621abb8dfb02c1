//! The story as one picture, with nothing outside of it: SVG without scripts.

use std::fmt::Write;

use super::{Event, Kind, wrap};
use crate::trace::Trace;

/// Pixels: what a character of the text takes at most, and the room around.
const CHAR: usize = 7;
const LINE: usize = 16;
const PAD: usize = 8;
const GAP: usize = 14;
/// Left of the first lane, for the numbers.
const NUMBERS: usize = 36;
/// How many characters a lane is wide.
const LANE: usize = 44;
const LANE_WIDTH: usize = LANE * CHAR + 2 * PAD;
const STRIDE: usize = LANE_WIDTH + 40;

// Boxes bring their own background, and what is outside of them is of a grey that is seen on white and on black.
const STYLE: &str = "text{font:11px ui-monospace,Menlo,Consolas,monospace;white-space:pre}\
.out{fill:#808080}.box{fill:#f4f6f8;stroke:#8a94a0}.late{fill:#fdf3dc;stroke:#c79a2b}.bad{fill:#fdeaea;stroke:#cc3333}\
.statement{fill:#1c2733}.values{fill:#5b6876}.answer{fill:#1d5fa8}.error,.fault{fill:#b42318}.wait{fill:#8a6410}\
.lane{stroke:#8a94a0;stroke-dasharray:2 4}.bar{fill:#e0a82e}.arrow{stroke:#c79a2b;fill:none;stroke-width:1.5}\
.mark{stroke:#cc3333;stroke-width:3}";

impl Trace {
    /// The story as an SVG picture.
    pub(crate) fn svg(&self) -> String {
        let mut picture = Picture::default();
        let events = self.events();
        let boxes = picture.place(&events);
        let bottom = boxes.last().map_or(picture.y, |last| last.bottom());
        for actor in 0..self.actors.len() {
            let x = lane(actor) + LANE_WIDTH / 2;
            picture.put(format_args!(
                r#"<line class="lane" x1="{x}" y1="{}" x2="{x}" y2="{bottom}"/>"#,
                2 * LINE
            ));
        }
        for (at, name) in self.actors.iter().enumerate() {
            picture.text("out", lane(at) + PAD, LINE + 4, name);
        }
        for one in &boxes {
            let other = |step, late| {
                let mut boxes = boxes.iter();
                boxes.find(|other| (other.event.step, other.event.late) == (step, late))
            };
            let step = one.event.step;
            if one.event.late {
                let by = self.answered_later(step);
                if let Some(let_go) = by.and_then(|by| other(by, false)) {
                    picture.arrow(let_go, one);
                }
            } else if self.has_to_wait(step) {
                picture.wait(one, other(step, true).map_or(bottom, |late| late.y));
            }
        }
        for one in &boxes {
            picture.draw(one);
        }
        let mut y = bottom + GAP + LINE;
        let results = (0..self.actors.len()).map(|actor| wrap(&self.result(actor), LANE, 2));
        let results: Vec<_> = results.collect();
        for (actor, lines) in results.iter().enumerate() {
            for (at, line) in lines.iter().enumerate() {
                picture.text("out", lane(actor) + PAD, y + at * LINE, line);
            }
        }
        y += results.iter().map(Vec::len).max().unwrap_or(0) * LINE;
        let width = lane(self.actors.len());
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" width=\"{width}\" height=\"{y}\">\
            <style>{STYLE}</style>\n{}</svg>\n",
            picture.svg
        )
    }
}

/// Where the lane of an actor begins.
fn lane(actor: usize) -> usize {
    NUMBERS + actor * STRIDE
}

struct Box<'a> {
    event: &'a Event,
    lines: Vec<(Kind, String)>,
    y: usize,
}

impl Box<'_> {
    fn height(&self) -> usize {
        self.lines.len() * LINE + PAD
    }

    fn bottom(&self) -> usize {
        self.y + self.height()
    }

    fn has(&self, kind: Kind) -> bool {
        self.lines.iter().any(|(of, _)| *of == kind)
    }
}

#[derive(Default)]
struct Picture {
    svg: String,
    y: usize,
}

impl Picture {
    fn place<'a>(&mut self, events: &'a [Event]) -> Vec<Box<'a>> {
        self.y = 2 * LINE + GAP;
        let mut boxes = Vec::with_capacity(events.len());
        for event in events {
            let lines = event.lines.iter().flat_map(|line| {
                let wrapped = line.wrap(LANE).into_iter();
                wrapped.map(|text| (line.kind, text))
            });
            let placed = Box {
                event,
                lines: lines.collect(),
                y: self.y,
            };
            self.y = placed.bottom() + GAP;
            boxes.push(placed);
        }
        boxes
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        _ = writeln!(self.svg, "{element}");
    }

    fn text(&mut self, class: &str, x: usize, y: usize, text: &str) {
        let text = escape(text);
        self.put(format_args!(
            r#"<text class="{class}" x="{x}" y="{y}">{text}</text>"#
        ));
    }

    fn draw(&mut self, one: &Box<'_>) {
        let (x, y, height) = (lane(one.event.actor), one.y, one.height());
        let class = if one.has(Kind::Fault) || one.has(Kind::Error) {
            "bad"
        } else if one.event.late {
            "late"
        } else {
            "box"
        };
        self.put(format_args!(
            r#"<rect class="{class}" x="{x}" y="{y}" width="{LANE_WIDTH}" height="{height}" rx="4"/>"#
        ));
        if !one.event.late {
            let number = (one.event.step + 1).to_string();
            self.text("out", PAD, y + LINE, &number);
        }
        for (at, (kind, text)) in one.lines.iter().enumerate() {
            let class = match kind {
                Kind::Statement => "statement",
                Kind::Values => "values",
                Kind::Answer => "answer",
                Kind::Error => "error",
                Kind::Fault => "fault",
                Kind::Wait => "wait",
            };
            self.text(class, x + PAD, y + (at + 1) * LINE, text);
        }
        if one.has(Kind::Fault) {
            let x = x + LANE_WIDTH;
            self.put(format_args!(
                r#"<path class="mark" d="M{} {}l12 12m0 -12l-12 12"/>"#,
                x - 6,
                y - 6
            ));
        }
    }

    /// The time for which a step waits.
    fn wait(&mut self, asked: &Box<'_>, until: usize) {
        let x = lane(asked.event.actor) + LANE_WIDTH / 2 - 3;
        let (y, height) = (asked.bottom(), until.saturating_sub(asked.bottom()));
        self.put(format_args!(
            r#"<rect class="bar" x="{x}" y="{y}" width="6" height="{height}"/>"#
        ));
    }

    /// From the step that let it go, which is above, to its answer.
    fn arrow(&mut self, let_go: &Box<'_>, late: &Box<'_>) {
        let (from, to) = (lane(let_go.event.actor), lane(late.event.actor));
        let y = late.y + LINE - 4;
        let x = from + LANE_WIDTH / 2;
        // It ends at the side of the box that is nearer, with its head.
        let (end, back) = if to > from {
            (to, -6_i32)
        } else {
            (to + LANE_WIDTH, 6)
        };
        let begin = let_go.bottom();
        self.put(format_args!(
            r#"<path class="arrow" d="M{x} {begin}V{y}H{end}m{back} -4L{end} {y}l{back} 4"/>"#
        ));
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Not in XML, escaped or not.
            '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push('\u{fffd}')
            }
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, Node};

    use super::super::examples::{self, ANN, BOB, Play};

    fn of<'a>(svg: &'a Document<'_>, class: &str) -> Vec<Node<'a, 'a>> {
        let nodes = svg.descendants();
        nodes
            .filter(|node| node.attribute("class") == Some(class))
            .collect()
    }

    /// All that the texts of a class say, in one line.
    fn says(svg: &Document<'_>, class: &str) -> String {
        let texts = of(svg, class);
        let texts = texts.iter().filter_map(Node::text).map(str::trim);
        texts.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_examples_are_well_formed_and_have_their_statements() {
        for (name, trace) in examples::ALL {
            let trace = trace();
            let svg = trace.svg();
            let svg = Document::parse(&svg).unwrap_or_else(|error| panic!("{name}: {error}"));
            let statements = says(&svg, "statement");
            for step in &trace.steps {
                let crate::trace::What::Statements(asked) = &step.what else {
                    continue;
                };
                let sql = asked[0].sql.split_whitespace().collect::<Vec<_>>();
                // The longest one is shortened.
                let begin = sql[..sql.len().min(6)].join(" ");
                assert!(statements.contains(&begin), "{name}: {begin}");
            }
            let boxes = ["box", "late", "bad"].map(|class| of(&svg, class).len());
            let waits = of(&svg, "bar").len();
            assert_eq!(
                boxes.iter().sum::<usize>(),
                trace.steps.len() + waits,
                "{name}"
            );
            assert_eq!(of(&svg, "arrow").len(), waits, "{name}");
            let faults = trace.steps.iter().filter(|step| step.fault.is_some());
            assert_eq!(of(&svg, "mark").len(), faults.count(), "{name}");
        }
    }

    /// The README shows it.
    #[test]
    fn the_picture_of_the_readme_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/lost-update.svg");
        let drawn = examples::lost_update().svg();
        if std::env::var_os("ROWLOCK_BLESS").is_some() {
            std::fs::write(path, &drawn).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(there, drawn, "run it with ROWLOCK_BLESS=1");
    }

    #[test]
    fn what_is_waited_for() {
        let svg = examples::lost_update().svg();
        let svg = Document::parse(&svg).unwrap();
        assert_eq!(of(&svg, "bar").len(), 1);
        assert!(says(&svg, "wait").contains("waits for bob"));
    }

    #[test]
    fn a_wait_without_end_has_a_bar_and_no_arrow() {
        let mut play = Play::new(2);
        play.step(ANN, "LOCK TABLE products");
        let waits = play.step(BOB, "LOCK TABLE products").waits(ANN, 3, 0);
        waits.no_answer();
        play.step(ANN, "SELECT 1");
        let svg = play.trace.svg();
        let svg = Document::parse(&svg).unwrap();
        assert_eq!((of(&svg, "bar").len(), of(&svg, "arrow").len()), (1, 0));
    }

    #[test]
    fn markup_in_a_statement_is_text() {
        let sql = "SELECT '<script>\"&amp;\u{1}\u{ffff}' WHERE 1 < 2 AND ']]>' = $1";
        let mut play = Play::new(1);
        play.step(ANN, sql);
        let svg = play.trace.svg();
        let svg = Document::parse(&svg).unwrap();
        let shown = sql
            .replace('\u{1}', "\\u{1}")
            .replace('\u{ffff}', "\u{fffd}");
        assert_eq!(says(&svg, "statement"), shown);
    }
}
