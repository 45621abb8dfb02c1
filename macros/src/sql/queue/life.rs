//! What an operator does to the rows of a queue, by any number of them.

use super::*;

impl<'m> Queue<'m> {
    /// The time by which rows are old. None without such a column, if nobody keeps what is done, or if an end is only said, without its time.
    pub(crate) fn ended_at(&self) -> Option<&'m Column> {
        let dead = match self.states {
            Stored::Times { dead } => Some(dead),
            Stored::Column(_) => None,
        };
        let mut ends = self.finished.into_iter().chain(dead);
        let unknown = self.model.deletes_done || ends.any(|end| is_bool(&end.ty));
        self.finished.filter(|_| !unknown)
    }

    /// Deletes so many of the rows that ended so many seconds ago. Conditions can be added.
    ///
    /// A row that is locked is passed over, and the locks are in a CTE as those of a claim are.
    pub(crate) fn purge(&self, ended_at: &Column, also_dead: bool, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let rows = table(self.model);
        let old = format!(
            "SELECT {} {}",
            names(&self.keys),
            self.old(ended_at, also_dead, &mut sql)
        );
        sql.statement(match dialect {
            Dialect::Postgres => format!(
                "WITH \"rowlock_old\" ({}) AS MATERIALIZED ({old}) DELETE FROM {rows} AS \"rowlock_row\" {}",
                parts(&self.keys),
                self.found_in("rowlock_old", "USING"),
            ),
            Dialect::Sqlite => {
                format!("DELETE FROM {rows} WHERE ({}) IN ({old})", names(&self.keys))
            }
        })
    }

    /// Looks which rows a purge would delete, for when one of them cannot be deleted.
    pub(crate) fn list_old(
        &self,
        ended_at: &Column,
        also_dead: bool,
        dialect: Dialect,
    ) -> Statement {
        let mut sql = Sql::new(dialect);
        let text = format!(
            "SELECT {} {}",
            self.identity(),
            self.old(ended_at, also_dead, &mut sql)
        );
        sql.statement(text)
    }

    /// FROM the rows that ended so many seconds ago, so many of them. `statement_timestamp()` and not `clock_timestamp()`, with which
    /// no index can be searched.
    fn old(&self, ended_at: &Column, also_dead: bool, sql: &mut Sql) -> String {
        let [limit, age] = [Slot::Limit, Slot::Seconds].map(|slot| sql.slot(slot));
        let ended = match also_dead {
            false => self.is(State::Done),
            true => format!("({} OR {})", self.is(State::Done), self.is(State::Dead)),
        };
        let ended_at = match self.states {
            Stored::Times { dead } if also_dead => {
                format!("coalesce({}, {})", quote(&ended_at.name), quote(&dead.name))
            }
            Stored::Times { .. } | Stored::Column(_) => quote(&ended_at.name),
        };
        let before = match sql.dialect {
            Dialect::Postgres => {
                format!("{ended_at} <= statement_timestamp() - make_interval(secs => {age})")
            }
            Dialect::Sqlite => format!(
                "julianday({ended_at}) <= julianday({})",
                now_and('-', &age, sql.dialect)
            ),
        };
        format!(
            "FROM {} WHERE {ended} AND {before}{} LIMIT {limit}{}",
            table(self.model),
            Gap::Conditions,
            to_delete(sql.dialect),
        )
    }

    /// Makes so many dead rows ready, those first that were due first. Conditions can be added. What was claimed before has another fence.
    pub(crate) fn redrive(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let (rows, keys) = (table(self.model), names(&self.keys));
        let (attempts, fence) = (quote(&self.attempts.name), quote(&self.fence.name));
        let dead = format!("SELECT {keys} {}", self.dead(&mut sql));
        let mut set = format!(
            "SET {}, {attempts} = 0, {fence} = {}, {} = {}",
            self.becomes(State::Ready, dialect),
            next_fence(&fence, dialect),
            quote(&self.run_at.name),
            now(dialect),
        );
        let dead_at = match self.states {
            Stored::Times { dead } => Some(dead),
            Stored::Column(_) => None,
        };
        for ended in self.finished.into_iter().chain(dead_at) {
            let not_yet = if is_bool(&ended.ty) { "false" } else { "NULL" };
            set.push_str(&format!(", {} = {not_yet}", quote(&ended.name)));
        }
        sql.statement(match dialect {
            Dialect::Postgres => format!(
                "WITH \"rowlock_dead\" ({}) AS MATERIALIZED ({dead}) UPDATE {rows} AS \"rowlock_row\" {set} {}",
                parts(&self.keys),
                self.found_in("rowlock_dead", "FROM"),
            ),
            Dialect::Sqlite => format!("UPDATE {rows} {set} WHERE ({keys}) IN ({dead})"),
        })
    }

    /// Looks which rows a redrive would make ready, for when one of them cannot be.
    pub(crate) fn list_dead(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let text = format!("SELECT {} {}", self.identity(), self.dead(&mut sql));
        sql.statement(text)
    }

    /// Counts the rows that are not done: ready, due, for how many seconds at most; running, with leases that are over; dead. Conditions can be
    /// added to each of the three. Each reads an index of [`ddl`](Self::ddl); the rows that are done have none.
    pub(crate) fn stats(&self, dialect: Dialect) -> Statement {
        let of = |state: State, counts: &str| {
            format!(
                "(SELECT {counts} FROM {} WHERE {}{})",
                table(self.model),
                self.is(state),
                Gap::Conditions,
            )
        };
        let due = self.time_has_come(dialect);
        let waited = self.waited(dialect);
        let ready = format!(
            "count(*), count(*) FILTER (WHERE {due}), coalesce(max({waited}) FILTER (WHERE {due}), 0.0)"
        );
        let over = self.lease_is_over(dialect);
        let running = format!("count(*), count(*) FILTER (WHERE {over})");
        Sql::new(dialect).statement(format!(
            "SELECT * FROM {} AS \"rowlock_ready\", {} AS \"rowlock_running\", {} AS \"rowlock_dead\"",
            of(State::Ready, &ready),
            of(State::Running, &running),
            of(State::Dead, "count(*)"),
        ))
    }

    fn dead(&self, sql: &mut Sql) -> String {
        let limit = sql.slot(Slot::Limit);
        format!(
            "FROM {} WHERE {}{} ORDER BY {} LIMIT {limit}{}",
            table(self.model),
            self.is(State::Dead),
            Gap::Conditions,
            self.order(sql.dialect),
            passing_over(sql.dialect),
        )
    }
}

fn to_delete(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => " FOR UPDATE SKIP LOCKED",
        Dialect::Sqlite => "",
    }
}
