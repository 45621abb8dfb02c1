//! A database of its own for each test.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::admin::Admin;
use crate::error::Error;
use crate::url::Url;
use crate::verdict::{Coverage, Verdict};

/// An empty database on a server, for one exploration or several.
///
/// [`test`](macro@crate::test) makes one for each test. Elsewhere:
///
/// ```no_run
/// # async fn example() -> Result<(), rowlock_explore::Error> {
/// use rowlock_explore::Database;
///
/// let database = Database::create("postgres://postgres@localhost/postgres").await?;
/// println!("{}", database.url());
/// database.remove().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it stays on the server until `remove`"]
pub struct Database {
    url: String,
    name: String,
    server: String,
}

impl Database {
    /// Creates it on the server of this URL, whose user has to have the right to (`CREATEDB`). The name begins with
    /// `rowlock_explore_`.
    ///
    /// # Errors
    ///
    /// [`Error::Url`], and [`Error::Database`] with what the server says.
    pub async fn create(server: impl Into<String>) -> Result<Self, Error> {
        let server = server.into();
        let url = Url::parse(&server).ok_or(Error::Url)?;
        let name = unique_name();
        let admin = Admin::connect(&server).await?;
        let sql = format!("CREATE DATABASE {name}");
        admin.execute(&sql, "create a database").await?;
        Ok(Self {
            url: url.of_database(&name),
            name,
            server,
        })
    }

    /// Its URL, for [`Explorer::new`](crate::Explorer::new).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Drops it on the server, and the connections to it.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] with what the server says.
    pub async fn remove(self) -> Result<(), Error> {
        drop_database(&self.server, &self.name).await
    }
}

async fn drop_database(server: &str, name: &str) -> Result<(), Error> {
    let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    let admin = Admin::connect(server).await?;
    admin.execute(&sql, "drop a database").await
}

/// A name that nobody else on the server has, from another process or an earlier one either.
fn unique_name() -> String {
    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_micros());
    format!("rowlock_explore_{}_{now:x}_{counter}", process::id())
}

/// What the attribute `test` calls.
pub fn test<F: Future<Output: Ends>>(body: impl FnOnce(Database) -> F) {
    test_on(&server_of(std::env::var("DATABASE_URL").ok()), body);
}

/// The URL that is set.
fn server_of(variable: Option<String>) -> String {
    let server = variable.unwrap_or_default();
    assert!(
        !server.is_empty(),
        "DATABASE_URL is not set. Set it to a PostgreSQL server on which databases can be created, \
         such as DATABASE_URL=postgres://postgres@localhost:5432/postgres"
    );
    server
}

/// What the attribute `test` calls with the URL of a server.
pub fn test_on<F: Future<Output: Ends>>(
    server: &(impl AsRef<str> + ?Sized),
    body: impl FnOnce(Database) -> F,
) {
    let server = server.as_ref();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("tokio does not start: {error}"));
    let database = runtime
        .block_on(Database::create(server))
        .unwrap_or_else(|error| panic!("{}", no_database(error)));
    let name = database.name.clone();
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(body(database)).end()));
    let dropped = runtime.block_on(drop_database(server, &name));
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
    if let Err(error) = dropped {
        panic!("the database {name} is left: {}", error.in_full());
    }
}

fn no_database(error: Error) -> String {
    let help = match &error {
        Error::Url => "",
        _ => {
            ". DATABASE_URL, or `server`, has to lead to a PostgreSQL server that runs, without TLS, and its user needs CREATEDB"
        }
    };
    format!("no database for this test: {}{help}", error.in_full())
}

/// What a test may return.
#[diagnostic::on_unimplemented(
    message = "a test of rowlock-explore returns a `Verdict`, `()` or a `Result` of one of them, not `{Self}`"
)]
pub trait Ends {
    /// Panics if the test has failed.
    fn end(self);
}

impl Ends for () {
    fn end(self) {}
}

impl Ends for Verdict {
    fn end(self) {
        self.assert_passed();
    }
}

impl Ends for Coverage {
    fn end(self) {}
}

impl<T: Ends, E: Debug> Ends for Result<T, E> {
    fn end(self) {
        match self {
            Ok(value) => value.end(),
            Err(error) => panic!("the test returned {error:?}"),
        }
    }
}

/// [`Database`], and nothing else.
#[diagnostic::on_unimplemented(
    message = "a test of rowlock-explore gets a `rowlock_explore::Database`, not `{Self}`"
)]
pub trait IsDatabase {}

impl IsDatabase for Database {}

/// For the place of the error.
pub fn is_database<T: IsDatabase>() {}

#[cfg(test)]
mod tests {
    use super::server_of;

    #[test]
    fn the_server_is_the_one_that_is_set() {
        let url = "postgres://ann@localhost/shop";
        assert_eq!(server_of(Some(url.to_owned())), url);
    }

    #[test]
    #[should_panic = "DATABASE_URL is not set. Set it to"]
    fn a_test_says_what_to_set() {
        server_of(None);
    }

    #[test]
    #[should_panic = "DATABASE_URL is not set. Set it to"]
    fn an_empty_url_is_none() {
        server_of(Some(String::new()));
    }
}
