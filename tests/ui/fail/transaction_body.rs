//! What the closure of a transaction returns, and what it must not hold.

use std::rc::Rc;

use rowlock::transaction;

async fn no_result(pool: sqlx::PgPool) {
    let _ = transaction(&pool).run(async |_| ()).await;
}

async fn error_without_a_source(pool: sqlx::PgPool) {
    let _ = transaction(&pool).run(async |_| Err::<(), _>(7)).await;
}

async fn not_async(pool: sqlx::PgPool) {
    let _ = transaction(&pool).run(|_| Ok::<_, sqlx::Error>(())).await;
}

async fn not_send(pool: sqlx::PgPool) {
    let _ = transaction(&pool)
        .run(async |tx| {
            let rc = Rc::new(1);
            sqlx::query("SELECT 1").execute(&mut **tx).await?;
            drop(rc);
            Ok::<_, sqlx::Error>(())
        })
        .await;
}

async fn on_sqlite(pool: sqlx::SqlitePool) {
    let _ = transaction(&pool).lock_timeout(std::time::Duration::from_secs(1));
}

fn main() {}
