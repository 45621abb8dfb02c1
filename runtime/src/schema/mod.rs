#![doc = include_str!("../../docs/schema.md")]

mod file;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod verify;

use std::future::Future;
use std::marker::PhantomData;

use rowlock_schema::Server;
pub use rowlock_schema::{Catalogue, Finding, Level, Place, Rule, diff};

pub use self::file::{FileError, check_file};
#[doc(hidden)]
pub use self::statements::{Binds, Element, Elements, Named, NoElement, NoList, Of, Text, Texts};
#[cfg(feature = "registry")]
#[cfg_attr(docsrs, doc(cfg(feature = "registry")))]
pub use self::verify::verify_all;
pub use self::verify::{Report, VerifyError, verify};
use crate::DatabaseError;
use crate::db::Backend;
use crate::db::error::{KeyText, Operation};
use crate::db::source::{Link, Opened, Source};

/// A database that describes its tables: `sqlx::Postgres` and `sqlx::Sqlite`.
pub trait Describes: Backend {
    /// Everything, partitions and temporary tables too.
    #[doc(hidden)]
    fn describe_tables(
        link: &mut Link<'_, Self>,
    ) -> impl Future<Output = Result<Catalogue, sqlx::Error>> + Send;
    /// The version, and how the connection is set.
    #[doc(hidden)]
    fn describe_server(
        link: &mut Link<'_, Self>,
    ) -> impl Future<Output = Result<Server, sqlx::Error>> + Send;
    /// The statements of a model.
    #[doc(hidden)]
    fn texts(needed: &Needed) -> Texts<Self>;
    /// The types of the model's fields of which sqlx asks the server by a name, each with the number of its field.
    #[doc(hidden)]
    fn named_types(needed: &Needed) -> Vec<(usize, Self::TypeInfo)>;
    /// The types of the arrays that statements about many rows bind, if there are such arrays.
    #[doc(hidden)]
    fn arrays(elements: &[Self::TypeInfo]) -> Option<Vec<Self::TypeInfo>>;
}

/// Reads what the database has: tables, columns, unique indexes, CHECKs, foreign keys, triggers. No row is read, no owner and no grant, and no
/// temporary table.
///
/// [`Catalogue::to_json`] is the text of `rowlock.schema.json`; [`check_file`] writes it.
pub fn snapshot<'c, DB: Describes>(
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<Catalogue, DatabaseError>> + Send {
    async move {
        let error = |error| DatabaseError::new(operation("snapshot"), error);
        let mut opened = db.open().await.map_err(error)?;
        let read = DB::describe_tables(&mut opened.link()).await;
        let read = read.map_err(error)?;
        let tables = read.tables.into_iter();
        // There is one more of them every month, and they are what the whole is.
        let tables = tables.filter(|table| table.kind != rowlock_schema::Kind::Partition);
        let tables = tables.filter(|table| table.schema != read.dialect.temporary());
        let tables = tables.map(rowlock_schema::Table::for_everyone);
        Ok(Catalogue::new(
            read.dialect,
            read.search_path,
            tables.collect(),
        ))
    }
}

fn operation(method: &'static str) -> Operation {
    Operation::new(method, "", KeyText::default())
}

/// The rows of a statement.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn rows<'q, DB: Backend>(
    link: &mut Link<'_, DB>,
    query: impl sqlx::Execute<'q, DB> + 'q,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    let mut rows = Vec::new();
    link.run(query, |result| rows.extend(result.right()))
        .await?;
    Ok(rows)
}

/// Models to [`verify`]: `rowlock::models![Document, Tag]`.
#[derive(Clone, Copy, Debug)]
pub struct Models(&'static [[Option<Needed>; 7]]);

impl Models {
    #[doc(hidden)]
    pub const fn of(needs: &'static [[Option<Needed>; 7]]) -> Self {
        Self(needs)
    }

    /// What each of them needs, for each of its derives.
    fn needs(self) -> impl Iterator<Item = Needed> {
        self.0.iter().flatten().flatten().copied()
    }
}

/// What a derive of a struct needs.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// See [`Described::NEEDS`].
    needs: &'static str,
    #[cfg(feature = "postgres")]
    postgres: Texts<sqlx::Postgres>,
    #[cfg(feature = "postgres")]
    postgres_types: Named<sqlx::Postgres>,
    #[cfg(feature = "sqlite")]
    sqlite: Texts<sqlx::Sqlite>,
}

#[cfg(feature = "registry")]
inventory::collect!(Needed);

impl Needed {
    pub const fn by<T: Described<D>, D>() -> Self {
        Self {
            needs: T::NEEDS,
            #[cfg(feature = "postgres")]
            postgres: T::POSTGRES,
            #[cfg(feature = "postgres")]
            postgres_types: T::POSTGRES_TYPES,
            #[cfg(feature = "sqlite")]
            sqlite: T::SQLITE,
        }
    }
}

/// What `#[derive(CreateTable)]` makes for a database.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the table of `{Self}` cannot be made on `{DB}`",
    note = "the struct has no `#[derive(CreateTable)]`, its `backend(...)` leaves the database out, or the cargo feature of it is off"
)]
pub trait CreateTableSql<DB: Backend> {
    const CREATE_TABLE: &'static str;
}

/// What the derive `D` of a struct needs of the database.
#[doc(hidden)]
pub trait Described<D> {
    /// As JSON: it is read once, if at all.
    const NEEDS: &'static str;
    /// Its statements on PostgreSQL, if it is for that.
    #[cfg(feature = "postgres")]
    const POSTGRES: Texts<sqlx::Postgres> = &[];
    /// The types of its fields there that can have names of the user's.
    #[cfg(feature = "postgres")]
    const POSTGRES_TYPES: Named<sqlx::Postgres> = &[];
    /// And on SQLite.
    #[cfg(feature = "sqlite")]
    const SQLITE: Texts<sqlx::Sqlite> = &[];
}

/// The derives.
#[doc(hidden)]
pub mod by {
    #[derive(Debug)]
    pub enum Counter {}
    #[derive(Debug)]
    pub enum FindOrCreate {}
    #[derive(Debug)]
    pub enum Guarded {}
    #[derive(Debug)]
    pub enum Idempotent {}
    #[derive(Debug)]
    pub enum Lockable {}
    #[derive(Debug)]
    pub enum Queue {}
    #[derive(Debug)]
    pub enum Versioned {}
}

/// What `T` needs as a `D`, if it derives that.
#[doc(hidden)]
#[derive(Debug)]
pub struct Needs<T, D>(PhantomData<(T, D)>);

/// The other half of [`Needs`].
#[doc(hidden)]
pub trait NoNeeds {
    const NEEDS: Option<Needed> = None;
}

impl<T: Described<D>, D> Needs<T, D> {
    pub const NEEDS: Option<Needed> = Some(Needed::by::<T, D>());
}

impl<T, D> NoNeeds for Needs<T, D> {}

/// Some of the needs are there, or the type is no model.
#[doc(hidden)]
pub const fn is_model(needs: &[Option<Needed>; 7]) -> bool {
    !matches!(needs, [None, None, None, None, None, None, None])
}
