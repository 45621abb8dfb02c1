//! Leases that have ended.

use super::*;

impl Queue<'_> {
    fn has_ended(&self, dialect: Dialect) -> String {
        format!(
            "{} AND {}",
            self.is(State::Running),
            self.lease_is_over(dialect)
        )
    }

    pub(super) fn lease_is_over(&self, dialect: Dialect) -> String {
        format!(
            "({} > {}) IS NOT TRUE",
            quote(&self.lease.name),
            now(dialect)
        )
    }

    /// ` AND` the lease is over, for [`Gap::Conditions`].
    pub(crate) fn and_lease_is_over(&self, dialect: Dialect) -> String {
        format!(" AND {}", self.lease_is_over(dialect))
    }

    /// Looks which rows a rescue would take back.
    pub(crate) fn list_ended(&self, dialect: Dialect) -> Statement {
        Sql::new(dialect).statement(format!(
            "SELECT {} FROM {} WHERE {}{}",
            self.identity(),
            table(self.model),
            self.has_ended(dialect),
            passing_over(dialect),
        ))
    }

    /// Takes back the rows whose leases have ended, and returns what became of each.
    ///
    /// It waits for nobody: a row that is locked is being finished or extended. Conditions can be added.
    pub(crate) fn rescue(&self, dialect: Dialect) -> Statement {
        let rows = table(self.model);
        let (attempts, fence) = (quote(&self.attempts.name), quote(&self.fence.name));
        let exhausted = format!("{attempts} >= {}", self.max_attempts);
        let mut set = format!(
            "SET {}, {fence} = {}",
            self.becomes_if([(&exhausted, State::Dead), ("true", State::Ready)], dialect),
            next_fence(&fence, dialect),
        );
        if let Some(error) = self.last_error {
            set.push_str(&format!(", {} = 'the lease ended'", quote(&error.name)));
        }
        let (ended, more) = (self.has_ended(dialect), Gap::Conditions);
        let (text, state) = match dialect {
            Dialect::Postgres => (
                format!(
                    "WITH \"rowlock_ended\" ({}) AS MATERIALIZED (SELECT {} FROM {rows} WHERE {ended}{more}{}) \
                     UPDATE {rows} AS \"rowlock_row\" {set} {}",
                    parts(&self.keys),
                    names(&self.keys),
                    passing_over(dialect),
                    self.found_in("rowlock_ended", "FROM"),
                ),
                self.state_name(of_the_row, dialect),
            ),
            Dialect::Sqlite => (
                format!("UPDATE {rows} {set} WHERE {ended}{more}"),
                self.state_name(quote, dialect),
            ),
        };
        let sql = Sql::new(dialect);
        sql.statement(text).returning(vec![state])
    }
}
