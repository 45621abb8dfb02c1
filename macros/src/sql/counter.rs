//! `Counter`: the key is bound first, then the change, then the lowest and highest old value that allow it.

use super::given::{
    and_folded, fold_lock_timeout, folded, given, given_once, given_with, json_rows, key_arrays,
    parts, same_key,
};
use super::*;

/// The columns that a new counter row needs besides its key, with their values.
fn others<'a>(model: &'a Model, counter: &Column) -> Vec<&'a Column> {
    model
        .columns
        .iter()
        .filter(|column| {
            !column.key
                && column.ident != counter.ident
                && (column.is_counter() || column.role == Role::Version)
        })
        .collect()
}

fn new_row_columns(model: &Model, counter: &Column) -> String {
    let mut columns = model.keys();
    columns.push(counter);
    columns.extend(others(model, counter));
    names(&columns)
}

/// `value`, moved by where the counter starts.
fn from_start(counter: &Column, value: &str) -> String {
    match counter.initial() {
        0 => value.to_owned(),
        start => format!("{start} + {value}"),
    }
}

fn trailing_values(model: &Model, counter: &Column) -> String {
    others(model, counter)
        .iter()
        .map(|column| format!(", {}", column.initial()))
        .collect()
}

/// `value BETWEEN $n AND $n`
fn room(sql: &mut Sql, value: &str) -> String {
    format!(
        "{value} BETWEEN {} AND {}",
        sql.slot(Slot::Lowest),
        sql.slot(Slot::Highest)
    )
}

/// Adds to the row, which is created when it is missing.
pub(crate) fn add(model: &Model, counter: &Column, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let (rows, name) = (table(model), quote(&counter.name));
    let (columns, others) = (
        new_row_columns(model, counter),
        trailing_values(model, counter),
    );
    let (keys, values) = (names(&model.keys()), sql.keys(&model.keys()));
    let change = sql.slot(Slot::Delta);
    let (first, old) = (from_start(counter, &change), existing(model, counter));
    let room = room(&mut sql, &old);
    let text = match dialect {
        Dialect::Postgres | Dialect::Sqlite => format!(
            "INSERT INTO {rows} ({columns}) VALUES ({values}, {first}{others}) ON CONFLICT ({keys}) DO UPDATE SET {name} = {old} + {change} WHERE {room}"
        ),
    };
    sql.statement(text).returning(vec![name])
}

/// Adds to the row if it exists.
pub(crate) fn add_existing(model: &Model, counter: &Column, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let (rows, name) = (table(model), quote(&counter.name));
    let same_key = sql.equal(&model.keys());
    let change = sql.slot(Slot::Delta);
    let (room, alone) = (room(&mut sql, &name), and_alone(&mut sql, model));
    let text =
        format!("UPDATE {rows} SET {name} = {name} + {change} WHERE {same_key} AND {room}{alone}");
    sql.statement(text).returning(vec![name])
}

/// Reads the key as it is stored and the counter, to explain why nothing was added.
pub(crate) fn read(model: &Model, counter: &Column, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let keys = model.keys();
    let text = format!(
        "SELECT {}, {} FROM {} WHERE {}",
        names(&keys),
        quote(&counter.name),
        table(model),
        sql.equal(&keys)
    );
    sql.statement(text)
}

/// Adds to many rows, creating those that are missing. The rows are bound, keys and changes, and then, if there is a guard, the
/// lowest and the highest total.
///
/// Without a guard it is one statement on PostgreSQL, and all or none by itself: if a trigger drops the write of one row, fewer rows
/// are returned than were given, and the root of a negative number fails.
pub(crate) fn add_many(model: &Model, counter: &Column, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let keys = model.keys();
    let (rows, columns) = (table(model), new_row_columns(model, counter));
    let (others, parts) = (trailing_values(model, counter), parts(&keys));
    match dialect {
        Dialect::Postgres => {
            // Nothing waits for a lock with the list in its hand: the upsert takes one row of it after the other.
            let given = given_once(model, &unnested_deltas(&mut sql, model), "rowlock_by");
            let update = update_batch(&mut sql, model, counter);
            let insert = format!(
                "INSERT INTO {rows} ({columns}) SELECT {parts}, \"rowlock_by\"{others} FROM \"rowlock_given\" ORDER BY {parts} {update}"
            );
            let complete = (!has_bounds(counter)).then(|| {
                let by = sql.slot(Slot::Deltas);
                format!("sqrt(count(*) - cardinality({by}::bigint[])) = 0")
            });
            gathered(sql, model, counter, &given, &insert, complete)
        }
        Dialect::Sqlite => {
            let given = valued_deltas(&mut sql, model);
            let update = update_batch(&mut sql, model, counter);
            let text = format!(
                "WITH {given} INSERT INTO {rows} ({columns}) SELECT {parts}, \"rowlock_by\"{others} FROM \"rowlock_given\" WHERE \"rowlock_by\" IS NOT NULL {update}"
            );
            sql.statement(text)
                .returning(each_name(&key_and_total(model, counter)))
        }
    }
}

