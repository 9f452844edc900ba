//! Whether the kubelet has come through: its unit runs, with the flags it should have, it is healthy, and it calls.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::NodeError;
use super::api::Access;
use super::detect::{command_line, show};
use super::host::Host;

/// Looks in a row that must agree: a kubelet that cannot reach its runtime dies within seconds and is started anew.
const IN_A_ROW: u32 = 3;

/// What must be seen after a restart of the kubelet.
#[derive(Debug, Clone)]
pub struct Through<'a> {
    /// The unit.
    pub unit: &'a str,
    /// The process before the restart.
    pub old_pid: u32,
    /// Flags its process must have; none where the process is not the kubelet itself.
    pub flags: &'a [String],
    /// Where it answers healthz.
    pub healthz: Option<SocketAddr>,
    /// Where its calls must arrive; none when it is pointed past crivet.
    pub calls: Option<Calls<'a>>,
    /// The way to the API server, which must call the Node Ready with a word of the kubelet's since then.
    pub ready: Option<(&'a Access, u64)>,
}

/// The kubelet's connections to crivet.
#[derive(Debug, Clone, Copy)]
pub struct Calls<'a> {
    /// crivet's listening socket.
    pub listen: &'a Path,
    /// Connections there must be: the kubelet makes one for each of its services.
    pub connections: usize,
    /// When the kubelet was restarted, seconds since 1970.
    pub since: u64,
}

/// What one look saw.
enum Seen {
    /// All of it, in this process.
    Through(u32),
    /// Not yet, and why.
    Not(String),
}

/// Waits until the kubelet is through. What could not be seen, and is not held against it, is returned.
pub fn wait(
    host: &dyn Host,
    through: &Through<'_>,
    timeout: Duration,
    until_interrupted: bool,
) -> Result<Vec<String>, NodeError> {
    let until = host.elapsed() + timeout;
    let (mut last, mut row) = (0, 0);
    loop {
        let mut unseen = Vec::new();
        let why = match look(host, through, &mut unseen) {
            Seen::Through(pid) => {
                row = if pid == last { row + 1 } else { 1 };
                last = pid;
                if row >= IN_A_ROW {
                    return Ok(unseen);
                }
                "it has only just come up".to_owned()
            }
            Seen::Not(why) => {
                row = 0;
                why
            }
        };
        if until_interrupted && host.interrupted() {
            return Err(NodeError::NotThrough("interrupted before the kubelet was through".to_owned()));
        }
        if host.elapsed() >= until {
            return Err(NodeError::NotThrough(format!(
                "the kubelet is not through within {} s: {why}; `journalctl -u {}` says more",
                timeout.as_secs(),
                through.unit
            )));
        }
        host.sleep(Duration::from_secs(1));
    }
}

fn look(host: &dyn Host, through: &Through<'_>, unseen: &mut Vec<String>) -> Seen {
    let shown = match show(host, through.unit) {
        Ok(shown) => shown,
        Err(error) => return Seen::Not(error.to_string()),
    };
    if shown.active != "active" || shown.pid == 0 {
        return Seen::Not(format!("{} is {}", through.unit, shown.active));
    }
    if shown.pid == through.old_pid {
        return Seen::Not(format!("{} still runs as PID {}", through.unit, shown.pid));
    }
    let arguments = command_line(host, shown.pid);
    if let Some(flag) = through.flags.iter().find(|flag| !arguments.contains(flag)) {
        return Seen::Not(format!("PID {} runs without {flag}", shown.pid));
    }
    match through.healthz.map(|address| host.get(address, "/healthz")) {
        Some(Ok((200, _))) => {}
        Some(Ok((status, _))) => return Seen::Not(format!("its healthz answers {status}")),
        Some(Err(error)) => return Seen::Not(error.to_string()),
        None => unseen.push("the kubelet serves no healthz (healthzPort: 0)".to_owned()),
    }
    if let Some(Calls { listen, connections, since }) = through.calls {
        match host.clients(listen) {
            Ok(clients) => {
                // Where the unit is not the kubelet, the kubelet may be a child of it.
                let its = |pid| through.flags.is_empty() || pid == shown.pid;
                let its = clients.iter().filter(|c| its(c.pid) && c.called && c.connected >= since).count();
                if its < connections {
                    return Seen::Not(format!(
                        "expected its calls to arrive at crivet by {connections} connections, found {its}"
                    ));
                }
            }
            Err(error) => unseen.push(format!("the kubelet's calls at crivet: {error}")),
        }
    }
    if let Some((access, since)) = through.ready {
        match host.node(access) {
            Ok(node) if node.ready && node.heartbeat >= since => {}
            Ok(node) if node.ready => {
                return Seen::Not("the kubelet has not reported to the API server".to_owned());
            }
            Ok(node) => return Seen::Not(format!("Node {} is not Ready: {}", access.node, node.message)),
            Err(error) => return Seen::Not(error.to_string()),
        }
    }
    Seen::Through(shown.pid)
}
