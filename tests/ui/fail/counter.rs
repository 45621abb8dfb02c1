//! What a counter cannot be, and what its row cannot have.

use rowlock::Counter;

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "money")]
struct Money {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    sum: f64,
    #[rowlock(counter)]
    count: u32,
    #[rowlock(counter)]
    rest: Option<i64>,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "roles")]
struct Roles {
    #[rowlock(key, counter)]
    id: i64,
    #[rowlock(counter, version)]
    count: i64,
    #[rowlock(counter, generated)]
    made: i64,
    #[rowlock(counter, default)]
    given: i64,
    #[rowlock(counter, unique)]
    one: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "bounds")]
struct Bounds {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter(min = 5, max = 1))]
    none_between: i64,
    #[rowlock(counter(maximum = 1, step = 2))]
    unknown: i64,
    #[rowlock(counter(min = 1, min = 2))]
    twice: i64,
    #[rowlock(counter(min = "0", max))]
    malformed: i64,
    #[rowlock(counter = 3)]
    value: i64,
    #[rowlock(counter(max = 99999999999999999999))]
    too_large: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "stock")]
struct Stock {
    #[rowlock(key)]
    product: i64,
    name: String,
    #[rowlock(counter)]
    amount: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "views")]
struct Views {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(counter)]
    views_many: i64,
}

async fn calls(pool: sqlx::PgPool) {
    let _: f64 = Money::add_sum(&pool, 1, 2).await.unwrap();
    let _: i64 = Stock::add_amount(&pool, 1, 2).await.unwrap();
}

fn main() {}
