//! The runtime's files, read: everything bounded, and held to the rules for files that decide. What they say can make
//! a host be trusted that should not be.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::certs::{self, Reader};
use super::containerd::{self, Entry, Folder};
use super::containers::{self, Registries};
use super::tls::{Files, Material};
use super::{HostFiles, Hosts, TlsFiles};
use crate::config::files::{FileError, read_guarded};
use crate::limits::{
    HOSTS_CERTIFICATE_BYTES, HOSTS_CERTIFICATES, HOSTS_FILE_BYTES, HOSTS_FOLDERS, REGISTRIES_CONF_FILES,
};

/// Where containers/image looks for certificates after `certs.d` beside registries.conf.
const DOCKER_CERTS: &str = "/etc/docker/certs.d";

/// What was read, and what it was read from.
pub(in crate::registry) struct Reading {
    pub(in crate::registry) hosts: Arc<Hosts>,
    /// Every file and folder that was looked at, those that were not there included.
    seen: BTreeMap<PathBuf, Option<Stamp>>,
}

/// What changes whenever a file or a folder's list of names does: change time (seconds, nanoseconds), inode, size.
type Stamp = (i64, i64, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let of = path.metadata().ok()?;
    Some((of.ctime(), of.ctime_nsec(), of.ino(), of.size()))
}

impl Reading {
    /// Reads all there is. What is wrong with one host's files is that host's trouble only.
    pub(in crate::registry) fn of(files: &HostFiles) -> Self {
        let mut disk = Disk::default();
        let hosts = match files {
            HostFiles::None => Hosts::Direct,
            HostFiles::Containerd(roots) => {
                let read = roots.iter().map(|root| disk.containerd(root)).collect::<Result<_, _>>();
                read.map_or_else(Hosts::Unknown, Hosts::Containerd)
            }
            HostFiles::Containers(file) => {
                disk.containers(file).map_or_else(Hosts::Unknown, Hosts::Containers)
            }
        };
        Self { hosts: Arc::new(hosts), seen: disk.seen }
    }

    /// Keeps to what was read before where nothing can be made of the files now. CRI-O does so, too.
    pub(in crate::registry) fn or_the_last_good(&mut self, before: &Self) {
        if let Hosts::Unknown(error) = &*self.hosts
            && !matches!(*before.hosts, Hosts::Unknown(_))
        {
            tracing::error!(%error, "the registry hosts from before stay in use");
            self.hosts = Arc::clone(&before.hosts);
        }
    }

    /// Whether any of it has changed since.
    pub(in crate::registry) fn is_old(&self) -> bool {
        self.seen.iter().any(|(path, then)| stamp(path) != *then)
    }
}

#[derive(Default)]
struct Disk {
    seen: BTreeMap<PathBuf, Option<Stamp>>,
}

impl Disk {
    fn look(&mut self, path: &Path) {
        // Before it is read: what changes meanwhile is read again.
        self.seen.entry(path.to_owned()).or_insert_with(|| stamp(path));
    }

