//! Loads roots from what is at hand: the binary, files, and what was kept. Blocking, and without the network.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::kept::{self, Kept};
use super::root::Root;
use super::set::{Origin, State, Trust};
use super::source::{Anchor, Given, RootSource, TRUSTED_ROOT_TARGET, TufSource};
use super::tuf::{self, Fetched};
use crate::config::files;
use crate::limits;

/// All roots from what is at hand, and what of it should be kept, by name. `state` is the vetter's state folder;
/// `previous` are the roots in force until now. None of this fails: a root that cannot be had is told as such.
pub(super) fn load(
    sources: &[RootSource],
    state: &Path,
    previous: Option<&Trust>,
    now: SystemTime,
) -> (Trust, Vec<(String, Kept)>) {
    let mut to_keep = Vec::new();
    let roots: Vec<(String, State)> = sources
        .iter()
        .map(|source| {
            let previous = previous.and_then(|trust| trust.state(&source.name));
            let (loaded, kept) = reload(source, state, previous, now);
            to_keep.extend(kept.map(|kept| (source.name.clone(), kept)));
            (source.name.clone(), loaded)
        })
        .collect();
    (Trust::new(roots), to_keep)
}

/// One root from what is at hand, and what of it should be kept.
pub(super) fn reload(
    source: &RootSource,
    state: &Path,
    previous: Option<&State>,
    now: SystemTime,
) -> (State, Option<Kept>) {
    let blank = State::of(source);
    let previous = previous.filter(|previous| previous.root.is_some() && previous.source == blank.source);
    let (loaded, kept) = match (&source.tuf, &source.given) {
        (Some(tuf), given) => {
            let held = previous.and_then(|previous| previous.kept.as_deref());
            repository(source, tuf, given.as_ref(), state, held, &blank)
        }
        (None, Some(Given::File(path))) => file(source, path, state, now, &blank),
        (None, Some(given)) => (at_hand(given, state_of(&blank, Origin::Source)), None),
        (None, None) => (State { error: Some("no source".to_owned()), ..blank }, None),
    };
    match previous {
        // What is in force is at least as good as nothing, and as what was given for the time before it.
        Some(previous) if matches!(loaded.origin, Origin::Nothing | Origin::Given) => {
            let origin = if loaded.error.is_some() { Origin::Kept } else { previous.origin };
            (State { origin, error: loaded.error, ..previous.clone() }, None)
        }
        _ => (loaded, kept),
    }
}

fn state_of(blank: &State, origin: Origin) -> State {
    State { origin, ..blank.clone() }
}

fn at_hand(given: &Given, state: State) -> State {
    let parsed = match given {
        Given::Embedded => Root::embedded().map_err(|error| error.to_string()),
        Given::Inline(bytes) => Root::parse(bytes).map_err(|error| error.to_string()),
        Given::File(path) => read(path).and_then(|bytes| parse(&bytes)),
    };
    match parsed {
        Ok(root) => State { root: Some(Arc::new(root)), ..state },
        Err(error) => State { origin: Origin::Nothing, error: Some(error), ..state },
    }
}

