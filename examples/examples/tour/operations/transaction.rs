//! An invariant over several rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use rowlock::transaction;
use rowlock_examples::race::race;

use super::{CALLS, Pool, ROUNDS, TASKS, impatient};
use crate::table::Row;

/// One room per round, which everybody wants, and no row that could be locked or that carries a version.
pub async fn book_room(pool: &Pool) -> Result<Row> {
    const BOOKED: &str = "SELECT count(*) FROM bookings WHERE room_id = $1";
    const BOOK: &str = "INSERT INTO bookings (room_id) VALUES ($1)";

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let room = turn.round as i64;
        let booked: i64 = sqlx::query_scalar(BOOKED)
            .bind(room)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if booked == 0 {
            sqlx::query(BOOK).bind(room).execute(&pool).await?;
        }
        Ok(0)
    })
    .await?;

    let retries = race(
        TASKS,
        ROUNDS,
        &impatient(pool).await?,
        |pool, turn| async move {
            let room = (ROUNDS + turn.round) as i64;
            let retries = Arc::new(AtomicUsize::new(0));
            let counted = retries.clone();
            transaction(&pool)
                .serializable()
                .attempts(1000)
                .backoff(Duration::from_millis(1), Duration::from_millis(20))
                .on_retry(move |_| {
                    counted.fetch_add(1, Ordering::Relaxed);
                })
                .run(async |tx| {
                    let booked: i64 = sqlx::query_scalar(BOOKED)
                        .bind(room)
                        .fetch_one(&mut *tx)
                        .await?;
                    if booked == 0 {
                        sqlx::query(BOOK).bind(room).execute(&mut *tx).await?;
                    }
                    Ok::<_, sqlx::Error>(())
                })
                .await?;
            Ok(retries.load(Ordering::Relaxed))
        },
    )
    .await?;

    let doubled = async |first: usize| -> Result<usize> {
        let bookings: i64 =
            sqlx::query_scalar("SELECT count(*) FROM bookings WHERE room_id BETWEEN $1 AND $2")
                .bind(first as i64)
                .bind((first + ROUNDS - 1) as i64)
                .fetch_one(pool)
                .await?;
        Ok(usize::try_from(bookings)?.abs_diff(ROUNDS))
    };
    Ok(Row {
        derive: "transaction",
        operation: "serializable",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: doubled(0).await?,
        unit: "duplicates",
        lost_by_rowlock: doubled(ROUNDS).await?,
        met: format!("{retries} retries"),
    })
}
