//! The program, running.

mod program;
#[cfg(feature = "browser")]
pub mod webdriver;

use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::program::Program;

/// A wiki of its own, which ends with this value.
pub struct Wiki {
    pub url: String,
    pub http: Client,
    database: String,
    program: Program,
    // After the program, which has a file in it.
    _directory: TempDir,
}

impl Wiki {
    pub fn on_sqlite() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = format!("sqlite:{}/wiki.db", directory.path().display());
        Self::start(&url, directory)
    }

    pub async fn on_postgres() -> Self {
        let url = rowlock_tests::postgres::fresh_url().await;
        Self::start(&url, tempfile::tempdir().expect("a temporary directory"))
    }

    fn start(database: &str, directory: TempDir) -> Self {
        let (program, url) = serve(database);
        Self {
            url,
            http: Client::new(),
            database: database.to_owned(),
            program,
            _directory: directory,
        }
    }

    /// Kills it, and starts it again on the same database.
    pub fn crash(&mut self) {
        self.program.kill();
        (self.program, self.url) = serve(&self.database);
    }

    /// Whether it ends by itself after SIGTERM, with what has begun.
    pub fn ends_well(&mut self) -> bool {
        self.program.terminate()
    }

    pub async fn get(&self, path: &str) -> Response {
        let request = self.http.get(format!("{}{path}", self.url));
        request.send().await.expect("an answer")
    }

    /// The text of a page, which must be there.
    pub async fn text(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.expect("text")
    }

    pub async fn post_form(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let request = self.http.post(format!("{}{path}", self.url)).form(form);
        request.send().await.expect("an answer")
    }

    /// Creates a page by the API.
    pub async fn create(&self, key: &str, slug: &str, body: &str) -> Response {
        let page =
            json!({ "slug": slug, "title": slug, "tags": "", "body": body, "author": "creator" });
        let request = self.http.post(format!("{}/api/pages", self.url));
        let request = request.header("idempotency-key", key).json(&page);
        request.send().await.expect("an answer")
    }

    pub async fn patch(&self, slug: &str, etag: Option<&str>, change: &Value) -> Response {
        let mut request = self.http.patch(format!("{}/api/pages/{slug}", self.url));
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        request.json(change).send().await.expect("an answer")
    }

    /// How often a page was looked at, this look included.
    pub async fn views(&self, slug: &str) -> u64 {
        number(&self.text(&format!("/pages/{slug}")).await, "seen ")
    }

    /// What the live page says of something.
    pub async fn counted(&self, what: &str) -> u64 {
        let before = format!("<td>{what}</td><td class=\"number\">");
        number(&self.text("/live").await, &before)
    }
}

/// The program, and where it is.
fn serve(database: &str) -> (Program, String) {
    let variables = [("WIKI_LISTEN", "127.0.0.1:0"), ("DATABASE_URL", database)];
    let mut program = Program::start(env!("CARGO_BIN_EXE_rowlock-wiki"), &[], &variables);
    let url = program.says().expect("the wiki says where it is");
    (program, url)
}

/// The number that comes after some text.
fn number(page: &str, before: &str) -> u64 {
    let (_, after) = page.split_once(before).expect("the text is there");
    let digits = after.split(|c: char| !c.is_ascii_digit()).next();
    digits.expect("a part").parse().expect("a number")
}

/// The `ETag` of an answer.
pub fn etag(answer: &Response) -> String {
    let tag = answer.headers().get("etag").expect("an ETag");
    tag.to_str().expect("text").to_owned()
}
