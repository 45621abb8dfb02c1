//! `load_many`, `insert_many`, `save_many`, `update_many` and `delete_many` of `#[derive(Versioned)]`.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rowlock::row::{DeleteError, Edit, InsertError, LoadError, UpdateError};
use rowlock::{Fault, Fence, Versioned};
use sqlx::Executor;

use super::{NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "notes")]
struct Note {
    #[rowlock(key)]
    tenant: i64,
    #[rowlock(key)]
    slug: String,
    title: String,
    body: Option<String>,
    #[sqlx(json)]
    tags: Vec<String>,
    #[rowlock(counter)]
    views: i32,
    #[rowlock(generated)]
    length: i32,
    #[rowlock(on_update = "edits + 1")]
    edits: i64,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(version)]
    version: i32,
}

const NOTES: &str = "CREATE TABLE notes (
        tenant bigint NOT NULL,
        slug text NOT NULL,
        title text NOT NULL CHECK (title <> 'refused'),
        body text,
        tags {json} NOT NULL DEFAULT '[]',
        views integer NOT NULL DEFAULT 0,
        length integer GENERATED ALWAYS AS (length(title)) STORED,
        edits bigint NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        version integer,
        PRIMARY KEY (tenant, slug)
    );
    INSERT INTO notes (tenant, slug, title, version) VALUES
        (1, 'a', 'first', 0), (1, 'b', 'second', 0), (1, 'c', 'third', 0), (2, 'a', 'fourth', 0), (2, 'b', 'fifth', 0)";

const SLUGS: [(i64, &str); 5] = [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "b")];

async fn run(pool: &Pool, sql: &'static str) {
    pool.execute(sql).await.unwrap();
}

async fn notes(pool: &Pool) -> Vec<Note> {
    let loaded = Note::load_many(pool, SLUGS).await.into_iter();
    loaded.collect::<Result<_, _>>().unwrap()
}

fn titled(note: &Note, title: &str) -> Note {
    Note {
        title: title.to_owned(),
        ..note.clone()
    }
}

async fn titles(pool: &Pool) -> Vec<String> {
    let sql = "SELECT title FROM notes ORDER BY tenant, slug";
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn each_key_has_its_outcome() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    run(pool, "UPDATE notes SET version = NULL WHERE slug = 'c'").await;
    let slugs = [(2, "b"), (3, "a"), (1, "c"), (1, "a"), (2, "b")];
    let loaded = Note::load_many(pool, slugs).await;
    let [last, missing, null, first, again] = loaded.as_slice() else {
        panic!("{loaded:?}");
    };
    let one = Note::load(pool, (2, "b")).await.unwrap();
    assert_eq!(last.as_ref().unwrap(), &one);
    assert_eq!(again.as_ref().unwrap(), &one);
    assert_eq!(first.as_ref().unwrap().title, "first");
    assert!(matches!(null, Err(LoadError::NullVersion(_))), "{null:?}");
    let missing = missing.as_ref().unwrap_err();
    assert!(matches!(missing, LoadError::NotFound(_)), "{missing:?}");
    let text = missing.to_string();
    assert!(
        text.starts_with("load_many of notes (tenant = 3, slug = …)"),
        "{text}"
    );
    assert_eq!(Note::load_many(pool, []).await.len(), 0);
}

#[tokio::test]
async fn each_row_that_is_updated_has_its_outcome() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    let mut mine: Vec<Note> = rows.iter().map(|row| titled(row, "mine")).collect();
    mine[0].body = Some("text".to_owned());
    mine[0].tags = vec!["x".to_owned(), "y".to_owned()];
    run(
        pool,
        "UPDATE notes SET views = 7;
         UPDATE notes SET version = 4, title = 'theirs' WHERE tenant = 1 AND slug = 'b';
         DELETE FROM notes WHERE tenant = 1 AND slug = 'c';
         UPDATE notes SET fence = 9 WHERE tenant = 2 AND slug = 'a';
         UPDATE notes SET version = NULL WHERE tenant = 2 AND slug = 'b'",
    )
    .await;
    let outcomes = Note::update_many(pool, &mine).await;
    let [updated, stale, gone, fenced, null] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    let updated = updated.as_ref().unwrap();
    assert_eq!((updated.version, updated.views), (1, 7));
    assert_eq!((updated.length, updated.edits), (4, 1));
    assert_eq!(updated, &Note::load(pool, (1, "a")).await.unwrap());
    assert_eq!(updated.tags, ["x", "y"]);
    let Err(UpdateError::Stale(conflict)) = stale else {
        panic!("{stale:?}");
    };
    assert_eq!(conflict.current.title, "theirs");
    assert_eq!(
        (conflict.expected_version(), conflict.current_version()),
        (0, 4)
    );
    assert!(matches!(gone, Err(UpdateError::Gone(_))), "{gone:?}");
    assert!(
        matches!(fenced, Err(UpdateError::Fenced { .. })),
        "{fenced:?}"
    );
    assert!(matches!(null, Err(UpdateError::NullVersion(_))), "{null:?}");
    assert_eq!(titles(pool).await, ["mine", "theirs", "fourth", "fifth"]);
    assert!(Note::update_many(pool, &[]).await.is_empty());
}

