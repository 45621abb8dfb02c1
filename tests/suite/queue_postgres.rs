//! `#[derive(Queue)]` on PostgreSQL: what the planner makes of it, row locks, clocks, and lost answers.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rowlock::__private::queue::QueueSql;
use rowlock::queue::{ClaimError, Claimed, FinishError, QueueState};
use rowlock::{Fault, Fence, Queue};
use rowlock_tests::postgres::{Server, ddl};
use rowlock_tests::proxy::Proxy;
use rowlock_tests::random::Random;
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Executor, Postgres, Row as _};

use super::idempotent::soon;
use super::queue::{
    EMAILS, Email, MINUTE, NOW, Timestamp, add, all, claim_one, emails, ids, nothing_is_due, run,
};
use super::{Connection, Database, Pool, PoolOptions, address, database};

async fn pool_of_16(options: PgConnectOptions) -> Pool {
    let pool = PoolOptions::new().max_connections(16);
    pool.connect_with(options).await.unwrap()
}

/// So many claimers at once, whose claims must be apart. How many rows each of them got.
async fn claim_at_once(pool: &Pool, claimers: usize, limit: usize) -> Vec<usize> {
    let claims = (0..claimers).map(|_| Email::claim(pool, limit).into_future());
    let batches = futures_util::future::join_all(claims).await;
    let batches: Vec<Vec<i64>> = batches.into_iter().map(|got| ids(&got.unwrap())).collect();
    let distinct: HashSet<&i64> = batches.iter().flatten().collect();
    let sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
    assert_eq!(distinct.len(), sizes.iter().sum::<usize>());
    sizes
}

/// Rows of which the planner knows nothing, or what was true when there was one.
async fn misjudged(rows: i64, analyzed: bool) -> Database {
    let database = emails(0).await;
    let pool = &database.pool;
    run(pool, "ALTER TABLE emails SET (autovacuum_enabled = off)").await;
    if analyzed {
        add(pool, 1).await;
        run(pool, "ANALYZE emails; DELETE FROM emails").await;
    }
    add(pool, rows).await;
    database
}

#[tokio::test]
async fn q_01_statistics_do_not_matter() {
    for rows in [30, 10_000] {
        for analyzed in [false, true] {
            let database = misjudged(rows, analyzed).await;
            let nested_loops = database
                .options()
                .options([("enable_hashjoin", "off"), ("enable_mergejoin", "off")]);
            for options in [database.options(), nested_loops] {
                let pool = pool_of_16(options).await;
                for limit in [1, 3, 100] {
                    run(&pool, "UPDATE emails SET state = 'ready', attempts = 0").await;
                    let got = claim_at_once(&pool, 16, limit).await;
                    assert!(got.iter().all(|got| *got <= limit), "{limit}: {got:?}");
                    let expected = (16 * limit).min(rows as usize);
                    assert_eq!(got.iter().sum::<usize>(), expected, "{limit}");
                }
                pool.close().await;
            }
        }
    }
}

