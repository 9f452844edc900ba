//! The order of the checks.

use std::time::SystemTime;

use sigstore_verify::types::pae;

use super::authority::{Authority, KeylessAuthority, Witness, Witnesses};
use super::certificate::Certificate;
use super::chain::{self, Issuer, Usage};
use super::entry::{Expected, Message, Verifier};
use super::evidence::Evidence;
use super::key::PublicKey;
use super::legacy::Wanted;
use super::log::Known;
use super::outcome::{Checked, ClaimedSigner, Failure, Signer, Step, TimeSource, Verified, VerifiedTime};
use super::said::{Claimed, Said, artifact};
use super::signed::{Content, Form, Material, Problem, Signed};
use super::{bundle, identity, legacy, sct, timestamp};
use crate::audit::rfc3339;
use crate::image::{Digest, quoted_name};
use crate::trust::{Root, Trust};

/// What an image has to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought<'a> {
    /// A signature.
    Signature,
    /// An attestation of one of these types, exactly; none in the list finds none.
    Attestation {
        /// The types.
        predicate_types: &'a [String],
    },
}

/// A file that a bundle is about.
#[derive(Debug, Clone, Copy)]
pub enum Artifact<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// Its digest.
    Digest(Digest),
}

/// Whether `evidence` is what is `sought`, about one of `digests` (those an image has: its index and its platform's
/// manifest), by `authority`. `now` decides only where nothing else tells the time: a private PKI without witnesses, and a
/// log that begins in the future.
///
/// # Errors
/// The first check that does not hold.
pub fn verify(
    evidence: &Evidence,
    authority: &Authority,
    sought: &Sought<'_>,
    digests: &[Digest],
    trust: &Trust,
    now: SystemTime,
) -> Result<Verified, Failure> {
    let by_certificate = !matches!(authority, Authority::Key(_));
    let Witnesses { logs, timestamps } = authority.witnesses();
    let wanted = Wanted {
        certificate: by_certificate,
        log: by_certificate || logs.count > 0,
        timestamp: by_certificate || timestamps.count > 0,
    };
    let mut case = Case::new(authority, trust, now);
    let read = match evidence {
        Evidence::Simple(signing) => legacy::simple(signing, wanted),
        Evidence::Attached(attached) => legacy::attached(attached, wanted),
        Evidence::Bundle(bytes) => bundle::read(bytes),
    };
    let outcome = read.and_then(|signed| case.image(&signed, sought, digests));
    outcome.map_err(|problem| case.failure(problem))
}

/// Whether a bundle is about a file, by `authority`; attestations of any type count. For files and for the conformance
/// suite: images go through [`verify`].
///
/// # Errors
/// The first check that does not hold.
pub fn verify_artifact(
    bundle: &[u8],
    authority: &Authority,
    artifact: Artifact<'_>,
    trust: &Trust,
    now: SystemTime,
) -> Result<Verified, Failure> {
    let mut case = Case::new(authority, trust, now);
    let outcome = bundle::read(bundle).and_then(|signed| {
        let digest = match artifact {
            Artifact::Bytes(bytes) => Digest::of(bytes),
            Artifact::Digest(digest) => digest,
        };
        let bytes = match artifact {
            Artifact::Bytes(bytes) => Some(bytes),
            Artifact::Digest(_) => None,
        };
        let found = case.signed(&signed, None, &[digest], bytes)?;
        case.verified(found, None)
    });
    outcome.map_err(|problem| case.failure(problem))
}

/// One signature and one authority.
struct Case<'a> {
    authority: &'a Authority,
    trust: &'a Trust,
    now: SystemTime,
    checks: Vec<Checked>,
    signer: Option<ClaimedSigner>,
    /// The key whose signature holds.
    key: Option<Digest>,
    times: Vec<VerifiedTime>,
    logs: Vec<Digest>,
    timestamp_authorities: Vec<Digest>,
    until: Option<SystemTime>,
}

impl<'a> Case<'a> {
    fn new(authority: &'a Authority, trust: &'a Trust, now: SystemTime) -> Self {
        Self {
            authority,
            trust,
            now,
            checks: Vec::new(),
            signer: None,
            key: None,
            times: Vec::new(),
            logs: Vec::new(),
            timestamp_authorities: Vec::new(),
            until: None,
        }
    }

    fn passed(&mut self, step: Step, detail: impl Into<String>) {
        self.checks.push(Checked { step, detail: detail.into() });
    }

