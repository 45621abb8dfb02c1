//! `Versioned` without a version: columns that are compared with what was read, beside a writer who knows nothing of it.

use rowlock::Versioned;
use rowlock::row::UpdateError;
use rowlock_explore::{Ended, Explorer};
use sqlx::PgPool;
use sqlx::types::chrono::NaiveTime;

use super::{Known, Works, all_but_broken, as_known, digits, explore, passed, wrong};

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "accounts")]
struct Account {
    #[rowlock(key)]
    id: i32,
    #[rowlock(check)]
    balance: i32,
    note: String,
}

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL, note text NOT NULL, closes time NOT NULL)";
const EMPTY: &str = "DELETE FROM accounts; INSERT INTO accounts VALUES (1, 0, '', '24:00')";

/// The first actor adds 1, the second one 10, the third one 100.
async fn accounts() -> Explorer<Known<()>> {
    explore(ACCOUNTS, EMPTY)
        .await
        .invariant(|ended: Ended<Known<()>>| async move {
            let balance = ended.value("SELECT balance FROM accounts").await?;
            as_known(&ended, &digits::<3>(balance.parse().unwrap()))
        })
}

async fn add(pool: PgPool, amount: i32) -> Result<(), UpdateError<Account>> {
    let added = Account::update_with(&pool, 1, |account| {
        account.balance += amount;
        account.note = format!("after {amount}");
    });
    added.await.map(drop)
}

/// One statement, which is right as it is.
async fn add_in_sql(pool: PgPool, amount: i32) -> sqlx::Result<()> {
    sqlx::query("UPDATE accounts SET balance = balance + $1 WHERE id = $2")
        .bind(amount)
        .bind(1)
        .execute(&pool)
        .await
        .map(drop)
}

#[tokio::test]
async fn update_with_beside_sql() {
    let verdict = accounts()
        .await
        .works("ann", |pool| add(pool, 1))
        .by_hand("bob", |pool| add_in_sql(pool, 10))
        .invariant(|ended| async move { all_but_broken(&ended) })
        .explore();
    passed(
        "Versioned by check: update_with, UPDATE",
        verdict.await.unwrap(),
    );
}

#[tokio::test]
async fn two_update_with() {
    let verdict = accounts()
        .await
        .works("ann", |pool| add(pool, 1))
        .works("bob", |pool| add(pool, 10))
        .invariant(|ended| async move { all_but_broken(&ended) })
        .explore();
    passed(
        "Versioned by check: update_with, update_with",
        verdict.await.unwrap(),
    );
}

/// Once only, from a copy.
async fn save(pool: PgPool, amount: i32) -> Result<(), rowlock::Error> {
    let mut edit = Account::load(&pool, 1).await?.edit();
    edit.balance += amount;
    match edit.save(&pool).await {
        Err(UpdateError::Stale(conflict)) => {
            assert_eq!(conflict.changed_fields(), ["balance"]);
            Err(UpdateError::Stale(conflict).into())
        }
        saved => Ok(saved.map(drop)?),
    }
}

#[tokio::test]
async fn two_save_beside_sql() {
    let verdict = accounts()
        .await
        .works("ann", |pool| save(pool, 1))
        .works("bob", |pool| save(pool, 10))
        .by_hand("cal", |pool| add_in_sql(pool, 100))
        .never("SELECT FROM accounts WHERE balance < 100")
        .explore();
    passed(
        "Versioned by check: save, save, UPDATE",
        verdict.await.unwrap(),
    );
}

/// What went there and back is no conflict, also if the write has met it between.
#[tokio::test]
async fn save_beside_a_change_that_is_taken_back() {
    let verdict = explore(ACCOUNTS, EMPTY)
        .await
        .works("ann", |pool| save(pool, 1))
        .by_hand("bob", |pool| async move {
            add_in_sql(pool.clone(), 10).await?;
            add_in_sql(pool, -10).await
        })
        .invariant(|ended: Ended<Known<()>>| async move {
            let balance = ended.value("SELECT balance FROM accounts").await?;
            match (ended.returned().next(), balance.as_str()) {
                (Some(Known::Done(())), "1") => Ok(()),
                (Some(Known::Not { conflict: true, .. }), "0") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .explore();
    passed(
        "Versioned by check: save, UPDATE there and back",
        verdict.await.unwrap(),
    );
}

/// `24:00` reads as `00:00`: the write is run again with what the column holds.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "accounts", backend(Postgres))]
struct Shop {
    #[rowlock(key)]
    id: i32,
    #[rowlock(check)]
    balance: i32,
    #[rowlock(check)]
    closes: NaiveTime,
}

async fn sell(pool: PgPool, amount: i32) -> Result<(), UpdateError<Shop>> {
    let sold = Shop::update_with(&pool, 1, |shop| shop.balance += amount);
    sold.await.map(drop)
}

#[tokio::test]
async fn what_is_stored_in_another_form_is_compared_too() {
    let verdict = accounts()
        .await
        .works("ann", |pool| sell(pool, 1))
        .by_hand("bob", |pool| add_in_sql(pool, 10))
        .invariant(|ended| async move { all_but_broken(&ended) })
        .never("SELECT FROM accounts WHERE closes <> '24:00'")
        .explore();
    passed(
        "Versioned by check, of another form: update_with, UPDATE",
        verdict.await.unwrap(),
    );
}

/// Read, add in the program, write.
async fn without_a_check(pool: PgPool, amount: i32) -> sqlx::Result<()> {
    let balance: i32 = sqlx::query_scalar("SELECT balance FROM accounts WHERE id = $1")
        .bind(1)
        .fetch_one(&pool)
        .await?;
    sqlx::query("UPDATE accounts SET balance = $1 WHERE id = $2")
        .bind(balance + amount)
        .bind(1)
        .execute(&pool)
        .await?;
    Ok(())
}

#[tokio::test]
async fn by_hand_an_addition_is_lost() {
    let verdict = accounts()
        .await
        .by_hand("ann", |pool| without_a_check(pool, 1))
        .by_hand("bob", |pool| add_in_sql(pool, 10))
        .exhaustive()
        .count_failures()
        .explore();
    let failure = wrong(
        "Versioned by check: read, add, write",
        verdict.await.unwrap(),
    );
    assert!(failure.anomaly().starts_with("lost update"));
}
