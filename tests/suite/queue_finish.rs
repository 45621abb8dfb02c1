//! `#[derive(Queue)]`: what becomes of a claimed row, and who may say so.

use std::time::Duration;

use rowlock::queue::{Claimed, FinishError, QueueState, Retried, Unfinished};
use rowlock::tx::TransactionError;
use rowlock::{Fault, Tx, transaction};
use rowlock_tests::random::Random;

use super::queue::{
    EMAILS, Email, MINUTE, NOW, PAST, add, all, claim_one, cut_everywhere, emails, ids,
    nothing_is_due, nothing_is_left_open, run, shuffle,
};
use super::{BEGIN_WRITE, Db, NAME, Pool, database};

/// Every row as it lies in the table, on PostgreSQL with its place and its last writer.
async fn picture(pool: &Pool) -> Vec<String> {
    let sql = if NAME == "SQLite" {
        "SELECT json_array(id, recipient, tenant, priority, run_at, state, attempts, fence, leased_until, last_error, \
         finished_at) FROM emails ORDER BY id"
    } else {
        "SELECT concat(ctid, xmin, emails) FROM emails ORDER BY id"
    };
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

/// All rows are due and have never been claimed.
async fn start_over(pool: &Pool) {
    let sql = format!(
        "UPDATE emails SET state = 'ready', attempts = 0, last_error = NULL, run_at = {PAST}"
    );
    run(pool, sql).await;
}

/// Every way to end a claim, and to go on with it.
const WAYS: [&str; 8] = [
    "complete",
    "complete_in",
    "retry",
    "retry_after",
    "fail",
    "snooze",
    "release",
    "extend",
];

async fn finish(how: &str, claimed: Claimed<Email>, pool: &Pool) -> Result<(), FinishError> {
    match how {
        "complete" => claimed.complete(pool).await,
        "complete_in" => {
            let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
            let done = claimed.complete_in(&mut tx).await;
            tx.commit().await.unwrap();
            done
        }
        "retry" => claimed.retry(pool, "no").await.map(drop),
        "retry_after" => claimed.retry_after(pool, "no", MINUTE).await.map(drop),
        "fail" => claimed.fail(pool, "no").await,
        "snooze" => claimed.snooze(pool, MINUTE).await,
        "release" => claimed.release(pool).await,
        "extend" => claimed.extend(pool, 2 * MINUTE).await,
        other => panic!("{other}"),
    }
}

const BATCHES: [&str; 6] = [
    "complete_many",
    "retry_many",
    "fail_many",
    "snooze_many",
    "release_many",
    "extend_many",
];

/// Gives the rows whose claims were lost.
async fn finish_many(
    how: &str,
    mut batch: Vec<Claimed<Email>>,
    pool: &Pool,
) -> Result<Vec<Unfinished<Email>>, FinishError> {
    let failed = |claimed| (claimed, "no");
    match how {
        "complete_many" => Claimed::complete_many(pool, batch).await,
        "retry_many" => Claimed::retry_many(pool, batch.into_iter().map(failed)).await,
        "fail_many" => Claimed::fail_many(pool, batch.into_iter().map(failed)).await,
        "snooze_many" => Claimed::snooze_many(pool, batch, MINUTE).await,
        "release_many" => Claimed::release_many(pool, batch).await,
        "extend_many" => {
            let before = ids(&batch);
            let lost = Claimed::extend_many(pool, &mut batch, 2 * MINUTE).await?;
            let gone: Vec<i64> = lost.iter().map(|row| row.id).collect();
            let kept = before.into_iter().filter(|id| !gone.contains(id));
            assert_eq!(ids(&batch), kept.collect::<Vec<_>>());
            Ok(lost)
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_way_to_end_a_claim() {
    let database = emails(8).await;
    let pool = &database.pool;
    let batch = Email::claim(pool, 8).await.unwrap();
    let before = all(pool).await;
    for (how, claimed) in WAYS.into_iter().zip(batch) {
        finish(how, claimed, pool).await.unwrap();
    }
    let after = all(pool).await;
    let states = after
        .iter()
        .map(|row| (row.state, row.attempts, row.last_error.as_deref()));
    assert_eq!(
        states.collect::<Vec<_>>(),
        [
            (QueueState::Done, 1, None),
            (QueueState::Done, 1, None),
            (QueueState::Ready, 1, Some("no")),
            (QueueState::Ready, 1, Some("no")),
            (QueueState::Dead, 1, Some("no")),
            (QueueState::Ready, 0, None),
            (QueueState::Ready, 0, None),
            (QueueState::Running, 1, None),
        ]
    );
    for (how, (before, after)) in WAYS.into_iter().zip(before.iter().zip(&after)) {
        let finished = matches!(after.state, QueueState::Done | QueueState::Dead);
        assert_eq!(after.finished_at.is_some(), finished, "{how}");
        assert_eq!(before.fence, after.fence, "{how}");
        let later = (after.run_at - before.run_at).num_seconds();
        match how {
            "retry" => assert!(later <= 300, "{later}"),
            "retry_after" | "snooze" => assert!((60..360).contains(&later), "{how}: {later}"),
            _ => assert_eq!(before.run_at, after.run_at, "{how}"),
        }
    }
    assert!(after[7].leased_until > before[7].leased_until);
}

#[tokio::test]
async fn every_way_to_end_many_claims() {
    let database = emails(500).await;
    let pool = &database.pool;
    for how in BATCHES {
        for rows in [0, 1, 500] {
            start_over(pool).await;
            let batch = Email::claim(pool, rows).await.unwrap();
            let unfinished = finish_many(how, batch, pool).await.unwrap();
            assert!(unfinished.is_empty(), "{how}");
            let expected = match how {
                "complete_many" => (QueueState::Done, 1, None),
                "retry_many" => (QueueState::Ready, 1, Some("no")),
                "fail_many" => (QueueState::Dead, 1, Some("no")),
                "extend_many" => (QueueState::Running, 1, None),
                _ => (QueueState::Ready, 0, None),
            };
            for row in all(pool).await.iter().take(rows) {
                let found = (row.state, row.attempts, row.last_error.as_deref());
                assert_eq!(found, expected, "{how}");
            }
        }
    }
}

/// More rows than SQLite takes parameters.
#[tokio::test]
async fn a_batch_can_be_of_any_size() {
    let database = emails(17_000).await;
    let pool = &database.pool;
    let mut batch = Email::claim(pool, 17_000).await.unwrap();
    let lost = Claimed::extend_many(pool, &mut batch, MINUTE).await;
    assert!(lost.unwrap().is_empty());

    let mut ended: Vec<Claimed<Email>> = batch.drain(2_000..2_100).collect();
    Claimed::extend_many(pool, &mut ended, NOW).await.unwrap();
    let taken = ids(&Email::claim(pool, 17_000).await.unwrap());
    assert_eq!(taken, ids(&ended));
    batch.extend(ended);
    let lost = Claimed::complete_many(pool, batch).await.unwrap();
    let lost: Vec<i64> = lost.iter().map(|row| row.id).collect();
    assert_eq!(lost, taken);
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM emails WHERE state = 'done'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(done, 16_900);
}

/// The lease ended, and somebody else has the row, or has finished it, or it is ready for him.
#[tokio::test]
async fn q_07_whoever_lost_the_lease_writes_nothing() {
    let database = emails(1).await;
    let pool = &database.pool;
    for how in WAYS {
        for next in ["rescued", "claimed", "done", "dead", "released"] {
            start_over(pool).await;
            let stale = claim_one(pool, NOW).await;
            let rescued = Email::rescue(pool).await.unwrap();
            assert_eq!(rescued.ready, 1);
            if next != "rescued" {
                let holder = claim_one(pool, MINUTE).await;
                assert!(holder.fence > stale.fence);
                match next {
                    "done" => holder.complete(pool).await.unwrap(),
                    "dead" => holder.fail(pool, "never").await.unwrap(),
                    "released" => holder.release(pool).await.unwrap(),
                    _ => {}
                }
            }
            let before = picture(pool).await;
            let lost = finish(how, stale, pool).await.unwrap_err();
            assert!(matches!(lost, FinishError::LeaseLost(_)), "{lost:?}");
            assert_eq!(
                lost.to_string(),
                format!(
                    "{how} of emails (id = 1): the lease was lost; another attempt may have the row: stop this work"
                )
            );
            assert_eq!(picture(pool).await, before, "{how}, {next}");
        }
    }
}

/// A claim is ended once, also by the one who has it.
#[tokio::test]
async fn q_07_a_finished_row_stays_as_it_is() {
    let database = emails(1).await;
    let pool = &database.pool;
    for how in WAYS {
        start_over(pool).await;
        let claimed = claim_one(pool, NOW).await;
        let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
        claimed.complete_in(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(Email::rescue(pool).await.unwrap().ready, 0);
        let before = picture(pool).await;
        let lost = finish(how, claimed, pool).await.unwrap_err();
        assert!(matches!(lost, FinishError::LeaseLost(_)), "{lost:?}");
        assert_eq!(picture(pool).await, before, "{how}");
    }
}

#[tokio::test]
async fn q_07_a_row_made_anew_under_the_same_key_is_another_job() {
    let database = emails(1).await;
    let pool = &database.pool;
    let anew = async || {
        let sql = "DELETE FROM emails; INSERT INTO emails (id) VALUES (1)";
        run(pool, sql).await;
        claim_one(pool, MINUTE).await
    };
    for how in WAYS {
        let old = anew().await;
        let mut new = anew().await;
        // SQLite's clock shows milliseconds, and within one its fences are random.
        while old.fence.get() / 1000 == new.fence.get() / 1000 {
            new = anew().await;
        }
        let before = picture(pool).await;
        let lost = finish(how, old, pool).await.unwrap_err();
        assert!(matches!(lost, FinishError::LeaseLost(_)), "{lost:?}");
        assert_eq!(picture(pool).await, before, "{how}");
        new.complete(pool).await.unwrap();
    }
}

#[tokio::test]
async fn q_07_a_late_worker_may_finish_what_nobody_has_taken() {
    for how in WAYS {
        let database = emails(1).await;
        let pool = &database.pool;
        let late = claim_one(pool, NOW).await;
        finish(how, late, pool).await.unwrap();
        assert_eq!(Email::rescue(pool).await.unwrap().ready, 0, "{how}");
    }
}

#[tokio::test]
async fn extend_holds_the_row_and_lets_it_go() {
    let database = emails(1).await;
    let pool = &database.pool;
    let claimed = claim_one(pool, NOW).await;
    claimed.extend(pool, MINUTE).await.unwrap();
    nothing_is_due(pool).await;
    // No clock of a database overflows.
    claimed.extend(pool, Duration::MAX).await.unwrap();
    nothing_is_due(pool).await;
    let nanosecond = Duration::from_nanos(1);
    claimed.extend(pool, nanosecond).await.unwrap();
    assert!(all(pool).await[0].leased_until.is_some());
    claimed.extend(pool, NOW).await.unwrap();
    assert_eq!(claim_one(pool, MINUTE).await.attempts, 2);
}

/// Whatever happened to each row of a batch, exactly the held ones are written and the others are returned.
#[tokio::test]
async fn q_07_a_batch_writes_exactly_what_it_holds() {
    let database = emails(12).await;
    let pool = &database.one_connection_pool().await;
    let mut random = Random::new(7);
    for round in 0..60 {
        run(pool, "DELETE FROM emails").await;
        add(pool, 12).await;
        let mut batch = Email::claim(pool, 12).await.unwrap();
        // What the others do: let the lease end, claim it again, finish it, delete the row.
        let (mut ended, mut expected) = (Vec::new(), Vec::new());
        shuffle(&mut batch, &mut random);
        for claimed in &batch {
            match random.below(5) {
                0 => {
                    claimed.extend(pool, NOW).await.unwrap();
                    ended.push(claimed.id);
                }
                1 => {
                    let mut tx = pool.begin().await.unwrap();
                    claimed.complete_in(&mut tx).await.unwrap();
                    tx.commit().await.unwrap();
                }
                2 => {
                    let sql = format!("DELETE FROM emails WHERE id = {}", claimed.id);
                    run(pool, sql).await;
                }
                _ => continue,
            }
            expected.push(claimed.id);
        }
        let mut again = Vec::new();
        if !ended.is_empty() {
            again = Email::claim(pool, 12).await.unwrap();
            ended.sort_unstable();
            assert_eq!(ids(&again), ended);
        }
        // The new claims of some rows are in the same batch as the old ones, which are lost.
        let held = ids(&batch).into_iter().filter(|id| !expected.contains(id));
        let mut held: Vec<i64> = held.collect();
        let mut lost: Vec<_> = batch
            .iter()
            .filter(|claimed| expected.contains(&claimed.id))
            .map(|claimed| (claimed.id, claimed.fence))
            .collect();
        if round % 2 == 0 {
            held.extend(ids(&again));
            batch.append(&mut again);
        }
        let before = picture(pool).await;
        let keys: Vec<i64> = all(pool).await.iter().map(|row| row.id).collect();

        let how = BATCHES[round % BATCHES.len()];
        let mut found: Vec<_> = finish_many(how, batch, pool)
            .await
            .unwrap()
            .iter()
            .map(|row| (row.id, row.fence))
            .collect();
        lost.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, lost, "{how}");
        for (key, (before, after)) in keys.iter().zip(before.iter().zip(picture(pool).await)) {
            assert_eq!(*before != after, held.contains(key), "{how} {key}");
        }
    }
}

#[tokio::test]
async fn q_06_the_last_attempt_that_fails_is_dead() {
    let database = emails(1).await;
    let pool = &database.pool;
    for how in ["retry", "retry_after", "retry_many"] {
        for (attempts, expected) in [(1, QueueState::Ready), (2, QueueState::Dead)] {
            start_over(pool).await;
            run(pool, format!("UPDATE emails SET attempts = {attempts}")).await;
            let claimed = claim_one(pool, MINUTE).await;
            let retried = match how {
                "retry" => Some(claimed.retry(pool, "no").await.unwrap()),
                "retry_after" => Some(claimed.retry_after(pool, "no", MINUTE).await.unwrap()),
                _ => {
                    finish_many(how, vec![claimed], pool).await.unwrap();
                    None
                }
            };
            if let Some(retried) = retried {
                assert_eq!(retried == Retried::Dead, expected == QueueState::Dead);
            }
            if how == "retry_after" && attempts == 1 {
                assert_eq!(retried, Some(Retried::Later(MINUTE)));
            }
            let row = &all(pool).await[0];
            assert_eq!((row.state, row.attempts), (expected, attempts + 1), "{how}");
        }
    }
}

/// Full jitter: any time up to a ceiling that doubles with every attempt, up to the longest.
#[tokio::test]
async fn retry_waits_at_most_as_the_backoff_says() {
    let database = emails(200).await;
    let pool = &database.pool;
    let second = Duration::from_secs(1);
    for ceiling in [20, 30] {
        run(pool, format!("UPDATE emails SET run_at = {PAST}")).await;
        let batch = Email::claim(pool, 200)
            .backoff(20 * second, 30 * second)
            .await
            .unwrap();
        let mut waits = Vec::new();
        for claimed in batch {
            let id = claimed.id;
            let Retried::Later(wait) = claimed.retry(pool, "no").await.unwrap() else {
                panic!("{id} has attempts left");
            };
            waits.push(wait);
        }
        let (shortest, longest) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*longest <= ceiling * second, "{longest:?}");
        assert!(*longest > (ceiling - 3) * second && *shortest < 3 * second);
        // It is what was written.
        let now = chrono::Utc::now();
        for (row, wait) in all(pool).await.iter().zip(&waits) {
            let due = (row.run_at - now).as_seconds_f64() - wait.as_secs_f64();
            assert!((-60.0..1.0).contains(&due), "{due}");
        }
    }
}

#[tokio::test]
async fn any_text_can_be_an_error() {
    let database = emails(1).await;
    let pool = &database.pool;
    let long = "ä".repeat(100_000);
    let chain = anyhow::anyhow!("no route").context("not sent");
    let texts: [(&dyn std::fmt::Display, &str); 4] = [
        (&"it's \"$1\" ?; --", "it's \"$1\" ?; --"),
        (&"a\0b", "a\u{fffd}b"),
        (&chain, "not sent: no route"),
        (&"", ""),
    ];
    for (error, stored) in texts {
        start_over(pool).await;
        let claimed = claim_one(pool, MINUTE).await;
        claimed.fail(pool, error).await.unwrap();
        assert_eq!(all(pool).await[0].last_error.as_deref(), Some(stored));
    }
    for shift in ["", "x"] {
        start_over(pool).await;
        let claimed = claim_one(pool, MINUTE).await;
        let error = format!("{shift}{long}");
        claimed.fail(pool, &error).await.unwrap();
        let stored = all(pool).await[0].last_error.clone().unwrap();
        let kept = stored.strip_suffix('…').unwrap();
        assert!(kept.len() > 8_000 && error.starts_with(kept));
    }
}

const SENT: &str = "CREATE TABLE sent (email bigint NOT NULL)";

async fn sent(pool: &Pool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM sent")
        .fetch_one(pool)
        .await
        .unwrap()
}

/// The effect, in a transaction with the completion.
async fn send(tx: &mut Tx<Db>, email: &Claimed<Email>) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO sent VALUES ($1)")
        .bind(email.id)
        .execute(&mut **tx)
        .await
        .map(drop)
}

#[tokio::test]
async fn complete_in_commits_with_the_effect() {
    let database = emails(1).await;
    let pool = &database.pool;
    run(pool, SENT).await;
    let email = claim_one(pool, NOW).await;
    let rolled_back = transaction(pool)
        .run(async |tx| {
            send(tx, &email).await.unwrap();
            email.complete_in(&mut *tx).await.unwrap();
            Err::<(), _>(sqlx::Error::RowNotFound)
        })
        .await;
    assert!(matches!(rolled_back, Err(TransactionError::Failed(_))));
    assert_eq!(
        (sent(pool).await, all(pool).await[0].state),
        (0, QueueState::Running)
    );

    transaction(pool)
        .run(async |tx| {
            send(tx, &email).await.unwrap();
            email.complete_in(&mut *tx).await
        })
        .await
        .unwrap();
    assert_eq!(
        (sent(pool).await, all(pool).await[0].state),
        (1, QueueState::Done)
    );
}

/// Two workers believe that the row is theirs.
#[tokio::test]
async fn complete_in_happens_once_however_often_the_job_is_run() {
    let database = emails(1).await;
    let pool = &database.pool;
    run(pool, SENT).await;
    let slow = claim_one(pool, NOW).await;
    let email = claim_one(pool, MINUTE).await;
    let both = async |email: &Claimed<Email>| {
        transaction(pool)
            .run(async |tx| {
                send(tx, email).await.unwrap();
                email.complete_in(&mut *tx).await
            })
            .await
    };
    let lost = both(&slow).await;
    assert!(
        matches!(
            lost,
            Err(TransactionError::Failed(FinishError::LeaseLost(_)))
        ),
        "{lost:?}"
    );
    both(&email).await.unwrap();
    assert!(both(&email).await.is_err());
    assert_eq!(sent(pool).await, 1);
}

/// The effect and the completion apart, with the end of the process in between.
#[tokio::test]
async fn the_naive_twin_of_complete_in_sends_twice() {
    let database = emails(1).await;
    let pool = &database.pool;
    run(pool, SENT).await;
    let gone = claim_one(pool, NOW).await;
    run(pool, "INSERT INTO sent VALUES (1)").await;
    drop(gone);
    let next = claim_one(pool, MINUTE).await;
    run(pool, "INSERT INTO sent VALUES (1)").await;
    next.complete(pool).await.unwrap();
    assert_eq!(sent(pool).await, 2);
}

fn fault(error: &FinishError) -> Fault {
    match error {
        FinishError::Database(error) => error.fault(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_finish_that_fails_says_where() {
    let database = emails(8).await;
    let pool = database.one_connection_pool().await;
    for how in WAYS {
        let claimed = claim_one(&pool, MINUTE).await;
        let id = claimed.id;
        run(&pool, "ALTER TABLE emails RENAME TO letters").await;
        let error = finish(how, claimed, &pool).await.unwrap_err();
        assert_eq!(fault(&error), Fault::Schema);
        let text = error.to_string();
        let at = format!("{how} of emails (id = {id}): ");
        assert!(text.starts_with(&at), "{text}");
        run(&pool, "ALTER TABLE letters RENAME TO emails").await;
    }
    start_over(&pool).await;
    let mut batch = Email::claim(&pool, 8).await.unwrap();
    pool.close().await;
    for (how, claimed) in BATCHES.into_iter().zip(batch.drain(1..)) {
        let error = finish_many(how, vec![claimed], &pool).await.unwrap_err();
        assert_eq!(fault(&error), Fault::PoolClosed);
        let text = error.to_string();
        assert!(text.starts_with(&format!("{how} of emails: ")), "{text}");
        // What needs no database does not ask it.
        let none = finish_many(how, Vec::new(), &pool).await;
        assert!(none.unwrap().is_empty());
    }
    let error = batch.remove(0).complete(&pool).await.unwrap_err();
    assert_eq!(fault(&error), Fault::PoolClosed);
}

/// After an error the batch can be extended again.
#[tokio::test]
async fn extend_many_that_fails_keeps_the_batch() {
    let database = emails(3).await;
    let closed = database.one_connection_pool().await;
    closed.close().await;
    let mut batch = Email::claim(&database.pool, 3).await.unwrap();
    let failed = Claimed::extend_many(&closed, &mut batch, MINUTE).await;
    assert!(failed.is_err());
    let lost = Claimed::extend_many(&database.pool, &mut batch, MINUTE).await;
    assert!(lost.unwrap().is_empty());
    assert_eq!(ids(&batch), [1, 2, 3]);
}

#[tokio::test]
async fn nothing_of_a_row_is_in_an_error() {
    let ddl = EMAILS.replace("DEFAULT 'ann'", "DEFAULT 'top secret'");
    let unsent = "finished_at {timestamp}, CONSTRAINT unsent CHECK (state <> 'done')";
    let database = database(&ddl.replace("finished_at {timestamp}", unsent)).await;
    let pool = &database.pool;
    add(pool, 2).await;
    let mut batch = Email::claim(pool, 2).await.unwrap();
    let claimed = format!("{:?}", batch[0]);
    assert_eq!(claimed, "Claimed(claim of emails (id = 1), attempt 1)");
    let one = batch.remove(0).complete(pool).await.unwrap_err();
    let mut many = Claimed::complete_many(pool, batch).await.unwrap();
    for error in [one, many.remove(0).error] {
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

/// Where a call is cut, all of its rows are written or none, and nothing is left open.
#[tokio::test]
async fn a_cut_finish_happens_or_does_not() {
    let database = emails(3).await;
    let (pool, _slow) = database.one_connection_that_waits().await;
    let mut before;
    // Nothing of ours begins the transaction of `complete_in`, and sqlx's `begin` is not safe to cancel.
    let ways = WAYS.into_iter().filter(|how| *how != "complete_in");
    for how in ways.chain(BATCHES) {
        cut_everywhere!(
            {
                start_over(&pool).await;
                let mut batch = Email::claim(&pool, 3).await.unwrap();
                before = picture(&pool).await;
                async {
                    if BATCHES.contains(&how) {
                        finish_many(how, batch, &pool).await.map(drop)
                    } else {
                        before.truncate(1);
                        finish(how, batch.remove(0), &pool).await
                    }
                }
            },
            async |finished: Option<Result<(), FinishError>>| {
                let after = picture(&pool).await;
                let written = before.iter().zip(&after).filter(|(old, new)| old != new);
                let written = written.count();
                if let Some(finished) = finished {
                    finished.unwrap();
                    assert_eq!(written, before.len(), "{how}");
                }
                assert!(written == 0 || written == before.len(), "{how}: {written}");
                nothing_is_left_open(&database, &pool).await;
            }
        );
    }
}
