//! What differs between two catalogues, for people.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{Catalogue, Table};
use crate::file::line;

/// What is in one and not in the other: `-` is in `old` alone, `+` in `new`. Empty if they are the same.
pub fn changes(old: &Catalogue, new: &Catalogue) -> String {
    let mut text = String::new();
    let (dialects, paths) = (
        (old.dialect, new.dialect),
        (&old.search_path, &new.search_path),
    );
    if dialects.0 != dialects.1 {
        text.push_str(&format!(
            "- {}\n+ {}\n",
            line(&dialects.0),
            line(&dialects.1)
        ));
    }
    if paths.0 != paths.1 {
        text.push_str(&format!(
            "- search_path {}\n+ search_path {}\n",
            line(paths.0),
            line(paths.1)
        ));
    }
    let (old, new) = (by_name(old), by_name(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let nothing = BTreeSet::new();
        let (before, after) = (
            old.get(name).unwrap_or(&nothing),
            new.get(name).unwrap_or(&nothing),
        );
        if before == after {
            continue;
        }
        text.push_str(&format!("{name}\n"));
        let gone = before.difference(after).map(|item| ("-", item));
        let come = after.difference(before).map(|item| ("+", item));
        let mut items: Vec<_> = gone.chain(come).collect();
        items.sort_by_key(|(_, item)| (*item).clone());
        for (sign, item) in items {
            text.push_str(&format!("  {sign} {item}\n"));
        }
    }
    text
}

fn by_name(catalogue: &Catalogue) -> BTreeMap<String, BTreeSet<String>> {
    let tables = catalogue.tables.iter();
    let named = tables.map(|table| (format!("{}.{}", table.schema, table.name), items(table)));
    named.collect()
}

fn items(table: &Table) -> BTreeSet<String> {
    let head = format!(
        "{}{} {}",
        line(&table.kind),
        if table.row_security {
            " row security"
        } else {
            ""
        },
        line(&table.options)
    );
    let columns = table
        .columns
        .iter()
        .map(|item| format!("column {}", line(item)));
    let unique = table
        .unique
        .iter()
        .map(|item| format!("unique {}", line(item)));
    let indexes = table.indexes.iter();
    let indexes = indexes.map(|item| format!("index {}", line(item)));
    let checks = table
        .checks
        .iter()
        .map(|item| format!("check {}", line(item)));
    let keys = table.foreign_keys.iter();
    let keys = keys.map(|item| format!("foreign key {}", line(item)));
    let triggers = table
        .triggers
        .iter()
        .map(|item| format!("trigger {}", line(item)));
    [head]
        .into_iter()
        .chain(columns)
        .chain(unique)
        .chain(indexes)
        .chain(checks)
        .chain(keys)
        .chain(triggers)
        .collect()
}
