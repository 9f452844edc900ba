//! Image indexes, manifests and configs (OCI image-spec v1 and Docker schema 2), read strictly.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::{self, JsonError, Object};
use super::{Digest, DigestError, Platform, quoted};
use crate::limits;

/// Media types of an image index.
pub const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Media types of an image manifest.
pub const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// Annotations by which containerd (2.1 and later) and CRI-O take an image for a container's checkpoint, and
/// CreateContainer for a restore.
const CHECKPOINT_ANNOTATIONS: [&str; 2] =
    ["org.criu.checkpoint.container.name", "io.kubernetes.cri-o.annotations.checkpoint.name"];

/// Why bytes are no index, manifest or config. Nothing is known about such an image: undecided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The JSON itself.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A digest in it.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// An index and a manifest at once (CVE-2021-41190): two readers would see two images.
    #[error(
        "expected either an index or a manifest, found keys of both ({0}); build and push the image anew"
    )]
    Ambiguous(&'static str),
    /// Neither an index nor a manifest of a known kind.
    #[error("expected an OCI or Docker schema 2 index or manifest, found {}; build and push the image anew", quoted(.0))]
    Kind(String),
    /// A checkpoint in an image's clothes: a runtime would restore processes from it, which no signature on layers
    /// speaks for.
    #[error(
        "expected an image, found a container checkpoint (annotation {0}); checkpoints cannot be vetted, start the container from an image"
    )]
    Checkpoint(&'static str),
    /// More entries than a limit allows.
    #[error("expected 1 to {cap} entries in \"{key}\" (limit {limit}), found {found}")]
    Count {
        /// The key of the array.
        key: &'static str,
        /// The name of the limit in [`limits`].
        limit: &'static str,
        /// The limit.
        cap: usize,
        /// How many there are.
        found: usize,
    },
}

/// A content descriptor (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type of the content; empty where an index leaves it out.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content, bytes.
    pub size: u64,
    /// The platform an index entry is for.
    pub platform: Option<Platform>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Type of the artifact an index entry is about.
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Reads a descriptor from parsed JSON.
    pub fn read(value: &Value) -> Result<Self, DocumentError> {
        let known =
            ["mediaType", "digest", "size", "platform", "annotations", "artifactType", "data", "urls"];
        let object = Object::new(value, "descriptor", &known)?;
        Ok(Self {
            media_type: object.optional_string("mediaType")?.unwrap_or_default().to_owned(),
            digest: Digest::parse(object.string("digest")?)?,
            size: object.size("size")?,
            platform: object.get("platform").map(read_platform).transpose()?,
            annotations: object.strings("annotations")?,
            artifact_type: object.optional_string("artifactType")?.map(str::to_owned),
        })
    }
}

fn read_platform(value: &Value) -> Result<Platform, JsonError> {
    let object = Object::new(value, "platform", &["os", "architecture", "variant"])?;
    let part = |key| object.optional_string(key).map(Option::unwrap_or_default);
    Ok(Platform::new(part("os")?, part("architecture")?, part("variant")?))
}

/// One platform's image. Foreign (non-distributable) layers are layers like any other: their digest binds them,
/// wherever their bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config; its digest is the image ID.
    pub config: Descriptor,
    /// The layers, lowest first; 1 to [`limits::LAYERS`].
    pub layers: Vec<Descriptor>,
}

/// An image index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The entries in their order; 1 to [`limits::INDEX_MANIFESTS`].
    pub manifests: Vec<Descriptor>,
}

/// What a manifest digest can lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image index or Docker manifest list.
    Index(Index),
    /// An image manifest.
    Manifest(Manifest),
}

impl Document {
    /// Parses an index or manifest of at most [`limits::MANIFEST_BYTES`]. The body alone says which it is, never a
    /// registry's Content-Type: only the body is bound by the digest.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = json::parse(bytes, "MANIFEST_BYTES", limits::MANIFEST_BYTES)?;
        let known =
            ["schemaVersion", "mediaType", "manifests", "config", "layers", "fsLayers", "annotations"];
        let object = Object::new(&value, "manifest", &known)?;
        let version = object.size("schemaVersion")?;
        if version != 2 {
            return Err(DocumentError::Kind(format!("schemaVersion {version}")));
        }
        // containerd's validateMediaType looks at the same keys. A key with null counts: it is there.
        let has = |key: &str| object.keys().any(|k| k == key);
        if has("fsLayers") {
            return Err(DocumentError::Ambiguous("schemaVersion 2 with fsLayers"));
        }
        match (has("manifests"), has("config") || has("layers")) {
            (true, true) => return Err(DocumentError::Ambiguous("manifests beside config or layers")),
            (false, false) => return Err(DocumentError::Kind("no manifests, config or layers".to_owned())),
            _ => {}
        }
        if let Some(annotations) = object.get("annotations").filter(|annotations| !annotations.is_null()) {
            let annotations = Object::new(annotations, "annotations", &CHECKPOINT_ANNOTATIONS)?;
            let found = |name: &&str| annotations.keys().any(|key| key == *name);
            if let Some(name) = CHECKPOINT_ANNOTATIONS.into_iter().find(|name| found(name)) {
                return Err(DocumentError::Checkpoint(name));
            }
        }
        let is_index = has("manifests");
        if let Some(media_type) = object.optional_string("mediaType")? {
            match (INDEX_TYPES.contains(&media_type), MANIFEST_TYPES.contains(&media_type)) {
                (false, false) => return Err(DocumentError::Kind(media_type.to_owned())),
                (index, _) if index != is_index => {
                    return Err(DocumentError::Ambiguous("mediaType of the one, content of the other"));
                }
                _ => {}
            }
        }
        if is_index {
            let manifests = descriptors(&object, "manifests", "INDEX_MANIFESTS", limits::INDEX_MANIFESTS)?;
            return Ok(Self::Index(Index { manifests }));
        }
        let config =
            object.get("config").ok_or(JsonError::Value { key: "config", expected: "a descriptor" })?;
        let config = Descriptor::read(config)?;
        Ok(Self::Manifest(Manifest {
            config,
            layers: descriptors(&object, "layers", "LAYERS", limits::LAYERS)?,
        }))
    }
}

