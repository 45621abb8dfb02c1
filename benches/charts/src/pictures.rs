//! Pictures of the guide: boxes, arrows and text, without figures.

use std::fmt::Write as _;

use crate::Chart;

const STYLE: &str = "text{font:13px ui-sans-serif,Helvetica,Arial,sans-serif;fill:#24292f}\
.title{font-size:16px;font-weight:600}.quiet{fill:#6e7781}.code{font:12px ui-monospace,Menlo,Consolas,monospace}\
.good{fill:#1a7f37}.bad{fill:#c2251c}.middle{text-anchor:middle}.end{text-anchor:end}\
rect{fill:#f6f8fa;stroke:#8c959f}.paper{fill:#fff;stroke:#e4e7eb}rect.good{fill:#e6f4ea;stroke:#1a7f37}rect.bad{fill:#fdeaea;stroke:#c2251c}\
path{fill:none;stroke:#6e7781;stroke-width:1.5}path.good{stroke:#1a7f37}path.bad{stroke:#c2251c}";

/// All of them.
pub(crate) fn charts() -> Vec<Chart> {
    let pictures = [
        ("conflict", conflict()),
        ("claim", claim()),
        ("race", race()),
    ];
    let charts = pictures.map(|(name, picture)| Chart {
        name: format!("{name}.svg"),
        svg: picture.end(),
    });
    charts.into()
}

/// The definitions of links by which rustdoc, which copies no file, shows the pictures: each is the picture itself.
pub(crate) fn definitions(charts: &[Chart]) -> String {
    let mut definitions = String::new();
    for Chart { name, svg } in charts {
        let label = name.trim_end_matches(".svg");
        let _ = write!(definitions, "[{label}]: data:image/svg+xml,");
        for byte in svg.trim_end().bytes() {
            let is_plain = byte.is_ascii_alphanumeric() || b"-_.~:/=,;".contains(&byte);
            let _ = if is_plain {
                write!(definitions, "{}", char::from(byte))
            } else {
                write!(definitions, "%{byte:02X}")
            };
        }
        definitions.push('\n');
    }
    definitions
}

struct Picture(String);

impl Picture {
    fn new(width: i32, height: i32, title: &str) -> Self {
        let mut picture = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\
             <style>{STYLE}</style>\n\
             <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
             <path d=\"M1 1L7 4L1 7\"/></marker></defs>\n"
        ));
        picture.line(&format!(
            "<rect class=\"paper\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\"/>",
            width - 1,
            height - 1
        ));
        picture.text(16, 28, "title", title);
        picture
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn text(&mut self, x: i32, y: i32, class: &str, text: &str) {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        self.line(&format!(
            "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{text}</text>"
        ));
    }

    /// With a line of text in its middle.
    fn boxed(&mut self, (x, y): (i32, i32), width: i32, class: &str, text: &str) {
        self.line(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"30\" rx=\"4\" class=\"{class}\"/>"
        ));
        self.text(x + width / 2, y + 20, &format!("{class} middle code"), text);
    }

    /// Along a path, as SVG writes it.
    fn arrow(&mut self, class: &str, path: &str) {
        self.line(&format!(
            "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#tip)\"/>"
        ));
    }

    fn end(mut self) -> String {
        self.line("</svg>");
        self.0
    }
}

/// Two people edit one document.
fn conflict() -> Picture {
    let mut picture = Picture::new(800, 330, "A conflict, and its merge");
    for (x, name) in [(130, "Ann"), (400, "the row"), (670, "Ben")] {
        picture.text(x, 62, "quiet middle", name);
    }
    picture.boxed((300, 76), 200, "", "Draft | To do. | v0");
    for (x, path) in [(30, "M300 91H234"), (570, "M500 91H566")] {
        picture.boxed((x, 76), 200, "", "Draft | To do. | v0");
        picture.arrow("", path);
    }
    picture.text(267, 84, "quiet middle", "load");
    picture.text(533, 84, "quiet middle", "load");

    picture.boxed((30, 136), 200, "", "Report | To do. | v0");
    picture.arrow("good", "M230 151H296");
    picture.text(263, 144, "good middle", "save");
    picture.boxed((300, 136), 200, "good", "Report | To do. | v1");

    picture.boxed((570, 196), 200, "", "Draft | Done. | v0");
    picture.arrow("bad", "M570 211H504");
    picture.text(537, 204, "bad middle", "save");
    picture.boxed((300, 196), 200, "bad", "v0 is not v1: Stale");

    picture.boxed((570, 256), 200, "", "Report | Done. | v1");
    picture.arrow("", "M670 226V252");
    picture.text(680, 244, "quiet", "merge");
    picture.arrow("good", "M570 271H504");
    picture.text(537, 264, "good middle", "save");
    picture.boxed((300, 256), 200, "good", "Report | Done. | v2");
    picture.text(
        16,
        316,
        "quiet",
        "Ann changed the title and Ben the body, so both changes stay. If both had changed the title, merge would say so.",
    );
    picture
}

