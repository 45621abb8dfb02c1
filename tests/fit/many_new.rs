//! `find_or_create_many`, `create_many` and `upsert_many` of `#[derive(FindOrCreate)]`.

use std::fmt::Debug;
use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rowlock::row::{CreateError, FindOrCreateError, FoundOrCreated, UpsertError};
use rowlock::{Fault, Fence, FindOrCreate, Versioned};
use sqlx::{AssertSqlSafe, Executor};

use super::{Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(tenant, slug))]
struct Tag {
    #[rowlock(key, generated)]
    id: i64,
    tenant: i64,
    slug: String,
    title: Option<String>,
    #[sqlx(json)]
    words: Vec<String>,
    #[rowlock(default)]
    color: String,
    #[rowlock(counter)]
    uses: i32,
    #[rowlock(on_insert = "7 + 1")]
    made: i64,
}

const TAGS: &str = "CREATE TABLE tags (
        id {id},
        tenant bigint NOT NULL,
        slug text NOT NULL,
        title text CHECK (title <> 'refused'),
        words {json} NOT NULL,
        color text NOT NULL DEFAULT 'grey',
        uses integer NOT NULL,
        made bigint NOT NULL,
        UNIQUE (slug, tenant)
    );
    CREATE UNIQUE INDEX one_title ON tags (title) WHERE title <> 'any'";

fn tag(slug: &str, title: &str) -> NewTag {
    NewTag {
        tenant: 1,
        slug: slug.to_owned(),
        title: (!title.is_empty()).then(|| title.to_owned()),
        words: vec![slug.to_owned(), title.to_owned()],
    }
}

