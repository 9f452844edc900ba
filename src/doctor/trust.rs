//! Findings about trusted roots.

use std::time::{Duration, UNIX_EPOCH};

use super::facts::Facts;
use super::{Findings, age};
use crate::audit::rfc3339;
use crate::control::wire::Status;
use crate::trust::WARN_BEFORE;
use crate::vetter::wire::TrustRoot;

pub(super) fn trust(facts: &Facts, status: &Status, findings: &mut Findings) {
    let state = status.vetter.as_ref().and_then(|vetter| vetter.state.as_ref());
    let roots = state.map(|state| state.trust.as_slice()).unwrap_or_default();
    for root in roots {
        one(facts.now, root, findings);
    }
}

fn one(now: u64, root: &TrustRoot, findings: &mut Findings) {
    let TrustRoot { name, source, error, .. } = root;
    let mut well = true;
    let mut warn = |id, found: String, todo| {
        well = false;
        findings.warning(id, found, todo);
    };
    if root.version.is_empty() {
        let why = if error.is_empty() { "it was not asked for yet" } else { error };
        warn(
            "trust-missing",
            format!("there is no trusted root {name}: {source}: {why}"),
            "mend its source; images whose policies ask for it are undecided until then",
        );
    } else if !error.is_empty() {
        let since = match root.at {
            0 => "never had from there".to_owned(),
            at => format!("last had {} ago", age(now.saturating_sub(at))),
        };
        warn(
            "trust-not-refreshed",
            format!("the trusted root {name} cannot be had from its source, {since}: {source}: {error}"),
            "mend the source or the way to it; what was had before is used, and may have been taken back",
        );
    }
    if root.expires != 0 && root.expires < now {
        warn(
            "trust-expired",
            format!("the TUF metadata of the trusted root {name} expired at {}", date(root.expires)),
            "see why the repository is not asked or not renewed; what was had before is used",
        );
    }
    let soon = u64::try_from(WARN_BEFORE.as_millis()).unwrap_or(u64::MAX);
    if root.ends != 0 && root.ends < now.saturating_add(soon) {
        let word = if root.ends < now { "ended" } else { "end" };
        warn(
            "trust-ends",
            format!("{} of the trusted root {name} {word} at {}", root.ends_first, date(root.ends)),
            "exchange the root: nothing newer than that can be verified with it",
        );
    }
    if well {
        findings.ok("trust", format!("trusted root {name}: {source}, newest entry of {}", date(root.newest)));
    }
}

fn date(milliseconds: u64) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_millis(milliseconds)).chars().take(10).collect()
}

/// When a source last gave its root, milliseconds of Unix time.
pub(super) fn latest(status: &Status) -> Option<u64> {
    let state = status.vetter.as_ref()?.state.as_ref()?;
    state.trust.iter().map(|root| root.at).max().filter(|at| *at != 0)
}
