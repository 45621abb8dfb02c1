//! Keys of partial indexes, of expressions and of generated columns.

use rowlock::FindOrCreate;

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(email, where = "deleted_at IS NULL;"))]
struct Predicate {
    email: String,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(email, where = "tenant IS NOT NULL"), unique(lower(tenant)))]
struct Nullable {
    email: Option<String>,
    tenant: Option<String>,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(email, nulls_not_distinct))]
struct NullsNotDistinct {
    email: Option<String>,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(email, on(full)), unique(name, on(nmae)))]
struct On {
    email: String,
    full: String,
    name: String,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(email), unique(email, where = "gone IS NULL"), unique(lower(mail)))]
struct SameMethod {
    email: String,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(
    table = "users",
    unique(where = "true"),
    unique(email, where = true),
    unique(left(email, tenant)),
    unique(email, on())
)]
struct Malformed {
    email: String,
    tenant: i64,
}

fn main() {}
