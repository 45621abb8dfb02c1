//! What a field cannot be, and options that contradict each other: the rules of the table of options.

use quote::ToTokens;
use syn::{Ident, LitStr, Type};

use crate::attr::{FieldAttrs, Given, SqlxAttrs};
use crate::diag::{Diag, one_of};
use crate::model::{Column, Role, inside_option, is_json, is_option, last_segment};
use crate::options::{FieldOption, Holds, Rule};
use crate::sql::Dialect;

/// The longest name PostgreSQL keeps; it cuts longer ones without an error.
const LONGEST_NAME: usize = 63;

/// Whether the options can stand beside each other.
pub(crate) fn check_together(field: &Ident, options: &FieldAttrs, diag: &Diag) {
    let columns = options.has(FieldOption::Columns);
    for (index, given) in options.given().iter().enumerate() {
        // What a flattened field cannot be is reported for itself.
        if columns && (given.option == FieldOption::Columns || !given.option.rule().flattened) {
            continue;
        }
        for earlier in &options.given()[..index] {
            if let Some(why) = earlier.option.contradicts(given.option) {
                diag.error(
                    &given.name,
                    format_args!(
                        "the field `{field}` cannot be both `{}` and `{}`\nnote: {why}\nhelp: keep one of them",
                        earlier.name, given.name
                    ),
                );
            }
        }
    }
}

/// Whether the column can be all that its options say.
pub(crate) fn check_field(
    field: &Ident,
    ty: &Type,
    options: &FieldAttrs,
    sqlx: &SqlxAttrs,
    diag: &Diag,
) {
    for given in options.given() {
        let rule = given.option.rule();
        check_type(ty, rule, diag);
        check_numbers(ty, given, diag);
        if rule.not_null.is_some() && is_option(ty) {
            nullable(field, ty, rule, diag);
        }
        if let Some(json) = &sqlx.json
            && !rule.json
        {
            diag.error(
                &given.name,
                format_args!(
                    "`{field}` is stored as JSON, so it cannot be {}\nhelp: remove `#[sqlx({json})]`",
                    rule.is
                ),
            );
        }
    }
    check_read_back(field, options, sqlx, diag);
}

/// Whether a flattened field says nothing beside its columns that is not true of each of them.
pub(crate) fn check_flattened(
    field: &Ident,
    options: &FieldAttrs,
    sqlx: &SqlxAttrs,
    diag: &Diag,
) -> bool {
    let columns = options.get(FieldOption::Columns);
    if sqlx.flatten.is_none() {
        if let Some(columns) = columns {
            diag.error(
                &columns.name,
                format_args!("`{field}` is one column\nhelp: remove `columns`, or add `#[sqlx(flatten)]` if its type derives `FromRow`"),
            );
        }
        return true;
    }
    let one = |given: &&Given| !given.option.rule().flattened;
    let mut fits = true;
    for given in options.given().iter().filter(one) {
        fits = false;
        let help = match (given.option, columns) {
            (FieldOption::Unique, Some(columns)) => {
                let names = columns.value.columns().iter();
                let names: Vec<String> = names
                    .filter_map(|column| Some(column.ident.as_ref()?.to_string()))
                    .collect();
                format!(
                    "write `#[rowlock(unique({}))]` above the struct",
                    names.join(", ")
                )
            }
            _ => "make that column a field of this struct".to_owned(),
        };
        diag.error(
            &given.name,
            format_args!(
                "`{}` is about one column, and `{field}` is flattened\nhelp: {help}",
                given.name
            ),
        );
    }
    fits
}

/// What a write reads back is decoded from the column itself.
fn check_read_back(field: &Ident, options: &FieldAttrs, sqlx: &SqlxAttrs, diag: &Diag) {
    use FieldOption::{Counter, Generated, OnUpdate, Version};
    if let Some(option) = &sqlx.try_from
        && [Version, Counter, Generated, OnUpdate]
            .into_iter()
            .any(|role| options.has(role))
    {
        diag.error(
            option,
            format_args!(
                "`{field}` is read back after a write, which does not go through `try_from`\n\
                 help: use a type that sqlx decodes itself"
            ),
        );
    }
    if sqlx.json_nullable
        && let Some(option) = [Generated, OnUpdate]
            .into_iter()
            .find(|role| options.has(*role))
    {
        diag.error(
            field,
            format_args!("`{field}` is {}, and read back as JSON that is never NULL\nhelp: use `#[sqlx(json)]`", option.rule().is),
        );
    }
}

