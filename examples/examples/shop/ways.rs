//! The four ways. Compiled for both types of pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use rowlock::row::{CounterError, LockError};
use rowlock::tx::TransactionError;
use rowlock::{Counter, Lockable, transaction};
use rowlock_examples::race::{Turn, race};

use super::{Db, Pool};
use crate::Way;
use crate::table::Sale;

/// A product, as who locks it sees it: the units are a plain column.
#[derive(Debug, sqlx::FromRow, Lockable)]
#[rowlock(table = "skus")]
struct Sku {
    #[rowlock(key)]
    id: i64,
    name: String,
    units: i64,
}

/// The same table for who only counts: never below zero, and never a new row.
#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "skus", existing_rows)]
struct Stock {
    #[rowlock(key)]
    #[allow(dead_code)]
    id: i64,
    #[rowlock(counter(min = 0))]
    #[allow(dead_code)]
    units: i64,
}

/// Why a buyer goes home with nothing. The sources tell `transaction` whether to run it again.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("sold out")]
    SoldOut,
    #[error("cannot lock the product")]
    Lock(#[from] LockError),
    #[error("cannot count")]
    Count(#[source] CounterError),
    #[error("the database refused")]
    Database(#[from] sqlx::Error),
}

impl From<CounterError> for Refused {
    fn from(error: CounterError) -> Self {
        match error {
            CounterError::OutOfBounds(_) => Self::SoldOut,
            error => Self::Count(error),
        }
    }
}

type Outcome = Result<(), TransactionError<Refused>>;

/// (a) Lock, look, insert, save.
async fn with_row_lock(pool: &Pool, sku: i64, buyer: i64) -> Outcome {
    transaction(pool)
        .run(async |tx| {
            let mut sku = Sku::lock(&mut *tx, sku).await?;
            if sku.units == 0 {
                return Err(Refused::SoldOut);
            }
            insert_reservation(&mut *tx, sku.id, buyer).await?;
            sku.units -= 1;
            sku.save(&mut *tx).await?;
            Ok(())
        })
        .await
}

/// (b) Insert, then subtract: the bound refuses the last step, and the error takes the reservation back.
async fn guarded(pool: &Pool, sku: i64, buyer: i64) -> Outcome {
    transaction(pool)
        .run(async |tx| {
            insert_reservation(&mut *tx, sku, buyer).await?;
            Stock::add_units(&mut *tx, sku, -1).await?;
            Ok(())
        })
        .await
}

/// (c) Read, check, write. Right only because everybody who sells does so in a serializable transaction.
async fn serializable(
    pool: &Pool,
    sku: i64,
    buyer: i64,
    on_retry: impl Fn() + Send + Sync + 'static,
) -> Outcome {
    transaction(pool)
        .serializable()
        // Only one of those who meet wins, so the last one of a crowd needs as many attempts as the crowd has heads.
        .attempts(1000)
        .backoff(Duration::from_millis(2), Duration::from_millis(50))
        .on_retry(move |_| on_retry())
        .run(async |tx| {
            let units = units(&mut *tx, sku).await?;
            if units == 0 {
                return Err(Refused::SoldOut);
            }
            insert_reservation(&mut *tx, sku, buyer).await?;
            write_units(&mut *tx, sku, units - 1).await?;
            Ok(())
        })
        .await
}

/// Read, check, write, without a transaction. At the barrier everybody has read and nobody has written.
async fn naive(pool: &Pool, sku: i64, buyer: i64, turn: &Turn) -> Result<(), Refused> {
    let units = units(pool, sku).await?;
    turn.everybody_has_read().await;
    if units == 0 {
        return Err(Refused::SoldOut);
    }
    insert_reservation(pool, sku, buyer).await?;
    write_units(pool, sku, units - 1).await?;
    Ok(())
}

async fn units(db: impl sqlx::Executor<'_, Database = Db>, sku: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT units FROM skus WHERE id = $1")
        .bind(sku)
        .fetch_one(db)
        .await
}

async fn insert_reservation(
    db: impl sqlx::Executor<'_, Database = Db>,
    sku: i64,
    buyer: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO reservations (sku_id, buyer) VALUES ($1, $2)")
        .bind(sku)
        .bind(buyer)
        .execute(db)
        .await?;
    Ok(())
}

async fn write_units(
    db: impl sqlx::Executor<'_, Database = Db>,
    sku: i64,
    units: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE skus SET units = $1 WHERE id = $2")
        .bind(units)
        .bind(sku)
        .execute(db)
        .await?;
    Ok(())
}

/// Puts a new product on sale, lets all buyers in at once, and counts afterwards.
pub async fn sell(pool: &Pool, way: Way, sku: i64, buyers: usize, units: usize) -> Result<Sale> {
    rowlock::verify(pool, rowlock::models![Sku, Stock]).await?;
    sqlx::query("INSERT INTO skus VALUES ($1, 'lamp', $2)")
        .bind(sku)
        .bind(i64::try_from(units)?)
        .execute(pool)
        .await?;

    let retries = Arc::new(AtomicUsize::new(0));
    let counted = retries.clone();
    race(buyers, 1, pool, move |pool, turn| {
        let retries = counted.clone();
        async move {
            let buyer = i64::try_from(turn.task)?;
            let retried = move || {
                retries.fetch_add(1, Ordering::Relaxed);
            };
            let outcome = match way {
                Way::Naive => match naive(&pool, sku, buyer, &turn).await {
                    Err(Refused::SoldOut) => return Ok(0),
                    outcome => return Ok(outcome.map(|()| 1)?),
                },
                Way::RowLock => with_row_lock(&pool, sku, buyer).await,
                Way::Guarded => guarded(&pool, sku, buyer).await,
                Way::Serializable => serializable(&pool, sku, buyer, retried).await,
            };
            match outcome {
                Ok(()) => Ok(1),
                Err(TransactionError::Failed(Refused::SoldOut)) => Ok(0),
                Err(error) => Err(error.into()),
            }
        }
    })
    .await?;

    let sold: i64 = sqlx::query_scalar("SELECT count(*) FROM reservations WHERE sku_id = $1")
        .bind(sku)
        .fetch_one(pool)
        .await?;
    Ok(Sale {
        buyers,
        units,
        sold: sold.try_into()?,
        left: self::units(pool, sku).await?,
        retries: retries.load(Ordering::Relaxed),
    })
}
