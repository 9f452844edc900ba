//! Keeps roots up to date, beside everything else: repositories asked in turn, files read again when they change.
//!
//! A guest: each repository is asked at most once an interval, and less often while it fails. What fails changes
//! nothing in force. Nobody waits for any of this.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use super::kept;
use super::load::{anchor, keep, load, reload, taken};
use super::mirror::Files;
use super::set::{Origin, State, Trust};
use super::source::{Anchor, Given, Mirror, RootSource};
use super::tuf;
use crate::limits;
use crate::registry::Client;

/// How often it is looked whether files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the log says again what somebody should look at.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);
/// First wait after a failure, where there is no material at all.
const RETRY_WITHOUT: Duration = Duration::from_secs(10);
/// The same where there is some.
const RETRY_WITH: Duration = Duration::from_secs(300);

/// What a keeper needs.
#[derive(Clone)]
pub struct Keeper {
    /// The roots, each name once.
    pub sources: Vec<RootSource>,
    /// How often repositories are asked.
    pub refresh_every: Duration,
    /// The vetter's state folder.
    pub state: PathBuf,
    /// Speaks to mirrors.
    pub client: Arc<Client>,
}

/// What tells that a file was exchanged: its device, number, size and time of change. `None`: it is not there.
type Identity = Option<(u64, u64, u64, i64, i64)>;

impl Keeper {
    /// The roots from what is at hand, before anybody is asked; what is good is kept. Blocking.
    pub fn load(&self, previous: Option<&Trust>, now: SystemTime) -> Trust {
        let (trust, to_keep) = load(&self.sources, &self.state, previous, now);
        for (name, kept) in to_keep {
            keep(&self.state, &name, &kept);
        }
        trust
    }

    /// The same for commands that only look: nothing is kept. Blocking.
    pub fn look(&self, now: SystemTime) -> Trust {
        load(&self.sources, &self.state, None, now).0
    }

    /// Keeps `trust` up to date for as long as it is polled, and hands over each new state of things.
    pub async fn run(self, mut trust: Arc<Trust>, publish: impl Fn(Arc<Trust>)) {
        let mut due: HashMap<String, Instant> = HashMap::new();
        for source in self.sources.iter().filter(|source| source.tuf.is_some()) {
            let wait =
                trust.state(&source.name).map(|state| self.first_wait(source, state)).unwrap_or_default();
            due.insert(source.name.clone(), Instant::now() + wait);
        }
        let mut seen: HashMap<String, Vec<Identity>> = HashMap::new();
        for source in &self.sources {
            seen.insert(source.name.clone(), identities(source));
        }
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut warn = Instant::now();
        loop {
            looks.tick().await;
            if warn <= Instant::now() {
                warn = Instant::now() + WARN_EVERY;
                for (root, state) in trust.states() {
                    for warning in state.warnings(SystemTime::now()) {
                        tracing::warn!(root, source = state.source, "trusted root: {warning}");
                    }
                }
            }
            for source in &self.sources {
                let now = identities(source);
                let changed =
                    seen.insert(source.name.clone(), now.clone()).is_some_and(|before| before != now);
                if changed && source.tuf.is_none() {
                    tracing::info!(root = source.name, "the file of a trusted root has changed");
                    let before = trust.state(&source.name).cloned();
                    let (source, folder) = (source.clone(), self.state.clone());
                    let name = source.name.clone();
                    let work = move || {
                        let (state, kept) = reload(&source, &folder, before.as_ref(), SystemTime::now());
                        if let Some(kept) = kept {
                            keep(&folder, &source.name, &kept);
                        }
                        state
                    };
                    if let Ok(state) = tokio::task::spawn_blocking(work).await {
                        trust = self.exchange(&trust, &name, state, &publish);
                    }
                }
                let at = due.get(&source.name).copied();
                if at.is_some_and(|at| changed || at <= Instant::now()) {
                    let before = trust.state(&source.name).cloned().unwrap_or_else(|| State::of(source));
                    let state = self.refresh(source, before).await;
                    due.insert(source.name.clone(), Instant::now() + self.next_wait(&state, random()));
                    trust = self.exchange(&trust, &source.name, state, &publish);
                }
            }
        }
    }

