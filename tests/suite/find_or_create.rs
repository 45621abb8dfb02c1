//! `#[derive(FindOrCreate)]`: sections F and U of `docs/behaviours.md`.

use std::sync::Arc;

use rowlock::row::{FindError, FindOrCreateError, FoundOrCreated, UpsertError};
use rowlock::{Counter, Fault, FindOrCreate, Versioned};
use sqlx::Executor;
use tokio::sync::Barrier;

use super::{BEGIN_WRITE, Database, NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(tenant_id, slug))]
struct Tag {
    #[rowlock(key, generated)]
    id: i64,
    tenant_id: i64,
    slug: String,
    title: String,
    #[rowlock(default)]
    color: String,
}

const TAGS: &str = "CREATE TABLE tags (id {id}, tenant_id bigint NOT NULL, slug text NOT NULL,
    title text NOT NULL CHECK (title <> 'forbidden'), color text NOT NULL DEFAULT 'grey', UNIQUE (slug, tenant_id));
    CREATE UNIQUE INDEX one_title ON tags (title) WHERE title <> 'any'";

fn tag(slug: &str, title: &str) -> NewTag {
    NewTag {
        tenant_id: 1,
        slug: slug.to_owned(),
        title: title.to_owned(),
    }
}

async fn tags() -> Database {
    database(TAGS).await
}

async fn run(pool: &Pool, sql: &'static str) {
    pool.execute(sqlx::raw_sql(sql)).await.unwrap();
}

async fn count(pool: &Pool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM tags")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn f_01_f_02_the_first_call_creates_and_the_second_finds() {
    let database = tags().await;
    let pool = &database.pool;
    let FoundOrCreated::Created(created) =
        Tag::find_or_create(pool, tag("a", "first")).await.unwrap()
    else {
        panic!("not created");
    };
    assert_eq!(
        (created.title.as_str(), created.color.as_str()),
        ("first", "grey")
    );

    // What is only for creation is ignored when the row is found.
    let found = Tag::find_or_create(pool, tag("a", "second")).await.unwrap();
    assert!(!found.is_created());
    assert_eq!(found, FoundOrCreated::Found(created.clone()));
    assert_eq!(found.into_inner(), created);
    assert_eq!(count(pool).await, 1);
}

