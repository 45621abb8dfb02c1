//! What a database has, what a model of `rowlock` needs of it, and the rules that compare the two. Depend on `rowlock`, which re-exports
//! what is for users.
//!
//! The derives read a [`Catalogue`] from a file, `rowlock::schema` from the server. The [rules](check) are the same.

#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

mod catalogue;
mod changes;
mod ddl;
mod expression;
mod family;
mod file;
mod finding;
mod migration;
mod model;
mod rules;

pub use self::catalogue::{
    Catalogue, Check, Column, Dialect, ForeignKey, Identity, Index, Kind, Part, Table, Trigger,
    Unique,
};
pub use self::changes::changes;
pub use self::expression::{SqliteIndex, sqlite_checks, sqlite_index, sqlite_trigger};
pub use self::family::Family;
pub use self::file::{FileError, NAME, find};
pub use self::finding::{Finding, Level, Place, Rule};
pub use self::migration::diff;
pub use self::model::{Access, Field, Insert, Key, KeyPart, KeyUse, Model, NeededIndex, Role};
pub use self::rules::{Server, Source, check, check_server, table_of};
