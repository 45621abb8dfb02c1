//! `Counter`: every addition that was acknowledged is counted once, and none leaves the bounds.

use std::time::Duration;

use rowlock::row::CounterError;
use rowlock::{Counter, transaction};
use rowlock_explore::{Ended, Explorer};
use sqlx::PgPool;

use super::{FAULTS, Known, Works, all_but_broken, as_known, digits, explore, passed, wrong};

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i32,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "shows", existing_rows)]
struct Show {
    #[rowlock(key)]
    id: i32,
    #[rowlock(counter(min = 0))]
    seats: i64,
}

const TABLES: &str = "CREATE TABLE page_views (page int PRIMARY KEY, views bigint NOT NULL);
    CREATE TABLE shows (id int PRIMARY KEY, seats bigint NOT NULL)";

/// The actors add 1, 10 and 100.
async fn views<T: Send + Sync + std::fmt::Debug + 'static>() -> Explorer<Known<T>> {
    explore(TABLES, "DELETE FROM page_views")
        .await
        .invariant(|ended: Ended<Known<T>>| async move {
            for sum in ended.rows("SELECT views FROM page_views").await? {
                let sum = sum[0].as_deref().unwrap_or_default();
                as_known(&ended, &digits::<3>(sum.parse().unwrap()))?;
            }
            all_but_broken(&ended)
        })
}

async fn view(pool: PgPool, by: i64) -> Result<i64, CounterError> {
    let total = PageViews::add_views(&pool, 1, by).await?;
    assert!(total >= by);
    Ok(total)
}

#[tokio::test]
async fn two_add_to_what_is_not_there() {
    for faults in [&FAULTS[..0], &FAULTS] {
        let verdict = views()
            .await
            .works("ann", |pool| view(pool, 1))
            .works("bob", |pool| view(pool, 10))
            .never("SELECT count(*) FROM page_views HAVING count(*) > 1")
            .faults(faults.iter().copied())
            .explore();
        passed("Counter: add, add", verdict.await.unwrap());
    }
}

#[tokio::test]
async fn three_add() {
    let verdict = views()
        .await
        .works("ann", |pool| view(pool, 1))
        .works("bob", |pool| view(pool, 10))
        .works("cal", |pool| view(pool, 100))
        .never("SELECT FROM page_views HAVING sum(views) IS DISTINCT FROM 111")
        .explore();
    passed("Counter: add, add, add", verdict.await.unwrap());
}

/// With other work of its transaction, which holds the row until the end.
async fn in_transaction(pool: PgPool, by: i64) -> Result<i64, rowlock::Error> {
    let total = transaction(&pool)
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
        .run(async |tx| -> Result<_, rowlock::Error> { Ok(PageViews::add_views(tx, 1, by).await?) })
        .await?;
    Ok(total)
}

#[tokio::test]
async fn two_transactions_add() {
    for faults in [&FAULTS[..0], &FAULTS] {
        let verdict = views()
            .await
            .works("ann", |pool| in_transaction(pool, 1))
            .works("bob", |pool| in_transaction(pool, 10))
            .faults(faults.iter().copied())
            .explore();
        passed(
            "Counter: add in transaction(), twice",
            verdict.await.unwrap(),
        );
    }
}

/// Two batches that meet in both rows, in opposite order.
#[tokio::test]
async fn two_batches_in_opposite_order() {
    let batch = |keys: [i32; 2], by| {
        move |pool: PgPool| async move {
            PageViews::add_views_many(&pool, keys.map(|key| (key, by))).await
        }
    };
    for rows in [
        "DELETE FROM page_views",
        "DELETE FROM page_views; INSERT INTO page_views VALUES (1, 0), (2, 0)",
    ] {
        let verdict = views()
            .await
            .setup(rows)
            .works("ann", batch([1, 2], 1))
            .works("bob", batch([2, 1], 10))
            .never("SELECT FROM page_views HAVING count(*) = 1 OR min(views) <> max(views)")
            .faults(FAULTS)
            .explore();
        passed(
            "Counter: add_many, add_many of rows in opposite order",
            verdict.await.unwrap(),
        );
    }
}

