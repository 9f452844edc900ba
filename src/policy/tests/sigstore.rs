//! ClusterImagePolicies.

use super::*;
use crate::image::Reference;
use crate::verify::Authority;

pub(super) fn sigstore(pem: &str) -> String {
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: cip, generation: 3}}\nspec:\n  \
         images:\n  - glob: r.io/team/**\n  authorities:\n  - name: a\n    key:\n      hashAlgorithm: sha256\n      data: |\n{}",
        indented(pem, 8)
    )
}

#[test]
fn sigstore_policies_all_have_to_hold_beside_the_native_one() {
    let pem = Signer::new().pem();
    let other = sigstore(&pem).replace("name: cip", "name: other").replace("r.io/team/**", "r.io/team/app*");
    let all = sigstore(&pem).replace("name: cip", "name: everything").replace("r.io/team/**", "'**'");
    let text = [sigstore(&pem), other, all, denying("native", "images: ['r.io/**']")].join("---\n");
    let set = compile(&text).unwrap();
    assert_eq!(applicable(&set, "r.io/team/app:v1", None), ["cip", "other", "everything", "native"]);
    assert_eq!(applicable(&set, "r.io/team/x", None), ["cip", "everything", "native"]);
    assert_eq!(applicable(&set, "nginx", None), ["everything"]);
    assert_eq!(applicable(&set, "", None), ["everything"]);
}

#[test]
fn sigstore_globs_are_held_against_the_names_the_controller_sees() {
    let covers = |glob: &str, image: &str| {
        let set =
            compile(&sigstore(&Signer::new().pem()).replace("r.io/team/**", &format!("'{glob}'"))).unwrap();
        !applicable(&set, image, None).is_empty()
    };
    for (glob, image, expected) in [
        ("*", "nginx", true),
        ("*", "team/nginx", false),
        ("*/*", "team/nginx", true),
        ("docker.io/library/nginx*", "nginx:1", true),
        ("index.docker.io/**", "nginx:1", true),
        ("r.io/app", "r.io/app:v1", false),
        ("r.io/app:v1", "r.io/app:v1", true),
        ("r.io/app@sha256:*", "r.io/app:v1", true),
        ("r.io/app*", "r.io/app-other", true),
        ("*.io/app*", "r.io/app", true),
    ] {
        assert_eq!(covers(glob, image), expected, "{glob} {image}");
    }
}

#[test]
fn sigstore_policy_is_judged_as_the_controller_does() {
    let signer = Signer::new();
    let elsewhere = [signer.sign(claim_of(index(), "x.io/mirror").as_bytes())];
    let set = compile(&sigstore(&signer.pem())).unwrap();
    assert_eq!(set.policies()[0].mode(), Some(Mode::Enforce));
    assert!(is_satisfied(&judge(&set, "r.io/team/app", &elsewhere)));
    found(judge(&set, "r.io/team/app", &[]));
    let warn = compile(&format!("{}  mode: warn\n", sigstore(&signer.pem()))).unwrap();
    assert_eq!(warn.policies()[0].mode(), Some(Mode::Audit));
    // One authority is enough.
    let with = |action: &str| {
        let text = format!("{}  - static: {{action: {action}}}\n", sigstore(&signer.pem()));
        judge(&compile(&text).unwrap(), "r.io/team/app", &[])
    };
    assert!(is_satisfied(&with("pass")));
    assert_eq!(found(with("fail")), "no signature");
    let only_fail = "apiVersion: policy.sigstore.dev/v1alpha1\nkind: ClusterImagePolicy\nmetadata: {name: a}\nspec:\n  images: [{glob: r.io/**}]\n  \
                     authorities: [{static: {action: fail, message: not here}}]\n";
    assert_eq!(
        found(judge(&compile(only_fail).unwrap(), "r.io/a", &elsewhere)),
        "one that the policy denies (not here)"
    );
}

