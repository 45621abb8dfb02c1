//! What each of the calls gets that one statement has served, on each database.

use rowlock::row::{CounterError, FoundOrCreated, LoadError, UpdateError};
use rowlock::{Counter, Fault, Fence, Versioned};

use super::*;

/// 64 callers, each of whom is told a total of its own. The naive twin runs on a pool, a statement each.
#[tokio::test]
async fn additions_to_one_row_are_few_statements() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let add = |page| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, page, 1).await.unwrap() }
    };
    let lane = lanes.acquire().await.unwrap();
    let mut totals = behind(lane, (0..64).map(|_| add(7))).await;
    totals.sort_unstable();
    assert_eq!(totals, (1..=64).collect::<Vec<_>>());
    let folded = statements(&database.pool).await;
    assert!(folded < 10, "{folded} statements");

    at_once((0..64).map(|_| {
        let pool = database.pool.clone();
        async move { PageViews::add_views(&pool, 7, 1).await.unwrap() }
    }))
    .await;
    assert_eq!(statements(&database.pool).await, folded + 64);
}

/// As if one after the other: exactly so many go in, and the others are told what was there.
#[tokio::test]
async fn a_bound_hits_the_calls_that_are_too_many() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let outcomes = at_once((0..64).map(|_| {
        let lanes = lanes.clone();
        async move { Stock::add_units(&lanes, "ink", 30).await }
    }));
    let (mut totals, mut refused) = (Vec::new(), 0);
    for outcome in outcomes.await {
        match outcome {
            Ok(total) => totals.push(total),
            Err(CounterError::OutOfBounds(refusal)) => {
                assert_eq!(refusal.operation.key(), "sku = …");
                assert_eq!((refusal.delta, refusal.current), (30, Some(990)));
                refused += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    totals.sort_unstable();
    assert_eq!(totals, (1..=33).map(|n| n * 30).collect::<Vec<_>>());
    assert_eq!(refused, 31);
}

/// The same where all of them would have room in an empty row, and in a full one: what is there counts.
#[tokio::test]
async fn a_bound_that_is_near_hits_the_calls_that_are_too_many() {
    for (start, delta) in [(985, 4), (15, -4)] {
        let database = database(TABLES).await;
        let lanes = lanes_of(&database, 1).await;
        Stock::add_units(&lanes, "ink", start).await.unwrap();
        let calls = (0..9).map(|_| {
            let lanes = lanes.clone();
            async move { Stock::add_units(&lanes, "ink", delta).await }
        });
        let (mut totals, mut refused) = (Vec::new(), 0);
        for outcome in behind(lanes.acquire().await.unwrap(), calls).await {
            match outcome {
                Ok(total) => totals.push(i64::from(total)),
                Err(CounterError::OutOfBounds(_)) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        totals.sort_unstable_by_key(|total| total * delta);
        let expected: Vec<_> = (1..=3).map(|n| start + n * delta).collect();
        assert_eq!((totals, refused), (expected, 6));
    }
}

#[tokio::test]
async fn rows_that_are_missing_are_created_once() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let mut totals = at_once((0..64).map(|n| {
        let lanes = lanes.clone();
        async move {
            PageViews::add_views(&lanes, 1_000 + n % 4, 1)
                .await
                .unwrap()
        }
    }))
    .await;
    totals.sort_unstable();
    let expected: Vec<_> = (1..=16).flat_map(|total| [total; 4]).collect();
    assert_eq!(totals, expected);
}

/// A row that the database refuses is no matter for those beside it.
#[tokio::test]
async fn a_refused_row_fails_alone() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 1).await;
    let outcomes = at_once((1..=64).map(|id| {
        let lanes = lanes.clone();
        async move {
            let mut document = Document::load(&lanes, id).await.unwrap();
            let title = if id == 40 { "refused" } else { "new" };
            title.clone_into(&mut document.title);
            document.update(&lanes).await
        }
    }))
    .await;
    for (outcome, id) in outcomes.into_iter().zip(1..) {
        match outcome {
            Ok(updated) => assert_eq!((updated.id, updated.version), (id, 1)),
            Err(UpdateError::Database(error)) => {
                assert_eq!(id, 40);
                assert_eq!(error.fault(), Fault::CheckViolation);
                assert_eq!(
                    error.operation().to_string(),
                    "update of documents (id = 40)"
                );
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    let written = "SELECT count(*) FROM documents WHERE title = 'new' AND version = 1";
    assert_eq!(number(&database.pool, written).await, 63);
}

/// Of many who write the same version one wins, and the others see what that one wrote.
#[tokio::test]
async fn of_equal_versions_one_wins() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let document = Document::load(&lanes, 5).await.unwrap();
    // The first has the lane to itself.
    let first = Document::load(&lanes, 6).await.unwrap();
    let mine = (0..64).map(|n| {
        let mut mine = document.clone();
        mine.body = Some(n.to_string());
        mine.tags.push(n.to_string());
        mine
    });
    let calls = std::iter::once(first).chain(mine).map(|mine| {
        let lanes = lanes.clone();
        async move { mine.update(&lanes).await }
    });
    let mut outcomes = behind(lanes.acquire().await.unwrap(), calls).await;
    outcomes.remove(0).unwrap();
    let winners: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().ok())
        .collect();
    let [winner] = winners.as_slice() else {
        panic!("{} winners", winners.len());
    };
    for outcome in &outcomes {
        match outcome {
            Ok(updated) => assert_eq!(updated.version, 1),
            Err(UpdateError::Stale(conflict)) => assert_eq!(&conflict.current, *winner),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(statements(&database.pool).await < 64 + 10);
}

#[tokio::test]
async fn found_or_created_one_row_each() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let outcomes = at_once((0..64).map(|n| {
        let lanes = lanes.clone();
        let name = format!("label {}", n % 4);
        async move {
            Label::find_or_create(&lanes, NewLabel { name })
                .await
                .unwrap()
        }
    }))
    .await;
    let created = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, FoundOrCreated::Created(_)));
    assert_eq!(created.count(), 4);
    for (outcome, n) in outcomes.iter().zip(0..) {
        let (FoundOrCreated::Found(label) | FoundOrCreated::Created(label)) = outcome;
        assert_eq!(label.name, format!("label {}", n % 4));
    }
    assert_eq!(
        number(&database.pool, "SELECT count(*) FROM labels").await,
        4
    );
    let found = at_once((0..64).map(|n| {
        let lanes = lanes.clone();
        async move {
            Label::find_by_name(&lanes, &format!("label {}", n % 8))
                .await
                .unwrap()
        }
    }));
    for (found, n) in found.await.into_iter().zip(0..) {
        assert_eq!(
            found.map(|label| label.name),
            (n % 8 < 4).then(|| format!("label {}", n % 8))
        );
    }
}

/// A caller sees what it has written itself, whatever statement reads for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_reads_what_it_wrote() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 3).await;
    let callers = at_once((1..=32).map(|id| {
        let lanes = lanes.clone();
        async move {
            let mut document = Document::load(&lanes, id).await.unwrap();
            for round in 1..=20 {
                document.title = format!("round {round}");
                document = document.update(&lanes).await.unwrap();
                // Others load the same row at the same time.
                let read = Document::load(&lanes, id).await.unwrap();
                assert_eq!(read, document);
                let other = Document::load(&lanes, id % 32 + 1).await.unwrap();
                assert_eq!(other.id, id % 32 + 1);
            }
        }
    }));
    callers.await;
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "reports")]
struct Report {
    #[rowlock(key)]
    id: i64,
    body: String,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(version)]
    version: i64,
}

