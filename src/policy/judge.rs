//! Whether what is known about an image satisfies a policy.

mod check;
mod review;
mod tree;
mod words;

use std::time::SystemTime;

pub use self::check::{Check, CheckStep, Outcome};
use self::tree::Ways;
use self::words::{answered, one_of, told};
use super::cel::{About, Answer, Condition, Conditions};
use super::model::comparable_repository;
use super::model::{ClaimedRepository, NamedRepository, Policy, Requirement, Rule, Signer, Subject, Wanted};
use crate::image::{Digest, ImageName, Reference, quoted};
use crate::verify::{Checked, Evidence, Failure, Sought, Step, Verified};

/// Says whether evidence is what is sought, by a signer: [`crate::verify::verify`], or what it said before. It depends on
/// nothing but these, the image's digests, and the trusted roots.
pub type Verifies<'a> = dyn FnMut(&Evidence, &Signer, &Sought<'_>) -> Result<Verified, Failure> + 'a;

/// What a policy says about an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    /// It holds.
    Satisfied {
        /// What satisfies it, each on its own; none where the policy asks for nothing.
        by: Vec<Verified>,
        /// What was looked at.
        checks: Vec<Check>,
    },
    /// The image is exempted from it: nothing is asked.
    Exempted {
        /// When the exemption ends.
        expires: SystemTime,
        /// Until when and why, one line.
        detail: String,
        /// What was looked at.
        checks: Vec<Check>,
    },
    /// It does not hold. Expected, found and remedy are parts of one line.
    Unsatisfied {
        /// What kind of shortfall it is.
        why: Shortfall,
        /// What the policy asks for.
        expected: String,
        /// What there is.
        found: String,
        /// What to do.
        remedy: String,
        /// What was looked at.
        checks: Vec<Check>,
    },
}

/// In what an image falls short of a policy; of several signatures, what the nearest one falls short in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortfall {
    /// The policy denies it, whatever is signed.
    Denied,
    /// There is no signature.
    NoSignature,
    /// There is no attestation of the type that is asked for.
    NoAttestation,
    /// None is by one of the policy's keys.
    OtherKey,
    /// It is signed with a certificate, for nobody whom the policy names.
    OtherIdentity,
    /// Certificate, log entry or timestamp do not hold.
    Invalid,
    /// One by such a key is no claim about an image.
    Malformed,
    /// One by such a key is about another image.
    OtherImage,
    /// One by such a key is about this image in another repository.
    OtherRepository,
    /// One by such a key is too old, or of no time that anybody vouches for.
    TooOld,
    /// One that holds does not meet a condition of the policy.
    Condition,
    /// What holds is not by as many different signers as are asked for.
    TooFewSigners,
    /// A limit was hit before it could be told: undecided.
    Limit,
    /// A trusted root is not there: undecided.
    Trust,
}

/// Why one piece of evidence does not do. The further it got, the more its failure tells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// It does not hold.
    Verify(Failure),
    /// It holds, for another repository, or for none.
    OtherRepository { text: String, unnamed: bool, checks: Vec<Checked> },
    /// It holds, and is too old.
    TooOld { text: String, undated: bool, checks: Vec<Checked> },
    /// It holds, but a condition does not, or it is not known whether it does.
    Condition { text: String, undecided: bool, steps: Vec<CheckStep> },
}

impl Why {
    /// Of failures the furthest is told; what might have held comes before all that do not.
    fn rank(&self) -> Rank {
        match self {
            Self::Verify(failure) => {
                Rank { undecided: failure.undecided, held: 0, furthest: (0, Some(failure.step)) }
            }
            Self::OtherRepository { .. } => Rank { undecided: false, held: 0, furthest: (1, None) },
            Self::TooOld { .. } => Rank { undecided: false, held: 0, furthest: (2, None) },
            Self::Condition { undecided, .. } => Rank { undecided: *undecided, held: 0, furthest: (2, None) },
        }
    }

    fn shortfall(&self) -> Shortfall {
        match self {
            Self::OtherRepository { .. } => Shortfall::OtherRepository,
            Self::TooOld { .. } => Shortfall::TooOld,
            Self::Condition { undecided: true, .. } => Shortfall::Limit,
            Self::Condition { .. } => Shortfall::Condition,
            Self::Verify(failure) if failure.undecided && failure.step == Step::Format => Shortfall::Limit,
            Self::Verify(failure) if failure.undecided => Shortfall::Trust,
            Self::Verify(failure) => match failure.step {
                Step::Format | Step::Claim => Shortfall::Malformed,
                Step::Kind | Step::Signature => Shortfall::OtherKey,
                Step::Subject => Shortfall::OtherImage,
                Step::Type => Shortfall::NoAttestation,
                Step::Identity => Shortfall::OtherIdentity,
                Step::Promise
                | Step::Timestamp
                | Step::Time
                | Step::Chain
                | Step::Sct
                | Step::Inclusion
                | Step::Witnesses
                | Step::Entry => Shortfall::Invalid,
            },
        }
    }

