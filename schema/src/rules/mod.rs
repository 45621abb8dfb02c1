//! The rules: what a model needs, against what the database has. What is not known for sure is no finding.

mod columns;
mod indexes;
mod inserts;
mod keys;
mod privileges;
mod server;
#[cfg(test)]
mod tests;

pub use self::server::{Server, check_server};
use crate::catalogue::{Catalogue, Column, Dialect, Kind, Table};
use crate::ddl::named;
use crate::finding::{Finding, Level, Place, Rule};
use crate::model::{Model, Role};

/// Where a catalogue is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file: the program may run with another `search_path`, and what is a note is not for the compiler.
    File,
    /// The server, on the connection that the program uses.
    Server,
}

/// Everything in which the catalogue does not have what the model needs. Errors first.
pub fn check(catalogue: &Catalogue, model: &Model, source: Source) -> Vec<Finding> {
    if !model.dialects.contains(&catalogue.dialect) {
        return Vec::new();
    }
    let mut findings = match table(catalogue, model, source) {
        Found::Table(table) => {
            let context = Context {
                catalogue,
                model,
                table,
            };
            context.findings(source)
        }
        Found::Nothing(finding) => Vec::from_iter(finding),
    };
    findings.retain(|finding| source == Source::Server || finding.level == Level::Error);
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// The table of a model, as the program finds it on its connection.
pub fn table_of<'a>(catalogue: &'a Catalogue, model: &Model) -> Option<&'a Table> {
    match table(catalogue, model, Source::Server) {
        Found::Table(table) => Some(table),
        Found::Nothing(_) => None,
    }
}

/// A model and its table.
struct Context<'a> {
    catalogue: &'a Catalogue,
    model: &'a Model,
    table: &'a Table,
}

impl Context<'_> {
    fn findings(&self, source: Source) -> Vec<Finding> {
        let mut findings = Vec::new();
        columns::check(self, &mut findings);
        match self.table.kind {
            Kind::Table | Kind::Partitioned | Kind::Partition => {
                keys::check(self, &mut findings);
                inserts::check(self, &mut findings);
                indexes::check(self, &mut findings);
            }
            // Rules and INSTEAD OF triggers write there.
            Kind::View | Kind::Foreign => {}
        }
        if source == Source::Server {
            self.surroundings(&mut findings);
            privileges::check(self, &mut findings);
        }
        findings
    }

    fn column(&self, name: &str) -> Option<&Column> {
        let mut columns = self.table.columns.iter();
        columns.find(|column| self.dialect().same_name(&column.name, name))
    }

    fn dialect(&self) -> Dialect {
        self.catalogue.dialect
    }

    fn shown(&self) -> String {
        self.table.shown(self.catalogue)
    }

    /// What runs beside the writes of the model.
    fn surroundings(&self, findings: &mut Vec<Finding>) {
        for trigger in &self.table.triggers {
            findings.push(Finding {
                rule: Rule::Trigger,
                level: Level::Note,
                place: Place::Table,
                message: format!(
                    "the trigger `{}` of `{}` runs {} {}",
                    trigger.name,
                    self.shown(),
                    if trigger.before { "before" } else { "after" },
                    trigger.on.join(", ")
                ),
                note: Some("what it changes is not in the SQL of the model; columns that it writes are `generated`".into()),
                help: None,
            });
        }
        findings.extend(self.partitions());
        if self.table.row_security {
            findings.push(Finding {
                rule: Rule::RowSecurity,
                level: Level::Note,
                place: Place::Table,
                message: format!(
                    "policies decide which rows of `{}` are seen and written",
                    self.shown()
                ),
                note: Some(
                    "a row that is not seen is `Gone` or not found, and its key can still be taken"
                        .into(),
                ),
                help: None,
            });
        }
    }
}

impl Context<'_> {
    /// Of a row in a partition no INSERT returns a system column (0A000). The server prepares such a statement all the same.
    fn partitions(&self) -> Option<Finding> {
        match self.table.kind {
            Kind::Partitioned => {}
            Kind::Table | Kind::Partition | Kind::View | Kind::Foreign => return None,
        }
        let mut fields = self.model.fields.iter();
        let is_versioned = fields.any(|field| field.role == Role::System);
        let insert = self.model.insert.as_ref();
        let methods = match insert.filter(|_| is_versioned) {
            Some(insert) => format!(
                "`{}`, and an UPDATE that moves a row to another partition,",
                insert.method
            ),
            None if self.tells_what_it_did() => "`update_or_create` and `upsert_if`".to_owned(),
            None => return None,
        };
        Some(Finding {
            note: Some(
                "PostgreSQL does not return the system column by which they are told apart (0A000)"
                    .into(),
            ),
            ..Finding::new(
                Rule::Statement,
                Level::Note,
                Place::Table,
                format!("{methods} fail on `{}`, which is partitioned", self.shown()),
            )
        })
    }

    fn tells_what_it_did(&self) -> bool {
        let mut access = self.model.access.iter();
        access.any(|access| access.method == "update_or_create")
    }
}

enum Found<'a> {
    Table(&'a Table),
    Nothing(Option<Finding>),
}

fn table<'a>(catalogue: &'a Catalogue, model: &Model, source: Source) -> Found<'a> {
    let same = |one: &str, other: &str| catalogue.dialect.same_name(one, other);
    let called = || {
        let tables = catalogue.tables.iter();
        tables.filter(|table| same(&table.name, &model.table))
    };
    let found = match &model.schema {
        Some(schema) => called().find(|table| same(&table.schema, schema)),
        None => {
            let path = catalogue.path().iter();
            let mut in_path =
                path.filter_map(|schema| called().find(|table| table.schema == *schema));
            in_path.next()
        }
    };
    if let Some(found) = found {
        return Found::Table(found);
    }
    let elsewhere: Vec<&Table> = called().collect();
    match (elsewhere.as_slice(), source) {
        // The program has another search path, and which is not known.
        ([one], Source::File) if model.schema.is_none() => return Found::Table(one),
        ([_, ..], Source::File) if model.schema.is_none() => return Found::Nothing(None),
        _ => {}
    }
    let (note, help) = match elsewhere.first() {
        Some(other) => (
            format!(
                "there is `{}.{}`, and the search path is {}",
                other.schema,
                other.name,
                catalogue.path().join(", ")
            ),
            Some(format!(
                "write `table = \"{}.{}\"`",
                other.schema, other.name
            )),
        ),
        None => (near(catalogue, model), None),
    };
    Found::Nothing(Some(Finding {
        rule: Rule::Table,
        level: Level::Error,
        place: Place::Table,
        message: format!("the database has no table `{}`", named(model)),
        note: Some(note),
        help,
    }))
}

/// The table that was probably meant, or what there is.
fn near(catalogue: &Catalogue, model: &Model) -> String {
    let shown: Vec<String> = catalogue
        .tables
        .iter()
        .map(|table| table.shown(catalogue))
        .collect();
    let singular = |name: &str| name.trim_end_matches('s').to_lowercase();
    let meant = shown
        .iter()
        .find(|name| singular(name) == singular(&model.table));
    match meant {
        Some(meant) => format!("there is `{meant}`"),
        None if shown.is_empty() => "it has no tables at all".to_owned(),
        None => format!("there are {}", listed(&shown)),
    }
}

/// `` `a`, `b` and `c` ``, and not too many.
fn listed(names: &[String]) -> String {
    const MOST: usize = 8;
    let mut quoted: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| format!("`{name}`"))
        .collect();
    if names.len() > MOST {
        quoted.push(format!("{} more", names.len() - MOST));
    }
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
