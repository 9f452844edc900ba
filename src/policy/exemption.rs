//! Images that a policy leaves out, for a reason and for a time.

use std::time::SystemTime;

use serde::Deserialize;

use super::compile::required_reason;
use super::model::{Policy, Subject};
use super::pattern::Pattern;
use super::signers::Text;
use crate::audit::{from_rfc3339, rfc3339};
use crate::image::{Digest, quoted};
use crate::limits;
use crate::yaml::{Document, Fault};

const AT: &str = "spec.exemptions";

/// Images of which a policy asks nothing until it ends.
#[derive(Debug, Clone)]
pub struct Exemption {
    patterns: Vec<Pattern>,
    /// Why, in one line.
    pub reason: String,
    /// When it ends.
    pub expires: SystemTime,
    /// The line in its file.
    pub line: u64,
}

impl Exemption {
    /// Whether it covers an image: by its name, or by one of its digests, whatever it is called by. The digest in a reference is
    /// none of them until the content is tied to it: a runtime may have something else under that name.
    fn covers(&self, subject: &Subject<'_>, digests: &[Digest]) -> bool {
        self.patterns.iter().any(|pattern| match pattern.digest() {
            Some(digest) => digests.contains(&digest) && pattern.matches_name(subject.name),
            None => pattern.matches(subject.name),
        })
    }

    /// Whether it has ended by then.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.expires <= now
    }

    /// For messages: until when, and why.
    pub(super) fn told(&self) -> String {
        format!("{} ({})", rfc3339(self.expires), self.reason)
    }
}

impl Policy {
    /// Its exemptions, those that have ended among them.
    pub fn exemptions(&self) -> &[Exemption] {
        &self.exemptions
    }

    /// The exemption that is in force for an image; of several the one that ends last. `digests` are those the image is known
    /// to have, and `now` the highest time ever seen: a clock that is set back revives none.
    pub fn exemption(
        &self,
        subject: &Subject<'_>,
        digests: &[Digest],
        now: SystemTime,
    ) -> Option<&Exemption> {
        self.last_exemption(subject, digests).filter(|exemption| !exemption.is_over(now))
    }

    /// Those that cover an image by what is written: its name, and the digest in it.
    pub(super) fn exemptions_of(&self, subject: &Subject<'_>) -> impl Iterator<Item = &Exemption> {
        let covers = |exemption: &&Exemption| exemption.patterns.iter().any(|p| p.matches(subject.name));
        self.exemptions.iter().filter(covers)
    }

    /// The exemption for an image that ends last, or has.
    pub(super) fn last_exemption(&self, subject: &Subject<'_>, digests: &[Digest]) -> Option<&Exemption> {
        let covering = self.exemptions.iter().filter(|exemption| exemption.covers(subject, digests));
        covering.max_by_key(|exemption| exemption.expires)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    images: Vec<Text>,
    reason: Text,
    expires: Text,
}

/// Reads a policy's exemptions. Those that have ended are read as any: a policy must not turn into an error by time.
pub(super) fn read(document: &Document<'_>, written: &[Written], faults: &mut Vec<Fault>) -> Vec<Exemption> {
    let patterns: usize = written.iter().map(|exemption| exemption.images.len()).sum();
    if patterns > limits::POLICY_EXEMPTIONS {
        let text = format!(
            "{AT}: expected at most {} image patterns in all (limit POLICY_EXEMPTIONS), found {patterns}; split the policy",
            limits::POLICY_EXEMPTIONS
        );
        faults.push(document.fault_at_start(text));
        return Vec::new();
    }
    written.iter().filter_map(|exemption| one(document, exemption, faults)).collect()
}

fn one(document: &Document<'_>, written: &Written, faults: &mut Vec<Fault>) -> Option<Exemption> {
    let mut patterns = Vec::with_capacity(written.images.len());
    for text in &written.images {
        match Pattern::parse(&text.value) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => faults.push(document.fault_at(text, format!("{AT}.images: {why}"))),
        }
    }
    if written.images.is_empty() {
        let text = format!("{AT}.images: expected at least one pattern, found none; add one");
        faults.push(document.fault_at(&written.reason, text));
    }
    let reason = required_reason(document, &format!("{AT}.reason"), &written.reason, faults);
    let Some(expires) = from_rfc3339(&written.expires.value) else {
        let text = format!(
            "{AT}.expires: expected a time in UTC such as 2026-12-31T00:00:00Z, found {}",
            quoted(&written.expires.value)
        );
        faults.push(document.fault_at(&written.expires, text));
        return None;
    };
    Some(Exemption { patterns, reason, expires, line: document.line_of(&written.reason) })
}
