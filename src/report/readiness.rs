//! Ready to enforce? Yes only when enough was seen and nothing of it would be refused.

use std::collections::{BTreeMap, BTreeSet};

use super::advice::name;
use super::model::{Answer, Counts, Finding, Log, PolicySet, Verdict};
use super::words::{count, span};
use crate::audit::{Kind, Reason};

/// What is to be judged.
pub(super) struct Seen<'a> {
    pub(super) enforcing: bool,
    pub(super) findings: &'a [(Option<Reason>, Finding)],
    pub(super) other: Counts,
    pub(super) totals: Counts,
    pub(super) kinds: &'a BTreeMap<&'static str, u64>,
    /// From the first decision to the last, seconds.
    pub(super) span: Option<u64>,
    pub(super) logs: &'a [Log],
    /// The newest first.
    pub(super) policy_sets: &'a [PolicySet],
    /// How many different sets the logs' newest decisions were made by.
    pub(super) newest_sets: usize,
}

/// A week has every weekly job in it.
const ENOUGH_SECONDS: u64 = 7 * 86_400;
/// The newest policies must have seen a day: what older ones allowed says nothing about them.
const ENOUGH_OF_POLICIES_SECONDS: u64 = 86_400;

/// Most lines of one kind.
const LISTED: usize = 5;

/// The conclusion, with its reasons.
pub(super) fn verdict(seen: &Seen<'_>) -> Verdict {
    let (against, short, caveats) = (against(seen), short(seen), caveats(seen));
    let (answer, because, caveats) = if !against.is_empty() {
        (Answer::No, against, short.into_iter().chain(caveats).collect())
    } else if !short.is_empty() {
        (Answer::NotEnoughSeen, short, caveats)
    } else {
        let all = format!(
            "every image was allowed in the end: {} in {}",
            count(seen.totals.decisions(), "decision", "decisions"),
            span(seen.span.unwrap_or_default())
        );
        (Answer::Yes, vec![all], caveats)
    };
    let headline = match (seen.enforcing, answer) {
        (false, Answer::Yes) => "Ready to enforce: yes",
        (false, Answer::No) => "Ready to enforce: no",
        (false, Answer::NotEnoughSeen) => "Ready to enforce: not enough seen",
        (true, Answer::Yes) => "Enforcement is on, and nothing is refused",
        (true, Answer::No) => "Enforcement is on, and images are refused",
        (true, Answer::NotEnoughSeen) => "Enforcement is on, and not enough was seen",
    };
    Verdict { enforcing: seen.enforcing, answer, headline: headline.to_owned(), because, caveats }
}

/// What speaks against enforcing.
fn against(seen: &Seen<'_>) -> Vec<String> {
    let would = if seen.enforcing { "is" } else { "would be" };
    let would_many = if seen.enforcing { "are" } else { "would be" };
    let open = |decision: &'static str| {
        let open = seen.findings.iter().map(|(_, finding)| finding);
        open.filter(move |f| {
            f.decision == decision && !f.settled && f.reason != name(Some(Reason::BackgroundBudget))
        })
    };
    let mut said = Vec::new();
    let pods = Kind::RunPodSandbox.as_str();
    if open("denied").chain(open("undecided")).any(|finding| finding.kinds.contains_key(pods)) {
        let no = if seen.enforcing { "pods do not start" } else { "pods would not start" };
        said.push(format!("the pause image {would} refused: {no}"));
    }
    for (decision, what) in [("denied", "denied"), ("undecided", "refused because nothing could be decided")]
    {
        let findings = open(decision).count() as u64;
        if findings > 0 {
            let distinct = |of: fn(&Finding) -> &str| open(decision).map(of).collect::<BTreeSet<_>>().len();
            let (images, namespaces) = (distinct(|f| &f.image) as u64, distinct(|f| &f.namespace) as u64);
            let times = open(decision).fold(0_u64, |sum, finding| sum.saturating_add(finding.count));
            said.push(format!(
                "{} in {} {} {what}, {}",
                count(images, "image", "images"),
                count(namespaces, "namespace", "namespaces"),
                if images == 1 { would } else { would_many },
                count(times, "time", "times")
            ));
        }
    }
    if seen.other.against() > 0 {
        said.push(format!(
            "{} more were against images, and are not told apart (limits::REPORT_FINDINGS)",
            count(seen.other.against(), "decision", "decisions")
        ));
    }
    said
}

