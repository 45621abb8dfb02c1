//! A conflict, field by field, as the conflict page shows it.

use rowlock::row::{Conflict, MergeError};

use crate::model::Page;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody changed it, or both to the same.
    Same,
    /// Only I did.
    Mine,
    /// Only they did.
    Theirs,
    /// Both did, differently: somebody has to decide.
    Overlap,
}

/// A field of the page, three times.
#[derive(Debug)]
pub struct Merge<'a> {
    pub field: &'static str,
    pub base: &'a str,
    pub mine: &'a str,
    pub theirs: &'a str,
    pub outcome: Outcome,
}

impl Merge<'_> {
    /// What to begin with in the form.
    pub fn proposal(&self) -> &str {
        match self.outcome {
            Outcome::Theirs => self.theirs,
            Outcome::Same | Outcome::Mine | Outcome::Overlap => self.mine,
        }
    }
}

/// The fields that are edited.
type Field = (&'static str, fn(&Page) -> &str);
const FIELDS: [Field; 3] = [
    ("title", |page| &page.title),
    ("tags", |page| &page.tags),
    ("body", |page| &page.body),
];

/// `base` is what the writer started from.
pub fn of<'a>(base: &'a Page, conflict: &'a Conflict<Page>) -> [Merge<'a>; 3] {
    let overlap = match conflict.merge() {
        Err(MergeError::Overlap(fields)) => fields,
        // Both changes fit together.
        _ => Vec::new(),
    };
    FIELDS.map(|(field, text)| {
        let (base, mine) = (text(base), text(&conflict.mine));
        let theirs = text(&conflict.current);
        let outcome = if overlap.contains(&field) {
            Outcome::Overlap
        } else if mine == theirs {
            Outcome::Same
        } else if mine == base {
            Outcome::Theirs
        } else {
            Outcome::Mine
        };
        Merge {
            field,
            base,
            mine,
            theirs,
            outcome,
        }
    })
}
