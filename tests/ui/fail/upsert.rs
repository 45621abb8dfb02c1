//! What upserts write, and what new rows get.

use rowlock::FindOrCreate;

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(token))]
struct Contradictions {
    #[rowlock(key, on_update = "1")]
    id: i64,
    #[rowlock(unique, on_insert = "1")]
    email: i64,
    #[rowlock(on_insert = "1")]
    token: i64,
    #[rowlock(insert_only, default)]
    a: i64,
    #[rowlock(insert_only, on_update = "1")]
    b: i64,
    #[rowlock(generated, on_insert = "1")]
    c: i64,
    #[rowlock(counter, on_update = "1")]
    d: i64,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users")]
struct NoExpressions {
    #[rowlock(unique)]
    id: i64,
    #[rowlock(on_update)]
    a: i64,
    #[rowlock(on_update = "")]
    b: i64,
    #[rowlock(on_update = "1, c = 2")]
    c: i64,
    #[rowlock(on_update = "1 WHERE true; DROP TABLE users")]
    d: i64,
    #[rowlock(on_update = "1 -- why")]
    e: i64,
    #[rowlock(on_insert = "$1")]
    f: i64,
    #[rowlock(on_insert = ":now")]
    g: i64,
    #[rowlock(on_insert = "'open")]
    h: i64,
    #[rowlock(on_insert = "max(1")]
    i: i64,
    #[rowlock(on_insert = "1)")]
    j: i64,
}

fn main() {}
