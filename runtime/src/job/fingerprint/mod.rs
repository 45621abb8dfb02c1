//! The fingerprint of a request: what tells a repeated request from another one under the same key.

mod canonical;

use std::fmt::{self, Write};

use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::job::idempotent::Idempotent;

/// A request without a fingerprint, because its `Serialize` failed; holds the reason.
#[derive(Debug)]
pub struct RequestError(String);

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequestError {}

impl serde::ser::Error for RequestError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Names the way in which a request is hashed.
const SCHEME: &[u8] = b"rowlock:request:3\n";

/// What every stored fingerprint begins with: the version of [`SCHEME`]. That of version 2 was `r2`, and its floats were their shortest
/// texts. No fingerprint of version 1 in a `String` begins so, for it had hexadecimal digits only, and of those in a `Vec<u8>` one in 65,536, which is then taken for another request: refused,
/// too.
const VERSION: &str = "r3";

/// How many bytes of the hash are stored after the version, in a `String`; in a `Vec<u8>`, which has less room for the version, one
/// less. So a fingerprint is as long as it was before it had one: 64 characters, or 32 bytes.
const STORED: usize = 31;

/// The SHA-256 of a request, or its HMAC-SHA-256 under a key.
///
/// The input is `rowlock:request:3`, a line feed, the table's name as written in the model, a line feed, and the request: each value with its type
/// before it, so that no two requests look the same. Numbers count by their exact value, whatever their type: `1`, `1.0` and `1u8` are one number,
/// `0.1f32` and `0.1f64` are two. A number that serde_json keeps as text (`arbitrary_precision`) is the 64-bit float whose shortest text it is, if it
/// has a point or an exponent, like those that serde_json writes for floats; any other is the number that the text says, to the last digit. The order
/// of the fields of a struct or a map does not matter. The order of a `HashSet` does, and it differs each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; STORED]);

impl Digest {
    /// Hashes a request to this ledger.
    pub fn of<T: Idempotent>(request: &(impl Request + ?Sized)) -> Result<Self, RequestError> {
        request.digest(T::TABLE)
    }

    fn new(
        table: &str,
        key: Option<&[u8]>,
        request: &(impl Serialize + ?Sized),
    ) -> Result<Self, RequestError> {
        let request = canonical::bytes(request)?;
        let parts = [SCHEME, table.as_bytes(), b"\n", &request];
        let hash = match key {
            None => parts
                .iter()
                .fold(Sha256::new(), Sha256::chain_update)
                .finalize(),
            Some(key) => {
                let mac = Hmac::<Sha256>::new_from_slice(key)
                    .map_err(|error| RequestError(error.to_string()))?;
                let mac = parts.iter().fold(mac, Mac::chain_update);
                mac.finalize().into_bytes()
            }
        };
        let mut stored = [0; STORED];
        stored.copy_from_slice(&hash[..STORED]);
        Ok(Self(stored))
    }
}

/// The request of a call with an idempotency key: anything that is `serde::Serialize`, or that in a [`Keyed`].
///
/// Use it to bound a function that passes a request on: `request: &(impl rowlock::idempotent::Request + ?Sized)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a request: it has no fingerprint",
    label = "needs `serde::Serialize`",
    note = "derive `serde::Serialize` for it, or take the parts that are the client's intent in a tuple"
)]
pub trait Request {
    #[doc(hidden)]
    fn digest(&self, table: &str) -> Result<Digest, RequestError>;
}

impl<R: Serialize + ?Sized> Request for R {
    fn digest(&self, table: &str) -> Result<Digest, RequestError> {
        Digest::new(table, None, self)
    }
}

/// A request whose fingerprint only the holder of a secret can compute.
///
/// A reader of the ledger can guess a plain fingerprint: hash every amount and every account number, and see which one fits. With a secret nobody
/// else can. All processes that serve the same keys need the same secret: under another one the same request is
/// [`Mismatch`](crate::idempotent::OnceError::Mismatch).
///
/// ```
/// # use rowlock::Idempotent;
/// # use rowlock::idempotent::{Keyed, OnceCall};
/// # #[derive(Idempotent)]
/// # #[rowlock(table = "payments")]
/// # struct Payment {
/// #     #[rowlock(key)] key: String,
/// #     #[rowlock(fingerprint)] fingerprint: Vec<u8>,
/// #     #[rowlock(outcome)] charge: Option<String>,
/// #     #[rowlock(fence)] fence: rowlock::Fence,
/// #     #[rowlock(lease)] leased_until: chrono::DateTime<chrono::Utc>,
/// #     #[rowlock(finished)] finished_at: Option<chrono::DateTime<chrono::Utc>>,
/// # }
/// # fn show<'a>(pool: &sqlx::SqlitePool, secret: &[u8], card: &'a str) -> OnceCall<'a, String, sqlx::Error> {
/// Payment::once(pool, "key-1", &Keyed::new(secret, &(card, 1250)), async |tx| {
///     // …
/// #   sqlx::query_scalar("SELECT 'ch_1'").fetch_one(&mut *tx).await
/// })
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Keyed<'a, R: ?Sized> {
    secret: &'a [u8],
    request: &'a R,
}

