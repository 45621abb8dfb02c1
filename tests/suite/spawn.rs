//! Every public method can be awaited inside `tokio::spawn`, from a pool, a connection and a transaction.

use std::time::Duration;

use rowlock::queue::Claimed;
use rowlock::{Counter, FindOrCreate, Lanes, Queue, Source, Versioned};

use super::{Db, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "articles", unique(tenant, slug), existing_rows)]
struct Article {
    #[rowlock(key, generated)]
    id: i64,
    tenant: i64,
    slug: String,
    title: String,
    #[rowlock(counter(min = 0))]
    likes: i32,
    #[rowlock(version)]
    lock_version: i64,
}

const DDL: &str = "CREATE TABLE articles (id {id}, tenant bigint NOT NULL, slug text NOT NULL, title text NOT NULL,
    likes int NOT NULL, lock_version bigint NOT NULL, UNIQUE (tenant, slug))";

fn new(slug: &str) -> NewArticle {
    NewArticle {
        tenant: 1,
        slug: slug.to_owned(),
        title: "a title".to_owned(),
    }
}

/// All methods in one body; `$db` is evaluated anew for each call.
macro_rules! all_methods {
    ($db:expr) => {{
        let article = Article::find_or_create($db, new("a"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!((article.likes, article.lock_version), (0, 0));
        let found = Article::find_by_tenant_and_slug($db, 1, "a").await.unwrap();
        assert_eq!(found.as_ref(), Some(&article));
        let renamed = NewArticle {
            title: "another".to_owned(),
            ..new("a")
        };
        let article = Article::upsert($db, renamed).await.unwrap();
        assert_eq!(article.lock_version, 1);
        let article = Article::load($db, article.id).await.unwrap();
        let article = Article {
            title: "changed".to_owned(),
            ..article
        }
        .update($db)
        .await
        .unwrap();
        let article = article.touch($db).await.unwrap();
        let mut edit = article.edit();
        edit.title.push('!');
        let article = edit.save($db).await.unwrap();
        assert_eq!(
            (article.title.as_str(), article.lock_version),
            ("changed!", 4)
        );
        let article = Article::update_with($db, article.id, |article| article.title.push('?'))
            .await
            .unwrap();
        assert_eq!(Article::add_likes($db, article.id, 2).await.unwrap(), 2);
        let totals = Article::add_likes_many($db, [(article.id, 3), (article.id, -1)])
            .await
            .unwrap();
        assert_eq!(totals, [(article.id, 4)]);
        assert_eq!(
            Article::get($db, article.id).await.unwrap().unwrap().likes,
            4
        );
        let article = article.reload($db).await.unwrap();
        assert_eq!((article.likes, article.lock_version), (4, 5));
        article.delete($db).await.unwrap();
    }};
}

#[tokio::test]
async fn every_method_can_be_spawned() {
    let database = database(DDL).await;
    let pool = database.pool.clone();
    tokio::spawn(async move { all_methods!(&pool) })
        .await
        .unwrap();

    let lanes = Lanes::new(&database.pool, 1).await.unwrap();
    tokio::spawn(async move {
        all_methods!(&lanes);
        lanes.close().await;
    })
    .await
    .unwrap();

    let mut connection = database.pool.acquire().await.unwrap();
    tokio::spawn(async move { all_methods!(&mut *connection) })
        .await
        .unwrap();

    let mut transaction: sqlx::Transaction<'static, Db> = database.pool.begin().await.unwrap();
    tokio::spawn(async move {
        all_methods!(&mut *transaction);
        transaction.commit().await.unwrap();
    })
    .await
    .unwrap();

    let pool = database.pool.clone();
    tokio::spawn(async move {
        let run = rowlock::transaction(&pool).run(async |tx| {
            all_methods!(&mut *tx);
            Ok::<_, sqlx::Error>(())
        });
        run.await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(database.open_transactions().await, 0);
}

/// A function of the user's that was generic over `Acquire` before there was rowlock.
async fn rename<'c>(db: impl sqlx::Acquire<'c, Database = Db> + Send, id: i64) -> Article {
    Article::update_with(db, id, |article| article.title.push('!'))
        .await
        .unwrap()
}

/// One that also takes a `Tx`.
// An `async fn` over `impl Source` would not be `Send` for every lifetime.
#[allow(clippy::manual_async_fn)]
fn like<'c>(db: impl Source<'c, Db>, id: i64) -> impl Future<Output = i32> + Send {
    async move { Article::add_likes(db, id, 1).await.unwrap() }
}

#[tokio::test]
async fn functions_that_are_generic_over_what_they_run_on_can_hand_it_on() {
    let database = database(DDL).await;
    let pool = database.pool.clone();
    let run = tokio::spawn(async move {
        let id = Article::find_or_create(&pool, new("a")).await.unwrap().id;
        rename(&pool, id).await;
        like(&pool, id).await;
        let lanes = Lanes::new(&pool, 1).await.unwrap();
        like(&lanes, id).await;
        lanes.close().await;
        let mut connection = pool.acquire().await.unwrap();
        rename(&mut *connection, id).await;
        like(&mut connection, id).await;
        let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
        rename(&mut tx, id).await;
        like(&mut *tx, id).await;
        tx.commit().await.unwrap();
        drop(connection);
        let run = rowlock::transaction(&pool).run(async |tx| {
            rename(&mut **tx, id).await;
            Ok::<_, sqlx::Error>(like(tx, id).await)
        });
        (run.await.unwrap(), Article::load(&pool, id).await.unwrap())
    });
    let (likes, article) = run.await.unwrap();
    assert_eq!((likes, article.title.as_str()), (5, "a title!!!!"));
}

#[derive(Debug, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    tenant: i64,
    #[rowlock(run_at)]
    run_at: chrono::DateTime<chrono::Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    leased_until: Option<chrono::DateTime<chrono::Utc>>,
}

const JOBS: &str = "CREATE TABLE jobs (id {id}, tenant bigint NOT NULL, run_at {timestamp} NOT NULL, state text NOT NULL,
    attempts int NOT NULL, fence bigint NOT NULL, leased_until {timestamp})";

