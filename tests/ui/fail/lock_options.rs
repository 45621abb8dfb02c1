//! Options of a lock that the database does not have, or that exclude each other.

use rowlock::Lockable;
use rowlock::row::Shared;

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "stock")]
struct Sku {
    #[rowlock(key)]
    id: i64,
    left: i64,
}

async fn no_row_locks(mut tx: sqlx::SqliteTransaction<'_>) {
    let _ = Sku::lock(&mut tx, 1).skip_locked().await;
    let _ = Sku::lock(&mut tx, 1).share().await;
}

async fn one_or_the_other(mut tx: sqlx::PgTransaction<'_>) {
    let _ = Sku::lock(&mut tx, 1).nowait().skip_locked().await;
    let _ = Sku::lock(&mut tx, 1).skip_locked().nowait().await;
    let _ = Sku::lock(&mut tx, 1).share().no_key().await;
}

async fn a_shared_row_is_read(mut tx: sqlx::PgTransaction<'_>, mut sku: Shared<Sku>) {
    let _ = sku.save(&mut tx).await;
}

async fn no_version(mut tx: sqlx::PgTransaction<'_>, sku: Sku) {
    let _ = sku.lock_checked(&mut tx).await;
}

fn main() {}