#[tokio::test]
async fn find_by_the_key_reads_and_never_creates() {
    let database = tags().await;
    let pool = &database.pool;
    assert_eq!(
        Tag::find_by_tenant_id_and_slug(pool, 1, "a").await.unwrap(),
        None
    );
    let created = Tag::find_or_create(pool, tag("a", "any"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        Tag::find_by_tenant_id_and_slug(pool, 1, "a").await.unwrap(),
        Some(created)
    );
    assert_eq!(
        Tag::find_by_tenant_id_and_slug(pool, 2, "a").await.unwrap(),
        None
    );
}

/// Our lookup misses, our insert meets the other one's, and the second lookup finds the winner.
#[tokio::test]
async fn f_03_the_loser_of_the_race_gets_the_winners_row() {
    let database = tags().await;
    let mut winner = database.pool.begin().await.unwrap();
    let created = Tag::find_or_create(&mut *winner, tag("a", "winner"))
        .await
        .unwrap();

    let pool = database.pool.clone();
    let loser = tokio::spawn(async move { Tag::find_or_create(&pool, tag("a", "loser")).await });
    database.until_blocked().await;
    winner.commit().await.unwrap();

    let found = loser.await.unwrap().unwrap();
    assert_eq!(found, FoundOrCreated::Found(created.into_inner()));
}

/// The winner rolls back: the one who waited creates the row after all.
#[tokio::test]
async fn f_03_a_winner_that_rolls_back_leaves_the_row_to_the_next() {
    let database = tags().await;
    let mut winner = database.pool.begin().await.unwrap();
    Tag::find_or_create(&mut *winner, tag("a", "winner"))
        .await
        .unwrap();

    let pool = database.pool.clone();
    let next = tokio::spawn(async move { Tag::find_or_create(&pool, tag("a", "next")).await });
    database.until_blocked().await;
    winner.rollback().await.unwrap();

    let created = next.await.unwrap().unwrap();
    assert!(created.is_created());
    assert_eq!(created.title, "next");
}

/// The naive twin of all races here: everybody looks, nobody sees anything, everybody inserts.
#[tokio::test]
async fn f_04_naive_twin_look_then_insert_makes_duplicates() {
    const TASKS: usize = 8;
    let database = database("CREATE TABLE tags (slug text NOT NULL)").await;
    let looked = Arc::new(Barrier::new(TASKS));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (pool, looked) = (database.pool.clone(), looked.clone());
        tasks.spawn(async move {
            let found: Option<String> =
                sqlx::query_scalar("SELECT slug FROM tags WHERE slug = 'a'")
                    .fetch_optional(&pool)
                    .await
                    .unwrap();
            looked.wait().await;
            if found.is_none() {
                pool.execute("INSERT INTO tags VALUES ('a')").await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(count(&database.pool).await, TASKS as i64);
}

#[tokio::test]
async fn f_04_of_many_tasks_exactly_one_creates() {
    const TASKS: usize = 16;
    let database = tags().await;
    for round in 0..5 {
        let slug = format!("slug {round}");
        let start = Arc::new(Barrier::new(TASKS));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..TASKS {
            let (pool, start, new) = (database.pool.clone(), start.clone(), tag(&slug, "any"));
            tasks.spawn(async move {
                start.wait().await;
                Tag::find_or_create(&pool, new).await.unwrap()
            });
        }
        let outcomes = tasks.join_all().await;
        assert_eq!(
            outcomes
                .iter()
                .filter(|outcome| outcome.is_created())
                .count(),
            1
        );
        assert!(outcomes.iter().all(|outcome| outcome.id == outcomes[0].id));
    }
    assert_eq!(count(&database.pool).await, 5);
}

#[tokio::test]
async fn f_05_the_callers_transaction_stays_usable_after_a_race() {
    let database = tags().await;
    let mut winner = database.pool.begin().await.unwrap();
    Tag::find_or_create(&mut *winner, tag("a", "winner"))
        .await
        .unwrap();

    let pool = database.pool.clone();
    let loser = tokio::spawn(async move {
        // A deferred transaction of SQLite that reads and then writes is refused at once: documented.
        let begin = if NAME == "SQLite" {
            "BEGIN IMMEDIATE"
        } else {
            "BEGIN"
        };
        let mut transaction = pool.begin_with(begin).await.unwrap();
        let before = Tag::find_or_create(&mut *transaction, tag("before", "any"))
            .await
            .unwrap();
        let raced = Tag::find_or_create(&mut *transaction, tag("a", "loser"))
            .await
            .unwrap();
        let after = Tag::find_or_create(&mut *transaction, tag("after", "any"))
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        (before.is_created(), raced, after.is_created())
    });
    database.until_blocked().await;
    winner.commit().await.unwrap();

    let (before, raced, after) = loser.await.unwrap();
    assert!(before && after && !raced.is_created());
    assert_eq!(raced.title, "winner");
    assert_eq!(count(&database.pool).await, 3);
}

#[tokio::test]
async fn f_07_u_02_a_violation_of_another_index_surfaces_and_nothing_loops() {
    let database = tags().await;
    let pool = &database.pool;
    Tag::find_or_create(pool, tag("a", "unique title"))
        .await
        .unwrap();

    let mut transaction = pool.begin().await.unwrap();
    Tag::find_or_create(&mut *transaction, tag("earlier", "any"))
        .await
        .unwrap();
    let refused = Tag::find_or_create(&mut *transaction, tag("b", "unique title"))
        .await
        .unwrap_err();
    let FindOrCreateError::Database(error) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.fault(), Fault::UniqueViolation);
    if NAME == "PostgreSQL" {
        assert_eq!(error.constraint(), Some("one_title"));
        assert_eq!(
            error.to_string(),
            "find_or_create of tags (tenant_id = 1, slug = …): unique violation of one_title (SQLSTATE 23505)"
        );
    } else {
        assert_eq!(
            error.to_string(),
            "find_or_create of tags (tenant_id = 1, slug = …): unique violation (SQLite code 2067)"
        );
    }
    let refused = Tag::upsert(&mut *transaction, tag("b", "unique title"))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, UpsertError::Database(error) if error.fault() == Fault::UniqueViolation),
        "{refused:?}"
    );
    // The transaction goes on, with what it did before.
    Tag::find_or_create(&mut *transaction, tag("later", "any"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count(pool).await, 3);
}

/// A trigger that drops the first inserts stands for a holder of the key that was deleted before we could read it.
async fn drop_inserts(pool: &Pool, times: i64) {
    let trigger = if NAME == "SQLite" {
        "CREATE TABLE gate (n int);
         CREATE TRIGGER gate BEFORE INSERT ON tags WHEN (SELECT n FROM gate) > 0 BEGIN
            UPDATE gate SET n = n - 1; SELECT RAISE(IGNORE); END"
    } else {
        "CREATE TABLE gate (n bigint);
         CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE gate SET n = n - 1 WHERE n > 0; IF FOUND THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER gate BEFORE INSERT ON tags FOR EACH ROW EXECUTE FUNCTION gate()"
    };
    run(pool, trigger).await;
    sqlx::query("INSERT INTO gate VALUES ($1)")
        .bind(times)
        .execute(pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn f_08_a_winner_that_vanishes_starts_the_cycle_again() {
    let database = tags().await;
    drop_inserts(&database.pool, 3).await;
    let created = Tag::find_or_create(&database.pool, tag("a", "any"))
        .await
        .unwrap();
    assert!(created.is_created());
}

#[tokio::test]
async fn f_08_f_18_the_cycle_is_bounded_and_ends_in_a_typed_error() {
    let database = tags().await;
    let pool = &database.pool;
    drop_inserts(pool, 100).await;
    let refused = Tag::find_or_create(pool, tag("a", "any"))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, FindOrCreateError::KeyTaken(_)),
        "{refused:?}"
    );
    let left: i64 = sqlx::query_scalar("SELECT n FROM gate")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(100 - left, 5);
    assert_eq!(count(pool).await, 0);
    let refused = Tag::upsert(pool, tag("a", "any")).await.unwrap_err();
    assert!(matches!(refused, UpsertError::Ignored(_)), "{refused:?}");
}

#[tokio::test]
async fn f_09_f_23_other_refusals_pass_through_and_persist_nothing() {
    let database = tags().await;
    let pool = &database.pool;
    let mut transaction = pool.begin().await.unwrap();
    let refused = Tag::find_or_create(&mut *transaction, tag("a", "forbidden"))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, FindOrCreateError::Database(error) if error.fault() == Fault::CheckViolation),
        "{refused:?}"
    );
    // Text that PostgreSQL cannot store, and SQLite can.
    if NAME == "PostgreSQL" {
        let refused = Tag::find_or_create(&mut *transaction, tag("a", "nul \0"))
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, FindOrCreateError::Database(_)),
            "{refused:?}"
        );
    }
    assert!(
        Tag::find_or_create(&mut *transaction, tag("a", "any"))
            .await
            .unwrap()
            .is_created()
    );
    transaction.commit().await.unwrap();
    assert_eq!(count(pool).await, 1);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "members", unique(email))]