    /// The same roots, those that are not there asked for once; nothing is kept. For commands that have no daemon to
    /// ask.
    pub async fn ask_for_missing(&self, trust: Trust) -> Trust {
        let mut all = trust;
        for source in self.sources.iter().filter(|source| source.tuf.is_some()) {
            if let Some(state) = all.state(&source.name).filter(|state| state.root.is_none()).cloned() {
                let state = self.ask(source, state).await.0;
                all = all.with(&source.name, state);
            }
        }
        all
    }

    /// One root, asked for at its repository and kept. What fails leaves the material as it was.
    pub async fn refresh(&self, source: &RootSource, before: State) -> State {
        let (state, kept) = self.ask(source, before).await;
        if let Some(kept) = kept {
            let (folder, name) = (self.state.clone(), source.name.clone());
            let _ = tokio::task::spawn_blocking(move || keep(&folder, &name, &kept)).await;
        }
        state
    }

    async fn ask(&self, source: &RootSource, before: State) -> (State, Option<kept::Kept>) {
        let Some(tuf) = source.tuf.clone() else { return (before, None) };
        let deadline = Instant::now() + Duration::from_secs(limits::TUF_SECONDS);
        let client = Arc::new(self.client.as_guest());
        let files = Files::of(&tuf.mirror, &tuf.targets, &client, deadline);
        let (folder, name, blank) = (self.state.clone(), source.name.clone(), State::of(source));
        let held = before.kept.clone();
        let runtime = tokio::runtime::Handle::current();
        // Not on the thread that calls wait for: megabytes of JSON may have to be read.
        let work = move || {
            let anchor = anchor(&tuf)?;
            // What is damaged or another repository's is no floor for versions.
            let kept = kept::read(&folder, &name).ok().flatten();
            // The disk may not have taken what was said last.
            let floor = kept.as_ref().into_iter().chain(held.as_deref()).max_by_key(|kept| kept.at);
            let asked = tuf::refresh(files, &anchor, &tuf.target, floor, SystemTime::now());
            let asked = tokio::time::timeout_at(deadline, asked);
            let fetched = runtime.block_on(asked).unwrap_or_else(|_| {
                Err(format!("no end within {} seconds (limit TUF_SECONDS)", limits::TUF_SECONDS))
            })?;
            let state = taken(&fetched, &blank).map_err(|why| format!("{}: {why}", tuf.target))?;
            Ok::<_, String>((state, fetched.kept))
        };
        let asked = tokio::task::spawn_blocking(work).await;
        match asked.unwrap_or_else(|_| Err("a fault inside crivet; see its log".to_owned())) {
            Ok((state, kept)) => (state, Some(kept)),
            Err(error) => {
                let origin = match before.origin {
                    Origin::Source => Origin::Kept,
                    other => other,
                };
                let failures = before.failures.saturating_add(1);
                (State { origin, error: Some(error), failures, ..before }, None)
            }
        }
    }

    fn exchange(&self, trust: &Trust, name: &str, state: State, publish: &impl Fn(Arc<Trust>)) -> Arc<Trust> {
        let before = trust.state(name);
        let version = |state: Option<&State>| state.and_then(|s| s.root.as_ref()).map(|root| root.version());
        match &state.error {
            Some(error) if before.is_none_or(|before| before.error.as_ref() != Some(error)) => {
                tracing::warn!(%error, root = name, source = state.source, "a trusted root cannot be had from its source");
            }
            None if before.is_some_and(|before| before.error.is_some()) => {
                tracing::info!(
                    root = name,
                    source = state.source,
                    "a trusted root is had from its source again"
                );
            }
            _ => {}
        }
        if version(before) != version(Some(&state)) {
            let version = version(Some(&state)).map(|version| version.to_string());
            tracing::info!(root = name, version, "the material of a trusted root has changed");
        }
        let trust = Arc::new(trust.with(name, state));
        publish(Arc::clone(&trust));
        trust
    }

