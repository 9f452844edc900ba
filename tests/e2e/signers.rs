//! `cosign verify` and `crivet verify` over everything that cosign and sigstore's npm client signed: the same verdicts, or a
//! difference that the table explains. What each needs is printed, never asserted.

mod asked;
mod at_once;
mod cosign;
mod figures;
mod policy;

use crate::support::fixture::{self, Case};
use crate::support::measured::Ended;
use crate::support::olareg::Olareg;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use asked::{Question, lies, truths};
use figures::{Asked, Figures};

/// What the two say where they do not both say yes to what is true.
struct Verdict {
    question: &'static str,
    cosign: bool,
    crivet: bool,
    why: &'static str,
}

const fn verdict(question: &'static str, cosign: bool, crivet: bool, why: &'static str) -> Verdict {
    Verdict { question, cosign, crivet, why }
}

const VERDICTS: &[Verdict] = &[
    verdict("unsigned", false, false, "nobody signed it"),
    verdict("keyless-none-legacy", false, false, "nothing says when the certificate signed"),
    verdict("attest-npm-rekor1-chain", false, true, "a bundle of v0.2 is no referrer's for cosign"),
    verdict("attest-npm-rekor2-tsa", false, true, "cosign does not read Rekor v2's entries of kind dsse"),
    verdict(
        "attest-npm-rekor2-precise-tsa",
        false,
        true,
        "as before; and the timestamp has fractions of a second",
    ),
    verdict("ecdsa-p384-none-bundle", false, true, "cosign 3 signs bundles with SHA-384 and expects SHA-256"),
    verdict("ecdsa-p384-rekor2-tsa-bundle", false, true, "the same"),
    verdict("ecdsa-p521-none-bundle", false, true, "the same with SHA-512"),
    verdict("ecdsa-p521-rekor2-tsa-bundle", false, true, "the same"),
    verdict("three-signers-none-bundle, key 3", false, true, "the same; key 3 is one of P-384"),
    verdict(
        "pki-chain-none-bundle",
        false,
        true,
        "cosign takes v0.3 with a certificate and without its chain",
    ),
    verdict("ed25519-rekor1-legacy", false, false, "no real log takes such an entry"),
];

/// Most requests that crivet's walk from the digest to the image's ID takes: index, manifest, config. cosign makes none.
const WALK: usize = 3;

/// A registry that says what it was asked.
trait Counts {
    fn address(&self) -> &str;
    fn requests_of(&self, agent: &str) -> Vec<String>;
}

impl Counts for Registry {
    fn address(&self) -> &str {
        self.address()
    }

    fn requests_of(&self, agent: &str) -> Vec<String> {
        self.requests_of(agent)
    }
}

impl Counts for Olareg {
    fn address(&self) -> &str {
        self.address()
    }

    fn requests_of(&self, agent: &str) -> Vec<String> {
        self.requests_of(agent)
    }
}

/// What is asked with `crivet verify` and with cosign. The registry goes before the scratch folder.
struct Bench {
    registry: Box<dyn Counts>,
    figures: Figures,
    peers: Peers,
}

impl Bench {
    fn get() -> Option<Self> {
        Self::with(|peers| Box::new(Registry::start(peers)))
    }

    /// With a registry that has the referrers API, which docker-registry has not.
    fn with_referrers() -> Option<Self> {
        Self::with(|peers| Box::new(Olareg::start(peers, None)))
    }

    fn with(registry: impl FnOnce(&Peers) -> Box<dyn Counts>) -> Option<Self> {
        let peers = Peers::get()?;
        Some(Self { registry: registry(&peers), figures: Figures::default(), peers })
    }

    fn push(&self, case: &Case) {
        fixture::push(case, self.registry.address());
    }

    fn cosign(&self, question: &Question<'_>) -> Asked {
        self.counted("cosign/", || cosign::ask(&self.peers, question, self.registry.address()))
    }

    fn crivet(&self, question: &Question<'_>) -> Asked {
        self.counted("crivet/", || policy::ask(&self.peers, question, self.registry.address()))
    }

    fn counted(&self, agent: &str, ask: impl FnOnce() -> Ended) -> Asked {
        let before = self.registry.requests_of(agent).len();
        let ended = ask();
        Asked { ended, requests: self.registry.requests_of(agent).len() - before }
    }
}

/// What is wrong with an answer of crivet's. Denied is not undecided: a registry that answers leaves no doubt about any
/// fixture.
fn other_than(want: bool, question: &Question<'_>, registry: &str, crivet: &Ended) -> Option<String> {
    let code = if want { 0 } else { 1 };
    (crivet.code != Some(code)).then(|| {
        let policy = policy::policy(question, registry);
        format!("{}: crivet ends with {:?}: {}\n{policy}", question.name, crivet.code, crivet.said)
    })
}

