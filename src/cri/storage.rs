//! containers/storage on disk, as far as crivet needs it of CRI-O, which has no services to ask: which layers a container
//! stands on, and the documents of images. Read only, and only the index files and documents; root writes them, by renaming
//! a whole file into place (containers/storage, `AtomicFileWriter`), so no lock is needed to read one.

mod images;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::image::Digest;
use crate::image::manifest::chain_id;
use crate::limits;

pub use images::{Stacked, StoredImage, StoredLayer, StoredLayers, stack};

/// A store's folder and the driver that names what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    root: PathBuf,
    driver: String,
}

/// Why the store does not tell. One line.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is larger than crivet reads.
    #[error("{path} is larger than {cap} bytes ({limit})")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Bytes.
        cap: usize,
        /// The limit's name.
        limit: &'static str,
    },
    /// A file is not what containers/storage writes.
    #[error("{path}: {error}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
    /// The store has no such thing.
    #[error("the store at {root} has no {what}")]
    Missing {
        /// The store's folder.
        root: PathBuf,
        /// What.
        what: String,
    },
    /// A layer is not in this store, and something in it stands on that.
    #[error(
        "the store at {root} does not have layer {layer}, which container {container} stands on (additionalimagestores in storage.conf?): what is in it cannot be held to the image's config; pull the image into CRI-O's own store"
    )]
    Elsewhere {
        /// The store's folder.
        root: PathBuf,
        /// The layer's ID.
        layer: String,
        /// The container.
        container: String,
    },
    /// A layer's content is bound to nothing that a config names.
    #[error(
        "layer {layer} was pulled in part or is not bound to a diff ID: what is in it cannot be held to the image's config; pull without zstd:chunked (storage.conf: enable_partial_images = \"false\")"
    )]
    Unbound {
        /// The layer's ID in the store.
        layer: String,
    },
    /// Layers that lead back to themselves, or more than any image has.
    #[error("the layers under {what} are more than {} (limits::LAYERS)", limits::LAYERS)]
    TooMany {
        /// The container.
        what: String,
    },
}

