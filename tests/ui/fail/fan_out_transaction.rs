//! Calls that run at the same time cannot share the open transaction, and a limit of none is no number of calls.

use std::num::NonZero;

use rowlock::{Tx, fan_out};

async fn pay(tx: &mut Tx<sqlx::Sqlite>, id: i64) -> Result<i64, sqlx::Error> {
    sqlx::query("UPDATE bills SET paid = TRUE WHERE id = $1").bind(id).execute(&mut **tx).await?;
    Ok(id)
}

async fn each_in_the_same_transaction(tx: &mut Tx<sqlx::Sqlite>, ids: &[i64]) {
    let three = NonZero::new(3).unwrap();
    let _ = fan_out(three).collect(ids.iter().map(|id| pay(tx, *id))).await;
}

async fn written_out(tx: &mut Tx<sqlx::Sqlite>) {
    let three = NonZero::new(3).unwrap();
    let _ = fan_out(three).collect([pay(tx, 1), pay(tx, 2)]).await;
}

async fn moved_into_the_first(tx: Tx<sqlx::Sqlite>, ids: Vec<i64>) {
    let three = NonZero::new(3).unwrap();
    let calls = ids.into_iter().map(|id| async move {
        let mut tx = tx;
        pay(&mut tx, id).await
    });
    let _ = fan_out(three).try_collect(calls).await;
}

async fn no_limit() {
    let _ = fan_out(0).collect([async { Ok::<_, ()>(()) }]).await;
}

fn main() {}
