//! The indexes by which a queue finds its jobs.

use super::Context;
use crate::catalogue::Index;
use crate::ddl::quoted;
use crate::expression::{SqliteIndex, sqlite_index, words};
use crate::finding::{Finding, Level, Place, Rule};
use crate::model::NeededIndex;

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let of_database = |index: &&NeededIndex| index.dialect == context.dialect();
    for needed in context.model.indexes.iter().filter(of_database) {
        let finding = match needed.required {
            true => required(context, needed),
            false => useful(context, needed),
        };
        findings.extend(finding);
    }
    let plain = context.table.indexes.iter();
    let plain = plain.map(|index| (index.invalid, &index.name));
    let unique = context.table.unique.iter();
    let unique = unique.map(|index| (index.invalid, &index.name));
    for (_, name) in plain.chain(unique).filter(|(invalid, _)| *invalid) {
        let shown = context.shown();
        findings.push(Finding {
            note: Some("its build failed or is under way, and no statement reads it".into()),
            help: Some(format!("REINDEX INDEX CONCURRENTLY {};", quoted(name))),
            ..note(format!("the index `{name}` of `{shown}` is not valid"))
        });
    }
}

fn note(message: String) -> Finding {
    Finding::new(Rule::Index, Level::Note, Place::Table, message)
}

/// A worker looks for it by its name.
fn required(context: &Context<'_>, needed: &NeededIndex) -> Option<Finding> {
    let mut indexes = context.table.unique.iter();
    let is_there = indexes
        .any(|index| context.dialect().same_name(&index.name, &needed.name) && !index.invalid);
    (!is_there).then(|| Finding {
        note: Some("without it two jobs of one value can run at once, and no worker begins".into()),
        help: Some(needed.create.trim().to_owned()),
        ..Finding::new(
            Rule::Index,
            Level::Error,
            Place::Table,
            format!(
                "`{}` has no unique index `{}`",
                context.shown(),
                needed.name
            ),
        )
    })
}

/// Without it a statement reads more than it needs.
fn useful(context: &Context<'_>, needed: &NeededIndex) -> Option<Finding> {
    let wanted = sqlite_index(&needed.create)?;
    let mut indexes = context.table.indexes.iter();
    if indexes.any(|index| serves(index, &wanted)) {
        return None;
    }
    let predicate = wanted.predicate.unwrap_or_default();
    Some(Finding {
        note: Some(
            "without it each claim, rescue or count reads more rows the longer the queue is".into(),
        ),
        help: Some(needed.create.trim().to_owned()),
        ..note(format!(
            "no index of `{}` is on ({}) WHERE {predicate}, in this order",
            context.shown(),
            wanted.parts.join(", ")
        ))
    })
}

/// Whether rows can be read from the index in the order that is wanted. Its last part is the key, which can be left to a sort of few rows.
fn serves(index: &Index, wanted: &SqliteIndex) -> bool {
    if index.invalid || index.method.is_some() {
        return false;
    }
    // Conditions in other words can mean the same. One on all rows can have the state in front.
    let of_some = index.predicate.is_some();
    let begins_with = |on: &[String]| {
        let mut pairs = on.iter().zip(&wanted.parts);
        let enough = wanted.parts.len().saturating_sub(1).max(1);
        on.len() >= enough && pairs.all(|(one, other)| words(one) == words(other))
    };
    begins_with(&index.on)
        || (!of_some
            && index
                .on
                .split_first()
                .is_some_and(|(_, rest)| begins_with(rest)))
}
