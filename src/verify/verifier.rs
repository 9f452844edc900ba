//! The order of the checks.

use std::time::SystemTime;

use sigstore_trust_root::TrustedRoot;

use super::outcome::{Checked, Failure, Signer, Step, Verified};
use super::simple_signing::{VerifyError, verify_simple};
use super::{Authority, Evidence, KeyAuthority};
use crate::image::Digest;

/// The trusted roots that are there, by name.
pub trait Roots {
    /// The root of that name.
    fn root(&self, name: &str) -> Option<&TrustedRoot>;
}

/// None: for policies of keys alone.
impl Roots for () {
    fn root(&self, _: &str) -> Option<&TrustedRoot> {
        None
    }
}

/// What an image has to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought<'a> {
    /// A signature.
    Signature,
    /// An attestation of one of these types, exactly; none in the list finds none.
    Attestation {
        /// The types.
        predicate_types: &'a [String],
    },
}

/// Whether `evidence` is what is `sought`, about one of `digests` (those an image has: its index and its platform's
/// manifest), by `authority`. `now` is used where only the clock can tell, and else decides nothing.
///
/// # Errors
/// The first check that does not hold.
pub fn verify(
    evidence: &Evidence,
    authority: &Authority,
    sought: &Sought<'_>,
    digests: &[Digest],
    roots: &dyn Roots,
    now: SystemTime,
) -> Result<Verified, Failure> {
    let _ = (roots, now);
    let failure =
        |step, text: String| Failure { step, text, undecided: false, signer: None, checks: Vec::new() };
    match (evidence, authority, sought) {
        (
            Evidence::Simple(signing),
            Authority::Key(KeyAuthority { name, key, witnesses }),
            Sought::Signature,
        ) if witnesses.logs.count == 0 && witnesses.timestamps.count == 0 => {
            let claim = verify_simple(key, signing).map_err(|error| match error {
                VerifyError::Claim { .. } => failure(Step::Claim, error.to_string()),
                error => failure(Step::Signature, error.to_string()),
            })?;
            claim.about(digests).map_err(|error| failure(Step::Subject, error.to_string()))?;
            let checked = |step, detail: String| Checked { step, detail };
            Ok(Verified {
                signer: Signer::key(key),
                authority: name.clone(),
                digest: claim.digest(),
                docker_reference: Some(claim.docker_reference().to_owned()),
                annotations: claim.optional().clone(),
                times: Vec::new(),
                logs: Vec::new(),
                timestamp_authorities: Vec::new(),
                predicate: None,
                checks: vec![
                    checked(Step::Signature, format!("by key {}", key.fingerprint())),
                    checked(Step::Subject, format!("about {}", claim.digest())),
                ],
                until: None,
            })
        }
        _ => Err(failure(Step::Kind, "this kind of signature is not supported".to_owned())),
    }
}
