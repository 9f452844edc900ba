//! `cosign verify` and `crivet verify` over everything that cosign and sigstore's npm client signed: the same verdicts, or a
//! difference that the table explains. What each needs is printed, never asserted.

use crate::support::fixture::{self, Case};
use crate::support::measured::{Ended, run};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use std::io::Write as _;
use std::path::Path;

/// What the two say where they do not both say yes.
struct Verdict {
    case: &'static str,
    cosign: bool,
    crivet: bool,
    why: &'static str,
}

const fn verdict(case: &'static str, cosign: bool, crivet: bool, why: &'static str) -> Verdict {
    Verdict { case, cosign, crivet, why }
}

const VERDICTS: &[Verdict] = &[
    verdict("unsigned", false, false, "nobody signed it"),
    verdict("keyless-none-legacy", false, false, "nothing says when the certificate signed"),
    verdict("attest-npm-rekor1-chain", false, false, "a bundle of v0.2 is no referrer's"),
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
    verdict(
        "ed25519-rekor1-legacy",
        false,
        true,
        "no log takes such an entry; without the log the signature holds",
    ),
];

/// What cosign is asked with for one case.
struct Question {
    program: &'static str,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

/// `attested`: asked for the attestation, else for a signature.
fn question(peers: &Peers, case: &Case, registry: &str, attested: bool) -> Question {
    let name = case.name.as_str();
    let path = |file: &str| case.dir.join(file).display().to_string();
    let mut environment = vec![("HOME", peers.path().display().to_string())];
    // cosign 3 has dropped the experimental referrers and the tags' prefix, and where there is a bundle it looks at
    // nothing else.
    let second =
        ["experimental-", "tag-prefix-", "both-formats-"].iter().any(|prefix| name.starts_with(prefix));
    let mut arguments: Vec<String> = Vec::new();
    let mut ask = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
    if attested {
        ask(&["verify-attestation", "--type", attested_type(name)]);
    } else {
        ask(&["verify"]);
    }
    match &case.identity {
        Some(who) => {
            ask(&["--certificate-identity", &who.subject]);
            match who.issuer.as_str() {
                // A private CA names no issuer, and logs its certificates nowhere.
                "" => ask(&["--certificate-oidc-issuer-regexp", ".*", "--insecure-ignore-sct"]),
                issuer => ask(&["--certificate-oidc-issuer", issuer]),
            }
        }
        None => ask(&["--key", &if name == "unsigned" { other_key() } else { path("cosign.pub") }]),
    }
    if second {
        if !name.contains("rekor") {
            ask(&["--private-infrastructure"]);
        }
        if name.starts_with("experimental-") {
            ask(&["--experimental-oci11"]);
            environment.push(("COSIGN_EXPERIMENTAL", "1".to_owned()));
        }
        if name.starts_with("tag-prefix-") {
            ask(&["--attachment-tag-prefix", "test-"]);
        }
        environment.extend(pieces_of_trust(peers, case));
    } else {
        if case.file("trusted_root.json").is_some() {
            ask(&["--trusted-root", &path("trusted_root.json")]);
        }
        if name.contains("tsa") {
            ask(&["--use-signed-timestamps"]);
        }
        if !name.contains("rekor") {
            ask(&["--insecure-ignore-tlog"]);
        }
    }
    if name.starts_with("elsewhere-") {
        let repository = format!("{registry}/{}-signatures", case.repository());
        environment.push(("COSIGN_REPOSITORY", repository));
    }
    arguments.push(asked_for(case, registry));
    Question { program: if second { "cosign" } else { "cosign3" }, arguments, environment }
}

/// cosign signs the digest it is given: where that was a platform's, cosign is asked for that platform.
fn asked_for(case: &Case, registry: &str) -> String {
    let whole = fixture::reference(case, registry);
    if !case.name.starts_with("platform-") {
        return whole;
    }
    let child = case.stored.iter().find(|s| s.file == "child-amd64.json").expect("an index has platforms");
    whole.replace(&case.digest, &child.digest)
}

fn attested_type(name: &str) -> &'static str {
    let types = [
        ("slsaprovenance02", "slsaprovenance02"),
        ("spdx", "spdxjson"),
        ("cyclonedx", "cyclonedx"),
        ("vuln", "vuln"),
        ("custom", "https://example.com/review/v1"),
    ];
    types.iter().find(|(part, _)| name.contains(part)).map_or("slsaprovenance1", |(_, of)| of)
}

fn other_key() -> String {
    Case::load("key-none-legacy").dir.join("cosign.pub").display().to_string()
}