fn counted<'a>(
    object: &Object<'a>,
    key: &'static str,
    limit: &'static str,
    cap: usize,
) -> Result<&'a [Value], DocumentError> {
    let entries = object.array(key)?;
    if entries.is_empty() || entries.len() > cap {
        return Err(DocumentError::Count { key, limit, cap, found: entries.len() });
    }
    Ok(entries)
}

fn descriptors(
    object: &Object<'_>,
    key: &'static str,
    limit: &'static str,
    cap: usize,
) -> Result<Vec<Descriptor>, DocumentError> {
    counted(object, key, limit, cap)?.iter().map(Descriptor::read).collect()
}

/// The part of an image config that says which file system the image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    platform: Platform,
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses an image config of at most [`limits::CONFIG_BYTES`] (image-spec, config.md). There have to be diff IDs:
    /// some runtimes take configs without any, and then the ID binds no file system.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = json::parse(bytes, "CONFIG_BYTES", limits::CONFIG_BYTES)?;
        let object = Object::new(&value, "image config", &["rootfs", "os", "architecture", "variant"])?;
        let rootfs = object.get("rootfs").ok_or(JsonError::Value { key: "rootfs", expected: "an object" })?;
        let rootfs = Object::new(rootfs, "rootfs", &["type", "diff_ids"])?;
        if rootfs.string("type")? != "layers" {
            return Err(JsonError::Value { key: "type", expected: "\"layers\"" }.into());
        }
        let diff_ids = counted(&rootfs, "diff_ids", "LAYERS", limits::LAYERS)?
            .iter()
            .map(|id| {
                let id = id
                    .as_str()
                    .ok_or(JsonError::Value { key: "diff_ids", expected: "an array of strings" })?;
                Ok(Digest::parse(id)?)
            })
            .collect::<Result<_, DocumentError>>()?;
        Ok(Self { platform: read_platform(&value)?, diff_ids })
    }

    /// The platform the image was built for.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The digests of the uncompressed layers, lowest first; never empty.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    /// The chain ID of all layers: what containerd names the image's topmost snapshot (image-spec, config.md,
    /// "Layer ChainID").
    pub fn chain_id(&self) -> Digest {
        // There is always a layer; of none, the digest of nothing names no snapshot.
        chain_id(&self.diff_ids).unwrap_or_else(|| Digest::of(b""))
    }
}

