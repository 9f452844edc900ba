//! Fuzz targets for what verifies. Each but the last starts from one of the fixtures, named in the input's first line, and
//! the rest of the input stands for a part of it. What still holds then has to say what the real signature says.

use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sigstore_verify::types::pae;

use super::chain::{Issuer, Usage};
use super::entry::{Expected, Message, Verifier};
use super::fixture::{Fixture, ROOT, names, now, predicate_types, trust_of};
use super::legacy::Wanted;
use super::signed::{Content, Material, Signed};
use super::statement::{PAYLOAD_TYPE, Statement};
use super::*;
use crate::fuzzing::one_line;
use crate::trust::{Root, Trust};

/// A fixture, and what of it verifies.
struct World {
    fixture: Fixture,
    genuine: Vec<Verified>,
}

static WORLDS: LazyLock<BTreeMap<String, OnceLock<World>>> =
    LazyLock::new(|| names().into_iter().map(|name| (name, OnceLock::new())).collect());

/// The fixture that the input names, and the rest of the input.
fn world(data: &[u8]) -> Option<(&'static World, &[u8])> {
    let (name, rest) = data.split_at_checked(data.iter().position(|byte| *byte == b'\n')?)?;
    let slot = WORLDS.get(std::str::from_utf8(name).ok()?)?;
    Some((slot.get_or_init(|| World::load(std::str::from_utf8(name).unwrap())), rest.get(1..)?))
}

fn worlds() -> impl Iterator<Item = &'static World> {
    WORLDS.iter().map(|(name, slot)| slot.get_or_init(|| World::load(name)))
}

/// An input about a fixture.
fn input(world: &World, rest: &[u8]) -> Vec<u8> {
    [world.fixture.name.as_bytes(), b"\n", rest].concat()
}

impl World {
    fn load(name: &str) -> Self {
        let fixture = Fixture::load(name);
        let types = predicate_types();
        let kinds = [Sought::Signature, Sought::Attestation { predicate_types: &types }];
        let mut genuine = Vec::new();
        for evidence in &fixture.evidence {
            for authority in &fixture.authorities {
                let held = kinds.iter().map(|sought| fixture.verify(evidence, authority, sought));
                genuine.extend(held.filter_map(Result::ok));
            }
        }
        Self { fixture, genuine }
    }

    /// Verifies evidence in the place of the fixture's own: whether it holds.
    fn hold(&self, evidence: &Evidence, trust: &Trust) -> bool {
        let types = predicate_types();
        let kinds = [Sought::Signature, Sought::Attestation { predicate_types: &types }];
        let mut any = false;
        for authority in &self.fixture.authorities {
            let mut held = 0;
            for sought in &kinds {
                match verify(evidence, authority, sought, &self.fixture.digests, trust, now()) {
                    Ok(found) => {
                        if let Err(what) = self.says_the_same(&found, authority) {
                            panic!("{}: {what}: {found:?}", self.fixture.name);
                        }
                        held += 1;
                    }
                    Err(failure) => {
                        one_line(&failure.to_string());
                        // Which of the two is sought makes a difference from there on only.
                        if failure.step < Step::Type {
                            break;
                        }
                    }
                }
            }
            assert!(held < 2, "{}: a signature and an attestation at once", self.fixture.name);
            any |= held > 0;
        }
        any
    }

    /// Whether some genuine signature of the fixture says all of this: bytes may differ, not what follows from them.
    fn says_the_same(&self, found: &Verified, authority: &Authority) -> Result<(), &'static str> {
        let mut found = found.clone();
        // A log's promise is not asked for: without it a certificate of one's own CA holds by the clock, until it ends.
        if matches!(authority, Authority::Pki(_)) && found.until.is_some() {
            found.times.retain(|time| time.source != TimeSource::Clock);
            found.until = None;
        }
        let checks: [(&'static str, Same); 6] = [
            ("another digest", |a, b| a.digest == b.digest),
            ("another signer", |a, b| a.signer == b.signer),
            ("another repository", |a, b| a.docker_reference == b.docker_reference),
            ("other annotations", |a, b| a.annotations == b.annotations),
            ("another predicate", |a, b| a.predicate == b.predicate),
            // Some may have been taken away, as far as the authority allows it.
            ("another time, log or timestamp authority", |a, b| {
                a.times.iter().all(|time| b.times.contains(time))
                    && a.logs.iter().all(|log| b.logs.contains(log))
                    && a.timestamp_authorities.iter().all(|one| b.timestamp_authorities.contains(one))
                    && (a.until.is_none() || a.until == b.until)
            }),
        ];
        let mut left: Vec<&Verified> = self.genuine.iter().collect();
        for (what, same) in checks {
            left.retain(|genuine| same(&found, genuine));
            if left.is_empty() {
                return Err(what);
            }
        }
        Ok(())
    }

