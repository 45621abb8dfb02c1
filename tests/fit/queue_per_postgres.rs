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