/// The fence of a row is raised to that of who writes it, and refuses earlier holders from then on.
#[tokio::test]
async fn a_row_that_is_written_has_the_fence_of_its_writer() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    run(pool, "UPDATE notes SET fence = 7").await;
    let rows = notes(pool).await;
    run(pool, "UPDATE notes SET fence = 5").await;
    let mine: Vec<Note> = rows[..2].iter().map(|row| titled(row, "mine")).collect();
    let updated = Note::update_many(pool, &mine).await;
    assert!(updated.iter().all(Result::is_ok), "{updated:?}");
    let mut edits: Vec<_> = rows[2..4].iter().map(Note::edit).collect();
    for edit in &mut edits {
        edit.title = "mine".to_owned();
    }
    let saved = Note::save_many(pool, &edits).await;
    assert!(saved.iter().all(Result::is_ok), "{saved:?}");
    let fences = "SELECT fence FROM notes ORDER BY tenant, slug";
    let fences: Vec<i64> = sqlx::query_scalar(fences).fetch_all(pool).await.unwrap();
    assert_eq!(fences, [7, 7, 7, 7, 5]);
}

/// The other is stale, as if one came after the other.
#[tokio::test]
async fn a_row_that_is_given_twice_is_written_once() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    let mut mine: Vec<Note> = rows.iter().map(|row| titled(row, "one")).collect();
    mine.extend(rows.iter().map(|row| titled(row, "other")));
    let outcomes = Note::update_many(pool, &mine).await;
    for (one, other) in outcomes.iter().zip(&outcomes[5..]) {
        let (Ok(written), Err(UpdateError::Stale(conflict))) = (one, other) else {
            panic!("{one:?} {other:?}");
        };
        assert_eq!(&conflict.current, written);
        assert_eq!((written.version, written.edits), (1, 1));
    }
    // What follows from what was written is written too.
    let next = titled(
        outcomes.iter().find_map(|one| one.as_ref().ok()).unwrap(),
        "next",
    );
    let outcomes = Note::update_many(pool, [&next, &mine[0]]).await;
    assert!(
        matches!(outcomes[..], [Ok(_), Err(UpdateError::Stale(_))]),
        "{outcomes:?}"
    );
}

/// As in a loop: what a copy says of the row holds or not when its turn comes, whatever the batch makes of the row for another copy, and whatever columns
/// an edit changes.
#[tokio::test]
async fn copies_of_a_row_are_written_one_after_the_other() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    let of = |version, title: &str| Note {
        version,
        ..titled(&rows[0], title)
    };
    let given = [of(1, "ahead"), of(0, "mine"), of(0, "late"), of(1, "next")];
    let outcomes = Note::update_many(pool, &given).await;
    let [
        Err(UpdateError::Stale(ahead)),
        Ok(mine),
        Err(UpdateError::Stale(late)),
        Ok(next),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(&ahead.current, &rows[0]);
    assert_eq!((&late.current, mine.version), (mine, 1));
    assert_eq!((next.version, titles(pool).await[0].as_str()), (2, "next"));

    let (mut other, mut first, mut second) = (rows[1].edit(), rows[2].edit(), rows[2].edit());
    other.body = Some("other".to_owned());
    first.title = "first".to_owned();
    second.body = Some("second".to_owned());
    let outcomes = Note::save_many(pool, [&other, &first, &second]).await;
    let [Ok(_), Ok(first), Err(UpdateError::Stale(conflict))] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    assert_eq!(&conflict.current, first);
}