/// The chain ID of layers by their diff IDs, lowest first (image-spec, config.md, "Layer ChainID"); `None` of none.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let chained = |chain: Digest, id: Digest| Digest::of(format!("{chain} {id}").as_bytes());
    diff_ids.iter().copied().reduce(chained)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(n: u8) -> Value {
        json!({"mediaType": "x/y", "digest": Digest::of(&[n]), "size": 7})
    }

    fn manifest() -> Value {
        json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "config": descriptor(0), "layers": [descriptor(1)]})
    }

    #[test]
    fn a_checkpoint_is_no_image() {
        let parse = |annotations: Value| {
            let mut manifest = manifest();
            manifest["annotations"] = annotations;
            Document::parse(manifest.to_string().as_bytes())
        };
        parse(json!({"org.example": "x"})).unwrap();
        parse(Value::Null).unwrap();
        for name in CHECKPOINT_ANNOTATIONS {
            assert_eq!(parse(json!({name: "c"})), Err(DocumentError::Checkpoint(name)));
        }
    }

    fn index() -> Value {
        json!({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": [
            {"mediaType": MANIFEST_TYPES[0], "digest": Digest::of(b"1"), "size": 1, "platform": {"os": "linux", "architecture": "amd64"}},
        ]})
    }

    fn config() -> Value {
        json!({"os": "linux", "architecture": "amd64", "config": {"Labels": {"a": "1", "A": "2"}},
               "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"3")]}})
    }

    fn parse(value: &Value) -> Result<Document, DocumentError> {
        Document::parse(value.to_string().as_bytes())
    }

    fn broken(mut value: Value, path: &str, with: Value) -> Value {
        let (parent, key) = path.rsplit_once('/').unwrap();
        value.pointer_mut(parent).unwrap()[key] = with;
        value
    }

    #[test]
    fn manifest_and_index_are_read_in_both_dialects() {
        for media_type in [json!(MANIFEST_TYPES[0]), json!(MANIFEST_TYPES[1]), json!(null)] {
            let Ok(Document::Manifest(read)) = parse(&broken(manifest(), "/mediaType", media_type)) else {
                panic!()
            };
            assert_eq!(read.config.digest, Digest::of(&[0]));
            assert_eq!(read.layers[0].digest, Digest::of(&[1]));
        }
        for media_type in INDEX_TYPES {
            let Ok(Document::Index(read)) = parse(&broken(index(), "/mediaType", json!(media_type))) else {
                panic!()
            };
            assert_eq!(read.manifests[0].platform, Some(Platform::new("linux", "amd64", "")));
        }
    }

    #[test]
    fn document_that_is_index_and_manifest_is_refused() {
        let ambiguous = |value| matches!(parse(&value), Err(DocumentError::Ambiguous(_)));
        assert!(ambiguous(broken(manifest(), "/manifests", json!([descriptor(1)]))));
        assert!(ambiguous(broken(index(), "/layers", json!([]))));
        assert!(ambiguous(broken(index(), "/config", json!(null))));
        assert!(ambiguous(broken(manifest(), "/fsLayers", json!([]))));
        assert!(ambiguous(broken(manifest(), "/mediaType", json!(INDEX_TYPES[1]))));
        assert!(ambiguous(broken(index(), "/mediaType", json!(MANIFEST_TYPES[1]))));
    }

    #[test]
    fn other_kinds_of_document_are_refused() {
        let kind = |value| matches!(parse(&value), Err(DocumentError::Kind(_)));
        assert!(kind(broken(manifest(), "/schemaVersion", json!(1))));
        assert!(kind(broken(manifest(), "/mediaType", json!("text/html"))));
        assert!(kind(json!({"schemaVersion": 2})));
        assert!(Document::parse(b"<html>").is_err());
        assert!(parse(&json!([])).is_err());
    }

    #[test]
    fn key_in_another_case_is_refused() {
        for path in ["/Config", "/LAYERS", "/config/Digest", "/layers/0/mediatype"] {
            let value = broken(manifest(), path, json!("x"));
            assert!(matches!(parse(&value), Err(DocumentError::Json(JsonError::Spelling { .. }))), "{path}");
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for (path, with) in [
            ("/config/digest", json!("sha512:00")),
            ("/config/digest", json!(7)),
            ("/config/size", json!(-1)),
            ("/config/size", json!(1.5)),
            ("/config/annotations", json!({"a": 1})),
            ("/layers", json!({})),
            ("/layers", json!([])),
            ("/config", json!(null)),
        ] {
            assert!(parse(&broken(manifest(), path, with.clone())).is_err(), "{path} {with}");
        }
    }

    #[test]
    fn layer_and_index_counts_are_bounded() {
        let many = |n| vec![descriptor(1); n];
        assert!(parse(&broken(manifest(), "/layers", json!(many(limits::LAYERS)))).is_ok());
        let error = parse(&broken(manifest(), "/layers", json!(many(limits::LAYERS + 1)))).unwrap_err();
        assert!(error.to_string().contains("limit LAYERS"));
        let error =
            parse(&broken(index(), "/manifests", json!(many(limits::INDEX_MANIFESTS + 1)))).unwrap_err();
        assert!(error.to_string().contains("limit INDEX_MANIFESTS"));
    }

    #[test]
    fn chain_id_follows_the_image_spec() {
        let config = ImageConfig::parse(config().to_string().as_bytes()).unwrap();
        let of = |a: &Digest, b: &Digest| Digest::of(format!("{a} {b}").as_bytes());
        let [a, b, c] = config.diff_ids() else { panic!() };
        assert_eq!(config.chain_id(), of(&of(a, b), c));
        let single = broken(self::config(), "/rootfs/diff_ids", json!([Digest::of(b"1")]));
        assert_eq!(ImageConfig::parse(single.to_string().as_bytes()).unwrap().chain_id(), Digest::of(b"1"));
    }

    #[test]
    fn config_without_diff_ids_is_refused() {
        for (path, with) in [
            ("/rootfs/diff_ids", json!([])),
            ("/rootfs/diff_ids", json!(null)),
            ("/rootfs/diff_ids", json!(["sha256:1"])),
            ("/rootfs/diff_ids", json!([1])),
            ("/rootfs/type", json!("other")),
            ("/rootfs/Diff_IDs", json!([])),
            ("/rootfs", json!(null)),
        ] {
            let value = broken(config(), path, with.clone());
            assert!(ImageConfig::parse(value.to_string().as_bytes()).is_err(), "{path} {with}");
        }
    }
}
