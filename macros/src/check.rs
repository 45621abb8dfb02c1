//! What a field cannot be, and options that contradict each other.

use quote::ToTokens;
use syn::Ident;

use crate::attr::{AttemptsAttr, FieldAttrs, SqlxAttrs};
use crate::diag::{Diag, one_of};
use crate::model::{Column, LedgerRole, is_option, last_segment};
use crate::sql::Dialect;

/// The longest name PostgreSQL keeps; it cuts longer ones without an error.
const LONGEST_NAME: usize = 63;

/// Types that are no integer of a database, as far as the type's name tells. Left to the compiler, one of them would
/// be several errors: it cannot be read or bound either.
pub(crate) fn check_integer(ty: &syn::Type, options: &FieldAttrs, diag: &Diag) {
    const OTHERS: &[&str] = &[
        "i8", "i128", "isize", "u8", "u16", "u32", "u64", "u128", "usize", "f32", "f64", "bool",
        "char", "String",
    ];
    if let Some(attempts) = &options.attempts {
        check_max_attempts(ty, attempts, diag);
    }
    let Some(name) = last_segment(ty).filter(|name| OTHERS.contains(&name.as_str())) else {
        return;
    };
    let (what, note) = match (&options.version, &options.counter) {
        (Some(_), _) => (
            "a version field",
            "the version is an integer that the database increments on every update",
        ),
        (None, Some(_)) => (
            "a counter",
            "a counter is an integer column; sums of money belong in an integer number of cents",
        ),
        (None, None) if options.attempts.is_some() => {
            ("the attempts", "every claim counts one attempt more")
        }
        (None, None) => return,
    };
    diag.error(
        ty,
        format_args!(
            "`{name}` cannot be {what}\nnote: {note}\nhelp: use `i64`; `i16` and `i32` work too"
        ),
    );
}

/// The last attempt has to fit the column, or the claim that counts it fails.
fn check_max_attempts(ty: &syn::Type, attempts: &AttemptsAttr, diag: &Diag) {
    let Some(max) = attempts.max else { return };
    let (name, most, wider) = match last_segment(ty).as_deref() {
        Some("i16") => ("i16", i64::from(i16::MAX), "`i32` and an `integer` column"),
        Some("i32") => ("i32", i64::from(i32::MAX), "`i64` and a `bigint` column"),
        _ => return,
    };
    if max > most {
        diag.error(
            &attempts.option,
            format_args!(
                "an `{name}` does not count to {max}\nhelp: allow {most} attempts at most, or use {wider}"
            ),
        );
    }
}

pub(crate) fn check_fence(ty: &syn::Type, options: &FieldAttrs, diag: &Diag) {
    const OTHERS: &[&str] = &[
        "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f64", "bool", "String",
    ];
    if options.fence.is_none() {
        return;
    }
    if let Some(name) = last_segment(ty).filter(|name| OTHERS.contains(&name.as_str())) {
        diag.error(
            ty,
            format_args!(
                "`{name}` cannot be the fence\n\
                 note: a fence comes from a lock's guard or from an attempt, so that nobody writes with a number that was made up\n\
                 help: use `rowlock::Fence`; the column stays a `bigint`"
            ),
        );
    }
}

