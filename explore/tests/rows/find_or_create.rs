//! `FindOrCreate`: one row for a key, whoever asks for it at the same time.

use rowlock::FindOrCreate;
use rowlock::row::{CreateError, FindOrCreateError, UpsertError};
use rowlock_explore::{Ended, Explorer};
use sqlx::PgPool;

use super::{FAULTS, Known, Works, all_but_broken, explore, passed, wrong};

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(slug))]
struct Tag {
    #[rowlock(key, generated)]
    id: i32,
    slug: String,
    title: String,
}

/// One that is not closed for each user.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "carts", unique(user_id, where = "closed_at IS NULL"))]
struct Cart {
    #[rowlock(key, generated)]
    id: i32,
    user_id: i32,
    closed_at: Option<i32>,
}

const TABLES: &str = "CREATE TABLE tags (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug text NOT NULL UNIQUE, title text NOT NULL);
    CREATE TABLE carts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id int NOT NULL, closed_at int);
    CREATE UNIQUE INDEX one_open ON carts (user_id) WHERE closed_at IS NULL";
const NONE: &str = "DELETE FROM tags; DELETE FROM carts";

/// What an actor got: the row's id, and whether it made it.
type Got = (i32, bool);

/// Who returns a row returns the one that is there, and one actor has made it.
async fn one_row(ids: &'static str) -> Explorer<Known<Got>> {
    explore(TABLES, NONE)
        .await
        .invariant(move |ended: Ended<Known<Got>>| async move {
            let there = ended.rows(ids).await?;
            let [row] = &there[..] else {
                return Err(format!("{} rows", there.len()));
            };
            let id = row[0].as_deref().unwrap_or_default();
            let done: Vec<&Got> = ended.returned().filter_map(Known::done).collect();
            if let Some(other) = done.iter().find(|got| got.0.to_string() != id) {
                return Err(format!("{other:?} is not {id}"));
            }
            let made = done.iter().filter(|got| got.1).count();
            let known = !ended
                .returned()
                .any(|known| matches!(known, Known::Unknown));
            match made == 1 || made == 0 && !known {
                true => all_but_broken(&ended),
                false => Err(format!("{made} have made it")),
            }
        })
}

const TAGS: &str = "SELECT id FROM tags";

fn tag(title: &str) -> NewTag {
    NewTag {
        slug: "rust".to_owned(),
        title: title.to_owned(),
    }
}

async fn find_or_create(pool: PgPool) -> Result<Got, FindOrCreateError> {
    let tag = Tag::find_or_create(&pool, tag("Rust")).await?;
    Ok((tag.id, tag.is_created()))
}

#[tokio::test]
async fn two_find_or_create() {
    for faults in [&FAULTS[..0], &FAULTS] {
        let verdict = one_row(TAGS)
            .await
            .works("ann", find_or_create)
            .works("bob", find_or_create)
            .faults(faults.iter().copied())
            .explore();
        passed(
            "FindOrCreate: find_or_create, twice",
            verdict.await.unwrap(),
        );
    }
}

#[tokio::test]
async fn three_find_or_create() {
    let verdict = one_row(TAGS)
        .await
        .works("ann", find_or_create)
        .works("bob", find_or_create)
        .works("cal", find_or_create)
        .explore();
    passed(
        "FindOrCreate: find_or_create, three times",
        verdict.await.unwrap(),
    );
}

/// In transactions, where the one who comes second waits, and the first one may roll back.
#[tokio::test]
async fn find_or_create_beside_a_roll_back() {
    let in_transaction = |commits: bool| {
        move |pool: PgPool| async move {
            let mut tx = pool.begin().await?;
            let tag = Tag::find_or_create(&mut *tx, tag("Rust")).await?;
            match commits {
                true => tx.commit().await?,
                false => tx.rollback().await?,
            }
            Ok::<_, rowlock::Error>((tag.id, tag.is_created()))
        }
    };
    let verdict = explore(TABLES, NONE)
        .await
        .works("ann", in_transaction(true))
        .works("bob", in_transaction(false))
        .invariant(|ended: Ended<Known<Got>>| async move {
            let id = ended.value(TAGS).await?;
            let kept = ended.returned().next().and_then(Known::done);
            match kept.is_some_and(|got| got.0.to_string() == id) {
                true => all_but_broken(&ended),
                false => Err(format!("{kept:?} is not {id}")),
            }
        })
        .explore();
    passed(
        "FindOrCreate: find_or_create in transactions, one rolls back",
        verdict.await.unwrap(),
    );
}

