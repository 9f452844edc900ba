//! containers-policy.json(5): one file for the node, and as CRI-O has them one for each of some namespaces instead.

mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_saphyr::Spanned;

use self::written::{Pki, Ways, Written, WrittenIdentity, WrittenRequirement};
use super::model::{Kind, Labels, Need, Place, Policy, Rule, SourceFile};
use super::native::is_namespace;
use super::scope;
use super::signed_identity::SignedIdentity;
use super::signers::Text;
use super::sigstore_signed::{By, Pem, at_most, email, requirement};
use crate::image::{json, quoted};
use crate::limits;
use crate::trust::source::RootSource;
use crate::yaml::{self, Document, Fault, Filled};

/// The folder within policyDir with a file for each of some namespaces: CRI-O's `signature_policy_dir`.
pub const NAMESPACES: &str = "namespaces";

/// The transport of everything that a runtime pulls.
const DOCKER: &str = "docker";

/// The type of requirement that has keys.
const SIGSTORE_SIGNED: &str = "sigstoreSigned";

/// Why an image that the pod names by ID, or not at all, is denied in a namespace with a file of its own.
const NAMELESS: &str = "the file of a namespace is for images that pods name by their repository";

/// The others that containers/image has (containers-transports(5)). No image comes to a CRI by them.
const OTHER_TRANSPORTS: [&str; 9] = [
    "atomic",
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "sif",
    "tarball",
];

/// Files that policies name by path: contents by path.
pub(super) type Materials<'a> = BTreeMap<&'a str, &'a [u8]>;

/// One file, compiled.
pub(super) struct Compiled {
    /// The namespace it is for; `None`: all that have no file of their own.
    pub namespace: Option<String>,
    /// Its policies, each with its scope in comparable form; one is for everything.
    pub policies: Vec<(String, Policy)>,
    /// Trusted roots made of its keys.
    pub roots: Vec<RootSource>,
}

/// Whether a policy file is of this dialect: in the folder of namespaces, or JSON that is no document of Kubernetes.
pub(super) fn is_one(file: &str, text: &str) -> bool {
    let in_folder = file.strip_prefix(NAMESPACES).is_some_and(|rest| rest.starts_with('/'));
    // Kubernetes has it in every document, this dialect has no such field.
    in_folder || file.ends_with(".json") && !text.contains("apiVersion")
}

/// The files whose keys and certificates these policies use, and where each is first named, `file:line`. What is wrong with a
/// policy is for who compiles it.
pub fn key_files<'a>(files: impl IntoIterator<Item = &'a SourceFile>) -> BTreeMap<String, String> {
    let mut paths = BTreeMap::new();
    for file in files {
        let Ok(text) = std::str::from_utf8(&file.bytes) else { continue };
        if !is_one(&file.name, text) {
            continue;
        }
        let text = without_tabs(text);
        let documents = yaml::documents(&text);
        let [document] = documents.as_slice() else { continue };
        let Ok(mut written) = document.read::<Written>() else { continue };
        let docker = written.transports.remove(DOCKER).into_iter();
        let docker = docker.flat_map(|scopes| scopes.value.into_values());
        let requirements = docker.chain([written.default]).flat_map(|list| list.value);
        for requirement in requirements.filter(|requirement| requirement.r#type.value == SIGSTORE_SIGNED) {
            for path in requirement.paths().filter(|path| path.value.starts_with('/')) {
                let place = || format!("{}:{}", file.name, document.line_of(path));
                paths.entry(path.value.clone()).or_insert_with(place);
            }
        }
    }
    paths
}

/// Between tokens, where alone JSON has them, tabs are spaces; the reader of YAML has rules of its own for them.
fn without_tabs(text: &str) -> String {
    text.replace('\t', " ")
}