/// With the settings that every server has.
#[tokio::test]
async fn q_01_the_naive_twin_claims_more_than_asked() {
    let database = misjudged(30, true).await;
    let claimed = sqlx::query(
        "UPDATE emails SET state = 'running' WHERE id IN (SELECT id FROM emails WHERE state = 'ready' ORDER BY id LIMIT 1 \
         FOR UPDATE SKIP LOCKED)",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    assert!(claimed.rows_affected() > 1, "{}", claimed.rows_affected());
}

#[tokio::test]
async fn q_02_a_locked_row_is_passed_over() {
    let database = emails(3).await;
    let mut holder = database.pool.begin().await.unwrap();
    holder
        .execute("SELECT FROM emails WHERE id = 1 FOR UPDATE")
        .await
        .unwrap();
    let batch = soon(Email::claim(&database.pool, 5)).await.unwrap();
    assert_eq!(ids(&batch), [2, 3]);
    holder.commit().await.unwrap();
    assert_eq!(claim_one(&database.pool, MINUTE).await.id, 1);
}

/// The check of the foreign key locks the parent.
#[tokio::test]
async fn q_02_a_child_that_is_being_inserted_hides_no_row() {
    let database = emails(1).await;
    let pool = &database.pool;
    run(pool, "CREATE TABLE files (email bigint REFERENCES emails)").await;
    let mut child = pool.begin().await.unwrap();
    child.execute("INSERT INTO files VALUES (1)").await.unwrap();

    let naive = "SELECT id FROM emails WHERE state = 'ready' FOR UPDATE SKIP LOCKED";
    assert_eq!(pool.fetch_all(naive).await.unwrap().len(), 0);
    let claimed = soon(Email::claim(pool, 1)).await.unwrap().remove(0);
    soon(claimed.complete(pool)).await.unwrap();
    child.commit().await.unwrap();
}

#[tokio::test]
async fn q_02_claimers_in_a_strict_isolation_are_apart() {
    let database = emails(300).await;
    let strict = database
        .options()
        .options([("default_transaction_isolation", "serializable")]);
    let pool = pool_of_16(strict).await;
    let mut claimed = Vec::new();
    while claimed.len() < 300 {
        let claims = (0..16).map(|_| Email::claim(&pool, 5).into_future());
        for batch in futures_util::future::join_all(claims).await {
            match batch {
                Ok(batch) => claimed.extend(ids(&batch)),
                Err(error) => assert!(matches!(error, ClaimError::Serialization(_)), "{error:?}"),
            }
        }
    }
    let distinct: HashSet<&i64> = claimed.iter().collect();
    assert_eq!((claimed.len(), distinct.len()), (300, 300));
}

/// However the planner joins, and so in whatever order the rows are written.
#[tokio::test]
async fn q_05_any_plan_keeps_the_order() {
    let database = emails(30).await;
    run(&database.pool, "UPDATE emails SET priority = -id").await;
    let joins = ["enable_nestloop", "enable_mergejoin", "enable_hashjoin"];
    for used in joins {
        let others = joins.into_iter().filter(|join| *join != used);
        let options = others.map(|join| (join, "off"));
        let pool = pool_of_16(database.options().options(options)).await;
        let batch = Email::claim(&pool, 10).lease(NOW).await.unwrap();
        assert_eq!(ids(&batch), Vec::from_iter((21..=30).rev()), "{used}");
        Claimed::release_many(&pool, batch).await.unwrap();
        pool.close().await;
    }
}

/// Somebody else's claim is not committed yet, so it is no conflict.
#[tokio::test]
async fn q_02_a_snapshot_passes_over_what_is_locked() {
    let database = emails(2).await;
    let mut other = database.pool.begin().await.unwrap();
    assert_eq!(ids(&Email::claim(&mut *other, 1).await.unwrap()), [1]);
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ";
    let mut tx = database.pool.begin_with(snapshot).await.unwrap();
    let batch = soon(Email::claim(&mut *tx, 5)).await.unwrap();
    assert_eq!(ids(&batch), [2]);
    tx.commit().await.unwrap();
    other.commit().await.unwrap();
}

/// It is the clock of the database that stands still here.
#[tokio::test]
async fn q_04_every_time_is_the_database_s() {
    let database = emails(2).await;
    let schema: String = sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    let clock = |volatility, name| {
        format!(
            "CREATE FUNCTION {name}() RETURNS timestamptz {volatility} LANGUAGE sql AS \
             $$ SELECT timestamptz '2100-01-01 00:00:00Z' $$;"
        )
    };
    let clocks = clock("STABLE", "statement_timestamp") + &clock("VOLATILE", "clock_timestamp");
    run(
        &database.pool,
        clocks
            + "UPDATE emails SET run_at = '2100-01-01 00:00:00Z' WHERE id = 1;
               UPDATE emails SET run_at = '2100-01-01 00:00:01Z' WHERE id = 2",
    )
    .await;
    let search_path = format!("{schema},pg_catalog");
    let options = database.options();
    let pool = pool_of_16(options.options([("search_path", search_path)])).await;

    let at = |seconds| {
        let start: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
        Some(start + Duration::from_secs(seconds))
    };
    let email = claim_one(&pool, MINUTE).await;
    assert_eq!(
        (email.id, email.waited(), email.leased_until),
        (1, NOW, at(60))
    );
    assert_eq!(email.fence.get(), 4_102_444_800_000_000);
    nothing_is_due(&pool).await;
    email.extend(&pool, 2 * MINUTE).await.unwrap();
    assert_eq!(all(&pool).await[0].leased_until, at(120));
    email.snooze(&pool, 3 * MINUTE).await.unwrap();
    assert_eq!(Some(all(&pool).await[0].run_at), at(180));
    run(&pool, "UPDATE emails SET run_at = clock_timestamp()").await;
    let mut batch = Email::claim(&pool, 2).lease(NOW).await.unwrap();
    batch.remove(0).complete(&pool).await.unwrap();
    batch.remove(0).fail(&pool, "no").await.unwrap();
    for row in all(&pool).await {
        assert_eq!(row.finished_at, at(0));
    }
}

/// What is due and how long the lease is counts from the statement.
#[tokio::test]
async fn q_04_an_old_transaction_claims_like_a_new_one() {
    let database = emails(0).await;
    let mut tx = database.pool.begin().await.unwrap();
    tx.execute("SELECT pg_sleep(0.3)").await.unwrap();
    add(&database.pool, 1).await;
    let batch = Email::claim(&mut *tx, 1).await.unwrap();
    assert_eq!(ids(&batch), [1]);
    let sql = "SELECT leased_until >= now() + interval '60.3 seconds' FROM emails";
    let full: bool = sqlx::query_scalar(sql).fetch_one(&mut *tx).await.unwrap();
    assert!(full);
}

/// Whoever finishes a row holds its lock.
#[tokio::test]
async fn q_07_a_row_that_is_being_finished_is_not_rescued() {
    let database = emails(1).await;
    let pool = &database.pool;
    let late = claim_one(pool, NOW).await;
    let mut tx = pool.begin().await.unwrap();
    late.complete_in(&mut tx).await.unwrap();
    assert_eq!(soon(Email::rescue(pool)).await.unwrap().ready, 0);
    soon(nothing_is_due(pool)).await;
    tx.commit().await.unwrap();
    assert_eq!(Email::rescue(pool).await.unwrap().ready, 0);
    assert_eq!(all(pool).await[0].state, QueueState::Done);
}

/// The other order: the rescue is first, and whoever finishes waits for it.
#[tokio::test]
async fn q_07_a_row_that_is_being_rescued_is_not_finished() {
    let database = emails(1).await;
    let pool = database.pool.clone();
    let late = claim_one(&pool, NOW).await;
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(Email::rescue(&mut *tx).await.unwrap().ready, 1);
    let finish = tokio::spawn(async move { late.complete(&pool).await });
    database.until_blocked().await;
    tx.commit().await.unwrap();
    let lost = finish.await.unwrap().unwrap_err();
    assert!(matches!(lost, FinishError::LeaseLost(_)), "{lost:?}");
    assert_eq!(all(&database.pool).await[0].state, QueueState::Ready);
}

/// The statements took effect, and nobody learns of it.
#[tokio::test]
async fn a_lost_answer_is_unknown() {
    let database = emails(3).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let pool = database.pool_through(&proxy, options).await;
    let lost = async |call: BoxFuture<'static, String>| {
        // The pool pings a connection that comes back, before it is idle.
        while pool.num_idle() == 0 {
            tokio::task::yield_now().await;
        }
        proxy.hold_replies(true);
        let call = tokio::spawn(call);
        proxy.reply_held().await;
        proxy.cut().await;
        proxy.hold_replies(false);
        call.await.unwrap()
    };
    // The statements are prepared on this connection.
    claim_one(&pool, MINUTE)
        .await
        .complete(&pool)
        .await
        .unwrap();
    let email = claim_one(&pool, MINUTE).await;
    let through = pool.clone();
    let completed = lost(Box::pin(async move {
        let unknown = email.complete(&through).await.unwrap_err();
        assert!(matches!(unknown, FinishError::Unknown(_)), "{unknown:?}");
        unknown.to_string()
    }));
    let text = completed.await;
    assert!(text.starts_with("complete of emails (id = 2): "), "{text}");
    assert!(
        text.ends_with("; it is unknown whether the write took effect"),
        "{text}"
    );

    claim_one(&pool, NOW).await.release(&pool).await.unwrap();
    let through = pool.clone();
    let claimed = lost(Box::pin(async move {
        let unknown = Email::claim(&through, 1).lease(NOW).await.unwrap_err();
        assert!(matches!(unknown, ClaimError::Unknown(_)), "{unknown:?}");
        unknown.to_string()
    }));
    let text = claimed.await;
    assert!(
        text.ends_with("; it is unknown whether rows were claimed"),
        "{text}"
    );
    let states = all(&database.pool).await.into_iter().map(|row| row.state);
    let states: Vec<QueueState> = states.collect();
    assert_eq!(
        states,
        [QueueState::Done, QueueState::Done, QueueState::Running]
    );
    // It comes back when its lease has ended.
    assert_eq!(claim_one(&database.pool, MINUTE).await.attempts, 2);
}

