//! Numbers for advisory locks, made from a name and typed values.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::db::error::{KeyText, Operation};

/// Says what the bytes are for and how they are put together: what changes the second must change the number in it.
const PREFIX: &str = "rowlock:advisory:1";

/// The number that a server locks, and what errors call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockKey {
    number: i64,
    /// `nightly-report`, `invoice (7, …)`.
    text: String,
}

impl LockKey {
    pub(crate) fn new(namespace: &str, parts: &(impl LockKeyPart + ?Sized)) -> Self {
        let mut key = LockKeyParts {
            encoded: PREFIX.to_owned(),
            shown: String::new(),
        };
        key.add('s', namespace, None);
        key.shown.clear();
        parts.add_to(&mut key);
        let text = if key.shown.is_empty() {
            namespace.to_owned()
        } else {
            format!("{namespace} ({})", key.shown)
        };
        let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(&key.encoded).into();
        Self {
            number: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            text,
        }
    }

    pub(crate) fn number(&self) -> i64 {
        self.number
    }

    /// For an error.
    pub(crate) fn operation(&self) -> Operation {
        Operation::new("advisory lock", "", KeyText::whole(self.text.clone()))
    }
}

/// A value that is part of the key of an [`AdvisoryLock`](crate::lock::AdvisoryLock): an integer of up to 64 bits, `bool`, text,
/// bytes, or a tuple of up to eight of them.
///
/// All integer types are equal, as are `&str` and `String`: an `i32` column in one service and an `i64` column in another make the same key. Text and
/// numbers differ: `7` is not `"7"`. Nested tuples are flattened.
///
/// Implement it for your own id type by adding its content:
///
/// ```
/// use rowlock::lock::{AdvisoryLock, LockKeyPart, LockKeyParts};
///
/// struct TenantId(i64);
///
/// impl LockKeyPart for TenantId {
///     fn add_to(&self, key: &mut LockKeyParts) {
///         self.0.add_to(key);
///     }
/// }
///
/// assert_eq!(AdvisoryLock::of("invoice", TenantId(7)).key(), AdvisoryLock::of("invoice", 7).key());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a lock's key",
    note = "integers of up to 64 bits, `bool`, text, bytes and tuples of these can; give a UUID as `id.into_bytes()`",
    note = "for a type of your own, implement `rowlock::lock::LockKeyPart`"
)]
pub trait LockKeyPart {
    /// Adds this value's parts to the key, always the same number of them.
    fn add_to(&self, key: &mut LockKeyParts);
}

/// Where a [`LockKeyPart`] puts its values.
#[derive(Debug)]
pub struct LockKeyParts {
    encoded: String,
    shown: String,
}

impl LockKeyParts {
    /// An integer.
    pub fn integer(&mut self, value: i128) {
        let value = value.to_string();
        self.add('i', &value, Some(&value));
    }

    /// Text. Errors show it as `…`.
    pub fn text(&mut self, value: &str) {
        self.add('s', value, None);
    }

    /// True or false.
    pub fn boolean(&mut self, value: bool) {
        let value = if value { "true" } else { "false" };
        self.add('b', value, Some(value));
    }

    /// Bytes. Errors show 16 of them, which are a UUID, and anything else as `…`.
    pub fn bytes(&mut self, value: &[u8]) {
        let mut hex = String::with_capacity(2 * value.len());
        for byte in value {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        let shown = Some(hex.as_str()).filter(|_| value.len() == 16);
        self.add('x', &hex, shown);
    }

    /// The length makes it impossible that two different rows of parts are the same text.
    fn add(&mut self, kind: char, value: &str, shown: Option<&str>) {
        let _ = write!(self.encoded, " {kind}{}:{value}", value.len());
        if !self.shown.is_empty() {
            self.shown.push_str(", ");
        }
        self.shown.push_str(shown.unwrap_or("…"));
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl LockKeyPart for $integer {
            fn add_to(&self, key: &mut LockKeyParts) {
                // Of 64 bits at most, whatever the platform.
                key.integer(*self as i128);
            }
        }
    )*};
}
integers!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);

impl LockKeyPart for bool {
    fn add_to(&self, key: &mut LockKeyParts) {
        key.boolean(*self);
    }
}

