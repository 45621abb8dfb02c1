//! Queries about one table of which it is certain which rows they can touch: those with one key.
//!
//! The forms are `SELECT … FROM t WHERE …`, `UPDATE t SET … WHERE …`, `DELETE FROM t WHERE …`, as statements or inside of others, and
//! `INSERT INTO t (…) VALUES (…)`. The condition says `column = value` for each column of the primary key, and nothing beside that can
//! make it true without. A scan may look at other rows, and drops them before it has locked them, changed them, or done anything with
//! them that can fail: the server orders conditions by cost and then as they are written, and a comparison of a key costs the least
//! there is. So what stands before the last column of the key must be a plain comparison too.

use super::catalogue::Relation;
use super::key::{Family, Source};
use super::lexer::{Node, Token};
use super::places::is_name;

/// A query, and the one table that it is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    body: &'a [Node],
    table: &'a str,
    /// What follows the table's name.
    after: usize,
}

/// Whose locks a query looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those of the session.
    Own,
    All,
}

/// Words that begin what follows a condition.
const TAIL: &[&str] = &[
    "group",
    "having",
    "window",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
    "returning",
];

/// Words that follow the values of a SELECT.
const AFTER_VALUES: &[&str] = &[
    "from",
    "where",
    "on",
    "returning",
    "group",
    "having",
    "window",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
];

/// Words that make a query more than one about its table.
const MORE: &[&str] = &["union", "intersect", "except", "table", "into", "current"];

/// Words without quotes that are values and no columns.
const VALUES: &[&str] = &[
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "false",
    "localtime",
    "localtimestamp",
    "null",
    "session_user",
    "system_user",
    "true",
    "user",
];

impl<'a> Block<'a> {
    pub(super) fn new(body: &'a [Node], table: &'a str, after: usize) -> Self {
        Self { body, table, after }
    }

    /// The values of the key that a row has to have, to be touched. `None` if that is not certain.
    pub(super) fn key(&self, relation: &Relation) -> Option<Vec<Source>> {
        let key = relation.key.as_deref()?;
        match self.body.first()?.keyword()? {
            "insert" => self.inserted(relation, key),
            kind @ ("select" | "update" | "delete") => self.found(kind, relation, key),
            _ => None,
        }
    }

    /// Where keywords stand, not as names.
    fn keywords(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let body = self.body;
        let words = body.iter().enumerate();
        words.filter_map(move |(at, node)| {
            let word = node.keyword().filter(|_| !is_name(&body[..at]))?;
            Some((at, word))
        })
    }

    /// Where the one keyword of this kind stands.
    fn the(&self, wanted: &str) -> Option<usize> {
        let mut all = self.keywords().filter(|&(_, word)| word == wanted);
        let first = all.next()?.0;
        all.next().is_none().then_some(first)
    }

    /// What the table is called here, where nothing but that stands between its name and `end`.
    fn alias(&self, end: usize) -> Option<&'a str> {
        match self.body.get(self.after..end)? {
            [] => Some(self.table),
            [name] => name.word(),
            [r#as, name] if r#as.is("as") => name.word(),
            _ => None,
        }
    }

    /// Where WHERE stands, and all that it asks of a row.
    fn condition(&self) -> Option<(usize, Vec<&'a [Node]>)> {
        if self.keywords().any(|(_, word)| MORE.contains(&word)) {
            return None;
        }
        let at = self.the("where")?;
        let mut tails = self.keywords().filter(|(_, word)| TAIL.contains(word));
        let tail = tails.find(|&(tail, _)| tail > at);
        let end = tail.map_or(self.body.len(), |(tail, _)| tail);
        Some((at, conjunction(self.body.get(at + 1..end)?)?))
    }

    fn found(
        &self,
        kind: &str,
        relation: &Relation,
        key: &[(String, Family)],
    ) -> Option<Vec<Source>> {
        let (at, parts) = self.condition()?;
        let mut alias_end = at;
        if kind == "update" {
            alias_end = self.the("set")?;
            if !keeps(self.body.get(alias_end + 1..at)?, relation) {
                return None;
            }
        }
        key_of(&parts, self.alias(alias_end)?, key)
    }

