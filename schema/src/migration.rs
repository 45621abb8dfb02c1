//! What a migration would have to do: SQL to read and to change, which nobody runs here.

use crate::catalogue::{
    Catalogue, Check, Column, Dialect, ForeignKey, Identity, Index, Kind, Part, Table, Unique,
};
use crate::ddl::{drop_not_null, index_on, quoted, set_not_null, set_type, table_name};
use crate::family::Family;

/// The statements from `old` to `new`, and comments where there is none. Empty if nothing differs that a migration can do.
///
/// They are a draft: a column that was renamed is dropped and added, and rows that are there may need a value first.
pub fn diff(old: &Catalogue, new: &Catalogue) -> String {
    let mut script = Script::default();
    if old.dialect.name() != new.dialect.name() {
        return format!("-- from {} to {}\n", old.dialect.name(), new.dialect.name());
    }
    let same = |one: &Table, other: &Table| one.schema == other.schema && one.name == other.name;
    for table in &new.tables {
        match old.tables.iter().find(|before| same(before, table)) {
            Some(before) if before == table => {}
            Some(before) => Change {
                catalogue: new,
                before,
                table,
            }
            .lines(&mut script),
            None => create(table, new, &mut script),
        }
    }
    for table in &old.tables {
        if !new.tables.iter().any(|after| same(after, table)) {
            let kind = match table.kind {
                Kind::View => "VIEW",
                Kind::Foreign => "FOREIGN TABLE",
                Kind::Table | Kind::Partitioned | Kind::Partition => "TABLE",
            };
            script.push(format!("DROP {kind} {};", table_name(table, old)));
        }
    }
    let lines = script.lines.iter().chain(&script.last);
    lines.map(|line| format!("{line}\n")).collect()
}

/// The statements, as they are found.
#[derive(Default)]
struct Script {
    lines: Vec<String>,
    /// What refers to other tables, which may be made after this one.
    last: Vec<String>,
}

impl Script {
    fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    fn extend(&mut self, lines: impl IntoIterator<Item = String>) {
        self.lines.extend(lines);
    }
}

