//! The version that PostgreSQL keeps of every row.

use std::fmt;

/// `xmin` of a row on PostgreSQL: the number of the transaction that wrote it. As the version of
/// [`Versioned`](derive@crate::Versioned) it needs no column of its own.
///
/// ```
/// use rowlock::{Versioned, Xmin};
///
/// #[derive(Clone, sqlx::FromRow, Versioned)]
/// #[rowlock(table = "invoices", backend(Postgres))]
/// struct Invoice {
///     #[rowlock(key)]
///     id: i64,
///     payee: String,
///     #[rowlock(version)]
///     xmin: Xmin,
/// }
/// ```
///
/// The field can have any name: the generated SELECT names the value like the field. Your own queries get it with `SELECT *, xmin` if the field is
/// called `xmin`, otherwise with `SELECT *, xmin AS version`. For a struct that was never read, and for `insert`, it is `Xmin::default()`, which is 0
/// and matches no row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Xmin(u32);

impl Xmin {
    /// The number, for an ETag.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl From<u32> for Xmin {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for Xmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As versions are compared.
#[doc(hidden)]
pub fn xmin(version: Xmin) -> i64 {
    version.0.into()
}

/// It is not raised, and so there is no highest one.
#[doc(hidden)]
pub const NO_MAX: i64 = i64::MAX;

#[cfg(feature = "postgres")]
mod postgres {
    use sqlx::encode::IsNull;
    use sqlx::error::BoxDynError;
    use sqlx::postgres::types::Oid;
    use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueFormat, PgValueRef};
    use sqlx::{Decode, Encode, Postgres, Type};

    use super::Xmin;

    /// What PostgreSQL calls `xid`.
    const XID: Oid = Oid(28);

    /// A bigint, as generated statements have it.
    impl Type<Postgres> for Xmin {
        fn type_info() -> PgTypeInfo {
            <i64 as Type<Postgres>>::type_info()
        }

        fn compatible(ty: &PgTypeInfo) -> bool {
            ty.oid() == Some(XID) || <i64 as Type<Postgres>>::compatible(ty)
        }
    }

    impl Encode<'_, Postgres> for Xmin {
        fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
            Encode::<Postgres>::encode_by_ref(&i64::from(self.0), buffer)
        }
    }

    impl Decode<'_, Postgres> for Xmin {
        fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
            if value.format() == PgValueFormat::Text {
                return Ok(Self(value.as_str()?.parse()?));
            }
            // An xid has four bytes, a bigint eight.
            match <[u8; 4]>::try_from(value.as_bytes()?) {
                Ok(bytes) => Ok(Self(u32::from_be_bytes(bytes))),
                Err(_) => {
                    let number = <i64 as Decode<Postgres>>::decode(value)?;
                    Ok(Self(number.try_into()?))
                }
            }
        }
    }
}
