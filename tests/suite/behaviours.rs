//! `docs/behaviours.md` lists each behaviour with the tests whose names begin with its ID.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The lines of each ID that list its tests, as they should be or as they are.
type Lists = BTreeMap<String, String>;

/// The IDs that a name begins with: V-10 and D-04 of `v_10_d_04_a_null_version_…`.
fn ids(name: &str) -> Vec<String> {
    let words: Vec<&str> = name.split('_').collect();
    let id = |pair: &[&str]| match *pair {
        [section, number]
            if section.len() == 1
                && section.bytes().all(|byte| byte.is_ascii_lowercase())
                && number.len() == 2
                && number.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Some(format!("{}-{number}", section.to_uppercase()))
        }
        _ => None,
    };
    words.chunks(2).map_while(id).collect()
}

/// Adds the tests of all sources in the folder, by path and then in the order of the file.
fn add_tests(root: &Path, folder: &Path, lists: &mut Lists) {
    let entries = fs::read_dir(folder).unwrap();
    let paths: BTreeSet<_> = entries.map(|entry| entry.unwrap().path()).collect();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                add_tests(root, &path, lists);
            }
        } else if name.ends_with(".rs") {
            let link = path.strip_prefix(root).unwrap().display();
            for line in fs::read_to_string(&path).unwrap().lines() {
                let line = line.trim_start();
                let item = line.strip_prefix("async ").unwrap_or(line);
                let Some((test, _)) = item
                    .strip_prefix("fn ")
                    .and_then(|item| item.split_once('('))
                else {
                    continue;
                };
                for id in ids(test) {
                    let list = lists.entry(id).or_default();
                    writeln!(list, "- `{test}` ([{name}](../{link}))").unwrap();
                }
            }
        }
    }
}

/// What the page has under each heading `### V-01 …`.
fn listed(page: &str) -> Lists {
    let mut lists = Lists::new();
    let mut id = None;
    for line in page.lines() {
        if line.starts_with('#') {
            let title = line.strip_prefix("### ").and_then(|title| title.get(..4));
            id = title.map(str::to_owned);
            if let Some(id) = &id {
                lists.entry(id.clone()).or_default();
            }
        } else if let Some(id) = &id
            && line.starts_with("- ")
        {
            writeln!(lists.get_mut(id).unwrap(), "{line}").unwrap();
        }
    }
    lists
}

#[test]
fn the_page_of_behaviours_lists_every_test_that_carries_an_id() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/behaviours.md")).unwrap();
    let mut tests = Lists::new();
    add_tests(root, root, &mut tests);
    let listed = listed(&page);

    let mut to_do = String::new();
    for (id, list) in &tests {
        match listed.get(id) {
            None => writeln!(to_do, "add `### {id} …`, what it means, and:\n{list}").unwrap(),
            Some(found) if found != list => {
                writeln!(to_do, "the tests of {id} are now:\n{list}").unwrap();
            }
            Some(_) => {}
        }
    }
    for id in listed.keys().filter(|id| !tests.contains_key(*id)) {
        writeln!(
            to_do,
            "no test names {id}: name one, or move it to \"Without a test of its own\""
        )
        .unwrap();
    }
    assert!(to_do.is_empty(), "in docs/behaviours.md\n{to_do}");
}