fn parse(bytes: &[u8]) -> Result<Root, String> {
    Root::parse(bytes).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Bytes, String> {
    let read = files::read_guarded(path, "TRUSTED_ROOT_BYTES", limits::TRUSTED_ROOT_BYTES);
    read.map(Bytes::from).map_err(|error| error.to_string())
}

fn file(
    source: &RootSource,
    path: &Path,
    state: &Path,
    now: SystemTime,
    blank: &State,
) -> (State, Option<Kept>) {
    let before = kept::read(state, &source.name);
    let read = read(path).and_then(|bytes| match parse(&bytes) {
        Ok(root) => Ok((bytes, root)),
        Err(error) => Err(format!("{}: {error}", path.display())),
    });
    match read {
        Ok((bytes, root)) => {
            let same =
                |kept: &Kept| kept.files.len() == 1 && kept.files.get(TRUSTED_ROOT_TARGET) == Some(&bytes);
            let known = before.is_ok_and(|before| before.as_ref().is_some_and(same));
            let files = [(TRUSTED_ROOT_TARGET.to_owned(), bytes)].into();
            let kept = (!known).then_some(Kept { at: now, files });
            let state = state_of(blank, Origin::Source);
            (State { root: Some(Arc::new(root)), at: Some(now), ..state }, kept)
        }
        Err(error) => {
            let good = before.ok().flatten().and_then(|kept| {
                let root = parse(kept.files.get(TRUSTED_ROOT_TARGET)?).ok()?;
                Some((root, kept.at))
            });
            let blank = State { error: Some(error), failures: 1, ..blank.clone() };
            let state = match good {
                Some((root, at)) => {
                    State { root: Some(Arc::new(root)), at: Some(at), ..state_of(&blank, Origin::Kept) }
                }
                None => blank,
            };
            (state, None)
        }
    }
}

fn repository(
    source: &RootSource,
    tuf: &TufSource,
    given: Option<&Given>,
    state: &Path,
    held: Option<&Kept>,
    blank: &State,
) -> (State, Option<Kept>) {
    let mut unwritten = None;
    let before = anchor(tuf).and_then(|anchor| {
        let Some(kept) = kept::read(state, &source.name)? else { return Ok(None) };
        // The disk did not take what was said last, and perhaps does now.
        if let Some(newer) = held.filter(|held| held.at > kept.at && held.files != kept.files)
            && let Ok(fetched) = tuf::from_kept(newer, &anchor, &tuf.target)
        {
            unwritten = Some(newer.clone());
            return Ok(Some(fetched));
        }
        tuf::from_kept(&kept, &anchor, &tuf.target).map(Some)
    });
    match before.and_then(|fetched| fetched.map(|fetched| taken(&fetched, blank)).transpose()) {
        Ok(Some(loaded)) => (loaded, unwritten),
        other => {
            let error = other.err().map(|why| format!("what was kept is of no use: {why}"));
            let loaded = match given {
                Some(given) => at_hand(given, state_of(blank, Origin::Given)),
                None => state_of(blank, Origin::Nothing),
            };
            (State { error: error.or(loaded.error), ..loaded }, None)
        }
    }
}

/// The pinned `root.json`.
pub(super) fn anchor(tuf: &TufSource) -> Result<Bytes, String> {
    match &tuf.anchor {
        Anchor::Inline(bytes) => Ok(bytes.clone()),
        Anchor::File(path) => files::read_guarded(path, "TUF_ROOT_BYTES", limits::TUF_ROOT_BYTES)
            .map(Bytes::from)
            .map_err(|error| error.to_string()),
    }
}

/// What a repository says, as a root in force.
pub(super) fn taken(fetched: &Fetched, blank: &State) -> Result<State, String> {
    Ok(State {
        root: Some(Arc::new(parse(&fetched.target)?)),
        at: Some(fetched.kept.at),
        expires: Some(fetched.expires),
        kept: Some(Arc::new(fetched.kept.clone())),
        ..state_of(blank, Origin::Source)
    })
}

/// Keeps material; a full disk takes nothing away from it.
pub(super) fn keep(state: &Path, name: &str, material: &Kept) {
    if let Err(error) = kept::write(state, name, material) {
        tracing::error!(%error, root = name, "a trusted root cannot be kept for a start without its source");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use sigstore_trust_root::SIGSTORE_STAGING_TRUSTED_ROOT;

    use super::super::kept::FOLDER;
    use super::*;

    /// A root of a file, and a state folder.
    fn staging(folder: &tempfile::TempDir) -> RootSource {
        let path = folder.path().join("staging.json");
        write(&path, SIGSTORE_STAGING_TRUSTED_ROOT).unwrap();
        RootSource { name: "staging".to_owned(), given: Some(Given::File(path)), tuf: None, document: None }
    }

    fn loaded(source: &RootSource, state: &Path, previous: Option<&Trust>) -> (Trust, usize) {
        let (trust, to_keep) = load(std::slice::from_ref(source), state, previous, SystemTime::now());
        for (name, kept) in &to_keep {
            keep(state, name, kept);
        }
        (trust, to_keep.len())
    }

    #[test]
    fn bad_file_leaves_what_was_in_force_with_or_without_a_state_folder() {
        let folder = tempfile::tempdir().unwrap();
        let source = staging(&folder);
        let state = folder.path().join("state");
        let (good, kept) = loaded(&source, &state, None);
        let origin = |trust: &Trust| trust.state("staging").unwrap().origin;
        assert_eq!((origin(&good), kept), (Origin::Source, 1));
        assert_eq!(loaded(&source, &state, None).1, 0, "the same is not written again");
        let Some(Given::File(path)) = &source.given else { panic!() };
        for (what, mode) in [("{}", 0o644), (SIGSTORE_STAGING_TRUSTED_ROOT, 0o666)] {
            write(path, what).unwrap();
            set_permissions(path, Permissions::from_mode(mode)).unwrap();
            // After a start, from what is kept; in a running daemon, from what is in force.
            for (state, previous) in [(state.as_path(), None), (Path::new("/nonexistent"), Some(&good))] {
                let (trust, _) = loaded(&source, state, previous);
                assert_eq!((origin(&trust), trust.version()), (Origin::Kept, good.version()));
                assert!(
                    trust
                        .state("staging")
                        .unwrap()
                        .error
                        .as_ref()
                        .unwrap()
                        .contains("staging.json: expected")
                );
            }
            let (trust, _) = loaded(&source, Path::new("/nonexistent"), None);
            assert!(trust.root("staging").is_err());
        }
    }

    #[test]
    fn what_is_kept_and_others_can_write_is_of_no_use() {
        let folder = tempfile::tempdir().unwrap();
        let source = staging(&folder);
        let state = folder.path().join("state");
        loaded(&source, &state, None);
        let Some(Given::File(path)) = &source.given else { panic!() };
        write(path, "{}").unwrap();
        assert!(loaded(&source, &state, None).0.root("staging").is_ok());
        set_permissions(state.join(FOLDER).join("staging.json"), Permissions::from_mode(0o666)).unwrap();
        assert!(loaded(&source, &state, None).0.root("staging").is_err());
    }
}
