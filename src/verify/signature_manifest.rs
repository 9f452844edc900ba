//! Manifests whose layers are signatures and attestations: what cosign keeps under the tags `sha256-<hex>.sig` and
//! `.att`, and what refers to an image.

use bytes::Bytes;

use super::evidence::{Annotations, Attached, Evidence};
use super::simple_signing::SimpleSigning;
use crate::image::Digest;
use crate::image::json::{self, JsonError, Object};
use crate::image::manifest::{Descriptor, DocumentError, MANIFEST_TYPES};
use crate::limits;

/// Media type of a layer under `.sig` that holds one signed payload (cosign SIGNATURE_SPEC, "Storage").
pub const SIGNATURE_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Media type of a layer under `.att` that holds one attestation (cosign ATTESTATION_SPEC).
pub const ATTESTATION_MEDIA_TYPE: &str = "application/vnd.dsse.envelope.v1+json";
/// What media types of sigstore bundles begin with, `application/vnd.dev.sigstore.bundle.v0.3+json` and the older
/// `application/vnd.dev.sigstore.bundle+json;version=0.1` (sigstore bundle spec; cosign BUNDLE_SPEC).
pub const BUNDLE_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";
/// Annotation of a bundle's manifest, and of what lists it: its predicate type (cosign BUNDLE_SPEC).
pub const PREDICATE_TYPE: &str = "dev.sigstore.bundle.predicateType";
/// Annotation of such a layer that holds the signature, base64.
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// Whether layers of this media type are signatures or attestations.
pub fn is_evidence(media_type: &str) -> bool {
    media_type.starts_with(BUNDLE_MEDIA_TYPE)
        || [SIGNATURE_MEDIA_TYPE, ATTESTATION_MEDIA_TYPE].contains(&media_type)
}

/// A manifest under one of cosign's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureManifest;

impl SignatureManifest {
    /// The layers of this media type, as [`EvidenceManifest::parse`] reads them.
    pub fn parse(wanted: &str, bytes: &[u8]) -> Result<Vec<SignatureLayer>, SignatureManifestError> {
        Ok(EvidenceManifest::parse(|found| found == wanted, bytes)?.layers)
    }
}

/// A manifest of signatures or attestations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceManifest {
    /// The digest it says it is about (OCI image spec v1.1, `subject`); cosign's tags have none.
    pub subject: Option<Digest>,
    /// The predicate type it says a bundle of it has (cosign BUNDLE_SPEC).
    pub predicate_type: Option<String>,
    /// Its layers of the wanted media types, in its order; none is a valid answer.
    pub layers: Vec<SignatureLayer>,
}

/// One signature as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLayer {
    /// Where the signed payload is. Its size is not yet held to [`limits::PAYLOAD_BYTES`]: whoever fetches it does,
    /// and an image with no better signature is then undecided.
    pub descriptor: Descriptor,
    /// The signature, base64; empty where the annotation is missing, which verifies nothing. Attestations have it in
    /// their envelope.
    pub signature: String,
    /// cosign's other annotations.
    pub annotations: Annotations,
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

impl SignatureLayer {
    /// What its content is evidence of: `bytes` that hash to its digest.
    pub fn into_evidence(self, bytes: Bytes) -> Evidence {
        let Self { descriptor, signature, annotations } = self;
        match descriptor.media_type.as_str() {
            SIGNATURE_MEDIA_TYPE => {
                Evidence::Simple(SimpleSigning { payload: bytes.to_vec(), signature, annotations })
            }
            ATTESTATION_MEDIA_TYPE => Evidence::Attached(Attached { envelope: bytes, annotations }),
            _ => Evidence::Bundle(bytes),
        }
    }
}

