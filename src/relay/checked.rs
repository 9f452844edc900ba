//! Layers that a check of the node's disk found whole (`crivet content check`), for policies that ask for that before a create
//! (`content.layersCheckedWithin`).
//!
//! Unlike what is known of altered ones, this lets something run. So it is about one snapshot, by name and by when it was made; it is
//! as old as the moment at which comparing that layer began; and it ends with whatever says that the layer is altered. What is
//! lost of it costs a check, so it is on the disk only when a check ends.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::clients::millis;
use super::disk;
use crate::config::files::{self, FileError};
use crate::control::wire::CheckedLayer;
use crate::image::Digest;
use crate::limits;

const NAME: &str = "checked.json";
/// Bytes of the file: of a layer the names of snapshotter and snapshot, and two times.
const FILE_BYTES: usize = limits::CONTENT_WHOLE * 256 + 1024;
/// How far the file's clock may lag behind.
const BEHIND: u64 = limits::CONTENT_CLOCK_SECONDS * 1000;

/// What is known to be whole.
#[derive(Default)]
pub struct Checked {
    known: Mutex<Known>,
    /// The state folder. One write after the other.
    dir: tokio::sync::Mutex<Option<PathBuf>>,
}

#[derive(Default)]
struct Known {
    /// By snapshotter and chain ID.
    layers: HashMap<(String, Digest), Layer>,
    /// The latest time there was, milliseconds of Unix time, and when that was. A clock that is put back makes nothing younger.
    latest: Option<(u64, Instant)>,
    /// The time that the file has.
    written: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    created: String,
    at: u64,
}

/// What is known of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was found whole, and that is not too long ago.
    Whole,
    /// That is too long ago.
    TooOld,
    /// No check has found this snapshot whole.
    Never,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    /// The latest time there was.
    latest: u64,
    layers: Vec<Written>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    snapshotter: String,
    chain_id: String,
    created: String,
    at: u64,
}

impl Known {
    fn now(&mut self, clock: SystemTime, moment: Instant) -> u64 {
        let reached = self.latest.map_or(0, |(time, since)| {
            let passed = moment.saturating_duration_since(since).as_millis();
            time.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
        });
        let now = reached.max(millis(clock));
        self.latest = Some((now, moment));
        now
    }

    fn file(&mut self) -> File {
        self.written = self.latest.map_or(0, |(time, _)| time);
        let layers = self.layers.iter().map(|((snapshotter, chain_id), layer)| Written {
            snapshotter: snapshotter.clone(),
            chain_id: chain_id.to_string(),
            created: layer.created.clone(),
            at: layer.at,
        });
        File { latest: self.written, layers: layers.collect() }
    }
}

