//! Lines of logs added up, in bounded memory however long the logs are.

use std::collections::hash_map::{HashMap, RandomState};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::time::SystemTime;

use super::Reads;
use super::advice::{advice, name};
use super::line::{Line, NotRead, unix_seconds};
use super::model::{Asked, ByReason, Counts, Finding, Log, Other, Period, PolicySet, Report, SCHEMA_VERSION};
use super::readiness::{self, Seen};
use super::tally::Tally;
use super::timeline::Bars;
use super::words::{bounded, moment};
use crate::audit::{Decision, Kind, Mode, Reason};
use crate::limits::{REPORT_ALLOWED, REPORT_FINDINGS, REPORT_POLICY_SETS};

/// Bars of the timeline.
const BARS: u64 = 60;

/// Which records are counted.
#[derive(Debug, Default, Clone)]
pub struct Window {
    /// Those of decisions made then or later.
    pub since: Option<SystemTime>,
    /// Those of decisions made then or earlier.
    pub until: Option<SystemTime>,
    /// Those of pods in this namespace.
    pub namespace: Option<String>,
}

/// Adds up the lines of one log after the other; their order does not matter.
#[derive(Default)]
pub struct Gatherer {
    window: Window,
    logs: Vec<GatheredLog>,
    totals: Counts,
    modes: BTreeMap<&'static str, u64>,
    kinds: BTreeMap<&'static str, u64>,
    groups: HashMap<Key, Group>,
    other: Counts,
    allowed: Allowed,
    namespaces: Tally,
    policies: Tally,
    images: Tally,
    sets: HashMap<String, Span>,
    other_sets: u64,
    span: Option<Span>,
    bars: Bars,
}

struct GatheredLog {
    log: Log,
    span: Option<Span>,
    /// The newest decision's moment and mode.
    newest: Option<(u64, Mode)>,
    /// The newest decision's moment and policy set.
    set: Option<(u64, String)>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    decision: Decision,
    reason: Option<Reason>,
    policies: String,
    image: String,
    namespace: String,
}

struct Group {
    counts: Counts,
    span: Span,
    /// By call: how often, and when last.
    kinds: HashMap<Kind, (u64, u64)>,
    digest: String,
    message: String,
    logs: u64,
    newest_log: usize,
}

#[derive(Clone, Copy)]
struct Span {
    first: u64,
    last: u64,
    count: u64,
}

impl Span {
    fn join(span: &mut Option<Span>, other: Span) {
        match span {
            Some(span) => span.add(other),
            None => *span = Some(other),
        }
    }

    fn add(&mut self, other: Span) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.count = self.count.saturating_add(other.count);
    }

    fn period(&self) -> Period {
        Period { first: moment(self.first), last: moment(self.last), seconds: self.last - self.first }
    }
}

/// When an image was last allowed, by image, namespace and call. Only hashes are kept; they are keyed anew for each
/// report, so that no log can be written to make two of them meet.
#[derive(Default)]
struct Allowed {
    hasher: RandomState,
    last: HashMap<u64, u64>,
}

impl Allowed {
    fn key(&self, image: &str, namespace: &str, kind: Kind) -> u64 {
        self.hasher.hash_one((image, namespace, kind))
    }

    fn add(&mut self, line: &Line<'_>) {
        let key = self.key(&bounded(&line.image), &bounded(&line.namespace), line.kind);
        if let Some(last) = self.last.get_mut(&key) {
            *last = line.last.max(*last);
        } else if self.last.len() < REPORT_ALLOWED {
            self.last.insert(key, line.last);
        }
    }

    fn after(&self, key: &Key, kind: Kind, last: u64) -> bool {
        self.last.get(&self.key(&key.image, &key.namespace, kind)).is_some_and(|allowed| *allowed > last)
    }
}

impl Reads for Gatherer {
    fn log(&mut self, name: &str) {
        let log = Log {
            log: name.to_owned(),
            files: 0,
            lines: 0,
            counts: Counts::default(),
            period: None,
            lost: 0,
            unreadable: 0,
            other_version: 0,
            errors: Vec::new(),
        };
        self.logs.push(GatheredLog { log, span: None, newest: None, set: None });
    }

    fn file(&mut self) {
        if let Some(at) = self.logs.last_mut() {
            at.log.files += 1;
        }
    }

    fn error(&mut self, error: String) {
        if let Some(at) = self.logs.last_mut() {
            at.log.errors.push(error);
        }
    }

    fn too_long(&mut self) {
        if let Some(at) = self.logs.last_mut() {
            at.log.lines += 1;
            at.log.unreadable += 1;
        }
    }

