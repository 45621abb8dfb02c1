//! Many rows with an outcome each, on PostgreSQL: as a ratio to the batch that one writes by hand, and to a loop of single calls.
//!
//! ```text
//! cargo bench -p rowlock-benches --bench many              seven minutes
//! cargo bench -p rowlock-benches --bench many -- 'of 100,' only the pairs whose title has these words
//! ```
//!
//! The batch by hand is what people write: `UPDATE … FROM unnest(…) … RETURNING`, which locks the rows in any order, and does not say which of
//! them are stale or gone. "With outcomes" it puts each row in the place of its key and returns new structs, as rowlock does; stale rows and those that are
//! gone it still cannot tell. A pool of one connection, which does not test it; `update_many` also on the connection itself, where a transaction
//! may have been begun by hand, and rowlock locks the rows in order.

#[path = "pair.rs"]
mod pair;

use std::collections::HashMap;
use std::hash::Hash;

use rowlock::{FindOrCreate, Source, Versioned};
use rowlock_tests::postgres::{Connection, Pool, PoolOptions, database};
use sqlx::{ConnectOptions as _, Postgres};

use self::pair::Bench;

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents", backend(Postgres))]
struct Document {
    #[rowlock(key)]
    id: i64,
    author_id: i64,
    title: String,
    body: String,
    #[rowlock(version)]
    lock_version: i64,
}

const DOCUMENTS: &str = "CREATE TABLE documents (id bigint PRIMARY KEY, author_id bigint NOT NULL, title text NOT NULL, body text NOT NULL,
        lock_version bigint NOT NULL) WITH (fillfactor = 50);
    INSERT INTO documents SELECT n, 7, 'How the river came to the town', repeat('It had always been there. ', 20), 0 FROM generate_series(1, 100000) AS n;
    ANALYZE documents";

#[derive(Debug, Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(slug), backend(Postgres))]
struct Tag {
    #[rowlock(key, generated)]
    id: i64,
    slug: String,
    title: String,
}

const TAGS: &str = "CREATE TABLE tags (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug text NOT NULL UNIQUE, title text NOT NULL) WITH (fillfactor = 50);
    INSERT INTO tags (slug, title) SELECT 'tag ' || n, 'Title' FROM generate_series(1, 100000) AS n;
    ANALYZE tags";

const FIND: &str = "SELECT id, slug, title FROM tags WHERE slug = ANY ($1)";
const CREATE: &str = "INSERT INTO tags (slug, title) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT (slug) DO NOTHING RETURNING id, slug, title";
const UPSERT: &str = "INSERT INTO tags (slug, title) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT (slug) DO UPDATE SET title = excluded.title RETURNING id, slug, title";

/// New rows with these numbers.
fn tags(numbers: impl IntoIterator<Item = i64>) -> Vec<NewTag> {
    let tag = |number| NewTag {
        slug: format!("tag {number}"),
        title: "A title".to_owned(),
    };
    numbers.into_iter().map(tag).collect()
}

async fn by_hand(db: &Pool, sql: &'static str, new: &[NewTag]) -> Vec<Tag> {
    let slugs: Vec<&str> = new.iter().map(|tag| tag.slug.as_str()).collect();
    let titles: Vec<&str> = new.iter().map(|tag| tag.title.as_str()).collect();
    let query = sqlx::query_as(sql).bind(slugs).bind(titles);
    let rows: Vec<Tag> = query.fetch_all(db).await.unwrap();
    assert_eq!(rows.len(), new.len());
    rows
}

async fn find_by_hand(db: &Pool, new: &[NewTag]) -> Vec<Tag> {
    let slugs: Vec<&str> = new.iter().map(|tag| tag.slug.as_str()).collect();
    let query = sqlx::query_as(FIND).bind(slugs);
    let found: Vec<Tag> = query.fetch_all(db).await.unwrap();
    assert_eq!(found.len(), new.len());
    found
}

/// Each row in the place of its key.
fn outcomes<K: Eq + Hash, R>(
    rows: Vec<R>,
    key: impl Fn(&R) -> K,
    given: impl Iterator<Item = K>,
) -> Vec<Option<R>> {
    let rows = rows.into_iter().map(|row| (key(&row), row));
    let mut rows: HashMap<K, R> = rows.collect();
    given.map(|key| rows.remove(&key)).collect()
}