/// Types that cannot have the role, as far as the type's name tells. Left to the compiler, one of them would be several errors: it
/// cannot be read or bound either; or the database would say so only when it runs.
fn check_type(ty: &Type, rule: &Rule, diag: &Diag) {
    const NO_INTEGERS: &[&str] = &[
        "i8", "i128", "isize", "u8", "u16", "u32", "u64", "u128", "usize", "f32", "f64", "bool",
        "char", "String",
    ];
    const NO_FENCES: &[&str] = &[
        "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f64", "bool", "String",
    ];
    const NO_STATES: &[&str] = &["i16", "i32", "i64", "bool", "DateTime", "OffsetDateTime"];
    const TIMES: &[&str] = &["DateTime", "OffsetDateTime"];
    const NO_TIMES: &[&str] = &[
        "NaiveDateTime",
        "PrimitiveDateTime",
        "NaiveDate",
        "Date",
        "i16",
        "i32",
        "i64",
        "f64",
        "bool",
        "String",
        "Duration",
    ];
    let Some(name) = last_segment(ty) else { return };
    let name = name.as_str();
    let (note, help) = match rule.holds {
        Holds::Integer(note) if NO_INTEGERS.contains(&name) => {
            (note, "use `i64`; `i16` and `i32` work too")
        }
        Holds::Fence if NO_FENCES.contains(&name) => (
            "a fence comes from a lock's guard or from an attempt, so that nobody writes with a number that was made up",
            "use `rowlock::Fence`; the column stays a `bigint`",
        ),
        Holds::State if NO_STATES.contains(&name) => (
            "it is one of `ready`, `running`, `done` and `dead`, as text",
            "use `rowlock::queue::QueueState`",
        ),
        Holds::Time(note) if NO_TIMES.contains(&name) => (
            note,
            "use `DateTime<Utc>` of chrono or `OffsetDateTime` of time",
        ),
        // A queue can do with less; where that is not enough, the derive says so.
        Holds::TimeOrNull(_) if name == "bool" => return,
        Holds::TimeOrNull(note) if NO_TIMES.contains(&name) => (
            note,
            "use `Option<DateTime<Utc>>` of chrono or `Option<OffsetDateTime>` of time",
        ),
        Holds::TimeOrNull(_) if TIMES.contains(&name) => (
            "it is NULL until then",
            "make the column nullable and write `Option<...>`",
        ),
        _ => return,
    };
    diag.error(
        ty,
        format_args!("`{name}` cannot be {}\nnote: {note}\nhelp: {help}", rule.is),
    );
}

fn check_numbers(ty: &Type, given: &Given, diag: &Diag) {
    match given.option {
        FieldOption::Counter => check_bounds(given, diag),
        FieldOption::Attempts => check_max_attempts(ty, given, diag),
        FieldOption::Per => check_most_running(given, diag),
        FieldOption::State => check_states(ty, given, diag),
        _ => {}
    }
}

/// The type of the crate reads no other text.
fn check_states(ty: &Type, state: &Given, diag: &Diag) {
    if last_segment(ty).is_some_and(|name| name == "QueueState")
        && !state.value.states().0.is_empty()
    {
        diag.error(
            ty,
            "`QueueState` is stored as `ready`, `running`, `done` or `dead`, and this column has other texts\n\
             help: use an enum of yours that derives `sqlx::Type`, or `String`",
        );
    }
}

fn check_bounds(counter: &Given, diag: &Diag) {
    let value = &counter.value;
    if let (Some(min), Some(max)) = (value.number("min"), value.number("max"))
        && min > max
    {
        diag.error(
            &counter.name,
            format_args!(
                "no value is at least {min} and at most {max}\nhelp: swap `min` and `max`"
            ),
        );
    }
}

/// The last attempt has to fit the column, and one more, by which a claim tells that none are left.
fn check_most_running(per: &Given, diag: &Diag) {
    let Some(max) = per.value.numbers().first() else {
        return;
    };
    if !(1..=MOST_RUNNING).contains(&max.value) {
        diag.error(
            &max.name,
            format_args!(
                "{} jobs cannot be running\nhelp: from 1 to {MOST_RUNNING}",
                max.value
            ),
        );
    }
}

