//! Images that were removed because they were altered on the node's disk, so that they are pulled anew.
//!
//! The kubelet reads by an image's name as which user a container runs, and makes it by the ID. If it reads while the image is gone it takes
//! root, and if another pod's pull has brought the image back by the time of the create, that runs. So what was removed is not made
//! into a container until it has been there for longer than a kubelet takes from the one to the other: the kubelet
//! tries again, and reads anew.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::ask::Refusal;
use super::intercept::same_id;
use super::{Relay, Stance, disk};
use crate::audit::Reason;
use crate::config::files::{self, FileError};
use crate::cri::facts::ROLE_IMAGE;
use crate::cri::methods::Vetted;
use crate::image::{ImageId, quoted};
use crate::limits;
use crate::vetter::wire::Call;

const NAME: &str = "healed.json";
/// Bytes of the file: an ID has 71.
const FILE_BYTES: usize = limits::HEALED_IMAGES * 100;
/// How long an image has to have been there again.
const AGAIN: Duration = Duration::from_secs(limits::HEALED_SECONDS);

/// What was removed, by ID, and since when it is known to be there again.
#[derive(Default)]
pub struct Healed {
    images: Mutex<BTreeMap<String, Option<Instant>>>,
    /// How many: what every create pays for it.
    count: AtomicUsize,
    dir: tokio::sync::Mutex<Option<PathBuf>>,
}

impl Healed {
    /// Reads what an earlier crivet wrote into its state folder.
    pub async fn load(&self, dir: &Path) {
        *self.dir.lock().await = Some(dir.to_owned());
        match read(dir) {
            Ok(ids) => self.add(ids),
            Err(error) => {
                tracing::error!(%error, "which images were removed to be pulled anew cannot be read");
            }
        }
    }

    fn add(&self, ids: Vec<String>) {
        let mut images = self.images();
        images.extend(ids.into_iter().map(|id| (id, None)));
        self.count.store(images.len(), Ordering::SeqCst);
    }

    /// Writes the file with these beside those that are known, which they are from then on. One after the other: it is for a task
    /// that is not given up half-way.
    async fn keep(self: Arc<Healed>, ids: Vec<String>) -> Result<(), String> {
        let dir = self.dir.lock().await;
        let mut all: Vec<String> = self.images().keys().cloned().collect();
        all.extend(ids.iter().cloned());
        all.sort();
        all.dedup();
        if all.len() > limits::HEALED_IMAGES {
            let cap = limits::HEALED_IMAGES;
            return Err(format!("expected at most {cap} removed images (limits::HEALED_IMAGES), found more"));
        }
        let Some(folder) = dir.clone() else { return Err("no state folder is configured".to_owned()) };
        disk::wait_for(move || write(&folder, &all)).await?;
        self.add(ids);
        Ok(())
    }

    /// The image is there now. `true` once that has been so for long enough, and the image is one like any other.
    fn is_there(&self, named: &str, now: Instant) -> bool {
        let mut images = self.images();
        let Some((id, since)) = images.iter_mut().find(|(id, _)| same_id(id, named)) else { return true };
        let since = *since.get_or_insert(now);
        if now.saturating_duration_since(since) < AGAIN {
            return false;
        }
        let id = id.clone();
        images.remove(&id);
        self.count.store(images.len(), Ordering::SeqCst);
        true
    }

    /// The image is not there: how long it was before counts for nothing.
    fn is_gone(&self, named: &str) {
        for (id, since) in self.images().iter_mut() {
            if same_id(id, named) {
                *since = None;
            }
        }
    }

    fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    fn holds(&self, named: &str) -> bool {
        self.any() && self.images().keys().any(|id| same_id(id, named))
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<String, Option<Instant>>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes note of images that are about to be removed. When it returns they are, whatever becomes of this process.
///
/// # Errors
/// They must not be removed; one line.
pub async fn about_to_be_removed(relay: &Relay, ids: &[String]) -> Result<(), String> {
    if ids.is_empty() {
        return Ok(());
    }
    if relay.live.borrow().in_force.stance != Stance::Enforce {
        let why = "expected enforce mode, found another: whoever makes a container while its image is removed may make it as root, and only enforce mode is in the way of that; remove the images by hand";
        return Err(why.to_owned());
    }
    let creates = relay.metrics.counted().vetted;
    let creates = creates.iter().find(|(method, ..)| *method == Vetted::CreateContainer.name());
    if creates.is_none_or(|(_, seen, _)| *seen == 0) {
        return Err("expected the kubelet's CreateContainer to come through crivet, found none since its start; remove the images by hand".to_owned());
    }
    if let Some(id) = ids.iter().find(|id| ImageId::parse(id).is_err()) {
        return Err(format!("expected an image ID, found {}", quoted(id)));
    }
    let kept = tokio::spawn(Arc::clone(&relay.healed).keep(ids.to_vec())).await;
    kept.map_err(|error| error.to_string())?
}

/// Whether a container may be made of its image, as far as that was removed.
///
/// # Errors
/// It was, and is not there again for long enough.
pub async fn user_was_read_since(relay: &Relay, call: &Call) -> Result<(), Refusal> {
    let Some(image) = call.images.iter().find(|image| image.role == ROLE_IMAGE) else { return Ok(()) };
    // By a digest, as CRI-O has it made up to 1.34, it is the runtime that says which image it is.
    let by_id = ImageId::parse(&image.named).is_ok();
    if !relay.healed.any() || by_id && !relay.healed.holds(&image.named) {
        return Ok(());
    }
    match relay.runtime.image_status(&image.named).await {
        Ok(Some(found)) if !relay.healed.holds(&found.id) => return Ok(()),
        Ok(Some(found)) if relay.healed.is_there(&found.id, Instant::now()) => {
            // What is still in the file costs a later crivet a retry of the kubelet's, and nothing else.
            drop(tokio::spawn(Arc::clone(&relay.healed).keep(Vec::new())));
            return Ok(());
        }
        Ok(Some(_)) => {}
        Ok(None) if by_id => relay.healed.is_gone(&image.named),
        Ok(None) => {
            let text = format!(
                "image {}: the runtime has none of this digest, and images were removed here to be pulled anew; try again",
                quoted(&image.named)
            );
            return Err(Refusal::own(&text, Reason::Runtime));
        }
        Err(error) => {
            let text = format!(
                "image {}: it was removed, and is not known to be back: {error}",
                quoted(&image.named)
            );
            return Err(Refusal::own(&text, Reason::Runtime));
        }
    }
    let text = format!(
        "image {}: it was altered on this node, and removed to be pulled anew; the kubelet has to read once more as which user the container runs, and tries again",
        quoted(if image.reference.is_empty() { &image.named } else { &image.reference })
    );
    Err(Refusal::own(&text, Reason::NameMoved))
}

fn read(dir: &Path) -> Result<Vec<String>, FileError> {
    let path = dir.join(NAME);
    let bytes = match files::read_guarded(&path, "HEALED_IMAGES", FILE_BYTES) {
        Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    serde_json::from_slice(&bytes).map_err(|error| FileError::Io { path, error: error.into() })
}

fn write(dir: &Path, ids: &[String]) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(ids)
        .map_err(|error| FileError::Io { path: dir.join(NAME), error: error.into() })?;
    files::write_state(dir, NAME, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_counts_only_when_it_has_been_back_for_long_enough() {
        let (healed, now) = (Healed::default(), Instant::now());
        healed.add(vec!["sha256:aa".into()]);
        assert!(healed.holds("sha256:aa") && !healed.holds("sha256:bb"));
        assert!(!healed.is_there("sha256:aa", now));
        assert!(!healed.is_there("sha256:aa", now + AGAIN / 2));
        // Removed once more.
        healed.is_gone("sha256:aa");
        assert!(!healed.is_there("sha256:aa", now + AGAIN));
        assert!(healed.is_there("sha256:aa", now + 2 * AGAIN));
        assert!(!healed.holds("sha256:aa"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn file_says_what_was_known_last_however_many_write_it() {
        let dir = tempfile::tempdir().unwrap();
        let healed = Arc::<Healed>::default();
        healed.load(dir.path()).await;
        let id = |number: usize| format!("sha256:{number:064x}");
        Arc::clone(&healed).keep((0..64).map(id).collect()).await.unwrap();
        let now = Instant::now();
        let mut writing = Vec::new();
        for number in 0..60 {
            assert!(!healed.is_there(&id(number), now) && healed.is_there(&id(number), now + AGAIN));
            writing.push(tokio::spawn(Arc::clone(&healed).keep(Vec::new())));
        }
        writing.push(tokio::spawn(Arc::clone(&healed).keep(vec![id(100)])));
        for written in writing {
            written.await.unwrap().unwrap();
        }
        assert_eq!(read(dir.path()).unwrap(), [60, 61, 62, 63, 100].map(id));
    }

    #[tokio::test]
    async fn what_was_removed_outlives_crivet() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &["sha256:aa".to_owned()]).unwrap();
        let healed = Healed::default();
        healed.load(dir.path()).await;
        assert!(healed.holds("sha256:aa"));
    }
}
