//! `transaction`: what it acknowledges is there, and once; what it runs again has left nothing.

use std::time::Duration;

use rowlock::transaction;
use rowlock::tx::TransactionError;
use rowlock_explore::{Actor, Ended};
use sqlx::{Connection, PgConnection};

use super::{End, FAULTS, adds_up, explorer, failed, goes_on, passed, pool, preemptions};

/// Two doctors are on call, and one at least has to be.
const DOCTORS: &str = "
    CREATE TABLE doctors (name text PRIMARY KEY, on_call bool NOT NULL);
    CREATE TABLE log (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, who text NOT NULL)";
const ON_CALL: &str =
    "DELETE FROM log; DELETE FROM doctors; INSERT INTO doctors VALUES ('ann', true), ('bob', true)";
const NOBODY: &str =
    "SELECT 'nobody is on call' WHERE NOT EXISTS (SELECT FROM doctors WHERE on_call)";

const COUNT: &str = "SELECT count(*) FROM doctors WHERE on_call";
const LEAVE: &str = "UPDATE doctors SET on_call = false WHERE name = $1";
const WRITE: &str = "INSERT INTO log (who) VALUES ($1)";

#[derive(Debug)]
struct Said {
    who: String,
    /// Whether the effect is there: not either if it was not wanted.
    end: End,
    goes_on: bool,
}

/// Leaves if two are on call, and writes so.
async fn leaves(actor: Actor) -> Said {
    let pool = pool(&actor);
    let who = actor.name();
    let left = transaction(&pool)
        .serializable()
        .backoff(Duration::ZERO, Duration::ZERO)
        .run(async |tx| {
            let on_call: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *tx).await?;
            if on_call > 1 {
                sqlx::query(LEAVE).bind(who).execute(&mut *tx).await?;
                sqlx::query(WRITE).bind(who).execute(&mut *tx).await?;
            }
            Ok::<_, sqlx::Error>(on_call > 1)
        });
    let left = actor.may_drop(left).await;
    let end = match left {
        Some(Ok(false)) => End::Not,
        left => End::of(left),
    };
    let said = Said {
        who: who.to_owned(),
        end,
        goes_on: goes_on(&pool).await,
    };
    pool.close().await;
    said
}