#[test]
fn what_sigstore_policies_have_and_crivet_has_not_is_an_error_with_its_line() {
    let valid = sigstore(&Signer::new().pem());
    let line = valid.lines().count() + 1;
    for (more, key) in [
        ("    ctlog: {url: 'https://rekor.example'}\n", "spec.authorities.ctlog.url"),
        ("    source: [{oci: 'x:1'}]\n", "spec.authorities.source.oci"),
        ("    source: [{tagPrefix: -x}]\n", "spec.authorities.source.tagPrefix"),
        (
            "    source: [{oci: x, signaturePullSecrets: []}]\n",
            "spec.authorities.source.signaturePullSecrets",
        ),
        ("    attestations: [{predicateType: vuln, policy: {}}]\n", "missing field `type`"),
        (
            "    attestations: [{predicateType: vuln, policy: {type: cue, data: 'a: 1'}}]\n",
            "spec.authorities.attestations.policy.type: expected rego, found \"cue\"",
        ),
        (
            "    attestations: [{predicateType: vuln, policy: {type: rego, data: 'package sigstore'}}]\n",
            "spec.authorities.attestations.policy.data: expected a rule isCompliant",
        ),
        ("    attestations: [{predicateType: ''}]\n", "spec.authorities.attestations.predicateType"),
        ("    signatureFormat: other\n", "spec.authorities.signatureFormat"),
        ("      kms: x\n", "spec.authorities.key.kms"),
        ("      secretRef: {name: x}\n", "spec.authorities.key.secretRef"),
        ("  policy: {type: cue}\n", "spec.policy.type: expected rego, found \"cue\""),
        ("  policy: {type: rego}\n", "spec.policy.data: expected a policy in Rego, found none"),
        ("  policy: {type: rego, configMapRef: {name: x, key: y}}\n", "spec.policy.configMapRef"),
        ("  policy: {type: rego, remote: {url: 'https://x', sha256sum: y}}\n", "spec.policy.remote"),
        (
            "  policy: {type: rego, includeSpec: true}\n",
            "spec.policy.includeSpec: expected false, or nothing, found true; the runtime",
        ),
        ("  policy: {type: rego, includeObjectMeta: true}\n", "spec.policy.includeObjectMeta"),
        ("  policy: {type: rego, includeTypeMeta: true}\n", "spec.policy.includeTypeMeta"),
        ("  policy: {type: rego, fetchConfigFile: true}\n", "spec.policy.fetchConfigFile"),
        ("  policy: {type: rego, data: 'package x'}\n", "spec.policy.data: expected"),
        (
            "  match: [{resource: deployments, group: apps, version: v1}]\n",
            "spec.match: expected resource pods of no group, found \"deployments\" of group \"apps\"; a node sees pods",
        ),
        ("  match: [{resource: pods}]\n", "spec.match.version: expected v1 or \"*\", found \"\""),
        (
            "  match: [{resource: pods, group: apps, version: v1}]\n",
            "spec.match: expected resource pods of no group",
        ),
        (
            "  match: [{resource: pods, version: v1, selector: {matchExpressions: []}}]\n",
            "spec.match.selector.matchExpressions",
        ),
        (
            "  match: [{resource: pods, version: v1, selector: {matchLabels: {a: b}}}, {resource: pods, version: v1, selector: {matchLabels: {a: c}}}]\n",
            "spec.match: expected the labels of one kind of pods, found 2; write a policy for each",
        ),
        (
            "  match: [{resource: pods, version: v1, selector: {matchLabels: {a: b}}}, {resource: jobs, group: batch, version: v1}]\n",
            "found \"jobs\" of group \"batch\"",
        ),
        ("  other: x\n", "unknown field `other`"),
        ("  mode: audit\n", "unknown variant `audit`"),
    ] {
        let error = compile(&format!("{valid}{more}")).unwrap_err();
        let expected = format!("p.yaml:{line}: ");
        assert!(error.starts_with(&expected) && error.contains(key), "{more}: {error}");
    }
    let sha512 = valid.replace("hashAlgorithm: sha256", "hashAlgorithm: sha512");
    assert!(compile(&sha512).unwrap_err().contains("expected sha256, found \"sha512\""));
    assert!(compile(&valid.replace("r.io/team/**", "nginx*")).unwrap_err().contains("index.docker.io/"));
    assert!(compile(&valid.replace("- glob: r.io/team/**", "[]")).is_err());
    let (head, _) = valid.split_once("  authorities:").unwrap();
    assert!(
        compile(head).unwrap_err().contains("expected one to 32 authorities (limit POLICY_KEYS), found 0")
    );
}

#[test]
fn match_of_pods_is_for_all_and_its_labels_only_add() {
    let pem = Signer::new().pem();
    let with = |name: &str, more: &str| {
        format!("{}{more}", sigstore(&pem).replace("name: cip", &format!("name: {name}")))
    };
    let labelled = "selector: {matchLabels: {team: payments}}";
    let set = compile(
        &[
            with("pods", "  match: [{resource: pods, version: '*'}]\n"),
            with("empty", "  match: []\n"),
            with("both", "  match: [{resource: deployments, group: apps, version: v1}, {resource: pods, version: v1, selector: {}}]\n"),
            with("payments", &format!("  match: [{{resource: pods, group: '', version: v1, {labelled}}}]\n")),
        ]
        .join("---\n"),
    )
    .unwrap();
    let of = |set: &PolicySet, image: &str, team: &str, unmatched: bool| {
        let (name, labels) =
            (ImageName::parse(image).unwrap(), Labels::from([("team".to_owned(), team.to_owned())]));
        let subject = Subject { name: &name, namespace: None, labels: &labels, is_pause: false };
        let deciding =
            set.deciding(&subject, unmatched).into_iter().map(Policy::name).collect::<Vec<_>>().join(" ");
        let told = set.explain(&subject, unmatched).policies;
        let told =
            told.iter().filter(|one| one.decides).map(|one| one.name.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(deciding, told);
        deciding
    };
    assert_eq!(of(&set, "r.io/team/app:v1", "others", false), "pods empty both");
    assert_eq!(of(&set, "r.io/team/app:v1", "payments", false), "pods empty both payments");
    // What no other policy covers, one for labels covers neither.
    let alone =
        compile(&with("payments", &format!("  match: [{{resource: pods, version: v1, {labelled}}}]\n")))
            .unwrap();
    assert_eq!(of(&alone, "r.io/team/app:v1", "payments", false), "");
    assert_eq!(of(&alone, "r.io/team/app:v1", "payments", true), "payments");
    let pass = format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: pass}}\nspec:\n  images: [{{glob: '**'}}]\n  \
         authorities: [{{static: {{action: pass}}}}]\n  match: [{{resource: pods, version: v1, {labelled}}}]\n"
    );
    assert!(
        compile(&pass)
            .unwrap_err()
            .contains("spec.match.selector: expected a policy that asks for something")
    );
    let imported = alone.import();
    assert!(
        imported.unsaid.is_empty() && imported.text.contains("podLabels:\n    team: payments\n"),
        "{imported:?}"
    );
}

