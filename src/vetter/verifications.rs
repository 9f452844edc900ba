//! What verifying came to, remembered: it depends on the evidence, the signer, what is sought, the image's digests and
//! the trusted roots, and on nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::image::Digest;
use crate::limits;
use crate::policy::Signer;
use crate::trust::Trust;
use crate::verify::{self, Annotations, Authority, Checked, Evidence, Failure, Sought, Step, Verified};

/// What verifying came to.
type Outcome = Arc<Result<Verified, Failure>>;

/// Remembers at most [`limits::VERIFICATIONS`], with predicates of at most [`limits::VERIFICATION_BYTES`].
#[derive(Default)]
pub struct Verifications {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    outcomes: HashMap<Digest, (Outcome, Instant)>,
    /// Of the predicates among them.
    bytes: usize,
}

impl Held {
    fn insert(&mut self, key: Digest, outcome: Outcome) {
        self.bytes += predicate_bytes(&outcome);
        if let Some((before, _)) = self.outcomes.insert(key, (outcome, Instant::now())) {
            self.bytes -= predicate_bytes(&before);
        }
        while self.outcomes.len() > limits::VERIFICATIONS || self.bytes > limits::VERIFICATION_BYTES {
            let mut ages: Vec<_> = self.outcomes.values().map(|(_, used)| *used).collect();
            ages.sort_unstable();
            // Half at once, so that this is rare; at least the oldest.
            let Some(middle) = ages.get(ages.len() / 2) else { return };
            self.outcomes.retain(|_, (_, used)| *used > *middle);
            self.bytes = self.outcomes.values().map(|(outcome, _)| predicate_bytes(outcome)).sum();
        }
    }

    fn remove(&mut self, key: &Digest) {
        if let Some((outcome, _)) = self.outcomes.remove(key) {
            self.bytes -= predicate_bytes(&outcome);
        }
    }
}

fn predicate_bytes(outcome: &Outcome) -> usize {
    let predicate = outcome.as_ref().as_ref().ok().and_then(|verified| verified.predicate.as_ref());
    predicate.map_or(0, |predicate| predicate.statement.len())
}

/// Verifies for one image, by the trusted roots of one moment.
pub struct Verifier<'a> {
    held: &'a Verifications,
    digests: &'a [Digest],
    trust: &'a Trust,
    /// What the roots are made of: another is another answer.
    version: Digest,
    now: SystemTime,
}

impl Verifications {
    /// For an image that has these digests.
    pub fn about<'a>(&'a self, digests: &'a [Digest], trust: &'a Trust, now: SystemTime) -> Verifier<'a> {
        Verifier { held: self, digests, trust, version: trust.version(), now }
    }

    fn find(&self, key: &Digest, now: SystemTime) -> Option<Outcome> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, used) = held.outcomes.get_mut(key)?;
        // A certificate that the clock vouched for ends, and then this is no longer so.
        if outcome.as_ref().as_ref().is_ok_and(|verified| verified.until.is_some_and(|until| until <= now)) {
            held.remove(key);
            return None;
        }
        *used = Instant::now();
        Some(Arc::clone(outcome))
    }

    fn keep(&self, key: Digest, outcome: &Outcome) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(key, Arc::clone(outcome));
    }
}

/// Whether the node's clock may have decided: it does about a log's proof where nobody else tells a time.
fn is_by_the_clock(failure: &Failure) -> bool {
    let tells_a_time = |check: &Checked| matches!(check.step, Step::Promise | Step::Timestamp);
    failure.step == Step::Inclusion && !failure.checks.iter().any(tells_a_time)
}

