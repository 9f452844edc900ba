//! What was found about a digest, as found.

use bytes::Bytes;

use super::simple_signing::SimpleSigning;

/// One signature or attestation: bytes from a registry that nobody has checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// From cosign's `.sig` tag: payload, signature and annotations.
    Simple(SimpleSigning),
    /// From cosign's `.att` tag: a DSSE envelope with annotations.
    Attached(Attached),
    /// A sigstore bundle (v0.1 to v0.3), JSON, as a referrer's layer holds it.
    Bundle(Bytes),
}

/// A DSSE envelope as a layer under cosign's `.att` tag holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The layer: the envelope, JSON.
    pub envelope: Bytes,
    /// The layer's annotations.
    pub annotations: Annotations,
}

/// cosign's annotations on a layer, besides the signature (cosign SIGNATURE_SPEC, "Storage"). An empty one is the
/// same as none: cosign writes `""` where it has no chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `dev.sigstore.cosign/certificate`: the signer's certificate, PEM.
    pub certificate: Option<String>,
    /// `dev.sigstore.cosign/chain`: what issued it, PEM.
    pub chain: Option<String>,
    /// `dev.sigstore.cosign/bundle`: Rekor's promise, JSON.
    pub bundle: Option<String>,
    /// `dev.sigstore.cosign/rfc3161timestamp`: a timestamp, JSON.
    pub rfc3161timestamp: Option<String>,
}
