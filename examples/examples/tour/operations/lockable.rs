//! Rows that are locked until the transaction ends.

use anyhow::Result;
use rowlock::row::LockError;
use rowlock::transaction;
use rowlock_examples::race::race;

use super::{BY_HAND, CALLS, GENERATED, Pool, ROUNDS, TASKS};
use crate::models::{Account, SaleError, Sku};
use crate::table::Row;

/// One product per round with fewer units than buyers. A reservation and the units that are left change together.
pub async fn reserve(pool: &Pool) -> Result<Row> {
    const UNITS: usize = 3;
    const ALL_UNITS: usize = UNITS * ROUNDS;
    const RESERVE: &str = "INSERT INTO reservations (sku_id) VALUES ($1)";
    // The products of the second half are sold by the generated method.
    for sku in 0..2 * ROUNDS {
        sqlx::query("INSERT INTO skus VALUES ($1, $2)")
            .bind(sku as i64)
            .bind(UNITS as i64)
            .execute(pool)
            .await?;
    }

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let sku = turn.round as i64;
        let units: i64 = sqlx::query_scalar("SELECT units FROM skus WHERE id = $1")
            .bind(sku)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if units == 0 {
            return Ok(0);
        }
        sqlx::query(RESERVE).bind(sku).execute(&pool).await?;
        sqlx::query("UPDATE skus SET units = $1 WHERE id = $2")
            .bind(units - 1)
            .bind(sku)
            .execute(&pool)
            .await?;
        Ok(0)
    })
    .await?;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let id = (ROUNDS + turn.round) as i64;
        let reserve = transaction(&pool).run(async |tx| {
            let mut sku = Sku::lock(&mut *tx, id).await?;
            if sku.units > 0 {
                sqlx::query(RESERVE).bind(id).execute(&mut *tx).await?;
                sku.units -= 1;
                sku.save(&mut *tx).await?;
            }
            Ok::<_, SaleError>(0)
        });
        Ok(reserve.await?)
    })
    .await?;

    let sold = async |first: usize| -> Result<usize> {
        let sold: i64 =
            sqlx::query_scalar("SELECT count(*) FROM reservations WHERE sku_id BETWEEN $1 AND $2")
                .bind(first as i64)
                .bind((first + ROUNDS - 1) as i64)
                .fetch_one(pool)
                .await?;
        Ok(sold.try_into()?)
    };
    let sold_by_rowlock = sold(ROUNDS).await?;
    Ok(Row {
        derive: "Lockable",
        operation: "lock, save",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: sold(0).await?.abs_diff(ALL_UNITS),
        unit: "oversold",
        lost_by_rowlock: sold_by_rowlock.abs_diff(ALL_UNITS),
        met: format!("{} sold out", CALLS - sold_by_rowlock),
    })
}

/// Everybody moves money between the same two accounts, half of the tasks naming them the other way round.
pub async fn transfer(pool: &Pool) -> Result<Row> {
    // Two accounts per version.
    for (version, account) in [(BY_HAND, 0), (BY_HAND, 1), (GENERATED, 0), (GENERATED, 1)] {
        sqlx::query("INSERT INTO accounts VALUES ($1, 0)")
            .bind(10 * version + account)
            .execute(pool)
            .await?;
    }
    const FROM_HAND: i64 = 10 * BY_HAND;
    const FROM_GENERATED: i64 = 10 * GENERATED;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let select = "SELECT balance FROM accounts WHERE id IN ($1, $2) ORDER BY id";
        let balances: Vec<i64> = sqlx::query_scalar(select)
            .bind(FROM_HAND)
            .bind(FROM_HAND + 1)
            .fetch_all(&pool)
            .await?;
        turn.everybody_has_read().await;
        for (account, balance) in [(0, balances[0] - 1), (1, balances[1] + 1)] {
            sqlx::query("UPDATE accounts SET balance = $1 WHERE id = $2")
                .bind(balance)
                .bind(FROM_HAND + account)
                .execute(&pool)
                .await?;
        }
        Ok(0)
    })
    .await?;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let mut keys = [FROM_GENERATED, FROM_GENERATED + 1];
        if turn.task % 2 == 1 {
            keys.reverse();
        }
        // One attempt: a deadlock would be an error.
        let transfer = transaction(&pool).attempts(1).run(async |tx| {
            for mut account in Account::lock_many(&mut *tx, keys).await? {
                account.balance += if account.id == FROM_GENERATED { -1 } else { 1 };
                account.save(&mut *tx).await?;
            }
            Ok::<_, LockError>(0)
        });
        Ok(transfer.await?)
    })
    .await?;

    let moved = async |to: i64| -> Result<usize> {
        let moved: i64 = sqlx::query_scalar("SELECT balance FROM accounts WHERE id = $1")
            .bind(to)
            .fetch_one(pool)
            .await?;
        Ok(moved.try_into()?)
    };
    Ok(Row {
        derive: "Lockable",
        operation: "lock_many",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: CALLS.abs_diff(moved(FROM_HAND + 1).await?),
        unit: "transfers",
        lost_by_rowlock: CALLS.abs_diff(moved(FROM_GENERATED + 1).await?),
        met: "no deadlock".to_owned(),
    })
}
