//! Stores that another version wrote, by a writer of its own: fields are only added.

use std::path::Path;

use crivet::proofs::{Kept, Moment};
use prost::Message;
use redb::{Database, TableDefinition};
use sha2::{Digest as _, Sha256};

use super::{REPOSITORY, close, hold, keep, nth, opened};
use crivet::verify::Evidence;

/// What every record stands behind.
fn sealed(table: &str, key: &[u8], message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let length = (key.len() as u64).to_le_bytes();
    let mut record =
        Sha256::digest([b"crivet proofs\0", table.as_bytes(), b"\0", &length, key, &body].concat()).to_vec();
    record.extend(body);
    record
}

fn write(dir: &Path, records: &[(&str, Vec<u8>, Vec<u8>)]) {
    let database = Database::create(dir.join("proofs.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    for table in ["ties", "evidence", "about"] {
        let definition = TableDefinition::<&[u8], &[u8]>::new(table);
        let mut open = transaction.open_table(definition).unwrap();
        for (_, key, record) in records.iter().filter(|(of, ..)| *of == table) {
            open.insert(&key[..], &record[..]).unwrap();
        }
    }
    let unheard = TableDefinition::<u64, &str>::new("verdicts of tomorrow");
    transaction.open_table(unheard).unwrap().insert(7, "x").unwrap();
    transaction.commit().unwrap();
}

#[derive(Clone, PartialEq, Message)]
struct About {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "900")]
    of_tomorrow: String,
}

#[derive(Clone, PartialEq, Message)]
struct Tie {
    #[prost(bytes, tag = "2")]
    manifest: Vec<u8>,
    #[prost(bytes, tag = "3")]
    id: Vec<u8>,
    #[prost(bytes, tag = "4")]
    chain_id: Vec<u8>,
    #[prost(string, tag = "900")]
    of_tomorrow: String,
}

#[derive(Clone, PartialEq, Message)]
struct Walked {
    #[prost(message, repeated, tag = "1")]
    ties: Vec<Tie>,
}

#[derive(Clone, PartialEq, Message)]
struct Found {
    #[prost(message, repeated, tag = "1")]
    evidence: Vec<AnEvidence>,
    #[prost(bool, tag = "3")]
    complete: bool,
    #[prost(string, tag = "900")]
    of_tomorrow: String,
}

#[derive(Clone, PartialEq, Message)]
struct AnEvidence {
    #[prost(message, optional, tag = "1")]
    simple: Option<Simple>,
    /// A kind that nobody has heard of.
    #[prost(bytes, tag = "900")]
    of_tomorrow: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Simple {
    #[prost(bytes, tag = "1")]
    payload: Vec<u8>,
    #[prost(string, tag = "2")]
    signature: String,
}

fn about(format: u32, of_tomorrow: &str) -> (&'static str, Vec<u8>, Vec<u8>) {
    let message = About { format, of_tomorrow: of_tomorrow.to_owned() };
    ("about", b"about".to_vec(), sealed("about", b"about", &message))
}

/// The tie of image 0, and evidence of the kinds that are given.
fn records(evidence: Vec<AnEvidence>, more: &str) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let (tie, _) = nth(0);
    let root = tie.root().raw().to_vec();
    let old = Tie {
        manifest: tie.manifest().0.raw().to_vec(),
        id: tie.id().0.raw().to_vec(),
        chain_id: tie.chain_id().raw().to_vec(),
        of_tomorrow: more.to_owned(),
    };
    let key = [&root[..], REPOSITORY.as_bytes()].concat();
    let found = Found { evidence, complete: true, of_tomorrow: more.to_owned() };
    vec![
        ("ties", root.clone(), sealed("ties", &root, &Walked { ties: vec![old] })),
        ("evidence", key.clone(), sealed("evidence", &key, &found)),
    ]
}

fn simple() -> AnEvidence {
    let simple = Simple { payload: b"payload".to_vec(), signature: "c2ln".to_owned() };
    AnEvidence { simple: Some(simple), of_tomorrow: Vec::new() }
}

#[tokio::test]
async fn a_store_of_an_older_version_without_the_newer_fields_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = records(vec![simple()], "");
    all.push(about(1, ""));
    write(dir.path(), &all);
    let proofs = opened(dir.path()).await;
    let (tie, _) = nth(0);
    assert_eq!(proofs.ties_of_root(&tie.root()), [tie.clone()]);
    let held = proofs.evidence(&tie.root(), REPOSITORY, Moment::now()).unwrap();
    let [Evidence::Simple(simple)] = &held.evidence[..] else { panic!("{:?}", held.evidence) };
    assert_eq!((&simple.payload[..], &simple.annotations.certificate), (&b"payload"[..], &None));
    assert!(held.complete && proofs.summary().store.set_aside == 0);
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_read_without_what_only_that_knows() {
    let dir = tempfile::tempdir().unwrap();
    let strange = AnEvidence { simple: None, of_tomorrow: b"x".to_vec() };
    let mut all = records(vec![simple(), strange], "tomorrow");
    all.push(about(1, "tomorrow"));
    write(dir.path(), &all);
    let proofs = opened(dir.path()).await;
    let (tie, _) = nth(0);
    assert_eq!(proofs.ties_of_root(&tie.root()), [tie.clone()]);
    let held = proofs.evidence(&tie.root(), REPOSITORY, Moment::now()).unwrap();
    // There is more than this version can read: whoever is not satisfied is undecided.
    assert_eq!((held.evidence.len(), held.complete), (1, false));
    assert_eq!(proofs.summary().store.set_aside, 0);
}

#[tokio::test]
async fn a_store_of_a_format_that_is_not_known_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = records(vec![simple()], "");
    all.push(about(2, ""));
    write(dir.path(), &all);
    let proofs = opened(dir.path()).await;
    let store = proofs.summary().store;
    assert_eq!((store.kept, store.set_aside), (Kept::Persistent, 1));
    assert!(store.set_aside_because.contains("expected format 1, found 2"), "{store:?}");
    assert_eq!(hold(&proofs, 1, "another format"), (0, 0));
}

/// Nothing in it is damaged for redb; the records are not what crivet wrote.
#[tokio::test]
async fn of_a_store_with_records_that_were_changed_the_others_are_kept() {
    let (tie, _) = nth(0);
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    (0..10).for_each(|n| keep(&proofs, n));
    close(&proofs);
    let change = |database: &Database| {
        use redb::ReadableTable;
        let transaction = database.begin_write().unwrap();
        {
            let mut ties = transaction.open_table(TableDefinition::<&[u8], &[u8]>::new("ties")).unwrap();
            let root = tie.root();
            // The whole record of another root, and one with a bit changed in its chain ID.
            let other = ties.get(&nth(1).0.root().raw()[..]).unwrap().unwrap().value().to_vec();
            ties.insert(&root.raw()[..], &other[..]).unwrap();
            let mut third = ties.get(&nth(2).0.root().raw()[..]).unwrap().unwrap().value().to_vec();
            let last = third.len() - 20;
            third[last] ^= 4;
            ties.insert(&nth(2).0.root().raw()[..], &third[..]).unwrap();
        }
        transaction.commit().unwrap();
    };
    change(&Database::open(dir.path().join("proofs.redb")).unwrap());
    let proofs = opened(dir.path()).await;
    assert_eq!(hold(&proofs, 10, "changed"), (8, 10));
    let store = proofs.summary().store;
    assert!(store.set_aside_because.contains("2 records are not what was written"), "{store:?}");
    close(&proofs);
    let proofs = opened(dir.path()).await;
    assert_eq!(hold(&proofs, 10, "made anew"), (8, 10));
}
