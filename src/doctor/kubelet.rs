//! Findings about the kubelet: what it is configured with, what it really does, and who else could speak to the runtime.

use super::Findings;
use super::facts::{Access, Configuration, Facts, Kubelet, Role};
use crate::control::wire::{Client, Status};

/// A kubelet lists containers every second; one that has said nothing for so long asks elsewhere.
const QUIET: u64 = 60_000;
/// The oldest kubelet whose connections crivet can serve: before, `:authority` is a path, which is no HTTP/2.
const OLDEST: (u32, u32) = (1, 31);
/// Processes that have a kubelet within them.
const EMBEDDING: [&str; 5] = ["k3s", "k3s-server", "k3s-agent", "rke2", "kubelite"];

const THROUGH: &str = "crivet node install --stage both puts crivet in front; or point containerRuntimeEndpoint and imageServiceEndpoint at it by hand, and restart the kubelet";

pub(super) fn kubelet(facts: &Facts, findings: &mut Findings) {
    if let Some(reason) = &facts.bypass {
        findings.failure(
            "node-bypassed",
            format!("somebody pointed the kubelet past crivet: {reason}"),
            "when the trouble is over: crivet node install",
        );
    }
    let Ok(config) = &facts.configuration else { return };
    let status = facts.daemon.as_ref().ok();
    let ours = |kubelet: &&Kubelet| concerns(config, status, kubelet);
    let (ours, others): (Vec<&Kubelet>, Vec<&Kubelet>) = facts.kubelets.iter().partition(ours);
    for kubelet in &ours {
        configured(config, kubelet, findings);
        if let Some(status) = status {
            actual(facts, status, kubelet, findings);
        }
    }
    if !ours.is_empty() {
        return;
    }
    let embedding = status.and_then(|status| {
        let name = |client: &&Client| {
            facts.names.get(&client.pid).is_some_and(|name| EMBEDDING.contains(&name.as_str()))
        };
        status.clients.iter().find(name)
    });
    match (embedding, others.as_slice()) {
        (Some(client), _) => {
            let name = facts.names.get(&client.pid).cloned().unwrap_or_default();
            findings.ok("kubelet", format!("{name} ({}), with a kubelet within, is connected", client.pid));
        }
        (None, [other, ..]) => findings.failure(
            "kubelet-elsewhere",
            match &other.endpoints {
                Ok((runtime, _)) => format!("kubelet {} uses {runtime}, not {}", other.pid, config.listen),
                Err(why) => format!("kubelet {}: {why}; it is not connected", other.pid),
            },
            THROUGH,
        ),
        (None, []) => findings.failure(
            "kubelet-missing",
            "no kubelet runs on this node, and none is connected",
            "start it: systemctl start kubelet",
        ),
    }
}

/// A kubelet is this crivet's business if it uses its socket or its runtime's. Others run on machines with several.
fn concerns(config: &Configuration, status: Option<&Status>, kubelet: &Kubelet) -> bool {
    let known = |path: &String| *path == config.listen || config.runtime.contains(path);
    let configured = kubelet.endpoints.as_ref().is_ok_and(|(runtime, image)| known(runtime) || known(image));
    configured || status.is_some_and(|status| status.clients.iter().any(|c| c.pid == kubelet.pid))
}

