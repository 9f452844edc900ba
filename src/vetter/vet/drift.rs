//! A tag held to its registry when a container is about to be made of what is on the node: what it points at now is asked, at
//! most once in a policy's interval, and compared with the digests that the vetted image is tied to.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Vetter;
use crate::audit::{Decision, Reason};
use crate::image::{Digest, ImageId, Reference, Tie, WalkError};
use crate::limits;
use crate::policy::{OnDrift, Policy, Recheck, WithoutAnswer};
use crate::registry::Cause;
use crate::vetter::case::Case;
use crate::vetter::recheck::{Asker, Drift, NotPermitted, RETRY, Said, Unanswered};
use crate::vetter::trouble::{Trouble, without_image};
use crate::vetter::vetting::{Rechecked, Vetting};
use crate::vetter::visit::Visit;
use crate::vetter::wire::{ImageUse, Kind};

/// Longest that a registry may hold up what is vetted already.
const PATIENCE: Duration = Duration::from_secs(limits::RECHECK_SECONDS);

/// What is asked about one image.
struct Question<'c> {
    reference: &'c Reference,
    name: String,
    id: ImageId,
    /// What the policies that refuse ask for, together; `None`: nothing.
    enforced: Option<Recheck>,
    /// What all of them ask for.
    all: Recheck,
    /// The image is vetted; for longer it is not held up.
    by: Instant,
}

/// What a tag points at now.
enum Now {
    /// At the image that is on the node. Until then that need not be asked.
    Same(Instant),
    /// At another; `None`: there is no such tag.
    Other(Option<Digest>),
    Unanswered(Unanswered),
    /// Nobody waits, and the budget for such work is used up.
    NotAsked,
}

/// Why it is not known.
enum Missing {
    /// Nobody waits, and the budget for such work is used up.
    Guest,
    Unanswered(Unanswered),
}

impl From<Trouble> for Missing {
    fn from(trouble: Trouble) -> Missing {
        match trouble {
            Trouble::Guest { .. } => Missing::Guest,
            trouble => Missing::Unanswered(why_unanswered(&trouble)),
        }
    }
}

impl<'c> Question<'c> {
    /// Nothing is asked of digests, which do not move, of what has no name, and where no policy asks for it.
    fn of(case: &'c Case<'_>, vetting: &Vetting) -> Option<Question<'c>> {
        let reference = case.reference().filter(|reference| reference.digest().is_none())?;
        if case.context.kind != Kind::CreateContainer || vetting.decision != Decision::Allowed {
            return None;
        }
        let id = vetting.ties.first()?.id();
        let together = |policies: &mut dyn Iterator<Item = &&Policy>| {
            policies.filter_map(|policy| policy.recheck()).reduce(Recheck::and)
        };
        let all = together(&mut case.policies.iter())?;
        let enforced =
            together(&mut case.policies.iter().filter(|policy| case.in_force.enforces(policy.mode())));
        let now = Instant::now();
        let left = case.context.answer_by.saturating_duration_since(now);
        // Before the answer is due: what is allowed without an answer must not be late for want of one.
        let by = if case.context.beside { case.work_by() } else { now + PATIENCE.min(left * 3 / 4) };
        Some(Question { reference, name: reference.to_string(), id, enforced, all, by })
    }

    /// Until when what the registry did not confirm may be used while no vetter answers: not at all where it has to be asked.
    fn without_vetter(&self) -> Option<Instant> {
        let strict = |recheck: &Recheck| recheck.when_registry_down == WithoutAnswer::Deny;
        self.enforced.filter(strict).map(|_| Instant::now())
    }
}

