//! All that real tools signed, and valid evidence with one thing broken.

mod bundle;
mod figures;
mod legacy;
mod mutated;
mod pki;
mod real;
mod statement;
mod witnesses;

use bytes::Bytes;
use serde_json::Value;

use super::fixture::Fixture;
use super::*;

/// A bundle's fixture, verified as a signature with one thing changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Result<Verified, Failure> {
    let fixture = Fixture::load(name);
    let mut bundle = fixture.bundle();
    change(&mut bundle);
    let evidence = Evidence::Bundle(Bytes::from(bundle.to_string()));
    fixture.verify(&evidence, fixture.one().1, &Sought::Signature)
}

/// That a bundle without the change holds, and with it fails at this check with these words.
#[track_caller]
fn fails(name: &str, step: Step, words: &str, change: impl FnOnce(&mut Value)) -> Failure {
    assert!(changed(name, |_| ()).is_ok(), "{name} itself");
    let failure = changed(name, change).unwrap_err();
    assert_eq!(failure.step, step, "{failure}");
    assert!(failure.to_string().contains(words), "{failure}");
    assert!(!failure.to_string().contains('\n'), "{failure}");
    failure
}

/// The same where a limit is hit: nothing is known then.
#[track_caller]
fn hits(name: &str, limit: &str, change: impl FnOnce(&mut Value)) {
    let failure = fails(name, Step::Format, &format!("(limit {limit})"), change);
    assert!(failure.undecided, "{failure}");
}

/// A value somewhere in a document.
fn at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
    value.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}"))
}

/// Base64 with its first byte changed.
fn flip(value: &mut Value) {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let mut bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    *value = STANDARD.encode(bytes).into();
}
