//! Batches of a counter on a table whose trigger drops single writes: all or none.

use rowlock::Counter;
use rowlock::row::CounterError;
use sqlx::Executor;

use super::{Database, NAME, Pool, database};

#[derive(Debug, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "counts")]
struct Count {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
    #[rowlock(counter(min = 0))]
    bounded: i64,
}

#[derive(Debug, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "counts", existing_rows)]
struct Existing {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
}

/// Rows 2 and 3, and a trigger before `event` that drops the writes of rows 1 and 2.
async fn counts(event: &'static str) -> Database {
    let database = database(
        "CREATE TABLE counts (id bigint PRIMARY KEY, free bigint NOT NULL, bounded bigint NOT NULL);
         INSERT INTO counts VALUES (2, 10, 10), (3, 10, 10)",
    )
    .await;
    let trigger = match (NAME, event) {
        ("PostgreSQL", "INSERT") => {
            "CREATE FUNCTION dropped() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN IF NEW.id < 3 THEN RETURN NULL; END IF; RETURN NEW; END';
             CREATE TRIGGER drops BEFORE INSERT ON counts FOR EACH ROW EXECUTE FUNCTION dropped()"
        }
        ("PostgreSQL", _) => {
            "CREATE FUNCTION dropped() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN IF NEW.id < 3 THEN RETURN NULL; END IF; RETURN NEW; END';
             CREATE TRIGGER drops BEFORE UPDATE ON counts FOR EACH ROW EXECUTE FUNCTION dropped()"
        }
        (_, "INSERT") => {
            "CREATE TRIGGER drops BEFORE INSERT ON counts WHEN NEW.id < 3 BEGIN SELECT RAISE(IGNORE); END"
        }
        _ => {
            "CREATE TRIGGER drops BEFORE UPDATE ON counts WHEN NEW.id < 3 BEGIN SELECT RAISE(IGNORE); END"
        }
    };
    database.pool.execute(trigger).await.unwrap();
    database
}

async fn rows(pool: &Pool) -> Vec<(i64, i64, i64)> {
    let select = sqlx::query_as("SELECT id, free, bounded FROM counts ORDER BY id");
    select.fetch_all(pool).await.unwrap()
}

fn contended<T: std::fmt::Debug>(outcome: &Result<T, CounterError>, batch: &[(i64, i64)]) {
    let is = matches!(outcome, Err(CounterError::Contended(_)));
    assert!(is, "{batch:?}: {outcome:?}");
}

const START: [(i64, i64, i64); 2] = [(2, 10, 10), (3, 10, 10)];

/// The first is dropped, or the only one, or one of those in the middle; and something is taken.
const BATCHES: [&[(i64, i64)]; 5] = [
    &[(2, 1), (3, 1), (4, 1)],
    &[(2, 1)],
    &[(2, -1), (3, 1)],
    &[(2, 1), (3, -1)],
    &[(2, 1), (3, 1), (5, -1)],
];

#[tokio::test]
async fn naive_twin_of_a_batch_that_is_dropped_in_part() {
    let database = counts("UPDATE").await;
    let sql = "INSERT INTO counts VALUES (2, 1, 0), (3, 1, 0) \
        ON CONFLICT (id) DO UPDATE SET free = counts.free + excluded.free RETURNING id";
    let added: Vec<i64> = sqlx::query_scalar(sql)
        .fetch_all(&database.pool)
        .await
        .unwrap();
    assert_eq!(added, [3]);
    assert_eq!(rows(&database.pool).await, [(2, 10, 10), (3, 11, 10)]);
}

#[tokio::test]
async fn a_batch_whose_rows_are_dropped_in_part_is_contended_and_not_written() {
    for event in ["UPDATE", "INSERT"] {
        let database = counts(event).await;
        let pool = &database.pool;
        for batch in BATCHES {
            // SQLite's upsert runs the trigger of the INSERT for a row that it updates.
            let batch: Vec<_> = match event {
                "INSERT" => batch
                    .iter()
                    .map(|(id, by)| (if *id == 2 { 1 } else { *id }, *by))
                    .collect(),
                _ => batch.to_vec(),
            };
            let added = Count::add_free_many(pool, batch.iter().copied()).await;
            contended(&added, &batch);
            assert_eq!(rows(pool).await, START, "{batch:?}");
            if event == "UPDATE" && batch.iter().all(|(id, _)| *id < 4) {
                let added = Existing::add_free_many(pool, batch.iter().copied()).await;
                contended(&added, &batch);
            }
            if batch.iter().all(|(_, by)| *by > 0) {
                let added = Count::add_bounded_many(pool, batch.iter().copied()).await;
                contended(&added, &batch);
            }
            assert_eq!(rows(pool).await, START, "{batch:?}");

            let mut tx = pool.begin().await.unwrap();
            let added = Count::add_free_many(&mut *tx, batch.iter().copied()).await;
            contended(&added, &batch);
            // On PostgreSQL it may be aborted, and then this rolls back.
            tx.commit().await.unwrap();
            assert_eq!(rows(pool).await, START, "{batch:?}");
        }
        let added = Count::add_free_many(pool, [(3, 1), (4, 1)]).await;
        assert_eq!(added.unwrap(), [(3, 11), (4, 1)], "{event}");
        let added = rowlock::transaction(pool)
            .run(async |tx| Count::add_free_many(&mut *tx, [(3, 1)]).await)
            .await;
        assert_eq!(added.unwrap(), [(3, 12)], "{event}");
    }
}
