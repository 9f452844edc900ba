//! From what came of each image to the call's verdict, and to its audit records.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::case::InForce;
use super::vetting::{Rechecked, Vetting};
use super::wire::{Call, ImageUse, Judged, Kind, Outcome, Verdict, VettedImage};
use crate::audit::{Decision, Effective, Mode as RecordMode, PolicyDecision, Reason, Record};
use crate::config::Mode;
use crate::cri::reply::Reply;
use crate::image::Tie;
use crate::telemetry::Span;

/// The call's verdict: every image has to be allowed, or its policies only audit. The first image that is not
/// is the answer's reason; a denial is given before something undecided, which a retry may mend. A permit holds no longer
/// than what it rests on.
pub fn verdict(in_force: &InForce, vettings: &[Vetting], now: SystemTime) -> Verdict {
    match refusal(vettings) {
        Some((vetting, reply)) => {
            let pull_anew =
                vettings.iter().filter(|v| v.recheck.pull_anew && vetting.decision == Decision::Undecided);
            let pull_anew = pull_anew.filter_map(|v| v.reference.clone()).collect();
            Verdict { pull_anew, ..refused(outcome(vetting.decision), reply) }
        }
        None => permits(in_force, vettings, now),
    }
}

fn refusal(vettings: &[Vetting]) -> Option<(&Vetting, Reply)> {
    let against = |decision| vettings.iter().find(move |v| v.enforced && v.decision == decision);
    let vetting = against(Decision::Denied).or_else(|| against(Decision::Undecided))?;
    Some((vetting, reply(vetting)?))
}

/// Why an image is not allowed, as the kubelet is answered.
fn reply(vetting: &Vetting) -> Option<Reply> {
    match vetting.decision {
        Decision::Allowed => None,
        Decision::Denied => Some(Reply::denied(&vetting.text)),
        Decision::Undecided if vetting.registry => Some(Reply::registry_unavailable(&vetting.text)),
        Decision::Undecided => Some(Reply::undecided(&vetting.text)),
    }
}

/// What the policies say of each image, where crivet itself asks.
pub fn judged(vettings: &[Vetting]) -> Verdict {
    let judged = vettings.iter().map(|vetting| Judged {
        outcome: outcome(vetting.decision).into(),
        message: reply(vetting).map(|reply| reply.message).unwrap_or_default(),
        registry: vetting.registry,
        policies: vetting.policies.iter().map(|policy| policy.name.clone()).collect(),
        reference: vetting.reference.clone().unwrap_or_default(),
        digest: vetting.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        refuses: vetting.enforced && vetting.decision != Decision::Allowed,
        vetted: (!vetting.enforced || vetting.decision == Decision::Allowed).then(|| permitted(vetting)),
    });
    Verdict { outcome: Outcome::Permitted.into(), judged: judged.collect(), ..Default::default() }
}

fn outcome(decision: Decision) -> Outcome {
    match decision {
        Decision::Allowed => Outcome::Permitted,
        Decision::Denied => Outcome::Denied,
        Decision::Undecided => Outcome::Undecided,
    }
}

fn permits(in_force: &InForce, vettings: &[Vetting], now: SystemTime) -> Verdict {
    let vetting = &in_force.config.vetting;
    let left = left(vettings.iter().filter_map(|vetting| vetting.until), now);
    let nothing_to_say = vettings.iter().all(|v| v.decision == Decision::Allowed && v.reason.is_none());
    // By now: other images of the call may have taken their time since a registry spoke.
    let moment = Instant::now();
    let at_most = |longest: Duration, of: fn(&Rechecked) -> Option<Instant>| {
        let rechecks = vettings.iter().filter_map(|v| of(&v.recheck));
        let left = rechecks.map(|until| until.saturating_duration_since(moment)).fold(left, Duration::min);
        millis(longest.min(left))
    };
    Verdict {
        outcome: Outcome::Permitted.into(),
        message: String::new(),
        images: vettings.iter().map(permitted).collect(),
        // What passes only because its policy audits, or has something to be told, is asked for again each time, so that
        // each is recorded.
        fresh_ms: if nothing_to_say { at_most(vetting.fresh_for, |recheck| recheck.fresh_until) } else { 0 },
        usable_when_down_ms: at_most(vetting.usable_when_vetter_down, |recheck| recheck.usable_until),
        ..Default::default()
    }
}

