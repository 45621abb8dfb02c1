//! Savepoints of a `Tx` where sqlx has no buffer for what is sent to its thread, so that what a dropped future sends can be lost.

use super::savepoints::{DDL, leave_it_as_it_was};
use super::{PoolOptions, database};

#[tokio::test]
async fn a_dropped_savepoint_is_undone_without_a_buffer_too() {
    let database = database(DDL).await;
    let options = database.options().command_buffer_size(0);
    let pool = PoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap();
    leave_it_as_it_was(&database, &pool).await;
}