/// The states of a job.
fn claim() -> Picture {
    let mut picture = Picture::new(800, 300, "The life of a claim");
    picture.boxed((40, 130), 130, "", "ready");
    picture.boxed((330, 130), 160, "", "running");
    picture.boxed((650, 70), 110, "good", "done");
    picture.boxed((650, 190), 110, "bad", "dead");

    picture.arrow("", "M40 90L80 126");
    picture.text(30, 82, "code", "enqueue");
    picture.arrow("good", "M170 138H326");
    picture.text(248, 130, "code middle", "claim");
    picture.text(248, 114, "quiet middle", "attempts + 1, fence + 1, a lease");
    picture.arrow("", "M330 154H174");
    picture.text(252, 172, "code middle", "retry, snooze, release");
    picture.text(252, 190, "quiet middle", "or the lease ended: rescue");
    picture.arrow("good", "M490 138L646 90");
    picture.text(556, 98, "code middle", "complete");
    picture.arrow("bad", "M490 154L646 202");
    picture.text(586, 156, "code middle", "fail, cancel");
    picture.text(560, 206, "quiet middle", "or no attempts left");
    picture.arrow("", "M410 130C380 84 440 84 416 126");
    picture.text(412, 84, "code middle", "extend");
    picture.arrow("", "M650 212C500 262 200 262 110 164");
    picture.text(390, 256, "code middle", "redrive");
    picture.text(
        16,
        286,
        "quiet",
        "Every method of a claim checks the fence: a worker that lost its claim writes nothing.",
    );
    picture
}

/// A row of a table of steps: who, what, and the stock after it.
type Step = (usize, &'static str, &'static str);

/// One unit and two buyers.
fn race() -> Picture {
    let mut picture = Picture::new(800, 330, "One unit, two buyers");
    let by_hand: [Step; 4] = [
        (0, "SELECT stock → 1", "1"),
        (1, "SELECT stock → 1", "1"),
        (0, "UPDATE SET stock = 0", "0"),
        (1, "UPDATE SET stock = 0", "0"),
    ];
    table(&mut picture, 56, "by hand: read, decide, write", &by_hand);
    picture.text(784, 168, "bad end", "sold twice");
    let rowlock: [Step; 2] = [
        (0, "UPDATE … stock - 1 WHERE stock >= 1 → 0", "0"),
        (1, "UPDATE … WHERE stock >= 1 → no row", "0"),
    ];
    table(
        &mut picture,
        204,
        "rowlock: Stock::add_units(db, sku, -1)",
        &rowlock,
    );
    picture.text(784, 268, "good end", "sold once");
    picture.text(
        16,
        316,
        "quiet",
        "The second UPDATE waits for the first one to commit, checks the bound again, and the buyer gets OutOfBounds.",
    );
    picture
}

fn table(picture: &mut Picture, top: i32, title: &str, steps: &[Step]) {
    const COLUMNS: [i32; 2] = [48, 352];
    picture.text(16, top, "", title);
    for (x, name) in COLUMNS.iter().zip(["Ann", "Ben"]) {
        picture.text(*x, top + 20, "quiet", name);
    }
    picture.text(660, top + 20, "quiet", "stock");
    for (y, (number, (actor, statement, stock))) in (top + 40..).step_by(24).zip((1..).zip(steps)) {
        picture.text(24, y, "quiet middle", &format!("{number}"));
        picture.text(COLUMNS[*actor], y, "code", statement);
        picture.text(676, y, "code middle", stock);
    }
}
