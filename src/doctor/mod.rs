//! `crivet doctor`: is this node really protected?
//!
//! [`facts::Facts`] in, [`Finding`]s out: pure, and in the same order for the same facts. [`collect`] takes the facts,
//! [`canary`] tries a denial. docs/doctor.md describes each finding.

pub mod canary;
pub mod collect;
mod daemon;
pub mod facts;
mod kubelet;
mod node;
mod trust;

use facts::Facts;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The node is not protected, or would not work.
    Failure,
    /// It is protected, and something will break or weakens it.
    Warning,
    /// Worth knowing.
    Note,
    /// As it should be.
    Ok,
}

impl Level {
    /// The name, for people and machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Failure => "failure",
            Level::Warning => "warning",
            Level::Note => "note",
            Level::Ok => "ok",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name in docs/doctor.md.
    pub id: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found, one line.
    pub found: String,
    /// What to do, one line; empty where there is nothing to do.
    pub todo: &'static str,
}

/// Takes findings.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn failure(&mut self, id: &'static str, found: impl Into<String>, todo: &'static str) {
        self.0.push(Finding { id, level: Level::Failure, found: found.into(), todo });
    }

    fn warning(&mut self, id: &'static str, found: impl Into<String>, todo: &'static str) {
        self.0.push(Finding { id, level: Level::Warning, found: found.into(), todo });
    }

    fn note(&mut self, id: &'static str, found: impl Into<String>, todo: &'static str) {
        self.0.push(Finding { id, level: Level::Note, found: found.into(), todo });
    }

    fn ok(&mut self, id: &'static str, found: impl Into<String>) {
        self.0.push(Finding { id, level: Level::Ok, found: found.into(), todo: "" });
    }
}

/// All findings: the worst first, those of one level in the order in which they were looked for.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings::default();
    daemon::configuration(facts, &mut findings);
    daemon::policy_folder(facts, &mut findings);
    match &facts.daemon {
        Err(why) => findings.failure(
            "daemon-away",
            why.clone(),
            "start it: systemctl start crivet; if the kubelet points at it, no pod can start until then (docs/rollout.md, Emergency)",
        ),
        Ok(status) => {
            daemon::running(facts, status, &mut findings);
            daemon::mode(facts, status, &mut findings);
            daemon::policies(facts, status, &mut findings);
            daemon::vetter(facts, status, &mut findings);
            trust::trust(facts, status, &mut findings);
            daemon::layers(facts, status, &mut findings);
            daemon::repulls(status, &mut findings);
            daemon::revetted(facts, status, &mut findings);
            daemon::audit_log(status, &mut findings);
            daemon::proofs(status, &mut findings);
            daemon::layouts(status, &mut findings);
            daemon::calls(status, &mut findings);
            daemon::containers(status, &mut findings);
        }
    }
    kubelet::kubelet(facts, &mut findings);
    kubelet::sockets(facts, &mut findings);
    node::pause_image(facts, &mut findings);
    node::registries(facts, &mut findings);
    node::logins(facts, &mut findings);
    node::clock(facts, &mut findings);
    node::canary(facts, &mut findings);
    findings.0.sort_by_key(|finding| finding.level);
    findings.0
}

/// Whether the node is protected: nothing that was found says otherwise.
pub fn is_protected(findings: &[Finding]) -> bool {
    !findings.is_empty() && findings.iter().all(|finding| finding.level != Level::Failure)
}

/// An age, as people say it.
fn age(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
