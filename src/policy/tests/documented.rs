//! Policies that the documentation shows: they load, and take what real cosign made as the pages say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::trust::{Origin, State};
use crate::verify::fixture::{self, Fixture};

/// The folder of the project.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page's example with what `…` stands for in its PEM blocks: the key of `with`, the private CA's root and intermediate.
fn filled(example: &str, with: &Fixture) -> String {
    let pki = Fixture::load("pki-tsa-bundle").dir;
    let body = |path: PathBuf| {
        let pem = std::fs::read_to_string(path).unwrap();
        pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>()
    };
    let mut certificates = ["ca-root.pem", "ca-intermediate.pem"].iter();
    let (mut filled, mut begun) = (String::new(), "");
    for line in example.lines() {
        let text = line.trim_start();
        if text.starts_with("-----BEGIN") {
            begun = text;
        }
        let indent = " ".repeat(line.len() - text.len());
        let line = match (text.starts_with('…'), begun) {
            (true, "-----BEGIN PUBLIC KEY-----") => indent + &body(with.dir.join("cosign.pub")),
            (true, _) => indent + &body(pki.join(certificates.next().unwrap())),
            (false, _) => line.to_owned(),
        };
        filled.push_str(&line);
        filled.push('\n');
    }
    filled
}

fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    pages.push(root().join("README.md"));
    pages.sort();
    pages
}

/// The policies in a page's fenced blocks, also where a shell writes one to a file.
fn examples(page: &Path) -> Vec<String> {
    let page = std::fs::read_to_string(page).unwrap();
    let (mut found, mut block, mut indent) = (Vec::new(), None::<String>, 0);
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            indent = line.len() - line.trim_start().len();
            match block.take() {
                None => block = Some(String::new()),
                Some(text) => found.push(text),
            }
        } else if let Some(block) = &mut block {
            block.push_str(line.get(indent..).unwrap_or_default());
            block.push('\n');
        }
    }
    found
        .iter()
        .filter(|text| text.contains("kind: ImagePolicy") || text.contains("kind: ClusterImagePolicy"))
        .map(|text| text.get(text.find("apiVersion:").unwrap()..).unwrap())
        .map(|text| text.split("\nPOLICY\n").next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_policy_that_is_documented_compiles() {
    let any = Fixture::load("key-none-bundle");
    let mut found = Vec::new();
    for page in pages() {
        for example in examples(&page) {
            let set = compile(&filled(&example, &any))
                .unwrap_or_else(|error| panic!("{}: {error}\n{example}", page.display()));
            found.extend(set.policies().iter().map(|policy| (policy.kind(), page.clone())));
        }
    }
    for kind in [Kind::ImagePolicy, Kind::ClusterImagePolicy] {
        assert!(found.iter().any(|(found, _)| *found == kind), "{kind}");
    }
    for page in ["README.md", "docs/policy.md", "docs/rollout.md"] {
        assert!(found.iter().any(|(_, found)| *found == root().join(page)), "none on {page}");
    }
    assert!(found.len() >= 12, "{}", found.len());
}

/// Whether the policy of that name takes an image with what is on all of these fixtures.
pub(super) fn takes(text: &str, policy: &str, fixtures: &[&str]) -> Result<(), Shortfall> {
    match says(text, policy, fixtures, fixture::now()) {
        Judgement::Satisfied { .. } | Judgement::Exempted { .. } => Ok(()),
        Judgement::Unsatisfied { why, .. } => Err(why),
    }
}

/// What the policy of that name says of such an image.
pub(super) fn says(text: &str, policy: &str, fixtures: &[&str], now: SystemTime) -> Judgement {
    let fixtures: Vec<Fixture> = fixtures.iter().map(|name| Fixture::load(name)).collect();
    let any = Fixture::load("key-none-bundle");
    let key = fixtures.iter().find(|fixture| fixture.dir.join("cosign.pub").exists()).unwrap_or(&any);
    let set = compile(&filled(text, key)).unwrap();
    let policy = set.policies().iter().find(|found| found.name() == policy).unwrap();
    let material = fixtures.iter().find_map(|fixture| fixture.trust.root(fixture::ROOT).ok());
    let state = |root| State {
        source: "a fixture".to_owned(),
        kind: "file",
        root: Some(root),
        origin: Origin::Source,
        at: None,
        expires: None,
        error: None,
        failures: 0,
        kept: None,
    };
    let named = ["public-good", "corp", "github"].map(str::to_owned);
    let trust = match material {
        Some(root) => Trust::new(named.map(|name| (name, state(Arc::clone(root))))),
        None => Trust::default(),
    };
    let digests: Vec<Digest> = fixtures.iter().flat_map(|fixture| fixture.digests.clone()).collect();
    let evidence: Vec<Evidence> = fixtures.iter().flat_map(|fixture| fixture.evidence.clone()).collect();
    assert!(!evidence.is_empty());
    let name = ImageName::parse("ghcr.io/acme/app").unwrap();
    let subject = Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false };
    let conditions = Conditions::at(now);
    policy.judge(&subject, &digests, &evidence, &conditions, &mut |evidence, signer, sought| {
        verify::verify(evidence, &signer.authority, sought, &digests, &trust, fixture::now())
    })
}

