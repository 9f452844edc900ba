//! What the vetter counts.

use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::exemptions::ExemptionMetrics;
use super::layouts::LayoutMetrics;
use super::recheck::RecheckMetrics;
use super::trust::TrustMetrics;
use super::{OutcomeLabel, StateLabel, render, unix_seconds};
use crate::audit::{Decision, Effective, Kind, Mode};
use crate::policy::PolicySet;
use crate::proofs::{Kept, Summary};
use crate::registry::Outcome;
use crate::trust::Trust;
use crate::vetter::vetting::Vetting;

/// How long a vetting takes, seconds: a kept proof in under a millisecond, a cold one over a slow registry up
/// to half of the kubelet's two minutes.
const VETTING_BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Where a running configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// The files as they are.
    Files,
    /// The last good ones, kept: the files are wrong.
    LastGood,
    /// Neither is usable.
    Nothing,
}

impl ConfigSource {
    const ALL: [Self; 3] = [Self::Files, Self::LastGood, Self::Nothing];

    fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::LastGood => "last_good",
            Self::Nothing => "nothing",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabels {
    kind: &'static str,
    decision: &'static str,
    mode: &'static str,
    effective: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HashLabel {
    hash: String,
}

/// What the vetter counts.
pub struct VetterMetrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    vetting_duration: Histogram,
    registry_requests: Family<OutcomeLabel, Counter>,
    policy_set: Family<HashLabel, Gauge>,
    policy_load_errors: Counter,
    policy_last_reload: Gauge,
    config_source: Family<SourceLabel, Gauge>,
    audit_records_lost: Counter,
    audit_journal_lost: Counter,
    audit_log_free: Gauge,
    proofs: ProofMetrics,
    trace_spans: Family<OutcomeLabel, Counter>,
    trust: TrustMetrics,
    layouts: LayoutMetrics,
    rechecks: RecheckMetrics,
    exemptions: ExemptionMetrics,
}

/// What is counted of the proofs, and of their store.
#[derive(Default)]
struct ProofMetrics {
    held: Gauge,
    evidence: Gauge,
    store_state: Family<StateLabel, Gauge>,
    store_bytes: Gauge,
    unwritten: Gauge,
    store_failures: Counter,
    set_aside: Gauge,
}

impl ProofMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("proofs_held", "Digests something is known about", all.held.clone());
        registry.register_with_unit(
            "proofs_evidence",
            "Evidence held in memory",
            Unit::Bytes,
            all.evidence.clone(),
        );
        let help = "1 for how proofs are kept on disk";
        registry.register("proofs_store_state", help, all.store_state.clone());
        let help = "The file that proofs are kept in";
        registry.register_with_unit("proofs_store", help, Unit::Bytes, all.store_bytes.clone());
        let help = "What is known and not on disk yet";
        registry.register("proofs_unwritten", help, all.unwritten.clone());
        let help = "Times the proofs' store could not be opened or written";
        registry.register("proofs_store_failures", help, all.store_failures.clone());
        let help = "Damaged stores of proofs that were set aside and are still there";
        registry.register("proofs_stores_set_aside", help, all.set_aside.clone());
        all
    }
}

impl Default for VetterMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("crivet");
        let decisions = Family::<DecisionLabels, Counter>::default();
        registry.register(
            "decisions",
            "Decisions made, merged audit records counted each",
            decisions.clone(),
        );
        let vetting_duration = Histogram::new(VETTING_BUCKETS);
        registry.register_with_unit(
            "vetting_duration",
            "Time from a call's facts to its decision",
            Unit::Seconds,
            vetting_duration.clone(),
        );
        let registry_requests = Family::<OutcomeLabel, Counter>::default();
        registry.register(
            "registry_requests",
            "HTTP requests to registries, token endpoints and TUF repositories",
            registry_requests.clone(),
        );
        let policy_set = Family::<HashLabel, Gauge>::default();
        registry.register(
            "policy_set_info",
            "Hash of the policy set decisions are made by",
            policy_set.clone(),
        );
        let policy_load_errors = Counter::default();
        registry.register(
            "policy_load_errors",
            "Policy sets that were not taken over",
            policy_load_errors.clone(),
        );
        let policy_last_reload = Gauge::default();
        registry.register_with_unit(
            "policy_last_reload_success_timestamp",
            "Unix time a policy set was last taken over",
            Unit::Seconds,
            policy_last_reload.clone(),
        );
        let config_source = Family::<SourceLabel, Gauge>::default();
        registry.register(
            "config_source",
            "1 for where the running configuration comes from",
            config_source.clone(),
        );
        let audit_records_lost = Counter::default();
        registry.register(
            "audit_records_lost",
            "Decisions whose audit record could not be written",
            audit_records_lost.clone(),
        );
        let audit_journal_lost = Counter::default();
        registry.register(
            "audit_journal_entries_lost",
            "Audit records that the systemd journal did not take",
            audit_journal_lost.clone(),
        );
        let audit_log_free = Gauge::default();
        registry.register_with_unit(
            "audit_log_free",
            "Free on the audit log's disk",
            Unit::Bytes,
            audit_log_free.clone(),
        );
        let proofs = ProofMetrics::registered(&mut registry);
        let trace_spans = Family::<OutcomeLabel, Counter>::default();
        for outcome in ["exported", "dropped"] {
            drop(trace_spans.get_or_create(&OutcomeLabel { outcome }));
        }
        registry.register("trace_spans", "Spans of traces, by what became of them", trace_spans.clone());
        let trust = TrustMetrics::new(&mut registry);
        let layouts = LayoutMetrics::new(&mut registry);
        let rechecks = RecheckMetrics::new(&mut registry);
        let exemptions = ExemptionMetrics::new(&mut registry);
        Self {
            registry,
            decisions,
            vetting_duration,
            registry_requests,
            policy_set,
            policy_load_errors,
            policy_last_reload,
            config_source,
            audit_records_lost,
            audit_journal_lost,
            audit_log_free,
            proofs,
            trace_spans,
            trust,
            layouts,
            rechecks,
            exemptions,
        }
    }
}

