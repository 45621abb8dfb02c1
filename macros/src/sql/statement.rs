//! A statement as data, and how its text is written.

use super::gap::parts;
use super::*;

/// A statement of one dialect. Its text is literal, but for the names of the model.
pub(crate) struct Statement {
    pub dialect: Dialect,
    /// What is done. Names are in `"`, values are `$n`, and a [`Gap`] may be in it.
    pub text: String,
    /// What is bound: the first is `$1`.
    pub slots: Vec<Slot>,
    /// What a write tells of each row that it wrote: a database without RETURNING has to ask for it in another way.
    pub returning: Vec<String>,
}

impl Statement {
    pub(super) fn returning(self, returning: Vec<String>) -> Self {
        Self { returning, ..self }
    }

    /// All of the text, cut at the gaps.
    pub(crate) fn parts(&self) -> Vec<String> {
        let text = self.dialect.returning(&self.text, &self.returning);
        parts(&text).map(str::to_owned).collect()
    }

    /// All of the text, nothing in its gaps.
    pub(crate) fn shown(&self) -> String {
        self.parts().concat()
    }
}

/// Numbers the values of a statement while its text is written: a text that has a `$n` has its slot.
pub(super) struct Sql {
    pub dialect: Dialect,
    slots: Vec<Slot>,
    /// Whether there are rows before, of which nobody knows yet how many.
    uncounted: bool,
}

impl Sql {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            slots: Vec::new(),
            uncounted: false,
        }
    }

    /// The rows of a [`Gap::Rows`], with these values. They come first, and what comes after them is a `?`, once.
    ///
    /// Theirs are too: SQLite looks a `$n` up among all the others, each time that it is bound.
    pub(super) fn rows(&mut self, values: Vec<Slot>) -> Gap {
        self.slots.push(Slot::Rows(values));
        self.uncounted = true;
        Gap::Rows
    }

    /// `$n`: the next one, or the one that the slot has.
    pub(super) fn slot(&mut self, slot: Slot) -> String {
        let known = self.slots.iter().position(|other| *other == slot);
        let index = known.unwrap_or(self.slots.len());
        if known.is_none() {
            self.slots.push(slot);
        }
        if self.uncounted {
            return "?".to_owned();
        }
        format!("${}", index + 1)
    }

    /// `$1, $2`: a column of the key each.
    pub(super) fn keys(&mut self, keys: &[&Column]) -> String {
        comma(keys, |key| self.slot(Slot::key(key)))
    }

    /// `"a" = $1 AND "b" = $2`
    pub(super) fn equal(&mut self, keys: &[&Column]) -> String {
        and(keys, |key| {
            format!("{} = {}", quote(&key.name), self.slot(Slot::key(key)))
        })
    }

    pub(super) fn statement(self, text: String) -> Statement {
        Statement {
            dialect: self.dialect,
            text,
            slots: self.slots,
            returning: Vec::new(),
        }
    }
}
