//! The keys of many rows, as a table beside the table: out of an array per column on PostgreSQL, out of one JSON text on SQLite.

use super::*;
use crate::model::{inside_option, last_segment};

/// `"rowlock_k1", "rowlock_k2"`: the columns of a key beside the table.
pub(super) fn parts(keys: &[&Column]) -> String {
    comma(1..=keys.len(), |index| format!("\"rowlock_k{index}\""))
}

/// `"rowlock_row"."a" = "beside"."rowlock_k1"`, for each column of the key.
pub(super) fn same_key(keys: &[&Column], beside: &str) -> String {
    and(keys.iter().zip(1..), |(key, part)| {
        let name = quote(&key.name);
        format!("\"rowlock_row\".{name} = \"{beside}\".\"rowlock_k{part}\"")
    })
}

/// The keys of many rows on PostgreSQL, as the CTE `"rowlock_given"`: `unnested` yields them and a bigint, which is called
/// `number`.
///
/// The half that is empty gives them the collation of the table's columns. So ORDER BY them is the same order for
/// whoever locks several rows, whether he finds them or creates them; two orders would deadlock. It comes first,
/// because of two types that are equally good that of the first half is taken: texts become `char(n)` with a column of that type,
/// and blanks at their ends do not count.
///
/// Materialized: PostgreSQL would make a list that is read once a part of the join, and where a lock has waited for an update, it
/// runs the join again for the new version of the row. It reads `unnest` anew then, and where the scan stands is lost: rows are
/// left out that are there.
pub(super) fn given(model: &Model, unnested: &str, number: &str) -> String {
    given_with(model, unnested, &[(number.to_owned(), "::bigint")])
}

/// The same with more `beside` the keys: names, and the types of those that the parameters do not have.
pub(super) fn given_with(model: &Model, unnested: &str, beside: &[(String, &str)]) -> String {
    listed(model, &model.keys(), unnested, beside, "MATERIALIZED ")
}

/// The same, where nothing waits for a lock with the list in its hand.
pub(super) fn given_once(model: &Model, unnested: &str, number: &str) -> String {
    given_once_by(model, &model.keys(), unnested, number)
}

/// The same of other columns than the key.
pub(super) fn given_once_by(model: &Model, by: &[&Column], unnested: &str, number: &str) -> String {
    let number = [(number.to_owned(), "::bigint")];
    listed(model, by, unnested, &number, "")
}

fn listed(
    model: &Model,
    keys: &[&Column],
    unnested: &str,
    beside: &[(String, &str)],
    kept: &str,
) -> String {
    format!(
        "\"rowlock_given\" ({}, {}) AS {kept}(SELECT {}, {} FROM {} WHERE false UNION ALL SELECT * FROM {unnested})",
        parts(keys),
        comma(beside, |(name, _)| format!("\"{name}\"")),
        names(keys),
        comma(beside, |(_, ty)| format!("NULL{ty}")),
        table(model)
    )
}

/// Reads the rows of many keys, each with the number of the key that it was found by, from 1. `beside`: what else, after its columns.
///
/// `given`: [`given`], where the rows are locked, else [`given_once`].
///
/// The database says which key a row belongs to: what it considers equal, Rust need not.
pub(super) fn select_given(
    sql: &mut Sql,
    model: &Model,
    beside: &str,
    given: fn(&Model, &str, &str) -> String,
) -> String {
    let keys = model.keys();
    let given = match sql.dialect {
        Dialect::Postgres => {
            let unnested = format!("unnest({}) WITH ORDINALITY", key_arrays(sql, &keys));
            given(model, &unnested, "rowlock_n")
        }
        Dialect::Sqlite => numbered_json(sql, &keys),
    };
    format!(
        "WITH {given} SELECT {}{beside}, \"rowlock_n\" FROM {} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {}",
        comma(&model.columns, of_row),
        table(model),
        same_key(&keys, "rowlock_given")
    )
}