    fn line(&mut self, line: &[u8]) {
        let index = self.logs.len().saturating_sub(1);
        let Some(at) = self.logs.last_mut().filter(|_| !line.trim_ascii().is_empty()) else { return };
        at.log.lines += 1;
        let line = match Line::read(line) {
            Ok(line) => line,
            Err(NotRead::OtherVersion) => return at.log.other_version += 1,
            Err(NotRead::NoRecord) => return at.log.unreadable += 1,
        };
        if self.window.since.is_some_and(|since| line.last < unix_seconds(since))
            || self.window.until.is_some_and(|until| line.first > unix_seconds(until))
        {
            return;
        }
        // Lost records may have been of any namespace.
        at.log.lost = at.log.lost.saturating_add(line.lost_before);
        if line.idle || self.window.namespace.as_ref().is_some_and(|only| *only != line.namespace) {
            return;
        }
        self.count(index, &line);
    }
}

impl Gatherer {
    /// Counts what is in `window`.
    pub fn new(window: Window) -> Self {
        Self { window, ..Self::default() }
    }

    fn count(&mut self, index: usize, line: &Line<'_>) {
        let counts = Counts::of(line.decision, line.refused, line.count);
        let span = Span { first: line.first, last: line.last, count: line.count };
        if let Some(at) = self.logs.get_mut(index) {
            at.log.counts.add(counts);
            Span::join(&mut at.span, span);
            if at.newest.is_none_or(|(moment, _)| line.last >= moment) {
                at.newest = Some((line.last, line.mode));
            }
            if !line.policy_set.is_empty() && at.set.as_ref().is_none_or(|(moment, _)| line.last >= *moment) {
                at.set = Some((line.last, bounded(&line.policy_set)));
            }
        }
        Span::join(&mut self.span, span);
        self.totals.add(counts);
        for (tally, name) in [(&mut self.modes, line.mode.as_str()), (&mut self.kinds, line.kind.as_str())] {
            let count = tally.entry(name).or_default();
            *count = count.saturating_add(line.count);
        }
        self.bars.add(line.last, counts);
        self.namespaces.add(&line.namespace, counts);
        self.images.add(&line.image, counts);
        for (policy, outcome) in &line.policies {
            self.policies.add(policy, Counts::of(*outcome, line.refused, line.count));
        }
        self.policy_set(line, span);
        match line.decision {
            Decision::Allowed => self.allowed.add(line),
            Decision::Denied | Decision::Undecided => self.against(index, line, counts, span),
        }
    }

    fn policy_set(&mut self, line: &Line<'_>, span: Span) {
        if line.policy_set.is_empty() {
            return;
        }
        if let Some(known) = self.sets.get_mut(&*line.policy_set) {
            known.add(span);
        } else if self.sets.len() < REPORT_POLICY_SETS {
            self.sets.insert(bounded(&line.policy_set), span);
        } else {
            self.other_sets = self.other_sets.saturating_add(line.count);
        }
    }

    fn against(&mut self, index: usize, line: &Line<'_>, counts: Counts, span: Span) {
        let against = line.policies.iter().filter(|(_, outcome)| *outcome != Decision::Allowed);
        let names: BTreeSet<&str> = against.map(|(name, _)| &**name).collect();
        let key = Key {
            decision: line.decision,
            reason: line.reason,
            policies: bounded(&names.into_iter().collect::<Vec<_>>().join(", ")),
            image: bounded(&line.image),
            namespace: bounded(&line.namespace),
        };
        if self.groups.len() >= REPORT_FINDINGS && !self.groups.contains_key(&key) {
            return self.other.add(counts);
        }
        let group = self.groups.entry(key).or_insert_with(|| Group {
            counts: Counts::default(),
            span: Span { count: 0, ..span },
            kinds: HashMap::new(),
            digest: String::new(),
            message: String::new(),
            logs: 0,
            newest_log: usize::MAX,
        });
        group.counts.add(counts);
        group.span.add(span);
        if group.newest_log != index {
            (group.newest_log, group.logs) = (index, group.logs + 1);
        }
        let (count, last) = group.kinds.entry(line.kind).or_default();
        (*count, *last) = (count.saturating_add(line.count), line.last.max(*last));
        if line.last >= group.span.last {
            (group.digest, group.message) = (bounded(&line.digest), bounded(&line.message));
        }
    }

