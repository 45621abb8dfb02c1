//! Each generated method beside its hand-written twin, for the database of `super`.

use std::array;
use std::cell::Cell;

use sqlx::query::QueryAs;
use sqlx::{Database, Executor, FromRow, QueryBuilder};

use super::{Db, NAME, PoolOptions, Row, database};
use crate::backends::Handle;
use crate::models::{DDL, Document, NewTag, PageViews, SEATS, Tag, new_tag};
use crate::pair::Bench;

type Query<'q, T> = QueryAs<'q, Db, T, <Db as Database>::Arguments>;

const LOAD: &str =
    r#"SELECT "id", "author_id", "title", "body", "lock_version" FROM "documents" WHERE "id" = $1"#;
const UPDATE: &str = r#"UPDATE "documents" SET "author_id" = $1, "title" = $2, "body" = $3, "lock_version" = "lock_version" + 1 WHERE "id" = $4 AND "lock_version" = $5 RETURNING "lock_version""#;
const TOUCH: &str = r#"UPDATE "documents" SET "lock_version" = "lock_version" + 1 WHERE "id" = $1 AND "lock_version" = $2 RETURNING "lock_version""#;
const SAVE_TITLE: &str = r#"UPDATE "documents" SET "title" = $3, "lock_version" = "lock_version" + 1 WHERE "id" = $1 AND "lock_version" = $2 RETURNING "lock_version""#;
const DELETE: &str = r#"DELETE FROM "documents" WHERE "id" = $1 AND "lock_version" = $2"#;
const GET: &str = r#"SELECT "page_id", "day", "views", "seats" FROM "page_views" WHERE "page_id" = $1 AND "day" = $2"#;
const ADD_VIEWS: &str = r#"INSERT INTO "page_views" ("page_id", "day", "views", "seats") VALUES ($1, $2, $3, 0) ON CONFLICT ("page_id", "day") DO UPDATE SET "views" = "page_views"."views" + $3 RETURNING "views""#;
const ADD_SEATS: &str = r#"INSERT INTO "page_views" ("page_id", "day", "seats", "views") VALUES ($1, $2, $3, 0) ON CONFLICT ("page_id", "day") DO UPDATE SET "seats" = "page_views"."seats" + $3 WHERE "page_views"."seats" BETWEEN $4 AND $5 RETURNING "seats""#;
const FIND: &str = r#"SELECT "id", "tenant_id", "slug", "title" FROM "tags" WHERE "tenant_id" = $1 AND "slug" = $2"#;
const INSERT_TAG: &str = r#"INSERT INTO "tags" ("tenant_id", "slug", "title") VALUES ($1, $2, $3) ON CONFLICT ("tenant_id", "slug") DO NOTHING RETURNING "id", "tenant_id", "slug", "title""#;
const UPSERT_TAG: &str = r#"INSERT INTO "tags" ("tenant_id", "slug", "title") VALUES ($1, $2, $3) ON CONFLICT ("tenant_id", "slug") DO UPDATE SET "title" = "excluded"."title" RETURNING "id", "tenant_id", "slug", "title""#;

/// All pairs on a connection that is kept. The twin reads one row as people do, or `to_the_end`.
pub(crate) async fn on_connection(bench: &mut Bench, to_the_end: bool) {
    let twin = if to_the_end { ", to the end" } else { "" };
    let group = format!("{NAME}, held connection{twin}");
    let database = database(DDL).await;
    pairs(bench, &group, database.connection().await, to_the_end).await;
}

/// All pairs through a pool.
pub(crate) async fn through_pool(bench: &mut Bench, to_the_end: bool) {
    let twin = if to_the_end { ", to the end" } else { "" };
    let group = format!("{NAME}, pool{twin}");
    let database = database(DDL).await;
    let pool = PoolOptions::new().max_connections(4);
    pairs(bench, &group, database.pool_with(pool).await, to_the_end).await;
}

async fn pairs<H: Handle<Db>>(bench: &mut Bench, group: &str, mut handle: H, to_the_end: bool) {
    bench.group(group);
    versioned(bench, &mut handle, to_the_end).await;
    counter(bench, &mut handle, to_the_end).await;
    find_or_create(bench, &mut handle, to_the_end).await;
}

