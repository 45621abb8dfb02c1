//! Each `Fault` that takes a PostgreSQL and often a second session.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use rowlock::row::CounterError;
use rowlock::tx::TransactionError;
use rowlock::{Fault, transaction};
use sqlx::postgres::PgSslMode;
use sqlx::{AssertSqlSafe, Connection as _, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

use super::{Connection, Database, Pool, PoolOptions, address, database};

const ROWS: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, small smallint NOT NULL);
    INSERT INTO rows VALUES (1, 1), (2, 2)";

/// The fault of the statement, which has to fail, and its SQLSTATE.
async fn fault(connection: &mut Connection, statement: &'static str) -> (Fault, String) {
    code(connection.execute(statement).await.unwrap_err())
}

fn code(error: sqlx::Error) -> (Fault, String) {
    let code = error.as_database_error().and_then(|error| error.code());
    (Fault::of(&error), code.unwrap_or_default().into_owned())
}

/// Two sessions; the first has changed row 1 in an open transaction.
async fn held() -> (Database, Connection, Connection) {
    let database = database(ROWS).await;
    let mut holder = database.connection().await;
    holder
        .execute(sqlx::raw_sql(
            "BEGIN; UPDATE rows SET small = 5 WHERE id = 1",
        ))
        .await
        .unwrap();
    let other = database.connection().await;
    (database, holder, other)
}

#[tokio::test]
async fn statements() {
    let database = database(ROWS).await;
    let mut connection = database.connection().await;
    for (statement, expected) in [
        (
            "UPDATE rows SET small = 32768",
            (Fault::NumericOutOfRange, "22003"),
        ),
        ("SELECT * FROM nowhere", (Fault::Schema, "42P01")),
        ("SELECT * FROM nowhere.rows", (Fault::Schema, "42P01")),
        ("CREATE TABLE nowhere.rows ()", (Fault::Schema, "3F000")),
        (
            "INSERT INTO rows VALUES (1, 1) ON CONFLICT (small) DO NOTHING",
            (Fault::Schema, "42P10"),
        ),
        ("SELECT 1 / 0", (Fault::InvalidValue, "22012")),
    ] {
        let (fault, code) = fault(&mut connection, statement).await;
        assert_eq!((fault, &*code), expected, "{statement}");
        assert!(!fault.is_transient());
    }
    connection
        .execute(sqlx::raw_sql(
            "CREATE ROLE rowlock_nobody; SET ROLE rowlock_nobody",
        ))
        .await
        .unwrap();
    let (fault, code) = fault(&mut connection, "SELECT * FROM pg_authid").await;
    assert_eq!((fault, &*code), (Fault::PermissionDenied, "42501"));
    connection
        .execute(sqlx::raw_sql("RESET ROLE; DROP ROLE rowlock_nobody"))
        .await
        .unwrap();
}

#[tokio::test]
async fn lock_timeout_and_nowait() {
    let (_database, _holder, mut other) = held().await;
    other.execute("SET lock_timeout = '20ms'").await.unwrap();
    for statement in [
        "UPDATE rows SET small = 6 WHERE id = 1",
        "SELECT * FROM rows WHERE id = 1 FOR UPDATE NOWAIT",
        "BEGIN; LOCK TABLE rows NOWAIT",
    ] {
        let (fault, code) = fault(&mut other, statement).await;
        assert_eq!(
            (fault, &*code),
            (Fault::LockTimeout, "55P03"),
            "{statement}"
        );
        assert!(!fault.is_transient());
    }
}

#[tokio::test]
async fn statement_timeout_and_cancel() {
    let (database, _holder, mut other) = held().await;
    let canceled = (Fault::Canceled, "57014".to_owned());
    other
        .execute("SET statement_timeout = '20ms'")
        .await
        .unwrap();
    let update = "UPDATE rows SET small = 6 WHERE id = 1";
    assert_eq!(fault(&mut other, update).await, canceled);

    // On request of another session.
    let pool = database.pool.clone();
    let waiter = tokio::spawn(async move { pool.execute(update).await });
    database.until_blocked().await;
    other
        .execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
             WHERE application_name = current_schema() AND wait_event_type = 'Lock'",
        )
        .await
        .unwrap();
    assert_eq!(code(waiter.await.unwrap().unwrap_err()), canceled);
    assert!(!Fault::Canceled.is_transient());
}

