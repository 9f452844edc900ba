//! The proofs' store under what happens to disks and processes: whatever is read back is what was written, or is not there.

mod child;
mod damage;
mod versions;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crivet::image::{Digest, Platform, Step, Target, Tie, Walk};
use crivet::proofs::{Kept, Moment, Proofs, Summary};
use crivet::verify::{Annotations, Evidence, SimpleSigning};
use serde_json::json;

/// How often each harm is done; `CRIVET_PROOF_ROUNDS=1000` for the long run.
fn rounds() -> usize {
    std::env::var("CRIVET_PROOF_ROUNDS").map_or(150, |rounds| rounds.parse().unwrap())
}

const REPOSITORY: &str = "r.io/team/app";

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// The nth image: a walk of real bytes, and evidence about it.
fn nth(n: usize) -> (Tie, Evidence) {
    static ALL: OnceLock<Vec<OnceLock<(Tie, Evidence)>>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..20_000).map(|_| OnceLock::new()).collect());
    all[n].get_or_init(|| make(n)).clone()
}

fn make(n: usize) -> (Tie, Evidence) {
    let layer = Digest::of(format!("layer {n}").as_bytes());
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.to_string()]}})
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": Digest::of(config.as_bytes()).to_string(), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": layer.to_string(), "size": 10}],
    })
    .to_string();
    let root = Digest::of(manifest.as_bytes());
    let mut walk = Walk::new(root, Target::Platform(Platform::new("linux", "amd64", "")));
    walk.give(manifest.as_bytes()).unwrap();
    walk.give(config.as_bytes()).unwrap();
    let Step::Done(ties) = walk.next() else { panic!("the walk is not over") };
    let payload = format!("{n} ").repeat(300).into_bytes();
    let annotations = Annotations { certificate: Some("cert ".repeat(500)), ..Annotations::default() };
    let evidence = Evidence::Simple(SimpleSigning { payload, signature: "c2ln".to_owned(), annotations });
    (ties[0].clone(), evidence)
}

fn keep(proofs: &Proofs, n: usize) {
    let (tie, evidence) = nth(n);
    let root = tie.root();
    proofs.keep_ties(&[tie], Moment::now());
    proofs.keep_evidence(root, REPOSITORY, vec![evidence], true, Moment::now());
}

async fn opened(dir: &Path) -> Proofs {
    let proofs = Proofs::default();
    proofs.persist(dir);
    // Longer than crivet itself would wait: what is known is to be looked at.
    crate::support::until("the store is opened", 60, || proofs.summary().store.kept != Kept::Opening).await;
    proofs
}

fn close(proofs: &Proofs) {
    proofs.close(Duration::from_secs(60));
}

async fn until_written(proofs: &Proofs) -> Summary {
    crate::support::until("all is written", 60, || proofs.summary().unwritten == 0).await;
    proofs.summary()
}

/// Holds everything known of the first `count` images against what was written: it is that, or it is not there. How
/// many ties and how many sets of evidence are there.
fn hold(proofs: &Proofs, count: usize, what: &str) -> (usize, usize) {
    let (mut ties, mut sets) = (0, 0);
    for n in 0..count {
        let (tie, evidence) = nth(n);
        let (root, id) = (tie.root(), tie.id());
        let by_root = proofs.ties_of_root(&root);
        assert!(by_root.is_empty() || by_root == [tie], "{what}: image {n} is tied to {by_root:?}");
        assert_eq!(proofs.ties_of_id(&id), by_root, "{what}: image {n}");
        ties += by_root.len();
        if let Some(held) = proofs.evidence(&root, REPOSITORY, Moment::now()) {
            assert_eq!((held.evidence.to_vec(), held.complete), (vec![evidence], true), "{what}: image {n}");
            sets += 1;
        }
    }
    // Nothing else is known either.
    let summary = proofs.summary();
    assert_eq!((summary.walked, summary.with_evidence), (ties, sets), "{what}");
    (ties, sets)
}

/// A store of the first `count` images, closed in order.
async fn store_of(dir: &Path, count: usize) {
    let proofs = opened(dir).await;
    (0..count).for_each(|n| keep(&proofs, n));
    close(&proofs);
}

/// What `make check` leaves out: figures for people, of a run with optimisations.
/// `make figures`.
#[tokio::test]
#[ignore = "figures, printed"]
async fn figures() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap().replace("VmRSS:", "")
    };
    for count in [0, 500, 10_000] {
        let dir = tempfile::tempdir().unwrap();
        (0..count).for_each(|n| drop(nth(n)));
        store_of(dir.path(), count).await;
        let file = dir.path().join("proofs.redb").metadata().unwrap().len();
        let (before, began) = (resident(), std::time::Instant::now());
        let proofs = opened(dir.path()).await;
        let took = began.elapsed();
        let summary = proofs.summary();
        println!(
            "{} proofs: file {} KiB, opened in {took:?}, evidence {} KiB, resident {before} before and {} after",
            summary.walked,
            file / 1024,
            summary.evidence_bytes / 1024,
            resident()
        );
    }
}