#[test]
fn documented_policies_take_what_real_cosign_made_and_nothing_else() {
    let page = examples(&root().join("docs/policy.md"));
    let example = |name: &str| {
        let named = format!("metadata: {{name: {name}}}");
        page.iter().find(|example| example.contains(&named)).unwrap()
    };
    let built = ["keyless-rekor2-tsa-bundle", "attest-keyless-rekor2-tsa-bundle"];
    let scanned = "attest-cyclonedx-key-none-bundle";
    for (policy, fixtures, expected) in [
        ("first", &["key-none-bundle"][..], Ok(())),
        ("first", &["key-rekor2-tsa-bundle"], Ok(())),
        ("first", &["attest-key-none-bundle"], Err(Shortfall::NoSignature)),
        ("first", &["key-none-legacy"], Err(Shortfall::OtherRepository)),
        ("first", &["keyless-rekor1-bundle"], Err(Shortfall::OtherKey)),
        ("acme-app", &["keyless-rekor2-tsa-bundle"], Ok(())),
        ("acme-app", &["keyless-rekor1-bundle"], Ok(())),
        ("acme-app", &["email-rekor2-tsa-bundle"], Err(Shortfall::OtherIdentity)),
        ("acme-app", &["keyless-tsa-bundle"], Err(Shortfall::Invalid)),
        ("acme-without-a-log", &["keyless-tsa-bundle"], Ok(())),
        ("acme-without-a-log", &["keyless-rekor1-bundle"], Err(Shortfall::Invalid)),
        ("signed-and-built-by-us", &[built[0], built[1], scanned], Ok(())),
        ("signed-and-built-by-us", &built, Err(Shortfall::NoAttestation)),
        ("signed-and-built-by-us", &[built[1], scanned], Err(Shortfall::NoSignature)),
        ("provenance-alone", &["attest-keyless-rekor2-tsa-bundle"], Ok(())),
        ("provenance-alone", &["keyless-rekor2-tsa-bundle"], Err(Shortfall::NoAttestation)),
        ("corp", &["pki-tsa-bundle"], Ok(())),
        ("corp", &["pki-none-bundle"], Err(Shortfall::Invalid)),
        ("logged", &["key-rekor1-tsa-bundle"], Ok(())),
        ("logged", &["key-rekor2-tsa-bundle"], Ok(())),
        ("logged", &["key-rekor1-bundle"], Err(Shortfall::Invalid)),
        ("elsewhere", &["elsewhere-key-none-bundle"], Ok(())),
        ("with-exemptions", &["key-none-bundle"], Ok(())),
        ("with-exemptions", &["attest-key-none-bundle"], Err(Shortfall::NoSignature)),
        ("two-of-three", &["keyless-rekor2-tsa-bundle", "key-none-bundle"], Err(Shortfall::OtherIdentity)),
        ("acme", &["keyless-rekor1-bundle"], Ok(())),
        ("acme", &["keyless-tsa-bundle"], Err(Shortfall::Invalid)),
    ] {
        assert_eq!(takes(example(policy), policy, fixtures), expected, "{policy}: {fixtures:?}");
    }
}

#[test]
fn shipped_keyless_policies_take_what_real_cosign_made() {
    let text = |file: &str| std::fs::read_to_string(root().join("policy").join(file)).unwrap();
    let (workflow, cluster) = (text("github-workflow.yaml"), text("cluster-image-policy.yaml"));
    let (signed, built) = ("keyless-rekor2-tsa-bundle", "attest-keyless-rekor2-tsa-bundle");
    assert_eq!(takes(&workflow, "github-workflow", &[signed, built]), Ok(()));
    assert_eq!(takes(&workflow, "github-workflow", &[signed]), Err(Shortfall::NoAttestation));
    assert_eq!(takes(&cluster, "built-by-acme", &[built]), Ok(()));
    assert_eq!(takes(&cluster, "built-by-acme", &[signed]), Err(Shortfall::NoAttestation));
}

/// The names of all properties of a schema, at any depth.
fn properties(schema: &serde_json::Value, found: &mut Vec<String>) {
    if let Some(named) = schema["properties"].as_object() {
        found.extend(named.keys().cloned());
    }
    if let Some(names) = schema["propertyNames"]["enum"].as_array() {
        found.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
    }
    let children = schema.as_object().into_iter().flat_map(|object| object.values());
    children.for_each(|child| properties(child, found));
}

/// The schema has the keys that are read (another test).
#[test]
fn every_key_of_the_schema_is_on_the_page() {
    let page = std::fs::read_to_string(root().join("docs/policy.md")).unwrap();
    let schema = std::fs::read(root().join("policy/imagepolicy.schema.json")).unwrap();
    let mut keys = Vec::new();
    properties(&serde_json::from_slice(&schema).unwrap(), &mut keys);
    keys.extend(verify::FulcioClaim::ALL.iter().map(|claim| claim.name().to_owned()));
    let words: std::collections::BTreeSet<&str> = page.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    keys.retain(|key| !words.contains(key.as_str()));
    assert!(keys.is_empty(), "{keys:?}");
}