/// A node of a plan and all below it.
fn nodes(node: &Value) -> Vec<&Value> {
    let below = node["Plans"].as_array().into_iter().flatten();
    std::iter::once(node).chain(below.flat_map(nodes)).collect()
}

/// How a statement finds its rows, or one part of it: the types of the nodes, and the indexes.
async fn plan(
    connection: &mut Connection,
    mode: &str,
    (types, sql, values): (&str, &str, &str),
    part: Option<&str>,
) -> (HashSet<String>, HashSet<String>) {
    let text = |sql: String| sqlx::raw_sql(AssertSqlSafe(sql));
    let prepare = format!("SET plan_cache_mode = {mode}; PREPARE it {types} AS {sql}");
    connection.execute(text(prepare)).await.unwrap();
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE it {values}");
    let explained: Value = connection.fetch_one(text(explain)).await.unwrap().get(0);
    connection.execute("DEALLOCATE it").await.unwrap();

    let mut plan = nodes(&explained[0]["Plan"]);
    if let Some(part) = part {
        let is_part = |node: &&&Value| {
            let name = node["Subplan Name"].as_str();
            name.is_some_and(|name| name.starts_with(part))
        };
        let node = plan.iter().find(is_part);
        plan = nodes(node.expect("it is a node of its own"));
    }
    let names = |of: &str| {
        let names = plan.iter().filter_map(|node| node[of].as_str());
        names.map(str::to_owned).collect::<HashSet<_>>()
    };
    // Without the hash of its definition.
    let index = |name: &String| match name.rsplit_once('_') {
        Some((name, hash)) if hash.len() == 8 => name.to_owned(),
        _ => name.clone(),
    };
    let indexes = names("Index Name").iter().map(index).collect();
    (names("Node Type"), indexes)
}

