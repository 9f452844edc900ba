//! One image under its policies: what is asked of it, and what they say to what is known.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::evidence::Form;
use super::layouts::Layouts;
use super::node_logins::NodeLogins;
use super::trouble::Trouble;
use super::vetting::{PolicyVetting, Rechecked, Vetting};
use super::wire::{Auth, ImageUse, Kind};
use crate::audit::{Decision, Reason};
use crate::config::{Mode, ProxyConfiguration, Unmatched};
use crate::cri::facts::ROLE_PAUSE;
use crate::image::{Digest, ImageName, Reference, Tie};
use crate::policy::{
    Conditions, Judgement, Labels, Place, Policy, PolicySet, Shortfall, Signer, Subject, Verifies,
};
use crate::registry::Client;
use crate::telemetry::Trace;
use crate::trust::Trust;
use crate::verify::{Evidence, Failure, SIGNATURE_PREDICATE, Sought, Step, Verified};

/// What decisions are made by; exchanged whole at a reload.
pub struct InForce {
    /// The daemon's configuration.
    pub config: ProxyConfiguration,
    /// The mode in force: the configuration's, or audit where the relay says that nothing is enforced.
    pub mode: Mode,
    /// The policies, or why there are none: then vetted calls are undecided.
    pub policies: Result<Arc<PolicySet>, String>,
    /// Speaks to registries as the configuration says.
    pub registry: Arc<Client>,
    /// The trusted roots. Exchanged in the background too: then by a value of its own that differs in nothing else.
    pub trust: Arc<Trust>,
    /// The node's own logins.
    pub logins: Arc<NodeLogins>,
    /// Evidence from the node's own folders.
    pub layouts: Arc<Layouts>,
}

/// The facts of a call that bear on each of its images.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The call.
    pub kind: Kind,
    /// The pod's namespace; empty where the call has none.
    pub namespace: &'a str,
    /// The pod's labels.
    pub labels: &'a Labels,
    /// The pull's credential.
    pub auth: Option<&'a Auth>,
    /// Nobody waits: registries are asked as sparingly as can be.
    pub beside: bool,
    /// Where its spans go.
    pub trace: &'a Trace,
    /// When an answer is due.
    pub answer_by: Instant,
}

/// An image's name as the policies see it, and what they are.
pub(super) struct Case<'a> {
    pub in_force: &'a InForce,
    pub context: Context<'a>,
    /// For messages.
    pub shown: String,
    pub name: ImageName,
    pub is_pause: bool,
    pub policies: Vec<&'a Policy>,
    pub part: Part,
    /// The highest time ever seen: what ends by the clock ends by this.
    pub now: SystemTime,
    /// While a call waits, registries are waited for until then: [`evidence_by`].
    pub evidence_by: Instant,
}

/// Longest that is kept of a call's time for judging by what is held, when a registry has not answered.
const LEFT_FOR_JUDGING: Duration = Duration::from_millis(500);

/// Until when evidence is waited for if an answer is due by `answer_by`: what is held has to be judged before that, or it would
/// be held in vain.
pub(super) fn evidence_by(answer_by: Instant) -> Instant {
    let left = answer_by.saturating_duration_since(Instant::now());
    answer_by - LEFT_FOR_JUDGING.min(left / 10)
}

/// Which policies have a say. Those that only audit are asked after those that refuse have said yes: what is a trial must
/// not decide, and not stand in the way of what decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All: they all refuse, or none does.
    All,
    /// Those that refuse calls.
    Enforcing,
    /// Those that do not.
    Auditing,
}

impl InForce {
    /// The same, as if it were enforced.
    pub fn enforcing(&self) -> InForce {
        InForce { mode: Mode::Enforce, ..self.trusting(Arc::clone(&self.trust)) }
    }

    /// The same with other trusted roots.
    pub fn trusting(&self, trust: Arc<Trust>) -> InForce {
        InForce {
            config: self.config.clone(),
            mode: self.mode,
            policies: self.policies.clone(),
            registry: Arc::clone(&self.registry),
            trust,
            logins: Arc::clone(&self.logins),
            layouts: Arc::clone(&self.layouts),
        }
    }

    /// The version of the trusted roots that the policies rest on. What a policy of keys decides holds whatever becomes of
    /// the others.
    pub fn trust_in_use(&self) -> Digest {
        let policies = self.policies.as_ref().map(|set| set.policies()).unwrap_or_default();
        let used: BTreeSet<&str> = policies.iter().flat_map(|policy| policy.trust_roots()).collect();
        self.trust.version_of(|name| used.contains(name))
    }

