//! Metrics of tags held to their registries: what the vetter asked and found, what the relay hides.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::OutcomeLabel;
use crate::relay::hidden::Ended;
use crate::vetter::recheck::Counted;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EffectLabel {
    effect: &'static str,
}

/// The vetter's.
pub(super) struct RecheckMetrics {
    requests: Family<OutcomeLabel, Counter>,
    drift: Family<EffectLabel, Counter>,
}

impl RecheckMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self { requests: Family::default(), drift: Family::default() };
        // There from the start: a counter that appears with its first count has no increase.
        for outcome in Counted::REQUESTS {
            drop(all.requests.get_or_create(&OutcomeLabel { outcome }));
        }
        for effect in Counted::DRIFT {
            drop(all.drift.get_or_create(&EffectLabel { effect }));
        }
        let help = "Times a registry was asked what a tag points at now";
        registry.register("recheck_requests", help, all.requests.clone());
        let help = "Containers to be made whose tag points elsewhere in the registry than at what was vetted";
        registry.register("recheck_drift", help, all.drift.clone());
        all
    }

    pub(super) fn set(&self, counted: &Counted) {
        for (outcome, count) in counted.requests {
            self.requests.get_or_create(&OutcomeLabel { outcome }).inner().store(count, Ordering::Relaxed);
        }
        for (effect, count) in counted.drift {
            self.drift.get_or_create(&EffectLabel { effect }).inner().store(count, Ordering::Relaxed);
        }
    }
}

/// The relay's.
pub(super) struct HiddenMetrics {
    hidden: Gauge,
    repulls: Family<OutcomeLabel, Counter>,
}

impl HiddenMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self { hidden: Gauge::default(), repulls: Family::default() };
        for ended in Ended::ALL {
            drop(all.repulls.get_or_create(&OutcomeLabel { outcome: ended.as_str() }));
        }
        let help = "Images hidden from the kubelet until they are pulled anew";
        registry.register("recheck_hidden", help, all.hidden.clone());
        let help = "Images that were hidden, by how that ended";
        registry.register("recheck_repulls", help, all.repulls.clone());
        all
    }

    pub(super) fn set(&self, count: usize) {
        self.hidden.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn ended(&self, ended: Ended) {
        self.repulls.get_or_create(&OutcomeLabel { outcome: ended.as_str() }).inc();
    }
}
