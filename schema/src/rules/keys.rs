//! Keys have their unique indexes.

use super::Context;
use crate::catalogue::{Dialect, Kind, Part, Unique};
use crate::ddl;
use crate::expression::{null_test, other_text, words};
use crate::finding::{Finding, Level, Place, Rule};
use crate::model::{Key, KeyPart, KeyUse};

/// Whether an index is what a key needs.
enum Match {
    Yes,
    /// Two texts differ, and can still mean the same.
    Perhaps,
    /// It has only these rows, and the key is one of all.
    Partial(String),
    /// It is not, because of this.
    No(Option<String>),
}

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for (number, key) in context.model.keys.iter().enumerate() {
        // What is missing is reported at its field.
        if key
            .on
            .iter()
            .any(|part| context.column(&part.column).is_none())
        {
            continue;
        }
        let finding = match key.used {
            KeyUse::Conflict => conflict(context, number, key),
            KeyUse::Find => find(context, number, key),
        };
        findings.extend(finding);
    }
}

/// What ON CONFLICT takes: a unique index on this and on nothing else.
fn conflict(context: &Context<'_>, number: usize, key: &Key) -> Option<Finding> {
    if let Some(finding) = deferrable(context, number, key) {
        return Some(finding);
    }
    let mut otherwise = None;
    let mut near = Vec::new();
    let mut others = Vec::new();
    let mut partial = None;
    for index in &context.table.unique {
        match matches(context, key, index) {
            Match::Yes => match collations(context, number, index) {
                Some(finding) => otherwise = Some(finding),
                None => return None,
            },
            Match::Perhaps => return None,
            Match::Partial(predicate) => {
                near.push(format!("one on {}", shown(index)));
                partial = Some(predicate);
            }
            Match::No(Some(why)) => near.push(format!("one on {}{why}", shown(index))),
            Match::No(None) => others.push(format!("one on {}", shown(index))),
        }
    }
    if otherwise.is_some() {
        return otherwise;
    }
    let has = match (near.len(), others.len()) {
        (0, 0) => "it has no unique index at all".to_owned(),
        (0, _) => format!("there is {}", and(&others)),
        _ => format!("there is {}", and(&near)),
    };
    let ddl = ddl::unique_index(context.model, number, context.table, context.catalogue);
    // The key of a counter or of a request has no such option.
    let can_say = ["FindOrCreate", "Queue"].contains(&context.model.derive.as_str());
    let help = match partial.filter(|_| can_say) {
        Some(predicate) => format!(
            "say that in the key: `where = \"{}\"`, or: {ddl}",
            bare(&predicate)
        ),
        None => ddl,
    };
    Some(Finding {
        rule: Rule::Unique,
        level: Level::Error,
        place: Place::Key(number),
        message: format!(
            "no unique index of `{}` is on {}; {has}",
            context.shown(),
            wanted(key)
        ),
        note: Some("without it `ON CONFLICT` fails, and two writers make two rows".into()),
        help: Some(help),
    })
}

/// PostgreSQL takes every unique index on the columns for ON CONFLICT, and refuses the statement (55000) if one of them is DEFERRABLE.
fn deferrable(context: &Context<'_>, number: usize, key: &Key) -> Option<Finding> {
    let takes = |index: &&Unique| {
        index.deferrable && !index.invalid && matches!(parts(context, key, index), Some(false))
    };
    let index = context.table.unique.iter().find(takes)?;
    let others = context.table.unique.iter();
    let has_other = others
        .filter(|other| !other.deferrable)
        .any(|other| matches!(matches(context, key, other), Match::Yes));
    Some(Finding {
        rule: Rule::Unique,
        level: Level::Error,
        place: Place::Key(number),
        message: format!(
            "the constraint `{}` of `{}` on {} is DEFERRABLE, and `ON CONFLICT` takes none of these",
            index.name,
            context.shown(),
            shown(index)
        ),
        note: Some("it fails even where another unique index is on the same columns".into()),
        help: Some(ddl::not_deferrable(
            index,
            has_other && !index.primary,
            context.table,
            context.catalogue,
        )),
    })
}

/// What finds one row: a unique index on this, or on a part of it.
fn find(context: &Context<'_>, number: usize, key: &Key) -> Option<Finding> {
    let columns: Vec<&str> = key.on.iter().map(|part| part.column.as_str()).collect();
    let same = |one: &str, other: &str| context.dialect().same_name(one, other);
    let is_in = |part: &Part| match part.column() {
        Some(column) => columns.iter().any(|other| same(other, column)),
        None => false,
    };
    let is_unique =
        |index: &Unique| !index.invalid && index.predicate.is_none() && index.on.iter().all(is_in);
    if context.table.unique.iter().any(is_unique) {
        return None;
    }
    let level = match context.table.kind {
        Kind::Table => Level::Error,
        // A unique index of theirs must have the columns of the partitions.
        Kind::Partitioned | Kind::Partition | Kind::View | Kind::Foreign => Level::Note,
    };
    let all: Vec<String> = context
        .table
        .unique
        .iter()
        .map(shown)
        .map(|on| format!("one on {on}"))
        .collect();
    let has = match all.len() {
        0 => "it has no unique index at all".to_owned(),
        _ => format!("there is {}", and(&all)),
    };
    Some(Finding {
        rule: Rule::Unique,
        level,
        place: Place::Key(number),
        message: format!(
            "no unique index of `{}` is on the key {}; {has}",
            context.shown(),
            wanted(key)
        ),
        note: Some(
            "several rows can have one key, and a write by the key is a write to all of them"
                .into(),
        ),
        help: Some(ddl::unique_index(
            context.model,
            number,
            context.table,
            context.catalogue,
        )),
    })
}

