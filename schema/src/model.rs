//! What a derive needs of the database, in plain words: the derive writes it, the rules read it.

use serde::{Deserialize, Serialize};

use crate::catalogue::Dialect;
use crate::family::Family;

/// A struct as one derive sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The struct.
    pub name: String,
    /// The derive.
    pub derive: String,
    /// The schema of its table, if the model names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// The databases that it is for.
    pub dialects: Vec<Dialect>,
    /// The columns, in source order.
    pub fields: Vec<Field>,
    /// The keys.
    pub keys: Vec<Key>,
    /// An update or an upsert of it writes every plain column.
    pub writes_all: bool,
    /// What it inserts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insert: Option<Insert>,
    /// The indexes by which its statements find their rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<NeededIndex>,
    /// What its user has to be allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<Access>,
}

/// What a method does with columns of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The method.
    pub method: String,
    /// `SELECT`, `INSERT`, `UPDATE` or `DELETE`.
    pub privilege: String,
    /// The columns: `*` is all that the table has, and a `DELETE` has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The derive is of no use without it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
}

/// An index by which rows are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededIndex {
    /// The database that it is for.
    pub dialect: Dialect,
    /// As the derive calls it.
    pub name: String,
    /// The statement that makes it.
    pub create: String,
    /// Nothing works without it, by this name. Without any other, things are slow.
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
}

/// A field that is a column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// As messages name it: `title`, or `address.street`.
    pub field: String,
    /// The column, if it has another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The type as it is written, without `Option`.
    #[serde(rename = "type")]
    pub ty: String,
    /// What values of that type are.
    #[serde(default, skip_serializing_if = "Family::is_unknown")]
    pub family: Family,
    /// Whether the type is an `Option`, if its name tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub option: Option<bool>,
    /// Who writes it.
    #[serde(default, skip_serializing_if = "Role::is_plain")]
    pub role: Role,
    /// It is `generated`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub generated: bool,
    /// It is a part of the key.
    #[serde(default, skip_serializing_if = "is_false")]
    pub key: bool,
    /// It is a `default`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub default: bool,
    /// What a new row starts with, for a counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<i64>,
    /// The counter's lowest value, if that is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// The texts that the state is stored as.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
}

impl Field {
    /// The column's name.
    pub fn column(&self) -> &str {
        self.column.as_deref().unwrap_or(&self.field)
    }
}

/// Who writes a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The user's code.
    #[default]
    Plain,
    /// `Versioned`.
    Version,
    /// PostgreSQL itself.
    System,
    /// `Counter`.
    Counter,
    /// Every write.
    Fence,
    /// `Idempotent` and `Queue`: it cannot be NULL.
    Always,
    /// `Idempotent` and `Queue`: it can be.
    Sometimes,
    /// The state of a job.
    State,
}

impl Role {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// Columns by which rows are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// What it is on.
    pub on: Vec<KeyPart>,
    /// Of a partial index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// To its index two NULLs are equal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nulls_not_distinct: bool,
    /// Its one column is made of others by the database.
    #[serde(default, skip_serializing_if = "is_false")]
    pub computed: bool,
    /// What is done by it.
    #[serde(rename = "use")]
    pub used: KeyUse,
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPart {
    /// The column.
    pub column: String,
    /// The expression of it that the index is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}

/// What is done by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyUse {
    /// One row is found by it.
    Find,
    /// `ON CONFLICT` names it: there must be a unique index on it, and on nothing else.
    Conflict,
}

/// What a new row is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Insert {
    /// The method.
    pub method: String,
    /// The derive is of no use without it.
    pub required: bool,
    /// The columns.
    pub columns: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}
