//! Statements for a migration, to paste.

use crate::catalogue::{Catalogue, Dialect, Table};
use crate::model::{Key, Model};

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

/// The unique index of a key.
pub(crate) fn unique_index(key: &Key, table: &Table, catalogue: &Catalogue) -> String {
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
        "CREATE UNIQUE INDEX ON_NAME ON {} ({}){nulls}{predicate};",
        table_name(table, catalogue),
        parts.join(", ")
    )
    .replace("ON_NAME", &index_name(key, table))
}

/// `documents_tenant_id_slug_key`, and no longer than PostgreSQL keeps.
fn index_name(key: &Key, table: &Table) -> String {
    let columns: Vec<&str> = key.on.iter().map(|part| part.column.as_str()).collect();
    let name = format!("{}_{}", table.name, columns.join("_"));
    let short: String = name.chars().take(55).collect();
    quoted(&format!("{short}_key"))
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
    column: &str,
    ty: &str,
    table: &Table,
    catalogue: &Catalogue,
) -> Option<String> {
    match catalogue.dialect {
        Dialect::Postgres => Some(format!(
            "ALTER TABLE {} ALTER COLUMN {} TYPE {ty};",
            table_name(table, catalogue),
            quoted(column)
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
