//! What of many new rows only PostgreSQL has: one statement for all, locks, triggers, arrays.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rowlock::row::{CreateError, FoundOrCreated, UpsertError};
use rowlock::{Fault, FindOrCreate};
use rowlock_tests::proxy::Proxy;
use sqlx::{Connection as _, Executor};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Pool, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "numbers", unique(number), backend(Postgres))]
struct Number {
    #[rowlock(key, generated)]
    id: i64,
    number: i64,
    value: i64,
}

const NUMBERS: &str =
    "CREATE TABLE numbers (id {id}, number bigint NOT NULL UNIQUE, value bigint NOT NULL)";

fn number(number: i64) -> NewNumber {
    NewNumber {
        number,
        value: number,
    }
}

async fn count(pool: &Pool) -> i64 {
    let sql = "SELECT count(*) FROM numbers";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// As many round trips for a thousand rows as for one: one to find, one to create.
#[tokio::test]
async fn a_thousand_rows_are_two_round_trips() {
    let database = database(NUMBERS).await;
    let proxy = Proxy::start(&super::address()).await;
    let pool = database
        .pool_through(&proxy, PoolOptions::new().max_connections(1))
        .await;
    let mut connection = pool.acquire().await.unwrap();
    Number::find_or_create_many(&mut *connection, [-1, -2].map(number)).await;
    Number::find_or_create_many(&mut *connection, [-1, -2].map(number)).await;
    for (expected, created) in [(2, true), (1, false)] {
        proxy.reset();
        let outcomes = Number::find_or_create_many(&mut *connection, (1..=1000).map(number)).await;
        assert_eq!(proxy.round_trips(), expected);
        for (number, outcome) in (1..).zip(outcomes) {
            let outcome = outcome.unwrap();
            assert_eq!((outcome.number, outcome.is_created()), (number, created));
        }
    }
    Number::upsert_many(&mut *connection, [-1, -2].map(number)).await;
    proxy.reset();
    let outcomes = Number::upsert_many(&mut *connection, (500..=1499).map(number)).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let outcomes = Number::create_many(&mut *connection, (1000..=1999).map(number)).await;
    let created = outcomes
        .iter()
        .filter(|row| matches!(row, Ok(Some(_))))
        .count();
    assert_eq!((created, proxy.round_trips()), (500, 2));
}

#[tokio::test]
async fn more_than_one_statement_has_room_for() {
    let database = database(NUMBERS).await;
    let pool = &database.pool;
    let outcomes = Number::upsert_many(pool, (1..=2500).rev().map(number)).await;
    for (number, outcome) in (1..=2500).rev().zip(outcomes) {
        assert_eq!(outcome.unwrap().number, number);
    }
    assert_eq!(count(pool).await, 2500);
}

/// Calls that give the same keys in different orders: no deadlock, and each row has one creator.
#[tokio::test]
async fn a_race_creates_each_row_once() {
    const TASKS: usize = 6;
    let database = database(NUMBERS).await;
    let barrier = Arc::new(Barrier::new(TASKS));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS as i64 {
        let (pool, barrier) = (database.pool.clone(), barrier.clone());
        tasks.spawn(async move {
            let mut created = 0;
            for round in 0..12 {
                let mut numbers: Vec<i64> = (0..60).map(|n| round * 60 + n).collect();
                numbers.rotate_left(task as usize * 9);
                if task % 2 == 1 {
                    numbers.reverse();
                }
                barrier.wait().await;
                if task == 5 {
                    let upserted =
                        Number::upsert_many(&pool, numbers.into_iter().map(number)).await;
                    assert!(upserted.iter().all(Result::is_ok), "{upserted:?}");
                    continue;
                }
                let found = Number::find_or_create_many(&pool, numbers.iter().copied().map(number));
                for (number, row) in numbers.iter().zip(found.await) {
                    let row = row.unwrap();
                    assert_eq!(row.number, *number);
                    created += i64::from(row.is_created());
                }
            }
            created
        });
    }
    let created: i64 = tasks.join_all().await.into_iter().sum();
    assert_eq!(count(&database.pool).await, 720);
    assert!(created <= 720);
}

/// Without an order, two of these would wait for each other. The naive twin writes as it is given.
#[tokio::test]
async fn rows_are_written_in_the_order_of_their_keys() {
    for naive in [true, false] {
        let database = database(NUMBERS).await;
        let mut holder = database.connection().await;
        let mut holding = holder.begin().await.unwrap();
        holding
            .execute("INSERT INTO numbers (number, value) VALUES (50, 0)")
            .await
            .unwrap();
        let pool = database.pool.clone();
        let waiting = tokio::spawn(async move {
            if naive {
                let sql = "INSERT INTO numbers (number, value) SELECT n, n FROM unnest($1::bigint[]) AS n ON CONFLICT (number) DO NOTHING";
                let numbers: Vec<i64> = (1..=100).rev().collect();
                sqlx::query(sql).bind(numbers).execute(&pool).await.unwrap();
                return;
            }
            let created = Number::create_many(&pool, (1..=100).rev().map(number)).await;
            assert!(created.iter().all(Result::is_ok));
        });
        database.until_blocked().await;
        // Whoever inserts a key that the one who waits has written waits too.
        let mut other = database.connection().await;
        let free = async |connection: &mut super::Connection, number: i64| {
            let mut tx = connection.begin().await.unwrap();
            tx.execute("SET LOCAL lock_timeout = '50ms'").await.unwrap();
            let sql = "INSERT INTO numbers (number, value) VALUES ($1, 0)";
            let inserted = sqlx::query(sql).bind(number).execute(&mut *tx).await;
            tx.rollback().await.unwrap();
            inserted.is_ok()
        };
        assert_eq!(free(&mut other, 20).await, naive);
        assert_eq!(free(&mut other, 80).await, !naive);
        holding.rollback().await.unwrap();
        waiting.await.unwrap();
        assert_eq!(count(&database.pool).await, 100);
    }
}

/// A key that is taken by a transaction that has not ended: the call waits for its end.
#[tokio::test]
async fn the_end_of_another_transaction_is_waited_for() {
    for commits in [true, false] {
        let database = database(NUMBERS).await;
        let mut holder = database.connection().await;
        let mut holding = holder.begin().await.unwrap();
        holding
            .execute("INSERT INTO numbers (number, value) VALUES (2, 77)")
            .await
            .unwrap();
        let pool = database.pool.clone();
        let waiting =
            tokio::spawn(
                async move { Number::find_or_create_many(&pool, (1..=3).map(number)).await },
            );
        database.until_blocked().await;
        if commits {
            holding.commit().await.unwrap();
        } else {
            holding.rollback().await.unwrap();
        }
        let outcomes = waiting.await.unwrap();
        let [
            Ok(FoundOrCreated::Created(_)),
            Ok(second),
            Ok(FoundOrCreated::Created(_)),
        ] = outcomes.as_slice()
        else {
            panic!("{outcomes:?}");
        };
        assert_eq!(
            (second.is_created(), second.value),
            (!commits, if commits { 77 } else { 2 })
        );
    }
}

/// A trigger that gives a row another key, and one that drops it: the statement about many does not know whose row it wrote, and writes nothing.
#[tokio::test]
async fn a_trigger_that_changes_the_key() {
    let database = database(
        "CREATE TABLE numbers (id {id}, number bigint NOT NULL UNIQUE, value bigint NOT NULL);
         CREATE FUNCTION changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.number = 5 THEN NEW.number := 500; END IF;
             IF NEW.number = 6 THEN RETURN NULL; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER changes BEFORE INSERT ON numbers FOR EACH ROW EXECUTE FUNCTION changed()",
    )
    .await;
    let pool = &database.pool;
    let created = Number::create_many(pool, (1..=8).map(number)).await;
    let created: Vec<Option<i64>> = created
        .into_iter()
        .map(|row| Some(row.unwrap()?.number))
        .collect();
    let expected = [
        Some(1),
        Some(2),
        Some(3),
        Some(4),
        Some(500),
        None,
        Some(7),
        Some(8),
    ];
    assert_eq!(created, expected);
    assert_eq!(count(pool).await, 7);
    let upserted = Number::upsert_many(pool, [4, 6, 8].map(number)).await;
    assert!(
        matches!(upserted[..], [Ok(_), Err(UpsertError::Ignored(_)), Ok(_)]),
        "{upserted:?}"
    );
}

/// A trigger waits for locks as long as the session does, also one that goes on without what it should have done.
#[tokio::test]
async fn a_trigger_that_catches_a_timeout() {
    let database = database(
        "CREATE TABLE numbers (id {id}, number bigint NOT NULL UNIQUE, value bigint NOT NULL);
         CREATE TABLE notes (count bigint NOT NULL); INSERT INTO notes VALUES (0);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             BEGIN UPDATE notes SET count = count + 1; EXCEPTION WHEN OTHERS THEN RAISE WARNING 'not noted'; END;
             RETURN NULL;
         END $$;
         CREATE TRIGGER note AFTER INSERT ON numbers FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    holding
        .execute("SELECT FROM notes FOR UPDATE")
        .await
        .unwrap();
    let pool = database.pool.clone();
    let mut writing =
        tokio::spawn(async move { Number::upsert_many(&pool, (1..=3).map(number)).await });
    database.until_blocked().await;
    let early = tokio::time::timeout(Duration::from_millis(200), &mut writing).await;
    assert!(early.is_err(), "the trigger gave up");
    holding.commit().await.unwrap();
    assert!(writing.await.unwrap().iter().all(Result::is_ok));
    let noted = sqlx::query_scalar("SELECT count FROM notes");
    let noted: i64 = noted.fetch_one(&database.pool).await.unwrap();
    assert_eq!(noted, 3);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(
    table = "drafts",
    unique(author, where = "NOT closed"),
    backend(Postgres)
)]
struct Draft {
    author: i64,
    closed: bool,
}

/// A trigger that gives a row another one's key, where the index does not have it: it is not taken for the other one.
#[tokio::test]
async fn a_trigger_that_takes_a_row_out_of_the_index() {
    let database = database(
        "CREATE TABLE drafts (author bigint NOT NULL, closed boolean NOT NULL);
         CREATE UNIQUE INDEX one_draft ON drafts (author) WHERE NOT closed;
         CREATE FUNCTION closes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.author = 5 THEN NEW.author := 7; NEW.closed := true; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER closes BEFORE INSERT ON drafts FOR EACH ROW EXECUTE FUNCTION closes()",
    )
    .await;
    let pool = &database.pool;
    let draft = |author| NewDraft {
        author,
        closed: false,
    };
    let created = Draft::create_many(pool, [5, 6, 7].map(draft)).await;
    let created = created.into_iter().map(|row| row.unwrap().unwrap());
    let created: Vec<_> = created.map(|row| (row.author, row.closed)).collect();
    assert_eq!(created, [(7, true), (6, false), (7, false)]);
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM drafts")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(there, 3);
}

/// Keys that a trigger makes one: ON CONFLICT writes no row twice. And a trigger that drops the first row of a key.
#[tokio::test]
async fn keys_that_are_one_only_after_a_trigger() {
    let database = database(
        "CREATE TABLE numbers (id {id}, number bigint NOT NULL UNIQUE, value bigint NOT NULL);
         CREATE FUNCTION rounded() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.value = 13 THEN RETURN NULL; END IF;
             NEW.number := NEW.number - NEW.number % 10;
             RETURN NEW;
         END $$;
         CREATE TRIGGER rounds BEFORE INSERT ON numbers FOR EACH ROW EXECUTE FUNCTION rounded()",
    )
    .await;
    let pool = &database.pool;
    let upserted = Number::upsert_many(pool, [10, 11, 90].map(number)).await;
    let upserted: Vec<_> = upserted.into_iter().map(Result::unwrap).collect();
    let found: Vec<_> = upserted.iter().map(|row| (row.number, row.value)).collect();
    assert_eq!(found, [(10, 10), (10, 11), (90, 90)]);

    let new = |number, value| NewNumber { number, value };
    let created =
        Number::create_many(pool, [new(20, 13), new(20, 8), new(30, 1), new(20, 9)]).await;
    let created: Vec<_> = created.into_iter().map(Result::unwrap).collect();
    let found: Vec<_> = created
        .iter()
        .map(|row| row.as_ref().map(|row| row.value))
        .collect();
    assert_eq!(found, [None, Some(8), Some(1), None]);
}

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(type_name = "point_of_new")]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "pins", unique(name), backend(Postgres))]
struct Pin {
    name: String,
    place: Point,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "labelled", unique(name), backend(Postgres))]