    /// What held, and what does not.
    fn steps(&self) -> Vec<CheckStep> {
        let (checks, name, clause, detail) = match self {
            Self::Verify(failure) => {
                (&failure.checks, failure.step.name(), failure.step.clause(), failure.text.clone())
            }
            Self::OtherRepository { text, checks, .. } => {
                (checks, "claimed repository", "cosign SIGNATURE_SPEC, critical.identity", text.clone())
            }
            Self::TooOld { text, checks, .. } => (checks, "age", "the policy's maxAge", text.clone()),
            Self::Condition { steps, .. } => return steps.clone(),
        };
        let failed = CheckStep { name, clause, outcome: Outcome::Failed, detail };
        checks.iter().map(CheckStep::from).chain([failed]).collect()
    }

    fn text(&self) -> String {
        match self {
            Self::Verify(failure) => failure.to_string(),
            Self::OtherRepository { text, .. } | Self::TooOld { text, .. } | Self::Condition { text, .. } => {
                text.clone()
            }
        }
    }

    /// As part of the answer's one line. With several signers it says nothing that the last one's key is not the signature's.
    fn told(&self) -> String {
        match self {
            Self::Verify(failure) if self.shortfall() == Shortfall::OtherKey => {
                let by = failure
                    .signer
                    .as_ref()
                    .map(|claimed| format!("; it says that it is by {}", claimed.signer));
                format!("made by none of the policy's signers{}", by.unwrap_or_default())
            }
            _ => self.text(),
        }
    }
}

/// What came of one need.
#[derive(Default)]
struct Found {
    holds: bool,
    by: Vec<Verified>,
    checks: Vec<Check>,
    /// Of what does not hold, what is told.
    short: Option<Short>,
    /// By whom it holds.
    ways: Ways,
    /// Why something could not be told that might make it hold, or hold by others.
    open: Option<Shortfall>,
}

struct Short {
    why: Shortfall,
    expected: String,
    found: String,
    remedy: String,
    rank: Rank,
}

/// How near something came to holding. What might hold, if it could be told, comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    undecided: bool,
    /// How much of it holds.
    held: usize,
    furthest: (u8, Option<Step>),
}

impl Policy {
    /// Judges an image that has these `digests` (its index and its platform's manifest) by this `evidence`, which is not
    /// trusted yet. One signature has to meet all that a requirement asks for (facts, step 14), its conditions included: those
    /// come to what `conditions` says, whose time is the highest ever seen: what has ended by it has ended, whatever the clock
    /// says.
    pub fn judge(
        &self,
        subject: &Subject<'_>,
        digests: &[Digest],
        evidence: &[Evidence],
        conditions: &Conditions,
        verify: &mut Verifies<'_>,
    ) -> Judgement {
        match &self.rule {
            Rule::Accept { reason } => {
                let detail = format!("the policy accepts anything: {reason}");
                let check = Check::of("policy".to_owned(), Outcome::Passed, detail);
                Judgement::Satisfied { by: Vec::new(), checks: vec![check] }
            }
            Rule::Deny { reason } => {
                let detail = format!("the policy denies: {reason}");
                Judgement::Unsatisfied {
                    why: Shortfall::Denied,
                    expected: "another image".to_owned(),
                    found: format!("one that the policy denies ({reason})"),
                    remedy: "use another image, or change the policy".to_owned(),
                    checks: vec![Check::of("policy".to_owned(), Outcome::Failed, detail)],
                }
            }
            Rule::Requires(need) => {
                let exemption = self.last_exemption(subject, digests);
                if let Some(exemption) = exemption.filter(|exemption| !exemption.is_over(conditions.now())) {
                    let detail = format!("exempted until {}", exemption.told());
                    let check = Check::of("exemption".to_owned(), Outcome::Passed, detail.clone());
                    return Judgement::Exempted { expires: exemption.expires, detail, checks: vec![check] };
                }
                let case = Case { subject, digests, evidence, counts: need.counts(), conditions };
                let Found { holds, by, mut checks, short, .. } = case.need(need, verify);
                let Some(Short { why, expected, mut found, remedy, .. }) = short.filter(|_| !holds) else {
                    return Judgement::Satisfied { by, checks };
                };
                if let Some(over) = exemption {
                    let detail = format!("ended at {}", over.told());
                    found = format!("{found}, and its exemption {detail}");
                    checks.push(Check::of("exemption".to_owned(), Outcome::Failed, detail));
                }
                Judgement::Unsatisfied { why, expected, found, remedy, checks }
            }
        }
    }
}

