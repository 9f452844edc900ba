//! The order of work for one image: name → policies → digest → image ID → evidence → decision.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::credentials::Credentials;
use super::evidence::{Evidences, Question, Wanted};
use super::flight::Flights;
use super::identity::{Identities, Sources};
use super::node::Node;
use super::trouble::Trouble;
use super::wire::{Auth, ImageUse, Kind};
use crate::audit::Decision;
use crate::config::{Mode, ProxyConfiguration, Unmatched};
use crate::image::{Digest, ImageId, ImageName, Platform, Reference, Tie};
use crate::limits;
use crate::policy::{Check, Judgement, Policy, PolicySet, Subject};
use crate::proofs::Proofs;
use crate::registry::{AuthFields, Client, Credential};
use crate::verify::SimpleSigning;

/// What decisions are made by; exchanged whole at a reload.
pub struct InForce {
    /// The daemon's configuration.
    pub config: ProxyConfiguration,
    /// The policies, or why there are none: then vetted calls are undecided.
    pub policies: Result<Arc<PolicySet>, String>,
    /// Speaks to registries as the configuration says.
    pub registry: Arc<Client>,
}

/// What stays when policies change: proofs, work under way, held credentials.
pub struct Vetter {
    /// What is known about digests.
    pub proofs: Arc<Proofs>,
    evidences: Evidences,
    identities: Identities,
    resolutions: Flights<(String, Credential, bool), Result<Resolved, Trouble>>,
    credentials: Credentials,
    node: Node,
}

/// What a tag points at now, and the document if it was fetched.
type Resolved = (Digest, Option<Bytes>);

/// The facts of a call that bear on each of its images.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The call.
    pub kind: Kind,
    /// The pod's namespace; empty where the call has none.
    pub namespace: &'a str,
    /// The pull's credential.
    pub auth: Option<&'a Auth>,
    /// Nobody waits: registries are asked as sparingly as can be.
    pub beside: bool,
    /// When an answer is due.
    pub answer_by: Instant,
}

/// What came of one image.
#[derive(Clone, Debug)]
pub struct Vetting {
    /// What was decided.
    pub decision: Decision,
    /// A registry or the network is why it is undecided.
    pub registry: bool,
    /// Whether a decision against the image refuses the call, going by its policies' modes.
    pub enforced: bool,
    /// Why it was not allowed, one deterministic line; empty if it was.
    pub text: String,
    /// The normalised reference it was decided under, where there is one.
    pub reference: Option<String>,
    /// The digest the decision is about.
    pub digest: Option<Digest>,
    /// What that digest was walked to: on a pull, every image it may be on this platform.
    pub ties: Vec<Tie>,
    /// Each policy that covers the image, and what it says.
    pub policies: Vec<PolicyVetting>,
}

/// What one policy says.
#[derive(Clone, Debug)]
pub struct PolicyVetting {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub source: String,
    /// What it says by itself.
    pub decision: Decision,
    /// Each check made.
    pub checks: Vec<Check>,
}

/// An image's name as the policies see it, and what they are.
struct Case<'a> {
    in_force: &'a InForce,
    context: Context<'a>,
    /// For messages.
    shown: String,
    name: ImageName,
    policies: Vec<&'a Policy>,
}

impl Vetter {
    /// A vetter that knows nothing yet.
    pub fn new(node: Node, host: Platform) -> Vetter {
        let proofs = Arc::<Proofs>::default();
        Vetter {
            evidences: Evidences::new(Arc::clone(&proofs)),
            identities: Identities::new(Arc::clone(&proofs), host),
            resolutions: Flights::default(),
            proofs,
            credentials: Credentials::default(),
            node,
        }
    }

    /// The node this vetter asks.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Vets one image of a call.
    pub async fn image(&self, in_force: &InForce, context: Context<'_>, image: &ImageUse) -> Vetting {
        let name = match ImageName::parse(&image.reference) {
            Ok(name) => name,
            Err(error) => {
                let text = format!("{}: {error}", image.role);
                return Vetting::undecided(in_force, Trouble::Call(text));
            }
        };
        let policies = match &in_force.policies {
            Ok(policies) => policies,
            Err(error) => return Vetting::undecided(in_force, Trouble::Policies(error.clone())),
        };
        let namespace = Some(context.namespace).filter(|namespace| !namespace.is_empty());
        let covering = policies.applicable(&Subject { name: &name, namespace });
        let shown = match &name {
            ImageName::Reference(reference) => reference.to_string(),
            ImageName::Id(_) | ImageName::Empty => {
                image.named.escape_debug().take(limits::QUOTED_CHARS).collect()
            }
        };
        let case = Case { in_force, context, shown, name, policies: covering };
        let mut vetting = self.decide(&case, image).await;
        if let ImageName::Reference(reference) = &case.name {
            vetting.reference = Some(reference.to_string());
        }
        vetting
    }

