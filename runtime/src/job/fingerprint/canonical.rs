//! The bytes of a request. They follow from its values alone: JSON would drop digits, or keep them, as the features of serde_json
//! say, which any crate of the program can switch on.
//!
//! | | |
//! |---|---|
//! | `None`, `()` | `n` |
//! | `Some` of what is written as `None` | `o`, and that |
//! | `Some` of anything else | as if there were no `Option` |
//! | `false`, `true` | `f`, `t` |
//! | a number | `d`, the decimal digits of its exact value, `e`, the exponent of ten, `;` without zeros at either end of the digits; `d0;` |
//! | a text, bytes | `s`, `b`; how many bytes there are, in eight; the bytes |
//! | a list, a tuple | `[`, the items, `]` |
//! | a map, a struct | `{`, the keys with their values in the order of their bytes, `}` |
//! | a variant of an enum | `v`, its name as a text, and what it holds as one of these |

use std::borrow::Cow;

use serde::ser::{self, Serialize, Serializer};

use super::RequestError;

type Result<T = ()> = std::result::Result<T, RequestError>;

/// How serde_json writes a number that it keeps as text.
const NUMBER: &str = "$serde_json::private::Number";

pub(super) fn bytes(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>> {
    let mut to = Vec::new();
    value.serialize(Canonical(&mut to))?;
    Ok(to)
}

struct Canonical<'a>(&'a mut Vec<u8>);

impl<'a> Canonical<'a> {
    fn sized(self, tag: u8, bytes: &[u8]) {
        self.0.push(tag);
        self.0.extend((bytes.len() as u64).to_be_bytes());
        self.0.extend(bytes);
    }

    fn variant(self, name: &str) -> Self {
        let Self(to) = self;
        to.push(b'v');
        Canonical(&mut *to).sized(b's', name.as_bytes());
        Self(to)
    }

    /// `text` as Rust writes a number, with all of its digits.
    fn number(self, text: &str) {
        match decimal(text) {
            Some(decimal) => {
                self.0.push(b'd');
                self.0.extend(decimal.into_bytes());
                self.0.push(b';');
            }
            // An infinity, no number, or an exponent beyond all measure.
            None => self.sized(b'x', text.as_bytes()),
        }
    }
}

/// All digits of this float, which stands for no other number than the binary fraction that it is.
fn exact(value: f64) -> String {
    // A binary fraction has as many decimal places as binary ones.
    let places = match value.fract() == 0.0 {
        true => 0,
        false => {
            let bits = value.to_bits();
            let exponent = (bits >> 52 & 0x7ff).max(1);
            let mantissa = bits & ((1 << 52) - 1) | 1 << 52;
            (52 + 1023_u64)
                .saturating_sub(exponent)
                .saturating_sub(mantissa.trailing_zeros().into())
        }
    };
    let places = usize::try_from(places).unwrap_or_default();
    format!("{value:.places$}")
}

/// The number that serde_json keeps as this text: a float as all of its digits.
///
/// serde_json writes a float as the shortest text that is no other float, with a point or an exponent. Taken for that float, it is
/// the same request whether or not some crate of the program has switched `arbitrary_precision` on.
fn kept(text: &str) -> Cow<'_, str> {
    let float = text.contains(['.', 'e', 'E']).then(|| text.parse::<f64>());
    match float {
        Some(Ok(float)) if float.is_finite() && decimal(&format!("{float:e}")) == decimal(text) => {
            exact(float).into()
        }
        _ => text.into(),
    }
}

/// The one way to write this number, so that 1.50 is 1.5 and 10 is 1e1.
fn decimal(text: &str) -> Option<String> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => ("-", text),
        None => ("", text),
    };
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse().ok()?),
        None => (text, 0_i64),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let digits = [whole, part].concat();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let kept = digits.trim_end_matches('0');
    let dropped = i64::try_from(digits.len() - kept.len()).ok()?;
    let exponent = exponent
        .checked_sub(i64::try_from(part.len()).ok()?)?
        .checked_add(dropped)?;
    Some(match kept.trim_start_matches('0') {
        "" => "0".to_owned(),
        kept => format!("{sign}{kept}e{exponent}"),
    })
}

macro_rules! numbers {
    ($format:literal: $($method:ident $type:ty),*) => {$(
        fn $method(self, value: $type) -> Result {
            self.number(&format!($format, value));
            Ok(())
        }
    )*};
}

impl<'a> Serializer for Canonical<'a> {
    type Ok = ();
    type Error = RequestError;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;
    type SerializeTupleStruct = Items<'a>;
    type SerializeTupleVariant = Items<'a>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Entries<'a>;
    type SerializeStructVariant = Entries<'a>;

    numbers!("{}": serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64, serialize_i128 i128);
    numbers!("{}": serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64, serialize_u128 u128);

