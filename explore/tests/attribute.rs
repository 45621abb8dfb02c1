//! `#[rowlock_explore::test]`: what becomes of the function's database, and what of its result.

#![allow(missing_docs)]

use std::process::Command;

use rowlock_tests::postgres;
use sqlx::{Connection, PgConnection};

/// What has the attribute. Each runs in a process of its own, for the sake of `DATABASE_URL`: a test below starts it. Until
/// then it is ignored, which is also to see that another attribute is the test's.
mod body {
    use rowlock_explore::{Database, Error, Explorer, Verdict};
    use sqlx::{Connection, PgConnection};

    /// A database of its own, with a connection that is left open.
    async fn used(database: &Database) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(database.url()).await?;
        sqlx::raw_sql("CREATE TABLE t (id int)")
            .execute(&mut connection)
            .await?;
        std::mem::forget(connection);
        Ok(())
    }

    async fn explored(database: &Database, never: &str) -> Result<Verdict, Error> {
        let explorer = Explorer::new(database.url()).actor("ann", |actor| async move {
            PgConnection::connect(actor.url()).await?.close().await
        });
        explorer.never(never).explore().await
    }

    #[rowlock_explore::test]
    #[ignore = "of another test"]
    async fn nothing(database: Database) {
        used(&database).await.unwrap();
    }

    #[rowlock_explore::test]
    #[ignore = "of another test"]
    async fn a_verdict(database: Database) -> Verdict {
        explored(&database, "SELECT 1 WHERE false").await.unwrap()
    }

    #[rowlock_explore::test]
    #[ignore = "of another test"]
    async fn a_result(database: Database) -> Result<Verdict, Error> {
        explored(&database, "SELECT 1 WHERE false").await
    }

    #[rowlock_explore::test]
    #[ignore = "of another test"]
    #[should_panic = "all is well"]
    async fn a_panic(database: Database) {
        used(&database).await.unwrap();
        panic!("all is well");
    }

    #[rowlock_explore::test]
    #[ignore = "of another test"]
    async fn a_failure(database: Database) -> Verdict {
        explored(&database, "SELECT 7 AS seven").await.unwrap()
    }

    #[rowlock_explore::test]
    #[ignore = "of another test"]
    async fn an_error(database: Database) -> Result<(), sqlx::Error> {
        used(&database).await?;
        Err(sqlx::Error::RowNotFound)
    }
}

/// Runs one of them: whether it passed, and what it printed.
fn run(name: &str, database_url: &str) -> (bool, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("body::{name}"), "--ignored"])
        .env("DATABASE_URL", database_url)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("running 1 test"), "{printed}");
    (output.status.success(), printed)
}

/// A user who has no other databases on the server than those of these tests.
async fn server(name: &str) -> (PgConnection, String) {
    let mut server = PgConnection::connect(postgres::url()).await.unwrap();
    let user = format!("{name}_{}", postgres::unique_name());
    let create = format!("CREATE ROLE {user} LOGIN CREATEDB");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(&mut server)
        .await
        .unwrap();
    let url = format!("postgres://{user}@{}/postgres", postgres::address());
    (server, url)
}

/// How many databases the user of this URL has.
async fn left(server: &mut PgConnection, url: &str) -> i64 {
    let user = url.trim_start_matches("postgres://").split('@').next();
    let count = "SELECT count(*) FROM pg_database WHERE datdba = $1::text::regrole";
    sqlx::query_scalar(count)
        .bind(user)
        .fetch_one(server)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_test_that_passes_drops_its_database() {
    let (mut server, url) = server("passes").await;
    for name in ["nothing", "a_verdict", "a_result"] {
        let (passed, printed) = run(name, &url);
        assert!(passed, "{printed}");
        assert_eq!(left(&mut server, &url).await, 0, "{name}");
    }
}

#[tokio::test]
async fn a_test_that_panics_drops_its_database() {
    let (mut server, url) = server("panics").await;
    let (passed, printed) = run("a_panic", &url);
    assert!(passed, "{printed}");
    assert_eq!(left(&mut server, &url).await, 0);
}

#[tokio::test]
async fn a_test_fails_with_its_verdict_or_its_error() {
    let (mut server, url) = server("fails").await;
    let (passed, printed) = run("a_failure", &url);
    assert!(
        !passed && printed.contains("failed: there is a row of SELECT 7"),
        "{printed}"
    );
    let (passed, printed) = run("an_error", &url);
    assert!(
        !passed && printed.contains("the test returned RowNotFound"),
        "{printed}"
    );
    assert_eq!(left(&mut server, &url).await, 0);
}

#[test]
fn a_test_says_what_to_set() {
    let (passed, printed) = run("nothing", "");
    assert!(
        !passed && printed.contains("DATABASE_URL is not set. Set it to"),
        "{printed}"
    );
    // The port of nobody.
    let (passed, printed) = run("nothing", "postgres://ann@127.0.0.1:1/postgres");
    assert!(!passed, "{printed}");
    for part in [
        "Connection refused",
        "DATABASE_URL has to lead to a PostgreSQL server",
    ] {
        assert!(printed.contains(part), "{printed}");
    }
    let (passed, printed) = run("nothing", "mysql://localhost/shop");
    assert!(
        !passed && printed.contains("postgres://user@host:5432/database"),
        "{printed}"
    );
}