/// The statements about rows that are named, with their types and values: rows 1 to `rows`.
fn about_rows(rows: usize) -> Vec<(String, String, String)> {
    type Sql = [&'static str; 2];
    let list = |value: &str| format!("'{{{}}}'", vec![value; rows].join(","));
    let keys: Vec<String> = (1..=rows).map(|id| id.to_string()).collect();
    let claims = format!("'{{{}}}', {}", keys.join(","), list("0"));
    let settled = [list("ready"), list("1"), list("1"), list("no")].join(", ");
    // Batches of few rows ask for their keys as well.
    let by_key = match rows <= 100 {
        true => <Email as QueueSql<Postgres>>::BY_KEY,
        false => "",
    };
    let many: [(Sql, &str, &str, String); 4] = [
        (
            <Email as QueueSql<Postgres>>::COMPLETE_MANY,
            "",
            "",
            String::new(),
        ),
        (
            <Email as QueueSql<Postgres>>::SETTLE,
            by_key,
            ", text[], float8[], bigint[], text[]",
            format!(", {settled}"),
        ),
        (
            <Email as QueueSql<Postgres>>::START,
            by_key,
            ", bigint[]",
            format!(", {}", list("1")),
        ),
        (
            <Email as QueueSql<Postgres>>::EXTEND,
            "",
            ", float8",
            ", 60".to_owned(),
        ),
    ];
    let in_order = <Email as QueueSql<Postgres>>::IN_ORDER.unwrap();
    let mut statements = Vec::new();
    for (([first, last], by_key, types, values), [head, written, tail]) in
        many.into_iter().zip(in_order)
    {
        for sql in [
            format!("{first}{by_key}{last}"),
            format!("{head}{written}{by_key}{tail}"),
            format!("{head} SKIP LOCKED{written}{by_key}{tail}"),
        ] {
            let types = format!("(bigint[], bigint[]{types})");
            statements.push((types, sql, format!("({claims}{values})")));
        }
    }
    let [later, for_ever] = <Email as QueueSql<Postgres>>::SET_ASIDE;
    let rescue = <Email as QueueSql<Postgres>>::RESCUE;
    let claim = <Email as QueueSql<Postgres>>::CLAIM;
    let ended = <Email as QueueSql<Postgres>>::HAS_ENDED;
    let aside = "(bigint, bigint, text";
    statements.extend(
        [
            (
                format!("{aside}, float8, bigint)"),
                format!("{later} AND \"id\" = $5"),
                "(0, 1, 'no', 60, 1)",
            ),
            (
                format!("{aside}, bigint)"),
                format!("{for_ever}{ended} AND \"id\" = $4"),
                "(0, 1, 'no', 1)",
            ),
            (
                "(bigint)".to_owned(),
                format!("{} AND \"id\" = $1{}", rescue[0], rescue[1]),
                "(1)",
            ),
            (
                "(bigint, float8, bigint, bigint)".to_owned(),
                format!("{} AND \"id\" = $4{}", claim[0], claim[1]),
                "(1, 60, 1, 500)",
            ),
            (
                "(bigint, bigint)".to_owned(),
                <Email as QueueSql<Postgres>>::COMPLETE.to_owned(),
                "(1, 0)",
            ),
        ]
        .map(|(types, sql, values)| (types, sql, values.to_owned())),
    );
    statements
}

fn one(name: &str) -> HashSet<String> {
    HashSet::from([name.to_owned()])
}

/// The indexes give the rows in order, so that a claim reads no more than it takes, and the rescue only what runs.
#[tokio::test]
async fn each_statement_uses_its_index() {
    let [head, tail]: [&str; 2] = <Email as QueueSql<Postgres>>::CLAIM.try_into().unwrap();
    let any = format!("{head}{tail}");
    let one_tenant = format!("{head} AND \"tenant\" = $4{tail}");
    let rescue = <Email as QueueSql<Postgres>>::RESCUE.concat();
    let list_ended = <Email as QueueSql<Postgres>>::LIST_ENDED;
    let [head, tail]: [&str; 2] = <Email as QueueSql<Postgres>>::LIST_DUE.try_into().unwrap();
    let list_any = format!("{head}{tail}");
    let list_tenant = format!("{head} AND \"tenant\" = $2{tail}");
    let database = emails(0).await;
    let pool = &database.pool;
    run(
        pool,
        "ALTER TABLE emails SET UNLOGGED, SET (autovacuum_enabled = off)",
    )
    .await;
    let mut connection = database.connection().await;
    for (rows, done) in [(1, 0), (1_000, 0), (100_000, 90), (1_000_000, 0)] {
        let indexes = Email::ddl::<Postgres>();
        let drop: String = sqlx::query_scalar(
            "SELECT 'DROP INDEX ' || string_agg(indexrelid::regclass::text, ', ') FROM pg_index
             WHERE indrelid = 'emails'::regclass AND NOT indisprimary",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        let fill = format!(
            "TRUNCATE emails RESTART IDENTITY; {drop};
             INSERT INTO emails (priority, tenant, state)
             SELECT i % 3, i % 4, CASE WHEN {rows} > 1 AND i <= 100 THEN 'running' WHEN i % 100 < {done} THEN 'done' ELSE 'ready' END
             FROM generate_series(1, {rows}) AS i;
             {indexes}; ANALYZE emails"
        );
        run(pool, fill).await;
        // One row is read as fast without an index.
        let small = if rows == 1 { "off" } else { "on" };
        let settings = format!("SET enable_seqscan = {small}; SET enable_bitmapscan = {small}");
        let settings = sqlx::raw_sql(AssertSqlSafe(settings));
        connection.execute(settings).await.unwrap();
        for mode in ["force_custom_plan", "force_generic_plan"] {
            for (types, sql, values, index, part) in [
                (
                    "(bigint, float8, bigint)",
                    &any,
                    "(10, 60, 1)",
                    "emails_rowlock_claim",
                    Some("InitPlan 1"),
                ),
                (
                    "(bigint, float8, bigint, bigint)",
                    &one_tenant,
                    "(10, 60, 1, 3)",
                    "emails_rowlock_claim_tenant",
                    Some("InitPlan 1"),
                ),
                ("(bigint)", &list_any, "(10)", "emails_rowlock_claim", None),
                (
                    "(bigint, bigint)",
                    &list_tenant,
                    "(10, 3)",
                    "emails_rowlock_claim_tenant",
                    None,
                ),
            ] {
                let claim = (types, sql.as_str(), values);
                let (types, indexes) = plan(&mut connection, mode, claim, part).await;
                assert_eq!(indexes, one(index), "{rows} {mode} {sql}");
                assert!(!types.iter().any(|node| node.contains("Sort")), "{types:?}");
            }
            if rows > 1 {
                for (sql, part) in [(&*rescue, Some("CTE rowlock_ended")), (list_ended, None)] {
                    let (_, indexes) = plan(&mut connection, mode, ("", sql, ""), part).await;
                    assert_eq!(indexes, one("emails_rowlock_running"), "{rows} {mode}");
                }
            }
            for named in [1, 100] {
                for (types, sql, values) in about_rows(named) {
                    let sql = (&*types, &*sql, &*values);
                    let (types, indexes) = plan(&mut connection, mode, sql, None).await;
                    // A tenth of a small table is read as fast without an index, by a plan that is made anew each time.
                    let is_tenth = rows == 10 * named && mode == "force_custom_plan";
                    assert!(
                        is_tenth || !types.contains("Seq Scan"),
                        "{rows} {named} {mode} {}: {types:?} {indexes:?}",
                        sql.1
                    );
                    let by_key = [
                        "emails_pkey",
                        "emails_rowlock_running",
                        "emails_rowlock_claim",
                    ];
                    let by_key = indexes.iter().all(|index| by_key.contains(&&**index));
                    assert!(by_key, "{rows} {named} {mode} {}: {indexes:?}", sql.1);
                }
            }
        }
    }
}

/// The same code says that the role may not write to the table, of which no row is to blame.
#[tokio::test]
async fn a_row_that_may_not_be_written_keeps_no_other() {
    for (body, fault) in [
        (
            "RAISE EXCEPTION 'not this one' USING ERRCODE = 'insufficient_privilege'",
            Fault::PermissionDenied,
        ),
        // Mistakes on ways that few rows take.
        ("NEW.missing := 1", Fault::Schema),
        ("INSERT INTO missing VALUES (1)", Fault::Schema),
        ("PERFORM repeat('long', 1000000000)", Fault::Other),
    ] {
        let database = emails(4).await;
        let pool = &database.pool;
        let trigger = format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON emails FOR EACH ROW
                 WHEN (NEW.id = 1 AND NEW.state = 'running' OR NEW.id = 3 AND NEW.state = 'done') EXECUTE FUNCTION refuse()"
        );
        run(pool, trigger).await;
        let mut bad = 0;
        let batch = Email::claim(pool, 9)
            .on_bad_row(|_| bad += 1)
            .await
            .unwrap();
        let ids: Vec<i64> = batch.iter().map(|email| email.id).collect();
        assert_eq!((ids, bad), (vec![2, 3, 4], 1), "{body}");
        let unfinished = Claimed::complete_many(pool, batch).await.unwrap();
        let [refused] = unfinished.as_slice() else {
            panic!("{body}: {unfinished:?}");
        };
        assert_eq!(
            (refused.claimed.id, Fault::in_chain(&refused.error)),
            (3, Some(fault)),
            "{body}"
        );
        let states = all(pool).await.into_iter().map(|row| row.state);
        let states: Vec<QueueState> = states.collect();
        assert_eq!(
            states,
            [
                QueueState::Ready,
                QueueState::Done,
                QueueState::Running,
                QueueState::Done
            ],
            "{body}"
        );
    }
}

