//! A ClusterImagePolicy's own policy, on all that its authorities found.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::tree::{all, any};
use super::{Answer, Case, Check, Found, Outcome, Rank, Short, Shortfall, Verifies};
use crate::image::Digest;
use crate::policy::model::{Review, Reviewed};
use crate::verify::{AltName, FulcioClaim, Signer, Verified};

impl Case<'_> {
    /// At least one authority holds, and the policy does of all that they found.
    ///
    /// Such a policy may say no because of what is there, so nothing may be missing: where it is not known whether an authority
    /// finds something, or more of it, nothing is known.
    pub(super) fn review(&self, review: &Review, verify: &mut Verifies<'_>) -> Found {
        let (mut branches, mut matches) = (Vec::new(), Map::new());
        for authority in &review.authorities {
            let parts =
                authority.wanted.iter().map(|(_, one)| self.requirement(one, verify)).collect::<Vec<_>>();
            let matched = matched(authority, &parts);
            let found = all(parts);
            if found.holds {
                matches.insert(authority.name.clone(), matched);
            }
            branches.push(found);
        }
        let expected = self.listed(&review.alternatives());
        let open = branches.iter().find_map(|branch| branch.open);
        let mut found = any(branches, &expected);
        if !found.holds {
            return found;
        }
        let shown = review.policy.shown();
        let answer = match open {
            None => self
                .conditions
                .review(&review.policy, Bytes::from(json!({"authorityMatches": matches}).to_string())),
            Some(_) => Answer::Unknown("there may be more than could be looked at".to_owned()),
        };
        let check = |outcome, detail| Check::of("policy".to_owned(), outcome, detail);
        let (why, text) = match answer {
            Answer::Holds => {
                if review.policy.by_time() {
                    let until = self.conditions.holds_until();
                    for verified in &mut found.by {
                        verified.until = verified.until.into_iter().chain([until]).min();
                    }
                }
                found.checks.push(check(Outcome::Passed, shown));
                return found;
            }
            Answer::Fails(said) if said.is_empty() => (Shortfall::Condition, "does not hold".to_owned()),
            Answer::Fails(said) => (Shortfall::Condition, format!("does not hold: {said}")),
            Answer::Unknown(said) => {
                (open.unwrap_or(Shortfall::Limit), format!("cannot be told to hold: {said}"))
            }
        };
        // What passed is no part of why it does not hold.
        let checks = vec![check(Outcome::Failed, format!("{shown} {text}"))];
        let undecided = why.is_undecided();
        let names = matches.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let short = Short {
            why,
            expected: format!("{expected}, of all of which {shown} holds"),
            found: format!("evidence for {names}, of which {shown} {text}"),
            remedy: match undecided {
                true => "see docs/dialects.md for the limits".to_owned(),
                false => {
                    "sign or attest it so that it does, or change the policy (docs/dialects.md)".to_owned()
                }
            },
            rank: Rank { undecided, held: 1, furthest: (3, None) },
        };
        Found { checks, open: Some(why).filter(|_| undecided), short: Some(short), ..Found::default() }
    }
}

/// What an authority found, as policy-controller tells it.
fn matched(authority: &Reviewed, parts: &[Found]) -> Json {
    let of = |found: &Found, name: Option<&str>| {
        // Whoever signs the same twice has signed it once, and anybody can make a second signature of a first one.
        let each: BTreeMap<String, Json> =
            found.by.iter().map(|verified| told(verified, name.is_some())).collect();
        Json::Array(each.into_values().collect())
    };
    let mut attestations = Map::new();
    for ((name, _), found) in authority.wanted.iter().zip(parts) {
        match name {
            None => return json!({"signatures": of(found, None)}),
            Some(name) => attestations.insert(name.clone(), of(found, Some(name))),
        };
    }
    json!({"attestations": attestations})
}

/// One signature or attestation, and what it is known by.
fn told(verified: &Verified, is_attestation: bool) -> (String, Json) {
    let predicate = verified.predicate.as_ref();
    let what = (&verified.key, &verified.digest, &verified.docker_reference, &verified.annotations);
    let id = format!("{what:?} {:?}", predicate.map(|predicate| Digest::of(&predicate.statement)));
    let id = Digest::of(id.as_bytes()).hex().to_string();
    let mut map = Map::new();
    let mut put = |key: &str, value: Option<&str>| {
        // As there: what is empty is not told.
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            map.insert(key.to_owned(), value.into());
        }
    };
    put("id", Some(&id));
    if let Signer::Certificate(by) = &verified.signer {
        put("subject", by.names.first().map(AltName::as_str));
        put("issuer", by.issuer.as_deref());
        for (key, claim) in [
            ("githubWorkflowTrigger", FulcioClaim::GithubWorkflowTrigger),
            ("githubWorkflowSha", FulcioClaim::GithubWorkflowSha),
            ("githubWorkflowName", FulcioClaim::GithubWorkflowName),
            ("githubWorkflowRepo", FulcioClaim::GithubWorkflowRepository),
            ("githubWorkflowRef", FulcioClaim::GithubWorkflowRef),
        ] {
            put(key, by.claims.get(&claim).map(String::as_str));
        }
    }
    if is_attestation {
        put("predicateType", predicate.map(|predicate| predicate.predicate_type.as_str()));
    }
    (id, Json::Object(map))
}
