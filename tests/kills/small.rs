//! The small form of the program `kills`, and what it says of lanes that are wrong. A binary of its own: it leaves no time for tests that have some.

#![allow(missing_docs)]

use std::process::{Command, Output};

use rowlock_tests::postgres::Server;

/// `None` where no server can be started.
fn kills(arguments: &str) -> Option<(Output, String)> {
    if !Server::can_start_another() {
        return None;
    }
    let mut kills = Command::new(env!("CARGO_BIN_EXE_kills"));
    let output = kills.args(arguments.split(' ')).output();
    let output = output.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&output.stdout));
    Some((output, said))
}

/// The law is broken in a round of this trouble.
#[track_caller]
fn is_wrong(trouble: &str, arguments: &str) {
    if let Some((output, said)) = kills(arguments) {
        let found = said.contains(&format!("WRONG: {trouble}, seed"));
        assert!(found && output.status.code() == Some(1), "{said}");
    }
}

#[test]
fn what_was_confirmed_is_there_whatever_breaks() {
    if let Some((output, said)) = kills("--kills 20 --cuts 20 --crashes 2 --stops 2") {
        assert!(output.status.success() && !said.contains("WRONG"), "{said}");
    }
}

/// A connection is cut between the answer and COMMIT.
#[test]
fn the_naive_twin_answers_before_commit() {
    let early = "--kills 0 --cuts 400 --crashes 0 --stops 0 --break early";
    is_wrong("Cut", early);
}

/// The statement was executed, and its answer lost.
#[test]
fn the_naive_twin_sends_a_statement_again() {
    let again = "--kills 0 --cuts 400 --crashes 0 --stops 0 --break again";
    is_wrong("Cut", again);
}

/// The server crashes after it has answered, and before it has written.
#[test]
fn the_naive_twin_does_not_wait_for_the_disk() {
    let lazy = "--kills 0 --cuts 0 --crashes 20 --stops 0 --break lazy";
    is_wrong("Crash", lazy);
}