/// A change of the row since the snapshot, and write skew, which only COMMIT or a later statement sees.
#[tokio::test]
async fn serialization() {
    let (_database, mut holder, mut other) = held().await;
    other
        .execute(sqlx::raw_sql(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM rows",
        ))
        .await
        .unwrap();
    holder.execute("COMMIT").await.unwrap();
    let lost = (Fault::Serialization, "40001".to_owned());
    let update = "UPDATE rows SET small = 6 WHERE id = 1";
    assert_eq!(fault(&mut other, update).await, lost);
    other.execute("ROLLBACK").await.unwrap();

    for session in [&mut holder, &mut other] {
        session
            .execute(sqlx::raw_sql(
                "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(small) FROM rows",
            ))
            .await
            .unwrap();
    }
    for (session, id) in [(&mut holder, 1), (&mut other, 2)] {
        sqlx::query("UPDATE rows SET small = 0 WHERE id = $1")
            .bind(id)
            .execute(session)
            .await
            .unwrap();
    }
    holder.execute("COMMIT").await.unwrap();
    assert_eq!(fault(&mut other, "COMMIT").await, lost);
    assert!(lost.0.is_transient());
}

#[tokio::test]
async fn deadlock() {
    let database = database(ROWS).await;
    let both_hold = Barrier::new(2);
    let cross = async |first: i64, second: i64| {
        let mut tx = database.pool.begin().await.unwrap();
        let update = "UPDATE rows SET small = small + 1 WHERE id = $1";
        let step = sqlx::query(update).bind(first).execute(&mut *tx);
        step.await.unwrap();
        both_hold.wait().await;
        let step = sqlx::query(update).bind(second).execute(&mut *tx).await;
        // Whoever fails gives way to the other.
        tx.rollback().await.unwrap();
        step.err().map(code)
    };
    let ended = tokio::join!(cross(1, 2), cross(2, 1));
    let failed: Vec<_> = [ended.0, ended.1].into_iter().flatten().collect();
    assert_eq!(failed, [(Fault::Deadlock, "40P01".to_owned())]);
    assert!(Fault::Deadlock.is_transient());
}

#[tokio::test]
async fn aborted_and_read_only_transactions() {
    let database = database(ROWS).await;
    let mut connection = database.connection().await;
    let mut tx = connection.begin().await.unwrap();
    fault(&mut tx, "SELECT 1 / 0").await;
    let (aborted, code) = fault(&mut tx, "SELECT 1").await;
    assert_eq!((aborted, &*code), (Fault::TransactionAborted, "25P02"));
    tx.rollback().await.unwrap();

    let mut tx = connection.begin_with("BEGIN READ ONLY").await.unwrap();
    let (refused, code) = fault(&mut tx, "DELETE FROM rows").await;
    assert_eq!((refused, &*code), (Fault::ReadOnly, "25006"));
    assert!(!aborted.is_transient() && !refused.is_transient());
}

/// Waits until this session has ended.
async fn gone(aside: &mut Connection, pid: i32) {
    let there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
    while sqlx::query_scalar::<_, bool>(there)
        .bind(pid)
        .fetch_one(&mut *aside)
        .await
        .unwrap()
    {}
}

