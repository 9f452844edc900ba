#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use prost::bytes::Bytes;

use super::known::{Found, Known, Walked};
use super::moment::Stamp;
use super::record::{self, Table};
use super::*;
use crate::image::{IndexDigest, ManifestDigest};
use crate::verify::{Annotations, Attached, SimpleSigning};

/// 2026-01-01.
const WALL: u64 = 1_767_225_600;

fn at(seconds: u64) -> Moment {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(WALL + seconds);
    Moment::of(Instant::now(), wall)
}

fn digest(word: &str) -> Digest {
    Digest::of(word.as_bytes())
}

fn tie(name: &str) -> Tie {
    let of = |part: &str| digest(&format!("{part} of {name}"));
    Tie::kept(
        Some(IndexDigest(digest(name))),
        ManifestDigest(of("manifest")),
        ImageId(of("config")),
        of("chain"),
    )
}

fn simple(word: &str) -> Evidence {
    let annotations = Annotations { certificate: Some(format!("{word} cert")), ..Annotations::default() };
    Evidence::Simple(SimpleSigning { payload: word.into(), signature: "c2ln".to_owned(), annotations })
}

fn every_kind() -> Vec<Evidence> {
    let all = Annotations {
        certificate: Some("cert".to_owned()),
        chain: Some(String::new()),
        bundle: Some("{}".to_owned()),
        rfc3161timestamp: Some("time".to_owned()),
    };
    vec![
        simple("one"),
        Evidence::Attached(Attached { envelope: Bytes::from_static(b"{}"), annotations: all }),
        Evidence::Bundle(Bytes::from_static(b"{\"mediaType\":1}")),
    ]
}

fn evidence(proofs: &Proofs, word: &str, now: Moment) -> Option<Vec<Evidence>> {
    proofs.evidence(&digest(word), "r.io/app", now).map(|held| held.evidence.to_vec())
}

fn keep(proofs: &Proofs, word: &str, found: Vec<Evidence>, complete: bool, now: Moment) {
    proofs.keep_evidence(digest(word), "r.io/app", found, complete, now);
}

async fn opened(dir: &Path) -> Proofs {
    let proofs = Proofs::default();
    proofs.persist(dir);
    // A call waits for it for a while only.
    until("the store is open", || proofs.summary().store.kept != Kept::Opening).await;
    proofs
}

/// Closes them, and opens what is on disk.
async fn restarted(proofs: Proofs, dir: &Path) -> Proofs {
    proofs.close(Duration::from_secs(300));
    opened(dir).await
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}")
}

async fn until_written(proofs: &Proofs) {
    until("all is written", || proofs.summary().unwritten == 0).await;
}

#[tokio::test]
async fn what_is_known_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    assert_eq!(proofs.summary().store.kept, Kept::Persistent);
    proofs.keep_ties(&[tie("a"), tie("b")], at(0));
    keep(&proofs, "a", every_kind(), true, at(10));
    keep(&proofs, "b", vec![simple("part")], false, at(20));
    let proofs = restarted(proofs, dir.path()).await;
    assert_eq!(proofs.ties_of_root(&digest("a")), [tie("a")]);
    assert_eq!(proofs.ties_of_id(&tie("b").id()), [tie("b")]);
    let held = proofs.evidence(&digest("a"), "r.io/app", at(70)).unwrap();
    assert_eq!((held.evidence.to_vec(), held.complete), (every_kind(), true));
    assert_eq!(held.age, Age::Known(Duration::from_secs(60)));
    assert!(!proofs.evidence(&digest("b"), "r.io/app", at(70)).unwrap().complete);
    assert!(proofs.evidence(&digest("a"), "r.io/other", at(70)).is_none());
    assert_eq!(proofs.summary().store.set_aside, 0);
    let mode = dir.path().join(disk::NAME).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn what_one_credential_was_told_is_not_another_s_and_not_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    let (mine, now) = (Credential::basic("me", "mine"), at(0));
    proofs.keep_none(digest("a"), "r.io/app", &mine, now);
    assert!(proofs.none(&digest("a"), "r.io/app", &mine, now));
    assert!(!proofs.none(&digest("a"), "r.io/app", &Credential::Anonymous, now));
    let later = Moment { clock: now.clock + DENIED_FOR, ..now };
    assert!(!proofs.none(&digest("a"), "r.io/app", &mine, later));
    let proofs = restarted(proofs, dir.path()).await;
    assert!(!proofs.none(&digest("a"), "r.io/app", &mine, now));
}

