//! The order of work for one image: name → policies → digest → image ID → evidence → decision.

mod drift;
mod proven;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::background::{Background, Guest};
use super::case::{Case, Context, InForce, Part, evidence_by};
use super::credentials::Credentials;
use super::evaluator::Evaluator;
use super::evidence::Evidences;
use super::flight::Flights;
use super::identity::{Identities, Sources};
use super::logins::{Logins, own_login};
use super::node::Node;
use super::recheck::Rechecks;
use super::trouble::Trouble;
use super::verifications::Verifications;
use super::vetting::Vetting;
use super::visit::Visit;
use super::wire::{ImageUse, Kind};
use crate::audit::Decision;
use crate::cri::facts::ROLE_PAUSE;
use crate::image::{Digest, ImageId, ImageName, Platform, Reference, Tie, WalkError, quoted};
use crate::limits;
use crate::policy::{Policy, Subject};
use crate::proofs::Proofs;
use crate::registry::Credential;

/// What stays when policies change: proofs, work under way, held credentials.
pub struct Vetter {
    /// What is known about digests.
    pub proofs: Arc<Proofs>,
    evidences: Evidences,
    verifications: Arc<Verifications>,
    evaluator: Evaluator,
    identities: Identities,
    resolutions: Flights<(String, Credential, bool), Result<Resolved, Trouble>>,
    rechecks: Arc<Rechecks>,
    credentials: Arc<Credentials>,
    background: Arc<Background>,
    node: Node,
    host: Platform,
}

/// What a tag points at now, and the document if it was fetched.
type Resolved = (Digest, Option<Bytes>);

impl Vetter {
    /// A vetter that knows nothing yet.
    pub fn new(node: Node, host: Platform) -> Vetter {
        let background = Arc::new(Background::starting(Instant::now()));
        Vetter::with(Arc::default(), Arc::default(), background, node, host)
    }

    /// A vetter that knows what this one does, keeps for itself what it learns, and is a guest within the same budgets.
    pub fn aside(&self) -> Vetter {
        let proofs = Arc::new(Proofs::over(Arc::clone(&self.proofs)));
        let (credentials, background) = (Arc::clone(&self.credentials), Arc::clone(&self.background));
        Vetter::with(proofs, credentials, background, self.node.clone(), self.host.clone())
    }

    fn with(
        proofs: Arc<Proofs>,
        credentials: Arc<Credentials>,
        background: Arc<Background>,
        node: Node,
        host: Platform,
    ) -> Vetter {
        Vetter {
            evidences: Evidences::new(Arc::clone(&proofs)),
            verifications: Arc::default(),
            evaluator: Evaluator::default(),
            identities: Identities::new(Arc::clone(&proofs), host.clone()),
            proofs,
            resolutions: Flights::default(),
            rechecks: Arc::default(),
            credentials,
            background,
            node,
            host,
        }
    }

    /// The node this vetter asks.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What registries said of tags.
    pub fn rechecks(&self) -> &Rechecks {
        &self.rechecks
    }

    /// Work that nobody waits for begins with a place here.
    pub fn background(&self) -> &Background {
        &self.background
    }

    /// Requests for this case: a guest's where nobody waits.
    fn visit(&self, case: &Case<'_>, repository: &Reference, credential: Credential) -> Visit {
        let guest = || Guest::new(Arc::clone(&self.background), repository.registry());
        let registry = &case.in_force.registry;
        Visit {
            registry: if case.context.beside { Arc::new(registry.as_guest()) } else { Arc::clone(registry) },
            background: Arc::clone(&self.background),
            trace: case.context.trace.clone(),
            repository: repository.clone(),
            credential,
            guest: case.context.beside.then(guest),
            by: case.work_by(),
        }
    }

    fn sources(&self, case: &Case<'_>, visit: &Visit, seed: Option<Bytes>) -> Sources {
        let layouts = Arc::clone(&case.in_force.layouts);
        Sources { node: self.node.clone(), visit: visit.clone(), seed, layouts }
    }

