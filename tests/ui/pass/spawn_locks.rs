//! Row locks and transactions inside `tokio::spawn`, from a transaction of either kind, on either database.

#![deny(warnings)]
#![allow(dead_code)]

use std::time::Duration;

use rowlock::row::{LockCheckedError, LockError, Locked, Shared};
use rowlock::tx::TransactionError;
use rowlock::{Lockable, transaction};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "stock")]
struct Sku {
    #[rowlock(key)]
    id: i64,
    left: i64,
    #[rowlock(version)]
    version: i64,
}

/// A key of several columns, with text.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "seats")]
struct Seat {
    #[rowlock(key)]
    hall: String,
    #[rowlock(key)]
    number: i32,
    taken: bool,
}

/// Only PostgreSQL has arrays.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "posts", backend(Postgres))]
struct Post {
    #[rowlock(key)]
    slug: String,
    tags: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Checked(#[from] LockCheckedError<Sku>),
}

/// All methods that every database has; `$tx` is evaluated anew for each call.
macro_rules! all_methods {
    ($tx:expr, $hall:expr) => {{
        let mut sku: Locked<Sku> = Sku::lock($tx, 1).await?;
        sku.left -= 1;
        sku.save($tx).await?;
        Sku::lock($tx, 1).no_key().await?;
        Sku::lock($tx, 1).nowait().await?;
        Sku::lock($tx, 1)
            .no_key()
            .lock_timeout(Duration::from_millis(5))
            .await?;
        for mut sku in Sku::lock_many($tx, [3, 2]).nowait().await? {
            sku.left = 0;
            sku.save($tx).await?;
        }
        sku.into_inner().lock_checked($tx).await?;
        let mut seat = Seat::lock($tx, ($hall, 7)).await?;
        seat.taken = true;
        seat.save($tx).await?;
        let seats = Seat::lock_many($tx, [($hall, 7), ("b", 1)]).await?;
        Ok::<usize, Failure>(seats.len())
    }};
}

macro_rules! row_locks {
    ($tx:expr, $slug:expr) => {{
        let shared: Shared<Sku> = Sku::lock($tx, 1).share().await?;
        let skipped: Option<Locked<Sku>> = Sku::lock($tx, shared.id).no_key().skip_locked().await?;
        let both: Option<Shared<Sku>> = Sku::lock($tx, 1).share().skip_locked().await?;
        let many: Vec<Shared<Sku>> = Sku::lock_many($tx, [1, 2]).skip_locked().share().await?;
        let mut post = Post::lock($tx, $slug).await?;
        post.tags.clear();
        post.save($tx).await?;
        drop((skipped, both, many, shared.into_inner()));
        Post::lock_many($tx, [$slug, "other"]).await?;
        Ok::<_, Failure>(())
    }};
}

async fn postgres(pool: sqlx::PgPool) {
    let other = pool.clone();
    tokio::spawn(async move {
        let name = String::from("a");
        let hall = name.as_str();
        let run = transaction(&other)
            .serializable()
            .attempts(3)
            .deadline(Duration::from_secs(5))
            .lock_timeout(Duration::from_secs(1))
            .on_retry(|retry| println!("{}", retry.attempt))
            .run(async |tx| {
                row_locks!(&mut *tx, hall)?;
                all_methods!(&mut *tx, hall)
            });
        if let Err(TransactionError::Exhausted { attempts, .. }) = run.await {
            println!("{attempts}");
        }
    });
    tokio::spawn(async move {
        let name = String::from("a");
        let hall = name.as_str();
        let mut tx = pool.begin().await.unwrap();
        row_locks!(&mut tx, hall)?;
        all_methods!(&mut tx, hall)
    });
}

async fn sqlite(pool: sqlx::SqlitePool) {
    let other = pool.clone();
    tokio::spawn(async move {
        let name = String::from("a");
        let hall = name.as_str();
        transaction(&other)
            .run(async |tx| all_methods!(&mut *tx, hall))
            .await
    });
    tokio::spawn(async move {
        let name = String::from("a");
        let hall = name.as_str();
        let mut tx = pool.begin().await.unwrap();
        all_methods!(&mut tx, hall)
    });
}
