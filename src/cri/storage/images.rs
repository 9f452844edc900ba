//! What a store has of images and their layers.

use std::collections::HashMap;
use std::path::PathBuf;

use super::{Image, Layer, Storage, StorageError, file_name, read};
use crate::image::Digest;
use crate::image::manifest::chain_id;
use crate::limits;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// 64 hex digits.
    pub id: String,
    /// Its tags and digests.
    pub names: Vec<String>,
    /// The ID of its topmost layer; empty: it has none.
    pub layer: String,
    /// Whether there is a copy of that layer with other owners, for pods in user namespaces.
    pub mapped: bool,
    /// The documents that there are of it.
    keys: Vec<String>,
}

impl StoredImage {
    /// The digests of its manifests, as the store names them.
    pub fn manifests(&self) -> impl Iterator<Item = Digest> {
        self.keys.iter().filter_map(|key| Digest::parse(key.strip_prefix("manifest-")?).ok())
    }
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLayer {
    /// 64 hex digits.
    pub id: String,
    /// The ID of the one below it; empty: it is the lowest.
    pub parent: String,
    /// When the store made it: tells it from one of the same ID that is made later.
    pub created: String,
    /// What its archive hashed to when it was unpacked, by the store's word.
    pub diff_id: Option<Digest>,
    /// It was pulled in part.
    pub partial: bool,
    /// It is unpacked or removed at this moment.
    pub incomplete: bool,
    /// Its files have other owners than the layer says.
    pub mapped: bool,
}

/// A layer of a stack, as those name it that keep what a check said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stacked {
    /// What checks call its folder; see [`Storage::name_of`].
    pub name: String,
    /// The chain ID of it and all below it, by the store's word for each; so the topmost one's bounds all of them.
    pub chain_id: Digest,
    /// The layer.
    pub layer: StoredLayer,
}

/// The store's layers, by ID.
pub type StoredLayers = HashMap<String, StoredLayer>;

impl Storage {
    /// The driver that unpacked the layers.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// What a layer's folder is called: driver and ID.
    pub fn name_of(&self, layer: &str) -> String {
        format!("{}/{layer}", self.driver)
    }

    /// The folder that a layer was unpacked into by the overlay driver.
    pub fn unpacked(&self, layer: &str) -> PathBuf {
        self.root.join(self.name_of(layer)).join("diff")
    }

    /// Where the overlay driver has a layer's tree where `diff` is a heap of files without names (composefs).
    pub fn composefs(&self, layer: &str) -> PathBuf {
        self.root.join(self.name_of(layer)).join("composefs-data")
    }

    /// The file with what was written down of a layer's archive.
    pub fn tar_split(&self, layer: &str) -> PathBuf {
        self.folder("layers").join(format!("{layer}.tar-split.gz"))
    }

    /// All images of this store.
    ///
    /// # Errors
    /// The store's list cannot be read.
    pub fn images(&self) -> Result<Vec<StoredImage>, StorageError> {
        let images: Vec<Image> = self.list("images", "images.json")?;
        let images = images.into_iter().filter(|image| is_id(&image.id)).map(|image| StoredImage {
            mapped: image.mapped_layers.is_some_and(|layers| !layers.is_empty()),
            id: image.id,
            names: image.names.unwrap_or_default(),
            layer: image.layer.unwrap_or_default(),
            keys: image.big_data_names,
        });
        Ok(images.collect())
    }

    /// All layers of this store, those of containers among them.
    ///
    /// # Errors
    /// One of the store's lists cannot be read.
    pub fn layers(&self) -> Result<StoredLayers, StorageError> {
        let layers = self.all_layers()?.into_values().filter(|layer| is_id(&layer.id)).map(|layer| {
            let mapped = [layer.uidmap, layer.gidmap].into_iter().flatten().any(|map| !map.is_empty());
            let diff_id = layer.diff_digest.and_then(|digest| Digest::parse(&digest).ok());
            let stored = StoredLayer {
                id: layer.id,
                parent: layer.parent,
                created: layer.created.unwrap_or_default(),
                diff_id,
                partial: layer.toc_digest.is_some(),
                incomplete: layer.flags.and_then(|flags| flags.incomplete).unwrap_or_default(),
                mapped,
            };
            (stored.id.clone(), stored)
        });
        Ok(layers.collect())
    }

