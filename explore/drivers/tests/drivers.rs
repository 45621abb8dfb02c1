//! One lost update through four drivers and from other processes: found in as many schedules.

#![allow(missing_docs)]

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use diesel::prelude::*;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use rowlock_explore::{Actor, Ended, Explorer};
use rowlock_tests::postgres;
use sea_orm::entity::prelude::*;
use sea_orm::{ActiveModelTrait, Database, IntoActiveModel, Set, TransactionTrait};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

/// What sqlx has: these drivers send the same requests.
const EVERY_ORDER: (u64, u64) = (40, 50);
/// After reduction.
const REDUCED: (u64, u64) = (8, 10);

/// Two buyers of a stock of five: in how many schedules one is lost, of how many.
async fn explore<E, F>(buy: fn(Actor) -> F, every_order: bool) -> (u64, u64)
where
    E: Debug + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
{
    let explorer = Explorer::new(postgres::fresh_url().await)
        .max_time(Duration::from_secs(600))
        .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL)")
        .setup("DELETE FROM products; INSERT INTO products VALUES (1, 5)")
        .actor("ann", buy)
        .actor("bob", buy)
        .never("SELECT stock FROM products WHERE stock <> 3")
        .invariant(|ended: Ended<Result<(), E>>| async move {
            let returned = format!("{:?}", ended.outcomes);
            let both = ended.returned().filter(|result| result.is_ok()).count() == 2;
            both.then_some(()).ok_or(returned)
        })
        .count_failures();
    let explorer = if every_order {
        explorer.exhaustive()
    } else {
        explorer
    };
    let failure = explorer.explore().await.unwrap().assert_failed();
    println!("{failure}");
    assert!(failure.why.starts_with("there is a row"), "{}", failure.why);
    assert_eq!(failure.anomaly(), "lost update");
    (failure.coverage.failing, failure.coverage.schedules)
}

async fn with_sqlx(actor: Actor) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(actor.url()).await?;
    let mut tx = connection.begin().await?;
    let stock: i32 = sqlx::query_scalar("SELECT stock FROM products WHERE id = $1")
        .bind(1)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query("UPDATE products SET stock = $1 WHERE id = $2")
        .bind(stock - 1)
        .bind(1)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    connection.close().await
}

#[tokio::test]
async fn sqlx() {
    assert_eq!(explore(with_sqlx, true).await, EVERY_ORDER);
    assert_eq!(explore(with_sqlx, false).await, REDUCED);
}

async fn with_tokio_postgres(actor: Actor) -> Result<(), tokio_postgres::Error> {
    let (mut client, connection) =
        tokio_postgres::connect(actor.url(), tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    rowlock_explore_drivers::buy(&mut client).await?;
    drop(client);
    connection.await.expect("the connection does not panic")
}

#[tokio::test]
async fn tokio_postgres() {
    assert_eq!(explore(with_tokio_postgres, true).await, EVERY_ORDER);
    assert_eq!(explore(with_tokio_postgres, false).await, REDUCED);
}

diesel::table! {
    products (id) {
        id -> Integer,
        stock -> Integer,
    }
}

/// It begins each session with two `SET`, which are requests too; they touch nothing, and the reduction leaves their orders out.
async fn with_diesel(actor: Actor) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut connection = AsyncPgConnection::establish(actor.url()).await?;
    connection
        .transaction(async |connection| {
            let product = products::table.find(1);
            let stock: i32 = product.select(products::stock).first(connection).await?;
            diesel::update(product)
                .set(products::stock.eq(stock - 1))
                .execute(connection)
                .await
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn diesel_async() {
    assert_eq!(explore(with_diesel, false).await, REDUCED);
}

mod product {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "products")]
    pub(super) struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        pub stock: i32,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub(super) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

async fn with_sea_orm(actor: Actor) -> Result<(), DbErr> {
    let db = Database::connect(actor.url()).await?;
    let tx = db.begin().await?;
    let product = product::Entity::find_by_id(1).one(&tx).await?;
    let product = product.ok_or_else(|| DbErr::RecordNotFound("product 1".to_owned()))?;
    let stock = product.stock - 1;
    let mut product = product.into_active_model();
    product.stock = Set(stock);
    product.update(&tx).await?;
    tx.commit().await?;
    db.close().await
}

#[tokio::test]
async fn sea_orm() {
    assert_eq!(explore(with_sea_orm, true).await, EVERY_ORDER);
    assert_eq!(explore(with_sea_orm, false).await, REDUCED);
}

/// Another process, in any language: it gets the URL.
async fn in_a_process(actor: Actor) -> io::Result<()> {
    let status = Command::new(env!("CARGO_BIN_EXE_buyer"))
        .arg(actor.url())
        .kill_on_drop(true)
        .status()
        .await?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(status.to_string()))
    }
}

#[tokio::test]
async fn processes() {
    assert_eq!(explore(in_a_process, true).await, EVERY_ORDER);
    assert_eq!(explore(in_a_process, false).await, REDUCED);
}
