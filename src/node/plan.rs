//! What an installation will do, in order, before anything is done. `--dry-run` prints it.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NodeError;
use super::checks;
use super::detect::{Found, Kind, command_line, show, unit_files};
use super::host::{self, Host, read_text};
use super::journal::{Journal, Pointed};
use super::unit;
use crate::config::{Mode, ProxyConfiguration};
use crate::users;

/// The drop-in that points the kubelet at crivet.
pub const DROP_IN: &str = "90-crivet.conf";
/// The same on trial, in /run: after the other, so that it wins.
pub const TRIAL: &str = "91-crivet-trial.conf";
/// crivet's configuration.
pub const CONFIG: &str = "/etc/crivet/config.yaml";
/// The runtime's socket in [`FIRST`].
const CONTAINERD: &str = "/run/containerd/containerd.sock";
pub(super) const LISTEN: &str = "/run/crivet/crivet.sock";
/// In front of CRI-O: the kubelet takes a runtime for CRI-O by the end of its endpoint, and counts otherwise.
const LISTEN_CRIO: &str = "/run/crivet/run/crio/crio.sock";
/// The first configuration, which the package brings: audit only.
const FIRST: &str = include_str!("../../packaging/config.yaml");
const SERVICE: &str = include_str!("../../systemd/crivet.service");
const SOCKET: &str = include_str!("../../systemd/crivet.socket");
/// crivet's units: the socket first.
pub const UNITS: [&str; 2] = ["crivet.socket", "crivet.service"];
/// The dead man's switch: takes the kubelet back when the installer died.
pub const SWITCH: [&str; 2] = ["crivet-node-rollback.timer", "crivet-node-rollback.service"];
/// Where systemd reads what does not survive a reboot.
pub const VOLATILE: &str = "/run/systemd/system";
pub(super) const PERSISTENT: &str = "/etc/systemd/system";

/// How far crivet is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The image service only: pulls are vetted, containers are not. Partial.
    Image,
    /// Both services.
    Both,
}

impl Stage {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Image => "image endpoint only (pulls are vetted, containers are not: partial)",
            Self::Both => "both endpoints",
        }
    }
}

/// A folder to make where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its owner, if not root.
    pub owner: Option<(u32, u32)>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Where.
    pub path: PathBuf,
    /// What; mode 0644, root's.
    pub text: String,
}

/// All that will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What was found.
    pub found: Found,
    /// What the kubelet will be pointed at, and how.
    pub pointed: Pointed,
    /// The socket crivet listens on.
    pub listen: PathBuf,
    /// Folders, in order.
    pub folders: Vec<Folder>,
    /// crivet's own files, in order.
    pub files: Vec<NewFile>,
    /// The units that check the node's disk, of those that are among them.
    pub checks: Vec<&'static str>,
    /// crivet runs, and must be started anew because its socket or runtime changes.
    pub restart_crivet: bool,
    /// The drop-in's text.
    pub drop_in: String,
    /// The drop-in that is there says the same, the kubelet runs with it, and crivet runs and will after a reboot.
    pub in_place: bool,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// How long the kubelet may take to come through.
    pub timeout: Duration,
}

/// One of the files that point the kubelet at crivet.
pub fn is_ours(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == DROP_IN || name == TRIAL)
}

/// Where the drop-in of a unit goes to stay.
pub fn drop_in(unit: &str) -> PathBuf {
    Path::new(PERSISTENT).join(format!("{unit}.d")).join(DROP_IN)
}

/// Where it is while on trial.
pub fn trial(unit: &str) -> PathBuf {
    Path::new(VOLATILE).join(format!("{unit}.d")).join(TRIAL)
}

