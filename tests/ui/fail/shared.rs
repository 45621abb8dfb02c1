//! A row that others share is read, not changed.

#[derive(Clone, sqlx::FromRow, rowlock::Lockable)]
#[rowlock(table = "stock")]
struct Sku {
    #[rowlock(key)]
    id: i64,
    left: i64,
}

fn changed(sku: rowlock::row::Shared<Sku>) {
    sku.left -= 1;
}

fn main() {}
