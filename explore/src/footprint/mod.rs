//! What a statement touches, from its text and the catalogue: as much as it could, never less.
//!
//! No SQL is parsed. A text is cut into words as the server does it, and a statement can touch a relation only if
//!
//! - its name stands in the text, in whatever place and for whatever schema: it is touched, and written if anything in the statement
//!   writes or locks;
//! - or the catalogue leads from such a relation to it: foreign keys, cascades, partitions, sequences of defaults;
//! - or code of the user does: views, rules, triggers, row security, functions, operators, casts, and expressions of tables and domains
//!   that call any of them. Then it touches everything. So it does if a word stands where a table should and is none, as one that was
//!   made later; if it calls a function of PostgreSQL that is volatile and not known to keep to its session; if it is anything but a
//!   query or about the session; and if it cannot be read for certain.
//!
//! With a key it touches the rows that have it, in the forms that [`shape`] knows. The primary key makes them one row; a write of it
//! can meet another row only by a unique index, an exclusion or a foreign key, so none of their columns may be set.
//!
//! Writes are for all that others wait for, as well: FOR SHARE is one. Whoever locks or writes a row that others refer to touches their
//! tables too, so that the lock of a foreign key, which is no write, is met from the other side.
//!
//! Not covered, as it is no effect of order that a program should depend on: clocks and timeouts, random numbers, numbers of
//! transactions (`xmin`) and places of rows (`ctid`), the order of rows without ORDER BY, collisions of hashes, and what queries of
//! the system's catalogues see of others. Not known here: DDL after the catalogue was read, and settings that change how texts are
//! read or where keys are compared (`standard_conforming_strings`, encodings other than UTF-8, operators before `pg_catalog` in the
//! search path).

mod calls;
mod catalogue;
mod clock;
mod key;
mod lexer;
mod places;
mod reading;
mod shape;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub(crate) use catalogue::Catalogue;
pub(crate) use clock::{OtherClock, other_clock};
use lexer::{Node, Token, statements};

/// What a step touches. Two steps whose footprints do not meet can be swapped, and nobody sees a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Nothing is known of it: it meets whatever touches anything.
    pub(crate) everything: bool,
    pub(crate) touches: BTreeSet<Touch>,
}

/// One thing that is touched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Touch {
    /// The table or sequence, by its oid.
    pub(crate) relation: u32,
    /// The one row, by its primary key; all of the table if `None`.
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) writes: bool,
}

/// What a statement does with the transaction that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// It is not about the transaction.
    None,
    /// BEGIN, SAVEPOINT: nobody else sees it.
    Quiet,
    /// COMMIT, ROLLBACK, ROLLBACK TO: locks go, and writes are seen or undone.
    End,
}

impl Footprint {
    pub(crate) fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    pub(crate) fn join(&mut self, other: &Self) {
        self.everything |= other.everything;
        self.touches.extend(other.touches.iter().cloned());
    }

    pub(crate) fn is_nothing(&self) -> bool {
        !self.everything && self.touches.is_empty()
    }

    /// What others see of it after its statement: the writes.
    pub(crate) fn writes(&self) -> Self {
        let writes = self.touches.iter().filter(|touch| touch.writes).cloned();
        Self {
            everything: self.everything,
            touches: writes.collect(),
        }
    }

    /// Whether the order of the two can matter.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        if self.everything || other.everything {
            return !self.is_nothing() && !other.is_nothing();
        }
        self.touches.iter().any(|one| {
            other.touches.iter().any(|two| {
                one.relation == two.relation
                    && (one.writes || two.writes)
                    && (one.key.is_none() || two.key.is_none() || one.key == two.key)
            })
        })
    }
}

/// What a statement does with its transaction, from its first words.
pub(crate) fn control(sql: &str) -> Control {
    // An empty SELECT before it sees nothing but whether the transaction is well.
    let sees_nothing = |nodes: &Vec<Node>| matches!(nodes.as_slice(), [node] if node.is("select"));
    match statements(sql).as_deref() {
        Some([before @ .., statement]) if before.iter().all(sees_nothing) => control_of(statement),
        _ => Control::None,
    }
}

fn control_of(statement: &[Node]) -> Control {
    let prepared = statement.iter().any(|node| node.is("prepared"));
    match statement.first().and_then(Node::keyword) {
        // It is about a transaction of nobody.
        _ if prepared => Control::None,
        Some("begin" | "start" | "savepoint" | "release") => Control::Quiet,
        Some("commit" | "end" | "rollback" | "abort") => Control::End,
        _ => Control::None,
    }
}

/// Whether the text can lock tables against those who only read: LOCK, DDL, and all that is not known. Then the end of a transaction
/// that has read is met as well: such a lock waits for it.
pub(crate) fn locks_tables(sql: &str) -> bool {
    let Some(statements) = statements(sql) else {
        return true;
    };
    statements.iter().any(|nodes| {
        let mut first = nodes.as_slice();
        while let Some(inner) = first.first().and_then(Node::group) {
            first = inner;
        }
        let first = first.first().and_then(Node::keyword);
        !first.is_some_and(|first| SQL.contains(&first) && first != "lock")
    })
}

/// Words that begin a query, or a statement about the transaction or the session.
const SQL: &[&str] = &[
    "abort",
    "begin",
    "close",
    "commit",
    "deallocate",
    "delete",
    "discard",
    "end",
    "insert",
    "listen",
    "lock",
    "merge",
    "notify",
    "release",
    "reset",
    "rollback",
    "savepoint",
    "select",
    "set",
    "show",
    "start",
    "table",
    "unlisten",
    "update",
    "values",
    "with",
];

/// Whether the text could make this or later transactions see an older state than the newest one: another isolation level.
pub(crate) fn changes_isolation(sql: &str) -> bool {
    let Some(statements) = statements(sql) else {
        return true;
    };
    statements.iter().any(|nodes| {
        let first = nodes.first().and_then(Node::keyword);
        if first.is_some_and(|first| SQL.contains(&first)) {
            names_isolation(nodes)
        } else {
            // It may hold another text.
            let sql = sql.to_ascii_lowercase();
            [
                "repeatable",
                "serializable",
                "transaction_isolation",
                "set_config",
            ]
            .iter()
            .any(|word| sql.contains(word))
        }
    })
}

fn names_isolation(nodes: &[Node]) -> bool {
    nodes.iter().enumerate().any(|(at, node)| {
        let named = node.word().is_some_and(|name| {
            name.ends_with("transaction_isolation")
                || matches!(name, "repeatable" | "serializable" | "pg_settings")
        });
        let sets = node.word() == Some("set_config")
            && match nodes.get(at + 1).and_then(Node::group) {
                Some([Node::Token(Token::Text(Some(name))), comma, ..]) => {
                    !comma.is_comma() || name.to_ascii_lowercase().contains("isolation")
                }
                _ => true,
            };
        named || sets || names_isolation(node.inner())
    })
}
