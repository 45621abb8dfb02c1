//! Which columns of two copies differ, told by what the database would store.
//!
//! `==` of the user's types says something else: a time has digits that the column does not keep, NaN is not even equal to itself,
//! and a type that ignores case would hide a change. So both values are encoded as if they were bound, and the bytes compared.

use std::marker::PhantomData;

use serde::Serialize;
use serde_json::{Number, Value};

use crate::db::Backend;
use crate::db::column::{Changes, Column};
use crate::db::statement::Bind;

/// A value as it goes to the database.
#[doc(hidden)]
#[derive(Debug)]
pub enum Encoded {
    Null,
    Bytes(Vec<u8>),
    /// It cannot be encoded. A write says why.
    Not,
}

impl Encoded {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            _ => false,
        }
    }
}

/// The columns whose values differ; `a` and `b` bind those of each copy.
pub(crate) fn changes<DB: Backend>(
    a: &dyn Fn(&mut Values<DB>),
    b: &dyn Fn(&mut Values<DB>),
) -> Changes {
    let encoded = |bind: &dyn Fn(&mut Values<DB>)| {
        let mut values = Values::new(Wanted::Encoded(Vec::new()));
        bind(&mut values);
        match values.wanted {
            Wanted::Encoded(encoded) => encoded,
            Wanted::Json(..) => Vec::new(),
        }
    };
    let (encoded_a, encoded_b) = (encoded(a), encoded(b));
    let pairs = encoded_a.iter().zip(&encoded_b);
    let mut changed: Vec<bool> = pairs.map(|((a, _), (b, _))| !a.is(b)).collect();
    // The texts of equal JSON values can differ: a map of Rust has no order, and jsonb writes 1e16 out.
    for index in 0..changed.len() {
        let json =
            |(value, is_json): &(Encoded, bool)| *is_json && matches!(value, Encoded::Bytes(_));
        if changed[index] && json(&encoded_a[index]) && json(&encoded_b[index]) {
            let value = |bind: &dyn Fn(&mut Values<DB>)| {
                let mut values = Values::new(Wanted::Json(index, None));
                bind(&mut values);
                match values.wanted {
                    Wanted::Json(_, value) => value,
                    Wanted::Encoded(_) => None,
                }
            };
            changed[index] = match (value(a), value(b)) {
                (Some(a), Some(b)) => !same(&a, &b),
                _ => true,
            };
        }
    }
    Changes::from(changed)
}

/// Takes the values of a copy instead of a statement.
#[derive(Debug)]
pub(crate) struct Values<DB> {
    wanted: Wanted,
    database: PhantomData<fn() -> DB>,
}

#[derive(Debug)]
enum Wanted {
    /// All, and whether each is JSON.
    Encoded(Vec<(Encoded, bool)>),
    /// That of the column with this index.
    Json(usize, Option<Value>),
}

impl<DB: Backend> Values<DB> {
    fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            database: PhantomData,
        }
    }

    fn encode<T: Column<DB>>(&mut self, value: &T, is_json: bool) {
        if let Wanted::Encoded(values) = &mut self.wanted {
            values.push((DB::encoded(value), is_json));
        }
    }
}

impl<DB: Backend> Bind<DB> for Values<DB> {
    fn bind<T: Column<DB>>(&mut self, _index: usize, value: &T) {
        self.encode(value, false);
    }

    fn bind_json<T: Column<DB> + Serialize>(&mut self, index: usize, value: &T) {
        if let Wanted::Json(wanted, found) = &mut self.wanted
            && *wanted == index
        {
            *found = serde_json::to_value(value).ok();
        }
        self.encode(value, true);
    }
}

/// As jsonb compares, to which 10 is 1e1.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || integer(a).is_some_and(|a| integer(b) == Some(a))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let has = |(name, a)| b.get(name).is_some_and(|b| same(a, b));
            a.len() == b.len() && a.iter().all(has)
        }
        (a, b) => a == b,
    }
}

fn integer(number: &Number) -> Option<i128> {
    // Every i64 and u64 is an i128, and so is a float below this.
    const LIMIT: f64 = 1e38;
    if let Some(integer) = number.as_i64() {
        return Some(integer.into());
    }
    if let Some(integer) = number.as_u64() {
        return Some(integer.into());
    }
    let float = number.as_f64()?;
    (float.fract() == 0.0 && float.abs() < LIMIT).then_some(float as i128)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::same;

    #[test]
    fn json_is_compared_by_value() {
        let large = "9007199254740993";
        let large: Value = serde_json::from_str(large).unwrap_or_default();
        for (a, b, equal) in [
            (
                json!({"a": [1, 2], "b": null}),
                json!({"b": null, "a": [1, 2]}),
                true,
            ),
            (json!(1e16), json!(10_000_000_000_000_000_u64), true),
            (json!([1.0]), json!([1]), true),
            (json!(0.1), json!(0.2), false),
            (large, json!(9_007_199_254_740_992.0), false),
            (json!("1"), json!(1), false),
            (json!({"a": null}), json!({}), false),
            (json!([1, 2]), json!([2, 1]), false),
        ] {
            assert_eq!(same(&a, &b), equal, "{a} {b}");
        }
    }
}