impl VetterMetrics {
    /// A decision was made, `took` after its facts arrived.
    pub fn decided(&self, kind: Kind, decision: Decision, mode: Mode, effective: Effective, took: Duration) {
        let labels = DecisionLabels {
            kind: kind.as_str(),
            decision: decision.as_str(),
            mode: mode.as_str(),
            effective: effective.as_str(),
        };
        self.decisions.get_or_create(&labels).inc();
        self.vetting_duration.observe(took.as_secs_f64());
    }

    /// An HTTP request to a registry ended.
    pub fn registry_request(&self, outcome: Outcome) {
        self.registry_requests.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).inc();
    }

    /// A policy set was taken over.
    pub fn policies_loaded(&self, hash: &str, now: SystemTime) {
        self.policy_set.clear();
        self.policy_set.get_or_create(&HashLabel { hash: hash.to_owned() }).set(1);
        self.policy_last_reload.set(unix_seconds(now));
    }

    /// A policy set was not taken over.
    pub fn policies_rejected(&self) {
        self.policy_load_errors.inc();
    }

    /// Where the running configuration comes from.
    pub fn config_source(&self, source: ConfigSource) {
        for each in ConfigSource::ALL {
            let label = SourceLabel { source: each.as_str() };
            self.config_source.get_or_create(&label).set(i64::from(each == source));
        }
    }

    /// The audit log's own counts of what the file and the journal did not take.
    pub fn audit_records_lost(&self, total: u64, of_journal: u64) {
        self.audit_records_lost.inner().store(total, std::sync::atomic::Ordering::Relaxed);
        self.audit_journal_lost.inner().store(of_journal, std::sync::atomic::Ordering::Relaxed);
    }

    /// What is free on the audit log's disk.
    pub fn audit_log_free_bytes(&self, free: u64) {
        self.audit_log_free.set(i64::try_from(free).unwrap_or(i64::MAX));
    }

    /// A collector took spans.
    pub fn trace_spans_exported(&self, count: usize) {
        self.trace_spans(count, "exported");
    }

    /// Spans found no room, or no collector took them.
    pub fn trace_spans_dropped(&self, count: usize) {
        self.trace_spans(count, "dropped");
    }

    fn trace_spans(&self, count: usize, outcome: &'static str) {
        self.trace_spans.get_or_create(&OutcomeLabel { outcome }).inc_by(count as u64);
    }

    /// How many digests something is known about now, and how that is kept.
    pub fn proofs(&self, summary: &Summary) {
        let set = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        let (all, store) = (&self.proofs, &summary.store);
        set(&all.held, summary.walked);
        set(&all.evidence, summary.evidence_bytes);
        set(&all.unwritten, summary.unwritten);
        for each in Kept::ALL {
            let label = StateLabel { state: each.as_str() };
            all.store_state.get_or_create(&label).set(i64::from(each == store.kept));
        }
        all.store_bytes.set(i64::try_from(store.bytes).unwrap_or(i64::MAX));
        all.set_aside.set(i64::try_from(store.set_aside).unwrap_or(i64::MAX));
        all.store_failures.inner().store(store.failures, std::sync::atomic::Ordering::Relaxed);
    }

    /// The trusted roots in force, and how they are.
    pub fn trust(&self, trust: &Trust) {
        self.trust.set(trust);
    }

    /// What was asked about tags, and found.
    pub fn rechecks(&self, counted: &crate::vetter::recheck::Counted) {
        self.rechecks.set(counted);
    }

    /// The exemptions of the policies in force, and which of them are over.
    pub fn exemptions(&self, policies: Option<&PolicySet>, now: SystemTime) {
        self.exemptions.set(policies, now);
    }

    /// Images were vetted, of which some may be exempted.
    pub fn exempted(&self, vettings: &[Vetting]) {
        self.exemptions.used(vettings);
    }

    /// The evidence layouts in force, and how they are.
    pub fn layouts(&self, summary: &crate::vetter::layouts::Summary) {
        self.layouts.set(summary);
    }

    /// The page: these metrics and those another process rendered.
    pub fn render(&self, extra: &str) -> String {
        render(&self.registry, extra)
    }
}
