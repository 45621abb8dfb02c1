//! `Counter`: the key is bound first, then the change, then the lowest and highest old value that allow it.

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

fn room(value: &str, first: usize) -> String {
    format!("{value} BETWEEN ${first} AND ${}", first + 1)
}

/// Adds to the row, which is created when it is missing.
pub(crate) fn add(model: &Model, counter: &Column) -> String {
    let keys = model.keys();
    let change = keys.len() + 1;
    let old = existing(model, counter);
    format!(
        "INSERT INTO {} ({}) VALUES ({}, {}{}) ON CONFLICT ({}) DO UPDATE SET {} = {old} + ${change} WHERE {} RETURNING {}",
        table(model),
        new_row_columns(model, counter),
        comma(1..=keys.len(), |index| format!("${index}")),
        from_start(counter, &format!("${change}")),
        trailing_values(model, counter),
        names(&keys),
        quote(&counter.name),
        room(&old, change + 1),
        quote(&counter.name),
    )
}

/// Adds to the row if it exists.
pub(crate) fn add_existing(model: &Model, counter: &Column) -> String {
    let keys = model.keys();
    let change = keys.len() + 1;
    let name = quote(&counter.name);
    format!(
        "UPDATE {} SET {name} = {name} + ${change} WHERE {} AND {} RETURNING {name}",
        table(model),
        equal(&keys, 1),
        room(&name, change + 1),
    )
}

/// Reads the counter alone, to explain why nothing was added.
pub(crate) fn read(model: &Model, counter: &Column) -> String {
    format!(
        "SELECT {} FROM {} WHERE {}",
        quote(&counter.name),
        table(model),
        equal(&model.keys(), 1)
    )
}

/// A batch: `head`, one `($n, $n, $n` + `row_tail` per row, `tail`; and if there is a guard `$n AND $n`, the lowest
/// and the highest total, and what is `behind_bounds`.
///
/// The parameters stand in the order in which they are bound, so that SQLite can have `?` for each.
pub(crate) struct Batch {
    pub head: String,
    pub row_tail: String,
    pub tail: String,
    /// Whether rows that are missing are created.
    pub creates: bool,
    /// What follows the guard's bounds, if there is one.
    pub behind_bounds: Option<String>,
}

pub(crate) fn add_batch(model: &Model, counter: &Column, dialect: Dialect) -> Batch {
    let keys = model.keys();
    let name = quote(&counter.name);
    let old = existing(model, counter);
    let change = match counter.initial() {
        0 => format!("\"excluded\".{name}"),
        start => format!("(\"excluded\".{name} - {start})"),
    };
    let guarded = guarded(counter, dialect);
    let mut total = format!("{old} + {change}");
    let mut guard = String::new();
    if guarded {
        guard = format!(" WHERE {}", total_between(&old, &change, dialect));
    } else {
        // Without a guard nothing tells a row that refused from one that changed, so NULL has to fail.
        total = format!("CASE WHEN {old} IS NULL THEN {change} / 0 ELSE {total} END");
    }
    let (tail, behind_bounds) = returning(
        format!(
            " ON CONFLICT ({}) DO UPDATE SET {name} = {total}{guard}",
            names(&keys),
        ),
        model,
        counter,
        guarded,
    );
    Batch {
        head: format!(
            "INSERT INTO {} ({}) VALUES ",
            table(model),
            new_row_columns(model, counter)
        ),
        row_tail: format!("{})", trailing_values(model, counter)),
        tail,
        creates: true,
        behind_bounds,
    }
}

/// A batch for rows that exist.
///
/// PostgreSQL locks the rows in the order in which they are given before it changes the first, as an upsert does
/// by itself; two batches that overlap would else deadlock. The order of the key in the database would not do: a
/// collation sorts text in another way than we do. SQLite has one writer at a time.
pub(crate) fn add_existing_batch(model: &Model, counter: &Column, dialect: Dialect) -> Batch {
    let keys = model.keys();
    let name = quote(&counter.name);
    let rows = table(model);
    let key_names = comma(1..=keys.len(), |index| format!("\"rowlock_k{index}\""));
    let join = |left: &dyn Fn(usize, &Column) -> String| {
        and(keys.iter().enumerate(), |(index, key)| {
            format!(
                "{} = \"rowlock_delta\".\"rowlock_k{}\"",
                left(index + 1, key),
                index + 1
            )
        })
    };
    let own = |column: &Column| format!("\"rowlock_row\".{}", quote(&column.name));
    let own_keys = comma(&keys, |key| own(key));
    let own_join = join(&|_, key| own(key));
    let change = "\"rowlock_delta\".\"rowlock_by\"";
    let guarded = guarded(counter, dialect);
    let guard = if guarded {
        let total = total_between(&own(counter), change, dialect);
        format!(" AND {total}")
    } else {
        String::new()
    };
    let (held, from_held) = match dialect {
        Dialect::Postgres => {
            let held_names = comma(1..=keys.len(), |index| format!("\"rowlock_h{index}\""));
            let held_join = join(&|index, _| format!("\"rowlock_held\".\"rowlock_h{index}\""));
            (
                format!(
                    ", \"rowlock_held\" ({held_names}) AS MATERIALIZED (SELECT {own_keys} FROM {rows} AS \"rowlock_row\" JOIN (SELECT *, row_number() OVER () AS \"rowlock_n\" FROM \"rowlock_delta\") AS \"rowlock_delta\" ON {own_join} ORDER BY \"rowlock_n\" FOR NO KEY UPDATE OF \"rowlock_row\")"
                ),
                format!(" JOIN \"rowlock_held\" ON {held_join}"),
            )
        }
        Dialect::Sqlite => (String::new(), String::new()),
    };
    let (tail, behind_bounds) = returning(
        format!(
            "){held} UPDATE {rows} AS \"rowlock_row\" SET {name} = {} + {change} FROM \"rowlock_delta\"{from_held} WHERE {own_join}{guard}",
            own(counter),
        ),
        model,
        counter,
        guarded,
    );
    Batch {
        head: format!("WITH \"rowlock_delta\" ({key_names}, \"rowlock_by\") AS (VALUES "),
        row_tail: ")".to_owned(),
        tail,
        creates: false,
        behind_bounds,
    }
}

/// `tail` with the RETURNING behind it, which the bounds of a guard keep apart.
///
/// SQLite takes no alias there, and needs none: the names of the other columns in the statement are ours.
fn returning(
    mut tail: String,
    model: &Model,
    counter: &Column,
    guarded: bool,
) -> (String, Option<String>) {
    let keys = names(&model.keys());
    let returning = format!(" RETURNING {keys}, {}", quote(&counter.name));
    if guarded {
        return (tail, Some(returning));
    }
    tail.push_str(&returning);
    (tail, None)
}

/// PostgreSQL refuses an overflow itself; SQLite would turn the total into a floating-point number.
fn guarded(counter: &Column, dialect: Dialect) -> bool {
    let declared = matches!(
        counter.role,
        Role::Counter { min: Some(_), .. } | Role::Counter { max: Some(_), .. }
    );
    declared || dialect == Dialect::Sqlite
}

/// The guard, up to its bounds.
fn total_between(old: &str, change: &str, dialect: Dialect) -> String {
    match dialect {
        // `numeric` has no largest value, so the guard itself cannot overflow.
        Dialect::Postgres => format!("{old}::numeric + {change} BETWEEN "),
        Dialect::Sqlite => {
            format!("typeof({old} + {change}) = 'integer' AND {old} + {change} BETWEEN ")
        }
    }
}
