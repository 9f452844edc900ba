//! containerd's registry hosts: a folder per registry with a `hosts.toml`, else certificates as docker lays them out.
//! Read as containerd's core/remotes/docker/config/hosts.go reads them (2.x); docs/registries.md says where not.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::{API, Host, HostsError, Material, Operation, Scheme, TlsFiles, is_registry};
use crate::image::quoted;
use crate::limits::HOSTS_MIRRORS;
use crate::registry::host::canonical;

/// What stands in a registry's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// In order; the last one is the server.
    pub entries: Vec<Entry>,
}

/// One host of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is; `None`: the registry itself.
    pub location: Option<Location>,
    /// Whether bytes may be had by digest.
    pub pull: bool,
    /// Whether it may say what a tag points at.
    pub resolve: bool,
    /// Whether it may list referrers.
    pub referrers: bool,
    /// Files for TLS.
    pub tls: TlsFiles,
    /// Headers of each request.
    pub headers: Vec<(String, String)>,
    /// For a TCP connection.
    pub dial_timeout: Option<Duration>,
}

/// An URL of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// `http` or not.
    pub plain: bool,
    /// `host[:port]`
    pub authority: String,
    /// Of the API, without a slash at its end.
    pub path: String,
}

/// The folders within one root, by name; why one cannot be used.
pub(in crate::registry) type Root = BTreeMap<String, Result<Vec<Loaded>, String>>;

/// An entry with its certificates.
pub(in crate::registry) struct Loaded {
    pub(super) entry: Entry,
    pub(super) material: Result<Option<Arc<Material>>, String>,
}

/// The folder names that are tried for a registry, in order; the first one that is there counts.
fn folders(registry: &str) -> Vec<String> {
    let with_port = registry.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let without_colon = with_port.map(|(host, port)| format!("{host}_{port}_"));
    without_colon.into_iter().chain([registry.to_owned(), "_default".to_owned()]).collect()
}

/// What is known without `hosts.toml`: the registry itself, with these certificates.
pub(super) fn with_certificates(tls: TlsFiles) -> Folder {
    let entry = Entry {
        location: None,
        pull: true,
        resolve: true,
        referrers: true,
        tls,
        headers: Vec::new(),
        dial_timeout: None,
    };
    Folder { entries: vec![entry] }
}

#[derive(Deserialize)]
struct Written {
    server: Option<String>,
    #[serde(default)]
    host: HashMap<Spanned<String>, WrittenHost>,
}

#[derive(Deserialize)]
struct WrittenHost {
    #[serde(default)]
    capabilities: Vec<String>,
    ca: Option<Value>,
    client: Option<Value>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, Value>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    dial_timeout: String,
}

/// Reads a `hosts.toml`. Paths in it are relative to its folder `dir`. Keys nobody knows are left alone, as containerd
/// does.
///
/// # Errors
/// One line. containerd then goes on as if there were no such file.
pub fn parse(bytes: &[u8], dir: &Path) -> Result<Folder, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "expected UTF-8 text".to_owned())?;
    let written: Written = read(text)?;
    let root: WrittenHost = read(text)?;
    let mut hosts: Vec<_> = written.host.into_iter().collect();
    // The order of the file is the order of trying.
    hosts.sort_by_key(|(name, _)| name.span().start);
    if hosts.len() > HOSTS_MIRRORS {
        return Err(format!(
            "expected at most {HOSTS_MIRRORS} hosts (limit HOSTS_MIRRORS), found {}",
            hosts.len()
        ));
    }
    let mut entries = Vec::with_capacity(hosts.len() + 1);
    for (name, host) in hosts {
        let name = name.into_inner();
        let entry = entry(Some(&name), host, dir).map_err(|why| format!("host {}: {why}", quoted(&name)))?;
        entries.push(entry);
    }
    let server = written.server.filter(|server| !server.is_empty());
    entries.push(entry(server.as_deref(), root, dir)?);
    Ok(Folder { entries })
}

/// The TOML reader's messages have several lines, and quote the file: of them only the first line is told.
pub(super) fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.bytes().filter(|byte| *byte == b'\n').count() + 1);
        format!("line {line}: {}", quoted(error.message()))
    })
}