/// More than are sorted in one way.
#[tokio::test]
async fn of_many_that_are_given_often_the_first_is_written() {
    let slugs = (0..20).map(|n| (7, format!("note {n}")));
    let slugs: Vec<(i64, String)> = slugs.collect();
    let slugs = || slugs.iter().map(|(tenant, slug)| (*tenant, slug.as_str()));
    let database = database(NOTES).await;
    let pool = &database.pool;
    let sql = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 19)
        INSERT INTO notes (tenant, slug, title, version) SELECT 7, 'note ' || n, 'old', 0 FROM numbers";
    run(pool, sql).await;
    for way in ["update", "save", "delete"] {
        let rows = Note::load_many(pool, slugs()).await.into_iter();
        let rows: Vec<Note> = rows.map(Result::unwrap).collect();
        // Each of them five times, far from each other.
        let given = (0..100).map(|n| titled(&rows[n * 13 % 20], &format!("{way} {n}")));
        let given: Vec<Note> = given.collect();
        let written: Vec<bool> = match way {
            "update" => {
                let written = Note::update_many(pool, &given).await;
                written.iter().map(Result::is_ok).collect()
            }
            "save" => {
                let edits = given.iter().zip((0..100).map(|n| &rows[n * 13 % 20]));
                let edits: Vec<_> = edits.map(|(mine, row)| edited((row, mine))).collect();
                let written = Note::save_many(pool, &edits).await;
                written.iter().map(Result::is_ok).collect()
            }
            _ => {
                let written = Note::delete_many(pool, &given).await;
                written.iter().map(Result::is_ok).collect()
            }
        };
        let of_each = (0..100).map(|n| n < 20);
        assert!(written.iter().copied().eq(of_each), "{way}: {written:?}");
        let left = Note::load_many(pool, slugs()).await.into_iter();
        let left: Vec<String> = left.flatten().map(|row| row.title).collect();
        let first = |row: &Note| given.iter().find(|mine| mine.slug == row.slug).unwrap();
        let firsts = rows.iter().filter(|_| way != "delete");
        let firsts = firsts.map(|row| first(row).title.clone());
        assert!(left.iter().cloned().eq(firsts), "{way}: {left:?}");
    }
}

#[tokio::test]
async fn a_row_that_is_refused_hurts_no_other() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    let mut mine: Vec<Note> = rows.iter().map(|row| titled(row, "mine")).collect();
    mine[1].title = "refused".to_owned();
    mine[4].version = i32::MAX;
    run(
        pool,
        "UPDATE notes SET version = 2147483647 WHERE tenant = 2 AND slug = 'b'",
    )
    .await;
    let outcomes = Note::update_many(pool, &mine).await;
    let [
        Ok(_),
        Err(UpdateError::Database(error)),
        Ok(_),
        Ok(_),
        Err(UpdateError::VersionOverflow(_)),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(error.fault(), Fault::CheckViolation);
    assert_eq!(
        titles(pool).await,
        ["mine", "second", "mine", "mine", "fifth"]
    );
}

#[tokio::test]
async fn in_a_transaction() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    let mine: Vec<Note> = rows.iter().map(|row| titled(row, "mine")).collect();
    let mut tx = pool.begin().await.unwrap();
    assert!(
        Note::update_many(&mut *tx, &mine)
            .await
            .iter()
            .all(Result::is_ok)
    );
    assert!(
        Note::load_many(&mut *tx, SLUGS)
            .await
            .iter()
            .all(Result::is_ok)
    );
    tx.rollback().await.unwrap();
    assert_eq!(
        titles(pool).await,
        ["first", "second", "third", "fourth", "fifth"]
    );

    let mut mine = mine;
    mine[1].title = "refused".to_owned();
    let mut tx = pool.begin().await.unwrap();
    let outcomes = Note::update_many(&mut *tx, &mine).await;
    let refused = |outcome: &Result<Note, UpdateError<Note>>| match outcome {
        Ok(_) => false,
        Err(UpdateError::Database(error)) => error.fault() == Fault::CheckViolation,
        Err(error) => panic!("{error:?}"),
    };
    let refused: Vec<bool> = outcomes.iter().map(refused).collect();
    let committed = tx.commit().await;
    // There the statement was about all of them.
    if NAME == "PostgreSQL" {
        assert_eq!(refused, [true; 5]);
        assert_eq!(
            titles(pool).await,
            ["first", "second", "third", "fourth", "fifth"]
        );
    } else {
        committed.unwrap();
        assert_eq!(refused, [false, true, false, false, false]);
        assert_eq!(
            titles(pool).await,
            ["mine", "second", "mine", "mine", "mine"]
        );
    }
}

