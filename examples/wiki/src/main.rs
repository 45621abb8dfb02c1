//! A wiki where two people edit one page.
//!
//! ```text
//! cargo run -p rowlock-wiki                                SQLite, in a file in the directory for temporary files
//! DATABASE_URL=postgres://… cargo run -p rowlock-wiki      PostgreSQL
//! ```
//!
//! The README beside this crate walks through it. `app/` is the application, written as for one database: `sqlite.rs` and
//! `postgres.rs` each compile it. A program with one database needs no such thing.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod config;
mod draft;
mod html;
mod http;
mod merge;
mod metrics;
mod model;
mod postgres;
mod sqlite;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, Database};
use crate::metrics::Numbers;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .init();
    let config = Config::from_env()?;
    let numbers = Numbers::default();
    ::metrics::set_global_recorder(numbers.clone()).context("there is a recorder already")?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let stop = stop_signal()?;
    match config.database {
        Database::Postgres(to) => {
            postgres::app::run(to, listener, numbers, config.report_every, stop).await
        }
        Database::Sqlite(to) => {
            sqlite::app::run(to, listener, numbers, config.report_every, stop).await
        }
    }
}

/// Becomes `true` at Ctrl-C or SIGTERM.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(stopped)
}