#[tokio::test]
async fn connections_that_are_lost() {
    let (database, mut holder, _) = held().await;
    // In a statement that waits: the server says why.
    let pool = database.pool.clone();
    let waiter = tokio::spawn(async move { pool.execute("UPDATE rows SET small = 6").await });
    database.until_blocked().await;
    holder
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = current_schema() AND wait_event_type = 'Lock'",
        )
        .await
        .unwrap();
    let (fault, code) = code(waiter.await.unwrap().unwrap_err());
    assert_eq!((fault, &*code), (Fault::ConnectionLost, "57P01"));
    assert!(fault.is_transient());

    // In a transaction of its own the holder would see no change.
    let mut aside = database.connection().await;
    // While idle: the next statement finds it out.
    for timeout in [
        "idle_in_transaction_session_timeout",
        "transaction_timeout",
        "idle_session_timeout",
    ] {
        let options = database.options().options([(timeout, "20ms")]);
        let Ok(mut connection) = Connection::connect_with(&options).await else {
            // Servers before 17 have no transaction_timeout.
            assert_eq!(timeout, "transaction_timeout");
            continue;
        };
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        if timeout != "idle_session_timeout" {
            // It may be late already.
            let _ = connection.execute("BEGIN").await;
        }
        gone(&mut aside, pid).await;
        let error = connection.execute("SELECT 1").await.unwrap_err();
        // What the server has said is read if the socket has not been reset before.
        let said = match timeout {
            "idle_session_timeout" => Fault::ConnectionLost,
            _ => Fault::TransactionTimeout,
        };
        let fault = Fault::of(&error);
        assert!(
            fault == said || fault == Fault::ConnectionLost,
            "{timeout}: {error:?}"
        );
    }
}

/// Whatever raises it, it is the code that counts.
#[tokio::test]
async fn codes_that_a_test_cannot_provoke() {
    let database = database("").await;
    let mut connection = database.connection().await;
    for (code, expected) in [
        ("08007", Fault::CompletionUnknown),
        ("0A000", Fault::Schema),
        ("22001", Fault::InvalidValue),
        ("23001", Fault::ForeignKeyViolation),
        ("25P01", Fault::NoTransaction),
        ("25P03", Fault::TransactionTimeout),
        ("25P04", Fault::TransactionTimeout),
        ("28P01", Fault::PermissionDenied),
        ("3B001", Fault::NoTransaction),
        ("40003", Fault::CompletionUnknown),
        ("44000", Fault::CheckViolation),
        ("53100", Fault::OutOfResources),
        ("53300", Fault::LimitReached),
        ("53400", Fault::LimitReached),
        ("57P03", Fault::ConnectionLost),
        ("58030", Fault::Other),
        ("P0001", Fault::Raised),
        ("AB123", Fault::Other),
    ] {
        let raise = format!("DO $$ BEGIN RAISE EXCEPTION USING errcode = '{code}'; END $$");
        let error = connection.execute(AssertSqlSafe(raise)).await.unwrap_err();
        assert_eq!(Fault::of(&error), expected, "{code}");
        assert_eq!(
            expected.is_transient(),
            expected == Fault::ConnectionLost,
            "{code}"
        );
    }
}