fn entry(url: Option<&str>, written: WrittenHost, dir: &Path) -> Result<Entry, String> {
    let location = url.map(|url| location(url, written.override_path)).transpose()?;
    let (mut pull, mut resolve, mut referrers) = (false, false, false);
    for capability in &written.capabilities {
        match capability.to_ascii_lowercase().as_str() {
            "pull" => pull = true,
            "resolve" => resolve = true,
            "referrers" => referrers = true,
            "push" => {}
            _ => {
                return Err(format!(
                    "expected capabilities pull, resolve, push, referrers, found {}",
                    quoted(capability)
                ));
            }
        }
    }
    // Without the server's URL containerd takes nothing but TLS and headers from beside it.
    if written.capabilities.is_empty() || location.is_none() {
        (pull, resolve, referrers) = (true, true, true);
    }
    let path = |text: &str| dir.join(text);
    let ca = match &written.ca {
        None => Vec::new(),
        Some(Value::String(one)) => vec![path(one)],
        Some(Value::Array(all)) => {
            all.iter().map(|one| text("ca", one).map(path)).collect::<Result<_, _>>()?
        }
        Some(_) => return Err("ca: expected a file's name or a list of them".to_owned()),
    };
    let pair = |value: &Value| match value {
        Value::Array(pair) => match pair.as_slice() {
            [certificate, key] => Ok((path(text("client", certificate)?), Some(path(text("client", key)?)))),
            _ => Err("client: expected pairs of a certificate and a key".to_owned()),
        },
        one => Ok((path(text("client", one)?), None)),
    };
    let client = match &written.client {
        None => Vec::new(),
        Some(Value::Array(all)) => all.iter().map(pair).collect::<Result<_, String>>()?,
        Some(one) => vec![pair(one)?],
    };
    let mut headers = Vec::new();
    for (name, value) in &written.header {
        match value {
            Value::Array(all) => {
                for value in all {
                    headers.push((name.clone(), text("header", value)?.to_owned()));
                }
            }
            one => headers.push((name.clone(), text("header", one)?.to_owned())),
        }
    }
    for (name, value) in &headers {
        let good = http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok();
        if !good {
            return Err(format!("header: expected a header of HTTP, found {}", quoted(name)));
        }
    }
    let dial_timeout = match written.dial_timeout.as_str() {
        "" => None,
        text => Some(duration(text).ok_or("dial_timeout: expected a duration such as 3s")?),
    };
    let tls = TlsFiles { ca, client, skip_verify: written.skip_verify };
    Ok(Entry { location, pull, resolve, referrers, tls, headers, dial_timeout })
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{key}: expected text"))
}

fn location(url: &str, override_path: bool) -> Result<Location, String> {
    let bad = || "expected a host or an URL with http or https".to_owned();
    let url = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let plain = match uri.scheme_str() {
        Some("http") => true,
        Some("https") => false,
        _ => return Err(bad()),
    };
    let authority =
        uri.authority().filter(|a| !a.host().is_empty() && !a.as_str().contains('@')).ok_or_else(bad)?;
    let mut path = clean(uri.path());
    if !override_path && !path.ends_with(API) {
        path.push_str(API);
    }
    Ok(Location { plain, authority: canonical(&authority.as_str().to_ascii_lowercase()).to_owned(), path })
}

/// Go's `path.Clean` of an absolute path, without the slash that is left of the root.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.iter().map(|part| format!("/{part}")).collect()
}

/// Go's `time.ParseDuration`, without a sign.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut all) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        all = all.checked_add(part)?;
        rest = next;
    }
    (!text.is_empty()).then_some(all)
}

/// The hosts for a registry whose own host is `direct`.
pub(super) fn hosts(
    roots: &[Root],
    direct: Host,
    registry: &str,
    operation: Operation,
) -> Result<Vec<Host>, HostsError> {
    let names = folders(registry);
    let Some(folder) = roots.iter().find_map(|root| names.iter().find_map(|name| root.get(name))) else {
        return Ok(vec![direct]);
    };
    let loaded = folder.as_ref().map_err(|why| HostsError::Files(why.clone()))?;
    let able = |entry: &Entry| match operation {
        Operation::Resolve => entry.pull && entry.resolve,
        Operation::Pull => entry.pull,
        Operation::Evidence => entry.pull || entry.referrers,
    };
    let hosts: Vec<_> =
        loaded.iter().filter(|l| able(&l.entry)).map(|loaded| host(loaded, &direct, registry)).collect();
    if hosts.is_empty() {
        let lacking = if operation == Operation::Resolve { "resolve" } else { "pull" };
        return Err(HostsError::Incapable(lacking));
    }
    Ok(hosts)
}

fn host(loaded: &Loaded, direct: &Host, registry: &str) -> Host {
    let Loaded { entry, material } = loaded;
    let here = Host {
        headers: entry.headers.clone().into(),
        dial_timeout: entry.dial_timeout,
        material: material.clone(),
        skip_verify: entry.tls.skip_verify.unwrap_or(false),
        ..direct.clone()
    };
    let mut host = match &entry.location {
        None => here,
        Some(location) => {
            let is_registry = is_registry(&location.authority, registry);
            Host {
                scheme: if location.plain { Scheme::Http } else { Scheme::Https },
                authority: location.authority.clone(),
                path: location.path.clone(),
                namespace: (!is_registry).then(|| registry.to_owned()),
                is_registry,
                ..here
            }
        }
    };
    // What is said about TLS would be pointless otherwise. Port 80 is beyond doubt.
    if host.scheme == Scheme::Http && entry.tls.is_said() && !host.authority.ends_with(":80") {
        host.scheme = Scheme::HttpsElseHttp;
    }
    host
}

pub(super) fn troubles(roots: &[Root]) -> Vec<String> {
    let of_entries = |all: &Vec<Loaded>| all.iter().filter_map(|l| l.material.clone().err()).collect();
    let of = |folder: &Result<Vec<Loaded>, String>| {
        folder.as_ref().map_or_else(|why| vec![why.clone()], of_entries)
    };
    roots.iter().flat_map(|root| root.values()).flat_map(of).collect()
}

pub(super) fn unchecked(roots: &[Root]) -> Vec<String> {
    let folders = roots.iter().flat_map(|root| root.iter());
    let entries = folders.filter_map(|(name, folder)| Some((name, folder.as_ref().ok()?)));
    let unchecked = entries.flat_map(|(name, all)| {
        let skipping = all.iter().filter(|loaded| loaded.entry.tls.skip_verify == Some(true));
        skipping.map(move |l| l.entry.location.as_ref().map_or(name, |at| &at.authority).clone())
    });
    unchecked.collect()
}

#[cfg(test)]
#[path = "containerd_tests.rs"]
mod tests;
