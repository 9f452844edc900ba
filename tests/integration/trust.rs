//! Trusted roots out of TUF repositories that python-tuf made, from the web and from a folder.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crivet::config::ProxyConfiguration;
use crivet::trust::source::{Anchor, Given, Mirror, RootSource, TufSource};
use crivet::trust::{Keeper, Origin, State};
use crivet::vetter::load::{client, logins};

use super::registry::fake::{Fake, Reply, Seen, endless, reply};

pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tuf");

/// A folder with the good repository and others laid over it.
pub fn repository(over: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("targets")).unwrap();
    lay(folder.path(), "good");
    for name in over {
        lay(folder.path(), name);
    }
    folder
}

pub fn lay(onto: &Path, name: &str) {
    for below in ["", "targets"] {
        let Ok(entries) = std::fs::read_dir(Path::new(FIXTURES).join(name).join(below)) else { continue };
        for entry in entries.map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file()) {
            std::fs::copy(entry.path(), onto.join(below).join(entry.file_name())).unwrap();
        }
    }
}

/// A pinned root in a folder of its own: the tree may be writable by others.
fn anchor(folder: &tempfile::TempDir, name: &str) -> Anchor {
    let path = folder.path().join(format!("{name}.root.json"));
    std::fs::copy(Path::new(FIXTURES).join(name).join("1.root.json"), &path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    Anchor::File(path)
}

/// A root "corp" from this mirror, and a state folder of its own.
struct Corp {
    keeper: Keeper,
    folder: tempfile::TempDir,
}

impl Corp {
    fn new(mirror: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///a\nruntimeEndpoint: unix:///b\nmode: audit\nunmatched: allow\n";
        let config = ProxyConfiguration::parse("config.yaml", config.as_bytes()).unwrap();
        let tuf = TufSource {
            mirror: Mirror::parse(mirror).unwrap(),
            anchor: anchor(&folder, "good"),
            targets: "targets".to_owned(),
            target: "trusted_root.json".to_owned(),
        };
        let source = RootSource { name: "corp".to_owned(), given: None, tuf: Some(tuf), document: None };
        let keeper = Keeper {
            sources: vec![source],
            refresh_every: Duration::from_secs(3600),
            state: folder.path().join("state"),
            client: client(&config, Arc::new(|_| {}), &logins(&config)).unwrap(),
        };
        Self { keeper, folder }
    }

    /// Everything is verified from the first root of another repository.
    fn pin(&mut self, name: &str) {
        self.keeper.sources[0].tuf.as_mut().unwrap().anchor = anchor(&self.folder, name);
    }

    /// As after a start: from what is at hand.
    fn load(&self) -> State {
        self.keeper.load(None, SystemTime::now()).state("corp").unwrap().clone()
    }

    async fn refresh(&self, before: State) -> State {
        self.keeper.refresh(&self.keeper.sources[0], before).await
    }

    async fn first_time(&self) -> State {
        self.refresh(self.load()).await
    }
}

fn logs(state: &State) -> usize {
    state.root.as_ref().unwrap().logs().len()
}

fn file(mirror: &tempfile::TempDir) -> String {
    format!("file://{}", mirror.path().display())
}

/// Serves a folder as a web server does.
fn served(folder: &Path) -> impl Fn(&Seen) -> Reply + Send + Sync + use<> {
    let folder = folder.to_owned();
    move |seen| match std::fs::read(folder.join(seen.path.trim_start_matches("/tuf/"))) {
        Ok(bytes) => reply(200, &[], bytes),
        Err(_) => reply(404, &[], "no such file"),
    }
}

#[tokio::test]
async fn root_comes_from_a_folder_over_two_changes_of_keys_and_from_what_was_kept() {
    let mirror = repository(&[]);
    let corp = Corp::new(&file(&mirror));
    let before = corp.load();
    assert!(before.root.is_none() && before.error.is_none());
    let state = corp.refresh(before).await;
    assert_eq!((&state.error, state.origin, logs(&state)), (&None, Origin::Source, 1));
    assert!(state.expires.unwrap() > SystemTime::now());
    // The mirror is gone, and so is the process.
    drop(mirror);
    let state = corp.load();
    assert_eq!((&state.error, logs(&state)), (&None, 1));
    let at = state.at;
    let state = corp.refresh(state).await;
    assert_eq!((state.origin, logs(&state), state.at), (Origin::Kept, 1, at));
    assert_eq!(state.error.as_deref(), Some("timestamp.json not found"));
}

#[tokio::test]
async fn root_comes_from_the_web_with_no_more_requests_than_files_and_one_when_nothing_changed() {
    let mirror = repository(&[]);
    let fake = Fake::new(served(mirror.path())).await;
    let corp = Corp::new(&format!("http://{}/tuf/", fake.host()));
    let state = corp.first_time().await;
    assert_eq!((&state.error, logs(&state)), (&None, 1));
    let paths = |from: usize| fake.seen()[from..].iter().map(|seen| seen.path.clone()).collect::<Vec<_>>();
    let target = std::fs::read_dir(mirror.path().join("targets")).unwrap().next().unwrap().unwrap();
    let target = format!("/tuf/targets/{}", target.file_name().into_string().unwrap());
    let metadata = ["2.root", "3.root", "4.root", "timestamp", "7.snapshot", "7.targets"];
    let mut expected: Vec<_> = metadata.iter().map(|name| format!("/tuf/{name}.json")).collect();
    expected.push(target);
    assert_eq!(paths(0), expected);
    assert!(fake.seen().iter().all(|seen| seen.authorization.is_none()));
    let state = corp.refresh(corp.load()).await;
    assert_eq!(state.error, None);
    assert_eq!(paths(expected.len()), ["/tuf/4.root.json", "/tuf/timestamp.json"]);
    lay(mirror.path(), "newer");
    let state = corp.refresh(state).await;
    assert_eq!((&state.error, logs(&state)), (&None, 2));
}

#[tokio::test]
async fn repository_without_consistent_snapshots_is_read() {
    let mirror = repository(&[]);
    std::fs::remove_dir_all(mirror.path().join("targets")).unwrap();
    std::fs::create_dir(mirror.path().join("targets")).unwrap();
    for entry in std::fs::read_dir(mirror.path()).unwrap().map(Result::unwrap) {
        let _ = std::fs::remove_file(entry.path());
    }
    lay(mirror.path(), "plain");
    let mut corp = Corp::new(&file(&mirror));
    corp.pin("plain");
    assert_eq!(corp.first_time().await.error, None);
}

/// What is laid over the good repository is refused with these words, and what was in force stays, also after a start.
async fn refused(over: &str, words: &str) {
    let mirror = repository(&[]);
    let corp = Corp::new(&file(&mirror));
    let good = corp.first_time().await;
    assert_eq!(good.error, None);
    lay(mirror.path(), over);
    let state = corp.refresh(good).await;
    let error = state.error.clone().unwrap_or_else(|| panic!("{over} was taken"));
    assert!(error.contains(words) && !error.contains('\n'), "{over}: {error}");
    assert_eq!((logs(&state), state.origin, state.failures), (1, Origin::Kept, 1));
    assert_eq!(logs(&corp.load()), 1);
    // Without anything in force there is nothing.
    let fresh = Corp::new(&file(&mirror));
    if over != "rolled-back" {
        let state = fresh.first_time().await;
        assert!(state.root.is_none() && state.error.is_some(), "{over}");
    }
}

#[tokio::test]
async fn expired_timestamp_is_refused() {
    refused("expired-timestamp", "timestamp metadata expired at 2020-01-01T00:00:00Z").await;
}

#[tokio::test]
async fn older_version_is_refused() {
    refused("rolled-back", "rollback detected for timestamp: trusted version 7 > new version 6").await;
}

#[tokio::test]
async fn timestamp_of_another_key_is_refused() {
    refused("wrong-signature", "signature threshold not met for role timestamp: 0/1").await;
}

#[tokio::test]
async fn target_of_another_length_is_refused() {
    refused("wrong-target-hash", "trusted_root.json: length").await;
}

#[tokio::test]
async fn target_of_the_same_length_and_another_hash_is_refused() {
    refused("target-of-the-same-length", "trusted_root.json: sha256 mismatch").await;
}

#[tokio::test]
async fn root_that_its_predecessor_did_not_sign_is_refused() {
    refused("stolen-root", "signature threshold not met for role root: 0/2").await;
}

#[tokio::test]
async fn root_with_too_few_signatures_is_refused() {
    refused("one-signature-short", "signature threshold not met for role root: 1/2").await;
}

#[tokio::test]
async fn root_that_skips_a_version_is_refused() {
    refused("skipped-version", "root version must increment by one: trusted 3, got 5").await;
}

#[tokio::test]
async fn expired_root_is_refused() {
    refused("expired-root", "root metadata expired at 2020-01-01T00:00:00Z").await;
}

#[tokio::test]
async fn pinned_root_of_another_repository_is_refused() {
    let mirror = repository(&[]);
    let mut corp = Corp::new(&file(&mirror));
    corp.pin("plain");
    let error = corp.first_time().await.error.unwrap();
    assert!(error.contains("signature threshold not met for role root"), "{error}");
    // Nor is what was kept believed with it.
    let corp = Corp::new(&file(&mirror));
    assert_eq!(corp.first_time().await.error, None);
    let mut other = Corp::new(&file(&mirror));
    other.keeper.state.clone_from(&corp.keeper.state);
    other.pin("plain");
    let state = other.load();
    assert!(state.root.is_none() && state.error.unwrap().starts_with("what was kept is of no use: "));
}

#[tokio::test]
async fn pinned_root_that_others_can_write_is_refused() {
    let mirror = repository(&[]);
    let corp = Corp::new(&file(&mirror));
    let Anchor::File(path) = &corp.keeper.sources[0].tuf.as_ref().unwrap().anchor else { panic!() };
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    assert!(corp.first_time().await.error.unwrap().contains("only root or the daemon's user can write"));
}

#[tokio::test]
async fn file_without_end_and_huge_file_are_capped() {
    for (name, limit) in [
        ("timestamp.json", "TUF_TIMESTAMP_BYTES"),
        ("4.root.json", "TUF_ROOT_BYTES"),
        ("7.snapshot.json", "TUF_SNAPSHOT_BYTES"),
        ("7.targets.json", "TUF_TARGETS_BYTES"),
    ] {
        let mirror = repository(&[]);
        let serve = served(mirror.path());
        let fake = Fake::new(move |seen| match seen.path.ends_with(name) {
            true => endless(&[b' '; 65536], Duration::ZERO),
            false => serve(seen),
        })
        .await;
        let state = Corp::new(&format!("http://{}/tuf", fake.host())).first_time().await;
        let error = state.error.unwrap();
        assert!(error.starts_with(name) && error.contains(limit), "{error}");
        std::fs::write(mirror.path().join(name), vec![b' '; 4 << 20]).unwrap();
        let error = Corp::new(&file(&mirror)).first_time().await.error.unwrap();
        assert!(error.starts_with(name) && error.contains(limit), "{error}");
    }
    let mirror = repository(&[]);
    let serve = served(mirror.path());
    let fake = Fake::new(move |seen| match seen.path.starts_with("/tuf/targets/") {
        true => endless(&[b' '; 65536], Duration::ZERO),
        false => serve(seen),
    })
    .await;
    let error = Corp::new(&format!("http://{}/tuf", fake.host())).first_time().await.error.unwrap();
    assert!(error.contains("TRUSTED_ROOT_BYTES"), "{error}");
}

#[tokio::test]
async fn duplicate_key_in_metadata_is_refused() {
    let mirror = repository(&[]);
    let path = mirror.path().join("timestamp.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"version\": 7", "\"version\": 9, \"version\": 7", 1)).unwrap();
    let error = Corp::new(&file(&mirror)).first_time().await.error.unwrap();
    assert!(error.contains("timestamp.json: ") && error.contains("duplicate key \"version\""), "{error}");
}

