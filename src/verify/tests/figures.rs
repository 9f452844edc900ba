//! What verifying costs: figures for people, of a run with optimisations.

use std::time::{Duration, Instant};

use crate::verify::fixture::{Fixture, predicate_types};
use crate::verify::*;

/// `make figures`. One thread, so that this is what one core does.
#[test]
#[ignore = "figures, printed"]
#[allow(clippy::print_stdout)]
fn verifications_per_second() {
    let types = predicate_types();
    for name in [
        "key-none-legacy",
        "key-none-bundle",
        "ecdsa-p384-none-bundle",
        "ed25519-none-legacy",
        "rsa-4096-none-legacy",
        "key-rekor1-legacy",
        "key-rekor1-bundle",
        "key-rekor2-tsa-bundle",
        "pki-none-bundle",
        "keyless-rekor1-legacy",
        "keyless-rekor1-bundle",
        "keyless-tsa-bundle",
        "keyless-rekor2-tsa-bundle",
        "attest-key-none-legacy",
        "attest-keyless-rekor1-bundle",
        "attest-npm-rekor2-tsa",
    ] {
        let fixture = Fixture::load(name);
        let (evidence, authority) = fixture.one();
        let sought = match fixture.is_attestation() {
            true => Sought::Attestation { predicate_types: &types },
            false => Sought::Signature,
        };
        let (mut count, began) = (0_u32, Instant::now());
        while began.elapsed() < Duration::from_secs(1) {
            assert!(fixture.verify(evidence, authority, &sought).is_ok(), "{name}");
            count += 1;
        }
        let each = began.elapsed() / count;
        println!("{name:<30} {:>6.0} a second, {each:?} each", 1.0 / each.as_secs_f64());
    }
}
