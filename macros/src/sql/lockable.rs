//! `Lockable`: rows that nobody else can change until the transaction ends. The lock clause is put behind a SELECT.

use super::*;

/// When the transaction began, in microseconds: no two that follow each other have the same.
const BEGAN: &str = "(date_part('epoch', transaction_timestamp()) * 1000000)::bigint";

/// Behind the columns of a locked row: when the transaction began, negative if it reads all other rows from a snapshot that is older
/// than the lock.
fn began(dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => format!(
            ", {BEGAN} * CASE WHEN current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN -1 ELSE 1 END AS \"rowlock_began\""
        ),
        // Who has the write lock has the newest snapshot, or does not get it. Nothing tells transactions apart.
        Dialect::Sqlite => String::new(),
    }
}

/// Reads the row with this key.
pub(crate) fn select(model: &Model, dialect: Dialect) -> String {
    let all: Vec<&Column> = model.columns.iter().collect();
    format!(
        "SELECT {}{} FROM {} WHERE {}",
        names(&all),
        began(dialect),
        table(model),
        equal(&model.keys(), 1)
    )
}

/// Reads many rows in key order, each with the number of the key that it was found by. On PostgreSQL the first part is all of
/// it, with an array per column; on SQLite the keys and their numbers, from 1, stand between the two.
///
/// The database says which key a row belongs to: what it considers equal, Rust need not.
pub(crate) fn select_many(model: &Model, dialect: Dialect) -> (String, String) {
    let keys = model.keys();
    let select = format!(
        "SELECT {}{}, \"rowlock_n\" FROM {} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {} ORDER BY",
        comma(&model.columns, |column| format!(
            "\"rowlock_row\".{}",
            quote(&column.name)
        )),
        began(dialect),
        table(model),
        given_row(&keys)
    );
    match dialect {
        Dialect::Postgres => {
            let unnested = format!("unnest({}) WITH ORDINALITY", key_arrays(&keys));
            let given = given(model, &unnested, "rowlock_n");
            let sql = format!("WITH {given} {select} {}", parts(&keys));
            (sql, String::new())
        }
        Dialect::Sqlite => (
            format!(
                "WITH \"rowlock_given\" ({}, \"rowlock_n\") AS (VALUES ",
                parts(&keys)
            ),
            format!(
                ") {select} {}",
                comma(&keys, |key| format!("\"rowlock_row\".{}", quote(&key.name)))
            ),
        ),
    }
}

/// Takes the write lock of a database that has no row locks, without changing anything.
pub(crate) fn write_lock(model: &Model, dialect: Dialect) -> Option<String> {
    let key = quote(&model.keys().first()?.name);
    match dialect {
        Dialect::Postgres => None,
        Dialect::Sqlite => Some(format!(
            "UPDATE {} SET {key} = {key} WHERE false",
            table(model)
        )),
    }
}

/// What the database changed: the version, then everything that others write.
pub(crate) fn returned(model: &Model) -> Vec<&Column> {
    let returned = super::versioned::returned(model);
    // RETURNING cannot be empty.
    if returned.is_empty() {
        model.keys()
    } else {
        returned
    }
}

/// Writes all columns of a row that is locked: `$1…` are the columns, then the key, then the version and the fence if there is one. A
/// version must be the one that was read, or another save of the same transaction would be lost, and goes up. On PostgreSQL then
/// comes when the transaction began that locked the row: another one has no lock.
///
/// What a trigger returned instead of the new row is what RETURNING shows. The version tells; without one the last column says
/// on PostgreSQL whether the row is as it was before. SQLite's triggers return nothing.
pub(crate) fn update(model: &Model, dialect: Dialect) -> String {
    let (columns, keys) = (model.writable(), model.keys());
    let first = columns.len() + 1;
    let version = first + keys.len();
    let fence = version + model.version().iter().count();
    let began = fence + model.fence().iter().count();
    let same_version = model.version().map(|column| {
        let name = quote(&column.name);
        format!(" AND {name} = ${version}")
    });
    let mut set: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| format!("{} = ${}", quote(&column.name), index + 1))
        .collect();
    set.extend(model.version().map(bump));
    set.extend(
        model
            .fence()
            .map(|column| format!("{} = ${fence}", quote(&column.name))),
    );
    if set.is_empty() {
        set.extend(
            keys.first()
                .map(|key| format!("{0} = {0}", quote(&key.name))),
        );
    }
    let (same_transaction, unchanged) = match dialect {
        Dialect::Postgres => {
            let unchanged = format!(
                ", (SELECT \"rowlock_old\"::record *= \"rowlock_row\"::record FROM {} AS \"rowlock_old\" WHERE {})::int",
                table(model),
                equal(&keys, first)
            );
            let unchanged = model.version().is_none().then_some(unchanged);
            (format!(" AND {BEGAN} = ${began}"), unchanged)
        }
        Dialect::Sqlite => (String::new(), None),
    };
    let row = match dialect {
        Dialect::Postgres => " AS \"rowlock_row\"",
        Dialect::Sqlite => "",
    };
    format!(
        "UPDATE {}{row} SET {} WHERE {}{}{}{same_transaction}{} RETURNING {}{}",
        table(model),
        set.join(", "),
        equal(&keys, first),
        same_version.unwrap_or_default(),
        and_not_fenced(model, fence),
        and_alone(model, first),
        names(&returned(model)),
        unchanged.unwrap_or_default(),
    )
}
