//! `crivet content check`: holds what is on the node's disk to what the images' IDs say.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use clap::{Args, Subcommand};

use super::told_to_stop;
use super::verify::{DENIED, EX_CONFIG, Output, UNDECIDED};
use crate::config::{self, Endpoint, Settings};
use crate::content::heal::heal;
use crate::content::report::{Report, told, told_of_image};
use crate::content::{Checker, Held, Image, Outcome, StoreChecker, held};
use crate::control::wire::{CheckedImage, ContentReport};
use crate::control::{self, Control};
use crate::cri::runtime::{Content, RuntimeClient};
use crate::cri::storage::{Storage, StoredImage};
use crate::limits;

/// What to do with the content of the node's images.
#[derive(Subcommand)]
pub enum Command {
    /// Compare every image's layers, and what they were unpacked into, with what its ID says
    ///
    /// The running daemon is told: it denies what stands on an altered layer until a check finds it whole, or it was removed.
    /// Exit code 0: all is whole. 1: something was altered. 2: something could not be compared, nothing was altered. 78: bad
    /// configuration.
    Check(Arguments),
}

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// The daemon's configuration
    #[arg(long, value_name = "FILE", default_value = super::CONFIG)]
    config: PathBuf,
    /// Remove the images that are altered and that nothing stands on, so that they are pulled anew
    #[arg(long)]
    heal: bool,
    /// Check those images only that wait for it, because a policy asks for a check before a container is made
    #[arg(long, conflicts_with = "heal")]
    requested: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the command.
pub fn run(command: &Command) -> ExitCode {
    crate::logging::to_stderr();
    let Command::Check(arguments) = command;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(UNDECIDED);
        }
    };
    let checked = runtime.block_on(check(arguments));
    // A folder that is being read is not waited for.
    runtime.shutdown_background();
    let report = match checked {
        Ok(report) => report,
        Err((code, error)) => {
            tracing::error!("{error}");
            return ExitCode::from(code);
        }
    };
    // Whoever reads may have gone, as `head` does.
    let mut out = io::stdout().lock();
    let _ = match arguments.output {
        Output::Text => out.write_all(report.text().as_bytes()),
        Output::Json => serde_json::to_writer_pretty(&mut out, &report.json())
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
    };
    match report.outcome() {
        Outcome::Whole => ExitCode::SUCCESS,
        Outcome::Altered(_) => ExitCode::from(DENIED),
        Outcome::Unchecked(_) => ExitCode::from(UNDECIDED),
    }
}

async fn check(arguments: &Arguments) -> Result<Report, (u8, String)> {
    let loaded = config::load(&arguments.config).map_err(|error| (EX_CONFIG, error.to_string()))?;
    let (listen, runtime, image) = match loaded.settings {
        Settings::Whole(whole) => (whole.listen, whole.runtime_endpoint, whole.image_endpoint),
        Settings::Salvaged(salvage) => (salvage.listen, salvage.runtime_endpoint, salvage.image_endpoint),
    };
    let runtime = RuntimeClient::new(runtime.path(), image.path());
    let not_done = |error: String| (UNDECIDED, error);
    let content = runtime.content().await.map_err(|error| not_done(error.to_string()))?;
    let mut daemon = Daemon::of(&listen).await;
    let requested = match (arguments.requested, &mut daemon.0) {
        (false, _) => None,
        (true, None) => {
            return Err(not_done("which images wait for a check only the daemon knows".to_owned()));
        }
        (true, Some(control)) => {
            Some(control.content_requests().await.map_err(|error| not_done(error.to_string()))?)
        }
    };
    let mut report = match content {
        Content::Storage(storage) => tokio::select! {
            checked = all_stored(&runtime, storage, &mut daemon, requested.as_deref()) => checked,
            () = told_to_stop() => Err("stopped before everything was compared".to_owned()),
        },
        Content::Services => all_of_containerd(&runtime, &mut daemon, requested.as_deref()).await,
    }
    .map_err(not_done)?;
    if arguments.heal && matches!(report.outcome(), Outcome::Altered(_)) {
        let Some(control) = &mut daemon.0 else {
            return Err(not_done("images are removed only with the daemon's knowledge".to_owned()));
        };
        report.healed =
            heal(&runtime, control, &report).await.map_err(|error| not_done(error.to_string()))?;
    }
    Ok(report)
}

/// Checks what containerd has, under a lease.
async fn all_of_containerd(
    runtime: &RuntimeClient,
    daemon: &mut Daemon,
    requested: Option<&[String]>,
) -> Result<Report, String> {
    let mut checker =
        Checker::begin(runtime.clone(), SystemTime::now()).await.map_err(|error| error.to_string())?;
    let checked = tokio::select! {
        checked = all(runtime, &mut checker, daemon, requested) => checked,
        () = told_to_stop() => Err("stopped before everything was compared".to_owned()),
    };
    if let Err(error) = checker.end().await {
        tracing::warn!(%error, "what was looked at is kept by the runtime for some hours");
    }
    checked
}

