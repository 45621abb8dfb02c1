//! The columns exist, hold what the fields hold, and are NULL where these are `Option`.

use super::{Context, listed};
use crate::catalogue::{Column, Dialect, Identity, Kind};
use crate::ddl;
use crate::expression::{conjuncts, null_test};
use crate::family::Family;
use crate::finding::{Finding, Level, Place, Rule};
use crate::model::{Field, Role};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if context.table.columns.is_empty() && context.table.kind == Kind::View {
        return;
    }
    for field in &context.model.fields {
        if field.role == Role::System {
            continue;
        }
        match context.column(field.column()) {
            Some(column) => {
                let of_field = [
                    other_case(context, field, column),
                    fits(context, field, column),
                    null(context, field, column),
                    generated(context, field, column),
                    states(field, column),
                ];
                findings.extend(of_field.into_iter().flatten());
            }
            None if is_rowid(context, field.column()) => {}
            None => findings.push(missing(context, field)),
        }
    }
}

/// Every table of SQLite has it, unless it says otherwise.
fn is_rowid(context: &Context<'_>, name: &str) -> bool {
    match context.dialect() {
        Dialect::Postgres => false,
        Dialect::Sqlite => ["rowid", "oid", "_rowid_"]
            .iter()
            .any(|rowid| name.eq_ignore_ascii_case(rowid)),
    }
}

/// SQLite takes any case, and gives the column back in that of the table, by which sqlx looks for it.
fn other_case(context: &Context<'_>, field: &Field, column: &Column) -> Option<Finding> {
    // No row of it is read into the struct.
    if column.name == field.column() || context.model.derive == "Idempotent" {
        return None;
    }
    Some(Finding {
        note: Some("sqlx reads columns by their exact names".into()),
        help: Some(format!("`#[sqlx(rename = \"{}\")]`", column.name)),
        ..Finding::new(
            Rule::Column,
            Level::Error,
            Place::Field(field.field.clone()),
            format!(
                "column `{}` of `{}` is written in another case than `{}`",
                column.name,
                context.shown(),
                field.column()
            ),
        )
    })
}

fn missing(context: &Context<'_>, field: &Field) -> Finding {
    let names: Vec<String> = context
        .table
        .columns
        .iter()
        .map(|column| column.name.clone())
        .collect();
    let close = |name: &&String| {
        let bare = |text: &str| text.replace('_', "").to_lowercase();
        bare(name) == bare(field.column())
    };
    let help = match names.iter().find(close) {
        Some(name) => Some(format!("`#[sqlx(rename = \"{name}\")]`")),
        None => column_type(field, context.dialect()).map(|ty| {
            ddl::add_column(
                field.column(),
                ty,
                default(field).as_deref(),
                context.table,
                context.catalogue,
            )
        }),
    };
    Finding {
        rule: Rule::Column,
        level: Level::Error,
        place: Place::Field(field.field.clone()),
        message: format!("`{}` has no column `{}`", context.shown(), field.column()),
        note: Some(format!("it has {}", listed(&names))),
        help,
    }
}

/// As `create_table` makes it.
fn column_type(field: &Field, dialect: Dialect) -> Option<&'static str> {
    match field.role {
        Role::State if is_text_state(field) => Family::Text.column_type(dialect),
        _ => field.family.column_type(dialect),
    }
}

fn is_text_state(field: &Field) -> bool {
    field.role == Role::State && field.ty.ends_with("QueueState")
}

/// What the rows that are there get, of what only rowlock writes: without it the next mistake was that the column can be NULL.
fn default(field: &Field) -> Option<String> {
    match field.role {
        Role::Version | Role::Fence => Some("0".to_owned()),
        Role::Counter => Some(field.initial.unwrap_or(0).to_string()),
        Role::Always if matches!(field.family, Family::Integer(_)) => Some("0".to_owned()),
        // The first is that of a job that is ready.
        Role::State => {
            let ready = field.states.first()?;
            Some(format!("'{}'", ready.replace('\'', "''")))
        }
        Role::Plain | Role::System | Role::Sometimes | Role::Always => None,
    }
}

/// As the database has it: `varchar(200)`, `bigint`.
fn shown(column: &Column) -> String {
    match &column.domain_of {
        Some(base) => format!("{} ({base})", column.ty),
        None if column.ty.is_empty() => "of no type".to_owned(),
        None => column.ty.clone(),
    }
}

