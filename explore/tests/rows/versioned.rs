//! `Versioned`: of edits of one row, each is there once, or its writer knows that it is not.

use std::time::Duration;

use rowlock::row::UpdateError;
use rowlock::{Versioned, transaction};
use rowlock_explore::{Ended, Explorer};
use sqlx::PgPool;

use super::{FAULTS, Known, Works, all_but_broken, as_known, explore, letters, passed, wrong};

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
struct Document {
    #[rowlock(key)]
    id: i32,
    title: String,
    body: String,
    #[rowlock(version)]
    version: i32,
}

const DOCUMENTS: &str = "CREATE TABLE documents (id int PRIMARY KEY, title text NOT NULL, body text NOT NULL, version int NOT NULL)";
const ONE: &str = "DELETE FROM documents; INSERT INTO documents VALUES (1, '', '', 0)";

/// Each writes a letter of its own into the body, and raises the version by one.
async fn documents() -> Explorer<Known<Document>> {
    explore(DOCUMENTS, ONE)
        .await
        .invariant(|ended: Ended<Known<Document>>| async move {
            let body = ended.value("SELECT body FROM documents").await?;
            as_known(&ended, &letters(&body, ['a', 'b', 'c']))?;
            let version = ended.value("SELECT version FROM documents").await?;
            match version == body.len().to_string() {
                true => Ok(()),
                false => Err(format!("version {version} of {body}")),
            }
        })
}

/// Until nobody is faster.
async fn write(pool: PgPool, letter: char) -> Result<Document, UpdateError<Document>> {
    let document = Document::update_with(&pool, 1, |document| document.body.push(letter)).await?;
    assert_eq!(letters(&document.body, [letter]), [1]);
    Ok(document)
}

#[tokio::test]
async fn two_update_with() {
    for faults in [&FAULTS[..0], &FAULTS] {
        let verdict = documents()
            .await
            .works("ann", |pool| write(pool, 'a'))
            .works("bob", |pool| write(pool, 'b'))
            .invariant(|ended| async move { all_but_broken(&ended) })
            .faults(faults.iter().copied())
            .explore();
        passed(
            "Versioned: update_with, update_with",
            verdict.await.unwrap(),
        );
    }
}

/// Once only, from a copy.
async fn save(pool: PgPool, letter: char) -> Result<Document, rowlock::Error> {
    let mut edit = Document::load(&pool, 1).await?.edit();
    let seen = edit.body.clone();
    edit.body.push(letter);
    match edit.save(&pool).await {
        Err(UpdateError::Stale(conflict)) => {
            assert_eq!(conflict.mine.body, format!("{seen}{letter}"));
            assert_eq!(conflict.base().map(|base| &base.body), Some(&seen));
            // What the others have written since, and nothing of this one.
            let current = &conflict.current.body;
            assert!(current.starts_with(&seen) && current.len() > seen.len());
            assert_eq!(letters(current, [letter]), [0]);
            assert_eq!(conflict.current_version() as usize, current.len());
            Err(UpdateError::Stale(conflict).into())
        }
        saved => Ok(saved?),
    }
}

/// One who does not know of a fault is done, or was told that somebody was first.
fn or_stale(ended: &Ended<Known<Document>>) -> Result<(), String> {
    let conflict = |known: &&Known<_>| matches!(known, Known::Not { conflict: true, .. });
    let conflicts = ended.returned().filter(conflict).count();
    let done = ended.returned().filter_map(Known::done).count();
    let expected = ended.outcomes.len() - ended.faults.len();
    match done + conflicts >= expected && done + ended.faults.len() > 0 {
        true => Ok(()),
        false => Err(format!("{done} done, {conflicts} in conflict")),
    }
}

#[tokio::test]
async fn two_save() {
    let verdict = documents()
        .await
        .works("ann", |pool| save(pool, 'a'))
        .works("bob", |pool| save(pool, 'b'))
        .invariant(|ended| async move { or_stale(&ended) })
        .explore();
    passed("Versioned: save, save", verdict.await.unwrap());
}

#[tokio::test]
async fn three_save() {
    let verdict = documents()
        .await
        .works("ann", |pool| save(pool, 'a'))
        .works("bob", |pool| save(pool, 'b'))
        .works("cal", |pool| save(pool, 'c'))
        .invariant(|ended| async move { or_stale(&ended) })
        .explore();
    passed("Versioned: save, save, save", verdict.await.unwrap());
}

/// Two who changed different fields keep both.
async fn merge(pool: PgPool, change: fn(&mut Document)) -> Result<Document, rowlock::Error> {
    let mut edit = Document::load(&pool, 1).await?.edit();
    change(&mut edit);
    match edit.save(&pool).await {
        Err(UpdateError::Stale(conflict)) => Ok(conflict.merge()?.save(&pool).await?),
        saved => Ok(saved?),
    }
}

