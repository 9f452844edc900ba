//! Which configuration the daemon starts with: the given one, else the last good one, else what can be saved of it.

use std::path::{Path, PathBuf};

use super::files::{self, FileError};
use super::settings::{ConfigurationError, Mode, ProxyConfiguration, STATE_DIR};
use super::units::{Endpoint, absolute};
use crate::limits;

const LAST_GOOD: &str = "config.last-good.yaml";

/// Where the settings came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The given file is good.
    Given,
    /// The given file is bad; a copy of the last good one is used.
    LastGood,
    /// The given file is bad and none was kept; only what the relay cannot do without was read from it.
    Salvaged,
}

impl Source {
    /// A short name, for commands.
    pub fn name(self) -> &'static str {
        match self {
            Source::Given => "file",
            Source::LastGood => "last_good",
            Source::Salvaged => "salvaged",
        }
    }
}

/// What a start with a bad file has: enough for the relay to run. Audit forwards; with an enforcing or unknown mode
/// vetted calls are undecided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvage {
    /// The socket the kubelet is pointed at.
    pub listen: Endpoint,
    /// The runtime's socket.
    pub runtime_endpoint: Endpoint,
    /// The socket of the runtime's image service.
    pub image_endpoint: Endpoint,
    /// The folder of state.
    pub state_dir: PathBuf,
    /// The mode, if it can be read beyond doubt.
    pub mode: Option<Mode>,
}

/// The settings to run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// A whole configuration.
    Whole(Box<ProxyConfiguration>),
    /// What was saved of a bad one.
    Salvaged(Salvage),
}

/// What [`load`] came to.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Where they came from.
    pub source: Source,
    /// What is wrong with the given file, in one line, unless it is the source. To be told loudly.
    pub error: Option<String>,
    /// The text of the whole configuration; empty where there is none.
    bytes: Vec<u8>,
}

impl Loaded {
    /// The text of the configuration in [`Self::settings`]; empty if that was salvaged.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// What is to be kept of it: nothing, unless it is whole and came from the given file.
    pub fn last_good(&self) -> Option<LastGood> {
        match (&self.settings, self.source) {
            (Settings::Whole(whole), Source::Given) => {
                Some(LastGood { state_dir: whole.state_dir.clone(), bytes: self.bytes.clone() })
            }
            _ => None,
        }
    }
}

/// Nothing usable was found: exit 78.
#[derive(Debug, thiserror::Error)]
#[error("{error}; no last good configuration in {} ({kept}), and no usable listen and runtimeEndpoint in the file", .state_dir.display())]
pub struct LoadError {
    /// What is wrong with the given file.
    pub error: String,
    /// Where a last good one was looked for.
    pub state_dir: PathBuf,
    /// What was found there.
    pub kept: String,
}

/// Why one file could not be used.
#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Content(#[from] ConfigurationError),
}

/// Loads the configuration at `path`, falling back as DESIGN's "Reload" says. A file that others could have written is
/// not read at all, so nothing is salvaged from it.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    load_with_default_state(path, Path::new(STATE_DIR))
}

