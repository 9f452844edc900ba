//! Policies for pods with labels only add to what holds without them.

use super::*;

const LABELS: &str = "podLabels: {team: payments, tier: web}";

fn labels(of: &[(&str, &str)]) -> Labels {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn names(policies: Vec<&Policy>) -> Vec<&str> {
    policies.into_iter().map(Policy::name).collect()
}

#[test]
fn policy_for_labels_is_added_to_what_holds_without_it() {
    let set = compile(
        &[
            denying("all", "images: ['r.io/**']"),
            denying("app", "images: ['r.io/app']"),
            // However specific: it takes nothing's place, and several are no tie.
            denying("payments", &format!("images: ['r.io/app'], {LABELS}")),
            denying("also", &format!("images: ['r.io/app'], {LABELS}, namespaces: [prod]")),
            denying("others", "images: ['**'], podLabels: {team: others}"),
        ]
        .concat(),
    )
    .unwrap();
    let asked = |image: &str, namespace, of: &[(&str, &str)]| {
        let (name, labels) = (ImageName::parse(image).unwrap(), labels(of));
        let subject = Subject { name: &name, namespace, labels: &labels, is_pause: false };
        let base = names(set.applicable(&subject)).join(" ");
        format!("{base} + {}", names(set.adding(&subject)).join(" "))
    };
    let web = [("team", "payments"), ("tier", "web"), ("more", "")];
    assert_eq!(asked("r.io/app:v1", None, &[]), "app + ");
    assert_eq!(asked("r.io/app:v1", None, &web), "app + payments");
    assert_eq!(asked("r.io/app:v1", Some("prod"), &web), "app + payments also");
    assert_eq!(asked("r.io/app:v1", Some("prod"), &web[..1]), "app + ");
    assert_eq!(asked("r.io/app:v1", None, &[("team", "payments"), ("tier", "db")]), "app + ");
    assert_eq!(asked("r.io/other", None, &web), "all + ");
    assert_eq!(asked("nginx", None, &[("team", "others")]), " + others");
    assert_eq!(asked("", None, &[("team", "others")]), " + others");
}

#[test]
fn digest_that_is_denied_for_labels_is_denied_to_such_pods_only() {
    let set =
        compile(&denying("bad", &format!("images: ['**@{}'], podLabels: {{tier: web}}", index()))).unwrap();
    let name = ImageName::parse("r.io/app:v1").unwrap();
    for (of, denied) in [(&[("tier", "web")][..], true), (&[("tier", "db")], false), (&[], false)] {
        let labels = labels(of);
        let subject = Subject { name: &name, namespace: None, labels: &labels, is_pause: false };
        assert_eq!(set.denies(&subject, &[index()], |_| true).is_some(), denied, "{of:?}");
        assert_eq!(set.may_deny(&subject).count() == 1, denied, "{of:?}");
    }
}

#[test]
fn labels_that_would_loosen_or_can_never_be_are_errors() {
    let with = |labels: &str| compile(&denying("a", &format!("images: [a], podLabels: {labels}")));
    assert!(with("{app.kubernetes.io/part-of: a.b_c-d, plain: ''}").is_ok());
    for (labels, expected) in [
        ("{}", "spec.podLabels: expected one to 16 labels (limit POLICY_LABELS), found 0"),
        (
            "{io.kubernetes.pod.namespace: prod}",
            "p.yaml:5: spec.podLabels: expected a label of the pod's author",
        ),
        ("{'a b': c}", "expected a label's key"),
        ("{'A.b/c': d}", "expected a label's key"),
        ("{a/b/c: d}", "expected a label's key"),
        ("{a: '*'}", "expected a label's value"),
        ("{a: -b}", "expected a label's value"),
    ] {
        let error = with(labels).expect_err(labels);
        assert!(error.contains(expected), "{labels}: {error}");
    }
    let many: Vec<String> = (0..=limits::POLICY_LABELS).map(|n| format!("k{n}: v")).collect();
    assert!(with(&format!("{{{}}}", many.join(", "))).unwrap_err().contains("POLICY_LABELS"));
    let accepts = denying("a", &format!("images: [a], {LABELS}")).replace("deny:", "insecureAcceptAnything:");
    assert!(
        compile(&accepts).unwrap_err().contains("spec.podLabels: expected requirements or deny beside it")
    );
}
