//! What a database has: tables, columns, unique indexes, and what else can refuse or change a write. No owners, no rows.

use serde::{Deserialize, Serialize};

/// The database that a catalogue is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// As sqlx calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Sqlite => "Sqlite",
        }
    }

    /// As its makers call it.
    pub(crate) fn product(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
        }
    }

    /// The schema of a connection's own tables, which are gone when it is closed.
    pub fn temporary(self) -> &'static str {
        match self {
            Self::Postgres => "pg_temp",
            Self::Sqlite => "temp",
        }
    }

    /// Whether `one` and `other` name the same column or table, where both are quoted.
    pub(crate) fn same_name(self, one: &str, other: &str) -> bool {
        match self {
            Self::Postgres => one == other,
            Self::Sqlite => one.eq_ignore_ascii_case(other),
        }
    }
}

/// The tables of a database, as it describes them itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Catalogue {
    /// The database.
    pub dialect: Dialect,
    /// Where a table without a schema is looked for, first things first.
    pub search_path: Vec<String>,
    /// Sorted by schema and name.
    pub tables: Vec<Table>,
    /// Where the statements of the connection look for a table without a schema, if that is more: in temporary tables, and on SQLite in attached
    /// databases. Never in a file.
    pub connection_path: Vec<String>,
    /// The user of the connection, as SQL writes the name. Never in a file.
    pub user: Option<String>,
}

impl Catalogue {
    /// Sorts all that has no order of its own.
    pub fn new(dialect: Dialect, search_path: Vec<String>, mut tables: Vec<Table>) -> Self {
        for table in &mut tables {
            table.columns.sort_by(|a, b| a.name.cmp(&b.name));
            table.unique.sort_by(|a, b| a.name.cmp(&b.name));
            table.indexes.sort_by(|a, b| a.name.cmp(&b.name));
            table
                .checks
                .sort_by(|a, b| (&a.name, &a.expression).cmp(&(&b.name, &b.expression)));
            table
                .foreign_keys
                .sort_by(|a, b| (&a.name, &a.definition).cmp(&(&b.name, &b.definition)));
            table.triggers.sort_by(|a, b| a.name.cmp(&b.name));
        }
        tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        Self {
            dialect,
            search_path,
            tables,
            connection_path: Vec::new(),
            user: None,
        }
    }
}

impl Catalogue {
    /// Where a table without a schema is looked for.
    pub(crate) fn path(&self) -> &[String] {
        match self.connection_path.as_slice() {
            [] => &self.search_path,
            path => path,
        }
    }
}

/// A table, or what can be read like one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// `main` on SQLite.
    pub schema: String,
    /// Its name, without quotes.
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// Whether policies decide who sees and writes which row.
    #[serde(default, skip_serializing_if = "is_false")]
    pub row_security: bool,
    /// Storage parameters of PostgreSQL; `strict` and `without_rowid` of SQLite.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Sorted by name.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// The unique indexes, those of constraints too.
    #[serde(default)]
    pub unique: Vec<Unique>,
    /// The others.
    #[serde(default)]
    pub indexes: Vec<Index>,
    /// What a row must be.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What a row refers to.
    #[serde(default)]
    pub foreign_keys: Vec<ForeignKey>,
    /// What writes do besides.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
    /// What the user of the connection may not do: `SELECT`, `INSERT`, `UPDATE`, `DELETE`. Never in a file.
    #[serde(default, skip_serializing)]
    pub denied: Vec<String>,
    /// The same of columns, where it may do so with others: the column, and what it may not. Never in a file.
    #[serde(default, skip_serializing)]
    pub denied_columns: Vec<(String, String)>,
    /// The sequences that it may not use, each with the column whose default has its next value. Never in a file.
    #[serde(default, skip_serializing)]
    pub denied_sequences: Vec<(String, String)>,
}

impl Table {
    /// Without what is of the connection alone.
    #[must_use]
    pub fn for_everyone(self) -> Self {
        Self {
            denied: Vec::new(),
            denied_columns: Vec::new(),
            denied_sequences: Vec::new(),
            ..self
        }
    }
}