/// Plans an installation. Nothing is changed.
pub fn plan(
    host: &dyn Host,
    found: Found,
    journal: &Journal,
    stage: Option<Stage>,
    timeout: Duration,
) -> Result<Plan, NodeError> {
    let mut notes = Vec::new();
    // The careful stage first, unless the operator says otherwise; what is installed stays as it is.
    let installed = journal.installed.as_ref();
    let stage = stage.or(installed.map(|installed| installed.stage)).unwrap_or(Stage::Image);
    let (mut files, folders) = (Vec::new(), folders(host)?);
    let mut rewritten = false;
    let configuration = match host::read(host, Path::new(CONFIG))? {
        Some(bytes) if bytes != FIRST.as_bytes() => existing(&bytes, &found, stage, &mut notes)?,
        // The package's own, which nobody has touched, is fitted to the node like one that is not there.
        there => {
            let text = first_configuration(host, &found, &mut notes)?;
            rewritten = there.is_some() && text != FIRST;
            let parsed = ProxyConfiguration::parse(CONFIG, text.as_bytes());
            let parsed = parsed.map_err(|error| NodeError::Refused(error.to_string()))?;
            if there.is_none() || rewritten {
                files.push(NewFile { path: CONFIG.into(), text });
            }
            parsed
        }
    };
    let listen = configuration.listen.path().to_owned();
    let another_socket = units(host, &listen, &mut files)?;
    let checks = checks::plan(host, configuration.listen.runtime_dir(), &mut files)?;
    let runs = another_socket || show(host, UNITS[1])?.active == "active";
    let restart_crivet = (rewritten || another_socket) && runs;
    let flags = flags(found.kind, stage, &listen);
    let pointed = Pointed {
        stage,
        unit: found.unit.clone(),
        base: found.base.clone(),
        flags,
        is_the_kubelet: found.kind.is_the_kubelet(),
        healthz: found.healthz,
    };
    let drop_in = drop_in_text(&pointed);
    let there = read_text(host, &self::drop_in(&found.unit))?;
    let in_place = installed == Some(&pointed)
        && there.as_ref() == Some(&drop_in)
        && files.is_empty()
        && runs_with(host, found.pid, &pointed)
        && crivet_runs(host)?;
    Ok(Plan {
        found,
        pointed,
        listen,
        folders,
        files,
        checks,
        restart_crivet,
        drop_in,
        in_place,
        notes,
        timeout,
    })
}

/// Whether the kubelet was started with these flags. Where it is within another program, what that shows of its flags tells nothing.
fn runs_with(host: &dyn Host, kubelet: u32, pointed: &Pointed) -> bool {
    let arguments = command_line(host, kubelet);
    !pointed.is_the_kubelet || pointed.flags.iter().all(|flag| arguments.contains(flag))
}

