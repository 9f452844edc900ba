//! Files that decide, read and kept so that nobody but root and the daemon's own user can have written them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::limits;
pub use crate::policy::SourceFile;
use crate::policy::{NAMESPACES, key_files};

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system's error.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// Somebody else could have written it.
    #[error("{}: expected a {kind} that only root or the daemon's user can write, found {found}; correct it with chown and chmod go-w", .path.display())]
    Guard {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// Owner or mode found.
        found: String,
    },
    /// Not a regular file.
    #[error("{}: expected a regular file, found something else", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Larger or more than a limit allows.
    #[error("{}: expected at most {cap} {unit} (limit {limit}); make it smaller", .path.display())]
    Limit {
        /// The file or folder.
        path: PathBuf,
        /// The name of the limit in [`limits`].
        limit: &'static str,
        /// The limit.
        cap: usize,
        /// What is counted.
        unit: &'static str,
    },
    /// One that a policy names.
    #[error("{place}: {error}")]
    Named {
        /// Where it is named, `file:line`.
        place: String,
        /// What is wrong with it.
        error: Box<FileError>,
    },
    /// One in the folder of namespaces' policies that is a policy of no namespace.
    #[error(
        "{}: expected <namespace>.json, which is all that is read in this folder, found another name; rename it, or move it out",
        .path.display()
    )]
    Stray {
        /// The path.
        path: PathBuf,
    },
    /// A name that is no UTF-8.
    #[error("{}: expected a file name in UTF-8; rename the file", .path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
}

fn at(path: &Path) -> impl Fn(io::Error) -> FileError + '_ {
    move |error| FileError::Io { path: path.to_owned(), error }
}

/// Refuses what group or others can write, and what belongs to neither root nor this process's user.
fn guard(path: &Path, metadata: &fs::Metadata, kind: &'static str) -> Result<(), FileError> {
    let refuse = |found| Err(FileError::Guard { path: path.to_owned(), kind, found });
    let mode = metadata.permissions().mode();
    // In a folder with the sticky bit (/tmp) only a file's owner can exchange it.
    let sticky = metadata.is_dir() && mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !sticky {
        return refuse(format!("mode {:04o}", mode & 0o7777));
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return refuse(format!("owner {owner}"));
    }
    Ok(())
}

/// A folder of files that decide something, its links followed.
pub fn guarded_folder(path: &Path) -> Result<PathBuf, FileError> {
    let real = path.canonicalize().map_err(at(path))?;
    let metadata = real.metadata().map_err(at(path))?;
    if !metadata.is_dir() {
        return Err(at(path)(io::ErrorKind::NotADirectory.into()));
    }
    guard(path, &metadata, "folder")?;
    Ok(real)
}

/// Where a path really leads; refuses one in a folder that others could write.
fn guard_parent(path: &Path) -> Result<PathBuf, FileError> {
    let real = path.canonicalize().map_err(at(path))?;
    if let Some(folder) = real.parent() {
        guard(folder, &folder.metadata().map_err(at(folder))?, "folder")?;
    }
    Ok(real)
}

/// Refuses a file that others could have written, or could exchange. Of one that is not read here.
pub fn guard_file(path: &Path) -> Result<(), FileError> {
    let metadata = guard_parent(path)?.metadata().map_err(at(path))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    guard(path, &metadata, "file")
}

/// Refuses a program that others could have written, or could have put in its place. `file` is the program, open, and `path` is
/// where it lies, or lay before it was replaced.
pub fn guard_program(path: &Path, file: &File) -> Result<(), FileError> {
    let metadata = file.metadata().map_err(at(path))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    guard(path, &metadata, "file")?;
    let mut folders = path.ancestors().skip(1);
    folders.try_for_each(|folder| guard(folder, &folder.metadata().map_err(at(folder))?, "folder"))
}