    /// Vets one image of a call.
    pub async fn image(&self, in_force: &InForce, context: Context<'_>, image: &ImageUse) -> Vetting {
        let policies = match &in_force.policies {
            Ok(policies) => policies,
            Err(error) => return Vetting::undecided(in_force, Trouble::Policies(error.clone())),
        };
        if context.kind == Kind::CreateContainer
            && let Err(trouble) = names_content(&image.named)
        {
            return Vetting::undecided(in_force, trouble);
        }
        let name = match ImageName::parse(&image.reference) {
            Ok(name) => name,
            Err(error) => {
                let text = format!("{}: {error}", image.role);
                return Vetting::undecided(in_force, Trouble::Call(text));
            }
        };
        let namespace = Some(context.namespace).filter(|namespace| !namespace.is_empty());
        let is_pause = image.role == ROLE_PAUSE;
        let subject = Subject { name: &name, namespace, labels: context.labels, is_pause };
        let covering = in_force.covering(policies, &subject);
        let enforces = |policy: &Policy| in_force.enforces(policy.mode());
        let having_a_say = || covering.iter().copied().chain(policies.may_deny(&subject));
        // What no policy covers is the configuration's to say, which refuses or audits as a whole.
        let mixed = !covering.is_empty()
            && having_a_say().any(enforces)
            && having_a_say().any(|policy| !enforces(policy));
        let shown = match &name {
            ImageName::Reference(reference) => reference.to_string(),
            ImageName::Id(_) | ImageName::Empty => {
                image.named.escape_debug().take(limits::QUOTED_CHARS).collect()
            }
        };
        let now = self.proofs.latest(SystemTime::now());
        let normalised = match &name {
            ImageName::Reference(reference) => Some(reference.to_string()),
            ImageName::Id(_) | ImageName::Empty => None,
        };
        let case = |policies, part| Case {
            in_force,
            context,
            shown: shown.clone(),
            name: name.clone(),
            is_pause,
            policies,
            part,
            now,
            evidence_by: evidence_by(context.answer_by),
        };
        let vetting = if mixed {
            let (refuse, audit) = covering.iter().copied().partition(|policy| enforces(policy));
            let vetting = self.vetted(&case(refuse, Part::Enforcing), image).await;
            match vetting.decision {
                Decision::Allowed => {
                    vetting.with_audited(self.on_trial(case(audit, Part::Auditing), image).await)
                }
                Decision::Denied | Decision::Undecided => vetting,
            }
        } else {
            self.vetted(&case(covering, Part::All), image).await
        };
        Vetting { reference: normalised, ..vetting }
    }

    /// What those say that only audit, while a call waits that those that refuse have allowed: it must not be late for them. They
    /// have half of the time that is left, as another image of the call may need some.
    async fn on_trial(&self, case: Case<'_>, image: &ImageUse) -> Vetting {
        if case.context.beside {
            return self.vetted(&case, image).await;
        }
        let now = Instant::now();
        let answer_by = now + case.context.answer_by.saturating_duration_since(now) / 2;
        let context = Context { answer_by, ..case.context };
        let case = Case { context, evidence_by: evidence_by(answer_by), ..case };
        match timeout_at(answer_by, self.vetted(&case, image)).await {
            Ok(vetting) => vetting,
            Err(_) => case.undecided(Trouble::Late),
        }
    }

    async fn vetted(&self, case: &Case<'_>, image: &ImageUse) -> Vetting {
        let vetting = self.decide(case, image).await;
        let digests = vetting.ties.first().map(Tie::digests).unwrap_or_default();
        let vetting = Vetting { layers_checked_within: case.layers_checked_within(&digests), ..vetting };
        self.rechecked(case, image, vetting).await
    }

    async fn decide(&self, case: &Case<'_>, image: &ImageUse) -> Vetting {
        // What needs no evidence is said first: a deny rule beats every proof.
        let plain: Vec<_> = case.policies.iter().copied().filter(|policy| !case.asks(policy, &[])).collect();
        let said = if case.policies.is_empty() { case.unmatched() } else { case.judge_by_name(&plain, &[]) };
        let needs_no_evidence = plain.len() == case.policies.len();
        if said.decision != Decision::Allowed || (needs_no_evidence && !case.may_be_denied()) {
            return said;
        }
        let result = match case.context.kind {
            Kind::PullImage => self.pulled_by_name(case).await,
            Kind::PulledImage => self.arrived(case, image).await,
            Kind::CreateContainer
            | Kind::RunPodSandbox
            | Kind::Inventory
            | Kind::FoundContainer
            | Kind::Revetted => self.created(case, image).await,
            Kind::RestorePod | Kind::ContentCheck | Kind::Other | Kind::UnknownKind => {
                Err(Trouble::Call("a call of this kind cannot be vetted".to_owned()))
            }
        };
        let trouble = match result {
            Ok(vetting) => return vetting,
            Err(trouble) => trouble,
        };
        // A layout that was left out may have had the way from the name to the image, too.
        case.undecided(match (&trouble, case.in_force.layouts.fault(&[])) {
            (Trouble::Fetch(_), Some(fault)) => trouble.and_layout(fault),
            _ => trouble,
        })
    }

