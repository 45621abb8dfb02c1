//! Tags that several tasks need first.

use anyhow::Result;
use rowlock::row::FoundOrCreated;
use rowlock_examples::race::race;

use super::{CALLS, Pool, ROUNDS, TASKS};
use crate::models::{NewTag, Tag};
use crate::table::Row;

/// One new tag per round, which everybody needs.
pub async fn tag(pool: &Pool) -> Result<Row> {
    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let slug = format!("tag-{}", turn.round);
        let found: Option<i64> =
            sqlx::query_scalar("SELECT id FROM tags_without_index WHERE slug = $1")
                .bind(&slug)
                .fetch_optional(&pool)
                .await?;
        turn.everybody_has_read().await;
        if found.is_none() {
            sqlx::query("INSERT INTO tags_without_index (slug) VALUES ($1)")
                .bind(&slug)
                .execute(&pool)
                .await?;
        }
        Ok(0)
    })
    .await?;

    let found = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let slug = format!("tag-{}", turn.round);
        match Tag::find_or_create(&pool, NewTag { slug }).await? {
            FoundOrCreated::Created(_) => Ok(0),
            FoundOrCreated::Found(_) => Ok(1),
        }
    })
    .await?;

    let duplicates = async |count_rows| -> Result<usize> {
        let rows: i64 = sqlx::query_scalar(count_rows).fetch_one(pool).await?;
        Ok(usize::try_from(rows)?.abs_diff(ROUNDS))
    };
    let created = CALLS - found;
    Ok(Row {
        derive: "FindOrCreate",
        operation: "find_or_create",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: duplicates("SELECT count(*) FROM tags_without_index").await?,
        unit: "duplicates",
        lost_by_rowlock: duplicates("SELECT count(*) FROM tags").await?,
        met: format!("{created} created, {found} found"),
    })
}