struct Member {
    #[rowlock(key)]
    id: i64,
    email: String,
    team_id: Option<i64>,
}

fn member(id: i64, email: &str, team_id: Option<i64>) -> NewMember {
    NewMember {
        id,
        email: email.to_owned(),
        team_id,
    }
}

const MEMBERS: &str = "CREATE TABLE teams (id bigint PRIMARY KEY);
    CREATE TABLE members (id bigint PRIMARY KEY, email text NOT NULL UNIQUE,
        team_id bigint REFERENCES teams DEFERRABLE INITIALLY DEFERRED)";

/// In autocommit the commit's error comes behind the returned row: reading only the row would report a row that was
/// never committed.
#[tokio::test]
async fn f_10_a_deferred_constraint_fails_at_commit() {
    let database = database(MEMBERS).await;
    let pool = &database.pool;
    let refused = Member::find_or_create(pool, member(1, "a", Some(99)))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, FindOrCreateError::Database(error) if error.fault() == Fault::ForeignKeyViolation),
        "{refused:?}"
    );
    assert_eq!(Member::find_by_email(pool, "a").await.unwrap(), None);

    // What sqlx's `fetch_one` makes of the same statement, where it stops at the row.
    let naive = sqlx::query("INSERT INTO members VALUES (2, 'b', 99) RETURNING id")
        .fetch_one(pool)
        .await;
    assert_eq!(naive.is_ok(), NAME == "SQLite");
    assert_eq!(Member::find_by_email(pool, "b").await.unwrap(), None);

    let mut transaction = pool.begin().await.unwrap();
    assert!(
        Member::find_or_create(&mut *transaction, member(1, "a", Some(99)))
            .await
            .unwrap()
            .is_created()
    );
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(Fault::of(&error), Fault::ForeignKeyViolation);
}

