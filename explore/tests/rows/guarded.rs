//! `Guarded`: of those who write under a condition that one of them ends, one does.

use rowlock::row::{EditAtError, GuardError, UpdateError};
use rowlock::{Guarded, Versioned};
use rowlock_explore::{Ended, Explorer};
use sqlx::PgPool;

use super::{FAULTS, Known, Works, explore, passed, wrong};

/// The actors write 1, 2, 3 into it, which can be used once.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Guarded, Versioned)]
#[rowlock(table = "tokens")]
struct Token {
    #[rowlock(key)]
    id: i32,
    used_by: Option<i32>,
    #[rowlock(version)]
    version: i32,
}

const TOKENS: &str = "CREATE TABLE tokens (id int PRIMARY KEY, used_by int, version int NOT NULL)";
const UNUSED: &str = "DELETE FROM tokens; INSERT INTO tokens VALUES (1, NULL, 0)";

/// Whoever has used it is in the row, and all others know that they have not.
async fn used_once() -> Explorer<Known<i32>> {
    explore(TOKENS, UNUSED)
        .await
        .invariant(|ended: Ended<Known<i32>>| async move {
            let used = ended.rows("SELECT used_by, version FROM tokens").await?;
            let [used_by, version] = &used[0][..] else {
                return Err("two columns".to_owned());
            };
            let used_by = used_by.as_ref().map(|by| by.parse::<i32>().unwrap());
            let done: Vec<i32> = ended.returned().filter_map(Known::done).copied().collect();
            let unknown = ended
                .returned()
                .filter(|known| matches!(known, Known::Unknown))
                .count();
            let fits = match (used_by, &done[..]) {
                (Some(by), [done]) => by == *done,
                // It is somebody's who does not know.
                (Some(_), []) => unknown > 0,
                _ => false,
            };
            match fits && unknown <= ended.faults.len() {
                true if version.as_deref() == Some(if used_by.is_some() { "1" } else { "0" }) => {
                    Ok(())
                }
                true => Err(format!("version {version:?}")),
                false => Err(format!("used by {used_by:?}, {done:?} have used it")),
            }
        })
}

