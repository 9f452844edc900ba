//! `crivet policy check`: loads policies as the daemon would, and says what is wrong with them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;

use crate::config::{self, Settings, files};
use crate::limits;
use crate::policy::PolicySet;
use crate::vetter::load::{compile, from_folder};

/// What to do with policies.
#[derive(Subcommand)]
pub enum Command {
    /// Load policies and say what is wrong with them
    ///
    /// Exit code 0: they load. 1: they do not.
    Check {
        /// A policy file or folder; default: the configuration's policyDir
        path: Option<PathBuf>,
        /// The daemon's configuration
        #[arg(long, value_name = "FILE", default_value = super::CONFIG)]
        config: PathBuf,
    },
}

/// Runs the command.
pub fn run(command: &Command) -> ExitCode {
    let Command::Check { path, config } = command;
    crate::logging::to_stderr();
    let path = match path {
        Some(path) => Ok(path.clone()),
        None => policy_dir(config).map_err(|error| vec![error]),
    };
    match path.and_then(|path| read_policies(&path)) {
        Ok(set) => {
            let policies = match set.len() {
                1 => "1 policy".to_owned(),
                more => format!("{more} policies"),
            };
            let _ = writeln!(io::stdout(), "ok: {policies}, policy set {}", set.hash());
            ExitCode::SUCCESS
        }
        Err(faults) => {
            let _ = writeln!(io::stdout(), "{}", faults.join("\n"));
            ExitCode::FAILURE
        }
    }
}

fn policy_dir(config: &Path) -> Result<PathBuf, String> {
    let loaded = config::load(config).map_err(|error| error.to_string())?;
    match (loaded.settings, loaded.error) {
        (Settings::Whole(whole), None) => Ok(whole.policy_dir),
        (_, error) => Err(error.unwrap_or_default()),
    }
}

/// The policies of a file or folder.
///
/// # Errors
/// What is wrong with them, each fault one line.
pub fn read_policies(path: &Path) -> Result<Arc<PolicySet>, Vec<String>> {
    if path.is_dir() {
        return from_folder(path).map(|(set, _)| set);
    }
    let bytes = files::read_guarded(path, "POLICY_SET_BYTES", limits::POLICY_SET_BYTES)
        .map_err(|error| vec![error.to_string()])?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sources = files::with_key_files(vec![files::SourceFile { name, bytes }]);
    compile(&sources.map_err(|error| vec![error.to_string()])?)
}