    /// A file; `None` if there is none.
    fn file(&mut self, path: &Path, limit: &'static str, cap: usize) -> Result<Option<Vec<u8>>, String> {
        self.look(path);
        match read_guarded(path, limit, cap) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(format!(
                    "{}: expected a file that crivet's vetter may read, found none; give its user the right",
                    path.display()
                ))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// A folder's names, sorted; `None` if there is no folder.
    fn names(&mut self, dir: &Path, limit: &'static str, cap: usize) -> Result<Option<Vec<String>>, String> {
        self.look(dir);
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(format!("{}: {error}", dir.display())),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| format!("{}: {error}", dir.display()))?;
            // A name that is no UTF-8 means nothing to anybody.
            names.extend(entry.file_name().into_string());
            if names.len() > cap {
                return Err(format!("{}: expected at most {cap} entries (limit {limit})", dir.display()));
            }
        }
        names.sort();
        Ok(Some(names))
    }

    /// One of containerd's roots. One that is not there says nothing.
    fn containerd(&mut self, root: &Path) -> Result<containerd::Root, String> {
        let names = self.names(root, "HOSTS_FOLDERS", HOSTS_FOLDERS)?.unwrap_or_default();
        Ok(names.into_iter().map(|name| (name.clone(), self.folder(&root.join(name)))).collect())
    }

    fn folder(&mut self, dir: &Path) -> Result<Vec<containerd::Loaded>, String> {
        let file = dir.join("hosts.toml");
        let bytes = self.file(&file, "HOSTS_FILE_BYTES", HOSTS_FILE_BYTES)?.unwrap_or_default();
        let folder = match (bytes.is_empty(), containerd::parse(&bytes, dir)) {
            (false, Ok(folder)) => folder,
            (is_empty, parsed) => {
                if let (false, Err(error)) = (is_empty, parsed) {
                    tracing::error!(file = %file.display(), %error, "containerd does without this file, and so does crivet");
                }
                Folder::clone(&containerd::with_certificates(self.certificates(dir, Reader::Containerd)?))
            }
        };
        Ok(folder.entries.into_iter().map(|entry| self.loaded(entry)).collect())
    }

    fn loaded(&mut self, entry: Entry) -> containerd::Loaded {
        let material = self.material(&entry.tls);
        containerd::Loaded { entry, material }
    }

    fn certificates(&mut self, dir: &Path, reader: Reader) -> Result<TlsFiles, String> {
        let names = self.names(dir, "HOSTS_CERTIFICATES", HOSTS_CERTIFICATES)?.unwrap_or_default();
        certs::files(dir, &names, reader)
    }

    fn material(&mut self, tls: &TlsFiles) -> Result<Option<Arc<Material>>, String> {
        if tls.ca.is_empty() && tls.client.is_empty() {
            return Ok(None);
        }
        let mut files = Files::default();
        for ca in &tls.ca {
            files.cas.push(self.certificate(ca)?);
        }
        for (certificate, key) in &tls.client {
            let pair =
                (self.certificate(certificate)?, self.certificate(key.as_ref().unwrap_or(certificate))?);
            files.clients.push(pair);
        }
        let at = tls.ca.iter().chain(tls.client.iter().map(|(certificate, _)| certificate)).next();
        let at = at.map(|path| path.display().to_string()).unwrap_or_default();
        let read = Material::read(&files).map_err(|why| format!("{at}: {why}"))?;
        Ok(Some(Arc::new(read)))
    }

    fn certificate(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let bytes = self.file(path, "HOSTS_CERTIFICATE_BYTES", HOSTS_CERTIFICATE_BYTES)?;
        bytes.ok_or_else(|| format!("{}: expected a certificate or key, found no file", path.display()))
    }

    fn containers(&mut self, file: &Path) -> Result<containers::Loaded, String> {
        let mut registries = Registries::default();
        if let Some(bytes) = self.file(file, "HOSTS_FILE_BYTES", HOSTS_FILE_BYTES)? {
            registries.add(containers::parse(&bytes).map_err(|why| format!("{}: {why}", file.display()))?)?;
        }
        let beside = file.parent().unwrap_or(Path::new("/"));
        let mut drop_ins = file.as_os_str().to_owned();
        drop_ins.push(".d");
        let drop_ins = PathBuf::from(drop_ins);
        let names =
            self.names(&drop_ins, "REGISTRIES_CONF_FILES", REGISTRIES_CONF_FILES)?.unwrap_or_default();
        for path in names.iter().filter(|name| name.ends_with(".conf")).map(|name| drop_ins.join(name)) {
            if let Some(bytes) = self.file(&path, "HOSTS_FILE_BYTES", HOSTS_FILE_BYTES)? {
                registries
                    .add(containers::parse(&bytes).map_err(|why| format!("{}: {why}", path.display()))?)?;
            }
        }
        let mut certificates = BTreeMap::new();
        for root in [beside.join("certs.d"), PathBuf::from(DOCKER_CERTS)] {
            for host in self.names(&root, "HOSTS_FOLDERS", HOSTS_FOLDERS)?.unwrap_or_default() {
                if certificates.contains_key(&host) {
                    continue;
                }
                let tls = self.certificates(&root.join(&host), Reader::Containers);
                let material = tls.and_then(|tls| self.material(&tls));
                certificates.insert(host, material);
            }
        }
        Ok(containers::Loaded { registries, certificates })
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
