//! What was done to the node and what was there before, written and synced before each step. Whatever happens in
//! between (kill, power cut, reboot), the node can be taken back from it, byte for byte.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::host::{self, Host};
use super::plan::Stage;
use super::{NodeError, at};
use crate::limits;

/// Where crivet's state is, whatever the configuration says: these commands work without one.
pub const STATE: &str = "/var/lib/crivet";
/// The folder of these commands.
pub const FOLDER: &str = "/var/lib/crivet/node";
const JOURNAL: &str = "/var/lib/crivet/node/journal.json";
/// Held while anything is changed; in /run, so that a reboot frees it.
const LOCK: &str = "/run/crivet-node.lock";
/// Ending of a file that is being written, beside the one it becomes.
const NEW: &str = ".crivet-new";

/// Who a change concerns: the kubelet's side is taken back first, and always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// What points the kubelet at crivet.
    Kubelet,
    /// crivet's own files.
    Crivet,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "lowercase")]
pub enum Step {
    /// A folder was made.
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// A file was written.
    File {
        /// The file.
        path: PathBuf,
        /// What was there before; none if nothing was.
        before: Option<Saved>,
        /// SHA-256 of what was written.
        after: String,
        /// Whom it concerns.
        part: Part,
    },
    /// crivet's units were enabled and started.
    Units {
        /// How they were before.
        before: Vec<UnitState>,
    },
    /// The kubelet's unit was restarted with a drop-in on trial.
    Restart {
        /// The unit.
        unit: String,
    },
}

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Its bytes, in base64.
    bytes: String,
    uid: u32,
    gid: u32,
    mode: u32,
}

/// A unit as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Its name.
    pub name: String,
    /// Started at boot.
    pub enabled: bool,
    /// Running.
    pub active: bool,
}

/// What the kubelet is pointed at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pointed {
    /// How far crivet is in the way.
    pub stage: Stage,
    /// The unit that runs the kubelet.
    pub unit: String,
    /// The unit's own command at that time.
    pub base: String,
    /// The flags that were appended.
    pub flags: Vec<String>,
    /// The unit's process is the kubelet itself.
    pub is_the_kubelet: bool,
    /// Where the kubelet answers healthz.
    pub healthz: Option<std::net::SocketAddr>,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    version: u32,
    /// crivet's version that wrote it.
    pub crivet: String,
    /// What holds; none before the first installation has come through, and after a bypass.
    pub installed: Option<Pointed>,
    /// What is being tried; none when nothing is under way.
    pub trying: Option<Pointed>,
    /// How many of the steps belong to what holds.
    pub committed: usize,
    /// All steps, first to last.
    pub steps: Vec<Step>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            version: 1,
            crivet: env!("CARGO_PKG_VERSION").to_owned(),
            installed: None,
            trying: None,
            committed: 0,
            steps: Vec::new(),
        }
    }
}

impl Journal {
    /// Reads the journal; none if there is none.
    pub fn read(host: &dyn Host) -> Result<Option<Self>, NodeError> {
        let path = Path::new(JOURNAL);
        let bytes = match fs::read(host.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at(path))?,
        };
        let journal: Self = serde_json::from_slice(&bytes).map_err(|error| {
            NodeError::Refused(format!(
                "{JOURNAL}: expected crivet's journal, found: {error}; `crivet node bypass` works without it"
            ))
        })?;
        if journal.version != 1 {
            return Err(NodeError::Refused(format!(
                "{JOURNAL}: expected version 1, found {}; use the crivet that wrote it ({})",
                journal.version, journal.crivet
            )));
        }
        Ok(Some(journal))
    }

    /// Something was begun and neither ended nor taken back.
    pub fn unfinished(&self) -> bool {
        self.trying.is_some() || self.steps.len() > self.committed
    }

    /// Writes a step down; it may be taken only when this has returned.
    pub fn step(&mut self, host: &dyn Host, step: Step) -> Result<(), NodeError> {
        if self.steps.len() >= limits::NODE_STEPS {
            return Err(NodeError::Refused(format!(
                "{JOURNAL}: expected at most {} steps (limit NODE_STEPS); run `crivet node uninstall` once",
                limits::NODE_STEPS
            )));
        }
        self.steps.push(step);
        self.write(host)
    }

    /// Writes the journal to disk.
    pub fn write(&self, host: &dyn Host) -> Result<(), NodeError> {
        let folder = host.path(Path::new(FOLDER));
        DirBuilder::new().recursive(true).mode(0o755).create(&folder).map_err(at(&folder))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(at(&folder))?;
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| NodeError::Refused(format!("{JOURNAL}: {error}")))?;
        write_file(host, Path::new(JOURNAL), &text, 0o600, None)
    }

    /// Removes the journal and its folder. `data` says that crivet's whole state folder was made by these commands:
    /// then it is emptied first, so that a kill in between leaves the journal to go on from.
    pub fn remove(host: &dyn Host, data: bool) -> Result<(), NodeError> {
        let state = host.path(Path::new(STATE));
        let others = fs::read_dir(&state).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in others.filter(|path| data && !path.ends_with("node")) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(at(&path))?;
        }
        remove_file(host, Path::new(JOURNAL))?;
        Self::sweep(host)
    }

    /// Removes what is left where there is no journal (yet, or any more): folders that are empty.
    pub fn sweep(host: &dyn Host) -> Result<(), NodeError> {
        remove_file(host, &beside(Path::new(JOURNAL)))?;
        // Not empty if somebody put something there: the package's folder has the vetter's in it.
        for folder in [FOLDER, STATE] {
            let _ = fs::remove_dir(host.path(Path::new(folder)));
        }
        Ok(())
    }

    /// Makes a folder, if it is not there.
    pub fn make_folder(
        &mut self,
        host: &dyn Host,
        path: &Path,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<(), NodeError> {
        let here = host.path(path);
        if here.exists() {
            return Ok(());
        }
        self.step(host, Step::Folder { path: path.to_owned() })?;
        match DirBuilder::new().mode(mode).create(&here) {
            // The journal's own folder lies within this one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(at(path))?,
        }
        fs::set_permissions(&here, Permissions::from_mode(mode)).map_err(at(path))?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&here, Some(uid), Some(gid)).map_err(at(path))?;
        }
        Ok(())
    }

    /// Writes a file, and its folder if that is not there.
    pub fn write_file(
        &mut self,
        host: &dyn Host,
        path: &Path,
        text: &str,
        part: Part,
    ) -> Result<(), NodeError> {
        if let Some(folder) = path.parent() {
            self.make_folder(host, folder, 0o755, None)?;
        }
        let before = Saved::read(host, path)?;
        let after = sha256(text.as_bytes());
        self.step(host, Step::File { path: path.to_owned(), before, after, part })?;
        write_file(host, path, text.as_bytes(), 0o644, None)
    }
}

