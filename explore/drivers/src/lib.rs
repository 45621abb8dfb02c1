//! What a buyer does, by hand and with tokio-postgres: for its test, and for the process `buyer`.

use tokio_postgres::{Client, Error};

/// Reads the stock, and writes one less.
///
/// # Errors
///
/// What the database says.
pub async fn buy(client: &mut Client) -> Result<(), Error> {
    let tx = client.transaction().await?;
    let select = "SELECT stock FROM products WHERE id = $1";
    let stock: i32 = tx.query_one(select, &[&1_i32]).await?.get(0);
    let update = "UPDATE products SET stock = $1 WHERE id = $2";
    tx.execute(update, &[&(stock - 1), &1_i32]).await?;
    tx.commit().await
}
