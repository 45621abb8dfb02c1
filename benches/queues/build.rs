//! Collects the migrations of sqlxmq, which come with its sources and are meant to be copied; the crate does not export them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let migrations = source_of("sqlxmq").join("migrations");
    let mut files: Vec<PathBuf> = fs::read_dir(&migrations)
        .expect("sqlxmq ships its migrations")
        .map(|entry| entry.expect("a directory can be read").path())
        .filter(|path| path.to_string_lossy().ends_with(".up.sql"))
        .collect();
    // Their names begin with the time they were made.
    files.sort();
    let sql: String = files
        .iter()
        .map(|file| fs::read_to_string(file).expect("a migration is text") + ";\n")
        .collect();
    let target = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&target).join("sqlxmq.sql"), sql).expect("OUT_DIR can be written");
}

/// Where cargo keeps the sources of a dependency.
fn source_of(name: &str) -> PathBuf {
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", &target])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata fails");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == name))
        .and_then(|package| package["manifest_path"].as_str())
        .expect("it is a dependency");
    Path::new(manifest)
        .parent()
        .expect("a manifest is in a directory")
        .to_owned()
}
