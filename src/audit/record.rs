//! What one line of the audit log says.

use std::io::{self, Write};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::ser::Formatter;

use super::time::rfc3339;
use crate::image::Digest;
use crate::limits::{AUDIT_FIELD_BYTES, AUDIT_POLICIES};

/// Version of the record's schema (docs/audit-record.schema.json). It changes when a field's meaning does.
pub const SCHEMA_VERSION: u32 = 1;

/// Makes an enum whose variants have one fixed name each, in records and as metric labels.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All variants.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in records and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The variant of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|variant| variant.as_str() == name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }
    };
}

named! {
    /// The call that was decided, by the CRI's name for it.
    Kind {
        /// A pull.
        PullImage = "PullImage",
        /// A container, its image volumes included.
        CreateContainer = "CreateContainer",
        /// A pod sandbox: the pause image.
        RunPodSandbox = "RunPodSandbox",
        /// A pod from a checkpoint.
        RestorePod = "RestorePod",
        /// No call: a container that did not come through crivet.
        FoundContainer = "FoundContainer",
        /// No call: a check of the node's disk found an image altered.
        ContentCheck = "ContentCheck",
        /// No call: what runs or is stored, judged anew because policies or trusted roots have changed.
        Revetted = "Revetted",
        /// An RPC that crivet's method table does not know; the message names it.
        Other = "Other",
    }
}

named! {
    /// The mode the decision was made in.
    Mode {
        /// Nothing is refused.
        Audit = "audit",
        /// What is not allowed is refused.
        Enforce = "enforce",
    }
}

named! {
    /// What was decided, whatever came of it.
    Decision {
        /// The policies hold.
        Allowed = "allowed",
        /// A policy does not hold, with evidence.
        Denied = "denied",
        /// It could not be told.
        Undecided = "undecided",
    }
}

named! {
    /// What happened to the call.
    Effective {
        /// It went to the runtime.
        Forwarded = "forwarded",
        /// It was answered by crivet.
        Refused = "refused",
    }
}

named! {
    /// Why an image is not allowed, as a name that stays while messages may change; also what a recheck found of one that is, and
    /// that an exemption lets it run.
    #[derive(PartialOrd, Ord)]
    Reason {
        /// Denied: nobody signed it.
        SignatureMissing = "SignatureMissing",
        /// Denied: signed, and by none of the policy's signers.
        SignatureByOtherKey = "SignatureByOtherKey",
        /// Denied: signed with a certificate, for nobody whom the policy names.
        SignatureByOtherIdentity = "SignatureByOtherIdentity",
        /// Denied: the signature's certificate, log entry or timestamp does not hold.
        SignatureInvalid = "SignatureInvalid",
        /// Denied: it has no attestation of the type that is asked for.
        AttestationMissing = "AttestationMissing",
        /// Denied: what was found is not formed as a signature of an image is.
        SignatureMalformed = "SignatureMalformed",
        /// Denied: the policy's signer signed another image.
        SignatureForOtherImage = "SignatureForOtherImage",
        /// Denied: the policy's signer signed it for another repository, or named none.
        SignatureForOtherRepository = "SignatureForOtherRepository",
        /// Denied: what holds is older than the policy allows, or nobody vouches for its time.
        SignatureTooOld = "SignatureTooOld",
        /// Denied: what holds does not meet a condition of the policy.
        ConditionNotMet = "ConditionNotMet",
        /// Denied: what holds is not by as many different signers as the policy asks for.
        SignersTooFew = "SignersTooFew",
        /// Denied: a policy says so.
        DeniedByPolicy = "DeniedByPolicy",
        /// Allowed: a policy asks nothing of it until its exemption ends.
        Exempted = "Exempted",
        /// Denied: no policy covers it, and `unmatched` is `deny`.
        NoPolicy = "NoPolicy",
        /// Undecided: the registry cannot be reached, is in trouble or too slow.
        RegistryUnreachable = "RegistryUnreachable",
        /// Undecided: the registry answers 429.
        RegistryRateLimited = "RegistryRateLimited",
        /// Undecided: the registry wants another login.
        RegistryLogin = "RegistryLogin",
        /// Undecided: what answers is no registry, or one whose answer is refused.
        RegistryAnswer = "RegistryAnswer",
        /// Undecided: the runtime's registry host files leave no host to ask.
        RegistryHosts = "RegistryHosts",
        /// Undecided: an OCI layout on the node with evidence could not be read whole.
        EvidenceLayouts = "EvidenceLayouts",
        /// Undecided: the registry does not have it.
        NotFound = "NotFound",
        /// Denied: what the runtime has on its disk of a vetted image was altered there.
        ContentAltered = "ContentAltered",
        /// Undecided: bytes, or the container, are not what was vetted.
        ContentDiffers = "ContentDiffers",
        /// Undecided: what the container was made by need not run what the image's ID says.
        ContentUnbound = "ContentUnbound",
        /// Undecided: a policy asks for a check of the image's layers on the node's disk, and none has found them whole in time.
        ContentNotChecked = "ContentNotChecked",
        /// Undecided: a limit of crivet's was hit; the message names it.
        LimitReached = "LimitReached",
        /// Undecided: a trusted root that a policy rests on is not there.
        TrustMissing = "TrustMissing",
        /// Undecided: what it is made of cannot be vetted: a checkpoint, another platform, a broken manifest.
        ImageUnusable = "ImageUnusable",
        /// Undecided: the call does not say well enough which image is meant.
        ImageUnclear = "ImageUnclear",
        /// The registry's tag points elsewhere than at what was vetted: denied, undecided until it is pulled anew, or allowed,
        /// as the policy says.
        ImageDrifted = "ImageDrifted",
        /// Undecided, or allowed, as the policy says: a registry that is down did not say what a tag points at now.
        RecheckRegistryDown = "RecheckRegistryDown",
        /// Undecided, or allowed, as the policy says: a registry refused every login when asked what a tag points at now.
        RecheckLoginRefused = "RecheckLoginRefused",
        /// Undecided: the runtime has another image under the pod's own name than the one the call names.
        NameMoved = "NameMoved",
        /// Undecided: the runtime could not be asked, or does not have the image.
        Runtime = "Runtime",
        /// Undecided: no vetter was there to be asked.
        VetterAway = "VetterAway",
        /// Undecided: vetting did not end in time.
        TooSlow = "TooSlow",
        /// Undecided: nobody waited, and the budget for such work was used up; a live call is vetted all the same.
        BackgroundBudget = "BackgroundBudget",
        /// Undecided: the policies could not be loaded.
        PoliciesNotLoaded = "PoliciesNotLoaded",
        /// Undecided: the pause image is not known, or not there.
        PauseImage = "PauseImage",
        /// Undecided: a call that crivet cannot vet.
        CallNotVettable = "CallNotVettable",
    }
}

