//! The node's own logins: where they are, and their files read.

use std::fs;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::files::{self, FileError};
use crate::limits::{CREDENTIAL_FILE_BYTES, CREDENTIAL_FILES};

/// Where the node's own logins are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCredentials {
    /// docker's config.json files (or `.dockercfg`), in the order in which they are tried.
    pub docker_configs: Vec<PathBuf>,
    /// The kubelet's credential providers.
    pub providers: Option<CredentialProviders>,
}

/// The kubelet's credential providers; both are the kubelet's flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialProviders {
    /// `--image-credential-provider-config`: a file, or a folder of them.
    pub config: PathBuf,
    /// `--image-credential-provider-bin-dir`: where their programs are.
    pub bin_dir: PathBuf,
}

impl NodeCredentials {
    /// Whether there are none to look for.
    pub fn is_empty(&self) -> bool {
        self.docker_configs.is_empty() && self.providers.is_none()
    }
}

/// A file with logins, or that says where to get them.
pub struct CredentialFile {
    /// Its path.
    pub path: String,
    /// Of the credential providers' configuration; else a docker config.
    pub of_providers: bool,
    /// What is in it, or why it could not be read, one line.
    pub content: Result<Zeroizing<Vec<u8>>, String>,
}

/// Reads all files that the settings name. Those that somebody else could have written are refused: a login in them could
/// be anybody's, and a provider is a program.
pub fn read(settings: &NodeCredentials) -> Vec<CredentialFile> {
    let docker = settings.docker_configs.iter().map(|path| file(path, false));
    let mut all: Vec<_> = docker.collect();
    if let Some(providers) = &settings.providers {
        match provider_files(&providers.config) {
            Ok(paths) => all.extend(paths.iter().map(|path| file(path, true))),
            Err(error) => all.push(failed(&providers.config, true, error.to_string())),
        }
    }
    all
}

fn file(path: &Path, of_providers: bool) -> CredentialFile {
    match files::read_guarded(path, "CREDENTIAL_FILE_BYTES", CREDENTIAL_FILE_BYTES) {
        Ok(bytes) => {
            let content = Ok(Zeroizing::new(bytes));
            CredentialFile { path: path.display().to_string(), of_providers, content }
        }
        Err(error) => failed(path, of_providers, error.to_string()),
    }
}

fn failed(path: &Path, of_providers: bool, error: String) -> CredentialFile {
    CredentialFile { path: path.display().to_string(), of_providers, content: Err(error) }
}

/// The file, or as the kubelet takes a folder: its `*.json`, `*.yaml` and `*.yml` in the order of their names.
fn provider_files(config: &Path) -> Result<Vec<PathBuf>, FileError> {
    let at = |error| FileError::Io { path: config.to_owned(), error };
    if !fs::metadata(config).map_err(at)?.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(config).map_err(at)? {
        let path = entry.map_err(at)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("json" | "yaml" | "yml")) && !path.is_dir() {
            paths.push(path);
        }
        if paths.len() > CREDENTIAL_FILES {
            let (limit, cap) = ("CREDENTIAL_FILES", CREDENTIAL_FILES);
            return Err(FileError::Limit { path: config.to_owned(), limit, cap, unit: "files" });
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn settings(docker_configs: &[&Path], config: Option<&Path>) -> NodeCredentials {
        NodeCredentials {
            docker_configs: docker_configs.iter().map(|path| (*path).to_owned()).collect(),
            providers: config.map(|config| CredentialProviders {
                config: config.to_owned(),
                bin_dir: PathBuf::from("/none"),
            }),
        }
    }

    fn contents(settings: &NodeCredentials) -> Vec<Result<String, String>> {
        let text = |bytes: Zeroizing<Vec<u8>>| String::from_utf8(bytes.to_vec()).unwrap();
        read(settings).into_iter().map(|file| file.content.map(text)).collect()
    }

    #[test]
    fn files_are_read_in_order_and_each_failure_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (good, open, gone) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        write(&good, "good", 0o600);
        write(&open, "open", 0o666);
        let [first, second, third] = contents(&settings(&[&gone, &good, &open], None)).try_into().unwrap();
        assert!(first.unwrap_err().contains("No such file"));
        assert_eq!(second.unwrap(), "good");
        assert!(third.unwrap_err().contains("mode 0666"));
        write(&good, &"x".repeat(CREDENTIAL_FILE_BYTES + 1), 0o600);
        assert!(
            contents(&settings(&[&good], None))[0].as_ref().unwrap_err().contains("CREDENTIAL_FILE_BYTES")
        );
    }

    #[test]
    fn a_folder_of_provider_configurations_is_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", "c.json", "d.txt", "e.yaml~"] {
            write(&dir.path().join(name), name, 0o644);
        }
        fs::create_dir(dir.path().join("f.yaml")).unwrap();
        let found = contents(&settings(&[], Some(dir.path())));
        assert_eq!(found.into_iter().map(Result::unwrap).collect::<Vec<_>>(), ["a.yaml", "b.yml", "c.json"]);
        let file = dir.path().join("a.yaml");
        assert_eq!(contents(&settings(&[], Some(&file))), [Ok("a.yaml".to_owned())]);
        for number in 0..CREDENTIAL_FILES {
            write(&dir.path().join(format!("{number}.yaml")), "", 0o644);
        }
        assert!(
            contents(&settings(&[], Some(dir.path())))[0].as_ref().unwrap_err().contains("CREDENTIAL_FILES")
        );
    }

    #[test]
    fn a_program_that_others_could_have_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("provider");
        write(&program, "", 0o755);
        assert!(files::guard_file(&program).is_ok());
        write(&program, "", 0o775);
        assert!(files::guard_file(&program).unwrap_err().to_string().contains("mode 0775"));
        write(&program, "", 0o755);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(files::guard_file(&program).unwrap_err().to_string().contains("folder"));
        assert!(files::guard_file(&dir.path().join("gone")).is_err());
    }
}
