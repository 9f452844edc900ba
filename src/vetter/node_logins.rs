//! The node's own logins: read from the files that the configuration names, and asked of the kubelet's credential
//! providers. In memory only, and wiped when dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::flight::Flights;
use super::node::Node;
use super::wire::CredentialTrouble;
use crate::config::credential_files::CredentialFile;
use crate::config::{NodeCredentials, files};
use crate::limits;
use crate::registry::Credential;
use crate::registry::credentials::exec::Runner;
use crate::registry::credentials::{
    Answer, CacheKey, DockerConfig, Keyring, Login, Provider, matches, read_providers,
};

const FILES_FOR: Duration = Duration::from_secs(limits::CREDENTIAL_FILES_SECONDS);
const RETRY_AFTER: Duration = Duration::from_secs(limits::CREDENTIAL_PROVIDER_RETRY_SECONDS);
/// A provider that works with the pod's own token.
const NEEDS_TOKEN: &str = "it works with a token of the pod's service account (tokenAttributes), which only the kubelet \
     can have; the login of a pull through crivet is used, while crivet runs";

/// Where logins come from, and those that are there.
pub struct NodeLogins {
    settings: NodeCredentials,
    runner: Option<Runner>,
    read: tokio::sync::Mutex<Option<(Arc<Files>, Instant)>>,
    /// What was read last.
    latest: Mutex<Arc<Files>>,
    kept: Mutex<HashMap<(String, CacheKey), Kept>>,
    flights: Flights<(String, String), Said>,
    slots: Semaphore,
    /// By provider: why its last run failed.
    failed: Mutex<BTreeMap<String, String>>,
    /// What is wrong with the files.
    troubles: Mutex<Vec<CredentialTrouble>>,
}

/// Logins by location, as a provider gave them.
type Logins = Vec<(String, Credential)>;

/// What a provider said, or why it said nothing.
type Said = Result<Arc<Logins>, String>;

/// What the files said.
#[derive(Default)]
struct Files {
    configs: Vec<(Arc<str>, Keyring)>,
    providers: Vec<Arc<Provider>>,
}

/// A provider's answer, or that it failed.
struct Kept {
    answer: Said,
    since: Instant,
    until: Instant,
}

/// What came of asking the providers that cover a repository.
#[derive(Default)]
pub struct Asked {
    /// What they gave, the most specific first.
    pub logins: Vec<Login>,
    /// Those that cover the image and gave nothing, and why.
    pub failures: Vec<String>,
    /// Whether all that cover it were asked.
    pub complete: bool,
}

impl NodeLogins {
    /// Of these settings; nothing is read yet. Providers are run as `user`, else as whom this process runs.
    pub fn new(settings: NodeCredentials, user: Option<(u32, u32)>) -> Arc<Self> {
        let bin_dir = settings.providers.as_ref().map(|providers| providers.bin_dir.clone());
        Arc::new(Self {
            settings,
            runner: bin_dir.map(|bin_dir| Runner::new(bin_dir, user)),
            read: tokio::sync::Mutex::default(),
            latest: Mutex::default(),
            kept: Mutex::default(),
            flights: Flights::default(),
            slots: Semaphore::new(limits::CREDENTIAL_PROVIDERS_AT_ONCE),
            failed: Mutex::default(),
            troubles: Mutex::default(),
        })
    }

    /// Reads the files for the first time, so that what is wrong with them is known before a login is needed.
    pub async fn prepare(&self, node: &Node) {
        self.files(node).await;
    }

    /// What is wrong with the files and the providers.
    pub fn troubles(&self) -> Vec<CredentialTrouble> {
        let failed = lock(&self.failed);
        let of_runs = failed.iter().map(|(source, why)| trouble(source, why.clone(), true));
        lock(&self.troubles).iter().cloned().chain(of_runs).collect()
    }

    /// The docker configs' logins for a repository, in the order of the files.
    pub async fn of_files(&self, repository: &str, node: &Node) -> Vec<Login> {
        let files = self.files(node).await;
        files.configs.iter().flat_map(|(_, keyring)| keyring.lookup(repository)).cloned().collect()
    }

