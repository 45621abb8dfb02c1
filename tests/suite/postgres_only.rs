//! What only PostgreSQL has: row security, and a server that ends a connection.

use rowlock::row::{FindOrCreateError, UpdateError};
use rowlock::{DatabaseError, Fault, FindOrCreate, Versioned};
use sqlx::{AssertSqlSafe, Executor};

use super::{Database, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "files", unique(path))]
struct File {
    #[rowlock(key, generated)]
    id: i64,
    path: String,
    owner: String,
    #[rowlock(version)]
    version: i64,
}

const FILES: &str = "CREATE TABLE files (id {id}, path text NOT NULL UNIQUE, owner text NOT NULL, version bigint NOT NULL)";

fn new_file(path: &str) -> NewFile {
    NewFile {
        path: path.to_owned(),
        owner: "me".to_owned(),
    }
}

/// The key is held by a row that a row security policy hides.
#[tokio::test]
async fn f_18_a_key_held_by_a_hidden_row_is_a_typed_error() {
    let database = database(FILES).await;
    File::find_or_create(
        &database.pool,
        NewFile {
            owner: "somebody else".to_owned(),
            ..new_file("/a")
        },
    )
    .await
    .unwrap();
    let mut connection = database.connection().await;
    let role = format!("rowlock_{}", std::process::id());
    // Roles belong to the whole server: drop it in the same transaction that creates it.
    let mut transaction = sqlx::Connection::begin(&mut connection).await.unwrap();
    transaction
        .execute(sqlx::raw_sql(AssertSqlSafe(format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA {0} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {0} TO {role};
             GRANT ALL ON ALL SEQUENCES IN SCHEMA {0} TO {role};
             ALTER TABLE files ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON files USING (owner = 'me') WITH CHECK (owner = 'me');
             SET LOCAL ROLE {role}",
            schema(&database).await
        ))))
        .await
        .unwrap();
    let refused = File::find_or_create(&mut *transaction, new_file("/a"))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, FindOrCreateError::KeyTaken(_)),
        "{refused:?}"
    );
    assert!(
        refused
            .to_string()
            .starts_with("find_or_create of files (path = …): the key is taken by a row")
    );
    assert!(
        File::find_or_create(&mut *transaction, new_file("/mine"))
            .await
            .unwrap()
            .is_created()
    );
    transaction.rollback().await.unwrap();
}

async fn schema(database: &Database) -> String {
    sqlx::query_scalar("SELECT current_schema()")
        .fetch_one(&database.pool)
        .await
        .unwrap()
}

/// The key on its way in is not the key that was asked for: it is stored, and found under its stored form only.
#[tokio::test]
async fn f_18_a_trigger_that_rewrites_the_key_ends_in_a_typed_error() {
    let database = database(FILES).await;
    let pool = &database.pool;
    pool.execute(sqlx::raw_sql(
        "CREATE FUNCTION lower_path() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.path = lower(NEW.path); RETURN NEW; END $$;
         CREATE TRIGGER lower_path BEFORE INSERT ON files FOR EACH ROW EXECUTE FUNCTION lower_path()",
    ))
    .await
    .unwrap();
    let created = File::find_or_create(pool, new_file("/A")).await.unwrap();
    assert_eq!((created.is_created(), created.path.as_str()), (true, "/a"));
    let refused = File::find_or_create(pool, new_file("/A"))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, FindOrCreateError::KeyTaken(_)),
        "{refused:?}"
    );
    assert!(
        !File::find_or_create(pool, new_file("/a"))
            .await
            .unwrap()
            .is_created()
    );
}

/// Ends the session of the pool that waits for a lock.
async fn end_the_waiting_session(database: &Database) {
    database.until_blocked().await;
    database
        .connection()
        .await
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND application_name = current_schema()",
        )
        .await
        .unwrap();
}

fn is_lost(error: &DatabaseError) -> bool {
    error.fault() == Fault::ConnectionLost
}

#[tokio::test]
async fn a_connection_lost_in_autocommit_is_unknown() {
    let database = database(FILES).await;
    let file = File::find_or_create(&database.pool, new_file("/a"))
        .await
        .unwrap()
        .into_inner();
    let mut aside = database.connection().await;
    let mut holder = sqlx::Connection::begin(&mut aside).await.unwrap();
    file.touch(&mut *holder).await.unwrap();

    let pool = database.pool.clone();
    let waiter = tokio::spawn(async move { file.update(&pool).await });
    end_the_waiting_session(&database).await;
    let lost = waiter.await.unwrap().unwrap_err();
    assert!(
        matches!(&lost, UpdateError::Unknown(error) if is_lost(error)),
        "{lost:?}"
    );
    assert!(
        lost.to_string()
            .ends_with("it is unknown whether the write took effect"),
        "{lost}"
    );
    holder.rollback().await.unwrap();
    assert!(
        !File::find_or_create(&database.pool, new_file("/a"))
            .await
            .unwrap()
            .is_created()
    );
}

/// Nothing of an open transaction survives its connection: the outcome is known.
#[tokio::test]
async fn a_connection_lost_in_a_transaction_is_not_unknown() {
    let database = database(FILES).await;
    let file = File::find_or_create(&database.pool, new_file("/a"))
        .await
        .unwrap()
        .into_inner();
    let mut aside = database.connection().await;
    let mut holder = sqlx::Connection::begin(&mut aside).await.unwrap();
    file.touch(&mut *holder).await.unwrap();

    let pool = database.pool.clone();
    let waiter = tokio::spawn(async move {
        let mut transaction = pool.begin().await.unwrap();
        file.update(&mut *transaction).await
    });
    end_the_waiting_session(&database).await;
    let lost = waiter.await.unwrap().unwrap_err();
    assert!(
        matches!(&lost, UpdateError::Database(error) if is_lost(error)),
        "{lost:?}"
    );
    holder.rollback().await.unwrap();
}

/// What the error texts of the database and of sqlx would tell, ours do not.
#[tokio::test]
async fn secrets_in_a_row_do_not_reach_our_error_texts() {
    let database = database(
        "CREATE TABLE files (id {id}, path text NOT NULL UNIQUE, owner text NOT NULL CHECK (owner <> 'top secret'),
            version bigint NOT NULL)",
    )
    .await;
    let new = NewFile {
        owner: "top secret".to_owned(),
        ..new_file("/secret")
    };
    let refused = File::find_or_create(&database.pool, new).await.unwrap_err();
    let FindOrCreateError::Database(error) = &refused else {
        panic!("{refused:?}");
    };
    assert!(format!("{:?}", error.as_sqlx()).contains("top secret"));
    for text in [
        refused.to_string(),
        format!("{refused:?}"),
        error.to_string(),
        format!("{error:?}"),
    ] {
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("files_owner_check"), "{text}");
    }
}
