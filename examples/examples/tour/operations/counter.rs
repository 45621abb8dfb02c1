//! Views that are counted, and seats that run out.

use anyhow::Result;
use rowlock::Lanes;
use rowlock::row::CounterError;
use rowlock_examples::race::race;

use super::{BY_HAND, CALLS, GENERATED, Pool, ROUNDS, TASKS};
use crate::models::{PageViews, Show};
use crate::table::Row;

/// Everybody sees the same page.
pub async fn count(pool: &Pool) -> Result<Row> {
    let lost_by_hand = count_by_hand(pool, BY_HAND).await?;
    // The first call creates the row.
    race(TASKS, ROUNDS, pool, |pool, _| async move {
        PageViews::add_views(&pool, GENERATED, 1).await?;
        Ok(0)
    })
    .await?;
    Ok(Row {
        derive: "Counter",
        operation: "add_views",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand,
        unit: "views",
        lost_by_rowlock: CALLS - views(pool, GENERATED).await?,
        met: "no retry needed".to_owned(),
    })
}

/// The same on a connection that is kept, for which calls wait together.
pub async fn count_on_lanes(pool: &Pool) -> Result<Row> {
    const PAGES: [i64; 2] = [3, 4];
    let lost_by_hand = count_by_hand(pool, PAGES[0]).await?;
    let lanes = Lanes::new(pool, 1).await?;
    race(TASKS, ROUNDS, &lanes, |lanes, _| async move {
        PageViews::add_views(&lanes, PAGES[1], 1).await?;
        Ok(0)
    })
    .await?;
    lanes.close().await;
    Ok(Row {
        derive: "Lanes",
        operation: "add_views",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand,
        unit: "views",
        lost_by_rowlock: CALLS - views(pool, PAGES[1]).await?,
        met: "no retry needed".to_owned(),
    })
}

async fn count_by_hand(pool: &Pool, page: i64) -> Result<usize> {
    sqlx::query("INSERT INTO page_views VALUES ($1, 0)")
        .bind(page)
        .execute(pool)
        .await?;
    race(TASKS, ROUNDS, pool, move |pool, turn| async move {
        let views: i64 = sqlx::query_scalar("SELECT views FROM page_views WHERE page_id = $1")
            .bind(page)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        sqlx::query("UPDATE page_views SET views = $1 WHERE page_id = $2")
            .bind(views + 1)
            .bind(page)
            .execute(&pool)
            .await?;
        Ok(0)
    })
    .await?;
    Ok(CALLS - views(pool, page).await?)
}

async fn views(pool: &Pool, page: i64) -> Result<usize> {
    let page = PageViews::get(pool, page).await?;
    Ok(page.map_or(0, |page| page.views).try_into()?)
}

/// One show per round with fewer seats than people who want one.
pub async fn book_seats(pool: &Pool) -> Result<Row> {
    const SEATS: usize = 3;
    const ALL_SEATS: usize = SEATS * ROUNDS;
    // The shows of the second half are sold by the generated method.
    for show in 0..2 * ROUNDS {
        sqlx::query("INSERT INTO shows VALUES ($1, $2)")
            .bind(show as i64)
            .bind(SEATS as i32)
            .execute(pool)
            .await?;
    }

    let sold_by_hand = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let show = turn.round as i64;
        let free: i32 = sqlx::query_scalar("SELECT free_seats FROM shows WHERE id = $1")
            .bind(show)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if free == 0 {
            return Ok(0);
        }
        sqlx::query("UPDATE shows SET free_seats = free_seats - 1 WHERE id = $1")
            .bind(show)
            .execute(&pool)
            .await?;
        Ok(1)
    })
    .await?;

    let sold_by_rowlock = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let show = (ROUNDS + turn.round) as i64;
        match Show::add_free_seats(&pool, show, -1).await {
            Ok(_) => Ok(1),
            Err(CounterError::OutOfBounds(_)) => Ok(0),
            Err(error) => Err(error.into()),
        }
    })
    .await?;

    Ok(Row {
        derive: "Counter",
        operation: "add_free_seats >= 0",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: sold_by_hand.abs_diff(ALL_SEATS),
        unit: "oversold",
        lost_by_rowlock: sold_by_rowlock.abs_diff(ALL_SEATS),
        met: format!("{} out of bounds", CALLS - sold_by_rowlock),
    })
}