/// As `all_methods`, on the seven rows of one tenant.
macro_rules! all_of_a_queue {
    ($db:expr, $tenant:literal) => {{
        let minute = Duration::from_secs(60);
        let now = Duration::ZERO;
        let claim = Job::claim($db, 7)
            .only(Job::TENANT, $tenant)
            .lease(minute)
            .backoff(now, now);
        let mut batch = claim.await.unwrap();
        assert_eq!(Job::rescue($db).await.unwrap().ready, 0);
        let new = |id: i64| NewJob {
            id: id + $tenant,
            tenant: 100,
        };
        let hour = Duration::from_secs(3600);
        let enqueued = Job::enqueue($db, new(1000)).delay(hour);
        assert_eq!(enqueued.await.unwrap().tenant, 100);
        let enqueued = Job::enqueue_many($db, [new(2000), new(3000)]);
        assert_eq!(enqueued.at(chrono::Utc::now()).await.unwrap().len(), 2);
        let unlike = Job::claim($db, 1).when(Job::TENANT.lt(0));
        assert!(unlike.await.unwrap().is_empty());
        let none = Job::cancel($db, 0).await.unwrap();
        assert_eq!(none, rowlock::queue::Cancelled::NotFound);
        let mut next = || batch.pop().unwrap();
        let first = next();
        first.extend($db, minute).await.unwrap();
        first.complete($db).await.unwrap();
        next().retry($db, "no").await.unwrap();
        next().retry_after($db, "no", now).await.unwrap();
        next().snooze($db, now).await.unwrap();
        next().release($db).await.unwrap();
        next().fail($db, "no").await.unwrap();
        let lost = Claimed::extend_many($db, &mut batch, minute).await.unwrap();
        assert_eq!((lost.len(), batch.len()), (0, 1));
        let lost = Claimed::retry_many($db, [(batch.remove(0), "no")]).await;
        assert!(lost.unwrap().is_empty());
        for how in ["release", "snooze", "fail", "complete"] {
            let claim = Job::claim($db, 1).only(Job::TENANT, $tenant);
            let batch = claim.await.unwrap();
            assert_eq!(batch.len(), 1);
            let lost = match how {
                "release" => Claimed::release_many($db, batch).await,
                "snooze" => Claimed::snooze_many($db, batch, now).await,
                "fail" => Claimed::fail_many($db, batch.into_iter().map(|job| (job, "no"))).await,
                _ => Claimed::complete_many($db, batch).await,
            };
            assert!(lost.unwrap().is_empty());
        }
    }};
}

#[tokio::test]
async fn every_method_of_a_queue_can_be_spawned() {
    let database = database(JOBS).await;
    for job in 0..28 {
        sqlx::query("INSERT INTO jobs (tenant, run_at, state, attempts, fence) VALUES ($1, $2, 'ready', 0, 0)")
            .bind(job % 4)
            .bind(chrono::DateTime::UNIX_EPOCH)
            .execute(&database.pool)
            .await
            .unwrap();
    }
    let pool = database.pool.clone();
    tokio::spawn(async move { all_of_a_queue!(&pool, 0) })
        .await
        .unwrap();

    let lanes = Lanes::new(&database.pool, 1).await.unwrap();
    tokio::spawn(async move {
        all_of_a_queue!(&lanes, 3);
        lanes.close().await;
    })
    .await
    .unwrap();

    let mut connection = database.pool.acquire().await.unwrap();
    tokio::spawn(async move { all_of_a_queue!(&mut *connection, 1) })
        .await
        .unwrap();

    let mut transaction: sqlx::Transaction<'static, Db> = database.pool.begin().await.unwrap();
    tokio::spawn(async move {
        all_of_a_queue!(&mut *transaction, 2);
        let claim = Job::claim(&mut *transaction, 1).only(Job::TENANT, 2);
        let job = claim.await.unwrap().remove(0);
        job.complete_in(&mut transaction).await.unwrap();
        transaction.commit().await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(database.open_transactions().await, 0);
}
