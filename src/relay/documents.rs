//! Index, manifest and config of a vetted image, as the runtime has them: hashed again before each create.
//!
//! That an ID belongs to a digest is walked once and kept. The runtime checks a digest when content arrives, and never after: what
//! is written over a config on the disk says as whom and what the next container runs. Nothing is cached here. There are two or
//! three small reads, beside other questions to the runtime, and whatever would stand for them (a file's times, its size) can
//! be set by whoever can write to the file.

use super::Relay;
use super::ask::Refusal;
use crate::audit::Reason;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::image::{Digest, quoted};
use crate::limits;
use crate::vetter::wire::{Call, ImageUse};

/// Holds what the runtime has of a permitted call's images to what was vetted. `documents`: their digests, image by image.
///
/// # Errors
/// Something was altered, or cannot be read.
pub async fn are_whole(relay: &Relay, call: &Call, documents: Vec<Vec<String>>) -> Result<(), Refusal> {
    if documents.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let found = read(&relay.runtime, documents).await;
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
async fn read(runtime: &RuntimeClient, images: Vec<Vec<String>>) -> Vec<Option<Found>> {
    let mut reads = Vec::with_capacity(images.len());
    for documents in images {
        let read = |digest: String| tokio::spawn(hold(runtime.clone(), digest));
        reads.push(documents.into_iter().map(read).collect::<Vec<_>>());
    }
    let mut found = Vec::with_capacity(reads.len());
    for image in reads {
        let mut first = None;
        for read in image {
            let wrong = read.await.unwrap_or_else(|error| {
                let why = format!("reading it failed: {error}");
                Some(Found::Unreadable { digest: "a document".to_owned(), why })
            });
            first = first.or(wrong);
        }
        found.push(first);
    }
    found
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
