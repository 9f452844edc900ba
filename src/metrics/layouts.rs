//! The metrics of evidence layouts.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::vetter::layouts::Summary;

/// How evidence layouts are.
pub(super) struct LayoutMetrics {
    layouts: Gauge,
    images: Gauge,
    faults: Gauge,
}

impl LayoutMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            layouts: gauge("evidence_layouts", "OCI layouts with evidence that were read"),
            images: gauge("evidence_layout_images", "Digests that layouts hold evidence about"),
            faults: gauge("evidence_layout_faults", "OCI layouts, or parts of them, that were left out"),
        }
    }

    pub(super) fn set(&self, summary: &Summary) {
        let set = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.layouts, summary.layouts);
        set(&self.images, summary.images);
        set(&self.faults, summary.faults);
    }
}