    fn signed(&self) -> impl Iterator<Item = Signed> {
        self.fixture.evidence.iter().filter_map(|evidence| read(evidence).ok())
    }
}

type Same = fn(&Verified, &Verified) -> bool;

fn read(evidence: &Evidence) -> Result<Signed, signed::Problem> {
    let wanted = Wanted { certificate: true, log: true, timestamp: true };
    match evidence {
        Evidence::Simple(signing) => legacy::simple(signing, wanted),
        Evidence::Attached(attached) => legacy::attached(attached, wanted),
        Evidence::Bundle(bytes) => bundle::read(bytes),
    }
}

/// A bundle: whether it holds.
pub(crate) fn bundle(data: &[u8]) -> bool {
    let Some((world, rest)) = world(data) else { return false };
    world.hold(&Evidence::Bundle(Bytes::copy_from_slice(rest)), &world.fixture.trust)
}

pub(crate) fn bundle_seeds() -> Vec<Vec<u8>> {
    let bundles = |world: &'static World| {
        world.fixture.evidence.iter().filter_map(|evidence| match evidence {
            Evidence::Bundle(bytes) => Some(input(world, bytes)),
            _ => None,
        })
    };
    worlds().flat_map(bundles).collect()
}

/// What is under cosign's tags, in one document.
#[derive(Serialize, Deserialize)]
struct Legacy {
    #[serde(skip_serializing_if = "Option::is_none")]
    envelope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(default)]
    signature: String,
    certificate: Option<String>,
    chain: Option<String>,
    bundle: Option<String>,
    rfc3161timestamp: Option<String>,
}

/// A payload or an envelope, with annotations: whether it holds.
pub(crate) fn legacy(data: &[u8]) -> bool {
    let Some((world, rest)) = world(data) else { return false };
    let Ok(written) = serde_json::from_slice::<Legacy>(rest) else { return false };
    let Legacy { envelope, payload, signature, certificate, chain, bundle, rfc3161timestamp } = written;
    let annotations = Annotations { certificate, chain, bundle, rfc3161timestamp };
    let evidence = match envelope {
        Some(envelope) => Evidence::Attached(Attached { envelope: envelope.into(), annotations }),
        None => {
            let payload = payload.unwrap_or_default().into_bytes();
            Evidence::Simple(SimpleSigning { payload, signature, annotations })
        }
    };
    world.hold(&evidence, &world.fixture.trust)
}

pub(crate) fn legacy_seeds() -> Vec<Vec<u8>> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let written = |world: &'static World| {
        world.fixture.evidence.iter().filter_map(move |evidence| {
            let (envelope, payload, signature, annotations) = match evidence {
                Evidence::Simple(s) => (None, text(&s.payload), s.signature.clone(), s.annotations.clone()),
                Evidence::Attached(a) => (text(&a.envelope), None, String::new(), a.annotations.clone()),
                Evidence::Bundle(_) => return None,
            };
            let Annotations { certificate, chain, bundle, rfc3161timestamp } = annotations;
            let written =
                Legacy { envelope, payload, signature, certificate, chain, bundle, rfc3161timestamp };
            Some(input(world, &serde_json::to_vec(&written).unwrap()))
        })
    };
    worlds().flat_map(written).collect()
}

/// A trusted root: whether the fixture holds with it.
pub(crate) fn trusted_root(data: &[u8]) -> bool {
    let Some((world, rest)) = world(data) else { return false };
    let root = match Root::parse(rest) {
        Ok(root) => root,
        Err(error) => {
            one_line(&error.to_string());
            return false;
        }
    };
    root.left_out().iter().for_each(|line| one_line(line));
    // What is kept on disk is written from this, and has to come back as the same.
    let written = serde_json::to_vec(root.material()).unwrap();
    let again = Root::parse(&written).unwrap_or_else(|error| panic!("read, written, and then: {error}"));
    assert_eq!(again.version(), root.version(), "another version once written");
    assert_eq!(again.logs(), root.logs(), "other logs once written");
    let trust = trust_of(root);
    // Another root may well vouch for less, or by others, but not for something else.
    let witnesses = |found: &Verified| found.times.len() + found.logs.len();
    let types = predicate_types();
    let sought = match world.fixture.is_attestation() {
        true => Sought::Attestation { predicate_types: &types },
        false => Sought::Signature,
    };
    let mut any = false;
    for evidence in &world.fixture.evidence {
        for authority in &world.fixture.authorities {
            match verify(evidence, authority, &sought, &world.fixture.digests, &trust, now()) {
                Ok(found) => {
                    let same = |one: &&Verified| one.digest == found.digest && one.signer == found.signer;
                    let genuine = world.genuine.iter().filter(same).map(witnesses).max();
                    let genuine = genuine.expect("another digest or signer");
                    assert!(witnesses(&found) <= genuine, "more witnesses than there are");
                    any = true;
                }
                Err(failure) => one_line(&failure.to_string()),
            }
        }
    }
    any
}

