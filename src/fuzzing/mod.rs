//! What the fuzz targets under `fuzz/` run: for each a function that panics where something does not hold that has to, and
//! the inputs it starts from. Built for fuzzing and for tests, which run all of those inputs; in no binary that ships.

// As in tests: what must hold is said by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::image::json;
use crate::image::layer::fuzzing as layer;
use crate::image::manifest::{Descriptor, Document, ImageConfig};
use crate::image::{Digest, ImageName, Platform, Reference};
use crate::policy::{NO_LABELS, Policy, PolicySet, SourceFile, Subject};
use crate::policy::{fuzzing as conditions, rego_fuzzing as rego};
use crate::registry::credentials::{Answer, DockerConfig, matches, read_providers};
use crate::registry::hosts::fuzzing as hosts;
use crate::verify::fuzzing as verify;
use crate::{limits, trust, yaml};

/// A fuzz target.
pub struct Target {
    /// Its name, and that of its folders of inputs.
    pub name: &'static str,
    /// Runs one input: whether it is accepted.
    ///
    /// # Panics
    /// If something does not hold that has to.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that come from other places than `fuzz/seeds/<name>`.
    made: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// The inputs it starts from.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        let mut seeds = (self.made)();
        seeds.extend(read_all(&root().join("fuzz/seeds").join(self.name)));
        seeds
    }
}

