//! crivet beside policy-controller's own tester, with the very same ClusterImagePolicies and TrustRoot, about images that
//! real cosign signed. The tester takes a quarter of an hour to build, so what it said is in a file;
//! `tests/fixtures/policy-controller/make.sh` asks it anew.

use crate::support::fixture::{self, Case};
use crate::support::measured::run;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where to find the tester, when it is to be asked.
const TESTER: &str = "CRIVET_POLICY_TESTER";

/// Where the two do not say the same: policy, image, what policy-controller says, and why.
const DIFFERENT: &[(&str, &str, bool, &str)] = &[
    (
        "glob-digest",
        "key-none-legacy:1",
        false,
        "the controller sees digests where pods have tags, and the tester does not; crivet holds tags against such a glob, too",
    ),
    ("warn", "unsigned", true, WARN),
    ("warn", "rsa-2048-none-legacy", true, WARN),
    (
        "stamp-missing",
        "key-none-legacy",
        true,
        "a signature by a key without a timestamp is taken where one is asked for",
    ),
    ("bundle-log", "key-rekor1-bundle", false, BUNDLES),
    ("bundle-log", "key-rekor1-legacy", false, BUNDLES),
    ("bundle-keyless", "keyless-rekor1-bundle", false, BUNDLES),
    ("bundle-keyless", "keyless-rekor1-legacy", false, BUNDLES),
    ("bundle-attested", "attest-keyless-rekor1-bundle", false, LOG_ID),
    ("bundle-attested", "attest-keyless-rekor1-legacy", false, BUNDLES),
];
const WARN: &str = "`crivet verify` shows the verdict, of which nothing is refused";
const BUNDLES: &str =
    "policy-controller 0.14 takes bundles of attestations by identities alone; crivet both formats";
const LOG_ID: &str =
    "it looks for the logs of a TrustRoot's keys by an ID that is encoded twice, and finds none for a bundle";

/// A policy by its name, and the images that are held against it.
struct Question {
    name: &'static str,
    policy: Value,
    images: Vec<String>,
}

fn verdicts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/policy-controller/verdicts.txt")
}

fn pem(label: &str, bytes: &Value) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", bytes.as_str().unwrap())
}

/// The services' trusted root as a TrustRoot.
fn trust_root(root: &Value) -> Value {
    let list = |of: &str, one: &dyn Fn(&Value) -> Value| -> Vec<Value> {
        root[of].as_array().unwrap().iter().map(one).collect()
    };
    let authority = |of: &Value| {
        // A TrustRoot's chain ends in its root, as this one does.
        let chain = of["certChain"]["certificates"].as_array().unwrap().iter();
        let chain: String = chain.map(|each| pem("CERTIFICATE", &each["rawBytes"])).collect();
        json!({"subject": of["subject"], "uri": of["uri"], "certChain": STANDARD.encode(chain)})
    };
    let log = |of: &Value| {
        let key = pem("PUBLIC KEY", &of["publicKey"]["rawBytes"]);
        json!({"baseURL": of["baseUrl"], "hashAlgorithm": "sha-256", "publicKey": STANDARD.encode(key)})
    };
    json!({
        "apiVersion": "policy.sigstore.dev/v1alpha1", "kind": "TrustRoot", "metadata": {"name": "fixtures"},
        "spec": {"sigstoreKeys": {
            "certificateAuthorities": list("certificateAuthorities", &authority),
            "timestampAuthorities": list("timestampAuthorities", &authority),
            // policy-controller knows no log with an Ed25519 key, as Rekor v2 has.
            "tLogs": [log(&root["tlogs"][0])], "ctLogs": list("ctlogs", &log),
        }},
    })
}

