//! What the help says of a column that is in a flattened struct, where no option can be said of one column.

use rowlock::{Counter, Fence, FindOrCreate, Guarded, Idempotent, Queue, Versioned, Xmin};

mod other {
    #[derive(Clone, sqlx::FromRow)]
    pub struct Meta {
        pub id: i64,
        pub lock_version: i64,
        pub state: String,
        pub name: String,
    }
    #[derive(Clone, sqlx::FromRow)]
    pub struct Wrapped<T> {
        pub inside: T,
    }
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "people")]
struct NoVersionNorKey {
    #[sqlx(flatten)]
    #[rowlock(columns(id: i64, lock_version: i64))]
    meta: other::Meta,
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct NoState {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(state: String))]
    meta: other::Meta,
    #[rowlock(run_at)]
    run_at: chrono::DateTime<chrono::Utc>,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "requests")]
struct NoDefault {
    #[rowlock(key)]
    key: String,
    #[sqlx(flatten)]
    #[rowlock(columns(name: String))]
    meta: other::Meta,
    #[rowlock(fingerprint)]
    fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    outcome: Option<i64>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: chrono::DateTime<chrono::Utc>,
    #[rowlock(finished)]
    finished: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "people", unique(first, on(name)), backend(Postgres))]
struct NotGenerated {
    #[rowlock(key)]
    id: i64,
    first: String,
    #[sqlx(flatten)]
    #[rowlock(columns(name: String))]
    meta: other::Meta,
    #[sqlx(flatten)]
    #[rowlock(columns(xmin: Xmin))]
    system: System,
}

/// Each is refused once, and not missing as well.
#[derive(Clone, sqlx::FromRow, Versioned, Counter)]
#[rowlock(table = "people")]
struct Refused {
    #[sqlx(flatten)]
    #[rowlock(columns(
        #[rowlock(key)]
        id: i64,
        #[rowlock(version)]
        lock_version: i64,
        #[rowlock(default)]
        name: String,
        #[rowlock(deafult)]
        state: Option<String>,
    ))]
    meta: other::Meta,
    #[rowlock(counter)]
    count: i64,
}

#[derive(Clone, sqlx::FromRow, Guarded)]
#[rowlock(table = "people")]
struct RenamedAll {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(
        #[sqlx(rename_all = "camelCase")]
        first_name: String,
        #[sqlx(flatten, rename_all = "camelCase")]
        #[rowlock(columns(last_name: String))]
        last: Last,
    ))]
    name: Name,
}

#[derive(Clone, sqlx::FromRow, Guarded)]
#[rowlock(table = "orders")]
struct OneName {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(#[sqlx(rename = "ship_street")] street: String, zip: String))]
    ship: Ship,
    #[sqlx(flatten)]
    #[rowlock(columns(#[sqlx(rename = "bill_street")] street: String, #[sqlx(rename = "billZip")] zip: String))]
    bill: Bill,
}

#[derive(Clone, sqlx::FromRow, Guarded)]
#[rowlock(table = "orders")]
struct OneStruct {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(street: String, street: String))]
    ship: Ship,
    #[sqlx(flatten)]
    #[rowlock(columns(#[sqlx(rename = "bill_street")] street: String))]
    bill: Ship,
}

#[derive(Clone, sqlx::FromRow, Guarded)]
#[rowlock(table = "people")]
struct NotRepeated {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    wrapped: other::Wrapped<Vec<other::Meta>>,
}

#[derive(Clone, sqlx::FromRow)]
struct System {
    xmin: Xmin,
}

#[derive(Clone, sqlx::FromRow)]
struct Name {
    first_name: String,
    #[sqlx(flatten)]
    last: Last,
}

#[derive(Clone, sqlx::FromRow)]
#[sqlx(rename_all = "camelCase")]
struct Last {
    last_name: String,
}

#[derive(Clone, sqlx::FromRow)]
struct Ship {
    #[sqlx(rename = "ship_street")]
    street: String,
    zip: String,
}

#[derive(Clone, sqlx::FromRow)]
struct Bill {
    #[sqlx(rename = "bill_street")]
    street: String,
    #[sqlx(rename = "billZip")]
    zip: String,
}

fn main() {}
