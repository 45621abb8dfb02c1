//! `Guarded`: writes to the row with a key under a condition that the caller gives.

use super::*;

/// `WHERE` the row with the key, and no other, meets the condition.
fn where_condition(sql: &mut Sql, model: &Model) -> String {
    format!(
        "WHERE {}{} AND {}",
        sql.equal(&model.keys()),
        and_alone(sql, model),
        Gap::Condition
    )
}

/// Writes what the caller sets, and returns the row.
pub(crate) fn update(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let condition = where_condition(&mut sql, model);
    // Whoever edits the row with its version has to notice.
    let version = model
        .version()
        .map(|version| format!(", {}", bump(version)));
    let text = format!(
        "UPDATE {} SET {}{} {condition}",
        table(model),
        Gap::Assignments,
        version.unwrap_or_default(),
    );
    sql.statement(text).returning(all(model))
}

/// Deletes the row, and returns it as it was.
pub(crate) fn delete(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let condition = where_condition(&mut sql, model);
    let text = format!("DELETE FROM {} {condition}", table(model));
    sql.statement(text).returning(all(model))
}

/// Reads the row, and whether it meets the condition.
pub(crate) fn look(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let key = sql.equal(&model.keys());
    let text = format!(
        "SELECT {}, CASE WHEN {} THEN 1 ELSE 0 END AS \"rowlock_holds\" FROM {} WHERE {key}",
        all(model).join(", "),
        Gap::Condition,
        table(model),
    );
    sql.statement(text)
}

/// Whether there is a row with the key.
pub(crate) fn exists(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let key = sql.equal(&model.keys());
    let text = format!(
        "SELECT CASE WHEN EXISTS (SELECT 1 FROM {} WHERE {key}) THEN 1 ELSE 0 END",
        table(model)
    );
    sql.statement(text)
}

/// A statement as readers see it, with words in its gaps.
pub(crate) fn shown(statement: &Statement, gaps: &[&str]) -> String {
    let mut gaps = gaps.iter();
    let parts = statement.parts().into_iter();
    parts
        .map(|part| part + gaps.next().copied().unwrap_or_default())
        .collect()
}

/// A column's name as a condition has it.
pub(crate) fn name(column: &Column) -> String {
    value(column)
}

fn all(model: &Model) -> Vec<String> {
    model.columns.iter().map(read).collect()
}