impl Vetter {
    /// Holds the tag of what was allowed to its registry.
    pub(super) async fn rechecked(&self, case: &Case<'_>, image: &ImageUse, vetting: Vetting) -> Vetting {
        let Some(question) = Question::of(case, &vetting) else { return vetting };
        match self.tag_now(case, &question).await {
            Now::Same(until) => {
                let strict = |recheck: &Recheck| recheck.when_registry_down == WithoutAnswer::Deny;
                let usable_until = question.enforced.filter(strict).map(|_| until);
                let recheck = Rechecked { fresh_until: Some(until), usable_until, pull_anew: false };
                Vetting { recheck, ..vetting }
            }
            Now::NotAsked => vetting,
            Now::Unanswered(why) => unanswered(case, &question, &why, vetting),
            Now::Other(digest) => self.drifted(case, image, &question, digest, vetting).await,
        }
    }

    async fn tag_now(&self, case: &Case<'_>, question: &Question<'_>) -> Now {
        let now = Instant::now();
        let fresh_for = self.rechecks.fresh_for(&question.name, question.all.interval);
        let asker = self.asker(case, question);
        let known = self.fresh(question, &asker, now);
        let answer = |said: Said, is_same| match is_same {
            true => Now::Same(said.at + fresh_for),
            false => Now::Other(said.digest),
        };
        if let Some(said) = known
            && let Some(is_same) = self.is_same(question, &said)
        {
            return answer(said, is_same);
        }
        if let Some(why) = self.rechecks.unanswered(&asker, now) {
            return Now::Unanswered(why);
        }
        let why = match timeout_at(question.by, self.find_out(case, question, &asker, known)).await {
            Ok(Ok((said, is_same))) => return answer(said, is_same),
            Ok(Err(Missing::Guest)) => return Now::NotAsked,
            Ok(Err(Missing::Unanswered(why))) => why,
            Err(_) => Unanswered::Down(format!(
                "no answer from {} in time (limits::RECHECK_SECONDS)",
                question.reference.registry()
            )),
        };
        self.rechecks.not_answered(asker, why.clone(), Instant::now());
        Now::Unanswered(why)
    }

    /// What was said of the tag, unless it is older than it may be.
    fn fresh(&self, question: &Question<'_>, asker: &Asker, now: Instant) -> Option<Said> {
        let fresh_for = self.rechecks.fresh_for(&question.name, question.all.interval);
        let refuses = question.enforced.is_some_and(|recheck| recheck.on_drift != OnDrift::Warn);
        self.rechecks.said(asker).filter(|said| {
            // What refuses what runs, or has it pulled anew, is mended by whoever moves the tag back: that is not to take hours.
            let refused = refuses && self.is_same(question, said) == Some(false);
            now.saturating_duration_since(said.at) < if refused { fresh_for.min(RETRY) } else { fresh_for }
        })
    }

    fn asker(&self, case: &Case<'_>, question: &Question<'_>) -> Asker {
        Asker {
            reference: question.name.clone(),
            namespace: case.context.namespace.to_owned(),
            held: self.credentials.find(&question.reference.repo_name(), case.context.namespace),
            policies: case.policies.iter().map(|policy| policy.name().to_owned()).collect(),
        }
    }

    /// Whether what was said of the tag is the image, as far as that is known.
    fn is_same(&self, question: &Question<'_>, said: &Said) -> Option<bool> {
        let Some(digest) = said.digest else { return Some(false) };
        let ties = self.proofs.ties_of_id(&question.id);
        if ties.iter().any(|tie| tie.digests().contains(&digest)) {
            return Some(true);
        }
        (said.other_than == Some(question.id)).then_some(false)
    }

    async fn find_out(
        &self,
        case: &Case<'_>,
        question: &Question<'_>,
        asker: &Asker,
        known: Option<Said>,
    ) -> Result<(Said, bool), Missing> {
        let said = match known {
            Some(said) => said,
            None => self.told(case, question, asker).await?,
        };
        if let Some(is_same) = self.is_same(question, &said) {
            return Ok((said, is_same));
        }
        let Some(digest) = said.digest else { return Ok((said, false)) };
        // An index that was pushed anew for another platform's sake still has this image.
        let is_same = match self.behind(case, question.reference, digest).await {
            Ok((_, ties)) => ties.iter().any(|tie| tie.id() == question.id),
            // What bytes that hash to the digest cannot be, it is not.
            Err(Trouble::Walk(error)) if !matches!(error, WalkError::Hash { .. }) => false,
            Err(trouble) => return Err(trouble.into()),
        };
        if !is_same {
            self.rechecks.is_other_than(&question.name, digest, question.id);
        }
        Ok((said, is_same))
    }