fn fits(context: &Context<'_>, field: &Field, column: &Column) -> Option<Finding> {
    let named = format!("column `{}` of `{}`", column.name, context.shown());
    let place = Place::Field(field.field.clone());
    let help = field.family.column_type(context.dialect());
    let help = help
        .and_then(|ty| ddl::set_type(column, (ty, field.family), context.table, context.catalogue));
    let is_state_text = field.role == Role::State && field.family == Family::Text;
    let is_unread = is_state_unread(context, field, column);
    if is_unread || !field.family.fits(column, context.dialect()) && !is_state_text {
        return Some(Finding {
            rule: Rule::Type,
            level: Level::Error,
            place,
            message: format!(
                "{named} is `{}`, and this field is `{}`",
                shown(column),
                field.ty
            ),
            note: None,
            help: Some(match help {
                Some(ddl) => format!("change the field's type, or the column's: {ddl}"),
                None if is_unread => {
                    let ddl = ddl::set_type(
                        column,
                        ("text", Family::Text),
                        context.table,
                        context.catalogue,
                    );
                    format!(
                        "write an enum of your own, or change the column's type: {}",
                        ddl.unwrap_or_default()
                    )
                }
                None if matches!(field.family, Family::Float(_)) => {
                    "change the field's type, or make the table anew with the column REAL"
                        .to_owned()
                }
                None => {
                    "change the field's type, or make the table anew with another column".to_owned()
                }
            }),
        });
    }
    let (one, other) = field.family.other_width(column, context.dialect())?;
    let level = match field.role {
        Role::Version | Role::Counter | Role::Fence => Level::Error,
        // A FromRow of the user's may read it all the same.
        _ => Level::Note,
    };
    Some(Finding {
        rule: Rule::Width,
        level,
        place,
        message: format!(
            "{named} is `{}`, and this field is `{}`",
            shown(column),
            field.ty
        ),
        note: Some(format!(
            "sqlx reads no number of {other} bits as one of {one}"
        )),
        help: Some(match (field.role, help) {
            (Role::Fence, Some(ddl)) => ddl,
            (_, ddl) => format!(
                "make the field an `{}{other}`{}",
                match field.family {
                    Family::Float(_) => "f",
                    _ => "i",
                },
                ddl.map_or_else(String::new, |ddl| format!(", or the column as wide: {ddl}"))
            ),
        }),
    })
}

/// `QueueState` is text to sqlx, which reads no enum of PostgreSQL as text, and `char(10)` as text with blanks after it.
fn is_state_unread(context: &Context<'_>, field: &Field, column: &Column) -> bool {
    let is_text = is_text_state(field);
    let base = column.domain_of.as_ref().unwrap_or(&column.ty);
    let is_padded = base == "character" || base.starts_with("character(");
    match context.dialect() {
        Dialect::Postgres => is_text && (is_padded || !column.values.is_empty()),
        Dialect::Sqlite => false,
    }
}

/// Whether a CHECK says that it is never NULL.
fn is_checked(context: &Context<'_>, column: &Column) -> bool {
    let checks = context.table.checks.iter();
    checks.filter(|check| check.is_of_all()).any(|check| {
        conjuncts(&check.expression).iter().any(|words| {
            null_test(words).is_some_and(|(name, is_null)| {
                !is_null && context.dialect().same_name(name, &column.name)
            })
        })
    })
}

/// SQLite lets a primary key be NULL that does not say NOT NULL, and nobody means it.
fn is_primary(context: &Context<'_>, column: &Column) -> bool {
    context.table.unique.iter().any(|index| {
        let mut parts = index.on.iter();
        index.primary && parts.any(|part| part.column() == Some(&column.name))
    })
}

fn null(context: &Context<'_>, field: &Field, column: &Column) -> Option<Finding> {
    let is_view = matches!(context.table.kind, Kind::View | Kind::Foreign);
    if is_view || column.generated.is_some() || column.identity.is_some() {
        return None;
    }
    let named = format!("column `{}` of `{}`", column.name, context.shown());
    let place = Place::Field(field.field.clone());
    if !column.null && field.role == Role::Sometimes && field.option == Some(true) {
        let again = "make the table anew with the column without NOT NULL";
        let ddl = ddl::drop_not_null(&column.name, context.table, context.catalogue);
        let message = format!("{named} is NOT NULL, and it has to be NULL at times");
        return Some(Finding {
            note: Some(
                "what is not claimed, not finished or without an error has nothing there".into(),
            ),
            help: Some(ddl.unwrap_or_else(|| again.to_owned())),
            ..Finding::new(Rule::Null, Level::Error, place, message)
        });
    }
    if !column.null {
        let written = field.role == Role::Plain && !field.generated && !field.key;
        return (field.option == Some(true) && written).then(|| Finding {
            rule: Rule::Null,
            level: Level::Note,
            place,
            message: format!("{named} is NOT NULL, and this field is an `Option`"),
            note: Some("a write of `None` is refused".into()),
            help: None,
        });
    }
    if field.option != Some(false) && !must_not_be_null(field.role) {
        return None;
    }
    if is_checked(context, column) || is_primary(context, column) {
        return None;
    }
    let ddl = ddl::set_not_null(&column.name, context.table, context.catalogue);
    let again = "make the table anew with the column NOT NULL";
    let (rule, message, note, help) = match field.role {
        role if must_not_be_null(role) => (
            Rule::NotNull,
            format!("{named} can be NULL, and it is {}", role_name(role)),
            match role {
                Role::Counter => "in SQL NULL + 1 is NULL: such a row would never count",
                _ => "in SQL NULL is not equal to NULL: no write of such a row would ever match",
            },
            ddl.unwrap_or_else(|| again.to_owned()),
        ),
        _ if field.key => (
            Rule::NotNull,
            format!("{named} can be NULL, and it is a part of the key"),
            "in SQL NULL is not equal to NULL: such a row would never be found",
            ddl.unwrap_or_else(|| again.to_owned()),
        ),
        _ => (
            Rule::Null,
            format!(
                "{named} is `{}` and can be NULL; this field is not an `Option`",
                shown(column)
            ),
            "a row with NULL cannot be read",
            match ddl {
                Some(ddl) => format!("write `Option<{}>`, or: {ddl}", field.ty),
                None => format!("write `Option<{}>`, or {again}", field.ty),
            },
        ),
    };
    Some(Finding {
        rule,
        level: Level::Error,
        place,
        message,
        note: Some(note.to_owned()),
        help: Some(help),
    })
}