    fn failure(self, problem: Problem) -> Failure {
        let Problem { step, text, undecided } = problem;
        Failure { step, text, undecided, signer: self.signer.map(Box::new), checks: self.checks }
    }

    fn image(
        &mut self,
        signed: &Signed,
        sought: &Sought<'_>,
        digests: &[Digest],
    ) -> Result<Verified, Problem> {
        let said = self.signed(signed, Some(sought), digests, None)?;
        self.verified(said, Some(sought))
    }

    /// Everything but identity, and that what it says of its type was signed.
    fn signed(
        &mut self,
        signed: &Signed,
        sought: Option<&Sought<'_>>,
        digests: &[Digest],
        bytes: Option<&[u8]>,
    ) -> Result<Said, Problem> {
        let form = match signed.form {
            Form::Annotations => "cosign's annotations".to_owned(),
            Form::Bundle(version) => format!("sigstore bundle {version}"),
        };
        self.passed(Step::Format, form);
        let claimed = Claimed::of(&signed.content);
        if let Some(sought) = sought {
            claimed.is(sought).map_err(|text| Problem::new(Step::Type, text))?;
        }
        let (verifier, chain, key) = self.kind(signed)?;
        let encoded;
        let message = match &signed.content {
            Content::Claim(payload) => Message::Bytes(payload),
            Content::Envelope { payload_type, payload, .. } => {
                encoded = pae(payload_type, payload);
                Message::Bytes(&encoded)
            }
            Content::Artifact(digest) => artifact(digest.as_ref(), digests, bytes, &key, &signed.signature)?,
        };
        self.signature(&signed.signature, message, verifier, &key)?;
        let known = self.witnesses(signed, verifier, chain)?;
        let expected = Expected {
            signature: &signed.signature,
            verifier,
            message,
            envelope: match &signed.content {
                Content::Envelope { payload_type, payload, .. } => Some((payload_type, payload)),
                _ => None,
            },
            found: signed.found.as_deref(),
        };
        for known in &known {
            expected.check(known.entry)?;
            self.passed(Step::Entry, format!("{} of {}", known.entry.kind.name().0, known.log.url));
        }
        let said = claimed.signed(message, digests)?;
        if !said.form.is_empty() {
            self.passed(Step::Claim, said.form);
        }
        self.passed(Step::Subject, said.digest.to_string());
        Ok(said)
    }