    /// A document of this image, unverified: whoever asks must hash it. `None`: the store has none of this name.
    ///
    /// # Errors
    /// It cannot be read, or is larger than `cap` bytes.
    pub fn document_of(
        &self,
        image: &StoredImage,
        key: &str,
        cap: usize,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        if !image.keys.iter().any(|known| known == key) {
            return Ok(None);
        }
        let path = self.folder("images").join(&image.id).join(file_name(key));
        read(&path, cap, "the caller's cap").map(Some)
    }

    /// The layers that a container would stand on which the store makes of layers with this chain ID: those of every stack that has it.
    ///
    /// # Errors
    /// One of the store's lists cannot be read.
    pub fn stacks(&self, chain: &str) -> Result<Vec<Stacked>, StorageError> {
        let layers = self.layers()?;
        let mut chains: HashMap<&str, Option<Digest>> = HashMap::new();
        let mut found = Vec::new();
        for top in layers.values() {
            let stack = stack(&layers, &top.id);
            for layer in &stack {
                if !chains.contains_key(layer.id.as_str()) {
                    let below = chains.get(layer.parent.as_str()).copied().flatten();
                    let chained = match (layer.parent.is_empty(), below, layer.diff_id) {
                        (true, _, diff_id) => diff_id,
                        (false, Some(below), Some(diff_id)) => chain_id(&[below, diff_id]),
                        _ => None,
                    };
                    chains.insert(&layer.id, chained);
                }
            }
            if chains.get(top.id.as_str()).copied().flatten().is_some_and(|found| found.to_string() == chain)
            {
                let chained = |layer: &StoredLayer| chains.get(layer.id.as_str()).copied().flatten();
                found.extend(stack.into_iter().filter_map(|layer| {
                    let name = self.name_of(&layer.id);
                    Some(Stacked { name, chain_id: chained(layer)?, layer: layer.clone() })
                }));
            }
        }
        Ok(found)
    }
}

/// A layer and those below it, lowest first; what is missing is left out, and of layers that lead back to themselves there are as many
/// as [`limits::LAYERS`].
pub fn stack<'a>(layers: &'a StoredLayers, top: &str) -> Vec<&'a StoredLayer> {
    let below = |layer: &&'a StoredLayer| layers.get(&layer.parent);
    let mut stack: Vec<_> = std::iter::successors(layers.get(top), below).take(limits::LAYERS + 1).collect();
    stack.reverse();
    stack
}

impl Storage {
    /// The records of all layers, by ID.
    pub(super) fn all_layers(&self) -> Result<HashMap<String, Layer>, StorageError> {
        let mut layers = HashMap::new();
        for name in ["layers.json", "volatile-layers.json"] {
            let some: Vec<Layer> = self.list("layers", name)?;
            layers.extend(some.into_iter().map(|layer| (layer.id.clone(), layer)));
        }
        Ok(layers)
    }
}

