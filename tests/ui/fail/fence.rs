//! A fence is what a lock's guard gives, and every write of the model shows it.

use rowlock::{Counter, Fence, Versioned};

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "reports")]
struct Report {
    #[rowlock(key)]
    id: i64,
    #[rowlock(fence)]
    fence: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "letters")]
struct Letter {
    #[rowlock(key)]
    id: i64,
    #[rowlock(fence, generated)]
    fence: Option<Fence>,
    #[rowlock(fence)]
    other: Fence,
    #[rowlock(version)]
    version: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(fence)]
    fence: Fence,
}

fn main() {}
