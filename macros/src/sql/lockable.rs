//! `Lockable`: rows that nobody else can change until the transaction ends.

use super::given::{given, parts, select_given};
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

/// Where a SELECT says how it locks, which SQLite cannot.
fn lock(dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => Gap::Lock.to_string(),
        Dialect::Sqlite => String::new(),
    }
}

/// Reads the row with this key.
pub(crate) fn select(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let text = format!(
        "SELECT {}{} FROM {} WHERE {}{}",
        comma(&model.columns, read),
        began(dialect),
        table(model),
        sql.equal(&model.keys()),
        lock(dialect),
    );
    sql.statement(text)
}

/// Reads many rows in key order, each with the number of the key that it was found by, from 1.
pub(crate) fn select_many(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let select = select_given(&mut sql, model, &began(dialect), given);
    let keys = model.keys();
    let text = match dialect {
        Dialect::Postgres => format!("{select} ORDER BY {}{}", parts(&keys), Gap::Lock),
        Dialect::Sqlite => format!("{select} ORDER BY {}", comma(keys, of_row)),
    };
    sql.statement(text)
}

/// Reads the rows that meet a condition, in key order. How it locks comes at the end.
pub(crate) fn select_where(model: &Model, dialect: Dialect) -> Statement {
    let text = format!(
        "SELECT {}{} FROM {} WHERE {} ORDER BY {}",
        comma(&model.columns, read),
        began(dialect),
        table(model),
        Gap::Condition,
        names(&model.keys()),
    );
    Sql::new(dialect).statement(text)
}

/// Takes the write lock of a database that has no row locks, without changing anything.
pub(crate) fn write_lock(model: &Model, dialect: Dialect) -> Option<Statement> {
    let key = quote(&model.keys().first()?.name);
    match dialect {
        Dialect::Postgres => None,
        Dialect::Sqlite => {
            let text = format!("UPDATE {} SET {key} = {key} WHERE false", table(model));
            Some(Sql::new(dialect).statement(text))
        }
    }
}

/// What a lock runs, as it is shown to readers.
pub(crate) fn shown(model: &Model, select: &Statement) -> String {
    let select_shown = select.parts().join(" FOR UPDATE");
    match write_lock(model, select.dialect) {
        Some(write_lock) => format!("{};\n{select_shown}", write_lock.shown()),
        None => select_shown,
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

/// Writes all columns of a row that is locked: they are bound first, then the key, then the version and the fence if there is one. A
/// version must be the one that was read, or another save of the same transaction would be lost, and goes up. On PostgreSQL then
/// comes when the transaction began that locked the row: another one has no lock.
///
/// What a trigger returned instead of the new row is what RETURNING shows. The version tells; without one the last column says
/// on PostgreSQL whether the row is as it was before. SQLite's triggers return nothing.
pub(crate) fn update(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let keys = model.keys();
    let mut set: Vec<String> = model
        .writable()
        .into_iter()
        .map(|column| {
            format!(
                "{} = {}",
                quote(&column.name),
                sql.slot(Slot::column(column))
            )
        })
        .collect();
    let same_key = sql.equal(&keys);
    let same_version = model.version().map(|version| {
        format!(
            " AND {} = {}",
            quote(&version.name),
            sql.slot(Slot::Version)
        )
    });
    let not_fenced = and_not_fenced(&mut sql, model);
    set.extend(model.version().map(bump));
    set.extend(
        model
            .fence()
            .map(|fence| format!("{} = {}", quote(&fence.name), sql.slot(Slot::Fence))),
    );
    set.extend(on_update(model));
    if set.is_empty() {
        set.extend(
            keys.first()
                .map(|key| format!("{0} = {0}", quote(&key.name))),
        );
    }
    let (rows, set) = (table(model), set.join(", "));
    let mut returning = each_name(&returned(model));
    let same_transaction = match dialect {
        Dialect::Postgres => {
            // The row under the name of its table, by which an expression calls it too; with a star, or it could be a column.
            if model.version().is_none() {
                returning.push(format!(
                    "(SELECT (\"rowlock_old\".*)::record *= ({}.*)::record FROM {rows} AS \"rowlock_old\" WHERE {same_key})::int",
                    quote(&model.table.name)
                ));
            }
            let began = sql.slot(Slot::Began);
            format!(" AND {BEGAN} = {began}")
        }
        Dialect::Sqlite => String::new(),
    };
    let same_version = same_version.unwrap_or_default();
    let alone = and_alone(&mut sql, model);
    let text = format!(
        "UPDATE {rows} SET {set} WHERE {same_key}{same_version}{not_fenced}{same_transaction}{alone}"
    );
    sql.statement(text).returning(returning)
}
