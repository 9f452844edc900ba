//! `crivet policy import`: other dialects' policies as native ones.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// A policy file or folder
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// Runs the command.
pub fn import(arguments: &Arguments) -> ExitCode {
    let set = match super::read_policies(&arguments.path) {
        Ok(set) => set,
        Err(faults) => {
            for fault in faults {
                tracing::error!("{fault}");
            }
            return ExitCode::FAILURE;
        }
    };
    let imported = set.import();
    // Whoever reads may have gone, as `head` does.
    let _ = io::stdout().write_all(imported.text.as_bytes());
    if imported.text.is_empty() {
        tracing::error!(
            "{}: nothing to import: all policies there are ImagePolicies",
            arguments.path.display()
        );
        return ExitCode::FAILURE;
    }
    for line in &imported.unsaid {
        tracing::warn!("not imported: {line}");
    }
    if imported.unsaid.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
