//! What many policies cost: figures for people, of a run with optimisations.

use std::fmt::Write;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// Resident memory of this process, bytes. By the kernel's own count, so that what the allocator keeps is in it.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    // Pages of x86-64 and arm64 are of 4 KiB where crivet is measured.
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// So many policies of a dialect, each for a repository of its own.
type Made = fn(usize, &str) -> SourceFile;

fn native(count: usize, pem: &str) -> SourceFile {
    let mut text = String::new();
    for n in 0..count {
        let policy = signed(pem, "").replace("name: signed", &format!("name: policy-{n}"));
        writeln!(text, "---\n{}", policy.replace("r.io/team/**", &format!("r{}.io/team-{n}/**", n % 50)))
            .unwrap();
    }
    file("native.yaml", &text)
}

/// Patterns that begin with a wildcard: nothing tells them apart before they are tried.
fn native_wild(count: usize, pem: &str) -> SourceFile {
    let mut text = String::new();
    for n in 0..count {
        let policy = signed(pem, "").replace("name: signed", &format!("name: policy-{n}"));
        writeln!(text, "---\n{}", policy.replace("r.io/team/**", &format!("*/team-{n}/**"))).unwrap();
    }
    file("wild.yaml", &text)
}

fn cluster_image_policies(count: usize, pem: &str) -> SourceFile {
    let mut text = String::new();
    for n in 0..count {
        let policy = sigstore::sigstore(pem).replace("name: cip", &format!("name: policy-{n}"));
        writeln!(text, "---\n{}", policy.replace("r.io/team/**", &format!("r{}.io/team-{n}/**", n % 50)))
            .unwrap();
    }
    file("sigstore.yaml", &text)
}

fn cluster_image_policies_wild(count: usize, pem: &str) -> SourceFile {
    let mut text = String::new();
    for n in 0..count {
        let policy = sigstore::sigstore(pem).replace("name: cip", &format!("name: policy-{n}"));
        writeln!(text, "---\n{}", policy.replace("r.io/team/**", &format!("'**/team-{n}/**'"))).unwrap();
    }
    file("wild.yaml", &text)
}

fn openshift(count: usize, pem: &str) -> SourceFile {
    let (mut text, key) = (String::new(), STANDARD.encode(pem));
    for n in 0..count {
        writeln!(
            text,
            "---\napiVersion: config.openshift.io/v1\nkind: ClusterImagePolicy\nmetadata: {{name: policy-{n}}}\nspec:\n  \
             scopes: [r{}.io/team-{n}]\n  policy:\n    rootOfTrust: {{policyType: PublicKey, publicKey: {{keyData: {key}}}}}",
            n % 50
        )
        .unwrap();
    }
    file("openshift.yaml", &text)
}

fn containers_policy(count: usize, pem: &str) -> SourceFile {
    let mut scopes = serde_json::Map::new();
    for n in 0..count {
        let signed = serde_json::json!([{"type": "sigstoreSigned", "keyData": STANDARD.encode(pem)}]);
        scopes.insert(format!("r{}.io/team-{n}", n % 50), signed);
    }
    let whole = serde_json::json!({"default": [{"type": "reject"}], "transports": {"docker": scopes}});
    file("policy.json", &serde_json::to_string_pretty(&whole).unwrap())
}

/// How long one lookup takes, of images in the first, the middle and the last policy's repository, and in none's.
fn lookup(set: &PolicySet, count: usize) -> Duration {
    let named = |n: usize| ImageName::parse(&format!("r{}.io/team-{n}/some/app:v1", n % 50)).unwrap();
    let mut images: Vec<ImageName> = [0, count / 2, count - 1].map(named).into();
    images.push(ImageName::parse("registry.example/other/app:v1").unwrap());
    let (mut lookups, began) = (0_u32, Instant::now());
    while began.elapsed() < Duration::from_millis(300) {
        for name in &images {
            let subject = Subject { name, namespace: Some("shop"), labels: &NO_LABELS, is_pause: false };
            std::hint::black_box(set.deciding(&subject, true));
            lookups += 1;
        }
    }
    began.elapsed() / lookups
}

/// `make figures`.
#[test]
#[ignore = "figures, printed"]
#[allow(clippy::print_stdout)]
fn policies_by_the_thousand() {
    let pem = Signer::new().pem();
    let made: [(&str, Made); 6] = [
        ("ImagePolicy", native),
        ("ImagePolicy, */team-N/**", native_wild),
        ("ClusterImagePolicy", cluster_image_policies),
        ("ClusterImagePolicy, **/team-N/**", cluster_image_policies_wild),
        ("OpenShift ClusterImagePolicy", openshift),
        ("containers-policy.json", containers_policy),
    ];
    println!("{:<34}{:>7} {:>9} {:>10} {:>10} {:>12}", "policies", "", "file", "load", "memory", "lookup");
    for (what, make) in made {
        for count in [10, 1_000, 10_000] {
            let source = make(count, &pem);
            let bytes = source.bytes.len();
            let (before, began) = (resident(), Instant::now());
            let set = PolicySet::compile(std::slice::from_ref(&source))
                .unwrap_or_else(|errors| panic!("{errors:?}"));
            let load = began.elapsed();
            let memory = resident().saturating_sub(before);
            println!(
                "{what:<34}{count:>7} {:>5} KiB {:>7.1} ms {:>6} KiB {:>9.2} us",
                bytes / 1024,
                load.as_secs_f64() * 1e3,
                memory / 1024,
                lookup(&set, count).as_secs_f64() * 1e6
            );
        }
    }
}