/// The keys of many rows on SQLite, as [`given`], with the number of each.
pub(super) fn numbered_json(sql: &mut Sql, keys: &[&Column]) -> String {
    let row = Slot::Rows(keys.iter().map(|key| Slot::key(key)).collect());
    format!(
        "\"rowlock_given\" ({}, \"rowlock_n\") AS MATERIALIZED (SELECT {}, key + 1 FROM json_each({}))",
        parts(keys),
        of_json(keys, 0),
        sql.slot(row),
    )
}

/// Many rows on SQLite, as [`given`]: their keys, the values of these columns, and numbers.
pub(super) fn json_rows(
    sql: &mut Sql,
    keys: &[&Column],
    columns: &[&Column],
    numbers: &[(Slot, &str)],
) -> String {
    let slots = keys.iter().map(|key| Slot::key(key));
    let slots = slots.chain(columns.iter().map(|column| Slot::column(column)));
    let row = Slot::Rows(
        slots
            .chain(numbers.iter().map(|(slot, _)| slot.clone()))
            .collect(),
    );
    let beside = (1..=columns.len()).map(|number| format!("\"rowlock_c{number}\""));
    let beside = beside.chain(numbers.iter().map(|(_, name)| format!("\"{name}\"")));
    format!(
        "\"rowlock_given\" ({}, {}) AS MATERIALIZED (SELECT {} FROM json_each({}))",
        parts(keys),
        comma(beside, |name| name),
        of_json(&[keys, columns].concat(), numbers.len()),
        sql.slot(row),
    )
}

/// `(SELECT $1), (SELECT $2)`: an array per column of the key. As a subquery its length is nothing to plan by, so that one
/// plan serves all calls.
pub(super) fn key_arrays(sql: &mut Sql, keys: &[&Column]) -> String {
    comma(keys, |key| {
        format!("(SELECT {})", sql.slot(Slot::keys(key)))
    })
}

/// `value ->> 0, value ->> 1`: the values of a row of `json_each($n)` on SQLite, as [`Slot::Rows`] has them.
///
/// They have no affinity and no collation, so those of the column count where they are compared. JSON has no blobs: instead of one
/// it has NULL, and its hexadecimal digits after the last value of the row.
pub(super) fn of_json(keys: &[&Column], beside: usize) -> String {
    let count = keys.len() + beside;
    comma(0..count, |index| match keys.get(index) {
        Some(key) if may_be_blob(key) => {
            format!(
                "coalesce(value ->> {index}, unhex(value ->> {}))",
                count + index
            )
        }
        _ => format!("value ->> {index}"),
    })
}

/// Whether sqlx may write a value of this type as a blob: what it does with a type of the user nobody knows before.
fn may_be_blob(column: &Column) -> bool {
    const NEVER: &[&str] = &[
        "bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "String",
    ];
    !last_segment(&column.ty).is_some_and(|name| NEVER.contains(&name.as_str()))
}

/// Sets how long a statement waits for locks. A condition that reads no row is met before the first is looked at.
pub(super) const WAITS_BRIEFLY: &str =
    "(SELECT set_config('lock_timeout', '20', true)) IS NOT NULL";

/// The same of a write without an order of locks, which is met only by a plain table: triggers would wait as briefly, and may catch the error and let
/// the write pass without what they had to do. What checks a foreign key does not; what an action of one changes has triggers of its own.
pub(super) fn waits_briefly_and_is_plain(model: &Model) -> String {
    format!(
        "(SELECT set_config('lock_timeout', '20', true) FROM pg_catalog.pg_class AS c WHERE c.oid = {}::pg_catalog.regclass \
         AND c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relhassubclass AND NOT (c.relhastriggers AND EXISTS (SELECT 1 FROM pg_catalog.pg_trigger \
         WHERE tgrelid = c.oid AND tgfoid::pg_catalog.regproc::text !~ 'RI_FKey_(check|noaction|restrict)_'))) IS NOT NULL",
        text(&table(model))
    )
}

/// The type of PostgreSQL for this one, if its values are equal only if their bytes are.
pub(super) fn exact_type(column: &Column) -> Option<&'static str> {
    match last_segment(inside_option(&column.ty).unwrap_or(&column.ty))?.as_str() {
        "i16" => Some("smallint"),
        "i32" => Some("integer"),
        "i64" => Some("bigint"),
        "Uuid" => Some("uuid"),
        _ => None,
    }
}

