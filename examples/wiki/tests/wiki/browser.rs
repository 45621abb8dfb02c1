//! Two people and a third in a real browser. Needs `chromium` and `chromium-driver`: without them it fails, and names them. It is there with the feature
//! `browser`, with which `tests/run` runs it where they are or can be installed.

use std::env;
use std::fs;

use crate::support::Wiki;
use crate::support::webdriver::Driver;

/// The picture in the README.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conflict.png");

#[tokio::test]
async fn two_edit_one_merges_a_third_deletes_on_sqlite() {
    two_edit_one_merges_a_third_deletes(&Wiki::on_sqlite()).await;
}

#[tokio::test]
async fn two_edit_one_merges_a_third_deletes_on_postgres() {
    two_edit_one_merges_a_third_deletes(&Wiki::on_postgres().await).await;
}

async fn two_edit_one_merges_a_third_deletes(wiki: &Wiki) {
    let driver = Driver::start();
    let (ann, ben) = (driver.window().await, driver.window().await);
    let page = format!("{}/pages/welcome", wiki.url);

    // Both open the form, and then both save it.
    for window in [&ann, &ben] {
        window.open(&page).await;
        window.click("#edit").await;
    }
    ann.fill("[name=title]", "Welcome to the wiki").await;
    ann.fill("[name=body]", "Ask Ann if you are new.").await;
    ann.fill("[name=author]", "ann").await;
    ann.click("#save").await;
    assert_eq!(ann.text("h1").await, "Welcome to the wiki");

    ben.fill("[name=tags]", "help, start").await;
    ben.fill("[name=body]", "Ask Ben if you are new.").await;
    ben.fill("[name=author]", "ben").await;
    ben.click("#save").await;

    // Ben has the conflict: two fields are merged, and he decides the third.
    assert_eq!(ben.text("h1").await, "Somebody else was faster");
    assert_eq!(
        ben.value("#field-title.merged input").await,
        "Welcome to the wiki"
    );
    assert_eq!(ben.value("#field-tags.merged input").await, "help, start");
    let columns = ben.text("#field-body.overlap .columns").await;
    let before = "Open this page in two windows, edit it in both, and save both.";
    assert_eq!(
        columns.lines().collect::<Vec<_>>(),
        [
            "Theirs",
            "Ask Ann if you are new.",
            "Mine",
            "Ask Ben if you are new.",
            "Before",
            before
        ]
    );
    if env::var_os("ROWLOCK_BLESS").is_some() {
        let png = ben.screenshot().await;
        assert!(png.len() < 100_000, "the picture has {} bytes", png.len());
        fs::write(PICTURE, png).expect("the picture can be written");
    }
    ben.fill("#field-body textarea", "Ask Ann or Ben if you are new.")
        .await;
    ben.click("#save").await;

    // Both see both edits.
    ann.open(&page).await;
    for window in [&ann, &ben] {
        assert_eq!(window.text("h1").await, "Welcome to the wiki");
        assert_eq!(window.text("#body").await, "Ask Ann or Ben if you are new.");
        assert_eq!(window.text(".tag:nth-of-type(2)").await, "start");
    }

    // Ann goes on writing, and Eve deletes the page.
    ann.click("#edit").await;
    ann.fill("[name=body]", "What Ann still wanted to say.")
        .await;
    ann.fill("[name=author]", "ann").await;
    let eve = driver.window().await;
    eve.open(&page).await;
    eve.fill("[action$=delete] [name=author]", "eve").await;
    eve.click("#delete").await;
    assert_eq!(eve.text("h1").await, "Pages");

    // Ann is told, and has lost nothing.
    ann.click("#save").await;
    assert_eq!(ann.text("h1").await, "This page was deleted");
    assert_eq!(
        ann.value("[name=body]").await,
        "What Ann still wanted to say."
    );
    ann.click("#save").await;
    assert_eq!(ann.text("#body").await, "What Ann still wanted to say.");
}
