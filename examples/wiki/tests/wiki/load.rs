//! Sixty-four clients and one page.
//!
//! ```text
//! cargo test --release -p rowlock-wiki --test wiki -- --nocapture load
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Wiki, etag};

const CLIENTS: usize = 64;
const EDITS: usize = 2;
const VIEWS: usize = 10;
const WATCHERS: [&str; 3] = ["ann", "ben", "eve"];

#[tokio::test]
async fn load_on_sqlite() {
    one_hot_page("SQLite", &mut Wiki::on_sqlite()).await;
}

#[tokio::test]
async fn load_on_postgres() {
    one_hot_page("PostgreSQL", &mut Wiki::on_postgres().await).await;
}

async fn one_hot_page(database: &str, wiki: &mut Wiki) {
    wiki.create("key", "hot", "").await;
    for watcher in WATCHERS {
        wiki.post_form("/pages/hot/watch", &[("name", watcher)])
            .await;
    }

    let begun = Instant::now();
    let clients = join_all((0..CLIENTS).map(|client| edit_and_look(wiki, client))).await;
    let took = begun.elapsed();

    // No edit is lost: each got a version of its own, and its line is there once.
    let versions: BTreeSet<i64> = clients
        .iter()
        .flat_map(|client| client.versions.clone())
        .collect();
    let edits = (CLIENTS * EDITS) as i64;
    assert_eq!(versions, (1..=edits).collect());
    let page: Value = wiki.get("/api/pages/hot").await.json().await.expect("JSON");
    assert_eq!(page["lock_version"], edits);
    let mut lines: Vec<&str> = page["body"].as_str().expect("text").lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<String> = (0..CLIENTS)
        .flat_map(|client| (0..EDITS).map(move |edit| line(client, edit)))
        .collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);

    // The counter is exact: of the clients, of the watchers, who were shown the page, and of this look.
    let views = wiki.views("hot").await;
    assert_eq!(views, (CLIENTS * VIEWS + WATCHERS.len() + 1) as u64);

    // Every watcher is told of every version, once or more.
    for watcher in WATCHERS {
        told_of_all(wiki, watcher, edits).await;
    }
    let told = begun.elapsed();

    // What the live page says is what the clients saw.
    let refused: usize = clients.iter().map(|client| client.refused).sum();
    assert_eq!(wiki.counted("conflicts").await, refused as u64);
    let calls = wiki.counted("calls on lanes").await;
    let statements = wiki.counted("statements of lanes").await;
    assert!(
        statements < calls,
        "{statements} statements for {calls} calls"
    );
    println!(
        "{database}: {CLIENTS} clients, {edits} edits of one page, {refused} refused and made again, {} views in {:.1} s; \
         {calls} calls on lanes in {statements} statements; {} notices delivered after {:.1} s",
        CLIENTS * VIEWS,
        took.as_secs_f64(),
        edits as usize * WATCHERS.len(),
        told.as_secs_f64(),
    );
    assert!(wiki.ends_well());
}

#[tokio::test]
async fn notices_survive_a_crash_on_sqlite() {
    notices_survive_a_crash(&mut Wiki::on_sqlite()).await;
}

#[tokio::test]
async fn notices_survive_a_crash_on_postgres() {
    notices_survive_a_crash(&mut Wiki::on_postgres().await).await;
}

/// The program is killed while notices wait and are delivered.
async fn notices_survive_a_crash(wiki: &mut Wiki) {
    const EDITS: i64 = 30;
    wiki.create("key", "hot", "").await;
    for watcher in WATCHERS {
        wiki.post_form("/pages/hot/watch", &[("name", watcher)])
            .await;
    }
    let mut known = wiki.get("/api/pages/hot").await;
    for edit in 0..EDITS {
        let change = json!({ "body": edit.to_string(), "author": "ann" });
        known = wiki.patch("hot", Some(&etag(&known)), &change).await;
        assert_eq!(known.status(), 200);
        if edit % 10 == 9 {
            wiki.crash();
        }
    }
    for watcher in WATCHERS {
        told_of_all(wiki, watcher, EDITS).await;
    }
}

#[derive(Default)]
struct Client {
    versions: Vec<i64>,
    /// How often another client was faster.
    refused: usize,
}

/// Adds lines to the page, each to the newest text, and looks at the page in between.
async fn edit_and_look(wiki: &Wiki, client: usize) -> Client {
    let mut done = Client::default();
    for edit in 0..EDITS {
        for _ in 0..VIEWS / EDITS {
            wiki.text("/pages/hot").await;
        }
        let mut known = wiki.get("/api/pages/hot").await;
        loop {
            let tag = etag(&known);
            let page: Value = known.json().await.expect("JSON");
            let body = format!(
                "{}{}\n",
                page["body"].as_str().expect("text"),
                line(client, edit)
            );
            let author = format!("client-{client}");
            known = wiki
                .patch(
                    "hot",
                    Some(&tag),
                    &json!({ "body": body, "author": author }),
                )
                .await;
            match known.status().as_u16() {
                200 => break,
                // It has the page as it is now.
                412 => done.refused += 1,
                status => panic!("{status}: {}", known.text().await.unwrap_or_default()),
            }
        }
        let saved: Value = known.json().await.expect("JSON");
        done.versions
            .push(saved["lock_version"].as_i64().expect("a version"));
    }
    done
}

fn line(client: usize, edit: usize) -> String {
    format!("client {client} edit {edit}")
}

/// Waits until the inbox has a notice of each version. A notice that is lost is a test that does not end, which fails.
async fn told_of_all(wiki: &Wiki, watcher: &str, edits: i64) {
    loop {
        let inbox = wiki.text(&format!("/inbox/{watcher}")).await;
        let versions: BTreeSet<i64> = inbox
            .split("(version ")
            .skip(1)
            .filter_map(|rest| rest.split_once(')')?.0.parse().ok())
            .collect();
        if versions == (1..=edits).collect() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
