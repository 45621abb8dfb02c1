//! The SQL of every statement: pure functions from a model and a [`Dialect`] to a [`Statement`].
//!
//! PostgreSQL and SQLite understand the same text for most statements (`$1`, `RETURNING`, `ON CONFLICT`); where they
//! part, the function matches on the dialect. Names are in double quotes here, and [`Dialect::spell`] puts them into those
//! of the database. Parameters are never counted: [`Sql::slot`] is told what is bound, and writes the `$n`. They are numbered
//! as they are first mentioned, which is the order in which the runtime binds them; the snapshots of the tests show it.

mod clock;
pub(crate) mod counter;
#[cfg(feature = "schema")]
pub(crate) mod create_table;
mod dialect;
pub(crate) mod find_or_create;
mod gap;
mod given;
pub(crate) mod guarded;
pub(crate) mod idempotent;
mod index;
pub(crate) mod lockable;
pub(crate) mod queue;
mod slot;
mod statement;
#[cfg(test)]
mod tests;
pub(crate) mod versioned;

pub(crate) use self::dialect::Dialect;
use self::gap::Gap;
pub(crate) use self::given::held;
pub(crate) use self::slot::Slot;
use self::statement::Sql;
pub(crate) use self::statement::Statement;
use crate::model::{Column, Model, Role, Table, UniqueKey};

/// `"name"`, with quotes inside doubled, so that reserved words and odd names work.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `'text'`
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A column as it is compared. `xmin` is a number here: sqlx would ask the server about its type.
fn value(column: &Column) -> String {
    match column.role {
        Role::Xmin => "\"xmin\"::text::bigint".to_owned(),
        _ => quote(&column.name),
    }
}

/// A column as it is read.
fn read(column: &Column) -> String {
    match column.role {
        Role::Xmin => format!("{} AS {}", value(column), quote(&column.name)),
        _ => quote(&column.name),
    }
}

/// The table as it stands behind FROM, INTO and UPDATE.
fn table(model: &Model) -> String {
    name_of(&model.table)
}

/// The name of a table.
fn name_of(table: &Table) -> String {
    match &table.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&table.name)),
        None => quote(&table.name),
    }
}

/// The table's existing row inside `ON CONFLICT DO UPDATE`, where a schema may not be named.
fn existing(model: &Model, column: &Column) -> String {
    format!("{}.{}", quote(&model.table.name), quote(&column.name))
}

/// A name of a column of the table where it is called `"rowlock_row"`.
fn of_the_row(name: &str) -> String {
    format!("\"rowlock_row\".{}", quote(name))
}

/// A column of the table where it is called `"rowlock_row"`.
fn of_row(column: &Column) -> String {
    format!("\"rowlock_row\".{}", read(column))
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

fn names<'c>(columns: impl IntoIterator<Item = &'c &'c Column>) -> String {
    comma(columns, |column| quote(&column.name))
}

/// The same as what a write returns.
fn each_name(columns: &[&Column]) -> Vec<String> {
    columns.iter().map(|column| read(column)).collect()
}

/// `"version" = "version" + 1`, of what goes up by being set.
fn bump(version: &Column) -> String {
    format!("{0} = {0} + 1", quote(&version.name))
}

/// `"updated_at" = now()`, for each column that has such an expression.
fn on_update(model: &Model) -> impl Iterator<Item = String> {
    let columns = model.on_update();
    columns.map(|(column, expression)| format!("{} = {expression}", quote(&column.name)))
}

/// ` AND "fence" <= $n`, if the model has a fence.
fn and_not_fenced(sql: &mut Sql, model: &Model) -> String {
    match model.fence() {
        Some(fence) => format!(" AND {} <= {}", quote(&fence.name), sql.slot(Slot::Fence)),
        None => String::new(),
    }
}

/// ` AND` no other row has the key.
///
/// What the model calls a key may not be unique in the database. Then nothing is written: outside a transaction it could
/// not be taken back when the second row shows up.
fn and_alone(sql: &mut Sql, model: &Model) -> String {
    let same_key = sql.equal(&model.keys());
    format!(" AND {}", no_second(&table(model), &same_key))
}

/// No second row of these matches. It takes the server two thirds of what `count(*) = 1` takes.
fn no_second(rows: &str, condition: &str) -> String {
    format!("NOT EXISTS (SELECT 1 FROM {rows} WHERE {condition} LIMIT 1 OFFSET 1)")
}

/// Reads all columns of the row with this key.
pub(crate) fn select(model: &Model, by: &[&Column], dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let text = format!(
        "SELECT {} FROM {} WHERE {}",
        comma(&model.columns, read),
        table(model),
        sql.equal(by)
    );
    sql.statement(text)
}