#[tokio::test]
async fn f_12_several_matches_are_an_error() {
    let database = database(
        "CREATE TABLE members (id bigint, email text, team_id bigint);
         INSERT INTO members VALUES (1, 'a', NULL), (2, 'a', NULL)",
    )
    .await;
    let pool = &database.pool;
    assert!(matches!(
        Member::find_by_email(pool, "a").await,
        Err(FindError::NotUnique(_))
    ));
    let refused = Member::find_or_create(pool, member(3, "a", None)).await;
    assert!(matches!(refused, Err(FindOrCreateError::NotUnique(_))));
}

#[tokio::test]
async fn f_11_u_03_u_10_u_11_f_21_without_the_unique_index_it_refuses() {
    for ddl in [
        // None at all, a partial one, one on an expression, one on more columns.
        "CREATE TABLE members (id bigint PRIMARY KEY, email text NOT NULL, team_id bigint)",
        "CREATE TABLE members (id bigint PRIMARY KEY, email text NOT NULL, team_id bigint);
         CREATE UNIQUE INDEX partial ON members (email) WHERE team_id IS NULL",
        "CREATE TABLE members (id bigint PRIMARY KEY, email text NOT NULL, team_id bigint);
         CREATE UNIQUE INDEX expression ON members (lower(email))",
        "CREATE TABLE members (id bigint PRIMARY KEY, email text NOT NULL, team_id bigint, UNIQUE (email, team_id))",
    ] {
        let database = database(ddl).await;
        let pool = &database.pool;
        let refused = Member::find_or_create(pool, member(1, "a", None))
            .await
            .unwrap_err();
        assert!(
            matches!(refused, FindOrCreateError::MissingUniqueIndex(_, "email")),
            "{ddl}: {refused:?}"
        );
        assert!(
            refused
                .to_string()
                .ends_with("the database has no unique index on (email); create one"),
            "{refused}"
        );
        let refused = Member::upsert(pool, member(1, "a", None))
            .await
            .unwrap_err();
        assert!(
            matches!(refused, UpsertError::MissingUniqueIndex(_, "email")),
            "{ddl}: {refused:?}"
        );
        assert_eq!(Member::find_by_email(pool, "a").await.unwrap(), None);
    }
}

/// A transaction whose snapshot is older than the winner's commit cannot see the row: only a new transaction can.
#[tokio::test]
async fn f_13_u_16_a_winner_outside_the_snapshot_is_a_serialization_failure() {
    let levels: &[&str] = if NAME == "SQLite" {
        &["SELECT count(*) FROM tags"]
    } else {
        &[
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tags",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM tags",
        ]
    };
    for level in levels {
        let database = tags().await;
        for upsert in [false, true] {
            let slug = format!("upsert {upsert}");
            let mut transaction = database.pool.begin().await.unwrap();
            transaction
                .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(*level)))
                .await
                .unwrap();
            Tag::find_or_create(&database.pool, tag(&slug, "any"))
                .await
                .unwrap();
            if upsert {
                let refused = Tag::upsert(&mut *transaction, tag(&slug, "late"))
                    .await
                    .unwrap_err();
                assert!(
                    matches!(refused, UpsertError::Serialization(_)),
                    "{level}: {refused:?}"
                );
            } else {
                let refused = Tag::find_or_create(&mut *transaction, tag(&slug, "late"))
                    .await
                    .unwrap_err();
                assert!(
                    matches!(refused, FindOrCreateError::Serialization(_)),
                    "{level}: {refused:?}"
                );
            }
            transaction.rollback().await.unwrap();
        }
    }
}

