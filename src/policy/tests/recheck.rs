use std::time::Duration;

use super::*;

const WHOLE: &str = "{interval: 10m, onDrift: repull, whenRegistryDown: allow, whenLoginRefused: deny}";

fn with(recheck: &str) -> String {
    signed(&Signer::new().pem(), &format!("  recheck: {recheck}\n"))
}

#[test]
fn recheck_is_read() {
    let set = compile(&with(WHOLE)).unwrap();
    let expected = Recheck {
        interval: Duration::from_secs(600),
        on_drift: OnDrift::Repull,
        when_registry_down: WithoutAnswer::Allow,
        when_login_refused: WithoutAnswer::Deny,
    };
    assert_eq!(set.policies()[0].recheck(), Some(expected));
    assert_eq!(compile(&signed(&Signer::new().pem(), "")).unwrap().policies()[0].recheck(), None);
}

#[test]
fn recheck_has_no_defaults() {
    for key in
        ["interval: 10m, ", "onDrift: repull, ", "whenRegistryDown: allow, ", ", whenLoginRefused: deny"]
    {
        let name = key.trim_matches([',', ' ']).split(':').next().unwrap();
        let error = compile(&with(&WHOLE.replace(key, ""))).unwrap_err();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn recheck_interval_has_limits() {
    for (interval, names) in [
        ("500ms", "RECHECK_LEAST_SECONDS"),
        ("169h", "RECHECK_MOST_SECONDS"),
        ("often", "expected a duration"),
    ] {
        let error = compile(&with(&WHOLE.replace("10m", interval))).unwrap_err();
        assert!(error.contains("spec.recheck.interval") && error.contains(names), "{error}");
    }
}

#[test]
fn recheck_without_requirements_is_refused() {
    let text = denying("a", &format!("images: [a], recheck: {WHOLE}"));
    assert!(compile(&text).unwrap_err().contains("expected requirements beside it"));
}

#[test]
fn strictest_recheck_holds_of_each_kind() {
    let [lax, strict] = [("warn", "1h", "allow", "deny"), ("deny", "2h", "deny", "allow")].map(
        |(on_drift, interval, down, refused)| {
            let text = format!(
                "{{interval: {interval}, onDrift: {on_drift}, whenRegistryDown: {down}, whenLoginRefused: {refused}}}"
            );
            compile(&with(&text)).unwrap().policies()[0].recheck().unwrap()
        },
    );
    let expected = Recheck {
        interval: Duration::from_secs(3600),
        on_drift: OnDrift::Deny,
        when_registry_down: WithoutAnswer::Deny,
        when_login_refused: WithoutAnswer::Deny,
    };
    assert_eq!((lax.and(strict), strict.and(lax)), (expected, expected));
    assert!(OnDrift::Warn < OnDrift::Repull && OnDrift::Repull < OnDrift::Deny);
}
