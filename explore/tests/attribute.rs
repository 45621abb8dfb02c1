//! `#[rowlock_explore::test]`: what becomes of the function's database, and what of its result.

#![allow(missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use rowlock_explore::__private::{Ends, test_on};
use rowlock_explore::{Database, Error, Explorer, Verdict};
use rowlock_tests::postgres;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Uses the database, and leaves a connection to it open.
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
        let mut connection = PgConnection::connect(actor.url()).await?;
        sqlx::raw_sql("SELECT 1").execute(&mut connection).await?;
        connection.close().await
    });
    explorer.never(never).explore().await
}

#[rowlock_explore::test(server = postgres::url())]
async fn it_returns_nothing(database: Database) {
    used(&database).await.unwrap();
}

#[rowlock_explore::test(server = postgres::url().to_owned())]
async fn it_returns_a_verdict(database: Database) -> Verdict {
    explored(&database, "SELECT 1 WHERE false").await.unwrap()
}

#[rowlock_explore::test(server = postgres::url())]
async fn it_returns_a_result(database: Database) -> Result<Verdict, Error> {
    explored(&database, "SELECT 1 WHERE false").await
}

#[rowlock_explore::test(server = postgres::url())]
#[should_panic = "failed: there is a row of SELECT 7"]
async fn a_verdict_that_failed_fails_it(database: Database) -> Verdict {
    explored(&database, "SELECT 7 AS seven").await.unwrap()
}

#[rowlock_explore::test(server = "postgres://ann@127.0.0.1:1/postgres")]
#[should_panic = "Connection refused"]
async fn nobody_is_at_that_port(_database: Database) {}

#[rowlock_explore::test(server = "postgres://ann@127.0.0.1:1/postgres")]
#[should_panic = "DATABASE_URL, or `server`, has to lead to a PostgreSQL server"]
async fn what_is_wrong_with_the_server_is_said(_database: Database) {}

#[rowlock_explore::test(server = "mysql://localhost/shop")]
#[should_panic = "postgres://user@host:5432/database"]
async fn it_is_no_url_of_postgres(_database: Database) {}

/// What a test with this body says when it fails; nothing, if it passes. Its user, who has no other databases on the server,
/// has none afterwards.
fn run<F: Future<Output: Ends>>(body: impl FnOnce(Database) -> F) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let user = postgres::unique_name();
    let mut server = runtime
        .block_on(PgConnection::connect(postgres::url()))
        .unwrap();
    let create = AssertSqlSafe(format!("CREATE ROLE {user} LOGIN CREATEDB"));
    runtime
        .block_on(sqlx::raw_sql(create).execute(&mut server))
        .unwrap();

    let url = format!("postgres://{user}@{}/postgres", postgres::address());
    let mut made = 0;
    let count = "SELECT count(*) FROM pg_database WHERE datdba = $1::text::regrole";
    let ended = catch_unwind(AssertUnwindSafe(|| {
        test_on(&url, |database| {
            made += 1;
            body(database)
        });
    }));
    assert_eq!(made, 1, "the body runs once");

    let left = sqlx::query_scalar::<_, i64>(count)
        .bind(&user)
        .fetch_one(&mut server);
    assert_eq!(runtime.block_on(left).unwrap(), 0, "databases are left");
    ended.err().map(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
    })
}

#[test]
fn a_test_that_passes_drops_its_database() {
    let said = run(async |database| used(&database).await.unwrap());
    assert_eq!(said, None);
}

#[test]
fn a_test_that_panics_drops_its_database() {
    let said = run(async |database| {
        used(&database).await.unwrap();
        assert!(database.url().is_empty(), "on purpose");
    });
    assert_eq!(said.unwrap(), "on purpose");
}

#[test]
fn a_test_that_fails_drops_its_database() {
    let said = run(async |database| explored(&database, "SELECT 7 AS seven").await.unwrap());
    assert!(
        said.unwrap()
            .starts_with("failed: there is a row of SELECT 7")
    );
}

#[test]
fn a_test_that_returns_an_error_drops_its_database() {
    let said = run(async |database| {
        used(&database).await?;
        Err::<(), _>(sqlx::Error::RowNotFound)
    });
    assert!(said.unwrap().contains("the test returned RowNotFound"));
}