/// A row that is there already, one that is refused, and those of the others.
#[tokio::test]
async fn each_row_that_is_inserted_has_its_outcome() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    let new = |tenant: i64, title: &str| Note {
        tenant,
        title: title.to_owned(),
        version: 7,
        ..rows[0].clone()
    };
    let given = [
        new(9, "nine"),
        new(2, "taken"),
        new(8, "eight"),
        new(7, "refused"),
        new(6, "six"),
        new(6, "twice"),
    ];
    let outcomes = Note::insert_many(pool, &given).await;
    let [
        Ok(nine),
        Err(InsertError::AlreadyExists(taken)),
        Ok(eight),
        Err(InsertError::Database(refused)),
        Ok(six),
        Err(InsertError::AlreadyExists(_)),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    for (row, given) in [(nine, &given[0]), (eight, &given[2]), (six, &given[4])] {
        assert_eq!((row.tenant, &row.title), (given.tenant, &given.title));
        assert_eq!((row.version, row.edits), (0, 0));
        let read = Note::load(pool, (row.tenant, "a")).await.unwrap();
        assert_eq!(&read, row);
    }
    let text = taken.to_string();
    assert!(
        text.starts_with("insert_many of notes (tenant = 2, slug = …)"),
        "{text}"
    );
    assert_eq!(refused.fault(), Fault::CheckViolation);
    assert_eq!(titles(pool).await.len(), 8);
    assert!(Note::insert_many(pool, &[]).await.is_empty());
    let mut tx = pool.begin().await.unwrap();
    let given = [new(20, "one"), new(21, "other")];
    let outcomes = Note::insert_many(&mut *tx, &given).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    tx.rollback().await.unwrap();
    assert_eq!(titles(pool).await.len(), 8);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "lines")]
struct Line {
    #[rowlock(key, generated)]
    id: i64,
    text: String,
    #[rowlock(version)]
    version: i64,
}

/// The database makes the keys, in the order given.
#[tokio::test]
async fn keys_that_the_database_makes() {
    let database =
        database("CREATE TABLE lines (id {id}, text text NOT NULL, version bigint NOT NULL)").await;
    let pool = &database.pool;
    let lines: Vec<Line> = (0..40)
        .map(|number| Line {
            id: 0,
            text: format!("line {}", number * 7 % 40),
            version: 0,
        })
        .collect();
    let inserted = Line::insert_many(pool, &lines).await.into_iter();
    let inserted: Vec<Line> = inserted.collect::<Result<_, _>>().unwrap();
    for (inserted, line) in inserted.iter().zip(&lines) {
        assert_eq!(inserted.text, line.text);
    }
    assert!(inserted.is_sorted_by(|one, next| one.id < next.id));
}

#[tokio::test]
async fn each_edit_that_is_saved_has_its_outcome() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    let mut edits: Vec<_> = rows.iter().map(Note::edit).collect();
    edits[0].title = "mine".to_owned();
    edits[1].body = Some("body".to_owned());
    edits[2].title = "mine".to_owned();
    edits[4].body = Some("body".to_owned());
    edits[4].title = "refused".to_owned();
    let mut moved = rows[3].edit();
    moved.slug = "elsewhere".to_owned();
    edits.push(moved);
    let mut again = rows[0].edit();
    again.body = Some("late".to_owned());
    edits.push(again);
    // Columns that an edit has not changed are not written.
    run(
        pool,
        "UPDATE notes SET body = 'not ours' WHERE slug = 'a' AND tenant = 1;
         UPDATE notes SET version = 4 WHERE slug = 'c'",
    )
    .await;
    let outcomes = Note::save_many(pool, &edits).await;
    let [
        Ok(first),
        Ok(second),
        Err(UpdateError::Stale(stale)),
        Ok(unchanged),
        Err(UpdateError::Database(refused)),
        Err(UpdateError::KeyChanged(_)),
        Err(UpdateError::Stale(again)),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(
        (first.title.as_str(), first.version, first.edits),
        ("mine", 1, 1)
    );
    assert_eq!((second.body.as_deref(), second.version), (Some("body"), 1));
    assert_eq!((stale.expected_version(), stale.current_version()), (0, 4));
    assert_eq!(unchanged, &rows[3]);
    assert_eq!(refused.fault(), Fault::CheckViolation);
    assert_eq!(again.current.title, "mine");
    let body: Option<String> =
        sqlx::query_scalar("SELECT body FROM notes WHERE slug = 'a' AND tenant = 1")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(body.as_deref(), Some("not ours"));
    // What was not changed by the edit is as it was read, as after `save`.
    assert_eq!(first.body, rows[0].body);
    assert_eq!(
        titles(pool).await,
        ["mine", "second", "third", "fourth", "fifth"]
    );
    assert!(Note::save_many(pool, &[]).await.is_empty());
}

