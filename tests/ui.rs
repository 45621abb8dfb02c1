//! What users see: models that compile, and what the compiler says about those that do not.
//!
//! `TRYBUILD=overwrite cargo test -p rowlock-tests --test ui` writes the expected texts anew. They are those of the
//! compiler in `rust-toolchain.toml`, without its source (`rust-src`), which would add excerpts to some notes.

#![allow(missing_docs)]

#[test]
fn models_that_compile() {
    trybuild::TestCases::new().pass("ui/pass/*.rs");
}

#[test]
fn mistakes_and_their_messages() {
    trybuild::TestCases::new().compile_fail("ui/fail/*.rs");
}
