//! The statements that make another table of one that is there.

use super::create::{
    add_check, definition, is_part_of_table, is_unknown, options, parts_of, plain, unique,
};
use super::types::{make_sequence, sequence};
use super::{Script, gone};
use crate::catalogue::{Catalogue, Column, Dialect, Identity, Kind, Table, Unique};
use crate::ddl::{drop_not_null, quoted, set_not_null, set_type, table_name};
use crate::expression::words;
use crate::family::Family;

/// A table that is another now.
pub(super) struct Change<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) before: &'a Table,
    pub(super) table: &'a Table,
}

impl Change<'_> {
    fn name(&self) -> String {
        table_name(self.table, self.catalogue)
    }

    pub(super) fn lines(&self, script: &mut Script) {
        let from = script.lines.len();
        if self.before.kind != self.table.kind {
            let name = self.name();
            return script.push(format!("-- make {name} anew: it is another kind of table"));
        }
        match (self.table.kind, self.catalogue.dialect) {
            (Kind::View, _) | (Kind::Foreign, Dialect::Sqlite) => {
                return script.push(format!("-- make {} anew", self.name()));
            }
            _ => {}
        }
        script.is_anew = false;
        self.on_columns(script);
        self.columns(script);
        self.on_columns_again(script);
        self.surroundings(script);
        if script.is_anew {
            script.comment(from);
        }
    }

    /// What is on a column goes before it.
    fn on_columns(&self, script: &mut Script) {
        let (before, table) = (self.before, self.table);
        for index in gone(&before.unique, &table.unique) {
            self.drop_unique(index, script);
        }
        for index in gone(&before.indexes, &table.indexes) {
            match index.exclusion {
                Some(_) => self.drop_constraint(&index.name, "", script),
                None => script.push(format!("DROP INDEX {};", self.beside(&index.name))),
            }
        }
        for check in gone(&before.checks, &table.checks) {
            self.drop_constraint(&check.name, &check.expression, script);
        }
    }

    fn columns(&self, script: &mut Script) {
        let (name, before, table) = (self.name(), self.before, self.table);
        let same = |columns: &'_ [Column], column: &Column| {
            columns.iter().any(|other| other.name == column.name)
        };
        let dropped = before.columns.iter();
        let dropped: Vec<&Column> = dropped
            .filter(|column| !same(&table.columns, column))
            .collect();
        let is_made = |column: &&&Column| column.generated.is_some();
        let drop =
            |column: &Column| format!("ALTER TABLE {name} DROP COLUMN {};", quoted(&column.name));
        // Made of others, which cannot be changed while it is there.
        script.extend(dropped.iter().filter(is_made).map(|column| drop(column)));
        self.drop_expressions(script);
        for column in &table.columns {
            match before
                .columns
                .iter()
                .find(|other| other.name == column.name)
            {
                Some(other) if other == column => {}
                Some(other) => self.alter(other, column, script),
                None if is_unknown(column) || self.is_primary(table, column) => {
                    self.anew(&self.whole(column), script);
                }
                None => {
                    let whole = self.whole(column);
                    script.push(format!("ALTER TABLE {name} ADD COLUMN {whole};"));
                }
            }
        }
        for column in dropped.iter().filter(|column| !is_made(column)) {
            match self.is_primary(before, column) {
                true => self.anew(&format!("no {}", quoted(&column.name)), script),
                false => script.push(drop(column)),
            }
        }
    }

    /// The values stay.
    fn drop_expressions(&self, script: &mut Script) {
        match self.catalogue.dialect {
            Dialect::Postgres => {}
            Dialect::Sqlite => return,
        }
        let plain = self.table.columns.iter();
        for column in plain.filter(|column| column.generated.is_none()) {
            let mut before = self.before.columns.iter();
            let was_made =
                before.any(|before| before.name == column.name && before.generated.is_some());
            if was_made {
                let (name, column) = (self.name(), quoted(&column.name));
                script.push(format!(
                    "ALTER TABLE {name} ALTER COLUMN {column} DROP EXPRESSION;"
                ));
            }
        }
    }

    /// SQLite adds and drops no column of a primary key.
    fn is_primary(&self, table: &Table, column: &Column) -> bool {
        match self.catalogue.dialect {
            Dialect::Postgres => return false,
            Dialect::Sqlite => {}
        }
        let mut primary = table.unique.iter().filter(|index| index.primary);
        primary.any(|index| {
            index
                .on
                .iter()
                .any(|part| part.column() == Some(&column.name))
        })
    }

    /// And it comes after them.
    fn on_columns_again(&self, script: &mut Script) {
        let (name, before, table) = (self.name(), self.before, self.table);
        for index in gone(&table.unique, &before.unique) {
            match is_part_of_table(index) || index.name == "rowid" {
                true => self.anew(&format!("UNIQUE ({})", parts_of(index)), script),
                false => script.push(unique(index, table, self.catalogue)),
            }
        }
        for index in gone(&table.indexes, &before.indexes) {
            script.push(plain(index, table, self.catalogue));
        }
        for check in gone(&table.checks, &before.checks) {
            match self.catalogue.dialect {
                Dialect::Postgres => script.push(add_check(&name, check)),
                Dialect::Sqlite => self.anew(&format!("CHECK ({})", check.expression), script),
            }
        }
        match self.catalogue.dialect {
            // Those of all tables: see `foreign_keys`.
            Dialect::Postgres => {}
            Dialect::Sqlite => {
                for key in gone(&before.foreign_keys, &table.foreign_keys) {
                    self.anew(&format!("no {}", key.definition), script);
                }
                for key in gone(&table.foreign_keys, &before.foreign_keys) {
                    self.anew(&key.definition, script);
                }
            }
        }
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
                let options = options(table, self.catalogue);
                self.anew(
                    if options.is_empty() {
                        "no options"
                    } else {
                        &options
                    },
                    script,
                );
            }
            Dialect::Sqlite => {}
        }
    }

    fn whole(&self, column: &Column) -> String {
        let definition = definition(column, self.catalogue);
        format!("{} {definition}", quoted(&column.name))
    }

    /// A column that is another now.
    fn alter(&self, before: &Column, column: &Column, script: &mut Script) {
        let (table, catalogue) = (self.table, self.catalogue);
        let alter = format!(
            "ALTER TABLE {} ALTER COLUMN {}",
            self.name(),
            quoted(&column.name)
        );
        let whole = self.whole(column);
        match catalogue.dialect {
            Dialect::Postgres => {}
            Dialect::Sqlite => return self.anew(&whole, script),
        }
        let is_other_type = before.ty != column.ty || before.collation != column.collation;
        let is_made = column.generated.is_some() && before.generated != column.generated;
        if is_made || is_other_type && self.is_read(column) {
            return script.push(format!("-- change the column of {}: {whole}", self.name()));
        }
        let is_other_default = before.default != column.default;
        if is_other_type {
            // It may have no cast to the new type.
            if is_other_default && before.default.is_some() {
                script.push(format!("{alter} DROP DEFAULT;"));
            }
            let collation = column.collation.as_ref();
            let collation =
                collation.map_or_else(String::new, |name| format!(" COLLATE {}", quoted(name)));
            let to = (
                &*format!("{}{collation}", column.ty),
                Family::of_postgres(column),
            );
            script.extend(set_type(before, to, table, catalogue));
        }
        if before.identity.is_some() && before.identity != column.identity {
            script.push(format!("{alter} DROP IDENTITY;"));
            // Its own, which goes with it, can have the name of the one of the default.
            script.extend(sequence(column).map(|name| make_sequence(&name)));
        }
        match &column.default {
            Some(default) if is_other_default => {
                script.push(format!("{alter} SET DEFAULT {default};"));
            }
            None if is_other_default && !is_other_type => {
                script.push(format!("{alter} DROP DEFAULT;"));
            }
            Some(_) | None => {}
        }
        // Of a domain it was said by the type.
        let was_said = is_other_type && before.domain_of.is_some();
        match (before.null || was_said, column.null) {
            (true, false) => script.extend(set_not_null(&column.name, table, catalogue)),
            (false, true) => script.extend(drop_not_null(&column.name, table, catalogue)),
            _ => {}
        }
        if before.identity != column.identity {
            let added = column.identity.map(|identity| match identity {
                Identity::Always => "ALWAYS",
                Identity::ByDefault | Identity::Rowid => "BY DEFAULT",
            });
            script.extend(added.map(|when| format!("{alter} ADD GENERATED {when} AS IDENTITY;")));
        }
    }

    /// Whether a generated column that stays one is made of this one.
    fn is_read(&self, column: &Column) -> bool {
        let stays = |before: &&Column| {
            let mut columns = self.table.columns.iter();
            columns.any(|after| after.name == before.name && after.generated.is_some())
        };
        let made = self.before.columns.iter().filter(stays);
        let mut expressions = made.filter_map(|before| before.generated.as_deref());
        expressions.any(|expression| words(expression).contains(&column.name))
    }

    fn drop_unique(&self, index: &Unique, script: &mut Script) {
        if is_part_of_table(index) || index.name == "rowid" {
            return self.anew(&format!("no UNIQUE ({})", parts_of(index)), script);
        }
        if index.primary || index.deferrable {
            return self.drop_constraint(&index.name, "", script);
        }
        let name = self.beside(&index.name);
        match self.catalogue.dialect {
            // The catalogue does not tell the index of a constraint, which goes with that, from others.
            Dialect::Postgres => script.extend([
                format!(
                    "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {};",
                    self.name(),
                    quoted(&index.name)
                ),
                format!("DROP INDEX IF EXISTS {name};"),
            ]),
            Dialect::Sqlite => script.push(format!("DROP INDEX {name};")),
        }
    }

    fn drop_constraint(&self, name: &str, text: &str, script: &mut Script) {
        match self.catalogue.dialect {
            Dialect::Postgres => script.push(format!(
                "ALTER TABLE {} DROP CONSTRAINT {};",
                self.name(),
                quoted(name)
            )),
            Dialect::Sqlite => self.anew(&format!("no {text}"), script),
        }
    }

    /// The name of an index, in the schema of the table.
    fn beside(&self, name: &str) -> String {
        match self.catalogue.search_path.first() == Some(&self.table.schema) {
            true => quoted(name),
            false => format!("{}.{}", quoted(&self.table.schema), quoted(name)),
        }
    }

    /// SQLite changes few things of a table that is there. Where it is made anew, all that differs comes with it.
    fn anew(&self, with: &str, script: &mut Script) {
        script.push(format!(
            "-- make {} anew, with {}",
            self.name(),
            with.trim()
        ));
        script.is_anew = true;
    }
}
