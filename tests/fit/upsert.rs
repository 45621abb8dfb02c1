//! `create`, `create_unless_conflict`, and upserts under control.

use std::sync::Arc;

use rowlock::row::{CreateError, UpdatedOrCreated, UpsertError};
use rowlock::{Fault, FindOrCreate};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{NAME, Pool, database};

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

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "packages", unique(name))]
struct Package {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    title: String,
    #[rowlock(insert_only)]
    author: String,
    #[rowlock(on_insert = "abs(-42)")]
    token: i64,
    #[rowlock(on_update = "\"packages\".\"changes\" + 1")]
    changes: i64,
    #[rowlock(version)]
    version: i64,
}

const PACKAGES: &str = "CREATE TABLE packages (id {id}, name text NOT NULL UNIQUE, title text NOT NULL, author text NOT NULL,
    token bigint NOT NULL, changes bigint NOT NULL DEFAULT 0, version bigint NOT NULL)";

fn package(title: &str, author: &str) -> NewPackage {
    NewPackage {
        name: "a".to_owned(),
        title: title.to_owned(),
        author: author.to_owned(),
    }
}

#[tokio::test]
async fn an_upsert_keeps_what_is_insert_only_and_sets_what_is_on_update() {
    let database = database(PACKAGES).await;
    let pool = &database.pool;
    let created = Package::upsert(pool, package("first", "ann"))
        .await
        .unwrap();
    let of = |row: &Package| (row.token, row.changes, row.version);
    assert_eq!((of(&created), created.author.as_str()), ((42, 0, 0), "ann"));
    pool.execute("UPDATE packages SET token = 7").await.unwrap();

    let updated = Package::upsert(pool, package("second", "ben"))
        .await
        .unwrap();
    assert_eq!((of(&updated), updated.author.as_str()), ((7, 1, 1), "ann"));
    assert_eq!(updated.title, "second");

    // What is insert-only is no change, nor is what the expression sets.
    let same = Package::update_or_create(pool, package("second", "eve"))
        .await
        .unwrap();
    let UpdatedOrCreated::Updated(same) = same else {
        panic!("{same:?}");
    };
    assert_eq!((of(&same), same.author.as_str()), ((7, 2, 1), "ann"));
}

/// With nothing else to overwrite.
#[tokio::test]
async fn on_update_alone_is_an_upsert() {
    #[derive(Debug, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "visits", unique(visitor))]
    struct Visit {
        visitor: i64,
        #[rowlock(on_insert = "1", on_update = "\"visits\".\"times\" + 1")]
        times: i64,
        #[rowlock(version)]
        version: i64,
    }
    let table = "CREATE TABLE visits (visitor bigint PRIMARY KEY, times bigint NOT NULL, version bigint NOT NULL)";
    let database = database(table).await;
    let pool = &database.pool;
    let visits = race(|_| {
        let pool = pool.clone();
        async move { Visit::upsert(&pool, NewVisit { visitor: 1 }).await.unwrap() }
    });
    let mut times: Vec<_> = visits
        .await
        .iter()
        .map(|visit| (visit.times, visit.version))
        .collect();
    times.sort_unstable();
    assert_eq!(times, (1..=8).map(|times| (times, 0)).collect::<Vec<_>>());
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "repositories", unique(host, host_id))]
struct Starred {
    #[rowlock(key, generated)]
    id: i64,
    host: String,
    host_id: String,
    name: String,
    stars: i64,
}

fn starred(host_id: &str, stars: i64) -> NewStarred {
    NewStarred {
        host: "github".to_owned(),
        host_id: host_id.to_owned(),
        name: host_id.to_owned(),
        stars,
    }
}

#[tokio::test]
async fn update_or_create_tells_which() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    let created = Starred::update_or_create(pool, starred("1", 1))
        .await
        .unwrap();
    assert!(created.is_created());
    let updated = Starred::update_or_create(pool, starred("1", 2))
        .await
        .unwrap();
    let expected = Starred {
        stars: 2,
        ..created.into_inner()
    };
    assert_eq!(updated, UpdatedOrCreated::Updated(expected));
    // In one transaction, with savepoints and without, created and overwritten.
    let mut transaction = pool.begin().await.unwrap();
    for (stars, new) in [(1, true), (2, false), (3, false)] {
        let row = Starred::update_or_create(&mut *transaction, starred("2", stars))
            .await
            .unwrap();
        assert_eq!((row.is_created(), row.stars), (new, stars));
    }
    transaction.commit().await.unwrap();
    let row = Starred::update_or_create(pool, starred("2", 4))
        .await
        .unwrap();
    assert_eq!((row.is_created(), row.stars), (false, 4));
}

