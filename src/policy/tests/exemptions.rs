//! Images that a policy leaves out for a time.

use std::time::Duration;

use super::*;
use crate::audit::from_rfc3339;

const LEGACY: &str = "  exemptions:\n  - {images: ['r.io/team/legacy:v*'], reason: rebuilt in autumn, expires: '2026-12-01T00:00:00Z'}\n";

fn time(text: &str) -> SystemTime {
    from_rfc3339(text).unwrap()
}

/// What the one policy says to an image without a signature.
fn judged(exemptions: &str, image: &str, digests: &[Digest], now: SystemTime) -> Judgement {
    let set = compile(&signed(&Signer::new().pem(), exemptions)).unwrap();
    let name = ImageName::parse(image).unwrap();
    let subject = Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false };
    let [policy] = set.applicable(&subject)[..] else { panic!() };
    let exempted = policy.exemption(&subject, digests, now).is_some();
    assert_eq!(policy.asks(&subject, digests, now), !exempted);
    let judged = policy
        .judge(&subject, digests, &[], &Conditions::at(now), &mut |_, _, _| panic!("nothing to verify"));
    assert_eq!(matches!(judged, Judgement::Exempted { .. }), exempted);
    judged
}

#[test]
fn exempted_image_is_asked_for_nothing_until_it_expires() {
    let end = time("2026-12-01T00:00:00Z");
    let before = end - Duration::from_secs(1);
    let Judgement::Exempted { expires, detail, checks } = judged(LEGACY, "r.io/team/legacy:v1", &[], before)
    else {
        panic!()
    };
    assert_eq!(expires, end);
    assert_eq!(detail, "exempted until 2026-12-01T00:00:00.000Z (rebuilt in autumn)");
    assert_eq!(checks[0].to_string(), format!("exemption: passed: {detail}"));
    for other in ["r.io/team/legacy:w1", "r.io/team/other:v1", &format!("r.io/team/legacy@{}", index())] {
        assert_eq!(found(judged(LEGACY, other, &[], before)), "no signature", "{other}");
    }
}

#[test]
fn exemption_that_is_over_is_refused_and_says_since_when() {
    let end = time("2026-12-01T00:00:00Z");
    let told = "no signature, and its exemption ended at 2026-12-01T00:00:00.000Z (rebuilt in autumn)";
    for now in [end, end + Duration::from_secs(86_400)] {
        assert_eq!(found(judged(LEGACY, "r.io/team/legacy:v1", &[], now)), told);
    }
    // Another that is in force.
    let longer =
        format!("{LEGACY}  - {{images: ['r.io/team/*'], reason: x, expires: '2026-12-02T00:00:00Z'}}\n");
    assert!(matches!(judged(&longer, "r.io/team/legacy:v1", &[], end), Judgement::Exempted { .. }));
}

#[test]
fn exempted_digest_is_held_against_the_content_under_every_name() {
    let exempted = format!(
        "  exemptions: [{{images: ['**@{}'], reason: x, expires: '2026-12-01T00:00:00Z'}}]\n",
        manifest()
    );
    let now = SystemTime::UNIX_EPOCH;
    assert!(matches!(
        judged(&exempted, "r.io/team/a:v1", &[index(), manifest()], now),
        Judgement::Exempted { .. }
    ));
    // What is written beside the name says nothing of what a runtime has under it.
    let named = format!("r.io/team/a@{}", manifest());
    assert!(matches!(judged(&exempted, &named, &[manifest()], now), Judgement::Exempted { .. }));
    for digests in [&[][..], &[index()]] {
        assert_eq!(found(judged(&exempted, &named, digests, now)), "no signature", "{digests:?}");
    }
    let set = compile(&signed(&Signer::new().pem(), &exempted)).unwrap();
    let name = ImageName::parse(&named).unwrap();
    let subject = Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false };
    assert_eq!(set.explain(&subject, false).policies[0].exemptions, ["2026-12-01T00:00:00.000Z (x)"]);
    assert_eq!(found(judged(&exempted, "r.io/team/a:v1", &[index()], now)), "no signature");
    let elsewhere = exempted.replace("**@", "r.io/team/b@");
    assert_eq!(found(judged(&elsewhere, "r.io/team/a:v1", &[manifest()], now)), "no signature");
}

#[test]
fn each_break_of_an_exemption_is_named() {
    let pem = Signer::new().pem();
    assert!(compile(&signed(&pem, LEGACY)).is_ok());
    for (from, to, expected) in [
        ("['r.io/team/legacy:v*']", "[]", "spec.exemptions.images: expected at least one pattern"),
        ("r.io/team/legacy", "R/Team", "spec.exemptions.images: expected a repository in lowercase"),
        ("rebuilt in autumn", "' '", "spec.exemptions.reason: expected one line"),
        ("reason: rebuilt in autumn, ", "", "missing field `reason`"),
        (", expires: '2026-12-01T00:00:00Z'", "", "missing field `expires`"),
        (
            "2026-12-01T00:00:00Z",
            "2026-12-01",
            "p.yaml:14: spec.exemptions.expires: expected a time in UTC such as",
        ),
        ("2026-12-01T00:00:00Z", "2026-02-30T00:00:00Z", "expected a time in UTC"),
        ("2026-12-01T00:00:00Z", "2026-12-01T00:00:00+01:00", "expected a time in UTC"),
    ] {
        let error = compile(&signed(&pem, &LEGACY.replace(from, to))).expect_err(to);
        assert!(error.contains(expected), "{to}: {error}");
    }
    let beside_deny = "images: [a], exemptions: [{images: [a], reason: x, expires: '2026-12-01T00:00:00Z'}]";
    let beside_deny = denying("a", beside_deny);
    assert!(
        compile(&beside_deny).unwrap_err().contains("spec.exemptions: expected requirements beside them")
    );
    let many = LEGACY.replace("'r.io/team/legacy:v*'", &vec!["a"; limits::POLICY_EXEMPTIONS + 1].join(", "));
    assert!(compile(&signed(&pem, &many)).unwrap_err().contains("limit POLICY_EXEMPTIONS"));
}