/// One after the other, in the one order.
async fn hold_both(pool: PgPool) -> Result<Vec<(i32, i64)>, rowlock::Error> {
    let totals = transaction(&pool)
        .attempts(1)
        .run(async |tx| -> Result<_, rowlock::Error> {
            let first = PageViews::add_views(&mut *tx, 1, 100).await?;
            let second = PageViews::add_views(&mut *tx, 2, 100).await?;
            Ok(vec![(1, first), (2, second)])
        })
        .await?;
    Ok(totals)
}

/// A statement is one step, in which nobody else moves. That two batches wait for each other in the midst of theirs takes a
/// third one, who holds a row while they begin.
#[tokio::test]
async fn two_batches_in_opposite_order_and_a_held_row() {
    let batch = |keys: [i32; 2], by| {
        move |pool: PgPool| async move {
            let totals = PageViews::add_views_many(&pool, keys.map(|key| (key, by))).await;
            totals.map_err(rowlock::Error::from)
        }
    };
    let verdict = views()
        .await
        .setup("INSERT INTO page_views VALUES (1, 0), (2, 0)")
        .works("ann", batch([1, 2], 1))
        .works("bob", batch([2, 1], 10))
        .works("cal", hold_both)
        .never("SELECT FROM page_views HAVING min(views) <> max(views)")
        .explore();
    passed(
        "Counter: add_many, add_many of rows in opposite order, one of them held",
        verdict.await.unwrap(),
    );
}

const ONE_SEAT: &str = "DELETE FROM shows; INSERT INTO shows VALUES (1, 1), (2, 1)";

/// One seat of show 1: whoever does not get it knows.
async fn one_seat() -> Explorer<Known<i64>> {
    explore(TABLES, ONE_SEAT)
        .await
        .never("SELECT FROM shows WHERE seats < 0")
        .invariant(|ended: Ended<Known<i64>>| async move {
            let left = ended.value("SELECT seats FROM shows WHERE id = 1").await?;
            let done = ended.returned().filter_map(Known::done).count();
            let known = !ended
                .returned()
                .any(|known| matches!(known, Known::Unknown));
            match (left.as_str(), done, known) {
                ("0", 1, _) | ("0" | "1", 0, false) => Ok(()),
                // Somebody was told that something broke, and the others came before.
                ("1", 0, true) if !ended.faults.is_empty() => Ok(()),
                _ => Err(format!("{left} seats are left, and {done} have one")),
            }
        })
}

async fn book(pool: PgPool) -> Result<i64, CounterError> {
    Show::add_seats(&pool, 1, -1).await
}

#[tokio::test]
async fn two_book_the_last_seat() {
    for faults in [&FAULTS[..0], &FAULTS] {
        let verdict = one_seat()
            .await
            .works("ann", book)
            .works("bob", book)
            .faults(faults.iter().copied())
            .explore();
        passed("Counter: add within bounds, twice", verdict.await.unwrap());
    }
}

#[tokio::test]
async fn three_book_the_last_seat() {
    let verdict = one_seat()
        .await
        .works("ann", book)
        .works("bob", book)
        .works("cal", book)
        .explore();
    passed(
        "Counter: add within bounds, three times",
        verdict.await.unwrap(),
    );
}

