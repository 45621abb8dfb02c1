//! `upsert_if`: an upsert that overwrites only a row that meets a condition.

use std::sync::Arc;

use proptest::prelude::*;
use rowlock::row::{UpsertError, Upserted};
use rowlock::{Fault, FindOrCreate, Guarded};
use sqlx::Executor;
use tokio::sync::Barrier;

use super::{Db, NAME, Pool, database};

/// What a webhook brings, in any order.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate, Guarded)]
#[rowlock(table = "releases", unique(name))]
struct Release {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    title: String,
    seen_at: i64,
    note: Option<String>,
}

const RELEASES: &str = "CREATE TABLE releases (id {id}, name text NOT NULL UNIQUE, title text NOT NULL UNIQUE, seen_at bigint NOT NULL,
    note text)";

fn release(seen_at: i64) -> NewRelease {
    NewRelease {
        name: "a".to_owned(),
        title: format!("at {seen_at}"),
        seen_at,
        note: None,
    }
}

/// The newest one wins.
async fn upsert_newer(pool: &Pool, new: NewRelease) -> Result<Upserted<Release>, UpsertError> {
    let newer = Release::SEEN_AT.lt(new.seen_at);
    Release::upsert_if(pool, new, newer).await
}

async fn stored(pool: &Pool) -> Release {
    Release::find_by_name(pool, "a")
        .await
        .unwrap()
        .expect("it is there")
}

#[tokio::test]
async fn it_creates_updates_or_refuses_and_says_which() {
    let database = database(RELEASES).await;
    let pool = &database.pool;
    let created = upsert_newer(pool, release(5)).await.unwrap();
    assert_eq!(created, Upserted::Created(stored(pool).await));
    let updated = upsert_newer(pool, release(7)).await.unwrap();
    let row = stored(pool).await;
    assert_eq!((row.seen_at, row.title.as_str()), (7, "at 7"));
    assert_eq!(updated, Upserted::Updated(row.clone()));
    for late in [7, 6] {
        let refused = upsert_newer(pool, release(late)).await.unwrap();
        assert!(refused.is_refused() && !refused.is_created());
        assert_eq!(refused, Upserted::Refused(row.clone()));
        assert_eq!(refused.written(), None);
        assert_eq!(stored(pool).await, row);
    }
}

/// In one transaction: what the same transaction wrote is there, and a refusal leaves it usable.
#[tokio::test]
async fn it_is_part_of_the_callers_transaction() {
    let database = database(RELEASES).await;
    let pool = &database.pool;
    let mut transaction = pool.begin().await.unwrap();
    for (seen_at, told) in [
        (5, "created"),
        (7, "updated"),
        (6, "refused"),
        (8, "updated"),
    ] {
        let newer = Release::SEEN_AT.lt(seen_at);
        let upserted = Release::upsert_if(&mut *transaction, release(seen_at), newer).await;
        let said = match upserted.unwrap() {
            Upserted::Created(_) => "created",
            Upserted::Updated(_) => "updated",
            Upserted::Refused(row) => {
                assert_eq!(row.seen_at, 7);
                "refused"
            }
        };
        assert_eq!(said, told, "{seen_at}");
    }
    transaction.rollback().await.unwrap();
    assert!(Release::find_by_name(pool, "a").await.unwrap().is_none());
}

