//! Models against the database that is there.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

use rowlock_schema::{
    Finding, Kind, Level, Model, Place, Source as From, check, check_server, table_of,
};

use super::statements::{forget, prepare, unknown_types};
use super::{Describes, Models, Needed, operation};
use crate::DatabaseError;
use crate::db::source::{Link, Opened, Source};

/// Compares models with the database, by the rules that the derives apply to the file: every mismatch at once, each with what to write
/// instead. Then the server prepares the statements of the models for which there is none. At the start of a program, or in a test.
///
/// It looks from the connection that it is given: with its `search_path`, its user and its settings. `Ok` has notes, on what is no mistake.
/// Nothing is written, and no row is read.
pub fn verify<'c, DB: Describes>(
    db: impl Source<'c, DB>,
    models: Models,
) -> impl Future<Output = Result<Report, VerifyError>> + Send {
    compare("verify", db, models.needs().collect())
}

/// [`verify`] with every model of the program that is for this database: every struct with a derive of this crate.
///
/// A model of a library of which the program uses nothing is not linked in, and not looked at. With the feature `registry`.
#[cfg(feature = "registry")]
#[cfg_attr(docsrs, doc(cfg(feature = "registry")))]
pub fn verify_all<'c, DB: Describes>(
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<Report, VerifyError>> + Send {
    let models = inventory::iter::<Needed>.into_iter().copied();
    compare("verify_all", db, models.collect())
}

fn compare<'c, DB: Describes>(
    method: &'static str,
    db: impl Source<'c, DB>,
    models: Vec<Needed>,
) -> impl Future<Output = Result<Report, VerifyError>> + Send {
    async move {
        let error = |error| VerifyError::Database(DatabaseError::new(operation(method), error));
        let mut opened = db.open().await.map_err(error)?;
        let found = look(&mut opened.link(), models).await.map_err(error)?;
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

/// The findings about each model.
type Found = BTreeMap<String, Vec<Finding>>;

async fn look<DB: Describes>(
    link: &mut Link<'_, DB>,
    models: Vec<Needed>,
) -> Result<Found, sqlx::Error> {
    let server = DB::describe_server(link).await?;
    let catalogue = DB::describe_tables(link).await?;
    let mut found = Found::new();
    let of_server = check_server(&server, catalogue.dialect);
    found.insert("the server".to_owned(), of_server);
    let mut sound = Vec::new();
    for needed in models {
        let Ok(model) = serde_json::from_str::<Model>(needed.needs) else {
            continue;
        };
        if !model.dialects.contains(&catalogue.dialect) {
            continue;
        }
        let name = format!("{} (table `{}`)", model.name, model.table);
        let mut findings = check(&catalogue, &model, From::Server);
        if let Some(table) = table_of(&catalogue, &model) {
            let types = DB::named_types(&needed);
            findings.extend(unknown_types(link, table, &model, types).await?);
        }
        add(&mut found, &name, findings);
        sound.push((name, model, DB::texts(&needed)));
    }
    // What does not fit is said above, and better.
    let is_sound = |name: &str| {
        !found[name]
            .iter()
            .any(|finding| finding.level == Level::Error)
    };
    sound.retain(|(name, ..)| is_sound(name));
    for (name, model, texts) in sound {
        let kind = table_of(&catalogue, &model).map_or(Kind::Table, |table| table.kind);
        let findings = prepare(link, &model, kind, texts).await?;
        add(&mut found, &name, findings);
    }
    forget(link).await?;
    found.retain(|_, findings| !findings.is_empty());
    Ok(found)
}

/// Several derives of a struct need the same.
fn add(found: &mut Found, name: &str, findings: Vec<Finding>) {
    let of_model = found.entry(name.to_owned()).or_default();
    for finding in findings {
        if !of_model.contains(&finding) {
            of_model.push(finding);
        }
    }
}

/// What [`verify`] found. `Display` has all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Report(Found);

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
                    Place::Table | Place::Struct | Place::Key(_) | Place::Server => String::new(),
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
