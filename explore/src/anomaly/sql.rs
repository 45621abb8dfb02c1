//! What the text of a statement tells beyond what it touches.

/// The words of a statement, in lower case.
pub(super) fn words(sql: &str) -> Vec<String> {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Whether it changes no row, although it may lock some.
pub(super) fn only_reads(words: &[String]) -> bool {
    match words.first().map(String::as_str) {
        Some("select" | "table" | "values" | "show") => true,
        Some("with") => {
            let mut before = "";
            words.iter().all(|word| {
                let locks = matches!(before, "for" | "key");
                before = word;
                !matches!(word.as_str(), "insert" | "delete" | "merge")
                    && (word != "update" || locks)
            })
        }
        _ => false,
    }
}

/// For how long a statement sets the isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Transaction,
    Session,
}

/// Whether it chooses an isolation level, and if that is one where a transaction reads from one snapshot.
pub(super) fn isolation(words: &[String]) -> Option<(Scope, bool)> {
    let has = |word: &str| words.iter().any(|is| is == word);
    let scope = match words.first()?.as_str() {
        "begin" | "start" => Scope::Transaction,
        "set" if has("local") || (has("transaction") && !has("session")) => Scope::Transaction,
        "set" => Scope::Session,
        "reset" | "discard" => return Some((Scope::Session, false)),
        _ => return None,
    };
    let level =
        has("isolation") || has("transaction_isolation") || has("default_transaction_isolation");
    level.then(|| (scope, has("repeatable") || has("serializable")))
}

/// Whether what it writes takes the place of what is there, so that a change in between is lost: `SET stock = $2`, where
/// `SET stock = stock - 1` goes on from the newest.
pub(super) fn overwrites(sql: &str) -> bool {
    let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let sql = sql.to_lowercase();
    let Some((_, clause)) = sql.split_once(" set ") else {
        return true;
    };
    assignments(clause).iter().any(|assignment| {
        let Some((column, value)) = assignment.split_once('=') else {
            return true;
        };
        let column = column.trim().trim_matches('"');
        // The row that an upsert proposes is no row of the table.
        let value = value.replace("excluded.", "excluded_");
        let clock = [
            "now",
            "current_timestamp",
            "clock_timestamp",
            "statement_timestamp",
            "default",
        ];
        !words(&value)
            .iter()
            .any(|word| word == column || clock.contains(&word.as_str()))
    })
}

/// The parts of a SET clause, which ends with the next one.
fn assignments(clause: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut depth, mut quoted) = (Vec::new(), 0, 0_usize, false);
    for (at, char) in clause.char_indices() {
        match char {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&clause[begin..at]);
                begin = at + 1;
            }
            ' ' if depth == 0 => {
                let ends = [" where ", " from ", " returning "];
                if ends.iter().any(|end| clause[at..].starts_with(end)) {
                    parts.push(&clause[begin..at]);
                    return parts;
                }
            }
            _ => {}
        }
    }
    parts.push(&clause[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_from_the_newest_overwrites_nothing() {
        for (sql, is) in [
            ("UPDATE t SET n = $2 WHERE id = $1", true),
            ("UPDATE t SET n = n + 1 WHERE id = $1", false),
            ("UPDATE t SET n = t.n + 1, at = now()", false),
            (
                "UPDATE t SET \"n\" = coalesce(n, 0) + $1 RETURNING n",
                false,
            ),
            (
                "UPDATE t SET body = $1, version = version + 1 WHERE id = $2",
                true,
            ),
            ("UPDATE t SET used = true WHERE id = $1 AND NOT used", true),
            (
                "INSERT INTO t VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = t.n + EXCLUDED.n",
                false,
            ),
            (
                "INSERT INTO t VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n",
                true,
            ),
            ("UPDATE t SET note = 'a, n = n where x' WHERE n = 1", true),
            (
                "UPDATE t SET n = greatest(n, $1), m = (SELECT m FROM u WHERE n = 3) + m",
                false,
            ),
            ("DELETE FROM t", true),
        ] {
            assert_eq!(overwrites(sql), is, "{sql}");
        }
    }

    #[test]
    fn what_only_reads() {
        for (sql, is) in [
            ("SELECT 1", true),
            ("select * from t for update", true),
            (
                "WITH a AS (SELECT 1) SELECT * FROM a FOR NO KEY UPDATE",
                true,
            ),
            (
                "WITH a AS (UPDATE t SET n = 1 RETURNING n) SELECT n FROM a",
                false,
            ),
            (
                "with a as (delete from t returning *) select * from a",
                false,
            ),
            ("UPDATE t SET n = 1", false),
            ("", false),
        ] {
            assert_eq!(only_reads(&words(sql)), is, "{sql}");
        }
    }

    #[test]
    fn isolation_levels() {
        for (sql, is) in [
            ("BEGIN", None),
            (
                "BEGIN ISOLATION LEVEL READ COMMITTED",
                Some((Scope::Transaction, false)),
            ),
            (
                "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                Some((Scope::Transaction, true)),
            ),
            (
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                Some((Scope::Transaction, true)),
            ),
            (
                "SET LOCAL transaction_isolation = 'serializable'",
                Some((Scope::Transaction, true)),
            ),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                Some((Scope::Session, true)),
            ),
            (
                "SET default_transaction_isolation = 'serializable'",
                Some((Scope::Session, true)),
            ),
            ("SET search_path = serializable", None),
            ("DISCARD ALL", Some((Scope::Session, false))),
        ] {
            assert_eq!(isolation(&words(sql)), is, "{sql}");
        }
    }
}
