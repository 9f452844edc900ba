//! The report itself. What is serialized here is described in docs/report.schema.json.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::audit::Decision;

/// Version of the report's schema. It changes when a field's meaning does.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// What a window of audit logs says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub(super) schema_version: u32,
    pub(super) crivet_version: &'static str,
    pub(super) generated: String,
    pub(super) asked: Asked,
    pub(super) verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) period: Option<Period>,
    pub(super) totals: Counts,
    pub(super) modes: BTreeMap<&'static str, u64>,
    pub(super) kinds: BTreeMap<&'static str, u64>,
    pub(super) reasons: Vec<ByReason>,
    pub(super) findings: Vec<Finding>,
    /// Decisions against images that found no room among the findings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) other: Option<Other>,
    pub(super) namespaces: Vec<Named>,
    pub(super) policies: Vec<Named>,
    /// Only images that were not always allowed.
    pub(super) images: Vec<Named>,
    pub(super) policy_sets: Vec<PolicySet>,
    pub(super) logs: Vec<Log>,
    pub(super) timeline: Timeline,
}

/// What was asked for.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
}

/// Whether enforcement would refuse nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    Yes,
    No,
    NotEnoughSeen,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    /// Whether the newest decision in every log was made in enforce mode.
    pub(super) enforcing: bool,
    pub(super) answer: Answer,
    pub(super) headline: String,
    /// Why this is the answer.
    pub(super) because: Vec<String>,
    /// What the answer may have missed.
    pub(super) caveats: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Period {
    pub(super) first: String,
    pub(super) last: String,
    pub(super) seconds: u64,
}

/// Decisions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) allowed: u64,
    pub(super) denied: u64,
    pub(super) undecided: u64,
    /// Those of the denied and undecided whose call was refused.
    pub(super) refused: u64,
}

impl Counts {
    pub(super) fn of(decision: Decision, refused: bool, count: u64) -> Self {
        let mut counts = Self::default();
        match decision {
            Decision::Allowed => counts.allowed = count,
            Decision::Denied => counts.denied = count,
            Decision::Undecided => counts.undecided = count,
        }
        counts.refused = if refused { count } else { 0 };
        counts
    }

    /// Saturating: a log may say anything.
    pub(super) fn add(&mut self, other: Self) {
        self.allowed = self.allowed.saturating_add(other.allowed);
        self.denied = self.denied.saturating_add(other.denied);
        self.undecided = self.undecided.saturating_add(other.undecided);
        self.refused = self.refused.saturating_add(other.refused);
    }

    pub(super) fn decisions(&self) -> u64 {
        self.allowed.saturating_add(self.against())
    }

    /// Denied and undecided.
    pub(super) fn against(&self) -> u64 {
        self.denied.saturating_add(self.undecided)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Named {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) counts: Counts,
}

/// Decisions against one image in one namespace by the same policies for the same reason.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) decision: &'static str,
    pub(super) reason: &'static str,
    pub(super) image: String,
    /// Of the newest decision, where there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) digest: String,
    /// Empty where the call has none.
    pub(super) namespace: String,
    /// Those that did not allow it, joined by commas; empty if none covers it or none was asked.
    pub(super) policies: String,
    /// Decisions by call.
    pub(super) kinds: BTreeMap<&'static str, u64>,
    pub(super) count: u64,
    /// How many of these calls were refused.
    pub(super) refused: u64,
    pub(super) first_seen: String,
    pub(super) last_seen: String,
    /// The same image was allowed in the same namespace after each of these decisions, for the same calls.
    pub(super) settled: bool,
    /// In how many of the logs.
    pub(super) logs: u64,
    /// The newest decision's own words.
    pub(super) message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ByReason {
    pub(super) decision: &'static str,
    pub(super) reason: &'static str,
    pub(super) title: &'static str,
    pub(super) what_to_do: &'static str,
    pub(super) findings: u64,
    pub(super) settled: u64,
    pub(super) count: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Other {
    pub(super) limit: &'static str,
    #[serde(flatten)]
    pub(super) counts: Counts,
}

#[derive(Debug, Serialize)]
pub(super) struct PolicySet {
    pub(super) hash: String,
    pub(super) decisions: u64,
    pub(super) first: String,
    pub(super) last: String,
    #[serde(skip)]
    pub(super) seconds: u64,
}

/// One log with its rotated files.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Log {
    pub(super) log: String,
    pub(super) files: u64,
    pub(super) lines: u64,
    #[serde(flatten)]
    pub(super) counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) period: Option<Period>,
    /// Decisions whose record could not be written, as later records say.
    pub(super) lost: u64,
    /// Lines that are no record.
    pub(super) unreadable: u64,
    /// Records of another schema version.
    pub(super) other_version: u64,
    /// What could not be read, one line each.
    pub(super) errors: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Timeline {
    pub(super) bar_seconds: u64,
    pub(super) bars: Vec<Bar>,
}

#[derive(Debug, Serialize)]
pub(super) struct Bar {
    pub(super) start: String,
    #[serde(flatten)]
    pub(super) counts: Counts,
}
