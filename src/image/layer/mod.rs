//! What a layer's unpacked tree has to be, from the layer's own bytes, and how what is on a disk differs from it.
//!
//! Containers run from the tree, not from the layer: a runtime checks a layer's digest when it arrives, and nothing after it
//! was unpacked. The bytes of a layer come in as a reader, what is on the disk as entries; nothing here touches a disk.
//!
//! The tree is that of containerd's overlayfs snapshotter (`pkg/archive`, `core/diff/apply`): of the lowest layer, whiteouts
//! leave nothing; of one above another they are devices 0:0, and opaque directories have an attribute. Or that of the overlay
//! driver of containers/storage, which has it so in any layer.

mod compare;
mod decode;
#[allow(clippy::expect_used, clippy::indexing_slicing)]
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod split;
mod tar;
mod tree;

pub use compare::{Change, Comparison, Difference, Differences};
pub use split::Files;
pub use tree::{Attributes, Kind, Tree};

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::{Digest, quoted};
use crate::limits;
use tree::{Rules, cleaned};

/// Extended attributes that decide what a container may do or sees. All others are left out on both sides: security modules
/// label files as they like, and overlayfs keeps notes of its own.
pub const XATTRS: [&[u8]; 6] = [
    b"security.capability",
    b"trusted.overlay.metacopy",
    b"trusted.overlay.opaque",
    b"trusted.overlay.protattr",
    b"trusted.overlay.redirect",
    b"trusted.overlay.whiteout",
];

/// Why it cannot be said what a layer unpacks to. Says nothing about what is on the disk: it cannot be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// The bytes could not be read or decompressed.
    #[error("the layer cannot be read: {}", quoted(.0))]
    Read(String),
    /// The archive is broken.
    #[error("the layer is no tar archive that can be unpacked: {0}")]
    Tar(&'static str),
    /// What a runtime wrote down of an archive is broken.
    #[error("what the runtime wrote down of the layer's archive cannot be read: {0}")]
    Split(&'static str),
    /// An entry that no runtime could have unpacked.
    #[error("the layer cannot be unpacked: {}: {why}", quoted(.path))]
    Entry {
        /// Its path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something that is known and not supported.
    #[error("the layer has {0}, which crivet does not read")]
    Unsupported(&'static str),
    /// A limit that was hit.
    #[error("expected at most {cap} {what} in one layer (limit {limit}), found {found}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How much there is, at the least.
        found: u64,
        /// The limit.
        cap: u64,
        /// The name of the limit in [`limits`].
        limit: &'static str,
    },
}

impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> LayerError {
        let text = error.to_string();
        // What a reader in between found out itself.
        let own = error.into_inner().and_then(|inner| inner.downcast::<LayerError>().ok());
        own.map_or(LayerError::Read(text), |own| *own)
    }
}

/// What reading a layer to its end came to.
#[derive(Debug)]
pub struct Unpacked {
    /// The digest of the bytes as they were given. If it is not the layer's, nothing else of this counts.
    pub blob: Digest,
    /// What they unpack to.
    pub content: Result<Content, LayerError>,
}

/// A layer's content.
#[derive(Debug)]
pub struct Content {
    /// The digest of the archive, as the image's config has it.
    pub diff_id: Digest,
    /// What it unpacks to.
    pub tree: Tree,
}

/// Reads a layer: a tar archive, plain or compressed by gzip or zstd. `lowest`: there is none below it.
///
/// # Errors
/// The bytes could not be read to their end.
pub fn unpack(blob: impl Read, lowest: bool) -> Result<Unpacked, LayerError> {
    let mut blob = Hashed::new(blob, u64::MAX);
    let content = content(&mut blob, lowest);
    // What is behind the archive belongs to the blob, and so does all of one that cannot be unpacked.
    io::copy(&mut blob, &mut io::sink())?;
    Ok(Unpacked { blob: blob.digest(), content })
}

fn content(blob: impl Read, lowest: bool) -> Result<Content, LayerError> {
    let mut archive = Hashed::new(decode::decoded(blob)?, limits::LAYER_UNPACKED_BYTES);
    let tree = Tree::of(&mut archive, if lowest { Rules::Lowest } else { Rules::Upper })?;
    io::copy(&mut archive, &mut io::sink())?;
    Ok(Content { diff_id: archive.digest(), tree })
}

/// What putting an archive together again came to.
#[derive(Debug)]
pub struct Rebuilt {
    /// The digest of the archive. If it is not what the image's config has, nothing of the tree counts.
    pub diff_id: Digest,
    /// What it unpacks to, by the rules of containers/storage.
    pub tree: Tree,
    /// Where the archive is another one: the files that are not as they were when it was taken apart, if any of them is.
    pub differences: Differences,
    /// How long it is.
    pub bytes: u64,
}

/// Puts an archive together again from what tar-split wrote down of it, plain or compressed, and the files it was unpacked to.
///
/// # Errors
/// It cannot be read to its end, or cannot be unpacked.
pub fn rebuild(split: impl Read, files: impl Files) -> Result<Rebuilt, LayerError> {
    let archive = split::Archive::new(decode::decoded(split)?, files);
    let mut archive = Hashed::new(archive, limits::LAYER_UNPACKED_BYTES);
    let tree = Tree::of(&mut archive, Rules::Storage)?;
    io::copy(&mut archive, &mut io::sink())?;
    let Hashed { from, hash, read, .. } = archive;
    if read == 0 {
        // As a node that lost its power may leave it.
        return Err(LayerError::Split("it is empty"));
    }
    let diff_id = Digest::from_raw(hash.finalize().into());
    Ok(Rebuilt { diff_id, tree, differences: from.differences(), bytes: read })
}

/// Bytes that are hashed as they are read.
struct Hashed<R> {
    from: R,
    hash: Sha256,
    read: u64,
    cap: u64,
}

impl<R> Hashed<R> {
    fn new(from: R, cap: u64) -> Hashed<R> {
        Hashed { from, hash: Sha256::new(), read: 0, cap }
    }

    fn digest(self) -> Digest {
        Digest::from_raw(self.hash.finalize().into())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        self.read = self.read.saturating_add(read as u64);
        if self.read > self.cap {
            return Err(io::Error::other(LayerError::Limit {
                what: "bytes, unpacked,",
                found: self.read,
                cap: self.cap,
                limit: "LAYER_UNPACKED_BYTES",
            }));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
