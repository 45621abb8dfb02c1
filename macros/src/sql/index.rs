//! How an index is created, and what it is called.

use super::*;

/// `CREATE UNIQUE INDEX IF NOT EXISTS … ON … (…);`
pub(super) fn create_index(
    rows: &Table,
    kind: &str,
    name: &str,
    definition: &str,
    dialect: Dialect,
) -> String {
    // SQLite wants the schema at the index.
    let (schema, on) = match (dialect, &rows.schema) {
        (Dialect::Sqlite, Some(schema)) => (format!("{}.", quote(schema)), quote(&rows.name)),
        (Dialect::Sqlite, None) | (Dialect::Postgres, _) => (String::new(), name_of(rows)),
    };
    format!(
        "CREATE {kind} IF NOT EXISTS {schema}{} ON {on} {definition};\n",
        quote(name)
    )
}

/// A name that is made of the table's, shortened where PostgreSQL would cut it: two names that are cut to the same are one name, and the
/// second index is not created.
pub(super) fn shortened(table: &str, purpose: &str) -> String {
    let name = format!("{table}_rowlock_{purpose}");
    if name.len() <= LONGEST {
        return name;
    }
    let kept: String = table.chars().take(KEPT).collect();
    format!("{kept}_rowlock_{:016x}", hash(&name))
}

/// So long are names of PostgreSQL.
pub(super) const LONGEST: usize = 63;

/// So much of a long table's name is in the names that are made of it.
pub(super) const KEPT: usize = 8;

/// FNV-1a: the same in every version of the compiler.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
