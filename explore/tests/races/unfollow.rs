//! A follower clicks twice on "unfollow": whether there is anything to undo is asked outside of the transaction.

use rowlock::{Counter, Guarded, transaction};
use rowlock_explore::{Actor, Explorer};
use rowlock_tests::postgres;
use std::time::Duration;

use crate::{Known, Result, compare, pool};

#[derive(sqlx::FromRow, Guarded)]
#[rowlock(table = "follows")]
struct Follow {
    #[rowlock(key)]
    follower: i64,
    #[rowlock(key)]
    project: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "projects")]
struct Project {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    followers: i32,
}

fn clicks(url: &str) -> Explorer<Result> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema(
            "CREATE TABLE IF NOT EXISTS projects (id bigint PRIMARY KEY, followers int NOT NULL);
             CREATE TABLE IF NOT EXISTS follows (follower bigint, project bigint REFERENCES projects, PRIMARY KEY (follower, project))",
        )
        .setup("DELETE FROM follows; DELETE FROM projects; INSERT INTO projects VALUES (7, 2); INSERT INTO follows VALUES (1, 7), (2, 7)")
        .never("SELECT followers FROM projects WHERE followers <> (SELECT count(*) FROM follows WHERE project = id)")
}

async fn unfollow_by_hand(actor: Actor) -> Result {
    let pool = pool(&actor).await?;
    let select = "SELECT EXISTS (SELECT FROM follows WHERE follower = $1 AND project = $2)";
    let follows: bool = sqlx::query_scalar(select)
        .bind(1_i64)
        .bind(7_i64)
        .fetch_one(&pool)
        .await?;
    if follows {
        let mut tx = pool.begin().await?;
        sqlx::query("UPDATE projects SET followers = followers - 1 WHERE id = $1")
            .bind(7_i64)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM follows WHERE follower = $1 AND project = $2")
            .bind(1_i64)
            .bind(7_i64)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
    }
    pool.close().await;
    Ok(follows)
}

async fn unfollow(actor: Actor) -> Result {
    let pool = pool(&actor).await?;
    let follows = transaction(&pool)
        .run(async |tx| -> Result<bool, rowlock::Error> {
            let follow = Follow::delete_by_key(&mut *tx, (1, 7)).await?;
            if follow.is_some() {
                Project::add_followers(&mut *tx, 7, -1).await?;
            }
            Ok(follow.is_some())
        })
        .await?;
    pool.close().await;
    Ok(follows)
}

#[tokio::test]
async fn a_follower_is_taken_off_once() {
    let url = postgres::fresh_url().await;
    let known = Known {
        name: "unfollow, twice",
        anomaly: "none in the dependency graph",
        bad: Some((90, 92)),
    };
    let by_hand = || {
        clicks(&url)
            .actor("click", unfollow_by_hand)
            .actor("click again", unfollow_by_hand)
    };
    let rowlock = || {
        clicks(&url)
            .actor("click", unfollow)
            .actor("click again", unfollow)
    };
    compare(known, by_hand, rowlock).await;
}
