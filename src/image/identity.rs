//! The walk of bytes that ties an image ID to a digest.

use std::collections::VecDeque;

use super::manifest::{Descriptor, Document, DocumentError, INDEX_TYPES, ImageConfig, Index, Manifest};
use super::{Digest, ImageId, IndexDigest, ManifestDigest, Platform};
use crate::limits;

/// Proof that an image belongs to a root digest: every step from the root to the config was a document whose
/// bytes hash to the digest the step before named. Only a [`Walk`] makes one; [`crate::proofs`] gives back what one made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tie {
    index: Option<IndexDigest>,
    manifest: ManifestDigest,
    id: ImageId,
    chain_id: Digest,
}

impl Tie {
    /// A tie that a walk of an earlier process came to. Whoever kept it answers for nothing having changed since.
    pub(crate) fn kept(
        index: Option<IndexDigest>,
        manifest: ManifestDigest,
        id: ImageId,
        chain_id: Digest,
    ) -> Tie {
        Tie { index, manifest, id, chain_id }
    }

    /// The digest the walk began at: the index where there is one, else the manifest.
    pub fn root(&self) -> Digest {
        self.index.map_or(self.manifest.0, |index| index.0)
    }

    /// The index, where the root is one.
    pub fn index(&self) -> Option<IndexDigest> {
        self.index
    }

    /// The platform's manifest.
    pub fn manifest(&self) -> ManifestDigest {
        self.manifest
    }

    /// The image ID: the digest of the config.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// The chain ID of the config's layers: the snapshot a container of this image has to stand on.
    pub fn chain_id(&self) -> Digest {
        self.chain_id
    }

    /// Every digest a signature on this image may be about: the root and the platform's manifest. `cosign sign` signs
    /// the digest it is given, usually the index.
    pub fn digests(&self) -> Vec<Digest> {
        self.index.map(|index| index.0).into_iter().chain([self.manifest.0]).collect()
    }
}

/// Which of an index's images is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The image with this ID. Entries for `host`'s platform are tried first.
    Id {
        /// The ID to be tied to the root.
        id: ImageId,
        /// The node's platform.
        host: Platform,
    },
    /// What containerd would choose on this platform: the best match. Where several entries are equally good, all of
    /// them are tied, in the index's order (containerd takes the first).
    Platform(Platform),
}

/// What a [`Walk`] needs next, or what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch this content and [`Walk::give`] it.
    Need(Need),
    /// The ties found; exactly one for [`Target::Id`], at least one for [`Target::Platform`], none only after an error.
    Done(Vec<Tie>),
}

/// Content a walk needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// What the bytes have to hash to.
    pub digest: Digest,
    /// What they are, which says where a registry keeps them.
    pub what: Content,
    /// Most bytes that may be read for it.
    pub cap: usize,
}

/// Where content lives in a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// `/manifests/`: an index or a manifest.
    Manifest,
    /// `/blobs/`: an image config.
    Config,
}

/// Why a walk came to no tie. All of them leave the image undecided: a broken or hostile source proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// The bytes are not those that were asked for.
    #[error("expected content {expected}, found bytes that hash to {found}; check the registry or mirror")]
    Hash {
        /// The digest that was needed.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// A document could not be read.
    #[error("{digest}: {error}")]
    Document {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        error: DocumentError,
    },
    /// A descriptor's size is not that of the content.
    #[error("expected {digest} to be of {expected} bytes, found {found}; build and push the image anew")]
    Size {
        /// The content.
        digest: Digest,
        /// The size in the descriptor.
        expected: u64,
        /// The size of the bytes.
        found: u64,
    },
    /// Layers and diff IDs do not go together, so the ID would not bind the file system.
    #[error(
        "expected as many diff_ids as layers in {manifest}, found {diff_ids} for {layers}; build and push the image anew"
    )]
    Layers {
        /// The manifest.
        manifest: Digest,
        /// How many layers it has.
        layers: usize,
        /// How many diff IDs the config has.
        diff_ids: usize,
    },
    /// The ID is not in what the root names.
    #[error(
        "expected image ID {id} under {root}, found it in none of {tried} manifests; pull the image by its name again"
    )]
    NoSuchId {
        /// The ID that was looked for.
        id: ImageId,
        /// Where.
        root: Digest,
        /// How many manifests were read.
        tried: usize,
    },
    /// Nothing for the platform.
    #[error("expected an image for {platform} under {root}, found none; build the image for this platform")]
    NoSuchPlatform {
        /// The node's platform.
        platform: Platform,
        /// Where.
        root: Digest,
    },
    /// An index inside an index.
    #[error("expected a manifest at {digest}, found an index within the index {root}; push a flat index")]
    Nested {
        /// The inner index.
        digest: Digest,
        /// The outer one.
        root: Digest,
    },
    /// More entries would have to be read than [`limits::WALK_CHILDREN`].
    #[error(
        "expected at most {} manifests to look through under {root} (limit WALK_CHILDREN), found {found}; push a smaller index",
        limits::WALK_CHILDREN
    )]
    Children {
        /// The index.
        root: Digest,
        /// How many entries come into question.
        found: usize,
    },
    /// Bytes were given that nobody asked for.
    #[error("expected no more content under {root}: the walk is over")]
    Over {
        /// The root.
        root: Digest,
    },
}

