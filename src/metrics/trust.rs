//! The metrics of trusted roots.

use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::unix_seconds;
use crate::trust::{Material, Trust};

/// A root's name is the operator's, and there are at most `limits::TRUST_ROOTS`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RootLabel {
    root: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InfoLabels {
    root: String,
    source: &'static str,
    origin: &'static str,
    version: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MaterialLabels {
    root: String,
    material: &'static str,
}

/// How trusted roots are.
pub(super) struct TrustMetrics {
    info: Family<InfoLabels, Gauge>,
    usable: Family<RootLabel, Gauge>,
    failures: Family<RootLabel, Gauge>,
    confirmed: Family<RootLabel, Gauge>,
    expiry: Family<RootLabel, Gauge>,
    end: Family<MaterialLabels, Gauge>,
}

impl TrustMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let info = Family::<InfoLabels, Gauge>::default();
        registry.register(
            "trust_root_info",
            "1 for each trusted root: what it comes from, and the hash of its material",
            info.clone(),
        );
        let usable = Family::<RootLabel, Gauge>::default();
        registry.register("trust_root_usable", "1 if there is material of this root", usable.clone());
        let failures = Family::<RootLabel, Gauge>::default();
        registry.register(
            "trust_root_refresh_failures",
            "Tries in a row to have this root from its source that failed",
            failures.clone(),
        );
        let confirmed = Family::<RootLabel, Gauge>::default();
        registry.register_with_unit(
            "trust_root_confirmed_timestamp",
            "Unix time at which the source last gave this root, or said that it is the same",
            Unit::Seconds,
            confirmed.clone(),
        );
        let expiry = Family::<RootLabel, Gauge>::default();
        registry.register_with_unit(
            "trust_root_metadata_expiry_timestamp",
            "Unix time at which the TUF metadata that vouch for this root expire",
            Unit::Seconds,
            expiry.clone(),
        );
        let end = Family::<MaterialLabels, Gauge>::default();
        registry.register_with_unit(
            "trust_root_material_end_timestamp",
            "Unix time after which no authority or log of this kind in this root counts",
            Unit::Seconds,
            end.clone(),
        );
        Self { info, usable, failures, confirmed, expiry, end }
    }

    pub(super) fn set(&self, trust: &Trust) {
        self.info.clear();
        for family in [&self.usable, &self.failures, &self.confirmed, &self.expiry] {
            family.clear();
        }
        self.end.clear();
        for (name, state) in trust.states() {
            let label = RootLabel { root: name.to_owned() };
            let version = state.root.as_ref().map(|root| root.version().to_string()).unwrap_or_default();
            let info = InfoLabels {
                root: name.to_owned(),
                source: state.kind,
                origin: state.origin.as_str(),
                version,
            };
            self.info.get_or_create(&info).set(1);
            self.usable.get_or_create(&label).set(i64::from(state.root.is_some()));
            self.failures.get_or_create(&label).set(state.failures.into());
            let times: [(&Family<RootLabel, Gauge>, Option<SystemTime>); 2] =
                [(&self.confirmed, state.at), (&self.expiry, state.expires)];
            for (family, time) in times {
                if let Some(time) = time {
                    family.get_or_create(&label).set(unix_seconds(time));
                }
            }
            for material in Material::ALL {
                if let Some(end) = state.root.as_ref().and_then(|root| root.ends(material)) {
                    let labels = MaterialLabels { root: name.to_owned(), material: material.as_str() };
                    self.end.get_or_create(&labels).set(unix_seconds(end));
                }
            }
        }
    }
}
