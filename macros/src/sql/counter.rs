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
        "UPDATE {} SET {name} = {name} + ${change} WHERE {} AND {}{} RETURNING {name}",
        table(model),
        equal(&keys, 1),
        room(&name, change + 1),
        and_alone(model, 1),
    )
}

/// Reads the key as it is stored and the counter, to explain why nothing was added.
pub(crate) fn read(model: &Model, counter: &Column) -> String {
    let keys = model.keys();
    format!(
        "SELECT {}, {} FROM {} WHERE {}",
        names(&keys),
        quote(&counter.name),
        table(model),
        equal(&keys, 1)
    )
}

/// A batch. On PostgreSQL `head` is all of it, with an array per column of the key and one of the changes, and then, if there
/// is a guard, the lowest and the highest total. On SQLite: `head`, one `(?, ?, ?` + `row_tail` per row, `tail`; and if there is
/// a guard `? AND ?`, the same two, and what is `behind_bounds`.
pub(crate) struct Batch {
    pub head: String,
    pub row_tail: String,
    pub tail: String,
    /// Whether rows that are missing are created.
    pub creates: bool,
    /// What follows the guard's bounds, if there is one.
    pub behind_bounds: Option<String>,
}

impl Batch {
    /// A text with all of its parameters.
    fn literal(head: String, creates: bool, guarded: bool) -> Self {
        Self {
            head,
            row_tail: String::new(),
            tail: String::new(),
            creates,
            behind_bounds: guarded.then(String::new),
        }
    }
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
    let insert = format!(
        "INSERT INTO {} ({})",
        table(model),
        new_row_columns(model, counter)
    );
    let update = format!(
        " ON CONFLICT ({}) DO UPDATE SET {name} = {total}{guard}",
        names(&keys),
    );
    let returning = returning(model, counter);
    match dialect {
        Dialect::Postgres => {
            let (given, parts) = (given_deltas(model), parts(&keys));
            let others = trailing_values(model, counter);
            let bounds = bounds(&keys, guarded);
            Batch::literal(
                format!(
                    "WITH {given} {insert} SELECT {parts}, \"rowlock_by\"{others} FROM \"rowlock_given\" ORDER BY {parts}{update}{bounds}{returning}"
                ),
                true,
                guarded,
            )
        }
        Dialect::Sqlite => Batch {
            head: format!("{insert} VALUES "),
            row_tail: format!("{})", trailing_values(model, counter)),
            tail: update,
            creates: true,
            behind_bounds: Some(returning),
        },
    }
}

/// A batch for rows that exist.
///
/// PostgreSQL locks the rows in the order of their keys before it changes the first, as an upsert does by itself; two batches that
/// overlap would else deadlock. SQLite has one writer at a time.
pub(crate) fn add_existing_batch(model: &Model, counter: &Column, dialect: Dialect) -> Batch {
    let keys = model.keys();
    let name = quote(&counter.name);
    let rows = table(model);
    let parts = parts(&keys);
    let own_join = given_row(&keys);
    let change = "\"rowlock_given\".\"rowlock_by\"";
    let own = format!("\"rowlock_row\".{name}");
    let guarded = guarded(counter, dialect);
    let guard = if guarded {
        let total = total_between(&own, change, dialect);
        format!(" AND {total}")
    } else {
        String::new()
    };
    let update = format!("UPDATE {rows} AS \"rowlock_row\" SET {name} = {own} + {change} FROM");
    let returning = returning(model, counter);
    match dialect {
        Dialect::Postgres => {
            let (given, held) = (given_deltas(model), lock_rows(model));
            let bounds = bounds(&keys, guarded);
            Batch::literal(
                format!(
                    "WITH {given}, \"rowlock_held\" ({parts}) AS MATERIALIZED ({held}) {update} \"rowlock_given\" JOIN \"rowlock_held\" USING ({parts}) WHERE {own_join}{guard}{bounds}{returning}"
                ),
                false,
                guarded,
            )
        }
        // Without an alias in RETURNING, which SQLite does not take and does not need: the names of the other columns in the
        // statement are ours.
        Dialect::Sqlite => Batch {
            head: format!("WITH \"rowlock_given\" ({parts}, \"rowlock_by\") AS (VALUES "),
            row_tail: ")".to_owned(),
            tail: format!(") {update} \"rowlock_given\" WHERE {own_join}{guard}"),
            creates: false,
            behind_bounds: Some(returning),
        },
    }
}

/// Locks the rows of a batch that exist, in the order of their keys, where there are row locks.
pub(crate) fn lock_batch(model: &Model, dialect: Dialect) -> Option<String> {
    match dialect {
        Dialect::Postgres => Some(format!("WITH {} {}", given_deltas(model), lock_rows(model))),
        Dialect::Sqlite => None,
    }
}

/// The keys of a batch and its changes.
fn given_deltas(model: &Model) -> String {
    let keys = model.keys();
    let unnested = format!(
        "unnest({}, (SELECT ${}::bigint[]))",
        key_arrays(&keys),
        keys.len() + 1
    );
    given(model, &unnested, "rowlock_by")
}

fn lock_rows(model: &Model) -> String {
    let keys = model.keys();
    let parts = parts(&keys);
    format!(
        "SELECT {parts} FROM {} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {} ORDER BY {parts} FOR NO KEY UPDATE OF \"rowlock_row\"",
        table(model),
        given_row(&keys)
    )
}

/// The bounds of the guard as PostgreSQL has them, behind the arrays.
fn bounds(keys: &[&Column], guarded: bool) -> String {
    let behind = keys.len() + 1;
    if guarded {
        format!("${} AND ${}", behind + 1, behind + 2)
    } else {
        String::new()
    }
}

fn returning(model: &Model, counter: &Column) -> String {
    let keys = names(&model.keys());
    format!(" RETURNING {keys}, {}", quote(&counter.name))
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