struct Labelled {
    name: String,
    labels: Vec<String>,
}

/// PostgreSQL has no arrays of arrays, and `unnest` makes a column of each part of a composite type: such rows go one by one.
#[tokio::test]
async fn columns_that_are_not_some_of_many() {
    let database = database(
        "CREATE TYPE point_of_new AS (x integer, y integer);
         CREATE TABLE pins (name text PRIMARY KEY, place point_of_new NOT NULL);
         CREATE TABLE labelled (name text PRIMARY KEY, labels text[] NOT NULL)",
    )
    .await;
    let pool = &database.pool;
    let pins = ["a", "b"].map(|name| NewPin {
        name: name.to_owned(),
        place: Point { x: 1, y: 2 },
    });
    for in_transaction in [true, false] {
        if in_transaction {
            let mut tx = pool.begin().await.unwrap();
            let upserted = Pin::upsert_many(&mut *tx, pins.clone()).await;
            assert!(upserted.iter().all(Result::is_ok), "{upserted:?}");
            tx.commit().await.unwrap();
        } else {
            let upserted = Pin::upsert_many(pool, pins.clone()).await;
            assert_eq!(upserted[1].as_ref().unwrap().place.y, 2);
        }
    }
    let labelled = ["a", "b"].map(|name| NewLabelled {
        name: name.to_owned(),
        labels: vec![name.to_owned()],
    });
    let created = Labelled::create_many(pool, labelled).await;
    assert_eq!(created[1].as_ref().unwrap().as_ref().unwrap().labels, ["b"]);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "invoices", unique(code), backend(Postgres))]
