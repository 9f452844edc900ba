//! containers-registries.conf(5), version 2, as containers/image's pkg/sysregistriesv2 reads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::containerd::read;
use super::{Host, HostsError, Material, Operation, Scheme, is_registry};
use crate::image::{Reference, quoted};
use crate::limits::{HOSTS_MIRRORS, REGISTRIES_CONF_ENTRIES};
use crate::registry::host::Endpoint;

/// The entries of registries.conf and its drop-ins, by prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries(BTreeMap<String, Entry>);

/// A `[[registry]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the registry is; empty with a prefix such as `*.example.com`: where the reference says.
    pub location: String,
    /// Whether certificates are not checked, and plain HTTP is spoken where there is no TLS.
    pub insecure: bool,
    /// Whether it is never asked.
    pub blocked: bool,
    /// In order.
    pub mirrors: Vec<Mirror>,
}

/// A `[[registry.mirror]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where it is.
    pub location: String,
    /// As of the registry.
    pub insecure: bool,
    /// Whether it may say what a tag points at.
    pub tags: bool,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    registry: Vec<WrittenRegistry>,
    /// Version 1.
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WrittenRegistry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    pull_from_mirror: Option<String>,
    #[serde(default)]
    mirror: Vec<WrittenMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WrittenMirror {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

/// Reads one file. Keys nobody knows are left alone, and so are those about short names and credential helpers.
///
/// # Errors
/// One line; containers/image then pulls nothing at all.
pub fn parse(bytes: &[u8]) -> Result<Registries, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "expected UTF-8 text".to_owned())?;
    let written: Written = read(text)?;
    if written.registries.is_some() {
        return Err("expected version 2 ([[registry]]), found version 1 ([registries.…])".to_owned());
    }
    let mut all = Registries::default();
    let mut by_location: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for registry in written.registry {
        let (prefix, entry) = registry.check()?;
        let place = if entry.location.is_empty() { prefix.clone() } else { entry.location.clone() };
        let said = (entry.insecure, entry.blocked);
        if *by_location.entry(place.clone()).or_insert(said) != said {
            return Err(format!(
                "expected one word on insecure and blocked for {}, found two that differ",
                quoted(&place)
            ));
        }
        // Of two with the same prefix the first one counts.
        all.0.entry(prefix).or_insert(entry);
    }
    Ok(all)
}

impl WrittenRegistry {
    fn check(self) -> Result<(String, Entry), String> {
        let location = place(&self.location)?;
        let prefix = if self.prefix.is_empty() { location.clone() } else { place(&self.prefix)? };
        let wildcard = prefix.starts_with("*.");
        let at = |why: String| format!("registry {}: {why}", quoted(&prefix));
        if prefix.is_empty() || (location.is_empty() && !wildcard) {
            return Err(at("expected a location".to_owned()));
        }
        if wildcard && prefix.contains(['/', '@', ':']) {
            return Err(at("expected a prefix such as *.example.com".to_owned()));
        }
        if self.pull_from_mirror.is_some_and(|word| !word.is_empty()) {
            return Err(at("pull-from-mirror belongs into a mirror".to_owned()));
        }
        if self.mirror.len() > HOSTS_MIRRORS {
            let found = self.mirror.len();
            return Err(at(format!(
                "expected at most {HOSTS_MIRRORS} mirrors (limit HOSTS_MIRRORS), found {found}"
            )));
        }
        let mut mirrors = Vec::with_capacity(self.mirror.len());
        for mirror in self.mirror {
            let location = place(&mirror.location)?;
            if location.is_empty() {
                return Err(at("expected a mirror to have a location".to_owned()));
            }
            if self.mirror_by_digest_only && !mirror.pull_from_mirror.is_empty() {
                return Err(at("expected mirror-by-digest-only or pull-from-mirror, found both".to_owned()));
            }
            let tags = match mirror.pull_from_mirror.as_str() {
                "" => !self.mirror_by_digest_only,
                "all" | "tag-only" => true,
                "digest-only" => false,
                other => {
                    let found = quoted(other);
                    return Err(at(format!(
                        "pull-from-mirror: expected all, digest-only or tag-only, found {found}"
                    )));
                }
            };
            mirrors.push(Mirror { location, insecure: mirror.insecure, tags });
        }
        Ok((prefix.clone(), Entry { location, insecure: self.insecure, blocked: self.blocked, mirrors }))
    }
}

/// A location or prefix as it is compared.
fn place(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err(format!("expected a location without a scheme, found {}", quoted(text)));
    }
    Ok(text.to_owned())
}

impl Registries {
    /// Puts the entries of a drop-in in the place of those with the same prefix.
    ///
    /// # Errors
    /// Over `REGISTRIES_CONF_ENTRIES`.
    pub fn add(&mut self, drop_in: Registries) -> Result<(), String> {
        self.0.extend(drop_in.0);
        if self.0.len() > REGISTRIES_CONF_ENTRIES {
            let found = self.0.len();
            return Err(format!(
                "expected at most {REGISTRIES_CONF_ENTRIES} registries (limit REGISTRIES_CONF_ENTRIES), found {found}"
            ));
        }
        Ok(())
    }

