//! What databases differ in that is no statement's own business.

use std::borrow::Cow;

/// A database's way of writing SQL.
///
/// It cannot be compared, on purpose: what depends on it is a `match` that names every database, and a new one is asked
/// for everywhere by the compiler.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dialect {
    Postgres,
    Sqlite,
}

impl Dialect {
    /// Whether equal times are equal, and the earlier one is less, as they are stored.
    pub(crate) fn orders_times(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::Sqlite => false,
        }
    }

    pub(crate) const ALL: [Self; 2] = [Self::Postgres, Self::Sqlite];

    /// The name of sqlx's type for the database, which is also what `backend(...)` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Sqlite => "Sqlite",
        }
    }

    /// Whether the keys of many rows are bound as arrays.
    pub(crate) fn has_arrays(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::Sqlite => false,
        }
    }

    /// Whether every row has the number of the transaction that wrote it.
    pub(crate) fn has_xmin(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::Sqlite => false,
        }
    }

    /// Whether `u8`, `u16` and `u32` can be stored.
    pub(crate) fn has_unsigned(self) -> bool {
        match self {
            Self::Postgres => false,
            Self::Sqlite => true,
        }
    }

    /// Whether `?`, `:name` and `@name` stand for values.
    pub(crate) fn has_named_parameters(self) -> bool {
        match self {
            Self::Postgres => false,
            Self::Sqlite => true,
        }
    }

    /// Whether NULLs can be equal in a unique index.
    pub(crate) fn has_nulls_not_distinct(self) -> bool {
        match self {
            Self::Postgres => true,
            Self::Sqlite => false,
        }
    }

    /// A write, and what it says about the rows that it wrote.
    pub(super) fn returning(self, write: &str, columns: &[String]) -> String {
        if columns.is_empty() {
            return write.to_owned();
        }
        match self {
            Self::Postgres | Self::Sqlite => format!("{write} RETURNING {}", columns.join(", ")),
        }
    }

    /// The same text as the database reads it: its names in quotes that it takes for nothing else, its values as `$n`, which
    /// all of them know.
    ///
    /// To SQLite `"slug"` is the text `'slug'` when the table has no such column. A lookup would find no row, or any, and
    /// a column would be read as its own name; in backticks it is an error.
    pub(crate) fn spell(self, sql: &str) -> Cow<'_, str> {
        let quote = match self {
            Self::Postgres => return Cow::Borrowed(sql),
            Self::Sqlite => '`',
        };
        let mut spelled = String::with_capacity(sql.len());
        let mut open = None;
        let mut rest = sql.chars().peekable();
        while let Some(next) = rest.next() {
            match (open, next) {
                // In a name, or between names.
                (Some('"'), '"') if rest.next_if_eq(&'"').is_some() => spelled.push('"'),
                (Some('"') | None, '"') => {
                    open = open.xor(Some('"'));
                    spelled.push(quote);
                }
                (Some('"'), other) if other == quote => spelled.extend([quote, quote]),
                // A quote in a text is doubled: the text ends and goes on.
                (Some('\'') | None, '\'') => {
                    open = open.xor(Some('\''));
                    spelled.push('\'');
                }
                (_, other) => spelled.push(other),
            }
        }
        Cow::Owned(spelled)
    }
}
