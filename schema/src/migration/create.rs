//! The statements that make a table, and what stands in them.

use super::Script;
use crate::catalogue::{
    Catalogue, Check, Column, Dialect, ForeignKey, Identity, Index, Kind, Part, Table, Unique,
};
use crate::ddl::{index_on, quoted, table_name};

pub(super) fn create(table: &Table, catalogue: &Catalogue, script: &mut Script) {
    let name = table_name(table, catalogue);
    match table.kind {
        Kind::Table => {}
        // By what, the catalogue does not tell.
        Kind::Partitioned => {
            return script.push(format!("-- make {name}, which is partitioned"));
        }
        Kind::Partition | Kind::View | Kind::Foreign => {
            return script.push(format!("-- make {name}, which is no plain table"));
        }
    }
    let from = script.lines.len();
    let unknown = table.columns.iter().find(|column| is_unknown(column));
    script.extend(unknown.map(|column| {
        format!(
            "-- make {name} with what its column {} is made of, which is not known here",
            quoted(&column.name)
        )
    }));
    let mut parts: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            format!(
                "    {} {}",
                quoted(&column.name),
                definition(column, catalogue)
            )
        })
        .collect();
    let is_rowid = |index: &Unique| {
        let mut columns = table.columns.iter();
        columns.any(|column| {
            column.identity == Some(Identity::Rowid)
                && index.on.first().and_then(Part::column) == Some(&column.name)
        })
    };
    let primary = table.unique.iter().find(|index| index.primary);
    if let Some(primary) = primary.filter(|primary| !is_rowid(primary)) {
        parts.push(format!(
            "    {}PRIMARY KEY ({}){}",
            constraint(primary, table),
            parts_of(primary),
            deferrable(primary)
        ));
    }
    let of_table = |index: &&Unique| index.primary || is_part_of_table(index);
    for index in table
        .unique
        .iter()
        .filter(|index| !index.primary && of_table(index))
    {
        parts.push(format!("    UNIQUE ({})", parts_of(index)));
    }
    let inline = match catalogue.dialect {
        Dialect::Postgres => false,
        Dialect::Sqlite => true,
    };
    if inline {
        let checks = table.checks.iter();
        parts.extend(checks.map(|check| format!("    CHECK ({})", check.expression)));
        let keys = table.foreign_keys.iter();
        parts.extend(keys.map(|key| format!("    {}", key.definition)));
    }
    script.push(format!(
        "CREATE TABLE {name} (\n{}\n){};",
        parts.join(",\n"),
        options(table, catalogue)
    ));
    for index in table.unique.iter().filter(|index| !of_table(index)) {
        script.push(unique(index, table, catalogue));
    }
    for index in &table.indexes {
        script.push(plain(index, table, catalogue));
    }
    if !inline {
        for check in &table.checks {
            script.push(add_check(&name, check));
        }
        if table.row_security {
            script.push(format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;"));
        }
    }
    for trigger in &table.triggers {
        script.push(format!(
            "-- make the trigger {} of {name}",
            quoted(&trigger.name)
        ));
    }
    if unknown.is_some() {
        script.comment(from);
    }
}

/// What a generated column of SQLite is made of is in the text of the table alone.
pub(super) fn is_unknown(column: &Column) -> bool {
    let generated = column.generated.as_deref();
    generated.is_some_and(|kind| ["stored", "virtual"].contains(&kind))
}

/// `CONSTRAINT "name" `, unless the database gives that name itself.
fn constraint(primary: &Unique, table: &Table) -> String {
    let is_usual = primary.name == format!("{}_pkey", table.name) || is_part_of_table(primary);
    match is_usual {
        true => String::new(),
        false => format!("CONSTRAINT {} ", quoted(&primary.name)),
    }
}

fn deferrable(index: &Unique) -> &'static str {
    match (index.deferrable, index.initially_deferred) {
        (false, _) => "",
        (true, false) => " DEFERRABLE",
        (true, true) => " DEFERRABLE INITIALLY DEFERRED",
    }
}

