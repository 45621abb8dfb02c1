//! Claims of a queue of which so many jobs are running per value of a column: who may come next.

use super::*;

/// The column by whose values running jobs are limited.
pub(crate) struct Per<'m> {
    pub column: &'m Column,
    pub max: i64,
    /// Numbers the running jobs of one value, if there can be several.
    pub slot: Option<&'m Column>,
    /// The jobs of one value are claimed strictly in the order of this column.
    pub sequence: Option<&'m Column>,
}

impl Queue<'_> {
    /// A claim's rows, as CTEs: those that can be claimed without a second one of the same value running. They end with a comma, and
    /// [`may_come`](Self::may_come) is the condition that a row is one of them.
    ///
    /// First it looks at the beginning of all that is due, and takes the first of each value of which none is running. That are enough,
    /// unless the beginning is full of rows that have to wait. Then it goes from value to value, by the index that begins with it: one
    /// look for each, however many rows wait. The runtime says in a gap after which value, so that all have their turn.
    pub(super) fn coming(&self, per: &Per<'_>, limit: &str, dialect: Dialect) -> String {
        let rows = table(self.model);
        let (keys, parts) = (names(&self.keys), parts(&self.keys));
        let order = self.order(dialect);
        let first = match per.sequence {
            Some(sequence) => quote(&sequence.name),
            None => order.clone(),
        };
        let name = quote(&per.column.name);
        let other = |column: &Column| format!("\"rowlock_other\".{}", quote(&column.name));
        let others = format!("{rows} AS \"rowlock_other\"");
        let ready = self.is_named(State::Ready, other);
        let (its, mine) = (other(per.column), "\"rowlock_value\"");

        let wanted = self.keys.iter().copied().chain([self.run_at, per.column]);
        let wanted = wanted.chain(per.sequence);
        let priorities = self.priorities();
        let wanted = wanted.chain(priorities.iter().map(|(column, _)| *column));
        let mut columns: Vec<&Column> = Vec::new();
        for column in wanted {
            if !columns.iter().any(|known| known.name == column.name) {
                columns.push(column);
            }
        }
        let columns = names(&columns);
        let due = self.is_due(dialect);
        let conditions = Gap::Conditions;
        let least = match dialect {
            Dialect::Postgres => "least",
            Dialect::Sqlite => "min",
        };
        let window = format!("{least}({limit}, 10000) * 2 + 100");
        // PostgreSQL would make a join of it, and may then read all that is running for each row.
        let as_it_is = match dialect {
            Dialect::Postgres => " OFFSET 0",
            Dialect::Sqlite => "",
        };
        let running = self.is_named(State::Running, other);
        let is_free = match per.max {
            1 => format!(
                "NOT EXISTS (SELECT 1 FROM {others} WHERE {its} = {mine} AND {running}{as_it_is})"
            ),
            max => format!(
                "(SELECT count(*) FROM {others} WHERE {its} = {mine} AND {running}) < {max}"
            ),
        };
        let may_be_none = is_option(&per.column.ty);
        let or_none = if may_be_none {
            format!("{mine} IS NULL OR ")
        } else {
            String::new()
        };
        let is_first = |sequence: &str| match per.sequence {
            Some(column) => format!(
                " AND {sequence} = (SELECT {} FROM {others} WHERE {its} = {mine} AND {ready} ORDER BY {} LIMIT 1)",
                other(column),
                other(column)
            ),
            None => String::new(),
        };
        let sequence = per.sequence.map_or(String::new(), |column| {
            format!(", {} AS \"rowlock_sequence\"", quote(&column.name))
        });
        let not_enough = format!(
            "(SELECT count(*) FROM \"rowlock_head\") < {limit} AND (SELECT count(*) FROM \"rowlock_begin\") >= {window}"
        );
        let after = Gap::Turn;
        // Ordered by the column too, which is NULL: else PostgreSQL does not see that the index that begins with it has this order, and reads all rows
        // that have to wait.
        let none = if may_be_none {
            format!(
                "\"rowlock_none\" ({parts}) AS (SELECT {keys} FROM \"rowlock_can\" WHERE {name} IS NULL AND {not_enough} ORDER BY {name}, {order} LIMIT {limit}), ",
            )
        } else {
            String::new()
        };
        let one_of = format!(
            "FROM \"rowlock_can\" WHERE {name} = {mine}{} ORDER BY {first} LIMIT 1",
            is_first(
                &per.sequence
                    .map_or(String::new(), |column| quote(&column.name))
            ),
        );
        // The last turn is of no value: looked for in the order of claims, it would be all rows that are read.
        let has_turn = format!("{mine} IS NOT NULL AND {is_free}");
        let next = match dialect {
            Dialect::Postgres => format!(
                "SELECT \"rowlock_one\".* FROM \"rowlock_turn\" CROSS JOIN LATERAL (SELECT {keys} {one_of}) AS \"rowlock_one\" WHERE {has_turn} LIMIT {limit}"
            ),
            // It knows no LATERAL, and as the order ends with the key, each part is of the same row.
            Dialect::Sqlite => {
                let each = comma(self.keys.iter().zip(1..), |(key, part)| {
                    format!(
                        "(SELECT {} {one_of}) AS \"rowlock_k{part}\"",
                        quote(&key.name)
                    )
                });
                format!(
                    "SELECT * FROM (SELECT {each} FROM \"rowlock_turn\" WHERE {has_turn}) WHERE \"rowlock_k1\" IS NOT NULL LIMIT {limit}"
                )
            }
        };
        format!(
            "\"rowlock_can\" AS NOT MATERIALIZED (SELECT {columns} FROM {rows} WHERE {due}{conditions}), \
             \"rowlock_begin\" AS MATERIALIZED (SELECT {named}, {name} AS {mine}{sequence}, row_number() OVER (PARTITION BY {name} ORDER BY {first}) AS \"rowlock_nth\" \
             FROM (SELECT * FROM \"rowlock_can\" ORDER BY {order} LIMIT {window}) AS \"rowlock_due\"), \
             \"rowlock_head\" AS MATERIALIZED (SELECT {parts} FROM \"rowlock_begin\" WHERE {or_none}\"rowlock_nth\" = 1 AND {is_free}{is_head}), \
             {none}\
             \"rowlock_turn\" ({mine}) AS (\
             SELECT (SELECT {name} FROM {rows} WHERE {is_ready} AND {name} IS NOT NULL{after} ORDER BY {name} LIMIT 1) WHERE {not_enough} \
             UNION ALL SELECT (SELECT {its} FROM {others} WHERE {ready} AND {its} > {mine} ORDER BY {its} LIMIT 1) FROM \"rowlock_turn\" WHERE {mine} IS NOT NULL), \
             \"rowlock_next\" ({parts}) AS ({next}), ",
            named = comma(self.keys.iter().zip(1..), |(key, part)| format!(
                "{} AS \"rowlock_k{part}\"",
                quote(&key.name)
            )),
            is_head = is_first("\"rowlock_sequence\""),
            is_ready = self.is(State::Ready),
        )
    }

    /// The condition that a row is one of those, for WHERE.
    pub(super) fn may_come(&self, per: &Per<'_>, dialect: Dialect) -> String {
        let keys = names(&self.keys);
        let parts = parts(&self.keys);
        let mut ctes = vec!["rowlock_head", "rowlock_next"];
        if is_option(&per.column.ty) {
            ctes.push("rowlock_none");
        }
        let all = ctes
            .iter()
            .map(|cte| format!("SELECT {parts} FROM \"{cte}\""));
        let all = all.collect::<Vec<_>>().join(" UNION ");
        match (dialect, self.keys.as_slice()) {
            (Dialect::Postgres, [key]) => format!("{} = ANY (ARRAY({all}))", quote(&key.name)),
            _ => format!("({keys}) IN ({all})"),
        }
    }
}

