//! `#[rowlock(...)]` and the `#[sqlx(...)]` options that change a column's name, as written, with spans.
//!
//! Nothing here returns a `Result`: a mistake is recorded and reading goes on after the next comma, so that one
//! compile shows all of them and a half-typed option does not break the editor.

mod key;
mod list;
mod value;

use std::collections::BTreeSet;

use syn::{Attribute, Ident, LitStr, Path};

pub(crate) use self::key::KeyAttr;
use self::list::{Opt, OptValue, all_options};
pub(crate) use self::value::Value;
use crate::diag::{Diag, did_you_mean, suggest};
use crate::options::{FieldOption, Spec, StructOption};
use crate::sql::Dialect;

/// `#[rowlock(...)]` above the struct.
#[derive(Default)]
pub(crate) struct StructAttrs {
    pub table: Option<LitStr>,
    pub unique: Vec<UniqueAttr>,
    pub new: Option<Ident>,
    pub new_derives: Option<Vec<Path>>,
    pub backends: Option<Vec<Dialect>>,
    pub krate: Option<Path>,
    pub existing_rows: bool,
    pub fold_off: bool,
    pub deletes_done: bool,
    pub pauses: Option<LitStr>,
    pub schema: SchemaAttr,
    pub attempted: Vec<&'static str>,
}

/// Which file has the catalogue of the table's database.
#[derive(Default)]
pub(crate) enum SchemaAttr {
    /// The usual one, if it is there.
    #[default]
    Usual,
    Off,
    Named(LitStr),
}

/// `unique(a, b)` above the struct.
pub(crate) struct UniqueAttr {
    pub option: Ident,
    pub key: KeyAttr,
}

/// `#[rowlock(...)]` on a field.
#[derive(Default)]
pub(crate) struct FieldAttrs {
    /// In the order of the table.
    given: Vec<Given>,
    /// What was given, or probably meant, however malformed or misplaced: it is not also reported as missing.
    pub attempted: Vec<&'static str>,
}

/// An option on a field.
pub(crate) struct Given {
    pub option: FieldOption,
    /// The option as it stands there.
    pub name: Ident,
    pub value: Value,
}

/// What sqlx's own derive is told about a field.
#[derive(Default)]
pub(crate) struct SqlxAttrs {
    pub rename: Option<LitStr>,
    pub skip: bool,
    pub json: Option<Ident>,
    pub json_nullable: bool,
    pub try_from: Option<Ident>,
    pub flatten: Option<Ident>,
    /// Which is about a struct, and means nothing here.
    pub rename_all: Option<(Ident, Option<LitStr>)>,
}

/// Whether an option is given for the first time; if not, that is reported.
fn once(given: bool, name: &Ident, diag: &Diag) -> bool {
    if given {
        diag.error(
            name,
            format_args!("option `{name}` is given twice\nhelp: keep one of them"),
        );
    }
    !given
}

impl StructAttrs {
    pub(crate) fn read(attrs: &[Attribute], diag: &Diag) -> Self {
        let mut found = Self::default();
        let mut given = BTreeSet::new();
        for written in all_options(attrs, "rowlock", diag) {
            let name = &written.name;
            let Some(option) = StructOption::named(&name.to_string()) else {
                let elsewhere = FieldOption::named(&name.to_string());
                let elsewhere = elsewhere.map(|option| (option.spec(), "on a field"));
                let meant = unknown(name, "struct", &StructOption::names(), elsewhere, diag);
                found.attempted.extend(meant);
                continue;
            };
            found.attempted.push(option.name());
            let value = Value::read(option.spec(), &written, diag);
            // `new = "..."` and `new(derive(...))` say different things.
            let part = matches!(written.value, OptValue::List(_));
            let again = option != StructOption::Unique && given.contains(&(option, part));
            let Some(value) = value.filter(|_| once(again, name, diag)) else {
                continue;
            };
            given.insert((option, part));
            match (option, value) {
                (StructOption::Table, Value::Text(table)) => found.table = Some(table),
                (StructOption::Unique, Value::Key(key)) => found.unique.push(UniqueAttr {
                    option: name.clone(),
                    key,
                }),
                (StructOption::New, Value::Name(new)) => found.new = Some(new),
                (StructOption::New, Value::Derives(derives)) => found.new_derives = Some(derives),
                (StructOption::Backend, Value::Backends(names)) => found.backends = Some(names),
                (StructOption::Crate, Value::Path(path)) => found.krate = Some(path),
                (StructOption::ExistingRows, _) => found.existing_rows = true,
                (StructOption::Done, _) => found.deletes_done = true,
                (StructOption::Fold, _) => found.fold_off = true,
                (StructOption::Pauses, Value::Text(pauses)) => found.pauses = Some(pauses),
                (StructOption::Schema, Value::Text(file)) => {
                    found.schema = SchemaAttr::Named(file);
                }
                (StructOption::Schema, _) => found.schema = SchemaAttr::Off,
                // The table gives the others no other value.
                _ => {}
            }
        }
        found
    }
}