struct Invoice {
    code: String,
    #[rowlock(default)]
    total: Option<f64>,
    kind: Option<String>,
}

/// A key whose column compares blanks as nothing, keys that only the database calls equal, columns of other names and types.
#[tokio::test]
async fn keys_are_compared_as_their_column_compares_them() {
    let database = database(
        "CREATE TABLE invoices (code char(3) PRIMARY KEY, total double precision DEFAULT 1.5, kind varchar(5))",
    )
    .await;
    let pool = &database.pool;
    let invoice = |code: &str, kind: Option<&str>| NewInvoice {
        code: code.to_owned(),
        kind: kind.map(str::to_owned),
    };
    let new = [
        invoice("a", None),
        invoice("a ", Some("x")),
        invoice("b", Some("too long")),
        invoice("c  ", Some("y")),
    ];
    let outcomes = Invoice::find_or_create_many(pool, new).await;
    let [
        Ok(FoundOrCreated::Created(a)),
        Ok(FoundOrCreated::Found(again)),
        Err(error),
        Ok(FoundOrCreated::Created(c)),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!((a, a.code.as_str()), (again, "a  "));
    assert_eq!((c.kind.as_deref(), c.total), (Some("y"), Some(1.5)));
    assert!(error.to_string().contains("22001"), "{error}");
    let new = [invoice("a", Some("1")), invoice("a  ", Some("2"))];
    let outcomes = Invoice::upsert_many(pool, new).await;
    let kinds = outcomes.into_iter().map(|row| row.unwrap().kind.unwrap());
    assert_eq!(kinds.collect::<Vec<_>>(), ["1", "2"]);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "labels", unique(label), backend(Postgres))]
