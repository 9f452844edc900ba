//! Takes the facts: from files, `/proc`, the daemon, the runtime and registries. What cannot be had is a fact too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::canary;
use super::facts::{Access, Canary, Configuration, Facts, Kubelet, Role, Socket};
use super::trust;
use crate::config::{self, InsecureAllowed, ProxyConfiguration, Settings, Source};
use crate::control::wire::Status;
use crate::control::{self, Control, ControlError};
use crate::cri::facts::ROLE_PAUSE;
use crate::cri::runtime::RuntimeClient;
use crate::image::{Digest, ImageName, Reference};
use crate::kubelet::{self, process};
use crate::limits;
use crate::node::apply::{MARKER, marked};
use crate::policy::{Mode, NO_LABELS, Policy, Subject};
use crate::registry::Cause;
use crate::registry::credentials::Login;
use crate::relay::clients::millis;
use crate::users;
use crate::vetter::case::InForce;
use crate::vetter::layouts::Layouts;
use crate::vetter::load::{client, from_folder, keeper, logins};
use crate::vetter::node::Node;
use crate::vetter::wire::{Call, CredentialTrouble, ImageUse, Judged};

const PROC: &str = "/proc";
/// Where the control socket is if no configuration says.
const CONTROL: &str = "/run/crivet/control.sock";
/// Longest a kubelet may take to say its version, and a registry to answer.
const EACH: Duration = Duration::from_secs(5);
/// After a start of the daemon's, time for the kubelet to connect anew (it tries within 3 s).
const SETTLED: Duration = Duration::from_secs(5);
/// What time services leave while they keep the clock.
const CLOCK_KEPT: [&str; 4] =
    ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/chronyd.pid", "/run/ntpd.pid"];

