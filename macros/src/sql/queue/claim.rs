//! From ready to running, and out of the way of claims.

use super::*;

impl Queue<'_> {
    /// Claims so many rows for so many seconds; conditions about the columns can be added. Their attempts begin now, or
    /// [`start`](Self::start) is going to count them.
    ///
    /// On PostgreSQL the rows are chosen once, whatever the planner thinks of it, in an array or a CTE: an IN that is planned as a
    /// join can be run for each row of the table, and every run skips what the one before has locked. The array is planned a tenth
    /// faster than the CTE, and every claim is planned anew. `statement_timestamp()` and not `clock_timestamp()`, with which no
    /// index can be searched.
    pub(crate) fn claim(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let [limit, lease, counted] =
            [Slot::Limit, Slot::Seconds, Slot::Counted].map(|slot| sql.slot(slot));
        let (rows, keys) = (table(self.model), names(&self.keys));
        let (attempts, fence) = (quote(&self.attempts.name), quote(&self.fence.name));
        let (coming, due) = self.due_first(&keys, &limit, dialect);
        let set = format!(
            "SET {}{attempts} = {} + {counted}, {fence} = {}, {} = {}",
            match self.becomes(State::Running, dialect).as_str() {
                "" => String::new(),
                set => format!("{set}, "),
            },
            self.room_for_one(dialect),
            next_fence(&fence, dialect),
            quote(&self.lease.name),
            now_and('+', &lease, dialect),
        );
        let set = match self.takes_a_slot(dialect) {
            Some(slot) => format!("{set}, {slot}"),
            None => set,
        };
        let columns = self.model.columns.iter();
        let (text, mut returning): (String, Vec<String>) = match dialect {
            Dialect::Postgres => {
                let (with, found) = match self.keys.as_slice() {
                    [key] => {
                        let found = format!("WHERE {} = ANY (ARRAY({due}))", of_row(key));
                        (alone(coming), found)
                    }
                    keys => {
                        let with = coming.unwrap_or_else(|| "WITH ".to_owned());
                        let due =
                            format!("\"rowlock_due\" ({}) AS MATERIALIZED ({due})", parts(keys));
                        (
                            format!("{with}{due} "),
                            self.found_in("rowlock_due", "FROM"),
                        )
                    }
                };
                (
                    format!("{with}UPDATE {rows} AS \"rowlock_row\" {set} {found}"),
                    columns.map(of_row).collect(),
                )
            }
            Dialect::Sqlite => (
                format!(
                    "{}UPDATE {rows} {set} WHERE ({keys}) IN ({due}) AND {}",
                    alone(coming),
                    self.is(State::Ready)
                ),
                columns.map(|column| quote(&column.name)).collect(),
            ),
        };
        returning.push(format!("{} AS \"rowlock_waited\"", self.waited(dialect)));
        sql.statement(text).returning(returning)
    }

    /// For how many seconds the row has been due; none if nobody said since when.
    ///
    /// Epochs, because PostgreSQL cannot subtract an infinite timestamp.
    pub(super) fn waited(&self, dialect: Dialect) -> String {
        let run_at = quote(&self.run_at.name);
        let waited = match dialect {
            Dialect::Postgres => {
                format!("date_part('epoch', statement_timestamp()) - date_part('epoch', {run_at})")
            }
            Dialect::Sqlite => {
                format!("(julianday('now') - julianday({run_at})) * 86400.0")
            }
        };
        match is_option(&self.run_at.ty) {
            true => format!("coalesce({waited}, 0.0)"),
            false => waited,
        }
    }

    /// The attempts, as far as one more can be counted: a claim finds also rows with more than there may be, and all that the column
    /// holds.
    fn room_for_one(&self, dialect: Dialect) -> String {
        let most = match last_segment(&self.attempts.ty).as_deref() {
            Some("i16") => i64::from(i16::MAX),
            Some("i32") => i64::from(i32::MAX),
            _ => i64::MAX,
        };
        let least = match dialect {
            Dialect::Postgres => "least",
            Dialect::Sqlite => "min",
        };
        format!("{least}({}, {})", quote(&self.attempts.name), most - 1)
    }

    pub(super) fn is_due(&self, dialect: Dialect) -> String {
        // Also a row without attempts left, which ends as dead: it would be ready for ever.
        format!(
            "{} AND {}{}",
            self.is(State::Ready),
            self.time_has_come(dialect),
            self.is_not_paused(),
        )
    }

    pub(super) fn time_has_come(&self, dialect: Dialect) -> String {
        let at = match dialect {
            Dialect::Postgres => "statement_timestamp()",
            Dialect::Sqlite => "julianday('now')",
        };
        format!("{} <= {at}", self.due(dialect))
    }

    /// Looks which rows a claim of so many would take, for when one of them cannot be claimed.
    pub(crate) fn list_due(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let limit = sql.slot(Slot::Limit);
        let (coming, due) = self.due_first(&self.identity(), &limit, dialect);
        sql.statement(format!("{}{due}", alone(coming)))
    }

    /// What of the first so many rows that a claim takes, which are locked where a database can; and the CTEs before it, with the
    /// comma after them, if it needs any.
    fn due_first(&self, what: &str, limit: &str, dialect: Dialect) -> (Option<String>, String) {
        let rows = table(self.model);
        let (order, locks) = (self.order(dialect), passing_over(dialect));
        let (due, conditions) = (self.is_due(dialect), Gap::Conditions);
        let (coming, may_come) = match &self.per {
            Some(per) => (
                Some(format!(
                    "WITH RECURSIVE {}",
                    self.coming(per, limit, dialect)
                )),
                format!("{} AND ", self.may_come(per, dialect)),
            ),
            None => (None, String::new()),
        };
        let first = format!(
            "SELECT {what} FROM {rows} WHERE {may_come}{due}{conditions} ORDER BY {order} LIMIT {limit}{locks}"
        );
        (coming, first)
    }

    /// Takes one row out of the way: the fence it has, its attempts, the error if there is a column for it, and the seconds until
    /// it is due again; then the conditions about its key. For ever, without the seconds.
    pub(crate) fn set_aside(&self, for_ever: bool, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let [fence, attempts] = [Slot::Fence, Slot::Attempts].map(|slot| sql.slot(slot));
        let state = if for_ever { State::Dead } else { State::Ready };
        let state = self.becomes(state, dialect);
        let mut set = format!("{state}, {} = {attempts}", quote(&self.attempts.name));
        if let Some(error) = self.last_error {
            let reason = sql.slot(Slot::Error);
            set.push_str(&format!(", {} = {reason}", quote(&error.name)));
        }
        if !for_ever {
            let later = now_and('+', &sql.slot(Slot::Seconds), dialect);
            set.push_str(&format!(", {} = {later}", quote(&self.run_at.name)));
        }
        sql.statement(format!(
            "UPDATE {} SET {set} WHERE {} = {fence} AND ({} OR {}){}",
            table(self.model),
            quote(&self.fence.name),
            self.is(State::Ready),
            self.is(State::Running),
            Gap::Conditions,
        ))
    }
}

/// CTEs after which there is no other.
fn alone(coming: Option<String>) -> String {
    let coming = coming.unwrap_or_default();
    match coming.strip_suffix(", ") {
        Some(ctes) => format!("{ctes} "),
        None => coming,
    }
}