struct Label {
    label: String,
    note: i32,
}

async fn each<R>(new: impl Iterator<Item = NewLabel>, one: impl AsyncFn(NewLabel) -> R) -> Vec<R> {
    let mut outcomes = Vec::new();
    for new in new {
        outcomes.push(one(new).await);
    }
    outcomes
}

/// The outcomes of one of both.
async fn told<R: Debug>(
    at_once: bool,
    many: impl Future<Output = Vec<R>>,
    each: impl AsyncFnOnce() -> Vec<R>,
) -> Vec<String> {
    let outcomes = match at_once {
        true => many.await,
        false => each().await,
    };
    outcomes
        .iter()
        .map(|outcome| format!("{outcome:?}").replace("_many", ""))
        .collect()
}

/// Whatever the column makes of a text, and whatever texts are one to it: as in a loop, also where some of the keys are taken.
#[tokio::test]
async fn texts_are_told_apart_as_their_column_does() {
    const COLUMNS: [&str; 8] = [
        "text",
        "varchar(3)",
        "char(3)",
        "name",
        "short",
        "public.citext",
        "text COLLATE blind",
        "text COLLATE \"C\"",
    ];
    const GIVEN: [&[&str]; 6] = [
        &["b", "a", "C", "c", "d"],
        &["A", "a", "B", "b"],
        &["a", "a  ", "b ", "b"],
        &["b   ", "a  ", "B"],
        &["d", "c", "b", "a"],
        &["a", "b", "a"],
    ];
    for column in COLUMNS {
        let database = database(&format!(
            "BEGIN; SELECT pg_advisory_xact_lock(20260901); CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; COMMIT;
             CREATE DOMAIN short AS varchar(3); CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TABLE labels (label {column} NOT NULL UNIQUE, note integer NOT NULL)",
        ))
        .await;
        let pool = &database.pool;
        let taken = [&[][..], &["a"], &["C", "b"], &["B"]];
        let cases = GIVEN
            .iter()
            .flat_map(|given| (0..3).map(move |method| (given, method)));
        for ((given, method), taken) in cases.flat_map(|case| taken.map(|taken| (case, taken))) {
            let new = || {
                let notes = given.iter().zip(1..);
                notes.map(|(label, note)| NewLabel {
                    label: (*label).to_owned(),
                    note,
                })
            };
            let mut both = Vec::new();
            for at_once in [true, false] {
                pool.execute("TRUNCATE labels").await.unwrap();
                for label in taken {
                    let label = NewLabel {
                        label: (*label).to_owned(),
                        note: 0,
                    };
                    let _ = Label::create(pool, label).await;
                }
                let told = match method {
                    0 => {
                        told(at_once, Label::create_many(pool, new()), async || {
                            each(new(), async |new| Label::create(pool, new).await).await
                        })
                        .await
                    }
                    1 => {
                        told(
                            at_once,
                            Label::find_or_create_many(pool, new()),
                            async || {
                                each(new(), async |new| Label::find_or_create(pool, new).await)
                                    .await
                            },
                        )
                        .await
                    }
                    _ => {
                        told(at_once, Label::upsert_many(pool, new()), async || {
                            each(new(), async |new| Label::upsert(pool, new).await).await
                        })
                        .await
                    }
                };
                let stored = "SELECT label::text || ' ' || note FROM labels ORDER BY note";
                let stored: Vec<String> = sqlx::query_scalar(stored).fetch_all(pool).await.unwrap();
                both.push((told, stored));
            }
            assert_eq!(both[0], both[1], "{column} {given:?} {method} {taken:?}");
        }
    }
}

