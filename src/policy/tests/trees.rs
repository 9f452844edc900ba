//! Requirements that stand in each other.

use super::documented::takes;
use super::*;
use crate::verify::{Failure, Step};

/// A policy for all images with these requirements, written as a flow mapping.
fn policy(requirements: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: p}}\nspec:\n  images: ['**']\n  requirements: {{{requirements}}}\n"
    )
}

fn key(name: &str, signer: &Signer) -> String {
    format!("{{keys: [{{name: {name}, data: \"{}\"}}]}}", signer.pem().replace('\n', "\\n"))
}

fn signs(signer: &Signer) -> SimpleSigning {
    signer.sign(claim_of(index(), "r.io/app").as_bytes())
}

/// Why, what was found and what was expected of an image that does not satisfy.
fn short(requirements: &str, signatures: &[SimpleSigning]) -> (Shortfall, String, String) {
    match judge(&compile(&policy(requirements)).unwrap(), "r.io/app", signatures) {
        Judgement::Unsatisfied { why, found, expected, remedy, .. } => {
            let line = format!("{expected}{found}{remedy}");
            assert!(!line.contains(char::is_control) && line.len() < 2000, "{line}");
            (why, found, expected)
        }
        other => panic!("{other:?}"),
    }
}

fn holds(requirements: &str, signatures: &[SimpleSigning]) -> bool {
    is_satisfied(&judge(&compile(&policy(requirements)).unwrap(), "r.io/app", signatures))
}

#[test]
fn all_branches_have_to_hold_or_any_one() {
    let (a, b) = (Signer::new(), Signer::new());
    let branches = format!("[{}, {}]", key("a", &a), key("b", &b));
    let (all, any) = (format!("allOf: {branches}"), format!("anyOf: {branches}"));
    assert!(holds(&all, &[signs(&a), signs(&b)]));
    assert!(!holds(&all, &[signs(&a)]) && !holds(&all, &[signs(&b)]));
    assert!(holds(&any, &[signs(&a)]) && holds(&any, &[signs(&b)]));
    assert!(!holds(&any, &[signs(&Signer::new())]) && !holds(&any, &[]));
}

#[test]
fn one_signature_short_of_at_least_two_does_not_satisfy() {
    let (a, b, c) = (Signer::new(), Signer::new(), Signer::new());
    let two_of_three =
        format!("atLeast: {{count: 2, of: [{}, {}, {}]}}", key("a", &a), key("b", &b), key("c", &c));
    for pair in [[&a, &b], [&c, &a], [&b, &c]] {
        assert!(holds(&two_of_three, &pair.map(signs)));
    }
    let (why, found, expected) = short(&two_of_three, &[signs(&b)]);
    assert_eq!(why, Shortfall::OtherKey);
    assert_eq!(found, "1; the nearest other, branch 1: 1 signature: made by none of the policy's signers");
    assert!(expected.starts_with("at least 2 of 3, each by another signer: a signature by key a (sha256:"));
    let (why, found, _) = short(&two_of_three, &[]);
    assert_eq!(why, Shortfall::NoSignature);
    assert_eq!(found, "none of them; the nearest other, branch 1: no signature");
}

#[test]
fn two_signatures_by_one_key_count_once() {
    let (a, b) = (Signer::new(), Signer::new());
    let two = format!("atLeast: {{count: 2, of: [{}, {}]}}", key("a", &a), key("b", &b));
    assert!(!holds(&two, &[signs(&a), signs(&a)]));
    // Written twice: the key's holder meets both branches, alone.
    let twice =
        format!("atLeast: {{count: 2, of: [{}, {}, {}]}}", key("a", &a), key("again", &a), key("b", &b));
    let (why, found, _) = short(&twice, &[signs(&a), signs(&a)]);
    assert_eq!((why, found.as_str()), (Shortfall::TooFewSigners, "2 of them, by 1 in all"));
    assert!(holds(&twice, &[signs(&a), signs(&b)]));
}

#[test]
fn signer_of_two_branches_is_counted_for_the_one_that_needs_him() {
    let (a, b) = (Signer::new(), Signer::new());
    let either = format!(
        "{{keys: [{{data: \"{}\"}}, {{data: \"{}\"}}]}}",
        a.pem().replace('\n', "\\n"),
        b.pem().replace('\n', "\\n")
    );
    for of in [format!("[{either}, {}]", key("a", &a)), format!("[{}, {either}]", key("a", &a))] {
        let two = format!("atLeast: {{count: 2, of: {of}}}");
        assert!(holds(&two, &[signs(&a), signs(&b)]));
        assert!(!holds(&two, &[signs(&a)]) && !holds(&two, &[signs(&b)]));
    }
}