/// Types that cannot have the role, as far as the type's name tells: the database would say so only when it runs.
pub(crate) fn check_ledger_types(ty: &syn::Type, options: &FieldAttrs, diag: &Diag) {
    let Some(name) = last_segment(ty) else { return };
    let name = name.as_str();
    let refuse = |what: &str, note: &str, help: &str| {
        diag.error(
            ty,
            format_args!("`{name}` cannot be {what}\nnote: {note}\nhelp: {help}"),
        );
    };
    const TIMESTAMPS: &[&str] = &["DateTime", "OffsetDateTime"];
    const NO_TIMESTAMPS: &[&str] = &[
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
    if options.state.is_some()
        && ["i16", "i32", "i64", "bool", "DateTime", "OffsetDateTime"].contains(&name)
    {
        refuse(
            "the state",
            "it is one of `ready`, `running`, `done` and `dead`, as text",
            "use `rowlock::QueueState`",
        );
    }
    if let Some(option) = &options.run_at
        && NO_TIMESTAMPS.contains(&name)
    {
        refuse(
            &role_name(option),
            "it is a point in time, compared with the clock of the database",
            "use `DateTime<Utc>` of chrono or `OffsetDateTime` of time",
        );
    }
    for role in [LedgerRole::Lease, LedgerRole::Finished] {
        let Some(option) = options.ledger(role) else {
            continue;
        };
        if NO_TIMESTAMPS.contains(&name) {
            refuse(
                &role_name(option),
                "it is a point in time, by the clock of the database",
                "use `Option<DateTime<Utc>>` of chrono or `Option<OffsetDateTime>` of time",
            );
        } else if role == LedgerRole::Finished && TIMESTAMPS.contains(&name) {
            refuse(
                &role_name(option),
                "it is NULL until the work is done",
                "make the column nullable and write `Option<...>`",
            );
        }
    }
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
    if small && backends.contains(&Dialect::Sqlite) {
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

/// Options of one field that contradict each other.
pub(crate) fn check_roles(field: &Ident, options: &FieldAttrs, sqlx: &SqlxAttrs, diag: &Diag) {
    let FieldAttrs {
        key,
        version,
        unique,
        generated,
        default,
        ..
    } = options;
    let counter = &options
        .counter
        .as_ref()
        .map(|counter| counter.option.clone());
    let clash = |a: &Option<Ident>, b: &Option<Ident>, note: &str| {
        if let (Some(a), Some(b)) = (a, b) {
            diag.error(
                b,
                format_args!(
                    "the field `{field}` cannot be both `{a}` and `{b}`\nnote: {note}\nhelp: keep one of them"
                ),
            );
        }
    };
    clash(
        key,
        version,
        "the version changes with every update, a key never changes",
    );
    clash(
        key,
        counter,
        "a counter changes with every call, a key never changes",
    );
    clash(
        version,
        counter,
        "the version belongs to `Versioned`, a counter to `Counter`; a column has one writer",
    );
    clash(
        version,
        generated,
        "every update writes the version and reads it back; `generated` columns are never written",
    );
    clash(
        version,
        default,
        "a new row starts at version 0, written by the insert",
    );
    clash(
        counter,
        generated,
        "every call writes the counter; `generated` columns are never written",
    );
    clash(
        counter,
        default,
        "a new row starts its counters at 0, written by the insert",
    );
    clash(
        generated,
        default,
        "`generated` columns are never written, `default` columns only not by an insert",
    );
    clash(
        key,
        default,
        "a key that the database makes up is `#[rowlock(key, generated)]`",
    );
    clash(
        unique,
        version,
        "the version changes with every update, so it cannot identify a row",
    );
    clash(
        unique,
        counter,
        "a counter changes with every call, so it cannot identify a row",
    );
    clash(
        unique,
        generated,
        "nobody can look for a value that the database has yet to make up",
    );
    clash(
        unique,
        default,
        "nobody can look for a value that the database has yet to make up",
    );

    // Each of these has a writer of its own.
    for (index, role) in options.further_roles().enumerate() {
        let roles = [key, version, counter, unique, generated, default];
        let earlier = options.further_roles().take(index);
        for other in roles.into_iter().flatten().chain(earlier) {
            // The database can make up the time of a job that is due at once.
            if role == "run_at" && other == "default" {
                continue;
            }
            let note = "a column has one role and one writer";
            clash(&Some(other.clone()), &Some(role.clone()), note);
        }
    }

    if let Some(json) = &sqlx.json {
        let further = options.further_roles().filter(|role| *role != "outcome");
        for role in [key, unique, version, counter]
            .into_iter()
            .flatten()
            .chain(further)
            .chain(options.priority.as_ref().map(|priority| &priority.option))
            .chain(&options.filter)
        {
            diag.error(
                role,
                format_args!("`{field}` is stored as JSON, so it cannot be {}\nhelp: remove `#[sqlx({json})]`", role_name(role)),
            );
        }
    }
    let read_back = [version, counter, generated];
    if let Some(option) = &sqlx.try_from
        && read_back.iter().any(|role| role.is_some())
    {
        diag.error(
            option,
            format_args!(
                "`{field}` is read back after a write, which does not go through `try_from`\n\
                 help: use a type that sqlx decodes itself"
            ),
        );
    }
    if sqlx.json_nullable && generated.is_some() {
        diag.error(
            field,
            format_args!("`{field}` is generated, and read back as JSON that is never NULL\nhelp: use `#[sqlx(json)]`"),
        );
    }
}

/// `key` as it stands in a sentence.
fn role_name(option: &Ident) -> String {
    match option.to_string().as_str() {
        "key" => "the key".to_owned(),
        "unique" => "part of a unique key".to_owned(),
        "counter" => "a counter".to_owned(),
        "priority" => "a priority".to_owned(),
        "filter" => "a filter".to_owned(),
        "run_at" => "the time when a job is due".to_owned(),
        "last_error" => "the last error".to_owned(),
        other => format!("the {other}"),
    }
}

/// Roles that a nullable column cannot have, as far as the type's name tells.
pub(crate) fn check_nullable(field: &Ident, ty: &syn::Type, options: &FieldAttrs, diag: &Diag) {
    if !is_option(ty) {
        return;
    }
    let roles = [
        (
            options.key.is_some(),
            "the key",
            "in SQL NULL is not equal to NULL, so such a row would never be found",
        ),
        (
            options.version.is_some(),
            "the version",
            "in SQL NULL is not equal to NULL, so no update of such a row would ever match",
        ),
        (
            options.counter.is_some(),
            "a counter",
            "in SQL NULL + 1 is NULL, so such a row would never count",
        ),
        (
            options.unique.is_some(),
            "part of a unique key",
            "in SQL two NULLs are never equal, so the database would allow duplicates",
        ),
        (
            options.fence.is_some(),
            "the fence",
            "in SQL nothing is smaller than NULL, so no write of such a row would ever match",
        ),
        (
            options.ledger(LedgerRole::Fingerprint).is_some(),
            "the fingerprint",
            "in SQL NULL is not equal to NULL, so no request would ever match such a row",
        ),
        (
            options.state.is_some(),
            "the state",
            "in SQL NULL is not equal to anything, so such a row would never be claimed",
        ),
        (
            options.run_at.is_some(),
            "the time when a job is due",
            "in SQL no time has passed since NULL, so such a row would never be claimed",
        ),
        (
            options.attempts.is_some(),
            "the attempts",
            "in SQL NULL + 1 is NULL, so no attempt would ever be the last",
        ),
        (
            options.priority.is_some(),
            "a priority",
            "databases disagree about whether NULL comes first or last",
        ),
    ];
    for (given, what, note) in roles {
        if given {
            nullable(field, ty, what, note, diag);
        }
    }
}

pub(crate) fn nullable(field: &Ident, ty: &syn::Type, what: &str, note: &str, diag: &Diag) {
    diag.error(
        ty,
        format_args!(
            "`{field}` is nullable, so it cannot be {what}\nnote: {note}\n\
             help: make the column NOT NULL and remove the `Option`"
        ),
    );
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
