//! A private PKI, and what certificates may say.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{at, fails};
use crate::image::Digest;
use crate::trust::Trust;
use crate::verify::fixture::Fixture;
use crate::verify::*;

fn file(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/certificates");
    fs::read_to_string(dir.join(name)).unwrap()
}

fn certificates(name: &str) -> Vec<Certificate> {
    Certificate::from_pem(&file(&format!("{name}.pem"))).unwrap()
}

/// So many years after 2020 began.
fn year(after: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(1_577_836_800.0 + after * 365.25 * 86_400.0)
}

fn authority() -> PkiAuthority {
    PkiAuthority {
        name: None,
        roots: [certificates("root"), certificates("expired-root")].concat(),
        intermediates: [certificates("intermediate"), certificates("expired-intermediate")].concat(),
        subjects: vec![PkiSubject {
            subject: Some(Matcher::regex("(?s).*").unwrap()),
            ..PkiSubject::default()
        }],
        witnesses: Witnesses::default(),
    }
}

fn verify_with(signer: &str, authority: PkiAuthority, now: SystemTime) -> Result<Verified, Failure> {
    let annotations =
        Annotations { certificate: Some(file(&format!("{signer}.pem"))), ..Annotations::default() };
    let payload = file("payload.json").into_bytes();
    let evidence =
        Evidence::Simple(SimpleSigning { payload, signature: file(&format!("{signer}.sig")), annotations });
    let authority = Authority::Pki(authority);
    verify(&evidence, &authority, &Sought::Signature, &[Digest::of(b"foo")], &Trust::default(), now)
}

#[track_caller]
fn refused(signer: &str, after: f64, words: &str) {
    let failure = verify_with(signer, authority(), year(after)).unwrap_err();
    assert_eq!(failure.step, Step::Chain, "{failure}");
    assert!(failure.to_string().contains(words), "{failure}");
}

#[test]
fn certificate_of_the_policys_own_authority_holds_until_it_ends() {
    let verified = verify_with("signer", authority(), year(6.0)).unwrap();
    assert_eq!(verified.until, Some(certificates("signer")[0].not_after()));
    assert_eq!(verified.times[0].source, TimeSource::Clock);
    assert_eq!(verified.docker_reference.as_deref(), Some("registry.corp.example/app"));
}

#[test]
fn what_holds_by_the_clock_is_looked_at_again_when_a_certificate_of_the_authority_ends() {
    let verified = verify_with("signer", authority(), year(0.5)).unwrap();
    assert_eq!(verified.until, Some(certificates("expired-root")[0].not_after()));
}

#[test]
fn expired_certificate_is_refused() {
    assert!(verify_with("expired-signer", authority(), year(0.5)).is_ok());
    refused("expired-signer", 6.0, "one that had expired");
    refused("expired-signer", -1.0, "not valid");
}

/// CVE-2026-24122.
#[test]
fn expired_issuing_authority_is_refused() {
    assert!(verify_with("by-expired-intermediate", authority(), year(0.5)).is_ok());
    refused("by-expired-intermediate", 6.0, "one that had expired");
    // Also where it is the one that is trusted.
    let trusted = || PkiAuthority {
        roots: certificates("expired-intermediate"),
        intermediates: Vec::new(),
        ..authority()
    };
    assert!(verify_with("by-expired-intermediate", trusted(), year(0.5)).is_ok());
    let failure = verify_with("by-expired-intermediate", trusted(), year(6.0)).unwrap_err();
    assert!(failure.to_string().contains("authority's own certificate was not valid then"), "{failure}");
}

#[test]
fn expired_root_is_refused() {
    assert!(verify_with("by-expired-root", authority(), year(0.5)).is_ok());
    refused("by-expired-root", 6.0, "authority's own certificate was not valid then");
}