async fn upsert(pool: PgPool, title: &'static str) -> Result<Got, UpsertError> {
    let tag = Tag::update_or_create(&pool, tag(title)).await?;
    assert_eq!(tag.title, title);
    Ok((tag.id, tag.is_created()))
}

#[tokio::test]
async fn two_update_or_create() {
    let verdict = one_row(TAGS)
        .await
        .works("ann", |pool| upsert(pool, "Rust"))
        .works("bob", |pool| upsert(pool, "The Rust language"))
        .faults(FAULTS)
        .explore();
    passed(
        "FindOrCreate: update_or_create, twice",
        verdict.await.unwrap(),
    );
}

async fn create(pool: PgPool) -> Result<Option<Tag>, CreateError> {
    Tag::create(&pool, tag("Rust")).await
}

/// One creates it, and the others know that they did not.
async fn created_once() -> Explorer<Known<Option<Tag>>> {
    explore(TABLES, NONE)
        .await
        .never("SELECT FROM tags HAVING count(*) <> 1")
        .invariant(|ended: Ended<Known<Option<Tag>>>| async move {
            let made = ended.returned().filter_map(Known::done).flatten().count();
            let known = !ended
                .returned()
                .any(|known| matches!(known, Known::Unknown));
            match made == 1 || made == 0 && !known {
                true => all_but_broken(&ended),
                false => Err(format!("{made} have made it")),
            }
        })
}

#[tokio::test]
async fn two_create() {
    for faults in [&FAULTS[..0], &FAULTS] {
        let verdict = created_once()
            .await
            .works("ann", create)
            .works("bob", create)
            .faults(faults.iter().copied())
            .explore();
        passed("FindOrCreate: create, create", verdict.await.unwrap());
    }
}

#[tokio::test]
async fn two_create_unless_conflict() {
    let create =
        |pool: PgPool| async move { Tag::create_unless_conflict(&pool, tag("Rust")).await };
    let verdict = created_once()
        .await
        .works("ann", create)
        .works("bob", create)
        .explore();
    passed(
        "FindOrCreate: create_unless_conflict, twice",
        verdict.await.unwrap(),
    );
}

#[tokio::test]
async fn three_create() {
    let verdict = created_once()
        .await
        .works("ann", create)
        .works("bob", create)
        .works("cal", create)
        .explore();
    passed(
        "FindOrCreate: create, create, create",
        verdict.await.unwrap(),
    );
}

const OPEN_CARTS: &str = "SELECT id FROM carts WHERE closed_at IS NULL";

async fn open_cart(pool: PgPool) -> Result<Got, FindOrCreateError> {
    let (user_id, closed_at) = (7, None);
    let cart = Cart::find_or_create(&pool, NewCart { user_id, closed_at }).await?;
    Ok((cart.id, cart.is_created()))
}

#[tokio::test]
async fn two_find_or_create_with_a_partial_key() {
    let verdict = one_row(OPEN_CARTS)
        .await
        .setup("INSERT INTO carts (user_id, closed_at) VALUES (7, 1)")
        .works("ann", open_cart)
        .works("bob", open_cart)
        .explore();
    passed(
        "FindOrCreate: find_or_create with a partial key, twice",
        verdict.await.unwrap(),
    );
}

