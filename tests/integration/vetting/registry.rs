//! A registry on loopback that holds what a test pushes, and misbehaves as told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crivet::image::Digest;
use serde_json::{Value, json};

use super::signer::{Signed, Signer};
use crate::registry::fake::{Fake, Reply, Seen, later, reply};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

type Answer = Arc<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

/// An image of one layer.
#[derive(Clone)]
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    chain: String,
}

impl Image {
    /// An image that is another for each `word`.
    pub fn new(word: &str) -> Image {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let chain = digest_of(word.as_bytes());
        let config = json!({"architecture": architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [chain]}})
        .to_string();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest_of(config.as_bytes()), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": chain, "size": word.len()}]});
        Image { manifest: manifest.to_string().into_bytes(), config: config.into_bytes(), chain }
    }

    /// The manifest's digest.
    pub fn digest(&self) -> String {
        digest_of(&self.manifest)
    }

    /// The image ID: the config's digest.
    pub fn id(&self) -> String {
        digest_of(&self.config)
    }

    /// The chain ID of its layers: with one layer, its diff ID.
    pub fn chain(&self) -> String {
        self.chain.clone()
    }
}

pub fn digest_of(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

#[derive(Default)]
struct State {
    held: HashMap<String, Bytes>,
    instead: Option<Answer>,
    pause: Option<Duration>,
}

pub struct Registry {
    fake: Fake,
    state: Arc<Mutex<State>>,
}

impl Registry {
    pub async fn start() -> Registry {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let fake = Fake::new(move |seen| {
            let (instead, held, pause) = {
                let state = shared.lock().unwrap();
                (state.instead.clone(), state.held.get(&seen.path).cloned(), state.pause)
            };
            let answer = instead.and_then(|answer| answer(seen)).unwrap_or_else(|| well(seen, held));
            match pause {
                Some(pause) => later(pause, answer),
                None => answer,
            }
        })
        .await;
        let registry = Registry { fake, state };
        registry.put("/v2/".to_owned(), "{}");
        registry
    }

    pub fn host(&self) -> String {
        self.fake.host()
    }

    /// From now on answers as told; what is told `None` it answers well.
    pub fn instead(&self, answer: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) {
        self.state.lock().unwrap().instead = Some(Arc::new(answer));
    }

    /// From now on takes so long for each answer.
    pub fn slow(&self, pause: Duration) {
        self.state.lock().unwrap().pause = Some(pause);
    }

    /// From now on answers well again.
    pub fn well(&self) {
        let mut state = self.state.lock().unwrap();
        (state.instead, state.pause) = (None, None);
    }

    /// Requests so far, as `METHOD path`.
    pub fn asked(&self) -> Vec<String> {
        self.fake.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    /// Requests so far, as they came.
    pub fn seen(&self) -> Vec<Seen> {
        self.fake.seen()
    }

    fn put(&self, path: String, bytes: impl Into<Bytes>) {
        self.state.lock().unwrap().held.insert(path, bytes.into());
    }

    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        for name in [tag, &image.digest()] {
            self.put_manifest(repository, name, image.manifest.clone());
        }
        self.put_blob(repository, image.config.clone());
    }

    pub fn put_manifest(&self, repository: &str, name: &str, bytes: impl Into<Bytes>) {
        self.put(format!("/v2/{repository}/manifests/{name}"), bytes);
    }

    pub fn put_blob(&self, repository: &str, bytes: Vec<u8>) {
        self.put(format!("/v2/{repository}/blobs/{}", digest_of(&bytes)), bytes);
    }

    /// Signs an image in its own repository.
    pub fn sign(&self, repository: &str, image: &Image, signer: &Signer) {
        let digest = image.digest();
        let signed = signer.sign(&digest, &format!("{}/{repository}", self.host()));
        self.put_signatures(repository, &digest, &[signed]);
    }

    /// cosign's tag scheme, with these signatures on `digest`.
    pub fn put_signatures(&self, repository: &str, digest: &str, signatures: &[Signed]) {
        let layers: Vec<_> = signatures.iter().map(|one| self.signature(repository, one)).collect();
        self.put_signature_layers(repository, digest, &layers);
    }

    fn signature(&self, repository: &str, signed: &Signed) -> Value {
        self.put_blob(repository, signed.payload.clone());
        json!({"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": digest_of(&signed.payload), "size": signed.payload.len(),
            "annotations": {"dev.cosignproject.cosign/signature": signed.signature}})
    }

    pub fn put_signature_layers(&self, repository: &str, digest: &str, layers: &[Value]) {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest_of(b"{}"), "size": 2},
            "layers": layers});
        self.put_manifest(repository, &signature_tag(digest), manifest.to_string());
    }
}

pub fn signature_tag(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

fn well(seen: &Seen, held: Option<Bytes>) -> Reply {
    let Some(bytes) = held else {
        return reply(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}"#);
    };
    let (digest, length) = (digest_of(&bytes), bytes.len().to_string());
    let headers = [("content-type", MANIFEST), ("docker-content-digest", &digest)];
    match seen.method.as_str() {
        "HEAD" => reply(200, &[headers[0], headers[1], ("content-length", &length)], ""),
        _ => reply(200, &headers, bytes),
    }
}
