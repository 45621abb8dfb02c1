//! The number that a lock's holder shows to the row it writes.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Type};

use crate::db::Backend;
use crate::db::error::{DatabaseError, KeyText, Operation};
use crate::db::source::{Opened, Source};
use crate::db::statement::Statement;

const SHORTEST_AGE: Duration = Duration::from_secs(60 * 60);

/// A fencing token: a number that grows with every holder of a lock.
///
/// A lock that ends by time cannot stop a holder that does not notice: a paused process wakes up and writes while another holder has the lock. A row
/// can stop it. The row remembers the greatest fence that wrote it, and the write says `WHERE fence <= $fence`: the paused holder's number is too
/// small, and its write changes nothing.
///
/// New fences come from a lock's guard (`rowlock::lock::redis::Guard::fence`, with the cargo feature `redis`) and from an attempt at an idempotent
/// request (`rowlock::idempotent::Running::fence`, feature `idempotent`). A row that was read has the fence which wrote it, so `Fence` is a column
/// type: a `bigint` on PostgreSQL, an `INTEGER` on SQLite, NOT NULL. Fences of different locks are unrelated.
///
/// The numbers of a mutex come from the SQL database that checks them, from the table that [`Fence::ddl`] creates. A number counted in Redis can go
/// backwards when Redis loses its last writes; the row would then refuse the rightful holder and admit the stale one. A number is one more than the
/// last one, or that database's time in microseconds since 1970, whichever is higher. So numbers also grow across deleted rows ([`Fence::purge`]), a
/// table that was lost or restored from a backup, and a failover to a lagging replica, unless the database's clock is put back in between.
///
/// The pattern is described by M. Kleppmann in "How to do distributed locking" (2016).
///
/// ```
/// # async fn show(pool: &sqlx::SqlitePool) -> Result<(), sqlx::Error> {
/// sqlx::raw_sql(rowlock::Fence::ddl::<sqlx::Sqlite>()).execute(pool).await?; // once, in a migration
///
/// let fence: rowlock::Fence = sqlx::query_scalar("SELECT fence FROM reports WHERE id = 7").fetch_one(pool).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(i64);

impl Fence {
    /// The DDL of the table that the numbers of mutexes come from, one row per lock. Put it in a migration; it changes nothing if the table exists.
    ///
    /// On PostgreSQL the table is `rowlock.fences`, whatever the `search_path`: all schemas of a database share it, as they share
    /// the mutex in Redis. The role that makes fences needs USAGE on the schema `rowlock`, and SELECT, INSERT and UPDATE on the
    /// table; for [`purge`](Self::purge) DELETE. On SQLite it is `main.rowlock_fences`.
    pub fn ddl<DB: Backend>() -> &'static str {
        DB::FENCE_TABLE
    }

    /// Deletes the rows of locks without a new fence for `age`, and returns how many. The next fence of such a lock is the time, and higher than all
    /// before, unless the database's clock is put back by more than `age`. Minimum one hour: a lower `age` counts as that.
    ///
    /// One statement, `DELETE FROM rowlock.fences WHERE fence < …`. Without it, an abandoned lock leaves a row behind, and nothing worse.
    ///
    /// # Errors
    ///
    /// The database's. Cancel safety: if you drop the future, the statement takes effect completely or not at all.
    pub fn purge<'c, DB: Backend>(
        db: impl Source<'c, DB>,
        age: Duration,
    ) -> impl Future<Output = Result<u64, DatabaseError>> + Send {
        async move {
            let failed = |error| {
                let operation = Operation::new("purge", "fences", KeyText::default());
                DatabaseError::new(operation, error)
            };
            let mut opened = db.open().await.map_err(failed)?;
            let mut connection = opened.link();
            let mut statement = Statement::<DB>::literal(DB::PURGE_FENCES);
            // An upsert that meets its row being deleted inserts the time at which it began. Nobody waits for an hour in it.
            statement.bind_seconds(age.max(SHORTEST_AGE));
            statement.execute(&mut connection).await.map_err(failed)
        }
    }

    /// Of an attempt that has claimed a row of a ledger.
    #[cfg(feature = "idempotent")]
    pub(crate) fn claimed(number: i64) -> Self {
        Self(number)
    }

    /// The number.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fence({})", self.0)
    }
}

impl<DB: Database> Type<DB> for Fence
where
    i64: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        i64::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        i64::compatible(ty)
    }
}

impl<'q, DB: Database> Encode<'q, DB> for Fence
where
    i64: Encode<'q, DB>,
{
    fn encode_by_ref(&self, buf: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.0.encode_by_ref(buf)
    }

    fn produces(&self) -> Option<DB::TypeInfo> {
        self.0.produces()
    }

    fn size_hint(&self) -> usize {
        self.0.size_hint()
    }
}

impl<'r, DB: Database> Decode<'r, DB> for Fence
where
    i64: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        i64::decode(value).map(Self)
    }
}

#[cfg(feature = "postgres")]
impl sqlx::postgres::PgHasArrayType for Fence {
    fn array_type_info() -> sqlx::postgres::PgTypeInfo {
        i64::array_type_info()
    }
}

#[cfg(feature = "redis")]
mod mint {
    use super::Fence;
    use crate::db::Backend;
    use crate::db::source::Link;
    use crate::db::statement::{Fetched, Statement, write_one};

    impl Fence {
        /// The next number of this lock.
        ///
        /// The upsert locks the lock's row, so numbers come out in the order in which they are committed. A connection
        /// that is lost before the answer wastes a number at worst, which hurts nobody: they only have to grow.
        pub(crate) async fn mint<DB: Backend>(
            name: &str,
            connection: &mut Link<'_, DB>,
        ) -> Result<Self, sqlx::Error> {
            let statement = || {
                let mut statement = Statement::<DB>::literal(DB::MINT_FENCE);
                statement.bind_text(name);
                statement
            };
            let row = match write_one(&statement, connection).await? {
                Fetched::One(row) => row,
                // Not by ON CONFLICT; a trigger or a row security policy could.
                Fetched::None | Fetched::Several => return Err(sqlx::Error::RowNotFound),
            };
            DB::get_i64(&row, 0)?
                .map(Self)
                .ok_or(sqlx::Error::RowNotFound)
        }
    }
}