    /// What the registry says; asked by one for all who wait for it. Where that one is not let in, each is by its own login.
    async fn told(&self, case: &Case<'_>, question: &Question<'_>, asker: &Asker) -> Result<Said, Missing> {
        let turn = self.rechecks.turn(&question.name, case.context.beside).await;
        let now = Instant::now();
        if let Some(said) = self.fresh(question, asker, now) {
            return Ok(said);
        }
        if let Some(why) = self.rechecks.unanswered(asker, now) {
            return Err(Missing::Unanswered(why));
        }
        let said = self.ask(case, question, asker).await;
        if !said.as_ref().is_ok_and(|said| said.digest.is_some()) {
            turn.serves_one();
        }
        if let Err(trouble) = &said
            && !matches!(trouble, Trouble::Guest { .. })
        {
            // Before the next has its turn.
            self.rechecks.not_answered(asker.clone(), why_unanswered(trouble), Instant::now());
        }
        Ok(said?)
    }

    /// Asks the registry; one request for all who ask with the same login at once.
    async fn ask(&self, case: &Case<'_>, question: &Question<'_>, asker: &Asker) -> Result<Said, Trouble> {
        let began = Instant::now();
        // A pull may have learned something newer meanwhile.
        let newest =
            |said: Said| self.rechecks.said(asker).filter(|known| known.at >= said.at).unwrap_or(said);
        let mut logins = self.logins(case, question.reference, None);
        while let Some(credential) = logins.next().await {
            let visit = self.visit(case, question.reference, credential);
            let key = (question.name.clone(), visit.credential.clone(), visit.guest.is_some());
            let (rechecks, name, by) = (Arc::clone(&self.rechecks), question.name.clone(), visit.by);
            let work = async move {
                let asked = Instant::now();
                let answer = visit.head(visit.repository.tag().unwrap_or("latest")).await;
                match &answer {
                    Ok(digest) => {
                        rechecks.learned(&name, *digest, asked);
                        rechecks.asked(Ok(digest));
                    }
                    Err(Trouble::Guest { .. }) => {}
                    Err(trouble) if is_gone(trouble) => rechecks.asked(Ok(&())),
                    Err(trouble) => rechecks.asked::<()>(Err(&why_unanswered(trouble))),
                }
                answer.map(|digest| (digest, asked))
            };
            let answer = self.rechecks.heads.join(key, by, work).await.unwrap_or(Err(Trouble::Late));
            match logins.settle(answer, |_| true) {
                Some(Ok((digest, at))) => {
                    return Ok(newest(Said { digest: Some(digest), at, other_than: None }));
                }
                // The last login's word: for others it may be there.
                Some(Err(trouble)) if is_gone(&trouble) => {
                    self.rechecks.gone(asker.clone(), began);
                    return Ok(newest(Said { digest: None, at: began, other_than: None }));
                }
                Some(Err(trouble)) => return Err(trouble),
                None => {}
            }
        }
        Err(logins.refused())
    }

    /// What a digest is on this platform, and as whom that was found out.
    async fn behind(
        &self,
        case: &Case<'_>,
        reference: &Reference,
        digest: Digest,
    ) -> Result<(Visit, Vec<Tie>), Trouble> {
        let mut logins = self.logins(case, reference, None);
        while let Some(credential) = logins.next().await {
            let visit = self.visit(case, reference, credential);
            let sources = self.sources(case, &visit, None);
            let ties = self.identities.on_this_platform(digest, sources, visit.by).await;
            if let Some(result) = logins.settle(ties, |_| true) {
                return result.map(|ties| (visit, ties));
            }
        }
        Err(logins.refused())
    }

