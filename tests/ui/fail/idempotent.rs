//! What `Idempotent` asks of a struct; the calls of its methods do not fail as well.

use rowlock::Idempotent;

type Timestamp = chrono::DateTime<chrono::Utc>;

/// Nothing is marked.
#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "payments")]
struct Payment {
    id: i64,
    outcome: Option<String>,
    fence: i64,
    finished_at: Option<Timestamp>,
}

/// Every type is wrong.
#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "transfers")]
struct Transfer {
    #[rowlock(key, generated)]
    key: String,
    #[rowlock(fingerprint)]
    request: Option<Vec<u8>>,
    #[rowlock(outcome)]
    receipt: String,
    #[rowlock(fence)]
    fence: String,
    #[rowlock(lease)]
    lease: i64,
    #[rowlock(finished)]
    finished: Timestamp,
    amount: i64,
}

#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "refunds")]
struct Refund {
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    request: i64,
    #[rowlock(outcome)]
    receipt: Option<i64>,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    lease: Timestamp,
    #[rowlock(finished)]
    finished: Option<Timestamp>,
}

/// One role, one field; and the other way round.
#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "orders")]
struct Order {
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    request: Vec<u8>,
    #[rowlock(fingerprint)]
    other: Vec<u8>,
    #[rowlock(outcome)]
    #[sqlx(json)]
    receipt: Option<i64>,
    #[rowlock(fence, version)]
    fence: i64,
    #[rowlock(lease, finished)]
    until: Option<Timestamp>,
    #[rowlock(finishd)]
    finished: Option<Timestamp>,
}

async fn calls(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    let receipt = Transfer::once(&pool, "key", &1, async |tx| {
        sqlx::query("SELECT 1").execute(&mut **tx).await?;
        Ok::<_, sqlx::Error>("done".to_owned())
    });
    if let rowlock::idempotent::Once::Ran(text) = receipt.await? {
        drop(text.len());
    }
    Ok(())
}

fn main() {}
