//! `rowlock.schema.json`: one thing per line, sorted, so that two branches that change two things can be merged.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::ser::{CompactFormatter, Formatter};

use crate::catalogue::{Catalogue, Dialect, Table};

/// What this version writes. A file with a greater number is not read.
const FORMAT: u64 = 1;

/// What the file is called unless the model says otherwise.
pub const NAME: &str = "rowlock.schema.json";

/// The files of this name, in `from` or in the nearest directory above it that has any: `rowlock.schema.json`, and of a program with several
/// databases `rowlock.schema.postgres.json` and `rowlock.schema.sqlite.json`.
pub fn find(from: &Path, name: &str) -> Vec<PathBuf> {
    let stem = name.strip_suffix(".json").unwrap_or(name);
    let names = [
        name.to_owned(),
        format!("{stem}.postgres.json"),
        format!("{stem}.sqlite.json"),
    ];
    from.ancestors()
        .map(|directory| {
            let paths = names.iter().map(|name| directory.join(name));
            // Also a link that leads nowhere: what cannot be read is an error, and not no file.
            paths
                .filter(|path| path.symlink_metadata().is_ok())
                .collect::<Vec<_>>()
        })
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// Why a file is no catalogue.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileError {
    /// It could not be read.
    Unreadable(io::Error),
    /// A merge left its marks in this line.
    Unmerged(usize),
    /// A newer version of rowlock wrote it, in this format.
    Newer(u64),
    /// It has not the form of such a file.
    Malformed(serde_json::Error),
    /// It has this table twice.
    Twice(String),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Self::Unmerged(line) => write!(f, "line {line} is the mark of a merge conflict"),
            Self::Newer(format) => write!(
                f,
                "it has the format {format} of a newer rowlock, and this one reads {FORMAT}"
            ),
            Self::Malformed(error) => write!(f, "it is no catalogue: {error}"),
            Self::Twice(table) => write!(f, "it has the table `{table}` twice"),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(error) => Some(error),
            Self::Malformed(error) => Some(error),
            Self::Unmerged(_) | Self::Newer(_) | Self::Twice(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct Head {
    format: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "format")]
    _format: u64,
    dialect: Dialect,
    search_path: Vec<String>,
    tables: Vec<Table>,
}

impl Catalogue {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path).map_err(FileError::Unreadable)?;
        Self::from_json(&text)
    }

    /// Reads the text of a file.
    pub fn from_json(text: &str) -> Result<Self, FileError> {
        let marks = ["<<<<<<<", "=======", ">>>>>>>", "|||||||"];
        let is_mark = |line: &str| marks.iter().any(|mark| line.starts_with(mark));
        if let Some(line) = text.lines().position(is_mark) {
            return Err(FileError::Unmerged(line + 1));
        }
        let head: Head = serde_json::from_str(text).map_err(FileError::Malformed)?;
        if head.format > FORMAT {
            return Err(FileError::Newer(head.format));
        }
        let file: File = serde_json::from_str(text).map_err(FileError::Malformed)?;
        let read = Self::new(file.dialect, file.search_path, file.tables);
        let mut pairs = read.tables.windows(2);
        let same =
            |pair: &&[Table]| pair[0].schema == pair[1].schema && pair[0].name == pair[1].name;
        match pairs.find(same) {
            Some(pair) => Err(FileError::Twice(format!(
                "{}.{}",
                pair[0].schema, pair[0].name
            ))),
            None => Ok(read),
        }
    }

    /// The text of the file.
    pub fn to_json(&self) -> String {
        let tables: Vec<String> = self.tables.iter().map(table).collect();
        format!(
            "{{\n  \"format\": {FORMAT},\n  \"dialect\": {},\n  \"search_path\": {},\n  \"tables\": {}\n}}\n",
            line(&self.dialect),
            line(&self.search_path),
            block(&tables, "  ")
        )
    }
}

