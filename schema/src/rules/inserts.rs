//! What an insert leaves out is filled by the database, and what it starts with is admitted.

use super::Context;
use crate::catalogue::{Column, Identity};
use crate::expression::{comparison, words};
use crate::finding::{Finding, Level, Place, Rule};
use crate::model::{Field, Insert, Role};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let Some(insert) = &context.model.insert else {
        return;
    };
    let filled_by_trigger = context.table.fills_new_rows();
    for column in &context.table.columns {
        let same = |name: &str| context.dialect().same_name(name, &column.name);
        let is_given = insert.columns.iter().any(|name| same(name));
        if is_given || filled_by_trigger || !needs_a_value(column) {
            continue;
        }
        let mut fields = context.model.fields.iter();
        let field = fields.find(|field| same(field.column()));
        // One that is `generated` and is not was reported as that.
        if !(insert.required && field.is_some_and(|field| field.generated)) {
            findings.push(left_out(context, insert, column, field));
        }
    }
    initial(context, insert, findings);
}

fn needs_a_value(column: &Column) -> bool {
    let identity = match column.identity {
        Some(Identity::Always | Identity::ByDefault | Identity::Rowid) => true,
        None => false,
    };
    !column.null && !identity && !column.has_default() && column.generated.is_none()
}

fn left_out(
    context: &Context<'_>,
    insert: &Insert,
    column: &Column,
    field: Option<&Field>,
) -> Finding {
    let table = context.shown();
    let message = format!(
        "column `{}` of `{table}` is NOT NULL without a default, and `{}` does not write it",
        column.name, insert.method
    );
    let default = format!(
        "give the column a default: DEFAULT … in the definition of `{}`",
        column.name
    );
    let help = match field {
        Some(field) if field.default => format!("{default}, or write the field without `default`"),
        Some(_) => default,
        None => format!("add a field for it, or {default}"),
    };
    let help = if insert.method.starts_with("add_") {
        format!(
            "add only to rows that exist: `#[rowlock(existing_rows)]`; or {}",
            help.trim_start_matches("add a field for it, or ")
        )
    } else {
        help
    };
    Finding {
        rule: Rule::Default,
        // The user may never call it.
        level: if insert.required {
            Level::Error
        } else {
            Level::Note
        },
        place: match field {
            Some(field) => Place::Field(field.field.clone()),
            None => Place::Struct,
        },
        message,
        note: Some("the database refuses the new row".into()),
        help: Some(help),
    }
}

/// A CHECK that refuses what a new row starts with.
fn initial(context: &Context<'_>, insert: &Insert, findings: &mut Vec<Finding>) {
    for check in &context.table.checks {
        let words = words(&check.expression);
        let Some((name, sign, bound)) = comparison(&words) else {
            continue;
        };
        let mut fields = context.model.fields.iter();
        let counter = fields.find(|field| {
            field.role == Role::Counter && context.dialect().same_name(field.column(), name)
        });
        let Some((counter, initial)) = counter.and_then(|field| Some((field, field.initial?)))
        else {
            continue;
        };
        let finding = |level, message, note: &str, help| Finding {
            rule: Rule::Check,
            level,
            place: Place::Field(counter.field.clone()),
            message,
            note: Some(note.to_owned()),
            help: Some(help),
        };
        if !holds(initial, &sign, bound) {
            findings.push(finding(
                if insert.required { Level::Error } else { Level::Note },
                format!("a CHECK of `{}` wants `{name} {sign} {bound}`, and a new row starts with {initial}", context.shown()),
                "the database refuses a new row",
                match least(&sign, bound) {
                    Some(least) => format!(
                        "say where the counter starts: `#[rowlock(counter(min = {least}))]`, or change the CHECK"
                    ),
                    None => "change the CHECK".to_owned(),
                },
            ));
        } else if sign.starts_with('>') && counter.min.is_none() {
            let least = least(&sign, bound).unwrap_or(bound);
            findings.push(finding(
                Level::Note,
                format!("a CHECK of `{}` wants `{name} {sign} {bound}`, and the counter has no lower bound", context.shown()),
                "ON CONFLICT checks the row that it proposes, which has the bare change: one that is taken away costs a second statement, and a total below the bound is a database error",
                format!("say so: `#[rowlock(counter(min = {least}))]`; then it is `OutOfBounds`"),
            ));
        }
    }
}

/// The lowest value from 0 on that the comparison admits, if a lower bound makes it so.
fn least(sign: &str, bound: i64) -> Option<i64> {
    match sign {
        ">" | "<>" => Some(bound.saturating_add(1)),
        ">=" | "=" => Some(bound),
        _ => None,
    }
}

fn holds(value: i64, sign: &str, bound: i64) -> bool {
    match sign {
        ">" => value > bound,
        ">=" => value >= bound,
        "<" => value < bound,
        "<=" => value <= bound,
        "=" => value == bound,
        "<>" => value != bound,
        _ => true,
    }
}