    /// The tag points elsewhere, or at nothing.
    async fn drifted(
        &self,
        case: &Case<'_>,
        image: &ImageUse,
        question: &Question<'_>,
        digest: Option<Digest>,
        vetting: Vetting,
    ) -> Vetting {
        let (all, enforced) = (question.all.on_drift, question.enforced.map(|recheck| recheck.on_drift));
        let found = digest.map_or("no such tag".to_owned(), |digest| digest.to_string());
        let told = |strictness, rest: String| {
            let policies = named(case, |recheck| recheck.on_drift == strictness);
            let digest = vetting.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
            let image = &case.shown;
            format!(
                "image {image}{digest}: {policies}: expected the registry to have the vetted image under this tag, found {found}{rest}"
            )
        };
        let noted = |drift, text: String| {
            self.rechecks.drifted(drift);
            let recheck = Rechecked { usable_until: question.without_vetter(), ..Rechecked::default() };
            Vetting { reason: Some(Reason::ImageDrifted), text, recheck, ..vetting.clone() }
        };
        let refused = |drift, decision, enforced, text| Vetting { decision, enforced, ..noted(drift, text) };
        match (enforced, all) {
            (Some(OnDrift::Deny), _) | (None | Some(OnDrift::Warn), OnDrift::Deny) => {
                let text = told(
                    OnDrift::Deny,
                    " (recheck.onDrift: deny); move the tag back, or pull the image anew: delete it from the node, or set imagePullPolicy: Always".to_owned(),
                );
                refused(Drift::Deny, Decision::Denied, enforced == Some(OnDrift::Deny), text)
            }
            (Some(OnDrift::Repull), _) => {
                let stays = |why: &str| {
                    told(OnDrift::Repull, format!(" (recheck.onDrift: repull), {why}; what was vetted runs"))
                };
                let Some(digest) = digest else {
                    return noted(Drift::NotPermitted, stays("which cannot be pulled"));
                };
                if image.pulled_anew {
                    return noted(
                        Drift::NotPulled,
                        stays(
                            "but it was to be pulled a short time ago already, or too many were (limits::HIDDEN_IMAGES)",
                        ),
                    );
                }
                match self.is_permitted(case, question, digest).await {
                    Ok(()) => {
                        let text = told(
                            OnDrift::Repull,
                            " (recheck.onDrift: repull), which is permitted; the pod pulls it at its next try, then the container is made".to_owned(),
                        );
                        let pull_anew = Rechecked { pull_anew: true, ..Rechecked::default() };
                        let vetting = refused(Drift::Repull, Decision::Undecided, true, text);
                        Vetting { recheck: pull_anew, ..vetting }
                    }
                    Err(NotPermitted::Denied(why)) => {
                        noted(Drift::NotPermitted, stays(&format!("which is not permitted ({why})")))
                    }
                    Err(NotPermitted::Undecided(why)) => {
                        noted(Drift::Undecided, stays(&format!("which could not be vetted ({why})")))
                    }
                }
            }
            (_, OnDrift::Repull) => noted(
                Drift::Repull,
                told(
                    OnDrift::Repull,
                    " (recheck.onDrift: repull); where it is enforced, it is vetted and pulled anew"
                        .to_owned(),
                ),
            ),
            (_, OnDrift::Warn) => noted(
                Drift::Warn,
                told(OnDrift::Warn, " (recheck.onDrift: warn); what was vetted runs".to_owned()),
            ),
        }
    }