/// One row is refused, so that each is sent by itself, and one breaks the connection: those after it were not sent.
#[tokio::test]
async fn only_the_row_that_was_sent_when_the_connection_broke_is_unknown() {
    let database = emails(4).await;
    let pool = &database.pool;
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.id = 1 THEN RAISE 'not this one'; END IF;
             PERFORM pg_terminate_backend(pg_backend_pid());
             RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON emails FOR EACH ROW
             WHEN (NEW.id < 3 AND NEW.state = 'done') EXECUTE FUNCTION refuse()";
    let batch = Email::claim(pool, 4).await.unwrap();
    run(pool, trigger.to_owned()).await;
    let unfinished = Claimed::complete_many(pool, batch).await.unwrap();
    let errors: Vec<_> = unfinished.iter().map(|one| &one.error).collect();
    assert!(
        matches!(
            errors[..],
            [
                FinishError::Database(_),
                FinishError::Unknown(_),
                FinishError::Database(_),
                FinishError::Database(_)
            ]
        ),
        "{errors:?}"
    );
    assert_eq!(Fault::in_chain(errors[3]), Some(Fault::ConnectionLost));
}

/// Its own entry in an index would be too large.
#[tokio::test]
async fn an_error_that_is_too_long_for_an_index_keeps_no_other_from_being_retried() {
    let database = emails(3).await;
    let pool = &database.pool;
    run(pool, "CREATE INDEX ON emails (last_error)".to_owned()).await;
    let batch = Email::claim(pool, 3).await.unwrap();
    // Nothing that can be compressed.
    let mut random = Random::seeded(7);
    let letter = |_| char::from(b"abcdefghijklmnopqrstuvwxyz"[random.below(26)]);
    let long: String = (0..8_000).map(letter).collect();
    let errors = batch.into_iter().map(|email| {
        let error = if email.id == 2 {
            long.clone()
        } else {
            "short".to_owned()
        };
        (email, error)
    });
    let unfinished = Claimed::retry_many(pool, errors).await.unwrap();
    let ids: Vec<i64> = unfinished.iter().map(|one| one.claimed.id).collect();
    assert_eq!(ids, [2]);
    let states = all(pool).await.into_iter().map(|row| row.state);
    let states: Vec<QueueState> = states.collect();
    assert_eq!(
        states,
        [QueueState::Ready, QueueState::Running, QueueState::Ready]
    );
}

