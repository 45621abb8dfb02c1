//! The SQL of every statement: pure functions from a model to text.
//!
//! PostgreSQL and SQLite understand the same text for most statements (`$1`, `RETURNING`, `ON CONFLICT`); where they
//! part, the function takes the [`Dialect`] into account. Names are in double quotes here, and [`Dialect::spell`] puts
//! them into those of the database.

mod clock;
pub(crate) mod counter;
pub(crate) mod find_or_create;
pub(crate) mod idempotent;
pub(crate) mod lockable;
pub(crate) mod queue;
#[cfg(test)]
mod tests;
pub(crate) mod versioned;

use std::borrow::Cow;

use crate::model::{Column, Model, Role, UniqueKey};

/// A database's way of writing SQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    Postgres,
    Sqlite,
}

impl Dialect {
    pub(crate) const ALL: [Self; 2] = [Self::Postgres, Self::Sqlite];

    /// The name of sqlx's type for the database, which is also what `backend(...)` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Sqlite => "Sqlite",
        }
    }

    /// The same text with its names in quotes that the database takes for nothing else.
    ///
    /// To SQLite `"slug"` is the text `'slug'` when the table has no such column. A lookup would find no row, or any, and
    /// a column would be read as its own name; in backticks it is an error.
    pub(crate) fn spell(self, sql: &str) -> Cow<'_, str> {
        let quote = match self {
            Self::Postgres => return Cow::Borrowed(sql),
            Self::Sqlite => '`',
        };
        let mut spelled = String::with_capacity(sql.len());
        let mut open = None;
        let mut rest = sql.chars().peekable();
        while let Some(next) = rest.next() {
            match (open, next) {
                // In a name, or between names.
                (Some('"'), '"') if rest.next_if_eq(&'"').is_some() => spelled.push('"'),
                (Some('"') | None, '"') => {
                    open = open.xor(Some('"'));
                    spelled.push(quote);
                }
                (Some('"'), other) if other == quote => spelled.extend([quote, quote]),
                // A quote in a text is doubled: the text ends and goes on.
                (Some('\'') | None, '\'') => {
                    open = open.xor(Some('\''));
                    spelled.push('\'');
                }
                (_, other) => spelled.push(other),
            }
        }
        Cow::Owned(spelled)
    }
}

/// `"name"`, with quotes inside doubled, so that reserved words and odd names work.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `'text'`
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The table as it stands behind FROM, INTO and UPDATE.
fn table(model: &Model) -> String {
    match &model.table.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&model.table.name)),
        None => quote(&model.table.name),
    }
}

/// The table's existing row inside `ON CONFLICT DO UPDATE`, where a schema may not be named.
fn existing(model: &Model, column: &Column) -> String {
    format!("{}.{}", quote(&model.table.name), quote(&column.name))
}

fn comma<T>(items: impl IntoIterator<Item = T>, text: impl FnMut(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

fn and<T>(items: impl IntoIterator<Item = T>, text: impl FnMut(T) -> String) -> String {
    items
        .into_iter()
        .map(text)
        .collect::<Vec<_>>()
        .join(" AND ")
}

fn names(columns: &[&Column]) -> String {
    comma(columns, |column| quote(&column.name))
}

/// `"a" = $1 AND "b" = $2`, counting from `first`.
fn equal(columns: &[&Column], first: usize) -> String {
    and(columns.iter().enumerate(), |(index, column)| {
        format!("{} = ${}", quote(&column.name), first + index)
    })
}

/// `"rowlock_k1", "rowlock_k2"`: the columns of a key beside the table.
fn parts(keys: &[&Column]) -> String {
    comma(1..=keys.len(), |index| format!("\"rowlock_k{index}\""))
}

/// `"rowlock_row"."a" = "rowlock_k1"`, for each column of the key.
fn given_row(keys: &[&Column]) -> String {
    and(keys.iter().enumerate(), |(index, key)| {
        format!(
            "\"rowlock_row\".{} = \"rowlock_given\".\"rowlock_k{}\"",
            quote(&key.name),
            index + 1
        )
    })
}

/// The keys of many rows on PostgreSQL, as the CTE `"rowlock_given"`: `unnested` yields them and a bigint, which is called
/// `number`.
///
/// The half that is empty gives them the collation of the table's columns. So ORDER BY them is the same order for
/// whoever locks several rows, whether he finds them or creates them; two orders would deadlock. It comes first,
/// because of two types that are equally good that of the first half is taken: texts become `char(n)` with a column of that type,
/// and blanks at their ends do not count.
fn given(model: &Model, unnested: &str, number: &str) -> String {
    let keys = model.keys();
    format!(
        "\"rowlock_given\" ({}, \"{number}\") AS (SELECT {}, NULL::bigint FROM {} WHERE false UNION ALL SELECT * FROM {unnested})",
        parts(&keys),
        names(&keys),
        table(model)
    )
}

/// `(SELECT $1), (SELECT $2)`: an array per column of the key. As a subquery its length is nothing to plan by, so that one
/// plan serves all calls.
fn key_arrays(keys: &[&Column]) -> String {
    comma(1..=keys.len(), |index| format!("(SELECT ${index})"))
}

/// `"version" = "version" + 1`
fn bump(version: &Column) -> String {
    format!("{0} = {0} + 1", quote(&version.name))
}

/// `, "fence" = $n`, if the model has a fence.
fn and_set_fence(model: &Model, parameter: usize) -> String {
    match model.fence() {
        Some(fence) => format!(", {} = ${parameter}", quote(&fence.name)),
        None => String::new(),
    }
}

/// ` AND "fence" <= $n`, if the model has a fence.
fn and_not_fenced(model: &Model, parameter: usize) -> String {
    match model.fence() {
        Some(fence) => format!(" AND {} <= ${parameter}", quote(&fence.name)),
        None => String::new(),
    }
}

/// ` AND` no other row has the key, which is bound from `first` on.
///
/// What the model calls a key may not be unique in the database. Then nothing is written: outside a transaction it could
/// not be taken back when the second row shows up.
fn and_alone(model: &Model, first: usize) -> String {
    format!(
        " AND (SELECT count(*) FROM {} WHERE {}) = 1",
        table(model),
        equal(&model.keys(), first)
    )
}

/// Reads all columns of the row with this key.
pub(crate) fn select(model: &Model, by: &[&Column]) -> String {
    let all: Vec<&Column> = model.columns.iter().collect();
    format!(
        "SELECT {} FROM {} WHERE {}",
        names(&all),
        table(model),
        equal(by, 1)
    )
}
