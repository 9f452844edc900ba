//! Images that wait for a check of their layers, because a policy asks for one before a create.
//!
//! The relay reads no layers, and starts nothing. It writes a file into its runtime folder, which only root can write to; systemd
//! watches for it (`crivet-content-requested.path`) and runs `crivet content check --requested`, which asks over the control
//! socket for which images. The file is there for as long as one waits whose check nobody has begun, and says no more than that.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::disk;
use crate::control::wire::{CheckedImage, RequestedImage};
use crate::limits;

/// The file's name; `systemd/crivet-content-requested.path` has it too.
pub const NAME: &str = "content-requested";
/// How long an image is not requested again, and how long one waits that nobody asks about.
const REST: Duration = Duration::from_secs(limits::CONTENT_REQUEST_SECONDS);

/// Who waits.
#[derive(Default)]
pub struct Requested {
    /// By ID.
    images: Mutex<BTreeMap<String, Image>>,
    /// The file. It is brought into line by one after the other.
    file: tokio::sync::Mutex<Option<PathBuf>>,
}

struct Image {
    name: String,
    since: Instant,
    asked: Instant,
    /// When its check was begun, and why that did not find it whole, if it has ended.
    begun: Option<(Instant, String)>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It waits for a check.
    Waits,
    /// A check of it was begun.
    Begun,
    /// One has ended, a short time ago, and did not find it whole: why.
    NotWhole(String),
    /// Too many wait already.
    TooMany,
}

impl Requested {
    /// Keeps the file in this folder from now on. One that an earlier crivet has left is about nothing.
    pub async fn open(&self, runtime_dir: &Path) {
        *self.file.lock().await = Some(runtime_dir.join(NAME));
        self.follow().await;
    }

    /// Asks for a check of an image.
    pub async fn ask(&self, id: &str, name: &str, now: Instant) -> Asked {
        let asked = self.note(id, name, now);
        if asked == Asked::Waits {
            self.follow().await;
        }
        asked
    }

    fn note(&self, id: &str, name: &str, now: Instant) -> Asked {
        let mut images = self.images();
        forget(&mut images, now);
        if let Some(image) = images.get_mut(id) {
            image.asked = now;
            match &image.begun {
                Some((at, found)) if now.saturating_duration_since(*at) < REST => {
                    return match found.as_str() {
                        "" => Asked::Begun,
                        found => Asked::NotWhole(found.to_owned()),
                    };
                }
                _ => image.begun = None,
            }
            return Asked::Waits;
        }
        if images.len() >= limits::CONTENT_REQUESTS {
            return Asked::TooMany;
        }
        let name = name.chars().take(limits::CONTENT_FOUND_CHARS).collect();
        images.insert(id.to_owned(), Image { name, since: now, asked: now, begun: None });
        Asked::Waits
    }

    /// Hands out the images whose check nobody has begun: whoever takes them does.
    pub async fn take(&self, now: Instant) -> Vec<String> {
        let ids = {
            let mut images = self.images();
            forget(&mut images, now);
            let waiting = images.iter_mut().filter(|(_, image)| image.begun.is_none());
            waiting
                .map(|(id, image)| {
                    image.begun = Some((now, String::new()));
                    id.clone()
                })
                .collect()
        };
        self.follow().await;
        ids
    }

    /// Takes what a check came to. `true` if somebody has waited for it.
    pub async fn checked(&self, told: &[CheckedImage], now: Instant) -> bool {
        let waited = self.answer(told, now);
        if waited {
            self.follow().await;
        }
        waited
    }

    fn answer(&self, told: &[CheckedImage], now: Instant) -> bool {
        let (mut images, mut waited) = (self.images(), false);
        for CheckedImage { image_id, found } in told {
            let Some(image) = images.get_mut(image_id) else { continue };
            waited = true;
            if found.is_empty() {
                images.remove(image_id);
            } else {
                image.begun = Some((now, found.chars().take(limits::CONTENT_FOUND_CHARS).collect()));
            }
        }
        waited
    }

    /// Those that wait, whose check nobody has begun first, and how many there are.
    pub fn status(&self, now: Instant) -> (Vec<RequestedImage>, usize) {
        let mut images = self.images();
        forget(&mut images, now);
        let told = images.values().map(|image| RequestedImage {
            image: image.name.clone(),
            waits_ms: u64::try_from(now.saturating_duration_since(image.since).as_millis())
                .unwrap_or(u64::MAX),
            begun: image.begun.is_some(),
            found: image.begun.as_ref().map(|(_, found)| found.clone()).unwrap_or_default(),
        });
        let mut told: Vec<RequestedImage> = told.collect();
        let count = told.len();
        told.sort_by_key(|image| (image.begun, std::cmp::Reverse(image.waits_ms)));
        told.truncate(limits::FOUND_SHOWN);
        (told, count)
    }

