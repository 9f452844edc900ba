//! Index, manifest and config of a vetted image, as the runtime has them: hashed again before each create.
//!
//! That an ID belongs to a digest is walked once and kept. The runtime checks a digest when content arrives, and never after: what
//! is written over a config on the disk says as whom and what the next container runs. What was hashed counts for a second, so
//! that a node full of pods that start is not read through once for each. Nothing else is cached: whatever could stand for
//! two or three small reads (a file's times, its size) can be set by whoever can write to the file, and containerd need not see
//! the folders that crivet sees.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::Relay;
use super::ask::Refusal;
use crate::audit::Reason;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::image::{Digest, quoted};
use crate::limits;
use crate::vetter::flight::Flights;
use crate::vetter::wire::{Call, ImageUse};

/// How long a document that was hashed counts as whole.
const COUNTS: Duration = Duration::from_secs(limits::DOCUMENT_SECONDS);

/// What is read at this moment, and what was whole a moment ago, by digest.
#[derive(Default)]
pub struct Documents {
    reads: Flights<String, Option<Found>>,
    whole: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Documents {
    /// What is wrong with a document; one read for all who ask at once.
    async fn hold(&self, runtime: &RuntimeClient, digest: &str) -> Option<Found> {
        let asked = Instant::now();
        let whole = Arc::clone(&self.whole);
        let known = |at: &Instant| asked < *at + COUNTS;
        if whole.lock().unwrap_or_else(PoisonError::into_inner).get(digest).is_some_and(known) {
            return None;
        }
        let (runtime, read) = (runtime.clone(), digest.to_owned());
        let work = async move {
            // As of when it was begun: what is altered while it is read is not known.
            let begun = Instant::now();
            let found = hold(runtime, read.clone()).await;
            if found.is_none() {
                let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
                whole.retain(|_, at| begun < *at + COUNTS);
                whole.insert(read, begun);
            }
            found
        };
        let deadline = asked + Duration::from_secs(limits::RUNTIME_CALL_SECONDS);
        self.reads.join(digest.to_owned(), deadline, work).await.unwrap_or_else(|| {
            let why = "the runtime does not hand it out in time".to_owned();
            Some(Found::Unreadable { digest: digest.to_owned(), why })
        })
    }
}

/// Holds what the runtime has of a permitted call's images to what was vetted. `documents`: their digests, image by image.
///
/// # Errors
/// Something was altered, or cannot be read.
pub async fn are_whole(relay: &Relay, call: &Call, documents: Vec<Vec<String>>) -> Result<(), Refusal> {
    if documents.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let found = read(relay, &documents).await;
    let Some((image, found)) = call.images.iter().zip(found).find_map(|(image, found)| Some((image, found?)))
    else {
        return Ok(());
    };
    Err(match found {
        Found::Altered { digest, found } => {
            relay.metrics.content_altered();
            tracing::error!(image = %image.named, %digest, %found, "the runtime's copy of a vetted image was altered");
            Refusal::denied(&altered(image, &digest, &found), Reason::ContentAltered)
        }
        Found::Unreadable { digest, why } => {
            let text = format!("{}: the runtime's copy of {digest} cannot be read: {why}", shown(image));
            Refusal::own(&text, Reason::Runtime)
        }
    })
}

/// The runtime did not hand them out in time.
pub fn not_read() -> Refusal {
    let text =
        "the runtime does not hand out in time what it has of the image, to be compared with what was vetted";
    Refusal::own(text, Reason::Runtime)
}

fn altered(image: &ImageUse, digest: &str, found: &str) -> String {
    format!(
        "{}: expected {digest} in the runtime's store as it was vetted, found {found}: it was altered on this node; remove image {} with all its containers, and it is pulled again",
        shown(image),
        quoted(&image.named)
    )
}

fn shown(image: &ImageUse) -> String {
    let name = if image.reference.is_empty() { &image.named } else { &image.reference };
    format!("image {}", quoted(name))
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Altered { digest: String, found: String },
    Unreadable { digest: String, why: String },
}

/// The first thing wrong with each image. All are read at once.
async fn read(relay: &Relay, images: &[Vec<String>]) -> Vec<Option<Found>> {
    let mut images_read = Vec::with_capacity(images.len());
    for documents in images {
        let read = documents.iter().map(|digest| relay.documents.hold(&relay.runtime, digest));
        images_read.push(join_all(read));
    }
    let found = join_all(images_read).await;
    found.into_iter().map(|image| image.into_iter().flatten().next()).collect()
}

async fn hold(runtime: RuntimeClient, digest: String) -> Option<Found> {
    let cap = limits::MANIFEST_BYTES.max(limits::CONFIG_BYTES);
    let found = match runtime.read_content(&digest, cap).await {
        Ok(bytes) => {
            let found = Digest::of(&bytes).to_string();
            if found == digest {
                return None;
            }
            format!("bytes that hash to {found}")
        }
        // What it does not have, it cannot make a container by: a manifest from a registry, or an index that was tidied up.
        Err(RuntimeError::NotFound(_)) => return None,
        // What was vetted is not.
        Err(RuntimeError::TooLarge { cap, .. }) => format!("more than {cap} bytes"),
        Err(error @ (RuntimeError::Failed { .. } | RuntimeError::Store(_))) => {
            return Some(Found::Unreadable { digest, why: error.to_string() });
        }
    };
    Some(Found::Altered { digest, found })
}
