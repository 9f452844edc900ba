//! A hundred images that were signed or attested in a hundred ways, pulled at once through the daemon.

use super::asked::truths;
use super::{VERDICTS, policy};
use crate::support::containerd::Containerd;
use crate::support::cri::Cri;
use crate::support::crivet::Crivet;
use crate::support::fixture::{self, Case};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use serde_json::json;
use std::io::Write as _;
use std::time::Instant;

const IMAGES: usize = 100;

/// Of a process, KiB: resident now, and at most so far.
fn resident(pid: i32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (of("VmRSS:"), of("VmHWM:"))
}

#[test]
fn a_hundred_images_signed_in_a_hundred_ways_are_pulled_at_once() {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, "1.6", &registry);
    let root = Case::load("keyless-rekor1-bundle").file("trusted_root.json").unwrap();
    // One daemon has one configuration: those that this trusted root will do for.
    let holds = |case: &Case| !VERDICTS.iter().any(|v| v.question == case.name && !v.crivet);
    let alike = |case: &Case| case.file("trusted_root.json").is_none_or(|own| own == root);
    let cases: Vec<_> = Case::all().into_iter().filter(|c| holds(c) && alike(c)).take(IMAGES).collect();
    assert_eq!(cases.len(), IMAGES);
    let mut policies = Vec::new();
    for case in &cases {
        fixture::push(case, registry.address());
        let questions = truths(case);
        let mut policy = policy::policy(questions.first().unwrap(), registry.address());
        policy["metadata"]["name"] = case.name.as_str().into();
        policy["spec"]["images"] = json!([format!("{}/{}", registry.address(), case.repository())]);
        policies.push(policy.to_string());
    }
    let file = peers.path().join("trusted_root.json");
    std::fs::write(&file, &root).unwrap();
    let settings = format!("trust: {{roots: [{{name: {}, file: {}}}]}}\n", policy::ROOT, file.display());
    let crivet = Crivet::start_with(&peers, &containerd, "enforce", &policies, &settings, "info");
    let vetter = crivet.vetter().expect("a vetter is running");
    let (idle, _) = resident(vetter);

    let references: Vec<_> = cases.iter().map(|case| fixture::reference(case, registry.address())).collect();
    let cri = Cri::connect(&crivet.socket());
    let began = Instant::now();
    let pulled = cri.pull_at_once(&references);
    let took = began.elapsed();
    let (after, most) = resident(vetter);
    let requests = registry.requests_of("crivet/").len();
    let latencies = crivet.audit();
    let mut latencies: Vec<_> = latencies.iter().filter_map(|r| r["latencyMs"].as_f64()).collect();
    latencies.sort_by(f64::total_cmp);
    let _ = writeln!(
        std::io::stderr(),
        "signers: {IMAGES} images at once: pulled in {took:?}, {requests} requests of crivet's; vetted in {:?} ms (median), {:?} at most; \
         vetter: {idle} KiB idle, {most} at most, {after} afterwards",
        latencies.get(latencies.len() / 2),
        latencies.last(),
    );
    for (reference, pulled) in references.iter().zip(pulled) {
        assert!(pulled.is_ok(), "{reference}: {pulled:?}");
    }
}