    /// Names what images are judged by, whatever the mode; empty: there are no policies.
    pub fn judges(&self) -> String {
        let unmatched = match self.config.unmatched {
            Unmatched::Allow => "allow",
            Unmatched::Deny => "deny",
        };
        let of = |set: &Arc<PolicySet>| format!("{} {} {unmatched}", set.hash(), self.trust_in_use());
        self.policies.as_ref().map(of).unwrap_or_default()
    }

    /// Whether a policy's decision against an image refuses a call: the top's audit overrides all.
    pub(super) fn enforces(&self, policy: Option<Mode>) -> bool {
        self.mode == Mode::Enforce && policy.unwrap_or(Mode::Enforce) == Mode::Enforce
    }

    /// The policies that have to hold for an image; none if `unmatched` decides.
    pub(super) fn covering<'p>(&self, policies: &'p PolicySet, subject: &Subject<'_>) -> Vec<&'p Policy> {
        policies.deciding(subject, self.config.unmatched == Unmatched::Allow)
    }

    /// Whether no policy covering this image would refuse it: then nobody needs to wait for its vetting.
    pub fn only_audits(&self, namespace: &str, labels: &Labels, image: &ImageUse) -> bool {
        let name = ImageName::parse(&image.reference);
        let (Ok(policies), Ok(name)) = (&self.policies, name) else { return false };
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let subject = Subject { name: &name, namespace, labels, is_pause: image.role == ROLE_PAUSE };
        let covering = self.covering(policies, &subject);
        !covering.is_empty()
            && covering
                .into_iter()
                .chain(policies.may_deny(&subject))
                .all(|policy| !self.enforces(policy.mode()))
    }
}

impl<'a> Case<'a> {
    pub fn reference(&self) -> Option<&Reference> {
        match &self.name {
            ImageName::Reference(reference) => Some(reference),
            ImageName::Id(_) | ImageName::Empty => None,
        }
    }

    pub fn namespace(&self) -> Option<&str> {
        Some(self.context.namespace).filter(|namespace| !namespace.is_empty())
    }

