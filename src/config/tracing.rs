//! The section `tracing`: where traces go.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::settings::{Check, Text};
use crate::yaml::Fault;

/// Settings of traces; names and meanings are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// An OTLP collector's gRPC address, `host:port`, spoken to without TLS; default `localhost:4317`.
    pub endpoint: String,
    /// Of a million calls without a caller's trace, how many are sampled; default 0.
    pub sampling_rate_per_million: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenTracing {
    endpoint: Option<Text>,
    sampling_rate_per_million: Option<Spanned<u32>>,
}

pub(super) fn check(within: &Check<'_>, written: &WrittenTracing) -> Result<Tracing, Fault> {
    let endpoint = within.optional("tracing.endpoint", &written.endpoint, collector)?;
    let sampling_rate_per_million = match &written.sampling_rate_per_million {
        Some(rate) if rate.value > 1_000_000 => {
            let text = "tracing.samplingRatePerMillion: expected at most 1000000".to_owned();
            return Err(within.fault_at(rate, text));
        }
        rate => rate.as_ref().map_or(0, |rate| rate.value),
    };
    let endpoint = endpoint.unwrap_or_else(|| "localhost:4317".to_owned());
    Ok(Tracing { endpoint, sampling_rate_per_million })
}

fn collector(text: &str) -> Result<String, String> {
    let whole = text
        .parse::<http::uri::Authority>()
        .ok()
        .filter(|address| address.port_u16().is_some() && !address.host().is_empty() && !text.contains('@'));
    whole
        .map(|address| address.to_string())
        .ok_or_else(|| "expected a collector's gRPC address as host:port such as localhost:4317".to_owned())
}
