//! `FindOrCreate`: find by a unique key, create, or overwrite.

pub(crate) mod many;

use super::*;
use crate::model::{LedgerRole, is_option};

/// The columns of a new row, and their values: `value` is how what the caller gives is written.
fn new_row(model: &Model, value: impl FnMut(&&Column) -> String) -> (String, String) {
    let given = model.given();
    let fixed = |column: &&Column| column.role == Role::Version || column.is_counter();
    let fixed: Vec<&Column> = model.columns.iter().filter(fixed).collect();
    let made = model.columns.iter();
    let made = made.filter_map(|column| Some((column, column.on_insert.clone()?)));
    let (made, expressions): (Vec<&Column>, Vec<String>) = made.unzip();
    let given_values = given.iter().map(value);
    let fixed_values = fixed.iter().map(|column| column.initial().to_string());
    let values = given_values.chain(fixed_values).chain(expressions);
    (
        names(given.iter().chain(&fixed).chain(&made)),
        comma(values, |value| value),
    )
}

fn insert_into(sql: &mut Sql, model: &Model) -> String {
    let (columns, values) = new_row(model, |column| sql.slot(Slot::column(column)));
    format!("INSERT INTO {} ({columns}) VALUES ({values})", table(model))
}

fn returned(model: &Model) -> Vec<String> {
    model.columns.iter().map(read).collect()
}

/// The parts of a key: a column, or an expression of it.
fn parts(model: &Model, key: &UniqueKey) -> Vec<String> {
    let columns = model.unique_columns(key).into_iter().zip(&key.around);
    columns
        .map(|(column, around)| part(quote(&column.name), around.as_ref()))
        .collect()
}

fn part(value: String, around: Option<&(String, String)>) -> String {
    match around {
        Some((before, after)) => format!("{before}{value}{after}"),
        None => value,
    }
}

/// What ON CONFLICT refers to: `("a", lower("b")) WHERE (…)`, as the index says it.
pub(super) fn target(model: &Model, key: &UniqueKey) -> String {
    index_on(model, key, "")
}

/// The same with what stands between in a definition of the index.
pub(super) fn index_on(model: &Model, key: &UniqueKey, nulls: &str) -> String {
    let parts = match key.on {
        Some(index) => quote(&model.columns[index].name),
        None => parts(model, key).join(", "),
    };
    match &key.predicate {
        Some(predicate) => format!("({parts}){nulls} WHERE ({predicate})"),
        None => format!("({parts}){nulls}"),
    }
}

/// What the index is on, for an error: in alphabetical order.
pub(crate) fn indexed(model: &Model, key: &UniqueKey) -> String {
    let mut columns = match key.on {
        Some(index) => vec![model.columns[index].name.clone()],
        None => {
            let columns = model.unique_columns(key).into_iter().zip(&key.around);
            columns
                .map(|(column, around)| part(column.name.clone(), around.as_ref()))
                .collect()
        }
    };
    columns.sort_unstable();
    let columns = columns.join(",");
    match &key.predicate {
        Some(predicate) => format!("{columns}) WHERE ({predicate}"),
        None => columns,
    }
}

/// Finds the row that has the key, among those that the index is on.
fn where_key(
    sql: &mut Sql,
    model: &Model,
    key: &UniqueKey,
    slot: impl Fn(&Column) -> Slot,
) -> String {
    let columns = model.unique_columns(key).into_iter();
    let pairs = columns.map(|column| (quote(&column.name), sql.slot(slot(column))));
    let mut found = same_values(model, key, pairs);
    if let Some(predicate) = &key.predicate {
        found.push_str(&format!(" AND ({predicate})"));
    }
    found
}

/// Whether the columns of a key have these values, as the index compares them.
fn same_values(
    model: &Model,
    key: &UniqueKey,
    pairs: impl Iterator<Item = (String, String)>,
) -> String {
    let columns = model.unique_columns(key).into_iter().zip(&key.around);
    and(columns.zip(pairs), |((column, around), (stored, value))| {
        let equal = format!(
            "{} = {}",
            part(stored.clone(), around.as_ref()),
            part(value.clone(), around.as_ref())
        );
        // IS NOT DISTINCT FROM would not use the index.
        if key.nulls_not_distinct && is_option(&column.ty) {
            format!("({equal} OR {stored} IS NULL AND {value} IS NULL)")
        } else {
            equal
        }
    })
}

/// Reads all columns of the row with this key.
pub(crate) fn find(model: &Model, key: &UniqueKey, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let found = where_key(&mut sql, model, key, Slot::key);
    let columns = comma(&model.columns, read);
    sql.statement(format!(
        "SELECT {columns} FROM {} WHERE {found}",
        table(model)
    ))
}