    fn subject(&self) -> Subject<'_> {
        let (namespace, labels) = (self.namespace(), self.context.labels);
        Subject { name: &self.name, namespace, labels, is_pause: self.is_pause }
    }

    /// Whether a policy is of the part that is asked.
    fn counts(&self, policy: &Policy) -> bool {
        match self.part {
            Part::All => true,
            Part::Enforcing => self.in_force.enforces(policy.mode()),
            Part::Auditing => !self.in_force.enforces(policy.mode()),
        }
    }

    /// Whether a deny rule by digest covers the name: then the content has to be known before anything is allowed.
    pub fn may_be_denied(&self) -> bool {
        let subject = self.subject();
        let denying = self.in_force.policies.iter().flat_map(|policies| policies.may_deny(&subject));
        denying.into_iter().any(|policy| self.counts(policy))
    }

    /// Whether evidence decides about the image by this policy, as far as its digests are known.
    pub fn asks(&self, policy: &Policy, digests: &[Digest]) -> bool {
        policy.asks(&self.subject(), digests, self.now)
    }

    /// The least of what its policies ask of a check of the layers on the node's disk: of what is exempted they ask nothing.
    pub fn layers_checked_within(&self, digests: &[Digest]) -> Option<Duration> {
        let asking = self.policies.iter().filter(|policy| self.asks(policy, digests));
        asking.filter_map(|policy| policy.layers_checked_within()).min()
    }

    /// Where its policies have their evidence. A signature is the same wherever it was found.
    pub fn places(&self, digests: &[Digest]) -> Vec<&'a Place> {
        let mut places: Vec<&Place> = Vec::new();
        let asking = self.policies.iter().filter(|policy| self.asks(policy, digests));
        for place in asking.flat_map(|policy| policy.places()) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    /// In which order evidence is asked for, each until it suffices: cosign's own tags are one request where there is
    /// nothing, and `cosign sign` signs the digest it is given, usually the index, which comes first.
    pub fn forms(&self, digests: &[Digest]) -> Vec<(Digest, Form)> {
        let mut types: BTreeSet<String> = BTreeSet::new();
        for policy in self.policies.iter().filter(|policy| self.asks(policy, digests)) {
            types.extend(policy.predicate_types().map(str::to_owned));
        }
        let signature = types.contains(SIGNATURE_PREDICATE);
        let attestation = types.len() > usize::from(signature);
        let forms = [
            signature.then_some(Form::SignatureTag),
            Some(Form::Referrers(types)),
            attestation.then_some(Form::AttestationTag),
        ];
        let of = |digest: &Digest| {
            let digest = *digest;
            forms.iter().flatten().map(move |form| (digest, form.clone()))
        };
        digests.iter().flat_map(of).collect()
    }

    /// The policy that denies one of these digests.
    fn denying(&self, digests: &[Digest]) -> Option<&'a Policy> {
        let subject = self.subject();
        let policies = self.in_force.policies.as_ref().ok()?;
        // One that only audits does not stand in the way of one that refuses.
        let enforces = |policy: &Policy| self.counts(policy) && self.in_force.enforces(policy.mode());
        policies
            .denies(&subject, digests, enforces)
            .or_else(|| policies.denies(&subject, digests, |policy| self.counts(policy)))
    }

    /// Whether a deny rule names this digest.
    pub fn denies(&self, digest: Digest) -> bool {
        self.denying(&[digest]).is_some()
    }

    /// A deny rule by digest beats every proof.
    pub fn denied_by_digest(&self, ties: &[Tie]) -> Option<Vetting> {
        let digests: Vec<Digest> = ties.iter().flat_map(Tie::digests).collect();
        let policy = self.denying(&digests)?;
        Some(Vetting { digest: digests.first().copied(), ..self.judge_by_name(&[policy], &digests) })
    }

    /// Work goes on after its answer is due, so that the next try finds it done; but not for ever.
    pub fn work_by(&self) -> Instant {
        let longest = self.in_force.config.vetting.timeout.max(Duration::from_secs(1));
        self.context.answer_by.max(Instant::now() + longest)
    }

    /// Until when evidence is waited for. Nobody waits beside a call.
    pub fn evidence_by(&self) -> Instant {
        if self.context.beside { self.work_by() } else { self.evidence_by }
    }

    /// What is said where no policy is to be asked.
    pub fn unmatched(&self) -> Vetting {
        if self.part != Part::All {
            return self.allowed(Vec::new());
        }
        match self.in_force.config.unmatched {
            Unmatched::Allow => self.allowed(Vec::new()),
            Unmatched::Deny => Vetting {
                decision: Decision::Denied,
                reason: Some(Reason::NoPolicy),
                binds: false,
                text: format!(
                    "image {}: expected a policy that covers it, found none and unmatched: deny; add an ImagePolicy for it",
                    self.shown
                ),
                ..self.allowed(Vec::new())
            },
        }
    }

    pub fn allowed(&self, policies: Vec<PolicyVetting>) -> Vetting {
        Vetting {
            decision: Decision::Allowed,
            reason: None,
            registry: false,
            enforced: self.in_force.enforces(None),
            binds: true,
            text: String::new(),
            reference: None,
            digest: None,
            ties: Vec::new(),
            until: None,
            policies,
            recheck: Rechecked::default(),
            layers_checked_within: None,
        }
    }

    pub fn undecided(&self, trouble: Trouble) -> Vetting {
        let subject = self.subject();
        let denying = self.in_force.policies.iter().flat_map(|policies| policies.may_deny(&subject));
        let denying = denying.filter(|policy| self.counts(policy));
        let asked = self.policies.iter().filter(|policy| self.asks(policy, &[]));
        let policies = asked.map(|policy| PolicyVetting {
            name: policy.name().to_owned(),
            source: policy.source(),
            decision: Decision::Undecided,
            exempted: false,
            checks: Vec::new(),
        });
        Vetting {
            decision: Decision::Undecided,
            reason: Some(trouble.reason()),
            registry: trouble.is_registry(),
            enforced: self.policies.iter().copied().chain(denying).any(|p| self.in_force.enforces(p.mode())),
            binds: false,
            text: format!("image {}: {trouble}", self.shown),
            ..self.allowed(policies.collect())
        }
    }

    /// As [`Case::judge`], of policies that need no evidence.
    pub fn judge_by_name(&self, policies: &[&'a Policy], digests: &[Digest]) -> Vetting {
        // Without evidence nothing is asked.
        let mut unasked = |_: &Evidence, _: &Signer, _: &Sought<'_>| -> Result<Verified, Failure> {
            let text = "there is no evidence".to_owned();
            Err(Failure { step: Step::Format, text, undecided: true, signer: None, checks: Vec::new() })
        };
        self.judge(policies, digests, &[], &Conditions::at(self.now), &mut unasked)
    }

    /// All of these policies must hold; the first that does not is the answer's reason.
    pub fn judge(
        &self,
        policies: &[&'a Policy],
        digests: &[Digest],
        evidence: &[Evidence],
        conditions: &Conditions,
        verify: &mut Verifies<'_>,
    ) -> Vetting {
        let subject = self.subject();
        let mut vetting = self.allowed(Vec::new());
        vetting.enforced = false;
        for policy in policies {
            let mut exempted = false;
            let judged = policy.judge(&subject, digests, evidence, conditions, verify);
            let (decision, checks) = match judged {
                Judgement::Satisfied { by, checks } => {
                    let ends = by.iter().filter_map(|verified| verified.until);
                    vetting.until = vetting.until.into_iter().chain(ends).min();
                    (Decision::Allowed, checks)
                }
                Judgement::Exempted { expires, detail, checks } => {
                    exempted = true;
                    vetting.until = vetting.until.into_iter().chain([expires]).min();
                    if vetting.reason.is_none() {
                        vetting.reason = Some(Reason::Exempted);
                        vetting.text = self.line(digests, policy, &detail);
                    }
                    (Decision::Allowed, checks)
                }
                Judgement::Unsatisfied { why, expected, found, remedy, checks } => {
                    let enforced = self.in_force.enforces(policy.mode());
                    let decision = if why.is_undecided() { Decision::Undecided } else { Decision::Denied };
                    // A policy that refuses gives the reason before one that only audits, and one that denies before
                    // one that cannot tell.
                    let told = (vetting.enforced, vetting.decision == Decision::Denied);
                    if vetting.decision == Decision::Allowed
                        || (enforced, decision == Decision::Denied) > told
                    {
                        vetting.reason = Some(reason(why));
                        let text = format!("expected {expected}, found {found}; {remedy}");
                        vetting.text = self.line(digests, policy, &text);
                    }
                    if vetting.decision != Decision::Denied {
                        vetting.decision = decision;
                    }
                    vetting.enforced |= enforced;
                    (decision, checks)
                }
            };
            let (name, source) = (policy.name().to_owned(), policy.source());
            vetting.policies.push(PolicyVetting { name, source, decision, exempted, checks });
        }
        let only_audits =
            self.in_force.mode == Mode::Enforce && !policies.iter().any(|p| self.in_force.enforces(p.mode()));
        vetting.binds = vetting.decision == Decision::Allowed && (policies.is_empty() || !only_audits);
        vetting
    }

    /// What a policy says, in one line.
    fn line(&self, digests: &[Digest], policy: &Policy, text: &str) -> String {
        let digest = digests.first().map(|digest| format!("@{digest}")).unwrap_or_default();
        let (image, name, source) = (self.without_digest(), policy.name(), policy.source());
        format!("image {image}{digest}: policy {name} ({source}): {text}")
    }

    fn without_digest(&self) -> &str {
        self.shown.split_once('@').map_or(&self.shown, |(name, _)| name)
    }
}

fn reason(why: Shortfall) -> Reason {
    match why {
        Shortfall::Denied => Reason::DeniedByPolicy,
        Shortfall::NoSignature => Reason::SignatureMissing,
        Shortfall::NoAttestation => Reason::AttestationMissing,
        Shortfall::OtherIdentity => Reason::SignatureByOtherIdentity,
        Shortfall::Invalid => Reason::SignatureInvalid,
        Shortfall::Limit => Reason::LimitReached,
        Shortfall::Trust => Reason::TrustMissing,
        Shortfall::OtherKey => Reason::SignatureByOtherKey,
        Shortfall::Malformed => Reason::SignatureMalformed,
        Shortfall::OtherImage => Reason::SignatureForOtherImage,
        Shortfall::OtherRepository => Reason::SignatureForOtherRepository,
        Shortfall::TooOld => Reason::SignatureTooOld,
        Shortfall::Condition => Reason::ConditionNotMet,
        Shortfall::TooFewSigners => Reason::SignersTooFew,
    }
}
