//! The pairs, compiled for each database, and what they run on.

use std::ops::DerefMut;

use sqlx::{Acquire, Database, Executor};

/// What a call runs on: a pool, or one connection that is kept.
pub(crate) trait Handle<DB: Database> {
    type Db<'a>: Acquire<'a, Database = DB> + Executor<'a, Database = DB>
    where
        Self: 'a;
    type Connection<'a>: DerefMut<Target = DB::Connection>
    where
        Self: 'a;

    /// For one statement.
    fn db(&mut self) -> Self::Db<'_>;
    /// For several statements on one connection.
    async fn connection(&mut self) -> Self::Connection<'_>;
}

macro_rules! on {
    ($backend:ident) => {
        #[path = "."]
        pub(crate) mod $backend {
            use rowlock_tests::$backend::*;
            use sqlx::pool::PoolConnection;

            use super::Handle;

            impl Handle<Db> for Pool {
                type Db<'a> = &'a Pool;
                type Connection<'a> = PoolConnection<Db>;

                fn db(&mut self) -> &Pool {
                    self
                }
                async fn connection(&mut self) -> PoolConnection<Db> {
                    self.acquire().await.unwrap()
                }
            }

            impl Handle<Db> for Connection {
                type Db<'a> = &'a mut Connection;
                type Connection<'a> = &'a mut Connection;

                fn db(&mut self) -> &mut Connection {
                    self
                }
                async fn connection(&mut self) -> &mut Connection {
                    self
                }
            }

            #[path = "operations.rs"]
            pub(crate) mod operations;
        }
    };
}
on!(postgres);
on!(sqlite);