    async fn decide(&self, case: &Case<'_>, image: &ImageUse) -> Vetting {
        if case.policies.is_empty() {
            return case.unmatched();
        }
        // What needs no evidence is said first: a deny rule beats every proof.
        let plain: Vec<_> = case.policies.iter().copied().filter(|policy| !policy.needs_evidence()).collect();
        let said = case.judge(&plain, &[], &[]);
        if said.decision != Decision::Allowed || plain.len() == case.policies.len() {
            return said;
        }
        let result = match case.context.kind {
            Kind::PullImage => self.pulled_by_name(case).await,
            Kind::PulledImage => self.arrived(case, image).await,
            Kind::CreateContainer | Kind::RunPodSandbox | Kind::UnknownKind => {
                self.created(case, image).await
            }
        };
        result.unwrap_or_else(|trouble| case.undecided(trouble))
    }

    /// A pull: the reference is resolved once, and what it resolves to is vetted.
    async fn pulled_by_name(&self, case: &Case<'_>) -> Result<Vetting, Trouble> {
        let reference = case.reference().ok_or_else(|| {
            let text = "expected a reference with a repository, found none; pull the image by its name";
            Trouble::Call(text.to_owned())
        })?;
        let credential = credential(case.context.auth, reference)?;
        let registry = &case.in_force.registry;
        let work_by = case.work_by();
        let (root, seed) = match (reference.digest(), reference.tag()) {
            // Both runtimes drop a tag beside a digest.
            (Some(digest), _) => (digest, None),
            (None, _) => self.resolve(case, reference, &credential).await?,
        };
        self.credentials.hold(&reference.repo_name(), case.context.namespace, &credential);
        let sources = Sources {
            node: self.node.clone(),
            registry: Arc::clone(registry),
            repository: reference.clone(),
            credential: credential.clone(),
            seed,
        };
        let ties = self.identities.on_this_platform(root, sources, work_by).await?;
        self.proven(case, reference, &credential, ties).await
    }

    /// What a tag points at now; one request for all who ask at once.
    async fn resolve(
        &self,
        case: &Case<'_>,
        reference: &Reference,
        credential: &Credential,
    ) -> Result<Resolved, Trouble> {
        let (beside, work_by) = (case.context.beside, case.work_by());
        let key = (reference.to_string(), credential.clone(), beside);
        let (registry, proofs) = (Arc::clone(&case.in_force.registry), Arc::clone(&self.proofs));
        let (reference, credential) = (reference.clone(), credential.clone());
        let work = async move {
            let tag = reference.tag().unwrap_or("latest");
            if beside {
                // HEAD does not count against a registry's pull quota.
                let root = registry.head(&reference, tag, &credential, work_by).await?;
                if !proofs.ties_of_root(&root, Instant::now()).is_empty() {
                    return Ok((root, None));
                }
            }
            let fetched = registry.manifest_by_tag(&reference, tag, &credential, work_by).await?;
            Ok((fetched.digest, Some(fetched.bytes)))
        };
        self.resolutions.join(key, work_by, work).await.unwrap_or(Err(Trouble::Late))
    }

    /// What a pull brought, held to what was vetted for it.
    async fn arrived(&self, case: &Case<'_>, image: &ImageUse) -> Result<Vetting, Trouble> {
        let moved = |found: &str| {
            Trouble::Call(format!(
                "expected the pull to bring {}, which was vetted, found {found}; the tag moved meanwhile, try again",
                image.vetted_digest
            ))
        };
        let (Ok(id), Ok(vetted)) = (ImageId::parse(&image.named), Digest::parse(&image.vetted_digest)) else {
            return Err(moved("no image with an ID"));
        };
        let reference = case.reference().ok_or_else(|| moved("an image without a repository"))?;
        let tie = self.identities.of_id(vetted, id, self.sources(case, reference), case.work_by()).await;
        let tie = match tie {
            Ok(tie) => tie,
            Err(Trouble::Walk(_)) => return Err(moved(&format!("image {id}"))),
            Err(trouble) => return Err(trouble),
        };
        // Another entry of the vetted index: a signature on the index speaks for it, one on an entry does not.
        let credential = credential(case.context.auth, reference)?;
        self.proven(case, reference, &credential, vec![tie]).await
    }

