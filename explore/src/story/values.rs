//! Values as a person reads them, from their bytes in either format.

use std::error::Error;

use fallible_iterator::FallibleIterator;
use postgres_protocol::types as sql;
use tokio_postgres::types::{Kind, Type};

/// How many bytes of a value are shown in hexadecimal.
const HEX_BYTES: usize = 16;

type Shown = Result<String, Box<dyn Error + Sync + Send>>;

/// The value of a type, which is 0 where nobody has said it.
pub(super) fn show(oid: u32, binary: bool, value: Option<&[u8]>) -> String {
    let Some(bytes) = value else {
        return "NULL".to_owned();
    };
    let known = Type::from_oid(oid);
    if binary {
        let shown = known.map(|known| from_binary(&known, bytes));
        shown.and_then(Result::ok).unwrap_or_else(|| guess(bytes))
    } else {
        from_text(known.as_ref(), bytes)
    }
}

fn from_text(known: Option<&Type>, bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return hex(bytes);
    };
    match known {
        Some(&Type::BOOL) => (text == "t" || text == "true").to_string(),
        Some(&Type::BYTEA) => shorten_hex(text),
        // Without its type it is a number, or whatever can be read like one.
        None if text.parse::<f64>().is_ok() => text.to_owned(),
        None => quote(text),
        Some(known) if is_text(known) => quote(text),
        Some(_) => printable(text),
    }
}

fn is_text(known: &Type) -> bool {
    [
        Type::TEXT,
        Type::VARCHAR,
        Type::NAME,
        Type::BPCHAR,
        Type::UNKNOWN,
    ]
    .contains(known)
}

fn from_binary(known: &Type, bytes: &[u8]) -> Shown {
    Ok(match *known {
        Type::BOOL => sql::bool_from_sql(bytes)?.to_string(),
        Type::CHAR => sql::char_from_sql(bytes)?.to_string(),
        Type::INT2 => sql::int2_from_sql(bytes)?.to_string(),
        Type::INT4 => sql::int4_from_sql(bytes)?.to_string(),
        Type::INT8 => sql::int8_from_sql(bytes)?.to_string(),
        Type::OID | Type::XID => sql::oid_from_sql(bytes)?.to_string(),
        Type::FLOAT4 => float(sql::float4_from_sql(bytes)?.to_string()),
        Type::FLOAT8 => float(sql::float8_from_sql(bytes)?.to_string()),
        Type::NUMERIC => numeric(bytes).ok_or("no numeric")?,
        Type::BYTEA => hex(bytes),
        Type::UUID => uuid(sql::uuid_from_sql(bytes)?),
        Type::TIMESTAMP => timestamp(sql::timestamp_from_sql(bytes)?, ""),
        Type::TIMESTAMPTZ => timestamp(sql::timestamp_from_sql(bytes)?, "Z"),
        Type::DATE => match sql::date_from_sql(bytes)? {
            i32::MAX => "infinity".to_owned(),
            i32::MIN => "-infinity".to_owned(),
            days => date(i64::from(days)),
        },
        Type::TIME => time(sql::time_from_sql(bytes)?),
        Type::VOID => "()".to_owned(),
        Type::JSON => printable(sql::text_from_sql(bytes)?),
        // Its first byte is the version of the format.
        Type::JSONB => match bytes.split_first() {
            Some((1, json)) => printable(sql::text_from_sql(json)?),
            _ => return Err("no jsonb".into()),
        },
        _ if is_text(known) => quote(sql::text_from_sql(bytes)?),
        _ if matches!(known.kind(), Kind::Array(_)) => array(bytes)?,
        _ => guess(bytes),
    })
}

/// As the server writes it.
fn float(shown: String) -> String {
    shown.replace("inf", "Infinity")
}

fn array(bytes: &[u8]) -> Shown {
    let array = sql::array_from_sql(bytes)?;
    // The values of more dimensions would be shown as if they were of one.
    if array.dimensions().count()? > 1 {
        return Ok(hex(bytes));
    }
    let values = array
        .values()
        .map(|value| Ok(show(array.element_type(), true, value)));
    let values: Vec<_> = values.collect()?;
    Ok(format!("{{{}}}", values.join(", ")))
}