/// What has not been seen yet.
fn short(seen: &Seen<'_>) -> Vec<String> {
    let Some(seconds) = seen.span else {
        let mut said = unread(seen);
        said.push("no decision was seen".to_owned());
        return said;
    };
    let mut said = Vec::new();
    let enough = span(ENOUGH_SECONDS);
    if seconds < ENOUGH_SECONDS {
        said.push(format!("decisions were seen over {} only, not {enough}", span(seconds)));
    } else if seen.logs.len() > 1 {
        let mut logs = Vec::new();
        for log in seen.logs {
            let seconds = log.period.as_ref().map_or(0, |period| period.seconds);
            if seconds < ENOUGH_SECONDS {
                logs.push(format!("{} covers {} only, not {enough}", log.log, span(seconds)));
            }
        }
        said.extend(few(logs));
    }
    if let Some(newest) = seen.policy_sets.first()
        && newest.seconds < ENOUGH_OF_POLICIES_SECONDS
        && seconds >= ENOUGH_SECONDS
    {
        let day = span(ENOUGH_OF_POLICIES_SECONDS);
        said.push(format!("the newest policies have decided for {} only, not {day}", span(newest.seconds)));
    }
    for (kind, what) in [
        (Kind::RunPodSandbox, "no pod was started (RunPodSandbox), so the pause image was not vetted"),
        (Kind::CreateContainer, "no container was created (CreateContainer)"),
    ] {
        if !seen.kinds.contains_key(kind.as_str()) {
            said.push(what.to_owned());
        }
    }
    let passed_over = seen
        .findings
        .iter()
        .filter(|(reason, finding)| *reason == Some(Reason::BackgroundBudget) && !finding.settled);
    let passed_over = passed_over.count() as u64;
    if passed_over > 0 {
        let verb = if passed_over == 1 { "was" } else { "were" };
        said.push(format!(
            "{} {verb} not looked at: the background budget was used up",
            count(passed_over, "image", "images")
        ));
    }
    said.extend(unread(seen));
    said
}

/// Records that are missing from what was judged.
fn unread(seen: &Seen<'_>) -> Vec<String> {
    let mut said = Vec::new();
    for log in seen.logs {
        said.extend(log.errors.iter().take(1).cloned());
        for (number, what) in [
            (log.lost, "could not be written when it was made"),
            (log.unreadable, "cannot be read"),
            (log.other_version, "has another schema version"),
        ] {
            if number > 0 {
                said.push(format!("{}: {} that {what}", log.log, count(number, "record", "records")));
            }
        }
    }
    few(said)
}

/// The first of many: a fleet has thousands of logs.
fn few(mut said: Vec<String>) -> Vec<String> {
    let more = said.len().saturating_sub(LISTED);
    if more > 0 {
        said.truncate(LISTED);
        said.push(format!("and {more} more like these: crivet report -o json has all"));
    }
    said
}

/// What the reader should know beside the answer.
fn caveats(seen: &Seen<'_>) -> Vec<String> {
    let mut said = Vec::new();
    if seen.newest_sets > 1 {
        said.push(format!("the logs end with {} different policy sets", seen.newest_sets));
    }
    let settled = seen.findings.iter().filter(|(_, finding)| finding.settled).count() as u64;
    if settled > 0 {
        let verb = if settled == 1 { "was" } else { "were" };
        said.push(format!(
            "{} {verb} settled meanwhile: the image was allowed later",
            count(settled, "finding", "findings")
        ));
    }
    said
}