#[tokio::test]
async fn exclusion() {
    let database = database(
        "CREATE TABLE bookings (at int4range NOT NULL, EXCLUDE USING gist (at WITH &&));
         INSERT INTO bookings VALUES ('[1,5)')",
    )
    .await;
    let mut connection = database.connection().await;
    let booking = "INSERT INTO bookings VALUES ('[4,6)')";
    let (fault, code) = fault(&mut connection, booking).await;
    assert_eq!((fault, &*code), (Fault::ExclusionViolation, "23P01"));
    assert!(!fault.is_transient());
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, rowlock::Counter)]
#[rowlock(table = "hits", backend(Postgres))]
struct Hits {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

/// A table, and a trigger function for it.
const UNDECIDED: &str = "CREATE TABLE hits (page bigint PRIMARY KEY, views bigint NOT NULL);
    CREATE FUNCTION undecided() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION USING errcode = '40003'; END $$;";

/// T-10: the server does not know what became of the COMMIT, so nobody may say that it was rolled back, or run it again.
#[tokio::test]
async fn t_10_completion_unknown() {
    let database = database(&format!(
        "{UNDECIDED} CREATE CONSTRAINT TRIGGER undecided AFTER INSERT ON hits
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION undecided()"
    ))
    .await;
    let runs = AtomicU32::new(0);
    let failed = transaction(&database.pool)
        .run(async |tx| {
            runs.fetch_add(1, SeqCst);
            tx.execute("INSERT INTO hits VALUES (1, 1)").await.map(drop)
        })
        .await
        .unwrap_err();
    assert!(
        matches!(failed, TransactionError::CommitUnknown(_)),
        "{failed:?}"
    );
    assert_eq!(runs.load(SeqCst), 1);

    // A write outside a transaction commits as well.
    let failed = Hits::add_views(&database.pool, 1, 1).await.unwrap_err();
    assert!(matches!(failed, CounterError::Unknown(_)), "{failed:?}");
}

/// A session that the server ends because its transaction took too long does not do better the next time.
#[tokio::test]
async fn a_transaction_that_took_too_long_is_not_run_again() {
    let database = database("").await;
    let runs = AtomicU32::new(0);
    let failed = transaction(&database.pool)
        .run(async |tx| {
            runs.fetch_add(1, SeqCst);
            // Servers before 17 have no transaction_timeout of their own.
            let raise = "DO $$ BEGIN RAISE EXCEPTION USING errcode = '25P04'; END $$";
            tx.execute(raise).await.map(drop)
        })
        .await
        .unwrap_err();
    assert!(matches!(failed, TransactionError::Failed(_)), "{failed:?}");
    assert_eq!(runs.load(SeqCst), 1);
}

/// A pool whose first BEGIN is refused with 53300, as poolers do that find no server.
async fn refused_once(database: &Database) -> Pool {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let refused = std::sync::Arc::new(AtomicBool::new(false));
        while let Ok((client, _)) = listener.accept().await {
            let refused = refused.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(address()).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let mut buffer = vec![0; 8192];
                let requests = async {
                    loop {
                        let length = from_client.read(&mut buffer).await.unwrap_or(0);
                        let bytes = &buffer[..length];
                        let begins = bytes.windows(5).any(|bytes| bytes == b"BEGIN");
                        if length == 0 || begins && !refused.swap(true, SeqCst) {
                            return begins;
                        }
                        to_server.write_all(bytes).await.unwrap();
                    }
                };
                let refuses = tokio::select! {
                    refuses = requests => refuses,
                    _ = copy(&mut from_server, &mut to_client) => false,
                };
                if refuses {
                    let error = b"E\0\0\0\x1eSFATAL\0VFATAL\0C53300\0Mno\0\0";
                    assert_eq!(error.len(), 0x1e + 1);
                    to_client.write_all(error).await.unwrap();
                }
            });
        }
    });
    let options = database
        .options()
        .host("127.0.0.1")
        .port(port)
        .ssl_mode(PgSslMode::Disable);
    PoolOptions::new().connect_with(options).await.unwrap()
}

#[tokio::test]
async fn too_many_connections_at_begin_is_tried_again() {
    let database = database("").await;
    let naive = refused_once(&database).await.begin().await.unwrap_err();
    assert_eq!(Fault::of(&naive), Fault::LimitReached);

    let pool = refused_once(&database).await;
    let retried = std::sync::Arc::new(AtomicU32::new(0));
    let counted = retried.clone();
    let value: i32 = transaction(&pool)
        .on_retry(move |retry| {
            assert_eq!(retry.fault, Fault::LimitReached);
            counted.fetch_add(1, SeqCst);
        })
        .run(async |tx| sqlx::query_scalar("SELECT 1").fetch_one(&mut **tx).await)
        .await
        .unwrap();
    assert_eq!((value, retried.load(SeqCst)), (1, 1));
}

/// In the closure it is a limit that the closure has reached, like that of its temporary files.
#[tokio::test]
async fn a_limit_that_the_closure_reaches_is_not_run_again() {
    let database = database("").await;
    let runs = AtomicU32::new(0);
    let failed = transaction(&database.pool)
        .run(async |tx| {
            runs.fetch_add(1, SeqCst);
            let raise = "DO $$ BEGIN RAISE EXCEPTION USING errcode = '53400'; END $$";
            tx.execute(raise).await.map(drop)
        })
        .await
        .unwrap_err();
    assert!(matches!(failed, TransactionError::Failed(_)), "{failed:?}");
    assert_eq!(runs.load(SeqCst), 1);
}
