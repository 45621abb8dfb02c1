//! A gate that COMMIT has to pass, to lose a connection while nobody can know what became of it.

use sqlx::{AssertSqlSafe, Executor};

use crate::postgres::{Connection, Database};
use crate::proxy::Proxy;

/// Stops transactions in their COMMIT while it is closed.
pub struct Gate(Connection);

impl Gate {
    /// Stands before the COMMIT of every transaction that does `event` (`INSERT` or `UPDATE`) on `table`. Open.
    pub async fn before_commit(database: &Database, event: &str, table: &str) -> Self {
        let mut connection = database.connection().await;
        let sql = format!(
            "CREATE TABLE gate ();
             CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 LOCK TABLE gate IN SHARE MODE; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER wait AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION wait()"
        );
        run(&mut connection, &sql).await;
        Self(connection)
    }

    /// Closes it.
    pub async fn close(&mut self) {
        run(&mut self.0, "BEGIN; LOCK TABLE gate").await;
    }

    /// Lets those who wait commit.
    pub async fn open(&mut self) {
        run(&mut self.0, "COMMIT").await;
    }

    /// Waits until somebody stands before it.
    pub async fn until_somebody_waits(&mut self) {
        let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted)";
        while !sqlx::query_scalar::<_, bool>(waits)
            .fetch_one(&mut self.0)
            .await
            .expect("pg_locks is readable")
        {}
    }

    /// Those who wait lose their connections; they come through `proxy`. `committed`: the server commits, and its answer is
    /// lost; else it rolls back. Opens the gate.
    pub async fn lose_commit(&mut self, proxy: &Proxy, committed: bool) {
        self.until_somebody_waits().await;
        // Whatever the server has to say of it.
        proxy.hold_replies(true);
        if !committed {
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted";
            run(&mut self.0, kill).await;
        }
        self.open().await;
        proxy.reply_held().await;
        proxy.cut().await;
        proxy.hold_replies(false);
    }
}

async fn run(connection: &mut Connection, sql: &str) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    connection.execute(sql).await.expect("the gate can be used");
}