    /// A pull: the reference is resolved once, and what it resolves to is vetted.
    async fn pulled_by_name(&self, case: &Case<'_>) -> Result<Vetting, Trouble> {
        let reference = case.reference().ok_or_else(|| {
            Trouble::Call(
                "expected a reference with a repository, found none; pull the image by its name".to_owned(),
            )
        })?;
        let own = own_login(case.context.auth, reference)?;
        let mut logins = self.logins(case, reference, own.as_ref());
        while let Some(credential) = logins.next().await {
            let visit = self.visit(case, reference, credential);
            let result = self.pulled_as(case, reference, visit, own.as_ref()).await;
            if let Some(result) = logins.settle(result, is_allowed) {
                return result;
            }
        }
        Err(logins.refused())
    }

    async fn pulled_as(
        &self,
        case: &Case<'_>,
        reference: &Reference,
        visit: Visit,
        own: Option<&Credential>,
    ) -> Result<Vetting, Trouble> {
        let asked = Instant::now();
        let (root, seed) = match reference.digest() {
            // Both runtimes drop a tag beside a digest.
            Some(digest) => (digest, None),
            None => self.resolve(&visit).await?,
        };
        if reference.digest().is_none() && case.policies.iter().any(|policy| policy.recheck().is_some()) {
            self.rechecks.learned(&reference.to_string(), root, asked);
        }
        if let Some(own) = own {
            self.credentials.hold(&reference.repo_name(), case.context.namespace, own);
        }
        let sources = self.sources(case, &visit, seed);
        let ties = self.identities.on_this_platform(root, sources, visit.by).await?;
        self.proven(case, &visit, ties).await
    }

