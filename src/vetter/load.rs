//! From the configuration's text to what is in force: policies from their folder, else the last good ones.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::case::InForce;
use super::layouts::{Layouts, Summary};
use super::node_logins::NodeLogins;
use super::wire::Configure;
use crate::config::{Mode, ProxyConfiguration, files};
use crate::image::quoted;
use crate::policy::PolicySet;
use crate::proofs::Proofs;
use crate::registry::{Client, Observer, ProxySettings, Settings};
use crate::trust::source::RootSource;
use crate::trust::{Keeper, Trust};
use crate::users;

/// The folder within stateDir that is the vetter's to write.
pub const VETTER_STATE: &str = "vetter";
/// TCP connections that take longer are none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests to one registry host at a time; a registry counts a node's requests, and a kubelet's pulls come first.
const PER_HOST: usize = 8;

/// What came of a load.
pub struct Loaded {
    /// To be put in force.
    pub in_force: InForce,
    /// Why the folder's policies are not what is in force, one line.
    pub error: Option<String>,
}

/// Builds the whole new set. `previous` are the policies in force until now, kept if the folder's are bad, and `trusted`
/// the roots. Nothing is enforced where the relay says `audit_because`. The proofs are kept in that configuration's state
/// folder.
///
/// # Errors
/// The text is no configuration, or TLS cannot be set up: nothing may change then.
pub fn load(
    configure: &Configure,
    previous: Option<Arc<PolicySet>>,
    trusted: Option<&Trust>,
    observer: Observer,
    proofs: &Proofs,
) -> Result<Loaded, String> {
    let config = ProxyConfiguration::parse("config.yaml", configure.settings.as_bytes())
        .map_err(|error| error.to_string())?;
    let logins = NodeLogins::new(config.registry.credentials.clone(), None);
    let registry = client(&config, observer, &logins)?;
    // Read beside the policies.
    proofs.persist(&state(&config));
    let (policies, error) = policies(&config, &state(&config), previous);
    let trust = keeper(&config, policies.as_deref().ok(), &registry).load(trusted, SystemTime::now());
    let layouts = Arc::new(Layouts::read(&config.evidence.layouts));
    if !config.evidence.layouts.is_empty() {
        let Summary { layouts, images, faults, .. } = layouts.summary();
        tracing::info!(layouts, images, faults, "evidence layouts were read");
    }
    let mode = if configure.audit_because.is_empty() { config.mode } else { Mode::Audit };
    let trust = Arc::new(trust);
    Ok(Loaded { in_force: InForce { mode, config, policies, registry, trust, logins, layouts }, error })
}

/// A registry client as the configuration says. Mirrors are shown what the node's own `logins` have for them.
///
/// # Errors
/// TLS cannot be set up.
pub fn client(
    config: &ProxyConfiguration,
    observer: Observer,
    logins: &Arc<NodeLogins>,
) -> Result<Arc<Client>, String> {
    let settings = Settings {
        plain_http: config.registry.plain_http.clone(),
        connect_timeout: CONNECT_TIMEOUT.min(config.registry.timeout),
        request_timeout: config.registry.timeout,
        max_concurrent_per_host: PER_HOST,
        user_agent: concat!("crivet/", env!("CARGO_PKG_VERSION")).to_owned(),
        hosts: config.registry.hosts.clone(),
        proxies: ProxySettings::from_variables(|name| std::env::var(name).ok()),
    };
    let client = Client::new(&settings, observer)
        .map_err(|error| format!("the registry client cannot be set up: {error}"))?;
    let logins = Arc::clone(logins);
    let of_mirror = move |host: &str, repository: &str| logins.of_mirror(host, repository);
    Ok(Arc::new(client.with_mirror_credentials(Arc::new(of_mirror))))
}

/// Who keeps the roots of the configuration and of the policies' TrustRoot documents up to date.
pub fn keeper(config: &ProxyConfiguration, policies: Option<&PolicySet>, client: &Arc<Client>) -> Keeper {
    let configured = &config.trust.roots;
    let documents = policies.map(PolicySet::trust_roots).unwrap_or_default().iter();
    let documents = documents.filter(|root| configured.iter().all(|other| other.name != root.name));
    Keeper {
        sources: configured.iter().chain(documents).cloned().collect(),
        refresh_every: config.trust.refresh_every,
        state: state(config),
        client: Arc::clone(client),
    }
}

