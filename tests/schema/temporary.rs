//! Tables that only one connection has, or finds before others of the same name: `verify` sees what its statements see.

use rowlock::schema::{Describes, Place, Rule, VerifyError, snapshot, verify};
use rowlock_tests::sqlite;
use sqlx::Connection;

use super::{errors, of_its_own};

#[derive(Clone, Debug, sqlx::FromRow, rowlock::Versioned)]
#[rowlock(table = "drafts")]
struct Draft {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    lock_version: i64,
}

const COLUMNS: &str = "(id bigint PRIMARY KEY NOT NULL, lock_version bigint NOT NULL)";
/// What no statement of the model is taken for.
const OTHERS: &str = "(id bigint, title text)";

async fn run<C: Connection>(connection: &mut C, sql: &str)
where
    for<'c> &'c mut C: sqlx::Executor<'c, Database = C::Database>,
{
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// The table is where the statements find it.
macro_rules! it_is_seen {
    ($connection:expr) => {{
        verify(&mut *$connection, rowlock::models![Draft])
            .await
            .unwrap();
        let draft = Draft {
            id: 1,
            lock_version: 0,
        };
        draft.insert(&mut *$connection).await.unwrap();
    }};
}

async fn columns_are_missed<'c, DB: Describes>(db: impl rowlock::Source<'c, DB>, shown: &str) {
    let Err(VerifyError::Mismatch(report)) = verify(db, rowlock::models![Draft]).await else {
        panic!("the table that is found has no version");
    };
    let found = errors(&report);
    let missed = (Rule::Column, Place::Field("lock_version".to_owned()));
    assert!(found.contains(&missed), "{report}");
    assert!(
        report
            .to_string()
            .contains(&format!("`{shown}` has no column")),
        "{report}"
    );
}

#[tokio::test]
async fn a_temporary_table_is_seen_on_postgres() {
    let pool = of_its_own(&format!("CREATE TABLE kept {COLUMNS}")).await;
    let file = snapshot(&pool).await.unwrap().to_json();
    let mut connection = pool.acquire().await.unwrap();
    let connection = &mut *connection;
    run(connection, &format!("CREATE TEMP TABLE drafts {COLUMNS}")).await;
    it_is_seen!(connection);
    // It comes before one that stays.
    run(connection, &format!("CREATE TABLE public.drafts {OTHERS}")).await;
    it_is_seen_again(connection).await;
    // Unless the path says so.
    run(connection, "SET search_path = public, pg_temp").await;
    columns_are_missed(&mut *connection, "drafts").await;
    run(connection, "DROP TABLE public.drafts").await;
    verify(&mut *connection, rowlock::models![Draft])
        .await
        .unwrap();
    assert_eq!(snapshot(&mut *connection).await.unwrap().to_json(), file);
    run(connection, "RESET search_path").await;
    assert_eq!(snapshot(&mut *connection).await.unwrap().to_json(), file);

    // The other way round; that of another connection is none.
    run(
        connection,
        &format!(
            "DROP TABLE drafts; CREATE TABLE drafts {COLUMNS}; CREATE TEMP TABLE drafts {OTHERS}"
        ),
    )
    .await;
    columns_are_missed(&mut *connection, "pg_temp.drafts").await;
    let mut other = pool.acquire().await.unwrap();
    it_is_seen!(other);
}

async fn it_is_seen_again(connection: &mut sqlx::PgConnection) {
    verify(&mut *connection, rowlock::models![Draft])
        .await
        .unwrap();
    let draft = Draft::load(&mut *connection, 1).await.unwrap();
    draft.update(&mut *connection).await.unwrap();
}

#[tokio::test]
async fn temporary_and_attached_tables_are_seen_on_sqlite() {
    let database = sqlite::database(&format!("CREATE TABLE kept {COLUMNS}")).await;
    let file = snapshot(&database.pool).await.unwrap().to_json();
    let mut connection = database.pool.acquire().await.unwrap().detach();
    let connection = &mut connection;
    run(
        connection,
        "ATTACH ':memory:' AS other; ATTACH ':memory:' AS aux",
    )
    .await;
    // Each comes before the ones that were there.
    for (place, shown) in [
        ("aux", "aux.drafts"),
        ("other", "other.drafts"),
        ("main", "drafts"),
        ("temp", "temp.drafts"),
    ] {
        run(connection, &format!("CREATE TABLE {place}.drafts {OTHERS}")).await;
        columns_are_missed(&mut *connection, shown).await;
        run(
            connection,
            &format!("DROP TABLE {place}.drafts; CREATE TABLE {place}.drafts {COLUMNS}"),
        )
        .await;
        it_is_seen!(connection);
    }
    run(
        connection,
        "DROP TABLE main.drafts; DETACH other; DETACH aux",
    )
    .await;
    assert_eq!(snapshot(&mut *connection).await.unwrap().to_json(), file);
}
