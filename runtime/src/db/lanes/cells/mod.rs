//! The values of one call, kept for a statement about many.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "postgres")]
pub(crate) use self::postgres::PgCells;
#[cfg(all(feature = "postgres", feature = "schema"))]
pub(crate) use self::postgres::array_of;
#[cfg(feature = "sqlite")]
pub(crate) use self::sqlite::SqliteCells;
