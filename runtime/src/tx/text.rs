//! What a text of SQL does to the transaction that it is sent on.

/// As far as its words tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It ends the transaction.
    Ends,
    /// It has several statements, and one of them may.
    MayEnd,
    /// It is one statement, for sure.
    Single,
    Other,
}

impl Effect {
    pub(super) fn of(sql: &str) -> Self {
        let (word, rest) = first_word(sql);
        if ends(word, rest) {
            return Self::Ends;
        }
        // A semicolon can be part of a string or of a function's body, whose END is none of the transaction.
        let mut effect = Self::Single;
        for (word, rest) in rest.split(';').skip(1).map(first_word) {
            if ends(word, rest) {
                return Self::MayEnd;
            }
            if !(word.is_empty() && rest.is_empty()) {
                effect = Self::Other;
            }
        }
        effect
    }
}

/// Whether a statement with this first word ends a transaction.
fn ends(word: &str, rest: &str) -> bool {
    let is =
        |word: &str, words: &[&str]| words.iter().any(|other| word.eq_ignore_ascii_case(other));
    if is(word, &["PREPARE"]) {
        return is(first_word(rest).0, &["TRANSACTION"]);
    }
    if !is(word, &["ROLLBACK"]) {
        return is(word, &["COMMIT", "END", "ABORT"]);
    }
    let (mut next, rest) = first_word(rest);
    if is(next, &["WORK", "TRANSACTION"]) {
        next = first_word(rest).0;
    }
    !is(next, &["TO"])
}

/// The first word after blanks and comments, and what follows it.
fn first_word(sql: &str) -> (&str, &str) {
    let mut sql = sql;
    loop {
        sql = sql.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        if let Some(comment) = sql.strip_prefix("--") {
            sql = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = sql.strip_prefix("/*") {
            sql = after_comment(comment);
        } else {
            break;
        }
    }
    let end = sql.find(|c: char| !c.is_ascii_alphabetic() && c != '_');
    sql.split_at(end.unwrap_or(sql.len()))
}

/// Comments of PostgreSQL nest.
fn after_comment(mut sql: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        let Some(at) = sql.find(['*', '/']) else {
            return "";
        };
        sql = &sql[at..];
        let step = match sql.get(..2) {
            Some("*/") => -1,
            Some("/*") => 1,
            _ => 0,
        };
        depth += step;
        sql = &sql[if step == 0 { 1 } else { 2 }..];
    }
    sql
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
            ("SELECT 1; ROLLBACK TO a", Other),
            ("SELECT 1; -- b\n", Single),
            (" (SELECT 1)", Single),
            ("INSERT INTO a VALUES (';1')", Other),
            ("PRAGMA foreign_keys;\n", Single),
            ("/* a", Single),
            ("/* ä *", Single),
            ("-- a", Single),
            ("", Single),
        ] {
            assert_eq!(Effect::of(sql), effect, "{sql}");
        }
    }
}
