//! The `crivet_` metrics and their exposition. Each is described in docs/metrics.md.
//!
//! The relay and the vetter count for themselves, each family in one of them only; one address serves both.
//! Labels hold values from fixed lists only, or the names of the configuration's trusted roots: nothing from outside can
//! make new series.

mod content;
mod exemptions;
mod layouts;
mod recheck;
mod revetted;
mod serve;
mod trust;

pub use serve::serve;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use content::ContentMetrics;
use exemptions::ExemptionMetrics;
use layouts::LayoutMetrics;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use recheck::{HiddenMetrics, RecheckMetrics};
use revetted::RevettedMetrics;
use trust::TrustMetrics;

use crate::audit::{Decision, Effective, Kind, Mode};
use crate::cri::methods::{Class, Vetted};
use crate::policy::PolicySet;
use crate::proofs::{Kept, Summary};
use crate::registry::Outcome;
use crate::relay::hidden::Ended;
use crate::relay::revet::Counts;
use crate::trust::Trust;
use crate::vetter::vetting::Vetting;
use crate::vetter::wire::Outcome as Verdict;

/// What a page of metrics ends with (OpenMetrics 1.0, "EOF").
const EOF: &str = "# EOF\n";

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
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabel {
    decision: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabels {
    kind: &'static str,
    decision: &'static str,
    mode: &'static str,
    effective: &'static str,
}

/// Where a container comes from that did not come through crivet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was made past crivet, which was in the way already.
    Bypass,
    /// It was there before crivet had let its first container through.
    BeforeCrivet,
}

