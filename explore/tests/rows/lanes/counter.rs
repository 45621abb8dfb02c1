//! `add` on lanes, with bounds and without.

use std::pin::Pin;

use rowlock::row::CounterError;
use rowlock::{Counter, Lanes};
use rowlock_explore::{Ended, Explorer};
use sqlx::{PgPool, Postgres};

use super::{
    COUNT, Calling, Calls, UNANSWERED, all_but_cancelled, as_known, calls, counted,
    not_without_reason, on_lanes,
};
use crate::{FAULTS, Known, digits, passed, wrong};

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i32,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "shows", existing_rows)]
struct Show {
    #[rowlock(key)]
    id: i32,
    #[rowlock(counter(min = 0))]
    seats: i64,
}

const VIEWS: &str = "CREATE TABLE page_views (page int PRIMARY KEY, views bigint NOT NULL)";
const SHOWS: &str = "CREATE TABLE shows (id int PRIMARY KEY, seats bigint NOT NULL)";

/// Each call adds another power of ten, in the order of the actors.
async fn views() -> Explorer<Calls<i64>> {
    let explorer = on_lanes(
        VIEWS,
        "DELETE FROM page_views; INSERT INTO page_views VALUES (1, 0)",
    )
    .await;
    explorer.invariant(|ended: Ended<Calls<i64>>| async move {
        let sum = ended.value("SELECT views FROM page_views").await?;
        let (calls, sum) = (calls(&ended)?, digits::<7>(sum.parse().unwrap()));
        as_known(&calls, &sum)?;
        // Each total has its own addition in it, and all that are in a lower one.
        let totals = calls.iter().enumerate();
        let totals = totals.filter_map(|(call, known)| Some((*known.done()?, call)));
        let mut totals: Vec<(i64, usize)> = totals.collect();
        totals.sort_unstable();
        let mut before = [0; 7];
        for (total, call) in totals {
            let added = digits::<7>(total.try_into().unwrap());
            let within =
                |less: &[u64; 7], more: &[u64; 7]| less.iter().zip(more).all(|(a, b)| a <= b);
            if !within(&before, &added) || !within(&added, &sum) || before[call] >= added[call] {
                return Err(format!("call {call} is told {total} after {before:?}"));
            }
            before = added;
        }
        Ok(())
    })
}

type Adding = Pin<Box<dyn Future<Output = Result<i64, CounterError>> + Send>>;

fn add(first: i64) -> impl Fn(Lanes<Postgres>, usize) -> Adding + Clone + Send + Sync {
    move |lanes, call| {
        let by = first * [1, 10, 100][call];
        Box::pin(async move { PageViews::add_views(&lanes, 1, by).await })
    }
}

fn add_alone(by: i64) -> impl Fn(PgPool) -> Adding + Clone + Send + Sync {
    move |pool| Box::pin(async move { PageViews::add_views(&pool, 1, by).await })
}

/// Two statements for three calls, whatever the other does meanwhile.
#[tokio::test]
async fn of_three_calls_two_are_one_statement() {
    let verdict = views()
        .await
        .schema(counted("page_views", 0))
        .setup(COUNT)
        .three("ann", add(1))
        .one("cal", add_alone(1_000))
        .never("SELECT last_value FROM statements WHERE last_value <> 3")
        .explore();
    passed(
        "Lanes: add, three times, against add",
        verdict.await.unwrap(),
    );
}

/// Whoever shares a statement that is cancelled is served without the others, and who has it alone is told.
#[tokio::test]
async fn a_statement_that_adds_is_cancelled() {
    for cancelled in 1..=3 {
        let verdict = views()
            .await
            .schema(counted("page_views", cancelled))
            .setup(COUNT)
            .three("ann", add(1))
            .one("cal", add_alone(1_000))
            .invariant(|ended: Ended<Calls<i64>>| async move { all_but_cancelled(&ended) })
            .explore();
        passed(
            "Lanes: add, three times, against add, one cancelled",
            verdict.await.unwrap(),
        );
    }
}

#[tokio::test]
async fn two_lanes_add() {
    let both = || async {
        views()
            .await
            .three("ann", add(1))
            .three("bob", add(1_000))
            .one("cal", add_alone(1_000_000))
            .invariant(|ended: Ended<Calls<i64>>| async move { not_without_reason(&ended) })
    };
    let verdict = both().await.explore();
    passed(
        "Lanes: add, three times on each of two, against add",
        verdict.await.unwrap(),
    );
    let verdict = both().await.faults(FAULTS).preemptions(0).explore();
    passed(
        "Lanes: add, three times on each of two, against add",
        verdict.await.unwrap(),
    );
}