/// How long a permit may hold that rests on what ends then.
fn left(ends: impl Iterator<Item = SystemTime>, now: SystemTime) -> Duration {
    ends.min().map_or(Duration::MAX, |end| end.duration_since(now).unwrap_or_default())
}

/// The verdict for a call whose images are covered by policies that only audit: nobody waits for its vetting.
pub fn nobody_waits(in_force: &InForce, call: &Call) -> Verdict {
    Verdict {
        outcome: Outcome::Permitted.into(),
        message: String::new(),
        images: vec![VettedImage::default(); call.images.len()],
        fresh_ms: 0,
        usable_when_down_ms: millis(in_force.config.vetting.usable_when_vetter_down),
        ..Default::default()
    }
}

/// The verdict when a call could not be worked on at all.
pub fn undecided(text: &str) -> Verdict {
    refused(Outcome::Undecided, Reply::undecided(text))
}

fn refused(outcome: Outcome, reply: Reply) -> Verdict {
    Verdict { outcome: outcome.into(), message: reply.message, ..Default::default() }
}

fn permitted(vetting: &Vetting) -> VettedImage {
    if !vetting.binds {
        return VettedImage::default();
    }
    VettedImage {
        digest: vetting.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        image_ids: vetting.ties.iter().map(|tie| tie.id().to_string()).collect(),
        chain_id: vetting.ties.first().map(|tie| tie.chain_id().to_string()).unwrap_or_default(),
        documents: vetting.ties.first().map(documents).unwrap_or_default(),
        layers_checked_within: vetting.layers_checked_within.map(seconds).unwrap_or_default(),
    }
}

fn documents(tie: &Tie) -> Vec<String> {
    let by_hash = tie.digests().into_iter().chain([tie.id().0]);
    by_hash.map(|digest| digest.to_string()).collect()
}

/// Whole ones: less than one would be none, and none is not asked.
fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// One record per image of a vetted call; of a revetting, for each who uses it.
pub fn records(in_force: &InForce, call: &Call, vettings: &[Vetting], latency: Duration) -> Vec<Record> {
    let refused = refusal(vettings).is_some() && !call.beside;
    let records = call.images.iter().zip(vettings).map(|(image, vetting)| Record {
        image: image.named.clone(),
        reference: vetting.reference.clone(),
        digest: vetting.digest.map(|digest| digest.to_string()),
        image_id: vetting.ties.first().map(|tie| tie.id().to_string()),
        decision: vetting.decision,
        policies: vetting
            .policies
            .iter()
            .map(|policy| PolicyDecision { name: policy.name.clone(), outcome: policy.decision })
            .collect(),
        reason: vetting.reason,
        message: vetting.text.clone(),
        ..blank(in_force, call, refused, latency)
    });
    let mut records: Vec<Record> = records.collect();
    let others = call.also.iter().flat_map(|whose| {
        let of_other = |record: &Record| Record {
            pod: some(&whose.pod_name),
            container: some(&whose.container_name),
            ..record.clone()
        };
        records.iter().map(of_other).collect::<Vec<_>>()
    });
    let others: Vec<Record> = others.collect();
    records.extend(others);
    records
}