#[tokio::test]
async fn mirror_in_trouble_is_told_as_such() {
    for (status, words) in [
        (500, "the mirror is in trouble (status 500)"),
        (429, "the mirror has too many requests (429)"),
        (401, "the mirror wants a login (401)"),
        (204, "status 204"),
    ] {
        let fake = Fake::new(move |_| reply(status, &[], "")).await;
        let error = Corp::new(&format!("http://{}", fake.host())).first_time().await.error.unwrap();
        assert!(error.contains(words), "{error}");
        assert_eq!(fake.seen().len(), 1);
    }
    let gone = Fake::new(|_| reply(404, &[], "")).await.host();
    tokio::task::yield_now().await;
    let error = Corp::new(&format!("http://{gone}")).first_time().await.error.unwrap();
    assert!(error.contains("the mirror cannot be reached: connection refused"), "{error}");
}

#[tokio::test]
async fn given_root_counts_until_the_repository_has_answered() {
    let mirror = repository(&[]);
    std::fs::remove_file(mirror.path().join("timestamp.json")).unwrap();
    let mut corp = Corp::new(&file(&mirror));
    corp.keeper.sources[0].given = Some(Given::Embedded);
    let state = corp.first_time().await;
    assert_eq!((state.origin, logs(&state)), (Origin::Given, 2));
    assert_eq!(state.error.as_deref(), Some("timestamp.json not found"));
    lay(mirror.path(), "good");
    let state = corp.refresh(state).await;
    assert_eq!((state.origin, logs(&state), state.error), (Origin::Source, 1, None));
}

