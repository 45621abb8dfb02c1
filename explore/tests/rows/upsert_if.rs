//! `upsert_if`: what came late does not overwrite what is newer.

use rowlock::row::{UpsertError, Upserted};
use rowlock::{FindOrCreate, Guarded};
use rowlock_explore::{Ended, Explorer};
use sqlx::PgPool;

use super::{FAULTS, Known, Works, all_but_broken, explore, passed, wrong};

/// What a webhook brings, in any order.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow, FindOrCreate, Guarded)]
#[rowlock(table = "releases", unique(name))]
struct Release {
    #[rowlock(key, generated)]
    id: i32,
    name: String,
    seen_at: i32,
}

const RELEASES: &str = "CREATE TABLE releases (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, seen_at int NOT NULL)";

/// When it was seen, and whether it was written.
type Told = (i32, bool);

/// What is there is as new as what anybody was told of, and who was told that it was refused has seen one that is newer.
async fn newest(rows: &'static str) -> Explorer<Known<Told>> {
    explore(RELEASES, rows)
        .await
        .invariant(|ended: Ended<Known<Told>>| async move {
            let seen_at = ended.value("SELECT seen_at FROM releases").await?;
            let there: i32 = seen_at.parse().unwrap();
            for (seen_at, written) in ended.returned().filter_map(Known::done) {
                if *seen_at > there || *seen_at == there && !written {
                    return Err(format!("{there}, after {seen_at} ({written})"));
                }
            }
            all_but_broken(&ended)
        })
}

const NONE: &str = "DELETE FROM releases";
const OLD: &str = "DELETE FROM releases; INSERT INTO releases (name, seen_at) VALUES ('a', 0)";

async fn upsert(pool: PgPool, seen_at: i32) -> Result<Told, UpsertError> {
    let new = NewRelease {
        name: "a".to_owned(),
        seen_at,
    };
    match Release::upsert_if(&pool, new, Release::SEEN_AT.lt(seen_at)).await? {
        Upserted::Refused(newer) => {
            assert!(newer.seen_at >= seen_at);
            Ok((seen_at, false))
        }
        _ => Ok((seen_at, true)),
    }
}

#[tokio::test]
async fn two_upsert_if() {
    for (rows, faults) in [(NONE, &FAULTS[..]), (OLD, &FAULTS[..0])] {
        let verdict = newest(rows)
            .await
            .works("ann", |pool| upsert(pool, 1))
            .works("bob", |pool| upsert(pool, 2))
            .faults(faults.iter().copied())
            .explore();
        passed("FindOrCreate: upsert_if, upsert_if", verdict.await.unwrap());
    }
}

#[tokio::test]
async fn three_upsert_if() {
    let verdict = newest(NONE)
        .await
        .works("ann", |pool| upsert(pool, 2))
        .works("bob", |pool| upsert(pool, 1))
        .works("cal", |pool| upsert(pool, 3))
        .never("SELECT FROM releases WHERE seen_at <> 3")
        .explore();
    passed(
        "FindOrCreate: upsert_if, three times",
        verdict.await.unwrap(),
    );
}

/// Looks whether it is newer, then writes.
async fn look_then_upsert(pool: PgPool, seen_at: i32) -> sqlx::Result<Told> {
    let newest: Option<i32> = sqlx::query_scalar("SELECT seen_at FROM releases WHERE name = $1")
        .bind("a")
        .fetch_optional(&pool)
        .await?;
    if newest >= Some(seen_at) {
        return Ok((seen_at, false));
    }
    sqlx::query(
        "INSERT INTO releases (name, seen_at) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at",
    )
    .bind("a")
    .bind(seen_at)
    .execute(&pool)
    .await?;
    Ok((seen_at, true))
}

#[tokio::test]
async fn by_hand_the_older_one_overwrites() {
    let verdict = newest(OLD)
        .await
        .by_hand("ann", |pool| look_then_upsert(pool, 1))
        .by_hand("bob", |pool| look_then_upsert(pool, 2))
        .exhaustive()
        .count_failures()
        .explore();
    wrong(
        "FindOrCreate: SELECT, then an upsert",
        verdict.await.unwrap(),
    );
}