struct Case<'a> {
    subject: &'a Subject<'a>,
    digests: &'a [Digest],
    evidence: &'a [Evidence],
    /// Whether signers are counted.
    counts: bool,
    conditions: &'a Conditions,
}

impl Case<'_> {
    fn requirement(&self, requirement: &Requirement, verify: &mut Verifies<'_>) -> Found {
        let (mut by, mut checks, mut failures) = (Vec::new(), Vec::new(), Vec::<Why>::new());
        for (n, evidence) in (1..).zip(self.evidence) {
            match self.one(requirement, evidence, verify) {
                Ok((verified, steps)) => {
                    let detail = told(&verified, requirement);
                    let name = self.name(requirement, n);
                    checks.push(Check { name, outcome: Outcome::Passed, detail, steps });
                    by.push(verified);
                }
                // What is of another type says nothing about what is asked for, unless nothing else is there.
                Err(Why::Verify(failure)) if failure.step == Step::Type && !failure.undecided => {}
                Err(why) => {
                    let (name, steps) = (self.name(requirement, n), why.steps());
                    checks.push(Check { name, outcome: Outcome::Failed, detail: why.text(), steps });
                    failures.push(why);
                }
            }
        }
        let open = failures.iter().map(Why::shortfall).find(|why| why.is_undecided());
        if !by.is_empty() {
            let ways = if self.counts { Ways::of(&by) } else { Ways::default() };
            return Found { holds: true, by, checks, ways, open, short: None };
        }
        let what = requirement.wanted.what();
        let furthest = failures.iter().max_by_key(|why| why.rank());
        let found = match (failures.len(), furthest) {
            (_, None) => format!("no {what}"),
            (1, Some(furthest)) => format!("1 {what}: {}", furthest.told()),
            (n, Some(furthest)) => format!("{n} {what}s, the nearest: {}", furthest.told()),
        };
        if checks.is_empty() {
            checks.push(Check::of(format!("{what}s"), Outcome::Failed, "there is none".to_owned()));
        }
        let none = match requirement.wanted {
            Wanted::Signature => Shortfall::NoSignature,
            Wanted::Attestation(_) => Shortfall::NoAttestation,
        };
        let short = Short {
            why: furthest.map_or(none, Why::shortfall),
            expected: self.expected(requirement),
            found,
            remedy: self.remedy(requirement, furthest),
            rank: furthest.map(Why::rank).unwrap_or_default(),
        };
        Found { checks, open, short: Some(short), ..Found::default() }
    }

    fn name(&self, requirement: &Requirement, n: usize) -> String {
        let all = self.evidence.len();
        match &requirement.wanted {
            Wanted::Signature => format!("signature {n} of {all}"),
            Wanted::Attestation(types) => {
                format!("attestation {} {n} of {all}", one_of(types.iter().cloned()))
            }
        }
    }

    /// Holds one piece of evidence to everything, with each signer.
    fn one(
        &self,
        requirement: &Requirement,
        evidence: &Evidence,
        verify: &mut Verifies<'_>,
    ) -> Result<(Verified, Vec<CheckStep>), Why> {
        let sought = requirement.wanted.sought();
        let mut furthest = None::<Why>;
        for signer in &requirement.signers {
            let why = match verify(evidence, signer, &sought) {
                Ok(verified) => {
                    let repository = self.repository(requirement, &verified);
                    let young = repository.and_then(|()| self.young(requirement, verified));
                    match young.and_then(|verified| self.conditions(requirement, verified)) {
                        Ok(met) => return Ok(met),
                        Err(why) => why,
                    }
                }
                Err(failure) => Why::Verify(failure),
            };
            furthest = match furthest {
                Some(before) if before.rank() >= why.rank() => Some(before),
                _ => Some(why),
            };
        }
        Err(furthest.unwrap_or_else(|| {
            // A policy without signers is none that was compiled.
            let text = "the policy names no signer".to_owned();
            Why::OtherRepository { text, unnamed: false, checks: Vec::new() }
        }))
    }

    /// An attestation says something about bytes, wherever they are. A signature says "run this as that".
    fn repository(&self, requirement: &Requirement, verified: &Verified) -> Result<(), Why> {
        if matches!(requirement.wanted, Wanted::Attestation(_)) {
            return Ok(());
        }
        let ClaimedRepository { named, unnamed } = &requirement.repository;
        let Some(docker_reference) = &verified.docker_reference else {
            if *unnamed || matches!(named, NamedRepository::Any) {
                return Ok(());
            }
            let text = format!("one on this image by {}, which names no repository", verified.signer);
            return Err(Why::OtherRepository { text, unnamed: true, checks: verified.checks.clone() });
        };
        let claimed = Reference::parse_as_written(docker_reference).ok();
        let claimed = claimed.map(|reference| comparable_repository(&reference));
        let allowed = match named {
            NamedRepository::Any => true,
            NamedRepository::OneOf(names) => claimed.as_ref().is_some_and(|claimed| names.contains(claimed)),
            NamedRepository::Same => claimed.is_some() && claimed == self.own_repository(),
            NamedRepository::Signed(identity) => identity.accepts(self.subject.name, docker_reference),
        };
        if allowed {
            return Ok(());
        }
        let text = format!("one on this image, but made for repository {}", quoted(docker_reference));
        Err(Why::OtherRepository { text, unnamed: false, checks: verified.checks.clone() })
    }

    /// As long as it is young enough.
    fn young(&self, requirement: &Requirement, mut verified: Verified) -> Result<Verified, Why> {
        let Some(max_age) = &requirement.max_age else { return Ok(verified) };
        match max_age.holds(&verified, self.conditions.now()) {
            Ok(until) => {
                verified.until = verified.until.into_iter().chain(until).min();
                Ok(verified)
            }
            Err(old) => {
                let text = old.told(&verified.signer.to_string());
                Err(Why::TooOld { text, undated: old.is_undated(), checks: verified.checks })
            }
        }
    }

    /// Each of the conditions, of one signature or attestation by itself.
    fn conditions(
        &self,
        requirement: &Requirement,
        mut verified: Verified,
    ) -> Result<(Verified, Vec<CheckStep>), Why> {
        let mut steps: Vec<CheckStep> = verified.checks.iter().map(CheckStep::from).collect();
        let conditions = &requirement.conditions;
        if conditions.is_empty() {
            return Ok((verified, steps));
        }
        let about = match requirement.wanted {
            Wanted::Signature => About::Signature,
            Wanted::Attestation(_) => About::Attestation,
        };
        let answers = self.conditions.ask(about, conditions, self.subject, self.digests, &verified);
        steps.extend(conditions.iter().zip(&answers).map(|(condition, answer)| answered(condition, answer)));
        // What fails is final, and told before what is not known.
        let unmet = conditions.iter().zip(&answers).filter(|(_, answer)| **answer != Answer::Holds);
        let Some((condition, answer)) = unmet.min_by_key(|(_, answer)| matches!(answer, Answer::Unknown(_)))
        else {
            if conditions.iter().any(Condition::by_time) {
                verified.until = verified.until.into_iter().chain([self.conditions.holds_until()]).min();
            }
            return Ok((verified, steps));
        };
        let message = condition.message().map(|message| format!(" ({message})")).unwrap_or_default();
        let (undecided, told) = match answer {
            Answer::Unknown(text) => (true, format!("cannot be told to hold: {text}")),
            Answer::Fails(found) if found.is_empty() => (false, "does not hold".to_owned()),
            Answer::Fails(found) => (false, format!("does not hold: {found}")),
            Answer::Holds => (false, "holds".to_owned()),
        };
        let text =
            format!("one by {}, of which condition {}{message} {told}", verified.signer, condition.shown());
        Err(Why::Condition { text, undecided, steps })
    }

    fn own_repository(&self) -> Option<String> {
        match self.subject.name {
            ImageName::Reference(reference) => Some(comparable_repository(reference)),
            ImageName::Id(_) | ImageName::Empty => None,
        }
    }
}

impl Shortfall {
    /// Whether nothing is known: not denied then.
    pub fn is_undecided(self) -> bool {
        matches!(self, Self::Limit | Self::Trust)
    }
}

impl Wanted {
    fn sought(&self) -> Sought<'_> {
        match self {
            Self::Signature => Sought::Signature,
            Self::Attestation(predicate_types) => Sought::Attestation { predicate_types },
        }
    }
}