#[test]
fn a_set_that_may_not_be_whole_does_not_take_the_place_of_one_that_is() {
    let proofs = Proofs::default();
    keep(&proofs, "a", vec![simple("part")], false, at(0));
    keep(&proofs, "a", vec![simple("all")], true, at(0));
    keep(&proofs, "a", vec![simple("part")], false, at(0));
    keep(&proofs, "a", Vec::new(), true, at(0));
    assert_eq!(evidence(&proofs, "a", at(0)).unwrap(), [simple("all")]);
    keep(&proofs, "a", vec![simple("new")], true, at(0));
    assert_eq!(evidence(&proofs, "a", at(0)).unwrap(), [simple("new")]);
}

#[test]
fn a_set_over_the_limit_is_cut_and_then_not_whole() {
    let proofs = Proofs::default();
    let large = |byte: u8| Evidence::Bundle(vec![byte; limits::PROOF_SET_BYTES / 2].into());
    keep(&proofs, "a", vec![large(1), large(2), simple("x")], true, at(0));
    let held = proofs.evidence(&digest("a"), "r.io/app", at(0)).unwrap();
    assert_eq!((held.evidence.to_vec(), held.complete), (vec![large(1), simple("x")], false));
}

#[test]
fn what_is_unused_longest_makes_room() {
    let proofs = Proofs::default();
    for n in 0..=limits::PROOFS {
        keep(&proofs, &n.to_string(), vec![simple("x")], true, at(0));
        proofs.keep_ties(&[tie(&n.to_string())], at(0));
        assert!(evidence(&proofs, "0", at(0)).is_some() && !proofs.ties_of_root(&digest("0")).is_empty());
    }
    assert!(evidence(&proofs, "1", at(0)).is_none() && evidence(&proofs, "2", at(0)).is_some());
    assert!(proofs.ties_of_id(&tie("1").id()).is_empty() && !proofs.ties_of_id(&tie("2").id()).is_empty());
    let summary = proofs.summary();
    assert_eq!((summary.walked, summary.with_evidence), (limits::PROOFS, limits::PROOFS));
    let large = vec![Evidence::Bundle(vec![0; limits::PROOF_SET_BYTES - 1024].into())];
    for n in 0..9 {
        keep(&proofs, &format!("large {n}"), large.clone(), true, at(0));
    }
    let summary = proofs.summary();
    assert!(summary.evidence_bytes <= limits::PROOF_BYTES && summary.with_evidence == 8, "{summary:?}");
}

#[tokio::test]
async fn what_made_room_is_gone_from_the_disk_too() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    proofs.keep_ties(&[tie("first")], at(0));
    until_written(&proofs).await;
    for n in 0..limits::PROOFS {
        proofs.keep_ties(&[tie(&n.to_string())], at(1));
    }
    let proofs = restarted(proofs, dir.path()).await;
    assert!(proofs.ties_of_root(&digest("first")).is_empty());
    assert_eq!(proofs.summary().walked, limits::PROOFS);
}

#[test]
fn what_is_kept_aside_stays_there() {
    let under = Arc::new(Proofs::default());
    under.keep_ties(&[tie("a")], at(0));
    keep(&under, "a", vec![simple("a")], true, at(0));
    let over = Proofs::over(Arc::clone(&under));
    over.keep_ties(&[tie("b")], at(0));
    keep(&over, "b", vec![simple("b")], true, at(0));
    assert_eq!(over.ties_of_id(&tie("a").id()), [tie("a")]);
    assert!(evidence(&over, "a", at(0)).is_some() && evidence(&over, "b", at(0)).is_some());
    assert!(evidence(&under, "b", at(0)).is_none() && under.ties_of_root(&digest("b")).is_empty());
}