/// Names of files are made of it.
fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    const DIFF: [&str; 3] = [
        "sha256:ec0cd499de53c6ea468c8c9c886f11ab0fa354af68960105f86e5bd7a52c55f6",
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        "sha256:46f042ed887d4beb7c676b2d17ce14435b0fe7e649acffebb497ff62f471ead8",
    ];

    fn id(n: usize) -> String {
        format!("{n:064x}")
    }

    fn chain(diff_ids: &[&str]) -> String {
        let diff_ids: Vec<_> = diff_ids.iter().map(|id| Digest::parse(id).unwrap()).collect();
        chain_id(&diff_ids).unwrap().to_string()
    }

    fn store(layers: &Value, images: &Value) -> (tempfile::TempDir, Storage) {
        let root = tempfile::tempdir().unwrap();
        for (name, list) in [("overlay-layers/layers.json", layers), ("overlay-images/images.json", images)] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, list.to_string()).unwrap();
        }
        let storage = Storage::of_images(&root.path().join("overlay-images")).unwrap();
        (root, storage)
    }

    fn layers() -> Value {
        json!([
            {"id": id(3), "parent": id(1), "diff-digest": DIFF[2], "created": "then"},
            {"id": id(2), "parent": id(1), "diff-digest": DIFF[1], "created": "then", "flags": {"incomplete": true}},
            {"id": id(1), "diff-digest": DIFF[0], "created": "2026-11-22T15:05:57Z", "uidmap": null, "flags": null},
            // With other owners: of the same chain.
            {"id": id(4), "parent": id(1), "diff-digest": DIFF[1], "created": "then", "uidmap": [{"size": 1}]},
            {"id": id(5), "parent": id(9), "diff-digest": DIFF[1]},
            {"id": id(6), "parent": id(1), "toc-digest": DIFF[1]},
            {"id": id(7), "parent": id(7), "diff-digest": DIFF[0]},
        ])
    }

    #[test]
    fn stacks_of_a_chain_are_all_that_have_it() {
        let (_root, storage) = store(&layers(), &json!([]));
        let ids = |diff_ids: &[&str]| {
            let mut ids: Vec<_> = storage
                .stacks(&chain(diff_ids))
                .unwrap()
                .into_iter()
                .map(|stacked| stacked.layer.id)
                .collect();
            ids.sort();
            ids.dedup();
            ids
        };
        assert_eq!(ids(&DIFF[..1]), [id(1)]);
        assert_eq!(ids(&DIFF[..2]), [id(1), id(2), id(4)]);
        assert_eq!(ids(&[DIFF[0], DIFF[2]]), [id(1), id(3)]);
        for stacked in storage.stacks(&chain(&DIFF[..2])).unwrap() {
            let upto = if stacked.layer.id == id(1) { &DIFF[..1] } else { &DIFF[..2] };
            assert_eq!(stacked.chain_id.to_string(), chain(upto), "{}", stacked.layer.id);
            assert_eq!(stacked.name, format!("overlay/{}", stacked.layer.id));
        }
        // Not of a layer whose parent is not known, or that is bound to nothing.
        assert_eq!(ids(&DIFF[1..2]), [""; 0]);
    }

    #[test]
    fn a_stack_is_given_lowest_first_and_ends_where_it_leads_back_to_itself() {
        let (_root, storage) = store(&layers(), &json!([]));
        let layers = storage.layers().unwrap();
        let ids: Vec<_> = stack(&layers, &id(2)).into_iter().map(|layer| layer.id.clone()).collect();
        assert_eq!(ids, [id(1), id(2)]);
        assert_eq!(stack(&layers, &id(7)).len(), limits::LAYERS + 1);
        assert!(stack(&layers, "").is_empty());
        let of = |n: usize| &layers[&id(n)];
        assert!(of(2).incomplete && of(4).mapped && of(6).partial);
        let lowest = of(1);
        assert!(!lowest.incomplete && !lowest.mapped && !lowest.partial && lowest.parent.is_empty());
        assert_eq!(lowest.created, "2026-11-22T15:05:57Z");
    }

    #[test]
    fn an_image_is_given_with_its_documents_and_one_with_a_way_out_for_an_id_is_none() {
        let images = json!([
            {"id": id(1), "names": ["r/a:1"], "layer": id(2), "mapped-layers": [id(4)],
                "big-data-names": ["manifest", format!("manifest-{}", DIFF[0]), DIFF[1]]},
            {"id": "../../etc", "big-data-names": [DIFF[1]]},
        ]);
        let (root, storage) = store(&layers(), &images);
        let [image] = &storage.images().unwrap()[..] else { panic!("not one image") };
        assert_eq!(
            (image.names.as_slice(), image.layer.as_str(), image.mapped),
            (&["r/a:1".to_owned()][..], &*id(2), true)
        );
        assert_eq!(image.manifests().map(|digest| digest.to_string()).collect::<Vec<_>>(), DIFF[..1]);
        let folder = root.path().join("overlay-images").join(id(1));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file_name(DIFF[1])), "config").unwrap();
        assert_eq!(storage.document_of(image, DIFF[1], 6).unwrap().as_deref(), Some(&b"config"[..]));
        assert!(storage.document_of(image, DIFF[2], 6).unwrap().is_none());
        assert!(storage.document_of(image, DIFF[1], 5).is_err());
        assert!(storage.document_of(image, "manifest", 6).is_err(), "it is said to be there");
        assert_eq!(storage.unpacked("ab"), root.path().join(Path::new("overlay/ab/diff")));
        assert_eq!(storage.tar_split("ab"), root.path().join("overlay-layers/ab.tar-split.gz"));
    }
}
