//! One line of an audit log, read back.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::audit::{Decision, Effective, Kind, Mode, Reason, SCHEMA_VERSION, from_rfc3339};
use crate::doctor::canary::POD_UID;

/// What a line says that bears on a report. Texts are as long as the line has them.
pub(super) struct Line<'a> {
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    pub(super) decision: Decision,
    pub(super) refused: bool,
    /// The name the image was decided under, else what the call named.
    pub(super) image: Cow<'a, str>,
    pub(super) digest: Cow<'a, str>,
    pub(super) namespace: Cow<'a, str>,
    /// Nothing that somebody wants to run: a try of `crivet doctor`'s, or an image that is only stored.
    pub(super) idle: bool,
    pub(super) policies: Vec<(Cow<'a, str>, Decision)>,
    pub(super) reason: Option<Reason>,
    pub(super) message: Cow<'a, str>,
    pub(super) policy_set: Cow<'a, str>,
    pub(super) count: u64,
    /// Unix seconds.
    pub(super) first: u64,
    /// Unix seconds.
    pub(super) last: u64,
    pub(super) lost_before: u64,
}

/// Why a line is not counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotRead {
    /// A record of another crivet's schema.
    OtherVersion,
    /// No record: torn, or not crivet's.
    NoRecord,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    mode: Cow<'a, str>,
    #[serde(borrow)]
    decision: Cow<'a, str>,
    #[serde(borrow)]
    effective: Cow<'a, str>,
    #[serde(borrow)]
    image: Cow<'a, str>,
    #[serde(borrow, default)]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    digest: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    container: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pod_uid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    policies: Vec<WrittenPolicy<'a>>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    policy_set_hash: Cow<'a, str>,
    count: u64,
    #[serde(borrow, default)]
    first_seen: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    last_seen: Option<Cow<'a, str>>,
    #[serde(default)]
    lost_before: u64,
}

#[derive(Deserialize)]
struct WrittenPolicy<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
}

/// The schema's version alone: the other fields may be anything in another one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    schema_version: u32,
}

impl<'a> Line<'a> {
    /// Reads a line. A field that this crivet does not know is a later addition, and left out.
    pub(super) fn read(line: &'a [u8]) -> Result<Self, NotRead> {
        let Version { schema_version } = serde_json::from_slice(line).map_err(|_| NotRead::NoRecord)?;
        if schema_version != SCHEMA_VERSION {
            return Err(NotRead::OtherVersion);
        }
        let written = serde_json::from_slice(line).map_err(|_| NotRead::NoRecord)?;
        Self::check(written).ok_or(NotRead::NoRecord)
    }

    fn check(written: Written<'a>) -> Option<Self> {
        let (time, kind) = (seconds(&written.time)?, Kind::named(&written.kind)?);
        let or_time = |text: Option<Cow<'_, str>>| text.map_or(Some(time), |text| seconds(&text));
        let (first, last) = (or_time(written.first_seen)?, or_time(written.last_seen)?);
        let policies = written.policies.into_iter().map(|p| Some((p.name, Decision::named(&p.outcome)?)));
        Some(Line {
            kind,
            mode: Mode::named(&written.mode)?,
            decision: Decision::named(&written.decision)?,
            refused: Effective::named(&written.effective)? == Effective::Refused,
            image: written.reference.unwrap_or(written.image),
            digest: written.digest,
            namespace: written.namespace,
            idle: written.pod_uid.as_deref() == Some(POD_UID)
                || (kind == Kind::Revetted && written.container.is_none()),
            policies: policies.collect::<Option<_>>()?,
            // A reason this crivet has never heard of is told like none, by its message.
            reason: written.reason.and_then(|reason| Reason::named(&reason)),
            message: written.message,
            policy_set: written.policy_set_hash,
            count: written.count,
            // A clock that was set back in between.
            first: first.min(last),
            last: last.max(first),
            lost_before: written.lost_before,
        })
    }
}

fn seconds(text: &str) -> Option<u64> {
    Some(unix_seconds(from_rfc3339(text)?))
}

/// Seconds since 1970; 0 before.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
