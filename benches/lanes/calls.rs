//! What callers do, by hand and on lanes. Compiled for each database: `Pool` and `Db` are its types.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rowlock::{Counter, FindOrCreate, Lanes, Versioned};

use super::{Db, Pool};
use crate::Run;

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
struct Document {
    #[rowlock(key)]
    id: i64,
    author_id: i64,
    reviewer_id: Option<i64>,
    title: String,
    body: String,
    language: String,
    published: bool,
    words: i32,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags")]
struct Tag {
    #[rowlock(generated)]
    id: i64,
    #[rowlock(unique)]
    name: String,
}

/// Both databases take them.
pub(crate) const TABLES: &str = "CREATE TABLE page_views (page bigint PRIMARY KEY, views bigint NOT NULL);
    INSERT INTO page_views WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000) SELECT n, 0 FROM numbers;
    CREATE TABLE documents (id bigint PRIMARY KEY, author_id bigint NOT NULL, reviewer_id bigint, title text NOT NULL, body text NOT NULL,
        language text NOT NULL, published boolean NOT NULL, words int NOT NULL, lock_version bigint NOT NULL);
    INSERT INTO documents WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000)
        SELECT n, 7, NULL, 'How the river came to the town', {body}, 'en', true, 100, 0 FROM numbers;
    CREATE TABLE tags (id {id}, name text NOT NULL UNIQUE);
    INSERT INTO tags (name) WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000)
        SELECT 'tag ' || n FROM numbers";

const ADD: &str = "INSERT INTO page_views (page, views) VALUES ($1, $2)
    ON CONFLICT (page) DO UPDATE SET views = page_views.views + excluded.views RETURNING views";
const LOAD: &str = "SELECT id, author_id, reviewer_id, title, body, language, published, words, lock_version FROM documents WHERE id = $1";
const UPDATE: &str = "UPDATE documents SET author_id = $1, reviewer_id = $2, title = $3, body = $4, language = $5, published = $6, words = $7,
    lock_version = lock_version + 1 WHERE id = $8 AND lock_version = $9 RETURNING lock_version";
const FIND: &str = "SELECT id, name FROM tags WHERE name = $1";

/// Numbers that look random, without a lock.
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn below(&mut self, most: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        i64::try_from(self.0 >> 33).unwrap() % most
    }
}

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What one caller does again and again. It gets its number, of so many.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    Hot,
    Uniform,
    Load,
    Update,
    Find,
}

impl Operation {
    pub(crate) const ALL: [Self; 5] = [
        Self::Hot,
        Self::Uniform,
        Self::Load,
        Self::Update,
        Self::Find,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot counter",
            Self::Uniform => "counters",
            Self::Load => "load",
            Self::Update => "update of 8 columns",
            Self::Find => "find or create, found",
        }
    }

    pub(crate) fn by_hand(self, pool: Pool, caller: i64, callers: i64, run: Arc<Run>) -> Call {
        Box::pin(async move {
            let mut random = Random(u64::try_from(caller + 1).unwrap() * 0x9E37_79B9_7F4A_7C15);
            match self {
                Self::Hot | Self::Uniform => {
                    while let Some(call) = run.begin() {
                        let page = if matches!(self, Self::Hot) {
                            1
                        } else {
                            1 + random.below(10_000)
                        };
                        let total = sqlx::query_scalar(ADD).bind(page).bind(1_i64);
                        let _: i64 = total.fetch_one(&pool).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Load => {
                    while let Some(call) = run.begin() {
                        let query = sqlx::query_as(LOAD).bind(1 + random.below(10_000));
                        let _: Document = query.fetch_one(&pool).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Update => {
                    let mut mine = Vec::new();
                    for id in (1..=10_000).filter(|id| id % callers == caller).take(30) {
                        let query = sqlx::query_as(LOAD).bind(id);
                        let document: Document = query.fetch_one(&pool).await.unwrap();
                        mine.push(document);
                    }
                    run.is_ready().await;
                    while let Some(call) = run.begin() {
                        let index = usize::try_from(random.below(30)).unwrap();
                        let document = &mut mine[index];
                        let query = sqlx::query_scalar(UPDATE)
                            .bind(document.author_id)
                            .bind(document.reviewer_id)
                            .bind(&document.title)
                            .bind(&document.body)
                            .bind(&document.language)
                            .bind(document.published)
                            .bind(document.words)
                            .bind(document.id)
                            .bind(document.lock_version);
                        document.lock_version = query.fetch_one(&pool).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Find => {
                    while let Some(call) = run.begin() {
                        let name = format!("tag {}", 1 + random.below(10_000));
                        let query = sqlx::query_as(FIND).bind(name);
                        let _: Tag = query.fetch_one(&pool).await.unwrap();
                        run.end(call);
                    }
                }
            }
        })
    }

    pub(crate) fn on_lanes(self, lanes: Lanes<Db>, caller: i64, callers: i64, run: Arc<Run>) -> Call {
        Box::pin(async move {
            let mut random = Random(u64::try_from(caller + 1).unwrap() * 0x9E37_79B9_7F4A_7C15);
            match self {
                Self::Hot | Self::Uniform => {
                    while let Some(call) = run.begin() {
                        let page = if matches!(self, Self::Hot) {
                            1
                        } else {
                            1 + random.below(10_000)
                        };
                        PageViews::add_views(&lanes, page, 1).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Load => {
                    while let Some(call) = run.begin() {
                        Document::load(&lanes, 1 + random.below(10_000))
                            .await
                            .unwrap();
                        run.end(call);
                    }
                }
                Self::Update => {
                    let ids = (1..=10_000).filter(|id| id % callers == caller).take(30);
                    let mine = Document::load_many(&lanes, ids).await.into_iter();
                    let mut mine: Vec<_> = mine.collect::<Result<_, _>>().unwrap();
                    run.is_ready().await;
                    while let Some(call) = run.begin() {
                        let index = usize::try_from(random.below(30)).unwrap();
                        mine[index] = mine[index].update(&lanes).await.unwrap();
                        run.end(call);
                    }
                }
                Self::Find => {
                    while let Some(call) = run.begin() {
                        let name = format!("tag {}", 1 + random.below(10_000));
                        Tag::find_or_create(&lanes, NewTag { name }).await.unwrap();
                        run.end(call);
                    }
                }
            }
        })
    }
}
