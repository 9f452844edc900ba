//! A trusted root made of a policy's own keys and certificates, for dialects that have no name for one. No I/O.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::keys::KeyDetails;
use super::root::Root;
use super::source::{Given, RootSource};
use crate::image::Digest;

/// A root of these certificate authorities (DER), each trusted by itself, and of these transparency logs
/// (SubjectPublicKeyInfo, DER). `place` is where they are written, `file:line`. The same material has the same name
/// wherever it is written.
///
/// # Errors
/// One line: a kind of key that crivet cannot verify with, or more than a limit allows.
pub fn of_own(authorities: &[&[u8]], logs: &[&[u8]], place: String) -> Result<RootSource, String> {
    let authorities: Vec<Value> = authorities.iter().copied().map(authority).collect();
    let logs: Vec<Value> = logs.iter().copied().map(log).collect::<Result<_, String>>()?;
    let document = json!({
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": logs,
        "certificateAuthorities": authorities,
    });
    let bytes = document.to_string().into_bytes();
    Root::parse(&bytes).map_err(|error| error.to_string())?;
    let hash: String = Digest::of(&bytes).hex().chars().take(16).collect();
    Ok(RootSource {
        name: format!("policy-{hash}"),
        given: Some(Given::Inline(bytes.into())),
        tuf: None,
        document: Some(place),
    })
}

/// It counts as long as its certificate.
fn authority(der: &[u8]) -> Value {
    json!({
        "subject": {"organization": "", "commonName": ""},
        "uri": "",
        "certChain": {"certificates": [{"rawBytes": STANDARD.encode(der)}]},
    })
}

/// Its key counts from the beginning: policies that name a bare key have no window for it.
fn log(spki: &[u8]) -> Result<Value, String> {
    let details = KeyDetails::of_spki(spki)
        .ok_or_else(|| "expected a log's key of ECDSA, Ed25519 or RSA, found another".to_owned())?;
    Ok(json!({
        "baseUrl": "",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": STANDARD.encode(spki),
            "keyDetails": details.name,
            "validFor": {"start": "1970-01-01T00:00:00Z"},
        },
        // RFC 6962, 3.2; Rekor v1 the same.
        "logId": {"keyId": STANDARD.encode(Digest::of(spki).raw())},
    }))
}