#[test]
fn branch_of_several_takes_all_its_signers() {
    let (a, b, c, d) = (Signer::new(), Signer::new(), Signer::new(), Signer::new());
    let both =
        |x: (&str, &Signer), y: (&str, &Signer)| format!("{{allOf: [{}, {}]}}", key(x.0, x.1), key(y.0, y.1));
    let two = format!(
        "atLeast: {{count: 2, of: [{}, {}, {}]}}",
        both(("a", &a), ("b", &b)),
        both(("b", &b), ("c", &c)),
        key("d", &d)
    );
    assert!(!holds(&two, &[signs(&a), signs(&b), signs(&c)]), "b would count twice");
    assert!(holds(&two, &[signs(&b), signs(&c), signs(&d)]));
    // A combination that stands in one takes those whom it was met by, in every way.
    let nested = format!(
        "atLeast: {{count: 2, of: [{{atLeast: {{count: 2, of: [{}, {}, {}]}}}}, {}]}}",
        key("a", &a),
        key("b", &b),
        key("c", &c),
        key("a", &a)
    );
    assert!(holds(&nested, &[signs(&a), signs(&b), signs(&c)]));
    assert!(!holds(&nested, &[signs(&a), signs(&b)]));
}

#[test]
fn certificates_in_one_name_are_one_signer() {
    let keyless = "{keyless: [{identities: [{issuerRegExp: '.*', subjectRegExp: '.*'}]}]}";
    let two = policy(&format!(
        "claimedRepository: {{insecureAny: true}}, atLeast: {{count: 2, of: [{keyless}, {keyless}]}}"
    ));
    let (workflow, again, person) =
        ("keyless-rekor2-tsa-bundle", "keyless-rekor2-tsa-bundle", "email-rekor2-tsa-bundle");
    assert_eq!(takes(&two, "p", &[workflow, again]), Err(Shortfall::TooFewSigners));
    assert_eq!(takes(&two, "p", &[workflow]), Err(Shortfall::TooFewSigners));
    assert_eq!(takes(&two, "p", &[workflow, person]), Ok(()));
}

#[test]
fn nearest_branch_is_told() {
    let (a, b) = (Signer::new(), Signer::new());
    let elsewhere = b.sign(claim_of(index(), "r.io/other").as_bytes());
    let any = format!("anyOf: [{}, {}]", key("a", &a), key("b", &b));
    let (why, found, expected) = short(&any, &[elsewhere]);
    assert_eq!(why, Shortfall::OtherRepository);
    assert_eq!(
        found,
        "in the nearest of 2 branches, number 2: 1 signature: one on this image, but made for repository \"r.io/other\""
    );
    assert!(expected.contains("key a") && expected.contains(" or a signature by key b"), "{expected}");
}

#[test]
fn claim_of_a_branch_is_its_own_and_else_the_one_above() {
    let (a, b) = (Signer::new(), Signer::new());
    let anywhere = |signer: &Signer, name: &str| {
        key(name, signer).replace("{keys", "{claimedRepository: {oneOf: [v.io/app]}, keys")
    };
    let elsewhere = |signer: &Signer| signer.sign(claim_of(index(), "v.io/app").as_bytes());
    let both = format!("allOf: [{}, {}]", key("a", &a), anywhere(&b, "b"));
    assert!(holds(&both, &[signs(&a), elsewhere(&b)]));
    assert!(!holds(&both, &[elsewhere(&a), elsewhere(&b)]) && !holds(&both, &[signs(&a), signs(&b)]));
    let inherited =
        format!("claimedRepository: {{oneOf: [v.io/app]}}, allOf: [{}, {}]", key("a", &a), key("b", &b));
    assert!(holds(&inherited, &[elsewhere(&a), elsewhere(&b)]));
    assert!(!holds(&inherited, &[signs(&a), elsewhere(&b)]));
}

/// As [`judge`], where signatures by `unclear` cannot be judged.
fn why(requirements: &str, signatures: &[SimpleSigning], unclear: &Signer) -> Option<Shortfall> {
    let set = compile(&policy(requirements)).unwrap();
    let name = ImageName::parse("r.io/app").unwrap();
    let evidence: Vec<Evidence> = signatures.iter().cloned().map(Evidence::Simple).collect();
    let digests = [index()];
    let unclear = unclear.key().fingerprint();
    let judged = set.policies()[0].judge(
        &Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false },
        &digests,
        &evidence,
        &Conditions::at(SystemTime::UNIX_EPOCH),
        &mut |evidence, signer, sought| {
            let (trust, now) = (Trust::default(), SystemTime::UNIX_EPOCH);
            let verified = verify::verify(evidence, &signer.authority, sought, &digests, &trust, now)?;
            match &verified.signer {
                verify::Signer::Key(key) if *key == unclear => Err(Failure {
                    step: Step::Format,
                    text: "a limit".to_owned(),
                    undecided: true,
                    signer: None,
                    checks: Vec::new(),
                }),
                _ => Ok(verified),
            }
        },
    );
    match judged {
        Judgement::Satisfied { .. } | Judgement::Exempted { .. } => None,
        Judgement::Unsatisfied { why, .. } => Some(why),
    }
}

