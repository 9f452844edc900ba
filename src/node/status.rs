//! What is installed, and whether it is still so.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::NodeError;
use super::apply::{Bypass, bypassed, drop_in_edited};
use super::detect::{command_line, settings_of, show, unit_files};
use super::host::Host;
use super::journal::{Journal, Pointed};
use super::plan::{self, Stage};
use super::unit;

/// What `crivet node status` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What the running kubelet really goes through; none if nothing.
    pub in_front: Option<Stage>,
    /// What was installed.
    pub installed: Option<Pointed>,
    /// An installation was begun and neither ended nor taken back.
    pub unfinished: bool,
    /// The emergency way was taken.
    pub bypass: Option<Bypass>,
    /// The endpoints of the running kubelet, runtime and image; none where they cannot be seen.
    pub endpoints: Option<(String, String)>,
    /// The kubelet's connections to crivet; none where crivet does not answer.
    pub connections: Option<usize>,
    /// What is not as it was installed, and what to do.
    pub drift: Vec<String>,
}

/// Looks at the node. Nothing is changed.
pub fn status(host: &dyn Host) -> Result<Status, NodeError> {
    let journal = Journal::read(host)?.unwrap_or_default();
    let mut status = Status {
        in_front: None,
        unfinished: journal.unfinished(),
        bypass: bypassed(host),
        endpoints: None,
        connections: None,
        drift: Vec::new(),
        installed: journal.installed,
    };
    match status.installed.clone() {
        Some(pointed) => installed(host, &pointed, &mut status)?,
        None => {
            // Perhaps by hand.
            let kubelet = show(host, "kubelet.service")?;
            if kubelet.active == "active" {
                actual(host, kubelet.pid, &mut status)?;
            }
        }
    }
    Ok(status)
}

fn installed(host: &dyn Host, pointed: &Pointed, status: &mut Status) -> Result<(), NodeError> {
    let unit = &pointed.unit;
    let shown = show(host, unit)?;
    let again = "run `crivet node install` again";
    if shown.active != "active" {
        status.drift.push(format!("{unit} is {}; `systemctl status {unit}` says why", shown.active));
    }
    let stays = plan::drop_in(unit);
    let in_force = shown.paths.last().is_some_and(|last| *last == stays || plan::is_ours(last));
    if !host.path(&stays).exists() {
        status.drift.push(format!("{} is gone; {again}", stays.display()));
    } else if drop_in_edited(host, pointed)? {
        status.drift.push(format!("{} was edited; {again}", stays.display()));
    } else if !in_force && !shown.paths.contains(&stays) {
        status.drift.push(format!("systemd has not read {}; run `systemctl daemon-reload`", stays.display()));
    }
    match unit::exec_start(unit, &unit_files(host, &shown)?) {
        Ok(now) if now.value == pointed.base => {}
        Ok(now) => status.drift.push(format!(
            "the command of {unit} was {} when crivet was installed and is {} in {} now; {again}",
            pointed.base,
            now.value,
            now.path.display()
        )),
        Err(error) => status.drift.push(format!("{error}; {again}")),
    }
    if pointed.is_the_kubelet {
        actual(host, shown.pid, status)?;
        if status.in_front != Some(pointed.stage) && shown.active == "active" {
            status.drift.push(format!(
                "the running kubelet (PID {}) is not pointed as installed; restart {unit}, or {again}",
                shown.pid
            ));
        }
    } else {
        // The kubelet's own flags cannot be seen in the process.
        let arguments = command_line(host, shown.pid);
        if pointed.flags.iter().all(|flag| arguments.contains(flag)) {
            status.in_front = Some(pointed.stage);
        } else {
            status.drift.push(format!("{unit} runs without crivet's flags; restart it, or {again}"));
        }
    }
    Ok(())
}

fn actual(host: &dyn Host, pid: u32, status: &mut Status) -> Result<(), NodeError> {
    let arguments = command_line(host, pid);
    let (runtime, image) = settings_of(host, &arguments)?.endpoints();
    let crivets = |endpoint: &str| endpoint.trim_start_matches("unix://").starts_with("/run/crivet/");
    status.in_front = match (crivets(&runtime), crivets(&image)) {
        (true, true) => Some(Stage::Both),
        (false, true) => Some(Stage::Image),
        // Only containers, not pulls: nobody installs it so.
        (true, false) => {
            status.drift.push("only the runtime endpoint is crivet's; pulls go past it".to_owned());
            None
        }
        (false, false) => None,
    };
    let listen = [&runtime, &image].into_iter().find(|endpoint| crivets(endpoint));
    if let Some(listen) = listen.map(|endpoint| Path::new(endpoint.trim_start_matches("unix://"))) {
        let clients = host.clients(listen);
        if let Err(error) = &clients {
            status.drift.push(error.to_string());
        }
        status.connections =
            clients.ok().map(|clients| clients.iter().filter(|client| client.pid == pid).count());
        if status.connections == Some(0) {
            status.drift.push(format!("the kubelet (PID {pid}) has no connection to crivet"));
        }
    }
    status.endpoints = Some((runtime, image));
    Ok(())
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |stage: Option<Stage>| stage.map_or("no", Stage::words);
        writeln!(f, "in front   {}", words(self.in_front))?;
        let installed = self.installed.as_ref();
        let unit = installed.map(|pointed| format!(" ({})", pointed.unit)).unwrap_or_default();
        writeln!(f, "installed  {}{unit}", words(installed.map(|pointed| pointed.stage)))?;
        if let Some((runtime, image)) = &self.endpoints {
            writeln!(f, "kubelet    runtime {runtime}, image {image}")?;
        }
        if let Some(connections) = self.connections {
            writeln!(f, "connected  {connections} connections of the kubelet's")?;
        }
        if self.unfinished {
            let path = Path::new(super::journal::FOLDER);
            writeln!(
                f,
                "UNFINISHED an installation was begun and did not end ({}); run `crivet node uninstall`, or install again",
                path.display()
            )?;
        }
        if let Some(bypass) = &self.bypass {
            writeln!(f, "BYPASS     since {} (seconds since 1970): {}", bypass.at, bypass.reason)?;
        }
        for drift in &self.drift {
            writeln!(f, "drift      {drift}")?;
        }
        Ok(())
    }
}
