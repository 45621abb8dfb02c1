//! `find_or_create` on lanes.

use rowlock::row::FindOrCreateError;
use rowlock::{FindOrCreate, Lanes};
use rowlock_explore::{Ended, Explorer};
use sqlx::{PgPool, Postgres};

use super::{Calling, Calls, UNANSWERED, calls, not_without_reason, on_lanes};
use crate::{Known, passed, wrong};

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(slug))]
struct Tag {
    #[rowlock(key, generated)]
    id: i32,
    slug: String,
}

const TAGS: &str = "CREATE TABLE tags (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug text NOT NULL UNIQUE)";

/// What a call got: the slug, the row's id, and whether it made it.
type Got = (&'static str, i32, bool);

/// Who returns a row returns the one that is there, and one of all has made it.
async fn tags() -> Explorer<Calls<Got>> {
    let explorer = on_lanes(TAGS, "DELETE FROM tags").await;
    explorer.invariant(|ended: Ended<Calls<Got>>| async move {
        let calls = calls(&ended)?;
        let is_known = !calls.iter().any(|known| matches!(known, Known::Unknown));
        for slug in ["x", "y"] {
            let ids = format!("SELECT id FROM tags WHERE slug = '{slug}'");
            let ids = ended.rows(&ids).await?;
            let there: Vec<_> = ids.iter().filter_map(|row| row[0].as_deref()).collect();
            let got = calls.iter().filter_map(|known| known.done());
            let got: Vec<_> = got.filter(|got| got.0 == slug).collect();
            let made = got.iter().filter(|got| got.2).count();
            let is_right = match &there[..] {
                [] => got.is_empty() && !ended.faults.is_empty(),
                [id] => {
                    let same = got.iter().all(|got| got.1.to_string() == *id);
                    same && (made == 1 || made == 0 && !is_known)
                }
                _ => false,
            };
            if !is_right {
                return Err(format!("{slug}: {there:?} is there, {got:?}"));
            }
        }
        not_without_reason(&ended)
    })
}

const SLUGS: [&str; 3] = ["x", "x", "y"];

async fn find_or_create(lanes: Lanes<Postgres>, call: usize) -> Result<Got, FindOrCreateError> {
    let slug = SLUGS[call];
    let new = NewTag {
        slug: slug.to_owned(),
    };
    let tag = Tag::find_or_create(&lanes, new).await?;
    Ok((slug, tag.id, tag.is_created()))
}

async fn find_or_create_alone(pool: PgPool) -> Result<Got, FindOrCreateError> {
    let new = NewTag {
        slug: "x".to_owned(),
    };
    let tag = Tag::find_or_create(&pool, new).await?;
    Ok(("x", tag.id, tag.is_created()))
}

#[tokio::test]
async fn two_lanes_find_or_create() {
    let both = || async {
        let explorer = tags()
            .await
            .three("ann", find_or_create)
            .three("bob", find_or_create);
        explorer.one("cal", find_or_create_alone)
    };
    let verdict = both().await.preemptions(1).explore();
    passed(
        "Lanes: find_or_create, three times on each of two, against find_or_create",
        verdict.await.unwrap(),
    );
    let verdict = both().await.faults(UNANSWERED).preemptions(0).explore();
    passed(
        "Lanes: find_or_create, three times on each of two, against find_or_create",
        verdict.await.unwrap(),
    );
}

/// What is not found is inserted, and then it is there.
async fn look_and_insert(pool: PgPool) -> Calls<Got> {
    let found = "SELECT slug FROM tags WHERE slug = ANY($1)";
    let found = sqlx::query_scalar::<_, String>(found).bind(SLUGS.to_vec());
    let found = found.fetch_all(&pool).await.unwrap();
    let insert = "INSERT INTO tags (slug) SELECT DISTINCT slug FROM unnest($1::text[]) AS slug ON CONFLICT DO NOTHING";
    let insert = sqlx::query(insert).bind(SLUGS.to_vec());
    insert.execute(&pool).await.unwrap();
    let ids = "SELECT slug, id FROM tags WHERE slug = ANY($1)";
    let ids = sqlx::query_as::<_, (String, i32)>(ids).bind(SLUGS.to_vec());
    let ids = ids.fetch_all(&pool).await.unwrap();
    let got = |(call, slug): (usize, &'static str)| {
        let id = ids.iter().find(|(there, _)| there == slug).unwrap().1;
        let is_first = SLUGS.iter().position(|other| *other == slug) == Some(call);
        Known::Done((slug, id, is_first && !found.contains(&slug.to_owned())))
    };
    SLUGS.into_iter().enumerate().map(got).collect()
}

#[tokio::test]
async fn by_hand_many_are_looked_for_before() {
    let verdict = tags()
        .await
        .by_hand("ann", look_and_insert)
        .by_hand("bob", look_and_insert)
        .one("cal", find_or_create_alone)
        .preemptions(1)
        .count_failures()
        .explore();
    wrong(
        "Lanes: many looked for by a SELECT, then inserted",
        verdict.await.unwrap(),
    );
}