/// Of the row that is there, and not of the new values, which have the same names.
#[tokio::test]
async fn the_condition_is_about_the_row_that_is_there() {
    let database = database(RELEASES).await;
    let pool = &database.pool;
    upsert_newer(pool, release(5)).await.unwrap().into_inner();
    let with_note = NewRelease {
        note: Some("x".to_owned()),
        ..release(6)
    };
    // NULL in the row, given in the new values.
    let refused = Release::upsert_if(pool, with_note.clone(), Release::NOTE.is_not_null()).await;
    assert!(refused.unwrap().is_refused());
    // NULL is no text: not met.
    let refused = Release::upsert_if(pool, with_note.clone(), Release::NOTE.lt("z")).await;
    assert!(refused.unwrap().is_refused());
    let both = Release::NOTE.eq(None).and(Release::NAME.ne(Release::TITLE));
    let updated = Release::upsert_if(pool, with_note, both).await.unwrap();
    assert_eq!(updated.written().unwrap().note.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_violation_of_another_index_is_reported() {
    let database = database(RELEASES).await;
    let pool = &database.pool;
    for name in ["a", "b"] {
        let new = NewRelease {
            name: name.to_owned(),
            title: name.to_owned(),
            ..release(1)
        };
        upsert_newer(pool, new).await.unwrap().into_inner();
    }
    for name in ["a", "c"] {
        let taken = NewRelease {
            name: name.to_owned(),
            title: "b".to_owned(),
            ..release(2)
        };
        let error = upsert_newer(pool, taken).await.unwrap_err();
        assert!(
            matches!(&error, UpsertError::Database(error) if error.fault() == Fault::UniqueViolation),
            "{name}: {error:?}"
        );
    }
    // Which is not looked at where nothing is to be written.
    let taken = NewRelease {
        title: "b".to_owned(),
        ..release(1)
    };
    assert!(upsert_newer(pool, taken).await.unwrap().is_refused());
    let index = match NAME {
        "PostgreSQL" => "ALTER TABLE releases DROP CONSTRAINT releases_name_key",
        _ => {
            "CREATE TABLE old AS SELECT * FROM releases; DROP TABLE releases; ALTER TABLE old RENAME TO releases"
        }
    };
    sqlx::raw_sql(index).execute(pool).await.unwrap();
    let error = upsert_newer(pool, release(9)).await.unwrap_err();
    assert!(
        matches!(error, UpsertError::MissingUniqueIndex(_, "name")),
        "{error:?}"
    );
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate, Guarded)]
#[rowlock(table = "pages", unique(name), unique(slug))]
struct Page {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    slug: String,
    owner: i64,
    #[rowlock(version)]
    version: i32,
}

const PAGES: &str = "CREATE TABLE pages (id {id}, name text NOT NULL UNIQUE, slug text NOT NULL UNIQUE, owner bigint NOT NULL,
    version integer)";

fn page(owner: i64) -> NewPage {
    NewPage {
        name: "n".to_owned(),
        slug: "s".to_owned(),
        owner,
    }
}

#[tokio::test]
async fn of_several_keys_each_has_its_own_and_the_version_goes_up() {
    let database = database(PAGES).await;
    let pool = &database.pool;
    let mine = || Page::OWNER.eq(1);
    let created = Page::upsert_if_by_name(pool, page(1), mine()).await;
    assert!(created.unwrap().is_created());
    let moved = NewPage {
        name: "m".to_owned(),
        ..page(2)
    };
    let updated = Page::upsert_if_by_slug(pool, moved, mine()).await.unwrap();
    let updated = updated.written().unwrap();
    assert_eq!((updated.name.as_str(), updated.version), ("m", 1));
    let refused = Page::upsert_if_by_slug(pool, page(1), mine()).await;
    assert_eq!(refused.unwrap(), Upserted::Refused(updated));

    let highest = "UPDATE pages SET version = 2147483647";
    pool.execute(highest).await.unwrap();
    let refused = Page::upsert_if_by_slug(pool, page(1), mine()).await;
    assert!(refused.unwrap().is_refused());
    let error = Page::upsert_if_by_slug(pool, page(1), Page::OWNER.eq(2)).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, UpsertError::VersionOverflow(_)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_write_that_a_trigger_drops_is_ignored() {
    let database = database(RELEASES).await;
    let pool = &database.pool;
    upsert_newer(pool, release(5)).await.unwrap().into_inner();
    let skip = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER skip BEFORE UPDATE ON releases FOR EACH ROW EXECUTE FUNCTION skip()"
        }
        _ => "CREATE TRIGGER skip BEFORE UPDATE ON releases BEGIN SELECT RAISE(IGNORE); END",
    };
    sqlx::raw_sql(skip).execute(pool).await.unwrap();
    let error = upsert_newer(pool, release(6)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "upsert_if of releases (name = …): nothing was written: a trigger or ON CONFLICT IGNORE dropped it, or concurrent writers changed the row in between"
    );
    assert!(upsert_newer(pool, release(4)).await.unwrap().is_refused());
    assert_eq!(stored(pool).await.seen_at, 5);
}

