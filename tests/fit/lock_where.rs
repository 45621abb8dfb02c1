//! `Lockable`: the rows that meet a condition, or that have another unique key.

use rowlock::row::LockError;
use rowlock::{Guarded, Lockable, transaction};

use super::{Db, NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Guarded, Lockable)]
#[rowlock(table = "releases")]
struct Release {
    #[rowlock(key)]
    id: i64,
    name: String,
    version: String,
    yanked: bool,
}

const RELEASES: &str =
    "CREATE TABLE releases (id bigint PRIMARY KEY, name text NOT NULL, version text NOT NULL,
        yanked boolean NOT NULL DEFAULT false, UNIQUE (name, version));
    INSERT INTO releases (id, name, version) VALUES (3, 'a', '1'), (1, 'a', '2'), (2, 'b', '1')";

#[tokio::test]
async fn the_rows_that_meet_a_condition_are_locked_in_key_order() {
    let database = database(RELEASES).await;
    let pool = &database.pool;
    let ids = transaction(pool)
        .run(async |tx| -> Result<_, rowlock::Error> {
            let one = Release::NAME.eq("a").and(Release::VERSION.eq("2"));
            let one = Release::lock_where(&mut *tx, one).await?;
            assert_eq!((one.len(), one[0].id), (1, 1));
            let none = Release::lock_where(&mut *tx, Release::NAME.eq("z")).await?;
            assert!(none.is_empty());
            let mut all = Release::lock_where(&mut *tx, Release::NAME.eq("a")).await?;
            for release in &mut all {
                release.yanked = true;
                release.save(&mut *tx).await?;
            }
            Ok(all.iter().map(|release| release.id).collect::<Vec<_>>())
        })
        .await
        .unwrap();
    assert_eq!(ids, [1, 3]);
    let yanked: i64 = sqlx::query_scalar("SELECT count(*) FROM releases WHERE yanked")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(yanked, 2);
}

#[tokio::test]
async fn outside_of_a_transaction_it_is_refused() {
    let database = database(RELEASES).await;
    let mut connection = database.pool.acquire().await.unwrap();
    let outside = Release::lock_where(&mut *connection, Release::NAME.eq("a")).await;
    assert!(
        matches!(outside, Err(LockError::NotInTransaction(_))),
        "{outside:?}"
    );
}

/// Whoever has the rows counts alone; all the others wait and count on.
#[tokio::test]
async fn a_row_that_changed_meanwhile_is_the_newest_or_left_out() {
    let database = database(RELEASES).await;
    let yank = async |pool: &Pool| {
        transaction(pool)
            .run(async |tx| -> Result<usize, rowlock::Error> {
                let open = Release::NAME.eq("a").and(Release::YANKED.eq(false));
                let mut first = Release::lock_where(&mut *tx, open).await?;
                let Some(release) = first.first_mut() else {
                    return Ok(0);
                };
                release.yanked = true;
                release.save(&mut *tx).await?;
                Ok(1)
            })
            .await
            .unwrap()
    };
    let pool = &database.pool;
    let yanked = tokio::join!(yank(pool), yank(pool), yank(pool), yank(pool));
    let yanked = yanked.0 + yanked.1 + yanked.2 + yanked.3;
    assert_eq!(yanked, 2, "{NAME}");
}

#[tokio::test]
async fn a_lock_under_a_condition_can_be_spawned() {
    let database = database(RELEASES).await;
    let pool: sqlx::Pool<Db> = database.pool.clone();
    let task = tokio::spawn(async move {
        let mut tx = pool.begin().await.unwrap();
        let locked = Release::lock_where(&mut tx, Release::YANKED.eq(false))
            .nowait()
            .await;
        locked.unwrap().len()
    });
    assert_eq!(task.await.unwrap(), 3);
}
