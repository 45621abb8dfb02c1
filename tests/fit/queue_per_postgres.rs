//! Claims of one customer's jobs that see different states of the table.

use super::queue_per::{Invoice, add, ids, invoices, run};

/// One claim has chosen a job; before it writes it, another one finds an earlier one, which was not there yet, and takes it.
async fn a_claim_that_chose_by_what_is_no_more(index: bool) -> (Vec<i64>, Vec<i64>) {
    let database = invoices().await;
    let pool = &database.pool;
    if !index {
        run(
            pool,
            "DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || indexrelid::regclass FROM pg_index
                WHERE indrelid = 'jobs'::regclass AND indisunique AND NOT indisprimary); END $$",
        )
        .await;
    }
    run(
        pool,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
         CREATE TRIGGER wait BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.id = 2) EXECUTE FUNCTION wait()",
    )
    .await;
    add(pool, [(2, Some(7)), (3, Some(8))]).await;
    let mut gate = pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(1)")
        .execute(&mut *gate)
        .await
        .unwrap();
    let late = tokio::spawn({
        let pool = pool.clone();
        async move { Invoice::claim(&pool, 10).await.unwrap() }
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while sqlx::query_scalar::<_, i64>(waits)
        .fetch_one(pool)
        .await
        .unwrap()
        == 0
    {
        tokio::task::yield_now().await;
    }
    run(
        pool,
        "INSERT INTO jobs (id, customer, run_at) VALUES (1, 7, now() - interval '1 hour')",
    )
    .await;
    let early = Invoice::claim(pool, 10).await.unwrap();
    sqlx::query("SELECT pg_advisory_unlock(1)")
        .execute(&mut *gate)
        .await
        .unwrap();
    (ids(&early), ids(&late.await.unwrap()))
}

#[tokio::test]
async fn the_index_lets_no_two_run() {
    let (early, late) = a_claim_that_chose_by_what_is_no_more(true).await;
    assert_eq!((early, late), (vec![1], vec![3]));
}

#[tokio::test]
async fn the_naive_twin_has_no_index() {
    let (early, late) = a_claim_that_chose_by_what_is_no_more(false).await;
    assert_eq!((early, late), (vec![1], vec![2, 3]));
}

/// A transaction has a job of customer 7, and an earlier one of his was added since: the unique index waits for how that ends.
#[tokio::test]
async fn a_claim_in_a_transaction_that_is_open_keeps_only_its_customer() {
    let database = invoices().await;
    let pool = &database.pool;
    add(pool, [(2, Some(7))]).await;
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(ids(&Invoice::claim(&mut *tx, 1).await.unwrap()), [2]);
    add(pool, [(1, Some(7)), (3, Some(8)), (4, None), (5, Some(9))]).await;
    run(
        pool,
        "UPDATE jobs SET run_at = now() - interval '1 hour' WHERE id = 1",
    )
    .await;
    assert_eq!(ids(&Invoice::claim(pool, 10).await.unwrap()), [3, 4, 5]);
    assert!(Invoice::claim(pool, 10).await.unwrap().is_empty());
    let timeout: String = sqlx::query_scalar("SHOW lock_timeout")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(timeout, "0");
    tx.rollback().await.unwrap();
    assert_eq!(ids(&Invoice::claim(pool, 10).await.unwrap()), [1]);
}

/// As if another job of the customer had come in between each time, and had ended: what was not touched is tried again before a trigger is
/// blamed.
#[tokio::test]
async fn a_job_that_others_kept_for_a_moment_is_not_bad() {
    let database = invoices().await;
    let pool = &database.pool;
    run(
        pool,
        "CREATE SEQUENCE writes;
         CREATE FUNCTION drop_two() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('writes') <= 2 THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER drop_two BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION drop_two()",
    )
    .await;
    add(pool, [(1, Some(7))]).await;
    let mut bad = 0;
    let claimed = Invoice::claim(pool, 1).on_bad_row(|_| bad += 1);
    assert_eq!(ids(&claimed.await.unwrap()), [1]);
    assert_eq!(bad, 0);
}

/// Without the value in the index of a filter PostgreSQL may read all jobs of the filter for each value.
#[test]
fn each_filter_has_an_index_with_the_value() {
    let ddl = Invoice::ddl::<sqlx::Postgres>();
    let index = r#"("kind", "customer", "run_at", "id") WHERE "state" = 'ready'"#;
    assert!(ddl.contains(index), "{ddl}");
}
