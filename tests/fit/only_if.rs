//! `Edit::only_if`: a condition beside the version check.

use rowlock::row::{DeleteError, UpdateError};
use rowlock::{Counter, Guarded, Versioned};

use super::{Database, NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Guarded, Counter)]
#[rowlock(table = "invoices", existing_rows)]
struct Invoice {
    #[rowlock(key)]
    id: i64,
    payee: String,
    sent_at: Option<i64>,
    #[rowlock(counter)]
    views: i32,
    #[rowlock(version)]
    version: i32,
}

const INVOICES: &str = "CREATE TABLE invoices (
        id bigint PRIMARY KEY, payee text NOT NULL, sent_at bigint, views integer NOT NULL, version integer NOT NULL
    );
    INSERT INTO invoices VALUES (1, 'ann', NULL, 0, 0)";

async fn invoice(pool: &Pool) -> Invoice {
    Invoice::load(pool, 1).await.unwrap()
}

async fn run(pool: &Pool, sql: &'static str) {
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

#[tokio::test]
async fn an_edit_is_saved_if_the_condition_holds() {
    let database = database(INVOICES).await;
    let pool = &database.pool;
    let mut edit = invoice(pool).await.edit();
    edit.payee = "ben".to_owned();
    let unsent = Invoice::SENT_AT.is_null().and(Invoice::VIEWS.lt(3));
    let saved = edit.only_if(unsent).save(pool).await.unwrap();
    assert_eq!((saved.payee.as_str(), saved.version), ("ben", 1));
    assert_eq!(saved, invoice(pool).await);
}

#[tokio::test]
async fn a_refusal_has_the_row_and_stale_comes_before_it() {
    let database = database(INVOICES).await;
    let pool = &database.pool;
    // Somebody who knows nothing of the version.
    run(pool, "UPDATE invoices SET sent_at = 5").await;
    let before = invoice(pool).await;
    let mut edit = Invoice {
        sent_at: None,
        ..before.clone()
    }
    .edit();
    edit.payee = "ben".to_owned();
    let error = edit.only_if(Invoice::SENT_AT.is_null()).save(pool).await;
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "save of invoices (id = 1): the row does not meet the condition"
    );
    assert!(!format!("{error:?}").contains("ann"), "{error:?}");
    let UpdateError::Refused(refusal) = error else {
        panic!("{error:?}");
    };
    assert_eq!(refusal.current, before);
    let error = edit.only_if(Invoice::SENT_AT.is_null()).delete(pool).await;
    assert!(matches!(error, Err(DeleteError::Refused(_))), "{error:?}");
    assert_eq!(invoice(pool).await, before);

    run(pool, "UPDATE invoices SET version = 7").await;
    let error = edit.only_if(Invoice::SENT_AT.is_null()).save(pool).await;
    let Err(UpdateError::Stale(conflict)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (conflict.expected_version(), conflict.current_version()),
        (0, 7)
    );
    assert!(conflict.base().is_some());
    let error = edit.only_if(Invoice::SENT_AT.is_null()).delete(pool).await;
    assert!(matches!(error, Err(DeleteError::Stale(_))), "{error:?}");
}

#[tokio::test]
async fn an_edit_without_changes_is_checked_and_writes_nothing() {
    let database = database(INVOICES).await;
    let pool = &database.pool;
    let edit = invoice(pool).await.edit();
    let same = edit
        .only_if(Invoice::PAYEE.eq("ann"))
        .save(pool)
        .await
        .unwrap();
    assert_eq!((&same, same.version), (edit.base(), 0));
    let refused = edit.only_if(Invoice::PAYEE.eq("eve")).save(pool).await;
    assert!(
        matches!(refused, Err(UpdateError::Refused(_))),
        "{refused:?}"
    );
    run(pool, "UPDATE invoices SET version = 1").await;
    let stale = edit.only_if(Invoice::PAYEE.eq("ann")).save(pool).await;
    assert!(matches!(stale, Err(UpdateError::Stale(_))), "{stale:?}");
    run(pool, "DELETE FROM invoices").await;
    let gone = edit.only_if(Invoice::PAYEE.eq("ann")).save(pool).await;
    assert!(matches!(gone, Err(UpdateError::Gone(_))), "{gone:?}");
}

#[tokio::test]
async fn a_row_is_deleted_if_the_condition_holds() {
    let database = database(INVOICES).await;
    let pool = &database.pool;
    let edit = invoice(pool).await.edit();
    edit.only_if(Invoice::SENT_AT.is_null())
        .delete(pool)
        .await
        .unwrap();
    assert!(!Invoice::exists(pool, 1).await.unwrap());
    let gone = edit.only_if(Invoice::SENT_AT.is_null()).delete(pool).await;
    assert!(matches!(gone, Err(DeleteError::Gone(_))), "{gone:?}");
}

