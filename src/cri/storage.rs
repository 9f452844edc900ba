//! containers/storage on disk, as far as crivet needs it of CRI-O, which has no services to ask: which layers a container
//! stands on, and the documents of images. Read only, and only the index files and documents; root writes them, by renaming
//! a whole file into place (containers/storage, `AtomicFileWriter`), so no lock is needed to read one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::image::Digest;
use crate::image::manifest::chain_id;
use crate::limits;

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
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    id: String,
    #[serde(default)]
    big_data_digests: HashMap<String, String>,
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
        let layers: HashMap<String, Layer> = ["layers.json", "volatile-layers.json"]
            .into_iter()
            .map(|name| self.list::<Layer>("layers", name))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .map(|layer| (layer.id.clone(), layer))
            .collect();
        let layer = |id: &str| layers.get(id).ok_or_else(|| self.missing(format!("layer {id}")));
        let (mut diff_ids, mut next) = (Vec::new(), layer(&top)?.parent.as_str());
        while !next.is_empty() {
            if diff_ids.len() >= limits::LAYERS {
                return Err(StorageError::TooMany { what: format!("container {container}") });
            }
            let under = layer(next)?;
            let bound = under.diff_digest.as_deref().filter(|_| under.toc_digest.is_none());
            let diff_id = bound.and_then(|digest| Digest::parse(digest).ok());
            diff_ids.push(diff_id.ok_or_else(|| StorageError::Unbound { layer: next.to_owned() })?);
            next = under.parent.as_str();
        }
        diff_ids.reverse();
        Ok(chain_id(&diff_ids).map_or_else(String::new, |chain| chain.to_string()))
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
        let found = images.iter().find_map(|image| {
            let mut keys = image.big_data_digests.iter().filter(|(_, of)| *of == digest);
            keys.next().map(|(key, _)| (&image.id, key))
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
