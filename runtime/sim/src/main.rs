//! The command behind `cargo xtask sim` and `cargo xtask bugbank`.
//!
//! Owns the exit code: 0 all is well, 1 something was found, 2 wrong usage.

#![expect(clippy::print_stdout, reason = "a command line tool prints its report")]

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    match command::run() {
        Ok(report) => {
            print!("{}", report.text);
            if report.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}