#[tokio::test]
async fn command_without_a_daemon_asks_for_what_is_missing_and_keeps_nothing() {
    let mirror = repository(&[]);
    let corp = Corp::new(&file(&mirror));
    let trust = corp.keeper.look(SystemTime::now());
    assert!(trust.root("corp").unwrap_err().contains("it was not asked for yet"));
    let trust = corp.keeper.ask_for_missing(trust).await;
    assert_eq!(trust.root("corp").unwrap().logs().len(), 1);
    assert!(corp.load().root.is_none());
}

#[tokio::test]
async fn keeper_asks_takes_over_what_is_new_and_reads_changed_files_again() {
    let mirror = repository(&[]);
    let corp = Corp::new(&file(&mirror));
    let mut keeper = corp.keeper.clone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.json");
    let target = |name: &str| {
        let mut targets = std::fs::read_dir(Path::new(FIXTURES).join(name).join("targets")).unwrap();
        std::fs::read(targets.next().unwrap().unwrap().path()).unwrap()
    };
    std::fs::write(&path, target("good")).unwrap();
    keeper.sources.push(RootSource {
        name: "file".to_owned(),
        given: Some(Given::File(path.clone())),
        tuf: None,
        document: None,
    });
    let first = Arc::new(keeper.load(None, SystemTime::now()));
    assert!(first.root("corp").is_err() && first.root("file").is_ok());
    let newest = Arc::new(Mutex::new(Arc::clone(&first)));
    let seen = Arc::clone(&newest);
    let publish = move |trust| *seen.lock().unwrap() = trust;
    let task = tokio::spawn(keeper.run(first, publish));
    let count = |name: &'static str| {
        let trust = Arc::clone(&newest.lock().unwrap());
        trust.root(name).map_or(0, |root| root.logs().len())
    };
    super::support::until("the repository is asked", 60, || count("corp") == 1).await;
    lay(mirror.path(), "newer");
    std::fs::write(&path, target("newer")).unwrap();
    super::support::until("both are taken over", 60, || count("corp") == 2 && count("file") == 2).await;
    // A bad file changes nothing in force, and says so.
    std::fs::write(&path, "{}").unwrap();
    let error = || newest.lock().unwrap().state("file").and_then(|state| state.error.clone());
    super::support::until("the bad file is told", 60, || error().is_some()).await;
    assert!(error().unwrap().contains("expected a trusted root, of mediaType"));
    assert_eq!(count("file"), 2);
    task.abort();
}
