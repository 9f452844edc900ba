//! Records to the systemd journal, by its native protocol: one datagram per entry, `FIELD=value` lines
//! (systemd's docs/JOURNAL_NATIVE_PROTOCOL.md). Values are made one line first, so the binary form is not needed,
//! and an entry stays well below a datagram's size, so neither is a memfd.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::record::{Decision, Record, cut, printable};

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// syslog(3) levels, as journald's PRIORITY.
const WARNING: u8 = 4;
const INFO: u8 = 6;

/// Sends entries and never waits: what the journal does not take at once is lost.
pub(super) struct Journal {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Journal {
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), socket: None }
    }

    /// Sends an entry that stands for `count` decisions.
    ///
    /// # Errors
    /// The journal is not there, or full. The next entry is tried all the same.
    pub(super) fn send(&mut self, record: &Record, count: u64) -> io::Result<()> {
        let entry = entry(record, count);
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket
            }
        };
        // By path each time: journald may have been started anew.
        let sent = socket.send_to(entry.as_bytes(), &self.path).map(drop);
        self.socket = Some(socket);
        sent
    }
}

fn entry(record: &Record, count: u64) -> String {
    let priority = if record.decision == Decision::Allowed { INFO } else { WARNING };
    let mut entry = format!(
        "PRIORITY={priority}\nSYSLOG_IDENTIFIER=crivet\nCRIVET_KIND={}\nCRIVET_MODE={}\nCRIVET_DECISION={}\n\
         CRIVET_EFFECTIVE={}\nCRIVET_COUNT={count}\n",
        record.kind.as_str(),
        record.mode.as_str(),
        record.decision.as_str(),
        record.effective.as_str()
    );
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            let line = one_line(value);
            entry.push_str(&format!("{name}={line}\n"));
        }
    };
    field("MESSAGE", &message(record, count));
    field("CRIVET_REASON", record.reason.map_or("", |reason| reason.as_str()));
    field("CRIVET_IMAGE", &record.image);
    field("CRIVET_POLICY_SET", &record.policy_set_hash);
    for (name, value) in [
        ("CRIVET_REFERENCE", &record.reference),
        ("CRIVET_DIGEST", &record.digest),
        ("CRIVET_IMAGE_ID", &record.image_id),
        ("CRIVET_NAMESPACE", &record.namespace),
        ("CRIVET_POD", &record.pod),
        ("CRIVET_POD_UID", &record.pod_uid),
        ("CRIVET_CONTAINER", &record.container),
        ("CRIVET_TRACEPARENT", &record.traceparent),
    ] {
        field(name, value.as_deref().unwrap_or_default());
    }
    // A field may come more than once.
    for policy in &record.policies {
        field("CRIVET_POLICY", &policy.name);
    }
    entry
}

/// What `journalctl` shows.
fn message(record: &Record, count: u64) -> String {
    let image = record.reference.as_ref().unwrap_or(&record.image);
    let mut text = format!(
        "{} ({}, {} mode): {} of {image}",
        record.decision.as_str(),
        record.effective.as_str(),
        record.mode.as_str(),
        record.kind.as_str()
    );
    if let (Some(namespace), Some(pod)) = (&record.namespace, &record.pod) {
        text.push_str(&format!(" for {namespace}/{pod}"));
    }
    if count > 1 {
        text.push_str(&format!(", {count} times"));
    }
    if !record.message.is_empty() {
        text.push_str(&format!(": {}", record.message));
    }
    text
}

/// A newline would begin a field of the sender's choice.
fn one_line(text: &str) -> String {
    let mut line = printable(text);
    cut(&mut line);
    line
}