    /// Who has to have signed: the authority's key, or the certificate that came with the signature.
    fn kind<'s>(
        &mut self,
        signed: &'s Signed,
    ) -> Result<(Verifier<'s>, &'s [Certificate], PublicKey), Problem>
    where
        'a: 's,
    {
        match (self.authority, &signed.material) {
            (Authority::Key(authority), Material::Key) => {
                Ok((Verifier::Key(&authority.key), &[], authority.key.clone()))
            }
            (Authority::Key(_), Material::Certificate { leaf, .. }) => {
                self.signer = Some(ClaimedSigner { signer: Signer::certificate(leaf), verified: false });
                Err(Problem::new(Step::Kind, "expected a signature by a key, found one with a certificate"))
            }
            (_, Material::Key) => {
                Err(Problem::new(Step::Kind, "expected a signature with a certificate, found one by a key"))
            }
            (_, Material::Certificate { leaf, chain }) => {
                self.signer = Some(ClaimedSigner { signer: Signer::certificate(leaf), verified: false });
                let key = leaf
                    .key()
                    .map_err(|error| Problem::new(Step::Kind, format!("the certificate's key: {error}")))?;
                Ok((Verifier::Certificate(leaf), chain, key))
            }
        }
    }

    fn signature(
        &mut self,
        signature: &[u8],
        message: Message<'_>,
        verifier: Verifier<'_>,
        key: &PublicKey,
    ) -> Result<(), Problem> {
        let holds = match message {
            Message::Bytes(bytes) => key.verifies(bytes, signature),
            Message::Digest(digest) => key.verifies_digest(&digest, signature),
        };
        let (algorithm, fingerprint) = (key.algorithm(), key.fingerprint());
        let whose = match verifier {
            Verifier::Key(_) => format!("the {algorithm} key {fingerprint}"),
            Verifier::Certificate(_) => format!("its certificate's {algorithm} key"),
        };
        if !holds {
            let text = format!("expected a signature by {whose}, found one that does not verify with it");
            return Err(Problem::new(Step::Signature, text));
        }
        if let Verifier::Key(key) = verifier {
            self.signer = Some(ClaimedSigner { signer: Signer::key(key), verified: true });
        }
        self.key = Some(key.identity());
        self.passed(Step::Signature, format!("by {whose}"));
        Ok(())
    }

    /// Logs, timestamps and the certificate, which depends on their times; the entries that count.
    fn witnesses<'s>(
        &mut self,
        signed: &'s Signed,
        verifier: Verifier<'_>,
        chain: &[Certificate],
    ) -> Result<Vec<Known<'s>>, Problem>
    where
        'a: 's,
    {
        let Witnesses { logs, timestamps } = self.authority.witnesses();
        let (log_root, timestamp_root) = (self.root_of(logs)?, self.root_of(timestamps)?);
        let mut known = Vec::new();
        if let Some(root) = log_root {
            for entry in &signed.entries {
                known.extend(Known::find(entry, root)?);
            }
        }
        self.promises(&known)?;
        if let Some(root) = timestamp_root {
            self.timestamps(signed, root)?;
        }
        if let Verifier::Certificate(leaf) = verifier {
            self.certificate(leaf, chain)?;
        }
        let times: Vec<SystemTime> = self.times.iter().map(|known| known.time).collect();
        for known in &known {
            known.included(signed.form, &times, self.now)?;
            let how = if known.entry.proof.is_some() { "proved" } else { "promised" };
            self.passed(Step::Inclusion, format!("{how} by the log {}", known.log.url));
            if !self.logs.contains(&known.identity()) {
                self.logs.push(known.identity());
            }
        }
        self.enough("transparency logs", logs, self.logs.len())?;
        self.enough("timestamp authorities", timestamps, self.timestamp_authorities.len())?;
        Ok(known)
    }

    /// The root that has a kind of witness; `None`: nobody looks at it.
    fn root_of(&self, witness: &Witness) -> Result<Option<&'a Root>, Problem> {
        let name = match (&witness.root, self.authority) {
            (Some(name), Authority::Keyless(_)) => name,
            (Some(name), _) if witness.count > 0 => name,
            (None, Authority::Keyless(KeylessAuthority { root, .. })) => root,
            _ => return Ok(None),
        };
        self.root(name).map(Some)
    }

    fn root(&self, name: &str) -> Result<&'a Root, Problem> {
        let root = self.trust.root(name);
        root.map(AsRef::as_ref).map_err(|text| Problem::undecided(Step::Witnesses, text))
    }

    fn promises(&mut self, known: &[Known<'_>]) -> Result<(), Problem> {
        for known in known {
            if let Some(time) = known.promised()? {
                self.times.push(VerifiedTime { time, source: TimeSource::Log(known.identity()) });
                self.passed(Step::Promise, format!("{} by the log {}", rfc3339(time), known.log.url));
            }
        }
        Ok(())
    }

    fn timestamps(&mut self, signed: &Signed, root: &Root) -> Result<(), Problem> {
        let stamped = signed.found.as_deref().unwrap_or(&signed.signature);
        for token in &signed.timestamps {
            let Some(stamp) = timestamp::verify(token, stamped, root)? else { continue };
            let source = TimeSource::Timestamp(stamp.authority);
            self.times.push(VerifiedTime { time: stamp.time, source });
            if !self.timestamp_authorities.contains(&stamp.authority) {
                self.timestamp_authorities.push(stamp.authority);
            }
            let (time, authority) = (rfc3339(stamp.time), stamp.authority);
            self.passed(Step::Timestamp, format!("{time} by the authority with certificate {authority}"));
        }
        Ok(())
    }

    /// Each verified time has to be within the certificate's (sigstore client spec, 4.1), and for keyless there has to be
    /// one: never the clock.
    fn certificate(&mut self, leaf: &Certificate, chain: &[Certificate]) -> Result<(), Problem> {
        if self.times.is_empty() {
            if matches!(self.authority, Authority::Keyless(_)) {
                let text = "expected a time that a log of the trusted root promises or a timestamp authority of it \
                            signs, found none";
                return Err(Problem::new(Step::Time, text));
            }
            self.times.push(VerifiedTime { time: self.now, source: TimeSource::Clock });
            self.until = Some(self.ends(leaf, chain));
        }
        let how = if self.until.is_some() { " by the node's clock" } else { "" };
        let times: Vec<String> = self.times.iter().map(|known| rfc3339(known.time)).collect();
        self.passed(Step::Time, times.join(", ") + how);
        let sct_root = match self.authority {
            Authority::Keyless(KeylessAuthority { root, sct, .. }) => Some((self.root(root)?, *sct)),
            _ => None,
        };
        let issuers = self.issuers(sct_root.map(|(root, _)| root));
        let mut issuer = Vec::new();
        for known in &self.times {
            issuer = chain::verify(leaf, chain, &issuers, Usage::CodeSigning, known.time)
                .map_err(|text| Problem::new(Step::Chain, text))?;
        }
        self.signer = Some(ClaimedSigner { signer: Signer::certificate(leaf), verified: true });
        let whose = match self.authority {
            Authority::Keyless(KeylessAuthority { root, .. }) => format!("the trusted root {root}"),
            _ => "the policy".to_owned(),
        };
        let key = Digest::of(&issuer);
        self.passed(
            Step::Chain,
            format!("leads to an authority of {whose}; issued by the holder of key {key}"),
        );
        if let Some((root, true)) = sct_root {
            let log = sct::verify(leaf, &issuer, root)?;
            self.passed(Step::Sct, format!("promised by the CT log {}", quoted_name(log)));
        }
        Ok(())
    }

    /// When what holds now has to be looked at again: with the first end of what its path may lead over.
    fn ends(&self, leaf: &Certificate, chain: &[Certificate]) -> SystemTime {
        let (roots, intermediates) = match self.authority {
            Authority::Pki(authority) => (authority.roots.as_slice(), authority.intermediates.as_slice()),
            Authority::Key(_) | Authority::Keyless(_) => (&[][..], &[][..]),
        };
        let path = [std::slice::from_ref(leaf), chain, roots, intermediates].concat();
        let ends = path.iter().map(Certificate::not_after).filter(|end| *end > self.now);
        ends.min().unwrap_or(leaf.not_after())
    }

    fn issuers(&self, root: Option<&'a Root>) -> Vec<Issuer<'a>> {
        if let Authority::Pki(authority) = self.authority {
            let intermediates: Vec<&[u8]> = authority.intermediates.iter().map(Certificate::der).collect();
            let issuer = |anchor: &'a Certificate| Issuer {
                anchor: anchor.der(),
                intermediates: intermediates.clone(),
                window: None,
            };
            return authority.roots.iter().map(issuer).collect();
        }
        let authorities = root.map(Root::authorities).unwrap_or_default();
        let issuer = |authority: &'a crate::trust::Authority| {
            let (anchor, intermediates) = authority.chain.split_last()?;
            let intermediates = intermediates.iter().map(|certificate| certificate.der.as_slice()).collect();
            Some(Issuer { anchor: &anchor.der, intermediates, window: authority.window })
        };
        authorities.iter().filter_map(issuer).collect()
    }

    fn enough(&mut self, what: &str, witness: &Witness, found: usize) -> Result<(), Problem> {
        let expected = usize::from(witness.count);
        if found < expected {
            let text = format!("expected {expected} distinct {what} of the trusted root, found {found}");
            return Err(Problem::new(Step::Witnesses, text));
        }
        // What is not asked for is told, too: who reads this wants to know what stands behind the yes.
        self.passed(
            Step::Witnesses,
            match expected {
                0 => format!("{what}: none asked for"),
                _ => format!("{what}: {found}, at least {expected} asked for"),
            },
        );
        Ok(())
    }

    /// Type and identity, and what all came to.
    fn verified(&mut self, said: Said, sought: Option<&Sought<'_>>) -> Result<Verified, Problem> {
        if let Some(sought) = sought {
            let detail = said.is(sought).map_err(|text| Problem::new(Step::Type, text))?;
            self.passed(Step::Type, detail);
        }
        let (Some(ClaimedSigner { signer, verified: true }), Some(key)) = (&self.signer, self.key) else {
            return Err(Problem::new(Step::Identity, "expected a signer, found none"));
        };
        identity::check(self.authority, signer).map_err(|text| Problem::new(Step::Identity, text))?;
        let signer = signer.clone();
        self.passed(Step::Identity, signer.to_string());
        Ok(Verified {
            signer,
            key,
            authority: self.authority.name().map(str::to_owned),
            digest: said.digest,
            docker_reference: said.docker_reference,
            annotations: said.annotations,
            times: std::mem::take(&mut self.times),
            logs: std::mem::take(&mut self.logs),
            timestamp_authorities: std::mem::take(&mut self.timestamp_authorities),
            predicate: said.predicate,
            checks: std::mem::take(&mut self.checks),
            until: self.until,
        })
    }
}