fn policy(glob: &str, spec: Value) -> Value {
    let mut all = json!({"images": [{"glob": glob}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({
        // The tester drops ctlog and rfc3161timestamp of v1beta1.
        "apiVersion": "policy.sigstore.dev/v1alpha1", "kind": "ClusterImagePolicy", "metadata": {"name": "p"},
        "spec": all,
    })
}

fn key(case: &Case) -> Value {
    json!({"hashAlgorithm": "sha256", "data": case.keys()[0]})
}

fn keyless(issuer: &str, subject: &str) -> Value {
    json!({"trustRootRef": "fixtures", "identities": [{"issuer": issuer, "subject": subject}]})
}

/// An authority, with what is beside its key or identity.
fn authority(of: &str, what: Value, beside: Value) -> Value {
    let mut authority = json!({"name": "k", of: what});
    authority.as_object_mut().unwrap().extend(beside.as_object().unwrap().clone());
    authority
}

fn rego(rule: &str) -> Value {
    json!({"type": "rego", "data": format!("package sigstore\n{rule}\n")})
}

fn attested(predicate_type: &str, policy: Option<&str>) -> Value {
    let mut attestation = json!({"name": "a", "predicateType": predicate_type});
    if let Some(rule) = policy {
        attestation["policy"] = rego(rule);
    }
    json!({"attestations": [attestation]})
}

/// All that is asked, of cases in this registry.
fn questions(address: &str) -> Vec<Question> {
    let name = |case: &str| fixture::reference(&Case::load(case), address);
    let tagged = |case: &str| format!("{address}/fixtures/{case}:1");
    let mut all = Vec::new();
    let mut ask = |name: &'static str, policy: Value, images: Vec<String>| {
        all.push(Question { name, policy, images });
    };
    let everything = format!("{address}/**");
    let any = |authorities: Value| policy(&everything, json!({"authorities": authorities}));
    let one = |of: &str, what: Value, beside: Value| any(json!([authority(of, what, beside)]));

    let plain = Case::load("key-none-legacy");
    let plain_key = || key(&plain);
    let by_key = json!([authority("key", plain_key(), json!({}))]);
    let plain_ones = || {
        vec![
            name("key-none-legacy"),
            tagged("key-none-legacy"),
            name("unsigned"),
            name("rsa-2048-none-legacy"),
        ]
    };
    ask("key", any(by_key.clone()), plain_ones());
    for (called, glob) in [
        ("glob-repository", format!("{address}/fixtures/*")),
        ("glob-one-star", format!("{address}/*")),
        ("glob-name", format!("{address}/fixtures/key-none-legacy")),
        ("glob-tag", format!("{address}/fixtures/key-none-legacy:*")),
        ("glob-digest", format!("{address}/fixtures/key-none-legacy@sha256:*")),
    ] {
        let images = vec![name("key-none-legacy"), tagged("key-none-legacy")];
        ask(called, policy(&glob, json!({"authorities": by_key})), images);
    }
    let static_s = |action: &str| json!({"name": "s", "static": {"action": action}});
    ask("static-pass", any(json!([static_s("pass")])), plain_ones());
    ask("static-fail", any(json!([static_s("fail")])), plain_ones());
    ask("fail-or-key", any(json!([static_s("fail"), by_key[0]])), plain_ones());
    let rsa = authority("key", key(&Case::load("rsa-2048-none-legacy")), json!({"name": "r"}));
    ask("either-key", any(json!([by_key[0], rsa])), plain_ones());
    let warn = policy(&everything, json!({"mode": "warn", "authorities": by_key}));
    ask("warn", warn, plain_ones());

    // Every kind of key, by its own and by another one's.
    for (called, case) in [
        ("rsa-2048", "rsa-2048-none-legacy"),
        ("rsa-4096", "rsa-4096-none-legacy"),
        ("p384", "ecdsa-p384-none-legacy"),
        ("p521", "ecdsa-p521-none-legacy"),
        ("ed25519", "ed25519-none-legacy"),
        ("index", "index-key-none-legacy"),
        ("recursive", "recursive-key-none-legacy"),
        ("three", "three-signers-none-legacy"),
        ("annotated", "annotations-key-none-legacy"),
    ] {
        ask(called, one("key", key(&Case::load(case)), json!({})), vec![name(case), name("key-none-legacy")]);
    }

    // Logs and timestamps.
    let log = || json!({"ctlog": {"trustRootRef": "fixtures"}});
    let stamp = || json!({"rfc3161timestamp": {"trustRootRef": "fixtures"}});
    for (called, case, beside) in [
        ("log", "key-rekor1-legacy", log()),
        ("log-missing", "key-none-legacy", log()),
        ("log-not-asked", "key-rekor1-legacy", json!({})),
        ("stamp", "key-tsa-legacy", stamp()),
        ("stamp-missing", "key-none-legacy", stamp()),
        ("stamp-not-asked", "key-tsa-legacy", json!({})),
    ] {
        ask(called, one("key", key(&Case::load(case)), beside), vec![name(case)]);
    }

    // Identities.
    let who = Case::load("keyless-rekor1-legacy").identity.unwrap();
    let (issuer, subject) = (who.issuer.as_str(), who.subject.as_str());
    let by = |issuer: &str, subject: &str| one("keyless", keyless(issuer, subject), log());
    let workflows = || {
        [
            "keyless-rekor1-legacy",
            "keyless-rekor1-tsa-legacy",
            "email-rekor1-legacy",
            "key-rekor1-legacy",
            "unsigned",
        ]
        .map(name)
        .to_vec()
    };
    ask("keyless", by(issuer, subject), workflows());
    ask("keyless-other-subject", by(issuer, "https://github.com/acme/other"), workflows());
    ask("keyless-other-issuer", by("https://accounts.example.com", subject), workflows());
    let expression = |issuer: &str, subject: &str| {
        let identities = json!([{"issuerRegExp": issuer, "subjectRegExp": subject}]);
        one("keyless", json!({"trustRootRef": "fixtures", "identities": identities}), log())
    };
    ask(
        "keyless-expressions",
        expression(".*githubusercontent.*", "^https://github.com/acme/.*$"),
        workflows(),
    );
    ask(
        "keyless-expressions-no",
        expression(".*githubusercontent.*", "^https://github.com/other/.*$"),
        workflows(),
    );
    let email = Case::load("email-rekor1-legacy").identity.unwrap();
    ask("keyless-address", by(&email.issuer, &email.subject), workflows());
    let either = any(json!([
        authority("keyless", keyless(issuer, subject), log()),
        authority("key", key(&Case::load("key-rekor1-legacy")), json!({"name": "other"})),
    ]));
    ask("keyless-or-key", either, workflows());

    // Attestations, and what is said of them.
    let scanned = Case::load("attest-vuln-key-none-legacy");
    let attestations = || {
        [
            "attest-vuln-key-none-legacy",
            "attest-spdx-key-none-legacy",
            "key-none-legacy",
            "signed-and-attested-key-none-legacy",
        ]
        .map(name)
        .to_vec()
    };
    let by_scanner = |beside: Value| one("key", key(&scanned), beside);
    let rules = [
        ("attested", None),
        (
            "attested-rego",
            Some(
                "isCompliant { input.predicateType == \"https://cosign.sigstore.dev/attestation/vuln/v1\" }",
            ),
        ),
        ("attested-rego-no", Some("isCompliant { input.predicateType == \"something else\" }")),
        (
            "attested-rego-says",
            Some("isCompliant[r] { r := {\"result\": true, \"error\": \"\", \"warning\": \"\"} }"),
        ),
        (
            "attested-rego-warns",
            Some("isCompliant[r] { r := {\"result\": true, \"error\": \"\", \"warning\": \"old\"} }"),
        ),
        (
            "attested-rego-false",
            Some("isCompliant[r] { r := {\"result\": false, \"error\": \"no\", \"warning\": \"\"} }"),
        ),
        ("attested-rego-default", Some("default isCompliant = false")),
        (
            "attested-rego-subject",
            Some(
                "isCompliant { count(input.subject) == 1; startswith(input.subject[0].name, \"127.0.0.1\") }",
            ),
        ),
    ];
    for (called, rule) in rules {
        ask(called, by_scanner(attested("vuln", rule)), attestations());
    }
    for (called, predicate_type, case) in [
        ("attested-spdx", "spdx", "attest-spdx-key-none-legacy"),
        ("attested-cyclonedx", "cyclonedx", "attest-cyclonedx-key-none-legacy"),
        ("attested-provenance", "slsaprovenance", "attest-slsaprovenance02-key-none-legacy"),
        ("attested-provenance-1", "https://slsa.dev/provenance/v1", "attest-key-none-legacy"),
        ("attested-custom", "https://corp.example/review/v1", "attest-custom-key-none-legacy"),
    ] {
        let of = one("key", key(&Case::load(case)), attested(predicate_type, None));
        ask(called, of, vec![name(case), name("key-none-legacy")]);
    }
    let mut beside = attested("vuln", None);
    beside["ctlog"] = log()["ctlog"].clone();
    let keyless_ones =
        ["attest-vuln-keyless-rekor1-legacy", "attest-spdx-keyless-rekor1-legacy", "keyless-rekor1-legacy"]
            .map(name)
            .to_vec();
    ask("attested-keyless", one("keyless", keyless(issuer, subject), beside.clone()), keyless_ones.clone());
    ask(
        "attested-keyless-other",
        one("keyless", keyless(issuer, "https://github.com/x"), beside),
        keyless_ones,
    );

    // What is said of the authorities that hold.
    for (called, rule) in [
        ("policy-one", "isCompliant { count(input.authorityMatches.k.signatures) == 1 }"),
        ("policy-two", "isCompliant { count(input.authorityMatches.k.signatures) == 2 }"),
    ] {
        let spec = json!({"authorities": by_key, "policy": rego(rule)});
        ask(called, policy(&everything, spec), plain_ones());
    }
    let identities = "isCompliant { input.authorityMatches.k.signatures[_].issuer == \"https://token.actions.githubusercontent.com\" }";
    let spec = json!({"authorities": [authority("keyless", keyless(issuer, subject), log())], "policy": rego(identities)});
    ask("policy-issuer", policy(&everything, spec), workflows());

    // Bundles.
    let bundles = |of: &str, what: Value, beside: Value| {
        let mut beside = beside;
        beside["signatureFormat"] = "bundle".into();
        one(of, what, beside)
    };
    ask(
        "bundle-log",
        bundles("key", key(&Case::load("key-rekor1-bundle")), log()),
        vec![name("key-rekor1-bundle"), name("key-rekor1-legacy")],
    );
    ask(
        "bundle-keyless",
        bundles("keyless", keyless(issuer, subject), log()),
        ["keyless-rekor1-bundle", "keyless-rekor1-legacy"].map(name).to_vec(),
    );
    let mut beside = attested("https://slsa.dev/provenance/v1", None);
    beside["ctlog"] = log()["ctlog"].clone();
    let built = ["attest-keyless-rekor1-bundle", "attest-keyless-rekor1-legacy"].map(name).to_vec();
    ask("bundle-attested", bundles("keyless", keyless(issuer, subject), beside.clone()), built.clone());
    ask("bundle-attested-other", bundles("keyless", keyless(issuer, "https://github.com/x"), beside), built);
    all
}

/// The case, with its tag where it was named by that; the registry's port is another each time.
fn short(reference: &str) -> &str {
    reference.split_once("/fixtures/").unwrap().1.split("@sha256").next().unwrap()
}

#[test]
fn policy_controller_and_crivet_say_the_same_of_every_image_by_the_same_policies() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let address = registry.address();
    let tester = std::env::var_os(TESTER).map(PathBuf::from);
    let folder = peers.path().join("policies");
    fs::create_dir_all(&folder).unwrap();
    let root = Case::load("keyless-rekor1-legacy").file("trusted_root.json").unwrap();
    let root = trust_root(&serde_json::from_slice(&root).unwrap());
    let root_file = folder.join("root.yaml");
    fs::write(&root_file, root.to_string()).unwrap();
    let questions = questions(address);
    let mut pushed = Vec::new();
    for image in questions.iter().flat_map(|question| &question.images) {
        let case = short(image).trim_end_matches(":1").to_owned();
        if !pushed.contains(&case) {
            fixture::push(&Case::load(&case), address);
            pushed.push(case);
        }
    }

    let mut said = String::new();
    if let Some(tester) = &tester {
        let home = [("HOME", peers.path().display().to_string())];
        for question in &questions {
            let file = peers.path().join("asked.yaml");
            fs::write(&file, question.policy.to_string()).unwrap();
            for image in &question.images {
                let arguments =
                    ["-policy", file.to_str().unwrap(), "-trustroot", root_file.to_str().unwrap()];
                let arguments =
                    arguments.into_iter().chain(["-image", image]).map(str::to_owned).collect::<Vec<_>>();
                let ended = run(tester, &arguments, &home);
                let verdict = if ended.code == Some(0) { "allowed" } else { "denied" };
                said += &format!("{:<24} {:<44} {verdict}\n", question.name, short(image));
                let _ = write!(std::io::stderr(), "{} {image}: {}", question.name, ended.said);
            }
        }
        fs::write(verdicts(), &said).unwrap();
    } else {
        said = fs::read_to_string(verdicts()).unwrap();
    }
    let said: BTreeMap<(String, String), bool> = said
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [policy, image, verdict] = words[..] else { panic!("{line}") };
            assert!(["allowed", "denied"].contains(&verdict), "{line}");
            ((policy.to_owned(), image.to_owned()), verdict == "allowed")
        })
        .collect();

    let (mut wrong, mut met, mut asked) = (Vec::new(), 0, 0);
    for question in &questions {
        fs::write(folder.join("p.yaml"), question.policy.to_string()).unwrap();
        for image in &question.images {
            let arguments = ["verify", "--policy", folder.to_str().unwrap(), image].map(str::to_owned);
            let ended = run(Path::new(env!("CARGO_BIN_EXE_crivet")), &arguments, &[]);
            let crivet = match ended.code {
                Some(0) => true,
                Some(1) => false,
                other => panic!("{} {image}: crivet ends with {other:?}: {}", question.name, ended.said),
            };
            let image = short(image);
            let theirs = said.get(&(question.name.to_owned(), image.to_owned()));
            let Some(&theirs) = theirs else {
                panic!("{} {image}: policy-controller was not asked", question.name)
            };
            let why = DIFFERENT.iter().find(|row| (row.0, row.1) == (question.name, image));
            met += usize::from(why.is_some());
            asked += 1;
            if why.map_or(crivet != theirs, |row| theirs != row.2 || crivet == theirs) {
                wrong.push(format!(
                    "{} {image}: policy-controller {theirs}, crivet {crivet}: {}",
                    question.name, ended.said
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(met, DIFFERENT.len(), "a difference is about no image");
    assert_eq!(asked, said.len(), "what policy-controller said is of other policies: ask it anew");
}
