//! The kubelets that run on this node, by their processes.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Flags, KubeletError, Settings, configuration, effective, flags, is_drop_in};
use crate::config::files::guard_program;
use crate::limits;

/// The process name of a kubelet.
const NAME: &str = "kubelet";
/// What the name of this very process's folder is below `/proc`.
const SELF: &str = "self";

/// A kubelet that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubelet {
    /// Its process.
    pub pid: u32,
    /// What it was started with.
    pub flags: Flags,
}

/// The name of a process (`comm`); `None` if there is no such process.
pub fn name_of(proc: &Path, pid: u32) -> Option<String> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("comm")).ok()?;
    Some(text.trim_end().to_owned())
}

/// The kubelets below `/proc`, in the order of their IDs. Anybody may call a process so and give it flags: only root's count.
pub fn running(proc: &Path) -> Vec<Kubelet> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    pids.sort_unstable();
    pids.retain(|pid| name_of(proc, *pid).as_deref() == Some(NAME) && is_root_s(proc, *pid));
    pids.into_iter().filter_map(|pid| kubelet(proc, pid)).collect()
}

/// Whether a process is root's: root of this user namespace, and not by a set-user-ID bit. The owner of its folder tells less:
/// it is root, too, where a process must not be looked into.
fn is_root_s(proc: &Path, pid: u32) -> bool {
    let status = bounded(&proc.join(pid.to_string()).join("status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    // Real, effective, saved and the file system's.
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| ids.split_whitespace().eq(["0"; 4])) && shares(proc, pid, "user")
}

/// Whether a process is in the namespace that this one is in. One that cannot be seen is another.
pub fn shares(proc: &Path, pid: u32, namespace: &str) -> bool {
    let of = |process: &str| fs::read_link(proc.join(process).join("ns").join(namespace)).ok();
    of(SELF).is_some_and(|ours| of(&pid.to_string()) == Some(ours))
}

fn kubelet(proc: &Path, pid: u32) -> Option<Kubelet> {
    let folder = proc.join(pid.to_string());
    let line = bounded(&folder.join("cmdline")).ok()?;
    let arguments: Vec<String> =
        line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    Some(Kubelet { pid, flags: flags(&arguments) })
}

impl Kubelet {
    /// The file of the very program that runs, open, if none but root can have put it there: it may be run.
    ///
    /// # Errors
    /// Why it must not be run, one line.
    pub fn program(&self, proc: &Path) -> Result<File, String> {
        // In a container root's rights may be few, and its paths lead elsewhere.
        if !shares(proc, self.pid, "mnt") {
            return Err("it runs in another mount namespace".to_owned());
        }
        let link = proc.join(self.pid.to_string()).join("exe");
        let unread = |error: std::io::Error| format!("{}: {error}", link.display());
        let path = fs::read_link(&link).map_err(unread)?;
        let file = File::open(&link).map_err(unread)?;
        guard_program(&path, &file).map_err(|error| error.to_string())?;
        Ok(file)
    }

    /// Its settings as its files are now: what it will run with when it is started again. Files are read as the process
    /// sees them.
    ///
    /// # Errors
    /// A file is not there, or is no KubeletConfiguration.
    pub fn settings(&self, proc: &Path) -> Result<Settings, KubeletError> {
        let file = match &self.flags.config {
            Some(path) => self.file(proc, Path::new(path))?,
            None => Settings::default(),
        };
        let mut drop_ins = Vec::new();
        if let Some(folder) = &self.flags.config_dir {
            let entries = fs::read_dir(self.seen(proc, Path::new(folder)))
                .map_err(|error| KubeletError::File(format!("{folder}: {error}")))?;
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            let mut names: Vec<_> = names.filter(|name| is_drop_in(name)).collect();
            names.sort();
            for name in names {
                drop_ins.push(self.file(proc, &Path::new(folder).join(name))?);
            }
        }
        Ok(effective(self.flags.settings.clone(), file, drop_ins))
    }

    fn file(&self, proc: &Path, path: &Path) -> Result<Settings, KubeletError> {
        let shown = path.display().to_string();
        let bytes = bounded(&self.seen(proc, path))
            .map_err(|error| KubeletError::File(format!("{shown}: {error}")))?;
        configuration(&shown, &bytes)
    }

    /// A path as the process sees it: its root may be another, and a relative one is below where it was started.
    fn seen(&self, proc: &Path, path: &Path) -> PathBuf {
        let folder = proc.join(self.pid.to_string());
        match path.strip_prefix("/") {
            Ok(below) => folder.join("root").join(below),
            Err(_) => folder.join("cwd").join(path),
        }
    }
}

/// A file's bytes, at most [`limits::KUBELET_FILE_BYTES`]. A FIFO would wait for a writer for ever.
fn bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("expected a regular file, found something else"));
    }
    let mut bytes = Vec::new();
    file.take(limits::KUBELET_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > limits::KUBELET_FILE_BYTES {
        true => Err(std::io::Error::other("larger than limits::KUBELET_FILE_BYTES")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const ROOT: &str = "0\t0\t0\t0";

    /// A `/proc` with one process of root's; its root is `root` beside it.
    fn prepared(name: &str, cmdline: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (proc, root) = (dir.path().join("proc"), dir.path().join("root"));
        fs::create_dir_all(proc.join("7")).unwrap();
        fs::create_dir_all(root.join("etc/kubelet.d")).unwrap();
        fs::write(proc.join("7/comm"), format!("{name}\n")).unwrap();
        fs::write(proc.join("7/cmdline"), cmdline.replace(' ', "\0")).unwrap();
        symlink(&root, proc.join("7/root")).unwrap();
        symlink(root.join("etc"), proc.join("7/cwd")).unwrap();
        users(&proc, ROOT);
        for process in ["self", "7"] {
            fs::create_dir_all(proc.join(process).join("ns")).unwrap();
            for namespace in ["user", "mnt"] {
                symlink(format!("{namespace}:[1]"), proc.join(process).join("ns").join(namespace)).unwrap();
            }
        }
        (dir, proc)
    }

    fn users(proc: &Path, ids: &str) {
        fs::write(proc.join("7/status"), format!("Name:\tkubelet\nUid:\t{ids}\nGid:\t0\t0\t0\t0\n")).unwrap();
    }

    fn elsewhere(proc: &Path, namespace: &str) {
        fs::remove_file(proc.join("7/ns").join(namespace)).unwrap();
        symlink(format!("{namespace}:[2]"), proc.join("7/ns").join(namespace)).unwrap();
    }

    fn write(proc: &Path, name: &str, endpoint: &str) {
        let text = format!("kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///{endpoint}\n");
        fs::write(proc.join("7/root/etc").join(name), text).unwrap();
    }

    #[test]
    fn a_running_kubelet_s_settings_are_those_of_its_files() {
        let (_dir, proc) =
            prepared("kubelet", "/usr/bin/kubelet --config=/etc/k.yaml --config-dir /etc/kubelet.d");
        write(&proc, "k.yaml", "file.sock");
        let runtime = || running(&proc).pop().unwrap().settings(&proc).map(|settings| settings.endpoints().0);
        assert_eq!(runtime().unwrap(), "unix:///file.sock");
        write(&proc, "kubelet.d/20.conf", "20.sock");
        write(&proc, "kubelet.d/10.conf", "10.sock");
        write(&proc, "kubelet.d/30.conf.bak", "30.sock");
        assert_eq!(runtime().unwrap(), "unix:///20.sock");
        fs::remove_file(proc.join("7/root/etc/k.yaml")).unwrap();
        assert!(runtime().unwrap_err().to_string().starts_with("/etc/k.yaml: "));
    }

    #[test]
    fn a_relative_path_is_below_where_the_kubelet_was_started() {
        let (_dir, proc) = prepared("kubelet", "kubelet --config k.yaml");
        write(&proc, "k.yaml", "relative.sock");
        let settings = running(&proc).pop().unwrap().settings(&proc).unwrap();
        assert_eq!(settings.endpoints().0, "unix:///relative.sock");
    }

    #[test]
    fn another_process_is_no_kubelet() {
        let (_dir, proc) = prepared("kubelet-wrapper", "kubelet");
        assert_eq!(running(&proc), []);
        assert_eq!(name_of(&proc, 7).as_deref(), Some("kubelet-wrapper"));
        assert_eq!(name_of(&proc, 8), None);
    }

    #[test]
    fn a_process_that_is_not_root_s_is_no_kubelet_whatever_it_is_called() {
        let (_dir, proc) = prepared("kubelet", "kubelet");
        assert_eq!(running(&proc).len(), 1);
        // The second is what a program with the set-user-ID bit has.
        for ids in ["1000\t1000\t1000\t1000", "1000\t0\t0\t0", "0\t0\t1000\t0", "0\t0\t0\t1000", "0", ""] {
            users(&proc, ids);
            assert_eq!(running(&proc), [], "{ids}");
        }
        fs::remove_file(proc.join("7/status")).unwrap();
        assert_eq!(running(&proc), []);
        users(&proc, ROOT);
        elsewhere(&proc, "user");
        assert_eq!(running(&proc), [], "root of another user namespace");
        fs::remove_dir_all(proc.join("7/ns")).unwrap();
        fs::remove_dir_all(proc.join("self/ns")).unwrap();
        assert_eq!(running(&proc), [], "nobody knows whose root");
    }

    #[test]
    fn a_program_that_others_could_have_put_there_is_not_run() {
        let (dir, proc) = prepared("kubelet", "kubelet");
        let bin = dir.path().join("bin");
        let program = bin.join("kubelet");
        fs::create_dir(&bin).unwrap();
        fs::write(&program, "").unwrap();
        symlink(&program, proc.join("7/exe")).unwrap();
        let found = || running(&proc).pop().unwrap().program(&proc).map(drop);
        let modes = |file: u32, folder: u32| {
            fs::set_permissions(&program, fs::Permissions::from_mode(file)).unwrap();
            fs::set_permissions(&bin, fs::Permissions::from_mode(folder)).unwrap();
        };
        modes(0o755, 0o755);
        found().unwrap();
        modes(0o775, 0o755);
        let why = found().unwrap_err();
        assert!(why.contains("bin/kubelet: expected a file that only root") && why.contains("0775"), "{why}");
        modes(0o755, 0o777);
        let why = found().unwrap_err();
        assert!(why.contains("bin: expected a folder that only root") && why.contains("0777"), "{why}");
        modes(0o755, 0o755);
        elsewhere(&proc, "mnt");
        assert_eq!(found().unwrap_err(), "it runs in another mount namespace");
    }

    #[test]
    fn a_fifo_in_the_place_of_a_kubelet_s_file_is_no_file_and_holds_nobody_up() {
        let (_dir, proc) = prepared("kubelet", "kubelet --config=/etc/fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let fifo = proc.join("7/root/etc/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let error = running(&proc).pop().unwrap().settings(&proc).unwrap_err().to_string();
        assert_eq!(error, "/etc/fifo: expected a regular file, found something else");
    }
}