fn load_with_default_state(path: &Path, default_state: &Path) -> Result<Loaded, LoadError> {
    let (error, text) = match read(path) {
        Ok(bytes) => match ProxyConfiguration::parse(&path.display().to_string(), &bytes) {
            Ok(whole) => {
                let settings = Settings::Whole(Box::new(whole));
                return Ok(Loaded { settings, source: Source::Given, error: None, bytes });
            }
            Err(error) => (error.to_string(), String::from_utf8_lossy(&bytes).into_owned()),
        },
        Err(error) => (error.to_string(), String::new()),
    };
    let state_dir = only(&text, "stateDir").and_then(|dir| absolute(dir).ok());
    let state_dir = state_dir.unwrap_or_else(|| default_state.to_owned());
    let kept = match kept(&state_dir) {
        Ok((whole, bytes)) => {
            let settings = Settings::Whole(Box::new(whole));
            return Ok(Loaded { settings, source: Source::LastGood, error: Some(error), bytes });
        }
        Err(kept) => kept.to_string(),
    };
    match salvage(&text, &state_dir) {
        Some(salvage) => Ok(Loaded {
            settings: Settings::Salvaged(salvage),
            source: Source::Salvaged,
            error: Some(error),
            bytes: Vec::new(),
        }),
        None => Err(LoadError { error, state_dir, kept }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    files::read_guarded(path, "CONFIGURATION_BYTES", limits::CONFIGURATION_BYTES)
}

fn kept(state_dir: &Path) -> Result<(ProxyConfiguration, Vec<u8>), Bad> {
    let path = state_dir.join(LAST_GOOD);
    let bytes = read(&path)?;
    Ok((ProxyConfiguration::parse(&path.display().to_string(), &bytes)?, bytes))
}

/// A configuration to be kept for a start with a bad one.
#[derive(Debug, Clone)]
pub struct LastGood {
    state_dir: PathBuf,
    bytes: Vec<u8>,
}

impl LastGood {
    /// Writes it into its state folder, and waits for the disk.
    pub fn write(&self) -> Result<(), FileError> {
        files::write_state(&self.state_dir, LAST_GOOD, &self.bytes)
    }
}

/// The mode of the last good configuration that is kept in a state folder; `None` if none is, or none that can be read.
pub fn kept_mode(state_dir: &Path) -> Option<Mode> {
    kept(state_dir).ok().map(|(whole, _)| whole.mode)
}

fn salvage(text: &str, state_dir: &Path) -> Option<Salvage> {
    let endpoint = |key| Endpoint::parse(only(text, key)?).ok();
    let (listen, runtime_endpoint) = (endpoint("listen")?, endpoint("runtimeEndpoint")?);
    // An imageEndpoint that is there but unreadable must not become the runtime's socket.
    let image_endpoint = match values(text, "imageEndpoint").next() {
        Some(_) => endpoint("imageEndpoint")?,
        None => runtime_endpoint.clone(),
    };
    let mode = match only(text, "mode") {
        Some("audit") => Some(Mode::Audit),
        Some("enforce") => Some(Mode::Enforce),
        _ => None,
    };
    let distinct = listen != runtime_endpoint && listen != image_endpoint;
    let state_dir = state_dir.to_owned();
    distinct.then_some(Salvage { listen, runtime_endpoint, image_endpoint, state_dir, mode })
}

/// The value of a key at the left margin, if the key is there exactly once.
fn only<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = values(text, key);
    values.next().filter(|_| values.next().is_none())
}

/// The plain values of a key at the left margin, whatever else is wrong with the file.
fn values<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let value = line.strip_prefix(key)?.trim_start().strip_prefix(':')?;
        let value = value.split(" #").next().unwrap_or_default().trim();
        let unquoted = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        Some(unquoted.unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Node {
        dir: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn state(&self) -> PathBuf {
            self.dir.path().join("state")
        }

        fn valid(&self) -> String {
            format!(
                "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///run/l.sock\n\
                 runtimeEndpoint: unix:///run/r.sock # the runtime\nmode: \"enforce\"\nunmatched: deny\nstateDir: {}\n",
                self.state().display()
            )
        }

        fn load(&self, text: &str) -> Result<Loaded, LoadError> {
            let path = self.dir.path().join("config.yaml");
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            load_with_default_state(&path, &self.dir.path().join("none"))
        }
    }

    #[test]
    fn good_file_is_used_and_kept() {
        let node = Node::new();
        let loaded = node.load(&node.valid()).unwrap();
        assert_eq!((loaded.source, &loaded.error), (Source::Given, &None));
        assert_eq!(kept_mode(&node.state()), None);
        loaded.last_good().unwrap().write().unwrap();
        assert_eq!(fs::read_to_string(node.state().join(LAST_GOOD)).unwrap(), node.valid());
        assert_eq!(kept_mode(&node.state()), Some(Mode::Enforce));
    }

    #[test]
    fn bad_file_gives_way_to_the_last_good_one_and_is_not_kept() {
        let node = Node::new();
        node.load(&node.valid()).unwrap().last_good().unwrap().write().unwrap();
        let loaded = node.load(&node.valid().replace("mode", "mood")).unwrap();
        assert_eq!(loaded.source, Source::LastGood);
        assert!(loaded.error.as_ref().unwrap().contains("config.yaml:5: unknown field `mood`"));
        let Settings::Whole(whole) = &loaded.settings else { panic!() };
        assert_eq!(whole.mode, Mode::Enforce);
        assert!(loaded.last_good().is_none());
    }

    #[test]
    fn without_a_last_good_one_the_sockets_and_a_readable_mode_are_saved() {
        let node = Node::new();
        let salvaged = |text: String| match node.load(&text).unwrap().settings {
            Settings::Salvaged(salvage) => salvage,
            Settings::Whole(_) => panic!("not salvaged"),
        };
        let bad = node.valid().replace("unmatched", "unmatch");
        let salvage = salvaged(bad.clone());
        assert_eq!(salvage.listen, Endpoint::parse("unix:///run/l.sock").unwrap());
        assert_eq!(salvage.runtime_endpoint, Endpoint::parse("unix:///run/r.sock").unwrap());
        assert_eq!(salvage.image_endpoint, salvage.runtime_endpoint);
        assert_eq!((salvage.state_dir, salvage.mode), (node.state(), Some(Mode::Enforce)));
        // A mode said twice or wrongly is unknown, never audit.
        assert_eq!(salvaged(format!("{bad}mode: audit\n")).mode, None);
        assert_eq!(salvaged(bad.replace("\"enforce\"", "off")).mode, None);
    }

    #[test]
    fn bad_file_without_sockets_ends_the_start() {
        let node = Node::new();
        for (from, to) in [
            ("listen:", "listens:"),
            ("runtimeEndpoint: unix", "runtimeEndpoint: tcp"),
            ("mode:", "imageEndpoint: tcp://x\nmood:"),
            ("r.sock # the runtime", "l.sock"),
            ("kind: ProxyConfiguration", "kind: x\nlisten: unix:///run/other.sock"),
        ] {
            let error = node.load(&node.valid().replace(from, to)).unwrap_err().to_string();
            assert!(error.contains("config.yaml:") && error.contains("no usable listen"), "{to}: {error}");
        }
    }

    #[test]
    fn nothing_is_taken_from_a_file_others_can_write() {
        let node = Node::new();
        node.load(&node.valid()).unwrap().last_good().unwrap().write().unwrap();
        let path = node.dir.path().join("config.yaml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        // Not even the state folder it names.
        assert!(load_with_default_state(&path, &node.dir.path().join("none")).is_err());
        let loaded = load_with_default_state(&path, &node.state()).unwrap();
        assert_eq!(loaded.source, Source::LastGood);
        assert!(loaded.error.unwrap().contains("mode 0666"));
    }
}
