//! What a text of SQL does to the transaction that it is sent on.

/// As far as its words tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It ends the transaction.
    Ends,
    /// One of its statements may, or it cannot be told.
    MayEnd,
    /// It is one statement, for sure.
    Single,
    Other,
}

impl Effect {
    pub(super) fn of(sql: &str) -> Self {
        let sql = sql.trim_start_matches(is_blank);
        // Also one in a string, in a comment or in a function's body: then it is asked once more than needed.
        let is_several = sql.trim_end_matches(is_blank).contains(';');
        let may_end = words(sql).any(|word| {
            is(
                word,
                &["COMMIT", "ROLLBACK", "END", "ABORT", "PREPARE", "EXECUTE"],
            )
        });
        match (may_end, is_several) {
            (false, false) => return Self::Single,
            (false, true) => return Self::Other,
            (true, _) => {}
        }
        for comments in [Comments::OfPostgres, Comments::OfSqlite] {
            let (word, rest) = comments.first_word(sql);
            if comments.ends(word, rest) {
                return Self::Ends;
            }
        }
        // EXECUTE runs whatever was prepared on the connection.
        let is_plain = sql.starts_with(|c: char| c.is_ascii_alphabetic() || c == '(')
            && !is(first_of(sql).0, &["EXECUTE"]);
        match is_plain && !is_several {
            true => Self::Single,
            false => Self::MayEnd,
        }
    }
}

/// SQLite passes over a byte order mark.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == ';' || c == '\u{feff}'
}

fn words(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

fn is(word: &str, words: &[&str]) -> bool {
    words.iter().any(|other| word.eq_ignore_ascii_case(other))
}

/// The word that a text begins with, and what follows it.
fn first_of(sql: &str) -> (&str, &str) {
    let end = sql.find(|c: char| !c.is_ascii_alphabetic() && c != '_');
    sql.split_at(end.unwrap_or(sql.len()))
}

/// Where comments end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comments {
    /// They nest, and a carriage return ends a line too.
    OfPostgres,
    OfSqlite,
}

impl Comments {
    /// Whether a statement with this first word ends a transaction.
    fn ends(self, word: &str, rest: &str) -> bool {
        if is(word, &["PREPARE"]) {
            return is(self.first_word(rest).0, &["TRANSACTION"]);
        }
        if !is(word, &["ROLLBACK"]) {
            return is(word, &["COMMIT", "END", "ABORT"]);
        }
        let (mut next, rest) = self.first_word(rest);
        if is(next, &["WORK", "TRANSACTION"]) {
            next = self.first_word(rest).0;
        }
        !is(next, &["TO"])
    }

    /// The first word after blanks and comments, and what follows it.
    fn first_word(self, sql: &str) -> (&str, &str) {
        let mut sql = sql;
        loop {
            sql = sql.trim_start_matches(is_blank);
            if let Some(comment) = sql.strip_prefix("--") {
                let end = match self {
                    Self::OfPostgres => comment.find(['\n', '\r']),
                    Self::OfSqlite => comment.find('\n'),
                };
                sql = end.map_or("", |end| &comment[end..]);
            } else if let Some(comment) = sql.strip_prefix("/*") {
                sql = self.after_comment(comment);
            } else {
                return first_of(sql);
            }
        }
    }

    fn after_comment(self, mut sql: &str) -> &str {
        let mut depth = 1;
        while depth > 0 {
            let Some(at) = sql.find(['*', '/']) else {
                return "";
            };
            sql = &sql[at..];
            let step = match sql.get(..2) {
                Some("*/") => -1,
                Some("/*") if self == Self::OfPostgres => 1,
                _ => 0,
            };
            depth += step;
            sql = &sql[if step == 0 { 1 } else { 2 }..];
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::Effect::{self, Ends, MayEnd, Other, Single};

    #[test]
    fn what_the_words_say() {
        for (sql, effect) in [
            ("COMMIT", Ends),
            (" commit and chain;", Ends),
            ("End Transaction", Ends),
            ("ABORT", Ends),
            ("-- done\n/* a /* b */ * c */ ;ROLLBACK", Ends),
            ("ROLLBACK TRANSACTION", Ends),
            ("ROLLBACK; BEGIN", Ends),
            ("PREPARE TRANSACTION 'a'", Ends),
            ("ROLLBACK TO a", Single),
            ("rollback work to savepoint a", Single),
            ("PREPARE transaction_of AS SELECT 1", Single),
            ("SAVEPOINT a", Single),
            ("COMMITTED", Single),
            ("UPDATE a SET b = 1; COMMIT", MayEnd),
            ("SELECT 1;--\nROLLBACK;BEGIN", MayEnd),
            ("INSERT INTO a VALUES ('x; COMMIT')", MayEnd),
            ("SELECT 1; ROLLBACK TO a", MayEnd),
            ("SELECT 1; -- b\n", Other),
            (" (SELECT 1)", Single),
            ("INSERT INTO a VALUES (';1')", Other),
            ("PRAGMA foreign_keys;\n", Single),
            ("/* a", Single),
            ("/* ä *", Single),
            ("-- a", Single),
            ("UPDATE a SET b = CASE c WHEN 1 THEN 2 END", Single),
            (
                "UPDATE a SET b = CASE c WHEN 1 THEN 2 END; SELECT 1",
                MayEnd,
            ),
            ("-- a; b\nROLLBACK", Ends),
            ("INSERT INTO a VALUES (1); -- a; b\nROLLBACK", MayEnd),
            ("SELECT 1;;/*;*/ROLLBACK;BEGIN", MayEnd),
            ("SELECT 1; -- a\rROLLBACK", MayEnd),
            ("-- x\rROLLBACK", Ends),
            ("\u{feff}ROLLBACK; BEGIN", Ends),
            ("/* /* */ ROLLBACK", Ends),
            ("/* a */ UPDATE a SET b = CASE c WHEN 1 THEN 2 END", MayEnd),
            ("EXECUTE sqlx_s_27", MayEnd),
            ("", Single),
        ] {
            assert_eq!(Effect::of(sql), effect, "{sql}");
        }
    }
}