/// The table refuses the statement, and no row is at fault.
#[tokio::test]
async fn a_role_that_may_not_write_claims_no_row_and_blames_none() {
    let database = emails(2).await;
    let mut connection = database.connection().await;
    let reads = "DO $$ BEGIN
             CREATE ROLE rowlock_reads_emails;
             EXECUTE format('GRANT USAGE ON SCHEMA %I TO rowlock_reads_emails', current_schema);
             GRANT SELECT ON emails TO rowlock_reads_emails; END $$;
         SET ROLE rowlock_reads_emails";
    connection.execute(reads).await.unwrap();
    let mut bad = 0;
    let claim = Email::claim(&mut connection, 2).on_bad_row(|_| bad += 1);
    let error = claim.await.unwrap_err();
    assert_eq!(
        (Fault::in_chain(&error), bad),
        (Some(Fault::PermissionDenied), 0)
    );
    let back = "RESET ROLE; DROP OWNED BY rowlock_reads_emails; DROP ROLE rowlock_reads_emails";
    connection.execute(back).await.unwrap();
}

/// What it was refused for, and not that each row comes after an error.
#[tokio::test]
async fn a_batch_that_is_refused_in_a_transaction_begun_by_hand_is_one_error() {
    let database = emails(3).await;
    run(
        &database.pool,
        "ALTER TABLE emails ADD CONSTRAINT never CHECK (id <> 2 OR state <> 'done')".to_owned(),
    )
    .await;
    let mut connection = database.connection().await;
    let batch = Email::claim(&mut connection, 3).await.unwrap();
    connection.execute("BEGIN").await.unwrap();
    let error = Claimed::complete_many(&mut connection, batch).await;
    assert_eq!(
        Fault::in_chain(&error.unwrap_err()),
        Some(Fault::CheckViolation)
    );
}

/// Where the caller may be in a transaction that sqlx does not know of, no batch sets a timeout: it would last, and abort the transaction.
#[tokio::test]
async fn a_batch_in_a_transaction_begun_by_hand_leaves_its_settings() {
    let database = emails(3).await;
    let mut connection = database.connection().await;
    connection.execute("BEGIN").await.unwrap();
    let batch = Email::claim(&mut connection, 3).await.unwrap();
    let lost = Claimed::complete_many(&mut connection, batch).await;
    assert!(lost.unwrap().is_empty());
    let timeout: String = sqlx::query_scalar("SHOW lock_timeout")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(timeout, "0");
}

