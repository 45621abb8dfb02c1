//! What callers are told together must be what one after the other could have been told.

use rowlock::row::{CounterError, UpdateError};
use rowlock_tests::random::Random;

use super::*;

/// What one call was told.
#[derive(Debug)]
enum Told {
    Total(i32),
    Refused(Option<i64>),
    /// It was refused, and had room when it was looked at.
    Contended,
}

/// Additions of any size to one bounded counter. Whatever the order was, it can be found: each total follows from another by one call's delta, and
/// none is refused that had room at the time it was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_are_those_of_some_order() {
    for seed in 1..=12 {
        let mut random = Random::seeded(seed);
        let database = database(TABLES).await;
        let lanes = lanes_of(&database, 1 + random.below(3)).await;
        let deltas: Vec<i64> = (0..60)
            .map(|_| i64::try_from(random.below(700)).unwrap() - 300)
            .collect();
        let told = at_once(deltas.iter().map(|delta| {
            let (lanes, delta) = (lanes.clone(), *delta);
            async move {
                match Stock::add_units(&lanes, "ink", delta).await {
                    Ok(total) => Told::Total(total),
                    Err(CounterError::OutOfBounds(refusal)) => Told::Refused(refusal.current),
                    Err(CounterError::Contended(_)) => Told::Contended,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }))
        .await;
        // A walk over all that were accepted, from where it was to where it is now: an edge per call, from what it met to what it left.
        let mut degree = std::collections::BTreeMap::<i64, i64>::new();
        let mut sum = 0;
        for (told, delta) in told.iter().zip(&deltas) {
            match told {
                Told::Total(total) => {
                    let total = i64::from(*total);
                    assert!((0..=1000).contains(&total), "seed {seed}: {total}");
                    *degree.entry(total - delta).or_default() += 1;
                    *degree.entry(total).or_default() -= 1;
                    sum += delta;
                }
                Told::Contended => {}
                Told::Refused(current) => {
                    let current = current.expect("the row is there");
                    assert!(
                        !(0..=1000).contains(&(current + delta)),
                        "seed {seed}: {current}, {delta}"
                    );
                }
            }
        }
        let there = number(
            &database.pool,
            "SELECT CAST(units AS bigint) FROM stock WHERE sku = 'ink'",
        )
        .await;
        assert_eq!(there, sum, "seed {seed}");
        *degree.entry(0).or_default() -= 1;
        *degree.entry(there).or_default() += 1;
        assert!(
            degree.values().all(|degree| *degree == 0),
            "seed {seed}: {told:?}"
        );
    }
}

/// Callers who each read, change and write what they find: of each version one has won, and all changes of those are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost() {
    for seed in 1..=6 {
        let mut random = Random::seeded(seed);
        let database = database(TABLES).await;
        let lanes = lanes_of(&database, 1 + random.below(3)).await;
        let rows = 1 + i64::try_from(random.below(5)).unwrap();
        let wins = at_once((0..40).map(|caller: i64| {
            let lanes = lanes.clone();
            async move {
                let mut wins = Vec::new();
                for round in 0..8 {
                    let mut document = Document::load(&lanes, 1 + (caller + round) % rows)
                        .await
                        .unwrap();
                    document.tags.push(format!("{caller} {round}"));
                    match document.update(&lanes).await {
                        Ok(updated) => {
                            wins.push((updated.id, updated.version, format!("{caller} {round}")))
                        }
                        Err(UpdateError::Stale(conflict)) => {
                            assert!(conflict.current.version > document.version)
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
                wins
            }
        }))
        .await;
        let mut wins: Vec<_> = wins.into_iter().flatten().collect();
        wins.sort_unstable();
        for id in 1..=rows {
            let document = Document::load(&database.pool, id).await.unwrap();
            let of_row: Vec<_> = wins.iter().filter(|(row, _, _)| *row == id).collect();
            let versions: Vec<_> = of_row.iter().map(|(_, version, _)| *version).collect();
            assert_eq!(
                versions,
                (1..=document.version).collect::<Vec<_>>(),
                "seed {seed}"
            );
            let tags: Vec<_> = of_row.iter().map(|(_, _, tag)| tag.clone()).collect();
            assert_eq!(document.tags, tags, "seed {seed}");
        }
    }
}
