//! containers-policy.json(5).

use serde_json::{Value, json};

use super::given::{Signed, other_key};
use super::*;

const ACCEPT: &str = "insecureAcceptAnything";

fn load(files: &[(&str, &str)]) -> Result<PolicySet, String> {
    let files: Vec<SourceFile> = files.iter().map(|(name, text)| file(name, text)).collect();
    PolicySet::compile(&files)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn one(policy: &Value) -> Result<PolicySet, String> {
    load(&[("policy.json", &serde_json::to_string_pretty(policy).unwrap())])
}

/// A policy that rejects everything but what one list of requirements lets through of the fixtures' registry.
fn fixtures(list: Value) -> Result<PolicySet, String> {
    one(&json!({"default": [{"type": "reject"}], "transports": {"docker": {"127.0.0.1:5909": list}}}))
}

fn signed_by(fields: Value) -> Value {
    let mut requirement = json!({"type": "sigstoreSigned", "signedIdentity": {"type": "matchRepository"}});
    requirement.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    requirement
}

#[test]
fn any_of_the_keys_in_any_of_their_forms_holds() {
    let signed = Signed::load("key-none-legacy");
    let (key, other) = (signed.file("cosign.pub"), other_key());
    for (fields, expected) in [
        (json!({"keyData": key}), true),
        (json!({"keyData": other}), false),
        (json!({"keyDatas": [other, key]}), true),
        (json!({"keyDatas": [other]}), false),
    ] {
        let set = fixtures(json!([signed_by(fields.clone())])).unwrap();
        assert_eq!(signed.holds(&set, ":v1"), expected, "{fields}");
        assert!(!Signed::load("unsigned").holds(&set, ":v1"), "{fields}");
    }
    let logged = Signed::load("key-rekor1-legacy");
    for (fields, expected) in [
        (json!({"rekorPublicKeyData": logged.rekor()}), true),
        (json!({"rekorPublicKeyDatas": [other, logged.rekor()]}), true),
        (json!({"rekorPublicKeyDatas": [other]}), false),
    ] {
        let mut requirement = signed_by(fields.clone());
        requirement["keyData"] = logged.file("cosign.pub").into();
        assert_eq!(logged.holds(&fixtures(json!([requirement])).unwrap(), ":v1"), expected, "{fields}");
    }
}

#[test]
fn fulcio_and_pki_hold_with_the_policy_s_own_material() {
    let email = Signed::load("email-rekor1-legacy");
    let fulcio = |address: &str| {
        let fulcio = json!({"caData": email.fulcio(), "oidcIssuer": "https://accounts.example.com", "subjectEmail": address});
        fixtures(json!([signed_by(json!({"fulcio": fulcio, "rekorPublicKeyData": email.rekor()}))])).unwrap()
    };
    assert!(email.holds(&fulcio("dev@example.com"), ":v1"));
    assert!(!email.holds(&fulcio("ops@example.com"), ":v1"));
    let pki = Signed::load("pki-none-legacy");
    let by_pki = |address: &str| {
        let fields = json!({
            "caRootsData": pki.file("ca-root.pem"),
            "caIntermediatesData": pki.file("ca-intermediate.pem"),
            "subjectEmail": address,
        });
        fixtures(json!([signed_by(json!({"pki": fields}))])).unwrap()
    };
    assert!(pki.holds(&by_pki("release@corp.example"), ":v1"));
    assert!(!pki.holds(&by_pki("other@corp.example"), ":v1"));
}

#[test]
fn files_that_a_policy_names_are_taken_from_beside_it() {
    let key = Signer::new().pem();
    let text = |fields: Value| {
        let requirement = signed_by(fields);
        json!({
            "default": [requirement],
            "transports": {"atomic": {"": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/gpg"}]}},
        })
        .to_string()
    };
    let policy = file(
        "policy.json",
        &text(json!({"keyPaths": ["/a.pub", "/b.pub"], "rekorPublicKeyPath": "/log.pub"})),
    );
    assert_eq!(
        key_files(std::slice::from_ref(&policy)).into_keys().collect::<Vec<_>>(),
        ["/a.pub", "/b.pub", "/log.pub"]
    );
    let gpg = r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/gpg"}]}"#;
    assert!(key_files(&[file("policy.json", gpg)]).is_empty(), "what is refused needs no file");
    let beside = |name: &str| file(name, &key);
    let all = [policy.clone(), beside("/a.pub"), beside("/b.pub"), beside("/log.pub")];
    let set = PolicySet::compile(&all).unwrap();
    let changed =
        [policy.clone(), beside("/a.pub"), file("/b.pub", &Signer::new().pem()), beside("/log.pub")];
    assert_ne!(PolicySet::compile(&changed).unwrap().hash(), set.hash(), "other keys are another set");
    let error = PolicySet::compile(&all[..3]).unwrap_err();
    assert!(
        error[0].to_string().contains("rekorPublicKeyPath: the file \"/log.pub\" was not read"),
        "{error:?}"
    );
    let broken =
        PolicySet::compile(&[policy, beside("/a.pub"), file("/b.pub", "x"), beside("/log.pub")]).unwrap_err();
    assert!(broken[0].to_string().contains("keyPath (/b.pub): "), "{broken:?}");
    let relative = file("policy.json", &text(json!({"keyPath": "key.pub"})));
    assert!(key_files(std::slice::from_ref(&relative)).is_empty());
    let error = PolicySet::compile(&[relative]).unwrap_err();
    assert!(error[0].to_string().contains("keyPath: expected an absolute path"), "{error:?}");
    for (fields, path) in [
        (json!({"keyPath": "/k"}), "/k"),
        (json!({"fulcio": {"caPath": "/ca", "oidcIssuer": "i", "subjectEmail": "a@b"}}), "/ca"),
        (json!({"pki": {"caRootsPath": "/ca", "subjectEmail": "a@b"}}), "/ca"),
        (json!({"pki": {"caRootsData": "", "caIntermediatesPath": "/ca", "subjectEmail": "a@b"}}), "/ca"),
        (json!({"rekorPublicKeyPaths": ["/log"]}), "/log"),
    ] {
        let found = key_files(&[file("policy.json", &text(fields.clone()))]);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [path], "{fields}");
    }
}

#[test]
fn all_requirements_of_a_list_have_to_hold() {
    let signed = Signed::load("three-signers-none-legacy");
    let by = |file: &str| signed_by(json!({"keyData": signed.file(file)}));
    let other = signed_by(json!({"keyData": other_key()}));
    let (accept, reject) = (json!({"type": ACCEPT}), json!({"type": "reject"}));
    for (list, expected) in [
        (json!([accept]), true),
        (json!([reject]), false),
        (json!([accept, reject]), false),
        (json!([by("cosign.pub"), reject]), false),
        (json!([accept, by("cosign.pub")]), true),
        (json!([accept, other]), false),
        (json!([by("cosign.pub"), by("cosign-1.pub")]), true),
        (json!([by("cosign.pub"), other]), false),
    ] {
        assert_eq!(signed.holds(&fixtures(list.clone()).unwrap(), ":v1"), expected, "{list}");
    }
}

#[test]
fn most_specific_scope_counts_alone_and_the_default_for_the_rest() {
    let accept = json!([{"type": ACCEPT}]);
    let mut policy = json!({
        "default": [{"type": "reject"}],
        "transports": {
            "docker": {
                "r.io": accept, "r.io/team": accept, "r.io/team/app": accept, "r.io/team/app:v1": accept,
                "*.example.com": accept, "docker.io/library": accept,
            },
            "docker-daemon": {"": accept},
        },
    });
    let set = one(&policy).unwrap();
    let covers = |set: &PolicySet, image: &str| applicable(set, image, None);
    for (image, expected) in [
        ("r.io/team/app:v1", "policy.json#r.io/team/app:v1"),
        ("r.io/team/app:v2", "policy.json#r.io/team/app"),
        ("r.io/team/app2", "policy.json#r.io/team"),
        ("r.io/teams", "policy.json#r.io"),
        ("a.b.example.com:5000/x", "policy.json#*.example.com"),
        ("nginx", "policy.json#docker.io/library"),
        ("team/nginx", "policy.json#default"),
        ("example.com/x", "policy.json#default"),
        ("", "policy.json#default"),
    ] {
        assert_eq!(covers(&set, image), [expected], "{image}");
    }
    policy["transports"]["docker"][""] = accept;
    let set = one(&policy).unwrap();
    assert_eq!(
        [covers(&set, "team/nginx"), covers(&set, "")],
        [["policy.json#docker"], ["policy.json#docker"]]
    );
    let beside = denying("native", "images: ['r.io/**']");
    let set = load(&[("a.yaml", &beside), ("policy.json", &policy.to_string())]).unwrap();
    assert_eq!(covers(&set, "r.io/x"), ["native", "policy.json#r.io"], "each dialect has to hold");
}

#[test]
fn pause_image_falls_under_the_node_s_file_whatever_the_namespace_s_says() {
    let reject = r#"{"default": [{"type": "reject"}]}"#;
    let accept = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    let covers = |set: &PolicySet, is_pause: bool| -> Vec<String> {
        let name = ImageName::parse("registry.k8s.io/pause:3.10").unwrap();
        let subject = Subject { name: &name, namespace: Some("dev"), labels: &NO_LABELS, is_pause };
        set.applicable(&subject).iter().map(|policy| policy.name().to_owned()).collect()
    };
    let set = load(&[("policy.json", accept), ("namespaces/dev.json", reject)]).unwrap();
    assert_eq!(covers(&set, true), ["policy.json#default"]);
    // By the same name it is an image like any other.
    assert_eq!(covers(&set, false), ["namespaces/dev.json#default"]);
    let alone = load(&[("namespaces/dev.json", accept)]).unwrap();
    assert!(covers(&alone, true).is_empty());
}

#[test]
fn image_without_a_name_is_denied_under_a_namespace_s_file_as_by_cri_o() {
    let accept = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    let set = load(&[("policy.json", accept), ("namespaces/dev.json", accept)]).unwrap();
    for image in ["", &index().hex(), &index().to_string()] {
        assert_eq!(applicable(&set, image, Some("dev")), ["namespaces/dev.json#without a name"], "{image}");
        assert_eq!(applicable(&set, image, Some("prod")), ["policy.json#default"], "{image}");
        let name = ImageName::parse(image).unwrap();
        let subject = Subject { name: &name, namespace: Some("dev"), labels: &NO_LABELS, is_pause: false };
        let said = set.explain(&subject, false);
        assert_eq!((said.says, said.policies[0].scope.as_str()), (Says::Denies, "images without a name"));
    }
    assert_eq!(applicable(&set, "nginx", Some("dev")), ["namespaces/dev.json#default"]);
    let everything = r#"{"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}}"#;
    let set = load(&[("namespaces/dev.json", everything)]).unwrap();
    assert_eq!(applicable(&set, "", Some("dev")), ["namespaces/dev.json#without a name"]);
    assert!(set.samples("x").is_empty());
}

#[test]
fn short_name_is_docker_hub_s_as_where_cri_o_makes_a_container() {
    let policy = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {"docker.io/library/nginx": [{"type": ACCEPT}]}},
    });
    let set = load(&[("namespaces/dev.json", &policy.to_string())]).unwrap();
    for (image, scope) in [
        ("nginx", "docker.io/library/nginx"),
        ("nginx:1.27", "docker.io/library/nginx"),
        ("library/nginx", "docker.io/library/nginx"),
        ("docker.io/nginx", "docker.io/library/nginx"),
        ("quay.io/nginx", "default"),
        ("localhost/nginx", "default"),
    ] {
        assert_eq!(applicable(&set, image, Some("dev")), [format!("namespaces/dev.json#{scope}")], "{image}");
    }
}

