//! Reads a TUF repository's files, from the web, a folder or a document, each within its limit.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sigstore_tuf::transport::FetchFuture;
use sigstore_tuf::{Error, Repository};
use tokio::time::Instant;

use super::source::Mirror;
use crate::image::json;
use crate::limits;
use crate::registry::{Cap, Cause, Client};

/// A repository that can be read now.
pub(super) enum Files {
    /// From the web, by this deadline.
    Http { client: Arc<Client>, base: String, targets: String, deadline: Instant },
    /// From a folder.
    Folder { folder: std::path::PathBuf, targets: String },
    /// Out of a document.
    Packed { files: Arc<BTreeMap<String, Bytes>>, targets: String },
    /// Nothing but what was kept: it has no newer root and everything else is kept itself.
    Away(Arc<BTreeMap<String, Bytes>>),
}

impl Files {
    pub(super) fn of(mirror: &Mirror, targets: &str, client: &Arc<Client>, deadline: Instant) -> Self {
        let targets = targets.to_owned();
        match mirror {
            Mirror::Http(base) => {
                Self::Http { client: Arc::clone(client), base: base.clone(), targets, deadline }
            }
            Mirror::Folder(folder) => Self::Folder { folder: folder.clone(), targets },
            Mirror::Packed(files) => Self::Packed { files: Arc::clone(files), targets },
        }
    }

    async fn read(&self, path: &str, cap: Cap) -> Result<Option<Bytes>, String> {
        match self {
            Self::Http { client, base, deadline, .. } => {
                let address =
                    format!("{base}/{path}").parse().map_err(|_| "its name is no address".to_owned())?;
                client.file(&address, cap, *deadline).await.map_err(|cause| said(&cause))
            }
            Self::Folder { folder, .. } => read_file(&folder.join(path), cap),
            Self::Packed { files, .. } => within(files.get(path), cap),
            Self::Away(files) => within(files.get(path).or_else(|| files.get(without_version(path)?)), cap),
        }
    }

    fn targets(&self) -> &str {
        match self {
            Self::Http { targets, .. } | Self::Folder { targets, .. } | Self::Packed { targets, .. } => {
                targets
            }
            Self::Away(_) => super::source::TARGETS,
        }
    }
}

/// The same words whatever the mirror is: a registry's would mislead.
fn said(cause: &Cause) -> String {
    match cause {
        Cause::Timeout => "no full answer within the time allowed".to_owned(),
        Cause::Unreachable(why) => format!("the mirror cannot be reached: {why}"),
        Cause::ServerError { status } => format!("the mirror is in trouble (status {status})"),
        Cause::TooManyRequests { .. } => "the mirror has too many requests (429)".to_owned(),
        Cause::Unauthorized(_) => "the mirror wants a login (401), which TUF repositories do not".to_owned(),
        other => other.to_string(),
    }
}

fn within(found: Option<&Bytes>, cap: Cap) -> Result<Option<Bytes>, String> {
    match found {
        Some(bytes) if bytes.len() > cap.bytes => Err(exceeded(cap)),
        found => Ok(found.cloned()),
    }
}

/// The name under which metadata are kept that were asked for by their version. A root of another version is another root.
fn without_version(name: &str) -> Option<&str> {
    let (version, role) = name.split_once('.')?;
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    (is_version && role != "root.json").then_some(role)
}

fn exceeded(cap: Cap) -> String {
    format!("larger than the limit {} ({} bytes)", cap.limit, cap.bytes)
}

/// What a folder holds is signed, so anybody may own it; still nothing but a file is read, and not without end.
fn read_file(path: &Path, cap: Cap) -> Result<Option<Bytes>, String> {
    // A FIFO in the place of a file would wait for a writer for ever.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| error.to_string())?,
    };
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("expected a regular file, found something else".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(cap.bytes as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > cap.bytes { Err(exceeded(cap)) } else { Ok(Some(bytes.into())) }
}

/// The limit of a metadata file, by its name.
fn cap_of(name: &str) -> (&'static str, usize) {
    let role = name.trim_end_matches(".json").trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    match role {
        "root" => ("TUF_ROOT_BYTES", limits::TUF_ROOT_BYTES),
        "timestamp" => ("TUF_TIMESTAMP_BYTES", limits::TUF_TIMESTAMP_BYTES),
        "snapshot" => ("TUF_SNAPSHOT_BYTES", limits::TUF_SNAPSHOT_BYTES),
        _ => ("TUF_TARGETS_BYTES", limits::TUF_TARGETS_BYTES),
    }
}

impl Repository for Files {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(async move {
            let (limit, cap) = cap_of(name);
            let cap = Cap { limit, bytes: usize::try_from(max_length).unwrap_or(usize::MAX).min(cap) };
            let failed = |why: String| Error::transport(format!("{name}: {why}"));
            let Some(bytes) = self.read(name, cap).await.map_err(failed)? else { return Ok(None) };
            // The crate's reader takes the last of duplicate keys, and any number of values.
            json::parse(&bytes, limit, cap.bytes).map_err(|error| failed(error.to_string()))?;
            Ok(Some(bytes.to_vec()))
        })
    }

    fn fetch_target<'a>(&'a self, path: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(async move {
            let bytes = usize::try_from(max_length).unwrap_or(usize::MAX);
            let cap = Cap { limit: "TRUSTED_ROOT_BYTES", bytes: bytes.min(limits::TRUSTED_ROOT_BYTES) };
            let path = format!("{}/{path}", self.targets());
            let failed = |why: String| Error::transport(format!("{path}: {why}"));
            Ok(self.read(&path, cap).await.map_err(failed)?.map(|bytes| bytes.to_vec()))
        })
    }
}
