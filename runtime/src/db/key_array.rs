//! Many keys as one array per column, for PostgreSQL: a statement over many rows is then one text, prepared once, without
//! a limit on parameters, and what it returns is one row.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde_json::value::to_raw_value;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArgumentBuffer, PgBindIterExt, PgHasArrayType, PgRow, PgTypeInfo, PgTypeKind, PgValueRef,
};
use sqlx::types::{Json, JsonRawValue};
use sqlx::{Decode, Encode, Postgres, Row, Type, TypeInfo};

use crate::db::column::Column;
use crate::db::statement::Bind;

/// One column of many keys.
pub struct KeyArray<'k, T> {
    values: Vec<&'k T>,
    ty: Option<fn() -> PgTypeInfo>,
}

/// One column of these keys, as an array of the type `ty`.
pub fn array<'k, K, T>(
    keys: &[&'k K],
    ty: Option<fn() -> PgTypeInfo>,
    column: impl Fn(&'k K) -> &'k T,
) -> KeyArray<'k, T> {
    KeyArray {
        values: keys.iter().map(|key| column(key)).collect(),
        ty,
    }
}

/// Binds a column of these rows, as [`array`] makes it. What is wrong with the type of the column is said about that type.
pub fn bind_array<'k, T: Column<Postgres> + 'k, K>(
    to: &mut impl Bind<Postgres>,
    index: usize,
    rows: &[&'k K],
    ty: Option<fn() -> PgTypeInfo>,
    column: impl Fn(&'k K) -> &'k T,
) {
    to.bind(index, &array(rows, ty, column));
}

impl<T: Type<Postgres>> Type<Postgres> for KeyArray<'_, T> {
    fn type_info() -> PgTypeInfo {
        // Not what is sent: only a value knows the type of its array, and `produces` it.
        T::type_info()
    }
}

impl<'q, T: Encode<'q, Postgres> + Type<Postgres>> Encode<'q, Postgres> for KeyArray<'_, T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        if T::type_info().name().ends_with("[]") {
            return Err(
                "a value that is an array cannot be one of many: PostgreSQL has no arrays of arrays"
                    .into(),
            );
        }
        self.values.iter().copied().bind_iter().encode(buffer)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(match self.ty {
            Some(ty) => ty(),
            // The server is asked for it, once per connection.
            None => PgTypeInfo::array_of(kept(T::type_info().name())),
        })
    }
}

/// A column of JSON in many rows; `None` is NULL. Their texts, as an array of sqlx takes no references.
pub struct JsonArray(Vec<Option<Json<Box<JsonRawValue>>>>, Option<String>);

/// The column with these values.
pub fn json_array<'v, T: Serialize + 'v>(values: impl Iterator<Item = Option<&'v T>>) -> JsonArray {
    let texts = values.map(|value| value.map(|value| to_raw_value(value).map(Json)).transpose());
    match texts.collect() {
        Ok(texts) => JsonArray(texts, None),
        Err(error) => JsonArray(Vec::new(), Some(error.to_string())),
    }
}

impl Type<Postgres> for JsonArray {
    fn type_info() -> PgTypeInfo {
        <Vec<Json<Box<JsonRawValue>>> as Type<Postgres>>::type_info()
    }
}

impl<'q> Encode<'q, Postgres> for JsonArray {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.1 {
            Some(error) => Err(error.as_str().into()),
            None => self.0.encode_by_ref(buffer),
        }
    }
}

/// The elements of the array at `index`.
pub fn elements<T>(row: &PgRow, index: usize) -> Result<std::vec::IntoIter<T>, sqlx::Error>
where
    T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
{
    let Elements(elements) = row.try_get(index)?;
    Ok(elements.into_iter())
}

/// Unlike a `Vec` this also has types of which sqlx does not know the array.
struct Elements<T>(Vec<T>);

impl<T: Type<Postgres>> Type<Postgres> for Elements<T> {
    fn type_info() -> PgTypeInfo {
        T::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        matches!(ty.kind(), PgTypeKind::Array(element) if T::compatible(element))
    }
}

impl<'r, T> Decode<'r, Postgres> for Elements<T>
where
    T: for<'a> Decode<'a, Postgres> + Type<Postgres>,
{
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Vec::decode(value).map(Self)
    }
}

/// Finds the array type of `T`: the inherent constant wins over the trait's.
///
/// sqlx knows it for all types but those whose `sqlx::Type` was written by hand, or has `no_pg_array`.
pub struct ArrayType<T>(PhantomData<T>);

/// The other half of [`ArrayType`].
pub trait NoArrayType {
    /// sqlx does not know it.
    const INFO: Option<fn() -> PgTypeInfo> = None;
}

impl<T: PgHasArrayType> ArrayType<T> {
    /// What sqlx knows.
    pub const INFO: Option<fn() -> PgTypeInfo> = Some(T::array_type_info);
}

impl<T> NoArrayType for ArrayType<T> {}

/// sqlx takes the names of such types for ever only. There are as many as the program has types of keys.
pub(crate) fn kept(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = names.get(name) {
        return kept;
    }
    let kept: &'static str = Box::leak(name.into());
    names.insert(kept);
    kept
}