    fn serialize_f32(self, value: f32) -> Result {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result {
        self.number(&exact(value));
        Ok(())
    }

    fn serialize_bool(self, value: bool) -> Result {
        self.0.push(if value { b't' } else { b'f' });
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result {
        self.sized(b's', value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result {
        self.sized(b'b', value);
        Ok(())
    }

    fn serialize_none(self) -> Result {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        // A field that becomes optional keeps its fingerprints, and yet Some(None) is not None.
        let Self(to) = self;
        let at = to.len();
        value.serialize(Canonical(&mut *to))?;
        if matches!(to.get(at), Some(b'n' | b'o')) {
            to.insert(at, b'o');
        }
        Ok(())
    }

    fn serialize_unit(self) -> Result {
        self.0.push(b'n');
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result {
        self.variant(variant).serialize_unit()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result {
        value.serialize(self.variant(variant))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a>> {
        self.0.push(b'[');
        Ok(Items(self.0))
    }

    fn serialize_tuple(self, length: usize) -> Result<Items<'a>> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Items<'a>> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Items<'a>> {
        self.variant(variant).serialize_seq(Some(length))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>> {
        Ok(Entries {
            to: self.0,
            entries: Vec::new(),
            is_number: false,
        })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Entries<'a>> {
        let mut entries = self.serialize_map(None)?;
        entries.is_number = name == NUMBER;
        Ok(entries)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Entries<'a>> {
        self.variant(variant).serialize_map(None)
    }
}

struct Items<'a>(&'a mut Vec<u8>);

macro_rules! items {
    ($($of:ident $method:ident),*) => {$(
        impl ser::$of for Items<'_> {
            type Ok = ();
            type Error = RequestError;

            fn $method<T: Serialize + ?Sized>(&mut self, item: &T) -> Result {
                item.serialize(Canonical(self.0))
            }

            fn end(self) -> Result {
                self.0.push(b']');
                Ok(())
            }
        }
    )*};
}

items!(
    SerializeSeq serialize_element, SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field
);

struct Entries<'a> {
    to: &'a mut Vec<u8>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    is_number: bool,
}

impl Entries<'_> {
    fn add(&mut self, key: Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result {
        self.entries.push((key, bytes(value)?));
        Ok(())
    }

    fn finish(mut self) {
        if self.is_number
            && let [(_, value)] = &self.entries[..]
            // After the tag and the length.
            && let Some(text) = value.get(9..)
            && let Ok(text) = str::from_utf8(text)
        {
            return Canonical(self.to).number(&kept(text));
        }
        self.entries.sort_unstable();
        self.to.push(b'{');
        for (key, value) in self.entries {
            self.to.extend(key);
            self.to.extend(value);
        }
        self.to.push(b'}');
    }
}

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = RequestError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        self.entries.push((bytes(key)?, Vec::new()));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        let (key, _) = self.entries.pop().unwrap_or_default();
        self.add(key, value)
    }

    fn end(self) -> Result {
        self.finish();
        Ok(())
    }
}

macro_rules! fields {
    ($($of:ident),*) => {$(
        impl ser::$of for Entries<'_> {
            type Ok = ();
            type Error = RequestError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result {
                self.add(bytes(name)?, value)
            }

            fn end(self) -> Result {
                self.finish();
                Ok(())
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Serialize;
    use serde::ser::SerializeStruct;
    use serde_json::json;

    use super::*;

    fn text(value: &(impl Serialize + ?Sized)) -> String {
        let bytes = bytes(value).unwrap();
        String::from_utf8_lossy(&bytes).replace('\0', "")
    }

    /// A number as serde_json writes it when some crate of the program has switched `arbitrary_precision` on.
    struct Kept(&'static str);

    impl Serialize for Kept {
        fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
            let mut number = to.serialize_struct(NUMBER, 1)?;
            number.serialize_field(NUMBER, self.0)?;
            number.end()
        }
    }

    /// The naive way: what serde_json makes of it, which forgets the digits that a 64-bit float has not.
    #[test]
    fn amounts_that_serde_json_keeps_as_text_differ_naive_twin() {
        let (one, other) = ("0.10", "0.1000000000000000055");
        let naive = |text: &str| text.parse::<f64>().unwrap().to_bits();
        assert_eq!(naive(one), naive(other));
        assert_ne!(text(&Kept(one)), text(&Kept(other)));
    }

    #[test]
    fn numbers_are_what_they_say_whoever_keeps_them() {
        for (kept, number) in [
            ("0.10", text(&0.1)),
            ("1e-1", text(&0.1)),
            (
                "0.1000000000000000055511151231257827021181583404541015625",
                text(&0.1),
            ),
            ("-12.50", text(&-12.5)),
            ("1250", text(&1250_u16)),
            ("1.25e3", text(&1250_i128)),
            ("100000000000000000000", text(&1e20)),
            ("-0.0", text(&0)),
            ("18446744073709551615", text(&u64::MAX)),
        ] {
            assert_eq!(text(&Kept(kept)), number, "{kept}");
        }
        assert_eq!(text(&[1250, 0]), "[d125e1;d0;]");
        // Neither a number nor to be lost.
        let beyond = [
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "",
            "1.x",
        ];
        let mut seen: Vec<_> = beyond
            .into_iter()
            .map(|number| text(&Kept(number)))
            .collect();
        seen.extend([
            text(&f64::NAN),
            text(&f64::INFINITY),
            text(&f64::NEG_INFINITY),
        ]);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 7);
    }

    /// Written as the shortest text that is no other float, as it was once: equal numbers differ, and others do not.
    #[test]
    fn floats_are_the_numbers_that_they_are() {
        let shortest = |value: f64| decimal(&format!("{value:e}"));
        let power = 1_i64 << 62;
        assert_ne!(shortest(power as f64), decimal(&power.to_string()));
        assert_eq!(text(&(power as f64)), text(&power));
        let near = 4_611_686_018_427_388_000_i64;
        assert_eq!(shortest(power as f64), decimal(&near.to_string()));
        assert_ne!(text(&(power as f64)), text(&near));
        assert_eq!(text(&Kept("4611686018427388000")), text(&near));
        assert_eq!(text(&Kept("4.611686018427388e18")), text(&power));

        assert_ne!(text(&0.1_f32), text(&0.1_f64));
        assert_eq!(text(&0.1_f32), text(&f64::from(0.1_f32)));
        assert_eq!(text(&0.1_f32), "d100000001490116119384765625e-27;");
        assert_eq!(text(&(2_f64.powi(127))), text(&(1_u128 << 127)));
        assert_eq!(text(&-(2_f64.powi(127))), text(&i128::MIN));
        assert_eq!(text(&0.5_f32), "d5e-1;");
        for least in [
            f64::from_bits(1),
            f64::MIN_POSITIVE,
            1.0 + f64::EPSILON,
            f64::MAX,
        ] {
            let digits = format!("{least:.1100}");
            assert_eq!(decimal(&exact(least)), decimal(&digits));
        }
    }

    #[derive(Serialize)]
    struct Order {
        to: &'static str,
        amount: i64,
    }

    #[derive(Serialize)]
    enum Payment {
        Cash,
        Card(Option<&'static str>),
        Transfer { iban: &'static str },
    }

    #[test]
    fn a_struct_is_the_map_of_its_fields_in_any_order() {
        let order = Order {
            to: "Ann",
            amount: 5,
        };
        assert_eq!(text(&order), text(&json!({ "amount": 5, "to": "Ann" })));
        assert_eq!(text(&order), "{s\u{2}tos\u{3}Anns\u{6}amountd5e0;}");
        let keys = BTreeMap::from([(2, "b"), (10, "a")]);
        assert_eq!(text(&keys), "{d1e1;s\u{1}ad2e0;s\u{1}b}");
    }

    /// In JSON, each is what the one after it is, or what another type makes of it.
    #[test]
    fn types_do_not_run_into_each_other() {
        let cash = text(&Payment::Cash);
        let mut seen = vec![
            cash.clone(),
            text("Cash"),
            text(&Payment::Card(None)),
            text(&Payment::Card(Some("4"))),
            text(&json!({ "Card": "4" })),
            text(&Payment::Transfer { iban: "4" }),
            text(&None::<Option<i32>>),
            text(&Some(None::<i32>)),
            text(&Some(Some(Some(())))),
            text("5"),
            text(&5),
            text(&[5]),
            text(&["5", ""]),
            text(&["", "5"]),
            text(&[[5], [5]]),
            text(&[&[5, 5][..], &[]]),
            text(&true),
            text("true"),
            text("t"),
        ];
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "{seen:?}");
        assert_eq!(text(&Some(5)), text(&5));
        assert_eq!(text(&'x'), text("x"));
    }

    proptest! {
        #[test]
        fn floats_have_one_text_each(a: f64, b: f64) {
            prop_assert_eq!(a == b, text(&a) == text(&b));
        }

        #[test]
        fn floats_of_both_sizes_and_integers_are_compared_by_value(a: f32, b: i64, c: f64) {
            prop_assert_eq!(text(&a), text(&f64::from(a)));
            prop_assert_eq!(text(&(b as f64)), text(&(b as f64 as i128)));
            prop_assert_eq!(b as f64 as i128 == i128::from(b), text(&(b as f64)) == text(&b));
            prop_assert_eq!(decimal(&exact(c)), decimal(&format!("{c:.1100}")));
        }

        #[test]
        fn integers_have_one_text_each(a: i64, b: i64) {
            prop_assert_eq!(a == b, text(&a) == text(&b));
            prop_assert_eq!(text(&a), text(&i128::from(a)));
        }

        #[test]
        fn decimals_ignore_zeros_at_their_ends(whole in 0..1000_u32, part in "[0-9]{1,20}", zeros in 0..30_usize) {
            let number = format!("{whole}.{part}");
            let padded = format!("00{number}{}", "0".repeat(zeros));
            prop_assert_eq!(decimal(&number), decimal(&padded));
            let moved = format!("{whole}{part}e-{}", part.len());
            prop_assert_eq!(decimal(&number), decimal(&moved));
        }
    }
}