/// A claim names each slot.
const MOST_RUNNING: i64 = 100;

fn check_max_attempts(ty: &Type, attempts: &Given, diag: &Diag) {
    let Some(max) = attempts.value.numbers().first() else {
        return;
    };
    if max.value < 1 {
        return diag.error(
            &max.name,
            "a job that may not be attempted is never done\nhelp: allow one attempt at least: `attempts(max = 1)`",
        );
    }
    let (name, most, wider) = match last_segment(ty).as_deref() {
        Some("i16") => (
            "i16",
            i64::from(i16::MAX) - 1,
            "`i32` and an `integer` column",
        ),
        Some("i32") => (
            "i32",
            i64::from(i32::MAX) - 1,
            "`i64` and a `bigint` column",
        ),
        _ => return,
    };
    if max.value > most {
        diag.error(
            &attempts.name,
            format_args!(
                "an `{name}` does not count beyond {}\nnote: a claim counts one more, to tell that none are left\nhelp: allow {most} attempts at most, or use {wider}",
                max.value
            ),
        );
    }
}

/// A role that a nullable column cannot have, as far as the type's name tells.
pub(crate) fn nullable(field: &Ident, ty: &Type, rule: &Rule, diag: &Diag) {
    let Some(note) = rule.not_null else { return };
    diag.error(
        ty,
        format_args!(
            "`{field}` is nullable, so it cannot be {}\nnote: {note}\n\
             help: make the column NOT NULL and remove the `Option`",
            rule.is
        ),
    );
}

/// Types that none of the model's databases has, as far as the type's name tells. Left to the compiler, that would be
/// one error about the field and one about the struct for each database.
pub(crate) fn check_storable(column: &Column, backends: &[Dialect], diag: &Diag) {
    let Some(name) = last_segment(&column.ty).filter(|_| !column.json && column.is_plain()) else {
        return;
    };
    let instead = match name.as_str() {
        "char" => "String",
        "u8" => "i16",
        "u16" => "i32",
        "u32" | "u64" | "usize" | "isize" | "u128" | "i128" => "i64",
        _ => return,
    };
    let small = ["u8", "u16", "u32"].contains(&name.as_str());
    if small && backends.iter().any(|dialect| dialect.has_unsigned()) {
        return;
    }
    let databases: Vec<&str> = backends.iter().map(|dialect| dialect.name()).collect();
    diag.error(
        &column.ty,
        format_args!(
            "`{name}` cannot be stored in a {} column\nhelp: use `{instead}`",
            one_of(&databases)
        ),
    );
}

/// Whether the type is named like the row version of PostgreSQL.
pub(crate) fn is_xmin(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|name| name == "Xmin")
}

/// It is a system column of one database, which no statement writes and every statement changes.
pub(crate) fn check_xmin(
    model: &Ident,
    column: &Column,
    all: &[Column],
    backends: &[Dialect],
    diag: &Diag,
) {
    if !is_xmin(&column.ty) {
        return;
    }
    if !column.is_xmin() {
        return diag.error(
            &column.ty,
            format_args!(
                "`Xmin` is a system column of PostgreSQL, which is not written\nhelp: {}",
                column.marked(FieldOption::Version, model)
            ),
        );
    }
    if let Some(without) = backends.iter().find(|dialect| !dialect.has_xmin()) {
        diag.error(
            &column.ty,
            format_args!(
                "{} has no `xmin`, the version that PostgreSQL keeps of every row\n\
                 help: add `backend(Postgres)` to the `#[rowlock(...)]` above the struct, or use a column of type `i64`",
                without.name()
            ),
        );
    }
    let claimed = |other: &&Column| matches!(other.role, Role::Queue(_) | Role::Ledger(_));
    if let Some(other) = all.iter().find(claimed) {
        diag.error(
            &column.ty,
            format_args!(
                "a row with the field `{}` is written by claims or attempts, and each changes `xmin`\n\
                 help: use a column of type `i64` as the version, or leave it out: the fence checks every write",
                other.field
            ),
        );
    }
}

