//! Many rows with an outcome each, on PostgreSQL: as a ratio to the batch that one writes by hand, and to a loop of single calls.
//!
//! ```text
//! cargo bench -p rowlock-benches --bench many              a minute and a half
//! cargo bench -p rowlock-benches --bench many -- 'of 100,' only the pairs whose title has these words
//! ```
//!
//! The batch by hand is what people write: `UPDATE … FROM unnest(…) … RETURNING`, which locks the rows in any order, and does not say which of
//! them are stale or gone. One connection, which is kept.

#[path = "pair.rs"]
mod pair;

use rowlock::Versioned;
use rowlock_tests::postgres::{Connection, database};

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

const LOAD: &str =
    "SELECT id, author_id, title, body, lock_version FROM documents WHERE id = ANY ($1)";
const UPDATE: &str = "UPDATE documents SET author_id = given.author_id, title = given.title, body = given.body, lock_version = documents.lock_version + 1
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[]) AS given (id, author_id, title, body, version)
    WHERE documents.id = given.id AND documents.lock_version = given.version RETURNING documents.id, documents.lock_version";

async fn load(db: &mut Connection, ids: impl IntoIterator<Item = i64>) -> Vec<Document> {
    let loaded = Document::load_many(db, ids).await.into_iter();
    loaded.collect::<Result<_, _>>().unwrap()
}

async fn update_by_hand(db: &mut Connection, documents: &mut [Document]) {
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
    let first = documents[0].id;
    for (id, version) in written {
        documents[usize::try_from(id - first).unwrap()].lock_version = version;
    }
}

async fn update_many(db: &mut Connection, documents: &mut Vec<Document>) {
    let updated = Document::update_many(db, &*documents).await.into_iter();
    *documents = updated.collect::<Result<_, _>>().unwrap();
}

async fn pairs(bench: &mut Bench, db: &mut Connection, rows: i64) {
    let (ids, others) = (1..=rows, 10_001..=10_000 + rows);
    let mut mine = load(db, ids.clone()).await;
    let mut theirs = load(db, others.clone()).await;
    bench
        .pair(
            &format!("load_many of {rows}, by hand"),
            db,
            async |_| {},
            async |db| load(db, ids.clone()).await,
            async |db| {
                let ids: Vec<i64> = others.clone().collect();
                let query = sqlx::query_as(LOAD).bind(ids);
                let found: Vec<Document> = query.fetch_all(db).await.unwrap();
                found
            },
        )
        .await;
    bench
        .pair(
            &format!("update_many of {rows}, by hand"),
            db,
            async |_| {},
            async |db| update_many(db, &mut mine).await,
            async |db| update_by_hand(db, &mut theirs).await,
        )
        .await;
    bench
        .pair(
            &format!("update_many of {rows}, a loop of update"),
            db,
            async |_| {},
            async |db| update_many(db, &mut mine).await,
            async |db| {
                for document in &mut theirs {
                    *document = document.update(&mut *db).await.unwrap();
                }
            },
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
        let database = database(DOCUMENTS).await;
        let mut db = database.connection().await;
        bench.group("PostgreSQL, held connection");
        for rows in [10, 100, 1_000] {
            pairs(&mut bench, &mut db, rows).await;
        }
    });
}
