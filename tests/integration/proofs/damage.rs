//! Bits flipped, ends cut off: from a whole store, one thing broken.

use std::fs;
use std::path::Path;

use crivet::proofs::Kept;

use super::{Numbers, close, hold, keep, opened, rounds, store_of, until_written};

const COUNT: usize = 120;

/// Opens what is there, looks at everything in it, and sees that it can be written to. Whether it was set aside.
async fn survives(bytes: &[u8], what: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("proofs.redb"), bytes).unwrap();
    let proofs = opened(dir.path()).await;
    let store = proofs.summary().store;
    assert_eq!(store.kept, Kept::Persistent, "{what}: {store:?}");
    let (ties, sets) = hold(&proofs, COUNT, what);
    let set_aside = store.set_aside == 1;
    if !set_aside {
        // A store without its last commit may be whole.
        assert!(ties == sets && (ties == COUNT || ties % 40 == 0), "{what}: {ties} and {sets} are there");
    }
    keep(&proofs, COUNT);
    close(&proofs);
    let proofs = opened(dir.path()).await;
    assert_eq!(hold(&proofs, COUNT + 1, what), (ties + 1, sets + 1), "{what}: {:?}", proofs.summary());
    set_aside
}

/// A store of [`COUNT`] images, by commits of 40.
async fn whole(dir: &Path) -> Vec<u8> {
    for upto in [40, 80] {
        store_of(dir, upto).await;
    }
    store_of(dir, COUNT).await;
    let bytes = fs::read(dir.join("proofs.redb")).unwrap();
    assert!(!survives(&bytes, "nothing is broken").await);
    bytes
}

#[tokio::test]
async fn flipped_bits_anywhere_make_no_tie_and_no_evidence_another() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = whole(dir.path()).await;
    let (mut numbers, mut set_aside) = (Numbers(0x9e37_79b9_7f4a_7c15), 0);
    for round in 0..rounds() {
        // The header by itself: it is small, and everything hangs on it.
        let at = if round % 4 == 0 { numbers.below(512) } else { numbers.below(bytes.len() - 256) };
        let length = [1, 1, 16, 256][numbers.below(4)];
        let mut broken = bytes.clone();
        for byte in &mut broken[at..at + length] {
            *byte ^= 1 << numbers.below(8);
        }
        set_aside += usize::from(survives(&broken, &format!("{length} bytes at {at}")).await);
    }
    println!("flipped: {set_aside} of {} were noticed", rounds());
    assert!(set_aside > 0 && set_aside < rounds(), "{set_aside}");
}

#[tokio::test]
async fn a_store_that_was_cut_off_or_filled_with_zeroes_makes_no_tie_another() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = whole(dir.path()).await;
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    for round in 0..rounds() {
        let at = match round {
            0 => 0,
            1 => 1,
            2 => 511,
            3 => 4096,
            4 => bytes.len() - 1,
            _ => numbers.below(bytes.len()),
        };
        let mut broken = bytes.clone();
        match round % 3 {
            // As a disk leaves a file whose last pages were lost at a power cut.
            0 => broken[at..].fill(0),
            1 => broken.truncate(at),
            _ => {
                let end = (at + 4096).min(bytes.len());
                broken[at..end].fill(0xff);
            }
        }
        survives(&broken, &format!("kind {} at {at}", round % 3)).await;
    }
}

#[tokio::test]
async fn another_file_in_its_place_is_set_aside() {
    for bytes in [&b"x"[..], b"{}", &[0; 5000], &b"redb".repeat(4096)] {
        assert!(survives(bytes, "another file").await);
    }
    // An empty one is a store that nothing was written to yet.
    assert!(!survives(b"", "an empty file").await);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("proofs.redb")).unwrap();
    let proofs = opened(dir.path()).await;
    keep(&proofs, 0);
    // A folder is no file that can be opened: that is said, and goes on in memory.
    assert_eq!(proofs.summary().store.kept, Kept::MemoryOnly);
    assert_eq!(hold(&proofs, 1, "a folder"), (1, 1));
}

#[tokio::test]
async fn a_store_that_was_damaged_under_a_running_crivet_is_noticed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let proofs = opened(dir.path()).await;
    (0..40).for_each(|n| keep(&proofs, n));
    until_written(&proofs).await;
    let path = dir.path().join("proofs.redb");
    let mut bytes = fs::read(&path).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x10);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(hold(&proofs, 40, "running"), (40, 40));
    close(&proofs);
    let proofs = opened(dir.path()).await;
    hold(&proofs, 40, "started");
    assert_eq!(proofs.summary().store.set_aside, 1);
}
