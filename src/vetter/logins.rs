//! As whom a registry is asked, one after the other until one is let in: the login held from a pull, the docker configs',
//! the credential providers', nobody. What one of them is refused says nothing about what the next will see.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::node::Node;
use super::node_logins::NodeLogins;
use super::trouble::Trouble;
use super::wire::Auth;
use crate::image::Reference;
use crate::limits;
use crate::registry::credentials::Login;
use crate::registry::{AuthFields, Cause, Credential, FetchError};

/// The logins for one repository. Of those that the node has, later ones are not looked for before the earlier ones are
/// refused: providers are programs that take their time.
pub struct Logins<'a> {
    of_node: &'a Arc<NodeLogins>,
    node: &'a Node,
    repository: String,
    by: Instant,
    stage: Stage,
    queue: VecDeque<Login>,
    tried: Vec<Login>,
    refusal: Option<FetchError>,
    failures: Vec<String>,
    /// The login at hand is none.
    nobody: bool,
    nobody_refused: bool,
    /// What the login at hand is told counts only if it lets the image through.
    uncertain: bool,
}

/// Where the next logins are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Files,
    ProvidersSoFar,
    /// Before a program is run for it: what is proven, or public, needs no login.
    NobodyAtFirst,
    Providers,
    Nobody,
    End,
}

impl<'a> Logins<'a> {
    /// Of a pull that brought a login: it alone. The kubelet tries others by pulling again; with the node's, a pod would
    /// be told of images that its own pull secret does not open.
    pub fn of_pull(credential: Credential, of_node: &'a Arc<NodeLogins>, node: &'a Node) -> Self {
        let login = Login { credential, source: "the pull's login".into() };
        let by = Instant::now();
        Self {
            stage: Stage::End,
            queue: VecDeque::from([login]),
            ..Self::of_node(None, String::new(), of_node, node, by)
        }
    }

    /// Of a call that brings none: the one held from a pull of the same repository and namespace, then the node's.
    /// Providers may take until `by`.
    pub fn of_node(
        held: Option<Credential>,
        repository: String,
        of_node: &'a Arc<NodeLogins>,
        node: &'a Node,
        by: Instant,
    ) -> Self {
        let held = held.map(|credential| Login { credential, source: "the login of a pull".into() });
        Self {
            of_node,
            node,
            repository,
            by,
            stage: Stage::Files,
            queue: held.into_iter().collect(),
            tried: Vec::new(),
            refusal: None,
            failures: Vec::new(),
            nobody: false,
            nobody_refused: false,
            uncertain: false,
        }
    }

    /// The next to be tried; `None`: all were refused.
    pub async fn next(&mut self) -> Option<Credential> {
        loop {
            while let Some(login) = self.queue.pop_front() {
                let known = self.tried.iter().any(|tried| tried.credential == login.credential);
                if !known && self.tried.len() < limits::CREDENTIAL_CANDIDATES {
                    (self.nobody, self.uncertain) = (false, false);
                    self.tried.push(login.clone());
                    return Some(login.credential);
                }
            }
            match self.stage {
                Stage::Files => {
                    self.stage = Stage::ProvidersSoFar;
                    self.queue.extend(self.of_node.of_files(&self.repository, self.node).await);
                }
                Stage::ProvidersSoFar => {
                    let asked = self.of_node.of_providers_so_far(&self.repository, self.node).await;
                    self.queue.extend(asked.logins);
                    self.stage = Stage::Nobody;
                    match asked.complete {
                        true => self.failures = asked.failures,
                        false => self.stage = Stage::NobodyAtFirst,
                    }
                }
                Stage::NobodyAtFirst => {
                    self.stage = Stage::Providers;
                    (self.nobody, self.uncertain) = (true, true);
                    return Some(Credential::Anonymous);
                }
                Stage::Providers => {
                    let asked = self.of_node.of_providers(&self.repository, self.node, self.by).await;
                    self.queue.extend(asked.logins);
                    self.failures = asked.failures;
                    self.stage = Stage::Nobody;
                }
                Stage::Nobody if self.nobody_refused => self.stage = Stage::End,
                Stage::Nobody => {
                    self.stage = Stage::End;
                    self.nobody = true;
                    self.uncertain = self.refusal.is_some() || !self.failures.is_empty();
                    return Some(Credential::Anonymous);
                }
                Stage::End => return None,
            }
        }
    }

    /// Whether this is the answer, or the next login has to be tried. `lets_through` says whether a result is a yes.
    pub fn settle<T>(
        &mut self,
        result: Result<T, Trouble>,
        lets_through: impl Fn(&T) -> bool,
    ) -> Option<Result<T, Trouble>> {
        match result {
            Err(Trouble::Fetch(error)) if is_refusal(&error) => {
                if self.nobody {
                    self.nobody_refused = true;
                } else if let Some(tried) = self.tried.last() {
                    self.of_node.refused(&tried.credential, Instant::now());
                }
                self.refusal.get_or_insert(error);
                None
            }
            // Some registries say of what is private that it is not there: nobody's "no" counts only where there was
            // nobody else.
            Err(Trouble::Fetch(error)) if self.uncertain && error.is_not_found() => None,
            Ok(value) if self.uncertain && !lets_through(&value) => None,
            result => Some(result),
        }
    }

    /// That nobody was let in.
    pub fn refused(self) -> Trouble {
        if let (Some(refusal), true, true) = (&self.refusal, self.failures.is_empty(), self.tried.len() <= 1)
            && self.tried.first().is_none_or(|login| login.source.starts_with("the pull"))
        {
            return Trouble::Fetch(refusal.clone());
        }
        let what = match &self.refusal {
            Some(refusal) => refusal.to_string(),
            None => format!("{}: what its registry shows without a login does not count", self.repository),
        };
        let tried: Vec<&str> = self.tried.iter().map(|login| &*login.source).collect();
        let tried = if tried.is_empty() { "none".to_owned() } else { tried.join(", ") };
        let failures: String = self.failures.iter().map(|why| format!("; {why}")).collect();
        Trouble::Login(format!("{what}; refused logins: {tried}{failures}"))
    }
}

/// 401 or 403: the registry answered, and it is about who asks.
fn is_refusal(error: &FetchError) -> bool {
    matches!(error.cause, Cause::Unauthorized(_) | Cause::Forbidden(_))
}

/// The login that a pull brought for its image; `None`: it brought none.
///
/// # Errors
/// What it brought is no login.
pub fn own_login(auth: Option<&Auth>, reference: &Reference) -> Result<Option<Credential>, Trouble> {
    let Some(auth) = auth else { return Ok(None) };
    let fields = AuthFields {
        username: &auth.username,
        password: &auth.password,
        auth: &auth.auth,
        server_address: &auth.server_address,
        identity_token: &auth.identity_token,
        registry_token: &auth.registry_token,
    };
    let login = Credential::from_auth(&fields, reference.registry());
    let login = login.map_err(|error| Trouble::Call(error.to_string()))?;
    Ok(Some(login).filter(|login| *login != Credential::Anonymous))
}