#[test]
fn null_is_never_a_policy() {
    let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
    for (text, line) in [
        ("{\n \"default\": null\n}".to_owned(), 2),
        (format!("{{\n \"default\": {accept},\n \"transports\": null\n}}"), 3),
        (format!("{{\n \"default\": {accept},\n \"transports\": {{\"docker\": null}}\n}}"), 3),
        (format!("{{\"default\": {accept}, \"transports\": {{\n\n\"docker\": {{\"r.io\": null}}}}}}"), 3),
        (format!("{{\"default\": {accept}, \"transports\": {{\n\"atomic\": {{\"\": null}}}}}}"), 2),
        ("{\"default\": [\nnull]}".to_owned(), 2),
        ("{\"default\": [{\"type\": \"insecureAcceptAnything\",\n \"keyData\": null}]}".to_owned(), 2),
        ("{\"default\": [{\"type\":\n null}]}".to_owned(), 2),
        ("null".to_owned(), 1),
    ] {
        let error = load(&[("policy.json", &text)]).unwrap_err();
        assert!(error.starts_with(&format!("policy.json:{line}: ")), "{text}: {error}");
    }
}

#[test]
fn fault_in_json_names_its_line() {
    for (text, expected) in [
        (
            "{\n \"default\": [\n  {\"type\": \"reject\"},\n ]\n}",
            "policy.json:4: expected a containers-policy.json",
        ),
        (
            "{\n \"default\": [{\"type\": \"reject\"}],\n \"default\": []\n}",
            "policy.json:3: expected a containers-policy.json",
        ),
        (
            "{\n \"default\": [{\"type\": \"reject\"}],\n\n \"other\": []\n}",
            "policy.json:4: unknown field `other`",
        ),
        (
            "{\"default\": [{\"type\": \"reject\"}],\n \"transports\": {\n  \"dokcer\": {}}}",
            "policy.json:3: transports: expected docker",
        ),
        (
            "{\"default\": [\n {\"type\": \"sigstoreSigned\",\n \"keyDatas\": []}]}",
            "policy.json:2: keyData: expected one to",
        ),
    ] {
        let error = load(&[("policy.json", text)]).unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn namespace_s_file_takes_the_place_of_the_node_s() {
    let reject = r#"{"default": [{"type": "reject"}]}"#;
    let accept = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    let set = load(&[("policy.json", reject), ("namespaces/dev.json", accept)]).unwrap();
    assert_eq!(applicable(&set, "r.io/a", Some("dev")), ["namespaces/dev.json#default"]);
    assert_eq!(applicable(&set, "r.io/a", Some("prod")), ["policy.json#default"]);
    assert_eq!(applicable(&set, "r.io/a", None), ["policy.json#default"]);
    let alone = load(&[("namespaces/dev.json", accept)]).unwrap();
    assert!(applicable(&alone, "r.io/a", Some("prod")).is_empty());
    for (name, expected) in [
        ("other.json", "other.json:1: expected one containers-policy.json for the node, found"),
        ("namespaces/Dev.json", "namespaces/Dev.json:1: expected <namespace>.json"),
        ("namespaces/dev.yaml", "namespaces/dev.yaml:1: expected <namespace>.json"),
    ] {
        let error = load(&[("a.json", reject), (name, reject)]).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let native = denying("native", "images: ['**']");
    assert!(load(&[("namespaces/dev.json", &native)]).is_err(), "another dialect has no place there");
}

#[test]
fn json_is_read_as_containers_image_reads_it() {
    let valid = "{\"default\":\t[\n\t{\"type\":\t\"insecureAcceptAnything\"}\n]\r\n}\n";
    load(&[("policy.json", valid)]).unwrap();
    for (text, expected) in [
        ("default: [{type: reject}]\n", "expected a containers-policy.json"),
        ("{\"default\": [{\"type\": \"reject\"}], # a comment\n}", "expected a containers-policy.json"),
        ("{\"default\": [{\"type\": \"reject\"}], \"default\": [{\"type\": \"reject\"}]}", "duplicate"),
        ("{\"default\": [{\"type\": \"reject\", \"type\": \"reject\"}]}", "duplicate"),
        ("{\"default\": [{\"type\": \"reject\"}]} {}", ""),
        ("", ""),
    ] {
        let error = load(&[("policy.json", text)]).unwrap_err();
        assert!(error.starts_with("policy.json:") && error.contains(expected), "{text}: {error}");
    }
    // A document of Kubernetes in JSON is one of these still.
    let text = r#"{"apiVersion": "crivet.dev/v1alpha1", "kind": "ImagePolicy", "metadata": {"name": "n"},
        "spec": {"images": ["**"], "deny": {"reason": "test"}}}"#;
    assert_eq!(load(&[("n.json", text)]).unwrap().policies()[0].kind(), Kind::ImagePolicy);
}

#[test]
fn large_policy_loads_and_one_over_the_limit_does_not() {
    let with = |scopes: usize| {
        let scope = |n: usize| (format!("r.io/team-{n}/app"), json!([{"type": ACCEPT}]));
        let scopes: serde_json::Map<String, Value> = (0..scopes).map(scope).collect();
        one(&json!({"default": [{"type": "reject"}], "transports": {"docker": scopes}}))
    };
    let set = with(10_000).unwrap();
    assert_eq!(applicable(&set, "r.io/team-9999/app", None), ["policy.json#r.io/team-9999/app"]);
    let error = with(100_000).unwrap_err();
    assert!(error.contains("limit JSON_VALUES"), "{error}");
}

#[test]
fn what_a_containers_policy_may_not_say_is_an_error_with_its_line() {
    let key = json!(other_key());
    let identity = |identity: Value| {
        let mut requirement = signed_by(json!({"keyData": key}));
        requirement["signedIdentity"] = identity;
        requirement
    };
    let fulcio = json!({"caData": key, "oidcIssuer": "https://i.example", "subjectEmail": "a@b"});
    let mut both = fulcio.clone();
    both["caPath"] = "/ca".into();
    for (requirement, expected) in [
        (json!({"type": "signedBy", "keyType": "GPGKeys", "keyData": key}), "verifies no GPG signatures"),
        (json!({"type": "signedBaseLayer"}), "expected sigstoreSigned, insecureAcceptAnything or reject"),
        (json!({"type": "reject", "keyData": key}), "expected no field but type"),
        (json!({"type": ACCEPT, "keyPaths": []}), "expected no field but type"),
        (json!({"type": "sigstoreSigned"}), "expected exactly one of keyPath"),
        (json!({"type": "sigstoreSigned", "keyData": key, "keyDatas": [key]}), "expected one of keyPath"),
        (
            json!({"type": "sigstoreSigned", "keyData": key, "fulcio": fulcio}),
            "expected exactly one of keyPath",
        ),
        (
            json!({"type": "sigstoreSigned", "keyDatas": []}),
            "expected one to 32 keys (limit POLICY_KEYS), found 0",
        ),
        (json!({"type": "sigstoreSigned", "keyData": "x"}), "keyData: expected PEM, base64-encoded"),
        (json!({"type": "sigstoreSigned", "keyData": key, "keyType": "GPGKeys"}), "unknown field `keyType`"),
        (json!({"type": "sigstoreSigned", "keyData": key, "mode": "x"}), "unknown field `mode`"),
        (json!({"type": "sigstoreSigned", "fulcio": fulcio}), "expected a Rekor key beside it"),
        (
            json!({"type": "sigstoreSigned", "fulcio": both, "rekorPublicKeyData": key}),
            "found both; keep one",
        ),
        (
            json!({"type": "sigstoreSigned", "fulcio": {"oidcIssuer": "i", "subjectEmail": "a@b"}, "rekorPublicKeyData": key}),
            "expected caPath or caData",
        ),
        (
            json!({"type": "sigstoreSigned", "fulcio": {"caData": key, "oidcIssuer": "i"}}),
            "missing field `subjectEmail`",
        ),
        (
            json!({"type": "sigstoreSigned", "pki": {"caRootsData": key, "subjectEmail": "a@b"}, "rekorPublicKeyData": key}),
            "expected no Rekor key beside it",
        ),
        (
            json!({"type": "sigstoreSigned", "pki": {"caRootsData": key}}),
            "expected subjectEmail, subjectHostname or both",
        ),
        (
            json!({"type": "sigstoreSigned", "pki": {"subjectEmail": "a@b"}}),
            "expected caRootsPath or caRootsData",
        ),
        (
            json!({"type": "sigstoreSigned", "keyData": key, "rekorPublicKeyPath": "/a", "rekorPublicKeyData": key}),
            "expected one of rekorPublicKeyPath",
        ),
        (identity(json!({"type": "matchAny"})), "signedIdentity.type: expected matchExact"),
        (identity(json!({"type": "exactReference"})), "expected dockerReference beside exactReference"),
        (
            identity(json!({"type": "exactReference", "dockerReference": "r.io/a"})),
            "expected a name with its tag",
        ),
        (
            identity(json!({"type": "exactRepository", "dockerRepository": "r.io/a:v1"})),
            "expected a repository without",
        ),
        (identity(json!({"type": "matchExact", "prefix": "r.io"})), "and nothing beside the others"),
        (
            identity(json!({"type": "remapIdentity", "prefix": "r.io", "signedPrefix": "a"})),
            "signedIdentity.signedPrefix",
        ),
    ] {
        let error = fixtures(json!([requirement])).unwrap_err();
        assert!(error.starts_with("policy.json:") && error.contains(expected), "{requirement}: {error}");
        assert!(!error.starts_with("policy.json:1: ") || error.contains("limit"), "{error}");
    }
    for (policy, expected) in [
        (json!({"transports": {}}), "missing field `default`"),
        (json!({"default": []}), "expected one to 16 requirements (limit POLICY_REQUIREMENTS), found 0"),
        (json!({"default": [{"type": ACCEPT}], "other": 1}), "unknown field `other`"),
        (
            json!({"default": [{"type": ACCEPT}], "transports": {"dockers": {}}}),
            "transports: expected docker, atomic",
        ),
        (
            json!({"default": [{"type": ACCEPT}], "transports": {"docker": {"busybox": [{"type": ACCEPT}]}}}),
            "transports.docker: expected a scope, found \"busybox\"",
        ),
        (
            json!({"default": [{"type": "signedBy"}], "transports": {"docker": {"": [{"type": ACCEPT}]}}}),
            "verifies no GPG signatures",
        ),
        (json!({"default": vec![json!({"type": ACCEPT}); 17]}), "limit POLICY_REQUIREMENTS"),
    ] {
        let error = one(&policy).unwrap_err();
        assert!(error.starts_with("policy.json:") && error.contains(expected), "{policy}: {error}");
    }
}

#[test]
fn scope_written_in_two_spellings_counts_both() {
    let policy = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {"R.io": [{"type": ACCEPT}], "r.io:443": [{"type": "reject"}]}},
    });
    let set = one(&policy).unwrap();
    assert_eq!(applicable(&set, "r.io/a", None), ["policy.json#R.io", "policy.json#r.io:443"]);
}
