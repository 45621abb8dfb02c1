//! What the rules found.

use std::fmt;

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How bad it is.
    pub level: Level,
    /// Where in the struct.
    pub place: Place,
    /// What is wrong, in the names of the user, and what the database has.
    pub message: String,
    /// Why that matters.
    pub note: Option<String>,
    /// What to write instead, there or in a migration.
    pub help: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A method of the model cannot work, or can do harm.
    Error,
    /// What is good to know; nothing need be done.
    Note,
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The table.
    Table,
    /// The struct as a whole.
    Struct,
    /// This field.
    Field(String),
    /// This one of the model's keys.
    Key(usize),
    /// The server, or how the connection is set.
    Server,
}

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// The table exists.
    Table,
    /// The column exists.
    Column,
    /// The column can hold the field's type.
    Type,
    /// An integer that rowlock writes is as wide as its column.
    Width,
    /// What can be NULL is an `Option`.
    Null,
    /// What rowlock compares or adds to cannot be NULL.
    NotNull,
    /// A key has its unique index.
    Unique,
    /// The index compares as the column does.
    Collation,
    /// A queue has the indexes by which it finds its jobs.
    Index,
    /// The database fills what an insert leaves out.
    Default,
    /// What is `generated` is made by the database, and what is not is not.
    Generated,
    /// A CHECK admits what a new row starts with.
    Check,
    /// The states of a job are values of its enum.
    States,
    /// A trigger runs with the writes.
    Trigger,
    /// The user of the connection may read and write the table.
    Privilege,
    /// Policies decide about rows.
    RowSecurity,
    /// The server takes the statements.
    Statement,
    /// It is new enough, and set as the methods need it.
    Server,
}

impl Finding {
    /// With nothing to add.
    pub fn new(rule: Rule, level: Level, place: Place, message: String) -> Self {
        Self {
            rule,
            level,
            place,
            message,
            note: None,
            help: None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(note) = &self.note {
            write!(f, "\nnote: {note}")?;
        }
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}
