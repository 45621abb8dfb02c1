//! New jobs.

use super::*;

impl Queue<'_> {
    /// What the caller gives for a new job. With a unique key it is what `FindOrCreate` asks for, and that can have the time.
    pub(crate) fn given(&self) -> Vec<&Column> {
        let mut given = self.model.given();
        if self.model.unique.is_empty() {
            given.retain(|column| column.role != Role::Queue(QueueRole::RunAt));
        }
        given
    }

    /// Whether the time is part of that.
    pub(crate) fn run_at_is_given(&self) -> bool {
        let given = self.given();
        given.iter().any(|column| column.name == self.run_at.name)
    }

    /// The key that a new job of the same meets.
    pub(crate) fn conflict(&self) -> Option<(usize, &UniqueKey)> {
        let keys = || self.model.unique.iter().enumerate();
        let held = keys().find(|(_, key)| !key.states.is_empty());
        held.or_else(|| keys().next())
    }

    /// Inserts one: what is given, then when it is due, or in how many seconds.
    pub(crate) fn enqueue(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let given = self.given().into_iter();
        let given: Vec<_> = given
            .map(|column| (column, sql.slot(Slot::column(column))))
            .collect();
        let (columns, values) = self.new_row(&mut sql, given);
        let conflict = match self.conflict() {
            Some((_, key)) => format!(
                " ON CONFLICT {} DO NOTHING",
                find_or_create::target(self.model, key)
            ),
            None => String::new(),
        };
        let text = format!(
            "INSERT INTO {} ({columns}) VALUES ({values}){conflict}",
            table(self.model)
        );
        sql.statement(text).returning(self.all_columns())
    }

    /// Inserts many, in the order of their numbers: what is given for each and its number, then the same for all of them.
    pub(crate) fn enqueue_many(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let rows = table(self.model);
        let given = self.given();
        let parts = parts(&given);
        let parts = match given.len() {
            0 => "\"rowlock_number\"".to_owned(),
            _ => format!("{parts}, \"rowlock_number\""),
        };
        let number = Slot::Said("number");
        let rows_given = match dialect {
            Dialect::Postgres => {
                let arrays: Vec<String> = given
                    .iter()
                    .map(|column| sql.slot(Slot::keys(column)))
                    .collect();
                let number = format!("{}::bigint[]", sql.slot(number));
                let arrays = comma(arrays.into_iter().chain([number]), |array| array);
                format!("unnest({arrays}) AS \"rowlock_given\" ({parts})")
            }
            Dialect::Sqlite => {
                let slots = given.iter().map(|column| Slot::column(column));
                let values = sql.rows(slots.chain([number]).collect());
                format!("(VALUES {values})")
            }
        };
        let named = (1..).zip(given);
        let named = named.map(|(part, column)| (column, format!("\"rowlock_k{part}\"")));
        let (columns, values) = self.new_row(&mut sql, named.collect());
        let text = match dialect {
            Dialect::Postgres => format!(
                "INSERT INTO {rows} ({columns}) SELECT {values} FROM {rows_given} ORDER BY \"rowlock_number\""
            ),
            Dialect::Sqlite => format!(
                "WITH \"rowlock_given\" ({parts}) AS {rows_given} INSERT INTO {rows} ({columns}) SELECT {values} FROM \"rowlock_given\" \
                 WHERE \"rowlock_number\" IS NOT NULL ORDER BY \"rowlock_number\""
            ),
        };
        sql.statement(text).returning(self.all_columns())
    }

    fn all_columns(&self) -> Vec<String> {
        self.model.columns.iter().map(read).collect()
    }

    /// The columns of a new row and their values, of which these are given. What the queue writes is said, so that the table needs no
    /// defaults for it.
    fn new_row(&self, sql: &mut Sql, mut given: Vec<(&Column, String)>) -> (String, String) {
        let dialect = sql.dialect;
        let time = given
            .iter()
            .position(|(column, _)| column.name == self.run_at.name);
        let time = time.map(|at| given.remove(at).1);
        let fixed = self
            .model
            .columns
            .iter()
            .filter(|column| column.role == Role::Version || column.is_counter())
            .map(|column| (column, column.initial().to_string()));
        let made = self.model.columns.iter();
        let made = made.filter_map(|column| Some((column, column.on_insert.clone()?)));
        // A boolean that says so is not NULL.
        let ends = self.model.columns.iter().filter(|column| {
            is_bool(&column.ty)
                && (self.finished.is_some_and(|end| end.name == column.name)
                    || self.is_dead(column))
        });
        let ends = ends.map(|column| (column, "false".to_owned()));
        let counts = [self.attempts, self.fence].map(|column| (column, "0".to_owned()));
        let due = (self.run_at, self.first_run_at(sql, time));
        let row: Vec<_> = given
            .into_iter()
            .chain(fixed)
            .chain(made)
            .chain(self.values(State::Ready, dialect))
            .chain(ends)
            .chain(counts)
            .chain([due])
            .collect();
        (
            names(row.iter().map(|(column, _)| column)),
            comma(&row, |(_, value)| value.clone()),
        )
    }

    fn is_dead(&self, column: &Column) -> bool {
        matches!(self.states, Stored::Times { dead } if dead.name == column.name)
    }

    /// When it is due: at a time, so many seconds from now, or as it was given; less than none say that.
    fn first_run_at(&self, sql: &mut Sql, given: Option<String>) -> String {
        let dialect = sql.dialect;
        let (at, seconds) = (sql.slot(Slot::Said("at")), sql.slot(Slot::Seconds));
        let later = now_and('+', &seconds, dialect);
        match given {
            Some(given) => {
                format!("coalesce({at}, CASE WHEN {seconds} >= 0 THEN {later} ELSE {given} END)")
            }
            None => format!("coalesce({at}, {later})"),
        }
    }
}
