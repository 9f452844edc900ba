//! `crivet node`: puts crivet in front of the runtime, and takes it away again.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::break_glass;
use crate::config::duration;
use crate::node::host::{Host, ThisMachine};
use crate::node::journal::{Journal, lock};
use crate::node::plan::{Stage, plan};
use crate::node::status::status;
use crate::node::{NodeError, apply, detect};

/// How long a rollback waits for an installer that still works.
const PATIENCE: Duration = Duration::from_secs(600);
/// Longest reason taken, characters.
const REASON: usize = 300;

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Put crivet between the kubelet and its runtime
    ///
    /// Writes a first audit-only configuration if there is none, starts crivet, points the kubelet at it by a drop-in of
    /// its unit and restarts the kubelet. If the kubelet does not come through in time, all of it is taken back. Exit
    /// code 0: installed. 1: not, and the node is as it was, or what is said.
    Install(Install),
    /// Take crivet away: the node is as it was before
    ///
    /// The kubelet first. Needs neither configuration, policies nor a running crivet. Exit code 0: taken away. 1: not.
    Uninstall {
        /// How long the kubelet may take to come back
        #[arg(long, default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
    /// Say what is installed, and whether it is still so
    ///
    /// Exit code 0: crivet is in front of the runtime. 1: it is not.
    Status {
        /// How to print
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// In an emergency: point the kubelet past crivet, at once
    ///
    /// Needs no crivet that works. It is logged, and told by `crivet node status` until the next installation.
    Bypass {
        /// Why; it is kept
        #[arg(long, value_parser = reason)]
        reason: String,
        /// How long the kubelet may take to come back
        #[arg(long, default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
    /// In an emergency: enforce nothing for a while, at once; show or end it
    ///
    /// Writes a file that the daemon looks for twice a second. Needs no policies, no network and no configuration.
    BreakGlass(break_glass::Arguments),
    /// Take back an installation that did not end; the dead man's switch runs it
    #[command(hide = true)]
    Rollback,
}

/// Arguments of `install`.
#[derive(Args)]
pub struct Install {
    /// How far to go; by default what is installed, else image
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// How long the kubelet may take to come through
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

/// How to print.
#[derive(Clone, Copy, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One JSON object
    Json,
}

fn reason(text: &str) -> Result<String, String> {
    let one_line = !text.trim().is_empty() && !text.chars().any(char::is_control);
    match one_line && text.chars().count() <= REASON {
        true => Ok(text.to_owned()),
        false => Err(format!("expected one line of at most {REASON} characters")),
    }
}

/// Runs a command.
pub fn run(command: &Command) -> ExitCode {
    if let Command::BreakGlass(arguments) = command {
        return break_glass::run(arguments);
    }
    crate::logging::to_stderr();
    let done =
        ThisMachine::new().map_err(|error| NodeError::NotThrough(error.to_string())).and_then(|host| {
            let host: &dyn Host = &host;
            match command {
                Command::Install(arguments) => install(host, arguments).map(|()| ExitCode::SUCCESS),
                Command::Uninstall { timeout } => {
                    let _lock = lock(host, Duration::ZERO)?;
                    apply::uninstall(host, *timeout).map(|()| ExitCode::SUCCESS)
                }
                Command::Status { output } => print_status(host, *output),
                Command::Bypass { reason, timeout } => {
                    apply::bypass(host, reason, *timeout).map(|()| ExitCode::SUCCESS)
                }
                // Done above: it needs nothing of the host.
                Command::BreakGlass(arguments) => Ok(break_glass::run(arguments)),
                Command::Rollback => rollback(host).map(|()| ExitCode::SUCCESS),
            }
        });
    done.unwrap_or_else(|error| {
        tracing::error!("{error}");
        ExitCode::FAILURE
    })
}

fn install(host: &dyn Host, arguments: &Install) -> Result<(), NodeError> {
    let _lock = if arguments.dry_run { None } else { Some(lock(host, Duration::ZERO)?) };
    let mut journal = Journal::read(host)?.unwrap_or_default();
    if journal.unfinished() {
        host.say(true, "an earlier installation did not end: it is taken back first");
        if !arguments.dry_run {
            apply::rollback(host, &mut journal, arguments.timeout)?;
        }
    }
    if let Some(bypass) = apply::bypassed(host) {
        host.say(true, &format!("the node was bypassed: {}", bypass.reason));
    }
    let plan = plan(host, detect::detect(host)?, &journal, arguments.stage, arguments.timeout)?;
    let text = if arguments.dry_run { format!("{plan:#}") } else { plan.to_string() };
    host.say(false, text.trim_end());
    if arguments.dry_run || plan.in_place {
        return Ok(());
    }
    apply::install(host, &plan, journal)
}

fn rollback(host: &dyn Host) -> Result<(), NodeError> {
    let _lock = lock(host, PATIENCE)?;
    let mut journal = Journal::read(host)?.unwrap_or_default();
    if journal.unfinished() {
        host.say(true, "`crivet node install` did not end: taking back what it did");
    }
    apply::rollback(host, &mut journal, Duration::from_secs(60))
}

fn print_status(host: &dyn Host, output: Output) -> Result<ExitCode, NodeError> {
    let status = status(host)?;
    let text = match output {
        Output::Text => status.to_string(),
        Output::Json => serde_json::to_string(&status).unwrap_or_default() + "\n",
    };
    // Whoever reads may have gone.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(if status.in_front.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
