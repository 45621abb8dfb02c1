//! The states of a job, as its table has them.

use super::*;
use crate::model::LedgerRole;

/// What says in which state a job is.
#[derive(Clone, Copy)]
pub(crate) enum Stored<'m> {
    /// One column, of texts or an enum.
    Column(&'m Column),
    /// When it was given up, in this one; and when it was done, and its lease. Or only that it was.
    Times { dead: &'m Column },
}

/// The condition that a job is in one of these states, as far as the model says where its state is.
pub(crate) fn in_states(model: &Model, states: &[State]) -> Option<String> {
    let name = |column: &Column| quote(&column.name);
    if let Some(column) = model.queue(|role| role == QueueRole::State) {
        let texts = comma(states, |state| text(column.states.text(*state)));
        return Some(match states {
            [_] => format!("{} = {texts}", name(column)),
            _ => format!("{} IN ({texts})", name(column)),
        });
    }
    let times = Times {
        dead: model.queue(|role| role == QueueRole::Dead)?,
        finished: model.ledger(LedgerRole::Finished),
        lease: model.ledger(LedgerRole::Lease)?,
    };
    let each: Vec<String> = states.iter().map(|state| times.is(*state, name)).collect();
    Some(each.join(" OR "))
}

/// The columns that have the state where no column is for it.
struct Times<'m> {
    dead: &'m Column,
    finished: Option<&'m Column>,
    lease: &'m Column,
}

impl Times<'_> {
    fn is(&self, state: State, name: impl Fn(&Column) -> String) -> String {
        let is_null = |column: &Column| match is_bool(&column.ty) {
            true => format!("NOT {}", name(column)),
            false => format!("{} IS NULL", name(column)),
        };
        let is_some = |column: &Column| match is_bool(&column.ty) {
            true => name(column),
            false => format!("{} IS NOT NULL", name(column)),
        };
        match state {
            State::Dead => is_some(self.dead),
            // Without the column it would be deleted, and is not looked for.
            State::Done => self.finished.map_or("false".to_owned(), is_some),
            State::Ready | State::Running => {
                let open = self.finished.into_iter().chain([self.dead]).map(is_null);
                let lease = match state {
                    State::Ready => is_null(self.lease),
                    _ => is_some(self.lease),
                };
                let all: Vec<String> = open.chain([lease]).collect();
                all.join(" AND ")
            }
        }
    }
}

impl<'m> Queue<'m> {
    /// The condition that it is in this state; `name` says how a column is written.
    pub(super) fn is_named(&self, state: State, name: impl Fn(&Column) -> String) -> String {
        let dead = match self.states {
            Stored::Column(column) => {
                return format!("{} = {}", name(column), text(column.states.text(state)));
            }
            Stored::Times { dead } => dead,
        };
        let times = Times {
            dead,
            finished: self.finished,
            lease: self.lease,
        };
        times.is(state, name)
    }

    pub(super) fn is(&self, state: State) -> String {
        self.is_named(state, |column| quote(&column.name))
    }

    /// What puts it there, for SET. A claim writes the lease by itself.
    pub(super) fn becomes(&self, state: State, dialect: Dialect) -> String {
        let set = self.values(state, dialect);
        let set = set.iter().map(|(column, value)| {
            let name = quote(&column.name);
            format!("{name} = {value}")
        });
        comma(set, |set| set)
    }

    /// Puts it into the state of the first condition that holds. The column itself is among the cases, so that literals have its
    /// type: to a column of an enum PostgreSQL assigns no text.
    pub(super) fn becomes_if(&self, cases: [(&str, State); 2], dialect: Dialect) -> String {
        let mut columns: Vec<&Column> = Vec::new();
        let cases = cases.map(|(condition, state)| (condition, self.values(state, dialect)));
        for (column, _) in cases.iter().flat_map(|(_, values)| values) {
            if !columns.iter().any(|known| known.name == column.name) {
                columns.push(column);
            }
        }
        comma(columns, |column| {
            let name = quote(&column.name);
            let values = cases.iter().map(|(condition, values)| {
                let own = values.iter().find(|(other, _)| other.name == column.name);
                (condition, own.map_or(name.as_str(), |(_, value)| value))
            });
            let mut values: Vec<_> = values.collect();
            // What follows is the same.
            while values.pop_if(|(_, value)| *value == name).is_some() {}
            let cases: String = values
                .iter()
                .map(|(condition, value)| format!(" WHEN {condition} THEN {value}"))
                .collect();
            format!("{name} = CASE{cases} ELSE {name} END")
        })
    }

    /// The columns that a state has values for.
    pub(super) fn values(&self, state: State, dialect: Dialect) -> Vec<(&'m Column, String)> {
        let ended = |column: &'m Column| match is_bool(&column.ty) {
            true => (column, "true".to_owned()),
            false => (column, now(dialect).to_owned()),
        };
        let finished = self.finished.map(ended);
        match (self.states, state) {
            (Stored::Column(column), _) => {
                let stored = (column, text(column.states.text(state)));
                let finished = finished.filter(|_| matches!(state, State::Done | State::Dead));
                std::iter::once(stored).chain(finished).collect()
            }
            (Stored::Times { .. }, State::Ready) => vec![(self.lease, "NULL".to_owned())],
            (Stored::Times { .. }, State::Running) => Vec::new(),
            (Stored::Times { .. }, State::Done) => finished.into_iter().collect(),
            (Stored::Times { dead }, State::Dead) => vec![ended(dead)],
        }
    }

    /// The state as rowlock calls it, as a text; `name` says how a column is written.
    pub(super) fn state_name(&self, name: impl Fn(&str) -> String, dialect: Dialect) -> String {
        let name = |column: &Column| name(&column.name);
        if let Stored::Column(column) = self.states
            && column.states.0.is_empty()
        {
            return match dialect {
                Dialect::Postgres => format!("{}::text", name(column)),
                Dialect::Sqlite => name(column),
            };
        }
        let kept = State::ALL.into_iter();
        let kept = kept.filter(|state| !(self.model.deletes_done && *state == State::Done));
        let names: String = kept
            .map(|state| {
                let is = self.is_named(state, name);
                format!(" WHEN {is} THEN {}", text(state.name()))
            })
            .collect();
        format!("CASE{names} ELSE '' END")
    }
}
