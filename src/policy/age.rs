//! How old a signature or attestation may be.

use std::time::{Duration, SystemTime};

use super::model::Signer;
use super::signers::Text;
use crate::audit::rfc3339;
use crate::config::duration;
use crate::limits;
use crate::verify::{Authority, TimeSource, Verified};
use crate::yaml::{Document, Fault};

/// The most that may have passed since a signature was made, by those who vouch for the time.
#[derive(Debug, Clone)]
pub(super) struct MaxAge {
    longest: Duration,
    /// As the policy has it.
    written: String,
}

/// Why something is too old.
pub(super) enum TooOld {
    /// Nobody vouches for its time.
    Undated,
    /// It is of then, and too old since.
    Since { made: SystemTime, since: SystemTime },
}

impl MaxAge {
    pub fn read(document: &Document<'_>, at: &str, written: &Text, faults: &mut Vec<Fault>) -> Option<Self> {
        let least = Duration::from_secs(limits::AGE_LEAST_SECONDS);
        let fault = match duration(&written.value) {
            Ok(longest) if longest >= least => {
                return Some(Self { longest, written: written.value.clone() });
            }
            Ok(_) => format!(
                "expected at least {} s (limit AGE_LEAST_SECONDS), found {}; what is built and pulled is older",
                limits::AGE_LEAST_SECONDS,
                written.value
            ),
            Err(why) => why,
        };
        faults.push(document.fault_at(written, format!("{at}.maxAge: {fault}")));
        None
    }

    /// Until when a signature is young enough; `None`: for longer than there are times. The first time that is vouched for
    /// counts: whoever has it stamped or logged again later makes it no younger. The node's clock vouches for nothing.
    pub fn holds(&self, verified: &Verified, now: SystemTime) -> Result<Option<SystemTime>, TooOld> {
        let dated = verified.times.iter().filter(|known| known.source != TimeSource::Clock);
        let made = dated.map(|known| known.time).min().ok_or(TooOld::Undated)?;
        match made.checked_add(self.longest) {
            Some(since) if since <= now => Err(TooOld::Since { made, since }),
            until => Ok(until),
        }
    }

    /// For messages: `720h`.
    pub fn written(&self) -> &str {
        &self.written
    }
}

impl TooOld {
    /// What was found, about one that is told of by `whose`.
    pub fn told(&self, whose: &str) -> String {
        match self {
            Self::Undated => {
                format!(
                    "one on this image by {whose}, whose time no log and no timestamp authority vouches for"
                )
            }
            Self::Since { made, since } => format!(
                "one on this image by {whose}, made at {} and too old since {}",
                rfc3339(*made),
                rfc3339(*since)
            ),
        }
    }

    pub fn is_undated(&self) -> bool {
        matches!(self, Self::Undated)
    }
}

/// Whether somebody has to vouch for the time of this signer's signatures.
pub(super) fn is_dated(signer: &Signer) -> bool {
    let witnesses = signer.authority.witnesses();
    matches!(signer.authority, Authority::Keyless(_))
        || witnesses.logs.count > 0
        || witnesses.timestamps.count > 0
}
