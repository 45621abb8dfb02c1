//! What the database has not. The tables, and the test that finds the same in them, are in `tests/schema`.

#[path = "../../schema/mistakes.rs"]
mod mistakes;

fn main() {}
