//! The relay's own counters, as Prometheus text. The relay has no network: the vetter asks for them at a scrape.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cri::methods::{Class, Service};

/// Class names of [`Class::name`], in the order of the counters.
const CLASSES: [Class; 6] = [
    Class::Passthrough(Service::Runtime),
    Class::Vetted(Service::Runtime, crate::cri::methods::Vetted::PullImage),
    Class::RefusedUnlessAllowed(Service::Runtime),
    Class::UnknownRead(Service::Runtime),
    Class::UnknownWrite(Service::Runtime),
    Class::ForeignService,
];

/// Counters since the relay's start.
#[derive(Default)]
pub struct Stats {
    calls: [AtomicU64; CLASSES.len()],
    last_call: AtomicU64,
    /// Vetters that ended and were started anew.
    pub vetter_restarts: AtomicU64,
    /// Vetted calls with fields crivet has never heard of.
    pub unknown_fields: AtomicU64,
    /// Calls in audit mode that were not vetted because too many were waiting.
    pub beside_dropped: AtomicU64,
    /// Containers and sandboxes that did not stand on what was vetted, and were removed.
    pub removed_after_look: AtomicU64,
    /// Calls answered with a permit that was held.
    pub permits_used: AtomicU64,
}

impl Stats {
    /// Counts a call.
    pub fn called(&self, class: Class, now: SystemTime) {
        let index = CLASSES.iter().position(|known| known.name() == class.name());
        if let Some(counter) = index.and_then(|index| self.calls.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.last_call.store(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(), Ordering::Relaxed);
    }

    /// Prometheus text (version 0.0.4).
    pub fn exposition(&self, permits_held: usize) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
            let _ = writeln!(text, "# HELP crivet_{name} {help}\n# TYPE crivet_{name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "crivet_{name}{labels} {value}");
            }
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let labels: Vec<String> =
            CLASSES.iter().map(|class| format!("{{class=\"{}\"}}", class.name())).collect();
        let calls: Vec<(&str, u64)> =
            labels.iter().zip(&self.calls).map(|(labels, n)| (labels.as_str(), get(n))).collect();
        family(
            "relay_calls_total",
            "counter",
            "Calls that came to the relay, by class of the method table.",
            &calls,
        );
        let one = |name, kind, help, value| (name, kind, help, value);
        for (name, kind, help, value) in [
            one(
                "last_kubelet_call_seconds",
                "gauge",
                "Unix time of the last call; it stands still where crivet is bypassed.",
                get(&self.last_call),
            ),
            one(
                "vetter_restarts_total",
                "counter",
                "Vetters that ended and were started anew.",
                get(&self.vetter_restarts),
            ),
            one(
                "unknown_fields_total",
                "counter",
                "Vetted calls with fields this crivet has never heard of.",
                get(&self.unknown_fields),
            ),
            one(
                "audit_calls_not_vetted_total",
                "counter",
                "Calls in audit mode not vetted because too many were waiting.",
                get(&self.beside_dropped),
            ),
            one(
                "removed_after_look_total",
                "counter",
                "Containers and sandboxes removed because they did not stand on what was vetted.",
                get(&self.removed_after_look),
            ),
            one(
                "permits_used_total",
                "counter",
                "Calls forwarded on a permit the relay held.",
                get(&self.permits_used),
            ),
            one("permits_held", "gauge", "Permits the relay holds.", permits_held as u64),
        ] {
            family(name, kind, help, &[("", value)]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_counter() {
        let stats = Stats::default();
        for class in CLASSES {
            stats.called(class, UNIX_EPOCH + std::time::Duration::from_secs(7));
        }
        let text = stats.exposition(3);
        for class in CLASSES {
            assert!(
                text.contains(&format!("crivet_relay_calls_total{{class=\"{}\"}} 1\n", class.name())),
                "{text}"
            );
        }
        assert!(text.contains("\ncrivet_last_kubelet_call_seconds 7\n"));
        assert!(text.contains("\ncrivet_permits_held 3\n"));
    }
}
