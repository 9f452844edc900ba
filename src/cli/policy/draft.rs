//! `crivet policy draft`: a first policy, from the audit log.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::cli::CONFIG;
use crate::cli::logs::Logs;
use crate::report::Drafter;

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// An audit log; its rotated files beside it are read too. May be given several times; default: the configuration's
    #[arg(long, value_name = "FILE")]
    from_audit: Vec<PathBuf>,
    /// The daemon's configuration, which says where the log is; not read if --from-audit is given
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

/// Runs the command.
pub fn draft(arguments: &Arguments) -> ExitCode {
    let faults = match logs(arguments) {
        Ok(logs) => {
            let (mut drafter, mut reader) = (Drafter::default(), Logs::default());
            logs.iter().for_each(|log| reader.read(log, &mut drafter));
            match drafter.read_anything() {
                Ok(()) => {
                    // Whoever reads may have gone, as `head` does.
                    let _ = io::stdout().write_all(drafter.draft().as_bytes());
                    return ExitCode::SUCCESS;
                }
                Err(faults) => faults,
            }
        }
        Err(fault) => vec![fault],
    };
    for fault in faults {
        tracing::error!("{fault}");
    }
    ExitCode::FAILURE
}

fn logs(arguments: &Arguments) -> Result<Vec<PathBuf>, String> {
    if !arguments.from_audit.is_empty() {
        return Ok(arguments.from_audit.clone());
    }
    let config = super::configuration(Path::new(&arguments.config))?;
    Ok(vec![config.audit_log.path])
}
