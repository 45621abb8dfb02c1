//! On PostgreSQL they are elements of one array per column.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgBindIterExt, PgHasArrayType, PgRow, PgTypeInfo,
};
use sqlx::{Arguments as _, Encode, Postgres, Row as _, Type, TypeInfo, ValueRef as _};

use crate::db::column::Column;
use crate::db::key_array::kept;
use crate::db::lanes::Cells;
use crate::db::postgres::OfTheColumn;
use crate::db::{Array, Backend};

/// See [`Backend::Cells`](crate::db::Backend::Cells).
#[derive(Default)]
pub struct PgCells {
    bytes: PgArgumentBuffer,
    values: Vec<Value>,
    key: Key,
    is_odd: bool,
}

fn is_text(ty: &PgTypeInfo) -> bool {
    *ty == <str as Type<Postgres>>::type_info()
}

/// Of the length before each value.
const LENGTH: usize = size_of::<usize>();

/// How far the key goes.
#[derive(Default)]
struct Key {
    bytes: usize,
    values: usize,
}

struct Value {
    ty: PgTypeInfo,
    end: usize,
    is_null: bool,
}

/// How many values a row has, and how many of them are its key.
struct Shape {
    columns: usize,
    key: usize,
}

impl PgCells {
    /// Of each of so many rows.
    fn shape(&self, rows: usize) -> Shape {
        let columns = self.values.len().checked_div(rows).unwrap_or_default();
        let before = rows.saturating_sub(1) * columns;
        Shape {
            columns,
            key: self.key.values.saturating_sub(before),
        }
    }

    fn element(&self, column: usize) -> Option<Element<'_>> {
        let value = self.values.get(column)?;
        let start = match column.checked_sub(1) {
            Some(before) => self.values.get(before)?.end,
            None => 0,
        };
        let bytes = self.bytes.get(start + LENGTH..value.end)?;
        Some(Element {
            ty: &value.ty,
            bytes: (!value.is_null).then_some(bytes),
        })
    }
}

impl Cells<Postgres> for PgCells {
    const TELLS_KEYS: bool = false;

    fn add<T: Column<Postgres>>(&mut self, value: &T) {
        let ty = value.produces().unwrap_or_else(T::type_info);
        // PostgreSQL has no arrays of arrays.
        self.is_odd |= ty.name().ends_with("[]");
        // Its length stands before it: the key ('a', 'bc') is not ('ab', 'c').
        if self.values.is_empty() {
            // Room for most calls: one allocation instead of one for each time that a vector grows.
            self.bytes.reserve(256);
            self.values.reserve(8);
        }
        let start = self.bytes.len() + LENGTH;
        self.bytes.extend_from_slice(&[0; LENGTH]);
        match value.encode_by_ref(&mut self.bytes) {
            Ok(is_null) => {
                let (end, is_null) = (self.bytes.len(), matches!(is_null, IsNull::Yes));
                // The server would refuse the whole statement.
                let text = self.bytes.get(start..end).filter(|_| is_text(&ty));
                self.is_odd |= text.is_some_and(|text| text.contains(&0));
                let length = if is_null { usize::MAX } else { end - start };
                if let Some(before) = self.bytes.get_mut(start - LENGTH..start) {
                    before.copy_from_slice(&length.to_be_bytes());
                }
                self.values.push(Value { ty, end, is_null });
            }
            // The call by itself says why.
            Err(_) => self.is_odd = true,
        }
    }

    fn add_number(&mut self, value: i64) {
        self.add(&value);
    }

    fn end_key(&mut self) {
        self.key = Key {
            bytes: self.bytes.len(),
            values: self.values.len(),
        };
    }

    fn key(&self) -> &[u8] {
        self.bytes.get(..self.key.bytes).unwrap_or_default()
    }

    fn can_fold(&self) -> bool {
        !self.is_odd
    }

    fn bind(
        calls: &[&Self],
        keys_only: bool,
        beside: &[Array],
        arguments: &mut PgArguments,
    ) -> Result<(), BoxDynError> {
        let columns = calls.first().map_or(0, |call| match keys_only {
            true => call.key.values,
            false => call.values.len(),
        });
        for index in 0..columns {
            let elements = calls.iter().filter_map(|call| call.element(index));
            bind_column(elements.collect(), arguments)?;
        }
        Postgres::bind_rows(arguments, calls.len(), beside)
    }

    fn bind_key(&self, arguments: &mut PgArguments) -> Result<(), BoxDynError> {
        for index in 0..self.key.values {
            let Some(element) = self.element(index) else {
                return Err("the key has fewer values than columns".into());
            };
            match is_text(element.ty) {
                true => arguments.add(OfTheColumn(&element))?,
                false => arguments.add(element)?,
            }
        }
        Ok(())
    }

