//! Builds of two releases file them under the same new keyword.

use rowlock::FindOrCreate;
use rowlock_explore::{Actor, Ended, Explorer};
use rowlock_tests::postgres;
use std::time::Duration;

use crate::{Known, Result, compare, nobody_fails, pool};

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "keywords")]
struct Keyword {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(unique)]
    slug: String,
    name: String,
}

fn builds(url: &str) -> Explorer<Result<()>> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema(
            "CREATE TABLE IF NOT EXISTS keywords (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug text UNIQUE, name text NOT NULL);
             CREATE TABLE IF NOT EXISTS keyword_rels (release text, keyword bigint REFERENCES keywords, PRIMARY KEY (release, keyword))",
        )
        .setup("DELETE FROM keyword_rels; DELETE FROM keywords")
        .invariant(|ended: Ended<Result<()>>| async move {
            nobody_fails(&ended)?;
            let filed = ended.value("SELECT count(*) FROM keyword_rels").await?;
            (filed == "2").then_some(()).ok_or(filed)
        })
}

async fn file(pool: &sqlx::PgPool, release: &str, keyword: i64) -> Result<()> {
    sqlx::query("INSERT INTO keyword_rels VALUES ($1, $2)")
        .bind(release)
        .bind(keyword)
        .execute(pool)
        .await?;
    Ok(())
}

async fn build_by_hand(actor: Actor) -> Result<()> {
    let pool = pool(&actor).await?;
    let found: Option<i64> = sqlx::query_scalar("SELECT id FROM keywords WHERE slug = $1")
        .bind("async")
        .fetch_optional(&pool)
        .await?;
    let id = match found {
        Some(id) => id,
        None => {
            sqlx::query_scalar("INSERT INTO keywords (slug, name) VALUES ($1, $2) RETURNING id")
                .bind("async")
                .bind("Async")
                .fetch_one(&pool)
                .await?
        }
    };
    file(&pool, actor.name(), id).await?;
    pool.close().await;
    Ok(())
}

async fn build(actor: Actor) -> Result<()> {
    let pool = pool(&actor).await?;
    let new = NewKeyword {
        slug: "async".to_owned(),
        name: "Async".to_owned(),
    };
    let keyword = Keyword::find_or_create(&pool, new).await?;
    file(&pool, actor.name(), keyword.id).await?;
    pool.close().await;
    Ok(())
}

#[tokio::test]
async fn a_keyword_is_inserted_once() {
    let url = postgres::fresh_url().await;
    let known = Known {
        name: "keyword, inserted twice",
        anomaly: "none in the dependency graph",
        bad: Some((8, 14)),
    };
    let by_hand = || {
        builds(&url)
            .actor("tokio", build_by_hand)
            .actor("axum", build_by_hand)
    };
    let rowlock = || builds(&url).actor("tokio", build).actor("axum", build);
    compare(known, by_hand, rowlock).await;
}
