//! Models that must compile: each file under lints, or among names, that generated code could run into.

#![allow(missing_docs)]
// For `lints`: this one counts only here.
#![deny(future_incompatible)]

// `hygiene` calls it so.
extern crate rowlock as db;

pub mod hygiene;
pub mod lints;
pub mod names;
pub mod one_of_three;
pub mod shapes;
pub mod spawn_locks;

#[test]
fn every_file_is_part_of_this() {
    for file in std::fs::read_dir("ui/pass").unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let module = format!("pub mod {};", name.trim_end_matches(".rs"));
        assert!(
            name == "main.rs" || include_str!("main.rs").contains(&module),
            "{name}"
        );
    }
}