    /// The providers' logins for a repository, as far as they have said them before.
    pub async fn of_providers_so_far(self: &Arc<Self>, repository: &str, node: &Node) -> Asked {
        let (mut said, mut complete) = (Vec::new(), true);
        for provider in self.covering(repository, node).await {
            let answer = self.known(&provider, repository, Instant::now());
            complete &= answer.is_some();
            said.extend(answer.map(|answer| (provider, answer)));
        }
        Asked { complete, ..together(repository, said) }
    }

    /// The providers' logins for a repository. Those that do not answer by `by` go on, for the next who asks.
    pub async fn of_providers(self: &Arc<Self>, repository: &str, node: &Node, by: Instant) -> Asked {
        let providers = self.covering(repository, node).await;
        let asked = providers.into_iter().map(|provider| async move {
            let answer = self.ask(&provider, repository, by).await;
            (provider, answer)
        });
        Asked { complete: true, ..together(repository, join_all(asked).await) }
    }

    /// The login for a mirror, as far as one is known: nothing is read and no provider is run for it. `host` is the
    /// mirror's `host[:port]`, `repository` the name there.
    pub fn of_mirror(&self, host: &str, repository: &str) -> Credential {
        let (files, place) = (Arc::clone(&lock(&self.latest)), format!("{host}/{repository}"));
        let of_files = files.configs.iter().flat_map(|(_, keyring)| keyring.lookup(&place)).cloned();
        if let Some(login) = of_files.into_iter().next() {
            return login.credential;
        }
        let covers =
            |provider: &&Arc<Provider>| provider.match_images.iter().any(|glob| matches(glob, &place));
        let known = |provider: &Arc<Provider>| {
            let said = self.known(provider, &place, Instant::now())?;
            Some((Arc::clone(provider), said))
        };
        let said = files.providers.iter().filter(covers).filter_map(known).collect();
        together(&place, said)
            .logins
            .into_iter()
            .next()
            .map_or(Credential::Anonymous, |login| login.credential)
    }

    /// A registry did not take this credential: a provider that gave it is asked anew, though not at once.
    pub fn refused(&self, credential: &Credential, now: Instant) {
        lock(&self.kept).retain(|_, kept| {
            let young = now.duration_since(kept.since) < RETRY_AFTER;
            let gave = |logins: &Logins| logins.iter().any(|(_, given)| given == credential);
            young || !kept.answer.as_ref().is_ok_and(|logins| gave(logins))
        });
    }

    async fn covering(&self, repository: &str, node: &Node) -> Vec<Arc<Provider>> {
        let covers =
            |provider: &&Arc<Provider>| provider.match_images.iter().any(|glob| matches(glob, repository));
        self.files(node).await.providers.iter().filter(covers).cloned().collect()
    }

    /// What the files say, read anew from time to time.
    async fn files(&self, node: &Node) -> Arc<Files> {
        if self.settings.is_empty() {
            return Arc::default();
        }
        // Whoever comes meanwhile waits for the same reading.
        let mut read = self.read.lock().await;
        let old = match &*read {
            Some((files, at)) if at.elapsed() < FILES_FOR => return Arc::clone(files),
            old => old.as_ref().map(|(files, _)| Arc::clone(files)),
        };
        let found = node.credential_files(&self.settings).await;
        let (answered, old_is_there) = (found.is_ok(), old.is_some());
        let (files, troubles) = match found {
            Ok(found) => understood(found, old.as_deref()),
            Err(why) => {
                let troubles = vec![trouble("the node's logins", why, false)];
                (old.clone().unwrap_or_default(), troubles)
            }
        };
        if old.is_none_or(|old| old.providers != files.providers) {
            lock(&self.kept).clear();
            lock(&self.failed).clear();
        }
        for new in troubles.iter().filter(|new| !lock(&self.troubles).contains(new)) {
            tracing::warn!(source = %new.source, why = %new.why, "the node's logins: one of their sources is of no use");
        }
        *lock(&self.troubles) = troubles;
        *lock(&self.latest) = Arc::clone(&files);
        // One that came to nothing is not kept: the next who asks tries again.
        if answered || old_is_there {
            *read = Some((Arc::clone(&files), Instant::now()));
        }
        files
    }

