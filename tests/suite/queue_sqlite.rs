//! `#[derive(Queue)]` on SQLite: what the planner makes of it, and times in two formats.

use rowlock::__private::queue::QueueSql;
use sqlx::{AssertSqlSafe, Row as _, Sqlite};

use super::queue::{Email, MINUTE, all, claim_one, emails, ids, nothing_is_due, run};

/// sqlx writes what chrono has with a `T` and an offset, SQL writes neither.
#[tokio::test]
async fn q_05_times_of_both_formats_are_one_order() {
    let database = emails(0).await;
    let pool = &database.pool;
    for run_at in [
        "'2024-05-06 10:00:01'",
        "'2024-05-06T10:00:00+00:00'",
        "'2024-05-06T12:00:02+02:00'",
        "'2024-05-06 10:00:01.500'",
        "'2024-05-06T09:59:59.5Z'",
    ] {
        run(
            pool,
            format!("INSERT INTO emails (run_at) VALUES ({run_at})"),
        )
        .await;
    }
    assert_eq!(ids(&Email::claim(pool, 2).await.unwrap()), [5, 2]);
    assert_eq!(ids(&Email::claim(pool, 5).await.unwrap()), [1, 4, 3]);
}

#[tokio::test]
async fn q_04_the_future_is_the_future_in_both_formats() {
    let database = emails(0).await;
    let pool = &database.pool;
    run(
        pool,
        "INSERT INTO emails (run_at) VALUES
            (strftime('%Y-%m-%d %H:%M:%S', 'now', '+1 minute')),
            (strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', '+1 minute')),
            (strftime('%Y-%m-%dT%H:%M:%S-09:00', 'now'))",
    )
    .await;
    nothing_is_due(pool).await;
    // A retry writes the other format.
    run(
        pool,
        "UPDATE emails SET run_at = '2024-05-06T10:00:00Z' WHERE id = 3",
    )
    .await;
    let email = claim_one(pool, MINUTE).await;
    email.snooze(pool, MINUTE).await.unwrap();
    nothing_is_due(pool).await;
    assert!(all(pool).await[2].run_at > chrono::Utc::now());
}

/// The indexes give the rows in order.
#[tokio::test]
async fn each_statement_uses_its_index() {
    let [head, tail]: [&str; 2] = <Email as QueueSql<Sqlite>>::CLAIM.try_into().unwrap();
    let rescue = <Email as QueueSql<Sqlite>>::RESCUE.concat();
    for (rows, analyzed) in [(1, false), (10_000, false), (10_000, true)] {
        let database = emails(rows).await;
        let pool = &database.one_connection_pool().await;
        run(pool, "UPDATE emails SET tenant = id % 10").await;
        if analyzed {
            run(pool, "ANALYZE").await;
        }
        for (sql, index) in [
            (format!("{head}{tail}"), "emails_rowlock_claim"),
            (
                format!("{head} AND \"tenant\" = 1{tail}"),
                "emails_rowlock_claim_tenant",
            ),
            (rescue.clone(), "emails_rowlock_running"),
        ] {
            let plan: Vec<String> = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(pool)
                .await
                .unwrap()
                .iter()
                .map(|row| row.get("detail"))
                .collect();
            // The hash of the definition follows.
            let is = |word: &str| word.rsplit_once('_').is_some_and(|(name, _)| name == index);
            let uses = |step: &String| step.split(' ').any(is);
            assert!(plan.iter().any(uses), "{plan:?}");
            let sorts = |step: &String| step.contains("TEMP B-TREE");
            assert!(!plan.iter().any(sorts), "{plan:?}");
        }
    }
}
