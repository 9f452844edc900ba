//! Whether the policies hold for a digest: evidence from the node's layouts, then from each place and in each form, until
//! it suffices.

use std::time::SystemTime;

use tokio::time::Instant;

use super::{Vetter, is_allowed};
use crate::audit::Decision;
use crate::image::{Digest, Tie};
use crate::policy::{Conditions, Place};
use crate::registry::Credential;
use crate::telemetry::Role;
use crate::verify::Evidence;
use crate::vetter::case::Case;
use crate::vetter::evidence::{Evidences, Form, Gathered, Question, Wanted};
use crate::vetter::logins::Logins;
use crate::vetter::trouble::Trouble;
use crate::vetter::vetting::Vetting;
use crate::vetter::visit::Visit;

/// A place where evidence is looked for, and as whom.
struct Guide<'a> {
    place: &'a Place,
    visit: Visit,
    /// Whom else another repository may let in.
    others: Option<Logins<'a>>,
    by: Instant,
}

impl Guide<'_> {
    fn question<'a>(&'a self, digest: Digest, form: &'a Form) -> Question<'a> {
        let (visit, tag_prefix) = (&self.visit, self.place.tag_prefix.as_str());
        Question { visit, tag_prefix, digest, form, by: self.by }
    }

    async fn evidence(
        &mut self,
        evidences: &Evidences,
        digest: Digest,
        form: &Form,
        wanted: Wanted,
    ) -> Result<Gathered, Trouble> {
        loop {
            let found = evidences.about(self.question(digest, form), wanted).await;
            let Some(logins) = &mut self.others else { return found };
            // To whom a registry does not say what it has, it may say that there is nothing.
            let lets_through = |found: &Gathered| !found.evidence.is_empty();
            if let Some(settled) = logins.settle(found, lets_through) {
                return settled;
            }
            match logins.next().await {
                Some(credential) => self.visit.credential = credential,
                None => return Err(self.others.take().map_or(Trouble::Late, Logins::refused)),
            }
        }
    }
}

impl Vetter {
    /// Holds the policies against the evidence about each of the images a digest may be on this platform. The
    /// answer is the first one's, which the runtime takes; only images that are allowed are among its ties.
    pub(super) async fn proven(
        &self,
        case: &Case<'_>,
        visit: &Visit,
        ties: Vec<Tie>,
    ) -> Result<Vetting, Trouble> {
        if let Some(denied) = case.denied_by_digest(&ties) {
            return Ok(denied);
        }
        let fresh = Wanted::Fresh(case.in_force.config.vetting.fresh_for);
        let (mut answer, mut allowed) = (None, Vec::new());
        for tie in ties {
            let (mut vetting, held) = self.proven_by(case, visit, &tie, fresh).await?;
            if vetting.decision == Decision::Denied && held {
                // Re-signing is legitimate: what was held did not suffice, so it is fetched anew.
                (vetting, _) = self.proven_by(case, visit, &tie, Wanted::Anew).await?;
            }
            vetting.digest = Some(tie.root());
            if vetting.decision == Decision::Allowed {
                allowed.push(tie);
            }
            answer = answer.or(Some(vetting));
        }
        let answer = answer
            .ok_or_else(|| Trouble::Call("nothing for this platform; build it for this one".to_owned()))?;
        Ok(Vetting { ties: allowed, ..answer })
    }