/// While the row leaves the index: a cart is found, or made, and never two of them are open.
#[tokio::test]
async fn find_or_create_while_the_row_leaves_the_partial_index() {
    let close = |pool: PgPool| async move {
        let closed = sqlx::query_scalar(
            "UPDATE carts SET closed_at = 1 WHERE user_id = $1 AND closed_at IS NULL RETURNING id",
        );
        Ok::<Got, sqlx::Error>((closed.bind(7).fetch_one(&pool).await?, false))
    };
    let verdict = explore(TABLES, NONE)
        .await
        .setup("INSERT INTO carts (user_id) VALUES (7)")
        .works("ann", open_cart)
        .works("bob", close)
        .never("SELECT FROM carts WHERE closed_at IS NULL HAVING count(*) > 1")
        .invariant(|ended: Ended<Known<Got>>| async move { all_but_broken(&ended) })
        .explore();
    passed(
        "FindOrCreate: find_or_create with a partial key, close",
        verdict.await.unwrap(),
    );
}

/// Looks, and inserts what it has not seen.
async fn look_then_insert(pool: PgPool) -> Result<Got, sqlx::Error> {
    let found = sqlx::query_scalar("SELECT id FROM tags WHERE slug = $1").bind("rust");
    if let Some(id) = found.fetch_optional(&pool).await? {
        return Ok((id, false));
    }
    let id = sqlx::query_scalar("INSERT INTO tags (slug, title) VALUES ($1, $2) RETURNING id")
        .bind("rust")
        .bind("Rust")
        .fetch_one(&pool)
        .await?;
    Ok((id, true))
}

#[tokio::test]
async fn by_hand_the_second_insert_fails() {
    let verdict = one_row(TAGS)
        .await
        .by_hand("ann", look_then_insert)
        .by_hand("bob", look_then_insert)
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong("FindOrCreate: SELECT, INSERT", verdict.await.unwrap());
    assert!(failure.to_string().contains("23505"), "{failure}");
}

/// The same where no unique index says anything.
async fn look_then_open(pool: PgPool) -> Result<Got, sqlx::Error> {
    let found = sqlx::query_scalar("SELECT id FROM carts WHERE user_id = $1 AND closed_at IS NULL");
    if let Some(id) = found.bind(7).fetch_optional(&pool).await? {
        return Ok((id, false));
    }
    let id = sqlx::query_scalar("INSERT INTO carts (user_id) VALUES ($1) RETURNING id");
    Ok((id.bind(7).fetch_one(&pool).await?, true))
}

#[tokio::test]
async fn by_hand_two_carts_are_open() {
    let verdict = explore(TABLES, NONE)
        .await
        .schema("DROP INDEX one_open")
        .never("SELECT FROM carts WHERE closed_at IS NULL HAVING count(*) > 1")
        .by_hand("ann", look_then_open)
        .by_hand("bob", look_then_open)
        .exhaustive()
        .count_failures()
        .explore();
    wrong(
        "FindOrCreate: SELECT, INSERT without an index",
        verdict.await.unwrap(),
    );
}

/// All in one statement: an insert that was refused has the row of a concurrent transaction in its way, and the SELECT beside it
/// does not see that row.
async fn in_one_statement(pool: PgPool) -> Result<Got, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let id = sqlx::query_scalar(
        "WITH new AS (INSERT INTO tags (slug, title) VALUES ($1, $2) ON CONFLICT (slug) DO NOTHING RETURNING id)
         SELECT id FROM new UNION ALL SELECT id FROM tags WHERE slug = $1",
    )
    .bind("rust")
    .bind("Rust")
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok((id, false))
}

#[tokio::test]
async fn by_hand_one_statement_returns_no_row() {
    let verdict = explore(TABLES, NONE)
        .await
        .invariant(|ended: Ended<Known<Got>>| async move { all_but_broken(&ended) })
        .by_hand("ann", in_one_statement)
        .by_hand("bob", in_one_statement)
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong("FindOrCreate: one statement", verdict.await.unwrap());
    assert_eq!(
        (failure.coverage.failing, failure.coverage.schedules),
        (6, 14)
    );
}