#[tokio::test]
async fn a_clock_behind_the_highest_time_seen_makes_no_proof_younger() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    keep(&proofs, "a", vec![simple("a")], true, at(0));
    proofs.tick(at(3600));
    let proofs = restarted(proofs, dir.path()).await;
    let age = |seconds| proofs.evidence(&digest("a"), "r.io/app", at(seconds)).unwrap().age;
    // By its own stamp it would be a minute old.
    assert_eq!(age(60), Age::Unknown);
    assert!(!age(60).within(Duration::MAX));
    assert_eq!(age(3600), Age::Known(Duration::from_secs(3600)));
    // What this process fetches it knows the age of, whatever the clock on the wall says.
    keep(&proofs, "b", vec![simple("b")], true, at(60));
    assert!(proofs.evidence(&digest("b"), "r.io/app", at(60)).unwrap().age.within(Duration::from_secs(60)));
}

#[tokio::test]
async fn the_latest_time_is_the_highest_seen_where_the_clock_runs_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let wall = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(WALL + seconds);
    let proofs = opened(dir.path()).await;
    assert_eq!(proofs.latest(wall(0)), wall(0));
    keep(&proofs, "a", vec![simple("a")], true, at(3600));
    let proofs = restarted(proofs, dir.path()).await;
    assert_eq!([proofs.latest(wall(60)), proofs.latest(wall(3601))], [wall(3600), wall(3601)]);
    // What is looked at aside knows it, too.
    assert_eq!(Proofs::over(Arc::new(proofs)).latest(wall(60)), wall(3600));
}

#[tokio::test]
async fn the_highest_time_gets_to_the_disk_where_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    keep(&proofs, "a", vec![simple("a")], true, at(0));
    until_written(&proofs).await;
    proofs.tick(at(599));
    assert!(!proofs.shared.known().has_unwritten());
    proofs.tick(at(600));
    until("the time is written", || !proofs.shared.known().has_unwritten()).await;
}

#[tokio::test]
async fn a_second_crivet_runs_in_memory_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (opened(dir.path()).await, opened(dir.path()).await);
    first.keep_ties(&[tie("first")], at(0));
    second.keep_ties(&[tie("second")], at(0));
    let store = second.summary().store;
    assert_eq!(store.kept, Kept::MemoryOnly);
    assert!(store.why.contains("another crivet keeps its proofs there"), "{}", store.why);
    assert_eq!(second.ties_of_root(&digest("second")), [tie("second")]);
    first.close(Duration::from_secs(20));
    until("it has the store", || second.summary().store.kept == Kept::Persistent).await;
    assert_eq!(second.ties_of_root(&digest("first")), [tie("first")]);
    let third = restarted(second, dir.path()).await;
    assert_eq!(third.summary().walked, 2);
}

#[tokio::test]
async fn another_folder_gets_everything() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let proofs = opened(one.path()).await;
    proofs.keep_ties(&[tie("a")], at(0));
    proofs.persist(other.path());
    until("it has the other", || proofs.summary().store.kept == Kept::Persistent).await;
    let proofs = restarted(proofs, other.path()).await;
    assert_eq!(proofs.ties_of_root(&digest("a")), [tie("a")]);
    assert_eq!(opened(one.path()).await.summary().walked, 1);
}

#[tokio::test]
async fn a_folder_that_others_can_write_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let proofs = opened(dir.path()).await;
    let store = proofs.summary().store;
    assert!(store.kept == Kept::MemoryOnly && store.why.contains("mode 0777"), "{store:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    // Mended, it is used without a restart.
    proofs.keep_ties(&[tie("a")], at(0));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    until("it is used", || proofs.summary().store.kept == Kept::Persistent).await;
    assert_eq!(restarted(proofs, dir.path()).await.summary().walked, 1);
}

#[tokio::test]
async fn a_store_that_others_can_write_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    proofs.keep_ties(&[tie("a")], at(0));
    proofs.close(Duration::from_secs(300));
    fs::set_permissions(dir.path().join(disk::NAME), fs::Permissions::from_mode(0o666)).unwrap();
    let proofs = opened(dir.path()).await;
    let summary = proofs.summary();
    assert_eq!((summary.walked, summary.store.kept, summary.store.set_aside), (0, Kept::Persistent, 1));
    assert!(summary.store.set_aside_because.contains("mode 0666"), "{summary:?}");
}

