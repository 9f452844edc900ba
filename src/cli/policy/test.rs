//! `crivet policy test`: policies held to what is expected of them.

mod cases;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use self::cases::{Case, Someone, Who};
use super::Where;
use crate::audit::{Decision, Reason};
use crate::cli::verify::{in_force, vet_one, vetter};
use crate::config::{ProxyConfiguration, Unmatched};
use crate::policy::{self, Named, Policy, PolicySet, Says};
use crate::vetter::case::InForce;
use crate::vetter::vetting::Vetting;

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// Files of cases (kind PolicyTest; docs/policy.md)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    place: Where,
    /// Ask the registries for signatures where a case expects a decision
    #[arg(long)]
    online: bool,
}

/// What cases came to.
#[derive(Default)]
struct Tally {
    cases: usize,
    failed: usize,
    /// Decisions that were expected and that nobody has looked for.
    unasked: usize,
}

/// Runs the command.
pub fn test(arguments: &Arguments) -> ExitCode {
    match run(arguments) {
        Ok(Tally { cases, failed, unasked }) => {
            let mut said = match failed {
                0 => format!("ok: {cases} cases as expected"),
                _ => format!("{failed} of {cases} cases are not as expected"),
            };
            if unasked > 0 {
                said.push_str(&format!(
                    "; the decisions of {unasked} were not looked for, which takes --online"
                ));
            }
            let _ = writeln!(io::stdout(), "{said}");
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(faults) => {
            let _ = writeln!(io::stdout(), "{}", faults.join("\n"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Tally, Vec<String>> {
    let (mut cases, mut faults) = (Vec::new(), Vec::new());
    for file in &arguments.files {
        match cases::read(file) {
            Ok(more) => cases.extend(more),
            Err(more) => faults.extend(more),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let (config, policy) = (arguments.place.config.as_deref(), arguments.place.policy.as_deref());
    let (given, set) = super::given(config, policy)?;
    let online = match arguments.online {
        false => None,
        true => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| vec![format!("cannot start: {error}")])?;
            Some((runtime, in_force(config, policy).map_err(|error| vec![error])?))
        }
    };
    let mut tally = Tally { cases: cases.len(), ..Tally::default() };
    let mut out = io::stdout().lock();
    for case in &cases {
        let mut wrong = by_name(case, &set, given.as_ref());
        if case.expected.asks_for_a_decision() {
            match (of_name(case, &set, given.as_ref()), &online) {
                (Some(found), _) => wrong.extend(decided(case, &found)),
                (None, Some((runtime, in_force))) => {
                    let vetting = runtime.block_on(vetted(in_force, case));
                    wrong.extend(decided(case, &Found::of(&vetting)));
                    wrong.extend(other_content(case, &vetting));
                }
                (None, None) => tally.unasked += 1,
            }
        }
        tally.failed += usize::from(!wrong.is_empty());
        for line in wrong {
            let _ = writeln!(out, "{}: {}: {line}", case.source, case.title);
        }
    }
    Ok(tally)
}

async fn vetted(in_force: &InForce, case: &Case) -> Vetting {
    let namespace = case.namespace.as_deref().unwrap_or_default();
    vet_one(&vetter(), in_force, namespace, &case.labels, &case.image).await
}

/// A decision, and why.
struct Found {
    decision: Decision,
    reason: Option<Reason>,
    message: String,
}

impl Found {
    fn of(vetting: &Vetting) -> Self {
        Self { decision: vetting.decision, reason: vetting.reason, message: vetting.text.clone() }
    }
}

/// The decision, where it takes no evidence.
fn of_name(case: &Case, set: &PolicySet, config: Option<&ProxyConfiguration>) -> Option<Found> {
    let subject = case.subject();
    let (says, denying) = says(case, set, unmatched_runs(config));
    let found =
        |decision, reason, message: &str| Some(Found { decision, reason, message: message.to_owned() });
    match says {
        Says::Denies => {
            let message = denying.unwrap_or_default();
            found(Decision::Denied, Some(Reason::DeniedByPolicy), &message)
        }
        // What it contains may be denied by its digest, which nobody has said.
        _ if case.digest.is_none() && set.may_deny(&subject).next().is_some() => None,
        Says::Accepts => found(Decision::Allowed, None, ""),
        Says::Asks => None,
        Says::Nothing => match config?.unmatched {
            Unmatched::Allow => found(Decision::Allowed, None, ""),
            Unmatched::Deny => found(Decision::Denied, Some(Reason::NoPolicy), "no policy covers it"),
        },
    }
}

/// Whether the daemon lets through what no policy covers; not known without its configuration.
fn unmatched_runs(config: Option<&ProxyConfiguration>) -> bool {
    config.is_some_and(|config| config.unmatched == Unmatched::Allow)
}

/// What the policies say of the case by name and digest, and why they deny.
fn says(case: &Case, set: &PolicySet, unmatched_runs: bool) -> (Says, Option<String>) {
    let subject = case.subject();
    let explained = set.explain(&subject, unmatched_runs);
    let by_digest = case.digest.and_then(|digest| set.denies(&subject, &[digest], |_| true));
    if let Some(policy) = by_digest {
        return (Says::Denies, Some(format!("policy {} denies that digest", policy.name())));
    }
    let denying = explained.policies.iter().find(|policy| policy.decides && policy.says == Says::Denies);
    let reason = denying.and_then(|policy| policy.reason.clone());
    (explained.says, reason)
}

/// What is not as expected, as far as a name tells.
fn by_name(case: &Case, set: &PolicySet, config: Option<&ProxyConfiguration>) -> Vec<String> {
    let subject = case.subject();
    let deciding = set.deciding(&subject, unmatched_runs(config));
    let expected = &case.expected;
    let mut wrong = Vec::new();
    let mut names: Vec<String> = deciding.iter().map(|policy| policy.name().to_owned()).collect();
    names.sort_unstable();
    if let Some(expected) = expected.policies.as_ref().filter(|expected| **expected != names) {
        wrong.push(format!("policies: expected {}, found {}", listed(expected), listed(&names)));
    }
    let (found, _) = says(case, set, unmatched_runs(config));
    if let Some(expected) = expected.says.filter(|expected| *expected != found) {
        wrong.push(format!("says: expected {}, found {}", expected.as_str(), found.as_str()));
    }
    let audits = |policy: &&Policy| policy.mode() == Some(policy::Mode::Audit);
    let mode = if deciding.iter().all(audits) && !deciding.is_empty() {
        policy::Mode::Audit
    } else {
        policy::Mode::Enforce
    };
    if let Some(expected) = expected.mode.filter(|expected| *expected != mode) {
        let word = |mode| if mode == policy::Mode::Audit { "audit" } else { "enforce" };
        wrong.push(format!("mode: expected {}, found {}", word(expected), word(mode)));
    }
    let mut attestations: Vec<String> = deciding.iter().flat_map(|policy| policy.attestations()).collect();
    attestations.sort_unstable();
    attestations.dedup();
    if let Some(expected) = expected.attestations.as_ref().filter(|expected| **expected != attestations) {
        wrong.push(format!("attestations: expected {}, found {}", listed(expected), listed(&attestations)));
    }
    for someone in &expected.accepts {
        if let Some(policy) = refusing(&deciding, someone) {
            wrong.push(format!("accepts: expected {}, found that {policy} does not take it", someone.shown));
        }
    }
    for someone in &expected.refuses {
        if refusing(&deciding, someone).is_none() {
            wrong.push(format!(
                "refuses: expected {}, found that it is taken by {}",
                someone.shown,
                listed(&names)
            ));
        }
    }
    wrong
}

/// Of the policies that ask for evidence the one that would not take this signer's; also if none asks.
fn refusing(deciding: &[&Policy], someone: &Someone) -> Option<String> {
    let who = match &someone.who {
        Who::Name(name) => Named::Name(name),
        Who::Signer(signer) => Named::Signer(signer),
    };
    let mut asking = deciding.iter().filter(|policy| policy.needs_evidence()).peekable();
    if asking.peek().is_none() {
        return Some("no policy that asks for evidence is there, which".to_owned());
    }
    let refuses = |policy: &&&Policy| !policy.takes(who, someone.attestation.as_deref());
    asking.find(refuses).map(|policy| format!("policy {} ({})", policy.name(), policy.source()))
}

/// In what a decision is not as expected.
fn decided(case: &Case, found: &Found) -> Vec<String> {
    let expected = &case.expected;
    let mut wrong = Vec::new();
    let because = if found.message.is_empty() { String::new() } else { format!(" ({})", found.message) };
    if let Some(expected) = expected.decision.filter(|expected| *expected != found.decision) {
        wrong.push(format!(
            "decision: expected {}, found {}{because}",
            expected.as_str(),
            found.decision.as_str()
        ));
    }
    if let Some(expected) = expected.reason.filter(|expected| Some(*expected) != found.reason) {
        let found = found.reason.map_or("none", Reason::as_str);
        wrong.push(format!("reason: expected {}, found {found}{because}", expected.as_str()));
    }
    if let Some(expected) = expected.message.as_ref().filter(|expected| !found.message.contains(*expected)) {
        wrong.push(format!("message: expected {expected:?} in it, found {:?}", found.message));
    }
    wrong
}

fn other_content(case: &Case, vetting: &Vetting) -> Option<String> {
    let (expected, found) = (case.digest?, vetting.digest?);
    (expected != found).then(|| format!("digest: expected {expected}, found {found} in the registry"))
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
