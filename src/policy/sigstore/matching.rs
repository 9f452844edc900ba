//! `match` of a ClusterImagePolicy: the resources it is for. A node sees pods alone.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Unsupported, unsupported};
use crate::image::quoted;
use crate::limits;
use crate::policy::model::Labels;
use crate::policy::signers::Text;
use crate::yaml::{Document, Fault};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MatchResource {
    group: Option<Text>,
    version: Option<Text>,
    resource: Option<Text>,
    selector: Option<Selector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    match_expressions: Unsupported,
}

/// The labels of the pods that the policy is for; none: all pods.
pub(super) fn read(
    document: &Document<'_>,
    written: Option<&Spanned<Vec<MatchResource>>>,
    faults: &mut Vec<Fault>,
) -> Labels {
    const AT: &str = "spec.match";
    let Some(written) = written else { return Labels::new() };
    let known = faults.len();
    let mut of_pods = Vec::new();
    let mut others = Vec::new();
    for one in &written.value {
        let text = |field: &'_ Option<Text>| field.as_ref().map_or("", |text| text.value.as_str()).to_owned();
        if text(&one.resource) != "pods" || !text(&one.group).is_empty() {
            let found = format!("{} of group {}", quoted(&text(&one.resource)), quoted(&text(&one.group)));
            let at = one.resource.as_ref().or(one.group.as_ref());
            let text = format!(
                "{AT}: expected resource pods of no group, found {found}; a node sees pods, whatever made them: write resource: pods, or leave match out"
            );
            others.push(at.map_or_else(
                || document.fault_at(written, text.clone()),
                |at| document.fault_at(at, text.clone()),
            ));
            continue;
        }
        if !["v1", "*"].contains(&text(&one.version).as_str()) {
            let text = format!(
                "{AT}.version: expected v1 or \"*\", found {}; policy-controller matches no pod by anything else",
                quoted(&text(&one.version))
            );
            let at = one.version.as_ref().or(one.resource.as_ref());
            faults.extend(at.map(|at| document.fault_at(at, text)));
        }
        if let Some(selector) = &one.selector {
            let instead =
                "write matchLabels; a policy for pods without a label would be left by whoever adds it";
            let key = format!("{AT}.selector.matchExpressions");
            unsupported(document, &key, &selector.match_expressions, instead, faults);
        }
        of_pods.push(
            one.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty()),
        );
    }
    // One that is for all pods is for those of every other resource, too.
    if faults.len() == known && of_pods.contains(&None) {
        return Labels::new();
    }
    faults.extend(others);
    let labels = match &of_pods[..] {
        [Some(labels)] => (*labels).clone(),
        [] | [None] => Labels::new(),
        several => {
            let text = format!(
                "{AT}: expected the labels of one kind of pods, found {}; write a policy for each",
                several.len()
            );
            faults.push(document.fault_at(written, text));
            Labels::new()
        }
    };
    if labels.len() > limits::POLICY_LABELS {
        let text = format!(
            "{AT}.selector.matchLabels: expected at most {} (limit POLICY_LABELS), found {}",
            limits::POLICY_LABELS,
            labels.len()
        );
        faults.push(document.fault_at(written, text));
    }
    labels
}