/// A write over many rows on PostgreSQL that returns its keys and totals in one row of arrays, or none if it wrote nothing: for a hundred
/// rows the client would work as long as the server.
fn gathered(
    sql: Sql,
    model: &Model,
    counter: &Column,
    with: &str,
    write: &str,
    complete: Option<String>,
) -> Statement {
    let columns = key_and_total(model, counter);
    let written = sql.dialect.returning(write, &each_name(&columns));
    let keys = comma(&model.keys(), |key| {
        format!("array_agg({})", quote(&key.name))
    });
    let total = quote(&counter.name);
    let complete = complete.unwrap_or_else(|| "count(*) > 0".to_owned());
    sql.statement(format!(
        "WITH {with}, \"rowlock_added\" AS ({written}) SELECT {keys}, array_agg({total}) FROM \"rowlock_added\" HAVING {complete}"
    ))
}

/// What a batch does to a row that exists.
fn update_batch(sql: &mut Sql, model: &Model, counter: &Column) -> String {
    let (keys, name) = (names(&model.keys()), quote(&counter.name));
    let old = existing(model, counter);
    let change = match counter.initial() {
        0 => format!("\"excluded\".{name}"),
        start => format!("(\"excluded\".{name} - {start})"),
    };
    let set = match guard(sql, counter, &old, &change) {
        Some(guard) => format!("{name} = {old} + {change} WHERE {guard}"),
        // Without a guard nothing tells a row that refused from one that changed, so NULL has to fail.
        None => {
            format!("{name} = CASE WHEN {old} IS NULL THEN {change} / 0 ELSE {old} + {change} END")
        }
    };
    match sql.dialect {
        Dialect::Postgres | Dialect::Sqlite => {
            format!("ON CONFLICT ({keys}) DO UPDATE SET {set}")
        }
    }
}

/// Adds to many rows that exist.
///
/// PostgreSQL locks the rows in the order of their keys before it changes the first, as an upsert does by itself; two batches that
/// overlap would else deadlock. SQLite has one writer at a time.
pub(crate) fn add_existing_many(model: &Model, counter: &Column, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let keys = model.keys();
    let (rows, parts) = (table(model), parts(&keys));
    let (name, old) = (quote(&counter.name), of_row(counter));
    let change = "\"rowlock_given\".\"rowlock_by\"";
    let update = format!("UPDATE {rows} AS \"rowlock_row\" SET {name} = {old} + {change}");
    let same_key = same_key(&keys, "rowlock_given");
    match dialect {
        Dialect::Postgres => {
            let (given, held) = (given_deltas(&mut sql, model), lock_rows(model));
            let guard = and_guard(&mut sql, counter, &old, change);
            let with = format!("{given}, \"rowlock_held\" ({parts}) AS MATERIALIZED ({held})");
            let write = format!(
                "{update} FROM \"rowlock_given\" JOIN \"rowlock_held\" USING ({parts}) WHERE {same_key}{guard}"
            );
            gathered(sql, model, counter, &with, &write, None)
        }
        Dialect::Sqlite => {
            let given = valued_deltas(&mut sql, model);
            let guard = and_guard(&mut sql, counter, &old, change);
            let text = format!(
                "WITH {given} {update} FROM \"rowlock_given\" WHERE \"rowlock_by\" IS NOT NULL AND {same_key}{guard}"
            );
            // No alias: SQLite takes none in RETURNING, and the names of the other columns in the statement are ours.
            sql.statement(text)
                .returning(each_name(&key_and_total(model, counter)))
        }
    }
}

