//! Layers that a check of the node's disk found altered (`crivet content check`): nothing that needs a proof is made on them.
//!
//! The check is another process, and reads what anybody has written. What it can do here is refuse more, by the name of a
//! snapshot, and take back what was said of the same snapshot before it began. What it says of layers that are whole goes to
//! [`super::checked`], for policies that ask for it.
//!
//! What is known is on the disk before the check is answered, and read before the first call is: a crash forgets nothing. It
//! is about one snapshot, by name and by when it was made: an image that was removed and unpacked anew has others.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::ask::Refusal;
use super::{Relay, disk};
use crate::audit::Reason;
use crate::config::files::{self, FileError};
use crate::control::wire::{CheckedLayer, ContentChecked, ContentReport};
use crate::cri::facts::ROLE_IMAGE;
use crate::cri::reply::Reply;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::cri::storage::Stacked;
use crate::image::{Digest, quoted, quoted_name};
use crate::limits;
use crate::vetter::wire::{Call, ImageUse, Kind, Outcome};

const NAME: &str = "altered.json";
/// A report may have waited so long to be taken, milliseconds: a layer that was read first is not older than its check for that.
const ON_ITS_WAY: u64 = 60_000;
/// Bytes of the file: what is known of a layer, in JSON's escapes.
const FILE_BYTES: usize = limits::CONTENT_ALTERED * 8 * limits::CONTENT_FOUND_CHARS;

