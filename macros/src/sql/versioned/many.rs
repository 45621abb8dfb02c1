//! The same about many rows, each found by its key: an array per column on PostgreSQL. SQLite gains little by it, and writes them one by one.
//!
//! A write has two statements there: one that first locks all the rows, in the order of their keys, and one at once, for half of the server's time.
//! The latter waits for no lock for long, as it deadlocks with whoever locks in another order. Its keys are integers or UUIDs, of which the
//! caller knows which are equal; others are compared as their columns compare them, and of those that are equal the first is chosen.

use super::super::given::{
    and_folded, folded, given_once, given_with, is_exact, json_rows, key_arrays, parts, same_key,
    select_given, waits_briefly_and_is_plain,
};
use super::*;

/// Reads many rows, each with the number of the key that it was found by, from 1.
pub(crate) fn load(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let text = select_given(&mut sql, model, "", given_once);
    sql.statement(text)
}

/// The same, each with its key after its columns, where a key is one value that Rust compares as the database does: half as much for the server as
/// a join with a list.
pub(crate) fn load_any(model: &Model, dialect: Dialect) -> Option<Statement> {
    let keys = model.keys();
    let ([key], true) = (&*keys, dialect.has_arrays()) else {
        return None;
    };
    if !is_exact(key) {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let name = quote(&key.name);
    let given = sql.slot(Slot::keys(key));
    Some(sql.statement(format!(
        "SELECT {}, {name} AS \"rowlock_k1\" FROM {} AS \"rowlock_row\" WHERE {name} = ANY ({given})",
        comma(&model.columns, of_row),
        table(model)
    )))
}

/// Writes all columns of the rows that have the version given, and yields what the database changed, with the number of each.
pub(crate) fn update(model: &Model, version: &Column, dialect: Dialect) -> Option<Statement> {
    if !dialect.has_arrays() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let given = new_rows(&mut sql, model, &model.writable());
    let held = held(model, version, &given, "FOR NO KEY UPDATE");
    let text = format!(
        "WITH {held} UPDATE {} SET {} FROM {} WHERE {}",
        table(model),
        new_values(model, version),
        first_of_each(model),
        has_key(model),
    );
    Some(sql.statement(text).returning(numbered(model)))
}

/// The same at once.
pub(crate) fn update_at_once(
    model: &Model,
    version: &Column,
    dialect: Dialect,
) -> Option<Statement> {
    if !dialect.has_arrays() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let text = format!(
        "WITH {} UPDATE {} SET {} FROM \"rowlock_given\" WHERE {}",
        new_keys(&mut sql, model, &model.writable()),
        table(model),
        new_values(model, version),
        is_at_once(model, version),
    );
    Some(sql.statement(text).returning(with_keys(model)))
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

/// Writes some columns, the same of each row: what is changed is in four gaps, its arrays are bound last.
pub(crate) fn save(model: &Model, version: &Column, dialect: Dialect) -> Option<Statement> {
    if !dialect.has_arrays() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let keys = model.keys();
    let mut arrays = key_arrays(&mut sql, &keys);
    let (mut named, mut empty) = (parts(&keys), names(&keys));
    for (slot, name) in numbers(model) {
        arrays.push_str(&format!(", (SELECT {}::bigint[])", sql.slot(slot)));
        named.push_str(&format!(", \"{name}\""));
        empty.push_str(", NULL::bigint");
    }
    let given = format!(
        "\"rowlock_given\" ({named}{}, \"rowlock_n\") AS MATERIALIZED (SELECT {empty}{}, NULL::bigint FROM {} WHERE false \
         UNION ALL SELECT * FROM unnest({arrays}{}) WITH ORDINALITY)",
        Gap::Columns,
        Gap::Nulls,
        table(model),
        Gap::Values,
    );
    let text = format!(
        "WITH {} UPDATE {} SET {}{} FROM {} WHERE {}",
        held(model, version, &given, "FOR NO KEY UPDATE"),
        table(model),
        Gap::Changes,
        comma(also_set(model, version), |set| set),
        first_of_each(model),
        has_key(model),
    );
    Some(sql.statement(text).returning(numbered(model)))
}

/// The same at once.
pub(crate) fn save_at_once(model: &Model, version: &Column, dialect: Dialect) -> Option<Statement> {
    if !dialect.has_arrays() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let keys = model.keys();
    let mut arrays = key_arrays(&mut sql, &keys);
    let mut named = parts(&keys);
    for (slot, name) in numbers(model) {
        arrays.push_str(&format!(", (SELECT {}::bigint[])", sql.slot(slot)));
        named.push_str(&format!(", \"{name}\""));
    }
    let text = format!(
        "WITH \"rowlock_given\" ({named}{}) AS (SELECT * FROM unnest({arrays}{})) \
         UPDATE {} SET {}{} FROM \"rowlock_given\" WHERE {}",
        Gap::Columns,
        Gap::Values,
        table(model),
        Gap::Changes,
        comma(also_set(model, version), |set| set),
        is_at_once(model, version),
    );
    Some(sql.statement(text).returning(with_keys(model)))
}

/// What a write at once returns of each row: what the database changed, and its key as it was given, which costs the server less than a number.
fn with_keys(model: &Model) -> Vec<String> {
    let mut returning = each_name(&returned(model));
    returning.push(parts(&model.keys()));
    returning
}

/// What a write returns of each row: what the database changed, and its number.
fn numbered(model: &Model) -> Vec<String> {
    let mut returning = each_name(&returned(model));
    returning.push("\"rowlock_n\"".to_owned());
    returning
}

/// Inserts many rows, and yields each with its number.
///
/// The n-th that was inserted is the n-th in the order of the keys, unless a trigger or a rule dropped one: then nobody knows which,
/// and the statement fails, with what is no number, before it has written any.
pub(crate) fn insert(
    model: &Model,
    version: Option<&Column>,
    dialect: Dialect,
) -> Option<Statement> {
    let given = inserted(model);
    if !dialect.has_arrays() || given.is_empty() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let place = |index: usize| format!("\"rowlock_c{}\"", index + 1);
    let places: Vec<String> = (0..given.len()).map(place).collect();
    let arrays = comma(&given, |column| {
        format!("(SELECT {})", sql.slot(Slot::columns(column)))
    });
    let of_key = given.iter().zip(&places);
    let of_key = of_key.filter(|(column, _)| column.key);
    let of_key = of_key.map(|(_, place)| place.clone());
    let in_order = comma(of_key.chain(["\"rowlock_n\"".to_owned()]), |part| part);
    let empty = comma(&given, |column| match column.key {
        true => quote(&column.name),
        false => "NULL".to_owned(),
    });
    let (into, values) = row_to_insert(model, version, &given, &places);
    let rows = table(model);
    let all: Vec<&Column> = model.columns.iter().collect();
    Some(sql.statement(format!(
        "WITH \"rowlock_given\" ({0}, \"rowlock_n\") AS MATERIALIZED (SELECT {empty}, NULL::bigint FROM {rows} WHERE false \
         UNION ALL SELECT * FROM unnest({arrays}) WITH ORDINALITY), \
         \"rowlock_sorted\" AS MATERIALIZED (SELECT *, row_number() OVER (ORDER BY {in_order}) AS \"rowlock_m\" FROM \"rowlock_given\"), \
         \"rowlock_new\" AS (INSERT INTO {rows} ({into}) SELECT {values} FROM \"rowlock_sorted\" ORDER BY \"rowlock_m\" RETURNING {1}), \
         \"rowlock_counted\" AS (SELECT *, row_number() OVER () AS \"rowlock_o\", count(*) OVER () AS \"rowlock_count\" FROM \"rowlock_new\") \
         SELECT {2}, CASE WHEN \"rowlock_count\" = (SELECT count(*) FROM \"rowlock_given\") THEN \"rowlock_n\"::text ELSE 'a row was dropped' END::bigint \
         FROM \"rowlock_counted\" JOIN \"rowlock_sorted\" ON \"rowlock_m\" = \"rowlock_o\"",
        comma(&places, |place| place.clone()),
        comma(&all, |column| read(column)),
        names(&all),
    )))
}

/// What an update sets, from the columns beside the keys.
fn new_values(model: &Model, version: &Column) -> String {
    let writable = model.writable();
    let columns = writable.iter().zip(1..);
    let set =
        columns.map(|(column, number)| format!("{}\"rowlock_c{number}\"", super::set(column)));
    match comma(set.chain(also_set(model, version)), |set| set) {
        none if none.is_empty() => same(model),
        set => set,
    }
}

/// What an update sets beside the values given.
fn also_set(model: &Model, version: &Column) -> impl Iterator<Item = String> {
    let raised = (!version.is_xmin()).then(|| bump(version));
    let fence = model
        .fence()
        .map(|fence| format!("{}\"rowlock_fence\"", super::set(fence)));
    raised.into_iter().chain(fence).chain(on_update(model))
}

/// Deletes the rows that have the version given, and yields the number of each.
pub(crate) fn delete(model: &Model, version: &Column, dialect: Dialect) -> Option<Statement> {
    if !dialect.has_arrays() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let given = new_rows(&mut sql, model, &[]);
    let held = held(model, version, &given, "FOR UPDATE");
    let text = format!(
        "WITH {held} DELETE FROM {} USING {} WHERE {}",
        table(model),
        first_of_each(model),
        has_key(model),
    );
    Some(
        sql.statement(text)
            .returning(vec!["\"rowlock_n\"".to_owned()]),
    )
}

/// The same at once.
pub(crate) fn delete_at_once(
    model: &Model,
    version: &Column,
    dialect: Dialect,
) -> Option<Statement> {
    if !dialect.has_arrays() {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let text = format!(
        "WITH {} DELETE FROM {} USING \"rowlock_given\" WHERE {}",
        new_keys(&mut sql, model, &[]),
        table(model),
        is_at_once(model, version),
    );
    let returning = vec![parts(&model.keys())];
    Some(sql.statement(text).returning(returning))
}

/// The rows given whose rows in the table have their version: locked in the order of their keys, as
/// everything locks that locks several. Two that write the same rows in different orders would deadlock.
///
/// What the model calls a key may not be unique in the database: such a row is left out, see [`and_alone`].
fn held(model: &Model, version: &Column, given: &str, lock: &str) -> String {
    let (keys, rows) = (model.keys(), table(model));
    format!(
        "{given}, \"rowlock_held\" AS MATERIALIZED (SELECT \"rowlock_given\".* FROM {rows} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {} \
         AND {} WHERE {} ORDER BY {} {lock} OF \"rowlock_row\")",
        same_key(&keys, "rowlock_given"),
        same_version(model, version),
        no_other(model),
        parts(&keys),
    )
}

/// The rows given, as a CTE: keys, new values of these columns, versions, fences, numbers.
fn new_rows(sql: &mut Sql, model: &Model, columns: &[&Column]) -> String {
    let (unnested, mut beside) = unnested(sql, model, columns);
    beside.push(("rowlock_n".to_owned(), "::bigint"));
    given_with(model, &format!("{unnested} WITH ORDINALITY"), &beside)
}

/// The same without numbers, of keys that need no collation of a column. It is a part of the join, which a list of arrays alone can be: what a row is
/// compared with again, after a wait for its lock, the server has kept.
fn new_keys(sql: &mut Sql, model: &Model, columns: &[&Column]) -> String {
    let (unnested, beside) = unnested(sql, model, columns);
    let beside = comma(&beside, |(name, _)| format!("\"{name}\""));
    format!(
        "\"rowlock_given\" ({}, {beside}) AS (SELECT * FROM {unnested})",
        parts(&model.keys())
    )
}

/// The arrays of the rows given, as a table, and what is in it beside the keys.
fn unnested<'m>(
    sql: &mut Sql,
    model: &'m Model,
    columns: &[&Column],
) -> (String, Vec<(String, &'m str)>) {
    let mut arrays = key_arrays(sql, &model.keys());
    let mut beside = Vec::new();
    for (column, number) in columns.iter().zip(1..) {
        arrays.push_str(&format!(", (SELECT {})", sql.slot(Slot::columns(column))));
        beside.push((format!("rowlock_c{number}"), ""));
    }
    for (slot, name) in numbers(model) {
        arrays.push_str(&format!(", (SELECT {}::bigint[])", sql.slot(slot)));
        beside.push((name.to_owned(), "::bigint"));
    }
    (format!("unnest({arrays})"), beside)
}

/// The versions given, and the fences.
fn numbers(model: &Model) -> impl Iterator<Item = (Slot, &'static str)> {
    let fences = model.fence().map(|_| (Slot::Fences, "rowlock_fence"));
    std::iter::once((Slot::Versions, "rowlock_version")).chain(fences)
}

/// Of those held that are about the same row the one that was given first: a join takes any of them.
fn first_of_each(model: &Model) -> String {
    let parts = parts(&model.keys());
    format!(
        "(SELECT DISTINCT ON ({parts}) * FROM \"rowlock_held\" ORDER BY {parts}, \"rowlock_n\") AS \"rowlock_first\""
    )
}

/// Where it was locked before, nobody has changed it since.
fn has_key(model: &Model) -> String {
    and(model.keys().iter().zip(1..), |(key, part)| {
        format!("{} = \"rowlock_k{part}\"", quote(&key.name))
    })
}

/// No other row has the key.
fn no_other(model: &Model) -> String {
    let others = and(model.keys().iter().zip(1..), |(key, part)| {
        format!(
            "\"rowlock_other\".{} = \"rowlock_k{part}\"",
            quote(&key.name)
        )
    });
    no_second(&format!("{} AS \"rowlock_other\"", table(model)), &others)
}

/// Which row a write at once is about, and on which conditions.
///
/// That no other has its key, the server knows of all of them where the table says so.
fn is_at_once(model: &Model, version: &Column) -> String {
    format!(
        "{} AND {} AND ({} OR {}) AND {}",
        has_key(model),
        same_version(model, version),
        is_unique(model),
        no_other(model),
        waits_briefly_and_is_plain(model),
    )
}

/// Whether the table has a unique index on the key or on a part of it. A table that inherits from it would have rows that are not in that.
fn is_unique(model: &Model) -> String {
    let table = text(&table(model));
    let names = comma(model.keys(), |key| text(&key.name));
    format!(
        "EXISTS (SELECT 1 FROM pg_catalog.pg_index AS i WHERE i.indrelid = {table}::pg_catalog.regclass \
         AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indnkeyatts = \
         (SELECT count(*) FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = i.indrelid AND a.attname IN ({names}) \
         AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])))"
    )
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
