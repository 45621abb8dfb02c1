//! `Guarded`: writes to the row with a key under a condition that the caller gives.

use super::*;

/// Writes what the caller sets, and returns the row.
pub(crate) fn update(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let key = sql.equal(&model.keys());
    // Whoever edits the row with its version has to notice, so it has to have one that can go up.
    let (version, room) = match model.version() {
        Some(version) => {
            let name = quote(&version.name);
            let integer = match dialect {
                Dialect::Postgres => String::new(),
                // SQLite would store 1.5 + 1, which nobody can read.
                Dialect::Sqlite => format!(" AND typeof({name}) = 'integer'"),
            };
            let room = format!(" AND {name} < {}{integer}", sql.slot(Slot::MaxVersion));
            (format!(", {}", bump(version)), room)
        }
        None => (String::new(), String::new()),
    };
    let text = format!(
        "UPDATE {} SET {}{version}{} WHERE {key}{}{room} AND {}",
        table(model),
        Gap::Assignments,
        on_update(model)
            .map(|set| format!(", {set}"))
            .collect::<String>(),
        and_alone(&mut sql, model),
        Gap::Condition,
    );
    sql.statement(text).returning(all(model))
}

/// Deletes the row, and returns it as it was.
pub(crate) fn delete(model: &Model, dialect: Dialect) -> Statement {
    let mut sql = Sql::new(dialect);
    let text = format!(
        "DELETE FROM {} WHERE {}{} AND {}",
        table(model),
        sql.equal(&model.keys()),
        and_alone(&mut sql, model),
        Gap::Condition
    );
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