#[tokio::test]
async fn of_stores_that_were_set_aside_the_newest_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..4 {
        fs::write(dir.path().join(disk::NAME), format!("no store {n}")).unwrap();
        let opened = disk::open(dir.path(), 100 + n).unwrap_or_else(|unopened| panic!("{}", unopened.why));
        assert!(opened.set_aside.is_some() && opened.content.ties.is_empty());
    }
    let names: Vec<String> = disk::aside(dir.path())
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["proofs.redb.aside-00000000102", "proofs.redb.aside-00000000103"]);
}

#[tokio::test]
async fn a_store_that_ends_the_vetter_whenever_it_is_read_is_set_aside_unread() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    proofs.keep_ties(&[tie("a")], at(0));
    proofs.close(Duration::from_secs(300));
    // As it is left behind by a process that ended while it read.
    let begun = |times: u32| fs::write(dir.path().join("proofs.reading"), times.to_string()).unwrap();
    begun(limits::PROOF_STORE_TRIES - 1);
    let proofs = opened(dir.path()).await;
    assert_eq!((proofs.summary().walked, proofs.summary().store.set_aside), (1, 0));
    proofs.close(Duration::from_secs(300));
    assert!(!dir.path().join("proofs.reading").exists());
    begun(limits::PROOF_STORE_TRIES);
    let summary = opened(dir.path()).await.summary();
    assert_eq!((summary.walked, summary.store.set_aside), (0, 1));
    assert!(summary.store.set_aside_because.contains("3 times in a row"), "{summary:?}");
}

#[tokio::test]
async fn a_store_that_is_written_anew_holds_what_is_known_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    proofs.keep_ties(&[tie("a"), tie("b")], at(0));
    until_written(&proofs).await;
    {
        let mut known = proofs.shared.known();
        *known = Known::default();
        known.want_store();
        known.keep_tie(&tie("b"), at(0));
        known.keep_evidence((digest("c"), "r.io/app".to_owned()), every_kind(), true, at(0));
        known.want_whole();
    }
    let proofs = restarted(proofs, dir.path()).await;
    assert!(proofs.ties_of_root(&digest("a")).is_empty() && !proofs.ties_of_root(&digest("b")).is_empty());
    assert_eq!(evidence(&proofs, "c", at(0)).unwrap(), every_kind());
}

fn record_of_a_tie() -> (Vec<u8>, Vec<u8>) {
    let walked = Walked { ties: vec![tie("a")], walked: WALL };
    (digest("a").raw().to_vec(), record::ties(&digest("a"), &walked))
}

#[test]
fn a_tie_with_one_bit_changed_is_none() {
    let (key, record) = record_of_a_tie();
    let (root, walked) = record::read_ties(&key, &record).unwrap();
    assert_eq!((root, walked.ties, walked.walked), (digest("a"), vec![tie("a")], WALL));
    for bit in 0..record.len() * 8 {
        let mut changed = record.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(record::read_ties(&key, &changed).is_none(), "bit {bit}");
    }
    for length in 0..record.len() {
        assert!(record::read_ties(&key, &record[..length]).is_none(), "{length} bytes");
    }
    for bit in 0..key.len() * 8 {
        let mut changed = key.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(record::read_ties(&changed, &record).is_none(), "bit {bit} of the key");
    }
}

#[test]
fn a_tie_in_the_place_of_another_is_none() {
    let walked = Walked { ties: vec![tie("a")], walked: WALL };
    // Whole, and of another root.
    let record = record::ties(&digest("b"), &walked);
    assert!(record::read_ties(digest("b").raw(), &record).is_none());
    let found = Found { evidence: Arc::new([simple("x")]), complete: true, fetched: Stamp::of(at(0)) };
    let (key, other) = (b"0123456789012345678901234567890123", b"0123456789012345678901234567890124");
    let record = record::evidence(key, &found);
    assert!(record::read_evidence(key, &record).is_some());
    assert!(record::read_evidence(other, &record).is_none());
    assert_ne!(Table::Ties.name(), Table::Evidence.name());
}