macro_rules! targets {
    ($($(#[$doc:meta])* $target:ident: $name:literal, $run:expr, $seeds:expr;)*) => {
        $($(#[$doc])* pub const $target: Target = Target { name: $name, run: $run, made: $seeds };)*
        /// All of them.
        pub const TARGETS: &[Target] = &[$($target),*];
    };
}

targets! {
    /// A sigstore bundle.
    BUNDLE: "bundle", verify::bundle, verify::bundle_seeds;
    /// What cosign keeps under `.sig` and `.att`.
    LEGACY: "legacy", verify::legacy, verify::legacy_seeds;
    /// Simple signing's payload, and an in-toto statement.
    PAYLOAD: "payload", verify::payload, verify::payload_seeds;
    /// A signer's certificate.
    CERTIFICATE: "certificate", verify::certificate, verify::certificate_seeds;
    /// An RFC 3161 timestamp.
    TIMESTAMP: "timestamp", verify::stamp, verify::stamp_seeds;
    /// The body of a transparency log's entry.
    LOG_ENTRY: "log_entry", verify::log_entry, verify::log_entry_seeds;
    /// A `trusted_root.json`.
    TRUSTED_ROOT: "trusted_root", verify::trusted_root, verify::trusted_root_seeds;
    /// The archive in a TrustRoot document.
    MIRROR: "mirror", mirror, mirror_seeds;
    /// containerd's `hosts.toml`.
    HOSTS_TOML: "hosts_toml", hosts::hosts_toml, Vec::new;
    /// containers-registries.conf.
    REGISTRIES_CONF: "registries_conf", hosts::registries_conf, Vec::new;
    /// Manifests of images and of signatures, indexes, image configs.
    MANIFEST: "manifest", manifest, manifest_seeds;
    /// An image reference.
    REFERENCE: "reference", reference, Vec::new;
    /// Policies and TrustRoots of all kinds.
    POLICY: "policy", policy, policy_seeds;
    /// A condition of a policy, and the predicate that it is about.
    CONDITION: "condition", conditions::condition, conditions::condition_seeds;
    /// A policy in Rego, and what it is given.
    REGO: "rego", rego::rego, rego::rego_seeds;
    /// docker's `config.json`, the kubelet's credential providers and their answers.
    LOGINS: "logins", logins, Vec::new;
    /// A layer's archive, plain or compressed.
    LAYER: "layer", layer::layer, Vec::new;
    /// What tar-split wrote down of a layer's archive.
    TAR_SPLIT: "tar_split", layer::tar_split, Vec::new;
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The files of a folder and those below it, in the order of their names. Nothing where there is no folder.
fn read_all(dir: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &PathBuf| if path.is_dir() { read_all(path) } else { vec![fs::read(path).unwrap()] };
    paths.iter().flat_map(read).collect()
}

/// What a message has to be: one line, of a length that fits into a pod's status, and harmless to a terminal.
pub(crate) fn one_line(text: &str) {
    const MOST: usize = 4096;
    assert!(text.len() <= MOST, "a message of {} bytes: {text}", text.len());
    assert!(!text.chars().any(char::is_control), "a message with controls: {text:?}");
}

fn mirror(data: &[u8]) -> bool {
    match trust::unpack(data) {
        Ok(files) => {
            assert!(files.len() <= limits::MIRROR_FS_FILES);
            assert!(files.values().map(|file| file.len()).sum::<usize>() <= limits::MIRROR_FS_BYTES);
            true
        }
        Err(why) => {
            one_line(&why);
            false
        }
    }
}

fn mirror_seeds() -> Vec<Vec<u8>> {
    let text = fs::read_to_string(root().join("tests/fixtures/tuf/documents/repository.yaml")).unwrap();
    let document: Value = yaml::documents(&text)[0].read().unwrap();
    let packed = document.pointer("/spec/repository/mirrorFS").and_then(Value::as_str).unwrap();
    vec![STANDARD.decode(packed.split_ascii_whitespace().collect::<String>()).unwrap()]
}

/// Strict JSON, read by a reader that takes the last of two keys and does not mind their case, as Go's does.
fn as_go_reads<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let found = value.as_object()?.iter().filter(|(name, _)| name.to_lowercase() == key.to_lowercase());
    found.map(|(_, value)| value).next_back()
}

fn digests_as_go_reads(list: Option<&Value>) -> Vec<String> {
    let entries = list.and_then(Value::as_array).into_iter().flatten();
    let digest = |entry| Some(as_go_reads(entry, "digest")?.as_str()?.to_owned());
    entries.filter_map(digest).collect()
}

fn manifest(data: &[u8]) -> bool {
    let texts = |all: &[Descriptor]| all.iter().map(|one| one.digest.to_string()).collect::<Vec<_>>();
    let strict = json::parse(data, "MANIFEST_BYTES", limits::MANIFEST_BYTES);
    match (&strict, serde_json::from_slice::<Value>(data)) {
        (Ok(strict), Ok(lenient)) => assert_eq!(strict, &lenient, "two readings"),
        (Ok(_), Err(error)) => panic!("strict, but not lenient: {error}"),
        (Err(error), _) => one_line(&error.to_string()),
    }
    let document = match Document::parse(data) {
        Ok(document) => {
            let value = strict.as_ref().expect("a document without JSON");
            match &document {
                Document::Index(index) => {
                    assert_eq!(texts(&index.manifests), digests_as_go_reads(as_go_reads(value, "manifests")));
                    assert_eq!(as_go_reads(value, "config"), None);
                }
                Document::Manifest(manifest) => {
                    let config = as_go_reads(value, "config").into_iter().cloned().collect();
                    let config = Value::Array(config);
                    assert_eq!(vec![manifest.config.digest.to_string()], digests_as_go_reads(Some(&config)));
                    assert_eq!(texts(&manifest.layers), digests_as_go_reads(as_go_reads(value, "layers")));
                    assert_eq!(as_go_reads(value, "manifests"), None);
                }
            }
            true
        }
        Err(error) => {
            one_line(&error.to_string());
            false
        }
    };
    let config = match ImageConfig::parse(data) {
        Ok(config) => {
            assert!(!config.diff_ids().is_empty());
            config.chain_id();
            let _: &Platform = config.platform();
            true
        }
        Err(error) => {
            one_line(&error.to_string());
            false
        }
    };
    let evidence = verify::evidence_manifest(data);
    document || config || evidence
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let is_one = |bytes: &Vec<u8>| {
        json::parse(bytes, "", limits::MANIFEST_BYTES)
            .is_ok_and(|value| ["layers", "manifests", "rootfs"].iter().any(|key| value.get(key).is_some()))
    };
    let mut seeds = Vec::new();
    for folder in ["sigstore", "simple-signing"] {
        seeds.extend(read_all(&root().join("tests/fixtures").join(folder)).into_iter().filter(is_one));
    }
    // Most of them are alike.
    seeds.sort_by_key(Vec::len);
    seeds.dedup_by_key(|seed| seed.len());
    seeds
}

fn reference(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if let Err(error) = Digest::parse(text) {
        one_line(&error.to_string());
    }
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if let Ok(name) = Reference::parse_as_written(text) {
        assert!(plain(&name.to_string()));
    }
    match ImageName::parse(text) {
        Ok(ImageName::Reference(reference)) => {
            let shown = reference.to_string();
            assert!(plain(&shown), "{shown:?}");
            assert_eq!(Reference::parse(&shown).as_ref(), Ok(&reference), "{shown}");
            assert!(reference.tag().is_some() || reference.digest().is_some());
            assert!(!reference.repository().is_empty() && !reference.registry().contains('/'));
            true
        }
        Ok(ImageName::Id(id)) => {
            assert_eq!(ImageName::parse(&id.to_string()), Ok(ImageName::Id(id)));
            true
        }
        Ok(ImageName::Empty) => text.is_empty(),
        Err(error) => {
            one_line(&error.to_string());
            false
        }
    }
}

fn policy(data: &[u8]) -> bool {
    // By its name a file of JSON may be a containers-policy.json.
    let name = if data.starts_with(b"{") { "a.json" } else { "a.yaml" };
    let file = SourceFile { name: name.to_owned(), bytes: data.to_vec() };
    let set = match PolicySet::compile(std::slice::from_ref(&file)) {
        Ok(set) => set,
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            assert!(errors.len() <= limits::POLICY_ERRORS);
            errors.iter().for_each(|error| one_line(&error.to_string()));
            return false;
        }
    };
    let digest = Digest::of(b"");
    let names = ["", "app", "r.io/team/app:v1", "registry.example/team/app@", &digest.hex()].map(|name| {
        let digest = if name.ends_with('@') { digest.to_string() } else { String::new() };
        ImageName::parse(&format!("{name}{digest}")).unwrap()
    });
    for name in &names {
        for namespace in [None, Some("default")] {
            let subject = Subject { name, namespace, labels: &NO_LABELS, is_pause: false };
            let applicable = set.applicable(&subject);
            assert!(applicable.len() <= set.len());
            assert!(set.adding(&subject).is_empty(), "added without a label");
            for labels in set.policies().iter().map(Policy::pod_labels) {
                // Whatever a pod's author writes, what holds without it holds.
                let labelled = Subject { labels, ..subject };
                let names =
                    |policies: Vec<&Policy>| policies.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>();
                assert_eq!(names(set.applicable(&labelled)), names(set.applicable(&subject)));
            }
            if set.denies(&subject, &[digest], |_| true).is_some() {
                assert!(set.may_deny(&subject).next().is_some(), "denied, and no policy may");
            }
        }
    }
    set.samples("x");
    let once_more = PolicySet::compile(&[file]).expect("compiled once, but not twice");
    assert_eq!((once_more.hash(), once_more.len()), (set.hash(), set.len()));
    assert_eq!(once_more.trust_roots(), set.trust_roots());
    true
}

fn policy_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for folder in ["policy", "tests/fixtures/tuf/documents", "examples/demo"] {
        seeds.extend(
            read_all(&root().join(folder))
                .into_iter()
                .filter(|bytes| is_yaml(bytes) || bytes.starts_with(b"{")),
        );
    }
    seeds
}

fn is_yaml(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.lines().any(|line| line.starts_with("apiVersion:")))
}

/// A document with a secret of ours in place of each text that a login has; what a fuzzer writes there may as well be a word of
/// our own messages.
fn with_secrets(document: Value, secrets: &mut Vec<String>) -> Value {
    const FIELDS: [&str; 5] = ["auth", "username", "password", "identitytoken", "registrytoken"];
    match document {
        Value::Object(map) => {
            let mut marked = serde_json::Map::new();
            for (key, value) in map {
                let value = match value {
                    Value::String(text) if FIELDS.contains(&key.as_str()) => {
                        Value::String(secret(&key, &text, secrets))
                    }
                    other => with_secrets(other, secrets),
                };
                marked.insert(key, value);
            }
            Value::Object(marked)
        }
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| with_secrets(item, secrets)).collect())
        }
        other => other,
    }
}