#[test]
fn what_cannot_be_told_is_undecided_only_where_it_could_suffice() {
    let (a, b, c) = (Signer::new(), Signer::new(), Signer::new());
    let of = format!("of: [{}, {}, {}]", key("a", &a), key("b", &b), key("c", &c));
    let least = |count: usize| format!("atLeast: {{count: {count}, {of}}}");
    let there = [signs(&a), signs(&b)];
    assert_eq!(why(&least(1), &there, &b), None);
    assert_eq!(why(&least(2), &there, &b), Some(Shortfall::Limit));
    let why_not = why(&least(3), &there, &b).unwrap();
    assert!(!why_not.is_undecided(), "{why_not:?}");
    // Who holds a branch already may hold it by another signer, too.
    let either = format!(
        "{{keys: [{{data: \"{}\"}}, {{data: \"{}\"}}]}}",
        a.pem().replace('\n', "\\n"),
        b.pem().replace('\n', "\\n")
    );
    let two = format!("atLeast: {{count: 2, of: [{either}, {either}]}}");
    assert_eq!(why(&two, &there, &b), Some(Shortfall::Limit));
    assert_eq!(why(&two, &there[..1], &b), Some(Shortfall::TooFewSigners));
    let all = format!("allOf: [{}, {}, {}]", key("a", &a), key("b", &b), key("c", &c));
    assert!(!why(&all, &there, &b).unwrap().is_undecided());
    assert_eq!(why(&all, &[signs(&a), signs(&b), signs(&c)], &b), Some(Shortfall::Limit));
}

#[test]
fn more_ways_than_are_counted_are_undecided() {
    // Sixteen branches that the same fifteen may meet: every one of them is tried before it is known that one is missing.
    let signers: Vec<Signer> = (0..15).map(|_| Signer::new()).collect();
    let keys = signers.iter().map(|signer| format!("{{data: \"{}\"}}", signer.pem().replace('\n', "\\n")));
    let branch = format!("{{keys: [{}]}}", keys.collect::<Vec<_>>().join(", "));
    let other = key("other", &Signer::new());
    let least = |count: usize| {
        format!("atLeast: {{count: {count}, of: [{}, {other}]}}", vec![branch.as_str(); 16].join(", "))
    };
    let signatures: Vec<_> = signers.iter().map(signs).collect();
    assert!(holds(&least(15), &signatures));
    let (why, found, _) = short(&least(16), &signatures);
    assert_eq!(why, Shortfall::Limit);
    assert!(found.contains("POLICY_SEARCH"), "{found}");
}

#[test]
fn each_break_of_a_tree_is_named() {
    let (a, b) = (Signer::new(), Signer::new());
    let (one, two) = (key("a", &a), key("b", &b));
    let plain = one.trim_matches(['{', '}']);
    let nested = |depth: usize| (0..depth).fold(one.clone(), |inner, _| format!("{{anyOf: [{inner}]}}"));
    let many = vec![one.as_str(); limits::POLICY_NODES].join(", ");
    for (requirements, expected) in [
        ("allOf: []".to_owned(), "spec.requirements.allOf: expected at least one branch"),
        (format!("anyOf: [{one}, {{}}]"), "spec.requirements.anyOf[1]: expected a signer"),
        (
            format!("{plain}, anyOf: [{two}]"),
            "spec.requirements: expected signers and attestations, or allOf",
        ),
        (format!("allOf: [{one}], anyOf: [{two}]"), "found several of these"),
        (format!("anyOf: [{{evidence: [{{}}], allOf: [{one}]}}]"), "spec.requirements.anyOf[0].evidence"),
        (
            format!("anyOf: [{{allOf: [{one}], claimedRepository: {{}}}}]"),
            "anyOf[0].claimedRepository: expected",
        ),
        (format!("atLeast: {{count: 0, of: [{one}]}}"), "spec.requirements.atLeast.count: expected 1 to 1"),
        (format!("atLeast: {{count: 3, of: [{one}, {two}]}}"), "found 3"),
        (format!("atLeast: {{count: 2, of: [{one}, {one}]}}"), "expected branches with 2 different keys"),
        (format!("atLeast: {{of: [{one}]}}"), "missing field `count`"),
        (format!("anyOf: [{}]", nested(limits::POLICY_DEPTH)), "limit POLICY_DEPTH"),
        (format!("anyOf: [{many}]"), "limit POLICY_NODES"),
    ] {
        let error = compile(&policy(&requirements)).expect_err(&requirements);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert!(compile(&policy(&format!("anyOf: [{}]", nested(limits::POLICY_DEPTH - 1)))).is_ok());
    // Deeper than a reader's stack.
    let deep = format!("{}{one}{}", "anyOf: [{".repeat(20_000), "}]".repeat(20_000));
    assert!(compile(&policy(&deep)).is_err());
}
