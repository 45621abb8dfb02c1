//! `update` on lanes.

use std::pin::Pin;

use rowlock::row::UpdateError;
use rowlock::{Lanes, Versioned};
use rowlock_explore::{Ended, Explorer};
use sqlx::{PgPool, Postgres};

use super::{
    COUNT, Calling, Calls, UNANSWERED, all_but_cancelled, as_known, calls, counted, on_lanes,
};
use crate::{Known, letters, passed, wrong};

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "pages")]
struct Page {
    #[rowlock(key)]
    id: i32,
    title: String,
    #[rowlock(version)]
    version: i32,
}

const PAGES: &str =
    "CREATE TABLE pages (id int PRIMARY KEY, title text NOT NULL, version int NOT NULL)";

/// The first two calls of a lane write page 1 as it was at first, the third one page 2; the last actor page 1 as he finds it.
async fn pages() -> Explorer<Calls<i32>> {
    let rows = "DELETE FROM pages; INSERT INTO pages VALUES (1, '', 0), (2, '', 0)";
    let explorer = on_lanes(PAGES, rows).await;
    explorer
        .never("SELECT version, title FROM pages WHERE version <> length(title)")
        .invariant(|ended: Ended<Calls<i32>>| async move {
            let titles = ended.rows("SELECT title FROM pages ORDER BY id").await?;
            let titles: Vec<_> = titles
                .iter()
                .map(|row| row[0].clone().unwrap_or_default())
                .collect();
            let calls = calls(&ended)?;
            as_known(&calls, &letters(&titles.concat(), LETTERS))?;
            for (known, letter) in calls.iter().zip(LETTERS) {
                let is_at = |version: i32| {
                    let at = usize::try_from(version - 1).unwrap();
                    titles
                        .iter()
                        .any(|title| title.chars().nth(at) == Some(letter))
                };
                match known {
                    Known::Done(version) if !is_at(*version) => {
                        return Err(format!("{letter} is told {version}: {titles:?}"));
                    }
                    Known::Not {
                        conflict: false, ..
                    } if ended.faults.is_empty() => {
                        return Err(format!("{letter}: {known:?}"));
                    }
                    _ => {}
                }
            }
            // Who is not done, or does not know, was too late.
            match titles.iter().any(String::is_empty) && ended.faults.is_empty() {
                true => Err(format!("{titles:?}")),
                false => Ok(()),
            }
        })
}

const LETTERS: [char; 7] = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];

type Updating = Pin<Box<dyn Future<Output = Result<i32, UpdateError<Page>>> + Send>>;

fn update(first: usize) -> impl Fn(Lanes<Postgres>, usize) -> Updating + Clone + Send + Sync {
    move |lanes, call| {
        let page = Page {
            id: [1, 1, 2][call],
            title: LETTERS[first + call].into(),
            version: 0,
        };
        Box::pin(async move { page.update(&lanes).await.map(|page| page.version) })
    }
}

async fn append(pool: PgPool) -> Result<i32, rowlock::Error> {
    let mut page = Page::load(&pool, 1).await?;
    page.title.push('g');
    Ok(page.update(&pool).await?.version)
}

#[tokio::test]
async fn two_lanes_update() {
    let both = || async {
        let explorer = pages()
            .await
            .three("ann", update(0))
            .three("bob", update(3));
        explorer.one("cal", append)
    };
    let verdict = both().await.preemptions(1).explore();
    passed(
        "Lanes: update, three times on each of two, against load and update",
        verdict.await.unwrap(),
    );
    let verdict = both().await.faults(UNANSWERED).preemptions(0).explore();
    passed(
        "Lanes: update, three times on each of two, against load and update",
        verdict.await.unwrap(),
    );
}

/// Nobody is told of a conflict who had none: the statement is done without the others.
#[tokio::test]
async fn a_statement_that_updates_is_cancelled() {
    for cancelled in 1..=3 {
        let verdict = on_lanes(
            PAGES,
            "DELETE FROM pages; INSERT INTO pages VALUES (1, '', 0), (2, '', 0), (3, '', 0)",
        )
        .await
        .schema(counted("pages", cancelled))
        .setup(COUNT)
        .three("ann", |lanes, call| async move {
            let (id, title) = ([1, 2, 3][call], LETTERS[call].into());
            let page = Page {
                id,
                title,
                version: 0,
            };
            page.update(&lanes).await.map(|page| page.version)
        })
        .never("SELECT version, title FROM pages WHERE version <> length(title)")
        .invariant(|ended: Ended<Calls<i32>>| async move {
            let titles = ended
                .value("SELECT string_agg(title, '') FROM pages")
                .await?;
            as_known(&calls(&ended)?, &letters(&titles, ['a', 'b', 'c']))?;
            all_but_cancelled(&ended)
        })
        .explore();
        passed(
            "Lanes: update, three times, one cancelled",
            verdict.await.unwrap(),
        );
    }
}

/// The versions are looked at before, and then all are written.
async fn versions_before(pool: PgPool, letters: [char; 3]) -> Calls<i32> {
    let versions = "SELECT version FROM pages ORDER BY id";
    let versions: Vec<i32> = sqlx::query_scalar(versions).fetch_all(&pool).await.unwrap();
    let (ids, titles): (Vec<i32>, Vec<String>) = [(1, letters[0]), (2, letters[2])]
        .into_iter()
        .filter(|(id, _)| versions[*id as usize - 1] == 0)
        .map(|(id, letter)| (id, letter.to_string()))
        .unzip();
    let update = "UPDATE pages SET title = given.title, version = version + 1
        FROM unnest($1::int[], $2::text[]) AS given (id, title) WHERE pages.id = given.id";
    let update = sqlx::query(update).bind(&ids).bind(titles);
    update.execute(&pool).await.unwrap();
    let told = |id: i32| match ids.contains(&id) {
        true => Known::Done(1),
        false => stale(),
    };
    vec![told(1), stale(), told(2)]
}

fn stale() -> Known<i32> {
    Known::Not {
        conflict: true,
        why: "stale".to_owned(),
    }
}

#[tokio::test]
async fn by_hand_the_versions_of_many_are_checked_before() {
    let verdict = pages()
        .await
        .by_hand("ann", |pool| versions_before(pool, ['a', 'b', 'c']))
        .by_hand("bob", |pool| versions_before(pool, ['d', 'e', 'f']))
        .one("cal", append)
        .count_failures()
        .explore();
    wrong(
        "Lanes: the versions of many checked by a SELECT",
        verdict.await.unwrap(),
    );
}