/// A row that was found is read, not locked: others can write it while the finder's transaction is open.
#[tokio::test]
async fn f_16_a_found_row_is_not_locked() {
    let database = tags().await;
    let pool = &database.pool;
    Tag::find_or_create(pool, tag("a", "any")).await.unwrap();
    let mut finder = pool.begin().await.unwrap();
    assert!(
        !Tag::find_or_create(&mut *finder, tag("a", "any"))
            .await
            .unwrap()
            .is_created()
    );
    Tag::upsert(pool, tag("a", "written meanwhile"))
        .await
        .unwrap();
    finder.rollback().await.unwrap();
}

#[tokio::test]
async fn f_22_a_key_made_by_the_client_is_not_taken_for_the_stored_one() {
    let database = database(MEMBERS).await;
    let pool = &database.pool;
    Member::find_or_create(pool, member(1, "a", None))
        .await
        .unwrap();
    let found = Member::find_or_create(pool, member(2, "a", None))
        .await
        .unwrap();
    assert_eq!(
        found,
        FoundOrCreated::Found(Member {
            id: 1,
            email: "a".to_owned(),
            team_id: None
        })
    );
    // And an upsert does not change it either.
    let upserted = Member::upsert(pool, member(3, "a", None)).await.unwrap();
    assert_eq!(upserted.id, 1);
}

#[tokio::test]
async fn f_24_f_25_an_upsert_waits_for_a_concurrent_writer_and_keeps_the_other_columns() {
    let database = tags().await;
    let pool = &database.pool;
    Tag::find_or_create(pool, tag("a", "any")).await.unwrap();
    let mut writer = pool.begin().await.unwrap();
    writer
        .execute("UPDATE tags SET color = 'red' WHERE slug = 'a'")
        .await
        .unwrap();

    let upserter = pool.clone();
    let upsert = tokio::spawn(async move { Tag::upsert(&upserter, tag("a", "upserted")).await });
    database.until_blocked().await;
    writer.commit().await.unwrap();

    let row = upsert.await.unwrap().unwrap();
    assert_eq!(
        (row.title.as_str(), row.color.as_str()),
        ("upserted", "red")
    );
}

/// Whether the row exists or not, a hot key costs no sequence values.
#[tokio::test]
async fn f_27_finding_burns_no_sequence_value() {
    let database = tags().await;
    let pool = &database.pool;
    let first = Tag::find_or_create(pool, tag("a", "any")).await.unwrap().id;
    for _ in 0..10 {
        Tag::find_or_create(pool, tag("a", "any")).await.unwrap();
    }
    assert_eq!(
        Tag::find_or_create(pool, tag("b", "any")).await.unwrap().id,
        first + 1
    );
}

#[tokio::test]
async fn u_01_both_arms_return_the_row_as_stored() {
    let database = tags().await;
    let pool = &database.pool;
    let inserted = Tag::upsert(pool, tag("a", "one")).await.unwrap();
    assert_eq!(
        (inserted.title.as_str(), inserted.color.as_str()),
        ("one", "grey")
    );
    let updated = Tag::upsert(pool, tag("a", "two")).await.unwrap();
    assert_eq!(
        updated,
        Tag {
            title: "two".to_owned(),
            ..inserted
        }
    );
    assert_eq!(
        Tag::find_by_tenant_id_and_slug(pool, 1, "a").await.unwrap(),
        Some(updated)
    );
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "accounts", unique(name), new = "AccountDraft", existing_rows)]
struct Account {
    #[rowlock(key)]
    id: i64,
    name: String,
    owner: Option<String>,
    #[rowlock(counter(min = 3))]
    logins: i64,
    #[rowlock(version)]
    version: i16,
}

const ACCOUNTS: &str =
    "CREATE TABLE accounts (id bigint PRIMARY KEY, name text NOT NULL UNIQUE, owner text,
    logins bigint NOT NULL, version smallint)";

fn account(id: i64, owner: &str) -> AccountDraft {
    AccountDraft {
        id,
        name: "a".to_owned(),
        owner: Some(owner.to_owned()),
    }
}

