//! `crivet policy check`: loads policies as the daemon would, and says what is wrong with them, and what looks wrong.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;

use super::{configuration, read_policies};
use crate::cli::CONFIG;
use crate::config::{Mode, ProxyConfiguration};
use crate::policy::PolicySet;
use crate::trust::source;
use crate::vetter::load::roots_at_fault;

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// A policy file or folder; default: the configuration's policyDir
    path: Option<PathBuf>,
    /// The daemon's configuration; not read if a path is given and this is not
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
}

/// Runs the command.
pub fn check(arguments: &Arguments) -> ExitCode {
    let (lines, code) = match look(arguments) {
        Ok((set, warnings)) => {
            let policies = match set.len() {
                1 => "1 policy".to_owned(),
                more => format!("{more} policies"),
            };
            let code = match (warnings.is_empty(), arguments.strict) {
                (false, true) => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            };
            let told = match warnings.len() {
                0 => String::new(),
                1 => ", 1 warning".to_owned(),
                more => format!(", {more} warnings"),
            };
            let mut lines: Vec<String> =
                warnings.iter().map(|warning| format!("warning: {warning}")).collect();
            lines.push(format!("ok: {policies}, policy set {}{told}", set.hash()));
            (lines, code)
        }
        Err(faults) => (faults, ExitCode::FAILURE),
    };
    let _ = writeln!(io::stdout(), "{}", lines.join("\n"));
    code
}

/// The policies, and what looks wrong with them.
fn look(arguments: &Arguments) -> Result<(Arc<PolicySet>, Vec<String>), Vec<String>> {
    let config = match (&arguments.config, &arguments.path) {
        (None, Some(_)) => None,
        (config, _) => {
            let path = config.as_deref().unwrap_or(Path::new(CONFIG));
            Some(configuration(path).map_err(|error| vec![error])?)
        }
    };
    let folder = config.as_ref().map(|config| config.policy_dir.clone());
    let set = read_policies(&arguments.path.clone().or(folder).unwrap_or_default())?;
    let mut warnings = missing_roots(config.as_ref(), &set)?;
    let audits = config.as_ref().is_some_and(|config| config.mode == Mode::Audit);
    let found = set.lint(SystemTime::now());
    // Below an auditing daemon a policy's mode says nothing yet.
    let found = found.into_iter().filter(|warning| !(audits && warning.line == 0));
    warnings.extend(found.map(|warning| warning.to_string()));
    Ok((set, warnings))
}

/// With a configuration, which says what roots there are, a policy that names another does not load.
fn missing_roots(config: Option<&ProxyConfiguration>, set: &PolicySet) -> Result<Vec<String>, Vec<String>> {
    let Some(config) = config else { return Ok(roots_at_fault(&source::Settings::default().roots, set)) };
    let faults = roots_at_fault(&config.trust.roots, set);
    if faults.is_empty() { Ok(faults) } else { Err(faults) }
}
