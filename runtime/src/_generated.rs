//! What the derives generate, with its exact signatures: two models of a made-up program. Each of their methods has the SQL that it runs.
//!
//! [`Document`] derives [`Versioned`], [`Guarded`] and [`Lockable`], [`Tag`] derives [`FindOrCreate`] and [`Counter`].
//!
//! It is made with the cargo features that this page was made with; programs do not compile it.

use sqlx::{ColumnIndex, Decode, Error, FromRow, Row, Type};

use crate::{Counter, FindOrCreate, Guarded, Lockable, Versioned};

/// What several people edit.
#[derive(Debug, Clone, Versioned, Guarded, Lockable)]
#[rowlock(table = "documents", crate = crate)]
pub struct Document {
    /// Given by the caller.
    #[rowlock(key)]
    pub id: i64,
    /// Edited.
    pub title: String,
    /// Edited.
    pub body: Option<String>,
    /// Raised by each write.
    #[rowlock(version)]
    pub lock_version: i64,
}

/// One for each name of a tenant.
#[derive(Debug, Clone, FindOrCreate, Counter)]
#[rowlock(
    table = "tags",
    unique(tenant_id, slug),
    existing_rows,
    crate = crate
)]
pub struct Tag {
    /// Made by the database.
    #[rowlock(key, generated)]
    pub id: i64,
    /// A part of the unique key.
    pub tenant_id: i64,
    /// The other part.
    pub slug: String,
    /// How often it is used.
    #[rowlock(counter(min = 0))]
    pub uses: i64,
}

// As `#[derive(sqlx::FromRow)]` does it, which needs a feature of sqlx.
impl<'r, R: Row> FromRow<'r, R> for Document
where
    &'r str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            title: row.try_get("title")?,
            body: row.try_get("body")?,
            lock_version: row.try_get("lock_version")?,
        })
    }
}

impl<'r, R: Row> FromRow<'r, R> for Tag
where
    &'r str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            tenant_id: row.try_get("tenant_id")?,
            slug: row.try_get("slug")?,
            uses: row.try_get("uses")?,
        })
    }
}