    fn key_in(&self, row: &PgRow, rows: usize) -> Option<Vec<u8>> {
        let first = row.len().checked_sub(self.shape(rows).key)?;
        let mut key = Vec::with_capacity(64);
        for index in first..row.len() {
            let value = row.try_get_raw(index).ok()?;
            if value.is_null() {
                key.extend(usize::MAX.to_be_bytes());
                continue;
            }
            let bytes = value.as_bytes().ok()?;
            key.extend(bytes.len().to_be_bytes());
            key.extend(bytes);
        }
        Some(key)
    }

    fn reserve_as_many(&mut self, times: usize) {
        // The first may be much longer than the others.
        const MOST: usize = 1 << 20;
        let (bytes, values) = (self.bytes.len(), self.values.len());
        self.bytes.reserve(bytes.saturating_mul(times).min(MOST));
        self.values.reserve(values.saturating_mul(times).min(MOST));
    }

    fn key_of_row(&self, row: usize, rows: usize) -> &[u8] {
        let Shape { columns, key } = self.shape(rows);
        let end_of = |values: usize| match values.checked_sub(1) {
            Some(last) => self.values.get(last).map_or(0, |value| value.end),
            None => 0,
        };
        let range = end_of(row * columns)..end_of(row * columns + key);
        self.bytes.get(range).unwrap_or_default()
    }

    fn has_exact_keys(&self, rows: usize) -> bool {
        // They are of the same types in all rows.
        let mut key = (0..self.shape(rows).key).map(|column| self.element(column));
        key.all(|value| value.is_some_and(|value| value.is_exact()))
    }

    /// Blanks at the end are lost where a column has a length.
    fn has_plain_keys(&self, rows: usize) -> bool {
        let Shape { columns, key } = self.shape(rows);
        let is_plain = |value: Element<'_>| {
            let ends_in_blanks = value.bytes.is_some_and(|bytes| bytes.ends_with(b" "));
            value.is_exact() || is_text(value.ty) && !ends_in_blanks
        };
        let mut keys = (0..rows).flat_map(|row| row * columns..row * columns + key);
        keys.all(|column| self.element(column).is_some_and(is_plain))
    }

    fn bind_places(
        &self,
        rows: usize,
        places: &[usize],
        arguments: &mut PgArguments,
    ) -> Result<(), BoxDynError> {
        let columns = self.shape(rows).columns;
        arguments.reserve(columns, self.bytes.len());
        for column in 0..columns {
            let elements = places.iter();
            let elements = elements.filter_map(|place| self.element(place * columns + column));
            bind_column(elements.collect(), arguments)?;
        }
        Ok(())
    }
}

/// Binds the values of a column.
fn bind_column(elements: Vec<Element<'_>>, to: &mut PgArguments) -> Result<(), BoxDynError> {
    // Two models can have the same statement, and a value can choose its type.
    if elements.windows(2).any(|two| two[0].ty != two[1].ty) {
        return Err("the values of a column have several types".into());
    }
    to.add(ColumnOf(elements))
}

/// A value of a call.
struct Element<'v> {
    ty: &'v PgTypeInfo,
    bytes: Option<&'v [u8]>,
}

impl Element<'_> {
    fn is_exact(&self) -> bool {
        matches!(self.ty.name(), "INT2" | "INT4" | "INT8" | "UUID")
    }
}

impl Type<Postgres> for Element<'_> {
    fn type_info() -> PgTypeInfo {
        // Not what is sent: only a value knows its type, and `produces` it.
        <i64 as Type<Postgres>>::type_info()
    }
}

impl<'q> Encode<'q, Postgres> for Element<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let Some(bytes) = self.bytes else {
            return Ok(IsNull::Yes);
        };
        buffer.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.ty.clone())
    }
}

/// The values of one column of all calls.
struct ColumnOf<'v>(Vec<Element<'v>>);

impl Type<Postgres> for ColumnOf<'_> {
    fn type_info() -> PgTypeInfo {
        // As above.
        <Vec<i64> as Type<Postgres>>::type_info()
    }
}

impl<'q> Encode<'q, Postgres> for ColumnOf<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let elements = self.0.iter().map(|element| Element {
            ty: element.ty,
            bytes: element.bytes,
        });
        elements.bind_iter().encode(buffer)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        self.0.first().map(|element| array_of(element.ty))
    }
}

/// The array type of what sqlx has a number for, else its name: the server is asked for it, once per connection.
pub(crate) fn array_of(element: &PgTypeInfo) -> PgTypeInfo {
    match element.name() {
        "BOOL" => bool::array_type_info(),
        "INT2" => i16::array_type_info(),
        "INT4" => i32::array_type_info(),
        "INT8" => i64::array_type_info(),
        "FLOAT4" => f32::array_type_info(),
        "FLOAT8" => f64::array_type_info(),
        "TEXT" => String::array_type_info(),
        "BYTEA" => Vec::<u8>::array_type_info(),
        name => PgTypeInfo::array_of(kept(name)),
    }
}
