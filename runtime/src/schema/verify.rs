//! Models against the database that is there.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

use rowlock_schema::{Finding, Level, Model, Place, Source as From, check};

use super::{Describes, Models, read};
use crate::DatabaseError;
use crate::db::source::Source;

/// Compares models with the database, by the rules that the derives apply to the file: every mismatch at once, each with what to write
/// instead. At the start of a program, or in a test.
///
/// It looks from the connection that it is given: with its `search_path`. `Ok` has notes, on what is no mistake.
pub fn verify<'c, DB: Describes>(
    db: impl Source<'c, DB>,
    models: Models,
) -> impl Future<Output = Result<Report, VerifyError>> + Send {
    async move {
        let catalogue = read("verify", db).await.map_err(VerifyError::Database)?;
        let mut found: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
        for needs in models.needs() {
            let Ok(model) = serde_json::from_str::<Model>(needs) else {
                continue;
            };
            let of_model = found
                .entry(format!("{} (table `{}`)", model.name, model.table))
                .or_default();
            for finding in check(&catalogue, &model, From::Server) {
                // Several derives of a struct need the same.
                if !of_model.contains(&finding) {
                    of_model.push(finding);
                }
            }
        }
        found.retain(|_, findings| !findings.is_empty());
        let report = Report(found);
        let mut findings = report.findings();
        let fails = findings.any(|(_, finding)| finding.level == Level::Error);
        drop(findings);
        match fails {
            true => Err(VerifyError::Mismatch(report)),
            false => Ok(report),
        }
    }
}

/// What [`verify`] found. `Display` has all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Report(BTreeMap<String, Vec<Finding>>);

impl Report {
    /// Each finding, with the model that it is about.
    pub fn findings(&self) -> impl Iterator<Item = (&str, &Finding)> {
        let models = self.0.iter();
        models.flat_map(|(model, findings)| {
            findings
                .iter()
                .map(move |finding| (model.as_str(), finding))
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (model, findings)) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{model}")?;
            for finding in findings {
                let level = match finding.level {
                    Level::Error => "error",
                    Level::Note => "note",
                };
                let place = match &finding.place {
                    Place::Field(field) => format!(" `{field}`:"),
                    Place::Table | Place::Struct | Place::Key(_) => String::new(),
                };
                let text = finding.to_string().replace('\n', "\n    ");
                write!(f, "\n  {level}:{place} {text}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why [`verify`] failed. `Debug` is `Display`, which a program prints that cannot start.
#[non_exhaustive]
pub enum VerifyError {
    /// The database was not read.
    Database(DatabaseError),
    /// Methods of these models cannot work there, or can do harm.
    Mismatch(Report),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(error) => error.fmt(f),
            Self::Mismatch(report) => {
                write!(f, "the database is not what the models need\n{report}")
            }
        }
    }
}

impl fmt::Debug for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for VerifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Database(error) => Some(error),
            Self::Mismatch(_) => None,
        }
    }
}