    /// As whom a repository is asked: as the pull's own login where it brought one, else as one after the other of those
    /// there are. What one was refused is not the answer as long as there is another.
    fn logins<'a>(
        &'a self,
        case: &'a Case<'_>,
        repository: &Reference,
        own: Option<&Credential>,
    ) -> Logins<'a> {
        let of_node = &case.in_force.logins;
        if let Some(own) = own {
            return Logins::of_pull(own.clone(), of_node, &self.node);
        }
        let name = repository.repo_name();
        let held = self.credentials.find(&name, case.context.namespace);
        Logins::of_node(held, name, of_node, &self.node, case.work_by())
    }

    /// What a tag points at now; one request for all who ask at once.
    async fn resolve(&self, visit: &Visit) -> Result<Resolved, Trouble> {
        let key = (visit.repository.to_string(), visit.credential.clone(), visit.guest.is_some());
        let asked = visit.clone();
        if visit.guest.is_some()
            && let Some(root) = self.background.resolved(&key.0, &key.1, Instant::now())
        {
            return Ok((root, None));
        }
        let background = Arc::clone(&self.background);
        let work = async move {
            let tag = asked.repository.tag().unwrap_or("latest");
            if asked.guest.is_some() {
                // HEAD does not count against a registry's pull quota, and the runtime has the bytes by now.
                let root = asked.head(tag).await?;
                background.keep(asked.repository.to_string(), asked.credential.clone(), root, Instant::now());
                return Ok((root, None));
            }
            let fetched = asked.manifest_by_tag(tag).await?;
            Ok((fetched.digest, Some(fetched.bytes)))
        };
        self.resolutions.join(key, visit.by, work).await.unwrap_or(Err(Trouble::Late))
    }

    /// What a pull brought, held to what was vetted for it.
    async fn arrived(&self, case: &Case<'_>, image: &ImageUse) -> Result<Vetting, Trouble> {
        let moved = |found: &str| {
            Trouble::Moved(format!(
                "expected the pull to bring {}, which was vetted, found {found}; the tag moved meanwhile, try again",
                image.vetted_digest
            ))
        };
        let (Ok(id), Ok(vetted)) = (ImageId::parse(&image.named), Digest::parse(&image.vetted_digest)) else {
            return Err(moved("no image with an ID"));
        };
        let reference = case.reference().ok_or_else(|| moved("an image without a repository"))?;
        let own = own_login(case.context.auth, reference)?;
        let mut logins = self.logins(case, reference, own.as_ref());
        while let Some(credential) = logins.next().await {
            let visit = self.visit(case, reference, credential);
            let sources = self.sources(case, &visit, None);
            let result = match self.identities.of_id(vetted, id, sources, visit.by).await {
                // Another entry of the vetted index: a signature on the index speaks for it, one on an entry does not.
                Ok(tie) => self.proven(case, &visit, vec![tie]).await,
                Err(Trouble::Walk(_)) => Err(moved(&format!("image {id}"))),
                Err(trouble) => Err(trouble),
            };
            if let Some(result) = logins.settle(result, is_allowed) {
                return result;
            }
        }
        Err(logins.refused())
    }

    /// A create, by an ID: the ID is tied to a digest by a walk, whatever the runtime lists.
    async fn created(&self, case: &Case<'_>, image: &ImageUse) -> Result<Vetting, Trouble> {
        let id = self.id_of(image).await?;
        let mut candidates = self.candidates(case, id, image).await?;
        // A denial is not to be pushed past the limit by names that anybody can give an image.
        candidates.sort_by_key(|candidate| !case.denies(candidate.root));
        let (mut allowed, mut refused, mut trouble) = (None::<Vetting>, None::<Vetting>, None::<Trouble>);
        let mut may_be_denied = None::<Trouble>;
        for candidate in candidates.into_iter().take(limits::CANDIDATES) {
            match self.found(case, id, &candidate, allowed.is_some()).await {
                Ok(Found::DeniedByDigest(denied)) => return Ok(denied),
                Ok(Found::Tied) => {}
                Ok(Found::Judged(vetting)) if !is_allowed(&vetting) => refused = refused.or(Some(vetting)),
                Ok(Found::Judged(vetting)) if case.may_be_denied() => allowed = Some(vetting),
                Ok(Found::Judged(vetting)) => return Ok(vetting),
                // What the runtime lists only suggests: a suggestion that leads nowhere says nothing.
                Err(why) => {
                    // But of one that is denied that has to be seen.
                    let leads_nowhere = matches!(why, Trouble::Walk(WalkError::NoSuchId { .. }));
                    if !leads_nowhere && case.denies(candidate.root) {
                        may_be_denied = may_be_denied.or(Some(why.clone()));
                    }
                    trouble = trouble.or(Some(why));
                }
            }
        }
        if let Some(allowed) = allowed {
            return may_be_denied.map_or(Ok(allowed), Err);
        }
        match (trouble, refused) {
            // An image that was decided about, and suggestions that led nowhere.
            (Some(Trouble::Walk(_)) | None, Some(refused)) => Ok(refused),
            (Some(trouble), _) => Err(trouble),
            (None, None) => Err(Trouble::Call(format!(
                "expected the runtime to list a digest for image {id}, found none; pull the image by its name"
            ))),
        }
    }

    /// Whether a candidate is the image, and what is to be said of it if so.
    async fn found(
        &self,
        case: &Case<'_>,
        id: ImageId,
        candidate: &Candidate,
        tie_only: bool,
    ) -> Result<Found, Trouble> {
        let lets_through = |found: &Found| !matches!(found, Found::Judged(vetting) if !is_allowed(vetting));
        let mut logins = self.logins(case, &candidate.repository, None);
        while let Some(credential) = logins.next().await {
            let visit = self.visit(case, &candidate.repository, credential);
            let result = self.found_as(case, id, candidate, tie_only, visit).await;
            if let Some(result) = logins.settle(result, lets_through) {
                return result;
            }
        }
        Err(logins.refused())
    }

    async fn found_as(
        &self,
        case: &Case<'_>,
        id: ImageId,
        candidate: &Candidate,
        tie_only: bool,
        visit: Visit,
    ) -> Result<Found, Trouble> {
        let sources = self.sources(case, &visit, None);
        let tie = self.identities.of_id(candidate.root, id, sources, visit.by).await?;
        // Under another of its digests the image may be denied: that is not outweighed by this one.
        match case.denied_by_digest(std::slice::from_ref(&tie)) {
            Some(denied) => Ok(Found::DeniedByDigest(denied)),
            None if tie_only => Ok(Found::Tied),
            None => self.proven(case, &visit, vec![tie]).await.map(Found::Judged),
        }
    }

    /// What a tag points at, by whoever is let in.
    async fn head(&self, case: &Case<'_>, reference: &Reference) -> Result<Digest, Trouble> {
        let mut logins = self.logins(case, reference, None);
        while let Some(credential) = logins.next().await {
            let visit = self.visit(case, reference, credential);
            let result = visit.head(reference.tag().unwrap_or("latest")).await;
            if let Some(result) = logins.settle(result, |_| true) {
                return result;
            }
        }
        Err(logins.refused())
    }

    /// The ID of what a create names. A repository@digest (CRI-O up to 1.34) is asked of the runtime: what it has
    /// under that name is what it would run, whether the name tells the truth or not.
    async fn id_of(&self, image: &ImageUse) -> Result<ImageId, Trouble> {
        if let Ok(id) = ImageId::parse(&image.named) {
            return Ok(id);
        }
        let listed = self.node.image_status(&image.named).await.map_err(Trouble::Runtime)?;
        listed.and_then(|listed| ImageId::parse(&listed.id).ok()).ok_or_else(|| {
            let named = quoted(&image.named);
            Trouble::Runtime(format!("the runtime has no image {named}; pull the image by its name"))
        })
    }

    /// Digests that an image may have, most likely first.
    async fn candidates(
        &self,
        case: &Case<'_>,
        id: ImageId,
        image: &ImageUse,
    ) -> Result<Vec<Candidate>, Trouble> {
        let reference = case.reference();
        // The pod, or else the call, names a digest: nothing else will do.
        let named = Reference::parse(&image.named).ok().filter(|named| named.digest().is_some());
        let fixed = reference.filter(|reference| reference.digest().is_some()).or(named.as_ref());
        if let Some((fixed, root)) = fixed.and_then(|fixed| Some((fixed, fixed.digest()?))) {
            return Ok(vec![Candidate { root, repository: reference.unwrap_or(fixed).clone() }]);
        }
        let (mut candidates, mut known) = (Vec::new(), HashSet::new());
        let mut add = |root: Digest, repository: &Reference| {
            // The policy is the reference's: so is the place where its evidence is.
            let repository = reference.unwrap_or(repository).clone();
            if known.insert(root) {
                candidates.push(Candidate { root, repository });
            }
        };
        if let Some(reference) = reference {
            // What has its evidence on the node needs no registry. An import may have left the runtime no digest at all.
            for root in case.in_force.layouts.roots_of(&id) {
                add(*root, reference);
            }
            for tie in self.proofs.ties_of_id(&id) {
                add(tie.root(), reference);
            }
        }
        // In the runtime's own spelling: CRI-O knows its images by the bare hex, and `sha256:<hex>` as a name only.
        let listed = self.node.image_status(&image.named).await.map_err(Trouble::Runtime)?;
        let listed = listed.ok_or_else(|| {
            Trouble::Runtime(format!("the runtime has no image {id}; pull the image by its name"))
        })?;
        let digests = listed.repo_digests.iter().filter_map(|name| Reference::parse(name).ok());
        let (same, other): (Vec<_>, Vec<_>) =
            digests.partition(|name| reference.is_some_and(|r| r.repo_name() == name.repo_name()));
        for name in same.iter().chain(&other) {
            if let Some(digest) = name.digest() {
                add(digest, name);
            }
        }
        if let (true, Some(reference)) = (candidates.is_empty(), reference) {
            // Imported without a digest: what the tag is now may be what was imported.
            let root = self.head(case, reference).await?;
            candidates.push(Candidate { root, repository: reference.clone() });
        }
        Ok(candidates)
    }
}

/// What a create names must say which bytes are meant: a full ID or repository@digest. A path is a checkpoint to be
/// restored, and a tag or a truncated ID is what the runtime makes of it by then.
fn names_content(named: &str) -> Result<(), Trouble> {
    let found = match ImageName::parse(named) {
        Ok(ImageName::Id(_)) => return Ok(()),
        Ok(ImageName::Reference(reference)) if reference.digest().is_some() => return Ok(()),
        Ok(name) => name.to_string(),
        Err(_) => quoted(named),
    };
    Err(Trouble::Call(format!(
        "expected CreateContainer to name an image ID or repository@digest, found {found}; checkpoints, tags and shortened IDs cannot be vetted"
    )))
}

/// A digest an image may have, and where evidence about it is looked for.
struct Candidate {
    root: Digest,
    repository: Reference,
}

/// What came of one candidate.
enum Found {
    /// A deny rule by digest.
    DeniedByDigest(Vetting),
    /// It is the image, and no more is asked about it.
    Tied,
    Judged(Vetting),
}

fn is_allowed(vetting: &Vetting) -> bool {
    vetting.decision == Decision::Allowed
}