/// The node's own logins, for a command: credential providers are run as the vetter's user, as the daemon does.
pub fn logins(config: &ProxyConfiguration) -> Arc<NodeLogins> {
    let root = rustix::process::geteuid().is_root();
    let user = config.vetter_user.as_deref().filter(|_| root).and_then(|name| users::find(name).ok());
    NodeLogins::new(config.registry.credentials.clone(), user)
}

fn state(config: &ProxyConfiguration) -> PathBuf {
    config.state_dir.join(VETTER_STATE)
}

/// The folder's policies.
///
/// # Errors
/// Every fault, each one line with file, line and key.
pub fn from_folder(folder: &Path) -> Result<(Arc<PolicySet>, Vec<files::SourceFile>), Vec<String>> {
    let sources = files::read_policy_dir(folder).and_then(files::with_key_files);
    let sources = sources.map_err(|error| vec![error.to_string()])?;
    let set = compile(&sources)?;
    Ok((set, sources))
}

/// Compiles policies.
///
/// # Errors
/// Every fault, each one line with file, line and key.
pub fn compile(sources: &[files::SourceFile]) -> Result<Arc<PolicySet>, Vec<String>> {
    PolicySet::compile(sources)
        .map(Arc::new)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// What configuration and policies say of trusted roots that does not go together, one line each: a TrustRoot document
/// that would take the place of a root that the configuration names, and a policy that names a root nobody has.
pub fn roots_at_fault(configured: &[RootSource], set: &PolicySet) -> Vec<String> {
    let configured: BTreeSet<&str> = configured.iter().map(|root| root.name.as_str()).collect();
    let clashes = set.trust_roots().iter().filter(|root| configured.contains(root.name.as_str()));
    let mut faults: Vec<String> = clashes
        .map(|root| {
            let place = root.document.as_deref().unwrap_or_default();
            format!(
                "{place}: metadata.name: expected another name than in trust.roots, found {}; rename one",
                root.name
            )
        })
        .collect();
    let of_documents = set.trust_roots().iter().map(|root| root.name.as_str());
    let known: BTreeSet<&str> = configured.iter().copied().chain(of_documents).collect();
    for policy in set.policies() {
        for missing in policy.trust_roots().into_iter().filter(|name| !known.contains(name)) {
            let has: Vec<&str> = known.iter().copied().collect();
            faults.push(format!(
                "{}: expected a trusted root of trust.roots or of a TrustRoot document ({}), found {}; add it, or name another",
                policy.source(),
                has.join(", "),
                quoted(missing)
            ));
        }
    }
    faults
}

fn policies(
    config: &ProxyConfiguration,
    state: &Path,
    previous: Option<Arc<PolicySet>>,
) -> (Result<Arc<PolicySet>, String>, Option<String>) {
    let read = from_folder(&config.policy_dir).and_then(|(set, sources)| {
        let faults = roots_at_fault(&config.trust.roots, &set);
        if faults.is_empty() { Ok((set, sources)) } else { Err(faults) }
    });
    let error = match read {
        Ok((set, sources)) => {
            if let Err(error) = files::keep_policies(state, &sources) {
                tracing::error!(%error, "the policies cannot be kept for a start with bad ones");
            }
            return (Ok(set), None);
        }
        Err(faults) => faults.join("; "),
    };
    if let Some(previous) = previous {
        return (Ok(previous), Some(format!("{error}; the policies from before stay in force")));
    }
    let kept = match files::kept_policies(state) {
        Ok(Some(sources)) => compile(&sources).map_err(|faults| faults.join("; ")),
        Ok(None) => Err("none were ever kept".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match kept {
        Ok(set) => (Ok(set), Some(format!("{error}; the last good policies are in force"))),
        Err(kept) => {
            let error = format!(
                "crivet's policies are bad: {error}; no last good ones: {kept}; mend them and reload crivet"
            );
            (Err(error.clone()), Some(error))
        }
    }
}

/// What tells that a policy folder was exchanged whole: where it leads to, and where its `..data` link leads
/// (as Kubernetes volumes turn it). Edits of single files are announced by SIGHUP.
pub fn folder_identity(folder: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
    (std::fs::canonicalize(folder).ok(), std::fs::read_link(folder.join("..data")).ok())
}
