//! `#[rowlock(fence)]`: who lost a lock to a later holder cannot write any more.

use rowlock::row::{DeleteError, LockError, UpdateError, UpsertError};
use rowlock::tx::TransactionError;
use rowlock::{Fence, FindOrCreate, Lockable, Versioned, transaction};

use super::{Database, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, FindOrCreate)]
#[rowlock(table = "reports")]
struct Report {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(unique)]
    name: String,
    body: String,
    pages: i64,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(version)]
    version: i64,
}

const REPORTS: &str =
    "CREATE TABLE reports (id {id}, name text NOT NULL UNIQUE, body text NOT NULL,
    pages bigint NOT NULL, fence bigint NOT NULL DEFAULT 0, version bigint NOT NULL)";

/// As a guard would mint it.
async fn fence(database: &Database, number: i64) -> Fence {
    sqlx::query_scalar("SELECT CAST($1 AS bigint)")
        .bind(number)
        .fetch_one(&database.pool)
        .await
        .unwrap()
}

fn new(body: &str, fence: Fence) -> NewReport {
    NewReport {
        name: "sales".to_owned(),
        body: body.to_owned(),
        pages: 1,
        fence,
    }
}

async fn stored(database: &Database) -> Report {
    Report::find_by_name(&database.pool, "sales")
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn an_earlier_holder_cannot_write() {
    let database = database(REPORTS).await;
    let pool = &database.pool;
    let (first, second) = (fence(&database, 5).await, fence(&database, 6).await);
    let row = Report::find_or_create(pool, new("empty", Fence::default()))
        .await
        .unwrap()
        .into_inner();

    // The first holder works.
    let mine = Report {
        fence: first,
        body: "first".to_owned(),
        ..row
    }
    .update(pool)
    .await
    .unwrap();
    assert_eq!((mine.fence, mine.version), (first, 1));
    // It is paused, and the second holder writes.
    let theirs = Report {
        fence: second,
        ..mine.clone()
    }
    .touch(pool)
    .await
    .unwrap();
    assert_eq!(stored(&database).await, theirs);

    // Even if it reads the row again, so that its version is right, as long as it shows its own fence.
    let awake = Report {
        fence: first,
        ..stored(&database).await
    };
    let refused = awake.update(pool).await.unwrap_err();
    assert!(
        matches!(&refused, UpdateError::Fenced(_, by) if *by == second),
        "{refused:?}"
    );
    assert_eq!(
        refused.to_string(),
        format!(
            "update of reports (id = {}): the row was written with the fence 6, by a later holder of the lock",
            mine.id
        )
    );
    assert!(matches!(
        awake.touch(pool).await,
        Err(UpdateError::Fenced(..))
    ));
    assert!(matches!(
        awake.delete(pool).await,
        Err(DeleteError::Fenced(..))
    ));
    let mut edit = stored(&database).await.edit();
    edit.fence = first;
    edit.body.push('!');
    assert!(matches!(
        edit.save(pool).await,
        Err(UpdateError::Fenced(..))
    ));
    let refused = Report::update_with(pool, mine.id, |report| report.fence = first).await;
    assert!(
        matches!(refused, Err(UpdateError::Fenced(..))),
        "{refused:?}"
    );
    // With the old version it is no conflict to merge either.
    assert!(matches!(
        mine.update(pool).await,
        Err(UpdateError::Fenced(..))
    ));
    let refused = Report::upsert(pool, new("late", first)).await.unwrap_err();
    assert!(
        matches!(&refused, UpsertError::Fenced(_, by) if *by == second),
        "{refused:?}"
    );
    let refused = transaction(pool)
        .run(async |tx| {
            let mut report = Report::lock(&mut *tx, mine.id).await?;
            report.fence = first;
            report.save(&mut *tx).await
        })
        .await;
    assert!(
        matches!(&refused, Err(TransactionError::Failed(LockError::Fenced(_, by))) if *by == second),
        "{refused:?}"
    );
    assert_eq!(stored(&database).await, theirs);

    // The naive twin does not look.
    sqlx::query("UPDATE reports SET body = 'late' WHERE name = 'sales'")
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(stored(&database).await.body, "late");
}

#[tokio::test]
async fn the_same_and_a_later_holder_can_write() {
    let database = database(REPORTS).await;
    let pool = &database.pool;
    let (first, second) = (fence(&database, 5).await, fence(&database, 6).await);
    let row = Report::upsert(pool, new("a", first)).await.unwrap();
    assert_eq!((row.fence, row.version), (first, 0));
    let row = Report::upsert(pool, new("b", first)).await.unwrap();
    let row = Report {
        body: "c".to_owned(),
        ..row
    }
    .update(pool)
    .await
    .unwrap();
    let mut edit = row.edit();
    edit.fence = second;
    edit.body.push('d');
    let row = edit.save(pool).await.unwrap();
    assert_eq!(
        (row.body.as_str(), row.fence, row.version),
        ("cd", second, 3)
    );
    // With nothing else to save, a new holder still marks the row.
    let mut edit = row.edit();
    edit.fence = fence(&database, 7).await;
    let marked = edit.save(pool).await.unwrap();
    assert_eq!((marked.fence.get(), marked.version), (7, 4));
    assert_eq!(stored(&database).await, marked);
    let mut unchanged = row.edit();
    unchanged.fence = row.fence;
    assert_eq!(unchanged.save(pool).await.unwrap(), row);
    let row = marked;
    let saved = transaction(pool)
        .run(async |tx| {
            let mut report = Report::lock(&mut *tx, row.id).await?;
            report.body.push('e');
            report.save(&mut *tx).await?;
            Ok::<_, LockError>(report.clone())
        })
        .await
        .unwrap();
    assert_eq!(
        (saved.body.as_str(), saved.fence, saved.version),
        ("cde", row.fence, 5)
    );
    assert_eq!(stored(&database).await, *saved);
    saved.delete(pool).await.unwrap();
}

/// A merge keeps the fence of the one who merges.
#[tokio::test]
async fn a_merge_shows_the_own_fence() {
    let database = database(REPORTS).await;
    let pool = &database.pool;
    let (first, second) = (fence(&database, 5).await, fence(&database, 6).await);
    let row = Report::upsert(pool, new("a", first)).await.unwrap();
    let mut edit = row.edit();
    edit.fence = second;
    edit.body = "mine".to_owned();
    Report { pages: 9, ..row }.update(pool).await.unwrap();
    let Err(UpdateError::Stale(conflict)) = edit.save(pool).await else {
        panic!("it is stale");
    };
    let merged = conflict.merge().unwrap().save(pool).await.unwrap();
    assert_eq!(
        (merged.body.as_str(), merged.pages, merged.fence),
        ("mine", 9, second)
    );
    assert_eq!(stored(&database).await, merged);
}