/// Compiles a file.
pub(super) fn compile(file: &str, text: &str, materials: &Materials<'_>) -> Result<Compiled, Vec<Fault>> {
    let namespace = namespace(file).map_err(|text| vec![Fault { line: 1, text }])?;
    // Whoever else reads the file reads JSON: what is none, or has a key twice, is refused here as there.
    if let Err(error) = json::parse(text.as_bytes(), "POLICY_SET_BYTES", limits::POLICY_SET_BYTES) {
        let line = error.line().map_or(1, |line| line as u64);
        return Err(vec![Fault { line, text: format!("expected a containers-policy.json: {error}") }]);
    }
    let text = without_tabs(text);
    let documents = yaml::documents(&text);
    let [document] = documents.as_slice() else {
        let text = "expected one containers-policy.json, found several documents; keep one".to_owned();
        return Err(vec![Fault { line: 1, text }]);
    };
    let read = document.read::<Filled>().and_then(|Filled| document.read());
    let written: Written = read.map_err(|fault| vec![fault])?;
    let mut reader = Reader { document, file, materials, roots: Vec::new(), faults: Vec::new() };
    let mut policies = Vec::new();
    let mut add =
        |reader: &mut Reader<'_>, scope: String, name: &str, list: &Spanned<Vec<WrittenRequirement>>| {
            if let Some(rule) = reader.rule(list) {
                policies.push((scope, reader.policy(name, rule, namespace.clone(), list)));
            }
        };
    let mut covers_all = false;
    for (transport, scopes) in &written.transports {
        if OTHER_TRANSPORTS.contains(&transport.as_str()) {
            continue;
        }
        if transport != DOCKER {
            let known = OTHER_TRANSPORTS.join(", ");
            let text = format!("transports: expected {DOCKER}, {known}, found {}", quoted(transport));
            reader.faults.push(document.fault_at(scopes, text));
            continue;
        }
        for (written, list) in &scopes.value {
            if written == scope::ALL {
                covers_all = true;
                add(&mut reader, scope::ALL.to_owned(), DOCKER, list);
                continue;
            }
            match scope::parse(written) {
                Ok(scope) => add(&mut reader, scope, written, list),
                Err(why) => {
                    let text = format!("transports.{DOCKER}: {why}");
                    reader.faults.push(document.fault_at(list, text));
                }
            }
        }
    }
    // Where the transport has a default of its own, no image that a runtime pulls comes to the file's.
    if covers_all {
        reader.rule(&written.default);
    } else {
        add(&mut reader, scope::ALL.to_owned(), "default", &written.default);
    }
    if namespace.is_some() {
        // CRI-O cannot look such an image up, and makes no container of it (verifyImageSignature).
        let rule = Rule::Deny { reason: NAMELESS.to_owned() };
        let policy = reader.policy("without a name", rule, namespace.clone(), &written.default);
        policies.push((scope::NAMELESS.to_owned(), policy));
    }
    let Reader { roots, faults, .. } = reader;
    if faults.is_empty() { Ok(Compiled { namespace, policies, roots }) } else { Err(faults) }
}

/// The namespace a file is for.
fn namespace(file: &str) -> Result<Option<String>, String> {
    let Some(name) = file.strip_prefix(NAMESPACES).and_then(|rest| rest.strip_prefix('/')) else {
        return Ok(None);
    };
    match name.strip_suffix(".json").filter(|name| is_namespace(name)) {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(format!(
            "expected <namespace>.json with a containers-policy.json in the folder {NAMESPACES}, found {}; move it to policyDir itself, or rename it",
            quoted(name)
        )),
    }
}

