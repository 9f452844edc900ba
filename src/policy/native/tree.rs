//! Requirements that stand in each other: `allOf`, `anyOf`, `atLeast`.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Requirements, claimed_repository, need};
use crate::limits;
use crate::policy::age::MaxAge;
use crate::policy::model::{ClaimedRepository, NamedRepository, Need, Requirement};
use crate::verify::Authority;
use crate::yaml::{Document, Fault};

const AT: &str = "spec.requirements";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AtLeast {
    count: Spanned<usize>,
    of: Vec<Requirements>,
}

/// What holds for all that stands beneath, unless it says otherwise.
#[derive(Clone)]
pub(super) struct Inherited {
    pub repository: ClaimedRepository,
    pub max_age: Option<MaxAge>,
}

/// Reads the requirements of one policy.
pub(super) struct Tree<'a> {
    pub document: &'a Document<'a>,
    pub faults: &'a mut Vec<Fault>,
    /// How many there are so far, of [`limits::POLICY_NODES`].
    pub nodes: usize,
}

impl Tree<'_> {
    /// What is asked for; nothing if there are faults.
    pub fn read(&mut self, written: &Requirements) -> Option<Need> {
        let repository = ClaimedRepository { named: NamedRepository::Same, unnamed: false };
        self.node(AT, written, Inherited { repository, max_age: None }, 0)
    }

    fn node(
        &mut self,
        at: &str,
        written: &Requirements,
        mut inherited: Inherited,
        depth: usize,
    ) -> Option<Need> {
        if let Some(claim) = &written.claimed_repository {
            inherited.repository = claimed_repository(self.document, at, claim, self.faults)?;
        }
        if let Some(written) = &written.max_age {
            inherited.max_age = Some(MaxAge::read(self.document, at, written, self.faults)?);
        }
        if depth > 0 && written.evidence.is_some() {
            let text = format!("expected it in {AT} only, found it in a branch; all branches look there");
            self.fault(&format!("{at}.evidence"), &text);
        }
        let signers =
            !(written.keys.is_empty() && written.keyless.is_empty() && written.certificates.is_empty());
        if !(written.conditions.is_empty() || signers) {
            let text = "expected keys, keyless or certificates beside them, whose signatures they are about, found none; \
                        conditions on an attestation stand in attestations[].conditions";
            self.fault(&format!("{at}.conditions"), text);
        }
        let leaf = signers || !written.attestations.is_empty();
        match (leaf, &written.all_of, &written.any_of, &written.at_least) {
            (_, None, None, None) => {
                let need = need(self.document, at, written, &inherited, self.faults)?;
                self.count(&need).then_some(need)
            }
            (false, Some(branches), None, None) => {
                self.branches(&format!("{at}.allOf"), branches, &inherited, depth).map(Need::All)
            }
            (false, None, Some(branches), None) => {
                self.branches(&format!("{at}.anyOf"), branches, &inherited, depth).map(Need::Any)
            }
            (false, None, None, Some(AtLeast { count, of })) => {
                let at = format!("{at}.atLeast");
                let of = self.branches(&format!("{at}.of"), of, &inherited, depth)?;
                self.counted(&at, count, of)
            }
            _ => {
                let text = "expected signers and attestations, or allOf, or anyOf, or atLeast, found several of these; \
                            put each into a branch of allOf, if all have to hold";
                self.fault(at, text);
                None
            }
        }
    }

    fn branches(
        &mut self,
        at: &str,
        written: &[Requirements],
        inherited: &Inherited,
        depth: usize,
    ) -> Option<Vec<Need>> {
        if depth == limits::POLICY_DEPTH {
            let text = format!(
                "expected allOf, anyOf and atLeast at most {depth} deep in each other (limit POLICY_DEPTH)"
            );
            self.fault(at, &text);
            return None;
        }
        if written.is_empty() {
            self.fault(at, "expected at least one branch, found none; add one");
            return None;
        }
        // The one that combines them.
        if !self.more(1) {
            return None;
        }
        let mut needs = Vec::with_capacity(written.len());
        for (n, branch) in written.iter().enumerate() {
            // All faults of all branches are told.
            needs.push(self.node(&format!("{at}[{n}]"), branch, inherited.clone(), depth + 1));
        }
        needs.into_iter().collect()
    }

    fn counted(&mut self, at: &str, count: &Spanned<usize>, of: Vec<Need>) -> Option<Need> {
        let text = if !(1..=of.len()).contains(&count.value) {
            format!("expected 1 to {}, which is how many branches there are, found {}", of.len(), count.value)
        } else if let Some(keys) = keys_of(&of).filter(|keys| *keys < count.value) {
            format!(
                "expected branches with {} different keys, as each has to be met by another signer, found {keys}; this can never hold",
                count.value
            )
        } else {
            return Some(Need::AtLeast { count: count.value, of });
        };
        self.faults.push(self.document.fault_at(count, format!("{at}.count: {text}")));
        None
    }

    /// Counts what a node asks for.
    fn count(&mut self, need: &Need) -> bool {
        self.more(match need {
            Need::All(needs) => needs.len(),
            _ => 1,
        })
    }

    fn more(&mut self, nodes: usize) -> bool {
        let before = self.nodes;
        self.nodes += nodes;
        if before <= limits::POLICY_NODES && self.nodes > limits::POLICY_NODES {
            let text = format!(
                "expected at most {} signatures, attestations and combinations of them in one policy (limit POLICY_NODES); split the policy",
                limits::POLICY_NODES
            );
            self.fault(AT, &text);
        }
        self.nodes <= limits::POLICY_NODES
    }

    fn fault(&mut self, key: &str, text: &str) {
        self.faults.push(self.document.fault_at_start(format!("{key}: {text}")));
    }
}

/// How many different keys there are; `None` if others may sign, too.
fn keys_of(needs: &[Need]) -> Option<usize> {
    let (mut keys, mut left) = (BTreeSet::new(), needs.iter().collect::<Vec<_>>());
    while let Some(need) = left.pop() {
        match need {
            Need::One(Requirement { signers, .. }) => {
                for signer in signers {
                    let Authority::Key(authority) = &signer.authority else { return None };
                    keys.insert(authority.key.identity());
                }
            }
            Need::All(needs) | Need::Any(needs) | Need::AtLeast { of: needs, .. } => left.extend(needs),
            // No native policy has one.
            Need::Reviewed(_) => return None,
        }
    }
    Some(keys.len())
}
