//! The small form of the program `soak`, and what it says of workers that are wrong.

use std::process::{Command, Output};

use rowlock_tests::postgres::Server;

/// With a worker that is killed every half second, and a crash of the server. `None` where no server can be started.
fn soak(arguments: &[&str]) -> Option<(Output, String)> {
    if !Server::can_start_another() {
        return None;
    }
    let mut soak = Command::new(env!("CARGO_BIN_EXE_soak"));
    let small = "--kill-every 500 --restarts 1 --lease 1000";
    let output = soak.args(small.split(' ')).args(arguments).output();
    let output = output.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&output.stdout));
    Some((output, said))
}

#[test]
fn every_task_is_done_once_whatever_happens_to_workers_and_server() {
    if let Some((output, said)) = soak(&["--jobs", "5000"]) {
        assert!(output.status.success() && !said.contains("WRONG"), "{said}");
    }
}

/// Those of attempts that fail are not taken back.
#[test]
fn the_naive_twin_writes_its_effects_outside_of_the_transaction() {
    if let Some((output, said)) = soak(&["--jobs", "2000", "--break", "effects"]) {
        let found = said.contains("an effect that happened several times");
        assert!(found && output.status.code() == Some(1), "{said}");
    }
}

/// A process that is stopped for longer than its lease completes what another one has completed meanwhile.
#[test]
fn the_naive_twin_completes_without_a_fence() {
    if let Some((output, said)) = soak(&["--jobs", "3000", "--break", "fence"]) {
        let found = said.contains("an effect that happened several times");
        assert!(found && output.status.code() == Some(1), "{said}");
    }
}
