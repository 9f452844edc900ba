//! A trusted root out of a TUF repository (TUF specification 1.0.34).
//!
//! The verification is sigstore-tuf's: root rotation, thresholds, versions that never go back, expiry, lengths and
//! hashes. What is fetched, how much of it, and what is kept are crivet's.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::FutureExt;
use sigstore_tuf::metadata::Role;
use sigstore_tuf::{MetadataStore, Updater, UpdaterConfig};

use super::kept::Kept;
use super::mirror::Files;
use crate::limits;

/// What a repository says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The target: a trusted root that nobody has looked at yet.
    pub target: Bytes,
    /// When the first of the metadata that vouch for it expires.
    pub expires: SystemTime,
    /// The version of the repository's own root.
    pub root_version: u64,
    /// All of it, to be kept.
    pub kept: Kept,
}

/// Metadata by name, seeded with what was kept.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl MetadataStore for Store {
    fn load(&self, name: &str) -> sigstore_tuf::Result<Option<Vec<u8>>> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(files.get(name).map(|bytes| bytes.to_vec()))
    }

    fn store(&self, name: &str, bytes: &[u8]) -> sigstore_tuf::Result<()> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(name.to_owned(), Bytes::copy_from_slice(bytes));
        Ok(())
    }
}

/// Asks a repository for `target`, verified from `anchor` (its pinned `root.json`). What was kept holds the versions
/// below which nothing is taken. Nothing of it is kept unless all of it held.
///
/// # Errors
/// One line: which file, and what is wrong with it.
pub(super) async fn refresh(
    files: Files,
    anchor: &[u8],
    target: &str,
    kept: Option<&Kept>,
    now: SystemTime,
) -> Result<Fetched, String> {
    let store = Store::default();
    if let Some(kept) = kept {
        *store.0.lock().unwrap_or_else(PoisonError::into_inner) = kept.files.clone();
    }
    let mut updater = Updater::new(files, anchor)
        .map_err(|error| format!("the pinned root.json: {}", said(&error)))?
        .with_config(bounds())
        .with_store(store.clone());
    let run = async {
        let moment =
            now.try_into().map_err(|_| sigstore_tuf::Error::transport("the clock's time has no meaning"))?;
        updater.refresh(moment).await?;
        updater.get_target(target, moment).await
    };
    let bytes = run.await.map_err(|error| said(&error))?;
    let trusted = updater.trusted();
    let ends = [
        Some(trusted.root().expires()),
        trusted.timestamp().map(Role::expires),
        trusted.snapshot().map(Role::expires),
        trusted.targets_role("targets").map(Role::expires),
    ];
    let expires = ends.into_iter().flatten().min().map(SystemTime::from);
    let expires = expires.ok_or("the repository has no metadata")?;
    let root_version = trusted.root().version;
    let files = std::mem::take(&mut *store.0.lock().unwrap_or_else(PoisonError::into_inner));
    // The store is also given each snapshot under its version.
    let files = files.into_iter().filter(|(name, _)| !is_versioned_snapshot(name)).collect();
    Ok(Fetched { target: bytes.into(), expires, root_version, kept: Kept { at: now, files } })
}

/// The same from what was kept, all of it verified again from `anchor` as it was when it was kept: what expired since
/// is told by [`Fetched::expires`], and is of use all the same.
///
/// # Errors
/// As above: what was kept is of another repository, or damaged.
pub(super) fn from_kept(kept: &Kept, anchor: &[u8], target: &str) -> Result<Fetched, String> {
    let files = Files::Away(Arc::new(kept.files.clone()));
    // Nothing is waited for: all there is is at hand.
    refresh(files, anchor, target, Some(kept), kept.at)
        .now_or_never()
        .unwrap_or_else(|| Err("what was kept is not whole".to_owned()))
}

fn bounds() -> UpdaterConfig {
    let mut bounds = UpdaterConfig::default();
    bounds.root_max_length = limits::TUF_ROOT_BYTES as u64;
    bounds.timestamp_max_length = limits::TUF_TIMESTAMP_BYTES as u64;
    bounds.snapshot_max_length = limits::TUF_SNAPSHOT_BYTES as u64;
    bounds.targets_max_length = limits::TUF_TARGETS_BYTES as u64;
    bounds.target_max_length = limits::TRUSTED_ROOT_BYTES as u64;
    bounds.max_root_rotations = limits::TUF_ROTATIONS;
    bounds.max_delegations = limits::TUF_DELEGATIONS;
    bounds
}

fn is_versioned_snapshot(name: &str) -> bool {
    name.strip_suffix(".snapshot.json").is_some_and(|version| version.bytes().all(|b| b.is_ascii_digit()))
}

/// An error of the crate's with its causes, in one line. Names in it come from the repository.
fn said(error: &sigstore_tuf::Error) -> String {
    let mut text = match error {
        sigstore_tuf::Error::Transport { message, .. } => message.clone(),
        other => other.to_string(),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let printable = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
    text.chars().take(limits::QUOTED_CHARS).map(printable).collect()
}

#[cfg(test)]
#[path = "tuf_tests.rs"]
mod tests;