impl Verifier<'_> {
    /// As [`verify::verify`], or what it said before.
    pub fn verify(
        &self,
        evidence: &Evidence,
        signer: &Signer,
        sought: &Sought<'_>,
    ) -> Result<Verified, Failure> {
        let key = self.key(evidence, &signer.fingerprint, sought);
        if let Some(outcome) = self.held.find(&key, self.now) {
            return outcome.as_ref().clone();
        }
        let outcome = verify::verify(evidence, &signer.authority, sought, self.digests, self.trust, self.now);
        let keeps = match &outcome {
            Ok(_) => true,
            // What is not known, or what the clock has refused, may be so no more the next time.
            Err(failure) => {
                !failure.undecided
                    && !matches!(signer.authority, Authority::Pki(_))
                    && !is_by_the_clock(failure)
            }
        };
        if keeps {
            self.held.keep(key, &Arc::new(outcome.clone()));
        }
        outcome
    }

    fn key(&self, evidence: &Evidence, signer: &Digest, sought: &Sought<'_>) -> Digest {
        let mut hash = Sha256::new();
        // With their lengths, so that no two questions have one key.
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(self.version.to_string().as_bytes());
        part(signer.to_string().as_bytes());
        let annotations = match evidence {
            Evidence::Simple(signing) => {
                part(b"simple");
                part(&signing.payload);
                part(signing.signature.as_bytes());
                Some(&signing.annotations)
            }
            Evidence::Attached(attached) => {
                part(b"attached");
                part(&attached.envelope);
                Some(&attached.annotations)
            }
            Evidence::Bundle(bundle) => {
                part(b"bundle");
                part(bundle);
                None
            }
        };
        if let Some(Annotations { certificate, chain, bundle, rfc3161timestamp }) = annotations {
            for annotation in [certificate, chain, bundle, rfc3161timestamp] {
                part(annotation.as_deref().unwrap_or_default().as_bytes());
            }
        }
        match sought {
            Sought::Signature => part(b"signature"),
            // A type is whatever a policy writes, and may be the word for a signature.
            Sought::Attestation { predicate_types } => {
                part(b"attestation");
                part(&(predicate_types.len() as u64).to_be_bytes());
                for predicate_type in *predicate_types {
                    part(predicate_type.as_bytes());
                }
            }
        }
        for digest in self.digests {
            part(digest.to_string().as_bytes());
        }
        Digest::from_raw(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::fixture::{self, Fixture};
    use crate::verify::{Predicate, Signer};

    fn outcome(predicate: usize) -> Outcome {
        Arc::new(Ok(Verified {
            signer: Signer::Key(Digest::of(b"key")),
            key: Digest::of(b"key"),
            authority: None,
            digest: Digest::of(b"image"),
            docker_reference: None,
            annotations: Default::default(),
            times: Vec::new(),
            logs: Vec::new(),
            timestamp_authorities: Vec::new(),
            predicate: Some(Predicate {
                predicate_type: "https://example.com/p".to_owned(),
                bytes: Default::default(),
                statement: vec![b' '; predicate].into(),
            }),
            checks: Vec::new(),
            until: None,
        }))
    }

    #[test]
    fn predicates_that_are_remembered_are_bounded_by_their_bytes() {
        let mut held = Held::default();
        let each = limits::VERIFICATION_BYTES / 4;
        let key = |n: u8| Digest::of(&[n]);
        for n in 0..20 {
            held.insert(key(n), outcome(each));
            assert!(held.bytes <= limits::VERIFICATION_BYTES, "{}", held.bytes);
            assert_eq!(held.bytes, held.outcomes.len() * each);
        }
        assert!(!held.outcomes.is_empty() && held.outcomes.contains_key(&key(19)));
        // One in the place of another counts once.
        let before = held.bytes;
        held.insert(key(19), outcome(each));
        assert_eq!(held.bytes, before);
        held.remove(&key(19));
        assert_eq!(held.bytes, before - each);
    }

    #[test]
    fn each_question_is_remembered_by_a_key_of_its_own() {
        let verifications = Verifications::default();
        let (trust, evidence) = (Trust::default(), Evidence::Bundle(b"{}".as_slice().into()));
        let image = Digest::of(b"image");
        let key = |digests: &[Digest], sought: Sought<'_>| {
            verifications.about(digests, &trust, SystemTime::UNIX_EPOCH).key(&evidence, &image, &sought)
        };
        let types = |of: &[&str]| of.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let attested = |digests: &[Digest], of: &[&str]| {
            key(digests, Sought::Attestation { predicate_types: &types(of) })
        };
        // A type that is called as what else is told apart.
        let shown = image.to_string();
        let keys = [
            key(&[image], Sought::Signature),
            attested(&[image], &["signature"]),
            attested(&[image], &["attestation"]),
            attested(&[image], &[&shown]),
            attested(&[image], &[]),
            attested(&[image, image], &[]),
            key(&[], Sought::Signature),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len(), "{keys:?}");
        assert_eq!(keys[0], key(&[image], Sought::Signature));
    }

    /// The log of the first begins before now, by the clock; that of the second at a time that an authority vouches for.
    #[test]
    fn a_failure_by_a_wrong_clock_is_not_remembered_once_the_clock_is_right() {
        for (name, by_the_clock) in [("key-rekor2-bundle", true), ("key-rekor2-tsa-bundle", false)] {
            let Fixture { digests, evidence, authorities, trust, .. } = Fixture::load(name);
            let signer = crate::policy::Signer::new(authorities[0].clone());
            let verifications = Verifications::default();
            let verified = |now| {
                let verifier = verifications.about(&digests, &trust, now);
                verifier.verify(&evidence[0], &signer, &Sought::Signature)
            };
            let early = verified(SystemTime::UNIX_EPOCH);
            assert_eq!(
                early.as_ref().err().map(|failure| failure.step),
                by_the_clock.then_some(Step::Inclusion)
            );
            assert!(verified(fixture::now()).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_failure_that_no_clock_decides_is_remembered() {
        let Fixture { digests, evidence, authorities, trust, .. } = Fixture::load("key-rekor2-bundle");
        let signer = crate::policy::Signer::new(authorities[0].clone());
        let verifications = Verifications::default();
        let other = [Digest::of(b"another image")];
        for digests in [&digests[..], &other[..]] {
            let verifier = verifications.about(digests, &trust, fixture::now());
            let _ = verifier.verify(&evidence[0], &signer, &Sought::Signature);
        }
        assert_eq!(verifications.held.lock().unwrap().outcomes.len(), 2);
    }
}