    /// The report, made at `now`.
    pub fn report(self, now: SystemTime) -> Report {
        let findings = findings(self.groups, &self.allowed);
        let mut sets: Vec<_> = self
            .sets
            .into_iter()
            .map(|(hash, span)| PolicySet {
                hash,
                decisions: span.count,
                first: moment(span.first),
                last: moment(span.last),
                seconds: span.last - span.first,
            })
            .collect();
        sets.sort_by(|a, b| (&b.last, &a.hash).cmp(&(&a.last, &b.hash)));
        let modes: Vec<_> = self.logs.iter().filter_map(|at| at.newest).map(|(_, mode)| mode).collect();
        let newest_sets: BTreeSet<_> =
            self.logs.iter().filter_map(|at| at.set.as_ref()).map(|(_, set)| set.clone()).collect();
        let logs: Vec<_> = self
            .logs
            .into_iter()
            .map(|at| Log { period: at.span.as_ref().map(Span::period), ..at.log })
            .collect();
        let verdict = readiness::verdict(&Seen {
            enforcing: !modes.is_empty() && modes.iter().all(|mode| *mode == Mode::Enforce),
            findings: &findings,
            other: self.other,
            totals: self.totals,
            kinds: &self.kinds,
            span: self.span.map(|span| span.last - span.first),
            logs: &logs,
            policy_sets: &sets,
            newest_sets: newest_sets.len(),
        });
        let at = |time: Option<SystemTime>| time.map(|time| moment(unix_seconds(time)));
        Report {
            schema_version: SCHEMA_VERSION,
            crivet_version: env!("CARGO_PKG_VERSION"),
            generated: moment(unix_seconds(now)),
            asked: Asked {
                since: at(self.window.since),
                until: at(self.window.until),
                namespace: self.window.namespace,
            },
            verdict,
            period: self.span.as_ref().map(Span::period),
            totals: self.totals,
            modes: self.modes,
            kinds: self.kinds,
            reasons: by_reason(&findings),
            findings: findings.into_iter().map(|(_, finding)| finding).collect(),
            other: (self.other.against() > 0)
                .then_some(Other { limit: "limits::REPORT_FINDINGS", counts: self.other }),
            namespaces: self.namespaces.sorted(),
            policies: self.policies.sorted(),
            images: self.images.sorted().into_iter().filter(|image| image.counts.against() > 0).collect(),
            policy_sets: sets,
            logs,
            timeline: self.bars.shown(BARS),
        }
    }
}

/// Open ones first, denied before undecided, the most frequent first.
fn findings(groups: HashMap<Key, Group>, allowed: &Allowed) -> Vec<(Option<Reason>, Finding)> {
    let mut all: Vec<_> = groups
        .into_iter()
        .map(|(key, group)| {
            // What runs is judged anew only while it runs: then the next container of it tells.
            let settled = group.kinds.iter().all(|(kind, (_, last))| {
                allowed.after(&key, *kind, *last)
                    || (*kind == Kind::Revetted && allowed.after(&key, Kind::CreateContainer, *last))
            });
            let kinds = group.kinds.iter().map(|(kind, (count, _))| (kind.as_str(), *count)).collect();
            let finding = Finding {
                decision: key.decision.as_str(),
                reason: name(key.reason),
                image: key.image,
                digest: group.digest,
                namespace: key.namespace,
                policies: key.policies,
                kinds,
                count: group.counts.against(),
                refused: group.counts.refused,
                first_seen: moment(group.span.first),
                last_seen: moment(group.span.last),
                settled,
                logs: group.logs,
                message: group.message,
            };
            (key.reason, finding)
        })
        .collect();
    all.sort_by(|(_, a), (_, b)| {
        let order = |f: &Finding| (f.settled, f.decision != Decision::Denied.as_str());
        order(a).cmp(&order(b)).then(b.count.cmp(&a.count)).then_with(|| text(a).cmp(&text(b)))
    });
    all
}

fn text(finding: &Finding) -> (&str, &str, &str, &str) {
    (&finding.image, &finding.namespace, finding.reason, &finding.policies)
}

/// Denied before undecided, the most findings first.
fn by_reason(findings: &[(Option<Reason>, Finding)]) -> Vec<ByReason> {
    let mut all: Vec<ByReason> = Vec::new();
    for (reason, finding) in findings {
        let known = all.iter_mut().find(|r| (r.decision, r.reason) == (finding.decision, finding.reason));
        let by = match known {
            Some(by) => by,
            None => {
                let advice = advice(*reason);
                all.push(ByReason {
                    decision: finding.decision,
                    reason: finding.reason,
                    title: advice.title,
                    what_to_do: advice.what_to_do,
                    findings: 0,
                    settled: 0,
                    count: 0,
                });
                let Some(by) = all.last_mut() else { continue };
                by
            }
        };
        by.findings += 1;
        by.settled += u64::from(finding.settled);
        by.count = by.count.saturating_add(finding.count);
    }
    all.sort_by(|a, b| {
        (a.decision, b.findings - b.settled, b.count, a.reason).cmp(&(
            b.decision,
            a.findings - a.settled,
            a.count,
            b.reason,
        ))
    });
    all
}
