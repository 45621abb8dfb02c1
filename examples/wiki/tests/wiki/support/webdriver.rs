//! As much of WebDriver as the test of the browser needs: <https://www.w3.org/TR/webdriver2/>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::program::Program;

/// A `chromedriver`, which ends with this value, and its browsers with it.
pub struct Driver {
    url: String,
    _program: Program,
}

impl Driver {
    pub fn start() -> Self {
        let mut program = Program::start("chromedriver", &["--port=0"], &[]);
        // "ChromeDriver was started successfully on port 39021."
        let port = loop {
            let said = program.says();
            let said =
                said.expect("chromedriver starts; it is in the Debian package chromium-driver");
            if let Some((_, port)) = said.split_once("successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        Self {
            url: format!("http://127.0.0.1:{port}"),
            _program: program,
        }
    }

    /// Another person, with a browser of their own.
    pub async fn window(&self) -> Window {
        let options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,1100",
        ] });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "timeouts": { "implicit": 10_000 },
        } } });
        let http = Client::new();
        let session = format!("{}/session", self.url);
        let made = send(&http, Method::POST, &session, &wanted).await;
        let id = made["sessionId"].as_str().expect("a session");
        Window {
            session: format!("{session}/{id}"),
            http,
        }
    }
}

pub struct Window {
    session: String,
    http: Client,
}

impl Window {
    pub async fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url })).await;
    }

    /// The text that an element shows. Waits until there is one.
    pub async fn text(&self, css: &str) -> String {
        let element = self.find(css).await;
        self.get(&format!("{element}/text")).await
    }

    /// What a field of a form is filled with.
    pub async fn value(&self, css: &str) -> String {
        let element = self.find(css).await;
        self.get(&format!("{element}/property/value")).await
    }

    pub async fn fill(&self, css: &str, text: &str) {
        let element = self.find(css).await;
        self.post(&format!("{element}/clear"), &json!({})).await;
        self.post(&format!("{element}/value"), &json!({ "text": text }))
            .await;
    }

    /// Clicks, and waits until the next page is there: nothing of the old one is found any more.
    pub async fn click(&self, css: &str) {
        let element = self.find(css).await;
        self.post(&format!("{element}/click"), &json!({})).await;
        let old = format!("{}/{element}/enabled", self.session);
        let asked = async || {
            self.http
                .get(&old)
                .send()
                .await
                .expect("chromedriver answers")
        };
        while asked().await.status().is_success() {}
    }

    /// A PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let png = self.get("screenshot").await;
        STANDARD.decode(png).expect("base64")
    }

    async fn find(&self, css: &str) -> String {
        let found = self
            .post("element", &json!({ "using": "css selector", "value": css }))
            .await;
        let (_, id) = found
            .as_object()
            .and_then(|found| found.iter().next())
            .expect("an element");
        format!("element/{}", id.as_str().expect("an id"))
    }

    async fn get(&self, path: &str) -> String {
        let url = format!("{}/{path}", self.session);
        let value = send(&self.http, Method::GET, &url, &Value::Null).await;
        value.as_str().expect("text").to_owned()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/{path}", self.session);
        send(&self.http, Method::POST, &url, body).await
    }
}

async fn send(http: &Client, method: Method, url: &str, body: &Value) -> Value {
    let mut request = http.request(method, url);
    if !body.is_null() {
        request = request.json(body);
    }
    let answer = request.send().await.expect("chromedriver answers");
    let status = answer.status();
    let mut body: Value = answer.json().await.expect("JSON");
    assert!(status.is_success(), "{url}: {}", body["value"]["message"]);
    body["value"].take()
}
