//! `ProxyConfiguration`: as written, and checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::allowed::{self, InsecureAllowed};
use super::evidence::{self, Evidence, WrittenEvidence};
use super::registry::{self, Registry, WrittenRegistry};
use super::tracing::{self, Tracing, WrittenTracing};
use super::trust::{self, WrittenTrust};
use super::units::{Endpoint, absolute, duration, quantity};
use super::vetting::{self, Vetting, WrittenVetting};
use crate::image::Reference;
use crate::limits;
pub use crate::policy::Mode;
use crate::trust::source::Settings as Trust;
use crate::yaml::{self, Document, Fault};

/// Where policies are kept unless the configuration says otherwise.
const POLICY_DIR: &str = "/etc/crivet/policies.d";
/// Where state is kept unless the configuration says otherwise.
pub(super) const STATE_DIR: &str = "/var/lib/crivet";
const AUDIT_LOG: &str = "/var/log/crivet/audit.jsonl";

/// What happens to an image that no policy covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    /// It is let through.
    Allow,
    /// It is denied.
    Deny,
}

/// The daemon's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfiguration {
    /// The socket the kubelet is pointed at.
    pub listen: Endpoint,
    /// The runtime's socket.
    pub runtime_endpoint: Endpoint,
    /// The socket of the runtime's image service; `runtime_endpoint` unless written.
    pub image_endpoint: Endpoint,
    /// Audit or enforce. Required.
    pub mode: Mode,
    /// Switches from audit to enforce without asking whether the pause image and the static pods would be let through.
    pub force_enforce: bool,
    /// Images no policy covers. Required.
    pub unmatched: Unmatched,
    /// The folder of policies; default `/etc/crivet/policies.d`.
    pub policy_dir: PathBuf,
    /// The folder of state; default `/var/lib/crivet`.
    pub state_dir: PathBuf,
    /// Where metrics are served; off when absent.
    pub metrics_address: Option<SocketAddr>,
    /// The audit log.
    pub audit_log: AuditLog,
    /// The user the vetter runs as; the relay's own when absent.
    pub vetter_user: Option<String>,
    /// How registries are spoken to.
    pub registry: Registry,
    /// How long vetting and its results last.
    pub vetting: Vetting,
    /// The trusted roots, and where they come from.
    pub trust: Trust,
    /// Where evidence is besides registries.
    pub evidence: Evidence,
    /// Where traces go; none when absent.
    pub tracing: Option<Tracing>,
    /// The pause image, where the runtime does not say which one it uses.
    pub pause_image: Option<Reference>,
    /// What enforce mode lets run although nothing holds it to what was vetted.
    pub insecure_allowed: InsecureAllowed,
    /// How long unary calls may still run after SIGTERM; default 5s.
    pub drain_timeout: Duration,
}

/// The audit log's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLog {
    /// The file; default `/var/log/crivet/audit.jsonl`.
    pub path: PathBuf,
    /// Size at which the file is rotated, bytes; default 100Mi.
    pub max_size: u64,
    /// How many rotated files are kept; default 5.
    pub max_backups: u32,
    /// Whether each record is also an entry in the systemd journal; default no.
    pub journal: bool,
}

/// What is wrong with a configuration file, in one line: file, line, key, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {text}")]
pub struct ConfigurationError {
    /// The file as named by the caller.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong.
    pub text: String,
}

