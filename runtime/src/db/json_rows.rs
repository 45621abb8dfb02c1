//! Many rows as one JSON text, for SQLite: a statement over many rows is then one text, prepared once, without a limit on
//! parameters.

use std::fmt::Write;

use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;

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
    json.push('[');
    for row in 0..count {
        json.push_str(if row == 0 { "[" } else { ",[" });
        let mut blobs = String::new();
        for part in 0..parts {
            separate(&mut json, part);
            values.write(&mut json, &mut blobs).ok_or(UNREADABLE)?;
            blobs.push(',');
        }
        for (column, place) in columns.iter().zip(parts..) {
            separate(&mut json, place);
            write_value(column, row, &mut json)?;
        }
        if blobs.len() > parts {
            json.push(',');
            json.push_str(blobs.strip_suffix(',').unwrap_or_default());
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
            Some(value) => write_float(*value, json),
            None => json.push_str("null"),
        },
        Array::Texts(values) => match values.get(row).ok_or(FEWER)? {
            Some(value) => write_text(value.chars(), json),
            None => json.push_str("null"),
        },
    }
    Ok(())
}

const FEWER: &str = "a column has fewer values than there are rows";

/// With as many digits as SQLite needs to find the same number again; it stores NaN as NULL.
fn write_float(value: f64, json: &mut String) {
    // Writing to a string cannot fail.
    let _ = match value {
        _ if value.is_nan() => write!(json, "null"),
        _ if value.is_infinite() => write!(json, "{}9e999", if value < 0.0 { "-" } else { "" }),
        _ => write!(json, "{value:.17e}"),
    };
}

fn write_text(text: impl Iterator<Item = char>, json: &mut String) {
    json.push('"');
    for character in text {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            '\0'..='\x1f' => {
                let _ = write!(json, "\\u{:04x}", u32::from(character));
            }
            _ => json.push(character),
        }
    }
    json.push('"');
}

/// What is left of values as `Debug` shows them: `Int64(1), Text("a"), Blob([1, 2]), Null`.
struct Shown<'t>(&'t str);

impl<'t> Shown<'t> {
    fn list(arguments: &'t str) -> Option<Self> {
        let values = arguments.strip_prefix("SqliteArguments { values: SqliteArgumentsBuffer([")?;
        values.strip_suffix("]) }").map(Self)
    }

    /// Writes the next value as JSON, or the digits of a blob.
    fn write(&mut self, json: &mut String, blob: &mut String) -> Option<()> {
        let rest = if let Some(rest) = self.0.strip_prefix("Null") {
            json.push_str("null");
            rest
        } else {
            let (kind, value) = self.0.split_once('(')?;
            match kind {
                "Int" | "Int64" => {
                    let (value, rest) = value.split_once(')')?;
                    json.push_str(value);
                    rest
                }
                "Double" => {
                    let (value, rest) = value.split_once(')')?;
                    write_float(value.parse().ok()?, json);
                    rest
                }
                "Text" | "TextSlice" => {
                    let mut text = Unescaped(value.strip_prefix('"')?);
                    write_text(&mut text, json);
                    text.0.strip_prefix("\")")?
                }
                "Blob" => {
                    let (bytes, rest) = value.strip_prefix('[')?.split_once("])")?;
                    json.push_str("null");
                    blob.push('"');
                    for byte in bytes.split(", ").filter(|byte| !byte.is_empty()) {
                        let _ = write!(blob, "{:02x}", byte.parse::<u8>().ok()?);
                    }
                    blob.push('"');
                    rest
                }
                _ => return None,
            }
        };
        self.0 = rest.strip_prefix(", ").unwrap_or(rest);
        Some(())
    }
}

/// The characters of a text as `Debug` shows it, up to the quote that ends it.
struct Unescaped<'t>(&'t str);

impl Iterator for Unescaped<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let mut rest = self.0.chars();
        let character = match rest.next()? {
            '"' => return None,
            '\\' => match rest.next()? {
                '0' => '\0',
                't' => '\t',
                'r' => '\r',
                'n' => '\n',
                'u' => {
                    let (digits, after) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                    rest = after.chars();
                    char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
                }
                itself => itself,
            },
            other => other,
        };
        self.0 = rest.as_str();
        Some(character)
    }
}
