//! `Lockable`: what was decided while the rows were locked still holds when it is written.

use std::time::Duration;

use rowlock::{Guarded, Lockable, transaction};
use rowlock_explore::{Ended, Explorer, Fault};
use sqlx::PgPool;

use super::{Known, Works, all_but_broken, as_known, explore, letters, passed, wrong};

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "accounts")]
struct Account {
    #[rowlock(key)]
    id: i32,
    balance: i32,
    entries: String,
    #[rowlock(version)]
    version: i32,
}

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Guarded, Lockable)]
#[rowlock(table = "doctors")]
struct Doctor {
    #[rowlock(key)]
    id: i32,
    on_call: bool,
    #[rowlock(version)]
    version: i32,
}

const TABLES: &str = "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL, entries text NOT NULL, version int NOT NULL);
    CREATE TABLE doctors (id int PRIMARY KEY, on_call bool NOT NULL, version int NOT NULL)";
const ROWS: &str = "DELETE FROM accounts; INSERT INTO accounts VALUES (1, 10, '', 0), (2, 10, '', 0), (3, 10, '', 0);
    DELETE FROM doctors; INSERT INTO doctors VALUES (1, true, 0), (2, true, 0)";

async fn accounts() -> Explorer<Known<()>> {
    explore(TABLES, ROWS)
        .await
        .invariant(|ended: Ended<Known<()>>| async move {
            let entries = ended
                .value("SELECT entries FROM accounts WHERE id = 1")
                .await?;
            as_known(&ended, &letters(&entries, ['a', 'b', 'c']))?;
            all_but_broken(&ended)
        })
}

