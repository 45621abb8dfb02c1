//! What the compiler says about models that it refuses. Those that it must accept are in `ui/pass`.
//!
//! `TRYBUILD=overwrite cargo test -p rowlock-tests --test ui` writes the expected texts anew. They are those of the
//! compiler in `rust-toolchain.toml`, without its source (`rust-src`), which would add excerpts to some notes.

#![allow(missing_docs)]

#[test]
fn mistakes_and_their_messages() {
    trybuild::TestCases::new().compile_fail("ui/fail/*.rs");
}