/// A value of an unknown type: an enum's label is sent as text, and so is what some extensions have.
fn guess(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && !text.contains(char::is_control) => quote(text),
        _ => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    shorten_hex(&format!("\\x{}", digits.collect::<String>()))
}

fn shorten_hex(text: &str) -> String {
    match text.char_indices().nth(2 + 2 * HEX_BYTES) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", printable(text).replace('\'', "''"))
}

/// The text on one line.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

const DAY: i64 = 86_400_000_000;

/// Microseconds since 2000-01-01.
fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        _ => {
            let (days, micros) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
            format!("{}T{}{zone}", date(days), time(micros))
        }
    }
}

/// Microseconds since midnight.
fn time(micros: i64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = match micros {
        0 => String::new(),
        _ => format!(".{micros:06}").trim_end_matches('0').to_owned(),
    };
    format!("{hours:02}:{minutes:02}:{seconds:02}{fraction}")
}

/// Days since 2000-01-01, in the Gregorian calendar: its 400 years have 146097 days.
/// Years begin with March here, so that a leap day is the last of its year.
fn date(days: i64) -> String {
    let days = days + 730_425;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + next;
    format!("{year:04}-{month:02}-{day:02}")
}

/// Groups of four decimal digits; the first has the weight 10000^weight.
fn numeric(bytes: &[u8]) -> Option<String> {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut words = words.iter().map(|&word| u16::from_be_bytes(word));
    let (count, weight) = (words.next()?, i32::from(words.next()?.cast_signed()));
    let (sign, scale) = (words.next()?, usize::from(words.next()?));
    let groups: Vec<u16> = words.collect();
    if groups.len() != usize::from(count) || !rest.is_empty() {
        return None;
    }
    let sign = match sign {
        0x0000 => "",
        0x4000 => "-",
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        0xF000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    let group = |weight_of: i32| {
        let at = usize::try_from(weight - weight_of).ok();
        at.and_then(|at| groups.get(at)).copied().unwrap_or(0)
    };
    let whole: String = (0..=weight.max(0))
        .rev()
        .map(|weight| format!("{:04}", group(weight)))
        .collect();
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let below = i32::try_from(scale.div_ceil(4)).ok()?;
    let mut fraction: String = (1..=below).map(|at| format!("{:04}", group(-at))).collect();
    fraction.truncate(scale);
    let point = if scale > 0 { "." } else { "" };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric_bytes(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Vec<u8> {
        let head = [groups.len() as u16, weight.cast_unsigned(), sign, scale];
        let words = head.iter().chain(groups);
        words.flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn binary() {
        let micros = |date: i64, seconds: i64, micros: i64| {
            (date * DAY + seconds * 1_000_000 + micros).to_be_bytes()
        };
        let mut ints = bytes::BytesMut::new();
        sql::array_to_sql(
            [sql::ArrayDimension {
                len: 3,
                lower_bound: 1,
            }],
            23,
            [Some(1_i32), None, Some(-3)],
            |value, bytes| {
                Ok(match value {
                    Some(value) => {
                        sql::int4_to_sql(value, bytes);
                        postgres_protocol::IsNull::No
                    }
                    None => postgres_protocol::IsNull::Yes,
                })
            },
            &mut ints,
        )
        .unwrap();
        let mut jsonb = vec![1];
        jsonb.extend(br#"{"a": 1}"#);
        let table: &[(Type, &[u8], &str)] = &[
            (Type::BOOL, &[1], "true"),
            (Type::BOOL, &[0], "false"),
            (Type::INT2, &(-2_i16).to_be_bytes(), "-2"),
            (Type::INT4, &7_i32.to_be_bytes(), "7"),
            (Type::INT8, &i64::MIN.to_be_bytes(), "-9223372036854775808"),
            // Of the wrong length.
            (Type::INT8, &[0, 1], "\\x0001"),
            (Type::FLOAT4, &0.5_f32.to_be_bytes(), "0.5"),
            (Type::FLOAT8, &(-1.25_f64).to_be_bytes(), "-1.25"),
            (Type::FLOAT8, &f64::NEG_INFINITY.to_be_bytes(), "-Infinity"),
            (Type::TEXT, b"ann", "'ann'"),
            (Type::TEXT, b"", "''"),
            (Type::VARCHAR, b"it's\nso", "'it''s\\nso'"),
            (Type::NAME, b"n", "'n'"),
            (Type::BPCHAR, b"c ", "'c '"),
            (Type::JSON, br#"{"a":1}"#, r#"{"a":1}"#),
            (Type::JSONB, &jsonb, r#"{"a": 1}"#),
            (
                Type::UUID,
                &[0x67; 16],
                "67676767-6767-6767-6767-676767676767",
            ),
            (Type::TIMESTAMP, &micros(0, 0, 0), "2000-01-01T00:00:00"),
            (
                Type::TIMESTAMPTZ,
                &micros(8760, 45_296, 120_000),
                "2023-12-26T12:34:56.12Z",
            ),
            (
                Type::TIMESTAMP,
                &micros(-1, 0, 1),
                "1999-12-31T00:00:00.000001",
            ),
            (Type::TIMESTAMP, &i64::MAX.to_be_bytes(), "infinity"),
            (Type::DATE, &59_i32.to_be_bytes(), "2000-02-29"),
            (Type::DATE, &60_i32.to_be_bytes(), "2000-03-01"),
            (Type::DATE, &(-36_465_i32).to_be_bytes(), "1900-03-01"),
            (Type::DATE, &(-36_466_i32).to_be_bytes(), "1900-02-28"),
            (Type::DATE, &i32::MIN.to_be_bytes(), "-infinity"),
            (Type::TIME, &micros(0, 3599, 0), "00:59:59"),
            (Type::NUMERIC, &numeric_bytes(0, 0, 0, &[]), "0"),
            (Type::NUMERIC, &numeric_bytes(0, 0, 2, &[12, 3400]), "12.34"),
            (Type::NUMERIC, &numeric_bytes(1, 0, 0, &[1]), "10000"),
            (
                Type::NUMERIC,
                &numeric_bytes(1, 0x4000, 1, &[1, 2, 5000]),
                "-10002.5",
            ),
            (Type::NUMERIC, &numeric_bytes(-2, 0, 6, &[1200]), "0.000012"),
            (Type::NUMERIC, &numeric_bytes(0, 0xC000, 0, &[]), "NaN"),
            (Type::NUMERIC, &numeric_bytes(0, 0xD000, 0, &[]), "Infinity"),
            (Type::NUMERIC, &[0, 1], "\\x0001"),
            (Type::BYTEA, &[0xde, 0xad], "\\xdead"),
            (
                Type::BYTEA,
                &[7; 17],
                "\\x07070707070707070707070707070707…",
            ),
            (Type::INT4_ARRAY, &ints, "{1, NULL, -3}"),
            (Type::VOID, b"", "()"),
            // Not known here.
            (Type::POINT, &[0; 16], "\\x00000000000000000000000000000000"),
        ];
        for (known, bytes, shown) in table {
            assert_eq!(show(known.oid(), true, Some(bytes)), *shown, "{known}");
        }
        // An enum of this database.
        assert_eq!(show(16_400, true, Some(b"paid")), "'paid'");
        assert_eq!(show(16_400, true, Some(&[0, 0, 7])), "\\x000007");
        assert_eq!(show(0, true, Some(&[0, 0, 0, 7])), "\\x00000007");
        assert_eq!(show(23, true, None), "NULL");
    }

    #[test]
    fn text() {
        let table: &[(u32, &[u8], &str)] = &[
            (Type::BOOL.oid(), b"t", "true"),
            (Type::BOOL.oid(), b"f", "false"),
            (Type::INT8.oid(), b"-7", "-7"),
            (Type::NUMERIC.oid(), b"12.340", "12.340"),
            (Type::TEXT.oid(), b"7", "'7'"),
            (Type::INT4_ARRAY.oid(), b"{1,2}", "{1,2}"),
            (Type::BYTEA.oid(), b"\\xdead", "\\xdead"),
            (
                Type::TIMESTAMPTZ.oid(),
                b"2023-12-26 12:34:56+00",
                "2023-12-26 12:34:56+00",
            ),
            (0, b"7", "7"),
            (0, b"seven", "'seven'"),
            (16_400, b"paid", "'paid'"),
            (Type::TEXT.oid(), &[0xff, 0], "\\xff00"),
        ];
        for (oid, bytes, shown) in table {
            assert_eq!(show(*oid, false, Some(bytes)), *shown, "{oid}");
        }
    }
}
