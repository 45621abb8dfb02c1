//! `insert` of `#[derive(Versioned)]`.

use std::sync::Arc;

use rowlock::row::InsertError;
use rowlock::{Fault, Versioned};
use tokio::sync::Barrier;

use super::{NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "notes")]
struct Note {
    #[rowlock(key)]
    id: i64,
    slug: String,
    body: Option<String>,
    #[sqlx(json)]
    tags: Vec<String>,
    #[rowlock(counter(min = 0))]
    views: i32,
    #[rowlock(default)]
    state: String,
    #[rowlock(generated)]
    length: i32,
    #[rowlock(version)]
    version: i32,
}

const NOTES: &str = "CREATE TABLE notes (
        id bigint PRIMARY KEY,
        slug text NOT NULL CONSTRAINT notes_slug UNIQUE,
        body text,
        tags {json} NOT NULL,
        views integer NOT NULL,
        state text NOT NULL DEFAULT 'draft',
        length integer GENERATED ALWAYS AS (length(slug)) STORED,
        version integer NOT NULL
    )";

fn note(id: i64, slug: &str) -> Note {
    Note {
        id,
        slug: slug.to_owned(),
        body: None,
        tags: vec!["a".to_owned()],
        views: 3,
        state: "is not written".to_owned(),
        length: -1,
        version: 7,
    }
}

async fn count(pool: &Pool) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM notes");
    count.fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_new_row_has_version_0_and_what_the_database_made_up() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let inserted = note(1, "one").insert(pool).await.unwrap();
    let expected = Note {
        state: "draft".to_owned(),
        length: 3,
        version: 0,
        ..note(1, "one")
    };
    assert_eq!(inserted, expected);
    assert_eq!(Note::load(pool, 1).await.unwrap(), inserted);
    // It is a copy as a load returns it.
    let mut edit = inserted.edit();
    edit.body = Some("text".to_owned());
    assert_eq!(edit.save(pool).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_taken_key_says_which_and_writes_nothing() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    note(1, "one").insert(pool).await.unwrap();
    for (taken, constraint) in [
        (note(1, "two"), "notes_pkey"),
        (note(2, "one"), "notes_slug"),
    ] {
        let error = taken.insert(pool).await.unwrap_err();
        let InsertError::AlreadyExists(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.fault(), Fault::UniqueViolation);
        if NAME == "PostgreSQL" {
            assert_eq!(error.constraint(), Some(constraint));
        }
        let said = format!("insert of notes (id = {}): ", taken.id);
        assert!(error.to_string().starts_with(&said), "{error}");
    }
    assert_eq!(count(pool).await, 1);
}

#[tokio::test]
async fn other_constraints_are_the_databases_errors() {
    let database =
        database(&NOTES.replace("views integer", "views integer CHECK (views < 9)")).await;
    let row = Note {
        views: 9,
        ..note(1, "one")
    };
    let error = row.insert(&database.pool).await.unwrap_err();
    assert!(
        matches!(&error, InsertError::Database(error) if error.fault() == Fault::CheckViolation),
        "{error:?}"
    );
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "numbered")]
struct Numbered {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

const NUMBERED: &str = "CREATE TABLE numbered (id {id}, version bigint NOT NULL UNIQUE)";

#[tokio::test]
async fn a_generated_key_is_read_back_and_not_said_in_errors() {
    let id = match NAME {
        "PostgreSQL" => "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        _ => "integer PRIMARY KEY AUTOINCREMENT",
    };
    let database = database(&NUMBERED.replace("{id}", id)).await;
    let pool = &database.pool;
    let new = Numbered { id: 0, version: 0 };
    assert_eq!(
        new.insert(pool).await.unwrap(),
        Numbered { id: 1, version: 0 }
    );
    let error = new.insert(pool).await.unwrap_err();
    assert!(
        error.to_string().starts_with("insert of numbered: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_row_that_a_trigger_drops_is_ignored() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let skip = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER skip BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION skip()"
        }
        _ => "CREATE TRIGGER skip BEFORE INSERT ON notes BEGIN SELECT RAISE(IGNORE); END",
    };
    sqlx::raw_sql(skip).execute(pool).await.unwrap();
    let error = note(1, "one").insert(pool).await;
    assert!(matches!(error, Err(InsertError::Ignored(_))), "{error:?}");
}

/// Eight at once. How many rows there are then, and how many calls said that theirs is one.
async fn at_once<F>(sql: &'static str, insert: impl Fn(Pool) -> F) -> (i64, usize)
where
    F: Future<Output = bool> + Send + 'static,
{
    let database = database(sql).await;
    let barrier = Arc::new(Barrier::new(8));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (barrier, insert) = (barrier.clone(), insert(database.pool.clone()));
            tokio::spawn(async move {
                barrier.wait().await;
                insert.await
            })
        })
        .collect();
    let mut inserted = 0;
    for task in tasks {
        inserted += usize::from(task.await.unwrap());
    }
    (count(&database.pool).await, inserted)
}

#[tokio::test]
async fn of_many_concurrent_inserts_of_a_key_one_succeeds() {
    let outcome = at_once(NOTES, |pool| async move {
        match note(1, "one").insert(&pool).await {
            Ok(_) => true,
            Err(InsertError::AlreadyExists(_)) => false,
            Err(error) => panic!("{error:?}"),
        }
    });
    assert_eq!(outcome.await, (1, 1));
}

/// The usual code looks first. Without the index it inserts as often as it was called before the first insert.
#[tokio::test]
async fn the_naive_twin_looks_first_and_inserts_it_twice() {
    let database = database("CREATE TABLE notes (id bigint)").await;
    let looked = Arc::new(Barrier::new(2));
    let insert = || async {
        let free = count(&database.pool).await == 0;
        looked.wait().await;
        if free {
            let insert = sqlx::query("INSERT INTO notes VALUES (1)");
            insert.execute(&database.pool).await.unwrap();
        }
    };
    tokio::join!(insert(), insert());
    assert_eq!(count(&database.pool).await, 2);
}

#[tokio::test]
async fn it_is_part_of_the_callers_transaction() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    note(1, "one").insert(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(count(pool).await, 0);
    let outcome = rowlock::transaction(pool)
        .run(async |tx| -> Result<_, rowlock::Error> { Ok(note(1, "one").insert(tx).await?) });
    assert_eq!(outcome.await.unwrap().version, 0);
    assert_eq!(count(pool).await, 1);
}
