//! The values of many rows that one statement binds, and whose row one is that it returned.

use super::call::{Cells as _, Values};
use crate::db::Backend;
use crate::db::statement::Statement;

/// The values of rows, a row after the other, where the database takes an array per column.
pub(crate) struct Batch<DB: Backend> {
    cells: DB::Cells,
    rows: usize,
}

impl<DB: Backend> Batch<DB> {
    /// Those that `bind` binds; none, if one cannot be one of many.
    pub(crate) fn of<R>(
        rows: impl IntoIterator<Item = R>,
        bind: impl Fn(R, &mut Values<DB>),
    ) -> Option<Self> {
        let (mut rows, mut count) = (rows.into_iter(), 0);
        let mut values = Values::default();
        while let Some(row) = rows.next() {
            bind(row, &mut values);
            count += 1;
            if count == 1 {
                values.reserve_as_many(rows.size_hint().0);
            }
        }
        Some(Self {
            cells: values.into_cells()?,
            rows: count,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    fn key(&self, place: usize) -> &[u8] {
        self.cells.key_of_row(place, self.rows)
    }

    /// See [`Cells::has_exact_keys`](super::Cells::has_exact_keys).
    pub(crate) fn has_exact_keys(&self) -> bool {
        self.cells.has_exact_keys(self.rows)
    }

    /// See [`Cells::has_plain_keys`](super::Cells::has_plain_keys).
    pub(crate) fn has_plain_keys(&self) -> bool {
        self.cells.has_plain_keys(self.rows)
    }

    /// Binds the rows at these places.
    pub(crate) fn bind(&self, places: impl Iterator<Item = usize>, to: &mut Statement<DB>) {
        let places: Vec<usize> = places.collect();
        to.bind_places(&self.cells, self.rows, &places);
    }

    /// Binds all of them.
    pub(crate) fn bind_all(&self, to: &mut Statement<DB>) {
        self.bind(0..self.rows, to);
    }

    /// Their keys in an order that is the same for all; none, if two are the same.
    pub(crate) fn sorted(&self) -> Option<Sorted<'_, DB>> {
        let mut places: Vec<usize> = (0..self.rows).collect();
        places.sort_unstable_by_key(|place| self.key(*place));
        let is_same = |two: &[usize]| self.key(two[0]) == self.key(two[1]);
        let has_same = places.windows(2).any(is_same);
        (!has_same).then_some(Sorted {
            batch: self,
            places,
        })
    }
}

/// See [`Batch::sorted`].
pub(crate) struct Sorted<'b, DB: Backend> {
    batch: &'b Batch<DB>,
    places: Vec<usize>,
}

impl<DB: Backend> Sorted<'_, DB> {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Binds their keys, which are all that the batch has.
    pub(crate) fn bind(&self, to: &mut Statement<DB>) {
        self.batch.bind(self.places(), to);
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        self.places.iter().copied()
    }

    /// The place of the one with this number.
    pub(crate) fn nth(&self, number: usize) -> Option<usize> {
        self.places.get(number).copied()
    }

    /// The place of the one whose key is in the last columns of a row. It is mostly the one with this number.
    pub(crate) fn place_of(&self, row: &DB::Row, number: usize) -> Option<usize> {
        let batch = self.batch;
        let key = batch.cells.key_in(row, batch.rows)?;
        let likely = self.nth(number).filter(|place| batch.key(*place) == key);
        likely.or_else(|| {
            let found = self
                .places
                .binary_search_by_key(&&*key, |place| batch.key(*place));
            self.nth(found.ok()?)
        })
    }
}