/// Whether crivet's units run, and are started with the machine.
fn crivet_runs(host: &dyn Host) -> Result<bool, NodeError> {
    for name in UNITS {
        let shown = show(host, name)?;
        if !shown.enabled || !matches!(shown.active.as_str(), "active" | "reloading") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// crivet's folders that are not there; systemd-tmpfiles makes them where the package is installed.
fn folders(host: &dyn Host) -> Result<Vec<Folder>, NodeError> {
    let passwd = read_text(host, Path::new("/etc/passwd"))?.unwrap_or_default();
    let user = users::in_passwd(&passwd, "crivet");
    let folders = [
        ("/etc/crivet", 0o755, None),
        ("/etc/crivet/policies.d", 0o755, None),
        ("/var/lib/crivet", 0o755, None),
        ("/var/lib/crivet/vetter", 0o700, user),
        ("/var/log/crivet", 0o750, user),
    ];
    let missing = folders.into_iter().filter(|(path, ..)| !host.path(Path::new(path)).exists());
    Ok(missing.map(|(path, mode, owner)| Folder { path: path.into(), mode, owner }).collect())
}

/// A configuration that is there stays as it is; it must fit the node.
fn existing(
    bytes: &[u8],
    found: &Found,
    stage: Stage,
    notes: &mut Vec<String>,
) -> Result<ProxyConfiguration, NodeError> {
    let parsed = ProxyConfiguration::parse(CONFIG, bytes).map_err(|error| {
        NodeError::Refused(format!("{error}; nothing was changed: correct the file, or move it away"))
    })?;
    let fits = |key: &str, said: &Path, used: &Path| {
        if same_socket(said, used) {
            return Ok(());
        }
        Err(NodeError::Refused(format!(
            "{CONFIG}: {key}: expected the kubelet's own, unix://{}, found unix://{}; correct it, reload crivet, and \
             install again",
            used.display(),
            said.display()
        )))
    };
    fits("runtimeEndpoint", parsed.runtime_endpoint.path(), &found.runtime_socket)?;
    fits("imageEndpoint", parsed.image_endpoint.path(), &found.image_socket)?;
    let listen = parsed.listen.path();
    if !listen.starts_with("/run/crivet") {
        return Err(NodeError::Refused(format!(
            "{CONFIG}: listen: expected a socket in /run/crivet, found unix://{}",
            listen.display()
        )));
    }
    if is_crio(found) && stage == Stage::Both && !listen.ends_with("run/crio/crio.sock") {
        return Err(NodeError::Refused(format!(
            "{CONFIG}: listen: expected unix://{LISTEN_CRIO}, because a kubelet knows CRI-O by the end of that path, found \
             unix://{}; correct it, and install again",
            listen.display()
        )));
    }
    if parsed.mode == Mode::Enforce {
        notes.push(format!("{CONFIG} says mode: enforce: images are refused from the first call on"));
    }
    if parsed.pause_image.is_none() && is_containerd_2(found) {
        notes.push(format!(
            "{CONFIG} has no pauseImage, and containerd 2 says which one it uses only once it is there: set it"
        ));
    }
    Ok(parsed)
}

/// `/var/run` is `/run`.
fn same_socket(a: &Path, b: &Path) -> bool {
    let plain = |path: &Path| match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path.to_owned(),
    };
    plain(a) == plain(b)
}

fn is_crio(found: &Found) -> bool {
    found.runtime.name == "cri-o"
}

fn is_containerd_2(found: &Found) -> bool {
    let version = found.runtime.version.trim_start_matches('v');
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    found.runtime.name == "containerd" && major.is_none_or(|major| major >= 2)
}

/// The first configuration, fitted to the node.
fn first_configuration(host: &dyn Host, found: &Found, notes: &mut Vec<String>) -> Result<String, NodeError> {
    let passwd = read_text(host, Path::new("/etc/passwd"))?.unwrap_or_default();
    let user = users::in_passwd(&passwd, "crivet");
    if user.is_none() {
        notes.push(
            "there is no user crivet, so the vetter runs as root: make the user (systemd-sysusers, \
             systemd/sysusers.d/crivet.conf) before the installation, or set vetterUser afterwards"
                .to_owned(),
        );
    }
    let pause_image = if is_containerd_2(found) { pause_image(host, found)? } else { None };
    if is_containerd_2(found) && pause_image.is_none() {
        notes.push(
            "containerd's pause image is neither in its configuration nor pinned: set pauseImage before you enforce"
                .to_owned(),
        );
    }
    let mut text = String::with_capacity(FIRST.len());
    for line in FIRST.lines() {
        // Writing to a String cannot fail.
        let _ = match (line.split_once(": ").map_or("", |(key, _)| key), &pause_image) {
            ("listen", _) if is_crio(found) => writeln!(text, "listen: unix://{LISTEN_CRIO}"),
            ("runtimeEndpoint", _) if !same_socket(&found.runtime_socket, Path::new(CONTAINERD)) => {
                writeln!(text, "runtimeEndpoint: unix://{}", found.runtime_socket.display())
            }
            ("#pauseImage", Some(image)) => writeln!(text, "pauseImage: {image}"),
            ("vetterUser", _) if user.is_none() => writeln!(text, "#{line}"),
            _ => writeln!(text, "{line}"),
        };
    }
    if !same_socket(&found.image_socket, &found.runtime_socket) {
        let _ = writeln!(text, "imageEndpoint: unix://{}", found.image_socket.display());
    }
    Ok(text)
}

fn pause_image(host: &dyn Host, found: &Found) -> Result<Option<String>, NodeError> {
    let main = match found.kind {
        Kind::K3s => "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        Kind::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        Kind::Kubeadm | Kind::Plain => "/etc/containerd/config.toml",
    };
    let mut paths = vec![PathBuf::from(main)];
    let folder = Path::new("/etc/containerd/conf.d");
    let more = std::fs::read_dir(host.path(folder)).into_iter().flatten().flatten();
    let mut more: Vec<_> = more.map(|entry| folder.join(entry.file_name())).collect();
    more.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    more.sort();
    paths.extend(more);
    let mut image = None;
    for path in paths {
        if let Some(text) = read_text(host, &path)? {
            image = sandbox_image(&text).or(image);
        }
    }
    if image.is_none() {
        let pinned = host.pinned_images(&found.image_socket).unwrap_or_default();
        if let [only] = pinned.as_slice() {
            image = Some(only.clone());
        }
    }
    // It goes into YAML: nothing but what a reference is made of.
    Ok(image.filter(|image| crate::image::Reference::parse(image).is_ok()))
}

/// The pause image of a containerd configuration: `sandbox_image` of the CRI plugin (1.x), `sandbox` among its pinned
/// images (2.x).
fn sandbox_image(toml: &str) -> Option<String> {
    let (mut table, mut found) = (String::new(), None);
    for line in toml.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']', ' ']).to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            let wanted = match key.trim() {
                "sandbox_image" => table.contains("cri"),
                "sandbox" => table.ends_with("pinned_images"),
                _ => false,
            };
            let quote = value.trim().chars().next().filter(|c| matches!(c, '"' | '\''));
            if let (true, Some(quote)) = (wanted, quote) {
                found = value.trim().split(quote).nth(1).map(str::to_owned).or(found);
            }
        }
    }
    found
}