/// The nodes of the plan of a statement that was run, in a transaction that is rolled back: their types and tables, and how many rows each came to.
async fn rows_met(
    connection: &mut Connection,
    types: &str,
    sql: &str,
    values: &str,
) -> Vec<(Value, f64)> {
    let prepare = format!("BEGIN; PREPARE it {types} AS {sql}");
    let prepare = sqlx::raw_sql(AssertSqlSafe(prepare));
    connection.execute(prepare).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE it {values}");
    let explain = sqlx::raw_sql(AssertSqlSafe(explain));
    let explained: Value = connection.fetch_one(explain).await.unwrap().get(0);
    let finish = "DEALLOCATE it; ROLLBACK";
    connection.execute(finish).await.unwrap();
    let of = |node: &Value| {
        let seen = [
            "Actual Rows",
            "Rows Removed by Filter",
            "Rows Removed by Index Recheck",
        ];
        let seen: f64 = seen.iter().filter_map(|name| node[name].as_f64()).sum();
        (node.clone(), seen * node["Actual Loops"].as_f64().unwrap())
    };
    nodes(&explained[0]["Plan"]).into_iter().map(of).collect()
}

/// How many rows of `emails` a statement reads.
async fn rows_read(connection: &mut Connection, types: &str, sql: &str, values: &str) -> f64 {
    let met = rows_met(connection, types, sql, values).await.into_iter();
    let of_table = met.filter(|(node, _)| {
        node["Relation Name"] == "emails" && node["Node Type"] != "ModifyTable"
    });
    of_table.map(|(_, rows)| rows).sum()
}

const PLANS: [&str; 2] = [
    "SET plan_cache_mode = force_custom_plan",
    "SET plan_cache_mode = force_generic_plan",
];

/// A thousand rows run, and the statistics are from a moment when none did.
async fn running_unexpected() -> Database {
    let database = emails(0).await;
    run(
        &database.pool,
        "ALTER TABLE emails SET (autovacuum_enabled = off);
         INSERT INTO emails (priority) SELECT 0 FROM generate_series(1, 10000);
         ANALYZE emails;
         UPDATE emails SET state = 'running' WHERE id <= 1000",
    )
    .await;
    database
}

/// A statement about a large batch that asks for the keys as that about a small one does.
fn asks_for_keys(sql: &str) -> String {
    let returning = " RETURNING \"rowlock_row\".\"id\"";
    let by_key = <Email as QueueSql<Postgres>>::BY_KEY;
    sql.replace(returning, &format!("{by_key}{returning}"))
}

/// A thousand rows of a batch were compared with each of the batch: where statistics expect no row to run, and in a large table where the keys
/// were asked for as well.
#[tokio::test]
async fn a_batch_compares_each_row_with_one() {
    let state = "\"rowlock_row\".\"state\" = 'running'";
    let unknown = format!("CASE WHEN {state} THEN true END");
    let large = emails(0).await;
    let rows = "INSERT INTO emails (priority) SELECT 0 FROM generate_series(1, 100000);
         UPDATE emails SET state = 'running' WHERE id <= 1000";
    run(&large.pool, rows.to_owned()).await;
    run(&large.pool, "VACUUM ANALYZE emails".to_owned()).await;
    for (database, known, most, least_naive) in [
        (running_unexpected().await, state, 10_000.0, 1_000_000.0),
        // Which it may read once.
        (large, &unknown, 100_000.0, 400_000.0),
    ] {
        let mut connection = database.connection().await;
        let mut naive = 0.0;
        for mode in PLANS {
            connection.execute(mode).await.unwrap();
            let mut batches = about_rows(1000);
            batches.retain(|(types, ..)| types.starts_with("(bigint[]"));
            for (types, sql, values) in batches {
                let met_by = async |connection: &mut Connection, sql: &str| {
                    let met = rows_met(connection, &types, sql, &values).await;
                    met.into_iter().map(|(_, rows)| rows).fold(0.0, f64::max)
                };
                let met = met_by(&mut connection, &sql).await;
                assert!(met <= most, "{met} rows: {sql}");
                let sql = asks_for_keys(&sql);
                let sql = sql.replace(&unknown, known);
                naive = met_by(&mut connection, &sql).await.max(naive);
            }
        }
        assert!(naive >= least_naive, "{naive}");
    }
}