async fn as_told(ended: Ended<Said>) -> Result<(), String> {
    for said in ended.returned() {
        if !said.goes_on {
            return Err("a pool does not go on".to_owned());
        }
        let who = &said.who;
        let written = ended
            .rows(&format!("SELECT id FROM log WHERE who = '{who}'"))
            .await?;
        adds_up(written.len(), [said.end]).map_err(|why| format!("{who}: {why}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn serializable_keeps_one_on_call() {
    let verdict = explorer(DOCTORS, ON_CALL)
        .await
        .actor("ann", leaves)
        .actor("bob", leaves)
        .never(NOBODY)
        .invariant(as_told)
        .explore()
        .await
        .unwrap();
    passed("transaction: write skew at SERIALIZABLE, 2 actors", verdict);
}

#[tokio::test]
async fn serializable_with_faults() {
    let verdict = explorer(DOCTORS, ON_CALL)
        .await
        .actor("ann", leaves)
        .never(NOBODY)
        .invariant(as_told)
        .faults(FAULTS)
        .explore()
        .await
        .unwrap();
    passed("transaction: at SERIALIZABLE, 1 actor, faults", verdict);
}

#[tokio::test]
async fn repeatable_read_leaves_nobody_on_call() {
    async fn leaves(actor: Actor) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let mut tx = connection
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .await?;
        let on_call: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *tx).await?;
        if on_call > 1 {
            sqlx::query(LEAVE)
                .bind(actor.name())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        connection.close().await
    }
    let verdict = explorer(DOCTORS, ON_CALL)
        .await
        .actor("ann", leaves)
        .actor("bob", leaves)
        .never(NOBODY)
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = failed("transaction: REPEATABLE READ", verdict);
    assert!(failure.anomaly().starts_with("write skew"), "{failure}");
}

/// Adds one to what it has read, at a level that refuses the second.
async fn adds(actor: Actor) -> Said {
    let pool = pool(&actor);
    let added = transaction(&pool)
        .repeatable_read()
        .backoff(Duration::ZERO, Duration::ZERO)
        .run(async |tx| {
            let n: i32 = sqlx::query_scalar("SELECT n FROM numbers WHERE id = 1")
                .fetch_one(&mut *tx)
                .await?;
            sqlx::query("UPDATE numbers SET n = $1 WHERE id = 1")
                .bind(n + 1)
                .execute(&mut *tx)
                .await?;
            Ok::<_, sqlx::Error>(())
        });
    let end = End::of(actor.may_drop(added).await);
    let said = Said {
        who: actor.name().to_owned(),
        end,
        goes_on: goes_on(&pool).await,
    };
    pool.close().await;
    said
}

const NUMBERS: &str = "CREATE TABLE numbers (id int PRIMARY KEY, n int NOT NULL)";
const ZERO: &str = "DELETE FROM numbers; INSERT INTO numbers VALUES (1, 0)";

async fn all_are_added(ended: Ended<Said>) -> Result<(), String> {
    if ended.returned().any(|said| !said.goes_on) {
        return Err("a pool does not go on".to_owned());
    }
    let n = ended
        .value("SELECT n FROM numbers")
        .await?
        .parse()
        .unwrap_or_default();
    adds_up(n, ended.returned().map(|said| said.end))
}

#[tokio::test]
async fn a_conflict_is_run_again() {
    let verdict = explorer(NUMBERS, ZERO)
        .await
        .actor("ann", adds)
        .actor("bob", adds)
        .invariant(all_are_added)
        .invariant(|ended: Ended<Said>| async move {
            match ended.returned().all(|said| said.end == End::Done) {
                true => Ok(()),
                false => Err("a conflict was not run again"),
            }
        })
        .explore()
        .await
        .unwrap();
    passed(
        "transaction: a conflict at REPEATABLE READ, 2 actors",
        verdict,
    );

    let verdict = explorer(NUMBERS, ZERO)
        .await
        .actor("ann", adds)
        .actor("bob", adds)
        .invariant(all_are_added)
        .faults(FAULTS)
        .preemptions(preemptions())
        .explore()
        .await
        .unwrap();
    passed(
        "transaction: a conflict at REPEATABLE READ, 2 actors, faults",
        verdict,
    );
}

/// Two rows in an order that crosses with another's: a deadlock, which is run again.
#[tokio::test]
async fn a_deadlock_is_run_again() {
    async fn crosses(actor: Actor, rows: [i32; 2]) -> Result<(), TransactionError<sqlx::Error>> {
        let pool = pool(&actor);
        transaction(&pool)
            .backoff(Duration::ZERO, Duration::ZERO)
            .run(async |tx| {
                for row in rows {
                    sqlx::query("UPDATE numbers SET n = n + 1 WHERE id = $1")
                        .bind(row)
                        .execute(&mut *tx)
                        .await?;
                }
                Ok::<_, sqlx::Error>(())
            })
            .await?;
        pool.close().await;
        Ok(())
    }
    let verdict = explorer(
        NUMBERS,
        "DELETE FROM numbers; INSERT INTO numbers VALUES (1, 0), (2, 0)",
    )
    .await
    .actor("ann", |actor| crosses(actor, [1, 2]))
    .actor("bob", |actor| crosses(actor, [2, 1]))
    .never("SELECT id, n FROM numbers WHERE n <> 2")
    .explore()
    .await
    .unwrap();
    passed("transaction: a deadlock, 2 actors", verdict);
}

const NAMES: &str =
    "CREATE TABLE log (who text NOT NULL); CREATE TABLE names (name text PRIMARY KEY)";
const NO_NAMES: &str = "DELETE FROM log; DELETE FROM names";
const NAME: &str = "INSERT INTO names VALUES ('eve')";

/// Takes a name in a savepoint, where another one may have it.
async fn takes_the_name(actor: Actor) -> Said {
    let pool = pool(&actor);
    let who = actor.name();
    let written = transaction(&pool)
        .backoff(Duration::ZERO, Duration::ZERO)
        .run(async |tx| {
            sqlx::query("INSERT INTO log VALUES ($1)")
                .bind(who)
                .execute(&mut *tx)
                .await?;
            let _taken: Result<(), sqlx::Error> = tx
                .savepoint(async |tx| {
                    sqlx::query("INSERT INTO log VALUES ('tried')")
                        .execute(&mut *tx)
                        .await?;
                    sqlx::query(NAME).execute(&mut *tx).await?;
                    Ok(())
                })
                .await;
            Ok::<_, sqlx::Error>(())
        });
    let end = End::of(actor.may_drop(written).await);
    let said = Said {
        who: who.to_owned(),
        end,
        goes_on: goes_on(&pool).await,
    };
    pool.close().await;
    said
}

/// What was tried in vain has left nothing; what was not is there.
async fn all_or_nothing(ended: Ended<Said>) -> Result<(), String> {
    if ended.returned().any(|said| !said.goes_on) {
        return Err("a pool does not go on".to_owned());
    }
    for said in ended.returned() {
        let written = ended
            .rows(&format!("SELECT FROM log WHERE who = '{}'", said.who))
            .await?;
        adds_up(written.len(), [said.end]).map_err(|why| format!("{}: {why}", said.who))?;
    }
    let tried = ended
        .value("SELECT count(*) FROM log WHERE who = 'tried'")
        .await?;
    let names = ended.value("SELECT count(*) FROM names").await?;
    match tried == names {
        true => Ok(()),
        false => Err(format!(
            "{tried} times was left of what was tried, and {names} names"
        )),
    }
}

#[tokio::test]
async fn a_savepoint_leaves_nothing() {
    let verdict = explorer(NAMES, NO_NAMES)
        .await
        .actor("ann", takes_the_name)
        .actor("bob", takes_the_name)
        .invariant(all_or_nothing)
        .invariant(|ended: Ended<Said>| async move {
            match ended.returned().all(|said| said.end == End::Done) {
                true => Ok(()),
                false => Err("what failed in a savepoint has ended the transaction"),
            }
        })
        .preemptions(1)
        .explore()
        .await
        .unwrap();
    passed("transaction: a savepoint, 2 actors", verdict);

    let verdict = explorer(
        NAMES,
        "DELETE FROM log; DELETE FROM names; INSERT INTO names VALUES ('eve')",
    )
    .await
    .actor("ann", takes_the_name)
    .invariant(|ended: Ended<Said>| async move {
        for said in ended.returned() {
            let written = ended.rows("SELECT FROM log").await?;
            adds_up(written.len(), [said.end])?;
            if !said.goes_on {
                return Err("the pool does not go on".to_owned());
            }
        }
        Ok(())
    })
    .faults(FAULTS)
    .explore()
    .await
    .unwrap();
    passed(
        "transaction: a savepoint that is undone, 1 actor, faults",
        verdict,
    );
}

/// The name is taken, the error is seen and passed over, and COMMIT says Ok.
#[tokio::test]
async fn without_a_savepoint_what_was_acknowledged_is_not_there() {
    async fn takes(actor: Actor) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let mut tx = connection.begin().await?;
        sqlx::query("INSERT INTO log VALUES ($1)")
            .bind(actor.name())
            .execute(&mut *tx)
            .await?;
        let _taken = sqlx::query(NAME).execute(&mut *tx).await;
        tx.commit().await?;
        connection.close().await
    }
    let verdict = explorer(NAMES, NO_NAMES)
        .await
        .actor("ann", takes)
        .actor("bob", takes)
        .invariant(|ended: Ended<Result<(), sqlx::Error>>| async move {
            let acknowledged = ended.returned().filter(|said| said.is_ok()).count();
            let written = ended.rows("SELECT FROM log").await?.len();
            match acknowledged == written {
                true => Ok(()),
                false => Err(format!(
                    "{acknowledged} were acknowledged, and {written} are there"
                )),
            }
        })
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("transaction: an error is passed over", verdict);
}

#[tokio::test]
async fn running_again_after_a_lost_commit_happens_twice() {
    async fn writes(actor: Actor) -> Result<(), sqlx::Error> {
        let pool = pool(&actor);
        for _ in 0..2 {
            let written = async {
                let mut tx = pool.begin().await?;
                sqlx::query(WRITE)
                    .bind(actor.name())
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await
            };
            if written.await.is_ok() {
                break;
            }
        }
        pool.close().await;
        Ok(())
    }
    let verdict = explorer(DOCTORS, ON_CALL)
        .await
        .actor("ann", writes)
        .never("SELECT who, count(*) FROM log GROUP BY who HAVING count(*) > 1")
        .faults(FAULTS)
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("transaction: run again after a lost COMMIT", verdict);
}

/// With the question what became of it, a lost COMMIT that was done is acknowledged.
#[tokio::test]
async fn a_lost_commit_is_asked_for() {
    async fn writes(actor: Actor) -> Said {
        let pool = pool(&actor);
        let who = actor.name();
        let written = transaction(&pool)
            .ask_after_lost_commit()
            .backoff(Duration::ZERO, Duration::ZERO)
            .run(async |tx| sqlx::query(WRITE).bind(who).execute(&mut *tx).await)
            .await;
        let said = Said {
            who: who.to_owned(),
            end: End::of(Some(written)),
            goes_on: goes_on(&pool).await,
        };
        pool.close().await;
        said
    }
    let verdict = explorer(DOCTORS, ON_CALL)
        .await
        .actor("ann", writes)
        .invariant(as_told)
        .invariant(|ended: Ended<Said>| async move {
            match ended.returned().any(|said| said.end == End::Unknown) {
                true => Err("it is not known, and could be"),
                false => Ok(()),
            }
        })
        .faults([
            rowlock_explore::Fault::CutBefore,
            rowlock_explore::Fault::CutAfter,
            rowlock_explore::Fault::CutInAnswer,
            rowlock_explore::Fault::Terminated,
        ])
        .explore()
        .await
        .unwrap();
    passed(
        "transaction: a lost COMMIT is asked for, 1 actor, faults",
        verdict,
    );
}
