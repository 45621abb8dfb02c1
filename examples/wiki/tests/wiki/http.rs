//! What HTTP promises.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Wiki, etag};

/// A test on both databases.
macro_rules! on_both {
    ($name:ident) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn on_sqlite() {
                super::$name(&mut Wiki::on_sqlite()).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                super::$name(&mut Wiki::on_postgres().await).await;
            }
        }
    };
}

on_both!(a_change_says_which_version_it_is_of);
async fn a_change_says_which_version_it_is_of(wiki: &mut Wiki) {
    wiki.create("key", "page", "one").await;
    let seen = etag(&wiki.get("/api/pages/page").await);
    let change = |body: &str| json!({ "body": body, "author": "ann" });

    let blind = wiki.patch("page", None, &change("two")).await;
    assert_eq!(blind.status(), 428);
    assert_eq!(blind.headers()["content-type"], "application/problem+json");

    let first = wiki.patch("page", Some(&seen), &change("two")).await;
    assert_eq!(first.status(), 200);
    let late = wiki.patch("page", Some(&seen), &change("three")).await;
    assert_eq!(late.status(), 412);
    // With the page as it is now.
    assert_eq!(etag(&late), etag(&first));
    let current: Value = late.json().await.expect("JSON");
    assert_eq!(current["body"], "two");
}

on_both!(a_tag_of_a_deleted_page_is_none_of_its_successor);
async fn a_tag_of_a_deleted_page_is_none_of_its_successor(wiki: &mut Wiki) {
    wiki.create("first", "page", "one").await;
    let seen = etag(&wiki.get("/api/pages/page").await);
    let page: Value = wiki
        .get("/api/pages/page")
        .await
        .json()
        .await
        .expect("JSON");
    let id = page["id"].to_string();
    let delete = async |wiki: &Wiki| {
        let seen = [("id", id.as_str()), ("version", "0"), ("author", "eve")];
        wiki.post_form("/pages/page/delete", &seen).await.status()
    };
    assert_eq!(delete(wiki).await, 200);
    assert_eq!(wiki.get("/api/pages/page").await.status(), 404);

    // Both are of version 0.
    wiki.create("second", "page", "two").await;
    let change = json!({ "body": "x", "author": "ann" });
    assert_eq!(wiki.patch("page", Some(&seen), &change).await.status(), 412);
    assert_eq!(delete(wiki).await, 410);
    let page: Value = wiki
        .get("/api/pages/page")
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(page["body"], "two");
}

on_both!(one_key_makes_one_page);
async fn one_key_makes_one_page(wiki: &mut Wiki) {
    // All at once. Who comes while another one is at work is told to come again.
    let answers = join_all((0..16).map(|_| async {
        loop {
            let answer = wiki.create("key", "page", "one").await;
            match answer.status().as_u16() {
                201 => return etag(&answer),
                409 if answer.headers().contains_key("retry-after") => {}
                status => panic!("{status}"),
            }
        }
    }));
    let tags = answers.await;
    assert!(tags.iter().all(|tag| *tag == tags[0]), "{tags:?}");

    let other = wiki.create("key", "page", "another text").await;
    assert_eq!(other.status(), 422);
    let taken = wiki.create("another key", "page", "one").await;
    assert_eq!(taken.status(), 409);
    let none = wiki
        .http
        .post(format!("{}/api/pages", wiki.url))
        .json(&json!({}))
        .send()
        .await;
    assert_eq!(none.expect("an answer").status(), 400);
}

on_both!(a_hundred_edits_an_hour);
async fn a_hundred_edits_an_hour(wiki: &mut Wiki) {
    wiki.create("key", "page", "").await;
    let mut known = wiki.get("/api/pages/page").await;
    let mut saved = 0;
    // The clock can pass an hour on the way, which allows as many again.
    while known.status() == 200 {
        let change = json!({ "body": saved.to_string(), "author": "ann" });
        known = wiki.patch("page", Some(&etag(&known)), &change).await;
        saved += usize::from(known.status() == 200);
        assert!(saved <= 200);
    }
    assert_eq!(known.status(), 429);
    assert!(saved >= 100, "{saved}");
    // The edit was rolled back with the quota.
    let page: Value = wiki
        .get("/api/pages/page")
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(page["body"], (saved - 1).to_string());
    assert_eq!(page["lock_version"], saved);
}

on_both!(tags_and_links_and_reports);
async fn tags_and_links_and_reports(wiki: &mut Wiki) {
    wiki.create(
        "key",
        "page",
        &format!("{}/ and http://127.0.0.1:1/", wiki.url),
    )
    .await;
    let tag = etag(&wiki.get("/api/pages/page").await);
    let change = json!({ "tags": "Rust, help, rust", "author": "ann" });
    assert_eq!(wiki.patch("page", Some(&tag), &change).await.status(), 200);
    let about_help = wiki.text("/tags/help").await;
    assert!(about_help.contains("/pages/page") && about_help.contains("/pages/welcome"));
    assert!(wiki.text("/tags/rust").await.contains("/pages/page"));

    let links = wiki.text("/pages/page/links").await;
    assert!(
        links.contains("200") && links.contains("no answer"),
        "{links}"
    );
    // The first report is made when the program starts.
    while !wiki.text("/").await.contains("Most edited") {
        tokio::task::yield_now().await;
    }
    assert!(wiki.text("/live").await.contains("Notices: 0 ready"));
}