#[tokio::test]
async fn u_04_u_20_an_upsert_bumps_the_version_and_leaves_key_and_counters_alone() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    let account_1 = Account::upsert(pool, account(1, "one")).await.unwrap();
    // A counter whose bounds exclude 0 starts at the nearest bound.
    assert_eq!((account_1.version, account_1.logins), (0, 3));
    Account::add_logins(pool, 1, 2).await.unwrap();

    let overwritten = Account::upsert(pool, account(2, "two")).await.unwrap();
    assert_eq!(
        overwritten,
        Account {
            id: 1,
            name: "a".to_owned(),
            owner: Some("two".to_owned()),
            logins: 5,
            version: 1
        }
    );
    // So a copy from before is stale.
    let stale = account_1.update(pool).await.unwrap_err();
    assert!(
        matches!(stale, rowlock::row::UpdateError::Stale(_)),
        "{stale:?}"
    );
}

#[tokio::test]
async fn u_14_an_upsert_that_its_condition_refuses_is_a_distinct_outcome() {
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    Account::upsert(pool, account(1, "one")).await.unwrap();
    for version in [
        "UPDATE accounts SET version = 32767",
        "UPDATE accounts SET version = NULL",
    ] {
        run(pool, version).await;
        let refused = Account::upsert(pool, account(1, "two")).await.unwrap_err();
        assert!(
            matches!(refused, UpsertError::VersionOverflow(_)),
            "{version}: {refused:?}"
        );
        let owner: String = sqlx::query_scalar("SELECT owner FROM accounts")
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(owner, "one");
    }
}

/// An integer column of SQLite also takes 1.5. The naive twin's condition lets it pass, and counts on from there.
#[tokio::test]
async fn u_14_an_upsert_does_not_count_up_a_version_that_is_no_integer() {
    if NAME != "SQLite" {
        return;
    }
    let database = database(ACCOUNTS).await;
    let pool = &database.pool;
    Account::upsert(pool, account(1, "one")).await.unwrap();
    let stored = async || -> (String, f64) {
        sqlx::query_as("SELECT owner, version FROM accounts")
            .fetch_one(pool)
            .await
            .unwrap()
    };
    run(pool, "UPDATE accounts SET version = 1.5").await;
    let refused = Account::upsert(pool, account(1, "two")).await.unwrap_err();
    assert!(matches!(refused, UpsertError::Database(_)), "{refused:?}");
    assert_eq!(stored().await, ("one".to_owned(), 1.5));

    let naive = "UPDATE accounts SET owner = 'two', version = version + 1 WHERE version < 32767";
    run(pool, naive).await;
    assert_eq!(stored().await, ("two".to_owned(), 2.5));
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "labels", unique(name))]
struct Label {
    #[rowlock(generated)]
    id: i64,
    name: String,
}

/// Nothing to overwrite: nothing is written, and the row comes back all the same.
#[tokio::test]
async fn u_06_u_23_an_upsert_of_a_key_alone_reads_the_row() {
    let database = database("CREATE TABLE labels (id {id}, name text NOT NULL UNIQUE)").await;
    let pool = &database.pool;
    let new = || NewLabel {
        name: "a".to_owned(),
    };
    let first = Label::upsert(pool, new()).await.unwrap();
    assert_eq!(Label::upsert(pool, new()).await.unwrap(), first);
    assert_eq!(
        Label::find_or_create(pool, new()).await.unwrap(),
        FoundOrCreated::Found(first)
    );
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(tenant, login))]
struct User {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(unique)]
    email: String,
    tenant: i64,
    login: String,
}

#[tokio::test]
async fn a_model_with_several_unique_keys_says_which_one_decides() {
    let database = database(
        "CREATE TABLE users (id {id}, email text NOT NULL UNIQUE, tenant bigint NOT NULL, login text NOT NULL,
            UNIQUE (tenant, login))",
    )
    .await;
    let pool = &database.pool;
    let new = |email: &str, login: &str| NewUser {
        email: email.to_owned(),
        tenant: 1,
        login: login.to_owned(),
    };
    let user = User::find_or_create_by_email(pool, new("a@b", "a"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        User::find_or_create_by_tenant_and_login(pool, new("c@d", "a"))
            .await
            .unwrap(),
        FoundOrCreated::Found(user.clone())
    );
    let moved = User::upsert_by_tenant_and_login(pool, new("c@d", "a"))
        .await
        .unwrap();
    assert_eq!(
        moved,
        User {
            email: "c@d".to_owned(),
            ..user
        }
    );
    assert_eq!(User::find_by_email(pool, "c@d").await.unwrap(), Some(moved));
    // The other key's index is not swallowed.
    let refused = User::find_or_create_by_email(pool, new("new@b", "a"))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, FindOrCreateError::Database(error) if error.fault() == Fault::UniqueViolation),
        "{refused:?}"
    );
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "books", unique(isbn))]
struct Book {
    #[rowlock(key, generated)]
    id: i64,
    title: String,
    isbn: String,
}