#[derive(Deserialize)]
enum ApiVersion {
    #[serde(rename = "crivet.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Deserialize)]
enum Kind {
    ProxyConfiguration,
}

pub(super) type Text = Spanned<String>;

/// The file as written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    listen: Text,
    runtime_endpoint: Text,
    image_endpoint: Option<Text>,
    mode: Mode,
    #[serde(default)]
    force_enforce: bool,
    unmatched: Unmatched,
    policy_dir: Option<Text>,
    state_dir: Option<Text>,
    metrics_address: Option<Text>,
    #[serde(default)]
    audit_log: WrittenAuditLog,
    vetter_user: Option<Text>,
    #[serde(default)]
    registry: WrittenRegistry,
    #[serde(default)]
    vetting: WrittenVetting,
    #[serde(default)]
    trust: WrittenTrust,
    #[serde(default)]
    evidence: WrittenEvidence,
    tracing: Option<WrittenTracing>,
    pause_image: Option<Text>,
    #[serde(default)]
    insecure_allow_unvetted: Vec<Text>,
    #[serde(default)]
    insecure_allow_snapshotters: Vec<Text>,
    #[serde(default)]
    insecure_allow_runtimes: Vec<Text>,
    drain_timeout: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenAuditLog {
    path: Option<Text>,
    max_size: Option<Text>,
    max_backups: Option<Spanned<u32>>,
    #[serde(default)]
    journal: bool,
}

impl ProxyConfiguration {
    /// Reads and checks a configuration file's content; `file` is its name for messages.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, ConfigurationError> {
        let error = |Fault { line, text }| ConfigurationError { file: file.to_owned(), line, text };
        let at_start = |text: String| error(Fault { line: 1, text });
        if bytes.len() > limits::CONFIGURATION_BYTES {
            return Err(at_start(format!(
                "expected at most {} bytes (limit CONFIGURATION_BYTES), found {}",
                limits::CONFIGURATION_BYTES,
                bytes.len()
            )));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| at_start("expected UTF-8 text; save the file as UTF-8".to_owned()))?;
        let documents = yaml::documents(text);
        let [document] = documents.as_slice() else {
            let found = documents.len();
            return Err(at_start(format!("expected one ProxyConfiguration document, found {found}")));
        };
        document.read().and_then(|written| check(document, written)).map_err(error)
    }
}

fn check(document: &Document<'_>, written: Written) -> Result<ProxyConfiguration, Fault> {
    let within = Check { document };
    let listen = within.of("listen", &written.listen, Endpoint::parse)?;
    let runtime_endpoint = within.of("runtimeEndpoint", &written.runtime_endpoint, Endpoint::parse)?;
    let image_endpoint = within
        .optional("imageEndpoint", &written.image_endpoint, Endpoint::parse)?
        .unwrap_or_else(|| runtime_endpoint.clone());
    if listen == runtime_endpoint || listen == image_endpoint {
        let text = "listen: expected another socket than the runtime's, found the same; calls would go round in circles";
        return Err(document.fault_at(&written.listen, text.to_owned()));
    }
    let path_or = |key, value: &Option<Text>, default: &str| {
        Ok::<_, Fault>(within.optional(key, value, absolute)?.unwrap_or_else(|| PathBuf::from(default)))
    };
    let max_backups = match &written.audit_log.max_backups {
        Some(n) if n.value > 1000 => {
            let text = format!("auditLog.maxBackups: expected at most 1000, found {}", n.value);
            return Err(document.fault_at(n, text));
        }
        n => n.as_ref().map_or(5, |n| n.value),
    };
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    Ok(ProxyConfiguration {
        mode: written.mode,
        force_enforce: written.force_enforce,
        unmatched: written.unmatched,
        policy_dir: path_or("policyDir", &written.policy_dir, POLICY_DIR)?,
        state_dir: path_or("stateDir", &written.state_dir, STATE_DIR)?,
        metrics_address: within.optional("metricsAddress", &written.metrics_address, |text| {
            text.parse().map_err(|_| "expected an IP address with port such as 127.0.0.1:9466".to_owned())
        })?,
        audit_log: AuditLog {
            path: path_or("auditLog.path", &written.audit_log.path, AUDIT_LOG)?,
            max_size: within
                .optional("auditLog.maxSize", &written.audit_log.max_size, |text| match quantity(text)? {
                    small if small < 64 << 10 => Err("expected at least 64Ki".to_owned()),
                    bytes => Ok(bytes),
                })?
                .unwrap_or(100 << 20),
            max_backups,
            journal: written.audit_log.journal,
        },
        vetter_user: within.optional("vetterUser", &written.vetter_user, user_name)?,
        registry: registry::check(&within, &written.registry)?,
        vetting: vetting::check(&within, &written.vetting)?,
        trust: trust::check(&within, &written.trust)?,
        evidence: evidence::check(&within, &written.evidence)?,
        tracing: written.tracing.as_ref().map(|written| tracing::check(&within, written)).transpose()?,
        pause_image: within.optional("pauseImage", &written.pause_image, |text| {
            Reference::parse(text).map_err(|error| error.to_string())
        })?,
        insecure_allowed: allowed::check(
            &within,
            &written.insecure_allow_unvetted,
            &written.insecure_allow_snapshotters,
            &written.insecure_allow_runtimes,
        )?,
        drain_timeout: within.time(
            "drainTimeout",
            &written.drain_timeout,
            second * 5,
            Duration::ZERO,
            hour,
        )?,
        listen,
        runtime_endpoint,
        image_endpoint,
    })
}