    /// When a repository is first asked: when its interval is over, counted from when it last answered, also before a
    /// restart. At once if there is no material; else nodes that start together spread what they ask.
    fn first_wait(&self, source: &RootSource, state: &State) -> Duration {
        let web = source.tuf.as_ref().is_some_and(|tuf| matches!(tuf.mirror, Mirror::Http(_)));
        if state.root.is_none() || !web {
            return Duration::ZERO;
        }
        let spread = spread(Duration::from_secs(limits::BACKGROUND_SPREAD_SECONDS), 0, random());
        let age = state.at.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        let left = age.map_or(Duration::ZERO, |age| self.refresh_every.saturating_sub(age));
        left.max(spread)
    }

    /// When a repository is asked again: after the interval, or sooner if it failed; each time a little other, so that
    /// nodes that were started together drift apart.
    fn next_wait(&self, state: &State, random: u64) -> Duration {
        if state.failures == 0 {
            return spread(self.refresh_every, 90, random);
        }
        let first = if state.root.is_some() { RETRY_WITH } else { RETRY_WITHOUT };
        let wait = first.saturating_mul(1 << (state.failures - 1).min(16));
        spread(wait.min(self.refresh_every), 50, random)
    }
}

/// Between so many percent of `most` and all of it.
fn spread(most: Duration, percent: u32, random: u64) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    let least = most / 100 * u64::from(percent);
    Duration::from_millis(least + random % (most - least + 1))
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness all the same: then this node asks as soon as it may.
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// What tells that the files of a source have changed: its material, its pinned root, and a folder's newest statement.
fn identities(source: &RootSource) -> Vec<Identity> {
    let given = match &source.given {
        Some(Given::File(path)) if source.tuf.is_none() => Some(path.clone()),
        _ => None,
    };
    let anchor = source.tuf.as_ref().and_then(|tuf| match &tuf.anchor {
        Anchor::File(path) => Some(path.clone()),
        Anchor::Inline(_) => None,
    });
    let folder = source.tuf.as_ref().and_then(|tuf| match &tuf.mirror {
        Mirror::Folder(folder) => Some(folder.join("timestamp.json")),
        _ => None,
    });
    [given, anchor, folder].into_iter().flatten().map(|path| identity(&path)).collect()
}

