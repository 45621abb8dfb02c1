//! The tables that `create_table` makes are what the models need, to the last note.

use chrono::{DateTime, NaiveDate, Utc};
use rowlock::schema::{Describes, Finding, Models, verify};
use rowlock::{Counter, CreateTable, Fence, FindOrCreate, Idempotent, Lockable, Queue, Versioned};
use rowlock_tests::sqlite;
use sqlx::Row;
use sqlx::types::{Json, Uuid};

use super::{about_models, of_its_own};

/// Two keys whose columns read the same, joined.
#[derive(sqlx::FromRow, CreateTable, FindOrCreate)]
#[rowlock(table = "pairs", unique(a, b), unique(a_b))]
struct Pair {
    #[rowlock(key, generated)]
    id: i64,
    a: i64,
    b: i64,
    a_b: i64,
}

/// Keys of all kinds, one of which is the primary key.
#[derive(Clone, sqlx::FromRow, CreateTable, Versioned, Lockable, FindOrCreate)]
#[rowlock(
    table = "articles",
    unique(tenant_id, slug, where = "deleted_at IS NULL"),
    unique(lower(slug)),
    unique(tenant_id, token)
)]
struct Article {
    #[rowlock(key)]
    id: i64,
    tenant_id: i32,
    slug: String,
    #[rowlock(unique)]
    token: String,
    deleted_at: Option<DateTime<Utc>>,
    on: NaiveDate,
    #[sqlx(rename = "Raw \"data\"")]
    raw: Vec<u8>,
    rating: f64,
    labels: Json<Vec<String>>,
    public: bool,
    author: Option<Uuid>,
    #[rowlock(generated, definition = "timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP")]
    created_at: chrono::NaiveDateTime,
    #[rowlock(version)]
    lock_version: i32,
}

/// No `generated` key, and two of the key.
#[derive(Clone, sqlx::FromRow, CreateTable, Counter)]
#[rowlock(table = "Stock per Shop")]
struct Stock {
    #[rowlock(key)]
    shop: String,
    #[rowlock(key)]
    sku: i64,
    #[rowlock(counter(min = 1, max = 1000))]
    units: i64,
    #[rowlock(counter)]
    sold: i32,
    #[rowlock(default)]
    note: Option<String>,
}

#[derive(Clone, sqlx::FromRow, CreateTable, Idempotent)]
#[rowlock(table = "requests")]
struct Request {
    #[rowlock(key)]
    tenant: i64,
    #[rowlock(key)]
    name: String,
    #[rowlock(fingerprint)]
    fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    #[sqlx(json(nullable))]
    outcome: Option<Vec<i64>>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Clone, sqlx::FromRow, CreateTable, Queue)]
#[rowlock(
    table = "jobs",
    unique(kind, target, while(ready, running)),
    unique(target, kind, priority)
)]
struct Job {
    #[rowlock(key, generated)]
    id: i64,
    kind: String,
    target: i64,
    #[rowlock(priority(desc))]
    priority: i16,
    #[rowlock(run_at, default)]
    run_at: DateTime<Utc>,
    #[rowlock(state(ready = "queued"))]
    state: String,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
    #[rowlock(last_error)]
    last_error: Option<String>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

const MODELS: Models = rowlock::models![Article, Pair, Stock, Request, Job];

fn tables<DB>() -> String
where
    DB: rowlock::Backend,
    Article: rowlock::__private::schema::CreateTableSql<DB>,
    Pair: rowlock::__private::schema::CreateTableSql<DB>,
    Stock: rowlock::__private::schema::CreateTableSql<DB>,
    Request: rowlock::__private::schema::CreateTableSql<DB>,
    Job: rowlock::__private::schema::CreateTableSql<DB>,
{
    [
        Article::create_table::<DB>(),
        Pair::create_table::<DB>(),
        Stock::create_table::<DB>(),
        Request::create_table::<DB>(),
        Job::create_table::<DB>(),
    ]
    .concat()
}

/// Nothing is found, no note either, and a second run changes nothing.
async fn is_all_that_is_needed<DB: Describes>(pool: &sqlx::Pool<DB>, again: &str, models: Models)
where
    for<'c> &'c sqlx::Pool<DB>: rowlock::Source<'c, DB>,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    let report = verify(pool, models).await.unwrap();
    assert_eq!(about_models(&report), [] as [&Finding; 0]);
    let before = rowlock::schema::snapshot(pool).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let again = sqlx::raw_sql(sqlx::AssertSqlSafe(again.to_owned()));
    again.execute(&mut *connection).await.unwrap();
    drop(connection);
    assert_eq!(rowlock::schema::snapshot(pool).await.unwrap(), before);
}

