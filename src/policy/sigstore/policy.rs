//! `policy` of a ClusterImagePolicy, and of an attestation that one asks for.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Unsupported, unsupported};
use crate::image::quoted;
use crate::policy::cel::Condition;
use crate::policy::signers::Text;
use crate::yaml::{Document, Fault};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenPolicy {
    r#type: Text,
    data: Option<Text>,
    remote: Unsupported,
    config_map_ref: Unsupported,
    fetch_config_file: Option<Spanned<bool>>,
    include_spec: Option<Spanned<bool>>,
    include_object_meta: Option<Spanned<bool>>,
    include_type_meta: Option<Spanned<bool>>,
}

/// The policy, which messages call `called`.
pub(super) fn read(
    document: &Document<'_>,
    at: &str,
    written: &WrittenPolicy,
    called: String,
    faults: &mut Vec<Fault>,
) -> Option<Condition> {
    let known = faults.len();
    if written.r#type.value != "rego" {
        let text = format!(
            "{at}.type: expected rego, found {}; crivet evaluates no CUE: write it in Rego, or as conditions of an ImagePolicy (docs/conditions.md)",
            quoted(&written.r#type.value)
        );
        faults.push(document.fault_at(&written.r#type, text));
    }
    let instead = "a node fetches no policies; write it under data";
    unsupported(document, &format!("{at}.remote"), &written.remote, instead, faults);
    unsupported(document, &format!("{at}.configMapRef"), &written.config_map_ref, instead, faults);
    let unseen = "the runtime is not told it; check it at admission";
    let config = "what authorities found is all that a policy is given; check the config when the image is built, and attest that";
    for (key, field, instead) in [
        ("fetchConfigFile", &written.fetch_config_file, config),
        ("includeSpec", &written.include_spec, unseen),
        ("includeObjectMeta", &written.include_object_meta, unseen),
        ("includeTypeMeta", &written.include_type_meta, unseen),
    ] {
        let asked = field.as_ref().filter(|field| field.value);
        if let Some(asked) = asked {
            let text = format!("{at}.{key}: expected false, or nothing, found true; {instead}");
            faults.push(document.fault_at(asked, text));
        }
    }
    let Some(data) = &written.data else {
        if faults.len() == known {
            let text = format!(
                "{at}.data: expected a policy in Rego, found none; write package sigstore with a rule isCompliant"
            );
            faults.push(document.fault_at(&written.r#type, text));
        }
        return None;
    };
    if faults.len() > known {
        return None;
    }
    let condition = Condition::rego(&data.value, called);
    condition.map_err(|why| faults.push(document.fault_at(data, format!("{at}.data: {why}")))).ok()
}
