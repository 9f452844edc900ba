//! The section `vetting`: how long vetting and its results last.

use std::time::Duration;

use serde::Deserialize;

use super::settings::{Check, Text};
use crate::yaml::Fault;

/// Vetting settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vetting {
    /// Longest the vetting of one call may take; default 30s. A call with a deadline gets at most half of it.
    pub timeout: Duration,
    /// How long a proof is used before evidence is fetched anew; default 1h.
    pub fresh_for: Duration,
    /// How old evidence may be that is used while it cannot be fetched anew; without end when absent.
    pub usable_when_registry_down: Option<Duration>,
    /// How long the relay uses a permit it holds while the vetter does not answer; default 24h.
    pub usable_when_vetter_down: Duration,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenVetting {
    timeout: Option<Text>,
    fresh_for: Option<Text>,
    usable_when_registry_down: Option<Text>,
    usable_when_vetter_down: Option<Text>,
}

pub(super) fn check(within: &Check<'_>, written: &WrittenVetting) -> Result<Vetting, Fault> {
    let (second, hour, day) =
        (Duration::from_secs(1), Duration::from_secs(3600), Duration::from_secs(86_400));
    Ok(Vetting {
        timeout: within.time("vetting.timeout", &written.timeout, second * 30, second, hour)?,
        fresh_for: within.time("vetting.freshFor", &written.fresh_for, hour, second, day * 365)?,
        usable_when_registry_down: within.some_time(
            "vetting.usableWhenRegistryDown",
            &written.usable_when_registry_down,
            Duration::ZERO,
            day * 365,
        )?,
        usable_when_vetter_down: within.time(
            "vetting.usableWhenVetterDown",
            &written.usable_when_vetter_down,
            day,
            Duration::ZERO,
            day * 365,
        )?,
    })
}