/// The version of an edit is what its row has to have, as for `save`: one that came from an ETag, say.
#[tokio::test]
async fn a_version_that_is_edited_counts() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    let mut edits: Vec<_> = rows.iter().map(Note::edit).collect();
    for edit in &mut edits {
        edit.title = "mine".to_owned();
    }
    edits[1].version = 3;
    for outcomes in [
        Note::save_many(pool, &edits[..2]).await,
        vec![edits[2].save(pool).await, edits[1].save(pool).await],
    ] {
        let [Ok(_), Err(UpdateError::Stale(conflict))] = outcomes.as_slice() else {
            panic!("{outcomes:?}");
        };
        assert_eq!(
            (conflict.expected_version(), conflict.current_version()),
            (3, 0)
        );
    }
}

/// PostgreSQL has no NUL in a text.
#[tokio::test]
async fn a_key_with_a_nul_byte_hurts_no_other() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let loaded = Note::load_many(pool, [(1, "a\0"), (1, "b")]).await;
    assert!(matches!(loaded[..], [Err(_), Ok(_)]), "{loaded:?}");
}

#[tokio::test]
async fn each_row_that_is_deleted_has_its_outcome() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let rows = notes(pool).await;
    run(
        pool,
        "UPDATE notes SET version = 4 WHERE tenant = 1 AND slug = 'b';
         DELETE FROM notes WHERE tenant = 1 AND slug = 'c';
         UPDATE notes SET fence = 9 WHERE tenant = 2 AND slug = 'a'",
    )
    .await;
    let outcomes = Note::delete_many(pool, &rows).await;
    let [
        Ok(()),
        Err(DeleteError::Stale(conflict)),
        Err(DeleteError::Gone(_)),
        Err(DeleteError::Fenced { .. }),
        Ok(()),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(conflict.current.version, 4);
    assert_eq!(titles(pool).await, ["second", "fourth"]);
    let twice = notes_left(pool).await;
    let outcomes = Note::delete_many(pool, twice.iter().chain(&twice)).await;
    let deleted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let gone = |outcome: &&Result<_, _>| matches!(outcome, Err(DeleteError::Gone(_)));
    assert_eq!((deleted, outcomes.iter().filter(gone).count()), (2, 2));
}

async fn notes_left(pool: &Pool) -> Vec<Note> {
    let loaded = Note::load_many(pool, SLUGS).await.into_iter();
    loaded.filter_map(Result::ok).collect()
}

