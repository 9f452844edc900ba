//! Whether a policy would take a signer.

use crate::policy::model::{Policy, Wanted};
use crate::verify::Signer;

/// Somebody who may have signed.
#[derive(Debug, Clone, Copy)]
pub enum Named<'a> {
    /// By the name that the policy gives.
    Name(&'a str),
    /// By what a signature would show.
    Signer(&'a Signer),
}

impl Policy {
    /// Whether it asks for something that this one may have signed: for an attestation of a type, or for a signature. Logs,
    /// timestamps and claimed repositories are another matter.
    pub fn takes(&self, who: Named<'_>, attestation: Option<&str>) -> bool {
        let requirements =
            self.requirements().into_iter().filter(|requirement| match (&requirement.wanted, attestation) {
                (Wanted::Signature, None) => true,
                (Wanted::Attestation(types), Some(asked)) => types.iter().any(|found| found == asked),
                _ => false,
            });
        requirements.into_iter().flat_map(|requirement| &requirement.signers).any(|signer| match who {
            Named::Name(name) => signer.authority.name() == Some(name),
            Named::Signer(found) => signer.authority.names(found),
        })
    }

    /// The predicate types of the attestations that it asks for, each once, sorted.
    pub fn attestations(&self) -> Vec<String> {
        let requirements = self.requirements();
        let types = requirements.iter().filter_map(|requirement| match &requirement.wanted {
            Wanted::Attestation(types) => Some(types),
            Wanted::Signature => None,
        });
        let mut types: Vec<String> = types.flatten().cloned().collect();
        types.sort_unstable();
        types.dedup();
        types
    }
}
