//! The server is new enough, and set as the methods need it.

use crate::catalogue::Dialect;
use crate::finding::{Finding, Level, Place, Rule};

/// A server, and how the connection is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// As it calls itself: `15.18`.
    pub version: String,
    /// Writes are refused, because of this.
    pub read_only: Option<String>,
    /// What is set otherwise than the methods are made for: the setting, its value, and what follows.
    pub settings: Vec<(String, String, String)>,
}

/// What is older lacks a function or a clause that most methods use.
fn oldest(dialect: Dialect) -> (&'static str, &'static str) {
    match dialect {
        Dialect::Postgres => (
            "13",
            "`pg_current_xact_id_if_assigned()`, by which COMMIT is checked",
        ),
        Dialect::Sqlite => (
            "3.38",
            "`->>`, by which statements about many rows read them",
        ),
    }
}

/// Everything about the server that is in the way.
pub fn check_server(server: &Server, dialect: Dialect) -> Vec<Finding> {
    let finding = |level, message| Finding::new(Rule::Server, level, Place::Server, message);
    let (oldest, why) = oldest(dialect);
    let mut findings = Vec::new();
    if numbers(&server.version) < numbers(oldest) {
        findings.push(Finding {
            note: Some(format!("what is older has no {why}")),
            help: Some("use a newer server".into()),
            ..finding(
                Level::Error,
                format!(
                    "{} {} is too old, the oldest that will do is {oldest}",
                    dialect.product(),
                    server.version
                ),
            )
        });
    }
    if let Some(why) = &server.read_only {
        // A program can have models that it only reads.
        findings.push(finding(
            Level::Note,
            format!("this connection may not write: {why}"),
        ));
    }
    for (setting, value, note) in &server.settings {
        findings.push(Finding {
            note: Some(note.clone()),
            ..finding(Level::Note, format!("`{setting}` is `{value}`"))
        });
    }
    findings
}

fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split('.').map(|part| {
        let end = part.find(|next: char| !next.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse().unwrap_or(0)
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_new_enough_by_the_numbers_of_its_version() {
        let is_too_old = |version: &str, dialect| {
            let server = Server {
                version: version.into(),
                ..Server::default()
            };
            !check_server(&server, dialect).is_empty()
        };
        for version in ["12.9", "9.6.24", "12devel"] {
            assert!(is_too_old(version, Dialect::Postgres), "{version}");
        }
        for version in ["13.0", "13beta1", "15.18", "100.1"] {
            assert!(!is_too_old(version, Dialect::Postgres), "{version}");
        }
        assert!(is_too_old("3.9.2", Dialect::Sqlite) && is_too_old("3.37.2", Dialect::Sqlite));
        assert!(!is_too_old("3.38.0", Dialect::Sqlite) && !is_too_old("4.0", Dialect::Sqlite));
    }
}
