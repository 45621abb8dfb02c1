//! `with-servers COMMAND ARGUMENTS…` runs a command with `ROWLOCK_POSTGRES_URL` set,
//! to a server of its own unless the variable is set already, and with
//! `ROWLOCK_REDIS_URL`, always to a server of its own.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use rowlock_tests::postgres::Server;
use rowlock_tests::redis::Redis;

const URL: &str = "ROWLOCK_POSTGRES_URL";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-servers COMMAND ARGUMENTS...");
        return ExitCode::from(2);
    };
    let mut command = Command::new(&program);
    command.args(arguments);

    // Held until the command is done.
    let server = env::var_os(URL)
        .is_none_or(|url| url.is_empty())
        .then(Server::start);
    if let Some(server) = &server {
        command.env(URL, server.url());
    }
    let redis = Redis::start();
    command.env("ROWLOCK_REDIS_URL", redis.url());
    match command.status() {
        // As a shell has it: 128 and the signal that ended the command.
        Ok(status) => {
            let code = status
                .code()
                .or_else(|| status.signal().map(|signal| 128 + signal));
            ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        Err(error) => {
            eprintln!("with-servers: {}: {error}", program.display());
            ExitCode::from(127)
        }
    }
}
