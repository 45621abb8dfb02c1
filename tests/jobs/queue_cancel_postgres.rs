//! A job is cancelled while others hold its row: one of the two wins.

use rowlock::queue::{Cancelled, FinishError};
use sqlx::Executor;

use super::queue_cancel::{Email, Issue, ids, jobs};

/// What the transaction of a completion says.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Commit,
    Rollback,
}

/// The transaction of a completion is open: the cancel waits, and the completion decides.
#[tokio::test]
async fn a_cancel_waits_for_a_completion() {
    for says in [Says::Commit, Says::Rollback] {
        let database = jobs(2).await;
        let pool = &database.pool;
        let email = Email::claim(pool, 1).await.unwrap().remove(0);
        let issue = Issue::claim(pool, 1).await.unwrap().remove(0);
        let mut tx = pool.begin().await.unwrap();
        email.complete_in(&mut *tx).await.unwrap();
        issue.complete_in(&mut *tx).await.unwrap();
        let (one, other) = (pool.clone(), pool.clone());
        let email_id = email.id;
        let cancel = tokio::spawn(async move { Email::cancel(&one, email_id).await.unwrap() });
        database.until_blocked().await;
        assert!(!cancel.is_finished());
        match says {
            Says::Commit => tx.commit().await.unwrap(),
            Says::Rollback => tx.rollback().await.unwrap(),
        }
        let issue_id = issue.id;
        let cancel_other =
            tokio::spawn(async move { Issue::cancel(&other, (issue_id, "ann")).await.unwrap() });
        let both = (cancel.await.unwrap(), cancel_other.await.unwrap());
        match says {
            Says::Commit => {
                assert_eq!(both, (Cancelled::Ended, Cancelled::NotFound));
                assert_eq!(ids(pool, "state = 'done'").await, [email.id]);
            }
            Says::Rollback => {
                assert_eq!(both, (Cancelled::Now, Cancelled::Now));
                assert!(email.complete(pool).await.is_err());
                assert!(issue.complete(pool).await.is_err());
                assert_eq!(ids(pool, "state IN ('dead', 'given up')").await.len(), 2);
            }
        }
    }
}

/// The other way round: the transaction of a cancel is open, and the completion waits.
#[tokio::test]
async fn a_completion_waits_for_a_cancel() {
    for says in [Says::Commit, Says::Rollback] {
        let database = jobs(1).await;
        let pool = &database.pool;
        let job = Email::claim(pool, 1).await.unwrap().remove(0);
        let mut tx = pool.begin().await.unwrap();
        assert_eq!(Email::cancel(&mut *tx, 1).await.unwrap(), Cancelled::Now);
        let other = pool.clone();
        let complete = tokio::spawn(async move { job.complete(&other).await });
        database.until_blocked().await;
        match says {
            Says::Commit => tx.commit().await.unwrap(),
            Says::Rollback => tx.rollback().await.unwrap(),
        }
        let completed = complete.await.unwrap();
        match says {
            Says::Commit => {
                assert!(
                    matches!(completed, Err(FinishError::LeaseLost(_))),
                    "{completed:?}"
                );
                assert_eq!(ids(pool, "state = 'dead'").await, [1]);
            }
            Says::Rollback => {
                completed.unwrap();
                assert_eq!(ids(pool, "state = 'done'").await, [1]);
            }
        }
    }
}

/// A job that is claimed, or put back, while the cancel comes to it is cancelled all the same.
#[tokio::test]
async fn a_cancel_finds_a_job_that_goes_on() {
    for change in [
        "UPDATE jobs SET state = 'running', fence = fence + 1",
        "UPDATE jobs SET attempts = attempts + 1",
    ] {
        let database = jobs(1).await;
        let pool = &database.pool;
        let mut holder = pool.begin().await.unwrap();
        holder.execute(change).await.unwrap();
        let other = pool.clone();
        let cancel = tokio::spawn(async move { Email::cancel(&other, 1).await.unwrap() });
        database.until_blocked().await;
        holder.commit().await.unwrap();
        assert_eq!(cancel.await.unwrap(), Cancelled::Now);
        assert_eq!(ids(pool, "state = 'dead'").await, [1]);
    }
}
