//! Pauses: rows of a table beside that of the queue, each of which keeps the jobs that match it from being claimed.

use super::*;
use crate::sql::index::create_index;

/// The name of a pause in the conditions.
const PAUSE: &str = "\"rowlock_pause\"";

impl Queue<'_> {
    /// ` AND` no pause matches the job; nothing where the queue has no pauses. A NULL in a pause stands for any value, and a NULL of the job's
    /// matches nothing else.
    ///
    /// The job's column comes first: on SQLite it is its collation that compares the two.
    pub(super) fn is_not_paused(&self) -> String {
        let Some(pauses) = self.pauses() else {
            return String::new();
        };
        let rows = table(self.model);
        let filters = self.filters();
        let matches = and(&filters, |column| {
            let name = quote(&column.name);
            format!("({PAUSE}.{name} IS NULL OR {rows}.{name} = {PAUSE}.{name})")
        });
        let matches = match filters.is_empty() {
            true => String::new(),
            false => format!(" WHERE {matches}"),
        };
        format!(" AND NOT EXISTS (SELECT 1 FROM {pauses} AS {PAUSE}{matches})")
    }

    fn pauses(&self) -> Option<String> {
        self.model.pauses.as_ref().map(name_of)
    }

    /// The table of the pauses, with the types that the columns of the queue have, and an index for which NULLs are equal.
    pub(super) fn pauses_ddl(&self, dialect: Dialect) -> Option<String> {
        let table_of_pauses = self.model.pauses.as_ref()?;
        let pauses = name_of(table_of_pauses);
        let filters = self.filters();
        let columns: String = filters
            .iter()
            .map(|column| format!("{}, ", quote(&column.name)))
            .collect();
        let terms = filters.iter().map(|column| {
            let name = quote(&column.name);
            match dialect {
                // Arrays with NULLs at the same places are equal.
                Dialect::Postgres => format!("(ARRAY[{name}])"),
                Dialect::Sqlite => format!("{name} IS NULL, coalesce({name}, 0)"),
            }
        });
        let mut terms: Vec<String> = terms.collect();
        if terms.is_empty() {
            // There is one pause, of all jobs.
            terms.push("(\"paused_at\" IS NULL)".to_owned());
        }
        let terms = terms.join(", ");
        let name = format!("once_{:08x}", hash(&terms) as u32);
        let name = shortened(&table_of_pauses.name, &name);
        let definition = format!("({terms})");
        let index = create_index(table_of_pauses, "UNIQUE INDEX", &name, &definition, dialect);
        Some(format!(
            "CREATE TABLE IF NOT EXISTS {pauses} AS SELECT {columns}{} AS \"paused_at\" FROM {} WHERE false;\n{index}",
            now(dialect),
            table(self.model),
        ))
    }

    /// Adds a pause. The names of the columns that it has values for, and then the values, are written into it.
    pub(crate) fn pause(&self, dialect: Dialect) -> Option<Statement> {
        let text = format!(
            "INSERT INTO {} (\"paused_at\"{}) VALUES ({}{}) ON CONFLICT DO NOTHING",
            self.pauses()?,
            Gap::Columns,
            now(dialect),
            Gap::Values,
        );
        Some(Sql::new(dialect).statement(text))
    }

    /// Ends a pause. A condition for each column is written into it.
    pub(crate) fn resume(&self, dialect: Dialect) -> Option<Statement> {
        let text = format!(
            "DELETE FROM {} WHERE true{}",
            self.pauses()?,
            Gap::Conditions
        );
        Some(Sql::new(dialect).statement(text))
    }

    /// All pauses, the oldest first: for how many seconds, and for each column whether it has a value, and the value as a text.
    pub(crate) fn list_pauses(&self, dialect: Dialect) -> Option<Statement> {
        let since = match dialect {
            Dialect::Postgres => "date_part('epoch', clock_timestamp() - \"paused_at\")",
            Dialect::Sqlite => "(julianday('now') - julianday(\"paused_at\")) * 86400.0",
        };
        let filters = self.filters();
        let values = filters.iter().map(|column| {
            let name = quote(&column.name);
            let text = match dialect {
                Dialect::Postgres => format!("{name}::text"),
                Dialect::Sqlite => format!(
                    "CASE typeof({name}) WHEN 'blob' THEN hex({name}) ELSE CAST({name} AS text) END"
                ),
            };
            format!(", CASE WHEN {name} IS NULL THEN 0 ELSE 1 END, coalesce({text}, '')")
        });
        let values: String = values.collect();
        let text = format!(
            "SELECT {since}{values} FROM {} ORDER BY \"paused_at\"",
            self.pauses()?
        );
        Some(Sql::new(dialect).statement(text))
    }
}
