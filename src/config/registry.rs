//! The section `registry`: how registries are spoken to, and with whose logins.

use std::time::Duration;

use serde::Deserialize;

use super::credential_files::{CredentialProviders, NodeCredentials};
use super::settings::{Check, Text};
use super::units::absolute;
use crate::image::Reference;
use crate::limits;
use crate::registry::HostFiles;
use crate::yaml::Fault;

/// Registry settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Registries (`host[:port]`) spoken to without TLS. Loopback ones always are, if they speak no TLS.
    pub plain_http: Vec<String>,
    /// Longest a single request may take; default 10s.
    pub timeout: Duration,
    /// Where the runtime keeps which hosts stand for a registry; none by default.
    pub hosts: HostFiles,
    /// The node's own logins; none unless configured.
    pub credentials: NodeCredentials,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenRegistry {
    #[serde(default, rename = "plainHTTP")]
    plain_http: Vec<Text>,
    timeout: Option<Text>,
    config_path: Option<Text>,
    registries_conf: Option<Text>,
    #[serde(default)]
    credentials: WrittenCredentials,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenCredentials {
    #[serde(default)]
    docker_configs: Vec<Text>,
    image_credential_provider_config: Option<Text>,
    image_credential_provider_bin_dir: Option<Text>,
}

pub(super) fn check(within: &Check<'_>, written: &WrittenRegistry) -> Result<Registry, Fault> {
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let host = |host| within.of("registry.plainHTTP", host, registry_host);
    Ok(Registry {
        plain_http: written.plain_http.iter().map(host).collect::<Result<_, _>>()?,
        timeout: within.time("registry.timeout", &written.timeout, second * 10, second, hour)?,
        hosts: hosts(within, written)?,
        credentials: credentials(within, &written.credentials)?,
    })
}

fn credentials(within: &Check<'_>, written: &WrittenCredentials) -> Result<NodeCredentials, Fault> {
    const KEY: &str = "registry.credentials";
    if let Some(one_more) = written.docker_configs.get(limits::CREDENTIAL_FILES) {
        let cap = limits::CREDENTIAL_FILES;
        let text = format!("{KEY}.dockerConfigs: expected at most {cap} files (limit CREDENTIAL_FILES)");
        return Err(within.fault_at(one_more, text));
    }
    let of = |path| within.of(&format!("{KEY}.dockerConfigs"), path, absolute);
    let docker_configs = written.docker_configs.iter().map(of).collect::<Result<_, _>>()?;
    let (config, bin_dir) =
        (&written.image_credential_provider_config, &written.image_credential_provider_bin_dir);
    let providers = match (config, bin_dir) {
        (Some(config), Some(bin_dir)) => Some(CredentialProviders {
            config: within.of(&format!("{KEY}.imageCredentialProviderConfig"), config, absolute)?,
            bin_dir: within.of(&format!("{KEY}.imageCredentialProviderBinDir"), bin_dir, absolute)?,
        }),
        (None, None) => None,
        (Some(alone), None) | (None, Some(alone)) => {
            let text = format!(
                "{KEY}: expected imageCredentialProviderConfig and imageCredentialProviderBinDir, found one of them"
            );
            return Err(within.fault_at(alone, text));
        }
    };
    Ok(NodeCredentials { docker_configs, providers })
}

fn hosts(within: &Check<'_>, written: &WrittenRegistry) -> Result<HostFiles, Fault> {
    let folders = |text: &str| text.split(':').map(absolute).collect::<Result<Vec<_>, _>>();
    let config_path = within.optional("registry.configPath", &written.config_path, folders)?;
    let registries_conf = within.optional("registry.registriesConf", &written.registries_conf, absolute)?;
    match (config_path, registries_conf, &written.registries_conf) {
        (Some(_), Some(_), Some(at)) => {
            let text = "registry.registriesConf: expected this or registry.configPath, found both; keep the runtime's";
            Err(within.fault_at(at, text.to_owned()))
        }
        (Some(folders), ..) => Ok(HostFiles::Containerd(folders)),
        (None, Some(file), _) => Ok(HostFiles::Containers(file)),
        (None, None, _) => Ok(HostFiles::None),
    }
}

fn registry_host(text: &str) -> Result<String, String> {
    match Reference::parse_as_written(&format!("{text}/x")) {
        Ok(reference) if reference.registry() == text => Ok(text.to_owned()),
        _ => Err("expected a registry as host or host:port, as in image references".to_owned()),
    }
}
