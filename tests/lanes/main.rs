//! `Lanes`: connections that are kept, and calls that wait for each other.
//!
//! `postgres.rs` and `sqlite.rs` each include the files of tests that their database can show; a file finds `Db`, `database()` and so on in `super`.

#![allow(missing_docs, clippy::duplicate_mod)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

mod postgres;
mod sqlite;

use std::future::Future;

use rowlock::{Counter, FindOrCreate, Versioned};
use tokio::task::JoinSet;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "stock")]
struct Stock {
    #[rowlock(key)]
    sku: String,
    #[rowlock(counter(min = 0, max = 1000))]
    units: i32,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
struct Document {
    #[rowlock(key)]
    id: i64,
    title: String,
    body: Option<String>,
    #[sqlx(json)]
    tags: Vec<String>,
    #[rowlock(version)]
    version: i32,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "labels")]
struct Label {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(unique)]
    name: String,
}

/// Runs them at once, and returns what each returned.
async fn at_once<F>(calls: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (call, number) in calls.into_iter().zip(0..) {
        tasks.spawn(async move { (number, call.await) });
    }
    let mut outputs = tasks.join_all().await;
    outputs.sort_by_key(|(number, _): &(i32, _)| *number);
    outputs.into_iter().map(|(_, output)| output).collect()
}

/// The same while somebody has the lane: none is served before all have been called.
async fn behind<L, F>(lane: L, calls: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let given_back = async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(lane);
    };
    tokio::join!(at_once(calls), given_back).0
}