/// A worker that had claimed 1,000 rows and began them one by one read all of them each time.
#[tokio::test]
async fn a_batch_reads_its_own_rows_whatever_else_runs() {
    let database = running_unexpected().await;
    let mut connection = database.connection().await;
    let own = " AND \"rowlock_row\".\"id\" = ANY ($1)";
    let state = "\"rowlock_row\".\"state\" = 'running'";
    let mut naive = 0.0;
    for mode in PLANS {
        connection.execute(mode).await.unwrap();
        let mut batches = about_rows(8);
        batches.retain(|(types, ..)| types.starts_with("(bigint[]"));
        for (types, sql, values) in batches {
            // To find which rows hold, to lock them, to write them.
            let read = rows_read(&mut connection, &types, &sql, &values).await;
            assert!((8.0..=24.0).contains(&read), "{read} rows: {sql}");
            let sql = sql.replace(own, "");
            let sql = sql.replace(&format!("CASE WHEN {state} THEN true END"), state);
            naive += rows_read(&mut connection, &types, &sql, &values).await;
        }
    }
    assert!(naive > 4.0 * 1000.0, "{naive}");
}

/// The share of heap-only updates among the heartbeats of 3,000 rows.
async fn heap_only(connection: &mut Connection) -> f64 {
    let mut batch = Email::claim(&mut *connection, 3_000).await.unwrap();
    for _ in 0..4 {
        let lost = Claimed::extend_many(&mut *connection, &mut batch, MINUTE).await;
        assert!(lost.unwrap().is_empty());
    }
    let sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'emails'";
    let deadline = Instant::now() + MINUTE;
    loop {
        // The server counts up to a second later. A claim is never heap-only: it changes an index.
        let counts: (i64, i64) = sqlx::query_as(sql)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        if counts.0 == 15_000 {
            return counts.1 as f64 / 12_000.0;
        }
        assert!(Instant::now() < deadline, "{counts:?}");
    }
}

/// A heartbeat changes no index, and finds room on its page. With an index on the lease it never does.
#[tokio::test]
async fn heartbeats_are_heap_only_updates() {
    // Elsewhere other tests have transactions open, because of which nothing can be pruned.
    let Some(server) = Server::start_another() else {
        return;
    };
    let pool = PoolOptions::new().max_connections(1);
    let pool = pool.connect(&server.url()).await.unwrap();
    for (twin, share) in [
        ("", 0.9..=1.0),
        ("CREATE INDEX ON emails (leased_until)", 0.0..=0.1),
    ] {
        let tables = [
            "DROP TABLE IF EXISTS emails",
            &ddl(EMAILS),
            Email::ddl::<Postgres>(),
            Email::storage_ddl(),
            twin,
        ];
        run(&pool, tables.join(";")).await;
        add(&pool, 3_000).await;
        let found = heap_only(&mut pool.acquire().await.unwrap()).await;
        assert!(share.contains(&found), "{found} {twin}");
    }
}

/// PostgreSQL cuts names at 63 bytes. The columns are called like nobody's, and the model is for PostgreSQL alone.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(
    table = "jobs_of_the_night_with_a_name_that_is_almost_but_not_too_long",
    backend(Postgres)
)]
struct Job {
    #[rowlock(key)]
    #[sqlx(rename = "the \"key\"")]
    id: String,
    #[rowlock(filter)]
    tenant: i32,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    #[sqlx(rename = "order")]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i64,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

#[tokio::test]
async fn a_long_name_has_all_its_indexes_and_ddl_can_be_run_again() {
    let database = database(
        "CREATE TABLE jobs_of_the_night_with_a_name_that_is_almost_but_not_too_long (\"the \"\"key\"\"\" varchar(20) PRIMARY KEY,
            tenant int NOT NULL, run_at timestamptz NOT NULL, \"order\" text NOT NULL, attempts bigint NOT NULL,
            fence bigint NOT NULL, leased_until timestamptz);
         INSERT INTO jobs_of_the_night_with_a_name_that_is_almost_but_not_too_long
            VALUES ('a', 1, now(), 'ready', 0, 0), ('b', 2, now(), 'ready', 0, 0)",
    )
    .await;
    let pool = &database.pool;
    for _ in 0..2 {
        run(pool, Job::ddl::<Postgres>()).await;
        let sql = "SELECT count(*) FROM pg_indexes WHERE schemaname = current_schema() AND indexname LIKE '%rowlock%'";
        let indexes: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
        assert_eq!(indexes, 4);
    }
    let mut batch = Job::claim(pool, 5).only(Job::TENANT, 2).await.unwrap();
    assert_eq!(
        Claimed::extend_many(pool, &mut batch, MINUTE)
            .await
            .unwrap()
            .len(),
        0
    );
    let job = batch.remove(0);
    assert_eq!((job.id.as_str(), job.tenant, job.attempts), ("b", 2, 1));
    assert_eq!(
        (job.state, job.leased_until.is_some()),
        (QueueState::Running, true)
    );
    job.retry_after(pool, "no", NOW).await.unwrap();
    let batch = Job::claim(pool, 5).await.unwrap();
    assert!(batch[0].run_at < batch[1].run_at);
    assert_eq!(Claimed::complete_many(pool, batch).await.unwrap().len(), 0);
}
