//! The crivet binary: arguments, and the command they name.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    crivet::cli::run(crivet::cli::Arguments::parse())
}
