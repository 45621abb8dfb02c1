//! What the test suite of rowlock runs on.
//!
//! [`postgres`] and [`sqlite`] offer the same names with the same meaning, so
//! that a suite written once can be included as a module under each of them.

#[cfg(test)]
extern crate limited_tokio as tokio;

pub mod cancel;
pub mod gate;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod redis;
mod server;
pub mod sqlite;

/// The support code is tested on both backends, in the way the suite is.
#[cfg(test)]
macro_rules! on {
    ($backend:ident) => {
        mod $backend {
            use crate::$backend::*;

            const NOTES: &str =
                "CREATE TABLE notes (id {id}, body {json}, at {timestamp} DEFAULT {now})";

            #[tokio::test]
            async fn databases_are_isolated() {
                let (one, other) = (database(NOTES).await, database(NOTES).await);
                sqlx::query("INSERT INTO notes (body) VALUES ('{}')")
                    .execute(&one.pool)
                    .await
                    .unwrap();
                for (database, expected) in [(&one, 1), (&other, 0)] {
                    let pool = database.one_connection_pool().await;
                    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
                        .fetch_one(&pool)
                        .await
                        .unwrap();
                    assert_eq!(count, expected);
                }
            }

            #[tokio::test]
            async fn an_open_transaction_is_seen() {
                let database = database(NOTES).await;
                assert_eq!(database.open_transactions().await, 0);

                let mut transaction = database.pool.begin().await.unwrap();
                sqlx::query("INSERT INTO notes (body) VALUES ('{}')")
                    .execute(&mut *transaction)
                    .await
                    .unwrap();
                assert_eq!(database.open_transactions().await, 1);

                transaction.rollback().await.unwrap();
                assert_eq!(database.open_transactions().await, 0);
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use limited_tokio::{Options, run_within};

    on!(postgres);
    on!(sqlite);

    #[test]
    #[should_panic(expected = "a_test_that_hangs_fails_by_its_name has not ended after 1ms")]
    fn a_test_that_hangs_fails_by_its_name() {
        run_within(Duration::from_millis(1), Options::default(), || {
            Box::pin(pending())
        });
    }

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn a_panic_is_that_of_the_test() {
        panic!("on purpose");
    }
}