    /// Has the file say whether somebody waits.
    async fn follow(&self) {
        let file = self.file.lock().await;
        let Some(path) = file.clone() else { return };
        let waits = self.images().values().any(|image| image.begun.is_none());
        if let Err(error) = disk::wait_for(move || if waits { make(&path) } else { remove(&path) }).await {
            tracing::error!(%error, "that images wait for a check cannot be written down; run crivet content check --requested");
        }
    }

    fn images(&self) -> MutexGuard<'_, BTreeMap<String, Image>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody waits any more for what nobody has asked about for so long.
fn forget(images: &mut BTreeMap<String, Image>, now: Instant) {
    images.retain(|_, image| now.saturating_duration_since(image.asked) < REST);
}

fn make(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn opened(dir: &Path) -> Requested {
        let requested = Requested::default();
        requested.open(dir).await;
        requested
    }

    fn checked(id: &str, found: &str) -> [CheckedImage; 1] {
        [CheckedImage { image_id: id.into(), found: found.into() }]
    }

    #[tokio::test]
    async fn file_is_there_while_somebody_waits_for_a_check_to_be_begun() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let file = dir.path().join(NAME);
        fs::write(&file, "of an earlier crivet").unwrap();
        let requested = opened(dir.path()).await;
        assert!(!file.exists());
        assert_eq!(requested.ask("a", "app", now).await, Asked::Waits);
        assert_eq!(requested.ask("b", "other", now).await, Asked::Waits);
        assert!(file.exists());
        assert_eq!(requested.take(now).await, ["a", "b"]);
        assert!(!file.exists());
        assert_eq!(requested.take(now).await, [] as [&str; 0]);
        assert_eq!(requested.ask("a", "app", now).await, Asked::Begun);
        assert!(!file.exists());
        // One that a check of all images came to first is not checked again.
        assert_eq!(requested.ask("c", "third", now).await, Asked::Waits);
        assert!(requested.checked(&checked("c", ""), now).await && !file.exists());
        assert!(!requested.checked(&checked("c", ""), now).await);
    }

    #[tokio::test]
    async fn what_cannot_be_found_whole_is_not_read_again_at_each_try() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let requested = opened(dir.path()).await;
        requested.ask("a", "app", now).await;
        requested.take(now).await;
        assert!(requested.checked(&checked("a", "a sparse file"), now).await);
        let tries = [REST / 2, REST - Duration::from_secs(1)];
        for after in tries {
            let asked = requested.ask("a", "app", now + after).await;
            assert_eq!(asked, Asked::NotWhole("a sparse file".to_owned()));
        }
        assert_eq!(requested.ask("a", "app", now + REST).await, Asked::Waits);
        assert_eq!(requested.take(now + REST).await, ["a"]);
        // Nor is one whose check was begun and never ended.
        assert_eq!(requested.ask("a", "app", now + REST).await, Asked::Begun);
        assert_eq!(requested.ask("a", "app", now + 2 * REST - Duration::from_secs(1)).await, Asked::Begun);
        assert_eq!(requested.ask("a", "app", now + 2 * REST).await, Asked::Waits);
        // It is whole, and altered or unpacked anew since: at once.
        assert!(requested.checked(&checked("a", ""), now + 2 * REST).await);
        assert_eq!(requested.ask("a", "app", now + 2 * REST).await, Asked::Waits);
    }

    #[tokio::test]
    async fn nobody_waits_for_what_nobody_asks_about() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let requested = opened(dir.path()).await;
        requested.ask("a", "app", now).await;
        assert_eq!(requested.status(now).1, 1);
        assert_eq!(requested.status(now + REST).1, 0);
        assert!(requested.take(now + REST).await.is_empty());
    }

    #[tokio::test]
    async fn no_more_than_the_limit_wait() {
        let (requested, now) = (Requested::default(), Instant::now());
        for number in 0..limits::CONTENT_REQUESTS {
            assert_eq!(requested.ask(&number.to_string(), "app", now).await, Asked::Waits);
        }
        assert_eq!(requested.ask("one more", "app", now).await, Asked::TooMany);
        assert_eq!(requested.ask("0", "app", now).await, Asked::Waits);
        let (shown, count) = requested.status(now);
        assert_eq!((shown.len(), count), (limits::FOUND_SHOWN.min(count), limits::CONTENT_REQUESTS));
    }

    #[tokio::test]
    async fn those_that_nobody_checks_are_told_first() {
        let (requested, now) = (Requested::default(), Instant::now());
        requested.ask("a", "begun", now).await;
        requested.take(now).await;
        requested.ask("b", "waits", now).await;
        let told = requested.status(now + Duration::from_secs(1)).0;
        let told: Vec<_> =
            told.iter().map(|image| (image.image.as_str(), image.begun, image.waits_ms)).collect();
        assert_eq!(told, [("waits", false, 1000), ("begun", true, 1000)]);
    }
}