/// In the order in which a row is checked: the title, which is unique as well, comes before the key.
const BOOKS: &str =
    "CREATE TABLE books (id {id}, title text NOT NULL UNIQUE, isbn text NOT NULL UNIQUE)";

fn book(isbn: &str, title: &str) -> NewBook {
    NewBook {
        isbn: isbn.to_owned(),
        title: title.to_owned(),
    }
}

/// The equal row of a concurrent call is met in the other unique index first, after the check of the key's own index.
#[tokio::test]
async fn f_03_the_winners_row_is_found_also_if_another_unique_index_meets_it_first() {
    for upsert in [false, true] {
        let database = database(BOOKS).await;
        let mut winner = database.pool.begin_with(BEGIN_WRITE).await.unwrap();
        winner
            .execute("INSERT INTO books (title, isbn) VALUES ('any', 'not yet')")
            .await
            .unwrap();
        let pool = database.pool.clone();
        let loser = tokio::spawn(async move {
            if upsert {
                Book::upsert(&pool, book("1", "any")).await.unwrap()
            } else {
                let found = Book::find_or_create(&pool, book("1", "any")).await;
                found.unwrap().into_inner()
            }
        });
        database.until_blocked().await;
        winner.execute("UPDATE books SET isbn = '1'").await.unwrap();
        winner.commit().await.unwrap();
        assert_eq!(loser.await.unwrap().isbn, "1", "upsert: {upsert}");
    }
}

/// A row of another key that has the title is still a violation, and is not asked for again and again.
#[tokio::test]
async fn u_02_an_upsert_that_violates_another_index_for_good_says_so() {
    let database = database(BOOKS).await;
    let pool = &database.pool;
    for (isbn, title) in [("1", "one"), ("2", "two")] {
        Book::upsert(pool, book(isbn, title)).await.unwrap();
    }
    for isbn in ["1", "3"] {
        let Err(UpsertError::Database(error)) = Book::upsert(pool, book(isbn, "two")).await else {
            panic!("not refused");
        };
        assert_eq!(error.fault(), Fault::UniqueViolation);
    }
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate, Versioned)]
#[rowlock(table = "settings", unique(name))]
struct Setting {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    value: Option<String>,
    #[sqlx(json)]
    extra: Vec<i64>,
    #[rowlock(version)]
    version: i64,
}

#[tokio::test]
async fn u_04_an_upsert_of_identical_values_leaves_the_version_alone() {
    let nocase = if NAME == "SQLite" {
        " COLLATE NOCASE"
    } else {
        ""
    };
    // json has no `=` on PostgreSQL.
    let table = format!(
        "CREATE TABLE settings (id {{id}}, name text NOT NULL UNIQUE, value text{nocase}, extra json NOT NULL, version bigint NOT NULL)"
    );
    let database = database(&table).await;
    let pool = &database.pool;
    let new = |value: Option<&str>, extra: &[i64]| NewSetting {
        name: "a".to_owned(),
        value: value.map(str::to_owned),
        extra: extra.to_vec(),
    };
    for (value, extra, version) in [
        (None, [1], 0),
        (None, [1], 0),
        (Some("x"), [1], 1),
        (Some("x"), [1], 1),
        // Equal to a collation that ignores case, and yet another value.
        (Some("X"), [1], 2),
        (Some("X"), [2], 3),
        (Some("X"), [2], 3),
        (None, [2], 4),
    ] {
        let row = Setting::upsert(pool, new(value, &extra)).await.unwrap();
        assert_eq!(row.version, version, "{value:?} {extra:?}");
        assert_eq!(row.value.as_deref(), value);
    }
}