/// All facts about this node, by the configuration at `path`.
pub async fn facts(path: &Path) -> Facts {
    let loaded = config::load(path);
    let whole = match &loaded {
        Ok(loaded) => match &loaded.settings {
            Settings::Whole(whole) => Some((**whole).clone()),
            Settings::Salvaged(_) => None,
        },
        Err(_) => None,
    };
    let endpoints = loaded.as_ref().ok().map(|loaded| match &loaded.settings {
        Settings::Whole(c) => (c.listen.clone(), c.runtime_endpoint.clone(), c.image_endpoint.clone()),
        Settings::Salvaged(s) => (s.listen.clone(), s.runtime_endpoint.clone(), s.image_endpoint.clone()),
    });
    let control_socket = endpoints
        .as_ref()
        .map_or_else(|| CONTROL.into(), |(listen, ..)| control::socket(listen.runtime_dir()));
    let configuration = loaded
        .map(|loaded| {
            let config = described(path, &loaded);
            (config, loaded)
        })
        .map_err(|error| error.to_string());
    let (configuration, latest_file) = match configuration {
        Ok((config, _)) => (Ok(config), modified(path)),
        Err(error) => (Err(error), None),
    };
    let in_force = whole.as_ref().map(in_force);
    let policies = in_force.as_ref().map(|in_force| match in_force {
        Ok(in_force) => match &in_force.policies {
            Ok(set) => Ok((set.hash().to_string(), set.len())),
            Err(error) => Err(error.clone()),
        },
        Err(error) => Err(error.clone()),
    });
    let checked_within = in_force.as_ref().and_then(|in_force| {
        let policies = in_force.as_ref().ok()?.policies.as_ref().ok()?.policies();
        let enforced = policies.iter().filter(|policy| policy.mode() != Some(Mode::Audit));
        enforced.filter_map(Policy::layers_checked_within).min()
    });
    let mut control = None;
    let daemon = match Control::connect(&control_socket).await {
        Ok(mut connected) => {
            let status = settled(&mut connected).await.map_err(|error| error.to_string());
            control = Some(connected);
            status
        }
        Err(error) => Err(error.to_string()),
    };
    let status = daemon.as_ref().ok();
    let good = in_force.as_ref().and_then(|in_force| in_force.as_ref().ok());
    let (registries, logins) = match (good, endpoints.as_ref()) {
        (Some(in_force), Some((_, runtime, image))) => {
            let hosts = registries(in_force, &RuntimeClient::new(runtime.path(), image.path())).await;
            (answers(in_force, &hosts).await, logins_at(in_force, &hosts).await)
        }
        _ => Default::default(),
    };
    Facts {
        now: millis(SystemTime::now()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kubelets: kubelets(configuration.as_ref().ok()).await,
        names: names(status),
        sockets: sockets(endpoints.as_ref(), &control_socket),
        pause_image: pause_image(control.as_mut(), status).await,
        registries,
        logins,
        credentials: credentials(good, status),
        latest: latest(status, latest_file, whole.as_ref()),
        clock_kept: Some(CLOCK_KEPT.iter().any(|path| Path::new(path).exists())),
        bypass: bypass(),
        canary: canary_of(
            good,
            policies.as_ref(),
            status,
            control.as_mut(),
            endpoints.as_ref().map(|e| e.0.path()),
        )
        .await,
        configuration,
        layers_checked_within: checked_within,
        policies,
        daemon,
    }
}

/// The daemon's state; of one that was just started, once somebody has connected to it.
async fn settled(control: &mut Control) -> Result<Status, ControlError> {
    loop {
        let status = control.status().await?;
        let runs = millis(SystemTime::now()).saturating_sub(status.started);
        if !status.clients.is_empty() || u128::from(runs) > SETTLED.as_millis() {
            return Ok(status);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// The marker of `crivet node bypass`.
fn bypass() -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(MARKER).ok()?;
    file.take(limits::KUBELET_FILE_BYTES as u64).read_to_end(&mut bytes).ok()?;
    Some(marked(&bytes).reason)
}

fn described(path: &Path, loaded: &config::Loaded) -> Configuration {
    let error = loaded.error.clone().unwrap_or_default();
    let path = path.display().to_string();
    match &loaded.settings {
        Settings::Whole(whole) => Configuration {
            path,
            error: if loaded.source == Source::Given { String::new() } else { error },
            whole: true,
            hash: Digest::of(loaded.text().as_bytes()).to_string(),
            listen: real(whole.listen.path()),
            runtime: vec![real(whole.runtime_endpoint.path()), real(whole.image_endpoint.path())],
            mode: Some(whole.mode),
            unmatched: Some(whole.unmatched),
            vetter_user: whole.vetter_user.clone().map(|name| {
                let found = users::find(&name).map(|(uid, _)| uid).map_err(|error| error.to_string());
                (name, found)
            }),
            allowed: whole.insecure_allowed.clone(),
            metrics: whole.metrics_address.is_some(),
        },
        Settings::Salvaged(salvage) => Configuration {
            path,
            error,
            whole: false,
            hash: String::new(),
            listen: real(salvage.listen.path()),
            runtime: vec![real(salvage.runtime_endpoint.path()), real(salvage.image_endpoint.path())],
            mode: salvage.mode,
            unmatched: None,
            vetter_user: None,
            allowed: InsecureAllowed::default(),
            metrics: false,
        },
    }
}

fn in_force(config: &ProxyConfiguration) -> Result<InForce, String> {
    let policies = match from_folder(&config.policy_dir) {
        Ok((set, _)) => Ok(set),
        Err(faults) => Err(faults.join("; ")),
    };
    let logins = logins(config);
    let registry = client(config, Arc::new(|_| {}), &logins)?;
    let trust = Arc::new(keeper(config, policies.as_deref().ok(), &registry).look(SystemTime::now()));
    let layouts = Arc::new(Layouts::read(&config.evidence.layouts));
    Ok(InForce { mode: config.mode, config: config.clone(), policies, registry, trust, logins, layouts })
}

/// A path with its folder's links followed: `/var/run` is `/run`. A socket that is not there has a path too.
fn real(path: &Path) -> String {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    let real = folder.zip(path.file_name()).map(|(folder, name)| folder.join(name));
    real.unwrap_or_else(|| path.to_owned()).display().to_string()
}

async fn kubelets(config: Option<&Configuration>) -> Vec<Kubelet> {
    let proc = Path::new(PROC);
    let mut kubelets = Vec::new();
    for running in process::running(proc) {
        // A node in a container of this node (kind) has a kubelet of its own.
        if !process::shares(proc, running.pid, "pid") {
            continue;
        }
        let endpoints = running.settings(proc).and_then(|settings| {
            let (runtime, image) = settings.endpoints();
            let path = |endpoint: &str| kubelet::socket(endpoint).map(|path| real(Path::new(&path)));
            Ok((path(&runtime)?, path(&image)?))
        });
        let endpoints = endpoints.map_err(|error| error.to_string());
        let ours = config.is_some_and(|config| {
            endpoints.as_ref().is_ok_and(|(runtime, image)| {
                [runtime, image].into_iter().any(|p| *p == config.listen || config.runtime.contains(p))
            })
        });
        let version = match ours {
            true => version(&running, proc).await,
            false => {
                Err("its program is not asked, as its endpoints are not known to be this crivet's".to_owned())
            }
        };
        kubelets.push(Kubelet { pid: running.pid, endpoints, version });
    }
    kubelets
}

/// What the very program that runs says to `--version`: as root, so it must be root's.
async fn version(kubelet: &process::Kubelet, proc: &Path) -> Result<(u32, u32), String> {
    let program = kubelet.program(proc).map_err(|why| format!("its program is not asked: {why}"))?;
    asked(&program).await
}

async fn asked(program: &File) -> Result<(u32, u32), String> {
    // By the open file: the process may be another by now.
    let path = format!("{PROC}/{}/fd/{}", std::process::id(), program.as_raw_fd());
    let said = timeout(EACH, said(&path)).await;
    let said = said.map_err(|_| format!("its program does not answer within {} s", EACH.as_secs()))?;
    let said = said.map_err(|error| format!("its program does not run: {error}"))?;
    kubelet::version(&String::from_utf8_lossy(&said)).ok_or_else(|| "its program does not say one".to_owned())
}

/// The beginning of what a program says to `--version`.
async fn said(program: &str) -> std::io::Result<Vec<u8>> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn()?;
    let mut bytes = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(limits::NODE_PROGRAM_BYTES as u64).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

fn names(status: Option<&Status>) -> BTreeMap<u32, String> {
    let clients = status.iter().flat_map(|status| &status.clients);
    clients.filter_map(|client| Some((client.pid, process::name_of(Path::new(PROC), client.pid)?))).collect()
}

type Endpoints = (config::Endpoint, config::Endpoint, config::Endpoint);

fn sockets(endpoints: Option<&Endpoints>, control: &Path) -> Vec<Socket> {
    let Some((listen, runtime, image)) = endpoints else { return Vec::new() };
    let mut sockets: Vec<(Role, PathBuf)> = vec![
        (Role::Listen, listen.path().to_owned()),
        (Role::Control, control.to_owned()),
        (Role::Runtime, runtime.path().to_owned()),
    ];
    if image != runtime {
        sockets.push((Role::Runtime, image.path().to_owned()));
    }
    let looked_at = sockets.into_iter().map(|(role, path)| Socket {
        role,
        access: access(&path).map_err(|error| error.to_string()),
        path: path.display().to_string(),
    });
    looked_at.collect()
}

/// Who but root can connect (unix(7): it takes the right to write to the socket, and to pass through its folders).
fn access(path: &Path) -> std::io::Result<Access> {
    let path = path.canonicalize()?;
    let socket = path.metadata()?;
    let (mut others, mut group) =
        (socket.mode() & 0o002 != 0, socket.mode() & 0o020 != 0 && socket.gid() != 0);
    for folder in path.ancestors().skip(1) {
        let folder = folder.metadata()?;
        others &= folder.mode() & 0o001 != 0;
        let of_group = folder.gid() == socket.gid() && folder.mode() & 0o010 != 0;
        group &= of_group || folder.mode() & 0o001 != 0;
    }
    Ok(Access {
        others,
        group: group.then_some(socket.gid()),
        user: Some(socket.uid()).filter(|uid| *uid != 0),
    })
}

async fn pause_image(control: Option<&mut Control>, status: Option<&Status>) -> Option<Judged> {
    let runtime = status?.runtime.as_ref()?;
    if runtime.pause_image.is_empty() {
        return None;
    }
    let image = ImageUse {
        // The vetter asks the runtime for the image of that name where no ID is given.
        named: runtime.pause_image.clone(),
        reference: runtime.pause_image.clone(),
        role: ROLE_PAUSE.to_owned(),
        ..Default::default()
    };
    let call = Call { images: vec![image], keep_nothing: true, ..Default::default() };
    control?.judge(call, canary::JUDGED).await.ok()?.judged.into_iter().next()
}

/// The registries whose evidence the policies ask for, with some of their repositories.
async fn registries(in_force: &InForce, runtime: &RuntimeClient) -> Vec<(String, BTreeSet<String>)> {
    const WORD: &str = "crivet-doctor";
    let Ok(policies) = &in_force.policies else { return Vec::new() };
    let samples = policies.samples(WORD).into_iter().filter(|(_, policy)| policy.needs_evidence());
    let mut hosts = BTreeMap::<String, BTreeSet<String>>::new();
    let mut add = |reference: &Reference| {
        hosts.entry(reference.registry().to_owned()).or_default().insert(reference.repo_name());
    };
    let sampled = samples.filter_map(|(sample, _)| Reference::parse(&sample).ok());
    sampled.filter(|reference| !reference.registry().contains(WORD)).for_each(|reference| add(&reference));
    // A pattern for any registry is about those that this node has images of.
    for image in runtime.list_images().await.unwrap_or_default() {
        for name in image.repo_tags.iter().chain(&image.repo_digests) {
            let Ok(name @ ImageName::Reference(_)) = ImageName::parse(name) else { continue };
            let covering = policies.applicable(&Subject {
                name: &name,
                namespace: None,
                labels: &NO_LABELS,
                is_pause: false,
            });
            if let (true, ImageName::Reference(reference)) =
                (covering.iter().any(|policy| policy.needs_evidence()), &name)
            {
                add(reference);
            }
        }
    }
    hosts.into_iter().take(limits::DOCTOR_REGISTRIES).collect()
}

/// Whether each registry answers.
async fn answers(in_force: &InForce, registries: &[Host]) -> Vec<(String, Result<(), String>)> {
    let until = Instant::now() + EACH;
    let asked = registries.iter().map(|(host, _)| async move {
        let answer = in_force.registry.ping(host, until).await;
        (host.clone(), answer.map_err(|cause| cause.to_string()))
    });
    join_all(asked).await
}

/// A registry, and some of its repositories.
type Host = (String, BTreeSet<String>);

/// Whether each registry takes the logins that the node has for it. One that is away says nothing about them.
async fn logins_at(in_force: &InForce, registries: &[Host]) -> Vec<(String, String, Result<(), String>)> {
    let (node, until) = (Node::default(), Instant::now() + EACH);
    let asked = registries.iter().map(|(host, repositories)| {
        let node = &node;
        async move {
            let mut logins = Vec::<Login>::new();
            for repository in repositories.iter().take(limits::CREDENTIAL_CANDIDATES) {
                let of_files = in_force.logins.of_files(repository, node).await;
                let asked = in_force.logins.of_providers(repository, node, until).await;
                for login in of_files.into_iter().chain(asked.logins) {
                    if !logins.contains(&login) && logins.len() < limits::CREDENTIAL_CANDIDATES {
                        logins.push(login);
                    }
                }
            }
            let mut results = Vec::new();
            for login in logins {
                let result = in_force.registry.log_in(host, &login.credential, Instant::now() + EACH).await;
                let result = match result {
                    Err(why @ (Cause::Unauthorized(_) | Cause::Forbidden(_))) => Err(why.to_string()),
                    Ok(()) => Ok(()),
                    Err(_) => continue,
                };
                results.push((host.clone(), login.source.to_string(), result));
            }
            results
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What the daemon says of the node's logins; where there is none, what this command sees.
fn credentials(in_force: Option<&InForce>, status: Option<&Status>) -> Vec<CredentialTrouble> {
    let state = status.and_then(|status| status.vetter.as_ref()?.state.clone());
    let mut troubles = state.map(|state| state.credential_troubles).unwrap_or_default();
    for own in in_force.iter().flat_map(|in_force| in_force.logins.troubles()) {
        if !troubles.iter().any(|known| known.source == own.source) {
            troubles.push(own);
        }
    }
    troubles
}

fn modified(path: &Path) -> Option<u64> {
    Some(millis(path.metadata().ok()?.modified().ok()?))
}

/// The latest time that anything here bears.
fn latest(
    status: Option<&Status>,
    configuration: Option<u64>,
    config: Option<&ProxyConfiguration>,
) -> Option<(u64, String)> {
    let log = config.map(|config| config.audit_log.path.as_path());
    let times = [
        status.map(|status| (status.started, "the daemon's start")),
        status.map(|status| (status.last_call, "the last call")),
        configuration.map(|time| (time, "the configuration file")),
        log.and_then(modified).map(|time| (time, "the audit log")),
        status.and_then(trust::latest).map(|time| (time, "the last word of a trusted root's source")),
    ];
    let latest = times.into_iter().flatten().max_by_key(|(time, _)| *time);
    latest.map(|(time, what)| (time, what.to_owned()))
}

async fn canary_of(
    in_force: Option<&InForce>,
    policies: Option<&Result<(String, usize), String>>,
    status: Option<&Status>,
    control: Option<&mut Control>,
    listen: Option<&Path>,
) -> Canary {
    let (Some(status), Some(control), Some(listen)) = (status, control, listen) else {
        return Canary::NotTried("the daemon does not answer".to_owned());
    };
    let in_force = match (in_force, policies) {
        (Some(in_force), Some(Ok(_))) => in_force,
        (_, Some(Err(error))) => return Canary::NotTried(error.clone()),
        _ => return Canary::NotTried("the configuration would not load".to_owned()),
    };
    let Some(bait) = canary::bait(in_force).await else { return Canary::NothingToRefuse };
    match status.mode.as_str() {
        "enforce" => canary::send(&RuntimeClient::new(listen, listen), &bait).await,
        _ => canary::ask(control, &bait).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_run_by_its_open_file_and_what_it_says_is_read() {
        // It says the version of something else, so it did run.
        let program = File::open("/bin/echo").unwrap();
        assert_eq!(asked(&program).await, Err("its program does not say one".to_owned()));
        let folder = File::open("/bin").unwrap();
        let why = asked(&folder).await.unwrap_err();
        assert!(why.starts_with("its program does not run: "), "{why}");
    }
}