fn table(table: &Table) -> String {
    let mut parts = vec![
        format!("\"schema\": {}", line(&table.schema)),
        format!("\"name\": {}", line(&table.name)),
        format!("\"kind\": {}", line(&table.kind)),
    ];
    if table.row_security {
        parts.push("\"row_security\": true".to_owned());
    }
    if !table.options.is_empty() {
        parts.push(format!("\"options\": {}", line(&table.options)));
    }
    let lists = [
        ("columns", lines(&table.columns)),
        ("unique", lines(&table.unique)),
        ("indexes", lines(&table.indexes)),
        ("checks", lines(&table.checks)),
        ("foreign_keys", lines(&table.foreign_keys)),
        ("triggers", lines(&table.triggers)),
    ];
    let lists = lists.into_iter().filter(|(_, lines)| !lines.is_empty());
    parts.extend(lists.map(|(name, lines)| format!("\"{name}\": {}", block(&lines, "      "))));
    let parts: Vec<String> = parts.iter().map(|part| format!("      {part}")).collect();
    format!("{{\n{}\n    }}", parts.join(",\n"))
}

fn lines(items: &[impl Serialize]) -> Vec<String> {
    items.iter().map(line).collect()
}

fn block(lines: &[String], indent: &str) -> String {
    if lines.is_empty() {
        return "[]".to_owned();
    }
    let lines: Vec<String> = lines
        .iter()
        .map(|line| format!("{indent}  {line}"))
        .collect();
    format!("[\n{}\n{indent}]", lines.join(",\n"))
}

/// In one line. What is written has no maps with keys other than text, and cannot fail.
pub(crate) fn line(item: &(impl Serialize + ?Sized)) -> String {
    let mut text = Vec::new();
    let mut to = serde_json::Serializer::with_formatter(&mut text, Spaced(CompactFormatter));
    if item.serialize(&mut to).is_err() {
        return String::new();
    }
    String::from_utf8(text).unwrap_or_default()
}

/// `{"name": "id", "type": "bigint"}`
struct Spaced(CompactFormatter);

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Column;

    fn table(name: &str) -> Table {
        Table {
            schema: "public".into(),
            name: name.into(),
            columns: vec![
                Column {
                    name: "title".into(),
                    ty: "text".into(),
                    null: true,
                    ..Column::default()
                },
                Column {
                    name: "id".into(),
                    ty: "bigint".into(),
                    ..Column::default()
                },
            ],
            ..Table::default()
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_each_thing_has_a_line() {
        let catalogue = Catalogue::new(
            Dialect::Postgres,
            vec!["public".into()],
            vec![table("tags"), table("documents")],
        );
        let text = catalogue.to_json();
        assert_eq!(Catalogue::from_json(&text).unwrap(), catalogue);
        assert!(
            text.contains("\n        {\"name\": \"id\", \"type\": \"bigint\"},\n"),
            "{text}"
        );
        assert!(text.find("documents") < text.find("tags"), "{text}");
    }

    #[test]
    fn what_is_no_such_file_is_one_error() {
        let text = Catalogue::new(Dialect::Sqlite, vec![], vec![table("a")]).to_json();
        let error = |text: &str| Catalogue::from_json(text).unwrap_err().to_string();
        let merged = text.replace("\"name\": \"a\"", "\"name\": \"a\"\n<<<<<<< ours");
        assert!(
            error(&merged).contains("merge conflict"),
            "{}",
            error(&merged)
        );
        let newer = text.replace("\"format\": 1", "\"format\": 2, \"new\": []");
        assert!(error(&newer).contains("newer rowlock"));
        assert!(error("{\"format\": 1}").contains("no catalogue"));
        assert!(error("").contains("no catalogue"));
        for text in ["null", "[]", "{", "\u{feff}{}", "\0", &"[".repeat(10_000)] {
            assert!(error(text).contains("no catalogue"), "{text}");
        }
        // Cut anywhere, and with a word that nobody knows.
        for end in text
            .char_indices()
            .map(|(at, _)| at)
            .take(text.trim_end().len() - 1)
        {
            assert!(error(&text[..end]).contains("no catalogue"));
        }
        let unknown = text.replace("\"kind\"", "\"sort\"");
        assert!(error(&unknown).contains("sort"));
        let dialect = text.replace("\"sqlite\"", "\"oracle\"");
        assert!(error(&dialect).contains("oracle"));
        let twice = Catalogue::new(Dialect::Sqlite, vec![], vec![table("a"), table("a")]);
        assert!(error(&twice.to_json()).contains("twice"));
        let path = std::env::temp_dir();
        let unreadable = Catalogue::read(&path).unwrap_err().to_string();
        assert!(
            unreadable.starts_with("it cannot be read: "),
            "{unreadable}"
        );
    }
}