fn outcomes_of_tags(rows: Vec<Tag>, new: &[NewTag]) {
    let given = new.iter().map(|tag| tag.slug.clone());
    let outcomes = outcomes(rows, |tag| tag.slug.clone(), given);
    assert!(outcomes.iter().all(Option::is_some));
}

async fn find_or_create_many(db: &Pool, new: &[NewTag]) {
    let found = Tag::find_or_create_many(db, new.iter().cloned()).await;
    assert!(found.iter().all(Result::is_ok));
}

async fn upsert_many(db: &Pool, new: &[NewTag]) {
    let written = Tag::upsert_many(db, new.iter().cloned()).await;
    assert!(written.iter().all(Result::is_ok));
}

async fn create_many(db: &Pool, new: Vec<NewTag>) {
    let created = Tag::create_many(db, new).await;
    assert!(created.iter().all(|row| matches!(row, Ok(Some(_)))));
}

/// Rows that are there, and rows that nobody has made yet. All numbers are of five digits: those of one to four are far from each other in the index.
async fn pairs_of_tags(bench: &mut Bench, db: &mut Pool, rows: i64) {
    let (mine, theirs) = (tags(20_001..=20_000 + rows), tags(30_001..=30_000 + rows));
    bench
        .pair(
            &format!("find_or_create_many of {rows} that are there, by hand"),
            db,
            async |_| {},
            async |db| find_or_create_many(db, &mine).await,
            async |db| find_by_hand(db, &theirs).await,
        )
        .await;
    bench
        .pair(
            &format!("find_or_create_many of {rows} that are there, by hand with outcomes"),
            db,
            async |_| {},
            async |db| find_or_create_many(db, &mine).await,
            async |db| outcomes_of_tags(find_by_hand(db, &theirs).await, &theirs),
        )
        .await;
    bench
        .pair(
            &format!("upsert_many of {rows}, by hand"),
            db,
            async |_| {},
            async |db| upsert_many(db, &mine).await,
            async |db| by_hand(db, UPSERT, &theirs).await,
        )
        .await;
    bench
        .pair(
            &format!("upsert_many of {rows}, by hand with outcomes"),
            db,
            async |_| {},
            async |db| upsert_many(db, &mine).await,
            async |db| outcomes_of_tags(by_hand(db, UPSERT, &theirs).await, &theirs),
        )
        .await;
    bench
        .pair(
            &format!("upsert_many of {rows}, a loop of upsert"),
            db,
            async |_| {},
            async |db| upsert_many(db, &mine).await,
            async |db| {
                for new in &theirs {
                    Tag::upsert(&*db, new.clone()).await.unwrap();
                }
            },
        )
        .await;
    let (mut next, mut next_by_hand) = (rows * 1_000_000_000, rows * 2_000_000_000);
    bench
        .pair(
            &format!("create_many of {rows} that are new, by hand"),
            db,
            async |_| {},
            async |db| {
                next += rows;
                create_many(db, tags(next..next + rows)).await;
            },
            async |db| {
                next_by_hand += rows;
                let new = tags(next_by_hand..next_by_hand + rows);
                by_hand(db, CREATE, &new).await;
            },
        )
        .await;
    bench
        .pair(
            &format!("create_many of {rows} that are new, by hand with outcomes"),
            db,
            async |_| {},
            async |db| {
                next += rows;
                create_many(db, tags(next..next + rows)).await;
            },
            async |db| {
                next_by_hand += rows;
                let new = tags(next_by_hand..next_by_hand + rows);
                outcomes_of_tags(by_hand(db, CREATE, &new).await, &new);
            },
        )
        .await;
}

const LOAD: &str =
    "SELECT id, author_id, title, body, lock_version FROM documents WHERE id = ANY ($1)";
const UPDATE: &str = "UPDATE documents SET author_id = given.author_id, title = given.title, body = given.body, lock_version = documents.lock_version + 1
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[]) AS given (id, author_id, title, body, version)
    WHERE documents.id = given.id AND documents.lock_version = given.version RETURNING documents.id, documents.lock_version";

async fn load(db: &Pool, ids: impl IntoIterator<Item = i64>) -> Vec<Document> {
    let loaded = Document::load_many(db, ids).await.into_iter();
    loaded.collect::<Result<_, _>>().unwrap()
}

async fn load_by_hand(db: &Pool, ids: impl IntoIterator<Item = i64>) -> Vec<Document> {
    let ids: Vec<i64> = ids.into_iter().collect();
    sqlx::query_as(LOAD).bind(ids).fetch_all(db).await.unwrap()
}

