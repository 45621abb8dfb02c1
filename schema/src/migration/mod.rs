//! What a migration would have to do: SQL to read and to change, which nobody runs here.

mod change;
mod create;
mod types;

use self::change::Change;
use self::create::{add_key, create};
use crate::catalogue::{Catalogue, Dialect, ForeignKey, Kind, Table};
use crate::ddl::{quoted, table_name};

/// The statements from `old` to `new`, and comments where there is none. Empty if nothing differs that a migration can do.
///
/// They are a draft: a column that was renamed is dropped and added, and rows that are there may need a value first.
pub fn diff(old: &Catalogue, new: &Catalogue) -> String {
    let mut script = Script::default();
    if old.dialect.name() != new.dialect.name() {
        return format!("-- from {} to {}\n", old.dialect.name(), new.dialect.name());
    }
    let dropped = old.tables.iter();
    let dropped: Vec<&Table> = dropped.filter(|table| same(new, table).is_none()).collect();
    // What a view reads cannot be changed while it is there.
    for view in dropped.iter().filter(|table| table.kind == Kind::View) {
        let drop = format!("DROP VIEW {};", table_name(view, old));
        script.first.push(drop);
    }
    types::made(old, new, &mut script);
    foreign_keys(old, new, &mut script);
    for table in &new.tables {
        match same(old, table) {
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
    let tables = dropped.into_iter();
    for table in referring_first(tables.filter(|table| table.kind != Kind::View).collect()) {
        let kind = match (table.kind, old.dialect) {
            (Kind::Foreign, Dialect::Postgres) => "FOREIGN TABLE",
            _ => "TABLE",
        };
        script.push(format!("DROP {kind} {};", table_name(table, old)));
    }
    let lines = script.first.iter().chain(&script.lines).chain(&script.last);
    lines.map(|line| format!("{line}\n")).collect()
}

/// The table of this name in another catalogue.
fn same<'a>(catalogue: &'a Catalogue, table: &Table) -> Option<&'a Table> {
    let mut tables = catalogue.tables.iter();
    tables.find(|other| other.schema == table.schema && other.name == table.name)
}

/// The statements, as they are found.
#[derive(Default)]
struct Script {
    /// What others need, or is in their way: types, views and foreign keys that go.
    first: Vec<String>,
    lines: Vec<String>,
    /// What refers to other tables, which may be made after this one.
    last: Vec<String>,
    /// SQLite cannot make the table of the last lines what it is to be.
    is_anew: bool,
}

impl Script {
    fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    fn extend(&mut self, lines: impl IntoIterator<Item = String>) {
        self.lines.extend(lines);
    }

    /// Makes comments of the lines from this one on.
    fn comment(&mut self, from: usize) {
        for line in self.lines.iter_mut().skip(from) {
            if !line.starts_with("--") {
                *line = format!("-- {}", line.replace('\n', "\n-- "));
            }
        }
    }
}

/// Those of SQLite are in the definition of the table. Of others each goes before the key that it needs, and comes after it, whichever table has that.
fn foreign_keys(old: &Catalogue, new: &Catalogue, script: &mut Script) {
    match new.dialect {
        Dialect::Postgres => {}
        Dialect::Sqlite => return,
    }
    for before in &old.tables {
        let after = same(new, before);
        // One of another kind is made anew.
        let after = after.filter(|after| after.kind == before.kind);
        let name = table_name(before, old);
        for key in &before.foreign_keys {
            let stays = after.is_some_and(|after| after.foreign_keys.contains(key));
            if stays && !loses_its_index(key, old, new) {
                continue;
            }
            let drop = format!("ALTER TABLE {name} DROP CONSTRAINT {};", quoted(&key.name));
            script.first.push(drop);
            if stays {
                script.last.push(add_key(&name, key));
            }
        }
    }
    for table in &new.tables {
        let before = same(old, table);
        if before.map_or(Kind::Table, |before| before.kind) != table.kind {
            continue;
        }
        let were = before.map_or(&[][..], |before| &before.foreign_keys);
        let name = table_name(table, new);
        let come = gone(&table.foreign_keys, were);
        script.last.extend(come.map(|key| add_key(&name, key)));
    }
}

/// Whether a unique index of the table that it refers to is dropped: perhaps the one that it needs.
fn loses_its_index(key: &ForeignKey, old: &Catalogue, new: &Catalogue) -> bool {
    let mut tables = old.tables.iter().filter(|table| refers_to(key, table));
    tables.any(|table| {
        same(new, table).is_some_and(|after| gone(&table.unique, &after.unique).next().is_some())
    })
}

/// By the text of the definition: `… REFERENCES app."Tags"(id)`.
fn refers_to(key: &ForeignKey, table: &Table) -> bool {
    let bare = |text: &str| text.replace('"', "");
    let Some((_, target)) = key.definition.split_once(" REFERENCES ") else {
        return false;
    };
    let target = bare(target);
    [
        bare(&table.name),
        bare(&format!("{}.{}", table.schema, table.name)),
    ]
    .iter()
    .filter_map(|name| target.strip_prefix(name))
    .any(|rest| rest.starts_with(['(', ' ']))
}

/// SQLite deletes the rows of a table that it drops, and refuses that while others refer to them.
fn referring_first(mut tables: Vec<&Table>) -> Vec<&Table> {
    let mut ordered = Vec::new();
    while !tables.is_empty() {
        let is_free = |table: &&Table| {
            let others = tables.iter().filter(|other| other.name != table.name);
            let mut keys = others.flat_map(|other| &other.foreign_keys);
            !keys.any(|key| refers_to(key, table))
        };
        let at = tables.iter().position(is_free).unwrap_or(0);
        ordered.push(tables.remove(at));
    }
    ordered
}

/// What is in `these` and not in `those`.
fn gone<'a, T: PartialEq>(these: &'a [T], those: &'a [T]) -> impl Iterator<Item = &'a T> {
    these.iter().filter(|item| !those.contains(item))
}