async fn lock_and_save(pool: PgPool, letter: char) -> Result<(), rowlock::Error> {
    transaction(&pool)
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
        .run(async |tx| -> Result<_, rowlock::Error> {
            let mut account = Account::lock(&mut *tx, 1).await?;
            account.entries.push(letter);
            account.save(&mut *tx).await?;
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn two_lock_and_save() {
    // All of them are tried on the transactions of counters, which are shorter.
    let after = [Fault::CutAfter, Fault::Terminated, Fault::DroppedAfter];
    for faults in [&after[..0], &after] {
        let verdict = accounts()
            .await
            .works("ann", |pool| lock_and_save(pool, 'a'))
            .works("bob", |pool| lock_and_save(pool, 'b'))
            .faults(faults.iter().copied())
            .explore();
        passed(
            "Lockable: lock and save in transaction(), twice",
            verdict.await.unwrap(),
        );
    }
}

#[tokio::test]
async fn three_lock_and_save() {
    let verdict = accounts()
        .await
        .works("ann", |pool| lock_and_save(pool, 'a'))
        .works("bob", |pool| lock_and_save(pool, 'b'))
        .works("cal", |pool| lock_and_save(pool, 'c'))
        .explore();
    passed(
        "Lockable: lock and save in transaction(), three times",
        verdict.await.unwrap(),
    );
}

/// One unit from the first to the second. Only one attempt: there is no deadlock to run again for.
async fn transfer(pool: PgPool, ids: [i32; 2]) -> Result<(), rowlock::Error> {
    transaction(&pool)
        .attempts(1)
        .run(async |tx| -> Result<_, rowlock::Error> {
            let locked = Account::lock_many(&mut *tx, ids).await?;
            // In key order.
            assert!(locked[0].id < locked[1].id);
            for mut account in locked {
                account.balance += if account.id == ids[0] { -1 } else { 1 };
                account.save(&mut *tx).await?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

async fn transfers() -> Explorer<Known<()>> {
    explore(TABLES, ROWS)
        .await
        .never("SELECT FROM accounts HAVING sum(balance) <> 30")
        .invariant(|ended: Ended<Known<()>>| async move { all_but_broken(&ended) })
}

#[tokio::test]
async fn two_lock_many_in_opposite_order() {
    let verdict = transfers()
        .await
        .works("ann", |pool| transfer(pool, [1, 2]))
        .works("bob", |pool| transfer(pool, [2, 1]))
        .never("SELECT FROM accounts WHERE balance <> 10")
        .explore();
    passed(
        "Lockable: lock_many in opposite order, twice",
        verdict.await.unwrap(),
    );
}

/// A statement is one step, in which nobody else moves: that two wait for each other in the midst of theirs takes a third one.
#[tokio::test]
async fn two_lock_many_in_opposite_order_and_a_held_row() {
    let verdict = transfers()
        .await
        .works("ann", |pool| transfer(pool, [1, 2]))
        .works("bob", |pool| transfer(pool, [2, 1]))
        .works("cal", |pool| lock_and_save(pool, 'c'))
        .never("SELECT FROM accounts WHERE balance <> 10")
        .explore();
    passed(
        "Lockable: lock_many in opposite order, one of the rows held",
        verdict.await.unwrap(),
    );
}

/// Somebody has to stay on call: whoever is the last one does.
async fn leave(pool: PgPool, id: i32) -> Result<bool, rowlock::Error> {
    let left = transaction(&pool)
        .attempts(1)
        .run(async |tx| -> Result<_, rowlock::Error> {
            let on_call = Doctor::lock_where(&mut *tx, Doctor::ON_CALL.eq(true)).await?;
            if on_call.len() < 2 {
                return Ok(false);
            }
            for mut doctor in on_call.into_iter().filter(|doctor| doctor.id == id) {
                doctor.on_call = false;
                doctor.save(&mut *tx).await?;
            }
            Ok(true)
        })
        .await?;
    Ok(left)
}

async fn doctors() -> Explorer<Known<bool>> {
    explore(TABLES, ROWS)
        .await
        .never("SELECT FROM doctors WHERE on_call HAVING count(*) <> 1")
        .invariant(|ended: Ended<Known<bool>>| async move { all_but_broken(&ended) })
}

#[tokio::test]
async fn two_leave_and_one_stays() {
    let verdict = doctors()
        .await
        .works("ann", |pool| leave(pool, 1))
        .works("bob", |pool| leave(pool, 2))
        .explore();
    passed(
        "Lockable: lock_where and save, twice",
        verdict.await.unwrap(),
    );
}

/// Reads without a lock, in a transaction all the same.
async fn read_and_write(pool: PgPool, letter: char) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    let entries: String = sqlx::query_scalar("SELECT entries FROM accounts WHERE id = $1")
        .bind(1)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query("UPDATE accounts SET entries = $1 WHERE id = $2")
        .bind(format!("{entries}{letter}"))
        .bind(1)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

#[tokio::test]
async fn by_hand_an_entry_is_lost() {
    let verdict = accounts()
        .await
        .by_hand("ann", |pool| read_and_write(pool, 'a'))
        .by_hand("bob", |pool| read_and_write(pool, 'b'))
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong(
        "Lockable: SELECT and UPDATE in a transaction",
        verdict.await.unwrap(),
    );
    assert_eq!(failure.anomaly(), "lost update");
}

async fn count_and_leave(pool: PgPool, id: i32) -> sqlx::Result<bool> {
    let mut tx = pool.begin().await?;
    let on_call: i64 = sqlx::query_scalar("SELECT count(*) FROM doctors WHERE on_call")
        .fetch_one(&mut *tx)
        .await?;
    if on_call > 1 {
        sqlx::query("UPDATE doctors SET on_call = false WHERE id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(on_call > 1)
}

#[tokio::test]
async fn by_hand_both_leave() {
    let verdict = doctors()
        .await
        .by_hand("ann", |pool| count_and_leave(pool, 1))
        .by_hand("bob", |pool| count_and_leave(pool, 2))
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong("Lockable: SELECT count, UPDATE", verdict.await.unwrap());
    assert_eq!(failure.anomaly(), "write skew");
}

/// Locked as they come.
async fn lock_as_they_come(pool: PgPool, ids: [i32; 2]) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    for id in ids {
        sqlx::query("SELECT balance FROM accounts WHERE id = $1 FOR UPDATE")
            .bind(id)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

#[tokio::test]
async fn by_hand_locks_deadlock() {
    let verdict = transfers()
        .await
        .by_hand("ann", |pool| lock_as_they_come(pool, [1, 2]))
        .by_hand("bob", |pool| lock_as_they_come(pool, [2, 1]))
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong("Lockable: locked as they come", verdict.await.unwrap());
    assert!(failure.to_string().contains("40P01"), "{failure}");
}