impl Queue<'_> {
    /// Counts the unique index, without which two claims at the same moment do not see each other.
    pub(crate) fn has_index(&self, dialect: Dialect) -> Option<String> {
        let (name, _) = self.one_running(self.per.as_ref()?);
        let schema = self.model.table.schema.as_ref();
        let schema = schema.map_or(String::new(), |schema| format!("{}.", quote(schema)));
        Some(match dialect {
            Dialect::Postgres => {
                let index = text(&format!("{schema}{}", quote(&name)));
                format!("SELECT count(to_regclass({index}))")
            }
            Dialect::Sqlite => format!(
                "SELECT count(*) FROM {schema}\"sqlite_master\" WHERE \"type\" = 'index' AND \"name\" = {}",
                text(&name)
            ),
        })
    }

    /// What gives a row that is claimed the first free slot of its value, for SET. A claim takes one row of each.
    pub(super) fn takes_a_slot(&self, dialect: Dialect) -> Option<String> {
        let per = self.per.as_ref()?;
        let slot = per.slot?;
        let other = |column: &Column| format!("\"rowlock_other\".{}", quote(&column.name));
        let (own, all) = match dialect {
            Dialect::Postgres => (
                of_row(per.column),
                format!("generate_series(1, {}) AS \"rowlock_slot\"", per.max),
            ),
            Dialect::Sqlite => {
                let table = quote(&self.model.table.name);
                let more = (2..=per.max).map(|slot| format!(" UNION ALL SELECT {slot}"));
                (
                    format!("{table}.{}", quote(&per.column.name)),
                    format!("(SELECT 1 AS \"rowlock_slot\"{})", more.collect::<String>()),
                )
            }
        };
        let taken = format!(
            "SELECT {slot} FROM {} AS \"rowlock_other\" WHERE {} = {own} AND {} AND {slot} IS NOT NULL",
            table(self.model),
            other(per.column),
            self.is_named(State::Running, other),
            slot = other(slot),
        );
        Some(format!(
            "{} = (SELECT min(\"rowlock_slot\") FROM {all} WHERE \"rowlock_slot\" NOT IN ({taken}))",
            quote(&slot.name),
        ))
    }
}

/// ` AND "name" > `, which the value after which the turn begins follows in [`Gap::Turn`].
pub(crate) fn after(column: &Column) -> String {
    format!(" AND {} > ", quote(&column.name))
}