/// Who was created says the key, as wide as it was given.
#[tokio::test]
async fn a_key_column_of_another_width() {
    let database = database(
        "CREATE TABLE numbers (id {id}, number integer NOT NULL UNIQUE, value bigint NOT NULL);
         INSERT INTO numbers (number, value) VALUES (1, 0)",
    )
    .await;
    let outcomes = Number::create_many(&database.pool, [3, 1, 5].map(number)).await;
    let [
        Err(CreateError::Written(_)),
        Ok(None),
        Err(CreateError::Written(_)),
    ] = &*outcomes
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(count(&database.pool).await, 3);
}

/// Row security refuses one of the rows.
#[tokio::test]
async fn a_row_that_a_policy_refuses_hurts_no_other() {
    let database = database(NUMBERS).await;
    let mut connection = database.connection().await;
    let schema: String = sqlx::query_scalar("SELECT current_schema()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let role = format!("{schema}_few");
    // Roles belong to the whole server: drop it in the same transaction that creates it.
    let mut tx = connection.begin().await.unwrap();
    let setup = format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
         ALTER TABLE numbers ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON numbers USING (number < 3); SET LOCAL ROLE {role}"
    );
    tx.execute(sqlx::AssertSqlSafe(setup)).await.unwrap();
    let created = Number::create_many(&mut *tx, (1..=4).map(number)).await;
    let refused = created.iter().map(|row| match row {
        Ok(row) => row.is_none(),
        Err(error) => {
            assert!(error.to_string().contains("42501"), "{error}");
            true
        }
    });
    assert_eq!(refused.collect::<Vec<_>>(), [false, false, true, true]);
    tx.rollback().await.unwrap();
}

/// A connection that breaks before the answer: each row that was to be created says that it is unknown, and those that were found are found.
#[tokio::test]
async fn an_answer_that_is_lost() {
    let database = database(NUMBERS).await;
    Number::create(&database.pool, number(1)).await.unwrap();
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    holding
        .execute("INSERT INTO numbers (number, value) VALUES (3, 0)")
        .await
        .unwrap();
    let proxy = Proxy::start(&super::address()).await;
    let pool = database
        .pool_through(&proxy, PoolOptions::new().max_connections(1))
        .await;
    let through = pool.clone();
    let waiting =
        tokio::spawn(
            async move { Number::find_or_create_many(&through, (1..=4).map(number)).await },
        );
    database.until_blocked().await;
    proxy.cut().await;
    let outcomes = tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(outcomes[0], Ok(FoundOrCreated::Found(_))),
        "{outcomes:?}"
    );
    for (number, outcome) in (2..).zip(&outcomes[1..]) {
        let Err(rowlock::row::FindOrCreateError::Unknown(error)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.fault(), Fault::ConnectionLost);
        assert_eq!(error.operation().key(), format!("number = {number}"));
    }
    assert_eq!(outcomes.len(), 4);
}