#[tokio::test]
async fn a_pool_that_is_closed() {
    let database = database(NOTES).await;
    let rows = notes(&database.pool).await;
    let pool = database.one_connection_pool().await;
    pool.close().await;
    for outcome in Note::load_many(&pool, SLUGS).await {
        let Err(LoadError::Database(error)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.fault(), Fault::PoolClosed);
    }
    for outcome in Note::update_many(&pool, &rows).await {
        let Err(UpdateError::Database(error)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.fault(), Fault::PoolClosed);
    }
    for outcome in Note::delete_many(&pool, &rows).await {
        assert!(
            matches!(outcome, Err(DeleteError::Database(_))),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn each_function_can_be_spawned() {
    let database = database(NOTES).await;
    let (pool, rows) = (database.pool.clone(), notes(&database.pool).await);
    let spawned = tokio::spawn(async move {
        let loaded = Note::load_many(&pool, SLUGS.iter().copied()).await.len();
        let updated = Note::update_many(&pool, &rows).await.len();
        let edits: Vec<_> = rows.iter().map(Note::edit).collect();
        let saved = Note::save_many(&pool, edits.iter()).await.len();
        let deleted = Note::delete_many(&pool, rows.iter()).await.len();
        let inserted = Note::insert_many(&pool, rows.iter()).await.len();
        (loaded, updated, saved, deleted, inserted)
    });
    assert_eq!(spawned.await.unwrap(), (5, 5, 5, 5, 5));
}

/// What another writer did to a row since it was read, and what is to be written.
#[derive(Debug, Clone, Copy)]
struct Case {
    meanwhile: Meanwhile,
    refused: bool,
}

#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Nothing,
    Changed,
    Deleted,
    Fenced,
}

fn case() -> impl Strategy<Value = Case> {
    let meanwhile = prop_oneof![
        4 => Just(Meanwhile::Nothing),
        1 => Just(Meanwhile::Changed),
        1 => Just(Meanwhile::Deleted),
        1 => Just(Meanwhile::Fenced),
    ];
    (meanwhile, prop::bool::weighted(0.1))
        .prop_map(|(meanwhile, refused)| Case { meanwhile, refused })
}

/// One outcome, and what it says.
fn told(outcome: &Result<Note, UpdateError<Note>>) -> String {
    match outcome {
        Ok(row) => format!("{row:?}"),
        Err(UpdateError::Stale(conflict)) => format!("stale {:?}", conflict.current),
        Err(error) => error.to_string().replace("_many", ""),
    }
}

async fn filled(rows: usize) -> super::Database {
    let database = database(NOTES).await;
    run(&database.pool, "DELETE FROM notes").await;
    for id in 0..rows {
        let sql = "INSERT INTO notes (tenant, slug, title, version) VALUES ($1, 'x', 'title', 0)";
        let inserted = sqlx::query(sql).bind(id as i64).execute(&database.pool);
        inserted.await.unwrap();
    }
    database
}

/// Every other one changes a column more.
fn edited((row, mine): (&Note, &Note)) -> Edit<Note> {
    let mut edit = row.edit();
    edit.title.clone_from(&mine.title);
    if row.tenant % 2 == 0 {
        edit.body = Some("body".to_owned());
    }
    edit
}

async fn as_one_by_one(cases: &[Case], saves: bool) -> Result<(), TestCaseError> {
    let (many, single) = (filled(cases.len()).await, filled(cases.len()).await);
    let mut outcomes = Vec::new();
    for (database, at_once) in [(&many, true), (&single, false)] {
        let pool = &database.pool;
        let keys = (0..cases.len() as i64).map(|id| (id, "x"));
        let loaded = Note::load_many(pool, keys).await.into_iter();
        let loaded: Vec<Note> = loaded.collect::<Result<_, _>>().unwrap();
        let mut mine = Vec::new();
        for (row, case) in loaded.iter().zip(cases) {
            let row = titled(row, if case.refused { "refused" } else { "mine" });
            let sql = match case.meanwhile {
                Meanwhile::Nothing => None,
                Meanwhile::Changed => Some("UPDATE notes SET version = 5 WHERE tenant = $1"),
                Meanwhile::Deleted => Some("DELETE FROM notes WHERE tenant = $1"),
                Meanwhile::Fenced => Some("UPDATE notes SET fence = 2 WHERE tenant = $1"),
            };
            if let Some(sql) = sql {
                let changed = sqlx::query(sql).bind(row.tenant).execute(pool);
                changed.await.unwrap();
            }
            mine.push(row);
        }
        let mut told_of = Vec::new();
        if saves {
            let edits: Vec<_> = loaded.iter().zip(&mine).map(edited).collect();
            if at_once {
                told_of.extend(Note::save_many(pool, &edits).await.iter().map(told));
            } else {
                for edit in &edits {
                    told_of.push(told(&edit.save(pool).await));
                }
            }
        } else if at_once {
            told_of.extend(Note::update_many(pool, &mine).await.iter().map(told));
        } else {
            for row in &mine {
                told_of.push(told(&row.update(pool).await));
            }
        }
        let sql = "SELECT * FROM notes ORDER BY tenant";
        let stored: Vec<Note> = sqlx::query_as(sql)
            .fetch_all(pool)
            .await
            .unwrap_or_default();
        outcomes.push((told_of, stored));
    }
    prop_assert_eq!(&outcomes[0], &outcomes[1]);
    Ok(())
}

#[tokio::test]
async fn many_are_as_one_by_one() {
    let config = Config {
        cases: 16,
        failure_persistence: None,
        ..Config::default()
    };
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let cases = (prop::collection::vec(case(), 1..24), any::<bool>());
        TestRunner::new(config)
            .run(&cases, |(cases, saves)| {
                handle.block_on(as_one_by_one(&cases, saves))
            })
            .unwrap();
    })
    .await
    .unwrap();
}
