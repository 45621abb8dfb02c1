//! The types of PostgreSQL.

use rowlock::row::{FoundOrCreated, GuardError, UpdateError};
use rowlock::{Counter, FindOrCreate, Guarded, Lockable, Versioned, transaction};
use sqlx::postgres::types::PgRange;
use sqlx::types::ipnetwork::IpNetwork;
use sqlx::types::{BigDecimal, Decimal, Json, Uuid};

use super::types::{of_columns, of_types, things};

/// A key with a type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
struct Number(i64);

/// A type of which sqlx does not know the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent, no_pg_array)]
struct Single(i64);

/// `CREATE TYPE mood AS ENUM`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "snake_case")]
enum Mood {
    Good,
    SoSo,
}

/// `CREATE DOMAIN address AS text CHECK (…)`: a text to sqlx.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
struct Address(String);

fn ip(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

of_types! {
    on Postgres;
    smallint: i16 as "smallint" by clone, -1, i16::MAX;
    integer: i32 as "integer" by clone, -1, i32::MIN;
    bigint: i64 as "bigint" by clone, 1, i64::MAX;
    text: String as "text" by as_str, "a".to_owned(), String::new();
    varchar: String as "varchar(5)" by as_str, "abcde".to_owned(), "ü".to_owned();
    uuid: Uuid as "uuid" by clone, Uuid::from_u128(7), Uuid::from_u128(u128::MAX);
    numeric: Decimal as "numeric(20, 4)" by clone, Decimal::new(12_345, 4), Decimal::new(-1, 0);
    big_numeric: BigDecimal as "numeric" by clone, "12345678901234567890123456789012345678.5".parse().unwrap(), "-1e-40".parse().unwrap();
    inet: IpNetwork as "inet" by clone, ip("10.0.0.1"), ip("fe80::/64");
    bytea: Vec<u8> as "bytea" by clone, vec![0, 255], vec![];
    timestamptz: chrono::DateTime<chrono::Utc> as "timestamptz" by clone, chrono::DateTime::UNIX_EPOCH, "2026-11-22T01:02:03.000004Z".parse().unwrap();
    timestamp: chrono::NaiveDateTime as "timestamp" by clone, chrono::DateTime::UNIX_EPOCH.naive_utc(), "2026-11-22T01:02:03.000004".parse().unwrap();
    date: chrono::NaiveDate as "date" by clone, chrono::NaiveDate::MIN.max("0001-01-01".parse().unwrap()), "2026-11-22".parse().unwrap();
    boolean: bool as "boolean" by clone, true, false;
    newtype: Number as "bigint" by clone, Number(1), Number(-1);
    without_an_array: Single as "bigint" by clone, Single(1), Single(-1);
    an_enum: Mood as "mood" by clone, Mood::Good, Mood::SoSo;
    domain: Address as "address" by clone, Address("a@b".to_owned()), Address("@".to_owned());
}

of_columns! {
    on Postgres;
    array: Vec<i32> as "integer[]", vec![1, 2], vec![];
    texts: Vec<String> as "text[]", vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()];
    double: f64 as "double precision", 0.1, -0.0;
    range: PgRange<i64> as "int8range", (1..5).into(), (..9).into();
    json: Json<Vec<i32>> as "jsonb", Json(vec![1]), Json(vec![]);
    array_of_enum: Vec<Mood> as "mood[]", vec![Mood::Good, Mood::SoSo], vec![];
}

/// `1.5` and `1.50` are one number, whatever its digits are: writing it changes nothing.
#[tokio::test]
async fn a_number_with_other_digits_is_no_change() {
    #[derive(Debug, Clone, sqlx::FromRow, Versioned)]
    #[rowlock(table = "things", backend(Postgres))]
    struct Amounts {
        #[rowlock(key)]
        id: i64,
        value: Decimal,
        maybe: BigDecimal,
        #[rowlock(version)]
        version: i64,
    }
    let row = |text: &str| Amounts {
        id: 1,
        value: Decimal::from_scientific(text).or(text.parse()).unwrap(),
        maybe: text.parse().unwrap(),
        version: 0,
    };
    let database = things("bigint", "numeric").await;
    let pool = &database.pool;
    let equal = [
        &["1.5", "1.50", "1.50000"][..],
        &[
            "100",
            "100.0",
            "100.0000",
            "100.00000",
            "1e2",
            "100.000000000",
        ],
        &["1000000", "1e6", "1000000.0"],
        &["0", "0.0", "0.00000"],
        &["0.0001", "0.00010", "1e-4", "0.00010000"],
        &["-12345.678", "-12345.6780"],
        &["0.00000001", "1e-8", "0.000000010"],
        &["123456789", "123456789.0000"],
    ];
    for (index, texts) in equal.iter().enumerate() {
        for one in *texts {
            row(one).insert(pool).await.unwrap();
            let stored = Amounts::load(pool, 1).await.unwrap();
            for two in *texts {
                let mut edit = stored.edit();
                (edit.value, edit.maybe) = (row(two).value, row(two).maybe);
                assert_eq!(edit.changed_fields(), [""; 0], "{one} {two}");
                let mut edit = row(one).edit();
                (edit.value, edit.maybe) = (row(two).value, row(two).maybe);
                assert_eq!(edit.changed_fields(), [""; 0], "{one} {two}");
            }
            for other in equal.iter().enumerate().filter(|other| other.0 != index) {
                let mut edit = stored.edit();
                (edit.value, edit.maybe) = (row(other.1[0]).value, row(other.1[0]).maybe);
                assert_eq!(edit.changed_fields(), ["value", "maybe"], "{one} {other:?}");
            }
            stored.delete(pool).await.unwrap();
        }
    }
}
