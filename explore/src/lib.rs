#![doc = include_str!("../README.md")]

mod actor;
mod admin;
mod anomaly;
mod connection;
mod database;
mod error;
mod explorer;
mod footprint;
mod relay;
mod run;
mod schedule;
mod search;
mod session;
mod story;
mod trace;
mod url;
mod verdict;
mod wire;

pub use actor::{Actor, Outcome};
pub use database::Database;
pub use error::Error;
pub use explorer::{Ended, Explorer};
/// ```no_run
/// use rowlock_explore::{Actor, Database, Explorer, Verdict};
/// use sqlx::{Connection, PgConnection};
///
/// async fn buy(actor: Actor) -> Result<(), sqlx::Error> {
///     let mut connection = PgConnection::connect(actor.url()).await?;
///     sqlx::raw_sql("UPDATE stock SET left_over = left_over - 1 WHERE left_over > 0").execute(&mut connection).await?;
///     connection.close().await
/// }
///
/// #[rowlock_explore::test]
/// async fn nothing_is_oversold(database: Database) -> Verdict {
///     let explorer = Explorer::new(database.url())
///         .schema("CREATE TABLE stock (left_over int NOT NULL)")
///         .setup("DELETE FROM stock; INSERT INTO stock VALUES (1)")
///         .actor("ann", buy)
///         .actor("bob", buy);
///     explorer.never("SELECT * FROM stock WHERE left_over < 0").explore().await.unwrap()
/// }
/// ```
pub use rowlock_explore_macros::test;
pub use trace::Fault;
pub use verdict::{Coverage, Failure, Verdict};

#[doc(hidden)]
pub mod __private {
    pub use crate::database::{Ends, IsDatabase, is_database, test, test_on};
}