/// crivet's units, where the package has not brought them, and its socket where it must be another. Whether crivet must be
/// started anew for it.
fn units(host: &dyn Host, listen: &Path, files: &mut Vec<NewFile>) -> Result<bool, NodeError> {
    let folder = Path::new(PERSISTENT);
    let [socket, service] = [show(host, UNITS[0])?, show(host, UNITS[1])?];
    if !service.loaded {
        files.push(NewFile { path: folder.join(UNITS[1]), text: by_this_program(host, SERVICE) });
    }
    let listens = if socket.loaded {
        unit::in_force(&unit_files(host, &socket)?, "Socket", "ListenStream")
            .into_iter()
            .map(|assignment| assignment.value)
            .collect()
    } else {
        files.push(NewFile { path: folder.join(UNITS[0]), text: SOCKET.to_owned() });
        vec![LISTEN.to_owned()]
    };
    if listens.as_slice() == [listen.display().to_string()] {
        return Ok(false);
    }
    let text = format!(
        "# Written by `crivet node install`: the socket that {CONFIG} names.\n[Socket]\nListenStream=\nListenStream={}\n",
        listen.display()
    );
    files.push(NewFile { path: folder.join("crivet.socket.d/90-crivet-listen.conf"), text });
    Ok(socket.active == "active" || service.active == "active")
}

/// A unit's text, for where crivet's program is.
pub(super) fn by_this_program(host: &dyn Host, text: &str) -> String {
    text.replace("/usr/bin/crivet ", &format!("{} ", host.program().display()))
}

fn flags(kind: Kind, stage: Stage, listen: &Path) -> Vec<String> {
    let prefix = if kind.is_the_kubelet() { "--" } else { "--kubelet-arg=" };
    let flag = |name: &str| format!("{prefix}{name}=unix://{}", listen.display());
    match stage {
        Stage::Image => vec![flag("image-service-endpoint")],
        Stage::Both => vec![flag("container-runtime-endpoint"), flag("image-service-endpoint")],
    }
}

/// The drop-in of a unit.
pub fn drop_in_text(pointed: &Pointed) -> String {
    format!(
        "# Written by `crivet node install`; `crivet node uninstall` takes it away, `crivet node bypass` at once.\n\
         # The unit's own command with crivet's socket appended: the last flag wins. Variables and files it names are read\n\
         # as before. If the unit's own command changes, `crivet node status` says so.\n\n\
         [Unit]\n\
         # Never Requires= or BindsTo=: a kubelet without crivet still keeps running what runs.\n\
         Wants=crivet.socket\nAfter=crivet.socket crivet.service\n\n\
         [Service]\nExecStart=\nExecStart={} {}\n",
        pointed.base,
        pointed.flags.join(" ")
    )
}

impl Plan {
    /// How long after its start the dead man's switch fires. The installer has rolled back by then, if it lives.
    pub fn switch_after(&self) -> Duration {
        self.timeout + Duration::from_secs(30)
    }