#[tokio::test]
async fn an_edited_key_is_refused() {
    let database = database(INVOICES).await;
    let pool = &database.pool;
    let mut edit = invoice(pool).await.edit();
    edit.id = 2;
    let saved = edit.only_if(Invoice::SENT_AT.is_null()).save(pool).await;
    assert!(
        matches!(saved, Err(UpdateError::KeyChanged(_))),
        "{saved:?}"
    );
    let gone = edit.only_if(Invoice::SENT_AT.is_null()).delete(pool).await;
    assert!(matches!(gone, Err(DeleteError::KeyChanged(_))), "{gone:?}");
}

#[tokio::test]
async fn a_write_that_a_trigger_drops_is_ignored_and_not_refused() {
    let database = database(INVOICES).await;
    let pool = &database.pool;
    run(pool, match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER skip BEFORE UPDATE OR DELETE ON invoices FOR EACH ROW EXECUTE FUNCTION skip()"
        }
        _ => {
            "CREATE TRIGGER skip_update BEFORE UPDATE ON invoices BEGIN SELECT RAISE(IGNORE); END;
             CREATE TRIGGER skip_delete BEFORE DELETE ON invoices BEGIN SELECT RAISE(IGNORE); END"
        }
    })
    .await;
    let mut edit = invoice(pool).await.edit();
    edit.payee = "ben".to_owned();
    let saved = edit.only_if(Invoice::SENT_AT.is_null()).save(pool).await;
    assert!(matches!(saved, Err(UpdateError::Ignored(_))), "{saved:?}");
    let saved = edit
        .only_if(Invoice::SENT_AT.is_not_null())
        .save(pool)
        .await;
    assert!(matches!(saved, Err(UpdateError::Refused(_))), "{saved:?}");
    let gone = edit.only_if(Invoice::SENT_AT.is_null()).delete(pool).await;
    assert!(matches!(gone, Err(DeleteError::Ignored(_))), "{gone:?}");
}

/// One who does not know the version sends the invoice while another changes its payee. Yields what became of the change.
async fn sent_meanwhile<F>(change: impl FnOnce(Pool, Invoice) -> F) -> (bool, Invoice)
where
    F: Future<Output = bool> + Send + 'static,
{
    let database = database(INVOICES).await;
    let pool = &database.pool;
    let read = invoice(pool).await;
    let mut tx = pool.begin().await.unwrap();
    let send = sqlx::query("UPDATE invoices SET sent_at = 5");
    send.execute(&mut *tx).await.unwrap();
    let change = tokio::spawn(change(pool.clone(), read));
    database.until_blocked().await;
    tx.commit().await.unwrap();
    (change.await.unwrap(), invoice(pool).await)
}

#[tokio::test]
async fn a_write_that_does_not_raise_the_version_is_seen_by_the_condition() {
    let (changed, now) = sent_meanwhile(|pool, read| async move {
        let mut edit = read.edit();
        edit.payee = "eve".to_owned();
        let saved = edit.only_if(Invoice::SENT_AT.is_null()).save(&pool).await;
        assert!(matches!(saved, Err(UpdateError::Refused(_))), "{saved:?}");
        saved.is_ok()
    })
    .await;
    assert!(!changed);
    assert_eq!((now.payee.as_str(), now.sent_at), ("ann", Some(5)));
}

#[tokio::test]
async fn the_naive_twin_looks_at_its_copy_and_changes_what_was_sent() {
    let (changed, now) = sent_meanwhile(|pool, read| async move {
        let mut edit = read.edit();
        edit.payee = "eve".to_owned();
        read.sent_at.is_none() && edit.save(&pool).await.is_ok()
    })
    .await;
    assert!(changed);
    assert_eq!((now.payee.as_str(), now.sent_at), ("eve", Some(5)));
}

#[tokio::test]
async fn it_is_part_of_the_callers_transaction_and_can_be_spawned() {
    let Database { pool, .. } = &database(INVOICES).await;
    let mut edit = invoice(pool).await.edit();
    edit.payee = "ben".to_owned();
    let mut tx = pool.begin().await.unwrap();
    let save = edit.only_if(Invoice::SENT_AT.is_null()).save(&mut *tx);
    save.await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(invoice(pool).await.payee, "ann");
    let pool = pool.clone();
    let task = tokio::spawn(async move {
        let saved = edit.only_if(Invoice::SENT_AT.is_null()).save(&pool).await;
        let edit = saved.unwrap().edit();
        edit.only_if(Invoice::VERSION.eq(1)).delete(&pool).await
    });
    task.await.unwrap().unwrap();
}
