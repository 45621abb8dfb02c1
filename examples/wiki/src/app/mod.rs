//! The application, on the database of the module around it.

mod api;
mod edits;
mod jobs;
mod pages;

use std::future::IntoFuture;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use rowlock::Lanes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Db, MIGRATIONS, Options, Pool, PoolOptions};
use crate::http::Problem;
use crate::metrics::Numbers;
use crate::model::{MODELS, Notice, Page};

/// How long requests may go on after the signal to stop.
const LONGEST_REQUEST: Duration = Duration::from_secs(10);

/// What every request has. A clone is the same application.
#[derive(Clone)]
pub struct App {
    pool: Pool,
    /// For what many requests do at once to one row: they become one statement.
    lanes: Lanes<Db>,
    http: reqwest::Client,
    numbers: Numbers,
}

/// Serves until it is told to stop, and then ends what has begun.
pub async fn run(
    database: Options,
    listener: TcpListener,
    numbers: Numbers,
    report_every: Duration,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let app = App::open(database, numbers).await?;
    let jobs = tokio::spawn(jobs::run(app.clone(), report_every, stopped(stop.clone())));

    println!("http://{}", listener.local_addr()?);
    let routes = Router::new().merge(pages::routes()).merge(api::routes());
    let server = axum::serve(listener, routes.with_state(app.clone()))
        .with_graceful_shutdown(stopped(stop.clone()));
    tokio::select! {
        served = server.into_future() => served?,
        // A client that sends half of a request keeps no one for longer.
        () = async { stopped(stop).await; sleep(LONGEST_REQUEST).await } => {}
    }
    jobs.await??;
    app.lanes.close().await;
    app.pool.close().await;
    Ok(())
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender is gone only if the runtime is.
    _ = stop.wait_for(|stop| *stop).await;
}

impl App {
    /// Connects, brings the tables up to date, and compares them with the models.
    async fn open(database: Options, numbers: Numbers) -> anyhow::Result<Self> {
        let pool = PoolOptions::new()
            .max_connections(16)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(database)
            .await
            .context("cannot connect to the database")?;
        MIGRATIONS.run(&pool).await?;
        sqlx::raw_sql(Notice::ddl::<Db>()).execute(&pool).await?;
        rowlock::verify(&pool, MODELS).await?;
        let lanes = Lanes::new(&pool, 2).await?;
        let http = reqwest::Client::new();
        Ok(Self {
            pool,
            lanes,
            http,
            numbers,
        })
    }

    /// The page that is called so.
    async fn page(&self, slug: &str) -> Result<Page, Problem> {
        let page = Page::find_by_slug(&self.lanes, slug).await;
        page?.ok_or_else(Problem::not_found)
    }
}

fn slug_taken() -> Problem {
    Problem::new(StatusCode::CONFLICT, "There is a page of this name.")
}
