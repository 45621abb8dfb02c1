//! Many rows as one JSON text, for SQLite: a statement over many rows is then one text, prepared once, without a limit on
//! parameters.

use std::fmt::Write;

use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteArgumentsBuffer};

use crate::db::Array;

/// `[[key, …, column, …], …]`: so many rows, each with its part of the keys, then its value of each column.
///
/// JSON has no blobs: instead of one stands `null`, and its hexadecimal digits come after the columns, at the same place.
pub(crate) fn json_rows(
    count: usize,
    keys: &SqliteArguments,
    columns: &[Array],
) -> Result<String, BoxDynError> {
    let parts = keys.len().checked_div(count).unwrap_or_default();
    // sqlx lets nobody see the values but by `Debug`.
    let shown = format!("{keys:?}");
    let mut values = Shown::list(&shown).ok_or(UNREADABLE)?;
    let mut json = String::with_capacity(shown.len() + 24 * count * columns.len());
    let mut blobs = String::new();
    json.push('[');
    for row in 0..count {
        json.push_str(if row == 0 { "[" } else { ",[" });
        blobs.clear();
        let mut has_blobs = false;
        for part in 0..parts {
            separate(&mut json, part);
            let digits = values.write(&mut json)?;
            has_blobs |= digits.is_some();
            blobs.push_str(digits.as_deref().unwrap_or(NO_DIGITS));
        }
        for (column, place) in columns.iter().zip(parts..) {
            separate(&mut json, place);
            write_value(column, row, &mut json)?;
        }
        if has_blobs {
            json.push_str(&blobs);
        }
        json.push(']');
    }
    json.push(']');
    match values.0 {
        "" => Ok(json),
        _ => Err(UNREADABLE.into()),
    }
}

const UNREADABLE: &str = "the keys of many rows cannot be read from this version of sqlx";

fn separate(json: &mut String, place: usize) {
    if place > 0 {
        json.push(',');
    }
}

fn write_value(column: &Array, row: usize, json: &mut String) -> Result<(), BoxDynError> {
    match column {
        Array::Integers(values) => write!(json, "{}", values.get(row).ok_or(FEWER)?)?,
        Array::Floats(values) => match values.get(row).ok_or(FEWER)? {
            Some(value) => write_float(*value, json)?,
            None => json.push_str("null"),
        },
        Array::Texts(values) => match values.get(row).ok_or(FEWER)? {
            Some(value) => write_text(value, json),
            None => json.push_str("null"),
        },
    }
    Ok(())
}

const FEWER: &str = "a column has fewer values than there are rows";

const TOO_FAR: &str = "a floating-point key beyond 1e60, or nearer to zero than 1e-60, cannot be one of many on SQLite";

/// With as many digits as tell it from every other. SQLite reads them exactly, but for very large and very small numbers, which it rounds
/// another time. It stores NaN as NULL.
fn write_float(value: f64, json: &mut String) -> Result<(), &'static str> {
    // Writing to a string cannot fail.
    let _ = match value {
        _ if value.is_nan() => write!(json, "null"),
        _ if value.is_infinite() => write!(json, "{}9e999", if value < 0.0 { "-" } else { "" }),
        _ if value == 0.0 || (1e-60..=1e60).contains(&value.abs()) => write!(json, "{value:.17e}"),
        _ => return Err(TOO_FAR),
    };
    Ok(())
}

fn write_text(text: &str, json: &mut String) {
    json.push('"');
    text.chars()
        .for_each(|character| write_char(character, json));
    json.push('"');
}

fn write_char(character: char, json: &mut String) {
    match character {
        '"' | '\\' => json.extend(['\\', character]),
        '\0'..='\x1f' => {
            let _ = write!(json, "\\u{:04x}", u32::from(character));
        }
        _ => json.push(character),
    }
}

/// One row, written value by value.
#[derive(Default)]
pub(crate) struct JsonRow {
    json: String,
    values: usize,
    /// The digits of blobs, at the places of their values, as far as there are some.
    blobs: String,
    blobs_to: usize,
    has_floats: bool,
}

impl JsonRow {
    pub(crate) fn len(&self) -> usize {
        self.values
    }

    pub(crate) fn has_floats(&self) -> bool {
        self.has_floats
    }