async fn count(pool: &Pool, table: &str) -> i64 {
    let sql = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn each_row_is_found_or_created() {
    let database = database(TAGS).await;
    let pool = &database.pool;
    let there = Tag::find_or_create(pool, tag("b", "there")).await.unwrap();
    let new = ["c", "b", "a", "c"].map(|slug| tag(slug, ""));
    let outcomes = Tag::find_or_create_many(pool, new).await;
    let [
        Ok(FoundOrCreated::Created(c)),
        Ok(FoundOrCreated::Found(b)),
        Ok(FoundOrCreated::Created(a)),
        Ok(FoundOrCreated::Found(again)),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(b, &there.into_inner());
    assert_eq!((c, c.slug.as_str()), (again, "c"));
    assert_eq!((a.slug.as_str(), a.color.as_str()), ("a", "grey"));
    assert_eq!((a.title.as_deref(), a.uses, a.made), (None, 0, 8));
    assert_eq!(a.words, ["a", ""]);
    let read = Tag::find_by_tenant_and_slug(pool, 1, "a").await.unwrap();
    assert_eq!(read.as_ref(), Some(a));
    assert_eq!(count(pool, "tags").await, 3);
    assert!(Tag::find_or_create_many(pool, []).await.is_empty());
}

#[tokio::test]
async fn each_row_is_created_unless_its_key_is_taken() {
    let database = database(TAGS).await;
    let pool = &database.pool;
    Tag::create(pool, tag("b", "there")).await.unwrap();
    let new = ["c", "b", "a", "c"].map(|slug| tag(slug, ""));
    let outcomes = Tag::create_many(pool, new).await;
    let [Ok(Some(c)), Ok(None), Ok(Some(a)), Ok(None)] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    assert_eq!((a.slug.as_str(), c.slug.as_str()), ("a", "c"));
    assert_eq!(count(pool, "tags").await, 3);
}

/// The last one counts, as in a loop, and each call is told its own.
#[tokio::test]
async fn each_row_is_created_or_overwritten() {
    let database = database(TAGS).await;
    let pool = &database.pool;
    let there = Tag::upsert(pool, tag("b", "there")).await.unwrap();
    let new = [("c", "1"), ("b", "2"), ("a", ""), ("c", "3"), ("c", "4")];
    let outcomes = Tag::upsert_many(pool, new.map(|(slug, title)| tag(slug, title))).await;
    let rows: Vec<Tag> = outcomes.into_iter().collect::<Result<_, _>>().unwrap();
    for (row, (slug, title)) in rows.iter().zip(new) {
        assert_eq!(
            (row.slug.as_str(), row.title.as_deref().unwrap_or("")),
            (slug, title)
        );
        assert_eq!(row.words, [slug, title]);
    }
    assert_eq!(rows[1].id, there.id);
    assert_eq!((rows[0].id, rows[0].id), (rows[3].id, rows[4].id));
    let last = Tag::find_by_tenant_and_slug(pool, 1, "c").await.unwrap();
    assert_eq!(last.unwrap().title.as_deref(), Some("4"));
    assert_eq!(count(pool, "tags").await, 3);
}

#[tokio::test]
async fn a_row_that_is_refused_hurts_no_other() {
    let database = database(TAGS).await;
    let pool = &database.pool;
    Tag::create(pool, tag("z", "taken")).await.unwrap();
    let new = || {
        [
            ("a", "1"),
            ("b", "refused"),
            ("c", "3"),
            ("d", "taken"),
            ("e", "5"),
        ]
        .map(|(slug, title)| tag(slug, title))
    };
    let told = |error: Option<Fault>| match error {
        None => "written",
        Some(Fault::CheckViolation) => "check",
        Some(Fault::UniqueViolation) => "unique",
        Some(fault) => panic!("{fault:?}"),
    };
    let expected = ["written", "check", "written", "unique", "written"];
    let outcomes = Tag::find_or_create_many(pool, new()).await.into_iter();
    let outcomes: Vec<&str> = outcomes
        .map(|outcome| match outcome {
            Ok(row) => {
                assert!(row.is_created());
                told(None)
            }
            Err(FindOrCreateError::Database(error)) => told(Some(error.fault())),
            Err(error) => panic!("{error:?}"),
        })
        .collect();
    assert_eq!(outcomes, expected);
    let outcomes = Tag::upsert_many(pool, new()).await.into_iter();
    let outcomes: Vec<&str> = outcomes
        .map(|outcome| match outcome {
            Ok(_) => told(None),
            Err(UpsertError::Database(error)) => told(Some(error.fault())),
            Err(error) => panic!("{error:?}"),
        })
        .collect();
    assert_eq!(outcomes, expected);
    pool.execute("DELETE FROM tags WHERE slug <> 'z'")
        .await
        .unwrap();
    let outcomes = Tag::create_many(pool, new()).await.into_iter();
    let outcomes: Vec<&str> = outcomes
        .map(|outcome| match outcome {
            Ok(row) => {
                assert!(row.is_some());
                told(None)
            }
            Err(CreateError::Database(error)) => {
                assert!(
                    error
                        .to_string()
                        .starts_with("create_many of tags (tenant = 1, slug = "),
                    "{error}"
                );
                told(Some(error.fault()))
            }
            Err(error) => panic!("{error:?}"),
        })
        .collect();
    assert_eq!(outcomes, expected);
    assert_eq!(count(pool, "tags").await, 4);
}

#[tokio::test]
async fn a_transaction_stays_usable() {
    let database = database(TAGS).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    let new = ["1", "refused", "3"].map(|title| tag(title, title));
    let outcomes = Tag::upsert_many(&mut *tx, new.clone()).await;
    assert!(
        matches!(outcomes[..], [Ok(_), Err(_), Ok(_)]),
        "{outcomes:?}"
    );
    let outcomes = Tag::find_or_create_many(&mut *tx, new.clone()).await;
    assert!(
        matches!(outcomes[..], [Ok(_), Err(_), Ok(_)]),
        "{outcomes:?}"
    );
    let outcomes = Tag::create_many(&mut *tx, new).await;
    assert!(
        matches!(outcomes[..], [Ok(None), Err(_), Ok(None)]),
        "{outcomes:?}"
    );
    tx.commit().await.unwrap();
    assert_eq!(count(pool, "tags").await, 2);
    let mut tx = pool.begin().await.unwrap();
    let outcomes = Tag::create_many(&mut *tx, ["4", "5"].map(|slug| tag(slug, ""))).await;
    assert!(
        matches!(outcomes[..], [Ok(Some(_)), Ok(Some(_))]),
        "{outcomes:?}"
    );
    tx.rollback().await.unwrap();
    assert_eq!(count(pool, "tags").await, 2);
}

/// PostgreSQL has no NUL in a text.
#[tokio::test]
async fn a_key_with_a_nul_byte_leaves_the_transaction_usable() {
    let database = database(TAGS).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    let outcomes = Tag::find_or_create_many(&mut *tx, ["a\0", "b"].map(|slug| tag(slug, ""))).await;
    assert!(outcomes[1].is_ok(), "{outcomes:?}");
    let found = Tag::find_by_tenant_and_slug(&mut *tx, 1, "b")
        .await
        .unwrap();
    assert!(found.is_some());
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn the_unique_index_is_missing() {
    let database = database(
        "CREATE TABLE tags (id {id}, tenant bigint NOT NULL, slug text NOT NULL, title text, words {json} NOT NULL,
            color text NOT NULL DEFAULT 'grey', uses integer NOT NULL, made bigint NOT NULL)",
    )
    .await;
    let pool = &database.pool;
    let new = || ["a", "b", "c"].map(|slug| tag(slug, ""));
    for in_transaction in [false, true] {
        let mut connection = database.connection().await;
        if in_transaction {
            connection.execute("BEGIN").await.unwrap();
        }
        for outcome in Tag::create_many(&mut connection, new()).await {
            assert!(
                matches!(
                    outcome,
                    Err(CreateError::MissingUniqueIndex(_, "slug,tenant"))
                ) || in_transaction && outcome.is_err(),
                "{outcome:?}"
            );
        }
    }
    for outcome in Tag::find_or_create_many(pool, new()).await {
        assert!(
            matches!(outcome, Err(FindOrCreateError::MissingUniqueIndex(..))),
            "{outcome:?}"
        );
    }
    for outcome in Tag::upsert_many(pool, new()).await {
        assert!(
            matches!(outcome, Err(UpsertError::MissingUniqueIndex(..))),
            "{outcome:?}"
        );
    }
    assert_eq!(count(pool, "tags").await, 0);
}

#[tokio::test]
async fn a_pool_that_is_closed() {
    let database = database(TAGS).await;
    let pool = database.one_connection_pool().await;
    pool.close().await;
    let outcomes = Tag::upsert_many(&pool, ["a", "b"].map(|slug| tag(slug, ""))).await;
    for (slug, outcome) in ["a", "b"].into_iter().zip(outcomes) {
        let Err(UpsertError::Database(error)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.fault(), Fault::PoolClosed, "{slug}");
    }
}

#[tokio::test]
async fn each_function_can_be_spawned() {
    let database = database(TAGS).await;
    let pool = database.pool.clone();
    let spawned = tokio::spawn(async move {
        let new = || ["a", "b"].into_iter().map(|slug| tag(slug, ""));
        let created = Tag::create_many(&pool, new()).await.len();
        let found = Tag::find_or_create_many(&pool, new()).await.len();
        let upserted = Tag::upsert_many(&pool, new()).await.len();
        (created, found, upserted)
    });
    assert_eq!(spawned.await.unwrap(), (2, 2, 2));
}

/// Nothing but a key: there is nothing to overwrite.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "words", unique(lower(word)))]
struct Word {
    word: String,
}

/// A row that is closed is not in the index.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "drafts", unique(author, where = "closed = 0"))]
struct Draft {
    author: i64,
    text: String,
    closed: i64,
}

/// A version, a fence, and two unique keys.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate, Versioned)]
#[rowlock(table = "pages", unique(slug), unique(number))]
struct Page {
    #[rowlock(key, generated)]
    id: i64,
    slug: String,
    number: i64,
    text: String,
    #[rowlock(insert_only)]
    author: i64,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(version)]
    version: i64,
}

const OTHERS: &str = "CREATE TABLE words (word text NOT NULL CHECK (word <> 'refused'));
    CREATE UNIQUE INDEX one_word ON words (lower(word));
    CREATE TABLE drafts (author bigint NOT NULL, text text NOT NULL CHECK (text <> 'refused'), closed bigint NOT NULL);
    CREATE UNIQUE INDEX one_draft ON drafts (author) WHERE closed = 0;
    CREATE TABLE pages (id {id}, slug text NOT NULL UNIQUE, number bigint NOT NULL UNIQUE, text text NOT NULL CHECK (text <> 'refused'),
        author bigint NOT NULL, fence bigint NOT NULL DEFAULT 0, version bigint)";

/// Only a database makes them.
static FENCES: OnceLock<Vec<Fence>> = OnceLock::new();

/// What is given in one place of a list.
#[derive(Debug, Clone, Copy)]
struct Case {
    key: usize,
    other: usize,
    is_refused: bool,
    is_closed: bool,
    fence: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let weighted = prop::bool::weighted;
    (
        0..8_usize,
        0..12_usize,
        weighted(0.1),
        weighted(0.2),
        0..3_usize,
    )
        .prop_map(|(key, other, is_refused, is_closed, fence)| Case {
            key,
            other,
            is_refused,
            is_closed,
            fence,
        })
}

impl Case {
    fn text(self) -> String {
        match self.is_refused {
            true => "refused".to_owned(),
            false => format!("text {}", self.other % 3),
        }
    }

    fn tag(self) -> NewTag {
        let title = ["any", "", "kept"][self.other % 3];
        tag(
            ["a", "b", "c", "d", "A", "B", "ä", "é"][self.key],
            if self.is_refused { "refused" } else { title },
        )
    }

    fn word(self) -> NewWord {
        let word = ["a", "A", "b", "B", "c", "C", "dd", "dD"][self.key];
        NewWord {
            word: if self.is_refused { "refused" } else { word }.to_owned(),
        }
    }

    fn draft(self) -> NewDraft {
        NewDraft {
            author: self.key as i64 % 4,
            text: self.text(),
            closed: i64::from(self.is_closed),
        }
    }

    fn page(self) -> NewPage {
        NewPage {
            slug: ["a", "b", "c", "d", "e", "f", "g", "h"][self.key].to_owned(),
            number: match self.other {
                0..3 => 1000 + self.other as i64,
                _ => self.key as i64,
            },
            text: self.text(),
            author: self.other as i64,
            fence: FENCES.get().unwrap()[self.fence],
        }
    }
}

/// Outcomes without the names of the methods, and without the numbers of rows: a row that is refused uses one up.
fn told<T: Debug, E: Debug + std::error::Error>(outcomes: Vec<Result<T, E>>) -> Vec<String> {
    let told = outcomes.into_iter().map(|outcome| match outcome {
        Ok(row) => format!("{row:?}"),
        Err(error) => error.to_string(),
    });
    told.map(|text| {
        let text = text.replace("_many", "");
        match text.split_once(" id: ") {
            Some((before, after)) => format!(
                "{before}{}",
                after.split_once(',').map_or("", |(_, rest)| rest)
            ),
            None => text,
        }
    })
    .collect()
}

async fn stored(pool: &Pool, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

/// Calls at once, or one by one.
macro_rules! outcomes {
    ($at_once:expr, $model:ident, $many:ident, $one:ident, $db:expr, $new:expr) => {{
        let mut outcomes = Vec::new();
        if $at_once {
            outcomes = $model::$many($db, $new).await;
        } else {
            for new in $new {
                outcomes.push($model::$one($db, new).await);
            }
        }
        outcomes
    }};
}

/// Compares both.
macro_rules! compare {
    ($given:ident, $model:ident, $make:ident, $many:ident, $one:ident, $create:ident, $ddl:ident, $kept:ident, $stored:ident) => {{
        let mut both = Vec::new();
        for at_once in [true, false] {
            let database = database($ddl).await;
            let pool = &database.pool;
            pool.execute($kept).await.unwrap();
            for case in &$given.existing {
                let case = Case {
                    is_refused: false,
                    ..*case
                };
                let _ = $model::$create(pool, case.$make()).await;
            }
            let new = $given.cases.iter().map(|case| case.$make());
            let outcomes = if $given.in_transaction {
                let mut tx = pool.begin().await.unwrap();
                let outcomes = outcomes!(at_once, $model, $many, $one, &mut *tx, new);
                tx.commit().await.unwrap();
                outcomes
            } else {
                outcomes!(at_once, $model, $many, $one, pool, new)
            };
            both.push((told(outcomes), stored(pool, $stored).await));
        }
        prop_assert_eq!(&both[0], &both[1]);
    }};
}

/// What is in the way of rows with other keys. New rows are not in each other's: which one is refused depends on which is written first.
const KEPT_TAGS: &str = "INSERT INTO tags (tenant, slug, title, words, uses, made) VALUES (1, 'kept', 'kept', '[]', 0, 0)";
const KEPT_PAGES: &str = "INSERT INTO pages (slug, number, text, author, version) VALUES ('x', 1000, '', 0, 0), ('y', 1001, '', 0, 0), ('z', 1002, '', 0, 0)";
const STORED_TAGS: &str =
    "SELECT slug || ' ' || coalesce(title, '-') || ' ' || color FROM tags ORDER BY 1";
const STORED_WORDS: &str = "SELECT word FROM words ORDER BY 1";
const STORED_DRAFTS: &str = "SELECT author || ' ' || text || ' ' || closed FROM drafts ORDER BY 1";
const STORED_PAGES: &str = "SELECT slug || ' ' || number || ' ' || text || ' ' || author || ' ' || fence || ' ' || version FROM pages ORDER BY 1";

#[derive(Debug)]
struct Given {
    existing: Vec<Case>,
    cases: Vec<Case>,
    in_transaction: bool,
}

async fn as_one_by_one(method: usize, given: Given) -> Result<(), TestCaseError> {
    match method {
        0 => compare!(
            given,
            Tag,
            tag,
            find_or_create_many,
            find_or_create,
            create,
            TAGS,
            KEPT_TAGS,
            STORED_TAGS
        ),
        1 => compare!(
            given,
            Tag,
            tag,
            create_many,
            create,
            create,
            TAGS,
            KEPT_TAGS,
            STORED_TAGS
        ),
        2 => compare!(
            given,
            Tag,
            tag,
            upsert_many,
            upsert,
            create,
            TAGS,
            KEPT_TAGS,
            STORED_TAGS
        ),
        3 => compare!(
            given,
            Word,
            word,
            find_or_create_many,
            find_or_create,
            create,
            OTHERS,
            KEPT_PAGES,
            STORED_WORDS
        ),
        4 => compare!(
            given,
            Word,
            word,
            create_many,
            create,
            create,
            OTHERS,
            KEPT_PAGES,
            STORED_WORDS
        ),
        5 => compare!(
            given,
            Word,
            word,
            upsert_many,
            upsert,
            create,
            OTHERS,
            KEPT_PAGES,
            STORED_WORDS
        ),
        6 => compare!(
            given,
            Draft,
            draft,
            find_or_create_many,
            find_or_create,
            create,
            OTHERS,
            KEPT_PAGES,
            STORED_DRAFTS
        ),
        7 => compare!(
            given,
            Draft,
            draft,
            create_many,
            create,
            create,
            OTHERS,
            KEPT_PAGES,
            STORED_DRAFTS
        ),
        8 => compare!(
            given,
            Draft,
            draft,
            upsert_many,
            upsert,
            create,
            OTHERS,
            KEPT_PAGES,
            STORED_DRAFTS
        ),
        9 => compare!(
            given,
            Page,
            page,
            find_or_create_many_by_slug,
            find_or_create_by_slug,
            create_by_slug,
            OTHERS,
            KEPT_PAGES,
            STORED_PAGES
        ),
        10 => compare!(
            given,
            Page,
            page,
            create_many_by_number,
            create_by_number,
            create_by_slug,
            OTHERS,
            KEPT_PAGES,
            STORED_PAGES
        ),
        _ => compare!(
            given,
            Page,
            page,
            upsert_many_by_slug,
            upsert_by_slug,
            create_by_slug,
            OTHERS,
            KEPT_PAGES,
            STORED_PAGES
        ),
    }
    Ok(())
}

/// Each method of each model: random rows, of which some are there, some are equal, some are refused, and some are in the way of another key.
#[tokio::test]
async fn many_are_as_one_by_one() {
    let database =
        database("CREATE TABLE fences (fence bigint); INSERT INTO fences VALUES (1), (2), (3)")
            .await;
    let fences =
        sqlx::query_scalar("SELECT fence FROM fences ORDER BY 1").fetch_all(&database.pool);
    let _ = FENCES.set(fences.await.unwrap());
    let config = Config {
        cases: 36,
        failure_persistence: None,
        ..Config::default()
    };
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let cases = (
            0..12_usize,
            prop::collection::vec(case(), 0..4),
            prop::collection::vec(case(), 1..16),
            any::<bool>(),
        );
        TestRunner::new(config)
            .run(&cases, |(method, existing, cases, in_transaction)| {
                let given = Given {
                    existing,
                    cases,
                    in_transaction,
                };
                handle.block_on(as_one_by_one(method, given))
            })
            .unwrap();
    })
    .await
    .unwrap();
}
