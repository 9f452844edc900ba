//! Transparency logs: the promise, which has the time (Rekor v1), and the proof of inclusion with its checkpoint.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sigstore_merkle::{hash_leaf, verify_inclusion_proof};

use super::key::PublicKey;
use super::log_entry::{Entry, Proof};
use super::outcome::Step;
use super::signed::{Form, Problem};
use crate::audit::rfc3339;
use crate::image::{Digest, quoted};
use crate::trust::{Log, Root};

/// An entry of a log that the trusted root knows. An entry of another log is neither a witness nor a fault: whoever
/// signs may tell more logs than this node knows.
pub(super) struct Known<'a> {
    pub entry: &'a Entry,
    pub log: &'a Log,
    key: PublicKey,
}

impl<'a> Known<'a> {
    /// The entry, if its log is in the root.
    pub fn find(entry: &'a Entry, root: &'a Root) -> Result<Option<Self>, Problem> {
        let Some(log) = root.logs().iter().find(|log| log.id == *entry.log) else { return Ok(None) };
        let key = PublicKey::of_log(log).map_err(|error| {
            Problem::undecided(Step::Promise, format!("key of the log {}: {error}", log.url))
        })?;
        Ok(Some(Self { entry, log, key }))
    }

    /// What tells this log from others: its key, whatever it is called.
    pub fn identity(&self) -> Digest {
        self.key.fingerprint()
    }

    /// The time at which a Rekor v1 log took the entry, if it promised so. Without the promise the time is a number
    /// anybody may write (CVE-2024-55655).
    pub fn promised(&self) -> Result<Option<SystemTime>, Problem> {
        let fault = |text: String| Problem::new(Step::Promise, format!("log {}: {text}", self.log.url));
        let Some(promise) = &self.entry.promise else { return Ok(None) };
        if self.entry.kind.is_v2() {
            return Err(fault("expected no promise with an entry of Rekor v2, found one".to_owned()));
        }
        let time = self
            .entry
            .time
            .ok_or_else(|| fault("expected a time with the promise, found none".to_owned()))?;
        // The log has to have been in use then.
        if !self.log.window.contains(time) {
            return Err(fault(format!("expected a time within its use, found {}", rfc3339(time))));
        }
        if !self.key.verifies(self.promise_payload().as_bytes(), promise) {
            return Err(fault("expected its promise, found one that its key did not sign".to_owned()));
        }
        Ok(Some(time))
    }

    /// What the promise is over: RFC 8785 of four members, none of which needs escaping (rekor
    /// `pkg/types/entries.go`; sigstore client spec, 4.1.1).
    fn promise_payload(&self) -> String {
        let entry = self.entry;
        let body = STANDARD.encode(&entry.body);
        let since = entry.time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let time = since.unwrap_or_default().as_secs();
        let log: String = self.log.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let index = entry.index;
        format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"{log}","logIndex":{index}}}"#)
    }

    /// Whether the log has the entry, where the entry says so; an entry from cosign's annotations has a promise only.
    /// `times`: when the signature is known to have been there.
    pub fn included(&self, form: Form, times: &[SystemTime], now: SystemTime) -> Result<(), Problem> {
        let fault = |text: String| Problem::new(Step::Inclusion, format!("log {}: {text}", self.log.url));
        let Some(proof) = &self.entry.proof else {
            return match form {
                Form::Annotations if self.entry.promise.is_some() => Ok(()),
                _ => Err(fault("expected an inclusion proof, found none".to_owned())),
            };
        };
        self.in_use(times, now).map_err(fault)?;
        self.proved(proof).map_err(fault)
    }

    /// Checkpoints have no time that can be relied on. So the log has to have been in use at a verified time of this
    /// signature; where there is none, as with a key and Rekor v2 without a timestamp, it has to have been in use before
    /// now: logs are replaced every year or so, and what they had is still good.
    fn in_use(&self, times: &[SystemTime], now: SystemTime) -> Result<(), String> {
        let window = &self.log.window;
        let held = match times {
            [] => window.start <= now,
            times => times.iter().any(|time| window.contains(*time)),
        };
        if held {
            return Ok(());
        }
        let found = times.first().map_or_else(|| "none".to_owned(), |time| rfc3339(*time));
        Err(format!("expected a verified time within its use, found {found}"))
    }

    /// RFC 6962, 2.1.1: entry and hashes give the root that the checkpoint has; C2SP tlog-checkpoint: the log's key signed
    /// that.
    fn proved(&self, proof: &Proof) -> Result<(), String> {
        let checkpoint = &proof.checkpoint;
        let root = checkpoint.root_hash();
        let index = if self.entry.kind.is_v2() {
            // Root and size beside the checkpoint are not signed, and not needed.
            self.entry.index
        } else {
            // Rekor v1 has two indexes: of all its trees together, which the promise signs, and of this tree.
            if root.as_slice() != proof.root || checkpoint.tree_size() != proof.size {
                return Err("expected root hash and size of the proof to be the checkpoint's, found others"
                    .to_owned());
            }
            proof.index
        };
        let leaf = hash_leaf(&self.entry.body);
        verify_inclusion_proof(&leaf, index, checkpoint.tree_size(), &proof.hashes, root).map_err(
            |error| format!("expected a proof of inclusion, found {}", quoted(&error.to_string())),
        )?;
        // Others may have signed it too, as witnesses, and hints of four bytes may collide: the log itself has to have.
        let hint = self.log.id.get(..4).unwrap_or_default();
        let signed = |signature: &sigstore_verify::types::CheckpointSignature| {
            signature.key_id.as_slice() == hint
                && self.key.verifies(checkpoint.signed_data(), signature.signature.as_bytes())
        };
        if checkpoint.signatures().iter().any(signed) {
            return Ok(());
        }
        Err("expected a checkpoint with its signature, found none that verifies".to_owned())
    }
}