/// All or none, in a transaction that goes on when it was none.
async fn book_both(pool: PgPool, shows: [i32; 2]) -> Result<i64, rowlock::Error> {
    let booked = transaction(&pool)
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
        .run(async |tx| -> Result<_, rowlock::Error> {
            match Show::add_seats_many(&mut *tx, shows.map(|show| (show, -1))).await {
                Ok(_) => Ok(true),
                Err(CounterError::OutOfBounds(_)) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
    match booked {
        true => Ok(0),
        false => Err(sqlx::Error::RowNotFound.into()),
    }
}

#[tokio::test]
async fn two_batches_within_bounds() {
    let verdict = one_seat()
        .await
        .never("SELECT FROM shows HAVING min(seats) <> max(seats)")
        .works("ann", |pool| book_both(pool, [1, 2]))
        .works("bob", |pool| book_both(pool, [2, 1]))
        .explore();
    passed(
        "Counter: add_many within bounds, in opposite order",
        verdict.await.unwrap(),
    );
}

/// One batch takes both, the other one is of a show that is sold out: what it took of the first is given back.
#[tokio::test]
async fn a_refused_batch_takes_nothing() {
    let verdict = explore(
        TABLES,
        "DELETE FROM shows; INSERT INTO shows VALUES (1, 1), (2, 0), (3, 1)",
    )
    .await
    .works("ann", |pool| book_both(pool, [1, 2]))
    .works("bob", |pool| book_both(pool, [3, 1]))
    .invariant(|ended: Ended<Known<i64>>| async move {
        let left = ended
            .value("SELECT string_agg(seats::text, ' ' ORDER BY id) FROM shows")
            .await?;
        match (
            left.as_str(),
            ended.returned().filter_map(Known::done).count(),
        ) {
            ("0 0 0", 1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .explore();
    passed(
        "Counter: add_many that is refused, add_many",
        verdict.await.unwrap(),
    );
}

async fn read_then_write(pool: PgPool, by: i64) -> Result<i64, sqlx::Error> {
    let views: i64 = sqlx::query_scalar("SELECT views FROM page_views WHERE page = $1")
        .bind(1)
        .fetch_one(&pool)
        .await?;
    sqlx::query("UPDATE page_views SET views = $1 WHERE page = $2")
        .bind(views + by)
        .bind(1)
        .execute(&pool)
        .await?;
    Ok(views + by)
}

#[tokio::test]
async fn by_hand_an_addition_is_lost() {
    let verdict = views()
        .await
        .setup("INSERT INTO page_views VALUES (1, 0)")
        .by_hand("ann", |pool| read_then_write(pool, 1))
        .by_hand("bob", |pool| read_then_write(pool, 10))
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong("Counter: SELECT, UPDATE", verdict.await.unwrap());
    assert!(failure.anomaly().starts_with("lost update"));
}

/// The addition is the database's, and the limit is not in it.
async fn limit_before(pool: PgPool) -> Result<i64, sqlx::Error> {
    let seats: i64 = sqlx::query_scalar("SELECT seats FROM shows WHERE id = $1")
        .bind(1)
        .fetch_one(&pool)
        .await?;
    if seats < 1 {
        return Err(sqlx::Error::RowNotFound);
    }
    sqlx::query("UPDATE shows SET seats = seats - 1 WHERE id = $1")
        .bind(1)
        .execute(&pool)
        .await?;
    Ok(seats - 1)
}

#[tokio::test]
async fn by_hand_the_limit_is_checked_before() {
    let verdict = one_seat()
        .await
        .by_hand("ann", limit_before)
        .by_hand("bob", limit_before)
        .exhaustive()
        .count_failures()
        .explore();
    wrong(
        "Counter: the limit checked by a SELECT",
        verdict.await.unwrap(),
    );
}

async fn unsorted(pool: PgPool, pages: [i32; 2], by: i64) -> Result<i64, sqlx::Error> {
    let mut tx = pool.begin().await?;
    for page in pages {
        sqlx::query("UPDATE page_views SET views = views + $1 WHERE page = $2")
            .bind(by)
            .bind(page)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(by)
}

#[tokio::test]
async fn by_hand_a_batch_deadlocks() {
    let verdict = views()
        .await
        .setup("INSERT INTO page_views VALUES (1, 0), (2, 0)")
        .by_hand("ann", |pool| unsorted(pool, [1, 2], 1))
        .by_hand("bob", |pool| unsorted(pool, [2, 1], 10))
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong("Counter: an unsorted batch", verdict.await.unwrap());
    assert!(failure.to_string().contains("40P01"), "{failure}");
}

/// An error of the network is no reason to do it again.
async fn again(pool: PgPool, by: i64) -> Result<i64, sqlx::Error> {
    let add = || {
        sqlx::query_scalar(
            "UPDATE page_views SET views = views + $1 WHERE page = $2 RETURNING views",
        )
        .bind(by)
        .bind(1)
        .fetch_one(&pool)
    };
    match add().await {
        Err(sqlx::Error::Io(_)) => add().await,
        added => added,
    }
}

#[tokio::test]
async fn by_hand_an_addition_is_made_again() {
    let verdict = views()
        .await
        .setup("INSERT INTO page_views VALUES (1, 0)")
        .works("ann", |pool| again(pool, 1))
        .works("bob", |pool| again(pool, 10))
        .faults(FAULTS)
        .count_failures()
        .explore();
    wrong(
        "Counter: again after an error of the network",
        verdict.await.unwrap(),
    );
}
