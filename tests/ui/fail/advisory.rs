//! Advisory locks that the database does not have, outside of a transaction, and closures that cannot be run.

use std::rc::Rc;

use rowlock::lock::{AdvisoryLock, SessionLock};

async fn shared_on_sqlite(pool: sqlx::SqlitePool) {
    let _ = AdvisoryLock::new("a").shared().run(&pool, async |_| Ok::<_, sqlx::Error>(())).await;
}

async fn inside_on_sqlite(mut tx: sqlx::SqliteTransaction<'_>) {
    let _ = AdvisoryLock::new("a").try_lock(&mut tx).await;
}

async fn looked_at_on_sqlite(pool: sqlx::SqlitePool) {
    let _ = AdvisoryLock::new("a").is_held(&pool).await;
}

async fn session_on_sqlite(pool: sqlx::SqlitePool) {
    let _ = SessionLock::acquire(&pool, &AdvisoryLock::new("a")).await;
}

async fn outside_of_a_transaction(pool: sqlx::PgPool) {
    let _ = AdvisoryLock::new("a").lock(&pool).await;
}

async fn inside_of_a_transaction(mut tx: sqlx::PgTransaction<'_>) {
    let _ = AdvisoryLock::new("a").run(&mut tx, async |_| Ok::<_, sqlx::Error>(())).await;
}

async fn no_result(pool: sqlx::PgPool) {
    let _ = AdvisoryLock::new("a").try_run(&pool, async |_| ()).await;
}

async fn not_async(pool: sqlx::PgPool) {
    let _ = AdvisoryLock::new("a").run(&pool, |_| Ok::<_, sqlx::Error>(())).await;
}

async fn not_send(pool: sqlx::PgPool) {
    let _ = AdvisoryLock::new("a")
        .run(&pool, async |tx| {
            let rc = Rc::new(1);
            sqlx::query("SELECT 1").execute(&mut **tx).await?;
            drop(rc);
            Ok::<_, sqlx::Error>(())
        })
        .await;
}

async fn not_a_key() {
    let _ = AdvisoryLock::of("a", 1.5).key();
}

fn main() {}