    /// Equal if all values are.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [self.json.as_bytes(), self.blobs.as_bytes()].concat()
    }

    pub(crate) fn null(&mut self) {
        self.value(|json| json.push_str("null"));
    }

    pub(crate) fn integer(&mut self, value: i64) {
        self.value(|json| {
            let _ = write!(json, "{value}");
        });
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.value(|json| write_text(value, json));
    }

    pub(crate) fn blob(&mut self, value: &[u8]) {
        self.null();
        let mut digits = ",\"".to_owned();
        for byte in value {
            let _ = write!(digits, "{byte:02x}");
        }
        digits.push('"');
        self.digits(&digits);
    }

    /// A value that sqlx would bind.
    pub(crate) fn shown(&mut self, value: &SqliteArgumentsBuffer) -> Result<(), &'static str> {
        let mut shown = String::with_capacity(64);
        let _ = write!(shown, "{value:?}");
        let value = shown.strip_prefix("SqliteArgumentsBuffer([");
        let mut value = Shown(
            value
                .and_then(|value| value.strip_suffix("])"))
                .ok_or(UNREADABLE)?,
        );
        self.has_floats |= value.0.starts_with("Double(");
        let digits = self.value(|json| value.write(json))?;
        if let Some(digits) = digits {
            self.digits(&digits);
        }
        if value.0.is_empty() {
            Ok(())
        } else {
            Err(UNREADABLE)
        }
    }

    fn value<T>(&mut self, write: impl FnOnce(&mut String) -> T) -> T {
        separate(&mut self.json, self.values);
        self.values += 1;
        write(&mut self.json)
    }

    /// Of the last value, which is a blob.
    fn digits(&mut self, digits: &str) {
        self.pad(self.values - 1);
        self.blobs.push_str(digits);
        self.blobs_to = self.values;
    }

    /// Up to so many values.
    fn pad(&mut self, values: usize) {
        for _ in self.blobs_to..values {
            self.blobs.push_str(NO_DIGITS);
        }
    }

    /// These rows, each with its value of each column.
    pub(crate) fn join(rows: &[&Self], columns: &[Array]) -> Result<String, BoxDynError> {
        let length: usize = rows
            .iter()
            .map(|row| row.json.len() + row.blobs.len())
            .sum();
        let mut json = String::with_capacity(length + (24 * columns.len() + 3) * rows.len());
        json.push('[');
        for (row, number) in rows.iter().zip(0..) {
            json.push_str(if number == 0 { "[" } else { ",[" });
            json.push_str(&row.json);
            for (column, place) in columns.iter().zip(row.values..) {
                separate(&mut json, place);
                write_value(column, number, &mut json)?;
            }
            json.push_str(&row.blobs);
            json.push(']');
        }
        json.push(']');
        Ok(json)
    }
}

/// Instead of those of a blob.
const NO_DIGITS: &str = ",null";

/// What is left of values as `Debug` shows them: `Int64(1), Text("a"), Blob([1, 2]), Null`.
struct Shown<'t>(&'t str);

impl<'t> Shown<'t> {
    fn list(arguments: &'t str) -> Option<Self> {
        let values = arguments.strip_prefix("SqliteArguments { values: SqliteArgumentsBuffer([")?;
        values.strip_suffix("]) }").map(Self)
    }

    /// Writes the next value as JSON. Returns the digits of a blob, after a comma.
    fn write(&mut self, json: &mut String) -> Result<Option<String>, &'static str> {
        let mut digits = None;
        let (kind, value) = match self.0.strip_prefix("Null") {
            Some(rest) => ("Null", rest),
            None => self.0.split_once('(').ok_or(UNREADABLE)?,
        };
        let up_to = |end| value.split_once(end).ok_or(UNREADABLE);
        let rest = match kind {
            "Null" => {
                json.push_str("null");
                value
            }
            "Int" | "Int64" => {
                let (value, rest) = up_to(")")?;
                json.push_str(value);
                rest
            }
            "Double" => {
                let (value, rest) = up_to(")")?;
                write_float(value.parse().map_err(|_| UNREADABLE)?, json)?;
                rest
            }
            "Text" | "TextSlice" => {
                let text = value.strip_prefix('"').ok_or(UNREADABLE)?;
                let rest = write_escaped(text, json).ok_or(UNREADABLE)?;
                rest.strip_prefix(')').ok_or(UNREADABLE)?
            }
            "Blob" => {
                let (bytes, rest) = up_to("])")?;
                let bytes = bytes.strip_prefix('[').ok_or(UNREADABLE)?;
                json.push_str("null");
                digits = Some(hexadecimal(bytes).ok_or(UNREADABLE)?);
                rest
            }
            _ => return Err(UNREADABLE),
        };
        self.0 = rest.strip_prefix(", ").unwrap_or(rest);
        Ok(digits)
    }
}

/// `,"01ff"` of `1, 255`.
fn hexadecimal(bytes: &str) -> Option<String> {
    let mut digits = ",\"".to_owned();
    for byte in bytes.split(", ").filter(|byte| !byte.is_empty()) {
        let _ = write!(digits, "{:02x}", byte.parse::<u8>().ok()?);
    }
    digits.push('"');
    Some(digits)
}