impl LockKeyPart for str {
    fn add_to(&self, key: &mut LockKeyParts) {
        key.text(self);
    }
}

impl LockKeyPart for String {
    fn add_to(&self, key: &mut LockKeyParts) {
        key.text(self);
    }
}

impl LockKeyPart for [u8] {
    fn add_to(&self, key: &mut LockKeyParts) {
        key.bytes(self);
    }
}

impl<const N: usize> LockKeyPart for [u8; N] {
    fn add_to(&self, key: &mut LockKeyParts) {
        key.bytes(self);
    }
}

impl LockKeyPart for Vec<u8> {
    fn add_to(&self, key: &mut LockKeyParts) {
        key.bytes(self);
    }
}

impl<T: LockKeyPart + ?Sized> LockKeyPart for &T {
    fn add_to(&self, key: &mut LockKeyParts) {
        T::add_to(self, key);
    }
}

macro_rules! tuples {
    ($(($($part:ident)*))*) => {$(
        impl<$($part: LockKeyPart),*> LockKeyPart for ($($part,)*) {
            #[allow(non_snake_case, unused_variables)]
            fn add_to(&self, key: &mut LockKeyParts) {
                let ($($part,)*) = self;
                $($part.add_to(key);)*
            }
        }
    )*};
}
tuples!(() (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A-11. What a release computed, every later one must. Made by Python's hashlib.
    #[test]
    fn a_11_golden_numbers() {
        let uuid = [
            0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0, 0xc0, 0x4f, 0xd4, 0x30,
            0xc8,
        ];
        for (key, number, text) in [
            (
                LockKey::new("nightly-report", &()),
                1_368_249_437_228_772_663,
                "nightly-report",
            ),
            (LockKey::new("", &()), -4_320_447_886_059_724_360, ""),
            (
                LockKey::new("invoice", &(42, "2026-11")),
                5_171_724_266_116_172_653,
                "invoice (42, …)",
            ),
            (
                LockKey::new("Ärger", &(-1_i64, true, "schön", [0_u8, 255])),
                -1_215_369_408_952_679_823,
                "Ärger (-1, true, …, …)",
            ),
            (
                LockKey::new("user", &uuid),
                4_462_135_554_748_109_885,
                "user (6ba7b8109dad11d180b400c04fd430c8)",
            ),
        ] {
            assert_eq!((key.number(), key.text.as_str()), (number, text));
        }
    }

    #[derive(Debug, Clone, PartialEq)]
    enum Part {
        Integer(i64),
        Text(String),
        Boolean(bool),
        Bytes(Vec<u8>),
    }

    impl LockKeyPart for Vec<Part> {
        fn add_to(&self, key: &mut LockKeyParts) {
            for part in self {
                match part {
                    Part::Integer(value) => value.add_to(key),
                    Part::Text(value) => value.add_to(key),
                    Part::Boolean(value) => value.add_to(key),
                    Part::Bytes(value) => value.add_to(key),
                }
            }
        }
    }

    fn parts() -> impl Strategy<Value = (String, Vec<Part>)> {
        // Few characters, among them those that the encoding is made of, so that likenesses come up.
        let text = "[ is:12]{0,5}";
        let part = prop_oneof![
            (-12..12_i64).prop_map(Part::Integer),
            text.prop_map(Part::Text),
            any::<bool>().prop_map(Part::Boolean),
            prop::collection::vec(0..3_u8, 0..3).prop_map(Part::Bytes),
        ];
        (text, prop::collection::vec(part, 0..4))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn a_11_different_parts_are_different_keys(one in parts(), other in parts()) {
            let number = |(namespace, parts): &(String, Vec<Part>)| LockKey::new(namespace, parts).number();
            prop_assert_eq!(one == other, number(&one) == number(&other));
        }
    }

    #[test]
    fn a_11_the_type_of_an_integer_and_of_text_do_not_matter() {
        let keys = [
            LockKey::new("a", &(7_i64, "b")),
            LockKey::new("a", &(7_u8, "b".to_owned())),
            LockKey::new("a", &(&7_i16, &&"b")),
            LockKey::new("a", &((7_usize,), ("b",))),
        ];
        assert!(
            keys.iter().all(|key| *key == keys[0])
                && LockKey::new("a", &("7", "b")).number() != keys[0].number()
        );
    }
}
