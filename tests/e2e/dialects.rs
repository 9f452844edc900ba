//! CRI-O and crivet with the very same containers-policy.json files, one for each namespace: the same verdict about every
//! image, or a difference that the table explains. OpenShift's policies reach CRI-O as such files, too.

use crate::support::containerd::Containerd;
use crate::support::cosign::{Cosign, Key, Version};
use crate::support::crio::Crio;
use crate::support::crivet::Crivet;
use crate::support::fixture::{self, Case};
use crate::support::image::Image;
use crate::support::measured::run;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;

/// Where the two do not say the same: namespace, image, what CRI-O says, and why.
const DIFFERENT: &[(&str, &str, bool, &str)] = &[(
    "index",
    "index-key-none-legacy",
    false,
    "CRI-O looks for signatures of the platform's manifest only, crivet at the index that names it, too",
)];

/// A namespace, its policy, and the images it is held against, by a name for messages.
type Question<'a> = (&'a str, Value, Vec<(&'a str, String)>);

fn signed_by(key: &Key, identity: Value) -> Value {
    json!({"type": "sigstoreSigned", "keyData": STANDARD.encode(&key.public), "signedIdentity": identity})
}

fn repository() -> Value {
    json!({"type": "matchRepository"})
}

fn pem(label: &str, bytes: &Value) -> String {
    STANDARD.encode(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", bytes.as_str().unwrap()))
}

/// What a case was signed with and whose name it claims, as one requirement.
fn of_case(case: &Case, fields: Value) -> Value {
    let identity = json!({"type": "exactRepository", "dockerRepository": case.image});
    let mut requirement = json!({"type": "sigstoreSigned", "signedIdentity": identity});
    requirement.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    requirement
}

fn trusted_root(case: &Case) -> Value {
    serde_json::from_slice(&case.file("trusted_root.json").unwrap()).unwrap()
}

fn encoded(case: &Case, file: &str) -> String {
    STANDARD.encode(case.file(file).unwrap())
}

#[test]
fn crio_and_crivet_say_the_same_of_every_image_by_the_same_files() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let address = registry.address();
    let crio = Crio::start_looking_for_signatures(&peers, &registry);
    let folder = peers.path().join("policies");
    std::fs::create_dir_all(folder.join("namespaces")).unwrap();

    let (cosign, third) = (Cosign::new(&peers, Version::V2), Cosign::new(&peers, Version::V3));
    let (key, other) = (cosign.generate_key("key"), cosign.generate_key("other"));
    let push = |name: &str| Image::says(&peers, name).push(&registry, name, "1");
    let images = ["app", "named", "stranger", "unsigned", "bundle", "twice"].map(push);
    let [app, named, stranger, _, bundle, twice] = &images;
    cosign.sign(&key, &app.by_digest, &[]);
    cosign.sign(&key, &named.by_digest, &["--sign-container-identity", &named.reference]);
    cosign.sign(&other, &stranger.by_digest, &[]);
    for key in [&key, &other] {
        cosign.sign(key, &twice.by_digest, &[]);
    }
    third.sign(&key, &bundle.by_digest, &[]);
    // By tag, and one by digest.
    let mut asked: Vec<(&str, String)> =
        images.iter().map(|image| (image.reference.as_str(), image.reference.clone())).collect();
    asked.push(("named by digest", named.by_digest.clone()));

    let public = peers.path().join("cosign/key.pub");
    let (accept, reject) = (json!([{"type": "insecureAcceptAnything"}]), json!([{"type": "reject"}]));
    let scoped = |list: Value| json!({"default": reject, "transports": {"docker": {address: list}}});
    let by = |identity: Value| scoped(json!([signed_by(&key, identity)]));
    let mut two_keys = signed_by(&key, repository());
    two_keys["keyDatas"] = json!([STANDARD.encode(&other.public), STANDARD.encode(&key.public)]);
    two_keys.as_object_mut().unwrap().remove("keyData");
    let from_file = json!({"type": "sigstoreSigned", "keyPath": public, "signedIdentity": repository()});
    let mirror =
        json!({"type": "remapIdentity", "prefix": format!("{address}/other"), "signedPrefix": address});
    let elsewhere = json!({"type": "remapIdentity", "prefix": address, "signedPrefix": "r.io"});
    let named_only = json!({"type": "exactReference", "dockerReference": named.reference});
    let stranger_s = json!({"type": "exactRepository", "dockerRepository": format!("{address}/stranger")});
    let policies = [
        ("accept", json!({"default": accept})),
        ("reject", json!({"default": reject})),
        ("accept-registry", scoped(accept.clone())),
        ("accept-and-reject", scoped(json!([accept[0], reject[0]]))),
        ("plain", scoped(json!([{"type": "sigstoreSigned", "keyData": STANDARD.encode(&key.public)}]))),
        ("exact", by(json!({"type": "matchExact"}))),
        ("repository", by(repository())),
        ("reference", by(named_only)),
        ("other-repository", scoped(json!([signed_by(&other, stranger_s)]))),
        ("mirror", by(mirror)),
        ("elsewhere", by(elsewhere)),
        ("file", scoped(json!([from_file]))),
        ("two-keys", scoped(json!([two_keys]))),
        ("both", scoped(json!([signed_by(&key, repository()), signed_by(&other, repository())]))),
        (
            "most-specific",
            json!({"default": accept, "transports": {"docker": {
                "": reject, address: reject, (format!("{address}/app")): reject, (app.reference.clone()): accept,
                (format!("{address}/unsigned")): accept, (format!("{address}/named:2")): accept,
            }}}),
        ),
    ];
    let mut questions: Vec<Question<'_>> =
        policies.into_iter().map(|(name, policy)| (name, policy, asked.clone())).collect();

    let cases = ["email-rekor1-legacy", "key-rekor1-legacy", "pki-none-legacy", "index-key-none-legacy"]
        .map(Case::load);
    cases.iter().for_each(|case| fixture::push(case, address));
    let [email, logged, pki, index] = &cases;
    let (fulcio, log) = (trusted_root(email), trusted_root(logged));
    let authority =
        fulcio["certificateAuthorities"][0]["certChain"]["certificates"].as_array().unwrap().last().unwrap();
    let rekor = |root: &Value| pem("PUBLIC KEY", &root["tlogs"][0]["publicKey"]["rawBytes"]);
    let identity = |address: &str| {
        let fulcio = json!({"caData": pem("CERTIFICATE", &authority["rawBytes"]),
            "oidcIssuer": "https://accounts.example.com", "subjectEmail": address});
        of_case(email, json!({"fulcio": fulcio, "rekorPublicKeyData": rekor(&log)}))
    };
    let certificate = |address: &str| {
        let pki = json!({"caRootsData": encoded(pki, "ca-root.pem"),
            "caIntermediatesData": encoded(pki, "ca-intermediate.pem"), "subjectEmail": address});
        json!({"pki": pki})
    };
    let logged_at =
        |log: String| json!({"keyData": encoded(logged, "cosign.pub"), "rekorPublicKeyData": log});
    let key_of = |case: &Case| json!({"keyData": encoded(case, "cosign.pub")});
    for (name, case, requirement) in [
        ("fulcio", email, identity("dev@example.com")),
        ("fulcio-other", email, identity("ops@example.com")),
        ("log", logged, of_case(logged, logged_at(rekor(&log)))),
        ("log-other", logged, of_case(logged, logged_at(STANDARD.encode(&key.public)))),
        ("pki", pki, of_case(pki, certificate("release@corp.example"))),
        ("pki-other", pki, of_case(pki, certificate("other@corp.example"))),
        ("index", index, of_case(index, key_of(index))),
    ] {
        let images = vec![(case.name.as_str(), fixture::reference(case, address))];
        questions.push((name, scoped(json!([requirement])), images));
    }

    for (namespace, policy, _) in &questions {
        let text = serde_json::to_string_pretty(policy).unwrap();
        std::fs::write(folder.join(format!("namespaces/{namespace}.json")), &text).unwrap();
        std::fs::write(crio.policies().join(format!("{namespace}.json")), &text).unwrap();
    }
    let (mut table, mut wrong, mut met, mut allowed) = (String::new(), Vec::new(), 0, 0);
    for (namespace, _, images) in &questions {
        for (image, reference) in images {
            let crio = match crio.crictl().pull_in(reference, namespace) {
                Ok(_) => true,
                Err(said) if said.contains("SignatureValidationFailed") => false,
                Err(said) => panic!("{namespace} {image}: {said}"),
            };
            let ended = run(
                Path::new(env!("CARGO_BIN_EXE_crivet")),
                &["verify", "--policy", folder.to_str().unwrap(), "--namespace", namespace, reference]
                    .map(str::to_owned),
                &[],
            );
            let crivet = match ended.code {
                Some(0) => true,
                Some(1) => false,
                other => panic!("{namespace} {image}: crivet ends with {other:?}: {}", ended.said),
            };
            let why = DIFFERENT.iter().find(|row| (row.0, row.1) == (*namespace, *image));
            met += usize::from(why.is_some());
            allowed += usize::from(crio);
            let expected = why.map_or(crivet, |row| row.2);
            if crio != expected || why.is_some_and(|row| crivet == row.2) {
                wrong.push(format!("{namespace} {image}: CRI-O {crio}, crivet {crivet}: {}", ended.said));
            }
            table += &format!("{namespace:<18} {image:<40} CRI-O {crio:<5} crivet {crivet}\n");
        }
    }
    // Past the test runner's capture, as a run that passes is wanted to be seen, too.
    let _ = write!(std::io::stderr(), "{table}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(met, DIFFERENT.len(), "a difference is about no image");
    assert!(allowed > 20, "CRI-O let {allowed} through: it looks at no signatures");
}

/// A ClusterImagePolicy of OpenShift's.
fn openshift(name: &str, scope: &str, key: &Value, identity: &Value) -> String {
    let policy = json!({
        "apiVersion": "config.openshift.io/v1",
        "kind": "ClusterImagePolicy",
        "metadata": {"name": name},
        "spec": {
            "scopes": [scope],
            "policy": {"rootOfTrust": {"policyType": "PublicKey", "publicKey": key}, "signedIdentity": identity},
        },
    });
    policy.to_string()
}

#[test]
fn openshift_policies_and_a_namespace_s_file_hold_in_front_of_containerd() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let address = registry.address();
    let containerd = Containerd::start(&peers, "1.6", &registry);
    let cosign = Cosign::new(&peers, Version::V2);
    let key = cosign.generate_key("key");
    cosign.sign(&key, &containerd.pause().by_digest, &[]);
    let logged = Case::load("key-rekor1-legacy");
    fixture::push(&logged, address);
    let repository = json!({"matchPolicy": "MatchRepository"});
    let copied = json!({"matchPolicy": "ExactRepository", "exactRepository": {"repository": logged.image}});
    let with_log = |log: String| {
        let key = json!({"keyData": encoded(&logged, "cosign.pub"), "rekorKeyData": log});
        openshift("logged", &format!("{address}/{}", logged.repository()), &key, &copied)
    };
    let all = openshift("all", address, &json!({"keyData": STANDARD.encode(&key.public)}), &repository);
    let log = pem("PUBLIC KEY", &trusted_root(&logged)["tlogs"][0]["publicKey"]["rawBytes"]);
    let crivet = Crivet::start(&peers, &containerd, "enforce", &[all.clone(), with_log(log)]);

    let push = |name: &str| Image::says(&peers, name).push(&registry, name, "1");
    let (signed, unsigned) = (push("signed"), push("unsigned"));
    cosign.sign(&key, &signed.by_digest, &[]);
    crivet.crictl().pull(&signed.reference).unwrap();
    let container = crivet.crictl().start("signed", &signed).unwrap();
    assert_eq!(container.first_line(), "signed");
    let refusal = crivet.crictl().pull(&unsigned.reference).unwrap_err();
    assert!(refusal.contains("SignatureValidationFailed: ") && refusal.contains("no signature"), "{refusal}");
    // The log's key is the policy's own, and a trusted root by that.
    let by_digest = fixture::reference(&logged, address);
    crivet.crictl().pull(&by_digest).unwrap();

    let folder = Crivet::dir(&peers).join("policies.d/namespaces");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("strict.json"), r#"{"default": [{"type": "reject"}]}"#).unwrap();
    crivet.reload();
    let refusal = crivet.crictl().pull_in(&signed.reference, "strict").unwrap_err();
    assert!(refusal.contains("namespaces/strict.json#default"), "{refusal}");
    crivet.crictl().pull_in(&signed.reference, "other").unwrap();

    crivet.put_policies(&[all, with_log(STANDARD.encode(&key.public))]);
    let refusal = crivet.crictl().pull(&by_digest).unwrap_err();
    assert!(refusal.contains("SignatureValidationFailed: "), "{refusal}");
    crivet.crictl().pull_in(&signed.reference, "strict").unwrap();
}