/// One record per image of a call that the relay decided by itself.
pub fn records_of_relay(
    in_force: &InForce,
    call: &Call,
    verdict: &Verdict,
    reason: Option<Reason>,
) -> Vec<Record> {
    let decision = match verdict.outcome() {
        Outcome::Permitted => Decision::Allowed,
        Outcome::Denied => Decision::Denied,
        Outcome::Undecided | Outcome::UnknownOutcome => Decision::Undecided,
    };
    let refused = decision != Decision::Allowed && !call.beside;
    let mut images = verdict.images.iter();
    let records = call.images.iter().map(|image| {
        let vetted = images.next().cloned().unwrap_or_default();
        Record {
            image: image.named.clone(),
            reference: some(&image.reference),
            digest: some(&vetted.digest),
            image_id: vetted.image_ids.first().cloned(),
            decision,
            reason: reason.filter(|_| decision != Decision::Allowed),
            message: verdict.message.clone(),
            ..blank(in_force, call, refused, Duration::ZERO)
        }
    });
    records.collect()
}

/// What came of an image, for its span.
pub fn tell_span(span: &mut Span, image: &ImageUse, vetting: &Vetting) {
    span.set("crivet.image", &image.named);
    span.set("container.image.name", vetting.reference.as_deref().unwrap_or(&image.reference));
    span.set("crivet.role", &image.role);
    span.set("crivet.digest", &vetting.digest.map(|digest| digest.to_string()).unwrap_or_default());
    span.set("crivet.decision", vetting.decision.as_str());
    let policies: Vec<&str> = vetting.policies.iter().map(|policy| policy.name.as_str()).collect();
    span.set("crivet.policies", &policies.join(" "));
    if vetting.decision != Decision::Allowed {
        span.failed(&vetting.text);
    }
}

/// What came of a call, for its span.
pub fn tell_call(span: &mut Span, in_force: &InForce, vettings: &[Vetting]) {
    let against = |decision| vettings.iter().find(move |vetting| vetting.decision == decision);
    let reason = against(Decision::Denied).or_else(|| against(Decision::Undecided));
    span.set("crivet.decision", reason.map_or(Decision::Allowed, |reason| reason.decision).as_str());
    if let Some(reason) = reason {
        span.failed(&reason.text);
    }
    let policy_set = in_force.policies.as_ref().map(|set| set.hash().to_string()).unwrap_or_default();
    span.set("crivet.policy_set", &policy_set);
}

fn blank(in_force: &InForce, call: &Call, refused: bool, latency: Duration) -> Record {
    Record {
        kind: kind(call.kind()),
        mode: match in_force.mode {
            Mode::Audit => RecordMode::Audit,
            Mode::Enforce => RecordMode::Enforce,
        },
        decision: Decision::Undecided,
        effective: if refused { Effective::Refused } else { Effective::Forwarded },
        image: String::new(),
        reference: None,
        digest: None,
        image_id: None,
        namespace: some(&call.namespace),
        pod: some(&call.pod_name),
        pod_uid: some(&call.pod_uid),
        container: some(&call.container_name),
        policies: Vec::new(),
        reason: None,
        message: String::new(),
        policy_set_hash: in_force.policies.as_ref().map(|set| set.hash().to_string()).unwrap_or_default(),
        traceparent: some(&call.traceparent),
        latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A call's kind as records have it.
pub fn kind(kind: Kind) -> crate::audit::Kind {
    match kind {
        Kind::PullImage | Kind::PulledImage => crate::audit::Kind::PullImage,
        Kind::CreateContainer => crate::audit::Kind::CreateContainer,
        Kind::RunPodSandbox => crate::audit::Kind::RunPodSandbox,
        Kind::RestorePod => crate::audit::Kind::RestorePod,
        Kind::FoundContainer => crate::audit::Kind::FoundContainer,
        Kind::ContentCheck => crate::audit::Kind::ContentCheck,
        Kind::Revetted => crate::audit::Kind::Revetted,
        Kind::Other | Kind::Inventory | Kind::UnknownKind => crate::audit::Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permit_ends_with_the_first_that_it_rests_on() {
        let (now, second) = (SystemTime::now(), Duration::from_secs(1));
        assert_eq!(left([].into_iter(), now), Duration::MAX);
        assert_eq!(left([now + second * 9, now + second].into_iter(), now), second);
        assert_eq!(left([now - second, now + second].into_iter(), now), Duration::ZERO);
    }
}