impl EvidenceManifest {
    /// Reads a manifest of at most [`limits::MANIFEST_BYTES`]. Layers of other media types share the manifest with some
    /// tools and are left out before anything is counted.
    pub fn parse(wanted: impl Fn(&str) -> bool, bytes: &[u8]) -> Result<Self, SignatureManifestError> {
        let value = json::parse(bytes, "MANIFEST_BYTES", limits::MANIFEST_BYTES)?;
        let known = ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations"];
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
            if media_type.is_some_and(&wanted) {
                layers.push(layer);
            }
        }
        if layers.len() > limits::SIGNATURES {
            return Err(SignatureManifestError::TooMany { found: layers.len() });
        }
        let subject = object.get("subject").map(Descriptor::read).transpose()?.map(|subject| subject.digest);
        let predicate_type = object.strings("annotations")?.remove(PREDICATE_TYPE);
        let layers: Result<Vec<_>, SignatureManifestError> = layers
            .into_iter()
            .map(|layer| {
                let mut descriptor = Descriptor::read(layer)?;
                // Not held to limits::ANNOTATION_BYTES here: one that is too long makes its own signature unreadable, not
                // those beside it. The manifest's limit bounds all of them together.
                let mut annotation =
                    |name| descriptor.annotations.remove(name).filter(|text| !text.is_empty());
                let signature = annotation(SIGNATURE_ANNOTATION).unwrap_or_default();
                let annotations = Annotations {
                    certificate: annotation("dev.sigstore.cosign/certificate"),
                    chain: annotation("dev.sigstore.cosign/chain"),
                    bundle: annotation("dev.sigstore.cosign/bundle"),
                    rfc3161timestamp: annotation("dev.sigstore.cosign/rfc3161timestamp"),
                };
                Ok(SignatureLayer { descriptor, signature, annotations })
            })
            .collect();
        Ok(Self { subject, predicate_type, layers: layers? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

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
        let layers = SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, COSIGN).unwrap();
        assert_eq!(layers.len(), 3);
        assert!(layers.iter().all(|layer| !layer.signature.is_empty() && layer.descriptor.size > 0));
    }

    #[test]
    fn only_signature_layers_count_against_the_limit() {
        let many = |media_type: &str, n| vec![layer(media_type); n];
        let mut layers = many("application/vnd.dsse.envelope.v1+json", 10_000);
        layers.extend(many(SIGNATURE_MEDIA_TYPE, limits::SIGNATURES));
        assert_eq!(
            SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &with_layers(json!(layers))).unwrap().len(),
            limits::SIGNATURES
        );
        let layers = many(SIGNATURE_MEDIA_TYPE, limits::SIGNATURES + 1);
        let error = SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &with_layers(json!(layers))).unwrap_err();
        assert!(error.to_string().contains("limit SIGNATURES"), "{error}");
    }

    #[test]
    fn signature_tag_with_ten_thousand_signatures_is_a_limit_hit_not_unsigned() {
        let layers = vec![layer(SIGNATURE_MEDIA_TYPE); 10_000];
        let error = SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &with_layers(json!(layers))).unwrap_err();
        assert_eq!(error, SignatureManifestError::TooMany { found: 10_000 });
    }

    #[test]
    fn empty_list_is_valid_and_other_documents_are_not() {
        assert_eq!(SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &with_layers(json!([]))), Ok(Vec::new()));
        let text = |change: &str, to: &str| {
            String::from_utf8(with_layers(json!([]))).unwrap().replace(change, to).into_bytes()
        };
        assert!(SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &text("\"layers\"", "\"Layers\"")).is_err());
        assert!(
            SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &text("\"layers\"", "\"manifests\"")).is_err()
        );
        assert!(SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &text(":2", ":1")).is_err());
        assert!(
            SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &text("image.manifest", "image.index")).is_err()
        );
        assert!(SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, b"<html>").is_err());
    }

    #[test]
    fn attestations_are_listed_by_their_own_type_with_all_annotations() {
        let mut attestation = layer(ATTESTATION_MEDIA_TYPE);
        attestation["annotations"] = json!({
            "dev.sigstore.cosign/certificate": "C", "dev.sigstore.cosign/chain": "",
            "dev.sigstore.cosign/bundle": "B", "dev.sigstore.cosign/rfc3161timestamp": "T",
        });
        let manifest = with_layers(json!([layer(SIGNATURE_MEDIA_TYPE), attestation]));
        let found = SignatureManifest::parse(ATTESTATION_MEDIA_TYPE, &manifest).unwrap();
        let text = |text: &str| Some(text.to_owned());
        let annotations = Annotations {
            certificate: text("C"),
            chain: None,
            bundle: text("B"),
            rfc3161timestamp: text("T"),
        };
        assert_eq!(found.iter().map(|layer| &layer.annotations).collect::<Vec<_>>(), [&annotations]);
    }

    #[test]
    fn layer_without_annotation_is_kept_with_an_empty_signature() {
        let bare = json!([{"mediaType": SIGNATURE_MEDIA_TYPE, "digest": Digest::of(b""), "size": 0}]);
        assert_eq!(
            SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &with_layers(bare)).unwrap()[0].signature,
            ""
        );
    }
}