fn create(table: &Table, catalogue: &Catalogue, script: &mut Script) {
    let name = table_name(table, catalogue);
    match table.kind {
        Kind::Table | Kind::Partitioned => {}
        Kind::Partition | Kind::View | Kind::Foreign => {
            return script.push(format!("-- make {name}, which is no plain table"));
        }
    }
    let mut parts: Vec<String> = table
        .columns
        .iter()
        .map(|column| format!("    {} {}", quoted(&column.name), definition(column)))
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
        parts.push(format!("    PRIMARY KEY ({})", parts_of(primary)));
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
        for key in &table.foreign_keys {
            script.last.push(add_key(&name, key));
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
}

/// ` WITH (fillfactor=50)`, ` STRICT, WITHOUT ROWID`
fn options(table: &Table, catalogue: &Catalogue) -> String {
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
fn is_part_of_table(index: &Unique) -> bool {
    index.name.starts_with("sqlite_autoindex_")
}

fn parts_of(index: &Unique) -> String {
    let part = |part: &Part| match part {
        Part::Column(column) => quoted(column),
        Part::Collated { column, collation } => format!("{} COLLATE {collation}", quoted(column)),
        Part::Expression { expression } => expression.clone(),
    };
    index.on.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn on(predicate: Option<&String>) -> String {
    predicate.map_or_else(String::new, |predicate| format!(" WHERE {predicate}"))
}

fn unique(index: &Unique, table: &Table, catalogue: &Catalogue) -> String {
    let (name, on_table) = (quoted(&index.name), table_name(table, catalogue));
    let index_on = index_on(&index.name, "", table, catalogue);
    let (parts, predicate) = (parts_of(index), on(index.predicate.as_ref()));
    let nulls = match index.nulls_not_distinct {
        true => " NULLS NOT DISTINCT",
        false => "",
    };
    if index.primary {
        return format!("ALTER TABLE {on_table} ADD CONSTRAINT {name} PRIMARY KEY ({parts});");
    }
    if index.deferrable {
        return format!(
            "ALTER TABLE {on_table} ADD CONSTRAINT {name} UNIQUE{nulls} ({parts}) DEFERRABLE;"
        );
    }
    format!("CREATE UNIQUE INDEX {index_on} ({parts}){nulls}{predicate};")
}

fn plain(index: &Index, table: &Table, catalogue: &Catalogue) -> String {
    let using = index.method.as_ref();
    let using = using.map_or_else(String::new, |method| format!(" USING {method}"));
    format!(
        "CREATE INDEX {} ({}){};",
        index_on(&index.name, &using, table, catalogue),
        index.on.join(", "),
        on(index.predicate.as_ref())
    )
}

fn add_check(table: &str, check: &Check) -> String {
    let (name, expression) = (quoted(&check.name), &check.expression);
    let no_inherit = if check.no_inherit { " NO INHERIT" } else { "" };
    let not_valid = if check.not_valid { " NOT VALID" } else { "" };
    format!(
        "ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({expression}){no_inherit}{not_valid};"
    )
}

fn add_key(table: &str, key: &ForeignKey) -> String {
    let (name, definition) = (quoted(&key.name), &key.definition);
    format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition};")
}

/// What stands after the column's name.
fn definition(column: &Column) -> String {
    let mut text = column.ty.clone();
    if let Some(collation) = &column.collation {
        text.push_str(&format!(" COLLATE {collation}"));
    }
    match (&column.identity, &column.generated) {
        (Some(Identity::Always), _) => text.push_str(" GENERATED ALWAYS AS IDENTITY"),
        (Some(Identity::ByDefault), _) => text.push_str(" GENERATED BY DEFAULT AS IDENTITY"),
        (Some(Identity::Rowid), _) => text.push_str(" PRIMARY KEY"),
        (None, Some(expression)) => match expression.as_str() {
            // Its expression is in the text of the table alone.
            "stored" | "virtual" => {
                text.push_str(&format!(" GENERATED ALWAYS AS (…) {expression}"))
            }
            _ => text.push_str(&format!(" GENERATED ALWAYS AS ({expression}) STORED")),
        },
        (None, None) => {}
    }
    if !column.null && column.identity.is_none() {
        text.push_str(" NOT NULL");
    }
    if let (Some(default), None) = (&column.default, &column.generated) {
        text.push_str(&format!(" DEFAULT {default}"));
    }
    text
}

/// A table that is another now.
struct Change<'a> {
    catalogue: &'a Catalogue,
    before: &'a Table,
    table: &'a Table,
}

impl Change<'_> {
    fn name(&self) -> String {
        table_name(self.table, self.catalogue)
    }

    fn lines(&self, script: &mut Script) {
        let (name, before, table) = (self.name(), self.before, self.table);
        if before.kind != table.kind {
            script.push(format!("-- make {name} anew: it is another kind of table"));
        }
        // What is on a column goes before it, and comes after it.
        for index in gone(&before.unique, &table.unique) {
            script.push(self.drop_unique(index));
        }
        for index in gone(&before.indexes, &table.indexes) {
            script.push(format!("DROP INDEX {};", self.beside(&index.name)));
        }
        for check in gone(&before.checks, &table.checks) {
            script.push(self.drop_constraint(&check.name, &check.expression));
        }
        for key in gone(&before.foreign_keys, &table.foreign_keys) {
            script.push(self.drop_constraint(&key.name, &key.definition));
        }
        for column in &table.columns {
            match before
                .columns
                .iter()
                .find(|other| other.name == column.name)
            {
                Some(other) if other == column => {}
                Some(other) => self.alter(other, column, script),
                None => {
                    let definition = definition(column);
                    let column = quoted(&column.name);
                    script.push(format!(
                        "ALTER TABLE {name} ADD COLUMN {column} {definition};"
                    ));
                }
            }
        }
        for column in &before.columns {
            if !table.columns.iter().any(|other| other.name == column.name) {
                script.push(format!(
                    "ALTER TABLE {name} DROP COLUMN {};",
                    quoted(&column.name)
                ));
            }
        }
        for index in gone(&table.unique, &before.unique) {
            script.push(match is_part_of_table(index) || index.name == "rowid" {
                true => self.anew(&format!("UNIQUE ({})", parts_of(index))),
                false => unique(index, table, self.catalogue),
            });
        }
        for index in gone(&table.indexes, &before.indexes) {
            script.push(plain(index, table, self.catalogue));
        }
        for check in gone(&table.checks, &before.checks) {
            script.push(match self.catalogue.dialect {
                Dialect::Postgres => add_check(&name, check),
                Dialect::Sqlite => self.anew(&format!("CHECK ({})", check.expression)),
            });
        }
        for key in gone(&table.foreign_keys, &before.foreign_keys) {
            script.last.push(match self.catalogue.dialect {
                Dialect::Postgres => add_key(&name, key),
                Dialect::Sqlite => self.anew(&key.definition),
            });
        }
        self.surroundings(script);
    }

    fn surroundings(&self, script: &mut Script) {
        let (name, before, table) = (self.name(), self.before, self.table);
        for trigger in gone(&before.triggers, &table.triggers) {
            script.push(format!(
                "-- drop the trigger {} of {name}",
                quoted(&trigger.name)
            ));
        }
        for trigger in gone(&table.triggers, &before.triggers) {
            script.push(format!(
                "-- make the trigger {} of {name}",
                quoted(&trigger.name)
            ));
        }
        match (before.row_security, table.row_security) {
            (false, true) => script.push(format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;")),
            (true, false) => script.push(format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY;")),
            _ => {}
        }
        let set = gone(&table.options, &before.options);
        let set: Vec<String> = set.cloned().collect();
        let reset = before
            .options
            .iter()
            .filter_map(|option| option.split('=').next());
        let reset =
            reset.filter(|name| !table.options.iter().any(|option| option.starts_with(name)));
        let reset: Vec<&str> = reset.collect();
        match self.catalogue.dialect {
            Dialect::Postgres => {
                if !set.is_empty() {
                    script.push(format!("ALTER TABLE {name} SET ({});", set.join(", ")));
                }
                if !reset.is_empty() {
                    script.push(format!("ALTER TABLE {name} RESET ({});", reset.join(", ")));
                }
            }
            Dialect::Sqlite if before.options != table.options => {
                script.push(self.anew(&options(table, self.catalogue)));
            }
            Dialect::Sqlite => {}
        }
    }

    /// A column that is another now.
    fn alter(&self, before: &Column, column: &Column, script: &mut Script) {
        let (table, catalogue) = (self.table, self.catalogue);
        let name = quoted(&column.name);
        let alter = format!("ALTER TABLE {} ALTER COLUMN {name}", self.name());
        let whole = format!("{name} {}", definition(column));
        match catalogue.dialect {
            Dialect::Postgres => {}
            Dialect::Sqlite => return script.push(self.anew(&whole)),
        }
        let made = |column: &Column| (column.generated.clone(), column.identity);
        if made(before) != made(column) || before.collation != column.collation {
            return script.push(format!("-- change the column of {}: {whole}", self.name()));
        }
        if before.ty != column.ty {
            let to = (column.ty.as_str(), Family::of_postgres(column));
            script.extend(set_type(before, to, table, catalogue));
        } else if before.values != column.values {
            let added = gone(&column.values, &before.values);
            script.extend(added.map(|value| {
                format!(
                    "ALTER TYPE {} ADD VALUE '{}';",
                    column.ty,
                    value.replace('\'', "''")
                )
            }));
            let dropped = gone(&before.values, &column.values);
            script.extend(
                dropped
                    .map(|value| format!("-- make the type {} anew, without {value}", column.ty)),
            );
        }
        if before.default != column.default {
            script.push(match &column.default {
                Some(default) => format!("{alter} SET DEFAULT {default};"),
                None => format!("{alter} DROP DEFAULT;"),
            });
        }
        match (before.null, column.null) {
            (true, false) => script.extend(set_not_null(&column.name, table, catalogue)),
            (false, true) => script.extend(drop_not_null(&column.name, table, catalogue)),
            _ => {}
        }
    }

    fn drop_unique(&self, index: &Unique) -> String {
        let name = self.beside(&index.name);
        if is_part_of_table(index) || index.name == "rowid" {
            return self.anew(&format!("no UNIQUE ({})", parts_of(index)));
        }
        if index.primary || index.deferrable {
            return self.drop_constraint(&index.name, "");
        }
        match self.catalogue.dialect {
            // The catalogue does not tell one from the other.
            Dialect::Postgres => format!(
                "DROP INDEX {name}; -- or, of a constraint: ALTER TABLE {} DROP CONSTRAINT {};",
                self.name(),
                quoted(&index.name)
            ),
            Dialect::Sqlite => format!("DROP INDEX {name};"),
        }
    }

    fn drop_constraint(&self, name: &str, text: &str) -> String {
        match self.catalogue.dialect {
            Dialect::Postgres => format!(
                "ALTER TABLE {} DROP CONSTRAINT {};",
                self.name(),
                quoted(name)
            ),
            Dialect::Sqlite => self.anew(&format!("no {text}")),
        }
    }

    /// The name of an index, in the schema of the table.
    fn beside(&self, name: &str) -> String {
        match self.catalogue.search_path.first() == Some(&self.table.schema) {
            true => quoted(name),
            false => format!("{}.{}", quoted(&self.table.schema), quoted(name)),
        }
    }

    /// SQLite changes few things of a table that is there.
    fn anew(&self, with: &str) -> String {
        format!("-- make {} anew, with {}", self.name(), with.trim())
    }
}

/// What is in `these` and not in `those`.
fn gone<'a, T: PartialEq>(these: &'a [T], those: &'a [T]) -> impl Iterator<Item = &'a T> {
    these.iter().filter(|item| !those.contains(item))
}
