//! SQL as databases write it: compared without what only looks different, and taken apart where SQLite has nothing but its text.

/// The words of an expression. Two expressions with the same words mean the same; with other words they still can.
///
/// PostgreSQL writes `lower((email)::text)` for `lower(email)`: casts, parentheses and quotes are left out.
pub(crate) fn words(text: &str) -> Vec<String> {
    let pieces = pieces(text);
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(piece) = pieces.get(at) {
        at += 1;
        match piece.as_str() {
            "(" | ")" => {}
            ":" if pieces.get(at).is_some_and(|next| next == ":") => {
                at = after_type(&pieces, at + 1)
            }
            "!" if pieces.get(at).is_some_and(|next| next == "=") => {
                at += 1;
                words.extend(["<".to_owned(), ">".to_owned()]);
            }
            word => words.push(bare(word)),
        }
    }
    words
}

/// What follows the name of a type: `character varying(200)[]`.
fn after_type(pieces: &[String], mut at: usize) -> usize {
    const LONG: [&str; 8] = [
        "varying",
        "precision",
        "with",
        "without",
        "time",
        "zone",
        "[",
        "]",
    ];
    at += 1;
    if pieces.get(at).is_some_and(|piece| piece == ".") {
        at += 2;
    }
    loop {
        match pieces.get(at).map(String::as_str) {
            Some("(") => {
                while pieces.get(at).is_some_and(|piece| piece != ")") {
                    at += 1;
                }
                at += 1;
            }
            Some(piece) if LONG.contains(&piece) => at += 1,
            _ => return at,
        }
    }
}

/// A name without its quotes, and as it is compared; a text as it is.
fn bare(piece: &str) -> String {
    let inner = |open: char, close: char| {
        let inner = piece.strip_prefix(open)?.strip_suffix(close)?;
        Some(inner.to_owned())
    };
    if piece.starts_with('\'') {
        return piece.to_owned();
    }
    inner('"', '"')
        .or_else(|| inner('`', '`'))
        .or_else(|| inner('[', ']'))
        .unwrap_or_else(|| piece.to_owned())
        .to_lowercase()
}

/// Words, texts, quoted names and single signs; no spaces and no comments.
fn pieces(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(&next) = chars.get(at) {
        let start = at;
        at = match next {
            next if next.is_whitespace() => {
                at += 1;
                continue;
            }
            '\'' | '"' | '`' => after_quote(&chars, at, next),
            '-' if chars.get(at + 1) == Some(&'-') => {
                let end = chars[at..].iter().position(|next| *next == '\n');
                at = end.map_or(chars.len(), |end| at + end);
                continue;
            }
            '/' if chars.get(at + 1) == Some(&'*') => {
                let end = chars[at..].windows(2).position(|pair| pair == ['*', '/']);
                at = end.map_or(chars.len(), |end| at + end + 2);
                continue;
            }
            next if is_word(next) => {
                let end = chars[at..].iter().position(|next| !is_word(*next));
                end.map_or(chars.len(), |end| at + end)
            }
            _ => at + 1,
        };
        pieces.push(chars[start..at].iter().collect());
    }
    pieces
}

fn is_word(next: char) -> bool {
    next.is_alphanumeric() || next == '_'
}

/// A quote that is doubled is one of the text.
fn after_quote(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        if chars[at] == quote {
            if chars.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    at
}

/// The column of `column IS NULL` or `column IS NOT NULL`, and which of them it is.
pub(crate) fn null_test(words: &[String]) -> Option<(&str, bool)> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [column, "is", "null"] => Some((column, true)),
        [column, "is", "not", "null"] => Some((column, false)),
        _ => None,
    }
}

/// Whether both compare one column by `=` or `<>`, with other texts. Of letters alone: a number, a time and a boolean are written in several ways.
pub(crate) fn other_text(one: &[String], other: &[String]) -> bool {
    const BOOLEANS: [&str; 10] = [
        "t", "f", "true", "false", "y", "n", "yes", "no", "on", "off",
    ];
    let text = |words: &[String]| {
        let (last, head) = words.split_last()?;
        let text = last.strip_prefix('\'')?.strip_suffix('\'')?.to_lowercase();
        let is_plain = text.chars().all(|next| next.is_alphabetic() || next == '_');
        let signs: Vec<&str> = head.iter().skip(1).map(String::as_str).collect();
        let equals = [&["="] as &[_], &["<", ">"]].contains(&signs.as_slice());
        let is_text = is_plain && !text.is_empty() && !BOOLEANS.contains(&text.as_str());
        (is_text && equals).then(|| (head.to_vec(), text))
    };
    match (text(one), text(other)) {
        (Some((one, text)), Some((other, another))) => one == other && text != another,
        _ => false,
    }
}

/// The conditions of which all hold where this does: the parts of an AND, however nested. Words of each.
pub(crate) fn conjuncts(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    split(&pieces(text), &mut found);
    found
}

