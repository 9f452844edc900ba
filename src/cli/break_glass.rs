//! `crivet node break-glass`: writes, removes and shows the file that turns enforcement into audit at once. Needs nothing
//! but the runtime folder: no policies, no network, no daemon, no configuration that can be read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;

use crate::audit::rfc3339;
use crate::config::{self, Settings, duration, files};
use crate::control::wire::Status;
use crate::control::{self, Control};
use crate::relay::break_glass::{self, LONGEST, NotTaken, Written, check_reason};

/// Where the daemon's runtime folder is unless a configuration says otherwise.
const RUNTIME_DIR: &str = "/run/crivet";
/// How long a daemon has to take the file. It looks every half second.
const PATIENCE: Duration = Duration::from_secs(5);

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// The daemon's configuration, which names its runtime folder; /run/crivet if it cannot be read
    #[arg(long, value_name = "FILE", default_value = super::CONFIG)]
    config: PathBuf,
    /// Why; it is logged, and shown to whoever asks
    #[arg(long, value_name = "TEXT", requires = "time", conflicts_with = "end")]
    reason: Option<String>,
    /// For how long, 12h at most, e.g. 30m or 1h
    #[arg(id = "time", long = "for", value_name = "DURATION", requires = "reason")]
    time: Option<String>,
    /// End it now
    #[arg(long)]
    end: bool,
}

/// Runs the command. Without --reason and --end it shows what is in force.
pub fn run(arguments: &Arguments) -> ExitCode {
    let runtime_dir = runtime_dir(&arguments.config);
    let file = break_glass::path(&runtime_dir);
    let done = match (&arguments.reason, &arguments.time) {
        (Some(reason), Some(time)) => begin(&runtime_dir, reason, time, SystemTime::now()).map(Some),
        _ if arguments.end => end(&file).map(|()| None),
        _ => return say(&show(&file, status(&runtime_dir).as_ref())),
    };
    match done {
        Ok(wanted) => follow(&runtime_dir, wanted.as_ref()),
        Err(why) => {
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

/// The daemon's runtime folder. In an emergency a configuration that cannot be read must not be in the way.
fn runtime_dir(config: &Path) -> PathBuf {
    match config::load(config) {
        Ok(loaded) => match &loaded.settings {
            Settings::Whole(whole) => whole.listen.runtime_dir().to_owned(),
            Settings::Salvaged(salvage) => salvage.listen.runtime_dir().to_owned(),
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}; taking {RUNTIME_DIR} for the daemon's runtime folder");
            RUNTIME_DIR.into()
        }
    }
}

fn begin(runtime_dir: &Path, reason: &str, time: &str, now: SystemTime) -> Result<Written, String> {
    check_reason(reason).map_err(|why| format!("--{why}"))?;
    let time = duration(time).map_err(|why| format!("--for: {why}"))?;
    if time > LONGEST || time < Duration::from_secs(1) {
        let hours = LONGEST.as_secs() / 3600;
        return Err(format!(
            "--for: expected 1s to {hours}h (limits::BREAK_GLASS_SECONDS); to audit for longer set mode: audit"
        ));
    }
    let expires = rfc3339(now + time);
    // A JSON string is a YAML string, whatever is in it.
    let reason = serde_json::Value::from(reason);
    let text = format!("reason: {reason}\nexpires: {expires}\n");
    files::write_state(runtime_dir, break_glass::NAME, text.as_bytes())
        .map_err(|error| format!("the break-glass file cannot be written: {error}; are you root?"))?;
    match break_glass::read(&break_glass::path(runtime_dir)) {
        Ok(Some(written)) => Ok(written),
        Ok(None) => Err("the break-glass file was removed as soon as it was written".to_owned()),
        Err(NotTaken::Wrong(why) | NotTaken::Unread(why)) => Err(why),
    }
}

fn end(file: &Path) -> Result<(), String> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{} cannot be removed: {error}; are you root?", file.display()))
        }
        _ => Ok(()),
    }
}

/// Waits until the daemon does what was asked for, and says how it is.
fn follow(runtime_dir: &Path, wanted: Option<&Written>) -> ExitCode {
    let deadline = SystemTime::now() + PATIENCE;
    let follows = |status: &Status| match wanted {
        Some(wanted) => status.break_glass.as_ref().is_some_and(|glass| glass.reason == wanted.reason),
        None => status.break_glass.is_none(),
    };
    loop {
        let status = status(runtime_dir);
        let shown = show(&break_glass::path(runtime_dir), status.as_ref());
        match &status {
            None => return say(&shown),
            Some(status) if follows(status) => return say(&shown),
            Some(_) if SystemTime::now() > deadline => {
                let _ = writeln!(io::stderr(), "{shown}the daemon does not follow; see its log");
                return ExitCode::FAILURE;
            }
            Some(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn status(runtime_dir: &Path) -> Option<Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime
        .block_on(async { Control::connect(&control::socket(runtime_dir)).await.ok()?.status().await.ok() })
}

/// What is in force, in lines for people.
fn show(file: &Path, status: Option<&Status>) -> String {
    let found = break_glass::read(file);
    let file_says = match &found {
        Ok(None) => format!("break-glass: none ({} is not there)\n", file.display()),
        Ok(Some(written)) => {
            format!("break-glass: until {}: {}\n", rfc3339(written.expires), written.reason)
        }
        Err(NotTaken::Wrong(why) | NotTaken::Unread(why)) => format!("break-glass: NOT in force: {why}\n"),
    };
    let Some(status) = status else {
        return format!(
            "{file_says}daemon:      does not answer; it will look at the file as soon as it runs\n"
        );
    };
    let mut text = file_says;
    if found.is_ok() && !status.break_glass_rejected.is_empty() {
        text.push_str(&format!("             NOT in force: {}\n", status.break_glass_rejected));
    }
    text.push_str(&format!("in force:    {} (configured: {})\n", status.mode, status.configured_mode));
    if !status.mode_because.is_empty() {
        text.push_str(&format!("because:     {}\n", status.mode_because));
    }
    text
}

fn say(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