impl Origin {
    fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::BeforeCrivet => "before_crivet",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FoundLabels {
    decision: &'static str,
    origin: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OriginLabel {
    origin: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabel {
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EffectLabel {
    effect: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModeLabels {
    configured: &'static str,
    mode: &'static str,
    because: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HashLabel {
    hash: String,
}

/// What the relay counts.
pub struct RelayMetrics {
    registry: Registry,
    calls: Family<ClassLabel, Counter>,
    calls_to_vet: Family<MethodLabel, Counter>,
    calls_vetted: Family<MethodLabel, Counter>,
    connections: Gauge,
    last_kubelet_call: Gauge,
    unknown_fields: Counter,
    vetter_restarts: Counter,
    not_vetted: Counter,
    removed_after_look: Counter,
    content_altered: Counter,
    permits_used: Counter,
    permits_held: Gauge,
    found: Family<FoundLabels, Counter>,
    unvetted: Family<OriginLabel, Gauge>,
    mode: Family<ModeLabels, Gauge>,
    break_glass_active: Gauge,
    break_glass_expires: Gauge,
    break_glass_uses: Counter,
    break_glass_rejected: Gauge,
    hidden: HiddenMetrics,
    content: ContentMetrics,
    revetted: RevettedMetrics,
}

impl Default for RelayMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("crivet");
        let calls = Family::<ClassLabel, Counter>::default();
        registry.register(
            "relay_calls",
            "Calls that reached the relay, by class of the method table",
            calls.clone(),
        );
        let calls_to_vet = Family::<MethodLabel, Counter>::default();
        registry.register("calls_to_vet", "Calls that bring an image into use", calls_to_vet.clone());
        let calls_vetted = Family::<MethodLabel, Counter>::default();
        registry.register("calls_vetted", "Of those, the ones that were decided about", calls_vetted.clone());
        let connections = Gauge::default();
        registry.register("connections", "Connections to the listening socket", connections.clone());
        let last_kubelet_call = Gauge::default();
        registry.register_with_unit(
            "last_kubelet_call",
            "Unix time of the last call; one that stands still while pods run means that crivet is bypassed",
            Unit::Seconds,
            last_kubelet_call.clone(),
        );
        let unknown_fields = Counter::default();
        registry.register(
            "unknown_fields",
            "Vetted calls with fields crivet does not know: it may be older than the kubelet",
            unknown_fields.clone(),
        );
        let vetter_restarts = Counter::default();
        registry.register("vetter_restarts", "Times the vetter was started anew", vetter_restarts.clone());
        let not_vetted = Counter::default();
        registry.register(
            "audit_calls_not_vetted",
            "Calls in audit mode that were relayed and not vetted: too many waited, or no vetter answered",
            not_vetted.clone(),
        );
        let removed_after_look = Counter::default();
        registry.register(
            "removed_after_look",
            "Containers and sandboxes removed because they did not stand on what was vetted",
            removed_after_look.clone(),
        );
        let content_altered = Counter::default();
        registry.register(
            "content_altered",
            "Creates whose image was found altered on the node's disk",
            content_altered.clone(),
        );
        let permits_used = Counter::default();
        registry.register("permits_used", "Calls forwarded on a permit the relay held", permits_used.clone());
        let permits_held = Gauge::default();
        registry.register("permits_held", "Permits the relay holds", permits_held.clone());
        let found = Family::<FoundLabels, Counter>::default();
        for origin in [Origin::Bypass, Origin::BeforeCrivet] {
            for decision in Decision::ALL {
                // There from the start: a counter that appears with its first count has no increase.
                let labels = FoundLabels { decision: decision.as_str(), origin: origin.as_str() };
                drop(found.get_or_create(&labels));
            }
        }
        registry.register(
            "found_containers",
            "Containers that did not come through crivet, by what was decided about them",
            found.clone(),
        );
        let unvetted = Family::<OriginLabel, Gauge>::default();
        for origin in [Origin::Bypass, Origin::BeforeCrivet] {
            // There from the start, so that an alert can tell 0 from nothing.
            unvetted.get_or_create(&OriginLabel { origin: origin.as_str() }).set(0);
        }
        registry.register(
            "unvetted_containers",
            "Running containers that did not come through crivet",
            unvetted.clone(),
        );
        let mode = Family::<ModeLabels, Gauge>::default();
        registry.register(
            "mode_info",
            "The mode that is configured, the one in force, and why",
            mode.clone(),
        );
        let break_glass_active = Gauge::default();
        registry.register(
            "break_glass_active",
            "1 while a break-glass file is in force: nothing is enforced",
            break_glass_active.clone(),
        );
        let break_glass_expires = Gauge::default();
        registry.register_with_unit(
            "break_glass_expires",
            "Unix time at which the break-glass file in force expires; 0 if none is",
            Unit::Seconds,
            break_glass_expires.clone(),
        );
        let break_glass_uses = Counter::default();
        registry.register(
            "break_glass_uses",
            "Break-glass files that came into force",
            break_glass_uses.clone(),
        );
        let break_glass_rejected = Gauge::default();
        registry.register(
            "break_glass_rejected",
            "1 while a break-glass file is there that is not in force: wrong, expired, or not root's",
            break_glass_rejected.clone(),
        );
        let hidden = HiddenMetrics::new(&mut registry);
        let content = ContentMetrics::new(&mut registry);
        let revetted = RevettedMetrics::new(&mut registry);
        Self {
            registry,
            calls,
            calls_to_vet,
            calls_vetted,
            connections,
            last_kubelet_call,
            unknown_fields,
            vetter_restarts,
            not_vetted,
            removed_after_look,
            content_altered,
            permits_used,
            permits_held,
            found,
            unvetted,
            mode,
            break_glass_active,
            break_glass_expires,
            break_glass_uses,
            break_glass_rejected,
            hidden,
            content,
            revetted,
        }
    }
}

/// What the relay counted since its start.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Calls by the name of their class.
    pub by_class: [(&'static str, u64); 6],
    /// Of the vetted class by method: those seen, and those that were decided about.
    pub vetted: [(&'static str, u64, u64); 3],
    /// When the last call arrived, Unix seconds; 0: none has.
    pub last_call: u64,
    /// What was removed because it did not stand on what was vetted.
    pub removed_after_look: u64,
    /// Creates whose image was found altered on the disk.
    pub content_altered: u64,
}

impl RelayMetrics {
    /// A call arrived.
    pub fn call(&self, class: Class, now: SystemTime) {
        self.calls.get_or_create(&ClassLabel { class: class.name() }).inc();
        if let Class::Vetted(_, vetted) = class {
            self.calls_to_vet.get_or_create(&MethodLabel { method: vetted.name() }).inc();
        }
        self.last_kubelet_call.set(unix_seconds(now));
    }

    /// A call was decided about.
    pub fn vetted(&self, vetted: Vetted) {
        self.calls_vetted.get_or_create(&MethodLabel { method: vetted.name() }).inc();
    }

    /// How many connections there are to the listening socket.
    pub fn connections(&self, count: usize) {
        self.connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// What was counted, for whoever asks the daemon.
    pub fn counted(&self) -> Counted {
        let of = |class: &'static str| self.calls.get(&ClassLabel { class }).map_or(0, |count| count.get());
        let by_method = |family: &Family<MethodLabel, Counter>, method| {
            family.get(&MethodLabel { method }).map_or(0, |count| count.get())
        };
        Counted {
            by_class: Class::NAMES.map(|class| (class, of(class))),
            vetted: Vetted::ALL.map(|vetted| {
                let method = vetted.name();
                (method, by_method(&self.calls_to_vet, method), by_method(&self.calls_vetted, method))
            }),
            last_call: u64::try_from(self.last_kubelet_call.get()).unwrap_or_default(),
            removed_after_look: self.removed_after_look.get(),
            content_altered: self.content_altered.get(),
        }
    }

    /// A vetted call had fields crivet does not know.
    pub fn unknown_fields(&self) {
        self.unknown_fields.inc();
    }

    /// The vetter was started anew.
    pub fn vetter_restarted(&self) {
        self.vetter_restarts.inc();
    }

    /// A call in audit mode was relayed and not vetted.
    pub fn not_vetted(&self) {
        self.not_vetted.inc();
    }

    /// Something was removed because it did not stand on what was vetted.
    pub fn removed_after_look(&self) {
        self.removed_after_look.inc();
    }

    /// A create's image was found altered on the disk.
    pub fn content_altered(&self) {
        self.content_altered.inc();
    }

    /// What checks of the node's disk came to: layers known to be altered, images that could not be checked, and when the last
    /// one ended (Unix seconds).
    pub fn content_checked(&self, altered: usize, unchecked: u32, at: u64) {
        self.content.set(altered, unchecked, at);
    }

    /// How many images wait for such a check.
    pub fn content_requested(&self, images: usize) {
        self.content.set_requested(images);
    }

    /// A call was forwarded on a permit that was held.
    pub fn permit_used(&self) {
        self.permits_used.inc();
    }

    /// Something was decided about a container that did not come through.
    pub fn found(&self, outcome: Verdict, origin: Origin) {
        let decision = match outcome {
            Verdict::Permitted => Decision::Allowed,
            Verdict::Denied => Decision::Denied,
            Verdict::Undecided | Verdict::UnknownOutcome => Decision::Undecided,
        };
        let labels = FoundLabels { decision: decision.as_str(), origin: origin.as_str() };
        self.found.get_or_create(&labels).inc();
    }

    /// How many containers run now that did not come through.
    pub fn unvetted(&self, origin: Origin, count: usize) {
        let gauge = self.unvetted.get_or_create(&OriginLabel { origin: origin.as_str() });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The mode that is configured, the one in force, and why.
    pub fn mode(&self, configured: &'static str, mode: &'static str, because: &'static str) {
        self.mode.clear();
        self.mode.get_or_create(&ModeLabels { configured, mode, because }).set(1);
    }

    /// A break-glass file came into force.
    pub fn break_glass_used(&self) {
        self.break_glass_uses.inc();
    }

    /// When the break-glass file in force expires, if one is; whether one is there that is not in force.
    pub fn break_glass(&self, expires: Option<SystemTime>, rejected: bool) {
        self.break_glass_active.set(i64::from(expires.is_some()));
        self.break_glass_expires.set(expires.map_or(0, unix_seconds));
        self.break_glass_rejected.set(i64::from(rejected));
    }

    /// What was judged anew: what is not allowed, how much is left, and when it was through, milliseconds of Unix time.
    pub fn revetted(&self, counts: &Counts, left: usize, at: u64) {
        self.revetted.set(counts, left, at);
    }

    /// An image is hidden: so many are now.
    pub fn hidden(&self, count: usize) {
        self.hidden.set(count);
    }

    /// An image is hidden no more: how that ended, and how many are now.
    pub fn repulled(&self, ended: Ended, count: usize) {
        self.hidden.set(count);
        self.hidden.ended(ended);
    }

    /// How many permits are held now.
    pub fn permits_held(&self, count: usize) {
        self.permits_held.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The page: these metrics and those another process rendered.
    pub fn render(&self, extra: &str) -> String {
        render(&self.registry, extra)
    }
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

fn render(registry: &Registry, extra: &str) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut page, registry);
    let own = page.strip_suffix(EOF).map_or(page.len(), str::len);
    page.truncate(own);
    page.push_str(extra.strip_suffix(EOF).unwrap_or(extra));
    if !page.ends_with('\n') && !page.is_empty() {
        page.push('\n');
    }
    page.push_str(EOF);
    page
}

fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
