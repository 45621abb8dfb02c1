//! Where a statement names tables.

use std::collections::HashSet;

use super::lexer::{Node, Token};
use super::shape::Block;

/// Where a statement names tables.
#[derive(Debug, Default)]
pub(super) struct Places<'a> {
    pub(super) tables: Vec<Place<'a>>,
    /// The names of its WITH queries.
    pub(super) queries: HashSet<&'a str>,
    /// It is not certain that all were found.
    pub(super) unclear: bool,
}

/// A name where a table stands: after FROM, JOIN, INTO, UPDATE and the like.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    /// It has a schema.
    pub(super) dotted: bool,
    /// The query it is in, if it is the only table there, or the one that is inserted into.
    pub(super) block: Option<Block<'a>>,
}

/// What stands in a list of tables.
struct Item<'a> {
    /// `None` if it is a query or a function.
    name: Option<&'a str>,
    dotted: bool,
    /// It stands after INTO.
    into: bool,
    /// Where its name ends.
    end: usize,
}

/// Words that no table can be called without quotes. Whatever has to follow the word before them, it is no table.
const RESERVED: &[&str] = &[
    "as",
    "cross",
    "default",
    "delete",
    "except",
    "fetch",
    "for",
    "from",
    "full",
    "group",
    "having",
    "inner",
    "insert",
    "intersect",
    "into",
    "join",
    "left",
    "limit",
    "merge",
    "natural",
    "offset",
    "on",
    "order",
    "returning",
    "right",
    "select",
    "set",
    "table",
    "union",
    "update",
    "using",
    "values",
    "when",
    "where",
    "window",
    "with",
];

/// `extract(year FROM at)`
const TAKES_FROM: &[&str] = &["extract", "overlay", "position", "substring", "trim"];

impl<'a> Places<'a> {
    pub(super) fn of(nodes: &'a [Node]) -> Self {
        let mut places = Self::default();
        places.level(nodes, None, false);
        places
    }

    /// Reads what is between two brackets. `opener` is the word before them; `expect` says that they stand where a table does.
    fn level(&mut self, nodes: &'a [Node], opener: Option<&str>, mut expect: bool) {
        let start = if nodes.first().is_some_and(|node| node.is("with")) {
            self.with(nodes)
        } else {
            0
        };
        let merges = nodes.get(start).is_some_and(|node| node.is("merge"));
        let mut items: Vec<Item<'a>> = vec![];
        let (mut list, mut into) = (expect, false);
        let mut at = 0;
        while at < nodes.len() {
            let before = at.checked_sub(1).map(|at| &nodes[at]);
            if expect {
                match self.item(nodes, &mut at, into, &mut items) {
                    Step::Skipped => continue,
                    Step::Taken => {
                        (expect, into) = (false, false);
                        continue;
                    }
                    Step::NoItem => (expect, list, into) = (false, false, false),
                }
            }
            let node = &nodes[at];
            let next = nodes.get(at + 1);
            // After these it is a name, whatever it says.
            let is_name = is_name(&nodes[..at]);
            match node.keyword().filter(|_| !is_name) {
                None => {
                    let opener = before.and_then(Node::word);
                    if !node.inner().is_empty() {
                        self.level(node.inner(), opener, false);
                    }
                    expect = list && node.is_comma();
                }
                Some("from") => {
                    let two_before = at.checked_sub(2).map(|at| &nodes[at]);
                    let compares = before.is_some_and(|before| before.is("distinct"))
                        && two_before.is_some_and(|node| node.is("is") || node.is("not"));
                    let argument = opener.is_some_and(|opener| TAKES_FROM.contains(&opener));
                    if !compares && !argument {
                        (expect, list) = (true, true);
                    }
                }
                Some("join") => expect = true,
                Some("into") => {
                    // SELECT … INTO makes a table.
                    let writes = |before: &Node| before.is("insert") || before.is("merge");
                    self.unclear |= !before.is_some_and(writes);
                    (expect, list, into) = (true, false, true);
                }
                Some("using") => match next {
                    Some(Node::Group(columns)) if is_columns(columns) => {}
                    Some(Node::Group(_)) => (expect, list) = (true, true),
                    Some(next) if next.word().is_some() => (expect, list) = (true, true),
                    _ => {}
                },
                Some("update") => {
                    let of_other = ["for", "key", "do", "then"];
                    expect = !of_other
                        .iter()
                        .any(|word| before.is_some_and(|node| node.is(word)));
                }
                Some("table") => expect = true,
                Some("lock") if at == 0 => (expect, list) = (true, true),
                Some("when") if merges => list = false,
                Some(
                    "where" | "group" | "having" | "window" | "order" | "limit" | "offset"
                    | "fetch" | "for" | "union" | "intersect" | "except" | "returning" | "select",
                ) => list = false,
                Some(_) => {}
            }
            at += 1;
        }
        let alone = items.len() == 1;
        for item in items {
            if let Some(name) = item.name {
                let body = &nodes[start..];
                let certain = (alone || item.into) && item.end >= start;
                let block = certain.then(|| Block::new(body, name, item.end - start));
                self.tables.push(Place {
                    name,
                    dotted: item.dotted,
                    block,
                });
            }
        }
    }