fn configured(config: &Configuration, kubelet: &Kubelet, findings: &mut Findings) {
    let pid = kubelet.pid;
    match &kubelet.endpoints {
        Err(why) => findings.warning(
            "kubelet-unreadable",
            format!("what kubelet {pid} is configured with cannot be read: {why}"),
            "correct the file; the kubelet would not start with it",
        ),
        Ok((runtime, image)) => match (*runtime == config.listen, *image == config.listen) {
            (true, true) => {
                findings.ok("kubelet-configured", format!("kubelet {pid} is configured with {runtime}"))
            }
            (false, true) => findings.failure(
                "kubelet-image-only",
                format!("only kubelet {pid}'s image service goes through crivet; containers are made by {runtime}: partial, never protected"),
                THROUGH,
            ),
            (true, false) => findings.failure(
                "kubelet-runtime-only",
                format!("kubelet {pid}'s image service is {image}: pulls are not seen, so private images cannot be vetted"),
                THROUGH,
            ),
            (false, false) => findings.failure(
                "kubelet-bypasses",
                format!("kubelet {pid} is configured with {runtime}, not {}", config.listen),
                THROUGH,
            ),
        },
    }
    match &kubelet.version {
        Ok(version) if *version < OLDEST => findings.failure(
            "kubelet-old",
            format!("kubelet {pid} is {}.{}, older than {}.{}", version.0, version.1, OLDEST.0, OLDEST.1),
            "upgrade the kubelet: crivet cannot serve its connections",
        ),
        Ok((major, minor)) => findings.ok("kubelet-version", format!("kubelet {pid} is {major}.{minor}")),
        Err(why) => findings.note(
            "kubelet-version-unknown",
            format!("the version of kubelet {pid} is not known: {why}"),
            "see that it is 1.31 or later: ask the program that runs for its --version, where it runs",
        ),
    }
}

fn actual(facts: &Facts, status: &Status, kubelet: &Kubelet, findings: &mut Findings) {
    let pid = kubelet.pid;
    let connections: Vec<&Client> = status.clients.iter().filter(|client| client.pid == pid).collect();
    let last = connections.iter().map(|client| client.last_call).max().unwrap_or_default();
    let quiet = facts.now.saturating_sub(last);
    if connections.is_empty() {
        findings.failure(
            "kubelet-not-connected",
            format!("kubelet {pid} has no connection to crivet, whatever it is configured with"),
            "restart the kubelet: it reads its configuration at its start only",
        );
    } else if quiet > QUIET {
        findings.failure(
            "kubelet-quiet",
            format!("kubelet {pid} is connected and has made no call for {}", super::age(quiet)),
            "look at the kubelet's log: it lists containers every second",
        );
    } else if connections.len() < 2 {
        findings.warning(
            "kubelet-one-connection",
            format!("kubelet {pid} has one connection to crivet, not two: for the runtime and for images"),
            "see that both of its endpoints are crivet's, and restart it",
        );
    } else {
        findings.ok(
            "kubelet-connected",
            format!(
                "kubelet {pid} has {} connections; its last call was {} ago",
                connections.len(),
                super::age(quiet)
            ),
        );
    }
}

pub(super) fn sockets(facts: &Facts, findings: &mut Findings) {
    for socket in &facts.sockets {
        let (what, todo) = match socket.role {
            Role::Listen => (
                "crivet's socket",
                "chmod 0600 it and see SocketMode= in crivet.socket: whoever can call the CRI is root on this node",
            ),
            Role::Control => ("crivet's control socket", "chmod 0600 it, and restart crivet"),
            Role::Runtime => (
                "the runtime's own socket",
                "give it to root alone (containerd: [grpc] uid, gid; CRI-O: its unit): whoever can call it makes containers that nobody vets",
            ),
        };
        let path = &socket.path;
        match &socket.access {
            Err(why) => findings.note(
                "socket-unknown",
                format!("{what} {path} cannot be looked at: {why}"),
                "run crivet doctor as root",
            ),
            Ok(Access { others: true, .. }) => {
                findings.failure("socket-open", format!("anybody can write to {what} {path}"), todo)
            }
            Ok(Access { group: Some(group), .. }) => {
                findings.warning("socket-group", format!("group {group} can write to {what} {path}"), todo)
            }
            Ok(Access { user: Some(user), .. }) => {
                findings.warning("socket-user", format!("{what} {path} is user {user}'s"), todo)
            }
            Ok(_) => findings.ok("socket", format!("only root can write to {what} {path}")),
        }
    }
}
