//! `crivet report`: what enforcement would refuse, from the audit log.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};

use super::logs::Logs;
use crate::audit::from_rfc3339;
use crate::config::{self, Settings, duration};
use crate::report::{Gatherer, Report, Window, html, text};

/// sysexits.h EX_CONFIG.
const EX_CONFIG: u8 = 78;
/// sysexits.h EX_CANTCREAT.
const EX_CANTCREAT: u8 = 73;

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// The daemon's configuration, which says where the log is; not read if --log is given
    #[arg(long, value_name = "FILE", default_value = super::CONFIG)]
    config: PathBuf,
    /// An audit log; its rotated files beside it are read too. May be given several times, one for each node
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// Only decisions from then on: a time such as 2026-08-01T12:00:00Z, a date, or so long ago, such as 7d or 12h
    #[arg(long, value_name = "TIME", value_parser = Bound::parse)]
    since: Option<Bound>,
    /// Only decisions until then, written the same way
    #[arg(long, value_name = "TIME", value_parser = Bound::parse)]
    until: Option<Bound>,
    /// Only pods in this namespace
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people at a terminal
    Text,
    /// One JSON object with all findings (docs/report.schema.json)
    Json,
    /// One page for a browser, with charts
    Html,
}

/// One end of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    At(SystemTime),
    Ago(Duration),
}

impl Bound {
    fn parse(text: &str) -> Result<Bound, String> {
        let at = from_rfc3339(text).or_else(|| from_rfc3339(&format!("{text}T00:00:00Z")));
        let days = || {
            let days: u64 = text.strip_suffix('d')?.parse().ok()?;
            Some(Bound::Ago(Duration::from_secs(days.checked_mul(86_400)?)))
        };
        let ago = || duration(text).ok().map(Bound::Ago);
        at.map(Bound::At).or_else(days).or_else(ago).ok_or_else(|| {
            "expected a time in UTC such as 2026-08-01T12:00:00Z, a date such as 2026-08-01, or a duration such as 7d or 12h".to_owned()
        })
    }

    fn time(self, now: SystemTime) -> SystemTime {
        match self {
            Bound::At(time) => time,
            Bound::Ago(ago) => {
                now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH)
            }
        }
    }
}

/// Runs the command.
pub fn report(arguments: &Arguments) -> ExitCode {
    crate::logging::to_stderr();
    let logs = match logs(arguments) {
        Ok(logs) => logs,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    let now = SystemTime::now();
    let report = read(&logs, arguments, now);
    let shown = match arguments.output {
        Output::Text => text::render(&report),
        Output::Html => html::render(&report),
        Output::Json => match serde_json::to_string_pretty(&report) {
            Ok(json) => json + "\n",
            Err(error) => {
                tracing::error!(%error, "the report cannot be written as JSON");
                return ExitCode::from(EX_CANTCREAT);
            }
        },
    };
    match &arguments.file {
        // Whoever reads may have gone, as `head` does.
        None => drop(io::stdout().write_all(shown.as_bytes())),
        Some(file) => {
            if let Err(error) = write(file, &shown) {
                tracing::error!("{}: cannot be written: {error}; name another file", file.display());
                return ExitCode::from(EX_CANTCREAT);
            }
        }
    }
    ExitCode::SUCCESS
}

fn logs(arguments: &Arguments) -> Result<Vec<PathBuf>, String> {
    if !arguments.logs.is_empty() {
        return Ok(arguments.logs.clone());
    }
    let loaded = config::load(&arguments.config).map_err(|error| error.to_string())?;
    match (loaded.settings, loaded.error) {
        (Settings::Whole(whole), None) => Ok(vec![whole.audit_log.path]),
        (_, error) => Err(error.unwrap_or_default()),
    }
}

fn read(logs: &[PathBuf], arguments: &Arguments, now: SystemTime) -> Report {
    let window = Window {
        since: arguments.since.map(|bound| bound.time(now)),
        until: arguments.until.map(|bound| bound.time(now)),
        namespace: arguments.namespace.clone(),
    };
    let (mut gatherer, mut reader) = (Gatherer::new(window), Logs::default());
    for log in logs {
        reader.read(log, &mut gatherer);
    }
    gatherer.report(now)
}

/// Names of images and namespaces are for whoever asked.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_three_ways() {
        let at = |text: &str| Some(Bound::At(from_rfc3339(text).unwrap()));
        assert_eq!(Bound::parse("2026-08-01").ok(), at("2026-08-01T00:00:00Z"));
        assert_eq!(Bound::parse("2026-08-01T12:30:00Z").ok(), at("2026-08-01T12:30:00Z"));
        for (text, seconds) in [("7d", 604_800), ("12h", 43_200), ("1h30m", 5_400), ("0s", 0)] {
            assert_eq!(Bound::parse(text).ok(), Some(Bound::Ago(Duration::from_secs(seconds))), "{text}");
        }
        for wrong in ["", "d", "7", "-1d", "yesterday", "2026-02-30", "99999999999999999999d"] {
            assert!(Bound::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn longer_ago_than_1970_is_1970() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        assert_eq!(Bound::Ago(Duration::from_secs(61)).time(now), SystemTime::UNIX_EPOCH);
        assert_eq!(
            Bound::Ago(Duration::from_secs(20)).time(now),
            SystemTime::UNIX_EPOCH + Duration::from_secs(40)
        );
    }
}