/// Reads a file that decides something, at most `cap` bytes (`limit` is that limit's name). Links are followed, as
/// Kubernetes volumes need; the file they lead to and its folder are held to the rules.
pub fn read_guarded(path: &Path, limit: &'static str, cap: usize) -> Result<Vec<u8>, FileError> {
    let real = guard_parent(path)?;
    // Opened without blocking: a FIFO in the place of a file would wait for a writer for ever.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&real).map_err(at(path))?;
    // The open file is looked at, not the name: the name may lead elsewhere by now.
    let metadata = file.metadata().map_err(at(path))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    guard(path, &metadata, "file")?;
    let mut bytes = Vec::new();
    file.take(cap as u64 + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() > cap {
        return Err(FileError::Limit { path: path.to_owned(), limit, cap, unit: "bytes" });
    }
    Ok(bytes)
}

/// Reads a folder's policies: every `*.yaml`, `*.yml` and `*.json` that is not hidden, sorted by name, and those of its
/// folder [`NAMESPACES`], each with that before its name. Hidden entries
/// (`..data` of Kubernetes volumes, editors' files) and other extensions are not policies, and in [`NAMESPACES`] the latter are errors; any policy file that cannot be read or is not
/// guarded is an error, because a set with a file left out is another set.
///
/// A Kubernetes volume is exchanged by turning its `..data` link; if that happens meanwhile, reading begins anew.
pub fn read_policy_dir(dir: &Path) -> Result<Vec<SourceFile>, FileError> {
    let side = || fs::read_link(dir.join("..data")).ok();
    for _ in 0..3 {
        let before = side();
        let files = read_policy_dir_once(dir)?;
        if side() == before {
            return Ok(files);
        }
    }
    Err(at(dir)(io::Error::other("the set was exchanged again and again while it was read")))
}

fn read_policy_dir_once(dir: &Path) -> Result<Vec<SourceFile>, FileError> {
    // Resolved once, so that a set exchanged meanwhile (a link swapped) is read from one side only.
    let real = guarded_folder(dir)?;
    let mut entries = 0;
    let (mut names, others) = policy_names(dir, &real, &mut entries)?;
    if others.iter().any(|name| name == NAMESPACES) {
        let folder = real.join(NAMESPACES);
        let folder = guarded_folder(&folder)?;
        let (within, strays) = policy_names(&dir.join(NAMESPACES), &folder, &mut entries)?;
        // A namespace whose policy is not read falls under the node's, which may ask for less.
        if let Some(name) = strays.into_iter().min() {
            return Err(FileError::Stray { path: dir.join(NAMESPACES).join(name) });
        }
        names.extend(within.into_iter().map(|name| format!("{NAMESPACES}/{name}")));
    }
    names.sort();
    let mut left = limits::POLICY_SET_BYTES;
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let bytes =
            read_guarded(&real.join(&name), "POLICY_SET_BYTES", left).map_err(|error| match error {
                // Of all files together, however little of it was left for this one.
                FileError::Limit { limit, .. } => FileError::Limit {
                    path: dir.to_owned(),
                    limit,
                    cap: limits::POLICY_SET_BYTES,
                    unit: "bytes of policies, all files together",
                },
                error => error,
            })?;
        left -= bytes.len();
        files.push(SourceFile { name, bytes });
    }
    Ok(files)
}