impl Saved {
    fn read(host: &dyn Host, path: &Path) -> Result<Option<Self>, NodeError> {
        let metadata = match fs::symlink_metadata(host.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at(path))?,
        };
        if !metadata.is_file() {
            let text = format!("{}: expected a regular file or none, found something else", path.display());
            return Err(NodeError::Refused(text));
        }
        let bytes = host::read(host, path)?.unwrap_or_default();
        let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777);
        Ok(Some(Self { bytes: STANDARD.encode(bytes), uid, gid, mode }))
    }

    fn restore(&self, host: &dyn Host, path: &Path) -> Result<(), NodeError> {
        let bytes = STANDARD.decode(&self.bytes).map_err(|error| {
            NodeError::Refused(format!("{JOURNAL}: what was in {} cannot be read: {error}", path.display()))
        })?;
        write_file(host, path, &bytes, self.mode, Some((self.uid, self.gid)))
    }
}

/// Puts a file back as it was before. One of crivet's own that somebody has edited since is kept, and named.
pub fn put_back(
    host: &dyn Host,
    path: &Path,
    before: Option<&Saved>,
    after: &str,
    part: Part,
) -> Result<Option<String>, NodeError> {
    // What a kill in the middle of writing leaves.
    remove_file(host, &beside(path))?;
    let now = match fs::read(host.path(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(at(path))?),
    };
    if let Some(now) = &now {
        let was = before.and_then(|before| STANDARD.decode(&before.bytes).ok());
        let edited = sha256(now) != after && was.as_ref() != Some(now);
        if edited && part == Part::Crivet {
            return Ok(Some(format!("kept {}: it was edited since", path.display())));
        }
    }
    match (before, now) {
        (Some(before), _) => before.restore(host, path)?,
        (None, Some(_)) => remove_file(host, path)?,
        (None, None) => {}
    }
    Ok(None)
}

/// Removes a file if it is there, and syncs its folder.
pub fn remove_file(host: &dyn Host, path: &Path) -> Result<(), NodeError> {
    let here = host.path(path);
    match fs::remove_file(&here) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at(path))?,
    }
    sync_folder(&here).map_err(at(path))
}

/// Writes a file whole or not at all, also through a power cut.
pub fn write_file(
    host: &dyn Host,
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<(), NodeError> {
    remove_file(host, &beside(path))?;
    let (here, new) = (host.path(path), host.path(&beside(path)));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &here)?;
        sync_folder(&here)
    })();
    written.map_err(at(path))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW);
    name.into()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Makes these commands wait for each other; the lock goes with the process.
pub fn lock(host: &dyn Host, patience: std::time::Duration) -> Result<File, NodeError> {
    let path = Path::new(LOCK);
    let here = host.path(path);
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(here).map_err(at(path))?;
    let until = host.elapsed() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(error)) => return Err(at(path)(error)),
            Err(fs::TryLockError::WouldBlock) if host.elapsed() >= until => {
                return Err(NodeError::Refused(format!(
                    "expected to be the only `crivet node` command, found another at work (it holds {LOCK}); \
                     wait for it"
                )));
            }
            Err(fs::TryLockError::WouldBlock) => host.sleep(std::time::Duration::from_millis(200)),
        }
    }
}