/// A row that has seen a later fence is not written, and those beside it are, with the fence of their writers.
#[tokio::test]
async fn a_fence_holds_for_its_row() {
    let database = database(&format!(
        "{TABLES}; CREATE TABLE reports (id bigint PRIMARY KEY, body text NOT NULL, fence bigint NOT NULL, version bigint NOT NULL);
         INSERT INTO reports SELECT n, '', 7, 0 FROM numbers WHERE n <= 40"
    ))
    .await;
    let lanes = lanes_of(&database, 1).await;
    let mut rows = Vec::new();
    for id in 1..=40 {
        rows.push(Report::load(&lanes, id).await.unwrap());
    }
    // The version stays: nobody else shows.
    let others = "UPDATE reports SET fence = CASE WHEN id % 4 = 0 THEN 9 ELSE 5 END";
    sqlx::raw_sql(others).execute(&database.pool).await.unwrap();
    let outcomes = at_once(rows.into_iter().map(|row| {
        let lanes = lanes.clone();
        let row = Report {
            body: "mine".to_owned(),
            ..row
        };
        async move { row.update(&lanes).await }
    }));
    for (outcome, id) in outcomes.await.into_iter().zip(1..) {
        match outcome {
            Ok(updated) => assert!(id % 4 != 0 && updated.version == 1, "{id}"),
            Err(UpdateError::Fenced(..)) => assert!(id % 4 == 0, "{id}"),
            Err(error) => panic!("{error:?}"),
        }
    }
    let mine = "SELECT count(*) FROM reports WHERE body = 'mine' AND fence = 7";
    assert_eq!(number(&database.pool, mine).await, 30);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter)]
