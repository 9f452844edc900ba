//! Metrics of the checks of the node's disk.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The relay's.
#[derive(Default)]
pub(super) struct ContentMetrics {
    altered: Gauge,
    unchecked: Gauge,
    last: Gauge,
    requested: Gauge,
}

impl ContentMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self::default();
        let help = "Layers that a check found altered on the node's disk: nothing that needs a proof is made on them";
        registry.register("content_altered_layers", help, all.altered.clone());
        let help = "Images that the last check of the node's disk could not compare whole";
        registry.register("content_unchecked_images", help, all.unchecked.clone());
        let help = "Unix time at which the last check of the node's disk ended; 0: there was none";
        registry.register_with_unit("content_last_check", help, Unit::Seconds, all.last.clone());
        let help = "Images that wait for a check of the node's disk, because a policy asks for one before a container is made";
        registry.register("content_requested_images", help, all.requested.clone());
        all
    }

    pub(super) fn set(&self, altered: usize, unchecked: u32, at: u64) {
        self.altered.set(i64::try_from(altered).unwrap_or(i64::MAX));
        self.unchecked.set(unchecked.into());
        self.last.set(i64::try_from(at).unwrap_or(i64::MAX));
    }

    pub(super) fn set_requested(&self, images: usize) {
        self.requested.set(i64::try_from(images).unwrap_or(i64::MAX));
    }
}
