//! What a program can name of rowlock: `docs/api.txt` lists it, so that a change of it is seen in review.
//!
//! `ROWLOCK_BLESS=1 cargo test -p rowlock-tests --test api` writes the list anew. rustdoc's JSON, which it is made from, is unstable: the
//! compiler in `rust-toolchain.toml` and the version of `public-api` belong together.

#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

use public_api::Builder;

/// rustdoc, which takes unstable options. Not cargo: all dependencies would be compiled anew.
const RUSTDOC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/api/rustdoc");

/// The features and the dependencies are those that `tests/run` compiles anyway.
fn json(root: &Path) -> PathBuf {
    let made = Command::new(env!("CARGO"))
        .args([
            "doc",
            "--quiet",
            "--workspace",
            "--lib",
            "--examples",
            "--no-deps",
        ])
        .current_dir(root)
        .env("RUSTDOC", RUSTDOC)
        .env("RUSTDOCFLAGS", "-Z unstable-options --output-format json")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{errors}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    target.join("doc/rowlock.json")
}

#[test]
fn the_public_names_are_those_of_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let api = Builder::from_rustdoc_json(json(&root))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap();
    let now = api.to_string();
    let list = root.join("docs/api.txt");
    if std::env::var_os("ROWLOCK_BLESS").is_some() {
        std::fs::write(&list, &now).unwrap();
    }
    let before = std::fs::read_to_string(&list).unwrap_or_default();
    let changes = difference(&before, &now);
    assert!(
        changes.is_empty(),
        "docs/api.txt is not up to date:\n{changes}"
    );
}

/// The lines that only one of them has.
fn difference(before: &str, now: &str) -> String {
    let only = |these: &str, those: &str, mark: char| {
        let lines = these
            .lines()
            .filter(|line| !those.lines().any(|other| other == *line));
        lines
            .map(|line| format!("{mark} {line}\n"))
            .collect::<String>()
    };
    only(before, now, '-') + &only(now, before, '+')
}
