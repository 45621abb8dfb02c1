//! Tables that are no longer what the program was written for, and what its errors then say.

use std::error::Error;

use rowlock::{Counter, Fault, FindOrCreate, Lockable, Versioned};
use sqlx::{AssertSqlSafe, Executor};

use super::{Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, FindOrCreate)]
#[rowlock(table = "people", unique(email))]
struct Person {
    #[rowlock(key, generated)]
    id: i64,
    email: String,
    #[rowlock(generated)]
    nick: Option<String>,
    #[rowlock(version)]
    version: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "seats", existing_rows)]
struct Seats {
    #[rowlock(key)]
    hall: String,
    #[rowlock(counter(min = 0))]
    free: i64,
}

fn fault(error: impl Error + 'static) -> Option<Fault> {
    Fault::in_chain(&error)
}

async fn run(pool: &Pool, sql: impl sqlx::SqlSafeStr) {
    pool.execute(sqlx::raw_sql(sql)).await.unwrap();
}

/// Each statement names a column that the table does not have: in a condition, in what it writes, in what it returns.
/// SQLite takes a name in double quotes for a text then.
#[tokio::test]
async fn a_column_that_is_missing_is_an_error_wherever_it_stands() {
    let database = database(
        "CREATE TABLE people (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, nick text, version bigint NOT NULL);
         CREATE TABLE seats (hall text PRIMARY KEY, free bigint NOT NULL);
         INSERT INTO people VALUES (1, 'email', 'nick', 0);
         INSERT INTO seats VALUES ('hall', 3)",
    )
    .await;
    let pool = &database.pool;
    // A connection of SQLite can rename what it knows, and knows only what it has read or renamed itself.
    let renaming = &database.one_connection_pool().await;
    let person = Person::load(pool, 1).await.unwrap();
    for (old, new) in [
        ("email", "mail"),
        ("nick", "name"),
        ("version", "revision"),
        ("id", "number"),
    ] {
        let rename = |from, to| format!("ALTER TABLE people RENAME COLUMN {from} TO {to}");
        run(renaming, AssertSqlSafe(rename(old, new))).await;
        let new_person = || NewPerson {
            email: "email".to_owned(),
        };
        let mut edit = person.edit();
        edit.email = "other".to_owned();
        let mut tx = pool.begin().await.unwrap();
        let faults = [
            ("load", Person::load(pool, 1).await.map(drop).map_err(fault)),
            (
                "find",
                Person::find_by_email(pool, "email")
                    .await
                    .map(drop)
                    .map_err(fault),
            ),
            (
                "find_or_create",
                Person::find_or_create(pool, new_person())
                    .await
                    .map(drop)
                    .map_err(fault),
            ),
            (
                "upsert",
                Person::upsert(pool, new_person())
                    .await
                    .map(drop)
                    .map_err(fault),
            ),
            ("update", person.update(pool).await.map(drop).map_err(fault)),
            ("save", edit.save(pool).await.map(drop).map_err(fault)),
            (
                "lock",
                Person::lock(&mut tx, 1).await.map(drop).map_err(fault),
            ),
        ];
        tx.rollback().await.unwrap();
        for (method, fault) in faults {
            assert_eq!(fault, Err(Some(Fault::Schema)), "{method} without {old}");
        }
        run(renaming, AssertSqlSafe(rename(new, old))).await;
    }
    assert_eq!(Person::load(pool, 1).await.unwrap(), person);

    // The counter is `'free'` then, and text is more than any number.
    run(renaming, "ALTER TABLE seats RENAME COLUMN free TO open").await;
    let added = Seats::add_free(pool, "hall", -1).await.map_err(fault);
    assert_eq!(added, Err(Some(Fault::Schema)));
    run(renaming, "ALTER TABLE seats RENAME COLUMN open TO free").await;
    run(renaming, "ALTER TABLE seats RENAME COLUMN hall TO room").await;
    let added = Seats::add_free(pool, "hall", -1).await.map_err(fault);
    assert_eq!(added, Err(Some(Fault::Schema)));
}

/// What a database says about a statement can have values of a row in it, also under a code that is about the schema.
#[tokio::test]
async fn no_error_shows_what_is_in_a_row() {
    let database = database(
        "CREATE TABLE people (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, nick text, version bigint NOT NULL);
         INSERT INTO people VALUES (1, 'secret@example.org', NULL, 0)",
    )
    .await;
    let pool = &database.pool;
    let trigger = match super::NAME {
        "SQLite" => {
            "CREATE TRIGGER paths AFTER UPDATE ON people BEGIN SELECT json_extract('{}', NEW.email); END"
        }
        _ => {
            "CREATE FUNCTION paths() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE undefined_table USING MESSAGE = 'bad JSON path: ' || NEW.email;
             END $$;
             CREATE TRIGGER paths AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION paths()"
        }
    };
    run(pool, trigger).await;
    let person = Person::load(pool, 1).await.unwrap();
    let error = person.update(pool).await.unwrap_err();
    let mut next: Option<&dyn Error> = Some(&error);
    while let Some(ours) = next.filter(|error| !error.is::<sqlx::Error>()) {
        for text in [ours.to_string(), format!("{ours:?}")] {
            assert!(!text.contains("secret"), "{text}");
        }
        next = ours.source();
    }
    // It is there for who asks for it.
    assert!(next.unwrap().to_string().contains("secret"));
    assert_eq!(fault(error), Some(Fault::Schema));
}
