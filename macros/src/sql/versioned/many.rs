//! The same about many rows, each found by its key: an array per column on PostgreSQL. SQLite gains little by it, and writes them one by one.

use super::super::given::{
    and_folded, folded, given_with, json_rows, key_arrays, parts, same_key, select_given,
};
use super::*;

/// Reads many rows, each with the number of the key that it was found by, from 1.
pub(crate) fn load(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let text = select_given(&mut sql, model, "");
    sql.statement(text)
}

/// Writes all columns of the rows that have the version given, and yields what the database changed, with the number of each.
pub(crate) fn update(model: &Model, version: &Column, dialect: Dialect) -> Option<Statement> {
    if !dialect.has_arrays() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let writable = model.writable();
    let held = held(&mut sql, model, version, &writable, "FOR NO KEY UPDATE");
    let text = format!(
        "WITH {held} UPDATE {} SET {} FROM \"rowlock_held\" WHERE {}",
        table(model),
        new_values(model, version),
        unchanged(model, version),
    );
    let mut returning = each_name(&returned(model));
    returning.push("\"rowlock_n\"".to_owned());
    Some(sql.statement(text).returning(returning))
}

/// The same where each row is the call of another caller, who has waited for [`Lanes`](https://docs.rs/rowlock/latest/rowlock/struct.Lanes.html).
///
/// The rows are not locked before, which would take half as long again: they are met in the order given, and where the planner has it otherwise, a
/// deadlock makes the calls go one by one.
pub(crate) fn fold(model: &Model, version: &Column, dialect: Dialect) -> Option<Statement> {
    if !model.folds {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let writable = model.writable();
    let given = match dialect {
        Dialect::Postgres => new_rows(&mut sql, model, &writable),
        Dialect::Sqlite => {
            let fence = model.fence().map(|_| (Slot::Fence, "rowlock_fence"));
            let numbers = std::iter::once((Slot::Version, "rowlock_version")).chain(fence);
            let numbers: Vec<_> = numbers.collect();
            json_rows(&mut sql, &model.keys(), &writable, &numbers)
        }
    };
    let text = format!(
        "WITH {given} UPDATE {} AS \"rowlock_row\" SET {} FROM \"rowlock_given\" WHERE {} AND {}{}",
        table(model),
        new_values(model, version),
        same_key(&model.keys(), "rowlock_given"),
        same_version(model, version),
        and_folded(model, dialect),
    );
    let returning = folded(model, &returned(model), dialect);
    Some(sql.statement(text).returning(returning))
}

/// What an update sets, from the columns beside the keys.
fn new_values(model: &Model, version: &Column) -> String {
    let writable = model.writable();
    let columns = writable.iter().zip(1..);
    let set =
        columns.map(|(column, number)| format!("{}\"rowlock_c{number}\"", super::set(column)));
    let raised = (!version.is_xmin()).then(|| bump(version));
    let fence = model
        .fence()
        .map(|fence| format!("{}\"rowlock_fence\"", super::set(fence)));
    let set = set.chain(raised).chain(fence).chain(on_update(model));
    match comma(set, |set| set) {
        none if none.is_empty() => same(model),
        set => set,
    }
}

/// Deletes the rows that have the version given, and yields the number of each.
pub(crate) fn delete(model: &Model, version: &Column, dialect: Dialect) -> Option<Statement> {
    if !dialect.has_arrays() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let held = held(&mut sql, model, version, &[], "FOR UPDATE");
    let text = format!(
        "WITH {held} DELETE FROM {} USING \"rowlock_held\" WHERE {}",
        table(model),
        unchanged(model, version),
    );
    Some(
        sql.statement(text)
            .returning(vec!["\"rowlock_n\"".to_owned()]),
    )
}

/// The rows given, with new values for these columns, whose rows in the table have their version: locked in the order of their keys, as
/// everything locks that locks several. Two that write the same rows in different orders would deadlock.
///
/// What the model calls a key may not be unique in the database: such a row is left out, see [`and_alone`].
fn held(sql: &mut Sql, model: &Model, version: &Column, columns: &[&Column], lock: &str) -> String {
    let (keys, rows) = (model.keys(), table(model));
    let given = new_rows(sql, model, columns);
    let others = and(keys.iter().zip(1..), |(key, part)| {
        format!(
            "\"rowlock_other\".{} = \"rowlock_k{part}\"",
            quote(&key.name)
        )
    });
    format!(
        "{given}, \"rowlock_held\" AS MATERIALIZED (SELECT \"rowlock_given\".* FROM {rows} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {} \
         AND {} WHERE (SELECT count(*) FROM {rows} AS \"rowlock_other\" WHERE {others}) = 1 ORDER BY {} {lock} OF \"rowlock_row\")",
        same_key(&keys, "rowlock_given"),
        same_version(model, version),
        parts(&keys),
    )
}

/// The rows given, as a CTE: keys, new values of these columns, versions, fences, numbers.
fn new_rows(sql: &mut Sql, model: &Model, columns: &[&Column]) -> String {
    let mut arrays = key_arrays(sql, &model.keys());
    let mut beside: Vec<(String, &str)> = Vec::new();
    for (column, number) in columns.iter().zip(1..) {
        arrays.push_str(&format!(", (SELECT {})", sql.slot(Slot::columns(column))));
        beside.push((format!("rowlock_c{number}"), ""));
    }
    let fences = model.fence().map(|_| (Slot::Fences, "rowlock_fence"));
    let numbers = std::iter::once((Slot::Versions, "rowlock_version")).chain(fences);
    for (slot, name) in numbers {
        arrays.push_str(&format!(", (SELECT {}::bigint[])", sql.slot(slot)));
        beside.push((name.to_owned(), "::bigint"));
    }
    beside.push(("rowlock_n".to_owned(), "::bigint"));
    let unnested = format!("unnest({arrays}) WITH ORDINALITY");
    given_with(model, &unnested, &beside)
}

/// The row that was held, which nobody else has changed since; but this statement may have, if it was given twice.
fn unchanged(model: &Model, version: &Column) -> String {
    let key = and(model.keys().iter().zip(1..), |(key, part)| {
        format!("{} = \"rowlock_k{part}\"", quote(&key.name))
    });
    format!("{key} AND {}", same_version(model, version))
}

fn same_version(model: &Model, version: &Column) -> String {
    let fence = model
        .fence()
        .map(|fence| format!(" AND {} <= \"rowlock_fence\"", quote(&fence.name)));
    format!(
        "{} = \"rowlock_version\"{}",
        value(version),
        fence.unwrap_or_default()
    )
}
