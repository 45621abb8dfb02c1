//! `buyer URL`: buys one of product 1, as another process.

use tokio_postgres::{Error, NoTls};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or_default();
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    let connection = tokio::spawn(connection);
    rowlock_explore_drivers::buy(&mut client).await?;
    drop(client);
    connection.await.unwrap_or(Ok(()))
}
