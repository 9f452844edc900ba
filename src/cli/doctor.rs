//! `crivet doctor`: is this node really protected?

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::verify::Output;
use crate::doctor::{Finding, Level, collect, examine, is_protected};

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// The daemon's configuration
    #[arg(long, value_name = "FILE", default_value = super::CONFIG)]
    config: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the command.
pub fn doctor(arguments: &Arguments) -> ExitCode {
    crate::logging::to_stderr();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let findings = examine(&runtime.block_on(collect::facts(&arguments.config)));
    // Whoever reads may have gone, as `head` does.
    let _ = match arguments.output {
        Output::Text => text(&findings),
        Output::Json => in_json(&findings),
    };
    if is_protected(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn text(findings: &[Finding]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for finding in findings {
        writeln!(out, "{:<7}  {}: {}", finding.level.as_str(), finding.id, plain(&finding.found))?;
        if !finding.todo.is_empty() {
            writeln!(out, "         {}", finding.todo)?;
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (failures, warnings) = (count(Level::Failure), count(Level::Warning));
    let answer = if is_protected(findings) { "This node is protected" } else { "This node is not protected" };
    writeln!(out, "\n{answer}: {failures} failures, {warnings} warnings.")
}

fn in_json(findings: &[Finding]) -> io::Result<()> {
    let all: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "id": finding.id,
                "level": finding.level.as_str(),
                "found": finding.found,
                "todo": finding.todo,
            })
        })
        .collect();
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &json!({"protected": is_protected(findings), "findings": all}))?;
    writeln!(out)
}

/// Some of it was said by others, and it goes to a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
