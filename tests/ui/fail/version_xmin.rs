use rowlock::{Versioned, Xmin};

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "invoices")]
struct Invoice {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    xmin: Xmin,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "orders", backend(Postgres))]
struct Order {
    #[rowlock(key)]
    id: i64,
    xmin: Xmin,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "jobs", backend(Postgres))]
struct Job {
    #[rowlock(key)]
    id: i64,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(version)]
    xmin: Xmin,
}

fn main() {}