fn secret(key: &str, text: &str, secrets: &mut Vec<String>) -> String {
    if text.is_empty() {
        return String::new();
    }
    let secret = format!("secret-{}-of-a-login", secrets.len());
    secrets.push(secret.clone());
    if key != "auth" || !STANDARD.decode(text).is_ok_and(|decoded| decoded.contains(&b':')) {
        return secret;
    }
    let encoded = STANDARD.encode(format!("{secret}:{secret}"));
    secrets.push(encoded.clone());
    encoded
}

fn logins(data: &[u8]) -> bool {
    if let Ok(document) = serde_json::from_slice(data) {
        let mut secrets = Vec::new();
        let marked = with_secrets(document, &mut secrets).to_string();
        read_logins(marked.as_bytes(), &secrets);
    }
    read_logins(data, &[])
}

/// Reads it as each of the documents with logins; no message tells one of the secrets.
fn read_logins(data: &[u8], secrets: &[String]) -> bool {
    let harmless = |text: &str| {
        one_line(text);
        let told = secrets.iter().find(|secret| text.contains(secret.as_str()));
        assert_eq!(told, None, "told in {text:?}");
    };
    let mut any = false;
    for legacy in [false, true] {
        match DockerConfig::read(data, legacy, &"config.json".into()) {
            Ok(config) => {
                config.left_out.iter().for_each(|line| harmless(line));
                for repository in ["registry.example/team/app", "docker.io/library/app"] {
                    config.keyring.lookup(repository);
                }
                any = true;
            }
            Err(error) => harmless(&error.to_string()),
        }
    }
    match read_providers(data) {
        Ok(providers) => {
            for provider in &providers {
                let images = &provider.match_images;
                let covers = |image: &&String| matches(image, "registry.example/team/app");
                assert!(!images.iter().filter(covers).any(String::is_empty), "nothing covers something");
                let name = &provider.name;
                assert!(!name.is_empty() && !name.contains('/') && name != "." && name != "..", "{name:?}");
            }
            any = true;
        }
        Err(fault) => one_line(&fault.text),
    }
    match Answer::read(data, "credentialprovider.kubelet.k8s.io/v1", "registry.example/team/app") {
        Ok(answer) => {
            drop(answer);
            any = true;
        }
        Err(error) => harmless(&error.to_string()),
    }
    any
}
