//! `crivet policy`: what can be said about policies without running anything by them.

mod check;
mod draft;
mod explain;
mod import;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;

use crate::config::{self, ProxyConfiguration, Settings, files};
use crate::limits;
use crate::policy::PolicySet;
use crate::vetter::load::{compile, from_folder};

/// What to do with policies.
#[derive(Subcommand)]
pub enum Command {
    /// Load policies, say what is wrong with them, and what looks wrong
    ///
    /// Exit code 0: they load. 1: they do not; with --strict also if there are warnings.
    Check(check::Arguments),
    /// Say which policies cover an image, which of them decide and why, what they ask for and what would satisfy it
    ///
    /// Neither the network nor the daemon is asked. Exit code 0: said. 1: bad configuration, policies or image.
    Explain(explain::Arguments),
    /// Hold policies to what is expected of them, for CI
    ///
    /// Exit code 0: all is as expected. 1: something is not, or a file cannot be read.
    Test(test::Arguments),
    /// Write the policies of other dialects as ImagePolicies, with comments on what changed
    ///
    /// Exit code 0: all of it is said. 1: something has no such form, which is told, or bad policies.
    Import(import::Arguments),
    /// Write a first policy that fits what the audit log says was run
    ///
    /// It goes to standard output, and is to be read before it is used. Exit code 0: written. 1: nothing could be read.
    Draft(draft::Arguments),
}

/// Runs the command.
pub fn run(command: &Command) -> ExitCode {
    crate::logging::to_stderr();
    match command {
        Command::Check(arguments) => check::check(arguments),
        Command::Explain(arguments) => explain::explain(arguments),
        Command::Test(arguments) => test::test(arguments),
        Command::Import(arguments) => import::import(arguments),
        Command::Draft(arguments) => draft::draft(arguments),
    }
}

/// A configuration as the daemon would start with it.
///
/// # Errors
/// One line.
fn configuration(path: &Path) -> Result<ProxyConfiguration, String> {
    if !path.exists() {
        return Err(format!(
            "{}: expected the daemon's configuration, found no such file; name it with --config FILE, or policies alone (check PATH; explain and test with --policy PATH), or an audit log (draft --from-audit FILE)",
            path.display()
        ));
    }
    let loaded = config::load(path).map_err(|error| error.to_string())?;
    match (loaded.settings, loaded.error) {
        (Settings::Whole(whole), None) => Ok(*whole),
        (_, error) => Err(error.unwrap_or_default()),
    }
}

/// The policies that a command is about, and the configuration, unless policies alone are given.
///
/// # Errors
/// What is wrong with them, each fault one line.
fn given(
    config: Option<&Path>,
    policy: Option<&Path>,
) -> Result<(Option<ProxyConfiguration>, Arc<PolicySet>), Vec<String>> {
    let config = match (config, policy) {
        (None, Some(_)) => None,
        (path, _) => {
            Some(configuration(path.unwrap_or(Path::new(super::CONFIG))).map_err(|error| vec![error])?)
        }
    };
    let folder = config.as_ref().map(|config| config.policy_dir.as_path());
    let set = read_policies(policy.or(folder).unwrap_or(Path::new("")))?;
    Ok((config, set))
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

/// Where policies are, as several of the commands are told.
#[derive(clap::Args)]
struct Where {
    /// The daemon's configuration; not read if --policy is given and this is not
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A policy file or folder, instead of the configuration's policyDir
    #[arg(long, value_name = "PATH")]
    policy: Option<PathBuf>,
}