async fn versions_by_hand(db: &mut Connection, documents: &[Document]) -> Vec<(i64, i64)> {
    let column = |of: fn(&Document) -> i64| documents.iter().map(of).collect::<Vec<_>>();
    let text = |of: fn(&Document) -> &str| documents.iter().map(of).collect::<Vec<_>>();
    let query = sqlx::query_as(UPDATE)
        .bind(column(|document| document.id))
        .bind(column(|document| document.author_id))
        .bind(text(|document| &document.title))
        .bind(text(|document| &document.body))
        .bind(column(|document| document.lock_version));
    let written: Vec<(i64, i64)> = query.fetch_all(db).await.unwrap();
    assert_eq!(written.len(), documents.len());
    written
}

async fn update_by_hand(db: &mut Connection, documents: &mut [Document]) {
    let first = documents[0].id;
    for (id, version) in versions_by_hand(db, documents).await {
        documents[usize::try_from(id - first).unwrap()].lock_version = version;
    }
}

async fn update_with_outcomes(db: &mut Connection, documents: &mut Vec<Document>) {
    let written = versions_by_hand(db, documents).await;
    let ids = documents.iter().map(|document| document.id);
    let written = outcomes(written, |(id, _)| *id, ids).into_iter();
    let updated = written.zip(&*documents).map(|(written, document)| {
        let (_, lock_version) = written?;
        let document = document.clone();
        Some(Document {
            lock_version,
            ..document
        })
    });
    *documents = updated.collect::<Option<_>>().unwrap();
}

async fn update_many<'c>(db: impl Source<'c, Postgres>, documents: &mut Vec<Document>) {
    let updated = Document::update_many(db, &*documents).await.into_iter();
    *documents = updated.collect::<Result<_, _>>().unwrap();
}

async fn pairs(bench: &mut Bench, db: &mut Pool, rows: i64) {
    let (ids, others) = (1..=rows, 10_001..=10_000 + rows);
    let mut mine = load(db, ids.clone()).await;
    let mut theirs = load(db, others.clone()).await;
    bench
        .pair(
            &format!("load_many of {rows}, by hand"),
            db,
            async |_| {},
            async |db| load(db, ids.clone()).await,
            async |db| load_by_hand(db, others.clone()).await,
        )
        .await;
    bench
        .pair(
            &format!("load_many of {rows}, by hand with outcomes"),
            db,
            async |_| {},
            async |db| load(db, ids.clone()).await,
            async |db| {
                let found = load_by_hand(db, others.clone()).await;
                let found = outcomes(found, |document| document.id, others.clone());
                found.into_iter().collect::<Option<Vec<_>>>().unwrap()
            },
        )
        .await;
    bench
        .pair(
            &format!("update_many of {rows}, by hand"),
            db,
            async |_| {},
            async |db| update_many(&*db, &mut mine).await,
            async |db| update_by_hand(&mut db.acquire().await.unwrap(), &mut theirs).await,
        )
        .await;
    bench
        .pair(
            &format!("update_many of {rows}, by hand with outcomes"),
            db,
            async |_| {},
            async |db| update_many(&*db, &mut mine).await,
            async |db| update_with_outcomes(&mut db.acquire().await.unwrap(), &mut theirs).await,
        )
        .await;
    bench
        .pair(
            &format!("update_many of {rows}, a loop of update"),
            db,
            async |_| {},
            async |db| update_many(&*db, &mut mine).await,
            async |db| {
                for document in &mut theirs {
                    *document = document.update(&*db).await.unwrap();
                }
            },
        )
        .await;
    let mut connection = db.connect_options().connect().await.unwrap();
    bench
        .pair(
            &format!("update_many of {rows} on a connection, by hand"),
            &mut connection,
            async |_| {},
            async |db| update_many(&mut *db, &mut mine).await,
            async |db| update_by_hand(db, &mut theirs).await,
        )
        .await;
}

fn main() {
    let mut bench = Bench::from_arguments();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let database = database(&format!("{DOCUMENTS}; {TAGS}")).await;
        let options = PoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false);
        let mut db = database.pool_with(options).await;
        bench.group("PostgreSQL, pool of one connection");
        for rows in [10, 100, 1_000] {
            pairs(&mut bench, &mut db, rows).await;
            pairs_of_tags(&mut bench, &mut db, rows).await;
        }
    });
}