/// The walk from a root digest to image configs, without I/O: ask [`Walk::next`] what is needed, fetch it from
/// anywhere, [`Walk::give`] it. Where the bytes come from does not matter: each is hashed.
#[derive(Debug)]
pub struct Walk {
    root: Digest,
    target: Target,
    index: Option<IndexDigest>,
    at: At,
    /// Entries of the index still to be read, best first.
    entries: VecDeque<Descriptor>,
    tried: usize,
    ties: Vec<Tie>,
}

#[derive(Debug)]
enum At {
    Root,
    Entry(Descriptor),
    Config { manifest: ManifestDigest, platform_is_known: bool, config: Descriptor, layers: usize },
    Done,
}

impl Walk {
    /// A walk from `root`, the digest of an index or manifest.
    pub fn new(root: Digest, target: Target) -> Self {
        let entries = VecDeque::new();
        Self { root, target, index: None, at: At::Root, entries, tried: 0, ties: Vec::new() }
    }

    /// What is needed next, or the outcome.
    pub fn next(&self) -> Step {
        let (digest, what, cap) = match &self.at {
            At::Root => (self.root, Content::Manifest, limits::MANIFEST_BYTES),
            At::Entry(entry) => (entry.digest, Content::Manifest, limits::MANIFEST_BYTES),
            At::Config { config, .. } => (config.digest, Content::Config, limits::CONFIG_BYTES),
            At::Done => return Step::Done(self.ties.clone()),
        };
        Step::Need(Need { digest, what, cap })
    }

    /// Takes the content that was needed. Bytes with another hash change nothing, so that they can be fetched again
    /// elsewhere; after any other error the walk is over and has no ties.
    pub fn give(&mut self, bytes: &[u8]) -> Result<(), WalkError> {
        self.take(bytes).inspect_err(|_| self.ties.clear())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), WalkError> {
        let Step::Need(need) = self.next() else { return Err(WalkError::Over { root: self.root }) };
        let found = Digest::of(bytes);
        if found != need.digest {
            return Err(WalkError::Hash { expected: need.digest, found });
        }
        match std::mem::replace(&mut self.at, At::Done) {
            At::Root => match parse(need.digest, bytes)? {
                Document::Index(index) => {
                    self.index = Some(IndexDigest(self.root));
                    self.entries = self.choose(index)?;
                    self.next_entry()
                }
                Document::Manifest(manifest) => self.enter(ManifestDigest(self.root), manifest, true),
            },
            At::Entry(entry) => {
                hold_size(&entry, bytes)?;
                match parse(need.digest, bytes)? {
                    Document::Index(_) => Err(WalkError::Nested { digest: need.digest, root: self.root }),
                    Document::Manifest(manifest) => {
                        self.enter(ManifestDigest(entry.digest), manifest, entry.platform.is_some())
                    }
                }
            }
            At::Config { manifest, platform_is_known, config, layers } => {
                hold_size(&config, bytes)?;
                self.take_config(manifest, platform_is_known, layers, need.digest, bytes)
            }
            At::Done => Err(WalkError::Over { root: self.root }),
        }
    }

