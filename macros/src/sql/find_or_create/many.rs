//! The same of many rows in one statement: on PostgreSQL an array per column. SQLite gains little by it for what is written, which it has one
//! by one; it reads many keys out of one JSON text.

use super::*;
use crate::sql::given::{
    and_keeps, exact_type, given_once_by, is_exact, key_arrays, numbered_json,
    waits_briefly_and_is_plain,
};

/// Whether NULL is a value of the key: no index is used for it in a join.
fn has_nulls(model: &Model, key: &UniqueKey) -> bool {
    let columns = model.unique_columns(key);
    key.nulls_not_distinct && columns.into_iter().any(|column| is_option(&column.ty))
}

/// ` AND` the row is in the index of the key, if that is partial.
fn and_predicate(key: &UniqueKey) -> String {
    let predicate = key.predicate.as_ref();
    predicate.map_or_else(String::new, |text| format!(" AND ({text})"))
}

/// Reads the rows of many keys, with the number of each key, from 1.
pub(crate) fn find(model: &Model, key: &UniqueKey, dialect: Dialect) -> Option<Statement> {
    if has_nulls(model, key) {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let columns = model.unique_columns(key);
    let given = match dialect {
        Dialect::Postgres => {
            let unnested = format!("unnest({}) WITH ORDINALITY", key_arrays(&mut sql, &columns));
            given_once_by(model, &columns, &unnested, "rowlock_n")
        }
        Dialect::Sqlite => numbered_json(&mut sql, &columns),
    };
    let stored = columns.iter().map(|column| of_the_row(&column.name));
    let values = (1..).map(|number| format!("\"rowlock_k{number}\""));
    let found = same_values(model, key, stored.zip(values));
    let predicate = and_predicate(key);
    Some(sql.statement(format!(
        "WITH {given} SELECT {}, \"rowlock_n\" FROM {} AS \"rowlock_row\" JOIN \"rowlock_given\" ON {found}{predicate}",
        comma(&model.columns, of_row),
        table(model)
    )))
}

/// Creates those rows whose keys are free, each with its number. Of equal keys only the first one's: a trigger may drop that, and then another one's
/// row would be taken for it.
pub(crate) fn insert(model: &Model, key: &UniqueKey, dialect: Dialect) -> Option<Statement> {
    let conflict = format!("ON CONFLICT {} DO NOTHING", target(model, key));
    write(model, key, dialect, |_| Some(conflict))
}

/// Creates each row or overwrites the one that holds its key, with the number of each. Of equal keys only the first one's: to write a row
/// twice is an error.
pub(crate) fn upsert(model: &Model, key: &UniqueKey, dialect: Dialect) -> Option<Statement> {
    write(model, key, dialect, |sql| do_update(sql, model, key, None))
}

/// The same, each with its key after its columns, where a key is one value: three quarters for the server of a join with a list. The values get the type of
/// the column, or no index would be used for them.
pub(crate) fn find_any(model: &Model, key: &UniqueKey, dialect: Dialect) -> Option<Statement> {
    let columns = model.unique_columns(key);
    let ([column], true) = (&*columns, dialect.has_arrays()) else {
        return None;
    };
    if key.on.is_some() || key.around.iter().any(Option::is_some) || has_nulls(model, key) {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let name = quote(&column.name);
    let given = sql.slot(Slot::keys(column));
    let given = match is_exact(column) {
        true => given,
        false => format!(
            "ARRAY(SELECT {name} FROM {} WHERE false UNION ALL SELECT * FROM unnest((SELECT {given})))",
            table(model)
        ),
    };
    let predicate = and_predicate(key);
    Some(sql.statement(format!(
        "SELECT {}, {name} AS \"rowlock_k1\" FROM {} AS \"rowlock_row\" WHERE {name} = ANY ({given}){predicate}",
        comma(&model.columns, of_row),
        table(model)
    )))
}

/// Creates those of rows with different keys whose keys are free, at once.
pub(crate) fn insert_at_once(
    model: &Model,
    key: &UniqueKey,
    dialect: Dialect,
) -> Option<Statement> {
    let conflict = format!("ON CONFLICT {} DO NOTHING", target(model, key));
    at_once(model, key, dialect, |_| Some(conflict))
}

/// Creates each of them or overwrites the row that holds its key, at once.
pub(crate) fn upsert_at_once(
    model: &Model,
    key: &UniqueKey,
    dialect: Dialect,
) -> Option<Statement> {
    at_once(model, key, dialect, |sql| do_update(sql, model, key, None))
}

/// Inserts rows in the order given, and returns those that it wrote in that order, with their keys after their columns: where it left some out, those say
/// which row is whose. So it writes none where the database could make others of them, or have those of two rows as one.
///
/// It waits for no lock for long, as it has no order in common with others.
fn at_once(
    model: &Model,
    key: &UniqueKey,
    dialect: Dialect,
    conflict: impl FnOnce(&mut Sql) -> Option<String>,
) -> Option<Statement> {
    let is_of_columns = key.on.is_none() && key.around.iter().all(Option::is_none);
    if !dialect.has_arrays() || has_nulls(model, key) || !is_of_columns {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let (columns, all) = (model.unique_columns(key), model.given());
    let arrays = comma(&all, |column| {
        format!("(SELECT {})", sql.slot(Slot::columns(column)))
    });
    let conflict = conflict(&mut sql)?;
    let (into, new) = new_row(model, |column| place(&all, column));
    let returned = model.columns.iter().map(read);
    // As they were given, whatever the type of the column is, and under another name: rows are read by the names of their columns.
    let keys = columns.iter().zip(1..).map(|(column, part)| {
        let ty = exact_type(column).map_or_else(String::new, |ty| format!("::{ty}"));
        format!("{}{ty} AS \"rowlock_k{part}\"", quote(&column.name))
    });
    Some(sql.statement(format!(
        "INSERT INTO {} ({into}) SELECT {new} FROM unnest({arrays}) AS \"rowlock_given\" ({}) WHERE {}{} {conflict} RETURNING {}",
        table(model),
        comma(&all, |column| place(&all, column)),
        waits_briefly_and_is_plain(model),
        and_keeps(model, &columns),
        comma(returned.chain(keys), |column| column),
    )))
}

/// Inserts the first row of each key, in the order of their keys, as everything writes that writes several: two orders would deadlock.
///
/// What it returns knows the rows given by their keys. A row that a trigger gave another one, or that the key's index does not have, is
/// nobody's, and by then it is written. So the statement fails, with what is no number for one: each row by itself is known.
fn write(
    model: &Model,
    key: &UniqueKey,
    dialect: Dialect,
    conflict: impl FnOnce(&mut Sql) -> Option<String>,
) -> Option<Statement> {
    if !dialect.has_arrays() || has_nulls(model, key) {
        return None;
    }
    let mut sql = Sql::new(dialect);
    let (columns, all) = (model.unique_columns(key), model.given());
    let arrays = comma(&all, |column| {
        format!("(SELECT {})", sql.slot(Slot::columns(column)))
    });
    let mut ctes = vec![given(model, &all, &columns, &arrays)];
    let values: Vec<String> = places(&columns, &all).collect();
    let parts = |values: &[String]| {
        let parts = values.iter().zip(&key.around);
        comma(parts, |(value, around)| {
            part(value.clone(), around.as_ref())
        })
    };
    let in_order = parts(&values);
    ctes.push(format!(
        "\"rowlock_first\" AS MATERIALIZED (SELECT DISTINCT ON ({in_order}) * FROM \"rowlock_given\" ORDER BY {in_order}, \"rowlock_n\")"
    ));
    let conflict = conflict(&mut sql)?;
    let (into, new) = new_row(model, |column| place(&all, column));
    let keys: Vec<String> = (1..=columns.len())
        .map(|number| format!("\"rowlock_k{number}\""))
        .collect();
    let returned = model.columns.iter().map(read);
    let named = columns.iter().zip(&keys);
    let named = named.map(|(column, name)| format!("{} AS {name}", quote(&column.name)));
    let is_in = key.predicate.as_ref();
    let is_in = is_in.map(|predicate| format!("({predicate}) IS TRUE AS \"rowlock_in\""));
    let and_in = key.predicate.as_ref().map_or("", |_| " AND \"rowlock_in\"");
    ctes.push(format!(
        "\"rowlock_new\" AS (INSERT INTO {} ({into}) SELECT {new} FROM \"rowlock_first\" ORDER BY {in_order} {conflict} RETURNING {})",
        table(model),
        comma(returned.chain(named).chain(is_in), |column| column)
    ));
    let same = same_values(model, key, keys.iter().cloned().zip(values));
    Some(sql.statement(format!(
        "WITH {} SELECT {}, coalesce(\"rowlock_n\"::text, 'the row has another key')::bigint \
         FROM \"rowlock_new\" LEFT JOIN \"rowlock_first\" ON {same}{and_in}",
        ctes.join(", "),
        names(&model.columns.iter().collect::<Vec<_>>())
    )))
}

/// The rows given, as a CTE: these columns, out of `arrays`, and a number.
///
/// Those of the key have the collation of the table's, as in [`given`](crate::sql::given::given).
fn given(model: &Model, all: &[&Column], of_key: &[&Column], arrays: &str) -> String {
    let empty = comma(all, |column| {
        match of_key.iter().any(|key| key.name == column.name) {
            true => quote(&column.name),
            false => "NULL".to_owned(),
        }
    });
    format!(
        "\"rowlock_given\" ({}, \"rowlock_n\") AS MATERIALIZED (SELECT {empty}, NULL::bigint FROM {} WHERE false \
         UNION ALL SELECT * FROM unnest({arrays}) WITH ORDINALITY)",
        comma(all, |column| place(all, column)),
        table(model)
    )
}

/// What a column is called among those given.
fn place(all: &[&Column], column: &Column) -> String {
    let before = all.iter().take_while(|other| other.name != column.name);
    format!("\"rowlock_c{}\"", before.count() + 1)
}

/// The same of several.
fn places<'m>(columns: &'m [&Column], all: &'m [&Column]) -> impl Iterator<Item = String> + 'm {
    columns.iter().map(|column| place(all, column))
}
