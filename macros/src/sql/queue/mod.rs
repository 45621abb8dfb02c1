//! `Queue`: rows that are claimed, worked on and finished.

mod batch;
mod cancel;
mod claim;
mod ddl;
mod enqueue;
mod lease;
mod life;
mod pause;
mod per;
mod states;

use super::clock::{next_fence, now, now_and};
use super::given::{of_json, parts, same_key};
use super::index::{hash, shortened};
use super::*;
use crate::model::{Priority, QueueRole, State, is_bool, is_option, last_segment};

pub(crate) use self::batch::Locks;
pub(crate) use self::per::{Per, after};
pub(crate) use self::states::{Stored, in_states};

/// The columns by their roles, which the derive has checked to be there.
pub(crate) struct Queue<'m> {
    pub model: &'m Model,
    pub keys: Vec<&'m Column>,
    pub states: Stored<'m>,
    pub run_at: &'m Column,
    pub attempts: &'m Column,
    pub fence: &'m Column,
    pub lease: &'m Column,
    pub last_error: Option<&'m Column>,
    pub finished: Option<&'m Column>,
    pub per: Option<Per<'m>>,
    pub max_attempts: i64,
}

fn passing_over(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => " FOR NO KEY UPDATE SKIP LOCKED",
        Dialect::Sqlite => "",
    }
}

impl<'m> Queue<'m> {
    pub(crate) fn priorities(&self) -> Vec<(&'m Column, Priority)> {
        let columns = self.model.columns.iter();
        columns
            .filter_map(|column| Some((column, column.priority?)))
            .collect()
    }

    pub(crate) fn filters(&self) -> Vec<&'m Column> {
        let columns = self.model.columns.iter();
        columns.filter(|column| column.filter).collect()
    }

    /// The order of claims: the priorities, the time, the key. The claim index has the same.
    fn order(&self, dialect: Dialect) -> String {
        let priorities = self.priorities();
        let priorities = priorities.iter().map(|(column, first)| match first {
            Priority::LowestFirst => quote(&column.name),
            Priority::HighestFirst => format!("{} DESC", quote(&column.name)),
        });
        let run_at = std::iter::once(self.due(dialect));
        let keys = self.keys.iter().map(|key| quote(&key.name));
        comma(priorities.chain(run_at).chain(keys), |term| term)
    }

    /// The time when the row is due, as it can be compared; NULL is at once. SQLite has no type for it: sqlx writes texts in another format than
    /// SQLite does, and only a number compares with both.
    fn due(&self, dialect: Dialect) -> String {
        let run_at = quote(&self.run_at.name);
        match (dialect, is_option(&self.run_at.ty)) {
            (Dialect::Postgres, false) => run_at,
            (Dialect::Postgres, true) => format!("coalesce({run_at}, '-infinity')"),
            (Dialect::Sqlite, false) => format!("julianday({run_at})"),
            (Dialect::Sqlite, true) => format!("coalesce(julianday({run_at}), 0)"),
        }
    }

    /// What tells a row apart that cannot be read as a whole: the key, the fence, the attempts.
    fn identity(&self) -> String {
        names(self.keys.iter().chain(&[self.fence, self.attempts]))
    }

    /// The rows whose keys are in a CTE of PostgreSQL, behind SET, or behind the table of a DELETE.
    ///
    /// As an array they are looked up by the primary key, whatever the planner knows of the table: a join may read all of it.
    fn found_in(&self, cte: &str, beside: &str) -> String {
        match self.keys.as_slice() {
            [key] => format!(
                "WHERE {} = ANY (ARRAY(SELECT \"rowlock_k1\" FROM \"{cte}\"))",
                of_row(key)
            ),
            keys => format!("{beside} \"{cte}\" WHERE {}", same_key(keys, cte)),
        }
    }

    /// The key, then the fence.
    fn is_claim(&self, sql: &mut Sql) -> String {
        format!(
            "{} AND {} = {}",
            sql.equal(&self.keys),
            quote(&self.fence.name),
            sql.slot(Slot::Fence)
        )
    }

    /// Ends the work on a row.
    pub(crate) fn complete(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let rows = table(self.model);
        let write = match self.model.deletes_done {
            true => format!("DELETE FROM {rows}"),
            false => format!("UPDATE {rows} SET {}", self.becomes(State::Done, dialect)),
        };
        let text = format!(
            "{write} WHERE {} AND {}",
            self.is_claim(&mut sql),
            self.is(State::Running),
        );
        sql.statement(text)
    }

    /// Looks what became of a row whose claim could not be finished. Returns its state, if no other claim has it.
    pub(crate) fn look(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let rows = table(self.model);
        let mut text = format!(
            "SELECT {} FROM {rows} WHERE {}",
            self.state_name(quote, dialect),
            self.is_claim(&mut sql),
        );
        if self.model.deletes_done {
            let same_key = sql.equal(&self.keys);
            let none = format!("NOT EXISTS (SELECT 1 FROM {rows} WHERE {same_key})");
            text.push_str(&format!(" UNION ALL SELECT 'done' WHERE {none}"));
        }
        sql.statement(text)
    }
}

/// ` AND "name" = `, which a value follows there.
pub(crate) fn is_key(column: &Column) -> String {
    format!(" AND {} = ", quote(&column.name))
}
