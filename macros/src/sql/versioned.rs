//! `Versioned`: what identifies the row is bound first as `$1…`.

use super::*;

/// What the database changed in an update: the version, then everything that others write.
pub(crate) fn returned(model: &Model) -> Vec<&Column> {
    let version = model.version().into_iter();
    let others = model.columns.iter().filter(|column| {
        !column.key && (column.is_counter() || (column.generated && column.is_plain()))
    });
    version.chain(others).collect()
}

/// The key is bound from `first` on, then the version, then the fence if there is one.
fn where_unchanged(model: &Model, version: &Column, first: usize) -> String {
    let keys = model.keys();
    format!(
        "WHERE {} AND {} = ${}{}{}",
        equal(&keys, first),
        quote(&version.name),
        first + keys.len(),
        and_not_fenced(model, first + keys.len() + 1),
        and_alone(model, first),
    )
}

/// The next version, and the fence.
fn set_version(model: &Model, version: &Column, first: usize) -> String {
    let fence = first + model.keys().len() + 1;
    format!("{}{}", bump(version), and_set_fence(model, fence))
}

/// Writes all columns: `$1…` are the columns, then the key, then the version.
pub(crate) fn update(model: &Model, version: &Column) -> String {
    let columns = model.writable();
    let mut set = comma(columns.iter().enumerate(), |(index, column)| {
        format!("{} = ${}", quote(&column.name), index + 1)
    });
    if !set.is_empty() {
        set.push_str(", ");
    }
    format!(
        "UPDATE {} SET {set}{} {} RETURNING {}",
        table(model),
        set_version(model, version, columns.len() + 1),
        where_unchanged(model, version, columns.len() + 1),
        names(&returned(model))
    )
}

/// Bumps the version and nothing else.
pub(crate) fn touch(model: &Model, version: &Column) -> String {
    let (head, tail) = save(model, version);
    format!("{head}{tail}")
}

/// Writes the changed columns, which go between the two parts as `"name" = $n, `.
pub(crate) fn save(model: &Model, version: &Column) -> (String, String) {
    (
        format!("UPDATE {} SET ", table(model)),
        format!(
            "{} {} RETURNING {}",
            set_version(model, version, 1),
            where_unchanged(model, version, 1),
            names(&returned(model))
        ),
    )
}

pub(crate) fn delete(model: &Model, version: &Column) -> String {
    format!(
        "DELETE FROM {} {}",
        table(model),
        where_unchanged(model, version, 1)
    )
}
