//! What the relay counts.

use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::content::ContentMetrics;
use super::recheck::HiddenMetrics;
use super::revetted::RevettedMetrics;
use super::{render, unix_seconds};
use crate::audit::Decision;
use crate::cri::methods::{Class, Vetted};
use crate::relay::hidden::Ended;
use crate::relay::revet::Counts;
use crate::vetter::wire::Outcome as Verdict;

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
struct ModeLabels {
    configured: &'static str,
    mode: &'static str,
    because: &'static str,
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