/// The names of a folder's policies, and of what else is in it and not hidden. `entries` counts those of all folders.
fn policy_names(
    dir: &Path,
    real: &Path,
    entries: &mut usize,
) -> Result<(Vec<String>, Vec<String>), FileError> {
    let (mut names, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(real).map_err(at(dir))? {
        if *entries == limits::POLICY_FILES {
            let (limit, cap) = ("POLICY_FILES", limits::POLICY_FILES);
            return Err(FileError::Limit { path: dir.to_owned(), limit, cap, unit: "entries" });
        }
        *entries += 1;
        let name = entry.map_err(at(dir))?.file_name();
        let Some(name) = name.to_str() else { return Err(FileError::Name { path: dir.join(name) }) };
        let is_policy = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
        if !name.starts_with('.') {
            let list = if is_policy { &mut names } else { &mut others };
            list.push(name.to_owned());
        }
    }
    Ok((names, others))
}

/// Reads the files whose keys and certificates these policies name by path, to be compiled beside them.
pub fn with_key_files(mut files: Vec<SourceFile>) -> Result<Vec<SourceFile>, FileError> {
    let paths = key_files(&files);
    if let Some(first) = paths.keys().next().filter(|_| paths.len() > limits::POLICY_KEY_FILES) {
        let (limit, cap) = ("POLICY_KEY_FILES", limits::POLICY_KEY_FILES);
        return Err(FileError::Limit { path: first.into(), limit, cap, unit: "files named by policies" });
    }
    for (name, place) in paths {
        let cap = limits::POLICY_KEY_FILE_BYTES;
        let bytes = read_guarded(Path::new(&name), "POLICY_KEY_FILE_BYTES", cap)
            .map_err(|error| FileError::Named { place, error: Box::new(error) })?;
        files.push(SourceFile { name, bytes });
    }
    Ok(files)
}

/// Makes a folder of state if need be, and refuses it if others could write it.
fn state_folder(dir: &Path) -> Result<(), FileError> {
    // Others may pass through: part of the relay's state folder is the vetter's.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(at(dir))?;
    guard(dir, &dir.metadata().map_err(at(dir))?, "folder")
}

/// Opens a file of the state folder to be read and written in place; it is made if need be, for this user alone. A link
/// is not followed: there is no reason for one.
///
/// # Errors
/// [`FileError::Guard`] also where the file is there and others could have written it.
pub fn open_state(dir: &Path, name: &str) -> Result<File, FileError> {
    state_folder(dir)?;
    let path = dir.join(name);
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(flags.bits().cast_signed()).open(&path).map_err(at(&path))?;
    let metadata = file.metadata().map_err(at(&path))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path });
    }
    guard(&path, &metadata, "file")?;
    Ok(file)
}

/// Writes a file of the state or runtime folder so that it is there whole or not at all, also after a power cut. The folder is
/// made if need be, and refused if others could write it.
pub fn write_state(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    state_folder(dir)?;
    let (path, temporary) = (dir.join(name), dir.join(format!(".{name}.new")));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&temporary)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(at(&temporary))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&temporary))?;
    fs::rename(&temporary, &path).map_err(at(&path))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

const LAST_GOOD_POLICIES: &str = "policies.last-good.json";

/// Keeps a policy set that compiled, for a later start with a bad one.
pub fn keep_policies(state_dir: &Path, files: &[SourceFile]) -> Result<(), FileError> {
    let texts = files.iter().map(|file| (file.name.as_str(), String::from_utf8_lossy(&file.bytes)));
    let object: serde_json::Map<String, serde_json::Value> =
        texts.map(|(name, text)| (name.to_owned(), text.into())).collect();
    write_state(state_dir, LAST_GOOD_POLICIES, serde_json::Value::Object(object).to_string().as_bytes())
}

