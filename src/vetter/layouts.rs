//! Evidence from OCI image layouts on the node, for nodes that reach no registry. It is read at a load, held in memory, and
//! verified like any other: a folder is a place where evidence is, and no reason to trust it.

mod folder;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;

use super::evidence::Form;
use crate::image::{Digest, ImageId};
use crate::limits;
use crate::verify::Evidence;
use folder::Left;

/// What the layouts hold.
#[derive(Debug, Default)]
pub struct Layouts {
    count: usize,
    evidence: HashMap<Digest, Vec<Piece>>,
    documents: HashMap<Digest, Bytes>,
    roots: HashMap<ImageId, Vec<Digest>>,
    faults: Vec<Fault>,
}

/// One signature or attestation.
#[derive(Debug)]
struct Piece {
    /// What its manifest says.
    predicate_type: Option<String>,
    evidence: Evidence,
    /// Of its layer.
    bytes: usize,
}

/// Something that could not be read. What it holds is unknown: whoever is not satisfied otherwise is undecided.
#[derive(Debug)]
struct Fault {
    /// One deterministic line.
    text: String,
    /// The image it concerns; none where that is unknown.
    about: Option<Digest>,
}

/// How layouts are, for metrics and commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Layouts that were read.
    pub layouts: usize,
    /// Digests there is evidence about.
    pub images: usize,
    /// Layouts, or parts of them, that were left out.
    pub faults: usize,
    /// The first of these, one line; empty: none.
    pub first: String,
}

impl Layouts {
    /// Reads layouts, each of `folders` or right below it. It waits for the disk. What cannot be read is left out, loudly.
    pub fn read(folders: &[PathBuf]) -> Layouts {
        let left = Left {
            layouts: limits::LAYOUTS,
            to_read: limits::LAYOUT_READ_BYTES,
            to_hold: limits::LAYOUT_HELD_BYTES,
        };
        let layouts = folder::read(folders, left);
        for fault in &layouts.faults {
            tracing::error!("{}", fault.text);
        }
        layouts
    }

    /// The evidence about a digest that would be found in a registry in this form.
    pub fn evidence<'a>(&'a self, digest: &Digest, form: &'a Form) -> impl Iterator<Item = &'a Evidence> {
        let pieces = self.evidence.get(digest).map(Vec::as_slice).unwrap_or_default();
        pieces.iter().filter(|piece| piece.is_of(form)).map(|piece| &piece.evidence)
    }

    /// An index, manifest or config of an image, its bytes held to its digest.
    pub fn document(&self, digest: &Digest) -> Option<Bytes> {
        self.documents.get(digest).cloned()
    }

    /// Digests of images that an ID may be of. They only suggest: the walk shows.
    pub fn roots_of(&self, id: &ImageId) -> &[Digest] {
        self.roots.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Why there may be more evidence about an image with these digests than was read.
    pub fn fault(&self, digests: &[Digest]) -> Option<&str> {
        let concerns = |fault: &&Fault| fault.about.is_none_or(|about| digests.contains(&about));
        self.faults.iter().find(concerns).map(|fault| fault.text.as_str())
    }

    /// How they are.
    pub fn summary(&self) -> Summary {
        Summary {
            layouts: self.count,
            images: self.evidence.len(),
            faults: self.faults.len(),
            first: self.faults.first().map(|fault| fault.text.clone()).unwrap_or_default(),
        }
    }

    fn add_fault(&mut self, about: Option<Digest>, text: String) {
        if self.faults.len() + 1 < limits::LAYOUT_FAULTS {
            self.faults.push(Fault { text, about });
        } else if self.faults.len() < limits::LAYOUT_FAULTS {
            let text = format!("{text}; and more (limit LAYOUT_FAULTS)");
            self.faults.push(Fault { text, about: None });
        }
    }

    fn add_root(&mut self, id: ImageId, root: Digest) {
        let roots = self.roots.entry(id).or_default();
        if !roots.contains(&root) && roots.len() < limits::CANDIDATES {
            roots.push(root);
        }
    }

    /// Adds a piece, if that stays within what one question to a registry may bring; what is over it is a fault.
    fn add_piece(&mut self, about: Digest, piece: Piece) {
        let pieces = self.evidence.entry(about).or_default();
        let alike = || pieces.iter().filter(|other| other.is_like(&piece));
        let (count, bytes) = (alike().count(), alike().map(|other| other.bytes).sum::<usize>());
        let over = if count == limits::SIGNATURES {
            format!("{} signatures and attestations of one kind (limit SIGNATURES)", limits::SIGNATURES)
        } else if bytes + piece.bytes > limits::EVIDENCE_BYTES {
            format!("{} bytes of signatures and attestations (limit EVIDENCE_BYTES)", limits::EVIDENCE_BYTES)
        } else {
            pieces.push(piece);
            return;
        };
        self.add_fault(
            Some(about),
            format!(
                "evidence layouts: expected at most {over} on {about}, found more; remove those nobody needs"
            ),
        );
    }
}

impl Piece {
    fn is_of(&self, form: &Form) -> bool {
        match (&self.evidence, form) {
            (Evidence::Simple(_), Form::SignatureTag) | (Evidence::Attached(_), Form::AttestationTag) => true,
            (Evidence::Bundle(_), Form::Referrers(types)) => {
                self.predicate_type.as_ref().is_none_or(|found| types.contains(found))
            }
            _ => false,
        }
    }

    /// Whether it counts against the same limit: what nobody asks for hides nothing.
    fn is_like(&self, other: &Piece) -> bool {
        std::mem::discriminant(&self.evidence) == std::mem::discriminant(&other.evidence)
            && self.predicate_type == other.predicate_type
    }
}
