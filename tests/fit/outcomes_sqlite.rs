//! Outcomes of `Idempotent` that SQLite stores as something else.

use rowlock::idempotent::{Once, OnceError};
use rowlock::{Fence, Idempotent};

use super::database;

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Idempotent)]
#[rowlock(table = "measurements")]
#[allow(dead_code)]
struct Measurement {
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    fingerprint: String,
    #[rowlock(outcome)]
    value: Option<f64>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

/// It stores NaN as NULL, which sqlx would read as 0.0.
#[tokio::test]
async fn an_outcome_that_was_stored_as_null_is_no_zero() {
    let database = database(
        "CREATE TABLE measurements (key text PRIMARY KEY, fingerprint text NOT NULL, value real, fence bigint NOT NULL,
         leased_until {timestamp}, finished_at {timestamp})",
    )
    .await;
    let pool = &database.pool;
    let ran = Measurement::once(pool, "k", &1, async |_| Ok::<_, rowlock::Error>(f64::NAN)).await;
    assert!(matches!(ran, Ok(Once::Ran(value)) if value.is_nan()));
    let replayed = Measurement::once(pool, "k", &1, async |_| Ok::<_, rowlock::Error>(1.0)).await;
    assert!(
        matches!(replayed, Err(OnceError::Ledger(_))),
        "{replayed:?}"
    );
}