fn must_not_be_null(role: Role) -> bool {
    match role {
        Role::Version | Role::Counter | Role::Fence | Role::Always | Role::State => true,
        Role::Plain | Role::System | Role::Sometimes => false,
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Version => "the version",
        Role::Counter => "a counter",
        Role::Fence => "the fence",
        Role::State => "the state",
        Role::Plain | Role::System | Role::Sometimes | Role::Always => "written by claims",
    }
}

fn generated(context: &Context<'_>, field: &Field, column: &Column) -> Option<Finding> {
    let named = format!("column `{}` of `{}`", column.name, context.shown());
    let place = Place::Field(field.field.clone());
    let finding = |level, message, note: Option<&str>, help: &str| Finding {
        rule: Rule::Generated,
        level,
        place,
        message,
        note: note.map(str::to_owned),
        help: Some(help.to_owned()),
    };
    let always = match (&column.generated, column.identity) {
        (Some(_), _) => Some("GENERATED ALWAYS"),
        (None, Some(Identity::Always)) => Some("GENERATED ALWAYS AS IDENTITY"),
        (None, Some(Identity::ByDefault | Identity::Rowid) | None) => None,
    };
    if let Some(always) = always {
        let is_plain = !field.generated && field.role == Role::Plain && !field.default;
        // A key is only written by an insert, and the program may never call that.
        let written = match field.key {
            true => inserts(context),
            false => context.model.writes_all,
        };
        return (is_plain && written).then(|| {
            finding(
                Level::Error,
                format!("{named} is {always}, and this field is written"),
                Some("the database refuses a value for it"),
                "mark this field with `#[rowlock(generated)]`",
            )
        });
    }
    let is_made =
        column.has_default() || column.identity.is_some() || context.table.fills_new_rows();
    let is_sqlite = match context.dialect() {
        Dialect::Postgres => false,
        Dialect::Sqlite => true,
    };
    let mut keys = context.model.keys.iter();
    let is_computed =
        keys.any(|key| key.computed && key.on.iter().any(|part| part.column == field.column()));
    if is_computed && !is_made && context.table.kind == Kind::Table {
        return Some(finding(
            Level::Error,
            format!(
                "{named} is not generated, and the key is on it: `on({})`",
                field.field
            ),
            Some("no insert writes it: it would be NULL, of which there can be many"),
            "make it a generated column: GENERATED ALWAYS AS (…) STORED",
        ));
    }
    // Any trigger of SQLite can write the key afterwards.
    let has_trigger = context.table.writes_after_insert();
    let is_null = column.null && !is_made && !has_trigger && context.model.insert.is_some();
    if is_sqlite && field.generated && field.key && is_null {
        if !is_primary(context, column) || context.table.kind != Kind::Table {
            return None;
        }
        return Some(finding(
            Level::Error,
            format!(
                "{named} is `{}` and not generated, and this field is `generated`",
                shown(column)
            ),
            Some(
                "an insert stores NULL: only `INTEGER PRIMARY KEY` is the number that SQLite gives a row",
            ),
            "make the table anew with the column `INTEGER PRIMARY KEY`, or write the field without `generated`",
        ));
    }
    let can_be_made = is_made || column.null;
    if field.generated
        && !can_be_made
        && matches!(context.table.kind, Kind::Table)
        && inserts(context)
    {
        return Some(finding(
            Level::Error,
            format!("{named} has no default and is not generated, and this field is `generated`"),
            Some("no insert writes it, and NOT NULL refuses the row"),
            "give the column a default, or the field without `generated`",
        ));
    }
    None
}

fn inserts(context: &Context<'_>) -> bool {
    context
        .model
        .insert
        .as_ref()
        .is_some_and(|insert| insert.required)
}

fn states(field: &Field, column: &Column) -> Option<Finding> {
    let lacks: Vec<String> = field
        .states
        .iter()
        .filter(|state| !column.values.contains(state))
        .cloned()
        .collect();
    if column.values.is_empty() || lacks.is_empty() {
        return None;
    }
    Some(Finding {
        rule: Rule::States,
        level: Level::Error,
        place: Place::Field(field.field.clone()),
        message: format!(
            "the enum `{}` of column `{}` has no {}",
            column.ty,
            column.name,
            listed(&lacks)
        ),
        note: Some(format!("it has {}", listed(&column.values))),
        help: Some(
            "say what the states are stored as: `#[rowlock(state(ready = \"queued\"))]`".into(),
        ),
    })
}
