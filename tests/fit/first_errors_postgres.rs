//! Connecting for the first time: the reason has words.

use std::time::Duration;

use rowlock::Versioned;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::database;

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "notes")]
struct Note {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

async fn first_words(options: PgConnectOptions) -> String {
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(options);
    Note::load(&pool, 1).await.unwrap_err().to_string()
}

#[tokio::test]
async fn why_the_server_cannot_be_used() {
    let database = database("").await;
    let options = database.options();
    for (options, text) in [
        (
            options.clone().database("nowhere"),
            "(SQLSTATE 3D000: no such database)",
        ),
        (
            options.clone().username("nobody_at_all"),
            "(SQLSTATE 28000: the server does not let this user in, see its pg_hba.conf)",
        ),
        (options.clone(), "(SQLSTATE 42P01: no such table)"),
        (
            PgConnectOptions::new().host("127.0.0.1").port(1),
            "no connection in time: the server cannot be reached or has none left, or all connections of the pool are in use",
        ),
    ] {
        let words = first_words(options).await;
        assert!(words.ends_with(text), "{words}");
    }
}
