//! The kubelets that run on this node, by their processes.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Flags, KubeletError, Settings, configuration, effective, flags, is_drop_in};
use crate::limits;

/// The process name of a kubelet.
const NAME: &str = "kubelet";

/// A kubelet that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubelet {
    /// Its process.
    pub pid: u32,
    /// Its program's file, where it can be read.
    pub program: Option<PathBuf>,
    /// What it was started with.
    pub flags: Flags,
}

/// The name of a process (`comm`); `None` if there is no such process.
pub fn name_of(proc: &Path, pid: u32) -> Option<String> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("comm")).ok()?;
    Some(text.trim_end().to_owned())
}

/// The kubelets below `/proc`, in the order of their IDs.
pub fn running(proc: &Path) -> Vec<Kubelet> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    pids.sort_unstable();
    pids.retain(|pid| name_of(proc, *pid).as_deref() == Some(NAME));
    pids.into_iter().filter_map(|pid| kubelet(proc, pid)).collect()
}

fn kubelet(proc: &Path, pid: u32) -> Option<Kubelet> {
    let folder = proc.join(pid.to_string());
    let line = bounded(&folder.join("cmdline")).ok()?;
    let arguments: Vec<String> =
        line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    Some(Kubelet { pid, program: fs::read_link(folder.join("exe")).ok(), flags: flags(&arguments) })
}

impl Kubelet {
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

/// A file's bytes, at most [`limits::KUBELET_FILE_BYTES`].
fn bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limits::KUBELET_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > limits::KUBELET_FILE_BYTES {
        true => Err(std::io::Error::other("larger than limits::KUBELET_FILE_BYTES")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A `/proc` with one process; its root is `root` beside it.
    fn prepared(name: &str, cmdline: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (proc, root) = (dir.path().join("proc"), dir.path().join("root"));
        fs::create_dir_all(proc.join("7")).unwrap();
        fs::create_dir_all(root.join("etc/kubelet.d")).unwrap();
        fs::write(proc.join("7/comm"), format!("{name}\n")).unwrap();
        fs::write(proc.join("7/cmdline"), cmdline.replace(' ', "\0")).unwrap();
        symlink(&root, proc.join("7/root")).unwrap();
        symlink(root.join("etc"), proc.join("7/cwd")).unwrap();
        (dir, proc)
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
}
