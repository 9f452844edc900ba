//! What kind of node this is: what runs the kubelet, which runtime it uses, and whether crivet can be put in between.

use std::path::{Path, PathBuf};

use super::host::{self, Host, Runtime, read_text};
use super::unit::{self, UnitFile};
use super::{NodeError, plan};
use crate::image::quoted;
use crate::kubelet::{self, Settings};

/// The oldest kubelet crivet can serve: older ones send the socket's path as the `:authority` of a request, which
/// is no valid one.
const OLDEST_KUBELET: (u32, u32) = (1, 31);

/// Units that run a kubelet, on the nodes there are.
const UNITS: [&str; 5] =
    ["kubelet.service", "k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service"];

/// Units that run a kubelet crivet is not put in front of by these commands, and why.
const OTHER_UNITS: [(&str, &str); 5] = [
    ("k0scontroller.service", K0S),
    ("k0sworker.service", K0S),
    ("snap.microk8s.daemon-kubelite.service", MICROK8S),
    ("snap.microk8s.daemon-kubelet.service", MICROK8S),
    (
        "snap.kubelet-eks.daemon.service",
        "the kubelet is a snap, whose flags are set by `snap set`, not by its unit",
    ),
];

const K0S: &str = "k0s starts the kubelet itself and takes its flags from its own unit; add \
    --kubelet-extra-args=--container-runtime-endpoint=unix:///run/crivet/crivet.sock by `k0s install`, with crivet's \
    runtimeEndpoint unix:///run/k0s/containerd.sock";
const MICROK8S: &str =
    "MicroK8s keeps the kubelet's flags in /var/snap/microk8s/current/args/kubelet, and runs it as a snap";

/// Systems whose nodes are not changed from within, and why.
const OTHER_SYSTEMS: [(&str, &str); 5] = [
    (
        "rhcos",
        "OpenShift's Machine Config Operator owns the node; what is written here is not its, and is taken \
         for drift",
    ),
    ("scos", "OKD's Machine Config Operator owns the node; what is written here is taken for drift"),
    ("talos", "Talos has no systemd, and its kubelet's flags come from the machine configuration"),
    (
        "bottlerocket",
        "Bottlerocket's file system is read-only, and its kubelet is set up through its API only",
    ),
    ("cos", "Container-Optimized OS makes /etc anew at each boot, and GKE owns the kubelet's unit"),
];

/// What runs the kubelet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A unit of its own, set up by kubeadm.
    Kubeadm,
    /// A unit of its own.
    Plain,
    /// k3s: the kubelet is part of it.
    K3s,
    /// RKE2: the kubelet is a child of it.
    Rke2,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubeadm => "kubeadm",
            Self::Plain => "a kubelet of systemd's",
            Self::K3s => "k3s",
            Self::Rke2 => "RKE2",
        }
    }

    /// The kubelet is the unit's own process, so that its command line can be seen.
    pub fn is_the_kubelet(self) -> bool {
        matches!(self, Self::Kubeadm | Self::Plain)
    }
}

/// A unit as systemd has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// There is such a unit.
    pub loaded: bool,
    /// `ActiveState=`
    pub active: String,
    /// Its process; 0 is none.
    pub pid: u32,
    /// `UnitFileState=` is a kind of enabled.
    pub enabled: bool,
    /// The unit file and its drop-ins, in order.
    pub paths: Vec<PathBuf>,
}

/// Asks systemd about a unit.
pub fn show(host: &dyn Host, unit: &str) -> Result<Shown, NodeError> {
    let properties = "LoadState,ActiveState,MainPID,UnitFileState,FragmentPath,DropInPaths";
    let said = host.systemctl(&["show", "--property", properties, unit])?;
    let mut shown = Shown::default();
    let (mut fragment, mut drop_ins) = (Vec::new(), Vec::new());
    for line in said.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key {
            "LoadState" => shown.loaded = value == "loaded",
            "ActiveState" => shown.active = value.to_owned(),
            "MainPID" => shown.pid = value.parse().unwrap_or(0),
            "UnitFileState" => shown.enabled = matches!(value, "enabled" | "enabled-runtime" | "static"),
            "FragmentPath" => fragment.extend((!value.is_empty()).then(|| PathBuf::from(value))),
            "DropInPaths" => drop_ins.extend(value.split_whitespace().map(PathBuf::from)),
            _ => {}
        }
    }
    shown.paths = fragment.into_iter().chain(drop_ins).collect();
    Ok(shown)
}