/// A keyless authority of a ClusterImagePolicy with these fields.
fn keyless(fields: &str) -> String {
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: cip}}\nspec:\n  \
         images: [{{glob: '**'}}]\n  authorities:\n  - keyless: {{{fields}}}\n"
    )
}

const IDENTITY: &str = "identities: [{issuer: https://i.example, subjectRegExp: 'https://i.example/org/.*'}]";

fn authorities(set: &PolicySet) -> Vec<Authority> {
    let requirements = set.policies()[0].requirements();
    requirements.iter().flat_map(|one| &one.signers).map(|signer| signer.authority.clone()).collect()
}

#[test]
fn keyless_authority_wants_a_log_and_an_sct_by_the_public_root_unless_told_otherwise() {
    let [Authority::Keyless(plain)] = &authorities(&compile(&keyless(IDENTITY)).unwrap())[..] else {
        panic!()
    };
    assert_eq!((plain.root.as_str(), plain.sct), ("public-good", true));
    assert_eq!((plain.witnesses.logs.count, plain.witnesses.timestamps.count), (1, 0));
    assert!(plain.identities[0].subject.matches("https://i.example/org/x"));
    assert!(!plain.identities[0].subject.matches("evil https://i.example/org/x"));
    let more =
        format!("url: https://fulcio.example, trustRootRef: corp, insecureIgnoreSCT: true, {IDENTITY}");
    let text = format!("{}    rfc3161timestamp: {{trustRootRef: tsa}}\n", keyless(&more));
    let set = compile(&text).unwrap();
    let [Authority::Keyless(corp)] = &authorities(&set)[..] else { panic!() };
    assert_eq!((corp.root.as_str(), corp.sct), ("corp", false));
    assert_eq!(corp.witnesses.timestamps.root.as_deref(), Some("tsa"));
    assert_eq!(set.policies()[0].trust_roots().into_iter().collect::<Vec<_>>(), ["corp", "tsa"]);
}

#[test]
fn keyless_authority_that_leaves_something_open_is_an_error() {
    for (fields, expected) in [
        ("identities: []", "expected at least one identity"),
        ("identities: [{issuer: a}]", "identities.subject: expected it or subjectRegExp, found neither"),
        ("identities: [{issuer: a, issuerRegExp: a, subject: b}]", "found both"),
        ("identities: [{issuer: '', subject: b}]", "found an empty one"),
        ("identities: [{issuer: a, subjectRegExp: '('}]", "regular expression"),
        ("url: https://fulcio.example, identities: [{issuer: a, subject: b}]", "TrustRoot"),
        ("ca-cert: {data: x}, identities: [{issuer: a, subject: b}]", "keyless.ca-cert"),
        ("identities: [{issuer: a, subject: b, claims: {}}]", "unknown field `claims`"),
    ] {
        let error = compile(&keyless(fields)).unwrap_err();
        assert!(error.contains(expected), "{fields}: {error}");
    }
}

#[test]
fn authority_with_attestations_asks_for_each_and_for_no_signature() {
    let text = format!(
        "{}    attestations: [{{predicateType: vuln}}, {{predicateType: 'https://x/y'}}]\n",
        keyless(IDENTITY)
    );
    let set = compile(&text).unwrap();
    let wanted: Vec<_> =
        set.policies()[0].requirements().iter().map(|one| format!("{:?}", one.wanted)).collect();
    assert_eq!(
        wanted,
        [
            "Attestation([\"https://cosign.sigstore.dev/attestation/vuln/v1\"])",
            "Attestation([\"https://x/y\"])",
        ]
    );
}

#[test]
fn sources_are_where_evidence_is_looked_for() {
    let places = |more: &str| {
        let set = compile(&format!("{}{more}", keyless(IDENTITY))).unwrap();
        let shown = |place: &Place| {
            let repository = place.repository.as_ref().map_or("own".to_owned(), Reference::repo_name);
            format!("{repository} {}", place.tag_prefix)
        };
        set.policies()[0].places().iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(places(""), ["own "]);
    assert_eq!(places("    source: [{oci: r.io/sigs}, {tagPrefix: p_}]\n"), ["r.io/sigs ", "own p_"]);
}