fn split(pieces: &[String], found: &mut Vec<Vec<String>>) {
    let mut depth = 0_usize;
    let mut closed_at = None;
    let mut conditions = Vec::new();
    let mut opaque = false;
    for (at, piece) in pieces.iter().enumerate() {
        match piece.to_ascii_lowercase().as_str() {
            "(" => depth += 1,
            ")" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && closed_at.is_none() {
                    closed_at = Some(at);
                }
            }
            "and" if depth == 0 => conditions.push(at),
            // The AND of a BETWEEN joins no conditions.
            "or" | "between" | "case" if depth == 0 => opaque = true,
            _ => {}
        }
    }
    let is_enclosed = pieces.first().is_some_and(|first| first == "(");
    if is_enclosed && pieces.len() > 1 && closed_at == Some(pieces.len() - 1) {
        return split(&pieces[1..pieces.len() - 1], found);
    }
    if conditions.is_empty() || opaque {
        return found.push(words(&pieces.join(" ")));
    }
    let mut start = 0;
    for end in conditions.into_iter().chain([pieces.len()]) {
        split(&pieces[start..end], found);
        start = end + 1;
    }
}

/// The column, comparison and number of `column >= 0`.
pub(crate) fn comparison(words: &[String]) -> Option<(&str, String, i64)> {
    let (column, rest) = words.split_first()?;
    let signs = rest
        .iter()
        .take_while(|word| ["<", ">", "="].contains(&word.as_str()));
    let signs: String = signs.cloned().collect();
    if signs.is_empty() {
        return None;
    }
    let (minus, digits) = match &rest[signs.len()..] {
        [digits] => ("", digits),
        [minus, digits] if minus == "-" => ("-", digits),
        _ => return None,
    };
    // PostgreSQL writes '-1'::integer.
    let digits = digits.trim_matches('\'');
    Some((column, signs, format!("{minus}{digits}").parse().ok()?))
}

/// An index as SQLite keeps it.
#[derive(Debug, PartialEq, Eq)]
pub struct SqliteIndex {
    /// What it is on.
    pub parts: Vec<String>,
    /// The rows that it has, if not all.
    pub predicate: Option<String>,
}

/// Takes a `CREATE INDEX` apart.
pub fn sqlite_index(sql: &str) -> Option<SqliteIndex> {
    let open = top_level(sql, 0).find(|(_, piece)| *piece == '(')?.0;
    let close = closing(sql, open)?;
    let inside = &sql[open + 1..close];
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in top_level(inside, 0).filter(|(_, piece)| *piece == ',') {
        parts.push(inside[start..at].trim().to_owned());
        start = at + 1;
    }
    parts.push(inside[start..].trim().to_owned());
    let rest = sql[close + 1..].trim();
    let predicate = rest
        .get(..5)
        .filter(|word| word.eq_ignore_ascii_case("where"));
    let predicate = predicate.map(|_| rest[5..].trim().to_owned());
    Some(SqliteIndex { parts, predicate })
}

