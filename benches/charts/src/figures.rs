//! A table of figures: columns with names, separated by tabs.

use std::str::FromStr;

use crate::Result;

pub(crate) struct Figures {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Figures {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
        let mut lines = text.lines();
        let columns = cells(
            lines
                .next()
                .ok_or("a table begins with the names of its columns")?,
        );
        let rows: Vec<_> = lines.map(cells).collect();
        match rows.iter().find(|row| row.len() != columns.len()) {
            Some(row) => Err(format!("a row has other columns than {columns:?}: {row:?}").into()),
            None => Ok(Self { columns, rows }),
        }
    }

    /// Whether a run was to show that it works.
    pub(crate) fn are_of_a_quick_run(&self) -> Result<bool> {
        let rounds = self.rows().map(|row| row.number::<usize>("rounds"));
        Ok(rounds.collect::<Result<Vec<_>>>()?.contains(&1))
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row {
            columns: &self.columns,
            cells,
        })
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Row<'f> {
    columns: &'f [String],
    cells: &'f [String],
}

impl<'f> Row<'f> {
    pub(crate) fn text(self, column: &str) -> Result<&'f str> {
        let index = self.columns.iter().position(|name| name == column);
        let index = index.ok_or_else(|| format!("no column {column}"))?;
        Ok(&self.cells[index])
    }

    pub(crate) fn number<T: FromStr>(self, column: &str) -> Result<T> {
        let text = self.text(column)?;
        let number = text.parse().ok();
        number.ok_or_else(|| format!("{column}: {text} is no number").into())
    }
}

/// Each value once, in the order of the first time.
pub(crate) fn distinct<T: PartialEq>(
    values: impl IntoIterator<Item = Result<T>>,
) -> Result<Vec<T>> {
    let mut seen = Vec::new();
    for value in values {
        let value = value?;
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    Ok(seen)
}