    /// A create, by an ID: the ID is tied to a digest by a walk, whatever the runtime lists.
    async fn created(&self, case: &Case<'_>, image: &ImageUse) -> Result<Vetting, Trouble> {
        let named = ImageName::parse(&image.named).map_err(|error| Trouble::Call(error.to_string()))?;
        let candidates = self.candidates(case, &named).await?;
        let mut refused: Option<Vetting> = None;
        let mut trouble: Option<Trouble> = None;
        for candidate in candidates.into_iter().take(limits::CANDIDATES) {
            let credential = self.credentials.find(&candidate.repository.repo_name(), case.context.namespace);
            let ties = match self.ties(case, &named, &candidate, &credential).await {
                Ok(ties) => ties,
                Err(why) => {
                    // What the runtime lists only suggests: a suggestion that leads nowhere says nothing.
                    trouble = trouble.or(Some(why));
                    continue;
                }
            };
            match self.proven(case, &candidate.repository, &credential, ties).await {
                Ok(vetting) if vetting.decision == Decision::Allowed => return Ok(vetting),
                Ok(vetting) => refused = refused.or(Some(vetting)),
                Err(why) => trouble = trouble.or(Some(why)),
            }
        }
        match (trouble, refused) {
            // An image that was decided about, and suggestions that led nowhere.
            (Some(Trouble::Walk(_)) | None, Some(refused)) => Ok(refused),
            (Some(trouble), _) => Err(trouble),
            (None, None) => Err(Trouble::Call(format!(
                "expected the runtime to list a digest for {named}, found none; pull the image by its name"
            ))),
        }
    }

    async fn ties(
        &self,
        case: &Case<'_>,
        named: &ImageName,
        candidate: &Candidate,
        credential: &Credential,
    ) -> Result<Vec<Tie>, Trouble> {
        let sources = Sources { credential: credential.clone(), ..self.sources(case, &candidate.repository) };
        match named {
            ImageName::Id(id) => {
                Ok(vec![self.identities.of_id(candidate.root, *id, sources, case.work_by()).await?])
            }
            _ => self.identities.on_this_platform(candidate.root, sources, case.work_by()).await,
        }
    }

    /// Digests that an image may have, most likely first.
    async fn candidates(&self, case: &Case<'_>, named: &ImageName) -> Result<Vec<Candidate>, Trouble> {
        let reference = case.reference();
        let mut candidates = Vec::new();
        let mut add = |root: Digest, repository: &Reference| {
            // The policy is the reference's: so is the place where its evidence is.
            let repository = reference.unwrap_or(repository).clone();
            if !candidates.iter().any(|known: &Candidate| known.root == root) {
                candidates.push(Candidate { root, repository });
            }
        };
        match (named, reference.and_then(Reference::digest)) {
            // The pod names a digest: nothing else will do.
            (_, Some(digest)) => {
                if let Some(reference) = reference {
                    add(digest, reference);
                }
                return Ok(candidates);
            }
            (ImageName::Reference(named), None) => {
                let digest = named.digest().ok_or_else(|| {
                    Trouble::Call(format!(
                        "expected CreateContainer to name an image ID or repository@digest, found {named}; use a kubelet"
                    ))
                })?;
                add(digest, named);
                return Ok(candidates);
            }
            (ImageName::Empty, None) => {
                return Err(Trouble::Call(
                    "expected CreateContainer to name an image, found no name".to_owned(),
                ));
            }
            (ImageName::Id(id), None) => {
                if let Some(reference) = reference {
                    for tie in self.proofs.ties_of_id(id, Instant::now()) {
                        add(tie.root(), reference);
                    }
                }
                let listed = self.node.image_status(&id.to_string()).await.map_err(Trouble::Runtime)?;
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
            }
        }
        if let (true, Some(reference)) = (candidates.is_empty(), reference) {
            // Imported without a digest: what the tag is now may be what was imported.
            let credential = self.credentials.find(&reference.repo_name(), case.context.namespace);
            let tag = reference.tag().unwrap_or("latest");
            let root = case.in_force.registry.head(reference, tag, &credential, case.work_by()).await?;
            candidates.push(Candidate { root, repository: reference.clone() });
        }
        Ok(candidates)
    }