struct Reader<'a> {
    document: &'a Document<'a>,
    file: &'a str,
    materials: &'a Materials<'a>,
    roots: Vec<RootSource>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn policy(
        &self,
        name: &str,
        rule: Rule,
        namespace: Option<String>,
        list: &Spanned<Vec<WrittenRequirement>>,
    ) -> Policy {
        Policy {
            kind: Kind::ContainersPolicy,
            // No name of Kubernetes has this sign.
            name: format!("{}#{name}", self.file),
            source: format!("{}:{}", self.file, self.document.line_of(list)),
            mode: None,
            namespaces: namespace.map(|namespace| BTreeSet::from([namespace])),
            places: vec![Place::OWN],
            recheck: None,
            layers_checked_within: None,
            exemptions: Vec::new(),
            pod_labels: Labels::new(),
            rule,
        }
    }

    /// All of the requirements.
    fn rule(&mut self, list: &Spanned<Vec<WrittenRequirement>>) -> Option<Rule> {
        if list.value.is_empty() || list.value.len() > limits::POLICY_REQUIREMENTS {
            let text = format!(
                "expected one to {} requirements (limit POLICY_REQUIREMENTS), found {}; write insecureAcceptAnything or reject where nothing is asked for",
                limits::POLICY_REQUIREMENTS,
                list.value.len()
            );
            self.faults.push(self.document.fault_at(list, text));
            return None;
        }
        let before = self.faults.len();
        let (mut needs, mut rejects) = (Vec::new(), false);
        for written in &list.value {
            match written.r#type.value.as_str() {
                "insecureAcceptAnything" => self.bare(written),
                "reject" => {
                    self.bare(written);
                    rejects = true;
                }
                SIGSTORE_SIGNED => match self.sigstore_signed(written) {
                    Ok(need) => needs.push(need),
                    Err(fault) => self.faults.push(fault),
                },
                "signedBy" => self.fault(
                    &written.r#type,
                    "signedBy: crivet verifies no GPG signatures; sign with cosign and write sigstoreSigned",
                ),
                other => {
                    let text = format!(
                        "type: expected sigstoreSigned, insecureAcceptAnything or reject, found {}",
                        quoted(other)
                    );
                    self.fault(&written.r#type, text);
                }
            }
        }
        if self.faults.len() > before {
            return None;
        }
        Some(if rejects {
            Rule::Deny { reason: "reject".to_owned() }
        } else if needs.is_empty() {
            Rule::Accept { reason: "insecureAcceptAnything".to_owned() }
        } else {
            Rule::Requires(Need::All(needs))
        })
    }

    fn fault<V>(&mut self, at: &Spanned<V>, text: impl fmt::Display) {
        self.faults.push(self.document.fault_at(at, text.to_string()));
    }

    fn bare(&mut self, written: &WrittenRequirement) {
        if !written.is_bare() {
            let kind = &written.r#type.value;
            self.fault(
                &written.r#type,
                format!("{kind}: expected no field but type, found others; remove them"),
            );
        }
    }

    fn sigstore_signed(&mut self, written: &WrittenRequirement) -> Result<Need, Fault> {
        let at = |text: &str| self.document.fault_at(&written.r#type, format!("sigstoreSigned: {text}"));
        if written.key_type.is_some() {
            return Err(at("unknown field `keyType`; remove it"));
        }
        let keys = self.pems("key", written.keys(), &written.r#type)?;
        let logs = self.pems("rekorPublicKey", written.logs(), &written.r#type)?;
        let by = match (keys, &written.fulcio, &written.pki) {
            (Some(keys), None, None) => By::Keys(keys),
            (None, Some(_), None) if logs.is_none() => {
                return Err(at("fulcio: expected a Rekor key beside it, found none; add rekorPublicKeyData"));
            }
            (None, Some(fulcio), None) => By::Fulcio {
                authorities: self
                    .pem("fulcio.ca", (&fulcio.ca_path, &fulcio.ca_data), &fulcio.issuer)?
                    .ok_or_else(|| at("fulcio: expected caPath or caData, found neither"))?,
                issuer: self.text("fulcio.oidcIssuer", &fulcio.issuer)?,
                email: email(self.document, "fulcio.subjectEmail", &fulcio.subject_email)?,
            },
            (None, None, Some(_)) if logs.is_some() => {
                return Err(at("pki: expected no Rekor key beside it, found one; remove it"));
            }
            (None, None, Some(pki)) => self.pki(pki, &written.r#type)?,
            _ => {
                return Err(at(
                    "expected exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki, found none or several; keep one",
                ));
            }
        };
        let identity = match &written.signed_identity {
            None => SignedIdentity::RepoDigestOrExact,
            Some(identity) => self.signed_identity(identity)?,
        };
        let logs = logs.unwrap_or_default();
        requirement(self.document, self.file, (by, &logs, identity), &mut self.roots).map(Need::One)
    }

    fn pki<'a>(&self, pki: &'a Pki, at: &'a Text) -> Result<By<'a>, Fault> {
        let roots = self.pem("pki.caRoots", (&pki.ca_roots_path, &pki.ca_roots_data), at)?;
        let intermediates =
            self.pem("pki.caIntermediates", (&pki.ca_intermediates_path, &pki.ca_intermediates_data), at)?;
        let address = pki.subject_email.as_ref();
        let address = address.map(|address| email(self.document, "pki.subjectEmail", address)).transpose()?;
        let hostname = pki.subject_hostname.as_ref();
        let hostname = hostname.map(|name| self.text("pki.subjectHostname", name)).transpose()?;
        if address.is_none() && hostname.is_none() {
            let text = "pki: expected subjectEmail, subjectHostname or both, found neither; write one";
            return Err(self.document.fault_at(at, text.to_owned()));
        }
        let roots = roots.ok_or_else(|| {
            let text = "pki: expected caRootsPath or caRootsData, found neither".to_owned();
            self.document.fault_at(at, text)
        })?;
        Ok(By::Pki { roots, intermediates, email: address, hostname })
    }

    fn text<'a>(&self, key: &str, written: &'a Text) -> Result<&'a Text, Fault> {
        match written.value.as_str() {
            "" => Err(self.document.fault_at(written, format!("{key}: expected a text, found an empty one"))),
            _ => Ok(written),
        }
    }

    /// The keys of one kind, written in one of four ways; `None`: in none.
    fn pems<'a>(&self, key: &str, ways: Ways<'a>, at: &Text) -> Result<Option<Vec<Pem<'a>>>, Fault> {
        let Ways { path, paths, data, datas } = ways;
        let written = [path.is_some(), paths.is_some(), data.is_some(), datas.is_some()];
        match written.into_iter().filter(|way| *way).count() {
            0 => return Ok(None),
            1 => {}
            _ => {
                let text = format!(
                    "{key}Path: expected one of {key}Path, {key}Paths, {key}Data and {key}Datas, found several; keep one"
                );
                return Err(self.document.fault_at(at, text));
            }
        }
        let all = |list: Option<&'a Vec<Text>>, single: Option<&'a Text>| {
            list.into_iter().flatten().chain(single).collect::<Vec<_>>()
        };
        let (read, written) = (all(paths, path), all(datas, data));
        at_most(self.document, at, &format!("{key}Data"), read.len() + written.len())?;
        let read = read.into_iter().map(|path| self.file(&format!("{key}Path"), path));
        let written =
            written.into_iter().map(|data| Pem::encoded(&format!("{key}Data"), data, self.document));
        read.chain(written).collect::<Result<_, _>>().map(Some)
    }

    /// One PEM text, written in one of two ways; `None`: in neither.
    fn pem<'a>(
        &self,
        key: &str,
        (path, data): (&'a Option<Text>, &'a Option<Text>),
        at: &Text,
    ) -> Result<Option<Pem<'a>>, Fault> {
        match (path, data) {
            (None, None) => Ok(None),
            (Some(path), None) => self.file(&format!("{key}Path"), path).map(Some),
            (None, Some(data)) => Pem::encoded(&format!("{key}Data"), data, self.document).map(Some),
            (Some(_), Some(_)) => {
                let text = format!("{key}Path: expected {key}Path or {key}Data, found both; keep one");
                Err(self.document.fault_at(at, text))
            }
        }
    }

    /// PEM in a file that was read beside the policies.
    fn file<'a>(&self, key: &str, path: &'a Text) -> Result<Pem<'a>, Fault> {
        let fault = |text: String| self.document.fault_at(path, format!("{key}: {text}"));
        if !path.value.starts_with('/') {
            return Err(fault(format!("expected an absolute path, found {}", quoted(&path.value))));
        }
        let bytes = self.materials.get(path.value.as_str()).ok_or_else(|| {
            fault(format!("the file {} was not read; write its content, base64-encoded", quoted(&path.value)))
        })?;
        let pem = std::str::from_utf8(bytes).map_err(|_| {
            fault(format!("expected PEM in {}, found bytes that are no text", quoted(&path.value)))
        })?;
        Ok(Pem { key: format!("{key} ({})", path.value), written: path, pem: pem.to_owned() })
    }

    fn signed_identity(&self, written: &WrittenIdentity) -> Result<SignedIdentity, Fault> {
        let WrittenIdentity { r#type, docker_reference, docker_repository, prefix, signed_prefix } = written;
        let at = |key: &str, text: &Text, why: String| {
            self.document.fault_at(text, format!("signedIdentity.{key}: {why}"))
        };
        let kind = r#type.value.as_str();
        match (kind, docker_reference, docker_repository, prefix, signed_prefix) {
            ("matchExact", None, None, None, None) => Ok(SignedIdentity::Exact),
            ("matchRepoDigestOrExact", None, None, None, None) => Ok(SignedIdentity::RepoDigestOrExact),
            ("matchRepository", None, None, None, None) => Ok(SignedIdentity::Repository),
            ("exactReference", Some(reference), None, None, None) => {
                SignedIdentity::exact_reference(&reference.value)
                    .map_err(|why| at("dockerReference", reference, why))
            }
            ("exactRepository", None, Some(repository), None, None) => {
                SignedIdentity::exact_repository(&repository.value)
                    .map_err(|why| at("dockerRepository", repository, why))
            }
            ("remapIdentity", None, None, Some(prefix), Some(signed_prefix)) => {
                let read = |key: &str, text: &Text| {
                    SignedIdentity::prefix(&text.value).map_err(|why| at(key, text, why))
                };
                Ok(SignedIdentity::Remap {
                    prefix: read("prefix", prefix)?,
                    signed_prefix: read("signedPrefix", signed_prefix)?,
                })
            }
            (
                "matchExact"
                | "matchRepoDigestOrExact"
                | "matchRepository"
                | "exactReference"
                | "exactRepository"
                | "remapIdentity",
                ..,
            ) => {
                let why = format!(
                    "expected dockerReference beside exactReference, dockerRepository beside exactRepository, prefix and signedPrefix beside remapIdentity, and nothing beside the others, found another with {kind}"
                );
                Err(at("type", r#type, why))
            }
            _ => {
                let why = format!(
                    "expected matchExact, matchRepoDigestOrExact, matchRepository, exactReference, exactRepository or remapIdentity, found {}",
                    quoted(kind)
                );
                Err(at("type", r#type, why))
            }
        }
    }
}