#[test]
fn cosign_and_crivet_say_the_same_of_every_fixture() {
    let Some(mut bench) = Bench::get() else { return };
    let (mut wrong, mut met, mut cases) = (Vec::new(), 0, 0);
    for case in Case::all() {
        bench.push(&case);
        cases += 1;
        for question in truths(&case) {
            let expected = VERDICTS.iter().find(|v| v.question == question.name);
            met += usize::from(expected.is_some());
            let cosign = bench.cosign(&question);
            if cosign.yes() != expected.is_none_or(|v| v.cosign) {
                wrong.push(format!("{}: cosign: {}", question.name, cosign.ended.said));
            }
            let crivet = bench.crivet(&question);
            let want = expected.is_none_or(|v| v.crivet);
            wrong.extend(other_than(want, &question, bench.registry.address(), &crivet.ended));
            if crivet.requests > cosign.requests + WALK {
                let (crivet, cosign) = (crivet.requests, cosign.requests);
                wrong.push(format!("{}: {crivet} requests of crivet's, {cosign} of cosign's", question.name));
            }
            bench.figures.add(&question, &cosign, &crivet, expected.map_or("", |v| v.why));
        }
    }
    bench.figures.print("what is true");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(met, VERDICTS.len(), "a verdict is about no question");
    assert!(cases > 130, "{cases}");
}

#[test]
fn cosign_and_crivet_say_the_same_by_the_referrers_api() {
    let Some(mut bench) = Bench::with_referrers() else { return };
    for name in [
        "key-none-bundle",
        "key-none-legacy",
        "keyless-rekor1-bundle",
        "keyless-rekor2-tsa-bundle",
        "attest-key-none-bundle",
        "attest-key-none-legacy",
        "attest-keyless-rekor1-bundle",
        "attest-npm-rekor1",
    ] {
        let case = Case::load(name);
        bench.push(&case);
        let questions = truths(&case);
        let question = questions.first().unwrap();
        let (cosign, crivet) = (bench.cosign(question), bench.crivet(question));
        assert!(cosign.yes(), "{name}: {}", cosign.ended.said);
        assert_eq!(other_than(true, question, bench.registry.address(), &crivet.ended), None);
        assert!(crivet.requests <= cosign.requests + WALK, "{name}: {}", crivet.requests);
        bench.figures.add(question, &cosign, &crivet, "");
    }
    bench.figures.print("by the referrers API");
}

#[test]
fn neither_takes_another_key_identity_authority_or_type_for_any_fixture() {
    let Some(mut bench) = Bench::get() else { return };
    let mut wrong = Vec::new();
    for case in Case::all() {
        bench.push(&case);
        for question in lies(&case) {
            let cosign = bench.cosign(&question);
            if cosign.yes() {
                wrong.push(format!("{}: cosign: {}", question.name, cosign.ended.said));
            }
            let crivet = bench.crivet(&question);
            wrong.extend(other_than(false, &question, bench.registry.address(), &crivet.ended));
            bench.figures.add(&question, &cosign, &crivet, "");
        }
    }
    bench.figures.print("what is not true");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_log_entry_that_no_log_takes_counts_only_where_no_log_is_asked_for() {
    let Some(bench) = Bench::get() else { return };
    let case = Case::load("ed25519-rekor1-legacy");
    bench.push(&case);
    for (witnesses, holds) in [(true, false), (false, true)] {
        let mut questions = truths(&case);
        let question = questions.first_mut().unwrap();
        question.witnesses = witnesses;
        let cosign = bench.cosign(question);
        assert_eq!(cosign.yes(), holds, "{}", cosign.ended.said);
        let crivet = bench.crivet(question);
        assert_eq!(other_than(holds, question, bench.registry.address(), &crivet.ended), None);
    }
}

#[test]
fn an_attested_image_is_signed_for_cosign_3_alone() {
    let Some(bench) = Bench::get() else { return };
    // cosign 3 takes any bundle for a signature; a tag for attestations is none to it either.
    for (name, cosign_accepts) in [("attest-key-none-bundle", true), ("attest-key-none-legacy", false)] {
        let case = Case::load(name);
        bench.push(&case);
        let mut questions = truths(&case);
        let question = questions.first_mut().unwrap();
        question.attestation = None;
        let cosign = bench.cosign(question);
        assert_eq!(cosign.yes(), cosign_accepts, "{name}: {}", cosign.ended.said);
        let crivet = bench.crivet(question);
        assert_eq!(other_than(false, question, bench.registry.address(), &crivet.ended), None);
    }
}
