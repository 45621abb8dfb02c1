//! The rooms of this crate stand on each other, and none on one above it.

use std::path::Path;

/// From the ground up. What stands in no room is used by all, but for the crate's error, which knows them all.
const ROOMS: [&str; 6] = ["db", "tx", "row", "lock", "job", "schema"];
const USED_BY_ALL: [&str; 3] = ["backoff", "fan_out", "observe"];

fn floor(room: &str) -> Option<usize> {
    ROOMS.iter().position(|other| *other == room)
}

/// The modules of the crate that a line of code names.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|path| {
        let end = path.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        &path[..end.unwrap_or(path.len())]
    })
}

fn look(directory: &Path, room: &str, climbs: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, room, climbs);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // Unit tests may look anywhere.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for name in code.flat_map(named) {
            let is_below = floor(name).is_some_and(|floor| Some(floor) <= self::floor(room));
            if !is_below && !USED_BY_ALL.contains(&name) && !name.is_empty() {
                climbs.push(format!("{}: crate::{name}", path.display()));
            }
        }
    }
}

#[test]
fn no_room_stands_on_one_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut climbs = Vec::new();
    for room in ROOMS {
        look(&source.join(room), room, &mut climbs);
    }
    assert!(climbs.is_empty(), "{climbs:#?}");
}
