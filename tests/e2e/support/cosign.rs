//! Real cosign, with keys and without any service.

use super::peers::Peers;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// cosign's major versions, which sign differently.
#[derive(Clone, Copy)]
pub enum Version {
    V2,
    /// In the legacy format: a signature tag instead of a bundle.
    V3Legacy,
    /// In its own format: a bundle that refers to the image.
    V3,
}

pub struct Cosign {
    program: PathBuf,
    /// What signing without any service needs.
    alone: Vec<String>,
    dir: PathBuf,
}

/// A key pair; the private half stays in the scratch folder.
pub struct Key {
    private: PathBuf,
    /// The public key, PEM.
    pub public: String,
}

impl Cosign {
    pub fn new(peers: &Peers, version: Version) -> Self {
        let dir = peers.path().join("cosign");
        std::fs::create_dir_all(&dir).unwrap();
        let (program, alone): (_, &[&str]) = match version {
            Version::V2 => ("cosign", &["--tlog-upload=false"]),
            Version::V3Legacy => (
                "cosign3",
                &["--tlog-upload=false", "--new-bundle-format=false", "--use-signing-config=false"],
            ),
            Version::V3 => ("cosign3", &["--allow-http-registry"]),
        };
        let mut alone: Vec<String> = alone.iter().map(|&argument| argument.to_owned()).collect();
        if matches!(version, Version::V3) {
            for (option, media_type) in [
                ("--signing-config", "application/vnd.dev.sigstore.signingconfig.v0.2+json"),
                ("--trusted-root", "application/vnd.dev.sigstore.trustedroot+json;version=0.1"),
            ] {
                let file = dir.join(format!("{}.json", option.trim_start_matches('-')));
                std::fs::write(&file, json!({ "mediaType": media_type }).to_string()).unwrap();
                alone.extend([option.to_owned(), file.display().to_string()]);
            }
        }
        Self { program: peers.program(program), alone, dir }
    }

    /// A new ECDSA P-256 key.
    pub fn generate_key(&self, name: &str) -> Key {
        let prefix = self.dir.join(name);
        self.run(["generate-key-pair", "--output-key-prefix", prefix.to_str().unwrap()]);
        let public = std::fs::read_to_string(prefix.with_extension("pub")).unwrap();
        Key { private: prefix.with_extension("key"), public }
    }

    /// Signs `host/repository@sha256:…`; the signature goes to the same repository.
    pub fn sign(&self, key: &Key, by_digest: &str, extra: &[&str]) {
        let mut args = vec!["sign", "--yes", "--key", key.private.to_str().unwrap()];
        args.extend(self.alone.iter().map(String::as_str));
        args.extend_from_slice(extra);
        args.push(by_digest);
        self.run(args);
    }

    /// Saves an image with its signatures as an OCI layout, a folder that is made.
    pub fn save(&self, by_digest: &str, folder: &Path) {
        self.run(["save", "--dir", folder.to_str().unwrap(), by_digest]);
    }

    /// Verifies as a user would who has the public key.
    pub fn verify(&self, key: &Key, reference: &str) {
        let public = key.private.with_extension("pub");
        self.run(["verify", "--insecure-ignore-tlog=true", "--key", public.to_str().unwrap(), reference]);
    }

    /// Has cosign show this `user:password` to a registry.
    pub fn log_in(&self, registry: &str, login: &str) {
        let docker = self.dir.join(".docker");
        std::fs::create_dir_all(&docker).unwrap();
        let config = json!({"auths": {registry: {"auth": STANDARD.encode(login)}}});
        std::fs::write(docker.join("config.json"), config.to_string()).unwrap();
    }

    fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) {
        let output = Command::new(&self.program)
            .args(args)
            .env("HOME", &self.dir)
            .env("COSIGN_PASSWORD", "")
            .output()
            .unwrap();
        assert!(output.status.success(), "cosign: {}", String::from_utf8_lossy(&output.stderr));
    }
}
