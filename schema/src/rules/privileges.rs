//! The user of the connection may do what the methods do: the server says otherwise only when they run.

use super::{Context, listed};
use crate::ddl::{quoted, table_name};
use crate::finding::{Finding, Level, Place, Rule};
use crate::model::Access;

const PRIVILEGES: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for privilege in PRIVILEGES {
        let all = context.model.access.iter();
        let all: Vec<&Access> = all.filter(|one| one.privilege == privilege).collect();
        if context
            .table
            .denied
            .iter()
            .any(|denied| denied == privilege)
        {
            findings.extend(of_table(context, privilege, &all));
        } else {
            findings.extend(of_columns(context, privilege, &all));
        }
    }
    sequences(context, findings);
}

fn of_table(context: &Context<'_>, privilege: &str, all: &[&Access]) -> Option<Finding> {
    let (first, table) = (all.first()?, context.shown());
    Some(Finding {
        rule: Rule::Privilege,
        level: level(first),
        place: Place::Table,
        message: format!("the user of this connection may not {privilege} on `{table}`"),
        note: Some(format!("it is needed by {}", methods(all))),
        help: Some(grant(context, privilege)),
    })
}

fn of_columns(context: &Context<'_>, privilege: &str, all: &[&Access]) -> Option<Finding> {
    let denied = context.table.denied_columns.iter();
    let denied = denied
        .filter(|(_, of)| of == privilege)
        .map(|(column, _)| column);
    let denied: Vec<&String> = denied.collect();
    let needs = |one: &Access, column: &String| {
        let is_whole = one.columns.iter().any(|name| name == "*");
        one.columns.contains(column) || is_whole && context.column(column).is_some()
    };
    let all = all.iter().copied();
    let failing = all.filter(|one| denied.iter().any(|column| needs(one, column)));
    let failing: Vec<&Access> = failing.collect();
    let columns = denied
        .iter()
        .filter(|column| failing.iter().any(|one| needs(one, column)));
    let columns: Vec<String> = columns.map(|column| (*column).clone()).collect();
    let named: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    Some(Finding {
        rule: Rule::Privilege,
        level: failing.iter().map(|one| level(one)).min()?,
        place: Place::Table,
        message: format!(
            "the user of this connection may not {privilege} {} of `{}`",
            listed(&columns),
            context.shown()
        ),
        note: Some(format!("it is needed by {}", methods(&failing))),
        help: Some(grant(
            context,
            &format!("{privilege} ({})", named.join(", ")),
        )),
    })
}

/// Those that defaults have the next value of, where an insert leaves the columns out.
fn sequences(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let inserts = context.model.access.iter();
    let inserts: Vec<&Access> = inserts.filter(|one| one.privilege == "INSERT").collect();
    for (column, sequence) in &context.table.denied_sequences {
        let failing = inserts.iter().filter(|one| !one.columns.contains(column));
        let failing: Vec<&Access> = failing.copied().collect();
        if failing.is_empty() {
            continue;
        }
        findings.push(Finding {
            rule: Rule::Privilege,
            level: Level::Note,
            place: Place::Table,
            message: format!(
                "the user of this connection may not use the sequence `{sequence}`, of which an INSERT takes `{column}` of `{}`",
                context.shown()
            ),
            note: Some(format!("it is needed by {}", methods(&failing))),
            help: Some(format!("GRANT USAGE ON SEQUENCE {sequence} TO {};", user(context))),
        });
    }
}

/// A program can have models that it only reads, or never deletes.
fn level(access: &Access) -> Level {
    match access.required {
        true => Level::Error,
        false => Level::Note,
    }
}

fn methods(all: &[&Access]) -> String {
    let mut methods: Vec<String> = all.iter().map(|one| one.method.clone()).collect();
    methods.dedup();
    listed(&methods)
}

fn grant(context: &Context<'_>, what: &str) -> String {
    let table = table_name(context.table, context.catalogue);
    format!("GRANT {what} ON {table} TO {};", user(context))
}

fn user<'c>(context: &Context<'c>) -> &'c str {
    context.catalogue.user.as_deref().unwrap_or("…")
}
