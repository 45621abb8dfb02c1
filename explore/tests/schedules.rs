//! What the explorer is known to find, in numbers that were counted before.

use rowlock_explore::{Actor, Explorer};
use rowlock_tests::postgres;
use sqlx::{Connection, PgConnection};

type Result<T> = std::result::Result<T, sqlx::Error>;

fn stock(url: &str) -> Explorer<Result<()>> {
    Explorer::new(url)
        .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL)")
        .setup("DELETE FROM products; INSERT INTO products VALUES (1, 5)")
}

async fn read_modify_write(actor: Actor) -> Result<()> {
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
async fn read_modify_write_loses_in_40_of_50_schedules() {
    let url = postgres::fresh_url().await;
    let verdict = stock(&url)
        .actor("ann", read_modify_write)
        .actor("bob", read_modify_write)
        .never("SELECT stock FROM products WHERE stock <> 3")
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = verdict.assert_failed();
    assert_eq!(
        (failure.coverage.schedules, failure.coverage.failing),
        (50, 40)
    );
}

#[tokio::test]
async fn the_same_is_found_with_fewer_schedules() {
    let verdict = stock(&postgres::fresh_url().await)
        .actor("ann", read_modify_write)
        .actor("bob", read_modify_write)
        .never("SELECT stock FROM products WHERE stock <> 3")
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = verdict.assert_failed();
    assert_eq!(failure.anomaly(), "lost update");
    println!("{}", failure.coverage);
}

#[tokio::test]
async fn three_actors_with_four_requests_each() {
    let verdict = stock(&postgres::fresh_url().await)
        .actor("ann", read_modify_write)
        .actor("bob", read_modify_write)
        .actor("cal", read_modify_write)
        .never("SELECT stock FROM products WHERE stock <> 2")
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = verdict.assert_failed();
    println!("{}", failure.coverage);
}
