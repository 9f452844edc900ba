//! Conditions as native policies write them.

use serde::Deserialize;

use super::cel::{About, Condition};
use super::signers::Text;
use crate::image::quoted;
use crate::limits;
use crate::yaml::{Document, Fault};

/// Longest message of a condition, bytes: part of the one line that a denial is.
const MESSAGE: usize = 300;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    cel: Text,
    message: Option<Text>,
}

/// Compiles the conditions on one signature or attestation; those with faults are left out.
pub(super) fn read(
    document: &Document<'_>,
    at: &str,
    written: &[Written],
    about: About,
    faults: &mut Vec<Fault>,
) -> Vec<Condition> {
    if written.len() > limits::POLICY_CONDITIONS {
        let text = format!(
            "{at}.conditions: expected at most {} (limit POLICY_CONDITIONS), found {}; join some by &&",
            limits::POLICY_CONDITIONS,
            written.len()
        );
        faults.push(document.fault_at_start(text));
        return Vec::new();
    }
    let mut conditions = Vec::with_capacity(written.len());
    for Written { cel, message } in written {
        let message = message.as_ref().and_then(|message| {
            let text = message.value.trim();
            if text.is_empty() || text.len() > MESSAGE || text.chars().any(char::is_control) {
                let text = format!(
                    "{at}.conditions.message: expected one line of at most {MESSAGE} bytes, found {}",
                    quoted(text)
                );
                faults.push(document.fault_at(message, text));
                return None;
            }
            Some(text.to_owned())
        });
        match Condition::compile(&cel.value, message, about) {
            Ok(condition) => conditions.push(condition),
            Err(why) => faults.push(document.fault_at(cel, format!("{at}.conditions.cel: {why}"))),
        }
    }
    conditions
}