async fn consume(pool: PgPool, by: i32) -> Result<i32, GuardError<Token>> {
    let unused = Token::USED_BY.is_null();
    match Token::update_if(&pool, 1, unused, |row| row.set(Token::USED_BY, by)).await {
        Ok(token) => {
            assert_eq!(token.used_by, Some(by));
            Ok(by)
        }
        Err(GuardError::Refused(refusal)) => {
            assert!(refusal.current.used_by.is_some_and(|other| other != by));
            Err(GuardError::Refused(refusal))
        }
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn two_update_if() {
    for faults in [&FAULTS[..0], &FAULTS] {
        let verdict = used_once()
            .await
            .works("ann", |pool| consume(pool, 1))
            .works("bob", |pool| consume(pool, 2))
            .faults(faults.iter().copied())
            .explore();
        passed("Guarded: update_if, update_if", verdict.await.unwrap());
    }
}

#[tokio::test]
async fn three_update_if() {
    let verdict = used_once()
        .await
        .works("ann", |pool| consume(pool, 1))
        .works("bob", |pool| consume(pool, 2))
        .works("cal", |pool| consume(pool, 3))
        .explore();
    passed("Guarded: update_if, three times", verdict.await.unwrap());
}

/// An edit, whose version is checked as well.
async fn only_if(pool: PgPool, by: i32) -> Result<i32, rowlock::Error> {
    let mut edit = Token::load(&pool, 1).await?.edit();
    edit.used_by = Some(by);
    match edit.only_if(Token::USED_BY.is_null()).save(&pool).await {
        Err(UpdateError::Refused(refusal)) => {
            assert!(refusal.current.used_by.is_some_and(|other| other != by));
            Err(UpdateError::Refused(refusal).into())
        }
        saved => Ok(saved.map(|_| by)?),
    }
}

#[tokio::test]
async fn only_if_and_update_if() {
    let verdict = used_once()
        .await
        .works("ann", |pool| only_if(pool, 1))
        .works("bob", |pool| consume(pool, 2))
        .explore();
    passed("Guarded: only_if, update_if", verdict.await.unwrap());
}

#[tokio::test]
async fn two_only_if() {
    let verdict = used_once()
        .await
        .works("ann", |pool| only_if(pool, 1))
        .works("bob", |pool| only_if(pool, 2))
        .explore();
    passed("Guarded: only_if, only_if", verdict.await.unwrap());
}

/// At the version that a client has sent along.
async fn edit_at(pool: PgPool, by: i32) -> Result<i32, EditAtError<Token>> {
    let edit = Token::edit_at(1, 0).set(Token::USED_BY, Some(by));
    match edit.save(&pool).await {
        Err(EditAtError::Stale(outdated)) => {
            assert!(outdated.current.used_by.is_some_and(|other| other != by));
            Err(EditAtError::Stale(outdated))
        }
        saved => saved.map(|_| by),
    }
}

#[tokio::test]
async fn two_edit_at_one_version() {
    for faults in [&FAULTS[..0], &FAULTS] {
        let verdict = used_once()
            .await
            .works("ann", |pool| edit_at(pool, 1))
            .works("bob", |pool| edit_at(pool, 2))
            .faults(faults.iter().copied())
            .explore();
        passed("Versioned: edit_at, edit_at", verdict.await.unwrap());
    }
}

/// What is used is not deleted, and what is deleted is not used.
#[tokio::test]
async fn update_if_and_delete_if() {
    let delete = |pool: PgPool| async move {
        Token::delete_if(&pool, 1, Token::USED_BY.is_null())
            .await
            .map(|_| 0)
    };
    let verdict = explore(TOKENS, UNUSED)
        .await
        .works("ann", |pool| consume(pool, 1))
        .works("bob", delete)
        .invariant(|ended: Ended<Known<i32>>| async move {
            let left = ended.rows("SELECT used_by FROM tokens").await?.len();
            let done: Vec<Option<&i32>> = ended.returned().map(Known::done).collect();
            match (left, &done[..]) {
                (1, [Some(1), None]) | (0, [None, Some(0)]) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .explore();
    passed("Guarded: update_if, delete_if", verdict.await.unwrap());
}

/// Looks, then acts.
async fn look_then_act(pool: PgPool, by: i32) -> sqlx::Result<i32> {
    let used_by: Option<i32> = sqlx::query_scalar("SELECT used_by FROM tokens WHERE id = $1")
        .bind(1)
        .fetch_one(&pool)
        .await?;
    if used_by.is_some() {
        return Err(sqlx::Error::RowNotFound);
    }
    sqlx::query("UPDATE tokens SET used_by = $1, version = version + 1 WHERE id = $2")
        .bind(by)
        .bind(1)
        .execute(&pool)
        .await?;
    Ok(by)
}

#[tokio::test]
async fn by_hand_a_token_is_used_twice() {
    let verdict = used_once()
        .await
        .by_hand("ann", |pool| look_then_act(pool, 1))
        .by_hand("bob", |pool| look_then_act(pool, 2))
        .exhaustive()
        .count_failures()
        .explore();
    wrong("Guarded: SELECT, UPDATE by id", verdict.await.unwrap());
}

/// The ETag is compared in the program.
async fn compare_then_write(pool: PgPool, by: i32) -> sqlx::Result<i32> {
    let version: i32 = sqlx::query_scalar("SELECT version FROM tokens WHERE id = $1")
        .bind(1)
        .fetch_one(&pool)
        .await?;
    if version != 0 {
        return Err(sqlx::Error::RowNotFound);
    }
    sqlx::query("UPDATE tokens SET used_by = $1, version = $2 WHERE id = $3")
        .bind(by)
        .bind(version + 1)
        .bind(1)
        .execute(&pool)
        .await?;
    Ok(by)
}

#[tokio::test]
async fn by_hand_the_version_is_compared_in_the_program() {
    let verdict = used_once()
        .await
        .by_hand("ann", |pool| compare_then_write(pool, 1))
        .by_hand("bob", |pool| compare_then_write(pool, 2))
        .exhaustive()
        .count_failures()
        .explore();
    wrong(
        "Versioned: If-Match compared in the program",
        verdict.await.unwrap(),
    );
}