/// As Go has it, and with it cosign and containers/image (x509.Certificate.CheckSignatureFrom, isValid).
#[test]
fn root_that_may_not_issue_certificates_is_nobody_s_authority() {
    let by = |signer: &str, root: &str, intermediates| {
        let authority = PkiAuthority { roots: certificates(root), intermediates, ..authority() };
        verify_with(signer, authority, year(6.0))
    };
    for root in ["no-authority", "no-constraints", "signs-no-certificates", "for-servers"] {
        let failure = by(&format!("by-{root}"), &format!("{root}-root"), Vec::new()).unwrap_err();
        assert_eq!(failure.step, Step::Chain, "{root}: {failure}");
        assert!(failure.to_string().contains("not for issuing such"), "{root}: {failure}");
    }
    // With nothing between them, and with one more than there may be.
    assert!(by("by-short", "short-root", Vec::new()).is_ok());
    let failure = by("by-below-short", "short-root", certificates("below-short")).unwrap_err();
    assert!(failure.to_string().contains("not for issuing such"), "{failure}");
    assert!(by("by-below-short", "below-short", Vec::new()).is_ok());
}

#[test]
fn certificate_for_something_else_is_refused() {
    refused("server", 6.0, "not for this use");
    refused("for-nothing", 6.0, "not for this use");
    refused("signing-authority", 6.0, "one of an authority itself");
}

#[test]
fn certificate_of_another_authority_is_refused() {
    for (roots, intermediates) in [
        (certificates("expired-root"), certificates("intermediate")),
        (certificates("root"), Vec::new()),
        (Vec::new(), certificates("intermediate")),
    ] {
        let authority = PkiAuthority { roots, intermediates, ..authority() };
        let failure = verify_with("signer", authority, year(0.5)).unwrap_err();
        assert_eq!(failure.step, Step::Chain, "{failure}");
    }
}

#[test]
fn intermediate_may_come_with_the_signature() {
    let annotations = Annotations {
        certificate: Some(file("signer.pem")),
        chain: Some(format!("{}{}", file("intermediate.pem"), file("root.pem"))),
        ..Annotations::default()
    };
    let payload = file("payload.json").into_bytes();
    let evidence = Evidence::Simple(SimpleSigning { payload, signature: file("signer.sig"), annotations });
    let verify = |roots| {
        let authority = Authority::Pki(PkiAuthority { roots, intermediates: Vec::new(), ..authority() });
        verify(&evidence, &authority, &Sought::Signature, &[Digest::of(b"foo")], &Trust::default(), year(6.0))
    };
    assert!(verify(certificates("root")).is_ok());
    // The root that came with it is nobody's word.
    assert_eq!(verify(certificates("expired-root")).unwrap_err().step, Step::Chain);
}

#[test]
fn any_of_the_names_counts_and_each_by_its_kind() {
    let holds = |subject: PkiSubject| {
        verify_with("signer", PkiAuthority { subjects: vec![subject], ..authority() }, year(6.0))
    };
    let text = |text: &str| Some(text.to_owned());
    let exact = |text: &str| Some(Matcher::Exact(text.to_owned()));
    for name in [
        "build.corp.example",
        "release@corp.example",
        "spiffe://corp.example/release",
        "192.0.2.7",
        "2001:db8::7",
    ] {
        assert!(holds(PkiSubject { subject: exact(name), ..PkiSubject::default() }).is_ok(), "{name}");
    }
    let both = PkiSubject {
        email: text("release@corp.example"),
        hostname: text("Build.corp.example"),
        subject: None,
    };
    assert!(holds(both.clone()).is_ok());
    for wrong in [
        PkiSubject::default(),
        PkiSubject { subject: exact("corp.example"), ..PkiSubject::default() },
        // The right name, of the wrong kind.
        PkiSubject { email: text("build.corp.example"), ..PkiSubject::default() },
        PkiSubject { hostname: text("release@corp.example"), ..PkiSubject::default() },
        // One of two.
        PkiSubject { hostname: text("other.corp.example"), ..both },
    ] {
        assert_eq!(holds(wrong.clone()).unwrap_err().step, Step::Identity, "{wrong}");
    }
    let failure =
        verify_with("signer", PkiAuthority { subjects: Vec::new(), ..authority() }, year(6.0)).unwrap_err();
    assert!(failure.to_string().contains("expected nobody, found \"build.corp.example\""), "{failure}");
}

