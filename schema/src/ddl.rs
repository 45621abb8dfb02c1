//! Statements for a migration, to paste.

use crate::catalogue::{Catalogue, Column, Dialect, Part, Table, Unique};
use crate::family::Family;
use crate::model::Model;

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn table_name(table: &Table, catalogue: &Catalogue) -> String {
    let is_first = catalogue.search_path.first() == Some(&table.schema);
    match is_first {
        true => quoted(&table.name),
        false => format!("{}.{}", quoted(&table.schema), quoted(&table.name)),
    }
}

/// The unique index of a key, by its number.
pub(crate) fn unique_index(
    model: &Model,
    number: usize,
    table: &Table,
    catalogue: &Catalogue,
) -> String {
    let Some(key) = model.keys.get(number) else {
        return String::new();
    };
    let parts: Vec<String> = key
        .on
        .iter()
        .map(|part| {
            let column = quoted(&part.column);
            part.expression.clone().unwrap_or(column)
        })
        .collect();
    let nulls = if key.nulls_not_distinct {
        " NULLS NOT DISTINCT"
    } else {
        ""
    };
    let predicate = key.predicate.as_ref();
    let predicate = predicate.map_or_else(String::new, |text| format!(" WHERE ({text})"));
    format!(
        "CREATE UNIQUE INDEX {} ({}){nulls}{predicate};",
        index_on(
            &index_name(model, number, table, catalogue),
            "",
            table,
            catalogue
        ),
        parts.join(", ")
    )
}

/// `"name" ON "table"`, each with its schema where the database wants it: PostgreSQL at the table, SQLite at the index.
pub(crate) fn index_on(name: &str, using: &str, table: &Table, catalogue: &Catalogue) -> String {
    let is_first = catalogue.search_path.first() == Some(&table.schema);
    match catalogue.dialect {
        Dialect::Sqlite if !is_first => format!(
            "{}.{} ON {}{using}",
            quoted(&table.schema),
            quoted(name),
            quoted(&table.name)
        ),
        Dialect::Postgres | Dialect::Sqlite => format!(
            "{} ON {}{using}",
            quoted(name),
            table_name(table, catalogue)
        ),
    }
}

/// `documents_tenant_id_slug_key`, no longer than PostgreSQL keeps, and the name of nothing else: `…_key_1`.
fn index_name(model: &Model, number: usize, table: &Table, catalogue: &Catalogue) -> String {
    let mut taken: Vec<String> = Vec::new();
    for beside in catalogue.tables.iter() {
        if catalogue.dialect.same_name(&beside.schema, &table.schema) {
            taken.push(beside.name.clone());
            taken.extend(beside.unique.iter().map(|index| index.name.clone()));
            taken.extend(beside.indexes.iter().map(|index| index.name.clone()));
        }
    }
    // Two keys of one model can be on the same columns, and both be missing.
    let mut name = String::new();
    for key in model.keys.iter().take(number + 1) {
        let columns: Vec<&str> = key.on.iter().map(|part| part.column.as_str()).collect();
        let mut short = format!("{}_{}", table.name, columns.join("_"));
        while short.len() > 55 {
            short.pop();
        }
        name = format!("{short}_key");
        let is_taken = |name: &str| {
            let mut taken = taken.iter();
            taken.any(|other| catalogue.dialect.same_name(other, name))
        };
        let mut again = 0;
        while is_taken(&name) {
            again += 1;
            name = format!("{short}_key_{again}");
        }
        taken.push(name.clone());
    }
    name
}

/// Without its constraint, or with one that is checked at once.
pub(crate) fn not_deferrable(
    index: &Unique,
    has_other: bool,
    table: &Table,
    catalogue: &Catalogue,
) -> String {
    let (name, on_table) = (quoted(&index.name), table_name(table, catalogue));
    if has_other {
        return format!("ALTER TABLE {on_table} DROP CONSTRAINT {name};");
    }
    let columns: Vec<String> = index
        .on
        .iter()
        .filter_map(Part::column)
        .map(quoted)
        .collect();
    let kind = match (index.primary, index.nulls_not_distinct) {
        (true, _) => "PRIMARY KEY",
        (false, true) => "UNIQUE NULLS NOT DISTINCT",
        (false, false) => "UNIQUE",
    };
    format!(
        "make it NOT DEFERRABLE: ALTER TABLE {on_table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {kind} ({});",
        columns.join(", ")
    )
}

pub(crate) fn set_not_null(column: &str, table: &Table, catalogue: &Catalogue) -> Option<String> {
    match catalogue.dialect {
        Dialect::Postgres => Some(format!(
            "ALTER TABLE {} ALTER COLUMN {} SET NOT NULL;",
            table_name(table, catalogue),
            quoted(column)
        )),
        Dialect::Sqlite => None,
    }
}

pub(crate) fn drop_not_null(column: &str, table: &Table, catalogue: &Catalogue) -> Option<String> {
    match catalogue.dialect {
        Dialect::Postgres => Some(format!(
            "ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL;",
            table_name(table, catalogue),
            quoted(column)
        )),
        Dialect::Sqlite => None,
    }
}

pub(crate) fn set_type(
    column: &Column,
    (ty, to): (&str, Family),
    table: &Table,
    catalogue: &Catalogue,
) -> Option<String> {
    let name = quoted(&column.name);
    let using = Family::of_postgres(column).cast(to);
    let using = using.map_or_else(String::new, |by| format!(" USING {name}{by}::{ty}"));
    match catalogue.dialect {
        Dialect::Postgres => Some(format!(
            "ALTER TABLE {} ALTER COLUMN {name} TYPE {ty}{using};",
            table_name(table, catalogue),
        )),
        Dialect::Sqlite => None,
    }
}

/// A column to add. One that cannot be NULL needs a value for the rows that are there.
pub(crate) fn add_column(
    column: &str,
    ty: &str,
    default: Option<&str>,
    table: &Table,
    catalogue: &Catalogue,
) -> String {
    let default = default.map_or_else(String::new, |value| format!(" NOT NULL DEFAULT {value}"));
    format!(
        "ALTER TABLE {} ADD COLUMN {} {ty}{default};",
        table_name(table, catalogue),
        quoted(column)
    )
}

/// `documents`, or `app.documents`, as the model has it.
pub(crate) fn named(model: &Model) -> String {
    match &model.schema {
        Some(schema) => format!("{schema}.{}", model.table),
        None => model.table.clone(),
    }
}