/// The texts of a unit; those that crivet wrote for the kubelet are left out.
pub fn unit_files(host: &dyn Host, shown: &Shown) -> Result<Vec<UnitFile>, NodeError> {
    let not_ours = shown.paths.iter().filter(|path| !plan::is_ours(path));
    let read = |path: &PathBuf| Ok(read_text(host, path)?.map(|text| UnitFile { path: path.clone(), text }));
    not_ours.filter_map(|path| read(path).transpose()).collect()
}

/// What was found; enough to plan by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The kind of node.
    pub kind: Kind,
    /// The unit that runs the kubelet.
    pub unit: String,
    /// Its process.
    pub pid: u32,
    /// Its command, without crivet's flags.
    pub base: String,
    /// The kubelet's version.
    pub version: (u32, u32),
    /// The runtime's socket.
    pub runtime_socket: PathBuf,
    /// The image service's socket.
    pub image_socket: PathBuf,
    /// The runtime.
    pub runtime: Runtime,
    /// Where the kubelet answers healthz.
    pub healthz: Option<std::net::SocketAddr>,
    /// The kubelet's kubeconfig; none if it has no API server.
    pub kubeconfig: Option<PathBuf>,
}

/// Looks at the node.
pub fn detect(host: &dyn Host) -> Result<Found, NodeError> {
    system(host)?;
    let (unit, shown) = kubelet_unit(host)?;
    let files = unit_files(host, &shown)?;
    let command = unit::exec_start(&unit, &files)?;
    let name = command.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let drop_in = Some(&command.path) != files.first().map(|file| &file.path);
    if drop_in && name > plan::DROP_IN {
        return Err(NodeError::Refused(format!(
            "{}: expected the drop-in that sets ExecStart= to come before {}, found it after; rename it",
            command.path.display(),
            plan::DROP_IN
        )));
    }
    let program = unit::program(&command.value).unwrap_or_default();
    let kind = match Path::new(&program).file_name().and_then(|name| name.to_str()) {
        Some("kubelet") if command.value.contains("KUBELET_KUBEADM_ARGS") => Kind::Kubeadm,
        Some("kubelet") => Kind::Plain,
        Some("k3s") => Kind::K3s,
        Some("rke2") => Kind::Rke2,
        _ => {
            return Err(NodeError::Unsupported(format!(
                "{unit} runs {}, which is no kubelet: flags appended to it may not reach the kubelet; {BY_HAND}",
                quoted(&program)
            )));
        }
    };
    let version = kubelet_version(host, &program)?;
    let ours = shown.paths.iter().any(|path| plan::is_ours(path));
    if !ours && command_line(host, shown.pid).iter().any(|argument| is_crivets(argument)) {
        return Err(NodeError::Refused(format!(
            "the kubelet runs with crivet's socket among its flags, and not by {}: take the flag out where it was set by \
             hand, and restart {unit}",
            plan::DROP_IN
        )));
    }
    let settings = settings(host, kind, shown.pid)?;
    let (runtime, image) = settings.endpoints();
    let (runtime_socket, image_socket) =
        (PathBuf::from(kubelet::socket(&runtime)?), PathBuf::from(kubelet::socket(&image)?));
    for socket in [&runtime_socket, &image_socket] {
        if socket.starts_with("/run/crivet") {
            return Err(NodeError::Refused(format!(
                "the kubelet is pointed at unix://{} by its own flags or configuration file: expected the runtime's \
                 socket there; take crivet's out of them first",
                socket.display()
            )));
        }
    }
    let runtime = host.runtime(&runtime_socket)?;
    if !matches!(runtime.name.as_str(), "containerd" | "cri-o") {
        return Err(NodeError::Unsupported(format!(
            "expected containerd or cri-o at unix://{}, found {}",
            runtime_socket.display(),
            quoted(&runtime.name)
        )));
    }
    let kubeconfig = match kind {
        Kind::K3s => Some("/var/lib/rancher/k3s/agent/kubelet.kubeconfig".to_owned()),
        Kind::Rke2 => Some("/var/lib/rancher/rke2/agent/kubelet.kubeconfig".to_owned()),
        Kind::Kubeadm | Kind::Plain => kubelet::flags(&command_line(host, shown.pid)).kubeconfig,
    };
    let kubeconfig = kubeconfig.map(PathBuf::from);
    let (pid, healthz) = (shown.pid, settings.healthz());
    Ok(Found {
        kind,
        unit,
        pid,
        base: command.value,
        version,
        runtime_socket,
        image_socket,
        runtime,
        healthz,
        kubeconfig,
    })
}

