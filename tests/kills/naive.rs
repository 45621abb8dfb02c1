//! Lanes as they are easily written: additions that wait are one statement, and something about it is wrong.

use std::collections::BTreeMap;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use crate::Break;
use crate::history::Told;

/// One of its own, where the other is the sessions'.
#[derive(Debug, Clone, Copy)]
enum Mistake {
    Early,
    Again,
}

/// An addition to a page that waits.
struct Waiting {
    page: i64,
    delta: i64,
    told: oneshot::Sender<Told>,
}

#[derive(Debug, Clone)]
pub(crate) struct Naive(mpsc::UnboundedSender<Waiting>);

const ADD: &str = "INSERT INTO views AS old (page, times) SELECT * FROM unnest($1::bigint[], $2::bigint[]) ORDER BY 1
    ON CONFLICT (page) DO UPDATE SET times = old.times + excluded.times RETURNING page, times";

impl Naive {
    pub(crate) fn new(pool: &PgPool, breaks: Break) -> Option<Self> {
        let mistake = match breaks {
            Break::Early => Mistake::Early,
            Break::Again => Mistake::Again,
            Break::Lazy => return None,
        };
        let (sender, waiting) = mpsc::unbounded_channel();
        tokio::spawn(serve(pool.clone(), mistake, waiting));
        Some(Self(sender))
    }

    pub(crate) async fn add(&self, page: i64, delta: i64) -> Told {
        let (told, answer) = oneshot::channel();
        let waiting = Waiting { page, delta, told };
        match self.0.send(waiting) {
            Ok(()) => answer.await.unwrap_or(Told::Unknown),
            Err(_) => Told::Nothing,
        }
    }
}

async fn serve(pool: PgPool, mistake: Mistake, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    let mut calls = Vec::new();
    while waiting.recv_many(&mut calls, 1_000).await > 0 {
        let mut sums = BTreeMap::<i64, i64>::new();
        for call in &calls {
            *sums.entry(call.page).or_default() += call.delta;
        }
        let (pages, deltas): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
        let told = match mistake {
            Mistake::Early => early(&pool, &pages, &deltas, &mut calls).await,
            Mistake::Again => match add(&pool, &pages, &deltas).await {
                // The connection is lost, and another one will do it.
                Err(sqlx::Error::Io(_)) => add(&pool, &pages, &deltas).await,
                added => added,
            },
        };
        match told {
            Ok(totals) => answer(totals, &mut calls),
            Err(_) => {
                for call in calls.drain(..) {
                    let _ = call.told.send(Told::Unknown);
                }
            }
        }
    }
}

async fn add(pool: &PgPool, pages: &[i64], deltas: &[i64]) -> sqlx::Result<Vec<(i64, i64)>> {
    let add = sqlx::query_as(ADD).bind(pages).bind(deltas);
    add.fetch_all(pool).await
}

/// Answers when the statement has returned, and commits then.
async fn early(
    pool: &PgPool,
    pages: &[i64],
    deltas: &[i64],
    calls: &mut Vec<Waiting>,
) -> sqlx::Result<Vec<(i64, i64)>> {
    let mut transaction = pool.begin().await?;
    let add = sqlx::query_as(ADD).bind(pages).bind(deltas);
    answer(add.fetch_all(&mut *transaction).await?, calls);
    transaction.commit().await?;
    Ok(Vec::new())
}

/// Each gets a total of its own.
fn answer(totals: Vec<(i64, i64)>, calls: &mut Vec<Waiting>) {
    let mut totals: BTreeMap<i64, i64> = totals.into_iter().collect();
    for call in calls.drain(..).rev() {
        let told = totals.get_mut(&call.page).map(|total| {
            let told = *total;
            *total -= call.delta;
            Told::Total(told)
        });
        let _ = call.told.send(told.unwrap_or(Told::Unknown));
    }
}