/// ` WITH (fillfactor=50)`, ` STRICT, WITHOUT ROWID`
pub(super) fn options(table: &Table, catalogue: &Catalogue) -> String {
    if table.options.is_empty() {
        return String::new();
    }
    match catalogue.dialect {
        Dialect::Postgres => format!(" WITH ({})", table.options.join(", ")),
        Dialect::Sqlite => {
            let words = table.options.iter().map(|word| word.replace('_', " "));
            format!(" {}", words.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Whether SQLite made it for a UNIQUE in the definition of the table.
pub(super) fn is_part_of_table(index: &Unique) -> bool {
    index.name.starts_with("sqlite_autoindex_")
}

pub(super) fn parts_of(index: &Unique) -> String {
    let part = |part: &Part| match part {
        Part::Column(column) => quoted(column),
        Part::Collated { column, collation } => {
            format!("{} COLLATE {}", quoted(column), quoted(collation))
        }
        Part::Expression { expression } => expression.clone(),
    };
    index.on.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn on(predicate: Option<&String>) -> String {
    predicate.map_or_else(String::new, |predicate| format!(" WHERE {predicate}"))
}

pub(super) fn unique(index: &Unique, table: &Table, catalogue: &Catalogue) -> String {
    let (name, on_table) = (quoted(&index.name), table_name(table, catalogue));
    let index_on = index_on(&index.name, "", table, catalogue);
    let (parts, predicate) = (parts_of(index), on(index.predicate.as_ref()));
    let nulls = match index.nulls_not_distinct {
        true => " NULLS NOT DISTINCT",
        false => "",
    };
    let deferrable = deferrable(index);
    if index.primary {
        return format!(
            "ALTER TABLE {on_table} ADD CONSTRAINT {name} PRIMARY KEY ({parts}){deferrable};"
        );
    }
    if index.deferrable {
        return format!(
            "ALTER TABLE {on_table} ADD CONSTRAINT {name} UNIQUE{nulls} ({parts}){deferrable};"
        );
    }
    format!("CREATE UNIQUE INDEX {index_on} ({parts}){nulls}{predicate};")
}

pub(super) fn plain(index: &Index, table: &Table, catalogue: &Catalogue) -> String {
    if let Some(exclusion) = &index.exclusion {
        let (on_table, name) = (table_name(table, catalogue), quoted(&index.name));
        return format!("ALTER TABLE {on_table} ADD CONSTRAINT {name} {exclusion};");
    }
    let using = index.method.as_ref();
    let using = using.map_or_else(String::new, |method| format!(" USING {method}"));
    format!(
        "CREATE INDEX {} ({}){};",
        index_on(&index.name, &using, table, catalogue),
        index.on.join(", "),
        on(index.predicate.as_ref())
    )
}

pub(super) fn add_check(table: &str, check: &Check) -> String {
    let (name, expression) = (quoted(&check.name), &check.expression);
    let no_inherit = if check.no_inherit { " NO INHERIT" } else { "" };
    let not_valid = if check.not_valid { " NOT VALID" } else { "" };
    format!(
        "ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({expression}){no_inherit}{not_valid};"
    )
}

pub(super) fn add_key(table: &str, key: &ForeignKey) -> String {
    let (name, definition) = (quoted(&key.name), &key.definition);
    format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition};")
}

/// What stands after the column's name.
pub(super) fn definition(column: &Column, catalogue: &Catalogue) -> String {
    let mut text = column.ty.clone();
    if let Some(collation) = &column.collation {
        text.push_str(&format!(" COLLATE {}", quoted(collation)));
    }
    match (&column.identity, &column.generated) {
        (Some(Identity::Always), _) => text.push_str(" GENERATED ALWAYS AS IDENTITY"),
        (Some(Identity::ByDefault), _) => text.push_str(" GENERATED BY DEFAULT AS IDENTITY"),
        (Some(Identity::Rowid), _) => text.push_str(" PRIMARY KEY"),
        // In a comment.
        (None, Some(kind)) if is_unknown(column) => {
            text.push_str(&format!(" GENERATED ALWAYS AS (…) {kind}"));
        }
        (None, Some(expression)) => {
            text.push_str(&format!(" GENERATED ALWAYS AS ({expression}) STORED"));
        }
        (None, None) => {}
    }
    if !column.null && column.identity.is_none() {
        text.push_str(" NOT NULL");
    }
    if let (Some(default), None) = (&column.default, &column.generated) {
        text.push_str(&match catalogue.dialect {
            Dialect::Sqlite if !is_literal(default) => format!(" DEFAULT ({default})"),
            Dialect::Postgres | Dialect::Sqlite => format!(" DEFAULT {default}"),
        });
    }
    text
}

/// Whether SQLite takes it as a default without parentheses, which it does not keep: `-1`, `'it''s'`, `x'00'`, `CURRENT_TIMESTAMP`.
fn is_literal(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Also one with an exponent that has a sign.
    let is_number = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && unsigned.parse::<f64>().is_ok();
    let is_word = unsigned
        .chars()
        .all(|next| next.is_ascii_alphanumeric() || next == '_');
    let quoted_by = |text: &str, quote: char| {
        let inner = text
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        inner.is_some_and(|inner| {
            !inner
                .replace(&quote.to_string().repeat(2), "")
                .contains(quote)
        })
    };
    let bytes = text.strip_prefix(['x', 'X']).unwrap_or(text);
    is_number || is_word || quoted_by(bytes, '\'') || quoted_by(text, '"')
}