    /// What a provider has said about a repository before.
    fn known(&self, provider: &Provider, repository: &str, now: Instant) -> Option<Said> {
        if provider.needs_token {
            return Some(Err(NEEDS_TOKEN.to_owned()));
        }
        let kept = lock(&self.kept);
        let mut found = CacheKey::of(repository)
            .into_iter()
            .filter_map(|key| kept.get(&(provider.name.clone(), key)).filter(|kept| now < kept.until));
        found.next().map(|kept| kept.answer.clone())
    }

    async fn ask(self: &Arc<Self>, provider: &Arc<Provider>, repository: &str, by: Instant) -> Said {
        if let Some(known) = self.known(provider, repository, Instant::now()) {
            return known;
        }
        let key = (provider.name.clone(), repository.to_owned());
        let (this, asked, about) = (Arc::clone(self), Arc::clone(provider), repository.to_owned());
        let answer = self.flights.join(key, by, async move { this.run(&asked, &about).await }).await;
        answer.unwrap_or_else(|| Err("it has not answered yet; try again".to_owned()))
    }

    async fn run(&self, provider: &Provider, repository: &str) -> Said {
        let Some(runner) = &self.runner else { return Err("there is no folder of providers".to_owned()) };
        let _slot = self.slots.acquire().await;
        // Another repository's answer may have been one for the whole registry.
        if let Some(known) = self.known(provider, repository, Instant::now()) {
            return known;
        }
        let program = runner.bin_dir.join(&provider.name);
        let guarded = tokio::task::spawn_blocking(move || files::guard_file(&program)).await;
        let answer = match guarded {
            Ok(Ok(())) => runner.run(provider, repository).await.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("its program could not be looked at; see the log".to_owned()),
        };
        self.keep(provider, repository, answer, Instant::now())
    }

    fn keep(
        &self,
        provider: &Provider,
        repository: &str,
        answer: Result<Answer, String>,
        now: Instant,
    ) -> Said {
        let [image, ..] = CacheKey::of(repository);
        let mut failed = lock(&self.failed);
        let (answer, key, time) = match answer {
            Ok(answer) => {
                failed.remove(&provider.name);
                let time = answer.cache_for.unwrap_or(provider.default_cache_duration);
                (Ok(Arc::new(answer.auth)), answer.key, time)
            }
            Err(why) => {
                if failed.insert(provider.name.clone(), why.clone()).as_ref() != Some(&why) {
                    tracing::warn!(provider = %provider.name, %why, "a credential provider gave no login");
                }
                (Err(why), image, RETRY_AFTER)
            }
        };
        if time > Duration::ZERO {
            let mut kept = lock(&self.kept);
            kept.retain(|_, kept| now < kept.until);
            if kept.len() < limits::CREDENTIALS {
                let value = Kept { answer: answer.clone(), since: now, until: now + time };
                kept.insert((provider.name.clone(), key), value);
            }
        }
        answer
    }
}

/// What the files say, and what is wrong with them. A docker config that is not whole, as one that is being written may
/// be, leaves what it said before.
fn understood(found: Vec<CredentialFile>, old: Option<&Files>) -> (Arc<Files>, Vec<CredentialTrouble>) {
    let (mut files, mut troubles) = (Files::default(), Vec::new());
    let mut providers = Vec::<Provider>::new();
    let mut broken = false;
    for CredentialFile { path, of_providers, content } in found {
        let bytes = match content {
            Ok(bytes) => bytes,
            Err(why) => {
                broken |= of_providers;
                troubles.push(trouble(&path, why, of_providers));
                continue;
            }
        };
        let source: Arc<str> = path.as_str().into();
        if of_providers {
            match read_providers(&bytes) {
                Ok(read) => providers.extend(read),
                Err(fault) => {
                    broken = true;
                    troubles.push(trouble(&path, format!("line {}: {}", fault.line, fault.text), true));
                }
            }
            continue;
        }
        match DockerConfig::read(&bytes, path.ends_with("/.dockercfg"), &source) {
            Ok(config) => {
                troubles.extend(config.left_out.into_iter().map(|why| trouble(&path, why, false)));
                files.configs.push((source, config.keyring));
            }
            Err(error) => {
                troubles.push(trouble(&path, error.to_string(), false));
                let before = old.and_then(|old| old.configs.iter().find(|(known, _)| *known == source));
                files.configs.extend(before.cloned());
            }
        }
    }
    let twice =
        |provider: &Provider| providers.iter().filter(|other| other.name == provider.name).count() > 1;
    if let Some(provider) = providers.iter().find(|provider| twice(provider)) {
        broken = true;
        troubles.push(trouble(
            &provider.name,
            "expected each provider once, found it in two files".to_owned(),
            true,
        ));
    }
    // As the kubelet, which does not start with a part of them.
    if !broken {
        let needing = providers.iter().filter(|provider| provider.needs_token);
        troubles.extend(needing.map(|provider| trouble(&provider.name, NEEDS_TOKEN.to_owned(), true)));
        files.providers = providers.into_iter().map(Arc::new).collect();
    }
    (Arc::new(files), troubles)
}