    /// The entries of `index` worth reading, best first.
    fn choose(&self, index: Index) -> Result<VecDeque<Descriptor>, WalkError> {
        let host = match &self.target {
            Target::Id { host, .. } | Target::Platform(host) => host,
        };
        let rank = |entry: &Descriptor| entry.platform.as_ref().map(|platform| host.rank(platform));
        let mut entries = index.manifests;
        match &self.target {
            // The node's platform, then entries that name none, then the others: a node can run a foreign image that
            // was imported.
            Target::Id { .. } => {
                entries.sort_by_key(|entry| match rank(entry) {
                    Some(Some(rank)) => (0, rank),
                    None => (1, 0),
                    Some(None) => (2, 0),
                });
            }
            Target::Platform(platform) => {
                let best = entries.iter().filter_map(|entry| rank(entry).flatten()).min();
                entries.retain(|entry| match best {
                    Some(best) => rank(entry).flatten() == Some(best),
                    // containerd looks into the config of entries that name no platform, after all others.
                    None => entry.platform.is_none(),
                });
                if entries.is_empty() {
                    return Err(WalkError::NoSuchPlatform { platform: platform.clone(), root: self.root });
                }
                if entries.len() > limits::WALK_CHILDREN {
                    return Err(WalkError::Children { root: self.root, found: entries.len() });
                }
            }
        }
        // The same manifest may be listed twice; it is read once.
        let mut seen = std::collections::BTreeSet::new();
        entries.retain(|entry| seen.insert(entry.digest));
        Ok(entries.into())
    }

    fn next_entry(&mut self) -> Result<(), WalkError> {
        let over = matches!(self.target, Target::Id { .. }) && !self.ties.is_empty();
        let Some(entry) = self.entries.pop_front().filter(|_| !over) else {
            return if self.ties.is_empty() { Err(self.nothing()) } else { Ok(()) };
        };
        if INDEX_TYPES.contains(&entry.media_type.as_str()) {
            return Err(WalkError::Nested { digest: entry.digest, root: self.root });
        }
        if self.tried == limits::WALK_CHILDREN {
            let found = self.tried + self.entries.len() + 1;
            return Err(WalkError::Children { root: self.root, found });
        }
        self.tried += 1;
        self.at = At::Entry(entry);
        Ok(())
    }

    /// Goes on from a manifest to its config, or past it.
    fn enter(&mut self, digest: ManifestDigest, manifest: Manifest, known: bool) -> Result<(), WalkError> {
        if let Target::Id { id, .. } = &self.target
            && manifest.config.digest != id.0
        {
            self.tried = self.tried.max(1);
            return self.next_entry();
        }
        let layers = manifest.layers.len();
        self.at = At::Config { manifest: digest, platform_is_known: known, config: manifest.config, layers };
        Ok(())
    }

    fn take_config(
        &mut self,
        manifest: ManifestDigest,
        platform_is_known: bool,
        layers: usize,
        id: Digest,
        bytes: &[u8],
    ) -> Result<(), WalkError> {
        let config = ImageConfig::parse(bytes).map_err(|error| WalkError::Document { digest: id, error })?;
        let diff_ids = config.diff_ids().len();
        if diff_ids != layers {
            return Err(WalkError::Layers { manifest: manifest.0, layers, diff_ids });
        }
        let fits = match &self.target {
            Target::Id { .. } => true,
            Target::Platform(host) => platform_is_known || host.rank(config.platform()).is_some(),
        };
        if fits {
            let chain_id = config.chain_id();
            self.ties.push(Tie { index: self.index, manifest, id: ImageId(id), chain_id });
        }
        self.next_entry()
    }

    fn nothing(&self) -> WalkError {
        match &self.target {
            Target::Id { id, .. } => WalkError::NoSuchId { id: *id, root: self.root, tried: self.tried },
            Target::Platform(platform) => {
                WalkError::NoSuchPlatform { platform: platform.clone(), root: self.root }
            }
        }
    }
}

fn parse(digest: Digest, bytes: &[u8]) -> Result<Document, WalkError> {
    Document::parse(bytes).map_err(|error| WalkError::Document { digest, error })
}

/// The size is part of what a descriptor says; content of another size is refused by the runtimes too.
fn hold_size(descriptor: &Descriptor, bytes: &[u8]) -> Result<(), WalkError> {
    let found = bytes.len() as u64;
    if found == descriptor.size {
        return Ok(());
    }
    Err(WalkError::Size { digest: descriptor.digest, expected: descriptor.size, found })
}

#[cfg(test)]
mod tests;
