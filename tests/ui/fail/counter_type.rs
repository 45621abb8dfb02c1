//! A counter whose type hides behind an alias, which only the compiler can see through.

use rowlock::Counter;

type Money = f64;

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "accounts")]
struct Account {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    sum: Money,
}

fn main() {}