/// What can be read like a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A table.
    #[default]
    Table,
    /// A table in partitions.
    Partitioned,
    /// One of these partitions.
    Partition,
    /// A view, materialised or not.
    View,
    /// A foreign or a virtual table: what it can do is for others to say.
    Foreign,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name, without quotes.
    pub name: String,
    /// As the database writes it; on SQLite as it was declared.
    #[serde(rename = "type")]
    pub ty: String,
    /// What the domain is made of, if the type is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_of: Option<String>,
    /// The values of the enum, if the type is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Whether it can be NULL.
    #[serde(default, skip_serializing_if = "is_false")]
    pub null: bool,
    /// What an insert that leaves it out writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What it is always made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
    /// Whether the database numbers the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// How text is compared, unless as always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
}

/// Who numbers the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// GENERATED ALWAYS AS IDENTITY.
    Always,
    /// GENERATED BY DEFAULT AS IDENTITY.
    ByDefault,
    /// The number that SQLite has for every row: INTEGER PRIMARY KEY.
    Rowid,
}

/// A unique index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unique {
    /// Its name.
    pub name: String,
    /// What it is on. Columns that are only stored in it are not among them.
    pub on: Vec<Part>,
    /// It is that of the primary key.
    #[serde(default, skip_serializing_if = "is_false")]
    pub primary: bool,
    /// The rows that it has, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// To it two NULLs are equal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nulls_not_distinct: bool,
    /// A build that failed or is under way left it so: it promises nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub invalid: bool,
    /// Of a DEFERRABLE constraint.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deferrable: bool,
    /// And of one that is INITIALLY DEFERRED.
    #[serde(default, skip_serializing_if = "is_false")]
    pub initially_deferred: bool,
}

/// An index that is not unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// What it is on, as the database writes it, with DESC.
    pub on: Vec<String>,
    /// The rows that it has, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// `gin`, `hash`, …; a B-tree if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The definition of the constraint that it is of: `EXCLUDE USING gist (room WITH =)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusion: Option<String>,
    /// A build that failed or is under way left it so: no statement reads it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub invalid: bool,
}

/// What an index is on: a column or an expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part {
    /// A column that is compared as it always is.
    Column(String),
    /// A column that is compared in another way.
    Collated {
        /// The column.
        column: String,
        /// The way.
        collation: String,
    },
    /// An expression, as the database writes it.
    Expression {
        /// The text.
        expression: String,
    },
}

impl Part {
    /// Its column, if it is one.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Column(column) | Self::Collated { column, .. } => Some(column),
            Self::Expression { .. } => None,
        }
    }
}

/// What a row must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// As the database writes it.
    pub expression: String,
    /// NOT VALID: rows that were there before it can be otherwise.
    #[serde(default, skip_serializing_if = "is_false")]
    pub not_valid: bool,
    /// NO INHERIT: rows of tables that inherit from this one, which a SELECT reads too, can be otherwise.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_inherit: bool,
}

impl Check {
    /// Whether each row that is read is so.
    pub(crate) fn is_of_all(&self) -> bool {
        !self.not_valid && !self.no_inherit
    }
}

/// What a row refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignKey {
    /// Its name; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// As the database writes it.
    pub definition: String,
}

/// What a write does besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// It runs before the write, and can change it, or instead of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub before: bool,
    /// It runs once for a statement, and sees no row.
    #[serde(default, skip_serializing_if = "is_false")]
    pub statement: bool,
    /// `insert`, `update`, `delete`.
    #[serde(default)]
    pub on: Vec<String>,
}

impl Column {
    /// `DEFAULT NULL` is none.
    pub(crate) fn has_default(&self) -> bool {
        let is_null = |text: &String| text.trim().eq_ignore_ascii_case("null");
        self.default.as_ref().is_some_and(|text| !is_null(text))
    }
}

impl Table {
    /// Whether a trigger can fill a column of a new row.
    pub(crate) fn fills_new_rows(&self) -> bool {
        let fills = |trigger: &Trigger| {
            trigger.before && !trigger.statement && trigger.on.iter().any(|on| on == "insert")
        };
        self.triggers.iter().any(fills)
    }

    /// Whether a trigger runs after a row is new.
    pub(crate) fn writes_after_insert(&self) -> bool {
        let writes = |trigger: &Trigger| trigger.on.iter().any(|on| on == "insert");
        self.triggers.iter().any(writes)
    }

    /// `documents`, or `app.documents` if that is how it has to be written.
    pub(crate) fn shown(&self, catalogue: &Catalogue) -> String {
        match catalogue.search_path.first() {
            Some(first) if *first == self.schema => self.name.clone(),
            _ => format!("{}.{}", self.schema, self.name),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}