pub(crate) fn trusted_root_seeds() -> Vec<Vec<u8>> {
    let roots = worlds().filter_map(|world| {
        let bytes = std::fs::read(world.fixture.dir.join("trusted_root.json")).ok()?;
        Some(input(world, &bytes))
    });
    roots.collect()
}

/// A timestamp, DER, of a fixture's signature: whether it holds.
pub(crate) fn stamp(data: &[u8]) -> bool {
    let Some((world, token)) = world(data) else { return false };
    let Ok(root) = world.fixture.trust.root(ROOT) else { return false };
    let mut any = false;
    for signed in world.signed() {
        let stamped = signed.found.as_deref().unwrap_or(&signed.signature);
        match timestamp::verify(token, stamped, root) {
            Ok(Some(stamp)) => {
                let genuine = signed.timestamps.iter().map(|token| timestamp::verify(token, stamped, root));
                let same = genuine.flatten().flatten().any(|genuine| genuine == stamp);
                assert!(same, "{}: another time or authority: {stamp:?}", world.fixture.name);
                any = true;
            }
            Ok(None) => {}
            Err(problem) => one_line(&problem.text),
        }
    }
    any
}

pub(crate) fn stamp_seeds() -> Vec<Vec<u8>> {
    let tokens = |world: &'static World| world.signed().flat_map(|signed| signed.timestamps);
    worlds().flat_map(|world| tokens(world).map(|token| input(world, &token))).collect()
}

/// The body of a log's entry, for a fixture's signature: whether it is about that.
pub(crate) fn log_entry(data: &[u8]) -> bool {
    let Some((world, body)) = world(data) else { return false };
    let mut any = false;
    for signed in world.signed() {
        let (verifier, encoded);
        match (&signed.material, world.fixture.authorities.first()) {
            (Material::Certificate { leaf, .. }, _) => verifier = Verifier::Certificate(leaf),
            (Material::Key, Some(Authority::Key(authority))) => verifier = Verifier::Key(&authority.key),
            _ => continue,
        }
        let (message, envelope) = match &signed.content {
            Content::Claim(payload) => (Message::Bytes(payload), None),
            Content::Envelope { payload_type, payload, .. } => {
                encoded = pae(payload_type, payload);
                (Message::Bytes(&encoded), Some((payload_type.as_str(), payload.as_slice())))
            }
            Content::Artifact(_) => (Message::Digest(world.fixture.digests[0]), None),
        };
        let found = signed.found.as_deref();
        let expected = Expected { signature: &signed.signature, verifier, message, envelope, found };
        for entry in &signed.entries {
            let mut entry = entry.clone();
            entry.body = body.to_vec();
            match expected.check(&entry) {
                Ok(()) => any = true,
                Err(problem) => one_line(&problem.text),
            }
        }
    }
    any
}

pub(crate) fn log_entry_seeds() -> Vec<Vec<u8>> {
    let bodies = |world: &'static World| world.signed().flat_map(|signed| signed.entries);
    worlds().flat_map(|world| bodies(world).map(|entry| input(world, &entry.body))).collect()
}