const BY_HAND: &str = "by hand: start the kubelet with \
    --container-runtime-endpoint=unix:///run/crivet/crivet.sock as its last flag (docs/platforms.md)";

fn system(host: &dyn Host) -> Result<(), NodeError> {
    let release = match read_text(host, Path::new("/etc/os-release"))? {
        Some(text) => text,
        None => read_text(host, Path::new("/usr/lib/os-release"))?.unwrap_or_default(),
    };
    let id = release.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or_default();
    let id = id.trim_matches(['"', '\'']);
    if let Some((_, why)) = OTHER_SYSTEMS.iter().find(|(system, _)| *system == id) {
        return Err(NodeError::Unsupported((*why).to_owned()));
    }
    // Workers of OpenShift may stand on RHEL.
    if host.path(Path::new("/etc/machine-config-daemon/currentconfig")).exists() {
        let why = OTHER_SYSTEMS.first().map_or("", |(_, why)| why);
        return Err(NodeError::Unsupported(why.to_owned()));
    }
    // sd_booted(3)
    if !host.path(Path::new("/run/systemd/system")).is_dir() {
        return Err(NodeError::Unsupported(format!("systemd does not run this machine; {BY_HAND}")));
    }
    Ok(())
}

fn kubelet_unit(host: &dyn Host) -> Result<(String, Shown), NodeError> {
    let mut active = Vec::new();
    let mut idle = None;
    for unit in UNITS {
        let shown = show(host, unit)?;
        match (shown.loaded, shown.active.as_str()) {
            (true, "active") => active.push((unit.to_owned(), shown)),
            (true, state) => idle = idle.or(Some((unit, state.to_owned()))),
            (false, _) => {}
        }
    }
    for (unit, why) in OTHER_UNITS {
        if show(host, unit)?.active == "active" {
            return Err(NodeError::Unsupported(format!("{unit}: {why}")));
        }
    }
    if active.len() > 1 {
        let names: Vec<_> = active.iter().map(|(unit, _)| unit.as_str()).collect();
        return Err(NodeError::Unsupported(format!(
            "expected one unit that runs a kubelet, found {}",
            names.join(" and ")
        )));
    }
    if let Some(found) = active.pop() {
        return Ok(found);
    }
    if let Some((unit, state)) = idle {
        return Err(NodeError::Refused(format!(
            "expected {unit} to be active, found {}; start it first, so that it can be seen to come back",
            quoted(&state)
        )));
    }
    Err(NodeError::Unsupported(match stray_kubelet(host) {
        Some(pid) => format!("the kubelet (PID {pid}) is no unit of systemd's; {BY_HAND}"),
        None => format!("expected a unit that runs a kubelet ({}), found none", UNITS.join(", ")),
    }))
}

/// A kubelet that runs outside the units there are.
fn stray_kubelet(host: &dyn Host) -> Option<u32> {
    let processes = std::fs::read_dir(host.path(Path::new("/proc"))).ok()?;
    processes.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let program = command_line(host, pid).into_iter().next()?;
        (Path::new(&program).file_name()? == "kubelet").then_some(pid)
    })
}