/// Whether there is such a type.
pub(super) fn is_exact(column: &Column) -> bool {
    exact_type(column).is_some()
}

/// ` AND` the database keeps these columns of a new row as they are given: none where it would make another text of one, or where texts that differ are
/// the same to it. Integers and UUIDs need no look at the catalogue.
pub(super) fn and_keeps(model: &Model, columns: &[&Column]) -> String {
    let others = columns.iter().filter(|column| !is_exact(column));
    let others: Vec<String> = others.map(|column| text(&column.name)).collect();
    if others.is_empty() {
        return String::new();
    }
    // 100 is the collation of the database, which tells texts apart by their bytes.
    format!(
        " AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = {}::pg_catalog.regclass AND attname IN ({}) \
         AND NOT (atttypid IN ('pg_catalog.text'::pg_catalog.regtype, 'pg_catalog.varchar'::pg_catalog.regtype) AND attcollation = 100))",
        text(&table(model)),
        others.join(", ")
    )
}

/// A statement that serves the calls of many callers waits for no lock for long, as each of them would wait for the one whose row is locked.
pub(super) fn fold_lock_timeout(dialect: Dialect) -> Option<&'static str> {
    match dialect {
        Dialect::Postgres => Some(WAITS_BRIEFLY),
        Dialect::Sqlite => None,
    }
}

/// ` AND` no other row has the key, and what else a statement needs that serves the calls of many callers.
///
/// SQLite returns nothing of what is beside the table, so that only the key tells whose row it is: the row has it as it was given, and not as the
/// type or the collation of a column makes another equal to it.
pub(super) fn and_folded(model: &Model, dialect: Dialect) -> String {
    let keys = model.keys();
    let others = and(keys.iter().zip(1..), |(key, part)| {
        format!(
            "\"rowlock_other\".{} = \"rowlock_k{part}\"",
            quote(&key.name)
        )
    });
    let more = match fold_lock_timeout(dialect) {
        Some(timeout) => timeout.to_owned(),
        None => and(keys.iter().zip(1..), |(key, part)| {
            let (row, given) = (of_the_row(&key.name), format!("\"rowlock_k{part}\""));
            format!("typeof({row}) = typeof({given}) AND +{row} IS {given} COLLATE BINARY")
        }),
    };
    let rows = format!("{} AS \"rowlock_other\"", table(model));
    format!(" AND {} AND {more}", no_second(&rows, &others))
}

/// What such a statement returns of a row that it wrote: these columns, and what tells whose it is.
pub(super) fn folded(model: &Model, columns: &[&Column], dialect: Dialect) -> Vec<String> {
    match dialect {
        Dialect::Postgres => {
            let columns = columns.iter().map(|column| of_row(column));
            columns.chain(["\"rowlock_n\"".to_owned()]).collect()
        }
        // No alias: SQLite takes none in RETURNING.
        Dialect::Sqlite => each_name(&[columns, &model.keys()].concat()),
    }
}

/// Which of many rows another session has locked, by their numbers, on PostgreSQL: rows that are passed over when they should be locked. It waits for no row;
/// a lock of the whole table it waits for, before the statement begins.
pub(crate) fn held(model: &Model, dialect: Dialect) -> Option<Statement> {
    if !dialect.has_arrays() || !model.folds {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let keys = model.keys();
    let unnested = format!("unnest({}) WITH ORDINALITY", key_arrays(&mut sql, &keys));
    let given = given(model, &unnested, "rowlock_n");
    let (rows, same_key) = (table(model), same_key(&keys, "rowlock_given"));
    Some(sql.statement(format!(
        "WITH {given}, \"rowlock_free\" (\"rowlock_f\") AS MATERIALIZED (SELECT \"rowlock_n\" FROM {rows} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {same_key} \
         WHERE {WAITS_BRIEFLY} FOR NO KEY UPDATE OF \"rowlock_row\" SKIP LOCKED) \
         SELECT \"rowlock_n\" FROM {rows} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {same_key} \
         WHERE NOT EXISTS (SELECT FROM \"rowlock_free\" WHERE \"rowlock_f\" = \"rowlock_n\")"
    )))
}
