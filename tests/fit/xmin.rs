//! `#[rowlock(version)] xmin: Xmin`: the version that PostgreSQL keeps.

use std::sync::Arc;

use rowlock::row::{InsertError, UpdateError, Upserted};
use rowlock::{Counter, FindOrCreate, Guarded, Lockable, Versioned, Xmin};
use sqlx::Connection;
use tokio::sync::Barrier;

use super::{Pool, database};

#[derive(
    Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Guarded, Counter, FindOrCreate, Lockable,
)]
#[rowlock(table = "accounts", backend(Postgres), existing_rows)]
struct Account {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(unique)]
    email: String,
    name: Option<String>,
    #[rowlock(counter)]
    logins: i32,
    #[rowlock(version)]
    version: Xmin,
}

const ACCOUNTS: &str = "CREATE TABLE accounts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE, name text, logins integer NOT NULL DEFAULT 0
    );
    INSERT INTO accounts (email) VALUES ('ann')";

async fn account(pool: &Pool) -> Account {
    Account::load(pool, 1).await.unwrap()
}

async fn run(pool: &Pool, sql: &'static str) {
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

fn named(account: &Account, name: &str) -> Account {
    Account {
        name: Some(name.to_owned()),
        ..account.clone()
    }
}

#[tokio::test]
async fn the_second_of_two_copies_is_stale() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let (a, b) = (account(pool).await, account(pool).await);
    let saved = named(&a, "by a").update(pool).await.unwrap();
    assert_ne!(saved.version, a.version);
    assert_eq!(saved, account(pool).await);

    let Err(UpdateError::Stale(conflict)) = named(&b, "by b").update(pool).await else {
        panic!("not stale");
    };
    assert_eq!(conflict.current, saved);
    assert_eq!(conflict.expected_version(), i64::from(b.version.get()));
    assert_eq!(conflict.current_version(), i64::from(saved.version.get()));
    assert!(matches!(b.touch(pool).await, Err(UpdateError::Stale(_))));
    assert!(b.delete(pool).await.is_err());

    let mut edit = conflict.keep_mine();
    let mine = edit.save(pool).await.unwrap();
    assert_eq!(mine.name.as_deref(), Some("by b"));
    edit.email = "eve".to_owned();
    assert!(matches!(edit.save(pool).await, Err(UpdateError::Stale(_))));
    let touched = mine.touch(pool).await.unwrap();
    assert_ne!(touched.version, mine.version);
    let unchanged = touched.edit().save(pool).await.unwrap();
    assert_eq!(unchanged.version, touched.version);
    touched.delete(pool).await.unwrap();
    let gone = touched.touch(pool).await;
    assert!(matches!(gone, Err(UpdateError::Gone(_))), "{gone:?}");
}

#[tokio::test]
async fn any_write_is_noticed_by_whomever() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    for write in [
        "UPDATE accounts SET name = 'x'",
        "UPDATE accounts SET name = name",
    ] {
        let copy = account(pool).await;
        run(pool, write).await;
        let stale = named(&copy, "mine").update(pool).await;
        assert!(matches!(stale, Err(UpdateError::Stale(_))), "{stale:?}");
    }
    let copy = account(pool).await;
    Account::add_logins(pool, 1, 1).await.unwrap();
    let stale = named(&copy, "mine").update(pool).await;
    assert!(matches!(stale, Err(UpdateError::Stale(_))), "{stale:?}");

    let copy = account(pool).await;
    let patched = Account::patch(pool, 1, |row| row.set(Account::NAME, "y"));
    let patched = patched.await.unwrap();
    assert_eq!(patched, account(pool).await);
    assert_ne!(patched.version, copy.version);
    let same = Account::update_if(pool, 1, Account::VERSION.eq(patched.version), |row| {
        row.set(Account::NAME, "z");
    });
    let same = same.await.unwrap();
    let edit = same.edit();
    let held = edit.only_if(Account::VERSION.eq(same.version)).save(pool);
    assert_eq!(held.await.unwrap(), same);

    let new = NewAccount {
        email: "ann".to_owned(),
        name: None,
    };
    let upserted = Account::upsert(pool, new).await.unwrap();
    assert_eq!(upserted, account(pool).await);
    assert_ne!(upserted.version, same.version);
}

#[tokio::test]
async fn a_locked_row_is_saved_and_comes_back_with_its_version() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let saved = rowlock::transaction(pool)
        .run(async |tx| -> Result<_, rowlock::Error> {
            let mut account = Account::lock(&mut *tx, 1).await?;
            account.name = Some("locked".to_owned());
            account.save(&mut *tx).await?;
            account.name = Some("again".to_owned());
            account.save(&mut *tx).await?;
            Ok(account.into_inner())
        })
        .await
        .unwrap();
    assert_eq!(saved, account(pool).await);
}