/// A certificate, DER, in the place of a fixture's: whether its authority has issued it.
pub(crate) fn certificate(data: &[u8]) -> bool {
    let Some((world, der)) = world(data) else { return false };
    let leaf = match Certificate::from_der(der) {
        Ok(leaf) => leaf,
        Err(error) => {
            one_line(&error.to_string());
            return false;
        }
    };
    if let Err(error) = leaf.key() {
        one_line(&error.to_string());
    }
    let Ok(root) = world.fixture.trust.root(ROOT) else { return false };
    let mut any = false;
    for authority in root.authorities() {
        let Some((anchor, between)) = authority.chain.split_last() else { continue };
        let intermediates = between.iter().map(|one| one.der.as_slice()).collect();
        let issuer = Issuer { anchor: &anchor.der, intermediates, window: authority.window };
        match chain::verify(&leaf, &[], &[issuer], Usage::CodeSigning, leaf.not_before()) {
            Ok(key) => {
                // RFC 5280, 4.1.1.3: the signature is over everything that means anything.
                let genuine = |signed: Signed| match signed.material {
                    Material::Certificate { leaf: own, .. } => {
                        (own.names(), own.claims(), own.key_der())
                            == (leaf.names(), leaf.claims(), leaf.key_der())
                    }
                    Material::Key => false,
                };
                // Fixtures share an authority: what it issued for one is genuine in the place of another's.
                let issued = world.signed().chain(worlds().flat_map(World::signed)).any(genuine);
                assert!(issued, "{}: issued for another", world.fixture.name);
                if let Err(problem) = sct::verify(&leaf, &key, root) {
                    one_line(&problem.text);
                }
                any = true;
            }
            Err(text) => one_line(&text),
        }
        // Whatever the authority says: it is read anyway.
        if let Err(problem) = sct::verify(&leaf, &anchor.der, root) {
            one_line(&problem.text);
        }
    }
    any
}

pub(crate) fn certificate_seeds() -> Vec<Vec<u8>> {
    let leaf = |signed: Signed| match signed.material {
        Material::Certificate { leaf, .. } => Some(leaf.der().to_vec()),
        Material::Key => None,
    };
    worlds().flat_map(|world| world.signed().filter_map(leaf).map(|der| input(world, &der))).collect()
}

/// What a key has signed: whether it is a claim or a statement.
pub(crate) fn payload(data: &[u8]) -> bool {
    let lenient = serde_json::from_slice::<serde_json::Value>(data);
    let digest = crate::image::Digest::of(data);
    let claim = match Claim::parse(data) {
        Ok(claim) => {
            // A reader that takes the last of two keys reads the same.
            let lenient = lenient.as_ref().expect("strict, but not lenient");
            let pointer = "/critical/image/docker-manifest-digest";
            let signed = lenient.pointer(pointer).and_then(serde_json::Value::as_str);
            assert_eq!(signed, Some(claim.digest().to_string().as_str()), "another digest");
            if let Err(error) = claim.about(&[digest]) {
                one_line(&error.to_string());
            }
            assert!(claim.about(&[claim.digest()]).is_ok());
            claim.repository();
            true
        }
        Err(error) => {
            one_line(&error.to_string());
            false
        }
    };
    let statement = match Statement::read(PAYLOAD_TYPE, data) {
        Ok(statement) => {
            let lenient = lenient.as_ref().expect("strict, but not lenient");
            let signed = lenient.pointer("/predicateType").and_then(serde_json::Value::as_str);
            assert_eq!(signed, Some(statement.predicate.predicate_type.as_str()), "another type");
            let null = serde_json::Value::Null;
            let predicate: serde_json::Value = serde_json::from_slice(&statement.predicate.bytes).unwrap();
            assert_eq!(lenient.get("predicate").unwrap_or(&null), &predicate, "another predicate");
            if let Err(problem) = statement.about(&[digest]) {
                one_line(&problem.text);
            }
            true
        }
        Err(problem) => {
            one_line(&problem.text);
            false
        }
    };
    assert!(!(claim && statement), "a claim and a statement at once");
    claim || statement
}

pub(crate) fn payload_seeds() -> Vec<Vec<u8>> {
    let payload = |signed: Signed| match signed.content {
        Content::Claim(payload) | Content::Envelope { payload, .. } => Some(payload),
        Content::Artifact(_) => None,
    };
    let mut seeds: Vec<Vec<u8>> = worlds().flat_map(|world| world.signed().filter_map(payload)).collect();
    // Most of them are alike.
    seeds.sort_by_key(Vec::len);
    seeds.dedup_by_key(|seed| seed.len());
    seeds
}

/// A manifest of signatures: whether it is one.
pub(crate) fn evidence_manifest(data: &[u8]) -> bool {
    let wanted = [SIGNATURE_MEDIA_TYPE, ATTESTATION_MEDIA_TYPE];
    let is_wanted = |found: &str| wanted.contains(&found) || found.starts_with(BUNDLE_MEDIA_TYPE);
    match EvidenceManifest::parse(is_wanted, data) {
        Ok(found) => {
            assert!(found.layers.len() <= crate::limits::SIGNATURES);
            assert!(found.layers.iter().all(|layer| is_wanted(&layer.descriptor.media_type)));
            true
        }
        Err(error) => {
            one_line(&error.to_string());
            false
        }
    }
}