/// Checks all images there are, or those with these IDs.
async fn all(
    runtime: &RuntimeClient,
    checker: &mut Checker,
    daemon: &mut Daemon,
    requested: Option<&[String]>,
) -> Result<Report, String> {
    let started = Instant::now();
    let mut report = Report::default();
    let all = held(runtime).await.map_err(|error| error.to_string())?;
    for held in all.iter().filter(|held| is_requested(held, requested)) {
        let images = checker.image(held).await;
        // At once: what comes later may end this process.
        for image in &images {
            daemon.tell(image).await;
        }
        report.images.extend(images);
    }
    report.layers = checker.layers();
    report.took = started.elapsed();
    daemon.ended(requested, &report).await;
    Ok(report)
}

/// containerd's CRI has each of its images under its ID, too.
fn is_requested(held: &Held, requested: Option<&[String]>) -> bool {
    requested.is_none_or(|requested| held.names.iter().any(|name| requested.contains(name)))
}

/// The same on CRI-O.
async fn all_stored(
    runtime: &RuntimeClient,
    storage: Storage,
    daemon: &mut Daemon,
    requested: Option<&[String]>,
) -> Result<Report, String> {
    let started = Instant::now();
    let mut report = Report::default();
    let mut checker = StoreChecker::new(storage);
    let is_requested = |image: &StoredImage| {
        requested.is_none_or(|requested| requested.contains(&format!("sha256:{}", image.id)))
    };
    for image in checker.images()?.into_iter().filter(is_requested) {
        let work = move || {
            let image = checker.image(&image);
            (checker, image)
        };
        let image;
        (checker, image) = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
        if let Some(image) = image {
            daemon.tell(&image).await;
            report.images.push(image);
        }
    }
    if requested.is_none() {
        let elsewhere = elsewhere(runtime, &checker, &report).await?;
        report.images.extend(elsewhere);
    }
    report.layers = checker.layers();
    report.took = started.elapsed();
    daemon.ended(requested, &report).await;
    Ok(report)
}

/// What CRI-O has and its own store has not.
async fn elsewhere(
    runtime: &RuntimeClient,
    checker: &StoreChecker,
    report: &Report,
) -> Result<Vec<Image>, String> {
    let listed = match runtime.list_images().await {
        Ok(listed) => listed,
        // CRI-O lists none at all while one's config is altered.
        Err(_) if matches!(report.outcome(), Outcome::Altered(_)) => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    let stored = checker.images()?;
    let elsewhere = listed.into_iter().filter(|listed| !stored.iter().any(|stored| stored.id == listed.id));
    let unchecked = elsewhere.map(|listed| Image {
        names: listed.repo_tags,
        id: listed.id,
        documents: Outcome::Unchecked(
            "CRI-O's own store does not have it (additionalimagestores in storage.conf?)".to_owned(),
        ),
        layers: Vec::new(),
    });
    Ok(unchecked.collect())
}

/// The running daemon, if there is one.
struct Daemon(Option<Control>);

impl Daemon {
    async fn of(listen: &Endpoint) -> Daemon {
        let connected = Control::connect(&control::socket(listen.runtime_dir())).await;
        if let Err(error) = &connected {
            tracing::warn!(%error, "nobody is told, and nothing is denied by what is found");
        }
        Daemon(connected.ok())
    }

    async fn tell(&mut self, image: &Image) {
        for layers in told(image, Instant::now()).chunks(limits::CONTENT_TOLD) {
            self.send(ContentReport { layers: layers.to_vec(), ..Default::default() }).await;
        }
        self.send(ContentReport { images: vec![told_of_image(image)], ..Default::default() }).await;
    }

    /// That all was looked at; of a check of what was requested, what is not there any more.
    async fn ended(&mut self, requested: Option<&[String]>, report: &Report) {
        match requested {
            None => self.send(ContentReport { checked: Some(report.checked()), ..Default::default() }).await,
            Some(requested) => self.not_found(requested, &report.images).await,
        }
    }

    /// What was requested and is not there any more.
    async fn not_found(&mut self, requested: &[String], checked: &[Image]) {
        for id in requested.iter().filter(|id| checked.iter().all(|image| image.id != **id)) {
            let found = "the runtime has no image of this ID".to_owned();
            let images = vec![CheckedImage { image_id: id.clone(), found }];
            self.send(ContentReport { images, ..Default::default() }).await;
        }
    }

    async fn send(&mut self, report: ContentReport) {
        let Some(control) = &mut self.0 else { return };
        if let Err(error) = control.content(report).await {
            tracing::error!(%error, "the daemon does not take what was found");
        }
    }
}
