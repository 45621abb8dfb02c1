//! `Versioned`: what identifies the row is the key, then the version, then the fence if there is one. Without a version, what the runtime
//! writes into a gap: columns, with what was read from them.

pub(crate) mod many;

use super::*;

/// What the database changed in an update: the version, then everything that others write. Where columns are checked, others can write
/// all that are not.
pub(crate) fn returned(model: &Model) -> Vec<&Column> {
    if !model.checked().is_empty() {
        return model.columns.iter().collect();
    }
    let version = model.row_version().into_iter();
    let others = model.columns.iter().filter(|column| {
        let renewed = column.on_update.is_some() || (column.generated && column.is_plain());
        !column.key && (column.is_counter() || renewed)
    });
    version.chain(others).collect()
}

/// The columns whose values an insert is given: not what the database makes up, and not the version.
pub(crate) fn inserted(model: &Model) -> Vec<&Column> {
    let given = |column: &&Column| {
        let filled = column.generated || column.default || column.has_expression();
        !filled && !matches!(column.role, Role::Version | Role::Xmin)
    };
    model.columns.iter().filter(given).collect()
}

/// Inserts the row, with version 0.
pub(crate) fn insert(model: &Model, version: Option<&Column>, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let given = inserted(model);
    let given_values: Vec<String> = given
        .iter()
        .map(|column| sql.slot(Slot::column(column)))
        .collect();
    let (columns, values) = row_to_insert(model, version, &given, &given_values);
    let rows = table(model);
    let text = if columns.is_empty() {
        format!("INSERT INTO {rows} DEFAULT VALUES")
    } else {
        format!("INSERT INTO {rows} ({columns}) VALUES ({values})")
    };
    let all: Vec<&Column> = model.columns.iter().collect();
    sql.statement(text).returning(each_name(&all))
}

/// The columns of a new row, and their values: what is given, version 0, and what has an expression.
fn row_to_insert(
    model: &Model,
    version: Option<&Column>,
    given: &[&Column],
    values: &[String],
) -> (String, String) {
    let given = given.iter().copied().zip(values.iter().cloned());
    let version = version.filter(|version| !version.is_xmin());
    let version = version.map(|version| (version, version.initial().to_string()));
    let made = model.columns.iter();
    let made = made.filter_map(|column| Some((column, column.on_insert.clone()?)));
    let (columns, values): (Vec<&Column>, Vec<String>) = given.chain(version).chain(made).unzip();
    (names(&columns), comma(values, |value| value))
}

fn where_unchanged(sql: &mut Sql, model: &Model, version: Option<&Column>) -> String {
    let key = sql.equal(&model.keys());
    let version = version.map_or_else(String::new, |version| {
        format!(" AND {} = {}", value(version), sql.slot(Slot::Version))
    });
    format!(
        "WHERE {key}{version}{}{}",
        and_not_fenced(sql, model),
        and_alone(sql, model),
    )
}

/// The next version, the fence and what has an expression; nothing if there is none of them.
fn set_version(sql: &mut Sql, model: &Model, version: Option<&Column>) -> String {
    let version = version.filter(|version| !version.is_xmin()).map(bump);
    let fence = model
        .fence()
        .map(|fence| format!("{} = {}", quote(&fence.name), sql.slot(Slot::Fence)));
    let set = version.into_iter().chain(fence).chain(on_update(model));
    comma(set, |set| set)
}

/// What changes nothing but the version that PostgreSQL keeps. Not the key if there is another column: one that is GENERATED ALWAYS
/// AS IDENTITY cannot be set.
fn same(model: &Model) -> String {
    let column = model.writable().into_iter().chain(model.keys()).next();
    let name = column.map(|column| quote(&column.name));
    name.map_or_else(String::new, |name| format!("{name} = {name}"))
}

/// `set` is empty, or ends with a comma.
fn write(mut sql: Sql, set: &str, model: &Model, version: Option<&Column>) -> Statement {
    // The fence is bound after the version, though SET comes first.
    let unchanged = where_unchanged(&mut sql, model, version);
    let version = set_version(&mut sql, model, version);
    let (set, version) = match (set, version.as_str()) {
        ("", "") => ("", same(model)),
        (set, "") => (set.strip_suffix(", ").unwrap_or(set), version),
        (set, _) => (set, version),
    };
    let text = format!("UPDATE {} SET {set}{version} {unchanged}", table(model));
    sql.statement(text).returning(each_name(&returned(model)))
}

/// Writes all columns, which are bound first.
pub(crate) fn update(model: &Model, version: Option<&Column>, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let columns = model.writable().into_iter();
    let set: String = columns
        .map(|column| format!("{}{}, ", set(column), sql.slot(Slot::column(column))))
        .collect();
    write(sql, &set, model, version)
}

/// Bumps the version, and sets what has an expression.
pub(crate) fn touch(model: &Model, version: Option<&Column>, dialect: Dialect) -> Statement {
    write(Sql::new(dialect), "", model, version)
}

/// Writes the changed columns, under a condition if there is one.
pub(crate) fn save(model: &Model, version: Option<&Column>, dialect: Dialect) -> Statement {
    let mut statement = write(Sql::new(dialect), &Gap::Changes.to_string(), model, version);
    statement.text.push_str(&Gap::Conditions.to_string());
    statement
}

/// Reads all columns, whether those that are checked are as they were read, and whether the row meets a condition.
pub(crate) fn look(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let key = sql.equal(&model.keys());
    let text = format!(
        "SELECT {}, CASE WHEN TRUE{} THEN 0 ELSE 1 END AS \"rowlock_changed\", CASE WHEN {} THEN 1 ELSE 0 END AS \"rowlock_holds\" FROM {} WHERE {key}",
        comma(&model.columns, read),
        Gap::Conditions,
        Gap::Condition,
        table(model),
    );
    sql.statement(text)
}

/// `"name" = `, which stands before a value in [`Gap::Changes`].
pub(crate) fn set(column: &Column) -> String {
    format!("{} = ", quote(&column.name))
}

pub(crate) fn delete(model: &Model, version: Option<&Column>, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let text = format!(
        "DELETE FROM {} {}",
        table(model),
        where_unchanged(&mut sql, model, version)
    );
    sql.statement(text)
}
