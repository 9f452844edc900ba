//! What real tools signed, as tests here take it (tests/fixtures/README.md).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::image::Digest;
use crate::trust::{Origin, Root, State, Trust};

/// The name of the root in a fixture's trust.
pub(crate) const ROOT: &str = "given";

/// One signed image.
pub(crate) struct Fixture {
    pub name: String,
    pub dir: PathBuf,
    /// Those the image has: its own first, and of an index the platforms'.
    pub digests: Vec<Digest>,
    pub evidence: Vec<Evidence>,
    pub authorities: Vec<Authority>,
    pub trust: Trust,
}

/// After the fixtures were made, and before the private CA's certificates end.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

pub(crate) fn names() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sigstore");
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = entries
        .filter(|path| path.join("case.json").exists())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

pub(crate) fn trust_of(root: Root) -> Trust {
    let state = State {
        source: "a fixture".to_owned(),
        kind: "file",
        root: Some(Arc::new(root)),
        origin: Origin::Source,
        at: None,
        expires: None,
        error: None,
        failures: 0,
        kept: None,
    };
    Trust::new([(ROOT.to_owned(), state)])
}

impl Fixture {
    pub fn load(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sigstore").join(name);
        let case: Value = serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
        let mut blobs = BTreeMap::new();
        let mut manifests = Vec::new();
        for stored in case["stored"].as_array().unwrap() {
            let bytes = fs::read(dir.join(stored["file"].as_str().unwrap())).unwrap();
            if stored["mediaType"].as_str().is_some_and(|kind| kind.contains("manifest.v1")) {
                manifests.push(bytes.clone());
            }
            blobs.insert(Digest::of(&bytes), bytes);
        }
        let evidence = manifests.iter().flat_map(|manifest| evidence(manifest, &blobs)).collect();
        let trust = match fs::read(dir.join("trusted_root.json")) {
            Ok(bytes) => trust_of(Root::parse(&bytes).unwrap()),
            Err(_) => Trust::default(),
        };
        let digest = Digest::parse(case["digest"].as_str().unwrap()).unwrap();
        let image: Value = serde_json::from_slice(&blobs[&digest]).unwrap();
        let children = image["manifests"].as_array().into_iter().flatten();
        let children = children.map(|child| Digest::parse(child["digest"].as_str().unwrap()).unwrap());
        let digests = std::iter::once(digest).chain(children).collect();
        let authorities = authorities(name, &dir, &case);
        Self { name: name.to_owned(), dir, digests, evidence, authorities, trust }
    }

    /// What is sought of it.
    pub fn verify(
        &self,
        evidence: &Evidence,
        authority: &Authority,
        sought: &Sought<'_>,
    ) -> Result<Verified, Failure> {
        verify(evidence, authority, sought, &self.digests, &self.trust, now())
    }

    pub fn is_attestation(&self) -> bool {
        self.name.starts_with("attest-")
    }

    /// The one piece of evidence and the one authority of most cases.
    pub fn one(&self) -> (&Evidence, &Authority) {
        assert_eq!((self.evidence.len(), self.authorities.len()), (1, 1), "{}", self.name);
        (&self.evidence[0], &self.authorities[0])
    }

    /// Its bundle, parsed, to break something.
    pub fn bundle(&self) -> Value {
        match self.one().0 {
            Evidence::Bundle(bytes) => serde_json::from_slice(bytes).unwrap(),
            other => panic!("{}: {other:?}", self.name),
        }
    }
}

/// All predicate types there are in the fixtures.
pub(crate) fn predicate_types() -> Vec<String> {
    [
        "https://slsa.dev/provenance/v1",
        "https://slsa.dev/provenance/v0.2",
        "https://spdx.dev/Document",
        "https://cyclonedx.org/bom",
        "https://cosign.sigstore.dev/attestation/vuln/v1",
        "https://cosign.sigstore.dev/attestation/v1",
        "https://example.com/review/v1",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn evidence(manifest: &[u8], blobs: &BTreeMap<Digest, Vec<u8>>) -> Vec<Evidence> {
    let mut found = Vec::new();
    for layer in SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, manifest).unwrap_or_default() {
        let SignatureLayer { descriptor, signature, annotations } = layer;
        let payload = blobs[&descriptor.digest].clone();
        found.push(Evidence::Simple(SimpleSigning { payload, signature, annotations }));
    }
    for layer in SignatureManifest::parse(ATTESTATION_MEDIA_TYPE, manifest).unwrap_or_default() {
        let envelope = Bytes::from(blobs[&layer.descriptor.digest].clone());
        found.push(Evidence::Attached(Attached { envelope, annotations: layer.annotations }));
    }
    for media_type in [
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
    ] {
        for layer in SignatureManifest::parse(media_type, manifest).unwrap_or_default() {
            found.push(Evidence::Bundle(Bytes::from(blobs[&layer.descriptor.digest].clone())));
        }
    }
    found
}

fn authorities(name: &str, dir: &Path, case: &Value) -> Vec<Authority> {
    let witness = |there: bool| Witness { count: there.into(), root: Some(ROOT.to_owned()) };
    let witnesses =
        Witnesses { logs: witness(name.contains("rekor")), timestamps: witness(name.contains("tsa")) };
    let pem = |file: &str| {
        let pem = fs::read_to_string(dir.join(file)).ok();
        pem.map_or_else(Vec::new, |pem| Certificate::from_pem(&pem).unwrap())
    };
    if dir.join("ca-root.pem").exists() {
        let subject = Matcher::Exact(case["identity"]["subject"].as_str().unwrap().to_owned());
        return vec![Authority::Pki(PkiAuthority {
            name: None,
            roots: pem("ca-root.pem"),
            intermediates: pem("ca-intermediate.pem"),
            subjects: vec![PkiSubject { subject: Some(subject), ..PkiSubject::default() }],
            witnesses,
        })];
    }
    if let Some(identity) = case["identity"].as_object() {
        let exact = |key: &str| Matcher::Exact(identity[key].as_str().unwrap().to_owned());
        return vec![Authority::Keyless(KeylessAuthority {
            name: None,
            root: ROOT.to_owned(),
            identities: vec![Identity {
                issuer: exact("issuer"),
                subject: exact("subject"),
                by_email: false,
                claims: Vec::new(),
            }],
            sct: true,
            witnesses,
        })];
    }
    ["cosign.pub", "cosign-1.pub", "cosign-2.pub"]
        .iter()
        .filter_map(|file| fs::read(dir.join(file)).ok())
        .map(|pem| {
            let key = PublicKey::from_pem(&pem).unwrap();
            Authority::Key(KeyAuthority { name: None, key, witnesses: witnesses.clone() })
        })
        .collect()
}