/// Every column holds what its field holds, and comes back.
macro_rules! rows_come_back {
    ($pool:expr) => {{
        let pool = $pool;
        let written = article().insert(pool).await.unwrap();
        let mut read = Article::load(pool, 1).await.unwrap();
        let made = (written.created_at, written.lock_version);
        assert_eq!((read.created_at, read.lock_version), made);
        assert_eq!(content(&read), content(&article()));
        read.deleted_at = None;
        let read = read.update(pool).await.unwrap();
        let found = Article::find_by_slug(pool, "one").await.unwrap();
        assert_eq!(
            found.map(|found| (found.deleted_at, found.lock_version)),
            Some((None, read.lock_version))
        );

        let once = async || {
            let call = Request::once(pool, (1, "k"), &7, async |_| {
                Ok::<_, sqlx::Error>(vec![1, 2])
            });
            call.await.unwrap().into_inner()
        };
        assert_eq!(
            [once().await, once().await],
            [Some(vec![1, 2]), Some(vec![1, 2])]
        );

        let stock = Stock::add_units(pool, ("north", 1), 999).await.unwrap();
        assert_eq!(stock, 1000);
        assert!(Stock::add_units(pool, ("north", 1), 1).await.is_err());

        // A row of another program has what a new row starts with.
        let sql = "INSERT INTO jobs (kind, target, priority) VALUES ('mail', 1, 2)";
        sqlx::query(sql).execute(pool).await.unwrap();
        let mut jobs = Job::claim(pool, 2).await.unwrap();
        jobs.remove(0).complete(pool).await.unwrap();
        assert!(jobs.is_empty() && Job::claim(pool, 2).await.unwrap().is_empty());
    }};
}

fn article() -> Article {
    let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    Article {
        id: 1,
        tenant_id: 7,
        slug: "One".to_owned(),
        token: "t".to_owned(),
        deleted_at: Some(at),
        on: at.date_naive(),
        raw: vec![0, 255],
        rating: 0.1,
        labels: Json(vec!["a".to_owned()]),
        public: true,
        author: Some(Uuid::from_u128(9)),
        created_at: at.naive_utc(),
        lock_version: 0,
    }
}

/// What the caller gives.
fn content(article: &Article) -> impl PartialEq + std::fmt::Debug + use<> {
    let Article {
        tenant_id,
        slug,
        token,
        deleted_at,
        on,
        raw,
        rating,
        labels,
        public,
        author,
        ..
    } = article.clone();
    (
        (tenant_id, slug, token, deleted_at, on),
        (raw, rating, labels.0, public, author),
    )
}

#[tokio::test]
async fn a_table_that_was_made_is_all_that_the_model_needs_on_postgres() {
    let tables = tables::<sqlx::Postgres>();
    let own = postgres::Typed::create_table::<sqlx::Postgres>();
    let pool = of_its_own(&format!(
        "CREATE TYPE mood AS ENUM ('glad', 'sad'); {tables} {own}"
    ))
    .await;
    is_all_that_is_needed(&pool, &tables, MODELS).await;
    let report = verify(&pool, rowlock::models![postgres::Typed])
        .await
        .unwrap();
    assert_eq!(about_models(&report), [] as [&Finding; 0]);
    rows_come_back!(&pool);
    let typed = postgres::typed().insert(&pool).await.unwrap();
    let read = postgres::Typed::load(&pool, typed.id).await.unwrap();
    assert_eq!(read.content(), postgres::typed().content());
}

#[tokio::test]
async fn a_table_that_was_made_is_all_that_the_model_needs_on_sqlite() {
    let tables = tables::<sqlx::Sqlite>();
    let database = sqlite::database(&tables).await;
    is_all_that_is_needed(&database.pool, &tables, MODELS).await;

    rows_come_back!(&database.pool);
    // The number of a row that was deleted is not given to another.
    let insert = async || {
        let sql = "DELETE FROM jobs; INSERT INTO jobs (kind, target, priority) VALUES ('mail', 1, 2) RETURNING id";
        let id: i64 = sqlx::raw_sql(sql)
            .fetch_one(&database.pool)
            .await
            .unwrap()
            .get(0);
        id
    };
    let first = insert().await;
    assert!(insert().await > first);
}

mod postgres {
    use super::*;

    #[derive(Clone, Debug, PartialEq, sqlx::Type)]
    #[sqlx(type_name = "mood", rename_all = "lowercase")]
    pub enum Mood {
        Glad,
        Sad,
    }

    /// Types that one database has, and those of the user.
    #[derive(Clone, sqlx::FromRow, CreateTable, Versioned)]
    #[rowlock(table = "typed", backend(Postgres))]
    pub struct Typed {
        #[rowlock(key, generated)]
        pub id: Uuid,
        #[rowlock(definition = "mood NOT NULL")]
        mood: Mood,
        labels: Vec<String>,
        scores: Option<Vec<f32>>,
        price: sqlx::types::Decimal,
        at: chrono::NaiveTime,
        #[rowlock(version)]
        version: rowlock::Xmin,
    }

    impl Typed {
        pub fn content(&self) -> impl PartialEq + std::fmt::Debug + use<> {
            let Self {
                mood,
                labels,
                scores,
                price,
                at,
                ..
            } = self.clone();
            (mood, labels, scores, price, at)
        }
    }

    pub fn typed() -> Typed {
        Typed {
            id: Uuid::nil(),
            mood: Mood::Sad,
            labels: vec!["a".to_owned(), String::new()],
            scores: Some(vec![0.5]),
            price: "12.50".parse().unwrap(),
            at: chrono::NaiveTime::MIN,
            version: rowlock::Xmin::from(0),
        }
    }
}