/// What is compared with what was read has to be equal to itself, in the database too. `asked`: the options, in the order of the columns.
pub(crate) fn check_checked(model: &Ident, columns: &[Column], asked: &[Ident], diag: &Diag) {
    let version = columns
        .iter()
        .find(|column| matches!(column.role, Role::Version | Role::Xmin));
    if let (Some(version), Some(asked)) = (version, asked.first()) {
        diag.error(
            asked,
            format_args!(
                "`{model}` has the version `{}`, which every write compares and raises\n\
                 help: remove `check`, or the version if not every writer raises it",
                version.field
            ),
        );
    }
    let checked = columns.iter().filter(|column| column.check);
    for (column, asked) in checked.zip(asked) {
        let why = if column.json || is_json(&column.ty) {
            "equal values of JSON can have different texts, and PostgreSQL does not compare `json`"
        } else if is_float(&column.ty) {
            "what is read of a float can be another number than what is stored"
        } else {
            continue;
        };
        diag.error(
            asked,
            format_args!(
                "`{}` cannot be compared with what was read\nnote: {why}\n\
                 help: mark another field that every writer changes, such as `updated_at`, or add a version: `#[rowlock(version)] lock_version: i64`",
                column.field
            ),
        );
    }
}

fn is_float(ty: &Type) -> bool {
    let ty = inside_option(ty).unwrap_or(ty);
    last_segment(ty).is_some_and(|name| name == "f32" || name == "f64")
}

pub(crate) fn check_name(what: &str, name: &str, tokens: impl ToTokens, diag: &Diag) {
    if name.is_empty() {
        diag.error(tokens, format_args!("a {what} name cannot be empty"));
    } else if name.chars().any(char::is_control) {
        diag.error(
            tokens,
            format_args!("a {what} name cannot contain control characters"),
        );
    } else if name.len() > LONGEST_NAME {
        diag.error(
            tokens,
            format_args!(
                "the {what} name is {} bytes long, {LONGEST_NAME} are possible\n\
                 note: PostgreSQL would cut it without an error and meet another {what}",
                name.len()
            ),
        );
    }
}

/// SQL of the user's that becomes a part of a statement: one expression, which binds nothing and stays in its place.
pub(crate) fn check_sql(text: &LitStr, backends: &[Dialect], diag: &Diag) {
    let named = backends
        .iter()
        .any(|dialect| dialect.has_named_parameters());
    if let Some(why) = misfit(&text.value(), named) {
        diag.error(
            text,
            format_args!("this SQL is not one expression\nnote: {why}"),
        );
    }
}

pub(crate) fn check_nulls_not_distinct(asked: &Ident, backends: &[Dialect], diag: &Diag) {
    let lacks = backends
        .iter()
        .find(|dialect| !dialect.has_nulls_not_distinct());
    if let Some(dialect) = lacks {
        diag.error(
            asked,
            format_args!(
                "{} has no NULLS NOT DISTINCT\n\
                 help: make the index on an expression that is never NULL, and write `coalesce(field, 0)` for it, \
                 or limit the model: `backend(Postgres)`",
                dialect.name()
            ),
        );
    }
}

fn misfit(sql: &str, named_parameters: bool) -> Option<&'static str> {
    let mut quote = None;
    let mut depth = 0;
    let mut before = ' ';
    for next in sql.chars() {
        match (quote, next) {
            (_, '\n' | '\t') => {}
            (_, next) if next.is_control() => return Some("it has a control character"),
            (Some(open), next) if open == next => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(next),
            (None, '(') => depth += 1,
            (None, ')') if depth == 0 => {
                return Some("it closes a parenthesis that it did not open");
            }
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => return Some("a comma ends it"),
            (None, ';') => return Some("`;` would end the statement"),
            (None, '-') if before == '-' => return Some("what follows `--` would be lost"),
            (None, '*') if before == '/' => return Some("comments belong beside it"),
            (None, '$') => return Some("`$` stands for the values of the statement"),
            (None, '?' | '@' | ':') if named_parameters => {
                return Some("on SQLite `?`, `@` and `:` stand for values that nobody binds");
            }
            (None, _) => {}
        }
        before = next;
    }
    if quote.is_some() {
        return Some("it ends within quotes");
    }
    if depth > 0 {
        return Some("it does not close a parenthesis");
    }
    sql.trim().is_empty().then_some("it is empty")
}