#[derive(Deserialize)]
struct Container {
    id: String,
    layer: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Layer {
    id: String,
    #[serde(default)]
    parent: String,
    /// Of the uncompressed tar, taken while it was unpacked.
    diff_digest: Option<String>,
    /// Of a table of contents: a partial pull, whose files were checked one by one, if at all.
    toc_digest: Option<String>,
    created: Option<String>,
    flags: Option<Flags>,
    /// Owners as they are on the disk, for those that the layer says.
    uidmap: Option<Vec<IgnoredAny>>,
    gidmap: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Flags {
    /// It is being made, or removed.
    incomplete: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    id: String,
    names: Option<Vec<String>>,
    layer: Option<String>,
    mapped_layers: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    big_data_names: Vec<String>,
}

impl Storage {
    /// The store whose images are in this folder, as CRI's ImageFsInfo names it: `ROOT/DRIVER-images`.
    pub fn of_images(folder: &Path) -> Option<Storage> {
        let driver = folder.file_name()?.to_str()?.strip_suffix("-images").filter(|name| !name.is_empty())?;
        let root = folder.parent().filter(|root| root.is_absolute())?;
        Some(Storage { root: root.to_owned(), driver: driver.to_owned() })
    }

    /// The chain ID (OCI image specification, "Layer ChainID") of the layers under a container's own.
    ///
    /// # Errors
    /// The store does not know the container or a layer, or what is in a layer is bound to nothing.
    pub fn chain_under(&self, container: &str) -> Result<String, StorageError> {
        let top = self.layer_of(container)?;
        let layers = self.all_layers()?;
        let own = layers.get(&top).ok_or_else(|| self.missing(format!("layer {top}")))?;
        // What the container stands on is there as long as it is; so it is somewhere else, and the container is not gone.
        let elsewhere = |layer: &str| StorageError::Elsewhere {
            root: self.root.clone(),
            layer: layer.to_owned(),
            container: container.to_owned(),
        };
        let (mut diff_ids, mut next) = (Vec::new(), own.parent.as_str());
        while !next.is_empty() {
            if diff_ids.len() >= limits::LAYERS {
                return Err(StorageError::TooMany { what: format!("container {container}") });
            }
            let under = layers.get(next).ok_or_else(|| elsewhere(next))?;
            let bound = under.diff_digest.as_deref().filter(|_| under.toc_digest.is_none());
            let diff_id = bound.and_then(|digest| Digest::parse(digest).ok());
            diff_ids.push(diff_id.ok_or_else(|| StorageError::Unbound { layer: next.to_owned() })?);
            next = under.parent.as_str();
        }
        diff_ids.reverse();
        Ok(chain_id(&diff_ids).map_or_else(String::new, |chain| chain.to_string()))
    }

    /// What checks call the folder that a container (or sandbox) was made on.
    ///
    /// # Errors
    /// The store does not have it, or cannot be read.
    pub fn name_under(&self, container: &str) -> Result<String, StorageError> {
        let top = self.layer_of(container)?;
        let layers = self.all_layers()?;
        let top = layers.get(&top).ok_or_else(|| self.missing(format!("layer {top}")))?;
        Ok(self.name_of(&top.parent))
    }

    /// The containers and sandboxes, by the layers that they write to.
    ///
    /// # Errors
    /// The store's lists cannot be read.
    pub fn containers(&self) -> Result<HashMap<String, String>, StorageError> {
        let mut all = HashMap::new();
        for name in ["volatile-containers.json", "containers.json"] {
            let containers: Vec<Container> = self.list("containers", name)?;
            all.extend(containers.into_iter().map(|container| (container.layer, container.id)));
        }
        Ok(all)
    }

    fn layer_of(&self, container: &str) -> Result<String, StorageError> {
        for name in ["volatile-containers.json", "containers.json"] {
            let containers: Vec<Container> = self.list("containers", name)?;
            if let Some(found) = containers.into_iter().find(|found| found.id == container) {
                return Ok(found.layer);
            }
        }
        Err(self.missing(format!("container {container}")))
    }

    /// A document of an image (manifest, index or config) by its digest, unverified: whoever asks must hash it.
    ///
    /// # Errors
    /// No image has it, or it is larger than `cap` bytes.
    pub fn document(&self, digest: &str, cap: usize) -> Result<Vec<u8>, StorageError> {
        let images: Vec<Image> = self.list("images", "images.json")?;
        // A config is under its digest, manifests are under theirs; which digest a file is said to have does not count.
        let manifest = format!("manifest-{digest}");
        let found = images.iter().find_map(|image| {
            let key = image.big_data_names.iter().find(|key| *key == digest || **key == manifest)?;
            Some((&image.id, key))
        });
        let Some((id, key)) = found.filter(|(id, _)| id.bytes().all(|byte| byte.is_ascii_hexdigit())) else {
            return Err(self.missing(format!("document {digest}")));
        };
        let path = self.folder("images").join(id).join(file_name(key));
        read(&path, cap, "the caller's cap")
    }

    fn folder(&self, what: &str) -> PathBuf {
        self.root.join(format!("{}-{what}", self.driver))
    }

    /// One of the store's lists; none where the file is not there.
    fn list<T: DeserializeOwned>(&self, what: &str, name: &str) -> Result<Vec<T>, StorageError> {
        let path = self.folder(what).join(name);
        let bytes = match read(&path, limits::STORAGE_LIST_BYTES, "limits::STORAGE_LIST_BYTES") {
            Err(StorageError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            read => read?,
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Vec::new());
        }
        serde_json::from_slice(&bytes).map_err(|error| StorageError::Malformed { path, error })
    }

    fn missing(&self, what: String) -> StorageError {
        StorageError::Missing { root: self.root.clone(), what }
    }
}

/// The file that a key's data is in (containers/storage, `makeBigDataBaseName`).
fn file_name(key: &str) -> String {
    let is_plain = |byte: u8| byte == b'.' || byte.is_ascii_digit() || byte.is_ascii_lowercase();
    match key.bytes().all(is_plain) && !key.starts_with('.') {
        true => key.to_owned(),
        // Its alphabet has a slash, which no key of these letters comes to; another's file is not found.
        false => format!("={}", STANDARD.encode(key).replace('/', "_")),
    }
}

fn read(path: &Path, cap: usize, limit: &'static str) -> Result<Vec<u8>, StorageError> {
    let failed = |error| StorageError::Io { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let most = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > cap {
        return Err(StorageError::TooLarge { path: path.to_owned(), cap, limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CONTAINER: &str = "5cf29d2d48c6ba256eb0d59b6237a0fd79b31e2680f20771fd47332963d2684f";
    const IMAGE: &str = "6eed9fe302786951b53198f2cd2c268d22f2ea9fb0a6ff9a772caff633617054";
    const LOWER: &str = "sha256:ec0cd499de53c6ea468c8c9c886f11ab0fa354af68960105f86e5bd7a52c55f6";
    const UPPER: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    const MANIFEST: &str = "sha256:46f042ed887d4beb7c676b2d17ce14435b0fe7e649acffebb497ff62f471ead8";

    /// The lists as CRI-O 1.34 writes them, by the folder and the file they are in; `broken` breaks one.
    fn store(broken: impl FnOnce(&mut [(&str, &str, Value); 4])) -> (tempfile::TempDir, Storage) {
        let mut lists = [
            (
                "containers",
                "volatile-containers.json",
                json!([{
                    "id": CONTAINER, "names": ["k8s_hello_hello_e2e_hello_0"], "image": IMAGE, "layer": "e160",
                    "created": "2026-11-22T15:05:59.343784311Z", "flags": {"Volatile": true},
                }]),
            ),
            (
                "layers",
                "layers.json",
                json!([
                    {"id": "ec0c", "created": "2026-11-22T15:05:57Z", "diff-digest": LOWER, "diff-size": 2124800},
                    {"id": "95fc", "parent": "ec0c", "compressed-diff-digest": UPPER, "diff-digest": UPPER},
                ]),
            ),
            ("layers", "volatile-layers.json", json!([{"id": "e160", "parent": "95fc"}])),
            (
                "images",
                "images.json",
                json!([{
                    "id": IMAGE, "digest": MANIFEST, "layer": "95fc",
                    "big-data-names": ["manifest", format!("manifest-{MANIFEST}")],
                }]),
            ),
        ];
        broken(&mut lists);
        let root = tempfile::tempdir().unwrap();
        for (what, name, list) in lists {
            let folder = root.path().join(format!("overlay-{what}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), list.to_string()).unwrap();
        }
        let document = root.path().join("overlay-images").join(IMAGE);
        std::fs::create_dir(&document).unwrap();
        // As CRI-O 1.34 named it.
        let file = "=bWFuaWZlc3Qtc2hhMjU2OjQ2ZjA0MmVkODg3ZDRiZWI3YzY3NmIyZDE3Y2UxNDQzNWIwZmU3ZTY0OWFjZmZlYmI0OTdmZjYyZjQ3MWVhZDg=";
        std::fs::write(document.join(file), b"the manifest").unwrap();
        let storage = Storage::of_images(&root.path().join("overlay-images")).unwrap();
        (root, storage)
    }

    fn refused(broken: impl FnOnce(&mut [(&str, &str, Value); 4])) -> String {
        let (root, storage) = store(broken);
        let error = storage.chain_under(CONTAINER).unwrap_err().to_string();
        error.replace(root.path().to_str().unwrap(), "ROOT")
    }

    #[test]
    fn container_stands_on_the_chain_of_the_layers_under_its_own() {
        let (_root, storage) = store(|_| {});
        let expected = Digest::of(format!("{LOWER} {UPPER}").as_bytes()).to_string();
        assert_eq!(storage.chain_under(CONTAINER).unwrap(), expected);
        let (_root, storage) = store(|lists| lists[2].2[0]["parent"] = json!("ec0c"));
        assert_eq!(storage.chain_under(CONTAINER).unwrap(), LOWER);
        let (_root, storage) = store(|lists| drop(lists[2].2[0].as_object_mut().unwrap().remove("parent")));
        assert_eq!(storage.chain_under(CONTAINER).unwrap(), "");
    }

    #[test]
    fn container_that_is_kept_over_a_reboot_is_known_too() {
        let (_root, storage) = store(|lists| lists[0].1 = "containers.json");
        storage.chain_under(CONTAINER).unwrap();
    }

    #[test]
    fn containers_are_known_by_their_layers_kept_over_a_reboot_or_not() {
        for name in ["containers.json", "volatile-containers.json"] {
            let (_root, storage) = store(|lists| lists[0].1 = name);
            let known = HashMap::from([("e160".to_owned(), CONTAINER.to_owned())]);
            assert_eq!(storage.containers().unwrap(), known);
        }
    }

    #[test]
    fn container_the_store_does_not_know() {
        let error = refused(|lists| lists[0].2[0]["id"] = json!("other"));
        assert_eq!(error, format!("the store at ROOT has no container {CONTAINER}"));
    }

    #[tokio::test]
    async fn layer_that_another_store_has_is_not_a_container_that_is_gone() {
        use crate::cri::runtime::{RuntimeClient, RuntimeError};

        type Broken = fn(&mut [(&str, &str, Value); 4]);
        let asked = async |broken: Broken| {
            let (root, storage) = store(broken);
            let found = RuntimeClient::in_storage(move || storage.chain_under(CONTAINER)).await;
            found.map_err(|error| (error.to_string().replace(root.path().to_str().unwrap(), "ROOT"), error))
        };
        let elsewhere: [Broken; 2] = [
            |lists| lists[1].2[1]["parent"] = json!("gone"),
            |lists| lists[2].2[0]["parent"] = json!("gone"),
        ];
        for broken in elsewhere {
            let (text, error) = asked(broken).await.unwrap_err();
            let says =
                format!("the store at ROOT does not have layer gone, which container {CONTAINER} stands on ");
            assert!(text.contains(&says) && matches!(error, RuntimeError::Store(_)), "{text}");
        }
        // The second is being removed.
        let gone: [Broken; 2] = [|lists| lists[0].2 = json!([]), |lists| lists[2].2 = json!([])];
        for broken in gone {
            let (text, error) = asked(broken).await.unwrap_err();
            assert!(matches!(error, RuntimeError::NotFound(_)), "{text}");
        }
    }

    #[test]
    fn layer_that_is_bound_to_nothing() {
        let unbound = |error: String| assert!(error.starts_with("layer ec0c was pulled in part"), "{error}");
        unbound(refused(|lists| drop(lists[1].2[0].as_object_mut().unwrap().remove("diff-digest"))));
        unbound(refused(|lists| lists[1].2[0]["diff-digest"] = json!("sha256:short")));
        unbound(refused(|lists| lists[1].2[0]["toc-digest"] = json!(LOWER)));
    }

    #[test]
    fn layers_that_lead_back_to_themselves_end_at_the_limit() {
        let error = refused(|lists| lists[1].2[0]["parent"] = json!("95fc"));
        assert!(error.contains("limits::LAYERS"), "{error}");
    }

    #[test]
    fn list_that_is_no_list() {
        let error = refused(|lists| lists[1].2 = json!({"layers": []}));
        assert!(error.starts_with("ROOT/overlay-layers/layers.json: "), "{error}");
    }

    #[test]
    fn list_over_the_limit_is_refused_by_its_name() {
        let error = refused(|lists| lists[1].2 = json!(" ".repeat(limits::STORAGE_LIST_BYTES)));
        assert!(error.contains("limits::STORAGE_LIST_BYTES"), "{error}");
    }

    #[test]
    fn document_is_found_by_its_digest_within_the_cap() {
        let (_root, storage) = store(|_| {});
        assert_eq!(storage.document(MANIFEST, 100).unwrap(), b"the manifest");
        assert!(matches!(storage.document(LOWER, 100), Err(StorageError::Missing { .. })));
        assert!(matches!(storage.document(MANIFEST, 11), Err(StorageError::TooLarge { .. })));
    }

    #[test]
    fn image_whose_id_is_a_way_out_of_its_folder_is_not_followed() {
        let (_root, storage) = store(|lists| lists[3].2[0]["id"] = json!("../overlay-layers"));
        assert!(matches!(storage.document(MANIFEST, 100), Err(StorageError::Missing { .. })));
    }

    #[test]
    fn store_is_known_by_the_folder_of_its_images() {
        let of = |folder: &str| Storage::of_images(Path::new(folder));
        assert!(of("/var/lib/containers/storage/overlay-images").is_some());
        for other in
            ["/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs", "overlay-images", "/-images", "/"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
