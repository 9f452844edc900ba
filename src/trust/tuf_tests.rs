use std::path::{Path, PathBuf};
use std::time::Duration;

use sigstore_tuf::Repository as _;

use super::super::load::load;
use super::super::source::{Anchor, Mirror, RootSource, TufSource};
use super::super::{Origin, kept};
use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tuf").join(name)
}

/// good/ with another folder's files over it.
fn files(over: &str) -> Files {
    let mut files = BTreeMap::new();
    for name in ["good", over] {
        for below in ["", "targets/"] {
            let Ok(entries) = std::fs::read_dir(fixture(name).join(below)) else { continue };
            for entry in entries.map(Result::unwrap).filter(|entry| entry.path().is_file()) {
                let name = format!("{below}{}", entry.file_name().into_string().unwrap());
                files.insert(name, Bytes::from(std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    Files::Packed { files: Arc::new(files), targets: "targets".to_owned() }
}

fn anchor() -> Bytes {
    std::fs::read(fixture("good").join("1.root.json")).unwrap().into()
}

fn fetch(over: &str, kept: Option<&Kept>, now: SystemTime) -> Result<Fetched, String> {
    refresh(files(over), &anchor(), "trusted_root.json", kept, now).now_or_never().unwrap()
}

/// A moment at which expired-timestamp's timestamp had not expired: 2019-12-31.
fn before_it_expired() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_750_400)
}

#[test]
fn what_was_kept_counts_after_its_timestamp_expired_and_is_told() {
    let fetched = fetch("expired-timestamp", None, before_it_expired()).unwrap();
    let state = tempfile::tempdir().unwrap();
    kept::write(state.path(), "corp", &fetched.kept).unwrap();
    let tuf = TufSource {
        mirror: Mirror::Http("https://tuf.example".to_owned()),
        anchor: Anchor::Inline(anchor()),
        targets: "targets".to_owned(),
        target: "trusted_root.json".to_owned(),
    };
    let source = RootSource { name: "corp".to_owned(), given: None, tuf: Some(tuf), document: None };
    let now = SystemTime::now();
    let (trust, to_keep) = load(std::slice::from_ref(&source), state.path(), None, now);
    let loaded = trust.state("corp").unwrap();
    assert_eq!((loaded.origin, &loaded.error, loaded.at), (Origin::Source, &None, Some(before_it_expired())));
    assert!(loaded.root.is_some() && to_keep.is_empty());
    assert!(loaded.warnings(now)[0].starts_with("its TUF metadata expired at 2020-01-01T00:00:00.000Z"));
    // One byte of what is kept is another.
    for name in [
        "timestamp.json",
        "snapshot.json",
        "targets.json",
        "root_history/2.root.json",
        "targets/trusted_root.json",
    ] {
        let mut damaged = fetched.kept.clone();
        let mut bytes = damaged.files[name].to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        damaged.files.insert(name.to_owned(), bytes.into());
        kept::write(state.path(), "corp", &damaged).unwrap();
        let (trust, _) = load(std::slice::from_ref(&source), state.path(), None, now);
        let loaded = trust.state("corp").unwrap();
        assert!(loaded.root.is_none() && loaded.error.is_some(), "{name}");
    }
}

#[test]
fn expired_versions_are_still_a_floor() {
    let seen = fetch("expired-timestamp", None, before_it_expired()).unwrap().kept;
    let error = fetch("good", Some(&seen), SystemTime::now()).unwrap_err();
    assert_eq!(error, "rollback detected for timestamp: trusted version 8 > new version 7");
    assert!(fetch("newer", None, SystemTime::now()).is_ok());
}

#[test]
fn only_what_is_needed_is_kept() {
    let first = fetch("good", None, SystemTime::now()).unwrap().kept;
    let names: Vec<&str> = first.files.keys().map(String::as_str).collect();
    let expected = [
        "root.json",
        "root_history/1.root.json",
        "root_history/2.root.json",
        "root_history/3.root.json",
        "snapshot.json",
        "targets.json",
        "targets/trusted_root.json",
        "timestamp.json",
    ];
    assert_eq!(names, expected);
    let second = fetch("newer", Some(&first), SystemTime::now()).unwrap().kept;
    assert_eq!(second.files.keys().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn kept_metadata_are_found_by_their_version_and_a_newer_root_is_not() {
    let kept = ["role.json", "root.json", "root_history/1.root.json"];
    let kept = kept.map(|name| (name.to_owned(), Bytes::from_static(b"{}")));
    let away = Files::Away(Arc::new(kept.into()));
    let found = |name| away.fetch_metadata(name, 10).now_or_never().unwrap().unwrap().is_some();
    // A role that another delegates to is asked for so where snapshots are consistent.
    for name in ["role.json", "5.role.json", "root.json"] {
        assert!(found(name), "{name}");
    }
    for name in ["2.root.json", "5.other.json", ".role.json", "v5.role.json"] {
        assert!(!found(name), "{name}");
    }
}