/// One policy's part in a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyDecision {
    /// The policy's name.
    pub name: String,
    /// What it says by itself.
    pub outcome: Decision,
}

/// One decision. Texts may come from outside: they are cut to `AUDIT_FIELD_BYTES` and escaped when written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The call.
    pub kind: Kind,
    /// The mode.
    pub mode: Mode,
    /// What was decided.
    pub decision: Decision,
    /// What happened.
    pub effective: Effective,
    /// The image exactly as the call names it.
    pub image: String,
    /// The reference it was decided under, normalized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The digest of the manifest or index vetted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The runtime's image ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// The pod's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The pod's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The container's name in the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The policies asked, in order.
    pub policies: Vec<PolicyDecision>,
    /// Why it was not allowed, or what a recheck found though it was, or that it is exempted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why, in one line: the same text the kubelet gets. Empty if there is nothing to say.
    pub message: String,
    /// Hash of the policy set decided by.
    pub policy_set_hash: String,
    /// W3C trace context of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Time spent on the decision, milliseconds; in a merged record the longest.
    pub latency_ms: u64,
}

/// The line of a record that stands for `count` decisions.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    schema_version: u32,
    #[serde(flatten)]
    record: &'a Record,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    lost_before: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// How often, and when, a record's decision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) count: u64,
    pub(super) first: SystemTime,
    pub(super) last: SystemTime,
}

impl Record {
    /// Cuts all texts to their limits, so that what is remembered is bounded too.
    pub(super) fn bounded(mut self) -> Self {
        let texts = [&mut self.image, &mut self.message, &mut self.policy_set_hash];
        texts.into_iter().for_each(cut);
        let optional = [
            &mut self.reference,
            &mut self.digest,
            &mut self.image_id,
            &mut self.namespace,
            &mut self.pod,
            &mut self.pod_uid,
            &mut self.container,
            &mut self.traceparent,
        ];
        optional.into_iter().flatten().for_each(cut);
        if self.policies.len() > AUDIT_POLICIES {
            let left_out = self.policies.len() - AUDIT_POLICIES;
            self.policies.truncate(AUDIT_POLICIES);
            self.message.push_str(&format!(" (and {left_out} more policies)"));
            cut(&mut self.message);
        }
        self.policies.iter_mut().for_each(|policy| cut(&mut policy.name));
        self
    }

    /// Equal for records that differ only in latency and trace.
    pub(super) fn key(&self) -> io::Result<Digest> {
        let plain = Self { latency_ms: 0, traceparent: None, ..self.clone() };
        Ok(Digest::of(&serde_json::to_vec(&plain)?))
    }

    /// The record's line, newline included: one line of printable ASCII whatever is in its texts. `lost_before`:
    /// how many decisions before it could not be written.
    pub(super) fn line(&self, now: SystemTime, seen: Seen, lost_before: u64) -> io::Result<Vec<u8>> {
        // A single one may have been held back as well: it could be the second of two.
        let span = |time| (seen.count > 1 || seen.first != now).then(|| rfc3339(time));
        let line = Line {
            time: rfc3339(now),
            schema_version: SCHEMA_VERSION,
            record: self,
            count: seen.count,
            first_seen: span(seen.first),
            last_seen: span(seen.last),
            lost_before,
        };
        let mut out = Vec::new();
        line.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Ascii))?;
        out.push(b'\n');
        Ok(out)
    }
}

/// Cuts `text` to `AUDIT_FIELD_BYTES` at a character, and says how long it was.
pub(super) fn cut(text: &mut String) {
    let length = text.len();
    if length > AUDIT_FIELD_BYTES {
        let note = format!("... ({length} bytes)");
        text.truncate(text.floor_char_boundary(AUDIT_FIELD_BYTES - note.len()));
        text.push_str(&note);
    }
}

/// Printable ASCII on one line, everything else as Rust escapes it: for texts from outside that are shown.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => line.push(c),
            other => line.extend(other.escape_default()),
        }
    }
    line
}

/// Escapes everything but printable ASCII: no terminal control and no bidirectional mark from outside reaches
/// whoever reads the log with `cat`. Still plain JSON.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                out.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}
