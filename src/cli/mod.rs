//! The commands, one file each.

mod break_glass;
pub mod content;
pub mod doctor;
pub mod inventory;
mod logs;
pub mod node;
pub mod policy;
pub mod report;
pub mod serve;
pub mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::registry::credentials::exec;

/// SIGTERM or SIGINT came. Never, where they cannot be listened for: then they end the process by themselves, or SIGKILL does.
async fn told_to_stop() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

/// Where the configuration is unless `--config` says otherwise.
const CONFIG: &str = "/etc/crivet/config.yaml";

/// Vets what the CRI is asked to run.
#[derive(Parser)]
#[command(name = "crivet", version, about, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stand between the kubelet and the runtime
    ///
    /// Exit code 0: stopped in order. 78: the configuration names no usable listen and runtimeEndpoint.
    Serve {
        /// The daemon's configuration
        #[arg(long, default_value = CONFIG)]
        config: PathBuf,
    },
    /// Decide about images as the node would, and show each check
    ///
    /// Exit code 0: all allowed. 1: some denied. 2: some undecided, none denied. 78: bad configuration or policies.
    Verify(verify::Arguments),
    /// Look whether this node is really protected, and say of each trouble what to do
    ///
    /// Exit code 0: it is. 1: it is not.
    Doctor(doctor::Arguments),
    /// Vet every image and every running container on this node
    ///
    /// Exit code 0: all allowed. 1: some denied. 2: some undecided, none denied. 78: bad configuration or policies.
    Inventory(inventory::Arguments),
    /// Hold what is on the node's disk to what its images say
    #[command(subcommand)]
    Content(content::Command),
    /// Check policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Say what enforcement would refuse, or did, from the audit log, and what to do about it
    ///
    /// Exit code 0, whatever the report says. 73: it cannot be written. 78: bad configuration.
    Report(report::Arguments),
    /// Put crivet in front of the runtime, and take it away again
    #[command(subcommand)]
    Node(node::Command),
    /// The other process of `serve`; it is started by the relay
    #[command(hide = true)]
    Vetter,
    /// Becomes a credential provider's program; started by the vetter
    #[command(hide = true, name = exec::COMMAND)]
    CredentialProvider {
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs a command.
pub fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Serve { config } => serve::serve(&config),
        Command::Verify(arguments) => verify::verify(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Inventory(arguments) => inventory::inventory(&arguments),
        Command::Content(command) => content::run(&command),
        Command::Policy(command) => policy::run(&command),
        Command::Report(arguments) => report::report(&arguments),
        Command::Node(command) => node::run(&command),
        Command::Vetter => crate::vetter::run(),
        Command::CredentialProvider { program, arguments } => exec::become_program(&program, &arguments),
    }
}
