//! The fingerprint of a request: what tells a repeated request from another one under the same key.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A request that cannot be written as JSON.
pub type RequestError = serde_json::Error;

/// Names the way in which a request is hashed. What is stored under another one does not match.
const SCHEME: &[u8] = b"rowlock:request:1\n";

/// The SHA-256 of a request.
///
/// Of `rowlock:request:1`, a line feed, and the request as JSON without spaces, the keys of every object in the order of their
/// bytes: so the order of a map does not matter. That of a `HashSet` does: it is a list, in another order each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes a request.
    pub fn of(request: &(impl Serialize + ?Sized)) -> Result<Self, RequestError> {
        let mut text = String::new();
        canonical(&serde_json::to_value(request)?, &mut text)?;
        let hash = Sha256::new().chain_update(SCHEME).chain_update(text);
        Ok(Self(hash.finalize().into()))
    }
}

fn canonical(value: &Value, to: &mut String) -> Result<(), RequestError> {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            to.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    to.push(',');
                }
                to.push_str(&serde_json::to_string(name)?);
                to.push(':');
                canonical(value, to)?;
            }
            to.push('}');
        }
        Value::Array(items) => {
            to.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    to.push(',');
                }
                canonical(item, to)?;
            }
            to.push(']');
        }
        // Writing to a string cannot fail. An integer, or the shortest text of a 64-bit float, whatever text serde_json may have kept.
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), _, _) => {
                let _ = write!(to, "{integer}");
            }
            (None, Some(integer), _) => {
                let _ = write!(to, "{integer}");
            }
            (None, None, Some(float)) => {
                let _ = write!(to, "{float:?}");
            }
            (None, None, None) => {
                let _ = write!(to, "{number}");
            }
        },
        other => to.push_str(&serde_json::to_string(other)?),
    }
    Ok(())
}

/// The type of the field with the fingerprint.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a fingerprint",
    label = "expected `Vec<u8>` or `String`",
    note = "the fingerprint is a SHA-256: 32 bytes, or 64 hexadecimal digits"
)]
pub trait Fingerprint {
    #[doc(hidden)]
    fn from_digest(digest: &Digest) -> Self;
}

impl Fingerprint for Vec<u8> {
    fn from_digest(digest: &Digest) -> Self {
        digest.0.to_vec()
    }
}

impl Fingerprint for String {
    fn from_digest(digest: &Digest) -> Self {
        let mut text = Self::with_capacity(64);
        for byte in digest.0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn hex(request: &(impl Serialize + ?Sized)) -> String {
        String::from_digest(&Digest::of(request).unwrap())
    }

    #[test]
    fn golden_values() {
        // printf 'rowlock:request:1\n{"amount":1250,"to":"Ann"}' | sha256sum
        let request = serde_json::json!({ "to": "Ann", "amount": 1250 });
        assert_eq!(
            hex(&request),
            "c579959650ed241a0859e2a5fc64f2276683abf2ad0f1111e8cb1b475e463d90"
        );
        assert_eq!(
            hex("a \"text\""),
            "da7995cc19db91c75b8afb9c98db8d78b5908b875062e6e38c038a487afcf808"
        );
        assert_eq!(
            hex(&()),
            "5a329c61942f2ca6a38b1215457c7c4779f48628649da9640b28720639eb540d"
        );
    }

    proptest! {
        #[test]
        fn the_order_of_a_map_does_not_matter(map: HashMap<String, Vec<Option<i64>>>) {
            let mut pairs: Vec<_> = map.clone().into_iter().collect();
            pairs.reverse();
            let other: HashMap<_, _> = pairs.into_iter().collect();
            prop_assert_eq!(hex(&map), hex(&other));
        }

        #[test]
        fn other_requests_have_other_fingerprints(a: Vec<(String, i64)>, b: Vec<(String, i64)>) {
            prop_assert_eq!(a == b, hex(&a) == hex(&b));
        }
    }
}
