//! Values of keys, written so that equal ones have equal bytes.

use crate::wire::Param;

/// Types whose values can be compared with each other, and of which it is certain when they are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// int2, int4, int8
    Int,
    Uuid,
    /// text, varchar
    Text,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It stands in the text, and this is how it is written as a key.
    Literal(Vec<u8>),
    /// `$n`. `alone` if it stands for values of this family only, so that its type is known even if the client has not said it.
    Param {
        number: usize,
        /// Where it stands, as its token has it.
        at: usize,
        family: Family,
        alone: bool,
    },
}

impl Source {
    /// The value, as part of a key. `None` if it is not certain what it is equal to.
    pub(super) fn value(&self, params: &[Param]) -> Option<Vec<u8>> {
        match self {
            Self::Literal(value) => Some(value.clone()),
            &Self::Param {
                number,
                family,
                alone,
                ..
            } => {
                let param = params.get(number.checked_sub(1)?)?;
                let certain = match param.oid {
                    0 => alone,
                    oid => Family::of(oid) == Some(family),
                };
                certain.then(|| family.param(param))?
            }
        }
    }
}

impl Family {
    /// The one that a type is in, by its oid.
    pub(super) fn of(oid: u32) -> Option<Self> {
        match oid {
            20 | 21 | 23 => Some(Self::Int),
            2950 => Some(Self::Uuid),
            25 | 1043 => Some(Self::Text),
            _ => None,
        }
    }

    /// The one that a type is in, by a name that says nothing else, such as a length.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "int2" | "int4" | "int8" | "smallint" | "int" | "integer" | "bigint" => Some(Self::Int),
            "uuid" => Some(Self::Uuid),
            "text" | "varchar" => Some(Self::Text),
            _ => None,
        }
    }

    /// A value as the server reads it from text.
    pub(super) fn text(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Int => text.trim_ascii().parse().ok().map(int),
            Self::Uuid => {
                let digits = text.bytes().filter(|&byte| byte != b'-');
                let digits = String::from_utf8(digits.collect()).ok()?;
                let all = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let value = u128::from_str_radix(&digits, 16).ok()?;
                all.then(|| tagged(b'u', &value.to_be_bytes()))
            }
            Self::Text => Some(tagged(b't', text.as_bytes())),
        }
    }

    fn param(self, param: &Param) -> Option<Vec<u8>> {
        let Some(value) = &param.value else {
            // Equal to nothing, so it touches no row; two of them are as equal as two of a value.
            return Some(tagged(b'0', &[]));
        };
        if !param.binary {
            return self.text(std::str::from_utf8(value).ok()?);
        }
        match self {
            Self::Int => {
                let value: &[u8] = value;
                let value = match value.len() {
                    2 => i16::from_be_bytes(value.try_into().ok()?).into(),
                    4 => i32::from_be_bytes(value.try_into().ok()?).into(),
                    _ => i64::from_be_bytes(value.try_into().ok()?),
                };
                Some(int(value))
            }
            Self::Uuid => (value.len() == 16).then(|| tagged(b'u', value)),
            Self::Text => Some(tagged(b't', value)),
        }
    }
}

fn int(value: i64) -> Vec<u8> {
    tagged(b'i', &value.to_be_bytes())
}

/// With its length, so that values one after the other are not those of another key.
fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut value = vec![tag];
    value.extend((bytes.len() as u64).to_be_bytes());
    value.extend(bytes);
    value
}
