use std::time::Duration;

use super::*;

fn with(within: &str) -> String {
    signed(&Signer::new().pem(), &format!("  content: {{layersCheckedWithin: {within}}}\n"))
}

#[test]
fn layers_checked_within_is_read() {
    let set = compile(&with("72h")).unwrap();
    assert_eq!(set.policies()[0].layers_checked_within(), Some(Duration::from_secs(72 * 3600)));
    assert_eq!(
        compile(&signed(&Signer::new().pem(), "")).unwrap().policies()[0].layers_checked_within(),
        None
    );
}

#[test]
fn layers_checked_within_has_limits_and_no_default() {
    for (within, names) in [
        ("59m", "CONTENT_WITHIN_LEAST_SECONDS"),
        ("721h", "CONTENT_WITHIN_MOST_SECONDS"),
        ("daily", "expected a duration"),
    ] {
        let error = compile(&with(within)).unwrap_err();
        assert!(error.contains("spec.content.layersCheckedWithin") && error.contains(names), "{error}");
    }
    let error = compile(&signed(&Signer::new().pem(), "  content: {}\n")).unwrap_err();
    assert!(error.contains("layersCheckedWithin"), "{error}");
}

#[test]
fn content_without_requirements_is_refused() {
    let text = denying("a", "images: [a], content: {layersCheckedWithin: 72h}");
    let error = compile(&text).unwrap_err();
    assert!(error.contains("spec.content: expected requirements beside it"), "{error}");
}

#[test]
fn content_is_explained() {
    let name = ImageName::parse("r.io/team/app:1").unwrap();
    let subject = Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false };
    let text = compile(&with("90m")).unwrap().explain(&subject, false).to_string();
    let expected = "content  a check of the node's disk has found the layers whole within the last 1h30m\n";
    assert!(text.contains(expected), "{text}");
}