/// Whether the index is on the parts of the key and on nothing else; `Some(true)` is perhaps.
fn parts(context: &Context<'_>, key: &Key, index: &Unique) -> Option<bool> {
    let same = |one: &str, other: &str| context.dialect().same_name(one, other);
    if key.on.len() != index.on.len() {
        return None;
    }
    let mut perhaps = false;
    for part in &key.on {
        let found = index
            .on
            .iter()
            .any(|other| match (&part.expression, other) {
                (None, other) => other
                    .column()
                    .is_some_and(|column| same(column, &part.column)),
                (Some(one), Part::Expression { expression }) => words(one) == words(expression),
                (Some(_), Part::Column(_) | Part::Collated { .. }) => false,
            });
        if found {
            continue;
        }
        let mut expressions = index.on.iter().filter(|other| other.column().is_none());
        match &part.expression {
            Some(one) if expressions.any(|other| could_be(one, other)) => perhaps = true,
            _ => return None,
        }
    }
    Some(perhaps)
}

fn matches(context: &Context<'_>, key: &Key, index: &Unique) -> Match {
    let Some(mut perhaps) = parts(context, key, index) else {
        return Match::No(None);
    };
    if index.invalid {
        return Match::No(Some(
            ", which is not valid: its build failed or is under way".into(),
        ));
    }
    match (&key.predicate, &index.predicate) {
        (None, None) => {}
        (None, Some(predicate)) => return Match::Partial(predicate.clone()),
        // An index on all rows is one on these; what it refuses besides is for the caller to see.
        (Some(_), None) => {}
        (Some(one), Some(other)) => match (words(one), words(other)) {
            (one, other) if one == other => {}
            (one, other) => match (null_test(&one), null_test(&other)) {
                (Some(_), Some(_)) => return Match::No(Some(String::new())),
                _ if other_text(&one, &other) => return Match::No(Some(String::new())),
                _ => perhaps = true,
            },
        },
    }
    if key.nulls_not_distinct && !index.nulls_not_distinct {
        return Match::No(Some(", to which two NULLs are different".into()));
    }
    if perhaps { Match::Perhaps } else { Match::Yes }
}

/// Two calls of different functions are different; of anything else it is not known.
fn could_be(one: &str, other: &Part) -> bool {
    let Part::Expression { expression } = other else {
        return false;
    };
    let (one, other) = (words(one), words(expression));
    match (one.as_slice(), other.as_slice()) {
        ([one, of], [other, also]) if of == also => one == other,
        _ => true,
    }
}

/// A key that is compared in one way by the index and in another by `=` is taken, and not found.
fn collations(context: &Context<'_>, number: usize, index: &Unique) -> Option<Finding> {
    match context.dialect() {
        // Of what is written there the collations that matter are rare, and deterministic ones are all the same to an index.
        Dialect::Postgres => return None,
        Dialect::Sqlite => {}
    }
    index.on.iter().find_map(|part| {
        let Part::Collated { column, collation } = part else {
            return None;
        };
        let column = context.column(column)?;
        let by = column.collation.as_deref().unwrap_or("BINARY");
        if by.eq_ignore_ascii_case(collation) {
            return None;
        }
        Some(Finding {
            rule: Rule::Collation,
            level: Level::Error,
            place: Place::Key(number),
            message: format!(
                "the unique index on {} compares `{}` by {collation}, and `=` compares it by {by}",
                shown(index),
                column.name
            ),
            note: Some("a key can be taken by a row that a lookup of it does not find".into()),
            help: Some(format!(
                "declare the column with `COLLATE {collation}`, or the index without: {}",
                ddl::unique_index(context.model, number, context.table, context.catalogue)
            )),
        })
    })
}

/// `(tenant_id, slug) WHERE deleted_at IS NULL`
fn shown(index: &Unique) -> String {
    let parts: Vec<String> = index
        .on
        .iter()
        .map(|part| match part {
            Part::Column(column) => column.clone(),
            Part::Collated { column, collation } => format!("{column} COLLATE {collation}"),
            Part::Expression { expression } => expression.clone(),
        })
        .collect();
    on(&parts, index.predicate.as_deref())
}

fn wanted(key: &Key) -> String {
    let part = |part: &KeyPart| {
        part.expression
            .clone()
            .unwrap_or_else(|| part.column.clone())
    };
    let parts: Vec<String> = key.on.iter().map(part).collect();
    let nulls = if key.nulls_not_distinct {
        " NULLS NOT DISTINCT"
    } else {
        ""
    };
    let text = on(&parts, key.predicate.as_deref());
    format!("{text}{nulls}")
}

fn on(parts: &[String], predicate: Option<&str>) -> String {
    let parts = parts.join(", ");
    match predicate {
        Some(predicate) => format!("({parts}) WHERE {}", bare(predicate)),
        None => format!("({parts})"),
    }
}

/// Without the parentheses that PostgreSQL puts around it.
fn bare(predicate: &str) -> &str {
    let whole = predicate.trim();
    let inner = whole
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    inner
        .filter(|inner| !inner.contains(['(', ')']))
        .unwrap_or(whole)
}

fn and(items: &[String]) -> String {
    match items.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{}, and {last}", rest.join(", ")),
        _ => items.concat(),
    }
}