/// Adds to those of many rows that exist and have room for it, and yields the total of each with its number: what calls that wait for
/// [`Lanes`](https://docs.rs/rowlock/latest/rowlock/struct.Lanes.html) become. The others are added to one by one.
pub(crate) fn fold(model: &Model, counter: &Column, dialect: Dialect) -> Option<Statement> {
    if !model.folds {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let keys = model.keys();
    let given = match dialect {
        Dialect::Postgres => {
            let arrays = key_arrays(&mut sql, &keys);
            let numbers = comma([Slot::Deltas, Slot::Lows, Slot::Highs], |slot| {
                format!("(SELECT {}::bigint[])", sql.slot(slot))
            });
            let beside = ["rowlock_by", "rowlock_low", "rowlock_high", "rowlock_n"]
                .map(|name| (name.to_owned(), "::bigint"));
            let unnested = format!("unnest({arrays}, {numbers}) WITH ORDINALITY");
            given_with(model, &unnested, &beside)
        }
        Dialect::Sqlite => {
            let numbers = [
                (Slot::Delta, "rowlock_by"),
                (Slot::Lowest, "rowlock_low"),
                (Slot::Highest, "rowlock_high"),
            ];
            json_rows(&mut sql, &keys, &[], &numbers)
        }
    };
    let (name, old) = (quote(&counter.name), of_row(counter));
    let text = format!(
        "WITH {given} UPDATE {} AS \"rowlock_row\" SET {name} = {old} + \"rowlock_by\" FROM \"rowlock_given\" \
         WHERE {} AND {old} BETWEEN \"rowlock_low\" AND \"rowlock_high\"{}",
        table(model),
        same_key(&keys, "rowlock_given"),
        and_folded(model, dialect),
    );
    let returning = folded(model, &[counter], dialect);
    Some(sql.statement(text).returning(returning))
}

/// The same to one row, for calls that are all about it, on PostgreSQL: half the work of a list of one.
pub(crate) fn fold_one(model: &Model, counter: &Column, dialect: Dialect) -> Option<Statement> {
    let timeout = fold_lock_timeout(dialect).filter(|_| model.folds)?;
    let mut add = add_existing(model, counter, dialect);
    add.text.push_str(&format!(" AND {timeout}"));
    add.returning.push("1::bigint".to_owned());
    Some(add)
}

/// Locks the rows of a batch that exist, in the order of their keys, where there are row locks.
pub(crate) fn lock_batch(model: &Model, dialect: Dialect) -> Option<Statement> {
    match dialect {
        Dialect::Postgres => {
            let mut sql = Sql::new(dialect);
            let text = format!(
                "WITH {} {}",
                given_deltas(&mut sql, model),
                lock_rows(model)
            );
            Some(sql.statement(text))
        }
        Dialect::Sqlite => None,
    }
}

/// The keys of a batch and its changes, on PostgreSQL.
fn given_deltas(sql: &mut Sql, model: &Model) -> String {
    given(model, &unnested_deltas(sql, model), "rowlock_by")
}

fn unnested_deltas(sql: &mut Sql, model: &Model) -> String {
    format!(
        "unnest({}, (SELECT {}::bigint[]))",
        key_arrays(sql, &model.keys()),
        sql.slot(Slot::Deltas)
    )
}

/// The same on SQLite. A few sizes do for all batches, so that each of them stays prepared: what is too much is NULL.
fn valued_deltas(sql: &mut Sql, model: &Model) -> String {
    let keys = model.keys();
    let slots = keys.iter().map(|key| Slot::key(key));
    let rows = sql.rows(slots.chain([Slot::Delta]).collect());
    let parts = parts(&keys);
    format!("\"rowlock_given\" ({parts}, \"rowlock_by\") AS (VALUES {rows})")
}

fn lock_rows(model: &Model) -> String {
    let keys = model.keys();
    let parts = parts(&keys);
    format!(
        "SELECT {parts} FROM {} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {} ORDER BY {parts} FOR NO KEY UPDATE OF \"rowlock_row\"",
        table(model),
        same_key(&keys, "rowlock_given")
    )
}

fn key_and_total<'m>(model: &'m Model, counter: &'m Column) -> Vec<&'m Column> {
    let mut columns = model.keys();
    columns.push(counter);
    columns
}

/// The total is within its bounds. PostgreSQL refuses an overflow itself; SQLite turns the total into a floating-point
/// number, which is beyond the bounds. One just below the lowest integer is equal to it, and refused when it is read, as all are that
/// are no integers.
fn guard(sql: &mut Sql, counter: &Column, old: &str, change: &str) -> Option<String> {
    match sql.dialect {
        // `numeric` has no largest value, so the guard itself cannot overflow.
        Dialect::Postgres => {
            has_bounds(counter).then(|| room(sql, &format!("{old}::numeric + {change}")))
        }
        Dialect::Sqlite => Some(room(sql, &format!("{old} + {change}"))),
    }
}

fn has_bounds(counter: &Column) -> bool {
    matches!(
        counter.role,
        Role::Counter { min: Some(_), .. } | Role::Counter { max: Some(_), .. }
    )
}

fn and_guard(sql: &mut Sql, counter: &Column, old: &str, change: &str) -> String {
    let guard = guard(sql, counter, old, change);
    guard
        .map(|guard| format!(" AND {guard}"))
        .unwrap_or_default()
}