#[tokio::test]
async fn two_merge() {
    let verdict = explore(DOCUMENTS, ONE)
        .await
        .works("ann", |pool| {
            merge(pool, |document| document.title.push('a'))
        })
        .works("bob", |pool| {
            merge(pool, |document| document.body.push('b'))
        })
        .invariant(|ended: Ended<Known<Document>>| async move {
            let text = ended.value("SELECT title || body FROM documents").await?;
            as_known(&ended, &letters(&text, ['a', 'b']))?;
            all_but_broken(&ended)
        })
        .explore();
    passed(
        "Versioned: save and merge, save and merge",
        verdict.await.unwrap(),
    );
}

/// Load and update in a transaction that runs again if it has to.
async fn in_transaction(pool: PgPool, letter: char) -> Result<Document, rowlock::Error> {
    let written = transaction(&pool)
        .repeatable_read()
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
        .run(async |tx| -> Result<_, rowlock::Error> {
            let mut document = Document::load(&mut *tx, 1).await?;
            document.body.push(letter);
            Ok(document.update(&mut *tx).await?)
        })
        .await?;
    Ok(written)
}

/// Conflicts at REPEATABLE READ are the server's, and all of the transaction runs again.
#[tokio::test]
async fn two_transactions_that_run_again() {
    let verdict = documents()
        .await
        .works("ann", |pool| in_transaction(pool, 'a'))
        .works("bob", |pool| in_transaction(pool, 'b'))
        .invariant(|ended| async move { all_but_broken(&ended) })
        .preemptions(2)
        .explore();
    passed(
        "Versioned: load and update in transaction(), twice",
        verdict.await.unwrap(),
    );
}

async fn delete(pool: PgPool) -> Result<Document, rowlock::Error> {
    let document = Document::load(&pool, 1).await?;
    document.delete(&pool).await?;
    Ok(document)
}

/// Who deletes a copy that is stale does not.
#[tokio::test]
async fn save_and_delete() {
    let verdict = explore(DOCUMENTS, ONE)
        .await
        .works("ann", |pool| save(pool, 'a'))
        .works("bob", delete)
        .invariant(|ended: Ended<Known<Document>>| async move {
            let left = ended.rows("SELECT body FROM documents").await?;
            let known: Vec<&Known<Document>> = ended.returned().collect();
            match (&known[..], left.len()) {
                ([_, Known::Done(deleted)], 0) => match known[0] {
                    // It was seen by who deleted it.
                    Known::Done(_) if deleted.body != "a" => Err("an edit is lost".to_owned()),
                    _ => Ok(()),
                },
                ([_, Known::Not { conflict: true, .. }], 1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .explore();
    passed("Versioned: save, delete", verdict.await.unwrap());
}

/// The version is in the WHERE, and nobody looks how many rows were met.
async fn without_a_look(pool: PgPool, letter: char) -> Result<Document, sqlx::Error> {
    let mut document: Document = sqlx::query_as("SELECT * FROM documents WHERE id = $1")
        .bind(1)
        .fetch_one(&pool)
        .await?;
    document.body.push(letter);
    sqlx::query(
        "UPDATE documents SET body = $1, version = version + 1 WHERE id = $2 AND version = $3",
    )
    .bind(&document.body)
    .bind(1)
    .bind(document.version)
    .execute(&pool)
    .await?;
    Ok(document)
}

#[tokio::test]
async fn by_hand_the_row_count_is_not_looked_at() {
    let verdict = documents()
        .await
        .by_hand("ann", |pool| without_a_look(pool, 'a'))
        .by_hand("bob", |pool| without_a_look(pool, 'b'))
        .exhaustive()
        .count_failures()
        .explore();
    wrong(
        "Versioned: a version check without a look",
        verdict.await.unwrap(),
    );
}

/// Read, change, write.
async fn without_a_version(pool: PgPool, letter: char) -> Result<Document, sqlx::Error> {
    let mut document: Document = sqlx::query_as("SELECT * FROM documents WHERE id = $1")
        .bind(1)
        .fetch_one(&pool)
        .await?;
    document.body.push(letter);
    sqlx::query("UPDATE documents SET body = $1, version = version + 1 WHERE id = $2")
        .bind(&document.body)
        .bind(1)
        .execute(&pool)
        .await?;
    Ok(document)
}

#[tokio::test]
async fn by_hand_an_edit_is_lost() {
    let verdict = documents()
        .await
        .by_hand("ann", |pool| without_a_version(pool, 'a'))
        .by_hand("bob", |pool| without_a_version(pool, 'b'))
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong("Versioned: read, change, write", verdict.await.unwrap());
    assert!(failure.anomaly().starts_with("lost update"));
}