    /// The vetting, and whether held evidence was used.
    async fn proven_by(
        &self,
        case: &Case<'_>,
        visit: &Visit,
        tie: &Tie,
        wanted: Wanted,
    ) -> Result<(Vetting, bool), Trouble> {
        let digests = tie.digests();
        if !case.policies.iter().any(|policy| case.asks(policy, &digests)) {
            let plain = || case.judge_by_name(&case.policies, &digests);
            return Ok((if case.policies.is_empty() { case.unmatched() } else { plain() }, false));
        }
        // One that may say no because of what is there sees all there is, or nothing is known.
        let whole =
            case.policies.iter().any(|policy| policy.needs_all_evidence() && case.asks(policy, &digests));
        let (mut trouble, mut held, mut lacking) = (None, false, false);
        let layouts = &case.in_force.layouts;
        let forms = case.forms(&digests);
        let on_node = forms.iter().flat_map(|(digest, form)| layouts.evidence(digest, form));
        let mut evidence: Vec<Evidence> = on_node.cloned().collect();
        let (mut vetting, mut not_enough) = (None, None);
        if !evidence.is_empty() && !whole {
            let judged = self.judge(case, &digests, &evidence, 0).await;
            if judged.decision == Decision::Allowed {
                return Ok((judged, false));
            }
            not_enough = Some(judged.text.clone());
            vetting = Some(judged);
        }
        for place in case.places(&digests) {
            let mut guide = self.guide(case, place, visit).await;
            for (digest, form) in &forms {
                let found = guide.evidence(&self.evidences, *digest, form, wanted).await;
                let question = guide.question(*digest, form);
                let found = found.or_else(|why| {
                    // Proven before is allowed while the registry is down.
                    let usable = case.in_force.config.vetting.usable_when_registry_down;
                    let held = self.evidences.held(&question, usable);
                    trouble = trouble.take().or(Some(why.clone()));
                    held.ok_or(why)
                });
                let known = evidence.len();
                lacking |= found.as_ref().map_or(true, |found| found.incomplete.is_some());
                if let Ok(found) = found {
                    held |= found.held;
                    trouble = trouble.or(found.incomplete);
                    evidence.extend(found.evidence.iter().cloned());
                }
                if whole || (vetting.is_some() && evidence.len() == known) {
                    continue;
                }
                let judged = self.judge(case, &digests, &evidence, known).await;
                if judged.decision == Decision::Allowed {
                    return Ok((judged, held));
                }
                vetting = Some(judged);
            }
        }
        if whole && !lacking {
            let judged = self.judge(case, &digests, &evidence, 0).await;
            match (is_allowed(&judged), layouts.fault(&digests)) {
                (true, None) => return Ok((judged, held)),
                (true, Some(fault)) => {
                    return Err(Trouble::layout(fault, "its policy has to see all evidence there is"));
                }
                (false, _) => vetting = Some(judged),
            }
        }
        match (vetting, trouble, layouts.fault(&digests)) {
            (_, Some(trouble), Some(fault)) => Err(trouble.and_layout(fault)),
            (_, Some(trouble), None) => Err(match not_enough {
                Some(why) => trouble.and_not_enough(&why),
                None => trouble,
            }),
            (Some(vetting), None, Some(fault)) => Err(Trouble::layout(fault, &vetting.text)),
            (Some(vetting), None, None) => Ok((vetting, held)),
            (None, None, _) => Err(Trouble::Late),
        }
    }

    /// The way to where a policy has its evidence: as the caller to the image's own repository, to another as the first of
    /// those there are for it that it lets in.
    async fn guide<'a>(&'a self, case: &'a Case<'_>, place: &'a Place, own: &Visit) -> Guide<'a> {
        let (mut visit, mut others) = (own.clone(), None);
        if let Some(repository) = &place.repository {
            let mut logins = self.logins(case, repository, None);
            let first = logins.next().await.unwrap_or(Credential::Anonymous);
            visit = self.visit(case, repository, first);
            others = Some(logins);
        }
        Guide { place, visit, others, by: case.evidence_by() }
    }

    /// Verifies what is not `known` yet piece by piece, and lets others work in between: a single one takes a millisecond
    /// or a few, and whoever can push to a registry may have left many.
    async fn judge(
        &self,
        case: &Case<'_>,
        digests: &[Digest],
        evidence: &[Evidence],
        known: usize,
    ) -> Vetting {
        let mut span = case.context.trace.span("verify", Role::Internal);
        if let Some(digest) = digests.first() {
            span.set("crivet.digest", &digest.to_string());
        }
        let trust = &case.in_force.trust;
        let now = SystemTime::now();
        let verifier = self.verifications.about(digests, trust, now);
        // What conditions come to takes longer than anything else here: it is found out beside, and judged with again.
        let conditions = Conditions::deferred(case.now);
        let judge = async |evidence: &[Evidence]| {
            loop {
                let judged = case.judge(
                    &case.policies,
                    digests,
                    evidence,
                    &conditions,
                    &mut |evidence, signer, sought| verifier.verify(evidence, signer, sought),
                );
                let open = conditions.take_open();
                if open.is_empty() {
                    return judged;
                }
                for question in open {
                    let (question, answers) = self.evaluator.answer(question).await;
                    conditions.answered(question, answers);
                }
            }
        };
        let mut looked_at = evidence;
        let whole = case.policies.iter().any(|policy| policy.needs_all_evidence());
        for (at, one) in evidence.iter().enumerate().skip(known) {
            if whole {
                // What it comes to is remembered; it is judged by with all others.
                let unasked = Conditions::deferred(case.now);
                let one = std::slice::from_ref(one);
                case.judge(&case.policies, digests, one, &unasked, &mut |evidence, signer, sought| {
                    verifier.verify(evidence, signer, sought)
                });
                tokio::task::yield_now().await;
                continue;
            }
            if is_allowed(&judge(std::slice::from_ref(one)).await) {
                looked_at = evidence.get(..=at).unwrap_or(evidence);
                break;
            }
            tokio::task::yield_now().await;
        }
        // Several together may satisfy what none does. What each came to is known by now, and told.
        let judged = judge(looked_at).await;
        span.set("crivet.decision", judged.decision.as_str());
        judged
    }
}
