//! One layer: its bytes as the runtime hands them out, and the folder that they were unpacked into. Blocks.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::Outcome;
use super::unpacked::Unpacked;
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::image::Digest;
use crate::image::layer::{Comparison, Differences, Kind, Tree, unpack};

/// Pieces of a blob, of some 32 KiB to 1 MiB, that wait to be read.
const PIECES: usize = 8;

/// What a layer has to be.
pub struct Expected {
    /// The digest of its bytes.
    pub digest: Digest,
    /// That of the archive in them.
    pub diff_id: Digest,
    /// What the layers below it are, the next one first; `None`: that of one is not known.
    pub below: Option<Vec<Arc<Tree>>>,
}

/// What was found.
pub struct Found {
    /// Of its bytes.
    pub blob: Outcome,
    /// Of the folder.
    pub unpacked: Outcome,
    /// What the layers above have to know of it.
    pub skeleton: Option<Arc<Tree>>,
    /// Bytes read.
    pub bytes: u64,
}

impl Found {
    /// Nothing of it can be read.
    pub fn unreadable(why: &str, bytes: u64) -> Found {
        let unread = || Outcome::Unchecked(why.to_owned());
        Found { blob: unread(), unpacked: unread(), skeleton: None, bytes }
    }
}

/// A layer's bytes from the runtime.
pub async fn open(runtime: &RuntimeClient, digest: Digest) -> Result<Pieces, RuntimeError> {
    let mut blob = runtime.blob(&digest.to_string()).await?;
    let (send, pieces) = mpsc::channel(PIECES);
    // Only with its first piece has the runtime said whether there is such a blob.
    let mut next = Ok(blob.next().await?);
    tokio::spawn(async move {
        while let Some(piece) = next.transpose() {
            let is_last = piece.is_err();
            // Whoever reads may have given up.
            if send.send(piece.map_err(|error: RuntimeError| error.to_string())).await.is_err() || is_last {
                return;
            }
            next = blob.next().await;
        }
    });
    Ok(Pieces { pieces, at: Bytes::new(), read: 0 })
}

/// A blob, piece by piece.
pub struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, String>>,
    at: Bytes,
    read: u64,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.at = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let read = self.at.len().min(buffer.len());
        if let Some(buffer) = buffer.get_mut(..read) {
            self.at.copy_to_slice(buffer);
        }
        self.read += read as u64;
        Ok(read)
    }
}

/// Reads a layer to its end, and compares it with the folder, if there is one.
pub fn check(mut blob: Pieces, expected: &Expected, folder: Option<&Path>) -> Found {
    let lowest = expected.below.as_ref().is_some_and(Vec::is_empty);
    let unpacked = unpack(&mut blob, lowest);
    let bytes = blob.read;
    let unpacked = match unpacked {
        Ok(unpacked) => unpacked,
        Err(error) => return Found::unreadable(&error.to_string(), bytes),
    };
    if unpacked.blob != expected.digest {
        let found = format!("expected bytes that hash to {}, found {}", expected.digest, unpacked.blob);
        let unpacked = Outcome::Unchecked("its layer was altered, and says nothing of it".to_owned());
        return Found { blob: Outcome::Altered(found), unpacked, skeleton: None, bytes };
    }
    let unread = |why: String| Found {
        blob: Outcome::Whole,
        unpacked: Outcome::Unchecked(why),
        skeleton: None,
        bytes,
    };
    let content = match unpacked.content {
        Ok(content) => content,
        Err(error) => return unread(error.to_string()),
    };
    if content.diff_id != expected.diff_id {
        return unread(format!(
            "its layer is an archive {}, and the image's config names {}: the runtime did not unpack it",
            content.diff_id, expected.diff_id
        ));
    }
    let Some(below) = &expected.below else {
        return unread("what a layer below it is, is not known".to_owned());
    };
    let mut tree = content.tree;
    tree.inherit(&below.iter().map(Arc::as_ref).collect::<Vec<_>>());
    let skeleton = Some(Arc::new(tree.without_files()));
    let (unpacked, read) = match folder.map(|folder| compare(&Unpacked::open(folder)?, tree)) {
        None => (Outcome::Whole, 0),
        Some(Ok((differences, read))) => (outcome(&differences), read),
        Some(Err(error)) => (Outcome::Unchecked(format!("its folder cannot be read: {error}")), 0),
    };
    Found { blob: Outcome::Whole, unpacked, skeleton, bytes: bytes + read }
}

/// Holds a folder to a tree: first what can be seen without reading a file, then the files.
pub fn compare(folder: &Unpacked, tree: Tree) -> io::Result<(Differences, u64)> {
    let (mut comparison, mut to_read) = (Comparison::new(tree), Vec::new());
    folder.walk(|path, found| {
        if let (true, Kind::File { size }) = (comparison.found(&path, &found), found.kind) {
            to_read.push((path, size));
        }
    })?;
    let mut bytes = 0;
    for (path, size) in to_read {
        comparison.content(&path, folder.digest(&path, size)?);
        bytes += size;
    }
    Ok((comparison.finish(), bytes))
}

/// What differences come to.
pub fn outcome(differences: &Differences) -> Outcome {
    let Some(first) = differences.first.first() else {
        return match differences.is_same() {
            true => Outcome::Whole,
            false => Outcome::Unchecked(format!("{} of its files were not read", differences.unread)),
        };
    };
    Outcome::Altered(match differences.count - 1 {
        0 => first.to_string(),
        more => format!("{first}; and {more} more"),
    })
}
