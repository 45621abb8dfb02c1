//! The closure may run several times, so it can neither give away what it captures nor change it.

use rowlock::transaction;

async fn moved(pool: sqlx::PgPool, name: String) {
    let _ = transaction(&pool)
        .run(async move |_| {
            drop(name);
            Ok::<_, sqlx::Error>(())
        })
        .await;
}

async fn moved_out(pool: sqlx::PgPool, name: String) {
    let _ = transaction(&pool)
        .run(async |_| {
            drop(name);
            Ok::<_, sqlx::Error>(())
        })
        .await;
}

async fn counted(pool: sqlx::PgPool) {
    let mut runs = 0;
    let _ = transaction(&pool)
        .run(async |_| {
            runs += 1;
            Ok::<_, sqlx::Error>(())
        })
        .await;
}

fn main() {}
