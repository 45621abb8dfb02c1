//! `create`, `create_unless_conflict`, and upserts under control.

use std::sync::Arc;

use rowlock::row::CreateError;
use rowlock::{Fault, FindOrCreate};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Pool, database};

const TASKS: usize = 8;

/// Two `String`s in one key, which once did not compile: E0700.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "repositories", unique(host, host_id), unique(name))]
struct Repository {
    #[rowlock(key, generated)]
    id: i64,
    host: String,
    host_id: String,
    name: String,
    stars: i64,
}

const REPOSITORIES: &str = "CREATE TABLE repositories (id {id}, host text NOT NULL, host_id text NOT NULL, name text NOT NULL,
    stars bigint NOT NULL CHECK (stars >= 0), UNIQUE (host, host_id), UNIQUE (name))";

fn repository(host_id: &str, name: &str) -> NewRepository {
    NewRepository {
        host: "github".to_owned(),
        host_id: host_id.to_owned(),
        name: name.to_owned(),
        stars: 1,
    }
}

async fn count(pool: &Pool, table: &str) -> i64 {
    let sql = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// What eight of these futures yield that begin at once.
async fn race<T, F>(call: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(TASKS));
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        let (future, barrier) = (call(number), barrier.clone());
        tasks.spawn(async move {
            barrier.wait().await;
            future.await
        });
    }
    tasks.join_all().await
}

#[tokio::test]
async fn create_yields_the_row_or_none_if_its_key_is_taken() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    let created = Repository::create_by_host_and_host_id(pool, repository("1", "a")).await;
    let created = created.unwrap().expect("nobody has the key");
    let found = Repository::find_by_host_and_host_id(pool, "github", "1").await;
    assert_eq!(found.unwrap(), Some(created.clone()));
    let again = Repository::create_by_host_and_host_id(pool, repository("1", "b")).await;
    assert_eq!(again.unwrap(), None);
    assert_eq!(
        Repository::find_by_name(pool, "a").await.unwrap(),
        Some(created)
    );
    assert_eq!(count(pool, "repositories").await, 1);
}

#[tokio::test]
async fn create_unless_conflict_yields_none_if_any_key_is_taken() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    let first = Repository::create_unless_conflict(pool, repository("1", "a")).await;
    assert!(first.unwrap().is_some());
    for (host_id, name, free) in [("1", "b", false), ("2", "a", false), ("2", "b", true)] {
        let created = Repository::create_unless_conflict(pool, repository(host_id, name)).await;
        assert_eq!(created.unwrap().is_some(), free, "{host_id} {name}");
    }
    assert_eq!(count(pool, "repositories").await, 2);
}

/// Of an index that is not the declared one, unless the row is the one that was asked for.
#[tokio::test]
async fn create_reports_a_violation_of_another_index_and_the_transaction_goes_on() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    let mut transaction = pool.begin().await.unwrap();
    for (host_id, name) in [("1", "a"), ("2", "a"), ("3", "b")] {
        let created =
            Repository::create_by_host_and_host_id(&mut *transaction, repository(host_id, name))
                .await;
        match created {
            Ok(created) => assert!(created.is_some() && host_id != "2"),
            Err(CreateError::Database(error)) => {
                assert_eq!(error.fault(), Fault::UniqueViolation);
                assert_eq!(host_id, "2");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    let refused = NewRepository {
        stars: -1,
        ..repository("4", "c")
    };
    let refused = Repository::create_unless_conflict(&mut *transaction, refused)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, CreateError::Database(error) if error.fault() == Fault::CheckViolation),
        "{refused:?}"
    );
    transaction.commit().await.unwrap();
    assert_eq!(count(pool, "repositories").await, 2);
}

#[tokio::test]
async fn create_needs_the_index_of_the_key_and_create_unless_conflict_does_not() {
    let database = database(
        "CREATE TABLE repositories (id {id}, host text NOT NULL, host_id text NOT NULL, name text NOT NULL UNIQUE, stars bigint NOT NULL)",
    )
    .await;
    let pool = &database.pool;
    let refused = Repository::create_by_host_and_host_id(pool, repository("1", "a")).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, CreateError::MissingUniqueIndex(_, "host,host_id")),
        "{refused:?}"
    );
    assert_eq!(count(pool, "repositories").await, 0);
    let created = Repository::create_unless_conflict(pool, repository("1", "a")).await;
    assert!(created.unwrap().is_some());
}

#[tokio::test]
async fn of_eight_that_create_at_once_one_does() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    let created = race(|number| {
        let pool = pool.clone();
        async move {
            // Equal in both keys: the one that is not declared here can be met first.
            let new = NewRepository {
                stars: number as i64,
                ..repository("1", "a")
            };
            Repository::create_by_host_and_host_id(&pool, new)
                .await
                .unwrap()
        }
    });
    assert_eq!(created.await.iter().flatten().count(), 1);
    let created = race(|number| {
        let pool = pool.clone();
        let (host_id, name) = if number % 2 == 0 {
            ("2", "b")
        } else {
            ("3", "b")
        };
        async move {
            Repository::create_unless_conflict(&pool, repository(host_id, name))
                .await
                .unwrap()
        }
    });
    assert_eq!(created.await.iter().flatten().count(), 1);
    assert_eq!(count(pool, "repositories").await, 2);
}

#[tokio::test]
async fn naive_twin_looks_and_then_inserts_and_seven_of_eight_fail() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    let looked = Arc::new(Barrier::new(TASKS));
    let created = race(|_| {
        let (pool, looked) = (pool.clone(), looked.clone());
        async move {
            let there = count(&pool, "repositories").await;
            looked.wait().await;
            assert_eq!(there, 0);
            let insert = "INSERT INTO repositories (host, host_id, name, stars) VALUES ('github', '1', 'a', 1)";
            pool.execute(insert).await
        }
    });
    let failed = created
        .await
        .iter()
        .filter(|inserted| inserted.is_err())
        .count();
    assert_eq!(failed, TASKS - 1);
}

/// It waits for the end of the transaction that has the key.
#[tokio::test]
async fn create_waits_for_an_insert_that_is_not_committed() {
    for commits in [true, false] {
        let database = database(REPOSITORIES).await;
        let mut first = database.pool.begin().await.unwrap();
        let created = Repository::create_by_name(&mut *first, repository("1", "a")).await;
        assert!(created.unwrap().is_some());
        let pool = database.pool.clone();
        let second =
            tokio::spawn(
                async move { Repository::create_by_name(&pool, repository("1", "a")).await },
            );
        database.until_blocked().await;
        if commits {
            first.commit().await.unwrap();
        } else {
            first.rollback().await.unwrap();
        }
        let second = second.await.unwrap().unwrap();
        assert_eq!(second.is_none(), commits);
    }
}

/// As the documentation says. So does AUTOINCREMENT on SQLite.
#[tokio::test]
async fn none_uses_up_a_value_of_the_sequence() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    let create = async |host_id, name| {
        let created = Repository::create_unless_conflict(pool, repository(host_id, name)).await;
        created.unwrap().map(|row| row.id)
    };
    assert_eq!(create("1", "a").await, Some(1));
    assert_eq!(create("1", "a").await, None);
    assert_eq!(create("2", "b").await, Some(3));
}