fn identity(path: &Path) -> Identity {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::super::source::{Settings, TRUSTED_ROOT_TARGET, TufSource};
    use super::*;
    use crate::registry;

    fn keeper() -> Keeper {
        let settings = registry::Settings {
            plain_http: Vec::new(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
            max_concurrent_per_host: 1,
            user_agent: "crivet/test".to_owned(),
            hosts: registry::HostFiles::None,
            proxies: registry::ProxySettings::default(),
        };
        Keeper {
            sources: Settings::default().roots,
            refresh_every: Duration::from_secs(86_400),
            state: PathBuf::from("/nonexistent"),
            client: Arc::new(Client::new(&settings, Arc::new(|_| {})).unwrap()),
        }
    }

    fn state(failures: u32, has_root: bool) -> State {
        let source = &keeper().sources[0];
        let (loaded, _) = reload(source, Path::new("/nonexistent"), None, SystemTime::UNIX_EPOCH);
        State { failures, root: loaded.root.filter(|_| has_root), ..State::of(source) }
    }

    #[test]
    fn failures_back_off_up_to_the_interval() {
        let keeper = keeper();
        let wait =
            |failures, has_root, random| keeper.next_wait(&state(failures, has_root), random).as_secs();
        assert_eq!(wait(0, true, 0), 77_760);
        assert!((77_760..=86_400).contains(&wait(0, true, u64::MAX)));
        assert_eq!([1, 2, 3, 4].map(|failures| wait(failures, true, 0)), [150, 300, 600, 1200]);
        assert_eq!([1, 2, 3].map(|failures| wait(failures, false, 0)), [5, 10, 20]);
        for failures in [20, u32::MAX] {
            assert_eq!(wait(failures, true, 0), 43_200);
            assert!(wait(failures, false, u64::MAX) <= 86_400);
        }
    }

    /// Copies a repository's files over those in a folder.
    fn laid_over(repository: &str, folder: &Path) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tuf").join(repository);
        for below in ["", "targets"] {
            std::fs::create_dir_all(folder.join(below)).unwrap();
            for entry in std::fs::read_dir(from.join(below)).unwrap().map(Result::unwrap) {
                if entry.path().is_file() {
                    std::fs::copy(entry.path(), folder.join(below).join(entry.file_name())).unwrap();
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_disk_did_not_take_is_neither_undone_by_a_reload_nor_by_its_repository() {
        let folder = tempfile::tempdir().unwrap();
        let (mirror, state) = (folder.path().join("mirror"), folder.path().join("state"));
        laid_over("good", &mirror);
        let tuf = TufSource {
            anchor: Anchor::Inline(std::fs::read(mirror.join("1.root.json")).unwrap().into()),
            mirror: Mirror::Folder(mirror.clone()),
            targets: "targets".to_owned(),
            target: TRUSTED_ROOT_TARGET.to_owned(),
        };
        let source = RootSource { name: "corp".to_owned(), given: None, tuf: Some(tuf), document: None };
        let keeper = Keeper { sources: vec![source.clone()], state: state.clone(), ..keeper() };
        let version = |state: &State| state.root.as_ref().unwrap().version();
        let first = keeper.refresh(&source, State::of(&source)).await;
        assert!(kept::read(&state, "corp").unwrap().is_some());

        // From now on nothing can be written there.
        let kept_file = state.join(kept::FOLDER).join("corp.json");
        let aside = folder.path().join("corp.json");
        std::fs::copy(&kept_file, &aside).unwrap();
        std::fs::remove_dir_all(state.join(kept::FOLDER)).unwrap();
        std::fs::write(state.join(kept::FOLDER), "").unwrap();
        laid_over("newer", &mirror);
        let second = keeper.refresh(&source, first.clone()).await;
        assert!(second.error.is_none() && version(&second) != version(&first));

        // The repository says again what it said before; nothing but memory knows better.
        laid_over("good", &mirror);
        let third = keeper.refresh(&source, second.clone()).await;
        assert!(third.error.as_ref().unwrap().contains("rollback detected"), "{:?}", third.error);
        assert_eq!(version(&third), version(&second));

        // A reload, with the older one on the disk, which can be written again.
        std::fs::remove_file(state.join(kept::FOLDER)).unwrap();
        std::fs::create_dir(state.join(kept::FOLDER)).unwrap();
        std::fs::copy(&aside, &kept_file).unwrap();
        let trust = Trust::new([("corp".to_owned(), second.clone())]);
        let reloaded = keeper.load(Some(&trust), SystemTime::now());
        assert_eq!(version(reloaded.state("corp").unwrap()), version(&second));
        let on_disk = keeper.look(SystemTime::now());
        assert_eq!(version(on_disk.state("corp").unwrap()), version(&second), "and is kept at last");
    }

    #[test]
    fn repository_that_answered_lately_is_not_asked_again_at_a_restart() {
        let keeper = keeper();
        let tuf = TufSource {
            mirror: Mirror::Http("https://tuf.example".to_owned()),
            anchor: Anchor::Inline("{}".into()),
            targets: "targets".to_owned(),
            target: TRUSTED_ROOT_TARGET.to_owned(),
        };
        let source = RootSource { tuf: Some(tuf), ..keeper.sources[0].clone() };
        let hours = |hours: u64| Some(SystemTime::now() - Duration::from_secs(hours * 3600));
        let wait = |at, has_root| keeper.first_wait(&source, &State { at, ..state(0, has_root) }).as_secs();
        assert!((22 * 3600..=23 * 3600).contains(&wait(hours(1), true)));
        assert!(wait(hours(48), true) <= limits::BACKGROUND_SPREAD_SECONDS);
        assert!(wait(None, true) <= limits::BACKGROUND_SPREAD_SECONDS);
        assert_eq!(wait(None, false), 0);
    }
}
