//! `crivet inventory`: vets every image and every running container that is already on the node.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::verify::{DENIED, EX_CONFIG, Output, UNDECIDED, in_force};
use crate::audit::Decision;
use crate::config::{self, Endpoint, InsecureAllowed, Settings};
use crate::control::{self, Control};
use crate::cri::bound;
use crate::cri::runtime::RuntimeClient;
use crate::inventory::judge::{Judge, undecided};
use crate::inventory::listed::Listed;
use crate::inventory::report::{Inventory, Row};
use crate::inventory::uses::{Question, uses};
use crate::vetter::wire::{Judged, Outcome};

/// How often progress is told where standard error is no terminal.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// The daemon's configuration
    #[arg(long, value_name = "FILE", default_value = super::CONFIG)]
    config: PathBuf,
    /// Only what runs in this namespace; images that are not in use are judged as for a pod in it
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Have the running daemon keep the proofs, so that what is enforced later finds them
    #[arg(long)]
    warm: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the command.
pub fn inventory(arguments: &Arguments) -> ExitCode {
    crate::logging::to_stderr();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(UNDECIDED);
        }
    };
    let inventory = match runtime.block_on(take(arguments)) {
        Ok(inventory) => inventory,
        Err((code, error)) => {
            tracing::error!("{error}");
            return ExitCode::from(code);
        }
    };
    // Whoever reads may have gone, as `head` does.
    let mut out = io::stdout().lock();
    let _ = match arguments.output {
        Output::Text => out.write_all(inventory.text().as_bytes()),
        Output::Json => serde_json::to_writer_pretty(&mut out, &inventory.json())
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
    };
    match inventory.worst() {
        Decision::Denied => ExitCode::from(DENIED),
        Decision::Undecided => ExitCode::from(UNDECIDED),
        Decision::Allowed => ExitCode::SUCCESS,
    }
}

/// The sockets, and the settings `pauseImage` and `insecureAllow…`: all there is to know of the configuration where a daemon judges.
struct Sockets {
    listen: Endpoint,
    runtime: RuntimeClient,
    pause_image: Option<String>,
    allowed: InsecureAllowed,
}

fn sockets(path: &Path) -> Result<Sockets, String> {
    let client = |runtime: Endpoint, image: Endpoint| RuntimeClient::new(runtime.path(), image.path());
    Ok(match config::load(path).map_err(|error| error.to_string())?.settings {
        Settings::Whole(whole) => Sockets {
            listen: whole.listen,
            runtime: client(whole.runtime_endpoint, whole.image_endpoint),
            pause_image: whole.pause_image.map(|image| image.to_string()),
            allowed: whole.insecure_allowed,
        },
        Settings::Salvaged(salvage) => Sockets {
            listen: salvage.listen,
            runtime: client(salvage.runtime_endpoint, salvage.image_endpoint),
            pause_image: None,
            allowed: InsecureAllowed::default(),
        },
    })
}

async fn take(arguments: &Arguments) -> Result<Inventory, (u8, String)> {
    let sockets = sockets(&arguments.config).map_err(|error| (EX_CONFIG, error))?;
    let mut judge = judge(arguments, &sockets).await.map_err(|error| (EX_CONFIG, error))?;
    let listed = Listed::of(&sockets.runtime, sockets.pause_image).await;
    let listed = listed.map_err(|error| (UNDECIDED, error.to_string()))?;
    let uses = uses(&listed, arguments.namespace.as_deref());
    let namespace = arguments.namespace.as_deref().unwrap_or_default();
    // Once for all that is equal, one after the other: a place of the daemon's for work nobody waits for, not all.
    let mut judged: BTreeMap<Question, Judged> = BTreeMap::new();
    let questions = uses.iter().filter(|used| used.trouble.is_empty()).map(|used| used.question(namespace));
    let questions: std::collections::BTreeSet<Question> = questions.collect();
    let mut progress = Progress::new(questions.len());
    for question in questions {
        progress.at(&question.reference);
        let answer = {
            let asked = judge.judge(&question);
            tokio::pin!(asked);
            loop {
                tokio::select! {
                    answer = &mut asked => break answer,
                    () = progress.due() => progress.line(),
                }
            }
        };
        judged.insert(question, answer);
        progress.done += 1;
    }
    progress.end();
    let mut rows = Vec::new();
    for used in uses {
        let judged = match used.trouble.is_empty() {
            true => judged.get(&used.question(namespace)).cloned(),
            false => Some(undecided(used.trouble.clone())),
        };
        let mut judged = judged.unwrap_or_else(|| undecided("nothing was judged".to_owned()));
        // A proof is needed, and there: what stands on the image has to be bound to it, too.
        if judged.outcome() == Outcome::Permitted && !judged.digest.is_empty() && !used.made.is_empty() {
            let against = bound::against(&sockets.runtime, &used.made, &sockets.allowed).await;
            judged = against.map_or(judged, undecided);
        }
        rows.push(Row { judged, used });
    }
    Ok(Inventory::new(rows, judge.name()))
}

async fn judge(arguments: &Arguments, sockets: &Sockets) -> Result<Judge, String> {
    let socket = control::socket(sockets.listen.runtime_dir());
    match Control::connect(&socket).await {
        Ok(connected) => {
            Ok(Judge::Daemon { socket, control: Some(Box::new(connected)), warm: arguments.warm })
        }
        Err(error) if arguments.warm => {
            Err(format!("--warm has a running daemon keep the proofs, and there is none: {error}"))
        }
        Err(_) => {
            let in_force = in_force(Some(&arguments.config), None)?;
            Ok(Judge::itself(&in_force, sockets.runtime.clone()))
        }
    }
}

/// How far it is, on standard error.
struct Progress {
    all: usize,
    done: usize,
    now: String,
    terminal: bool,
    ticks: tokio::time::Interval,
}

impl Progress {
    fn new(all: usize) -> Progress {
        let mut ticks = interval_at(Instant::now() + TOLD_EVERY, TOLD_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Progress { all, done: 0, now: String::new(), terminal: io::stderr().is_terminal(), ticks }
    }

    fn at(&mut self, image: &str) {
        self.now = image.chars().filter(|c| !c.is_control()).take(100).collect();
        if self.terminal {
            self.line();
        }
    }

    async fn due(&mut self) {
        self.ticks.tick().await;
    }

    fn line(&self) {
        let (start, end) = if self.terminal { ("\r\u{1b}[K", "") } else { ("", "\n") };
        let _ = write!(io::stderr(), "{start}{} of {} judged; at {}{end}", self.done, self.all, self.now);
    }

    fn end(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
