//! The pages of the repository: links lead somewhere, pages are short where they must be, the guide is complete, and the language is plain.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const GUIDE: &str = "runtime/guide";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(page: impl AsRef<Path>) -> String {
    let path = root().join(page);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Markdown files of a folder, by their paths from the root.
fn pages_of(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.ends_with(".md"));
    names.map(|name| format!("{folder}/{name}")).collect()
}

fn all_pages() -> BTreeSet<String> {
    let single = [
        "README.md",
        "ARCHITECTURE.md",
        "explore/README.md",
        "tests/README.md",
    ];
    let folders = ["docs", GUIDE, "macros/docs", "runtime/docs"];
    let folders = folders.into_iter().flat_map(pages_of);
    folders.chain(single.map(str::to_owned)).collect()
}

/// The page without its code blocks.
fn prose(page: &str) -> String {
    let mut is_code = false;
    let lines = page.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// As GitHub and rustdoc make them of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let page = prose(page);
    let headings = page.lines().filter_map(|line| {
        let text = line.trim_start_matches('#');
        (text.len() < line.len()).then(|| text.trim().to_lowercase())
    });
    let anchor = |heading: String| {
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// `[label]: target`, a line each.
fn definitions(page: &str) -> BTreeMap<String, String> {
    let lines = page.lines().filter_map(|line| line.strip_prefix('['));
    let pairs = lines.filter_map(|line| line.split_once("]: "));
    pairs
        .map(|(label, target)| (label.to_owned(), target.to_owned()))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut nowhere = String::new();
    for page in all_pages() {
        let text = read(&page);
        let folder = root().join(&page).parent().unwrap().to_owned();
        let prose = prose(&text);
        let inline = prose
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap().to_owned());
        for link in inline.chain(definitions(&text).into_values()) {
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let published = "https://docs.rs/rowlock/latest/rowlock/_guide/";
            let path = if let Some(guide) = target.strip_prefix(published) {
                let name = guide.trim_end_matches("/index.html");
                root().join(GUIDE).join(format!("{name}.md"))
            } else if target.contains("://") || link.contains("::") || link.contains('@') {
                continue;
            } else if target.is_empty() {
                root().join(&page)
            } else if !target.contains(['/', '.']) {
                // An item of the crate, which rustdoc looks up.
                continue;
            } else if target.ends_with(".html") {
                // What rustdoc makes of the crate.
                continue;
            } else {
                folder.join(target)
            };
            let has_anchor = || anchors(&fs::read_to_string(&path).unwrap()).contains(anchor);
            let is_page = path.extension().is_some_and(|extension| extension == "md");
            if !path.exists() || (is_page && !anchor.is_empty() && !has_anchor()) {
                writeln!(nowhere, "{page}: {link}").unwrap();
            }
        }
    }
    assert!(nowhere.is_empty(), "\n{nowhere}");
}

#[test]
fn the_readme_and_the_pages_of_the_derives_are_short() {
    let limits = pages_of("macros/docs").into_iter().map(|page| (page, 40));
    for (page, limit) in limits.chain([("README.md".to_owned(), 200)]) {
        let lines = read(&page).lines().count();
        assert!(
            lines <= limit,
            "{page} has {lines} lines, {limit} at most: the guide is the place for more"
        );
    }
}

#[test]
fn the_guide_has_every_page() {
    let module = read("runtime/src/_guide.rs");
    let list = module
        .split_once("\npages! {")
        .and_then(|(_, list)| list.split_once('}'))
        .unwrap()
        .0;
    let modules: BTreeSet<_> = list
        .split_whitespace()
        .map(|name| format!("{GUIDE}/{name}.md"))
        .collect();
    let index = definitions(&read(format!("{GUIDE}/README.md")));
    let index: BTreeSet<_> = index
        .into_values()
        .map(|file| format!("{GUIDE}/{file}"))
        .collect();
    let mut files = pages_of(GUIDE);
    files.remove(&format!("{GUIDE}/README.md"));
    assert_eq!(files, modules);
    assert_eq!(files, index);
}

/// A page is read in two places: as a file, and in the documentation of the crate. Each link needs a definition for both.
#[test]
fn the_links_of_the_guide_are_defined_for_rustdoc_too() {
    let mut rustdoc = definitions(&read(format!("{GUIDE}/links.rustdoc")));
    rustdoc.extend(definitions(&read(format!("{GUIDE}/pictures.rustdoc"))));
    let mut used = BTreeSet::new();
    for page in pages_of(GUIDE) {
        used.extend(definitions(&read(page)).into_keys());
    }
    let defined: BTreeSet<_> = rustdoc.into_keys().collect();
    assert_eq!(used, defined);
}

/// What reads as a translation, and what to write instead.
const PHRASES: [(&str, &str); 15] = [
    ("somebody", "a concurrent writer, another caller"),
    ("if nothing else is said", "defaults to"),
    ("if nothing is said", "defaults to"),
    ("if it is not said", "defaults to"),
    ("unless it says otherwise", "unless you set"),
    ("as soon as it is there", "once"),
    ("belongs into", "belongs in"),
    ("as ever", "as always, as usual"),
    ("behind the answer", "after the answer"),
    ("behind the commit", "after the commit"),
    ("behind the returned", "after the returned"),
    ("before or behind", "before or after"),
    (
        "without its holder's noticing",
        "without its holder's knowledge",
    ),
    ("at least 1.", "minimum 1"),
    ("not any more", "no longer"),
];

/// What the sources below a folder say in their documentation, by file.
fn documentation_of(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Made of the comments of others.
        if path.is_dir() && !path.ends_with("snapshots") {
            documentation_of(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let lines = source.lines().map(str::trim_start);
            let docs = lines.filter_map(|line| {
                let text = line.strip_prefix("///").or(line.strip_prefix("//!"))?;
                Some(text.trim_start().to_owned() + " ")
            });
            found.insert(path, docs.collect());
        }
    }
}

/// Whether the phrase stands there as whole words.
fn has(text: &str, phrase: &str) -> bool {
    let ends = text
        .match_indices(phrase)
        .map(|(at, _)| &text[at + phrase.len()..]);
    ends.into_iter()
        .any(|rest| !rest.starts_with(char::is_alphanumeric))
}

#[test]
fn the_language_is_plain() {
    // These two report what was measured and what was chosen, when it was.
    let exempt = ["docs/benchmarks.md", "docs/behaviours.md"];
    let pages = all_pages().into_iter();
    let pages = pages.filter(|page| !exempt.contains(&page.as_str()));
    let mut texts: BTreeMap<PathBuf, String> = pages
        .map(|page| (PathBuf::from(&page), prose(&read(&page))))
        .collect();
    for folder in ["runtime/src", "macros/src"] {
        documentation_of(&root().join(folder), &mut texts);
    }
    let mut found = String::new();
    for (path, text) in texts {
        let text = text.to_lowercase();
        for (phrase, instead) in PHRASES {
            if has(&text, phrase) {
                let path = path.display();
                writeln!(found, "{path}: \"{phrase}\": rather: {instead}").unwrap();
            }
        }
    }
    assert!(found.is_empty(), "\n{found}");
}
