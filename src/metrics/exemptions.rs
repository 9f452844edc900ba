//! Metrics of exemptions from policies.

use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::StateLabel;
use crate::policy::PolicySet;
use crate::vetter::vetting::Vetting;

/// Exemptions that are written, and how often they let an image run.
pub(super) struct ExemptionMetrics {
    written: Family<StateLabel, Gauge>,
    used: Counter,
}

impl ExemptionMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self { written: Family::default(), used: Counter::default() };
        all.set(None, SystemTime::UNIX_EPOCH);
        registry.register("exemptions", "Exemptions of the policies in force", all.written.clone());
        let help = "Images that an exemption from a policy let through";
        registry.register("exemptions_used", help, all.used.clone());
        all
    }

    pub(super) fn set(&self, policies: Option<&PolicySet>, now: SystemTime) {
        let (mut in_force, mut over) = (0, 0);
        for exemption in policies.iter().flat_map(|set| set.policies()).flat_map(|policy| policy.exemptions())
        {
            *(if exemption.is_over(now) { &mut over } else { &mut in_force }) += 1;
        }
        self.written.get_or_create(&StateLabel { state: "in_force" }).set(in_force);
        self.written.get_or_create(&StateLabel { state: "over" }).set(over);
    }

    pub(super) fn used(&self, vettings: &[Vetting]) {
        let exempted = |vetting: &&Vetting| vetting.policies.iter().any(|policy| policy.exempted);
        self.used.inc_by(vettings.iter().filter(exempted).count() as u64);
    }
}
