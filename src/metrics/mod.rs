//! The `crivet_` metrics and their exposition. Each is described in docs/metrics.md.
//!
//! The relay and the vetter count for themselves, each family in one of them only; one address serves both.
//! Labels hold values from fixed lists only, or the names of the configuration's trusted roots: nothing from outside can
//! make new series.

mod content;
mod exemptions;
mod layouts;
mod recheck;
mod relay;
mod revetted;
mod serve;
mod trust;
mod vetter;

pub use relay::{Counted, Origin, RelayMetrics};
pub use serve::serve;
pub use vetter::{ConfigSource, VetterMetrics};

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::registry::Registry;

/// What a page of metrics ends with (OpenMetrics 1.0, "EOF").
const EOF: &str = "# EOF\n";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabel {
    decision: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
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