#[tokio::test]
async fn a_new_row_is_a_copy_as_a_load_returns_it() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let new = Account {
        id: 0,
        email: "ben".to_owned(),
        name: None,
        logins: 0,
        version: Xmin::default(),
    };
    let inserted = new.insert(pool).await.unwrap();
    assert_eq!(inserted, Account::load(pool, inserted.id).await.unwrap());
    named(&inserted, "ben").update(pool).await.unwrap();
    let taken = new.insert(pool).await;
    assert!(
        matches!(taken, Err(InsertError::AlreadyExists(_))),
        "{taken:?}"
    );
}

#[tokio::test]
async fn a_query_of_the_users_own_reads_it() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let select = sqlx::query_as("SELECT *, xmin AS version FROM accounts");
    let own: Account = select.fetch_one(pool).await.unwrap();
    assert_eq!(own, account(pool).await);
    named(&own, "own").update(pool).await.unwrap();
}

/// It is the number of the transaction, so its own second write is no other version.
#[tokio::test]
async fn a_stale_copy_is_not_noticed_after_a_write_of_the_same_transaction() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    let first = account(pool).await.touch(&mut *tx).await.unwrap();
    let second = named(&first, "second").update(&mut *tx).await.unwrap();
    assert_eq!(second.version, first.version);
    let lost = named(&first, "from the first copy").update(&mut *tx).await;
    assert_eq!(lost.unwrap().name.as_deref(), Some("from the first copy"));

    // A savepoint has a number of its own.
    let mut savepoint = tx.begin().await.unwrap();
    let third = named(&first, "third")
        .update(&mut *savepoint)
        .await
        .unwrap();
    assert_ne!(third.version, first.version);
    savepoint.commit().await.unwrap();
    let stale = named(&first, "stale").update(&mut *tx).await;
    assert!(matches!(stale, Err(UpdateError::Stale(_))), "{stale:?}");
    tx.commit().await.unwrap();
    assert_eq!(account(pool).await, third);
}

#[tokio::test]
async fn locks_and_a_freeze_leave_it_alone() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    run(
        pool,
        "CREATE TABLE orders (account bigint NOT NULL REFERENCES accounts)",
    )
    .await;
    let copy = account(pool).await;
    run(pool, "INSERT INTO orders VALUES (1)").await;
    for lock in [
        "FOR UPDATE",
        "FOR NO KEY UPDATE",
        "FOR SHARE",
        "FOR KEY SHARE",
    ] {
        let select = sqlx::AssertSqlSafe(format!("SELECT * FROM accounts {lock}"));
        sqlx::raw_sql(select).execute(pool).await.unwrap();
    }
    run(pool, "VACUUM (FREEZE) accounts").await;
    assert_eq!(account(pool).await, copy);
    named(&copy, "after all").update(pool).await.unwrap();
}

/// No type is asked for, and nothing is prepared twice.
#[tokio::test]
async fn each_method_is_one_prepared_statement() {
    let database = database(ACCOUNTS).await;
    let mut connection = database.pool.acquire().await.unwrap();
    for name in ["a", "b", "c"] {
        let loaded = Account::load(&mut *connection, 1).await.unwrap();
        let mut edit = loaded.edit();
        edit.name = Some(name.to_owned());
        edit.save(&mut *connection).await.unwrap();
    }
    let prepared = sqlx::raw_sql("SELECT count(*) FROM pg_prepared_statements");
    let prepared = sqlx::Executor::fetch_one(&mut *connection, prepared).await;
    let prepared: i64 = sqlx::Row::get(&prepared.unwrap(), 0);
    assert_eq!(prepared, 2);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "flags", backend(Postgres))]
struct Flag {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    xmin: Xmin,
}

#[tokio::test]
async fn a_table_of_keys_has_versions_too() {
    let database = database("CREATE TABLE flags (id bigint PRIMARY KEY)").await;
    let pool = &database.pool;
    let new = Flag {
        id: 1,
        xmin: Xmin::default(),
    };
    let flag = new.insert(pool).await.unwrap();
    let touched = flag.update(pool).await.unwrap().touch(pool).await.unwrap();
    assert_eq!(touched, Flag::load(pool, 1).await.unwrap());
    let own: Flag = sqlx::query_as("SELECT *, xmin FROM flags")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(own, touched);
    assert!(matches!(flag.touch(pool).await, Err(UpdateError::Stale(_))));
}

