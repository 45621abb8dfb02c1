//! What a type must be able to do to be a column, a version or a counter. The messages are what users read when a
//! field has the wrong type.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Serialize, Serializer};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Encode, FromRow, Type};

use crate::fan_out::panic_text;

/// A type that `DB` can store.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in a `{DB}` column",
    label = "no `sqlx::Encode` and `sqlx::Type` for `{DB}`",
    note = "a type of your own: `#[derive(sqlx::Type)] #[sqlx(transparent)]` for a struct around one field, `#[derive(sqlx::Type)]` for an enum",
    note = "a type of another crate needs a feature of sqlx: `Uuid` needs `uuid`, `DateTime<Utc>` and `NaiveDate` need `chrono`, `OffsetDateTime` needs `time`, `Decimal` needs `rust_decimal`, `Json` and `Value` need `json`",
    note = "a type that only another database has: limit the model to that one with `#[rowlock(backend(...))]`"
)]
pub trait Column<DB: Database>: for<'q> Encode<'q, DB> + Type<DB> + Sync {}

#[diagnostic::do_not_recommend]
impl<DB: Database, T: for<'q> Encode<'q, DB> + Type<DB> + Sync> Column<DB> for T {}

/// A struct that sqlx can read from a row.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a row",
    label = "needs `sqlx::FromRow`",
    note = "add it: `#[derive(sqlx::FromRow, ...)]`; if it is there, sqlx cannot read the type of a field: see the errors of the fields"
)]
pub trait ModelRow<DB: Database>: for<'r> FromRow<'r, DB::Row> + Send + Sync {}

#[diagnostic::do_not_recommend]
impl<DB: Database, T: for<'r> FromRow<'r, DB::Row> + Send + Sync> ModelRow<DB> for T {}

/// What reads a row.
pub type Read<DB, T> = fn(&<DB as Database>::Row) -> Result<T, sqlx::Error>;

/// Reads a row. The errors about a struct that cannot be read come from here, not from each of our traits.
///
/// Also a decoder that panics is only about its row: that of `infinity`, say, which chrono has no time for. What was written is written.
pub fn from_row<DB: Database, T: ModelRow<DB>>(row: &DB::Row) -> Result<T, sqlx::Error> {
    let read = catch_unwind(AssertUnwindSafe(|| T::from_row(row)));
    read.unwrap_or_else(|panic| {
        let text = format!("the decoder panicked: {}", panic_text(panic));
        Err(sqlx::Error::Decode(text.into()))
    })
}

/// An integer that the database counts up with every update.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a version field",
    label = "expected `i16`, `i32` or `i64`",
    note = "the version is an integer that the database increments on every update"
)]
pub trait VersionNumber: Copy + Send + Sync + 'static {
    #[doc(hidden)]
    const MAX: i64;
    #[doc(hidden)]
    fn to_i64(self) -> i64;
}

/// An integer that the database adds to.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a counter",
    label = "expected `i16`, `i32` or `i64`",
    note = "a counter is an integer column; sums of money belong in an integer number of cents"
)]
pub trait CounterNumber: Copy + Send + Sync + 'static {
    #[doc(hidden)]
    const MIN: i64;
    #[doc(hidden)]
    const MAX: i64;
    /// `None` if the database holds a wider number than the field.
    #[doc(hidden)]
    fn from_i64(value: i64) -> Option<Self>;
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl VersionNumber for $ty {
            const MAX: i64 = <$ty>::MAX as i64;
            fn to_i64(self) -> i64 {
                self.into()
            }
        }
        impl CounterNumber for $ty {
            const MIN: i64 = <$ty>::MIN as i64;
            const MAX: i64 = <$ty>::MAX as i64;
            fn from_i64(value: i64) -> Option<Self> {
                value.try_into().ok()
            }
        }
    )*};
}
integers!(i16, i32, i64);

/// Finds an `Option` behind an alias: the inherent constant wins over the trait's.
pub struct Nullable<T>(PhantomData<T>);

/// The other half of [`Nullable`].
pub trait NotNullable {
    /// Whether the type is an `Option`.
    const IS_OPTION: bool = false;
}

impl<T> Nullable<Option<T>> {
    /// Whether the type is an `Option`.
    pub const IS_OPTION: bool = true;
}

impl<T> NotNullable for Nullable<T> {}

impl From<Vec<bool>> for Changes {
    /// One flag per column.
    fn from(changed: Vec<bool>) -> Self {
        Self(changed.into())
    }
}

/// A column that can be NULL. `Option` of sqlx wants its value to outlive the statement, which a borrowed one does not.
#[derive(Debug)]
pub struct OrNull<T>(pub Option<T>);

impl<DB: Database, T: Type<DB>> Type<DB> for OrNull<T> {
    fn type_info() -> DB::TypeInfo {
        T::type_info()
    }
}

impl<'q, DB: Database, T: Encode<'q, DB>> Encode<'q, DB> for OrNull<T> {
    fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.0 {
            Some(value) => value.encode_by_ref(buffer),
            None => Ok(IsNull::Yes),
        }
    }
}

impl<T: Serialize> Serialize for OrNull<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A set of columns, by their position in `Versioned::COLUMNS`.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes(Box<[bool]>);

impl Changes {
    /// No column.
    pub fn none() -> Self {
        Self(Box::new([]))
    }

    /// So many columns.
    #[cfg(feature = "schema")]
    pub(crate) fn all(columns: usize) -> Self {
        Self(vec![true; columns].into())
    }

    /// Adds the columns of the other set.
    pub fn add(&mut self, other: &Self) {
        let columns = self.0.len().max(other.0.len());
        let either = |column| self.contains(column) || other.contains(column);
        self.0 = (0..columns).map(either).collect();
    }

    pub(crate) fn contains(&self, column: usize) -> bool {
        self.0.get(column).copied().unwrap_or(false)
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.0.contains(&true)
    }

    /// Where they stand.
    pub(crate) fn columns(&self) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(|column| self.contains(*column))
    }

    /// The names of the columns that are in both sets.
    pub(crate) fn shared(&self, other: &Self, names: &[&'static str]) -> Vec<&'static str> {
        self.names(names)
            .into_iter()
            .filter(|name| other.names(names).contains(name))
            .collect()
    }

    pub(crate) fn names(&self, names: &[&'static str]) -> Vec<&'static str> {
        names
            .iter()
            .enumerate()
            .filter(|(index, _)| self.contains(*index))
            .map(|(_, name)| *name)
            .collect()
    }

    /// Copies the field if its column is in the set.
    pub fn copy<T: Clone>(&self, column: usize, from: &T, to: &mut T) {
        if self.contains(column) {
            to.clone_from(from);
        }
    }
}
