//! What a policy asks of an image's tag when a container is about to be made of what is on the node already.

use std::time::Duration;

use serde::Deserialize;

use super::signers::Text;
use crate::config::duration;
use crate::limits;
use crate::yaml::{Document, Fault};

/// How a tag is held to what its registry says it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recheck {
    /// What the registry said of the tag may be so old.
    pub interval: Duration,
    /// The tag points elsewhere by now.
    pub on_drift: OnDrift,
    /// The registry gives no answer.
    pub when_registry_down: WithoutAnswer,
    /// The registry answers that nobody here may know (401, 403).
    pub when_login_refused: WithoutAnswer,
}

/// What comes of a container whose tag points elsewhere in the registry than at what was vetted. The stricter is the
/// greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDrift {
    /// It is made of what was vetted, and recorded.
    Warn,
    /// If what the tag points at now is permitted, the image is pulled anew first; else as [`OnDrift::Warn`].
    Repull,
    /// It is not made.
    Deny,
}

impl OnDrift {
    /// As policies write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Repull => "repull",
            Self::Deny => "deny",
        }
    }
}

/// What comes of a container whose tag could not be asked about. The stricter is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutAnswer {
    /// It is made of what was vetted, and recorded.
    Allow,
    /// It is not made.
    Deny,
}

impl Recheck {
    /// What satisfies both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            interval: self.interval.min(other.interval),
            on_drift: self.on_drift.max(other.on_drift),
            when_registry_down: self.when_registry_down.max(other.when_registry_down),
            when_login_refused: self.when_login_refused.max(other.when_login_refused),
        }
    }
}

/// As written. Nothing has a default: each of them is about what may run.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Written {
    interval: Text,
    on_drift: OnDrift,
    when_registry_down: WithoutAnswer,
    when_login_refused: WithoutAnswer,
}

pub(super) fn read(document: &Document<'_>, written: &Written, faults: &mut Vec<Fault>) -> Option<Recheck> {
    const AT: &str = "spec.recheck.interval";
    let (least, most) = (limits::RECHECK_LEAST_SECONDS, limits::RECHECK_MOST_SECONDS);
    let interval = match duration(&written.interval.value) {
        Ok(interval) if (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&interval) => {
            interval
        }
        Ok(_) => {
            let text = format!(
                "{AT}: expected {least} s to {} h (limits RECHECK_LEAST_SECONDS, RECHECK_MOST_SECONDS), found {}; each is a request to the registry from every node",
                most / 3600,
                written.interval.value
            );
            faults.push(document.fault_at(&written.interval, text));
            return None;
        }
        Err(why) => {
            faults.push(document.fault_at(&written.interval, format!("{AT}: {why}")));
            return None;
        }
    };
    Some(Recheck {
        interval,
        on_drift: written.on_drift,
        when_registry_down: written.when_registry_down,
        when_login_refused: written.when_login_refused,
    })
}
