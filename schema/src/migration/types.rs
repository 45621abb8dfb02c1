//! What columns of PostgreSQL name, and has to be there first: enums, domains, sequences.

use super::Script;
use crate::catalogue::{Catalogue, Column, Dialect};

/// What the columns of `new` name and those of `old` do not. A type that nothing else names can be there all the same.
pub(super) fn made(old: &Catalogue, new: &Catalogue, script: &mut Script) {
    match new.dialect {
        Dialect::Postgres => {}
        Dialect::Sqlite => return,
    }
    let mut types: Vec<&str> = Vec::new();
    for column in columns(new) {
        if !types.contains(&column.ty.as_str()) {
            types.push(&column.ty);
            let before = columns(old).find(|other| other.ty == column.ty);
            script.first.extend(of_type(before, column));
        }
    }
    let mut sequences: Vec<String> = columns(old).filter_map(sequence).collect();
    for name in columns(new).filter_map(sequence) {
        if !sequences.contains(&name) {
            script.first.push(make_sequence(&name));
            sequences.push(name);
        }
    }
}

fn columns(catalogue: &Catalogue) -> impl Iterator<Item = &Column> {
    catalogue.tables.iter().flat_map(|table| &table.columns)
}

fn of_type(before: Option<&Column>, column: &Column) -> Vec<String> {
    let ty = &column.ty;
    match (before, &column.domain_of) {
        (None, Some(base)) => vec![format!("-- make the domain {ty} of {base}")],
        (None, None) if !column.values.is_empty() => {
            let values: Vec<String> = column.values.iter().map(|value| text(value)).collect();
            vec![format!("CREATE TYPE {ty} AS ENUM ({});", values.join(", "))]
        }
        (Some(before), _) => values(before, column),
        (None, None) => Vec::new(),
    }
}

/// The values that an enum has and had not, each at its place, and those that it had.
fn values(before: &Column, column: &Column) -> Vec<String> {
    let ty = &column.ty;
    let mut lines = Vec::new();
    let mut there: Vec<&String> = before.values.iter().collect();
    for (at, value) in column.values.iter().enumerate() {
        if there.contains(&value) {
            continue;
        }
        let previous = at.checked_sub(1).and_then(|at| column.values.get(at));
        let place = match (previous, there.first()) {
            (Some(previous), _) if there.last() != Some(&previous) => {
                format!(" AFTER {}", text(previous))
            }
            (None, Some(first)) => format!(" BEFORE {}", text(first)),
            _ => String::new(),
        };
        lines.push(format!("ALTER TYPE {ty} ADD VALUE {}{place};", text(value)));
        let after = previous.and_then(|previous| there.iter().position(|other| *other == previous));
        there.insert(after.map_or(0, |after| after + 1), value);
    }
    let dropped = before.values.iter();
    let dropped = dropped.filter(|value| !column.values.contains(value));
    lines.extend(dropped.map(|value| format!("-- make the type {ty} anew, without {value}")));
    lines
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// One that nothing of the catalogue names can be there all the same.
pub(super) fn make_sequence(name: &str) -> String {
    format!("CREATE SEQUENCE IF NOT EXISTS {name};")
}

/// Of a default such as `nextval('tags_id_seq'::regclass)`.
pub(super) fn sequence(column: &Column) -> Option<String> {
    let (_, name) = column.default.as_ref()?.split_once("nextval('")?;
    let (name, _) = name.split_once("'::regclass")?;
    Some(name.replace("''", "'"))
}