/// Each of them shows in the row's header, where the outcome is read from.
#[tokio::test]
async fn update_or_create_is_not_misled_by_locks_and_children() {
    if NAME == "SQLite" {
        return;
    }
    let database = database(&format!(
        // An upsert of a column that is in a unique index waits for whoever has the key.
        "{}; CREATE TABLE children (parent bigint REFERENCES repositories)",
        REPOSITORIES.replace(", UNIQUE (name)", "")
    ))
    .await;
    let pool = &database.pool;
    let created = Starred::update_or_create(pool, starred("1", 0))
        .await
        .unwrap();
    assert!(created.is_created());
    let overwritten = async |why: &str| {
        let row = Starred::update_or_create(pool, starred("1", 1))
            .await
            .unwrap();
        assert!(!row.is_created(), "{why}");
    };
    for (why, lock) in [
        (
            "a child that is not committed",
            "INSERT INTO children SELECT id FROM repositories",
        ),
        ("a lock", "SELECT FROM repositories FOR KEY SHARE"),
    ] {
        // One locker, and two.
        let mut first = pool.begin().await.unwrap();
        first.execute(lock).await.unwrap();
        overwritten(why).await;
        let mut second = pool.begin().await.unwrap();
        second.execute(lock).await.unwrap();
        overwritten(why).await;
        first.commit().await.unwrap();
        overwritten(why).await;
        second.rollback().await.unwrap();
        overwritten(why).await;
    }
    // Locked by the transaction itself, in a part that was undone, and in one that was not.
    let mut transaction = pool.begin().await.unwrap();
    for sql in [
        "SAVEPOINT a; SELECT FROM repositories FOR UPDATE; ROLLBACK TO a",
        "SAVEPOINT b; SELECT FROM repositories FOR UPDATE; RELEASE b",
        "SELECT FROM repositories FOR SHARE",
        "UPDATE repositories SET stars = 5",
        "DELETE FROM children",
    ] {
        transaction.execute(sql).await.unwrap();
        let row = Starred::update_or_create(&mut *transaction, starred("1", 1))
            .await
            .unwrap();
        assert!(!row.is_created(), "{sql}");
    }
    transaction
        .execute("DELETE FROM repositories")
        .await
        .unwrap();
    let row = Starred::update_or_create(&mut *transaction, starred("1", 1))
        .await
        .unwrap();
    assert!(row.is_created());
    transaction.rollback().await.unwrap();

    // Whoever locks and waits: the upsert comes after, and overwrites what the other wrote.
    let mut holder = pool.begin().await.unwrap();
    holder
        .execute("UPDATE repositories SET stars = 9")
        .await
        .unwrap();
    let task = tokio::spawn({
        let pool = pool.clone();
        async move {
            Starred::update_or_create(&pool, starred("1", 10))
                .await
                .unwrap()
        }
    });
    database.until_blocked().await;
    holder.commit().await.unwrap();
    let row = task.await.unwrap();
    assert_eq!((row.is_created(), row.stars), (false, 10));
}

#[tokio::test]
async fn of_eight_that_update_or_create_at_once_one_creates() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    for (round, host_id) in ["1", "2", "3", "4"].into_iter().enumerate() {
        let told = race(|number| {
            let pool = pool.clone();
            async move {
                Starred::update_or_create(&pool, starred(host_id, number as i64))
                    .await
                    .unwrap()
            }
        });
        let created = told.await.iter().filter(|row| row.is_created()).count();
        assert_eq!(created, 1);
        assert_eq!(count(pool, "repositories").await, round as i64 + 1);
    }
}

/// The naive twin: who looks first says "created" eight times.
#[tokio::test]
async fn naive_twin_looks_before_the_upsert_and_tells_it_wrong() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    let looked = Arc::new(Barrier::new(TASKS));
    let told = race(|number| {
        let (pool, looked) = (pool.clone(), looked.clone());
        async move {
            let there = count(&pool, "repositories").await > 0;
            looked.wait().await;
            Starred::upsert(&pool, starred("1", number as i64))
                .await
                .unwrap();
            !there
        }
    });
    assert_eq!(
        told.await.into_iter().filter(|created| *created).count(),
        TASKS
    );
}

#[tokio::test]
async fn update_or_create_reports_what_an_upsert_does() {
    let database = database(REPOSITORIES).await;
    let pool = &database.pool;
    for host_id in ["1", "2"] {
        Starred::update_or_create(pool, starred(host_id, 1))
            .await
            .unwrap();
    }
    let mut transaction = pool.begin().await.unwrap();
    for new in [
        // The name of the other row, by one that is there and by one that is not.
        NewStarred {
            name: "2".to_owned(),
            ..starred("1", 1)
        },
        NewStarred {
            name: "2".to_owned(),
            ..starred("3", 1)
        },
    ] {
        let refused = Starred::update_or_create(&mut *transaction, new)
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, UpsertError::Database(error) if error.fault() == Fault::UniqueViolation),
            "{refused:?}"
        );
    }
    let row = Starred::update_or_create(&mut *transaction, starred("1", 2))
        .await
        .unwrap();
    assert_eq!((row.is_created(), row.stars), (false, 2));
    transaction.commit().await.unwrap();
    pool.execute("ALTER TABLE repositories RENAME TO old")
        .await
        .unwrap();
    let without = "CREATE TABLE repositories AS SELECT * FROM old WHERE false";
    pool.execute(without).await.unwrap();
    let refused = Starred::update_or_create(pool, starred("1", 1))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, UpsertError::MissingUniqueIndex(..)),
        "{refused:?}"
    );
}

/// As the documentation says: an error, and nothing is written.
#[tokio::test]
async fn update_or_create_of_a_partitioned_table_is_refused() {
    if NAME == "SQLite" {
        return;
    }
    let database = database(
        "CREATE TABLE repositories (id bigint NOT NULL DEFAULT 1, host text NOT NULL, host_id text NOT NULL, name text NOT NULL,
            stars bigint NOT NULL, UNIQUE (host, host_id)) PARTITION BY LIST (host);
         CREATE TABLE of_github PARTITION OF repositories FOR VALUES IN ('github')",
    )
    .await;
    let pool = &database.pool;
    let refused = Starred::update_or_create(pool, starred("1", 1))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, UpsertError::Database(error) if error.code().as_deref() == Some("0A000")),
        "{refused:?}"
    );
    assert_eq!(count(pool, "repositories").await, 0);
    Starred::upsert(pool, starred("1", 1)).await.unwrap();
}