    /// The dead man's switch.
    pub fn switch(&self, program: &Path) -> [NewFile; 2] {
        let [timer, service] = SWITCH.map(|name| Path::new(VOLATILE).join(name));
        let after = self.switch_after().as_secs();
        [
            NewFile {
                path: service,
                text: format!(
                    "[Unit]\nDescription=Takes the kubelet back: `crivet node install` did not end\n\
                     [Service]\nType=oneshot\nExecStart={} node rollback\n",
                    program.display()
                ),
            },
            NewFile {
                path: timer,
                text: format!(
                    "[Unit]\nDescription=Waits for `crivet node install` to end\n\
                     [Timer]\nOnActiveSec={after}\nAccuracySec=1s\n"
                ),
            },
        ]
    }
}

/// `{:#}` prints the files' content as well.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { kind, unit, version, runtime, runtime_socket, .. } = &self.found;
        writeln!(f, "found      {} ({unit}), kubelet {}.{}", kind.name(), version.0, version.1)?;
        writeln!(f, "runtime    {} {}, unix://{}", runtime.name, runtime.version, runtime_socket.display())?;
        writeln!(f, "stage      {}", self.pointed.stage.words())?;
        for note in &self.notes {
            writeln!(f, "note       {note}")?;
        }
        if self.in_place {
            return writeln!(f, "nothing to do: installed, and as it should be");
        }
        let content = |text| if f.alternate() { indented(text) } else { String::new() };
        let mut steps = Vec::new();
        for folder in &self.folders {
            steps.push(format!("make the folder {} (mode {:04o})", folder.path.display(), folder.mode));
        }
        for file in &self.files {
            steps.push(format!("write {}{}", file.path.display(), content(&file.text)));
        }
        if !self.files.is_empty() {
            steps.push("systemctl daemon-reload".to_owned());
        }
        if self.restart_crivet {
            steps.push(format!("systemctl stop {}; systemctl stop {}", UNITS[0], UNITS[1]));
        }
        let units = UNITS.join(" ");
        steps.push(format!("systemctl enable {units}; systemctl start {units}"));
        if !self.checks.is_empty() {
            steps.push(format!("leave {} as they are: not enabled", self.checks.join(" ")));
        }
        steps.push(format!("ask Version through unix://{}", self.listen.display()));
        steps.push(format!(
            "start {}: if this command dies, the kubelet is taken back after {} s",
            SWITCH[0],
            self.switch_after().as_secs()
        ));
        steps.push(format!(
            "write {} (gone at a reboot)\n{}",
            trial(unit).display(),
            indented(&self.drop_in)
        ));
        steps.push(format!("systemctl daemon-reload; systemctl restart {unit}"));
        steps.push(format!(
            "wait up to {} s until the kubelet is through; if it is not, take everything back",
            self.timeout.as_secs()
        ));
        steps.push(format!(
            "write the same to {}, remove it from {VOLATILE}, stop {}",
            drop_in(unit).display(),
            SWITCH[0]
        ));
        for (number, step) in (1..).zip(steps) {
            writeln!(f, "{number:>2}. {step}")?;
        }
        Ok(())
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("\n      | {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_image_is_read_from_either_form_of_containerds_configuration() {
        let one = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"registry.k8s.io/pause:3.9\" # x\n";
        assert_eq!(sandbox_image(one).as_deref(), Some("registry.k8s.io/pause:3.9"));
        let two = "[plugins.'io.containerd.cri.v1.images']\n [plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = 'a/pause:3.10'\n";
        assert_eq!(sandbox_image(two).as_deref(), Some("a/pause:3.10"));
        for none in ["[other]\nsandbox_image = \"x\"\n", "sandbox = 'x'\n", "#sandbox_image = \"x\"\n", ""] {
            assert_eq!(sandbox_image(none), None, "{none}");
        }
    }

    #[test]
    fn the_same_socket_in_either_place() {
        let same = |a: &str, b: &str| same_socket(Path::new(a), Path::new(b));
        assert!(same("/var/run/crio/crio.sock", "/run/crio/crio.sock"));
        assert!(!same("/run/a.sock", "/run/b.sock"));
    }
}