/// cosign 2 takes its trust in pieces, as PEM files.
fn pieces_of_trust(peers: &Peers, case: &Case) -> Vec<(&'static str, String)> {
    let Some(root) = case.file("trusted_root.json") else { return Vec::new() };
    let root: serde_json::Value = serde_json::from_slice(&root).unwrap();
    let chain = root["certificateAuthorities"][0]["certChain"]["certificates"].as_array().unwrap();
    let pem = |label: &str, bytes: &serde_json::Value| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", bytes.as_str().unwrap())
    };
    let files = [
        ("SIGSTORE_ROOT_FILE", chain.iter().map(|c| pem("CERTIFICATE", &c["rawBytes"])).collect()),
        ("SIGSTORE_REKOR_PUBLIC_KEY", pem("PUBLIC KEY", &root["tlogs"][0]["publicKey"]["rawBytes"])),
        ("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", pem("PUBLIC KEY", &root["ctlogs"][0]["publicKey"]["rawBytes"])),
    ];
    let written = files.into_iter().map(|(name, text): (_, String)| {
        let file = peers.path().join(format!("{}-{name}.pem", case.name));
        std::fs::write(&file, text).unwrap();
        (name, file.display().to_string())
    });
    written.collect()
}

/// What `crivet verify` can be asked today: keys and cosign's signature tag beside the image.
fn by_key_and_tag(case: &Case) -> bool {
    let elsewhere = ["elsewhere-", "tag-prefix-", "experimental-", "both-formats-"];
    let p521 = case.name.starts_with("ecdsa-p521-");
    !p521
        && !elsewhere.iter().any(|prefix| case.name.starts_with(prefix))
        && !case.name.starts_with("attest-")
        && (case.name == "unsigned"
            || !case.keys().is_empty() && case.stored.iter().any(|s| s.file.starts_with("signatures")))
}

/// A policy that wants one signature by any key of the case, on the image as it was named when it was signed.
fn policy(case: &Case) -> String {
    let mut keys = case.keys();
    if keys.is_empty() {
        keys.push(std::fs::read_to_string(other_key()).unwrap());
    }
    let indented = |pem: &String| pem.lines().map(|line| format!("          {line}\n")).collect::<String>();
    let keys: String = keys.iter().map(|pem| format!("      - data: |\n{}", indented(pem))).collect();
    crate::support::crivet::policy(
        "fixture",
        "**",
        &format!(
            "  requirements:\n    claimedRepository: {{oneOf: [\"{}\"]}}\n    keys:\n{keys}",
            case.image
        ),
    )
}

fn ask_crivet(peers: &Peers, case: &Case, registry: &str) -> Ended {
    let file = peers.path().join(format!("{}.yaml", case.name));
    std::fs::write(&file, policy(case)).unwrap();
    let image = fixture::reference(case, registry);
    let arguments = ["verify".to_owned(), "--policy".to_owned(), file.display().to_string(), image];
    run(Path::new(env!("CARGO_BIN_EXE_crivet")), &arguments, &[])
}

/// Says how it ended, for the table that is printed.
fn cell(ended: &Ended) -> String {
    let said = match ended.code {
        Some(0) => "yes",
        _ => "no",
    };
    format!("{said:<3} {:>5} ms {:>4} MiB", ended.took.as_millis(), ended.peak / 1024)
}

#[test]
fn cosign_and_crivet_say_the_same_of_every_fixture() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let (mut wrong, mut met) = (Vec::new(), 0);
    let mut table = format!("{:<42} {:<22} crivet\n", "signers: wall time and peak memory", "cosign");
    for case in Case::all() {
        fixture::push(&case, registry.address());
        let expected = VERDICTS.iter().find(|v| v.case == case.name);
        met += usize::from(expected.is_some());
        let asked = question(&peers, &case, registry.address(), case.name.starts_with("attest-"));
        let cosign = run(&peers.program(asked.program), &asked.arguments, &asked.environment);
        if (cosign.code == Some(0)) != expected.is_none_or(|v| v.cosign) {
            wrong.push(format!("{}: {} {:?}: {}", case.name, asked.program, asked.arguments, cosign.said));
        }
        let mut line = format!("{:<42} {:<22}", case.name, cell(&cosign));
        if by_key_and_tag(&case) {
            let crivet = ask_crivet(&peers, &case, registry.address());
            // Denied is not undecided: a registry that answers leaves no doubt about any fixture.
            let want = if expected.is_none_or(|v| v.crivet) { 0 } else { 1 };
            if crivet.code != Some(want) {
                wrong.push(format!("{}: crivet ends with {:?}: {}", case.name, crivet.code, crivet.said));
            }
            line += &format!(" {}", cell(&crivet));
        }
        table += &format!("{line}{}\n", expected.map_or(String::new(), |v| format!(" ({})", v.why)));
    }
    // Past the test runner's capture: the figures are wanted of a run that passes, too.
    let _ = write!(std::io::stderr(), "{table}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(met, VERDICTS.len(), "a verdict is about no case");
}

#[test]
fn an_attested_image_is_signed_for_cosign_3_alone() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    // cosign 3 takes any bundle for a signature; a tag for attestations is none to it either.
    for (name, cosign_accepts) in [("attest-key-none-bundle", true), ("attest-key-none-legacy", false)] {
        let case = Case::load(name);
        fixture::push(&case, registry.address());
        let asked = question(&peers, &case, registry.address(), false);
        let cosign = run(&peers.program(asked.program), &asked.arguments, &asked.environment);
        assert_eq!(cosign.code == Some(0), cosign_accepts, "{name}: {}", cosign.said);
        let crivet = ask_crivet(&peers, &case, registry.address());
        assert_eq!(crivet.code, Some(1), "{name}: {}", crivet.said);
    }
}