/// Creates the row unless another one holds the key.
pub(crate) fn insert(model: &Model, key: &UniqueKey, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let insert = insert_into(&mut sql, model);
    let key = target(model, key);
    let text = match dialect {
        Dialect::Postgres | Dialect::Sqlite => format!("{insert} ON CONFLICT {key} DO NOTHING"),
    };
    sql.statement(text).returning(returned(model))
}

/// Creates the row unless another one holds any unique key.
pub(crate) fn create(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let insert = insert_into(&mut sql, model);
    let text = match dialect {
        Dialect::Postgres | Dialect::Sqlite => format!("{insert} ON CONFLICT DO NOTHING"),
    };
    sql.statement(text).returning(returned(model))
}

/// The columns that an upsert overwrites when the row exists: what the caller gave, but neither the key that
/// was looked for nor the primary key.
pub(crate) fn overwritten<'a>(model: &'a Model, key: &UniqueKey) -> Vec<&'a Column> {
    let lookup = model.unique_columns(key);
    model
        .given()
        .into_iter()
        .filter(|column| !column.key && !column.insert_only)
        .filter(|column| !lookup.iter().any(|other| other.name == column.name))
        .collect()
}

/// All the columns that an upsert writes when the row exists; none if it writes nothing.
#[cfg(feature = "schema")]
pub(crate) fn written<'a>(model: &'a Model, key: &UniqueKey) -> Vec<&'a Column> {
    let mut columns = overwritten(model, key);
    if model.is_queue() {
        columns.extend(of_the_queue(model));
        columns.extend(model.fence());
    }
    columns.extend(model.on_update().map(|(column, _)| column));
    if !columns.is_empty() {
        columns.extend(model.version());
    }
    columns
}

/// What the table's defaults say about a new job, beside what the caller gave.
fn of_the_queue(model: &Model) -> impl Iterator<Item = &Column> {
    let given = model.given();
    let columns = model.columns.iter().filter(|column| match column.role {
        Role::Queue(_) => true,
        Role::Ledger(role) => matches!(role, LedgerRole::Lease | LedgerRole::Finished),
        _ => false,
    });
    columns.filter(move |column| !given.iter().any(|given| given.name == column.name))
}

/// Creates the row or overwrites the one that holds the key. `None` if there is nothing to overwrite.
///
/// On a versioned model the version goes up unless the values are those that are stored, bounded by one more parameter: SQLite
/// would turn an overflow into a floating-point number.
///
/// A job is enqueued again, as if it were new. Whoever has claimed it must not finish it, so its fence goes up.
pub(crate) fn upsert(model: &Model, key: &UniqueKey, dialect: Dialect) -> Option<Statement> {
    let mut sql = Sql::new(dialect);
    let insert = insert_into(&mut sql, model);
    let update = do_update(&mut sql, model, key, None)?;
    let text = format!("{insert} {update}");
    Some(sql.statement(text).returning(returned(model)))
}

/// An upsert that says whether it created the row.
///
/// On PostgreSQL in one more column. A new row has never been locked; one that is overwritten was locked for that by this
/// transaction, whoever else has a lock on it, and the new version of the row keeps the mark.
///
/// SQLite has no such mark. There it only overwrites, and does not even try if there is no row. But a new row that a partial index does
/// not have meets none, and is created: it does not meet the predicate then, and yet there is a row that has the key.
pub(crate) fn update_or_create(
    model: &Model,
    key: &UniqueKey,
    dialect: Dialect,
) -> Option<Statement> {
    telling(model, key, dialect, None)
}

/// The same, which overwrites only a row that meets a condition.
pub(crate) fn upsert_if(model: &Model, key: &UniqueKey, dialect: Dialect) -> Option<Statement> {
    telling(model, key, dialect, Some(Gap::Condition))
}

fn telling(
    model: &Model,
    key: &UniqueKey,
    dialect: Dialect,
    condition: Option<Gap>,
) -> Option<Statement> {
    let mut sql = Sql::new(dialect);
    let (columns, values) = new_row(model, |column| sql.slot(Slot::column(column)));
    let mut returned = returned(model);
    let row = match dialect {
        Dialect::Postgres => {
            returned.push("(\"xmax\" = 0)::int".to_owned());
            format!("VALUES ({values})")
        }
        Dialect::Sqlite => {
            let same = where_key(&mut sql, model, key, Slot::column);
            let there = format!("EXISTS (SELECT 1 FROM {} WHERE {same})", table(model));
            returned.push(match &key.predicate {
                Some(predicate) => format!("({predicate}) IS NOT TRUE AND {there}"),
                None => "0".to_owned(),
            });
            format!("SELECT {values} WHERE {there}")
        }
    };
    let update = do_update(&mut sql, model, key, condition)?;
    let text = format!("INSERT INTO {} ({columns}) {row} {update}", table(model));
    Some(sql.statement(text).returning(returned))
}

