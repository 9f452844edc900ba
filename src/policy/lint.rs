//! What loads and is most likely not what was meant, told as warnings.

mod scopes;
mod signers;

use std::fmt;
use std::time::SystemTime;

use super::compile::PolicySet;
use super::model::{Mode, Policy};
use crate::limits;
use crate::trust::source::Given;
use crate::trust::{Material, Root, WARN_BEFORE};

/// What is doubtful about a policy, in one line: what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The file's name.
    pub file: String,
    /// The line, from 1; 0 where the whole set is meant.
    pub line: u64,
    /// What is doubtful.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.text),
            line => write!(f, "{}:{line}: {}", self.file, self.text),
        }
    }
}

impl Warning {
    /// About a line of a policy's file; 0: the line where the policy begins.
    fn at(policy: &Policy, line: u64, text: String) -> Self {
        let (file, first) = policy.source.rsplit_once(':').unwrap_or((&policy.source, "0"));
        let line = if line == 0 { first.parse().unwrap_or(0) } else { line };
        Self { file: file.to_owned(), line, text: format!("policy {}: {text}", policy.name) }
    }
}

impl PolicySet {
    /// What is doubtful about the policies at this time, by file and line; at most [`limits::POLICY_WARNINGS`], and then one
    /// that says how many were left out.
    pub fn lint(&self, now: SystemTime) -> Vec<Warning> {
        let mut warnings = self.doubtful_scopes();
        for policy in &self.policies {
            signers::lint(policy, now, &mut warnings);
            for exemption in &policy.exemptions {
                if exemption.is_over(now) {
                    let text = format!(
                        "spec.exemptions: over since {}; nothing rests on it any more, take it out",
                        exemption.told()
                    );
                    warnings.push(Warning::at(policy, exemption.line, text));
                }
            }
        }
        self.own_roots_that_end(now, &mut warnings);
        warnings.extend(self.nothing_refuses());
        warnings.sort();
        warnings.dedup();
        let more = warnings.len().saturating_sub(limits::POLICY_WARNINGS);
        if more > 0 {
            warnings.truncate(limits::POLICY_WARNINGS);
            let text = format!("{more} more warnings (limit POLICY_WARNINGS); mend the first ones");
            warnings.push(Warning { file: "policies".to_owned(), line: 0, text });
        }
        warnings
    }

    /// Roots that are written out in documents and policies; the configuration's are for `crivet doctor`.
    fn own_roots_that_end(&self, now: SystemTime, warnings: &mut Vec<Warning>) {
        for source in self.trust_roots() {
            let (Some(Given::Inline(bytes)), Some(place)) = (&source.given, &source.document) else {
                continue;
            };
            let Ok(root) = Root::parse(bytes) else { continue };
            let (file, line) = place.rsplit_once(':').unwrap_or((place, "0"));
            for material in Material::ALL {
                let Some(text) = root.ends(material).and_then(|end| ending(material.key(), end, now)) else {
                    continue;
                };
                let line = line.parse().unwrap_or(0);
                warnings.push(Warning {
                    file: file.to_owned(),
                    line,
                    text: format!("trusted root {}: {text}", source.name),
                });
            }
        }
    }

    fn nothing_refuses(&self) -> Option<Warning> {
        let audits = |policy: &Policy| policy.mode == Some(Mode::Audit);
        if self.policies.is_empty() || !self.policies.iter().all(audits) {
            return None;
        }
        let text = "every policy has mode: audit, so that none of them refuses anything, though the daemon enforces; leave mode out where a policy is to be enforced";
        Some(Warning { file: "policies".to_owned(), line: 0, text: text.to_owned() })
    }
}

/// What to say of something that is over, or is soon.
fn ending(what: &str, end: SystemTime, now: SystemTime) -> Option<String> {
    let when = crate::audit::rfc3339(end);
    if end <= now {
        Some(format!("{what}: over since {when}; put the next one beside it"))
    } else if end <= now + WARN_BEFORE {
        Some(format!("{what}: ends at {when}; put the next one beside it before"))
    } else {
        None
    }
}
