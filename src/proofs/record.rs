//! Records of the store: how they are written, and how it is told that not a bit of one has changed.
//!
//! A record stands behind a SHA-256 over itself, its key and its table's name. Evidence is verified anew at each
//! decision; a tie is not, so one that is not the one that was written must never be read back.

use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::known::{Found, Place, Walked};
use super::moment::Stamp;
use crate::image::{Digest, ImageId, IndexDigest, ManifestDigest, Tie};
use crate::verify::{Annotations, Attached, Evidence, SimpleSigning};

#[allow(missing_docs, unused_qualifications, clippy::all)]
mod wire {
    tonic::include_proto!("crivet.proofs");
}

/// Raised where an older crivet could not read rightly what this one writes.
pub(super) const FORMAT: u32 = 1;

/// The tables, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    About,
    Ties,
    Evidence,
}

impl Table {
    pub const fn name(self) -> &'static str {
        match self {
            Table::About => "about",
            Table::Ties => "ties",
            Table::Evidence => "evidence",
        }
    }
}

const DIGEST: usize = 32;
/// Counted for each piece of evidence beside its bytes, so that many small ones are bounded too.
const EACH: usize = 256;

/// The bytes that evidence holds in memory, roughly.
pub(super) fn size(evidence: &[Evidence]) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let notes = |notes: &Annotations| {
        text(&notes.certificate) + text(&notes.chain) + text(&notes.bundle) + text(&notes.rfc3161timestamp)
    };
    let one = |one: &Evidence| match one {
        Evidence::Simple(simple) => {
            simple.payload.len() + simple.signature.len() + notes(&simple.annotations)
        }
        Evidence::Attached(attached) => attached.envelope.len() + notes(&attached.annotations),
        Evidence::Bundle(bundle) => bundle.len(),
    };
    evidence.iter().map(|each| one(each) + EACH).sum()
}