impl FieldAttrs {
    pub(crate) fn read(attrs: &[Attribute], diag: &Diag) -> Self {
        let mut found = Self::default();
        for written in all_options(attrs, "rowlock", diag) {
            let name = &written.name;
            let Some(option) = FieldOption::named(&name.to_string()) else {
                let elsewhere = StructOption::named(&name.to_string());
                let elsewhere = elsewhere.map(|option| (option.spec(), "above the struct"));
                let meant = unknown(name, "field", &FieldOption::names(), elsewhere, diag);
                found.attempted.extend(meant);
                continue;
            };
            found.attempted.push(option.name());
            let value = match &written.value {
                OptValue::List(_) if option == FieldOption::Unique => {
                    unique_above(&written, diag);
                    Some(Value::Nothing)
                }
                _ => Value::read(option.spec(), &written, diag),
            };
            if once(found.has(option), name, diag) {
                found.given.push(Given {
                    option,
                    name: name.clone(),
                    value: value.unwrap_or(Value::Nothing),
                });
            }
        }
        found.given.sort_by_key(|given| given.option);
        found
    }

    /// The options of the field, in the order of the table.
    pub(crate) fn given(&self) -> &[Given] {
        &self.given
    }

    pub(crate) fn get(&self, option: FieldOption) -> Option<&Given> {
        self.given.iter().find(|given| given.option == option)
    }

    pub(crate) fn has(&self, option: FieldOption) -> bool {
        self.get(option).is_some()
    }

    /// The option that gives the column its role.
    pub(crate) fn role(&self) -> Option<&Given> {
        let mut given = self.given.iter();
        given.find(|given| given.option.rule().role.is_some())
    }
}

fn unique_above(written: &Opt, diag: &Diag) {
    diag.error(
        written.tokens(),
        "a list of columns belongs above the struct, not on a field\n\
         help: write `#[rowlock(unique)]` here, or `#[rowlock(unique(...))]` above the struct",
    );
}

/// Reports an option that does not exist here, and returns the one that was probably meant.
fn unknown(
    name: &Ident,
    place: &str,
    here: &[&'static str],
    elsewhere: Option<(&Spec, &str)>,
    diag: &Diag,
) -> Option<&'static str> {
    let text = name.to_string();
    if let Some((spec, elsewhere)) = elsewhere {
        diag.error(
            name,
            format_args!(
                "`{text}` is not a {place} option\nhelp: it belongs {elsewhere}: `#[rowlock({})]`",
                spec.example
            ),
        );
        return Some(spec.name);
    }
    diag.error(
        name,
        format_args!("unknown {place} option `{text}`\n{}", suggest(&text, here)),
    );
    did_you_mean(&text, here)
}

impl SqlxAttrs {
    /// sqlx's derive reports mistakes in its own options; here unknown ones are passed over.
    pub(crate) fn read(attrs: &[Attribute]) -> Self {
        let mut found = Self::default();
        let quiet = Diag::new();
        for option in all_options(attrs, "sqlx", &quiet) {
            match option.name.to_string().as_str() {
                "rename" => found.rename = option.text(),
                "rename_all" => {
                    let text = option.text();
                    found.rename_all = Some((option.name, text));
                }
                "skip" => found.skip = true,
                "json" => {
                    found.json_nullable = matches!(&option.value, OptValue::List(_));
                    found.json = Some(option.name);
                }
                "try_from" => found.try_from = Some(option.name),
                "flatten" => found.flatten = Some(option.name),
                _ => {}
            }
        }
        let _ = quiet.finish();
        found
    }
}

/// `#[sqlx(rename_all = "...")]` above the struct: how a field's name becomes a column's.
pub(crate) fn sqlx_rename_all(attrs: &[Attribute]) -> Option<String> {
    let quiet = Diag::new();
    let found = all_options(attrs, "sqlx", &quiet)
        .iter()
        .find(|option| option.name == "rename_all")
        .and_then(Opt::text)
        .map(|text| text.value());
    let _ = quiet.finish();
    found
}