/// The command line of a process; empty if there is none.
pub fn command_line(host: &dyn Host, pid: u32) -> Vec<String> {
    let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
    let bytes = host::read(host, &path).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn kubelet_version(host: &dyn Host, program: &str) -> Result<(u32, u32), NodeError> {
    let path = if program.starts_with('/') {
        PathBuf::from(program)
    } else {
        let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        let mut paths = folders.iter().map(|folder| Path::new(folder).join(program));
        paths.find(|path| host.path(path).exists()).unwrap_or_else(|| program.into())
    };
    let said = host.version(&path)?;
    let version = kubelet::version(&said).ok_or_else(|| {
        NodeError::Refused(format!(
            "`{} --version`: expected a Kubernetes version, found {}",
            path.display(),
            quoted(&said)
        ))
    })?;
    if version < OLDEST_KUBELET {
        return Err(NodeError::Unsupported(format!(
            "expected a kubelet of 1.31 or later, found {}.{}: older ones send an :authority that HTTP/2 libraries refuse; \
             upgrade the kubelet first",
            version.0, version.1
        )));
    }
    Ok(version)
}

/// A flag that names a socket of crivet's; all of them are in this folder.
fn is_crivets(argument: &str) -> bool {
    argument.contains("=unix:///run/crivet/")
}

/// What the running kubelet is set to, without crivet.
fn settings(host: &dyn Host, kind: Kind, pid: u32) -> Result<Settings, NodeError> {
    if !kind.is_the_kubelet() {
        return embedded(host, kind, pid);
    }
    let mut arguments = command_line(host, pid);
    arguments.retain(|argument| !is_crivets(argument));
    settings_of(host, &arguments)
}

/// What a kubelet with this command line is set to.
pub fn settings_of(host: &dyn Host, arguments: &[String]) -> Result<Settings, NodeError> {
    let flags = kubelet::flags(arguments);
    let mut settings = flags.settings;
    // Drop-ins of the configuration file win over it, the last one first; flags win over both.
    let mut drop_ins = Vec::new();
    if let Some(folder) = &flags.config_dir {
        let entries = std::fs::read_dir(host.path(Path::new(folder))).into_iter().flatten().flatten();
        drop_ins.extend(entries.map(|entry| Path::new(folder).join(entry.file_name())));
        drop_ins.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        drop_ins.sort();
        drop_ins.reverse();
    }
    for path in drop_ins.into_iter().chain(flags.config.map(PathBuf::from)) {
        if let Some(bytes) = host::read(host, &path)? {
            settings = settings.or(kubelet::configuration(&path.display().to_string(), &bytes)?);
        }
    }
    Ok(settings)
}

/// k3s and RKE2 start their own containerd, unless they were told of another runtime.
fn embedded(host: &dyn Host, kind: Kind, pid: u32) -> Result<Settings, NodeError> {
    let name = if kind == Kind::K3s { "k3s" } else { "rke2" };
    let folder = PathBuf::from(format!("/etc/rancher/{name}"));
    let mut texts: Vec<_> = command_line(host, pid);
    texts.retain(|argument| !is_crivets(argument));
    texts.extend(read_text(host, &folder.join("config.yaml"))?);
    let more = std::fs::read_dir(host.path(&folder.join("config.yaml.d"))).into_iter().flatten().flatten();
    for entry in more {
        texts.extend(read_text(host, &folder.join("config.yaml.d").join(entry.file_name()))?);
    }
    let own = ["container-runtime-endpoint", "image-service-endpoint", "docker"];
    let said = |text: &String, word| {
        text.split(|c: char| !c.is_alphanumeric() && c != '-').any(|w| w.trim_start_matches("--") == word)
    };
    if let Some(word) = own.iter().find(|word| texts.iter().any(|text| said(text, **word))) {
        return Err(NodeError::Unsupported(format!(
            "{name} with its own containerd is supported, found the setting {word} in its flags or in {}; {BY_HAND}",
            folder.display()
        )));
    }
    let socket = "unix:///run/k3s/containerd/containerd.sock".to_owned();
    Ok(Settings { container_runtime_endpoint: Some(socket), ..Settings::default() })
}
