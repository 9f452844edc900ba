//! The crivet binary: arguments, and the command they name.

use std::process::ExitCode;

use clap::Parser;

/// sysexits.h EX_USAGE: clap's own 2 would say "undecided".
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    match crivet::cli::Arguments::try_parse() {
        Ok(arguments) => crivet::cli::run(arguments),
        Err(error) => {
            // Nowhere left to say that it cannot be said.
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS }
        }
    }
}
