//! Locks in REPEATABLE READ and SERIALIZABLE that find no row: the snapshot may be older than the row.

use rowlock::row::{LockCheckedError, LockError};
use rowlock::{Guarded, Lockable};
use sqlx::Executor;

use super::database;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Guarded, Lockable)]
#[rowlock(table = "things")]
struct Thing {
    #[rowlock(key)]
    id: i64,
    name: String,
    #[rowlock(version)]
    version: i64,
}

const THINGS: &str =
    "CREATE TABLE things (id bigint PRIMARY KEY, name text NOT NULL, version bigint NOT NULL DEFAULT 0);
    INSERT INTO things VALUES (1, 'old'), (2, 'old')";

const LATE: &str = "INSERT INTO things VALUES (9, 'late')";

fn refused<T: std::fmt::Debug>(lock: Result<T, LockError>) {
    assert!(matches!(lock, Err(LockError::FixedSnapshot(_))), "{lock:?}");
}

#[tokio::test]
async fn a_row_that_the_snapshot_does_not_have_is_no_row_that_is_missing() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let database = database(THINGS).await;
        let pool = &database.pool;
        let begin = sqlx::AssertSqlSafe(format!("BEGIN ISOLATION LEVEL {level}"));
        let mut tx = pool.begin_with(begin).await.unwrap();
        tx.execute("SELECT 1").await.unwrap();
        pool.execute(LATE).await.unwrap();
        let late = || Thing::NAME.eq("late");
        refused(Thing::lock_where(&mut tx, late()).await);
        refused(Thing::lock_where(&mut tx, late()).share().await);
        refused(Thing::lock_where(&mut tx, late()).skip_locked().await);
        refused(Thing::lock_where(&mut tx, late().or(Thing::ID.eq(1))).await);
        refused(Thing::lock(&mut tx, 9).await);
        refused(Thing::lock(&mut tx, 9).skip_locked().await);
        refused(Thing::lock_many(&mut tx, [9]).await);
        refused(Thing::lock_many(&mut tx, [9]).skip_locked().await);
        let copy: Thing = sqlx::query_as("SELECT * FROM things WHERE id = 9")
            .fetch_one(pool)
            .await
            .unwrap();
        let checked = copy.lock_checked(&mut tx).await;
        assert!(
            matches!(
                checked,
                Err(LockCheckedError::Lock(LockError::FixedSnapshot(_)))
            ),
            "{checked:?}"
        );
        // For itself the snapshot is what counts.
        let none = Thing::lock_where(&mut tx, late()).only_itself().await;
        assert!(none.unwrap().is_empty());
        let either = late().or(Thing::NAME.eq("old"));
        let locked = Thing::lock_where(&mut tx, either).only_itself().await;
        let ids: Vec<i64> = locked.unwrap().iter().map(|locked| locked.id).collect();
        assert_eq!(ids, [1, 2]);
        let missing = Thing::lock(&mut tx, 9).only_itself().await;
        assert!(
            matches!(missing, Err(LockError::NotFound(_))),
            "{missing:?}"
        );
        tx.commit().await.unwrap();
    }
}

/// A row of the snapshot that does not meet the condition any more, or has come to meet it since.
#[tokio::test]
async fn for_itself_a_row_that_changed_since_is_serialization_if_the_snapshot_meets_the_condition()
{
    let database = database(THINGS).await;
    let pool = &database.pool;
    for (name, ends) in [("old", true), ("late", false)] {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
        let mut tx = pool.begin_with(begin).await.unwrap();
        tx.execute("SELECT 1").await.unwrap();
        let change = "UPDATE things SET name = CASE name WHEN 'late' THEN 'old' ELSE 'late' END WHERE id = 1";
        pool.execute(change).await.unwrap();
        let locked = Thing::lock_where(&mut tx, Thing::NAME.eq(name)).only_itself();
        match locked.await {
            Err(LockError::Serialization(_)) => assert!(ends),
            locked => assert_eq!((locked.unwrap().len(), ends), (0, false)),
        }
        tx.rollback().await.unwrap();
        pool.execute("UPDATE things SET name = 'old'")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn in_read_committed_each_statement_has_the_newest() {
    let database = database(THINGS).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    let none = Thing::lock_where(&mut tx, Thing::NAME.eq("late")).await;
    assert!(none.unwrap().is_empty());
    let missing = Thing::lock(&mut tx, 9).await;
    assert!(
        matches!(missing, Err(LockError::NotFound(_))),
        "{missing:?}"
    );
    pool.execute(LATE).await.unwrap();
    let one = Thing::lock_where(&mut tx, Thing::NAME.eq("late")).await;
    assert_eq!(one.unwrap().len(), 1);
    assert_eq!(Thing::lock(&mut tx, 9).await.unwrap().id, 9);
}