/// A text as `Debug` shows it, up to the quote that ends it. Returns what comes after that.
fn write_escaped<'t>(text: &'t str, json: &mut String) -> Option<&'t str> {
    let mut rest = text;
    json.push('"');
    loop {
        // What is not escaped there is not in JSON.
        let (plain, special) = rest.split_at(rest.find(['"', '\\'])?);
        json.push_str(plain);
        let mut characters = special.chars();
        if characters.next()? == '"' {
            json.push('"');
            return Some(characters.as_str());
        }
        let character = match characters.next()? {
            '0' => '\0',
            't' => '\t',
            'r' => '\r',
            'n' => '\n',
            'u' => {
                let digits = characters.as_str().strip_prefix('{')?;
                let (digits, after) = digits.split_once('}')?;
                characters = after.chars();
                char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
            }
            itself => itself,
        };
        write_char(character, json);
        rest = characters.as_str();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sqlx::{Connection, SqliteConnection};

    use super::*;

    /// A value that a user's type may encode itself as.
    #[derive(Debug, Clone)]
    enum Value {
        Null,
        Small(i32),
        Integer(i64),
        Real(f64),
        Text(String),
        Blob(Vec<u8>),
    }

    fn value() -> impl Strategy<Value = Value> {
        let edges = prop_oneof![
            Just(i64::MIN),
            Just(i64::MAX),
            Just((1 << 53) + 1),
            any::<i64>()
        ];
        let text = prop_oneof![
            any::<String>(),
            "[\\x00-\\x7f\"'\\\\ue\u{301}\u{fffd}🦀), (\\[\\]]{0,9}"
        ];
        // Every double that is not too far: sign and fraction are random bits, and the exponent is from 2^-199 to 2^199.
        let real = (any::<u64>(), 824_u64..1222)
            .prop_map(|(bits, exponent)| f64::from_bits((bits & !(0x7ff << 52)) | exponent << 52));
        prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::Small),
            edges.prop_map(Value::Integer),
            real.prop_map(Value::Real),
            text.prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Blob),
        ]
    }

    fn add(value: &Value, to: &mut SqliteArguments) {
        let added = match value {
            Value::Null => to.add(None::<i64>),
            Value::Small(value) => to.add(value),
            Value::Integer(value) => to.add(value),
            Value::Real(value) => to.add(value),
            Value::Text(value) => to.add(value),
            Value::Blob(value) => to.add(value),
        };
        added.unwrap();
    }

    /// The number of rows of which SQLite finds each value as it would be if it were bound by itself.
    async fn found(rows: &[[Value; 3]]) -> i64 {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let mut found = 0;
        let mut keys = SqliteArguments::default();
        let mut texts = Vec::new();
        let mut numbers = Vec::new();
        for row in rows {
            add(&row[0], &mut keys);
            add(&row[1], &mut keys);
            texts.push(match &row[2] {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            });
            numbers.push(match &row[2] {
                Value::Real(number) => Some(*number),
                _ => None,
            });
        }
        let beside = [Array::Texts(texts.clone()), Array::Floats(numbers.clone())];
        let json = json_rows(rows.len(), &keys, &beside).unwrap();
        for (place, row) in rows.iter().enumerate() {
            let mut all = SqliteArguments::default();
            all.add(&json).unwrap();
            all.add(i64::try_from(place).unwrap()).unwrap();
            add(&row[0], &mut all);
            add(&row[1], &mut all);
            all.add(&texts[place]).unwrap();
            all.add(numbers[place]).unwrap();
            let same = "SELECT count(*) FROM (SELECT coalesce(value ->> 0, unhex(value ->> 4)) AS a, \
                 coalesce(value ->> 1, unhex(value ->> 5)) AS b, value ->> 2 AS c, value ->> 3 AS d \
                 FROM json_each($1) WHERE key = $2) \
                 WHERE a IS $3 AND typeof(a) = typeof($3) AND b IS $4 AND typeof(b) = typeof($4) AND c IS $5 AND d IS $6";
            let same: i64 = sqlx::query_scalar_with(same, all)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            found += same;
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn what_json_carries_is_what_was_bound(rows in proptest::collection::vec([value(), value(), value()], 1..9)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let found = runtime.block_on(found(&rows));
            prop_assert_eq!(found, i64::try_from(rows.len()).unwrap());
        }
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let numbers = [
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            0.0,
            -0.0,
            0.1,
            0.1 + 0.2,
            1e60,
            -1e-60,
            2.0_f64.powi(53) + 2.0,
            2.0_f64.powi(63),
        ];
        let rows = numbers.map(|number| [Value::Real(number), Value::Null, Value::Real(number)]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        assert_eq!(
            runtime.block_on(found(&rows)),
            i64::try_from(rows.len()).unwrap()
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let mut keys = SqliteArguments::default();
        keys.add(1_i64).unwrap();
        keys.add(2_i64).unwrap();
        keys.add(3_i64).unwrap();
        // Three values are no two rows, and one column has a value less than there are rows.
        assert!(json_rows(2, &keys, &[]).is_err());
        assert!(json_rows(3, &keys, &[Array::Integers(vec![1, 2])]).is_err());
        assert_eq!(json_rows(3, &keys, &[]).unwrap(), "[[1],[2],[3]]");
        // These SQLite would read as their neighbours.
        for far in [f64::MAX, 4.386_362_656_530_058e120, -2.8e-90, 5e-324] {
            let mut keys = SqliteArguments::default();
            keys.add(far).unwrap();
            assert_eq!(json_rows(1, &keys, &[]).unwrap_err().to_string(), TOO_FAR);
        }
    }
}