/// Two of three calls are one statement, which goes to another connection if the first one breaks.
async fn again(pool: PgPool) -> Calls<i64> {
    let add = async |by: i64| {
        let update = "UPDATE page_views SET views = views + $1 WHERE page = 1 RETURNING views";
        sqlx::query_scalar(update).bind(by).fetch_one(&pool).await
    };
    let mut totals = Vec::new();
    for by in [1, 110] {
        totals.push(match add(by).await {
            Err(sqlx::Error::Io(_)) => add(by).await,
            added => added,
        });
    }
    let known = |total: &sqlx::Result<i64>, after: i64| match total {
        Ok(total) => Known::Done(total - after),
        Err(_) => Known::Unknown,
    };
    vec![
        known(&totals[0], 0),
        known(&totals[1], 100),
        known(&totals[1], 0),
    ]
}

#[tokio::test]
async fn by_hand_additions_are_made_again() {
    let verdict = views()
        .await
        .by_hand("ann", again)
        .one("cal", add_alone(1_000))
        .faults(FAULTS)
        .count_failures()
        .explore();
    wrong(
        "Lanes: additions sent again after an error of the network",
        verdict.await.unwrap(),
    );
}

/// What a call is told that had no room.
const BOUNDS: &str = "out of its bounds";

/// Four seats for seven calls.
async fn seats() -> Explorer<Calls<i64>> {
    let explorer = on_lanes(SHOWS, "DELETE FROM shows; INSERT INTO shows VALUES (1, 4)").await;
    explorer
        .never("SELECT seats FROM shows WHERE seats < 0")
        .invariant(|ended: Ended<Calls<i64>>| async move {
            let left: i64 = ended.value("SELECT seats FROM shows").await?.parse().unwrap();
            let calls = calls(&ended)?;
            let mut totals: Vec<i64> = calls.iter().filter_map(|known| known.done()).copied().collect();
            let unknown = calls.iter().filter(|known| matches!(known, Known::Unknown));
            let (done, unknown) = (totals.len() as i64, unknown.count() as i64);
            totals.sort_unstable();
            totals.dedup();
            if totals.len() as i64 != done || totals.iter().any(|total| !(left..4).contains(total)) {
                return Err(format!("{left} are left, and these are told: {calls:?}"));
            }
            if !(done..=done + unknown).contains(&(4 - left)) {
                return Err(format!("{left} are left, {done} have one, and {unknown} do not know"));
            }
            let refused = |known: &&&Known<i64>| matches!(known, Known::Not { why, .. } if why.contains(BOUNDS));
            let refused = calls.iter().filter(refused).count();
            match (left, refused, ended.faults.is_empty()) {
                (1.., 1.., _) => Err(format!("{left} are left, and {refused} are refused")),
                (1.., _, true) => Err(format!("{left} are left")),
                (_, refused, true) if refused as i64 + done != 7 => Err(format!("{calls:?}")),
                _ => Ok(()),
            }
        })
}

fn book(lanes: Lanes<Postgres>, _: usize) -> Adding {
    Box::pin(async move { Show::add_seats(&lanes, 1, -1).await })
}

async fn book_alone(pool: PgPool) -> Result<i64, CounterError> {
    Show::add_seats(&pool, 1, -1).await
}

#[tokio::test]
async fn two_lanes_add_within_bounds() {
    let both = || async {
        let explorer = seats().await.three("ann", book).three("bob", book);
        explorer.one("cal", book_alone)
    };
    let verdict = both().await.preemptions(1).explore();
    passed(
        "Lanes: add within bounds, three times on each of two, against add",
        verdict.await.unwrap(),
    );
    let verdict = both().await.faults(UNANSWERED).preemptions(0).explore();
    passed(
        "Lanes: add within bounds, three times on each of two, against add",
        verdict.await.unwrap(),
    );
}

/// Sees how many have room, and takes the seats of those.
async fn as_many_as_fit(pool: PgPool) -> Calls<i64> {
    let seats = "SELECT seats FROM shows WHERE id = 1";
    let seats: i64 = sqlx::query_scalar(seats).fetch_one(&pool).await.unwrap();
    let taken = seats.min(3);
    let update = sqlx::query("UPDATE shows SET seats = seats - $1 WHERE id = 1").bind(taken);
    update.execute(&pool).await.unwrap();
    let told = |call| match call <= taken {
        true => Known::Done(seats - call),
        false => Known::Not {
            conflict: false,
            why: BOUNDS.to_owned(),
        },
    };
    (1..=3).map(told).collect()
}

#[tokio::test]
async fn by_hand_the_bound_of_many_is_checked_before() {
    let verdict = seats()
        .await
        .by_hand("ann", as_many_as_fit)
        .by_hand("bob", as_many_as_fit)
        .one("cal", book_alone)
        .exhaustive()
        .count_failures()
        .explore();
    wrong(
        "Lanes: the bound of many checked by a SELECT",
        verdict.await.unwrap(),
    );
}
