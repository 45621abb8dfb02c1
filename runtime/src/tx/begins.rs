//! What a transaction can begin on.

use std::future::Future;
use std::sync::Arc;

use sqlx::Pool;

use super::run::Work;
use super::{TransactionBuilder, TransactionError, Tx, inside};
use crate::db::Backend;
use crate::db::lanes::Lanes;

/// What [`transaction`](crate::transaction) and the generated `once` begin on: a `&Pool`, or a `&mut rowlock::Tx`, whose part the work then is.
///
/// A service that takes `impl Begins` begins its own transaction on a pool, and a test can pass it a [`Tx`] and roll back:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::raw_sql("CREATE TABLE names (name text PRIMARY KEY)").execute(&pool).await?;
/// use rowlock::Tx;
/// use rowlock::tx::{Begins, TransactionError};
/// use sqlx::Sqlite;
///
/// async fn sign_up(
///     db: impl Begins<Database = Sqlite>,
///     name: &str,
/// ) -> Result<(), TransactionError<sqlx::Error>> {
///     rowlock::transaction(db)
///         .run(async |tx| {
///             sqlx::query("INSERT INTO names VALUES ($1)").bind(name).execute(&mut *tx).await?;
///             Ok(())
///         })
///         .await
/// }
///
/// sign_up(&pool, "ann").await?;
///
/// let mut tx = Tx::from(pool.begin().await?);
/// sign_up(&mut tx, "ben").await?;
/// tx.rollback().await?;
///
/// let names: Vec<String> = sqlx::query_scalar("SELECT name FROM names").fetch_all(&pool).await?;
/// assert_eq!(names, ["ann"]);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that a transaction can begin on",
    label = "expected a pool of PostgreSQL or SQLite, or a transaction of rowlock",
    note = "pass `&pool`, or inside a transaction the `&mut *tx` of its `rowlock::Tx`",
    note = "a transaction of sqlx becomes one of rowlock by `rowlock::Tx::from(pool.begin().await?)`"
)]
pub trait Begins: sealed::Sealed + Send {
    /// The database.
    type Database: Backend;
    #[doc(hidden)]
    type Place: Place<Self::Database>;
    #[doc(hidden)]
    fn place(self) -> Self::Place;
}

/// Nothing is coerced to what a trait asks for, so that what would be a `&Pool` as an argument has to be one here.
macro_rules! pool {
    ($($pool:ty),*) => {$(
        #[diagnostic::do_not_recommend]
        impl<DB: Backend> Begins for $pool {
            type Database = DB;
            type Place = Pool<DB>;
            fn place(self) -> Pool<DB> {
                Pool::clone(self)
            }
        }

        impl<DB: Backend> sealed::Sealed for $pool {}
    )*};
}
pool!(&Pool<DB>, &&Pool<DB>, &mut Pool<DB>, &Arc<Pool<DB>>);

/// On another connection of the pool: a transaction that kept a lane would stop the calls that it makes others wait for.
#[diagnostic::do_not_recommend]
impl<DB: Backend> Begins for &Lanes<DB> {
    type Database = DB;
    type Place = Pool<DB>;
    fn place(self) -> Pool<DB> {
        self.pool().clone()
    }
}

#[diagnostic::do_not_recommend]
impl<DB: Backend> Begins for &mut Tx<DB> {
    type Database = DB;
    type Place = Self;
    fn place(self) -> Self {
        self
    }
}

/// Where a transaction runs.
#[doc(hidden)]
pub trait Place<DB: Backend>: Send + Sized {
    fn run_work<W: Work<DB>>(
        builder: &mut TransactionBuilder<DB, Self>,
        work: &W,
    ) -> impl Future<Output = Result<W::Output, TransactionError<W::Error>>> + Send;
}

impl<DB: Backend> Place<DB> for Pool<DB> {
    fn run_work<W: Work<DB>>(
        builder: &mut TransactionBuilder<DB>,
        work: &W,
    ) -> impl Future<Output = Result<W::Output, TransactionError<W::Error>>> + Send {
        builder.run_work(work)
    }
}

impl<DB: Backend> Place<DB> for &mut Tx<DB> {
    fn run_work<W: Work<DB>>(
        builder: &mut TransactionBuilder<DB, Self>,
        work: &W,
    ) -> impl Future<Output = Result<W::Output, TransactionError<W::Error>>> + Send {
        inside::run(builder, work)
    }
}

mod sealed {
    pub trait Sealed {}
    impl<DB: super::Backend> Sealed for &mut super::Tx<DB> {}
    impl<DB: super::Backend> Sealed for &crate::db::lanes::Lanes<DB> {}
}