impl Checked {
    /// Reads what an earlier crivet wrote into its state folder. Where the clock is behind the time that it had, it is not known
    /// how old that is, and nothing of it counts.
    pub async fn load(&self, dir: &Path, clock: SystemTime) {
        *self.dir.lock().await = Some(dir.to_owned());
        let File { latest, layers } = match read(dir) {
            Ok(Some(file)) => file,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "which layers were found whole cannot be read; images wait for new checks where a policy asks for them");
                return;
            }
        };
        if latest > millis(clock) {
            tracing::warn!("the clock is behind the time that it had; no check of layers made before counts");
            return;
        }
        let mut known = self.known();
        for Written { snapshotter, chain_id, created, at } in layers.into_iter().take(limits::CONTENT_WHOLE) {
            if let (Ok(chain_id), true) = (Digest::parse(&chain_id), at <= latest) {
                known.layers.insert((snapshotter, chain_id), Layer { created, at });
            }
        }
        known.written = latest;
    }

    /// The time, milliseconds of Unix time: never less than before.
    pub fn now(&self, clock: SystemTime, moment: Instant) -> u64 {
        self.known().now(clock, moment)
    }

    /// What is known of a snapshot, at this time.
    pub fn find(
        &self,
        snapshotter: &str,
        chain_id: &str,
        created: &str,
        within: Duration,
        now: u64,
    ) -> Found {
        let Ok(chain_id) = Digest::parse(chain_id) else { return Found::Never };
        let known = self.known();
        let layer = known.layers.get(&(snapshotter.to_owned(), chain_id));
        match layer.filter(|layer| layer.created == created) {
            None => Found::Never,
            Some(layer) if u128::from(now.saturating_sub(layer.at)) < within.as_millis() => Found::Whole,
            Some(_) => Found::TooOld,
        }
    }

    /// Takes what a check says of a layer: at `began` it was begun to be compared.
    pub fn take(&self, told: &CheckedLayer, began: Option<u64>) {
        let Ok(chain_id) = Digest::parse(&told.chain_id) else { return };
        let key = (told.snapshotter.clone(), chain_id);
        let mut known = self.known();
        let (true, Some(at)) = (told.found.is_empty(), began) else {
            if !told.found.is_empty() {
                known.layers.remove(&key);
            }
            return;
        };
        if known.layers.get(&key).is_some_and(|layer| layer.created == told.created && layer.at >= at) {
            return;
        }
        known.layers.insert(key, Layer { created: told.created.clone(), at });
        if known.layers.len() > limits::CONTENT_WHOLE {
            let oldest = known.layers.iter().min_by_key(|(_, layer)| layer.at).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| known.layers.remove(&oldest));
        }
    }

    /// A check of all there is has ended. What it has not found whole is gone, or not known to be.
    pub fn ended(&self, began: u64) {
        self.known().layers.retain(|_, layer| layer.at >= began);
    }

    /// Writes down what is known.
    pub async fn keep(&self) {
        let dir = self.dir.lock().await;
        let Some(folder) = dir.clone() else { return };
        let file = self.known().file();
        if let Err(error) = disk::wait_for(move || write(&folder, &file)).await {
            tracing::error!(%error, "which layers were found whole cannot be kept, and is forgotten when crivet ends");
        }
    }

    /// Whether the file's clock has to be moved on.
    pub fn lags(&self, now: u64) -> bool {
        let known = self.known();
        !known.layers.is_empty() && now.saturating_sub(known.written) > BEHIND
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(path: PathBuf, error: io::Error) -> FileError {
    FileError::Io { path, error }
}

fn read(dir: &Path) -> Result<Option<File>, FileError> {
    let path = dir.join(NAME);
    let bytes = match files::read_guarded(&path, "CONTENT_WHOLE", FILE_BYTES) {
        Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(path, error.into()))
}

fn write(dir: &Path, file: &File) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(file).map_err(|error| failed(dir.join(NAME), error.into()))?;
    files::write_state(dir, NAME, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const WITHIN: Duration = Duration::from_millis(HOUR);

    fn chain(number: usize) -> String {
        Digest::of(number.to_string().as_bytes()).to_string()
    }

    fn layer(number: usize, found: &str) -> CheckedLayer {
        CheckedLayer {
            snapshotter: "overlayfs".into(),
            chain_id: chain(number),
            created: "1.0".into(),
            found: found.into(),
            ..Default::default()
        }
    }

    fn find(checked: &Checked, number: usize, now: u64) -> Found {
        checked.find("overlayfs", &chain(number), "1.0", WITHIN, now)
    }

    fn clock(at: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(at)
    }

    #[test]
    fn layer_counts_from_when_its_comparing_began_and_for_so_long() {
        let checked = Checked::default();
        checked.take(&layer(1, ""), Some(HOUR));
        assert_eq!(find(&checked, 1, HOUR), Found::Whole);
        assert_eq!(find(&checked, 1, 2 * HOUR - 1), Found::Whole);
        assert_eq!(find(&checked, 1, 2 * HOUR), Found::TooOld);
        // One that began earlier makes it no older, one that began later makes it younger.
        checked.take(&layer(1, ""), Some(1));
        assert_eq!(find(&checked, 1, 2 * HOUR - 1), Found::Whole);
        checked.take(&layer(1, ""), Some(HOUR + 1));
        assert_eq!(find(&checked, 1, 2 * HOUR), Found::Whole);
    }

    #[test]
    fn another_snapshot_is_not_the_one_that_was_checked() {
        let checked = Checked::default();
        checked.take(&layer(1, ""), Some(HOUR));
        let found = |snapshotter: &str, chain_id: &str, created: &str| {
            checked.find(snapshotter, chain_id, created, WITHIN, HOUR)
        };
        assert_eq!(found("overlayfs", &chain(1), "1.0"), Found::Whole);
        assert_eq!(found("native", &chain(1), "1.0"), Found::Never);
        assert_eq!(found("overlayfs", &chain(2), "1.0"), Found::Never);
        assert_eq!(found("overlayfs", &chain(1), "2.0"), Found::Never);
        assert_eq!(found("overlayfs", "", "1.0"), Found::Never);
    }

    #[test]
    fn without_a_time_and_once_altered_it_does_not_count() {
        let checked = Checked::default();
        checked.take(&layer(1, ""), None);
        assert_eq!(find(&checked, 1, HOUR), Found::Never);
        checked.take(&layer(1, ""), Some(HOUR));
        checked.take(&layer(1, "bad"), Some(0));
        assert_eq!(find(&checked, 1, HOUR), Found::Never);
    }

    #[test]
    fn what_a_whole_check_does_not_find_whole_again_is_forgotten() {
        let checked = Checked::default();
        checked.take(&layer(1, ""), Some(1));
        checked.take(&layer(2, ""), Some(3));
        checked.ended(2);
        assert_eq!(find(&checked, 1, 3), Found::Never);
        assert_eq!(find(&checked, 2, 3), Found::Whole);
    }

    #[test]
    fn clock_that_is_put_back_makes_nothing_younger() {
        let (checked, moment) = (Checked::default(), Instant::now());
        assert_eq!(checked.now(clock(5 * HOUR), moment), 5 * HOUR);
        assert_eq!(checked.now(clock(HOUR), moment), 5 * HOUR);
        let later = moment + Duration::from_millis(HOUR);
        assert_eq!(checked.now(clock(HOUR), later), 6 * HOUR);
        assert_eq!(checked.now(clock(9 * HOUR), later), 9 * HOUR);
    }

    #[tokio::test]
    async fn what_was_found_outlives_crivet_unless_the_clock_went_back_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let checked = Checked::default();
        checked.load(dir.path(), clock(HOUR)).await;
        let now = checked.now(clock(HOUR), Instant::now());
        checked.take(&layer(1, ""), Some(now));
        checked.keep().await;
        for (at, expected) in [(HOUR, Found::Whole), (2 * HOUR, Found::TooOld), (HOUR - 1, Found::Never)] {
            let again = Checked::default();
            again.load(dir.path(), clock(at)).await;
            assert_eq!(find(&again, 1, again.now(clock(at), Instant::now())), expected, "{at}");
        }
    }

    #[tokio::test]
    async fn clock_of_the_file_is_moved_on() {
        let dir = tempfile::tempdir().unwrap();
        let (checked, moment) = (Checked::default(), Instant::now());
        checked.load(dir.path(), clock(HOUR)).await;
        assert!(!checked.lags(9 * HOUR), "there is nothing to be kept");
        checked.now(clock(HOUR), moment);
        checked.take(&layer(1, ""), Some(HOUR));
        checked.keep().await;
        assert!(!checked.lags(HOUR + BEHIND));
        let now = checked.now(clock(HOUR + BEHIND + 1), moment);
        assert!(checked.lags(now));
        checked.keep().await;
        assert!(!checked.lags(now));
        let again = Checked::default();
        again.load(dir.path(), clock(HOUR + BEHIND)).await;
        assert_eq!(find(&again, 1, HOUR), Found::Never);
    }

    #[tokio::test]
    async fn file_that_cannot_be_read_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), "{}").unwrap();
        let checked = Checked::default();
        checked.load(dir.path(), clock(HOUR)).await;
        assert_eq!(find(&checked, 1, HOUR), Found::Never);
    }

    #[test]
    fn oldest_goes_where_there_are_too_many() {
        let checked = Checked::default();
        for number in 0..=limits::CONTENT_WHOLE {
            checked.take(&layer(number, ""), Some(HOUR + number as u64));
        }
        assert_eq!(checked.known().layers.len(), limits::CONTENT_WHOLE);
        assert_eq!(find(&checked, 0, HOUR), Found::Never);
        assert_eq!(find(&checked, limits::CONTENT_WHOLE, HOUR), Found::Whole);
    }
}