    /// Holds the whole policy against what the tag points at now: otherwise whoever can push a tag could stop every restart.
    async fn is_permitted(
        &self,
        case: &Case<'_>,
        question: &Question<'_>,
        digest: Digest,
    ) -> Result<(), NotPermitted> {
        let asker = self.asker(case, question);
        if let Some(why) = self.rechecks.why_not_permitted(&asker, digest, Instant::now()) {
            return Err(why);
        }
        let judged = async {
            let (visit, ties) = self.behind(case, question.reference, digest).await?;
            self.proven(case, &visit, ties).await
        };
        let why = match timeout_at(question.by, judged).await {
            Ok(Ok(vetting)) => {
                let text = without_image(&vetting.text).to_owned();
                match vetting.decision {
                    Decision::Allowed => return Ok(()),
                    Decision::Denied => NotPermitted::Denied(text),
                    Decision::Undecided => NotPermitted::Undecided(text),
                }
            }
            Ok(Err(trouble)) => NotPermitted::Undecided(trouble.to_string()),
            // It goes on, and the next container finds it done.
            Err(_) => {
                let text = "not vetted in time (limits::RECHECK_SECONDS)";
                return Err(NotPermitted::Undecided(text.to_owned()));
            }
        };
        self.rechecks.not_permitted(asker, digest, why.clone(), Instant::now());
        Err(why)
    }
}

/// The registry's word on the tag could not be had.
fn unanswered(case: &Case<'_>, question: &Question<'_>, why: &Unanswered, vetting: Vetting) -> Vetting {
    let setting = |recheck: &Recheck| match why {
        Unanswered::Down(_) => recheck.when_registry_down,
        Unanswered::Refused(_) => recheck.when_login_refused,
    };
    let strictest = setting(&question.all);
    let enforced = question.enforced.is_some_and(|recheck| setting(&recheck) == WithoutAnswer::Deny);
    let policies = named(case, |recheck| setting(recheck) == strictest);
    let (reason, key, found, remedy) = match why {
        Unanswered::Down(found) => {
            (Reason::RecheckRegistryDown, "whenRegistryDown", found, "mend the way to the registry")
        }
        Unanswered::Refused(found) => {
            let remedy = "give the node a login of its own (registry.credentials), or the pod a pull secret that may read the repository; one held from a pull counts until it expires, and is renewed by the next pull in this namespace";
            (Reason::RecheckLoginRefused, "whenLoginRefused", found, remedy)
        }
    };
    let digest = vetting.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
    let (does, or) = match strictest {
        WithoutAnswer::Allow => ("allow", "; what was vetted runs".to_owned()),
        WithoutAnswer::Deny => ("deny", format!(", or set {key}: allow")),
    };
    let text = format!(
        "image {}{digest}: {policies}: expected the registry's word on what the tag is now (recheck.{key}: {does}), found none: {found}; {remedy}{or}",
        case.shown
    );
    match strictest {
        WithoutAnswer::Allow => {
            let recheck = Rechecked { usable_until: question.without_vetter(), ..Rechecked::default() };
            Vetting { reason: Some(reason), text, recheck, ..vetting }
        }
        WithoutAnswer::Deny => Vetting {
            decision: Decision::Undecided,
            reason: Some(reason),
            registry: matches!(why, Unanswered::Down(_)),
            enforced,
            text,
            ..vetting
        },
    }
}

/// The first policy whose recheck is so: name and place.
fn named(case: &Case<'_>, is: impl Fn(&Recheck) -> bool) -> String {
    let policy = case.policies.iter().find(|policy| policy.recheck().is_some_and(|recheck| is(&recheck)));
    policy.map_or(String::new(), |policy| format!("policy {} ({})", policy.name(), policy.source()))
}

fn is_gone(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Fetch(error) if matches!(error.cause, Cause::NotFound(_)))
}

fn why_unanswered(trouble: &Trouble) -> Unanswered {
    let refused = match trouble {
        Trouble::Login(_) => true,
        Trouble::Fetch(error) => matches!(error.cause, Cause::Unauthorized(_) | Cause::Forbidden(_)),
        _ => false,
    };
    let text = trouble.to_string();
    if refused { Unanswered::Refused(text) } else { Unanswered::Down(text) }
}