/// Turns values into runtime types, naming key and line where that fails.
pub(super) struct Check<'a> {
    document: &'a Document<'a>,
}

impl Check<'_> {
    pub(super) fn fault_at<V>(&self, value: &Spanned<V>, text: String) -> Fault {
        self.document.fault_at(value, text)
    }

    pub(super) fn of<T>(
        &self,
        key: &str,
        value: &Text,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Fault> {
        parse(&value.value).map_err(|why| self.document.fault_at(value, format!("{key}: {why}")))
    }

    pub(super) fn optional<T>(
        &self,
        key: &str,
        value: &Option<Text>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Fault> {
        value.as_ref().map(|value| self.of(key, value, parse)).transpose()
    }

    pub(super) fn time(
        &self,
        key: &str,
        value: &Option<Text>,
        default: Duration,
        least: Duration,
        most: Duration,
    ) -> Result<Duration, Fault> {
        Ok(self.some_time(key, value, least, most)?.unwrap_or(default))
    }

    pub(super) fn some_time(
        &self,
        key: &str,
        value: &Option<Text>,
        least: Duration,
        most: Duration,
    ) -> Result<Option<Duration>, Fault> {
        self.optional(key, value, |text| match duration(text)? {
            time if (least..=most).contains(&time) => Ok(time),
            _ => Err(format!("expected {} to {} seconds, found {text}", least.as_secs(), most.as_secs())),
        })
    }
}

fn user_name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if text.is_empty() || text.len() > 32 || text.starts_with('-') || !plain {
        return Err("expected the name of a user of this machine such as crivet".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CredentialProviders, NodeCredentials};
    use crate::registry::HostFiles;

    const VALID: &str = "\
apiVersion: crivet.dev/v1alpha1
kind: ProxyConfiguration
listen: unix:///run/crivet/crivet.sock
runtimeEndpoint: unix:///run/containerd/containerd.sock
mode: audit
unmatched: allow
";

    fn parse(text: &str) -> Result<ProxyConfiguration, String> {
        ProxyConfiguration::parse("config.yaml", text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn least_configuration_has_the_documented_defaults() {
        let read = parse(VALID).unwrap();
        assert_eq!(read.image_endpoint, read.runtime_endpoint);
        assert_eq!((read.mode, read.unmatched), (Mode::Audit, Unmatched::Allow));
        assert_eq!(read.policy_dir, PathBuf::from("/etc/crivet/policies.d"));
        assert_eq!(read.state_dir, PathBuf::from("/var/lib/crivet"));
        assert_eq!((read.metrics_address, &read.vetter_user, &read.pause_image), (None, &None, &None));
        assert!(!read.force_enforce);
        assert_eq!((read.audit_log.max_size, read.audit_log.max_backups), (100 << 20, 5));
        assert!(!read.audit_log.journal);
        assert_eq!((read.registry.plain_http, read.registry.hosts), (Vec::new(), HostFiles::None));
        assert_eq!(read.registry.credentials, NodeCredentials::default());
        assert_eq!(read.vetting.fresh_for, Duration::from_secs(3600));
        assert_eq!(read.vetting.usable_when_registry_down, None);
        assert_eq!(read.drain_timeout, Duration::from_secs(5));
    }

    #[test]
    fn every_key_is_read() {
        let read = parse(&format!(
            "{VALID}imageEndpoint: unix:///run/images.sock\npolicyDir: /p\nstateDir: /s\nmetricsAddress: 127.0.0.1:9466\n\
             auditLog: {{path: /a.jsonl, maxSize: 1Mi, maxBackups: 2, journal: true}}\nvetterUser: crivet\n\
             registry: {{plainHTTP: ['reg.local:5000'], timeout: 3s, configPath: '/etc/containerd/certs.d:/etc/docker/certs.d',\
              credentials: {{dockerConfigs: [/c.json],\
              imageCredentialProviderConfig: /p.yaml, imageCredentialProviderBinDir: /bin}}}}\n\
             vetting: {{timeout: 20s, freshFor: 2h, usableWhenVetterDown: 1h, usableWhenRegistryDown: 0s}}\n\
             pauseImage: registry.k8s.io/pause:3.10\ndrainTimeout: 10s\nforceEnforce: true\n\
             tracing: {{endpoint: 'otel:4317', samplingRatePerMillion: 7}}\n"
        ))
        .unwrap();
        assert_eq!(read.image_endpoint, Endpoint::parse("unix:///run/images.sock").unwrap());
        assert_eq!((read.policy_dir, read.state_dir), (PathBuf::from("/p"), PathBuf::from("/s")));
        assert_eq!(read.metrics_address.unwrap().port(), 9466);
        let log =
            AuditLog { path: PathBuf::from("/a.jsonl"), max_size: 1 << 20, max_backups: 2, journal: true };
        assert_eq!((read.audit_log, read.vetter_user.as_deref()), (log, Some("crivet")));
        let timeout = Duration::from_secs(3);
        let providers =
            CredentialProviders { config: PathBuf::from("/p.yaml"), bin_dir: PathBuf::from("/bin") };
        let credentials =
            NodeCredentials { docker_configs: vec![PathBuf::from("/c.json")], providers: Some(providers) };
        let plain_http = vec!["reg.local:5000".to_owned()];
        let roots = [PathBuf::from("/etc/containerd/certs.d"), PathBuf::from("/etc/docker/certs.d")];
        let hosts = HostFiles::Containerd(roots.to_vec());
        assert_eq!(read.registry, Registry { plain_http, timeout, hosts, credentials });
        let registries = parse(&format!("{VALID}registry: {{registriesConf: /r.conf}}\n")).unwrap();
        assert_eq!(registries.registry.hosts, HostFiles::Containers(PathBuf::from("/r.conf")));
        assert_eq!(read.vetting.timeout, Duration::from_secs(20));
        assert_eq!(read.vetting.fresh_for, Duration::from_secs(7200));
        assert_eq!(read.vetting.usable_when_vetter_down, Duration::from_secs(3600));
        assert_eq!(read.vetting.usable_when_registry_down, Some(Duration::ZERO));
        assert_eq!(read.pause_image.unwrap().to_string(), "registry.k8s.io/pause:3.10");
        assert_eq!(read.drain_timeout, Duration::from_secs(10));
        let tracing = Tracing { endpoint: "otel:4317".to_owned(), sampling_rate_per_million: 7 };
        assert_eq!(read.tracing, Some(tracing));
        let tracing = parse(&format!("{VALID}tracing: {{}}\n")).unwrap().tracing.unwrap();
        assert_eq!((tracing.endpoint.as_str(), tracing.sampling_rate_per_million), ("localhost:4317", 0));
        assert!(read.force_enforce);
    }

    #[test]
    fn each_break_of_a_valid_file_is_named_with_file_line_and_key() {
        for (from, to, expected) in [
            ("mode: audit\n", "", "config.yaml:5: missing field `mode`"),
            ("unmatched: allow\n", "", "config.yaml:5: missing field `unmatched`"),
            (
                "mode: audit",
                "mode: Audit",
                "config.yaml:5: mode: unknown variant `Audit`, expected one of audit, enforce",
            ),
            ("mode: audit", "mode:", "config.yaml:5: mode: "),
            ("mode: audit", "mode: audit\nmode: enforce", "config.yaml:6: duplicate mapping key: mode"),
            ("mode: audit", "mode: audit\nmod: x", "config.yaml:6: unknown field `mod`"),
            ("v1alpha1", "v9", "config.yaml:1: apiVersion: unknown variant"),
            ("ProxyConfiguration", "Other", "config.yaml:2: kind: unknown variant"),
            (
                "unix:///run/crivet",
                "/run/crivet",
                "config.yaml:3: listen: expected a socket as unix:///run/name.sock",
            ),
            (
                "run/crivet/crivet",
                "run/containerd/containerd",
                "config.yaml:3: listen: expected another socket",
            ),
            ("kind:", "---\nkind:", "expected one ProxyConfiguration document, found 2"),
        ] {
            let error = parse(&VALID.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{to}: {error}");
        }
        for (line, key) in [
            ("stateDir: var", "stateDir: expected an absolute path"),
            ("metricsAddress: localhost", "metricsAddress: expected an IP address"),
            ("vetterUser: '-x'", "vetterUser: "),
            ("pauseImage: 'A B'", "pauseImage: "),
            ("drainTimeout: 5", "drainTimeout: expected a duration"),
            ("auditLog: {maxSize: 1}", "auditLog.maxSize: expected at least 64Ki"),
            ("auditLog: {maxBackups: 1001}", "auditLog.maxBackups: expected at most 1000"),
            ("registry: {plainHTTP: ['http://x']}", "registry.plainHTTP: expected a registry"),
            ("registry: {configPath: certs.d}", "registry.configPath: expected an absolute path"),
            ("registry: {configPath: '/a:'}", "registry.configPath: expected an absolute path"),
            ("registry: {configPath: /a, registriesConf: /b}", "registry.registriesConf: expected this or"),
            (
                "registry: {credentials: {dockerConfigs: [config.json]}}",
                "registry.credentials.dockerConfigs: expected an absolute path",
            ),
            (
                "registry: {credentials: {dockerConfigs: [/1, /2, /3, /4, /5, /6, /7, /8, /9]}}",
                "registry.credentials.dockerConfigs: expected at most 8 files (limit CREDENTIAL_FILES)",
            ),
            (
                "registry: {credentials: {imageCredentialProviderConfig: /p.yaml}}",
                "registry.credentials: expected imageCredentialProviderConfig and imageCredentialProviderBinDir",
            ),
            ("vetting: {timeout: 0s}", "vetting.timeout: expected 1 to 3600 seconds"),
            ("vetting: {usableWhenRegistryDown: 8761h}", "vetting.usableWhenRegistryDown: expected 0 to"),
            ("vetting: {other: 0s}", "unknown field `other`"),
            ("tracing: {endpoint: 'http://x:1'}", "tracing.endpoint: expected a collector's"),
            ("tracing: {endpoint: x}", "tracing.endpoint: expected a collector's"),
            ("tracing: {endpoint: 'user:secret@x:1'}", "tracing.endpoint: expected a collector's"),
            (
                "tracing: {samplingRatePerMillion: 1000001}",
                "tracing.samplingRatePerMillion: expected at most",
            ),
        ] {
            let error = parse(&format!("{VALID}{line}\n")).unwrap_err();
            assert!(error.contains("config.yaml:7: ") && error.contains(key), "{line}: {error}");
        }
    }
}