/// Reads the row with this key, and whether it meets a condition.
pub(crate) fn look(model: &Model, key: &UniqueKey, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let found = where_key(&mut sql, model, key, Slot::key);
    let columns = comma(&model.columns, read);
    sql.statement(format!(
        "SELECT {columns}, CASE WHEN {} THEN 1 ELSE 0 END AS \"rowlock_holds\" FROM {} WHERE {found}",
        Gap::Condition,
        table(model)
    ))
}

/// What stands before a column of the row that is there.
pub(crate) fn there(model: &Model) -> String {
    format!("{}.", quote(&model.table.name))
}

/// `ON CONFLICT … DO UPDATE …`, if there is anything to write.
fn do_update(
    sql: &mut Sql,
    model: &Model,
    key: &UniqueKey,
    condition: Option<Gap>,
) -> Option<String> {
    let dialect = sql.dialect;
    let mut columns = overwritten(model, key);
    let queue = model.is_queue();
    if queue {
        columns.extend(of_the_queue(model));
    }
    let overwrites = columns.iter().map(|column| {
        let name = quote(&column.name);
        format!("{name} = \"excluded\".{name}")
    });
    let mut set = comma(overwrites.chain(on_update(model)), |set| set);
    if set.is_empty() {
        return None;
    }
    let mut guards = Vec::new();
    if let Some(version) = model.version() {
        let old = existing(model, version);
        // A job always changes, by its fence.
        // What an expression sets is no change.
        let by = if queue {
            "1".to_owned()
        } else if columns.is_empty() {
            "0".to_owned()
        } else {
            let same = unchanged(model, &columns, dialect);
            format!("CASE WHEN {same} THEN 0 ELSE 1 END")
        };
        set.push_str(&format!(", {} = {old} + {by}", quote(&version.name)));
        match dialect {
            Dialect::Postgres => {}
            // 1.5 is below the highest as well: the row would be written, with 2.5 for a version that nobody can read.
            Dialect::Sqlite => guards.push(format!("typeof({old}) = 'integer'")),
        }
        guards.push(format!("{old} < {}", sql.slot(Slot::MaxVersion)));
    }
    if let Some(fence) = model.fence().filter(|_| queue) {
        let old = existing(model, fence);
        set.push_str(&format!(", {} = {old} + 1", quote(&fence.name)));
    } else if let Some(fence) = model.fence() {
        guards.push(format!(
            "{} <= \"excluded\".{}",
            existing(model, fence),
            quote(&fence.name)
        ));
    }
    if key.on.is_some() {
        guards.push(same_parts(model, key, dialect));
    }
    guards.extend(condition.map(|condition| condition.to_string()));
    let mut guard = guards.join(" AND ");
    if !guard.is_empty() {
        guard.insert_str(0, " WHERE ");
    }
    let key = target(model, key);
    Some(match dialect {
        Dialect::Postgres | Dialect::Sqlite => {
            format!("ON CONFLICT {key} DO UPDATE SET {set}{guard}")
        }
    })
}

/// Whether the row that is there has the parts of the new one. Other parts can make the same value of a generated column.
fn same_parts(model: &Model, key: &UniqueKey, dialect: Dialect) -> String {
    let same = match dialect {
        Dialect::Postgres => "IS NOT DISTINCT FROM",
        Dialect::Sqlite => "IS",
    };
    let columns = model.unique_columns(key).into_iter().zip(&key.around);
    and(columns, |(column, around)| {
        let proposed = format!("\"excluded\".{}", quote(&column.name));
        format!(
            "{} {same} {}",
            part(existing(model, column), around.as_ref()),
            part(proposed, around.as_ref())
        )
    })
}

/// Whether the stored values of these columns are the proposed ones, as they are and not as their type compares them: `Ada`
/// and `ADA` are equal to citext and NOCASE, and yet a change.
fn unchanged(model: &Model, columns: &[&Column], dialect: Dialect) -> String {
    let proposed = |column: &Column| format!("\"excluded\".{}", quote(&column.name));
    match dialect {
        // It compares bytes, so that it can do json, xml and point, which have no `=`, too. Two bare ROWs would be compared
        // column by column.
        Dialect::Postgres => format!(
            "ROW({})::record *= ROW({})::record",
            comma(columns, |column| existing(model, column)),
            comma(columns, |column| proposed(column))
        ),
        Dialect::Sqlite => and(columns, |column| {
            format!(
                "{} IS {} COLLATE BINARY",
                existing(model, column),
                proposed(column)
            )
        }),
    }
}
