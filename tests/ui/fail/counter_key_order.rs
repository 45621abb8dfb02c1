//! Keys of a counter that no batch can be sorted by.

use rowlock::Counter;

#[derive(Clone, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Code(String);

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "sales")]
struct Sale {
    #[rowlock(key)]
    code: Code,
    #[rowlock(counter)]
    units: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "daily_sales")]
struct DailySale {
    #[rowlock(key)]
    day: i64,
    #[rowlock(key)]
    code: Code,
    #[rowlock(counter)]
    units: i64,
}

fn main() {}
