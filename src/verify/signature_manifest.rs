//! What cosign keeps under the tag `sha256-<hex>.sig`.

use crate::image::json::{self, JsonError, Object};
use crate::image::manifest::{Descriptor, DocumentError, MANIFEST_TYPES};
use crate::limits;

/// Media type of a layer that holds one signed payload (cosign SIGNATURE_SPEC, "Storage").
pub const SIGNATURE_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation of such a layer that holds the signature, base64.
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// A manifest of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureManifest;

/// One signature as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLayer {
    /// Where the signed payload is. Its size is not yet held to [`limits::PAYLOAD_BYTES`]: whoever fetches it does,
    /// and an image with no better signature is then undecided.
    pub descriptor: Descriptor,
    /// The signature, base64; empty where the annotation is missing, which verifies nothing.
    pub signature: String,
}

/// Why a manifest of signatures could not be read. What it holds is unknown: undecided, never unsigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureManifestError {
    /// The document.
    #[error("signature manifest: {0}")]
    Document(#[from] DocumentError),
    /// More signatures than [`limits::SIGNATURES`].
    #[error(
        "expected at most {} signatures (limit SIGNATURES), found {found}; remove signatures nobody needs",
        limits::SIGNATURES
    )]
    TooMany {
        /// How many there are.
        found: usize,
    },
}

impl From<JsonError> for SignatureManifestError {
    fn from(error: JsonError) -> Self {
        Self::Document(error.into())
    }
}

impl SignatureManifest {
    /// The signatures in a manifest of at most [`limits::MANIFEST_BYTES`], in its order; none is a valid answer. Layers of
    /// other media types share the manifest with some tools and are left out before anything is counted.
    pub fn parse(bytes: &[u8]) -> Result<Vec<SignatureLayer>, SignatureManifestError> {
        let value = json::parse(bytes, "MANIFEST_BYTES", limits::MANIFEST_BYTES)?;
        let known = ["schemaVersion", "mediaType", "config", "layers", "manifests"];
        let object = Object::new(&value, "signature manifest", &known)?;
        let version = object.size("schemaVersion")?;
        if version != 2 {
            return Err(DocumentError::Kind(format!("schemaVersion {version}")).into());
        }
        if object.keys().any(|key| key == "manifests") {
            return Err(DocumentError::Ambiguous("manifests beside layers").into());
        }
        match object.optional_string("mediaType")? {
            Some(other) if !MANIFEST_TYPES.contains(&other) => {
                return Err(DocumentError::Kind(other.to_owned()).into());
            }
            _ => {}
        }
        let mut layers = Vec::new();
        for layer in object.array("layers")? {
            let media_type = Object::new(layer, "layer", &["mediaType"])?.optional_string("mediaType")?;
            if media_type == Some(SIGNATURE_MEDIA_TYPE) {
                layers.push(layer);
            }
        }
        if layers.len() > limits::SIGNATURES {
            return Err(SignatureManifestError::TooMany { found: layers.len() });
        }
        layers
            .into_iter()
            .map(|layer| {
                let descriptor = Descriptor::read(layer)?;
                let signature = descriptor.annotations.get(SIGNATURE_ANNOTATION).cloned().unwrap_or_default();
                Ok(SignatureLayer { descriptor, signature })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::image::Digest;

    const COSIGN: &[u8] = include_bytes!("../../tests/fixtures/simple-signing/three-keys/signatures.json");

    fn with_layers(layers: Value) -> Vec<u8> {
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "config": {}, "layers": layers});
        manifest.to_string().into_bytes()
    }

    fn layer(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(b""), "size": 0, "annotations": {SIGNATURE_ANNOTATION: "AA=="}})
    }

    #[test]
    fn signatures_made_by_cosign_are_listed() {
        let layers = SignatureManifest::parse(COSIGN).unwrap();
        assert_eq!(layers.len(), 3);
        assert!(layers.iter().all(|layer| !layer.signature.is_empty() && layer.descriptor.size > 0));
    }

    #[test]
    fn only_signature_layers_count_against_the_limit() {
        let many = |media_type: &str, n| vec![layer(media_type); n];
        let mut layers = many("application/vnd.dsse.envelope.v1+json", 10_000);
        layers.extend(many(SIGNATURE_MEDIA_TYPE, limits::SIGNATURES));
        assert_eq!(SignatureManifest::parse(&with_layers(json!(layers))).unwrap().len(), limits::SIGNATURES);
        let layers = many(SIGNATURE_MEDIA_TYPE, limits::SIGNATURES + 1);
        let error = SignatureManifest::parse(&with_layers(json!(layers))).unwrap_err();
        assert!(error.to_string().contains("limit SIGNATURES"), "{error}");
    }

    #[test]
    fn signature_tag_with_ten_thousand_signatures_is_a_limit_hit_not_unsigned() {
        let layers = vec![layer(SIGNATURE_MEDIA_TYPE); 10_000];
        let error = SignatureManifest::parse(&with_layers(json!(layers))).unwrap_err();
        assert_eq!(error, SignatureManifestError::TooMany { found: 10_000 });
    }

    #[test]
    fn empty_list_is_valid_and_other_documents_are_not() {
        assert_eq!(SignatureManifest::parse(&with_layers(json!([]))), Ok(Vec::new()));
        let text = |change: &str, to: &str| {
            String::from_utf8(with_layers(json!([]))).unwrap().replace(change, to).into_bytes()
        };
        assert!(SignatureManifest::parse(&text("\"layers\"", "\"Layers\"")).is_err());
        assert!(SignatureManifest::parse(&text("\"layers\"", "\"manifests\"")).is_err());
        assert!(SignatureManifest::parse(&text(":2", ":1")).is_err());
        assert!(SignatureManifest::parse(&text("image.manifest", "image.index")).is_err());
        assert!(SignatureManifest::parse(b"<html>").is_err());
    }

    #[test]
    fn layer_without_annotation_is_kept_with_an_empty_signature() {
        let bare = json!([{"mediaType": SIGNATURE_MEDIA_TYPE, "digest": Digest::of(b""), "size": 0}]);
        assert_eq!(SignatureManifest::parse(&with_layers(bare)).unwrap()[0].signature, "");
    }
}