/// Eight writers with a copy each of the same row. How many of them have written.
async fn writers<F>(write: impl Fn(Pool, Account, i32) -> F) -> (usize, Account)
where
    F: Future<Output = bool> + Send + 'static,
{
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let barrier = Arc::new(Barrier::new(8));
    let copy = account(pool).await;
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let (barrier, write) = (barrier.clone(), write(pool.clone(), copy.clone(), number));
            tokio::spawn(async move {
                barrier.wait().await;
                write.await
            })
        })
        .collect();
    let mut written = 0;
    for task in tasks {
        written += usize::from(task.await.unwrap());
    }
    (written, account(pool).await)
}

#[tokio::test]
async fn of_many_concurrent_writers_one_wins() {
    let write = |pool: Pool, copy: Account, number: i32| async move {
        match named(&copy, &number.to_string()).update(&pool).await {
            Ok(_) => true,
            Err(UpdateError::Stale(_)) => false,
            Err(error) => panic!("{error:?}"),
        }
    };
    for _ in 0..5 {
        assert_eq!(writers(write).await.0, 1);
    }
}

#[tokio::test]
async fn the_naive_twin_writes_them_all_over_each_other() {
    let write = |pool: Pool, copy: Account, number: i32| async move {
        let update = sqlx::query("UPDATE accounts SET name = $1 WHERE id = $2");
        let update = update.bind(number.to_string()).bind(copy.id);
        update.execute(&pool).await.unwrap().rows_affected() == 1
    };
    assert_eq!(writers(write).await.0, 8);
}

/// Increments by many writers: none is lost.
#[tokio::test]
async fn update_with_loses_no_update() {
    let write = |pool: Pool, copy: Account, _| async move {
        for _ in 0..5 {
            Account::update_with(&pool, copy.id, |account| {
                account.name.get_or_insert_default().push('x');
            })
            .await
            .unwrap();
        }
        true
    };
    let (_, account) = writers(write).await;
    assert_eq!(account.name.unwrap().len(), 40);
}

#[tokio::test]
async fn a_partitioned_table_has_versions_too_but_no_insert_returns_one() {
    let database = database(
        "CREATE TABLE flags (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE flags_low PARTITION OF flags FOR VALUES FROM (0) TO (10);
         INSERT INTO flags VALUES (1)",
    )
    .await;
    let pool = &database.pool;
    let flag = Flag::load(pool, 1).await.unwrap();
    let touched = flag.touch(pool).await.unwrap();
    assert_ne!(touched, flag);
    let new = Flag {
        id: 2,
        xmin: Xmin::default(),
    };
    // PostgreSQL: "cannot retrieve a system column in this context".
    let refused = new.insert(pool).await;
    assert!(
        matches!(&refused, Err(InsertError::Database(error)) if error.code().as_deref() == Some("0A000")),
        "{refused:?}"
    );
    assert!(Flag::load(pool, 2).await.is_err());
}

#[tokio::test]
async fn what_moves_the_rows_keeps_it_but_for_alter_table() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let copy = account(pool).await;
    run(pool, "VACUUM FULL accounts").await;
    run(pool, "CLUSTER accounts USING accounts_pkey").await;
    assert_eq!(account(pool).await, copy);
    run(pool, "ALTER TABLE accounts ALTER logins TYPE bigint; ALTER TABLE accounts ALTER logins TYPE integer").await;
    assert_ne!(account(pool).await.version, copy.version);
}

#[tokio::test]
async fn it_can_be_given_to_edit_at() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let etag = account(pool).await.version.get();
    let edit = || Account::edit_at(1, Xmin::from(etag)).set(Account::NAME, "a");
    let saved = edit().save(pool).await.unwrap();
    assert_eq!(saved, account(pool).await);
    let stale = edit().save(pool).await;
    assert!(
        matches!(stale, Err(rowlock::row::EditAtError::Stale(_))),
        "{stale:?}"
    );
}

#[tokio::test]
async fn lookups_read_it_whatever_the_field_is_called() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let ann = account(pool).await;
    let found = Account::find_by_email(pool, "ann").await.unwrap();
    assert_eq!(found.as_ref(), Some(&ann));
    let new = || NewAccount {
        email: "ann".to_owned(),
        name: None,
    };
    let found = Account::find_or_create(pool, new()).await.unwrap();
    assert!(!found.is_created());
    assert_eq!(*found, ann);
    let named = Account::NAME.eq(Some("ann".to_owned()));
    let refused = Account::upsert_if(pool, new(), named).await.unwrap();
    assert_eq!(refused, Upserted::Refused(ann));
}