/// A holder writes the row, and the upsert waits for him: what counts is what he commits.
#[tokio::test]
async fn it_waits_for_who_writes_the_row_and_looks_at_what_he_wrote() {
    for (theirs, commits, refused) in [(9, true, true), (9, false, false), (6, true, false)] {
        let database = database(RELEASES).await;
        let pool = database.pool.clone();
        upsert_newer(&pool, release(5)).await.unwrap().into_inner();
        let mut holder = pool.begin().await.unwrap();
        let write = "UPDATE releases SET seen_at = $1";
        let write = sqlx::query::<Db>(write).bind(theirs);
        write.execute(&mut *holder).await.unwrap();
        let task = tokio::spawn(async move { upsert_newer(&pool, release(7)).await });
        database.until_blocked().await;
        if commits {
            holder.commit().await.unwrap();
        } else {
            holder.rollback().await.unwrap();
        }
        let upserted = task.await.unwrap().unwrap();
        assert_eq!(upserted.is_refused(), refused, "{theirs} {commits}");
        let seen_at = stored(&database.pool).await.seen_at;
        assert_eq!(seen_at, if refused { 9 } else { 7 });
        assert_eq!(upserted.into_inner().seen_at, seen_at);
    }
}

/// He deletes it: then it is created.
#[tokio::test]
async fn it_creates_the_row_that_a_holder_deletes() {
    let database = database(RELEASES).await;
    let pool = database.pool.clone();
    upsert_newer(&pool, release(9)).await.unwrap().into_inner();
    let mut holder = pool.begin().await.unwrap();
    holder.execute("DELETE FROM releases").await.unwrap();
    let task = tokio::spawn(async move { upsert_newer(&pool, release(7)).await });
    database.until_blocked().await;
    holder.commit().await.unwrap();
    assert!(task.await.unwrap().unwrap().is_created());
}

/// The naive twin looks first, and overwrites the newer row.
#[tokio::test]
async fn naive_twin_looks_and_then_upserts_and_the_older_one_stays() {
    let database = database(RELEASES).await;
    let pool = &database.pool;
    upsert_newer(pool, release(5)).await.unwrap().into_inner();
    let looked = Arc::new(Barrier::new(2));
    let written = Arc::new(Barrier::new(2));
    let upsert = |seen_at: i64, first: bool| {
        let (looked, written) = (looked.clone(), written.clone());
        async move {
            let newer = stored(pool).await.seen_at < seen_at;
            looked.wait().await;
            if !first {
                written.wait().await;
            }
            assert!(newer);
            Release::upsert(pool, release(seen_at)).await.unwrap();
            if first {
                written.wait().await;
            }
        }
    };
    tokio::join!(upsert(9, true), upsert(7, false));
    assert_eq!(stored(pool).await.seen_at, 7);
}

#[tokio::test]
async fn of_eight_at_once_the_newest_stays() {
    let database = database(RELEASES).await;
    let tasks = 8;
    for round in 0..5 {
        let barrier = Arc::new(Barrier::new(tasks));
        let upserts: Vec<_> = (0..tasks)
            .map(|task| {
                let (pool, barrier) = (database.pool.clone(), barrier.clone());
                let seen_at = round * 100 + task as i64;
                tokio::spawn(async move {
                    barrier.wait().await;
                    match upsert_newer(&pool, release(seen_at)).await.unwrap() {
                        Upserted::Created(row) | Upserted::Updated(row) => {
                            assert_eq!(row.seen_at, seen_at);
                        }
                        Upserted::Refused(row) => assert!(row.seen_at > seen_at),
                    }
                })
            })
            .collect();
        for upsert in upserts {
            upsert.await.unwrap();
        }
        assert_eq!(stored(&database.pool).await.seen_at, round * 100 + 7);
    }
}