    /// The entry with the longest prefix of a name, and how many of the name's bytes it matches.
    fn find(&self, name: &str) -> Option<(&str, &Entry, usize)> {
        let matching = self
            .0
            .iter()
            .filter_map(|(prefix, entry)| Some((prefix.as_str(), entry, matched(name, prefix)?)));
        // The first of the longest ones, in the order of their names.
        matching.fold(None, |best: Option<(&str, &Entry, usize)>, next| match best {
            Some(best) if best.0.len() >= next.0.len() => Some(best),
            _ => Some(next),
        })
    }
}

/// How many bytes of `name` (`host[:port]/repository`) a prefix matches. containers/image lets `example.com` match
/// `example.com:5000` too, and so does this.
fn matched(name: &str, prefix: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*').filter(|rest| rest.starts_with('.')) {
        Some(rest) => {
            let at = name.find(rest)?;
            if name.get(..at)?.contains('/') {
                return None;
            }
            at + rest.len()
        }
        None => name.starts_with(prefix).then_some(prefix.len())?,
    };
    let next = name.as_bytes().get(end);
    next.is_none_or(|next| matches!(next, b':' | b'/' | b'@')).then_some(end)
}

fn scheme(authority: &str, insecure: bool, plain_http: &[String]) -> Scheme {
    match (insecure, plain_http.contains(&authority.to_ascii_lowercase())) {
        (true, _) => Scheme::HttpsElseHttp,
        (false, true) => Scheme::Http,
        (false, false) => Scheme::Https,
    }
}

/// registries.conf with the certificates of all hosts.
pub(in crate::registry) struct Loaded {
    pub(super) registries: Registries,
    /// By `host[:port]`.
    pub(super) certificates: BTreeMap<String, Result<Option<Arc<Material>>, String>>,
}

impl Loaded {
    /// The hosts for a registry whose own host is `direct`. Unlike containerd, containers/image speaks TLS on loopback
    /// too, unless it is told not to.
    pub(super) fn hosts(
        &self,
        direct: Host,
        registry: &str,
        operation: Operation,
        plain_http: &[String],
    ) -> Result<Vec<Host>, HostsError> {
        let direct = Host { scheme: scheme(registry, false, plain_http), ..direct };
        let name = format!("{registry}/{}", direct.repository);
        let Some((prefix, entry, matched)) = self.registries.find(&name) else {
            return Ok(vec![self.with_certificates(direct, registry)]);
        };
        let rest = name.get(matched..).unwrap_or_default();
        let mut hosts = Vec::with_capacity(entry.mirrors.len() + 1);
        let mut blocked = None;
        let mut ask = |location: &str, insecure: bool| -> Result<(), HostsError> {
            let there = if location.is_empty() { name.clone() } else { format!("{location}{rest}") };
            if let Some((prefix, ..)) = self.registries.find(&there).filter(|(_, entry, _)| entry.blocked) {
                blocked.get_or_insert_with(|| prefix.to_owned());
                return Ok(());
            }
            let mut host = self.host(&there, &direct, registry)?;
            host.scheme = scheme(&host.authority, insecure, plain_http);
            host.skip_verify = insecure;
            hosts.push(host);
            Ok(())
        };
        for mirror in &entry.mirrors {
            // By digest any mirror will do: what it gives is held against the digest.
            if mirror.tags || operation != Operation::Resolve {
                ask(&mirror.location, mirror.insecure)?;
            }
        }
        if entry.blocked {
            blocked = Some(prefix.to_owned());
        } else {
            ask(&entry.location, entry.insecure)?;
        }
        match blocked {
            Some(prefix) if hosts.is_empty() => Err(HostsError::Blocked { prefix }),
            _ => Ok(hosts),
        }
    }

    /// The host of a rewritten name.
    fn host(&self, name: &str, direct: &Host, registry: &str) -> Result<Host, HostsError> {
        let reference = Reference::parse_as_written(name)
            .map_err(|error| HostsError::Files(format!("registries.conf: {error}")))?;
        let there = reference.registry();
        let host = Host {
            authority: Endpoint::of(there, &[]).authority,
            repository: reference.repository().to_owned(),
            is_registry: is_registry(there, registry),
            ..direct.clone()
        };
        Ok(self.with_certificates(host, there))
    }

    fn with_certificates(&self, host: Host, registry: &str) -> Host {
        match self.certificates.get(registry) {
            Some(material) => Host { material: material.clone(), ..host },
            None => host,
        }
    }

    pub(super) fn troubles(&self) -> Vec<String> {
        self.certificates.values().filter_map(|material| material.clone().err()).collect()
    }

    pub(super) fn unchecked(&self) -> Vec<String> {
        let entries = self.registries.0.iter();
        let own = entries.clone().filter(|(_, entry)| entry.insecure).map(|(prefix, _)| prefix.clone());
        let mirrors = entries.flat_map(|(_, entry)| &entry.mirrors).filter(|mirror| mirror.insecure);
        own.chain(mirrors.map(|mirror| mirror.location.clone())).collect()
    }
}

#[cfg(test)]
#[path = "containers_tests.rs"]
mod tests;
