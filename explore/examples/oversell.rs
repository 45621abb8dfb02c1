//! A shop sells its last lamp twice: found, shown, mended and proven, in ordinary sqlx.
//!
//! ```console
//! $ DATABASE_URL=postgres://postgres@localhost/postgres cargo run -p rowlock-explore --example oversell
//! ```
//!
//! With `-- --svg` the picture is written to a file of the temporary directory.

use std::error::Error;
use std::{env, fs};

use rowlock_explore::{Actor, Database, Explorer, Verdict};
use sqlx::{Connection, PgConnection};

/// Is there one, and is it ours? Read, compared, written.
async fn buy(actor: Actor) -> sqlx::Result<bool> {
    let mut connection = PgConnection::connect(actor.url()).await?;
    let mut tx = connection.begin().await?;
    let select = "SELECT stock FROM products WHERE id = 7";
    let stock: i32 = sqlx::query_scalar(select).fetch_one(&mut *tx).await?;
    if stock > 0 {
        let update = "UPDATE products SET stock = stock - 1 WHERE id = 7";
        sqlx::query(update).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    connection.close().await?;
    Ok(stock > 0)
}

/// The database compares, on the row that it writes.
async fn buy_if_there_is_one(actor: Actor) -> sqlx::Result<bool> {
    let mut connection = PgConnection::connect(actor.url()).await?;
    let mut tx = connection.begin().await?;
    let update = "UPDATE products SET stock = stock - 1 WHERE id = 7 AND stock > 0";
    let bought = sqlx::query(update).execute(&mut *tx).await?;
    tx.commit().await?;
    connection.close().await?;
    Ok(bought.rows_affected() == 1)
}

/// One lamp, two buyers.
fn shop<F>(database: &Database, buy: fn(Actor) -> F) -> Explorer<sqlx::Result<bool>>
where
    F: Future<Output = sqlx::Result<bool>> + Send + 'static,
{
    Explorer::new(database.url())
        .schema("CREATE TABLE IF NOT EXISTS products (id int PRIMARY KEY, stock int NOT NULL)")
        .setup("DELETE FROM products; INSERT INTO products VALUES (7, 1)")
        .actor("ann", buy)
        .actor("bob", buy)
        .never("SELECT stock FROM products WHERE stock <> 0")
        .invariant(|ended| async move {
            let bought = ended.returned().filter(|bought| matches!(bought, Ok(true)));
            match bought.count() {
                1 => Ok(()),
                count => Err(format!("{count} have bought the one lamp")),
            }
        })
}

async fn explore(database: &Database) -> Result<(), Box<dyn Error>> {
    let verdict = shop(database, buy).explore().await?;
    println!("{verdict}\n");
    let failure = verdict.failure().ok_or("by hand: no schedule oversells")?;
    if env::args().any(|argument| argument == "--svg") {
        let file = env::temp_dir().join("oversell.svg");
        fs::write(&file, failure.svg())?;
        println!("as a picture: {}\n", file.display());
    }

    // For a regression test: that one schedule, in milliseconds.
    let again = shop(database, buy)
        .replay(&failure.schedule)
        .explore()
        .await?;
    again
        .failure()
        .ok_or("replayed, the schedule is another one")?;

    // Every order of requests, not only those that differ.
    let mended = shop(database, buy_if_there_is_one).exhaustive();
    let mended = mended.explore().await?;
    println!("mended: {mended}");
    match mended {
        Verdict::Passed(_) => Ok(()),
        _ => Err("mended, it is not proven".into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = env::var("DATABASE_URL")
        .map_err(|_| "DATABASE_URL is not set: the URL of a PostgreSQL server on which databases can be created")?;
    let database = Database::create(server).await?;
    let explored = explore(&database).await;
    database.remove().await?;
    explored
}