/// Between the upsert that wrote nothing and the look at the row, a concurrent writer changes or deletes it: each such write costs one
/// round at most, so that there are enough of them. What is answered was true.
#[tokio::test]
async fn a_row_that_keeps_changing_is_written_or_refused() {
    let database = database(RELEASES).await;
    let pool = &database.pool;
    for round in 0..200 {
        let flip = if round % 2 == 0 {
            "INSERT INTO releases (name, title, seen_at) VALUES ('a', 't', 9) ON CONFLICT (name) DO UPDATE SET seen_at = 9"
        } else {
            "DELETE FROM releases"
        };
        let (flipped, upserted) = tokio::join!(pool.execute(flip), upsert_newer(pool, release(7)));
        flipped.unwrap();
        match upserted.unwrap() {
            Upserted::Created(row) | Upserted::Updated(row) => assert_eq!(row.seen_at, 7),
            Upserted::Refused(row) => assert!(row.seen_at >= 7),
        }
    }
}

#[tokio::test]
async fn it_can_be_spawned() {
    let database = database(RELEASES).await;
    let pool = database.pool.clone();
    let task = tokio::spawn(async move {
        let condition = Release::NOTE
            .is_null()
            .or(Release::TITLE.one_of(["x", "y"]));
        Release::upsert_if(&pool, release(1), condition).await
    });
    assert!(task.await.unwrap().unwrap().is_created());
}

/// Random conditions on random rows, each asked of the database as well.
#[test]
fn a_condition_is_met_where_the_database_says_so() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(database(RELEASES));
    let pool = &database.pool;
    let row = prop::option::of((prop::option::of("[a-c]{0,2}"), 0..4_i64));
    let asked = (prop::option::of("[a-c]{0,2}"), 0..4_i64, 0..4_usize);
    proptest!(ProptestConfig::with_cases(200), |(row in row, (note, seen_at, form) in asked)| {
        runtime.block_on(async {
            pool.execute("DELETE FROM releases").await.unwrap();
            if let Some((note, seen_at)) = &row {
                let insert = "INSERT INTO releases (name, title, seen_at, note) VALUES ('a', 't', $1, $2)";
                let insert = sqlx::query::<Db>(insert).bind(seen_at).bind(note);
                insert.execute(pool).await.unwrap();
            }
            let same = if NAME == "PostgreSQL" { "IS NOT DISTINCT FROM" } else { "IS" };
            let said = match form {
                0 => format!("note {same} $2 OR seen_at < $1"),
                1 => format!("note {same} $2 AND seen_at < $1"),
                2 => "note > $2 OR seen_at >= $1 AND seen_at = $1".to_owned(),
                _ => "note <= $2 AND (seen_at <= $1 OR note IS NULL)".to_owned(),
            };
            let said = format!("SELECT count(*) FROM releases WHERE {said}");
            let said = sqlx::query_scalar::<Db, i64>(sqlx::AssertSqlSafe(said));
            let said = said.bind(seen_at).bind(&note).fetch_one(pool).await.unwrap() == 1;
            let new = NewRelease { title: "w".to_owned(), ..release(1) };
            let (noted, seen) = (Release::NOTE, Release::SEEN_AT);
            let upserted = match form {
                0 => Release::upsert_if(pool, new, noted.eq(note).or(seen.lt(seen_at))).await,
                1 => Release::upsert_if(pool, new, noted.eq(note).and(seen.lt(seen_at))).await,
                2 => {
                    let second = seen.ge(seen_at).and(seen.eq(seen_at));
                    Release::upsert_if(pool, new, noted.gt(note).or(second)).await
                }
                _ => {
                    let second = seen.le(seen_at).or(noted.is_null());
                    Release::upsert_if(pool, new, noted.le(note).and(second)).await
                }
            };
            let upserted = upserted.unwrap();
            let written = stored(pool).await.title == "w";
            prop_assert_eq!(written, !upserted.is_refused());
            prop_assert_eq!(upserted.is_created(), row.is_none());
            prop_assert_eq!(written, row.is_none() || said);
            prop_assert_eq!(upserted.into_inner(), stored(pool).await);
            Ok(())
        })?;
    });
}