#[rowlock(table = "twice", existing_rows)]
struct Twice {
    #[rowlock(key)]
    id: i64,
    body: String,
    #[rowlock(counter)]
    times: i64,
    #[rowlock(version)]
    version: i64,
}

/// What the model calls a key is not unique: nothing is written there, and what is beside it is.
#[tokio::test]
async fn a_key_that_is_there_twice_is_not_written() {
    let database = database(&format!(
        "{TABLES}; CREATE TABLE twice (id bigint NOT NULL, body text NOT NULL, times bigint NOT NULL, version bigint NOT NULL);
         INSERT INTO twice SELECT n, '', 0, 0 FROM numbers WHERE n <= 40;
         INSERT INTO twice SELECT n, '', 0, 0 FROM numbers WHERE n <= 40 AND n % 4 = 0"
    ))
    .await;
    let lanes = lanes_of(&database, 1).await;
    let outcomes = at_once((1..=40).map(|id| {
        let lanes = lanes.clone();
        async move {
            let added = Twice::add_times(&lanes, id, 1).await;
            let body = "mine".to_owned();
            let row = Twice {
                id,
                body,
                times: 0,
                version: 0,
            };
            (
                added,
                row.update(&lanes).await,
                Twice::load(&lanes, id).await,
            )
        }
    }));
    for (outcome, id) in outcomes.await.into_iter().zip(1..) {
        match outcome {
            (Ok(1), Ok(_), Ok(_)) => assert!(id % 4 != 0, "{id}"),
            (
                Err(CounterError::NotUnique(_)),
                Err(UpdateError::NotUnique(_)),
                Err(LoadError::NotUnique(_)),
            ) => {
                assert!(id % 4 == 0, "{id}");
            }
            outcome => panic!("{outcome:?}"),
        }
    }
    let written = "SELECT count(*) FROM twice WHERE body = 'mine' AND times = 1 AND version = 1";
    assert_eq!(number(&database.pool, written).await, 30);
    let untouched = "SELECT count(*) FROM twice WHERE body = '' AND times = 0 AND version = 0";
    assert_eq!(number(&database.pool, untouched).await, 20);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "hits")]
struct Hits {
    #[rowlock(key)]
    site: String,
    #[rowlock(key)]
    path: String,
    #[rowlock(counter)]
    times: i64,
}

/// The parts of a key are told apart: `a`, `bc` is not `ab`, `c`.
#[tokio::test]
async fn keys_of_several_columns_are_not_run_together() {
    let database = database(
        "CREATE TABLE hits (site text, path text, times bigint NOT NULL, PRIMARY KEY (site, path));
         INSERT INTO hits VALUES ('a', 'bc', 0), ('ab', 'c', 0), ('abc', '', 0), ('', 'abc', 0)",
    )
    .await;
    let lanes = lanes_of(&database, 1).await;
    let keys = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc")];
    at_once((0..40).map(|n| {
        let (lanes, (site, path)) = (lanes.clone(), keys[n % 4]);
        async move { Hits::add_times(&lanes, (site, path), 1).await.unwrap() }
    }))
    .await;
    for key in keys {
        let row = Hits::get(&database.pool, key).await.unwrap().unwrap();
        assert_eq!(row.times, 10, "{key:?}");
    }
}
