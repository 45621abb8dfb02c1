//! `Versioned` with the version that PostgreSQL keeps.

use rowlock::row::UpdateError;
use rowlock::{Versioned, Xmin};
use rowlock_explore::{Ended, Explorer};
use sqlx::PgPool;

use super::{Known, Works, all_but_broken, as_known, explore, letters, passed, wrong};

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "notes", backend(Postgres))]
struct Note {
    #[rowlock(key)]
    id: i32,
    text: String,
    #[rowlock(version)]
    xmin: Xmin,
}

/// Each writes a letter of its own.
async fn notes() -> Explorer<Known<()>> {
    let table = "CREATE TABLE notes (id int PRIMARY KEY, text text NOT NULL)";
    explore(table, "DELETE FROM notes; INSERT INTO notes VALUES (1, '')")
        .await
        .invariant(|ended: Ended<Known<()>>| async move {
            let text = ended.value("SELECT text FROM notes").await?;
            as_known(&ended, &letters(&text, ['a', 'b', 'c']))
        })
}

async fn update_with(pool: PgPool, letter: char) -> Result<(), UpdateError<Note>> {
    let written = Note::update_with(&pool, 1, |note| note.text.push(letter));
    written.await.map(drop)
}

#[tokio::test]
async fn two_update_with() {
    let verdict = notes()
        .await
        .works("ann", |pool| update_with(pool, 'a'))
        .works("bob", |pool| update_with(pool, 'b'))
        .invariant(|ended| async move { all_but_broken(&ended) })
        .explore();
    passed(
        "Versioned by xmin: update_with, update_with",
        verdict.await.unwrap(),
    );
}

async fn update(pool: PgPool, letter: char) -> Result<(), rowlock::Error> {
    let mut note = Note::load(&pool, 1).await?;
    note.text.push(letter);
    match note.update(&pool).await {
        Err(UpdateError::Stale(conflict)) => {
            assert!(
                !conflict.current.text.is_empty() && conflict.current.text != conflict.mine.text
            );
            Err(UpdateError::Stale(conflict).into())
        }
        written => Ok(written.map(drop)?),
    }
}

#[tokio::test]
async fn three_update() {
    let verdict = notes()
        .await
        .works("ann", |pool| update(pool, 'a'))
        .works("bob", |pool| update(pool, 'b'))
        .works("cal", |pool| update(pool, 'c'))
        .never("SELECT FROM notes WHERE text = ''")
        .explore();
    passed(
        "Versioned by xmin: update, update, update",
        verdict.await.unwrap(),
    );
}

/// What was read is compared in the program with what is there by now.
async fn compare_then_write(pool: PgPool, letter: char) -> sqlx::Result<()> {
    let read = || {
        let sql = "SELECT text, xmin::text FROM notes WHERE id = $1";
        sqlx::query_as::<_, (String, String)>(sql)
            .bind(1)
            .fetch_one(&pool)
    };
    let before = read().await?;
    if read().await? != before {
        return Err(sqlx::Error::RowNotFound);
    }
    sqlx::query("UPDATE notes SET text = $1 WHERE id = $2")
        .bind(before.0 + &letter.to_string())
        .bind(1)
        .execute(&pool)
        .await?;
    Ok(())
}

#[tokio::test]
async fn by_hand_xmin_is_compared_in_the_program() {
    let verdict = notes()
        .await
        .by_hand("ann", |pool| compare_then_write(pool, 'a'))
        .by_hand("bob", |pool| compare_then_write(pool, 'b'))
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong(
        "Versioned by xmin: compared in the program",
        verdict.await.unwrap(),
    );
    assert!(failure.anomaly().starts_with("lost update"));
}