async fn versioned<H: Handle<Db>>(bench: &mut Bench, handle: &mut H, to_the_end: bool) {
    let document = |id| Document {
        id,
        author_id: 7,
        title: "How the river came to the town".to_owned(),
        body: "It had always been there. ".repeat(20),
        lock_version: 0,
    };
    // One row for each side of the pairs that write.
    let (mut mine, mut theirs, deleted) = (document(1), document(2), document(3));
    for document in [&mine, &theirs] {
        insert(document, handle.db()).await;
    }

    // How far from 1 a ratio can be by chance.
    bench
        .pair(
            "hand-written load against itself",
            handle,
            async |_| {},
            async |h| one(load(1), h.db(), to_the_end).await,
            async |h| one(load(1), h.db(), to_the_end).await,
        )
        .await;
    bench
        .pair(
            "load",
            handle,
            async |_| {},
            async |h| Document::load(h.db(), 1).await.unwrap(),
            async |h| one(load(1), h.db(), to_the_end).await,
        )
        .await;
    bench
        .pair(
            "update",
            handle,
            async |_| {},
            async |h| mine = mine.update(h.db()).await.unwrap(),
            async |h| {
                let (lock_version,) = one(update(&theirs), h.db(), to_the_end).await;
                theirs = Document {
                    lock_version,
                    ..theirs.clone()
                };
            },
        )
        .await;
    bench
        .pair(
            "touch",
            handle,
            async |_| {},
            async |h| mine = mine.touch(h.db()).await.unwrap(),
            async |h| {
                let query = sqlx::query_as(TOUCH)
                    .bind(theirs.id)
                    .bind(theirs.lock_version);
                let (lock_version,) = one(query, h.db(), to_the_end).await;
                theirs = Document {
                    lock_version,
                    ..theirs.clone()
                };
            },
        )
        .await;
    let titles = ["A title to change to and fro", "The other title of the two"];
    bench
        .pair(
            "edit and save one column",
            handle,
            async |_| {},
            async |h| {
                let mut edit = mine.edit();
                edit.title = titles[usize::from(mine.title == titles[0])].to_owned();
                mine = edit.save(h.db()).await.unwrap();
            },
            async |h| {
                let mut edit = theirs.clone();
                edit.title = titles[usize::from(theirs.title == titles[0])].to_owned();
                let query = sqlx::query_as(SAVE_TITLE)
                    .bind(edit.id)
                    .bind(edit.lock_version)
                    .bind(edit.title.as_str());
                (edit.lock_version,) = one(query, h.db(), to_the_end).await;
                theirs = edit;
            },
        )
        .await;
    bench
        .pair(
            "update_with",
            handle,
            async |_| {},
            async |h| {
                let renamed = Document::update_with(h.db(), 1, |document| document.author_id += 1);
                mine = renamed.await.unwrap();
            },
            async |h| {
                let mut connection = h.connection().await;
                let mut document = one(load(2), &mut *connection, to_the_end).await;
                document.author_id += 1;
                (document.lock_version,) =
                    one(update(&document), &mut *connection, to_the_end).await;
                theirs = document;
            },
        )
        .await;
    bench
        .pair(
            "delete",
            handle,
            async |h| insert(&deleted, h.db()).await,
            async |h| deleted.delete(h.db()).await.unwrap(),
            async |h| {
                let query = sqlx::query(DELETE)
                    .bind(deleted.id)
                    .bind(deleted.lock_version);
                let done = query.execute(h.db()).await.unwrap();
                assert_eq!(done.rows_affected(), 1);
            },
        )
        .await;
}

async fn counter<H: Handle<Db>>(bench: &mut Bench, handle: &mut H, to_the_end: bool) {
    bench
        .pair(
            "add",
            handle,
            async |_| {},
            async |h| PageViews::add_views(h.db(), (1, 1), 1).await.unwrap(),
            async |h| {
                let query = sqlx::query_as(ADD_VIEWS).bind(1i64).bind(1i32).bind(1i64);
                one::<(i64,)>(query, h.db(), to_the_end).await
            },
        )
        .await;
    bench
        .pair(
            "add within bounds",
            handle,
            async |_| {},
            async |h| PageViews::add_seats(h.db(), (1, 2), 1).await.unwrap(),
            async |h| {
                let query = sqlx::query_as(ADD_SEATS)
                    .bind(1i64)
                    .bind(2i32)
                    .bind(1i64)
                    .bind(-1i64)
                    .bind(SEATS - 1);
                one::<(i64,)>(query, h.db(), to_the_end).await
            },
        )
        .await;
    // sqlx keeps the prepared statement by default, which pays if all batches have the same size. The text is not quite
    // the one of rowlock, which would else profit from the statement that the other side keeps.
    for (name, keep) in [
        ("add_many of 100", false),
        ("add_many of 100, hand keeps it prepared", true),
    ] {
        bench
            .pair(
                name,
                handle,
                async |_| {},
                async |h| {
                    let totals = PageViews::add_views_many(h.db(), batch()).await.unwrap();
                    assert_eq!(totals.len(), 100);
                },
                async |h| {
                    let mut batch = batch();
                    batch.sort_unstable();
                    let mut query = QueryBuilder::new(
                        "INSERT INTO page_views (page_id, day, views, seats) ",
                    );
                    query.push_values(batch, |mut row, ((page_id, day), views)| {
                        row.push_bind(page_id).push_bind(day).push_bind(views);
                        row.push("0");
                    });
                    query.push(" ON CONFLICT (page_id, day) DO UPDATE SET views = page_views.views + excluded.views RETURNING page_id, day, views");
                    let query = query.build_query_as::<(i64, i32, i64)>().persistent(keep);
                    assert_eq!(query.fetch_all(h.db()).await.unwrap().len(), 100);
                },
            )
            .await;
    }
    bench
        .pair(
            "get",
            handle,
            async |_| {},
            async |h| PageViews::get(h.db(), (1, 1)).await.unwrap(),
            async |h| {
                let query: Query<'_, PageViews> = sqlx::query_as(GET).bind(1i64).bind(1i32);
                optional(query, h.db(), to_the_end).await
            },
        )
        .await;
}

