//! What a method cannot run on.

use rowlock::{Counter, Lanes};

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views", backend(Postgres))]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

async fn lanes_by_value(lanes: Lanes<sqlx::Postgres>) {
    let _ = PageViews::add_views(lanes, 7, 1).await;
}

async fn lanes_of_another_database(lanes: &Lanes<sqlx::Sqlite>) {
    let _ = PageViews::add_views(lanes, 7, 1).await;
}

async fn a_lane(lanes: &Lanes<sqlx::Postgres>) {
    let lane = lanes.acquire().await.unwrap();
    let _ = PageViews::add_views(&lane, 7, 1).await;
}

fn main() {}
