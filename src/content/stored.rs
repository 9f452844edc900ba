//! The images of CRI-O, which has no services to ask: its store's files. Blocks.
//!
//! An archive is put together again from what the store wrote down of it and from the files of the layer's folder. If it hashes to
//! the config's diff ID, these files' data are the layer's, and so is all that the archive says of names, modes and owners: the folder
//! is held to that. Nothing keeps CRI-O from removing what is looked at; so what differs counts only if it is still there afterwards.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::time::Instant;

use super::layer::{compare, outcome};
use super::unpacked::Unpacked as Folder;
use super::{Image, Layer, Outcome, Unpacked};
use crate::cri::storage::{Storage, StorageError, StoredImage, StoredLayer, stack};
use crate::image::layer::{Attributes, Rebuilt, rebuild};
use crate::image::manifest::{ImageConfig, chain_id};
use crate::image::{Digest, quoted};
use crate::limits;

/// The driver whose folders are read.
const OVERLAY: &str = "overlay";

/// A check of a store under way. Layers that several images have are read once.
pub struct StoreChecker {
    storage: Storage,
    done: HashMap<(String, Digest), Done>,
}

/// What came of a layer.
#[derive(Clone)]
struct Done {
    unpacked: Unpacked,
    bytes: u64,
    /// The folder itself, which the layer above has for its own; `None`: it is not known.
    root: Option<Attributes>,
    /// When comparing it began.
    began: Instant,
}

impl StoreChecker {
    /// Begins a check.
    pub fn new(storage: Storage) -> StoreChecker {
        StoreChecker { storage, done: HashMap::new() }
    }

    /// How many different layers were looked at.
    pub fn layers(&self) -> usize {
        self.done.len()
    }

    /// All images of the store, in the order of their IDs.
    ///
    /// # Errors
    /// It cannot be read; one line.
    pub fn images(&self) -> Result<Vec<StoredImage>, String> {
        let mut images = self.storage.images().map_err(|error| error.to_string())?;
        images.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(images)
    }

    /// Checks an image; `None`: it is gone since.
    pub fn image(&mut self, stored: &StoredImage) -> Option<Image> {
        let mut names = stored.names.clone();
        names.sort_by_key(|name| (name.contains('@'), name.clone()));
        let (documents, layers) = match self.documents(stored) {
            Ok(config) => match self.layers_of(stored, config.diff_ids()) {
                Ok(layers) => (Outcome::Whole, layers),
                Err(why) => (Outcome::Unchecked(why), Vec::new()),
            },
            Err(outcome) => (outcome, Vec::new()),
        };
        let image = Image { names, id: format!("sha256:{}", stored.id), documents, layers };
        // Else what was removed meanwhile would be told of as altered or unchecked.
        let is_there = || self.storage.images().map_or(true, |all| all.iter().any(|one| one.id == stored.id));
        (image.outcome() == Outcome::Whole || is_there()).then_some(image)
    }

    /// Holds the image's documents to their digests.
    fn documents(&self, image: &StoredImage) -> Result<ImageConfig, Outcome> {
        for manifest in image.manifests() {
            self.document(image, &format!("manifest-{manifest}"), manifest, limits::MANIFEST_BYTES)?;
        }
        let id = Digest::parse(&format!("sha256:{}", image.id))
            .map_err(|error| Outcome::Unchecked(error.to_string()))?;
        let config = self.document(image, &id.to_string(), id, limits::CONFIG_BYTES)?;
        let config = config.ok_or_else(|| {
            Outcome::Unchecked(
                "its ID is not that of a config in the store: it was pulled in part".to_owned(),
            )
        })?;
        ImageConfig::parse(&config).map_err(|error| Outcome::Unchecked(error.to_string()))
    }

