//! What values of a type are, as far as its name tells. What is not known fits everywhere.

use serde::{Deserialize, Serialize};

use crate::catalogue::{Column, Dialect};

/// What values of a type are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Family {
    #[default]
    Unknown,
    /// With so many bits.
    Integer(u8),
    /// With so many bits.
    Float(u8),
    Decimal,
    Text,
    Bytes,
    Bool,
    /// A point in time.
    Instant,
    /// A date and a time, of no time zone.
    DateTime,
    Date,
    Time,
    Uuid,
    Json,
    /// Of PostgreSQL.
    Enum,
}

/// What SQLite makes of a value that it stores.
enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Family {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }

    /// Of a Rust type, by the last word of its path, and that of its first argument.
    pub fn of_rust(name: &str, argument: Option<&str>) -> Self {
        match (name, argument) {
            ("i8" | "u8", _) => Self::Integer(8),
            ("i16" | "u16", _) => Self::Integer(16),
            ("i32" | "u32", _) => Self::Integer(32),
            ("i64" | "Fence", _) => Self::Integer(64),
            ("f32", _) => Self::Float(32),
            ("f64", _) => Self::Float(64),
            ("Decimal" | "BigDecimal", _) => Self::Decimal,
            ("String", _) | ("Box" | "Arc" | "Rc", Some("str")) => Self::Text,
            ("Vec", Some("u8")) => Self::Bytes,
            ("bool", _) => Self::Bool,
            ("DateTime", Some("Utc" | "Local" | "FixedOffset")) | ("OffsetDateTime", _) => {
                Self::Instant
            }
            ("NaiveDateTime" | "PrimitiveDateTime", _) => Self::DateTime,
            ("NaiveDate", _) => Self::Date,
            ("NaiveTime", _) => Self::Time,
            ("Uuid", _) => Self::Uuid,
            ("Json" | "JsonValue", _) => Self::Json,
            _ => Self::Unknown,
        }
    }

    /// Of a column of PostgreSQL.
    pub(crate) fn of_postgres(column: &Column) -> Self {
        if !column.values.is_empty() {
            return Self::Enum;
        }
        let ty = column.domain_of.as_ref().unwrap_or(&column.ty);
        let (before, after) = match (ty.find('('), ty.find(')')) {
            (Some(open), Some(close)) if open < close => (&ty[..open], &ty[close + 1..]),
            _ => (ty.as_str(), ""),
        };
        match format!("{before}{after}").as_str() {
            "smallint" => Self::Integer(16),
            "integer" => Self::Integer(32),
            "bigint" => Self::Integer(64),
            "real" => Self::Float(32),
            "double precision" => Self::Float(64),
            "numeric" => Self::Decimal,
            "text" | "character varying" | "character" => Self::Text,
            "bytea" => Self::Bytes,
            "boolean" => Self::Bool,
            "timestamp with time zone" => Self::Instant,
            "timestamp without time zone" => Self::DateTime,
            "date" => Self::Date,
            "time without time zone" => Self::Time,
            "uuid" => Self::Uuid,
            "json" | "jsonb" => Self::Json,
            _ => Self::Unknown,
        }
    }

    /// Whether values of this type can be in that column. `true` if that is not known.
    pub(crate) fn fits(self, column: &Column, dialect: Dialect) -> bool {
        match dialect {
            Dialect::Postgres => {
                let is = Self::of_postgres(column);
                match (self, is) {
                    (Self::Unknown, _) | (_, Self::Unknown) => true,
                    (Self::Integer(_), Self::Integer(_)) => true,
                    (Self::Float(_), Self::Float(_)) => true,
                    (one, other) => one == other,
                }
            }
            // What it cannot turn into the column's type SQLite stores as it came, and gives back so.
            Dialect::Sqlite => match (self, affinity(&column.ty)) {
                (Self::Integer(_) | Self::Bool, Affinity::Text | Affinity::Real) => false,
                // A number without a fraction is stored as an integer, which sqlx reads as no float.
                (Self::Float(_), Affinity::Text | Affinity::Integer | Affinity::Numeric) => false,
                // `date` and `datetime` are NUMERIC, and hold text that is no number.
                (Self::Text, Affinity::Integer | Affinity::Real) => false,
                _ => true,
            },
        }
    }

    /// The bits of the column, if both are numbers of other sizes and the size matters.
    pub(crate) fn other_width(self, column: &Column, dialect: Dialect) -> Option<(u8, u8)> {
        match dialect {
            Dialect::Postgres => match (self, Self::of_postgres(column)) {
                (Self::Integer(one), Self::Integer(other)) if one != other => Some((one, other)),
                (Self::Float(one), Self::Float(other)) if one != other => Some((one, other)),
                _ => None,
            },
            // All its integers have 64.
            Dialect::Sqlite => None,
        }
    }

    /// By what a column is cast that PostgreSQL does not cast by itself; `None` if it does, or if the types are not known.
    pub(crate) fn cast(self, to: Self) -> Option<&'static str> {
        let is_number =
            |family| matches!(family, Self::Integer(_) | Self::Float(_) | Self::Decimal);
        let is_time = |family| matches!(family, Self::Instant | Self::DateTime);
        match (self, to) {
            (Self::Unknown, _) | (_, Self::Unknown | Self::Text) => None,
            (Self::Enum, Self::Enum) => Some("::text"),
            (one, other) if one == other => None,
            (one, other) if is_number(one) && is_number(other) => None,
            (one, Self::Date | Self::Time | Self::Instant | Self::DateTime) if is_time(one) => None,
            (Self::Date, other) if is_time(other) => None,
            (Self::Text, _) => Some(""),
            (Self::Bool, other) if is_number(other) => Some("::integer"),
            // There is no cast of one to the other.
            _ => Some("::text"),
        }
    }

    /// A type for such values, for a migration.
    pub fn column_type(self, dialect: Dialect) -> Option<&'static str> {
        let (postgres, sqlite) = match self {
            Self::Unknown | Self::Enum => return None,
            // What sqlx reads as an `i8`.
            Self::Integer(8) => ("\"char\"", "integer"),
            Self::Integer(16) => ("smallint", "integer"),
            Self::Integer(32) => ("integer", "integer"),
            Self::Integer(_) => ("bigint", "integer"),
            Self::Float(32) => ("real", "real"),
            Self::Float(_) => ("double precision", "real"),
            Self::Decimal => ("numeric", "text"),
            Self::Text => ("text", "text"),
            Self::Bytes => ("bytea", "blob"),
            Self::Bool => ("boolean", "boolean"),
            Self::Instant => ("timestamptz", "datetime"),
            Self::DateTime => ("timestamp", "datetime"),
            Self::Date => ("date", "date"),
            Self::Time => ("time", "time"),
            Self::Uuid => ("uuid", "blob"),
            Self::Json => ("jsonb", "text"),
        };
        match dialect {
            Dialect::Postgres => Some(postgres),
            Dialect::Sqlite => Some(sqlite),
        }
    }
}

/// The rules of SQLite's documentation, in their order.
fn affinity(declared: &str) -> Affinity {
    let ty = declared.to_ascii_lowercase();
    let has = |word: &str| ty.contains(word);
    if has("int") {
        Affinity::Integer
    } else if has("char") || has("clob") || has("text") {
        Affinity::Text
    } else if has("blob") || ty.trim().is_empty() || ty == "any" {
        Affinity::Blob
    } else if has("real") || has("floa") || has("doub") {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}
