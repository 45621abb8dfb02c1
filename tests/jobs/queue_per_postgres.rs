//! Claims of one customer's jobs that see different states of the table.

use sqlx::PgConnection;

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
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock(hashtext(current_schema()), 2);
             WHILE NOT pg_try_advisory_xact_lock(hashtext(current_schema()), 1) LOOP PERFORM pg_sleep(0.001); END LOOP;
             RETURN NEW; END $$;
         CREATE TRIGGER wait BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.id = 2) EXECUTE FUNCTION wait()",
    )
    .await;
    add(pool, [(2, Some(7)), (3, Some(8))]).await;
    // Not by a lock that it waits for: a claim waits only briefly, and on a busy machine that is over before the other one comes.
    let mut gate = pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(hashtext(current_schema()), 1)")
        .execute(&mut *gate)
        .await
        .unwrap();
    let late = tokio::spawn({
        let pool = pool.clone();
        async move { Invoice::claim(&pool, 10).await.unwrap() }
    });
    let writes = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 2
        AND classid = (hashtext(current_schema())::bigint & 4294967295)::oid)";
    while !sqlx::query_scalar::<_, bool>(writes)
        .fetch_one(pool)
        .await
        .unwrap()
    {
        tokio::task::yield_now().await;
    }
    run(
        pool,
        "INSERT INTO jobs (id, customer, run_at) VALUES (1, 7, now() - interval '1 hour')",
    )
    .await;
    let early = Invoice::claim(pool, 10).await.unwrap();
    sqlx::query("SELECT pg_advisory_unlock(hashtext(current_schema()), 1)")
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

/// The planner knows nothing of the many jobs of one kind and one customer.
#[tokio::test]
async fn a_claim_of_one_kind_reads_one_job_of_each_customer() {
    let database = invoices().await;
    let pool = &database.pool;
    run(
        pool,
        "ALTER TABLE jobs SET (autovacuum_enabled = off);
         INSERT INTO jobs (id, customer) SELECT n, 10 + n % 60 FROM generate_series(1, 3000) AS n;
         ANALYZE jobs;
         INSERT INTO jobs (id, customer, kind) SELECT n, 7, 'push' FROM generate_series(10001, 13000) AS n",
    )
    .await;
    let mut connection = pool.acquire().await.unwrap();
    let one = Invoice::claim(&mut *connection, 1)
        .only(Invoice::KIND, "push")
        .await;
    assert_eq!(ids(&one.unwrap()), [10001]);
    // The claim and its second look each read the jobs of the kind twice, as the planner sees few of them, and three entries of each customer:
    // 12,366, and some that are dead while a transaction is open elsewhere. To read all of them once more would be too many.
    let none = async |connection: &mut PgConnection| {
        let claim = Invoice::claim(connection, 10).only(Invoice::KIND, "push");
        assert!(claim.await.unwrap().is_empty());
    };
    let read = entries_read(&mut connection, none).await;
    assert!(read < 5 * 3000, "{read} entries were read");
    let index = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'jobs'::regclass AND indexrelid::regclass::text LIKE '%\\_per\\_kind\\_%'";
    let index: String = sqlx::query_scalar(index).fetch_one(pool).await.unwrap();
    run(pool, &format!("DROP INDEX {index}")).await;
    // All of them for each customer.
    let naive = entries_read(&mut connection, none).await;
    assert!(naive > 60 * 3000, "{naive} entries were read");
}

/// Those that have no customer are found by the index that begins with it.
#[tokio::test]
async fn a_claim_of_jobs_without_a_customer_reads_none_that_have_to_wait() {
    let database = invoices().await;
    let pool = &database.pool;
    run(
        pool,
        "ALTER TABLE jobs SET (autovacuum_enabled = off);
         INSERT INTO jobs (id, customer) SELECT n, 7 + n % 2 FROM generate_series(1, 6000) AS n",
    )
    .await;
    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(Invoice::claim(&mut *connection, 10).await.unwrap().len(), 2);
    run(
        pool,
        "INSERT INTO jobs (id, customer, run_at) SELECT n, NULL, now() FROM generate_series(10001, 10100) AS n; ANALYZE jobs",
    )
    .await;
    let ten = async |connection: &mut PgConnection| {
        let claimed = Invoice::claim(connection, 10).await.unwrap();
        assert!(claimed.len() == 10 && ids(&claimed).iter().all(|id| *id > 10_000));
    };
    let read = entries_read(&mut connection, ten).await;
    assert!(read < 3000, "{read} entries were read");
    run(
        pool,
        "DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || string_agg(indexrelid::regclass::text, ', ') FROM pg_index
            WHERE indrelid = 'jobs'::regclass AND indkey[0] = 2 AND NOT indisunique); END $$",
    )
    .await;
    let by_index = "SET enable_seqscan = off";
    sqlx::query(by_index)
        .execute(&mut *connection)
        .await
        .unwrap();
    let naive = entries_read(&mut connection, ten).await;
    assert!(naive > 6000, "{naive} entries were read");
}

/// How many entries of the indexes of this table a claim reads. Each test has a table of that name, and they run at the same time.
async fn entries_read(
    connection: &mut PgConnection,
    claim: impl AsyncFnOnce(&mut PgConnection),
) -> i64 {
    let flush = "SELECT pg_stat_force_next_flush()";
    let read =
        "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relid = 'jobs'::regclass";
    sqlx::raw_sql(flush)
        .execute(&mut *connection)
        .await
        .unwrap();
    let before: i64 = sqlx::query_scalar(read)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    claim(connection).await;
    sqlx::raw_sql(flush)
        .execute(&mut *connection)
        .await
        .unwrap();
    let after: i64 = sqlx::query_scalar(read)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    after - before
}