/// The conditions of the CHECKs of a `CREATE TABLE`.
pub fn sqlite_checks(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lower = sql.to_ascii_lowercase();
    for (at, piece) in signs(sql) {
        if piece != '(' {
            continue;
        }
        let before = lower[..at].trim_end();
        let word = before.strip_suffix("check");
        let whole = word.is_some_and(|rest| !rest.ends_with(is_word));
        if whole && let Some(close) = closing(sql, at) {
            found.push(
                sql[at + 1..close]
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
    }
    found
}

/// Whether a trigger runs before the write, and on which writes.
pub fn sqlite_trigger(sql: &str) -> (bool, Vec<String>) {
    let mut head: Vec<String> = pieces(sql)
        .iter()
        .map(|piece| piece.to_lowercase())
        .collect();
    if let Some(end) = head.iter().position(|word| word == "begin") {
        head.truncate(end);
    }
    // The name can be any word.
    let on = head
        .iter()
        .position(|word| word == "on")
        .unwrap_or(head.len());
    let head = &head[..on];
    let has = |word: &str| head.iter().skip(2).any(|other| other == word);
    let events = ["insert", "update", "delete"];
    let events = events
        .into_iter()
        .filter(|event| has(event))
        .map(str::to_owned);
    // BEFORE is what SQLite takes if nothing is said.
    (!has("after"), events.collect())
}

/// Signs that are in no text, no quoted name and no comment, with where they are.
fn signs(sql: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote: Option<char> = None;
    let mut before = ' ';
    let mut ends = "";
    sql.char_indices().filter(move |&(_, next)| {
        let pair = [before, next];
        before = next;
        if !ends.is_empty() {
            let over = (ends == "\n" && next == '\n') || (ends == "*/" && pair == ['*', '/']);
            if over {
                ends = "";
                before = ' ';
            }
            return false;
        }
        match quote {
            Some(close) => {
                if next == close {
                    quote = None;
                }
                return false;
            }
            None if pair == ['-', '-'] => ends = "\n",
            None if pair == ['/', '*'] => ends = "*/",
            None => match next {
                '\'' | '"' | '`' => quote = Some(next),
                '[' => quote = Some(']'),
                _ => return true,
            },
        }
        false
    })
}

/// Those of them that stand in no parentheses.
fn top_level(sql: &str, start: usize) -> impl Iterator<Item = (usize, char)> {
    let mut depth = start;
    signs(sql).filter(move |(_, next)| {
        let outside = depth == 0;
        match next {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        outside
    })
}

/// Where the parenthesis that opens at `open` is closed.
fn closing(sql: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, next) in signs(&sql[open..]) {
        match next {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(open + at),
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_databases_make_of_an_expression_has_the_same_words() {
        for (one, other) in [
            ("lower(email)", "lower((email)::text)"),
            ("deleted_at IS NULL", "(\"deleted_at\" is null)"),
            ("coalesce(parent_id, 0)", "COALESCE(parent_id, (0)::bigint)"),
            (
                "kind != 'a b'",
                "((kind)::character varying(20)[] <> 'a b'::text)",
            ),
            ("at > x", "(at)::timestamp(3) with time zone > (x)::app.t"),
        ] {
            assert_eq!(words(one), words(other), "{one} / {other}");
        }
        assert_ne!(words("kind = 'A'"), words("kind = 'a'"));
        assert_ne!(words("lower(email)"), words("upper(email)"));
    }

    #[test]
    fn comparisons_with_numbers_are_read() {
        let read = |text: &str| comparison(&words(text)).map(|(a, b, c)| (a.to_owned(), b, c));
        assert_eq!(read("(units >= 0)"), Some(("units".into(), ">=".into(), 0)));
        assert_eq!(
            read("units > '-5'::integer"),
            Some(("units".into(), ">".into(), -5))
        );
        assert_eq!(read("units > - 5"), Some(("units".into(), ">".into(), -5)));
        assert_eq!(read("units > 5 or x"), None);
        assert_eq!(read("lower(units)"), None);
    }

    #[test]
    fn an_and_is_taken_apart() {
        let parts = |text: &str| -> Vec<String> {
            conjuncts(text)
                .iter()
                .map(|words| words.join(" "))
                .collect()
        };
        assert_eq!(
            parts("((x IS NOT NULL) AND (y > 0))"),
            ["x is not null", "y > 0"]
        );
        assert_eq!(
            parts("(x IS NOT NULL AND (y > 0 OR z)) and w"),
            ["x is not null", "y > 0 or z", "w"]
        );
        for text in [
            "(x IS NOT NULL) AND a OR (y > 0)",
            "y BETWEEN 0 AND x IS NOT NULL",
            "NOT (a AND x IS NOT NULL)",
        ] {
            assert_eq!(parts(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn other_texts_are_told_apart() {
        let other = |one: &str, other: &str| other_text(&words(one), &words(other));
        assert!(other("kind = 'a'", "((kind)::text = 'b'::text)"));
        assert!(other("kind <> 'a'", "kind != 'b'"));
        for (one, also) in [
            ("kind = 'a'", "kind <> 'b'"),
            ("kind = 'a'", "kind = 'A'"),
            ("kind = 'a'", "sort = 'b'"),
            ("deleted = 't'", "deleted = 'true'"),
            ("day = '2020-01-01'", "day = '2020-01-01 00:00'"),
        ] {
            assert!(!other(one, also), "{one} / {also}");
        }
    }

    #[test]
    fn indexes_of_sqlite_are_taken_apart() {
        let found = sqlite_index(
            "CREATE UNIQUE INDEX \"a (b\" ON [t] (lower(email), \"x,y\" COLLATE NOCASE, z -- a, (b\n) WHERE deleted_at IS NULL",
        )
        .unwrap();
        assert_eq!(found.parts[..2], ["lower(email)", "\"x,y\" COLLATE NOCASE"]);
        assert_eq!(found.predicate.as_deref(), Some("deleted_at IS NULL"));
        let found = sqlite_index("CREATE UNIQUE INDEX a ON t(x)").unwrap();
        assert_eq!(
            found,
            SqliteIndex {
                parts: vec!["x".into()],
                predicate: None
            }
        );
    }

    #[test]
    fn checks_of_sqlite_are_found() {
        let sql = "CREATE TABLE t (a int CHECK (a >= 0), \"check\" text DEFAULT 'check (x)', mycheck(5), CONSTRAINT c CHECK(a < (b)))";
        assert_eq!(sqlite_checks(sql), ["a >= 0", "a < (b)"]);
    }

    #[test]
    fn triggers_of_sqlite_are_read() {
        assert_eq!(
            sqlite_trigger("CREATE TRIGGER x AFTER UPDATE OF a ON t BEGIN DELETE FROM u; END"),
            (false, vec!["update".to_owned()])
        );
        assert_eq!(
            sqlite_trigger("CREATE TRIGGER x BEFORE INSERT ON \"delete\" BEGIN SELECT 1; END"),
            (true, vec!["insert".to_owned()])
        );
    }
}