    /// Holds the policies against the evidence about each of the images a digest may be on this platform. The
    /// answer is the first one's, which the runtime takes; only images that are allowed are among its ties.
    async fn proven(
        &self,
        case: &Case<'_>,
        repository: &Reference,
        credential: &Credential,
        ties: Vec<Tie>,
    ) -> Result<Vetting, Trouble> {
        // A deny rule by digest beats every proof.
        let digests: Vec<Digest> = ties.iter().flat_map(Tie::digests).collect();
        if let (Ok(policies), namespace) = (&case.in_force.policies, case.namespace())
            && let Some(policy) = policies.denies(&Subject { name: &case.name, namespace }, &digests)
        {
            let denied = case.judge(&[policy], &digests, &[]);
            return Ok(Vetting { digest: digests.first().copied(), ..denied });
        }
        let fresh = Wanted::Fresh(case.in_force.config.vetting.fresh_for);
        let (mut answer, mut allowed) = (None, Vec::new());
        for tie in ties {
            let (mut vetting, held) = self.proven_by(case, repository, credential, &tie, fresh).await?;
            if vetting.decision == Decision::Denied && held {
                // Re-signing is legitimate: what was held did not suffice, so it is fetched anew.
                (vetting, _) = self.proven_by(case, repository, credential, &tie, Wanted::Anew).await?;
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
        repository: &Reference,
        credential: &Credential,
        tie: &Tie,
        wanted: Wanted,
    ) -> Result<(Vetting, bool), Trouble> {
        let digests = tie.digests();
        let (mut signatures, mut trouble, mut held) = (Vec::<SimpleSigning>::new(), None, false);
        let mut vetting = None;
        // `cosign sign` signs the digest it is given, usually the index: that is asked for first.
        for digest in &digests {
            let question = Question {
                registry: &case.in_force.registry,
                repository,
                digest: *digest,
                credential,
                beside: case.context.beside,
                answer_by: case.answer_by(),
                work_by: case.work_by(),
            };
            let found = self.evidences.about(question, wanted).await;
            let found = found.or_else(|why| {
                // Proven before is allowed while the registry is down.
                let held = self.evidences.held(*digest, &repository.repo_name(), Instant::now());
                trouble = trouble.take().or(Some(why.clone()));
                held.ok_or(why)
            });
            if let Ok(found) = found {
                held |= found.held_since.is_some();
                trouble = trouble.or(found.incomplete);
                signatures.extend(found.signatures.iter().cloned());
            }
            let judged = case.judge(&case.policies, &digests, &signatures);
            let allowed = judged.decision == Decision::Allowed;
            vetting = Some(judged);
            if allowed {
                trouble = None;
                break;
            }
        }
        match (vetting, trouble) {
            (_, Some(trouble)) => Err(trouble),
            (Some(vetting), None) => Ok((vetting, held)),
            (None, None) => Err(Trouble::Late),
        }
    }

    fn sources(&self, case: &Case<'_>, repository: &Reference) -> Sources {
        let credential = match case.context.auth {
            Some(_) => credential(case.context.auth, repository).unwrap_or(Credential::Anonymous),
            None => self.credentials.find(&repository.repo_name(), case.context.namespace),
        };
        Sources {
            node: self.node.clone(),
            registry: Arc::clone(&case.in_force.registry),
            repository: repository.clone(),
            credential,
            seed: None,
        }
    }
}

/// A digest an image may have, and where evidence about it is looked for.
struct Candidate {
    root: Digest,
    repository: Reference,
}

fn credential(auth: Option<&Auth>, reference: &Reference) -> Result<Credential, Trouble> {
    let Some(auth) = auth else { return Ok(Credential::Anonymous) };
    let fields = AuthFields {
        username: &auth.username,
        password: &auth.password,
        auth: &auth.auth,
        server_address: &auth.server_address,
        identity_token: &auth.identity_token,
        registry_token: &auth.registry_token,
    };
    Credential::from_auth(&fields, reference.registry()).map_err(|error| Trouble::Call(error.to_string()))
}

impl InForce {
    /// Whether a policy's decision against an image refuses a call: the top's audit overrides all.
    fn enforces(&self, policy: Option<Mode>) -> bool {
        self.config.mode == Mode::Enforce && policy.unwrap_or(Mode::Enforce) == Mode::Enforce
    }

    /// Whether no policy covering this image would refuse it: then nobody needs to wait for its vetting.
    pub fn only_audits(&self, namespace: &str, reference: &str) -> bool {
        let (Ok(policies), Ok(name)) = (&self.policies, ImageName::parse(reference)) else { return false };
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let covering = policies.applicable(&Subject { name: &name, namespace });
        !covering.is_empty() && covering.iter().all(|policy| !self.enforces(policy.mode()))
    }
}

impl<'a> Case<'a> {
    fn reference(&self) -> Option<&Reference> {
        match &self.name {
            ImageName::Reference(reference) => Some(reference),
            ImageName::Id(_) | ImageName::Empty => None,
        }
    }

    fn namespace(&self) -> Option<&str> {
        Some(self.context.namespace).filter(|namespace| !namespace.is_empty())
    }

    /// Work goes on after its answer is due, so that the next try finds it done; but not for ever.
    fn work_by(&self) -> Instant {
        let longest = self.in_force.config.vetting.timeout.max(Duration::from_secs(1));
        self.context.answer_by.max(Instant::now() + longest)
    }

    /// Nobody waits beside a call.
    fn answer_by(&self) -> Instant {
        if self.context.beside { self.work_by() } else { self.context.answer_by }
    }

    fn unmatched(&self) -> Vetting {
        match self.in_force.config.unmatched {
            Unmatched::Allow => self.allowed(Vec::new()),
            Unmatched::Deny => Vetting {
                decision: Decision::Denied,
                text: format!(
                    "image {}: expected a policy that covers it, found none and unmatched: deny; add an ImagePolicy for it",
                    self.shown
                ),
                ..self.allowed(Vec::new())
            },
        }
    }

    fn allowed(&self, policies: Vec<PolicyVetting>) -> Vetting {
        Vetting {
            decision: Decision::Allowed,
            registry: false,
            enforced: self.in_force.enforces(None),
            text: String::new(),
            reference: None,
            digest: None,
            ties: Vec::new(),
            policies,
        }
    }

    fn undecided(&self, trouble: Trouble) -> Vetting {
        let asked = self.policies.iter().filter(|policy| policy.needs_evidence());
        let policies = asked.map(|policy| PolicyVetting {
            name: policy.name().to_owned(),
            source: policy.source(),
            decision: Decision::Undecided,
            checks: Vec::new(),
        });
        Vetting {
            decision: Decision::Undecided,
            registry: trouble.is_registry(),
            enforced: self.policies.iter().any(|policy| self.in_force.enforces(policy.mode())),
            text: format!("image {}: {trouble}", self.shown),
            ..self.allowed(policies.collect())
        }
    }

    /// All of these policies must hold; the first that does not is the answer's reason.
    fn judge(&self, policies: &[&'a Policy], digests: &[Digest], signatures: &[SimpleSigning]) -> Vetting {
        let subject = Subject { name: &self.name, namespace: self.namespace() };
        let mut vetting = self.allowed(Vec::new());
        vetting.enforced = false;
        for policy in policies {
            let (decision, checks) = match policy.judge(&subject, digests, signatures) {
                Judgement::Satisfied { checks, .. } => (Decision::Allowed, checks),
                Judgement::Unsatisfied { expected, found, remedy, checks } => {
                    let enforced = self.in_force.enforces(policy.mode());
                    // A policy that refuses gives the reason before one that only audits.
                    if vetting.decision == Decision::Allowed || (enforced && !vetting.enforced) {
                        let digest = digests.first().map(|digest| format!("@{digest}")).unwrap_or_default();
                        vetting.text = format!(
                            "image {}{digest}: policy {} ({}): expected {expected}, found {found}; {remedy}",
                            self.without_digest(),
                            policy.name(),
                            policy.source()
                        );
                    }
                    vetting.decision = Decision::Denied;
                    vetting.enforced |= enforced;
                    (Decision::Denied, checks)
                }
            };
            let (name, source) = (policy.name().to_owned(), policy.source());
            vetting.policies.push(PolicyVetting { name, source, decision, checks });
        }
        vetting
    }

    fn without_digest(&self) -> &str {
        self.shown.split_once('@').map_or(&self.shown, |(name, _)| name)
    }
}

impl Vetting {
    /// An image whose vetting is not done when the answer is due.
    pub fn late(in_force: &InForce, image: &ImageUse) -> Vetting {
        let name = if image.reference.is_empty() { &image.named } else { &image.reference };
        let shown: String = name.escape_debug().take(limits::QUOTED_CHARS).collect();
        Vetting::undecided(in_force, Trouble::Call(format!("image {shown}: {}", Trouble::Late)))
    }

    fn undecided(in_force: &InForce, trouble: Trouble) -> Vetting {
        Vetting {
            decision: Decision::Undecided,
            registry: false,
            enforced: in_force.enforces(None),
            text: trouble.to_string(),
            reference: None,
            digest: None,
            ties: Vec::new(),
            policies: Vec::new(),
        }
    }
}
