//! What a policy asks of the layers that an image has on the node's disk.

use std::time::Duration;

use serde::Deserialize;

use super::signers::Text;
use crate::config::duration;
use crate::limits;
use crate::yaml::{Document, Fault};

/// As written. Nothing has a default: without it nothing is asked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Written {
    layers_checked_within: Text,
}

/// How long ago a check of an image's layers may have been.
pub(super) fn read(document: &Document<'_>, written: &Written, faults: &mut Vec<Fault>) -> Option<Duration> {
    const AT: &str = "spec.content.layersCheckedWithin";
    let (least, most) = (limits::CONTENT_WITHIN_LEAST_SECONDS, limits::CONTENT_WITHIN_MOST_SECONDS);
    let text = &written.layers_checked_within;
    let fault = match duration(&text.value) {
        Ok(within) if (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&within) => {
            return Some(within);
        }
        Ok(_) => format!(
            "expected {} h to {} h (limits CONTENT_WITHIN_LEAST_SECONDS, CONTENT_WITHIN_MOST_SECONDS), found {}; each check reads the whole image",
            least / 3600,
            most / 3600,
            text.value
        ),
        Err(why) => why,
    };
    faults.push(document.fault_at(text, format!("{AT}: {fault}")));
    None
}