impl<'a, R: Serialize + ?Sized> Keyed<'a, R> {
    /// The request, under a secret of any length; 32 random bytes are good.
    pub fn new(secret: &'a [u8], request: &'a R) -> Self {
        Self { secret, request }
    }
}

impl<R: ?Sized> fmt::Debug for Keyed<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed").finish_non_exhaustive()
    }
}

// No `Serialize` is ever implemented for `Keyed`, so the compiler accepts this beside the one for all that have it.
impl<R: Serialize + ?Sized> Request for Keyed<'_, R> {
    fn digest(&self, table: &str) -> Result<Digest, RequestError> {
        Digest::new(table, Some(self.secret), self.request)
    }
}

/// The type of the field with the fingerprint.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a fingerprint",
    label = "expected `Vec<u8>` or `String`",
    note = "the fingerprint is 32 bytes, or 62 hexadecimal digits after `r3`"
)]
pub trait Fingerprint {
    #[doc(hidden)]
    fn from_digest(digest: &Digest) -> Self;
}

impl Fingerprint for Vec<u8> {
    fn from_digest(digest: &Digest) -> Self {
        let mut bytes = [VERSION.as_bytes(), &digest.0].concat();
        bytes.truncate(32);
        bytes
    }
}

impl Fingerprint for String {
    fn from_digest(digest: &Digest) -> Self {
        let mut text = Self::from(VERSION);
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

    fn hex(request: &(impl Request + ?Sized)) -> String {
        String::from_digest(&request.digest("payments").unwrap())
    }

    #[test]
    fn golden_values() {
        // printf 'rowlock:request:3\npayments\n{s\0\0\0\0\0\0\0\2tos\0\0\0\0\0\0\0\3Anns\0\0\0\0\0\0\0\6amountd125e1;}' | sha256sum | cut -c-62
        let request = serde_json::json!({ "to": "Ann", "amount": 1250 });
        assert_eq!(
            hex(&request),
            "r33da9949e1d21204b53a541cd1a724e5f8b4a19afeb875a37f8eebdd5159764"
        );
        // … | openssl dgst -sha256 -hmac secret | cut -d' ' -f2 | cut -c-62
        assert_eq!(
            hex(&Keyed::new(b"secret", &request)),
            "r321829a2eb8da90b4ce72b840a59b9102faf8e42726cfedc87e04ee1ef9725a"
        );
        assert_eq!(
            hex(&()),
            "r371ee336ff36dcf6f421fd1f744fcbf7f48e9a0521f5b9dceb3e7a2ca32c288"
        );
        // printf 'rowlock:request:3\npayments\nd100000001490116119384765625e-27;' | …
        assert_eq!(
            hex(&0.1_f32),
            "r383a538947afe5cc398e6ec5d0407cc8a0e6f0969135f3f4f8fdd58ebb12f3e"
        );
    }

    #[test]
    fn stored_values_begin_with_the_version_and_are_as_long_as_ever() {
        let digest = "a request".digest("payments").unwrap();
        let (bytes, text) = (Vec::from_digest(&digest), String::from_digest(&digest));
        assert_eq!((bytes.len(), text.len()), (32, 64));
        assert!(bytes.starts_with(b"r3") && text.starts_with("r3"));
    }

    #[test]
    fn tables_and_secrets_are_part_of_it() {
        let of = |table: &str| "a request".digest(table).unwrap();
        assert_ne!(of("payments"), of("refunds"));
        // A table's name cannot run into the request.
        assert_ne!("b".digest("a").unwrap(), "".digest("ab").unwrap());
        let keyed = |secret: &[u8]| hex(&Keyed::new(secret, "a request"));
        assert_eq!(keyed(b"one"), keyed(b"one"));
        assert_ne!(keyed(b"one"), keyed(b"two"));
        assert_ne!(keyed(b""), hex("a request"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

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
