//! The contenders on PostgreSQL.

mod diesel;
mod sea_orm;
mod toasty;
mod tokio_postgres;

use std::time::Duration;

use rowlock::Lanes;
use rowlock_tests::postgres::{address, database};
use rowlock_tests::proxy::Proxy;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};

use self::diesel::Diesel;
use self::sea_orm::SeaOrm;
use self::toasty::Toasty;
use self::tokio_postgres::{Pipelined, Pooled};
use crate::by_hand::ByHand;
use crate::harness::{CONNECTIONS, Contender, Operation, Peer, Totals, tables};

pub(crate) const NAME: &str = "PostgreSQL";

/// The first is what the others are compared with.
pub(crate) async fn contenders(proxy: Option<&Proxy>) -> Vec<Contender> {
    vec![
        contender("sqlx pool", proxy, async |to| {
            by_hand(pool(to, eight()).await)
        })
        .await,
        contender("sqlx pool, no ping", proxy, async |to| {
            by_hand(pool(to, no_ping()).await)
        })
        .await,
        contender("rowlock, pool", proxy, async |to| pool(to, no_ping()).await).await,
        contender("rowlock, Lanes", proxy, async |to| {
            Lanes::new(&pool(to, eight()).await, 4).await.unwrap()
        })
        .await,
        contender("tokio-postgres, deadpool", proxy, async |to| {
            Pooled::new(url(&to).parse().unwrap())
        })
        .await,
        contender("tokio-postgres, pipelined", proxy, async |to| {
            Pipelined::new(url(&to).parse().unwrap()).await
        })
        .await,
        contender("diesel-async", proxy, async |to| Diesel::new(&url(&to))).await,
        contender("sea-orm", proxy, async |to| {
            SeaOrm::new(pool(to, no_ping()).await)
        })
        .await,
        contender("toasty", proxy, async |to| Toasty::new(&url(&to)).await).await,
    ]
}

/// Prints how many round trips a call is, with one caller, and how many statements are prepared for it.
pub(crate) async fn round_trips() {
    let proxy = Proxy::start(&address()).await;
    println!("| | round trips per call | statements prepared per call |");
    println!("|---|---|---|");
    for contender in contenders(Some(&proxy)).await {
        for operation in Operation::ALL {
            // All connections have prepared their statements after it.
            contender
                .slice(operation, 8, Duration::from_millis(200))
                .await;
            proxy.reset();
            let slice = contender
                .slice(operation, 1, Duration::from_millis(500))
                .await;
            // Before an update each caller loads its documents.
            let calls = slice.calls as f64;
            let (trips, statements) = (
                proxy.round_trips() as f64 / calls,
                proxy.statements() as f64 / calls,
            );
            println!(
                "| {}, {} | {trips:.1} | {statements:.1} |",
                contender.name,
                operation.name()
            );
        }
    }
}

/// With tables of its own, so that nobody waits for the dead rows of another.
async fn contender<P: Peer>(
    name: &'static str,
    proxy: Option<&Proxy>,
    peer: impl AsyncFnOnce(PgConnectOptions) -> P,
) -> Contender {
    let database = database(&tables("bigint PRIMARY KEY", "WITH (fillfactor = 50)")).await;
    let to = database.options().ssl_mode(PgSslMode::Disable);
    let to = match proxy {
        Some(proxy) => to.host("127.0.0.1").port(proxy.port()),
        None => to,
    };
    let peer = peer(to).await;
    let pool = database.pool;
    Contender::new(name, peer, move || {
        let pool = pool.clone();
        async move {
            let totals = sqlx::query_as::<_, Totals>(Totals::QUERY);
            totals.fetch_one(&pool).await.unwrap()
        }
    })
}

fn by_hand(pool: PgPool) -> ByHand<sqlx::Postgres> {
    ByHand {
        writer: pool.clone(),
        readers: pool,
    }
}

fn eight() -> PgPoolOptions {
    PgPoolOptions::new()
        .min_connections(CONNECTIONS)
        .max_connections(CONNECTIONS)
}

/// Gives a connection without asking it whether it is alive. After its use sqlx pings it in any case.
fn no_ping() -> PgPoolOptions {
    eight().test_before_acquire(false)
}

async fn pool(to: PgConnectOptions, options: PgPoolOptions) -> PgPool {
    options.connect_with(to).await.unwrap()
}

/// For drivers other than sqlx.
fn url(to: &PgConnectOptions) -> String {
    format!(
        "postgres://{}@{}:{}/{}?sslmode=disable&options={}",
        to.get_username(),
        to.get_host(),
        to.get_port(),
        to.get_database().unwrap(),
        to.get_options()
            .unwrap()
            .replace(' ', "%20")
            .replace('=', "%3D"),
    )
}