    /// Reads what stands where a table should.
    fn item(
        &mut self,
        nodes: &'a [Node],
        at: &mut usize,
        into: bool,
        items: &mut Vec<Item<'a>>,
    ) -> Step {
        let node = &nodes[*at];
        if let Some(inner) = node.group() {
            let (name, dotted, end) = (None, false, *at + 1);
            items.push(Item {
                name,
                dotted,
                into,
                end,
            });
            self.level(inner, None, true);
            *at += 1;
            return Step::Taken;
        }
        match node.keyword() {
            Some("only" | "lateral" | "table") => {
                *at += 1;
                return Step::Skipped;
            }
            Some("rows") if nodes.get(*at + 1).is_some_and(|next| next.is("from")) => {
                *at += 2;
                return Step::Skipped;
            }
            Some(word) if RESERVED.contains(&word) => return Step::NoItem,
            _ => {}
        }
        let Some(mut name) = node.word() else {
            self.unclear = true;
            return Step::NoItem;
        };
        let mut end = *at + 1;
        while nodes.get(end).is_some_and(Node::is_dot) {
            let Some(part) = nodes.get(end + 1).and_then(Node::word) else {
                self.unclear = true;
                return Step::NoItem;
            };
            (name, end) = (part, end + 2);
        }
        let dotted = end > *at + 1;
        if nodes.get(end).is_some_and(|node| node.is_symbol("*")) {
            end += 1;
        }
        let function = !into && nodes.get(end).is_some_and(|next| next.group().is_some());
        *at = end;
        let name = (!function).then_some(name);
        items.push(Item {
            name,
            dotted,
            into,
            end,
        });
        Step::Taken
    }

    /// Reads the names of WITH, and says where the statement itself begins.
    fn with(&mut self, nodes: &'a [Node]) -> usize {
        let mut at = 1;
        let is = |at: usize, word: &str| nodes.get(at).is_some_and(|node| node.is(word));
        at += usize::from(is(at, "recursive"));
        while let Some(name) = nodes.get(at).and_then(Node::word) {
            at += 1;
            at += usize::from(nodes.get(at).is_some_and(|node| node.group().is_some()));
            if !is(at, "as") {
                break;
            }
            at += 1;
            at += usize::from(is(at, "not"));
            at += usize::from(is(at, "materialized"));
            if nodes.get(at).and_then(Node::group).is_none() {
                break;
            }
            self.queries.insert(name);
            at += 1;
            if !nodes.get(at).is_some_and(Node::is_comma) {
                return at;
            }
            at += 1;
        }
        self.unclear = true;
        nodes.len()
    }
}

/// Whether what follows these is a name, even if it looks like a keyword: the field of something, or an alias.
pub(super) fn is_name(before: &[Node]) -> bool {
    match before {
        [.., last] if last.is_dot() => true,
        [rest @ .., last] if last.is("as") => !is_name(rest),
        _ => false,
    }
}

enum Step {
    /// A word before the item was read.
    Skipped,
    /// The item was read.
    Taken,
    /// There is none.
    NoItem,
}

/// `a, b`: columns, as JOIN … USING has them. A list of tables in brackets has a JOIN.
fn is_columns(nodes: &[Node]) -> bool {
    let name = |node: &Node| matches!(node, Node::Token(Token::Word { .. }));
    nodes
        .split(Node::is_comma)
        .all(|part| part.len() == 1 && name(&part[0]))
}