/// The policy set kept last, sorted by name; `None` if none was ever kept.
pub fn kept_policies(state_dir: &Path) -> Result<Option<Vec<SourceFile>>, FileError> {
    let path = state_dir.join(LAST_GOOD_POLICIES);
    // JSON escapes may lengthen the texts.
    let bytes = match read_guarded(&path, "POLICY_SET_BYTES", 2 * limits::POLICY_SET_BYTES) {
        Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let texts: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&bytes).map_err(|error| at(&path)(error.into()))?;
    Ok(Some(texts.into_iter().map(|(name, text)| SourceFile { name, bytes: text.into_bytes() }).collect()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn file_that_group_or_others_can_write_is_refused() {
        let dir = folder();
        let path = dir.path().join("a");
        write(&path, "text", 0o644);
        assert_eq!(read_guarded(&path, "TEST", 4).unwrap(), b"text");
        for mode in [0o664, 0o646] {
            write(&path, "text", mode);
            assert!(matches!(read_guarded(&path, "TEST", 4), Err(FileError::Guard { kind: "file", .. })));
        }
    }

    #[test]
    fn file_in_a_folder_that_others_can_write_is_refused() {
        let dir = folder();
        write(&dir.path().join("a"), "text", 0o600);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = read_guarded(&dir.path().join("a"), "TEST", 4).unwrap_err();
        assert!(matches!(error, FileError::Guard { kind: "folder", .. }));
        assert!(error.to_string().contains("mode 0777"), "{error}");
    }

    #[test]
    fn target_of_a_link_is_held_to_the_rules() {
        let dir = folder();
        write(&dir.path().join("target"), "text", 0o666);
        symlink("target", dir.path().join("link")).unwrap();
        assert!(matches!(read_guarded(&dir.path().join("link"), "TEST", 4), Err(FileError::Guard { .. })));
    }

    #[test]
    fn fifo_folder_and_large_file_are_refused_at_once() {
        let dir = folder();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(matches!(read_guarded(&fifo, "TEST", 4), Err(FileError::NotAFile { .. })));
        assert!(matches!(read_guarded(dir.path(), "TEST", 4), Err(FileError::NotAFile { .. })));
        let path = dir.path().join("large");
        write(&path, "texts", 0o600);
        assert!(read_guarded(&path, "TEST", 4).unwrap_err().to_string().contains("limit TEST"));
    }

    #[test]
    fn policy_folder_is_read_in_order_without_what_is_hidden() {
        let dir = folder();
        for name in ["b.yml", "a.yaml", "c.json", ".hidden.yaml", "README.md", "d.yaml~"] {
            write(&dir.path().join(name), name, 0o644);
        }
        let files = read_policy_dir(dir.path()).unwrap();
        assert_eq!(files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["a.yaml", "b.yml", "c.json"]);
        assert_eq!(files[0].bytes, b"a.yaml");
    }

    #[test]
    fn policy_folder_of_a_hundred_megabytes_is_refused_by_the_limit_of_all_files_together() {
        let folder = folder();
        for n in 0..4 {
            let path = folder.path().join(format!("{n}.yaml"));
            write(&path, "", 0o644);
            // Holes: nothing of it is on the disk.
            OpenOptions::new().write(true).open(&path).unwrap().set_len(25_000_000).unwrap();
        }
        let error = read_policy_dir(folder.path()).unwrap_err().to_string();
        let expected = format!(
            "{}: expected at most {} bytes of policies, all files together (limit POLICY_SET_BYTES); make it smaller",
            folder.path().display(),
            limits::POLICY_SET_BYTES
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn policies_of_namespaces_are_read_from_their_folder_and_held_to_the_same_rules() {
        let dir = folder();
        let within = dir.path().join(NAMESPACES);
        fs::create_dir(&within).unwrap();
        fs::create_dir(dir.path().join("others")).unwrap();
        for name in ["a.yaml", "namespaces/team.json", "namespaces/.hidden.json", "others/b.yaml"] {
            write(&dir.path().join(name), name, 0o644);
        }
        let names = |files: Vec<SourceFile>| files.into_iter().map(|file| file.name).collect::<Vec<_>>();
        assert_eq!(names(read_policy_dir(dir.path()).unwrap()), ["a.yaml", "namespaces/team.json"]);
        fs::set_permissions(&within, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(read_policy_dir(dir.path()), Err(FileError::Guard { kind: "folder", .. })));
    }

    #[test]
    fn file_of_a_namespace_with_a_misspelt_ending_is_an_error() {
        let dir = folder();
        fs::create_dir(dir.path().join(NAMESPACES)).unwrap();
        write(&dir.path().join("notes.txt"), "", 0o644);
        for name in ["namespaces/a.json", "namespaces/team.jsn", "namespaces/b.json.bak"] {
            write(&dir.path().join(name), "{}", 0o644);
        }
        let error = read_policy_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("namespaces/b.json.bak: expected <namespace>.json"), "{error}");
        fs::remove_file(dir.path().join("namespaces/b.json.bak")).unwrap();
        assert!(read_policy_dir(dir.path()).unwrap_err().to_string().contains("team.jsn"));
        fs::rename(dir.path().join("namespaces/team.jsn"), dir.path().join("namespaces/team.json")).unwrap();
        assert_eq!(read_policy_dir(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn key_file_of_a_policy_is_read_beside_it_and_held_to_the_same_rules() {
        let dir = folder();
        let key = dir.path().join("key.pub");
        write(&key, "PEM", 0o644);
        let path = key.to_str().unwrap();
        let text = format!("{{\"default\": [{{\"type\": \"sigstoreSigned\", \"keyPath\": \"{path}\"}}]}}");
        let policy = SourceFile { name: "policy.json".to_owned(), bytes: text.into_bytes() };
        let read = with_key_files(vec![policy.clone()]).unwrap();
        assert_eq!(read, [policy.clone(), SourceFile { name: path.to_owned(), bytes: b"PEM".to_vec() }]);
        let state = dir.path().join("state");
        keep_policies(&state, &read).unwrap();
        let mut kept = kept_policies(&state).unwrap().unwrap();
        kept.sort_by(|a, b| b.name.cmp(&a.name));
        assert_eq!(kept, read, "the last good set has its keys");
        write(&key, "PEM", 0o666);
        let error = with_key_files(vec![policy.clone()]).unwrap_err().to_string();
        assert!(error.starts_with("policy.json:1: ") && error.contains("mode 0666"), "{error}");
        fs::remove_file(&key).unwrap();
        let error = with_key_files(vec![policy]).unwrap_err().to_string();
        assert!(error.starts_with("policy.json:1: ") && error.contains("key.pub"), "{error}");
    }

    #[test]
    fn policy_folder_in_the_form_of_a_kubernetes_volume_is_read() {
        let dir = folder();
        fs::create_dir(dir.path().join("..2026")).unwrap();
        write(&dir.path().join("..2026/a.yaml"), "text", 0o644);
        symlink("..2026", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        let expected = SourceFile { name: "a.yaml".to_owned(), bytes: b"text".to_vec() };
        assert_eq!(read_policy_dir(dir.path()).unwrap(), [expected]);
    }

    #[test]
    fn policy_file_that_is_writable_or_dangling_fails_the_whole_set_by_name() {
        let dir = folder();
        write(&dir.path().join("a.yaml"), "", 0o644);
        write(&dir.path().join("b.yaml"), "", 0o664);
        assert!(read_policy_dir(dir.path()).unwrap_err().to_string().contains("b.yaml"));
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        symlink("nowhere", dir.path().join("c.yaml")).unwrap();
        assert!(read_policy_dir(dir.path()).unwrap_err().to_string().contains("c.yaml"));
    }

    #[test]
    fn state_that_is_written_in_place_is_this_user_s_alone() {
        let dir = folder();
        open_state(&dir.path().join("state"), "x").unwrap().write_all(b"text").unwrap();
        let path = dir.path().join("state/x");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut text = String::new();
        open_state(&dir.path().join("state"), "x").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        write(&path, "", 0o660);
        assert!(matches!(
            open_state(&dir.path().join("state"), "x"),
            Err(FileError::Guard { kind: "file", .. })
        ));
        write(&path, "", 0o600);
        symlink("x", dir.path().join("state/link")).unwrap();
        assert!(matches!(open_state(&dir.path().join("state"), "link"), Err(FileError::Io { .. })));
        assert!(matches!(open_state(dir.path(), "state"), Err(FileError::Io { .. })));
        fs::set_permissions(dir.path().join("state"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            open_state(&dir.path().join("state"), "y"),
            Err(FileError::Guard { kind: "folder", .. })
        ));
    }

    #[test]
    fn kept_policies_come_back_as_they_were() {
        let dir = folder();
        let state = dir.path().join("new/state");
        assert!(kept_policies(&state).unwrap().is_none());
        let file = |name: &str, text: &str| SourceFile { name: name.to_owned(), bytes: text.into() };
        let files = [file("a.yaml", "x: \"y\"\n"), file("b.yaml", "é")];
        keep_policies(&state, &[file("old.yaml", "")]).unwrap();
        keep_policies(&state, &files).unwrap();
        assert_eq!(kept_policies(&state).unwrap().unwrap(), files);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        let mode = fs::metadata(state.join(LAST_GOOD_POLICIES)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write(&state.join(LAST_GOOD_POLICIES), "{}", 0o666);
        assert!(kept_policies(&state).is_err());
    }
}