async fn find_or_create<H: Handle<Db>>(bench: &mut Bench, handle: &mut H, to_the_end: bool) {
    let found = || new_tag("found".to_owned());
    Tag::upsert(handle.db(), found()).await.unwrap();
    bench
        .pair(
            "find_or_create, found",
            handle,
            async |_| {},
            async |h| Tag::find_or_create(h.db(), found()).await.unwrap(),
            async |h| one(find(&found()), h.db(), to_the_end).await,
        )
        .await;
    let count = Cell::new(0);
    let unseen = || {
        count.set(count.get() + 1);
        new_tag(format!("tag-{}", count.get()))
    };
    bench
        .pair(
            "find_or_create, created",
            handle,
            async |_| {},
            async |h| {
                let tag = Tag::find_or_create(h.db(), unseen()).await.unwrap();
                assert!(tag.is_created());
            },
            async |h| {
                let tag = unseen();
                let mut connection = h.connection().await;
                let found = optional(find(&tag), &mut *connection, to_the_end).await;
                assert!(found.is_none());
                let insert = write_tag(INSERT_TAG, &tag);
                one(insert, &mut *connection, to_the_end).await
            },
        )
        .await;
    bench
        .pair(
            "upsert",
            handle,
            async |_| {},
            async |h| Tag::upsert(h.db(), found()).await.unwrap(),
            async |h| one(write_tag(UPSERT_TAG, &found()), h.db(), to_the_end).await,
        )
        .await;
}

/// The one row of a statement, in the way that this twin reads.
async fn one<T>(query: Query<'_, T>, db: impl Executor<'_, Database = Db>, to_the_end: bool) -> T
where
    T: for<'r> FromRow<'r, Row> + Send + Unpin,
{
    optional(query, db, to_the_end).await.unwrap()
}

async fn optional<T>(
    query: Query<'_, T>,
    db: impl Executor<'_, Database = Db>,
    to_the_end: bool,
) -> Option<T>
where
    T: for<'r> FromRow<'r, Row> + Send + Unpin,
{
    if to_the_end {
        query.fetch_all(db).await.unwrap().pop()
    } else {
        query.fetch_optional(db).await.unwrap()
    }
}

fn load(id: i64) -> Query<'static, Document> {
    sqlx::query_as(LOAD).bind(id)
}

fn update(document: &Document) -> Query<'_, (i64,)> {
    sqlx::query_as(UPDATE)
        .bind(document.author_id)
        .bind(document.title.as_str())
        .bind(document.body.as_str())
        .bind(document.id)
        .bind(document.lock_version)
}

fn find(tag: &NewTag) -> Query<'_, Tag> {
    sqlx::query_as(FIND).bind(tag.tenant_id).bind(tag.slug.as_str())
}

fn write_tag<'q>(sql: &'static str, tag: &'q NewTag) -> Query<'q, Tag> {
    sqlx::query_as(sql)
        .bind(tag.tenant_id)
        .bind(tag.slug.as_str())
        .bind(tag.title.as_str())
}

async fn insert(document: &Document, db: impl Executor<'_, Database = Db>) {
    sqlx::query(r#"INSERT INTO "documents" ("id", "author_id", "title", "body", "lock_version") VALUES ($1, $2, $3, $4, $5)"#)
        .bind(document.id)
        .bind(document.author_id)
        .bind(document.title.as_str())
        .bind(document.body.as_str())
        .bind(document.lock_version)
        .execute(db)
        .await
        .unwrap();
}

/// A hundred keys in no order.
fn batch() -> [((i64, i32), i64); 100] {
    array::from_fn(|index| ((1000 + (index as i64 * 37) % 100, 1), 1))
}