    fn document(
        &self,
        image: &StoredImage,
        key: &str,
        digest: Digest,
        cap: usize,
    ) -> Result<Option<Vec<u8>>, Outcome> {
        match self.storage.document_of(image, key, cap) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) if Digest::of(&bytes) == digest => Ok(Some(bytes)),
            Ok(Some(bytes)) => Err(Outcome::Altered(format!(
                "expected a document that hashes to {digest}, found {}",
                Digest::of(&bytes)
            ))),
            Err(error) => Err(Outcome::Unchecked(error.to_string())),
        }
    }

    fn layers_of(&mut self, image: &StoredImage, diff_ids: &[Digest]) -> Result<Vec<Layer>, String> {
        if self.storage.driver() != OVERLAY {
            let driver = quoted(self.storage.driver());
            return Err(format!(
                "its layers are those of the storage driver {driver}: crivet reads {OVERLAY} only"
            ));
        }
        let layers = self.storage.layers().map_err(|error| error.to_string())?;
        let stack = stack(&layers, &image.layer);
        if stack.first().is_some_and(|lowest| !lowest.parent.is_empty()) {
            return Err("a layer of it is not in CRI-O's own store (additionalimagestores in storage.conf?)"
                .to_owned());
        }
        if stack.len() != diff_ids.len() {
            return Err(format!(
                "expected as many layers in the store as its config has, found {} and {}",
                stack.len(),
                diff_ids.len()
            ));
        }
        let (mut found, mut below) = (Vec::with_capacity(stack.len()), None);
        for (at, (layer, diff_id)) in stack.into_iter().zip(diff_ids).enumerate() {
            let key = (layer.id.clone(), *diff_id);
            let done = match self.done.get(&key) {
                Some(done) => done.clone(),
                None => {
                    let done = self.layer(layer, diff_id, below.take(), at == 0);
                    self.done.insert(key, done.clone());
                    done
                }
            };
            let Done { unpacked, bytes, root, began } = done;
            let chain_id = diff_ids.get(..=at).and_then(chain_id).unwrap_or(*diff_id);
            found.push(Layer {
                digest: *diff_id,
                chain_id,
                blob: None,
                unpacked: vec![unpacked],
                bytes,
                began,
            });
            below = root;
        }
        if let (true, Some(top)) = (image.mapped, found.last_mut()) {
            top.unpacked.push(Unpacked {
                snapshotter: format!("{OVERLAY}, with other owners"),
                created: String::new(),
                outcome: Outcome::Unchecked("it has a copy with other owners, for pods in user namespaces, which crivet does not read".to_owned()),
            });
        }
        Ok(found)
    }

    fn layer(&self, layer: &StoredLayer, diff_id: &Digest, below: Option<Attributes>, lowest: bool) -> Done {
        let began = Instant::now();
        let (outcome, bytes, root) = match self.compared(layer, diff_id, below, lowest) {
            Ok((outcome, bytes, root)) => (outcome, bytes, root),
            Err(why) => (Outcome::Unchecked(why), 0, None),
        };
        let outcome = match outcome {
            Outcome::Altered(text) => match self.is_still(layer) {
                Ok(true) => Outcome::Altered(text),
                Ok(false) => Outcome::Unchecked("CRI-O removed it while it was read".to_owned()),
                Err(error) => Outcome::Unchecked(format!(
                    "it seems altered ({text}), and whether CRI-O removed it while it was read cannot be known: {error}"
                )),
            },
            outcome => outcome,
        };
        let snapshotter = self.storage.name_of(&layer.id);
        Done {
            unpacked: Unpacked { snapshotter, created: layer.created.clone(), outcome },
            bytes,
            root,
            began,
        }
    }

    /// The layer as it was when the check of it began. The store marks one as incomplete before it removes anything of it.
    fn is_still(&self, layer: &StoredLayer) -> Result<bool, StorageError> {
        Ok(self.storage.layers()?.get(&layer.id) == Some(layer))
    }

    /// What came of it, the bytes read, and the folder itself.
    fn compared(
        &self,
        layer: &StoredLayer,
        diff_id: &Digest,
        below: Option<Attributes>,
        lowest: bool,
    ) -> Result<(Outcome, u64, Option<Attributes>), String> {
        let cannot = |what: &str| format!("{what}: what is in it cannot be held to the image's config");
        if layer.incomplete {
            return Err("CRI-O is unpacking or removing it".to_owned());
        }
        if layer.partial || self.storage.composefs(&layer.id).exists() {
            return Err(cannot("it was pulled in part (zstd:chunked), or for composefs"));
        }
        if layer.mapped {
            return Err("its files have other owners than the layer says (uidmap)".to_owned());
        }
        let unreadable = |error: io::Error| format!("its folder cannot be read: {error}");
        let folder = Folder::open(&self.storage.unpacked(&layer.id)).map_err(unreadable)?;
        if folder.has_forced_modes().map_err(unreadable)? {
            return Err(
                "its files have other modes than the layer says (force_mask in storage.conf)".to_owned()
            );
        }
        let split = self.storage.tar_split(&layer.id);
        let split = File::open(&split).map_err(|error| {
            cannot(&format!(
                "{}, which CRI-O writes for each layer that it unpacks, cannot be read: {error}",
                split.display()
            ))
        })?;
        let rebuilt = rebuild(split, &folder).map_err(|error| error.to_string())?;
        let Rebuilt { diff_id: found, mut tree, differences, bytes } = rebuilt;
        if found != *diff_id {
            let outcome = match differences.is_same() {
                false => outcome(&differences),
                true => Outcome::Altered(format!(
                    "expected files and headers that make an archive with diff ID {diff_id}, found {found}"
                )),
            };
            return Ok((outcome, bytes, None));
        }
        if let Some(said) = layer.diff_id.filter(|said| said != diff_id) {
            let text = format!("expected diff ID {diff_id} in the store's list of layers, found {said}");
            return Ok((Outcome::Altered(text), bytes, None));
        }
        match below {
            Some(below) => tree.stand_on(&below),
            None if lowest => {}
            // That of the layer below is not known: this one's own is as good as any.
            None => tree.stand_on(&folder.root().map_err(unreadable)?),
        }
        let root = tree.root();
        let (differences, read) = compare(&folder, tree).map_err(unreadable)?;
        Ok((outcome(&differences), bytes + read, root))
    }
}