/// What is known to be altered.
#[derive(Default)]
pub struct Altered {
    known: Mutex<Known>,
    /// How many there are: what every create pays for it.
    count: AtomicUsize,
    /// When this crivet was told, by snapshotter and chain ID. A check that began before that does not take it back.
    told: Mutex<HashMap<(String, String), u64>>,
    /// The file does not say all of it.
    behind: AtomicBool,
    /// The state folder. One report after the other, memory and disk.
    dir: tokio::sync::Mutex<Option<PathBuf>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Known {
    /// In the order of their names.
    layers: Vec<Layer>,
    /// What the last check came to.
    checked: Option<Checked>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Layer {
    snapshotter: String,
    chain_id: String,
    created: String,
    found: String,
    image_id: String,
    image: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Checked {
    at: u64,
    images: u32,
    layers: u32,
    unchecked: u32,
    unchecked_because: String,
}

impl Layer {
    fn new(told: CheckedLayer) -> Layer {
        let CheckedLayer { snapshotter, chain_id, created, found, image_id, image, .. } = told;
        let short = |text: String| text.chars().take(limits::CONTENT_FOUND_CHARS).collect();
        Layer { snapshotter, chain_id, created, found: short(found), image_id, image: short(image) }
    }

    fn told(&self) -> CheckedLayer {
        let Layer { snapshotter, chain_id, created, found, image_id, image } = self.clone();
        CheckedLayer { snapshotter, chain_id, created, found, image_id, image, age_ms: None }
    }

    fn is_of(&self, snapshotter: &str, chain_id: &str) -> bool {
        self.snapshotter == snapshotter && self.chain_id == chain_id
    }
}

impl Known {
    /// Takes what a check says of a layer; `true` if that is news about one that is altered.
    fn take(&mut self, told: CheckedLayer) -> Result<bool, String> {
        if Digest::parse(&told.chain_id).is_err() || told.snapshotter.is_empty() || told.created.is_empty() {
            return Err("expected a snapshot's name and time, found none".to_owned());
        }
        let layer = Layer::new(told);
        let is_news = !layer.found.is_empty() && !self.layers.contains(&layer);
        self.layers.retain(|known| !known.is_of(&layer.snapshotter, &layer.chain_id));
        if layer.found.is_empty() {
            return Ok(false);
        }
        if self.layers.len() >= limits::CONTENT_ALTERED {
            let cap = limits::CONTENT_ALTERED;
            return Err(format!(
                "expected at most {cap} altered layers (limits::CONTENT_ALTERED), found more"
            ));
        }
        self.layers.push(layer);
        self.layers.sort_by(|a, b| (&a.chain_id, &a.snapshotter).cmp(&(&b.chain_id, &b.snapshotter)));
        Ok(is_news)
    }
}

impl Altered {
    /// Reads what an earlier crivet wrote into its state folder, and keeps there from now on what is told.
    pub async fn load(&self, dir: &Path) {
        *self.dir.lock().await = Some(dir.to_owned());
        match read(dir) {
            Ok(known) => {
                if !known.layers.is_empty() {
                    let layers = known.layers.len();
                    tracing::error!(
                        layers,
                        "layers of images are altered on this node's disk; nothing is made on them"
                    );
                }
                self.count.store(known.layers.len(), Ordering::SeqCst);
                *self.known() = known;
            }
            // Not to be mended by refusing: what was in it is not known.
            Err(error) => {
                tracing::error!(%error, "which layers were found altered cannot be read; run crivet content check");
            }
        }
    }

    /// How many layers are known to be altered.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Those that are told of, and what the last check came to, and when.
    pub fn status(&self) -> (Vec<CheckedLayer>, Option<ContentChecked>, u64) {
        let known = self.known();
        let checked = known.checked.clone();
        let at = checked.as_ref().map_or(0, |checked| checked.at);
        let checked = checked.map(|Checked { images, layers, unchecked, unchecked_because, .. }| {
            ContentChecked { images, layers, unchecked, unchecked_because, took_ms: None }
        });
        (known.layers.iter().take(limits::FOUND_SHOWN).map(Layer::told).collect(), checked, at)
    }

    /// Takes a check's report: it counts at once, and is on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be kept, or not all of it; one line.
    async fn take(&self, report: ContentReport, now: u64) -> Result<Vec<Layer>, String> {
        let dir = self.dir.lock().await;
        let (news, refused) = self.remember(report, now);
        if self.behind.swap(false, Ordering::SeqCst) {
            let known = self.known().clone();
            let dir = dir.clone();
            let write = move || match dir {
                Some(dir) => write(&dir, &known),
                None => Err(FileError::Io { path: NAME.into(), error: io::ErrorKind::NotFound.into() }),
            };
            if let Err(error) = disk::wait_for(write).await {
                self.behind.store(true, Ordering::SeqCst);
                return Err(format!(
                    "what was found counts until crivet is restarted, and cannot be kept: {error}"
                ));
            }
        }
        refused.map_or(Ok(news), Err)
    }

    /// What of it is news, and why not all of it was taken.
    fn remember(&self, report: ContentReport, now: u64) -> (Vec<Layer>, Option<String>) {
        let mut known = self.known();
        let before = known.clone();
        let (mut news, mut refused) = (Vec::new(), None);
        for told in report.layers {
            let (layer, key) = (Layer::new(told.clone()), (told.snapshotter.clone(), told.chain_id.clone()));
            if layer.found.is_empty() && self.told().get(&key) >= Some(&began(&told, now).unwrap_or(0)) {
                continue;
            }
            match known.take(told) {
                Ok(is_news) => {
                    if layer.found.is_empty() {
                        self.told().remove(&key);
                    } else {
                        self.told().insert(key, now);
                    }
                    if is_news {
                        news.push(layer);
                    }
                }
                Err(error) => refused = Some(error),
            }
        }
        if let Some(ContentChecked { images, layers, unchecked, unchecked_because, .. }) = report.checked {
            known.checked = Some(Checked { at: now, images, layers, unchecked, unchecked_because });
        }
        self.count.store(known.layers.len(), Ordering::SeqCst);
        self.behind.fetch_or(*known != before, Ordering::SeqCst);
        (news, refused)
    }

    /// Forgets a snapshot that is no more: it was removed, and unpacked anew.
    fn forget(&self, gone: &Layer) {
        let mut known = self.known();
        known.layers.retain(|layer| layer != gone);
        self.told().remove(&(gone.snapshotter.clone(), gone.chain_id.clone()));
        self.count.store(known.layers.len(), Ordering::SeqCst);
        // The file follows with the next report; until then its line is about a snapshot that is not there.
        self.behind.store(true, Ordering::SeqCst);
    }

    /// The first altered layer under a snapshot of this name, from the top down.
    async fn under(&self, runtime: &RuntimeClient, chain_id: &str) -> Result<Option<Layer>, RuntimeError> {
        if let Some(stored) = runtime.stored_layers(chain_id).await? {
            return Ok(self.among(&stored));
        }
        let mut snapshotters: Vec<String> =
            self.known().layers.iter().map(|layer| layer.snapshotter.clone()).collect();
        snapshotters.sort();
        snapshotters.dedup();
        for snapshotter in snapshotters {
            let mut key = chain_id.to_owned();
            for _ in 0..=limits::LAYERS {
                let snapshot = match runtime.snapshot(&snapshotter, &key).await {
                    Ok(snapshot) => snapshot,
                    // Nothing stands on it there; what is unpacked anew is held to its layers.
                    Err(RuntimeError::NotFound(_)) => break,
                    Err(error) => return Err(error),
                };
                let found = self.known().layers.iter().find(|layer| layer.is_of(&snapshotter, &key)).cloned();
                match found {
                    Some(layer) if layer.created == snapshot.created => return Ok(Some(layer)),
                    Some(gone) => self.forget(&gone),
                    None => {}
                }
                if snapshot.parent.is_empty() {
                    break;
                }
                key = snapshot.parent;
            }
        }
        Ok(None)
    }

    /// Whether a snapshot of this name is known to be altered, whenever it was made.
    fn names(&self, snapshotter: &str, chain_id: &str) -> bool {
        self.known().layers.iter().any(|layer| layer.is_of(snapshotter, chain_id))
    }

    /// The first altered layer among those of CRI-O's store, by what a check calls their folders.
    fn among(&self, stored: &[Stacked]) -> Option<Layer> {
        for stored in stored {
            let found = self.known().layers.iter().find(|layer| layer.snapshotter == stored.name).cloned();
            match found {
                Some(layer) if layer.created == stored.layer.created => return Some(layer),
                Some(gone) => self.forget(&gone),
                None => {}
            }
        }
        None
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, HashMap<(String, String), u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a layer was begun to be compared, by the daemon's clock.
fn began(told: &CheckedLayer, now: u64) -> Option<u64> {
    told.age_ms.map(|age| now.saturating_sub(age))
}

/// Holds the layers of a permitted call's images to what checks have found. `chain_ids`: image by image, where there is one.
///
/// # Errors
/// One was altered, or the runtime does not say on what the image stands.
pub async fn stand_on_whole_layers(
    relay: &Relay,
    call: &Call,
    chain_ids: impl Iterator<Item = Option<&str>>,
) -> Result<(), Refusal> {
    if relay.altered.count() == 0 {
        return Ok(());
    }
    for (image, chain_id) in call.images.iter().zip(chain_ids) {
        let Some(chain_id) = chain_id else { continue };
        if let Err(refusal) = found_under(relay, image, chain_id).await {
            if refusal.is_denial() {
                relay.metrics.content_altered();
            }
            return Err(refusal);
        }
    }
    Ok(())
}

/// Holds the layers of one image to what checks have found, for whoever only asks.
///
/// # Errors
/// As of [`stand_on_whole_layers`].
pub async fn found_under(relay: &Relay, image: &ImageUse, chain_id: &str) -> Result<(), Refusal> {
    if relay.altered.count() == 0 {
        return Ok(());
    }
    match relay.altered.under(&relay.runtime, chain_id).await {
        Ok(None) => Ok(()),
        Ok(Some(layer)) => Err(Refusal::denied(&refusal(image, &layer), Reason::ContentAltered)),
        Err(error) => {
            let text = format!("{}: which layers it stands on cannot be told: {error}", shown(image));
            Err(Refusal::own(&text, Reason::Runtime))
        }
    }
}

fn refusal(image: &ImageUse, layer: &Layer) -> String {
    format!(
        "{}: {}: it was altered on this node; remove image {} and all others on this layer with all their containers, and they are pulled again",
        shown(image),
        printable(&layer.found),
        quoted(&image.named)
    )
}

/// An image, as messages name it.
pub fn shown(image: &ImageUse) -> String {
    let name = if image.reference.is_empty() { &image.named } else { &image.reference };
    format!("image {}", quoted(name))
}

/// As a check has said it, unless it is not the line that it has to be.
pub fn printable(found: &str) -> String {
    let is_line = found.chars().all(|c| matches!(c, ' '..='~'));
    if is_line { found.to_owned() } else { quoted_name(found) }
}

/// Takes a check's report, and writes down what is new in it.
///
/// # Errors
/// See [`Altered::take`].
pub async fn take(relay: &Relay, report: ContentReport, now: SystemTime) -> Result<usize, String> {
    let (now, moment) = (relay.checked.now(now, Instant::now()), Instant::now());
    let (layers, images) = (report.layers.clone(), report.images.clone());
    let ended = report.checked.as_ref().map(|checked| checked.took_ms);
    let taken = relay.altered.take(report, now).await;
    for told in &layers {
        // Of what stays altered nothing is whole.
        if !told.found.is_empty() || !relay.altered.names(&told.snapshotter, &told.chain_id) {
            relay.checked.take(told, began(told, now));
        }
    }
    if let Some(took) = ended.flatten() {
        relay.checked.ended(now.saturating_sub(took).saturating_sub(ON_ITS_WAY));
    }
    if relay.requested.checked(&images, moment).await || ended.is_some() {
        relay.checked.keep().await;
    }
    for layer in taken.iter().flatten() {
        let (image, found) = (printable(&layer.image), printable(&layer.found));
        tracing::error!(%image, %found, chain_id = %layer.chain_id, "a layer is altered on this node's disk; nothing is made on it");
        let used = ImageUse {
            named: layer.image_id.clone(),
            reference: layer.image.clone(),
            role: ROLE_IMAGE.to_owned(),
            ..Default::default()
        };
        let call = Call {
            kind: Kind::ContentCheck.into(),
            beside: true,
            images: vec![used.clone()],
            ..Default::default()
        };
        let reply = Reply::denied(&refusal(&used, layer));
        relay.vetter.tell_refused(&call, &reply, Outcome::Denied, Reason::ContentAltered);
    }
    tell(relay);
    taken.map(|_| relay.altered.count())
}

/// Has the metrics say what is known.
pub fn tell(relay: &Relay) {
    let (_, checked, at) = relay.altered.status();
    relay.metrics.content_checked(relay.altered.count(), checked.unwrap_or_default().unchecked, at / 1000);
    relay.metrics.content_requested(relay.requested.status(Instant::now()).1);
}

fn read(dir: &Path) -> Result<Known, FileError> {
    let path = dir.join(NAME);
    let bytes = match files::read_guarded(&path, "CONTENT_ALTERED", FILE_BYTES) {
        Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Known::default());
        }
        other => other?,
    };
    serde_json::from_slice(&bytes).map_err(|error| FileError::Io { path, error: error.into() })
}

fn write(dir: &Path, known: &Known) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(known)
        .map_err(|error| FileError::Io { path: dir.join(NAME), error: error.into() })?;
    files::write_state(dir, NAME, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(number: usize, found: &str) -> CheckedLayer {
        CheckedLayer {
            snapshotter: "overlayfs".into(),
            chain_id: Digest::of(number.to_string().as_bytes()).to_string(),
            created: "1.000000001".into(),
            found: found.into(),
            image_id: Digest::of(b"image").to_string(),
            image: "registry.example/app:1".into(),
            age_ms: None,
        }
    }

    fn report(layers: &[CheckedLayer]) -> ContentReport {
        ContentReport { layers: layers.to_vec(), ..Default::default() }
    }

    async fn loaded(dir: &Path) -> Altered {
        let altered = Altered::default();
        altered.load(dir).await;
        altered
    }

    #[tokio::test]
    async fn what_was_found_outlives_crivet_until_it_is_whole_again() {
        let dir = tempfile::tempdir().unwrap();
        let altered = loaded(dir.path()).await;
        let now = 5_000;
        let news =
            altered.take(report(&[layer(1, "bad"), layer(2, ""), layer(3, "bad")]), now).await.unwrap();
        assert_eq!(news.len(), 2);
        assert!(altered.take(report(&[layer(1, "bad")]), now).await.unwrap().is_empty());
        let again = loaded(dir.path()).await;
        assert_eq!(again.count(), 2);
        assert_eq!(again.status().0, altered.status().0);
        // What a check does not speak of stays.
        again.take(report(&[layer(1, ""), layer(2, "")]), now).await.unwrap();
        assert_eq!(again.status().0, [layer(3, "bad")]);
        assert_eq!(loaded(dir.path()).await.count(), 1);
    }

    #[tokio::test]
    async fn what_a_check_found_that_began_before_takes_nothing_back() {
        let dir = tempfile::tempdir().unwrap();
        let altered = loaded(dir.path()).await;
        let whole = |age_ms| CheckedLayer { age_ms, ..layer(1, "") };
        altered.take(report(&[layer(1, "bad")]), 5_000).await.unwrap();
        for (age, now) in [(None, 9_000), (Some(5_000), 9_000), (Some(4_000), 9_000), (Some(u64::MAX), 9_000)]
        {
            altered.take(report(&[whole(age)]), now).await.unwrap();
            assert_eq!(altered.count(), 1, "{age:?}");
        }
        altered.take(report(&[whole(Some(3_999))]), 9_000).await.unwrap();
        assert_eq!(altered.count(), 0);
        assert_eq!(loaded(dir.path()).await.count(), 0);
    }

    #[tokio::test]
    async fn what_cannot_be_written_counts_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let altered = loaded(dir.path()).await;
        std::fs::create_dir(dir.path().join(NAME)).unwrap();
        let error = altered.take(report(&[layer(1, "bad")]), 5_000).await.unwrap_err();
        assert!(error.contains("cannot be kept"), "{error}");
        assert_eq!(altered.count(), 1);
        // Nothing new, and made good as soon as that is possible.
        std::fs::remove_dir(dir.path().join(NAME)).unwrap();
        altered.take(report(&[layer(1, "bad")]), 5_000).await.unwrap();
        assert_eq!(loaded(dir.path()).await.count(), 1);
    }

    #[tokio::test]
    async fn what_names_no_snapshot_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let altered = loaded(dir.path()).await;
        let break_it: [fn(&mut CheckedLayer); 3] =
            [|l| l.chain_id = "*".into(), |l| l.snapshotter.clear(), |l| l.created.clear()];
        for broken in break_it {
            let mut told = layer(1, "bad");
            broken(&mut told);
            let told = report(&[told, layer(2, "bad")]);
            assert!(altered.take(told, 5_000).await.is_err());
            // What is right beside it counts.
            assert_eq!(altered.count(), 1);
        }
    }

    #[tokio::test]
    async fn no_more_than_the_limit_are_known() {
        let altered = Altered::default();
        let all: Vec<_> = (0..=limits::CONTENT_ALTERED).map(|number| layer(number, "bad")).collect();
        let dir = tempfile::tempdir().unwrap();
        altered.load(dir.path()).await;
        let error = altered.take(report(&all), 5_000).await.unwrap_err();
        assert!(error.contains("limits::CONTENT_ALTERED"), "{error}");
        assert_eq!(altered.count(), limits::CONTENT_ALTERED);
        assert_eq!(loaded(dir.path()).await.count(), limits::CONTENT_ALTERED);
    }

    #[test]
    fn what_a_check_says_stays_one_line() {
        assert_eq!(printable("\"/etc/passwd\": expected"), "\"/etc/passwd\": expected");
        assert_eq!(printable("a\nb"), "\"a\\u{a}b\"");
    }
}
