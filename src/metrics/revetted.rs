//! Metrics of what was judged anew after a change of policies or trusted roots.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::DecisionLabel;
use crate::audit::Decision;
use crate::relay::revet::Counts;

/// The relay's.
pub(super) struct RevettedMetrics {
    running: Family<DecisionLabel, Gauge>,
    stored: Family<DecisionLabel, Gauge>,
    left: Gauge,
    at: Gauge,
}

const NOT_ALLOWED: [Decision; 2] = [Decision::Denied, Decision::Undecided];

impl RevettedMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self {
            running: Family::default(),
            stored: Family::default(),
            left: Gauge::default(),
            at: Gauge::default(),
        };
        for decision in NOT_ALLOWED {
            // There from the start, so that an alert can tell 0 from nothing.
            for family in [&all.running, &all.stored] {
                family.get_or_create(&DecisionLabel { decision: decision.as_str() }).set(0);
            }
        }
        let help = "Running containers that the policies in force do not allow, since these changed last";
        registry.register("running_containers_not_allowed", help, all.running.clone());
        let help = "Stored images that the policies in force do not allow, since these changed last";
        registry.register("stored_images_not_allowed", help, all.stored.clone());
        let help = "Uses of images that are still to be judged since the policies changed last";
        registry.register("revetting_left", help, all.left.clone());
        let help = "Unix time at which all that runs and is stored was last judged anew; 0: never";
        registry.register_with_unit("revetted_timestamp", help, Unit::Seconds, all.at.clone());
        all
    }

    pub(super) fn set(&self, counts: &Counts, left: usize, at_ms: u64) {
        let set = |family: &Family<DecisionLabel, Gauge>, counts: [usize; 2]| {
            for (decision, count) in NOT_ALLOWED.iter().zip(counts) {
                let gauge = family.get_or_create(&DecisionLabel { decision: decision.as_str() });
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        };
        set(&self.running, [counts.running_denied, counts.running_undecided]);
        set(&self.stored, [counts.stored_denied, counts.stored_undecided]);
        self.left.set(i64::try_from(left).unwrap_or(i64::MAX));
        self.at.set(i64::try_from(at_ms / 1000).unwrap_or(i64::MAX));
    }
}