#[test]
fn fulcios_claims_are_read_in_both_encodings() {
    let fulcio = &certificates("fulcio")[0];
    assert_eq!(fulcio.names(), [AltName::Other("octocat".to_owned())]);
    assert_eq!(fulcio.issuer(), Some("https://issuer"));
    assert_eq!(fulcio.claims()[&FulcioClaim::BuildTrigger], "push");
    // Two that differ are a certificate that says two things.
    let error = Certificate::from_pem(&file("two-issuers.pem")).unwrap_err();
    assert!(error.to_string().contains("two different Fulcio issuers"), "{error}");
}

#[test]
fn pem_with_something_besides_certificates_is_refused() {
    let one = file("root.pem");
    assert_eq!(Certificate::from_pem(&format!("{one}\n{one}")).unwrap().len(), 2);
    for bad in [
        String::new(),
        format!("{one}junk"),
        format!("junk{one}"),
        one.replace("CERTIFICATE", "PUBLIC KEY"),
        one.replacen("MII", "M*I", 1),
        one.replacen("-----END", "-----", 1),
    ] {
        assert!(Certificate::from_pem(&bad).is_err(), "{bad}");
    }
    let error = Certificate::from_pem(&one.repeat(crate::limits::CHAIN_CERTIFICATES + 1)).unwrap_err();
    assert!(error.is_limit() && error.to_string().contains("CHAIN_CERTIFICATES"));
    let der = certificates("root")[0].der().to_vec();
    assert!(Certificate::from_der(&[&der[..], &[0]].concat()).is_err());
    assert!(Certificate::from_der(&der[..der.len() - 1]).is_err());
}

/// The form that cosign 3 reads about and never writes.
const CHAIN: &str = "pki-chain-none-bundle";
const SENT: &str = "/verificationMaterial/x509CertificateChain/certificates";

#[test]
fn chain_in_a_bundle_leads_to_the_policys_root() {
    let fixture = Fixture::load(CHAIN);
    let (evidence, authority) = fixture.one();
    let Authority::Pki(pki) = authority else { panic!("{authority:?}") };
    assert!(pki.intermediates.is_empty());
    let verified = fixture.verify(evidence, authority, &Sought::Signature).unwrap();
    assert_eq!(verified.digest, fixture.digests[0]);
    assert!(verified.signer.to_string().contains("spiffe://corp.example/ns/ci/sa/release"));
}

#[test]
fn chain_in_a_bundle_without_its_intermediate_is_refused() {
    fails(CHAIN, Step::Chain, "expected", |bundle| {
        at(bundle, SENT).as_array_mut().unwrap().truncate(1);
    });
}

#[test]
fn chain_in_a_bundle_of_another_authority_is_refused() {
    let other = certificates("intermediate")[0].der().to_vec();
    fails(CHAIN, Step::Chain, "expected", |bundle| {
        *at(bundle, &format!("{SENT}/1/rawBytes")) = STANDARD.encode(&other).into();
    });
}

#[test]
fn chain_in_a_bundle_with_its_issuer_first_is_refused() {
    fails(CHAIN, Step::Signature, "found one that does not verify", |bundle| {
        at(bundle, SENT).as_array_mut().unwrap().swap(0, 1);
    });
}

/// A root that comes with the signature is none of the policy's.
#[test]
fn chain_in_a_bundle_with_a_root_of_its_own_is_refused() {
    let fixture = Fixture::load(CHAIN);
    let (evidence, authority) = fixture.one();
    let Authority::Pki(pki) = authority.clone() else { panic!("{authority:?}") };
    let other = Authority::Pki(PkiAuthority { roots: certificates("root"), ..pki });
    let failure = fixture.verify(evidence, &other, &Sought::Signature).unwrap_err();
    assert_eq!(failure.step, Step::Chain, "{failure}");
}
