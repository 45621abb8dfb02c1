//! The licences of what a program gets with rowlock: whoever may use it under MIT or Apache-2.0 may use all of it.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const PERMISSIVE: [&str; 11] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
];

/// With every feature of rowlock, and nothing else of the workspace.
fn metadata() -> Value {
    let runtime = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/Cargo.toml");
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--all-features", "--manifest-path", runtime])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&asked.stderr);
    assert!(asked.status.success(), "{errors}");
    serde_json::from_slice(&asked.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether one of the alternatives consists of licences of the list. No package here has a choice inside of a requirement.
fn is_permissive(licence: &str) -> bool {
    let alternatives = licence.replace('/', " OR ");
    let is_known = |part: &str| {
        let part = part.trim_matches(['(', ')', ' ']);
        let part = part.split(" WITH ").next().unwrap_or_default();
        PERMISSIVE.contains(&part)
    };
    alternatives
        .split(" OR ")
        .any(|parts| parts.split(" AND ").all(is_known))
}

#[test]
fn all_dependencies_may_be_used_like_rowlock() {
    let metadata = metadata();
    let packages: BTreeMap<&str, &Value> = list(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), package))
        .collect();
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (text(&node["id"]), node))
        .collect();
    let mut open: Vec<&str> = packages
        .iter()
        .filter(|(_, package)| package["name"] == "rowlock")
        .map(|(id, _)| *id)
        .collect();
    let mut met = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !met.insert(id) {
            continue;
        }
        for dependency in list(&nodes[id]["deps"]) {
            let is_for_tests = |kind: &Value| kind["kind"] == "dev";
            if !list(&dependency["dep_kinds"]).iter().all(is_for_tests) {
                open.push(text(&dependency["pkg"]));
            }
        }
    }
    assert!(met.len() > 50, "{met:?}");
    for id in met {
        let licence = text(&packages[id]["license"]);
        assert!(is_permissive(licence), "{id}: {licence}");
    }
}

#[test]
fn a_licence_that_asks_for_more_is_seen() {
    for licence in [
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert!(is_permissive(licence), "{licence}");
    }
    for licence in ["GPL-3.0-only", "MIT AND MPL-2.0", ""] {
        assert!(!is_permissive(licence), "{licence}");
    }
}
