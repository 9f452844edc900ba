//! Everything that real cosign 2, cosign 3 and npm's sigstore signed.

use crate::verify::fixture::{Fixture, names, predicate_types};
use crate::verify::*;

/// What is sought of a fixture, and the other.
fn sought<'a>(fixture: &Fixture, types: &'a [String]) -> (Sought<'a>, Sought<'a>) {
    let attestation = Sought::Attestation { predicate_types: types };
    if fixture.is_attestation() { (attestation, Sought::Signature) } else { (Sought::Signature, attestation) }
}

#[test]
fn everything_real_tools_signed_verifies_as_what_it_is_and_as_nothing_else() {
    let types = predicate_types();
    let (mut held, mut failed) = (0, Vec::new());
    for name in names() {
        let fixture = Fixture::load(&name);
        let (right, wrong) = sought(&fixture, &types);
        assert_eq!(fixture.evidence.is_empty(), name == "unsigned", "{name}");
        for evidence in &fixture.evidence {
            let mixed = name.starts_with("signed-and-attested") || name.starts_with("saved-");
            let verify = |sought: &Sought<'_>| {
                let outcomes =
                    fixture.authorities.iter().map(|authority| fixture.verify(evidence, authority, sought));
                // What the nearest authority says.
                outcomes
                    .reduce(|one, two| match (one, two) {
                        (Err(one), Err(two)) => Err(if one.step > two.step { one } else { two }),
                        (one, two) => one.or(two),
                    })
                    .unwrap()
            };
            match (verify(&right), verify(&wrong)) {
                // No log can have verified the entry.
                (Err(failure), _) if name == "ed25519-rekor1-legacy" && failure.step == Step::Entry => {
                    held += 1
                }
                // Nobody vouches for a time.
                (Err(failure), _) if name == "keyless-none-legacy" && failure.step == Step::Time => held += 1,
                (Ok(_), Err(failure)) if failure.step == Step::Type => held += 1,
                (Err(failure), Ok(_)) if mixed && failure.step == Step::Type => held += 1,
                (right, wrong) => {
                    let text = |outcome: Result<Verified, Failure>| match outcome {
                        Ok(_) => "holds".to_owned(),
                        Err(failure) => failure.to_string(),
                    };
                    failed.push(format!("{name}: {} / {}", text(right), text(wrong)));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{held} hold; {}:\n{}", failed.len(), failed.join("\n"));
    assert!(held > 100, "{held}");
}

/// docs/verification.md names a test for each check: each is there.
#[test]
fn tests_that_the_documentation_names_exist() {
    fn sources(dir: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                sources(&entry, text);
            } else {
                text.push_str(&std::fs::read_to_string(entry).unwrap());
            }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for folder in ["src/verify", "src/policy", "tests/integration"] {
        sources(&root.join(folder), &mut text);
    }
    let page = std::fs::read_to_string(root.join("docs/verification.md")).unwrap();
    let named = page.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 3);
    let (mut seen, mut missing) = (0, Vec::new());
    for name in named {
        seen += 1;
        if !text.contains(&format!("fn {name}()")) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty() && seen > 30, "{seen}: {missing:?}");
}