/// The logins that several providers gave, in the kubelet's order.
fn together(repository: &str, said: Vec<(Arc<Provider>, Said)>) -> Asked {
    let (mut keyring, mut asked) = (Keyring::default(), Asked::default());
    for (provider, answer) in said {
        let source: Arc<str> = format!("credential provider {}", provider.name).into();
        match answer {
            Ok(logins) => {
                for (location, credential) in logins.iter() {
                    keyring
                        .add(location, Login { credential: credential.clone(), source: Arc::clone(&source) });
                }
            }
            Err(why) => asked.failures.push(format!("{source}: {why}")),
        }
    }
    asked.logins = keyring.lookup(repository).into_iter().cloned().collect();
    asked
}

fn trouble(source: &str, why: String, of_provider: bool) -> CredentialTrouble {
    CredentialTrouble { source: source.to_owned(), why, of_provider }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const REPOSITORY: &str = "r.example/app";

    fn config(name: &str, more: &str) -> String {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: {name}\n  \
             matchImages: [r.example]\n  defaultCacheDuration: 60s\n  \
             apiVersion: credentialprovider.kubelet.k8s.io/v1\n{more}"
        )
    }

    fn provider() -> Provider {
        read_providers(config("it", "").as_bytes()).unwrap().remove(0)
    }

    fn answer(key: CacheKey, cache_for: Option<Duration>) -> Result<Answer, String> {
        Ok(Answer { auth: vec![("r.example".to_owned(), Credential::basic("u", "p"))], key, cache_for })
    }

    fn file(path: &str, of_providers: bool, content: &str) -> CredentialFile {
        let content = Ok(zeroize::Zeroizing::new(content.as_bytes().to_vec()));
        CredentialFile { path: path.to_owned(), of_providers, content }
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_what_it_says_it_is_for() {
        let (now, provider) = (Instant::now(), provider());
        let [image, registry, global] = CacheKey::of(REPOSITORY);
        let second = Duration::from_secs(1);
        for (key, cache_for, until, same_registry, elsewhere) in [
            (image, Some(second), 1, false, false),
            (registry, Some(second * 5), 5, true, false),
            (global, None, 60, true, true),
        ] {
            let logins = NodeLogins::new(NodeCredentials::default(), None);
            logins.keep(&provider, REPOSITORY, answer(key, cache_for), now).unwrap();
            let known = |repository: &str, at: u64| {
                logins.known(&provider, repository, now + second * u32::try_from(at).unwrap()).is_some()
            };
            assert!(known(REPOSITORY, until - 1) && !known(REPOSITORY, until));
            assert_eq!(known("r.example/other", 0), same_registry);
            assert_eq!(known("s.example/app", 0), elsewhere);
        }
        let logins = NodeLogins::new(NodeCredentials::default(), None);
        logins.keep(&provider, REPOSITORY, answer(CacheKey::Global, Some(Duration::ZERO)), now).unwrap();
        assert!(logins.known(&provider, REPOSITORY, now).is_none(), "kept for no time");
    }

    #[test]
    fn a_failure_is_kept_for_seconds_and_told_until_it_is_over() {
        let (now, provider) = (Instant::now(), provider());
        let logins = NodeLogins::new(NodeCredentials::default(), None);
        logins.keep(&provider, REPOSITORY, Err("why".to_owned()), now).unwrap_err();
        assert!(logins.known(&provider, REPOSITORY, now).unwrap().is_err());
        assert!(logins.known(&provider, "r.example/other", now).is_none());
        assert!(logins.known(&provider, REPOSITORY, now + RETRY_AFTER).is_none());
        assert_eq!(logins.troubles(), [trouble("it", "why".to_owned(), true)]);
        logins.keep(&provider, REPOSITORY, answer(CacheKey::Global, None), now).unwrap();
        assert!(logins.troubles().is_empty());
    }

    #[test]
    fn a_refused_login_is_forgotten_but_not_at_once() {
        let (now, provider) = (Instant::now(), provider());
        let logins = NodeLogins::new(NodeCredentials::default(), None);
        logins.keep(&provider, REPOSITORY, answer(CacheKey::Global, None), now).unwrap();
        let later = now + RETRY_AFTER;
        logins.refused(&Credential::basic("u", "p"), now);
        logins.refused(&Credential::basic("u", "another"), later);
        assert!(logins.known(&provider, REPOSITORY, later).is_some());
        logins.refused(&Credential::basic("u", "p"), later);
        assert!(logins.known(&provider, REPOSITORY, later).is_none());
    }

    #[test]
    fn a_docker_config_that_is_not_whole_leaves_what_it_said_and_one_that_is_gone_nothing() {
        let whole = r#"{"auths": {"r.example": {"username": "u", "password": "p"}}}"#;
        let found = |files: &Files| files.configs.iter().flat_map(|(_, k)| k.lookup(REPOSITORY)).count();
        let (old, troubles) = understood(vec![file("/a", false, whole), file("/b", false, whole)], None);
        assert_eq!((found(&old), troubles.len()), (2, 0));
        let half = whole.get(..20).unwrap();
        let (new, troubles) = understood(vec![file("/a", false, half), file("/b", false, whole)], Some(&old));
        assert_eq!((found(&new), troubles.len()), (2, 1));
        let gone = CredentialFile { content: Err("gone".to_owned()), ..file("/a", false, "") };
        let (new, troubles) = understood(vec![gone, file("/b", false, whole)], Some(&new));
        assert_eq!((found(&new), troubles), (1, vec![trouble("/a", "gone".to_owned(), false)]));
    }

    #[test]
    fn a_mirror_is_shown_what_is_known_for_it_and_nothing_of_the_registry_it_stands_for() {
        let logins = NodeLogins::new(NodeCredentials::default(), None);
        assert_eq!(logins.of_mirror("m.example:5000", "app"), Credential::Anonymous);
        let auths = r#"{"auths": {"r.example": {"username": "r", "password": "p"}, "m.example:5000": {"username": "m", "password": "p"}}}"#;
        let found = vec![file("/a", false, auths), file("/p.yaml", true, &config("it", ""))];
        *lock(&logins.latest) = understood(found, None).0;
        assert_eq!(logins.of_mirror("m.example:5000", "app"), Credential::basic("m", "p"));
        assert_eq!(logins.of_mirror("r.example", "app"), Credential::basic("r", "p"));
        for other in ["m.example", "n.example:5000"] {
            assert_eq!(logins.of_mirror(other, "app"), Credential::Anonymous);
        }
        // A provider's, once it said so.
        *lock(&logins.latest) = understood(vec![file("/p.yaml", true, &config("it", ""))], None).0;
        assert_eq!(logins.of_mirror("r.example", "app"), Credential::Anonymous);
        logins.keep(&provider(), REPOSITORY, answer(CacheKey::Global, None), Instant::now()).unwrap();
        assert_eq!(logins.of_mirror("r.example", "app"), Credential::basic("u", "p"));
    }

    #[test]
    fn one_bad_file_of_providers_takes_all_out() {
        let names = |files: &[(&str, String)]| {
            let files = files.iter().map(|(path, text)| file(path, true, text)).collect();
            let (files, troubles) = understood(files, None);
            (files.providers.iter().map(|p| p.name.clone()).collect::<Vec<_>>(), troubles.len())
        };
        let (a, b) = (("/a.yaml", config("a", "")), ("/b.yaml", config("b", "")));
        assert_eq!(names(&[a.clone(), b]), (vec!["a".to_owned(), "b".to_owned()], 0));
        assert_eq!(names(&[a.clone(), ("/b.yaml", "kind: x".to_owned())]), (vec![], 1));
        assert_eq!(names(&[a.clone(), ("/b.yaml", a.1.clone())]), (vec![], 1));
    }
}