    /// Whose advisory locks a query of `pg_locks` looks at, if it looks at nothing else.
    pub(super) fn looks_at_locks(&self) -> Option<Whose> {
        self.body.first().filter(|node| node.is("select"))?;
        let (at, parts) = self.condition()?;
        let alias = self.alias(at)?;
        let has = |column: &str, is: fn(&[Node]) -> bool| {
            let mut values = parts.iter().filter_map(|part| side(part, alias, column));
            values.any(is)
        };
        let advisory = has(
            "locktype",
            |value| matches!(value, [Node::Token(Token::Text(Some(text)))] if text == "advisory"),
        );
        let own = has(
            "pid",
            |value| matches!(value, [name, Node::Group(inner)] if name.is("pg_backend_pid") && inner.is_empty()),
        );
        advisory.then_some(if own { Whose::Own } else { Whose::All })
    }

    /// Of one new row, if nothing but its key can meet another one.
    fn inserted(&self, relation: &Relation, key: &[(String, Family)]) -> Option<Vec<Source>> {
        if relation.other_unique {
            return None;
        }
        let mut rest = self.body.get(self.after..)?;
        if let [r#as, _, more @ ..] = rest
            && r#as.is("as")
        {
            rest = more;
        }
        let [Node::Group(columns), rest @ ..] = rest else {
            return None;
        };
        let values = new_row(rest)?;
        let columns: Vec<&str> = columns
            .split(Node::is_comma)
            .map(|column| match column {
                [name] => name.word(),
                _ => None,
            })
            .collect::<Option<_>>()?;
        let given = |name: &str| {
            let value = values.get(columns.iter().position(|&column| column == name)?)?;
            let drawn = value.iter().any(|node| node.is("default"));
            (!drawn).then_some(*value)
        };
        // What is drawn is a touch of its own, of a sequence that others draw from: nothing is won by a key.
        if !relation
            .sequences
            .iter()
            .all(|(column, _)| given(column).is_some())
        {
            return None;
        }
        if let Some(set) = self.keywords().find(|&(_, word)| word == "set") {
            let rest = self.body.get(set.0 + 1..)?;
            let ends = |node: &Node| node.is("where") || node.is("returning");
            let end = rest.iter().position(ends).unwrap_or(rest.len());
            if !keeps(&rest[..end], relation) {
                return None;
            }
        }
        key.iter()
            .map(|(column, family)| constant(given(column)?, *family))
            .collect()
    }
}

/// The values of `VALUES (…)`, one row of them, or of `SELECT …`, where a constant is the same in all rows.
fn new_row(nodes: &[Node]) -> Option<Vec<&[Node]>> {
    match nodes {
        [values, Node::Group(row), rest @ ..] if values.is("values") => {
            let ends = |node: &Node| node.is("on") || node.is("returning");
            let alone = rest.first().is_none_or(ends);
            alone.then(|| row.split(Node::is_comma).collect())
        }
        [select, rest @ ..] if select.is("select") => {
            let find = |words: &[&str]| {
                let mut all = rest.iter().enumerate();
                let end = all.position(|(at, node)| {
                    !is_name(&rest[..at]) && words.iter().any(|word| node.is(word))
                });
                end.unwrap_or(rest.len())
            };
            let values: Vec<_> = rest[..find(AFTER_VALUES)].split(Node::is_comma).collect();
            // It stands for any number of columns.
            let all = |value: &&[Node]| value.last().is_some_and(|node| node.is_symbol("*"));
            let one = find(&["union", "intersect", "except"]) == rest.len();
            (one && !values.iter().any(all)).then_some(values)
        }
        _ => None,
    }
}

/// Whether these assignments are to columns that concern no other row.
fn keeps(assignments: &[Node], relation: &Relation) -> bool {
    let delicate = |column: &&str| relation.delicate.contains(*column);
    assigned(assignments).is_some_and(|columns| !columns.iter().any(delicate))
}

/// The columns that are set: `a = …, (b, c) = …`.
fn assigned(nodes: &[Node]) -> Option<Vec<&str>> {
    let mut columns = vec![];
    for assignment in nodes.split(Node::is_comma) {
        match assignment.first()? {
            Node::Group(several) => {
                for column in several.split(Node::is_comma) {
                    columns.push(column.first()?.word()?);
                }
            }
            column => columns.push(column.word()?),
        }
    }
    Some(columns)
}

/// The values that the columns of the key have wherever the condition holds.
fn key_of(parts: &[&[Node]], table: &str, key: &[(String, Family)]) -> Option<Vec<Source>> {
    let mut values: Vec<Option<Source>> = vec![None; key.len()];
    for part in parts {
        let equal = key
            .iter()
            .position(|(column, family)| equality(part, table, column, *family).is_some());
        match equal {
            Some(at) if values[at].is_none() => {
                let (column, family) = &key[at];
                values[at] = equality(part, table, column, *family);
                if values.iter().all(Option::is_some) {
                    return values.into_iter().collect();
                }
            }
            _ if is_plain(part) => {}
            _ => return None,
        }
    }
    None
}

/// What all has to hold. `None` if there is an OR beside.
fn conjunction(condition: &[Node]) -> Option<Vec<&[Node]>> {
    let (mut parts, mut begin) = (vec![], 0);
    let (mut cases, mut between) = (0_usize, false);
    for (at, node) in condition.iter().enumerate() {
        if is_name(&condition[..at]) {
            continue;
        }
        match node.keyword() {
            Some("case") => cases += 1,
            Some("end") => cases = cases.checked_sub(1)?,
            _ if cases > 0 => {}
            Some("or") => return None,
            Some("between") => between = true,
            Some("and") if between => between = false,
            Some("and") => {
                parts.push(&condition[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&condition[begin..]);
    Some(parts)
}

/// The value in `column = value` or `value = column`.
fn equality(part: &[Node], table: &str, column: &str, family: Family) -> Option<Source> {
    constant(side(part, table, column)?, family)
}

/// The other side in `column = …` or `… = column`.
fn side<'a>(part: &'a [Node], table: &str, column: &str) -> Option<&'a [Node]> {
    let mut sides = part.split(|node| node.is_symbol("="));
    let (one, two) = (sides.next()?, sides.next()?);
    if sides.next().is_some() {
        return None;
    }
    let is_column = |side: &[Node]| match side {
        [name] => name.word() == Some(column) && !is_value(name),
        [qualifier, dot, name] => {
            dot.is_dot() && qualifier.word() == Some(table) && name.word() == Some(column)
        }
        _ => false,
    };
    match (is_column(one), is_column(two)) {
        (true, false) => Some(two),
        (false, true) => Some(one),
        _ => None,
    }
}

fn is_value(node: &Node) -> bool {
    node.keyword().is_some_and(|word| VALUES.contains(&word))
}

/// Whether this can neither fail nor cost more than the comparison of a key: one comparison of columns and values, or a test for NULL.
fn is_plain(part: &[Node]) -> bool {
    let comparisons = ["=", "<>", "!=", "<", ">", "<=", ">="];
    let mut operators = 0;
    part.iter().all(|node| match node {
        Node::Token(Token::Symbol(operator)) => {
            operators += 1;
            comparisons.contains(&operator.as_str())
        }
        Node::Token(Token::Word { .. } | Token::Dot | Token::Param { .. } | Token::Number(_)) => ![
            "case", "between", "like", "ilike", "similar", "at", "in", "collate", "operator",
        ]
        .iter()
        .any(|word| node.is(word)),
        Node::Token(Token::Text(_)) => true,
        _ => false,
    }) && operators <= 1
}

/// A value that is known before the statement runs.
pub(super) fn constant(nodes: &[Node], family: Family) -> Option<Source> {
    let value = match nodes {
        [value @ .., cast, r#type] if cast.is_symbol("::") => {
            (Family::named(r#type.word()?)? == family).then_some(value)?
        }
        value => value,
    };
    match value {
        [Node::Token(Token::Param { number, at })] => Some(Source::Param {
            number: *number,
            at: *at,
            family,
            alone: false,
        }),
        [Node::Token(Token::Number(number))] if family == Family::Int => {
            family.text(number).map(Source::Literal)
        }
        [minus, Node::Token(Token::Number(number))]
            if family == Family::Int && minus.is_symbol("-") =>
        {
            family.text(&format!("-{number}")).map(Source::Literal)
        }
        [Node::Token(Token::Text(Some(text)))] => family.text(text).map(Source::Literal),
        _ => None,
    }
}