fn digest_over(table: Table, key: &[u8], body: &[u8]) -> [u8; DIGEST] {
    let mut hash = Sha256::new();
    hash.update(b"crivet proofs\0");
    hash.update(table.name());
    hash.update(b"\0");
    hash.update((key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(body);
    hash.finalize().into()
}

fn seal(table: Table, key: &[u8], message: &impl Message) -> Vec<u8> {
    let mut record = vec![0; DIGEST];
    // Encoding into a Vec cannot fail.
    let _ = message.encode(&mut record);
    let seal = digest_over(table, key, record.get(DIGEST..).unwrap_or_default());
    if let Some(head) = record.get_mut(..DIGEST) {
        head.copy_from_slice(&seal);
    }
    record
}

/// What a record says; `None`: it is not what was written.
fn unseal<M: Message + Default>(table: Table, key: &[u8], record: &[u8]) -> Option<M> {
    let (seal, body) = record.split_at_checked(DIGEST)?;
    if *seal != digest_over(table, key, body) {
        return None;
    }
    // One buffer, which the evidence in it then shares.
    M::decode(Bytes::copy_from_slice(body)).ok()
}

/// The one key of [`Table::About`].
pub(super) const ABOUT: &[u8] = b"about";

pub(super) fn about(highest: u64) -> Vec<u8> {
    seal(Table::About, ABOUT, &wire::About { format: FORMAT, highest })
}

/// Format and highest time of a store.
pub(super) fn read_about(record: &[u8]) -> Option<(u32, u64)> {
    let about: wire::About = unseal(Table::About, ABOUT, record)?;
    Some((about.format, about.highest))
}

pub(super) fn ties(root: &Digest, walked: &Walked) -> Vec<u8> {
    let raw = |digest: &Digest| Bytes::copy_from_slice(digest.raw());
    let ties = walked.ties.iter().map(|tie| wire::Tie {
        index: tie.index().map(|index| raw(&index.0)),
        manifest: raw(&tie.manifest().0),
        id: raw(&tie.id().0),
        chain_id: raw(&tie.chain_id()),
    });
    let message = wire::Walked { ties: ties.collect(), walked: walked.walked };
    seal(Table::Ties, root.raw(), &message)
}

pub(super) fn read_ties(key: &[u8], record: &[u8]) -> Option<(Digest, Walked)> {
    let root = raw(key)?;
    let message: wire::Walked = unseal(Table::Ties, key, record)?;
    let ties: Vec<Tie> = message.ties.iter().map(read_tie).collect::<Option<_>>()?;
    let belong = !ties.is_empty() && ties.iter().all(|tie| tie.root() == root);
    belong.then_some((root, Walked { ties, walked: message.walked }))
}

fn read_tie(tie: &wire::Tie) -> Option<Tie> {
    let index = match &tie.index {
        Some(index) => Some(IndexDigest(raw(index)?)),
        None => None,
    };
    Some(Tie::kept(index, ManifestDigest(raw(&tie.manifest)?), ImageId(raw(&tie.id)?), raw(&tie.chain_id)?))
}

fn raw(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok().map(Digest::from_raw)
}

pub(super) fn evidence_key((digest, repository): &Place) -> Vec<u8> {
    [digest.raw(), repository.as_bytes()].concat()
}

pub(super) fn evidence(key: &[u8], found: &Found) -> Vec<u8> {
    let evidence = found.evidence.iter().map(|one| wire::Evidence { kind: Some(kind(one)) }).collect();
    let message = wire::Found { evidence, fetched: found.fetched.wall, complete: found.complete };
    seal(Table::Evidence, key, &message)
}

fn kind(evidence: &Evidence) -> wire::evidence::Kind {
    match evidence {
        Evidence::Simple(simple) => wire::evidence::Kind::Simple(wire::SimpleSigning {
            payload: Bytes::copy_from_slice(&simple.payload),
            signature: simple.signature.clone(),
            annotations: Some(annotations(&simple.annotations)),
        }),
        Evidence::Attached(attached) => wire::evidence::Kind::Attached(wire::Attached {
            envelope: attached.envelope.clone(),
            annotations: Some(annotations(&attached.annotations)),
        }),
        Evidence::Bundle(bundle) => wire::evidence::Kind::Bundle(bundle.clone()),
    }
}

fn annotations(notes: &Annotations) -> wire::Annotations {
    wire::Annotations {
        certificate: notes.certificate.clone(),
        chain: notes.chain.clone(),
        bundle: notes.bundle.clone(),
        rfc3161timestamp: notes.rfc3161timestamp.clone(),
    }
}

pub(super) fn read_evidence(key: &[u8], record: &[u8]) -> Option<(Place, Found)> {
    let (digest, repository) = key.split_at_checked(DIGEST)?;
    let repository = std::str::from_utf8(repository).ok().filter(|name| !name.is_empty())?;
    let message: wire::Found = unseal(Table::Evidence, key, record)?;
    let all = message.evidence.len();
    let evidence: Arc<[Evidence]> = message.evidence.into_iter().filter_map(read_kind).collect();
    let found = Found {
        // Of a kind that a newer crivet knows: then there is more than this one has.
        complete: message.complete && evidence.len() == all,
        evidence,
        fetched: Stamp { clock: None, wall: message.fetched },
    };
    Some(((raw(digest)?, repository.to_owned()), found))
}

fn read_kind(evidence: wire::Evidence) -> Option<Evidence> {
    Some(match evidence.kind? {
        wire::evidence::Kind::Simple(simple) => Evidence::Simple(SimpleSigning {
            payload: simple.payload.to_vec(),
            signature: simple.signature,
            annotations: read_annotations(simple.annotations),
        }),
        wire::evidence::Kind::Attached(attached) => Evidence::Attached(Attached {
            envelope: attached.envelope,
            annotations: read_annotations(attached.annotations),
        }),
        wire::evidence::Kind::Bundle(bundle) => Evidence::Bundle(bundle),
    })
}

fn read_annotations(notes: Option<wire::Annotations>) -> Annotations {
    let notes = notes.unwrap_or_default();
    Annotations {
        certificate: notes.certificate,
        chain: notes.chain,
        bundle: notes.bundle,
        rfc3161timestamp: notes.rfc3161timestamp,
    }
}
